//! What a worker can say of one session when it is asked: read where it lies, counted nowhere else.

use super::subscriber::SessionId;
use super::worker::Fanout;
use crate::wire::Format;

/// One session's subscriptions, and what it is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// What its events come in.
    pub format: Format,
    /// Entries that it holds.
    pub entries: usize,
    /// Events that wait for its socket.
    pub events: usize,
    /// Bytes that wait for it, answers and states included.
    pub bytes: usize,
    /// Streams of which it is owed the state, or the newest value.
    pub streams_owed: usize,
    /// The memory of all this, as the hub's budget counts it.
    pub held: usize,
    /// Since when a full socket has taken nothing; monotonic ns.
    pub blocked_since: Option<u64>,
}

impl Fanout {
    /// What there is to say of a session; `None` where there is none.
    #[must_use]
    pub fn look(&self, session: SessionId) -> Option<Look> {
        let sub = self.sessions.get(session as usize)?;
        let joins = sub.joins.as_ref().map_or(0, |joins| joins.by_stream.len());
        let dirty = sub.dirty.as_ref().map_or(0, |dirty| dirty.streams.len());
        Some(Look {
            format: sub.format,
            entries: sub.entries.len(),
            events: sub.outbox.events,
            bytes: sub.outbox.event_bytes + sub.outbox.control_bytes,
            streams_owed: joins + dirty,
            held: sub.held(),
            blocked_since: sub.outbox.blocked.then_some(sub.outbox.since),
        })
    }
}
