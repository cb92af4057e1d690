//! Tells the log of sessions that the memory budget cost, now and then.

use std::time::Duration;

use crate::fanout::Fanout;
use crate::time;

/// Between two lines of one worker: the metrics have every session.
const INTERVAL: Duration = Duration::from_secs(5);

/// What was shed and not told yet.
#[derive(Debug, Default)]
pub(super) struct Shedding {
    sessions: usize,
    bytes: usize,
    largest: usize,
    next: u64,
}

impl Shedding {
    /// Adds up what was shed since the last look, and tells it if it is time.
    pub(super) fn look(&mut self, fanout: &mut Fanout, now: u64) {
        for shed in fanout.take_shed() {
            self.sessions += 1;
            self.bytes += shed.bytes;
            self.largest = self.largest.max(shed.bytes);
        }
        if self.sessions > 0 && now >= self.next {
            let Self { sessions, bytes, largest, .. } = *self;
            tracing::warn!(
                sessions,
                bytes,
                largest,
                "closed the slowest sessions (4005): limits.outboxes_bytes is used up"
            );
            *self = Self { next: now.saturating_add(time::duration_ns(INTERVAL)), ..Self::default() };
        }
    }
}
