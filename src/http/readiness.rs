//! Whether the hub takes subscribers.

use std::sync::atomic::{AtomicU8, Ordering};

/// Whether the hub takes subscribers; set by the server, read by everyone.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

/// What a [`Readiness`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReadinessState {
    /// Not yet.
    Starting = 0,
    /// Yes.
    Ready = 1,
    /// No more; for good.
    Draining = 2,
}

impl ReadinessState {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

impl Readiness {
    /// The state now.
    #[must_use]
    pub fn state(&self) -> ReadinessState {
        match self.0.load(Ordering::Acquire) {
            0 => ReadinessState::Starting,
            1 => ReadinessState::Ready,
            _ => ReadinessState::Draining,
        }
    }

    /// Goes on to `state`; never back, so a late "ready" does not undo a drain.
    pub fn advance(&self, state: ReadinessState) {
        self.0.fetch_max(state as u8, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_forward_only() {
        let readiness = Readiness::default();
        assert_eq!(readiness.state(), ReadinessState::Starting);
        readiness.advance(ReadinessState::Ready);
        assert_eq!(readiness.state(), ReadinessState::Ready);
        readiness.advance(ReadinessState::Draining);
        readiness.advance(ReadinessState::Ready);
        assert_eq!(readiness.state(), ReadinessState::Draining);
    }
}
