//! The plan of an open loop.

use std::time::{Duration, Instant};

/// Events at a fixed rate from a fixed begin. What is late is sent late and changes no other event's time, so that a
/// latency from the planned time holds every delay (no coordinated omission).
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    begin: Instant,
    interval: Duration,
}

impl Pace {
    /// Event 0 is planned at `begin`, the others `interval` apart.
    pub fn new(begin: Instant, interval: Duration) -> Self {
        Self { begin, interval }
    }

    /// When event `number` is to be sent.
    pub fn planned(&self, number: u64) -> Instant {
        let nanos = u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX);
        self.begin + Duration::from_nanos(nanos.saturating_mul(number))
    }

    /// How many events should have been sent by `now`.
    pub fn due(&self, now: Instant) -> u64 {
        match now.checked_duration_since(self.begin) {
            None => 0,
            Some(_) if self.interval.is_zero() => u64::MAX,
            Some(passed) => (passed.as_nanos() / self.interval.as_nanos()) as u64 + 1,
        }
    }

    /// How late event `number` is where it is sent at `now`: the lateness of the generator, to be reported with what
    /// it measures.
    pub fn lateness(&self, number: u64, now: Instant) -> Duration {
        now.saturating_duration_since(self.planned(number))
    }
}
