//! How much may wait for one session before the overflow policy of a subscription applies.

use super::subscriber::{EntryId, SessionId, Subscriber};
use super::worker::{Fanout, OutboxLimits};

/// Until a session's credential says otherwise; it has no subscriptions before.
const CATCH_UP_NS: u64 = 30_000_000_000;

/// A session's share of the ladder. The worker's own [`OutboxLimits`] hold beside it: of both the
/// smaller bound counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Events that may wait for its full socket.
    pub events_max: usize,
    /// Bytes of such events.
    pub bytes_max: usize,
    /// For how long what it asked for does not count among them, since a portion of that was last
    /// queued.
    pub catch_up_ns: u64,
}

impl Bounds {
    pub(super) const fn of(limits: &OutboxLimits) -> Self {
        Self { events_max: limits.events_max, bytes_max: limits.bytes_max, catch_up_ns: CATCH_UP_NS }
    }
}

impl Fanout {
    /// Sets a session's bounds. What waits already stays; they hold from the next event on.
    pub fn set_bounds(&mut self, session: SessionId, bounds: Bounds) {
        let (events_max, bytes_max) = (self.limits.events_max, self.limits.bytes_max);
        self.sessions[session as usize].bounds = Bounds {
            events_max: bounds.events_max.min(events_max),
            bytes_max: bounds.bytes_max.min(bytes_max),
            ..bounds
        };
    }

    /// Bytes of the events that wait for a session.
    #[must_use]
    pub fn backlog_event_bytes(&self, session: SessionId) -> usize {
        self.sessions[session as usize].outbox.event_bytes
    }

    /// Events that wait for a session and that it asked for, and their bytes.
    #[must_use]
    pub fn backlog_asked(&self, session: SessionId) -> (usize, usize) {
        self.sessions[session as usize].outbox.asked()
    }

    /// What of a session's queue from place `from` on was asked for by itself: it is not slow for
    /// having that before it.
    pub(super) fn grant_grace(&mut self, session: SessionId, from: usize) {
        let sub = &mut self.sessions[session as usize];
        if sub.outbox.mark_asked(from) {
            sub.grace_since = self.now;
        }
    }
}

impl Subscriber {
    /// Whether one more event of a subscription is too many.
    pub(super) fn is_full(&self, entry: EntryId, now: u64) -> bool {
        let (asked_events, asked_bytes) = if self.in_grace(now) { self.outbox.asked() } else { (0, 0) };
        let (events, bytes) = (self.outbox.events - asked_events, self.outbox.event_bytes - asked_bytes);
        let backlog = self.entries[entry as usize].options.backlog.map_or(usize::MAX, |backlog| backlog as usize);
        events >= self.bounds.events_max.min(backlog) || bytes >= self.bounds.bytes_max
    }

    /// Whether something waits that does not count among what waits.
    pub(super) fn in_grace(&self, now: u64) -> bool {
        now.saturating_sub(self.grace_since) < self.bounds.catch_up_ns && self.outbox.asked().0 > 0
    }
}
