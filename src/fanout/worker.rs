//! One worker's state: who wants what, how far each stream is, and what is owed to whom. Pure:
//! time is an argument, sockets are behind [`Sink`].

use std::sync::Arc;

use rustc_hash::FxHashMap;
use slab::Slab;

use super::bounds::Bounds;
use super::budget::{Budget, Held, Shed};
use super::cohort::{CohortId, Cohorts};
use super::feeds::Told;
use super::outbox::Sink;
use super::requests::{BookRequest, Requests};
use super::scope::Scopes;
use super::stream::Stream;
use super::subscriber::{CLOSING, QUEUED, SessionId, Subscriber};
use crate::limits::CONTROL_BYTES_MAX;
use crate::metrics::Histogram;
use crate::model::{InstrumentId, InstrumentKey, Pattern, StreamId, StreamKind};
use crate::store::Store;
use crate::wire::{CloseCode, Format, Frame, Head, Payload, Scratch, close_frame};

/// Bounds of one session's outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxLimits {
    /// Events that may wait for a full socket before the overflow policy applies.
    pub events_max: usize,
    /// Bytes of such events.
    pub bytes_max: usize,
    /// Bytes of answers and states that may wait before no more commands are taken.
    pub control_bytes_max: usize,
}

/// What a worker has counted since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events written, by format.
    pub deliveries: [u64; Format::COUNT],
    /// Bytes written to sessions, by the format of their events.
    pub bytes: [u64; Format::COUNT],
    /// Socket writes.
    pub writes: u64,
    /// Writes that found the socket full.
    pub blocked: u64,
    /// Events replaced by newer ones.
    pub conflated: u64,
    /// Events told of as a gap, by cause: slow consumer, upstream, hub.
    pub gapped: [u64; 3],
    /// Full outboxes whose session was told of a gap.
    pub overflow_gaps: u64,
    /// Full outboxes whose session was closed.
    pub overflow_closes: u64,
    /// Sessions closed because too many answers waited.
    pub answer_closes: u64,
    /// Sessions closed because the hub's budget was exceeded.
    pub shed: u64,
    /// Bytes that they held.
    pub shed_bytes: u64,
    /// Requests that found a feed thread's mailbox full.
    pub requests_full: u64,
    /// Events encoded here that their format could not hold.
    pub unfit: u64,
    /// Looks at instruments that commands took.
    pub looks: u64,
}

/// What a worker holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Open sessions.
    pub sessions: usize,
    /// Entries of all sessions.
    pub entries: usize,
    /// Streams that someone wants.
    pub streams: usize,
    /// Sessions whose socket is full.
    pub blocked: usize,
    /// Bytes that wait in all outboxes.
    pub outbox_bytes: usize,
    /// Bytes that wait in the fullest one.
    pub outbox_bytes_most: usize,
    /// Sessions for which something waits that they asked for and are not judged by.
    pub in_grace: usize,
}

/// The latencies that a worker measures.
#[derive(Clone, Debug)]
pub struct Latencies {
    /// From the lane to the end of the turn that wrote the event.
    pub lane_write: Arc<Histogram>,
    /// From the venue's socket to there.
    pub receive_write: Arc<Histogram>,
}

/// Frames to be written in this turn; sessions refer to them by index.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) frames: Vec<Frame>,
    /// When each was received and queued; 0 = not measured.
    pub(super) times: Vec<(u64, u64)>,
    pub(super) touched: Vec<SessionId>,
    /// Streams (by slab index) whose newest value `latest` sessions are to get.
    pub(super) latest: Vec<u32>,
    /// Frames copied together for one write, and of which indexes.
    pub(super) joined: Vec<u8>,
    pub(super) joined_of: Vec<u32>,
}

/// See the module.
pub struct Fanout {
    pub(super) worker: usize,
    pub(super) store: Arc<Store>,
    pub(super) limits: OutboxLimits,
    pub(super) scratch: Scratch,
    /// By feed index: where books are asked for.
    pub(super) requests: Vec<Requests>,
    /// Requests that found the mailbox full.
    pub(super) unsent: Vec<BookRequest>,
    pub(super) sessions: Slab<Subscriber>,
    pub(super) scopes: Scopes,
    pub(super) cohorts: Cohorts,
    pub(super) streams: Slab<Stream>,
    /// By format and stream index: the stream's place in `streams`, plus one.
    pub(super) stream_at: [Vec<u32>; Format::COUNT],
    /// Instruments that this worker has been told of.
    pub(super) known: Vec<bool>,
    pub(super) ids: FxHashMap<InstrumentId, InstrumentKey>,
    /// By feed index.
    pub(super) feeds: Vec<Told>,
    pub(super) turn: Turn,
    /// Sessions that are owed more than one turn may write.
    pub(super) again: Vec<SessionId>,
    /// Sessions that their full outbox has ended.
    pub(super) ended: Vec<SessionId>,
    /// What the sessions hold, and the hub's budget for it.
    pub(super) held: Held,
    pub(super) budget: Option<Arc<Budget>>,
    /// Its place among those who share the budget.
    pub(super) budget_place: usize,
    pub(super) shed: Vec<Shed>,
    /// When the last turn or write was; monotonic ns.
    pub(super) now: u64,
    pub(super) counts: Counts,
    /// Looks at instruments since they were last asked for.
    pub(super) looks: u64,
    pub(super) latencies: Option<Latencies>,
}

impl Fanout {
    /// Worker `worker`, with an empty set of sessions, knowing the instruments that exist.
    #[must_use]
    pub fn new(
        worker: usize,
        store: Arc<Store>,
        limits: OutboxLimits,
        requests: Vec<Requests>,
        latencies: Option<Latencies>,
    ) -> Self {
        let mut fanout = Self {
            worker,
            store,
            limits,
            scratch: Scratch::new(),
            requests,
            unsent: Vec::new(),
            sessions: Slab::new(),
            scopes: Scopes::default(),
            cohorts: Cohorts::default(),
            streams: Slab::new(),
            stream_at: Default::default(),
            known: Vec::new(),
            ids: FxHashMap::default(),
            feeds: Vec::new(),
            turn: Turn::default(),
            again: Vec::new(),
            ended: Vec::new(),
            held: Held::default(),
            budget: None,
            budget_place: worker,
            shed: Vec::new(),
            now: 0,
            counts: Counts::default(),
            looks: 0,
            latencies,
        };
        fanout.learn_instruments();
        fanout.learn_feeds();
        fanout
    }

    /// The store that it reads.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Opens a session that may see what `grant` selects, and gets events in `format`.
    pub fn open(&mut self, grant: Arc<[Pattern]>, format: Format) -> SessionId {
        self.sessions.insert(Subscriber::new(grant, format, Bounds::of(&self.limits))) as SessionId
    }

    /// Forgets a session and all that it holds.
    pub fn close(&mut self, session: SessionId) {
        if !self.sessions.contains(session as usize) {
            return;
        }
        let entries: Vec<u32> = self.sessions[session as usize].entries.iter().map(|(id, _)| id as u32).collect();
        for entry in entries {
            self.remove_entry(session, entry);
        }
        self.held.forget(&self.sessions.remove(session as usize));
        self.turn.touched.retain(|s| *s != session);
        self.again.retain(|s| *s != session);
    }

    /// Queues an answer, or anything else that is not an event, behind all that is queued.
    pub fn answer(&mut self, session: SessionId, frame: Frame) {
        self.queue_turn(session);
        let sub = &mut self.sessions[session as usize];
        if sub.flags & CLOSING == 0 {
            sub.outbox.push(frame, false);
            sub.flags |= QUEUED;
            self.held.count_stuck(sub);
            self.bound_control(session);
        }
    }

    /// Ends a session that takes so little that what is not an event piles up: a byte now and
    /// then keeps it from being stalled, but must not keep all of this in memory.
    pub(super) fn bound_control(&mut self, session: SessionId) {
        let outbox = &self.sessions[session as usize].outbox;
        if outbox.blocked && outbox.control_bytes > CONTROL_BYTES_MAX {
            self.counts.answer_closes += 1;
            self.ended.push(session);
            self.end(session, CloseCode::SlowConsumer, "too many answers wait", false);
        }
    }

    /// Moves what a session is to get in this turn behind what waits: from here on, what comes is
    /// queued.
    pub(super) fn queue_turn(&mut self, session: SessionId) {
        let sub = &mut self.sessions[session as usize];
        for index in std::mem::take(&mut sub.turn) {
            sub.outbox.push(self.turn.frames[index as usize].clone(), true);
            sub.flags |= QUEUED;
        }
    }

    /// Queues a ping or pong before everything that is not begun: a full outbox does not make a
    /// healthy client look dead.
    pub fn control(&mut self, session: SessionId, frame: Frame) {
        let sub = &mut self.sessions[session as usize];
        if sub.flags & CLOSING == 0 {
            sub.outbox.push_front(frame);
            sub.flags |= QUEUED;
            self.held.count_stuck(sub);
        }
    }

    /// Ends a session with a close frame. What waits is dropped, but for a frame that is begun;
    /// with `flush` what is queued goes out first.
    pub fn end(&mut self, session: SessionId, code: CloseCode, reason: &str, flush: bool) {
        let sub = &mut self.sessions[session as usize];
        if sub.flags & CLOSING != 0 {
            return;
        }
        if !flush || sub.outbox.blocked {
            sub.outbox.clear();
        }
        sub.turn = super::subscriber::TurnFrames::new();
        sub.joins = None;
        sub.dirty = None;
        sub.outbox.push(close_frame(code, reason), false);
        sub.flags = CLOSING | QUEUED;
        sub.close = Some(code);
        self.held.count(sub);
    }

    /// Whether more commands of a session may be taken: not while the answers to earlier ones
    /// wait for its socket.
    #[must_use]
    pub fn takes_commands(&self, session: SessionId) -> bool {
        let sub = &self.sessions[session as usize];
        sub.flags & CLOSING == 0 && sub.outbox.control_bytes <= self.limits.control_bytes_max
    }

    /// Whether the session's socket is full: to be written again when it is writable.
    #[must_use]
    pub fn is_blocked(&self, session: SessionId) -> bool {
        self.sessions.get(session as usize).is_some_and(|sub| sub.outbox.blocked)
    }

    /// Since when a full socket has taken nothing; monotonic ns.
    #[must_use]
    pub fn blocked_since(&self, session: SessionId) -> Option<u64> {
        self.sessions.get(session as usize).filter(|sub| sub.outbox.blocked).map(|sub| sub.outbox.since)
    }

    /// Whether the session is being closed, and its close frame is written.
    #[must_use]
    pub fn is_ended(&self, session: SessionId) -> bool {
        self.sessions.get(session as usize).is_none_or(|sub| sub.flags & CLOSING != 0 && sub.outbox.is_empty())
    }

    /// Whether the session is being closed, be it because its outbox was full.
    #[must_use]
    pub fn is_closing(&self, session: SessionId) -> bool {
        self.close_code(session).is_some()
    }

    /// The code that the session is being closed with, if it is.
    #[must_use]
    pub fn close_code(&self, session: SessionId) -> Option<CloseCode> {
        self.sessions.get(session as usize)?.close
    }

    /// What a session's events come in.
    #[must_use]
    pub fn format(&self, session: SessionId) -> Option<Format> {
        self.sessions.get(session as usize).map(|sub| sub.format)
    }

    /// Whether nothing waits to be written to the session.
    #[must_use]
    pub fn is_idle(&self, session: SessionId) -> bool {
        self.sessions.get(session as usize).is_none_or(|sub| sub.turn.is_empty() && sub.outbox.is_empty())
    }

    /// Whether the session's socket failed.
    #[must_use]
    pub fn is_failed(&self, session: SessionId) -> bool {
        self.sessions.get(session as usize).is_some_and(|sub| sub.outbox.failed)
    }

    /// Entries that the session holds.
    #[must_use]
    pub fn entries(&self, session: SessionId) -> usize {
        self.sessions[session as usize].entries.len()
    }

    /// Events and bytes that wait for the session's socket.
    #[must_use]
    pub fn backlog(&self, session: SessionId) -> (usize, usize) {
        let outbox = &self.sessions[session as usize].outbox;
        (outbox.events, outbox.event_bytes + outbox.control_bytes)
    }

    /// Sessions that their full outbox has ended since the last call.
    pub fn take_ended(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.ended)
    }

    /// Owes a session now what it would get at the end of a rate limit's pause: it is about to
    /// be told to go.
    pub fn release(&mut self, session: SessionId) {
        let sub = &self.sessions[session as usize];
        let mut owed = Vec::new();
        for (id, entry) in &sub.entries {
            let Some(cohort) = entry.cohort.map(|cohort| self.cohorts.cohort(cohort)) else { continue };
            for (index, window) in &cohort.windows {
                let key = InstrumentKey(index / StreamKind::COUNT as u32);
                let effective = sub.effective(&self.scopes, entry.channel, key) == Some(id as u32);
                if effective && window.owes(session) {
                    owed.push(*index);
                }
            }
        }
        for index in owed {
            let sub = &mut self.sessions[session as usize];
            if !sub.is_joining(index) {
                sub.mark_dirty(index);
                self.held.count_stuck(sub);
            }
        }
    }

    /// What was counted since the last call.
    pub fn take_counts(&mut self) -> Counts {
        Counts { unfit: self.scratch.take_unfit(), ..std::mem::take(&mut self.counts) }
    }

    /// What is held now; walks over all sessions.
    #[must_use]
    pub fn holdings(&self) -> Holdings {
        let mut holdings =
            Holdings { sessions: self.sessions.len(), streams: self.streams.len(), ..Holdings::default() };
        for (_, sub) in &self.sessions {
            holdings.entries += sub.entries.len();
            holdings.blocked += usize::from(sub.outbox.blocked);
            let bytes = sub.outbox.event_bytes + sub.outbox.control_bytes;
            holdings.outbox_bytes += bytes;
            holdings.outbox_bytes_most = holdings.outbox_bytes_most.max(bytes);
            holdings.in_grace += usize::from(sub.in_grace(self.now));
        }
        holdings
    }

    /// When the next rate-limited update is due; monotonic ns.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.cohorts.next_due()
    }

    /// Whether a turn is needed even if no event comes.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.again.is_empty() || !self.turn.touched.is_empty() || !self.unsent.is_empty()
    }

    /// Instruments that have appeared without a word in a lane: at the start, or when a lane
    /// overflowed.
    pub(super) fn learn_instruments(&mut self) {
        for index in 0..self.store.len() {
            self.appear(InstrumentKey(index));
        }
    }

    pub(super) fn stream_slot(&self, id: StreamId, format: Format) -> Option<u32> {
        self.stream_slot_at(id.index(), format)
    }

    /// The same by the stream's index.
    pub(super) fn stream_slot_at(&self, index: usize, format: Format) -> Option<u32> {
        self.stream_at[format.index()].get(index).and_then(|at| at.checked_sub(1))
    }

    /// The stream, made and wanted if nobody had it.
    pub(super) fn obtain_stream(&mut self, id: StreamId, format: Format) -> u32 {
        if let Some(at) = self.stream_slot(id, format) {
            return at;
        }
        self.store.want(id, self.worker, format.index());
        let (position, snapshot) = self.stored(id, format);
        let at = self.streams.insert(Stream::new(id, format, position, snapshot)) as u32;
        let stream_at = &mut self.stream_at[format.index()];
        if stream_at.len() <= id.index() {
            let len = (id.key.index() + 1) * StreamKind::COUNT;
            stream_at.resize(len, 0);
        }
        stream_at[id.index()] = at + 1;
        if matches!(id.kind, StreamKind::Book(_)) {
            self.request_book(id, format);
        }
        at
    }

    /// A stream's number and state in the store; every later event reaches the lane.
    pub(super) fn stored(&mut self, id: StreamId, format: Format) -> (u64, Option<Frame>) {
        let store = Arc::clone(&self.store);
        let Some(definition) = store.definition(id.key) else { return (0, None) };
        let mut encode = |seq, ts, rx, payload: &Payload<'_>| {
            let head = Head { id: &definition.id, key: id.key, seq, ts, rx, snapshot: true };
            (seq, Some(format.encode(&mut self.scratch, &head, payload)))
        };
        let found = match id.kind {
            StreamKind::Quote => {
                store.quote(id.key).map(|(s, v)| encode(s.seq, v.ts_event, s.received, &Payload::Quote(&v)))
            }
            StreamKind::Trade => {
                store.trade(id.key).map(|(s, v)| encode(s.seq, v.ts_event, s.received, &Payload::Trade(&v)))
            }
            StreamKind::Ticker => {
                store.ticker(id.key).map(|(s, v)| encode(s.seq, v.ts_event, s.received, &Payload::Ticker(&v)))
            }
            StreamKind::Book(_) => None,
        };
        found.unwrap_or_else(|| (store.sequence(id), None))
    }

    pub(super) fn request_book(&mut self, stream: StreamId, format: Format) {
        let request = BookRequest { stream, worker: self.worker, format };
        let mailbox = self.store.feed_index(stream.key).and_then(|feed| self.requests.get(usize::from(feed)));
        if let Some(mailbox) = mailbox
            && !mailbox.send(request)
        {
            self.counts.requests_full += 1;
            if let Some(at) = self.stream_slot(stream, format)
                && !std::mem::replace(&mut self.streams[at as usize].unsent, true)
            {
                self.unsent.push(request);
            }
        }
    }

    pub(super) fn retry_requests(&mut self) {
        for request in std::mem::take(&mut self.unsent) {
            if let Some(at) = self.stream_slot(request.stream, request.format)
                && std::mem::take(&mut self.streams[at as usize].unsent)
            {
                self.request_book(request.stream, request.format);
            }
        }
    }

    /// Takes a cohort off a stream; a stream that nobody wants is forgotten.
    pub(super) fn detach_stream(&mut self, id: StreamId, format: Format, cohort: CohortId) {
        let Some(at) = self.stream_slot(id, format) else { return };
        let stream = &mut self.streams[at as usize];
        stream.cohorts.retain(|c| *c != cohort);
        if stream.cohorts.is_empty() {
            self.streams.remove(at as usize);
            self.stream_at[format.index()][id.index()] = 0;
            self.store.unwant(id, self.worker, format.index());
            self.turn.latest.retain(|l| *l != at);
        }
    }

    /// Writes to a socket that has become writable, or for which something was queued.
    pub fn write(&mut self, session: SessionId, now: u64, sink: &mut impl Sink) {
        self.now = now;
        if self.sessions.contains(session as usize) {
            self.flush(session, now, sink);
            self.shed_worst();
        }
    }
}
