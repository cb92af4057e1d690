//! The steps of a run, which all threads take together.

/// Where the run is. Threads read it every turn; only the one that steers sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Clients connect and subscribe.
    Connect,
    /// All are subscribed; nothing is measured.
    Settle,
    /// The phase of the scenario with this number.
    Run(u8),
    /// All phases are over; clients that were cut off are still coming back.
    Return,
    /// Every thread says how far its clients have come.
    Frontier,
    /// Every client has to come as far as any other had.
    Tail,
    /// Clients say goodbye.
    Close,
}

impl Step {
    /// Numbers below this are phases of the scenario.
    const RUN: u32 = 256;

    /// As one number.
    pub fn code(self) -> u32 {
        match self {
            Self::Run(phase) => u32::from(phase),
            Self::Connect => Self::RUN,
            Self::Settle => Self::RUN + 1,
            Self::Return => Self::RUN + 2,
            Self::Frontier => Self::RUN + 3,
            Self::Tail => Self::RUN + 4,
            Self::Close => Self::RUN + 5,
        }
    }

    /// The step of a [`Self::code`].
    pub fn of(code: u32) -> Self {
        match code {
            0..Self::RUN => Self::Run(code as u8),
            256 => Self::Connect,
            257 => Self::Settle,
            258 => Self::Return,
            259 => Self::Frontier,
            260 => Self::Tail,
            _ => Self::Close,
        }
    }
}
