//! One memory budget for what waits for all sessions of a hub.
//!
//! Each worker counts in plain integers what its sessions hold, and publishes the sum and its
//! worst session's share. Above the budget the session with the most is ended first, whichever
//! worker has it; a worker leaves it to the other as long as the budget is not exceeded by more
//! than an eighth. An event that waits for many sessions counts once for each, though its bytes are
//! shared: the sum is an upper bound of the memory, and cheap to keep.

use std::cmp::Reverse;
use std::sync::Arc;

use super::outbox::Outbox;
use super::subscriber::{CLOSING, SessionId, Subscriber};
use super::worker::Fanout;
use crate::limits::OUTBOXES_MARGIN_PARTS;
use crate::sync::{AtomicU64, Ordering};
use crate::wire::CloseCode;

/// Memory of a mark that a stream is owed: its place in a set or map, and in the order.
const MARK_BYTES: usize = 64;

/// One worker's share. On a cache line of its own: it is written in every turn that leaves
/// something waiting.
#[derive(Debug)]
#[repr(align(64))]
struct Share {
    bytes: AtomicU64,
    worst: AtomicU64,
}

/// See the module.
#[derive(Debug)]
pub struct Budget {
    bytes_max: u64,
    shares: Box<[Share]>,
}

impl Budget {
    /// A budget of `bytes_max` for that many workers.
    #[must_use]
    pub fn new(bytes_max: usize, workers: usize) -> Arc<Self> {
        let share = |_| Share { bytes: AtomicU64::new(0), worst: AtomicU64::new(0) };
        Arc::new(Self { bytes_max: bytes_max as u64, shares: (0..workers).map(share).collect() })
    }

    /// What may be held.
    #[must_use]
    pub const fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// What all workers hold, as they last published it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shares.iter().map(|share| share.bytes.load(Ordering::Relaxed)).sum()
    }

    fn publish(&self, worker: usize, held: &Held) {
        let Some(share) = self.shares.get(worker) else { return };
        for (place, value) in [(&share.bytes, held.bytes), (&share.worst, held.worst)] {
            // Unchanged, others keep the line in their caches.
            if place.load(Ordering::Relaxed) != value as u64 {
                place.store(value as u64, Ordering::Relaxed);
            }
        }
    }

    fn low(&self) -> u64 {
        self.bytes_max - self.bytes_max / OUTBOXES_MARGIN_PARTS
    }

    fn high(&self) -> u64 {
        self.bytes_max + self.bytes_max / OUTBOXES_MARGIN_PARTS
    }

    /// Whether another worker has a session that holds more; among equals the first worker's is
    /// taken to.
    fn worse_elsewhere(&self, worker: usize, bytes: usize) -> bool {
        self.shares.iter().enumerate().any(|(other, share)| {
            let theirs = share.worst.load(Ordering::Relaxed);
            other != worker && (theirs, Reverse(other)) > (bytes as u64, Reverse(worker))
        })
    }
}

/// What one worker's sessions hold. A session's part is counted anew whenever it changed.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) bytes: usize,
    /// No session holds more; exact when the budget was last exceeded.
    worst: usize,
}

impl Held {
    #[inline]
    pub(super) fn count(&mut self, sub: &mut Subscriber) {
        let bytes = sub.held();
        self.bytes = self.bytes - sub.counted + bytes;
        sub.counted = bytes;
        self.worst = self.worst.max(bytes);
    }

    /// The same where nothing else will: what waits for an open socket is counted once it has been
    /// written to.
    #[inline]
    pub(super) fn count_stuck(&mut self, sub: &mut Subscriber) {
        if sub.outbox.is_stuck() {
            self.count(sub);
        }
    }

    pub(super) fn forget(&mut self, sub: &Subscriber) {
        self.bytes -= sub.counted;
    }
}

impl Subscriber {
    /// The memory of what waits for its socket. Where that is open nothing does: what is owed then
    /// waits for its stream, and to close the session would free nothing that was in the way.
    pub(super) fn held(&self) -> usize {
        if !self.outbox.is_stuck() {
            return self.outbox.held();
        }
        let joins = self.joins.as_ref().map_or(0, |joins| joins.by_stream.len());
        let dirty = self.dirty.as_ref().map_or(0, |dirty| dirty.streams.len());
        self.outbox.held() + (joins + dirty) * MARK_BYTES
    }
}

/// A session that was ended because the budget was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shed {
    /// The session.
    pub session: SessionId,
    /// What it held.
    pub bytes: usize,
}

impl Fanout {
    /// Has what its sessions hold counted in `budget`.
    pub fn share(&mut self, budget: Arc<Budget>) {
        self.share_as(budget, self.worker);
    }

    /// The same in place `place`, where workers of several stores share a budget.
    pub fn share_as(&mut self, budget: Arc<Budget>, place: usize) {
        self.budget = Some(budget);
        self.budget_place = place;
    }

    /// Bytes that its sessions hold.
    #[must_use]
    pub const fn held_bytes(&self) -> usize {
        self.held.bytes
    }

    /// Bytes that one session holds.
    #[must_use]
    pub fn held_by(&self, session: SessionId) -> usize {
        self.sessions.get(session as usize).map_or(0, Subscriber::held)
    }

    /// Sessions ended for the budget since the last call.
    pub fn take_shed(&mut self) -> Vec<Shed> {
        std::mem::take(&mut self.shed)
    }

    /// Publishes what is held, and ends the worst sessions where the budget is exceeded. Turns and
    /// writes do it by themselves; to be called now and then beside them, with the time.
    pub fn keep_budget(&mut self, now: u64) {
        self.now = now;
        self.shed_worst();
    }

    /// Counts a session anew whose marks or queue have changed outside of a write.
    pub(super) fn recount(&mut self, session: SessionId) {
        let sub = &mut self.sessions[session as usize];
        if sub.outbox.is_stuck() || sub.counted > 0 {
            self.held.count(sub);
        }
    }

    pub(super) fn shed_worst(&mut self) {
        let Some(budget) = &self.budget else { return };
        if self.held.bytes == 0 {
            // Who has nothing has no worse session than another worker.
            self.held.worst = 0;
        }
        budget.publish(self.budget_place, &self.held);
        if self.held.bytes == 0 || budget.bytes() <= budget.bytes_max {
            return;
        }
        let budget = Arc::clone(budget);
        let mut worst = self.by_size();
        while budget.bytes() > budget.low() {
            let Some((bytes, Reverse(session))) = worst.last().copied() else { break };
            self.held.worst = bytes;
            budget.publish(self.budget_place, &self.held);
            if budget.bytes() <= budget.high() && budget.worse_elsewhere(self.budget_place, bytes) {
                break;
            }
            worst.pop();
            self.counts.shed += 1;
            self.counts.shed_bytes += bytes as u64;
            self.shed.push(Shed { session, bytes });
            self.ended.push(session);
            self.end(session, CloseCode::Overloaded, "too much waits for all slow sessions together", false);
            self.touch(session);
            budget.publish(self.budget_place, &self.held);
        }
        self.held.worst = worst.last().map_or(0, |(bytes, _)| *bytes);
        budget.publish(self.budget_place, &self.held);
    }

    /// Sessions for which something waits, the one with the most last; among equals the one with
    /// the lowest index.
    fn by_size(&self) -> Vec<(usize, Reverse<SessionId>)> {
        let waits = |sub: &Subscriber| sub.counted > 0 && sub.flags & CLOSING == 0 && sub.outbox.is_stuck();
        let mut all: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, sub)| waits(sub))
            .map(|(session, sub)| (sub.counted, Reverse(session as SessionId)))
            .collect();
        all.sort_unstable();
        all
    }
}

impl Outbox {
    /// Whether its socket takes nothing now, or never again.
    pub(super) const fn is_stuck(&self) -> bool {
        self.blocked || self.failed
    }
}
