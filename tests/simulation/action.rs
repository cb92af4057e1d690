//! What can happen. Actions are plain data and mean something whatever happened before, so that
//! any of them can be left out of a failing run.

/// Price and size in hundredths.
pub(crate) type Level = (i64, i64);

/// The instruments of the simulated venues; whether their quotes come from the book.
pub(crate) const INSTRUMENTS: [(&str, bool); 9] = [
    ("SIM:AA-USD", false),
    ("SIM:AB-USD", false),
    ("SIM:B-USD", true),
    ("ALT:AA-USD", false),
    ("SIM:C-USD", false),
    ("ALT:C-USD", true),
    ("SIM:A-EUR", true),
    ("ALT:AAB", false),
    ("SIM:AAB", false),
];

/// The venues, in the order in which their feeds are registered, and their epochs.
pub(crate) const VENUES: [(&str, &str); 2] = [("SIM", "e-sim-1"), ("ALT", "e-alt-7")];

pub(crate) const FEED_STATES: [&str; 4] = ["live", "stale", "recovering", "down"];

/// How a client's socket behaves from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// It takes nothing more.
    Stall,
    /// It takes this many bytes more.
    Bytes(usize),
    /// It takes everything.
    Open,
}

/// What a `resume` lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ResumeFrom {
    /// All that the client has of the channel.
    Have,
    /// One instrument, this far behind (or ahead of, where negative) what the hub has.
    Behind { instrument: usize, by: i64 },
    /// All that the client has, with an epoch that is not the feed's.
    OtherEpoch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subscribe {
    pub(crate) channel: &'static str,
    pub(crate) symbols: Vec<&'static str>,
    pub(crate) mode: Option<&'static str>,
    pub(crate) max_rate: Option<u32>,
    pub(crate) depth: Option<u32>,
    pub(crate) snapshot: Option<bool>,
    pub(crate) overflow: Option<&'static str>,
    pub(crate) backlog: Option<u32>,
    pub(crate) resume: Option<ResumeFrom>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Claim {
        instrument: usize,
    },
    Release {
        instrument: usize,
    },
    Quote {
        instrument: usize,
        bid: Option<Level>,
        ask: Option<Level>,
        ts: bool,
    },
    Trade {
        instrument: usize,
        at: Level,
        side: usize,
        id: u64,
    },
    Stats {
        instrument: usize,
        values: [Option<i64>; 4],
    },
    Lost {
        instrument: usize,
        kind: usize,
        lost: Option<u64>,
    },
    BookSnapshot {
        instrument: usize,
        bids: Vec<Level>,
        asks: Vec<Level>,
    },
    BookDelta {
        instrument: usize,
        bids: Vec<Level>,
        asks: Vec<Level>,
    },
    BookLost {
        instrument: usize,
        lost: Option<u64>,
    },
    FeedState {
        feed: usize,
        state: usize,
    },
    /// Registers the second venue's feed where the shape has it come late.
    LateFeed,
    ServeRequests {
        thread: usize,
    },
    /// One turn of a worker that takes at most so many events.
    Turn {
        worker: usize,
        events: usize,
    },
    Advance {
        micros: u64,
    },
    Connect {
        client: usize,
        worker: usize,
        grant: usize,
    },
    Disconnect {
        client: usize,
    },
    Renew {
        client: usize,
        grant: usize,
    },
    /// A renewal that must change nothing: a bad token, or another subject's.
    BadRenew {
        client: usize,
        other_subject: bool,
    },
    Subscribe {
        client: usize,
        command: Subscribe,
    },
    Unsubscribe {
        client: usize,
        channel: &'static str,
        symbols: Vec<&'static str>,
    },
    Ping {
        client: usize,
    },
    /// A text that is no command.
    Nonsense {
        client: usize,
        text: &'static str,
    },
    Socket {
        client: usize,
        take: Take,
    },
    /// Every socket takes everything, every request is served, every turn is run, every pause
    /// ends; then every client must have everything.
    Settle,
    /// A drain of one worker.
    Drain {
        worker: usize,
    },
}
