//! The end of a turn: one gathered write for each touched session, and catching up.

use std::io::{self, IoSlice};

use super::outbox::Sink;
use super::subscriber::{CLOSING, DIRTY, JOINING, Join, QUEUED, SessionId};
use super::worker::Fanout;
use crate::model::{GapCause, StreamId, StreamKind};
use crate::store::Held;
use crate::wire::{Format, Frame, Gap, Head, Payload};

/// Frames copied together for one write: below it a copy is cheaper than gathering.
const JOINED_BYTES_MAX: usize = 64 * 1024;

/// What one session may be given of what it is catching up with before others get their turn.
const CATCH_UP_BYTES_MAX: usize = 256 * 1024;

/// A session that often gets several frames in a turn keeps the room for so many.
const TURN_FRAMES_KEPT: usize = 64;

/// Held events read from a ring at once.
const RESUME_RECORDS_MAX: usize = 256;

/// What serving a join came to.
enum Served {
    /// It is complete; live events go on.
    Whole,
    /// There is more.
    Partly,
    /// It must wait until the stream moves.
    NotYet,
}

impl Fanout {
    /// Ends a turn at `now`: conflated values are given out, then everyone who was touched is
    /// written to.
    pub fn end_turn(&mut self, now: u64, sink: &mut impl Sink) {
        self.now = now;
        // In this order: what moved in this turn goes into a pause that ends with it, once.
        self.deliver_latest(now);
        self.deliver_due(now);
        self.retry_requests();
        for session in std::mem::take(&mut self.again) {
            self.touch(session);
        }
        let mut touched = std::mem::take(&mut self.turn.touched);
        // Each once, and in the order in which they lie in memory.
        touched.sort_unstable();
        touched.dedup();
        for session in &touched {
            let Some(sub) = self.sessions.get(*session as usize) else { continue };
            if sub.flags & (QUEUED | JOINING | DIRTY | CLOSING) == 0 {
                self.write_turn(*session, now, sink);
            } else if !sub.outbox.blocked {
                // A full socket is not tried again before it is writable.
                self.flush(*session, now, sink);
            }
        }
        let late = std::mem::replace(&mut self.turn.touched, touched);
        self.turn.touched.clear();
        self.turn.touched.extend(late);
        self.turn.joined_of.clear();
        self.turn.joined.clear();
        self.shed_worst();
    }

    /// Forgets the turn's frames; `written` is when the last write returned. To be called once
    /// all sessions were written to.
    pub fn close_turn(&mut self, written: u64) {
        if let Some(latencies) = &self.latencies {
            for (received, queued) in &self.turn.times {
                if *queued != 0 {
                    latencies.lane_write.record(written.saturating_sub(*queued));
                    latencies.receive_write.record(written.saturating_sub(*received));
                }
            }
        }
        self.turn.frames.clear();
        self.turn.times.clear();
    }

    /// Writes what a session is owed, as far as its socket takes it.
    pub(super) fn flush(&mut self, session: SessionId, now: u64, sink: &mut impl Sink) {
        // Without one of these nothing is held, before and after.
        let flags = self.sessions[session as usize].flags;
        if self.sessions[session as usize].outbox.is_empty() {
            self.write_turn(session, now, sink);
        } else {
            // Behind what waits: nothing may overtake.
            self.queue_turn(session);
            self.drain(session, now, sink);
        }
        let mut budget = CATCH_UP_BYTES_MAX;
        loop {
            let sub = &self.sessions[session as usize];
            if sub.outbox.blocked || sub.outbox.failed || sub.flags & (JOINING | DIRTY) == 0 {
                break;
            }
            if budget == 0 {
                self.again.push(session);
                break;
            }
            let before = self.sessions[session as usize].outbox.is_empty();
            let produced = self.produce(session, budget);
            if produced == 0 && before {
                break;
            }
            budget = budget.saturating_sub(produced);
            self.drain(session, now, sink);
        }
        let sub = &mut self.sessions[session as usize];
        if (flags | sub.flags) & (QUEUED | JOINING | DIRTY) != 0 {
            self.held.count(sub);
        }
    }

    fn drain(&mut self, session: SessionId, now: u64, sink: &mut impl Sink) {
        let sub = &mut self.sessions[session as usize];
        let drained = sub.outbox.drain(session, sink, now);
        if sub.outbox.is_empty() {
            sub.flags &= !QUEUED;
        } else {
            sub.flags |= QUEUED;
        }
        self.counts.deliveries[sub.format.index()] += drained.events;
        self.counts.bytes[sub.format.index()] += drained.bytes;
        self.counts.writes += drained.writes;
        self.counts.blocked += u64::from(drained.blocked);
    }

    /// The common case: nothing waits, and this turn's frames go out in one write.
    fn write_turn(&mut self, session: SessionId, now: u64, sink: &mut impl Sink) {
        let sub = &mut self.sessions[session as usize];
        let (indexes, format) = (std::mem::take(&mut sub.turn), sub.format.index());
        let mut from = 0;
        while from < indexes.len() {
            let until = self.turn.join(&indexes, from);
            let bytes = if until - from == 1 {
                self.turn.frames[indexes[from] as usize].bytes().as_ref()
            } else {
                self.turn.joined.as_slice()
            };
            self.counts.writes += 1;
            let result = sink.write(session, &[IoSlice::new(bytes)]);
            let (taken, offered) = (*result.as_ref().unwrap_or(&0), bytes.len());
            self.counts.bytes[format] += taken as u64;
            if result.is_ok() && taken == offered {
                self.counts.deliveries[format] += (until - from) as u64;
                from = until;
                continue;
            }
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    self.sessions[session as usize].outbox.failed = true;
                    self.turn.touched.push(session);
                }
                _ => self.keep_rest(session, &indexes[from..], taken, now, sink.held(session)),
            }
            break;
        }
        if indexes.spilled() && indexes.capacity() <= TURN_FRAMES_KEPT {
            let turn = &mut self.sessions[session as usize].turn;
            *turn = indexes;
            turn.clear();
        }
    }

    /// The socket is full: what it did not take waits in the outbox.
    fn keep_rest(&mut self, session: SessionId, indexes: &[u32], mut taken: usize, now: u64, in_sink: usize) {
        self.counts.blocked += 1;
        let sub = &mut self.sessions[session as usize];
        for index in indexes {
            let frame = &self.turn.frames[*index as usize];
            if taken >= frame.len() {
                taken -= frame.len();
                self.counts.deliveries[sub.format.index()] += 1;
            } else if taken > 0 {
                sub.outbox.push_partial(frame.clone(), taken);
                taken = 0;
            } else {
                sub.outbox.push(frame.clone(), true);
            }
        }
        sub.outbox.block(now);
        sub.outbox.in_sink = in_sink;
        sub.flags |= QUEUED;
        self.held.count(sub);
    }

    /// Moves what is owed into the outbox: joins first, then dirty values. How many bytes.
    fn produce(&mut self, session: SessionId, budget: usize) -> usize {
        let sub = &self.sessions[session as usize];
        if sub.flags & CLOSING != 0 {
            return 0;
        }
        let before = sub.outbox.event_bytes;
        let waiting = sub.joins.as_ref().map_or(0, |joins| joins.order.len());
        for _ in 0..waiting {
            if self.sessions[session as usize].outbox.event_bytes - before >= budget {
                break;
            }
            let Some(stream) = self.sessions[session as usize].joins.as_mut().and_then(|j| j.order.pop_front()) else {
                break;
            };
            self.serve_join(session, stream);
        }
        while self.sessions[session as usize].outbox.event_bytes - before < budget {
            let Some(stream) = self.sessions[session as usize].pop_dirty() else { break };
            self.serve_dirty(session, stream);
        }
        let sub = &mut self.sessions[session as usize];
        if !sub.outbox.is_empty() {
            sub.flags |= QUEUED;
        }
        sub.outbox.event_bytes - before
    }

    fn serve_dirty(&mut self, session: SessionId, stream_index: u32) {
        let format = self.sessions[session as usize].format;
        let Some(at) = self.stream_slot_at(stream_index as usize, format) else { return };
        let Some(frame) = self.newest(at) else { return };
        let id = self.streams[at as usize].id;
        self.sessions[session as usize].outbox.push(frame, true);
        self.note_served(session, id);
    }

    fn serve_join(&mut self, session: SessionId, stream_index: u32) {
        let sub = &self.sessions[session as usize];
        let Some(join) = sub.joins.as_ref().and_then(|joins| joins.by_stream.get(&stream_index)).copied() else {
            return;
        };
        let Some(at) = self.stream_slot_at(stream_index as usize, sub.format) else { return };
        // What follows a gap that the session itself is to blame for was not asked for.
        let asked = !matches!(join, Join::Lost { cause: GapCause::SlowConsumer, .. });
        let queued = self.sessions[session as usize].outbox.len();
        let served = match join {
            Join::Snapshot => self.serve_snapshot(session, at),
            Join::Resume { next, cause, snapshot } => self.serve_resume(session, at, next, cause, snapshot),
            Join::Lost { from, cause, snapshot } => self.serve_lost(session, at, from, cause, snapshot),
        };
        if asked {
            self.grant_grace(session, queued);
        }
        match served {
            Served::Whole => {
                self.sessions[session as usize].take_join(stream_index);
            }
            Served::Partly => {
                if let Some(joins) = &mut self.sessions[session as usize].joins {
                    joins.order.push_front(stream_index);
                }
            }
            Served::NotYet => {
                let waiting = &mut self.streams[at as usize].waiting;
                if !waiting.contains(&session) {
                    waiting.push(session);
                }
            }
        }
    }

    fn serve_snapshot(&mut self, session: SessionId, at: u32) -> Served {
        let id = self.streams[at as usize].id;
        match self.snapshot(at) {
            Some(frame) => {
                self.sessions[session as usize].outbox.push(frame, true);
                self.note_served(session, id);
                Served::Whole
            }
            // A book that is on its way, or not known now: its first event is its state.
            None if matches!(id.kind, StreamKind::Book(_)) => Served::NotYet,
            None => Served::Whole,
        }
    }

    fn serve_lost(&mut self, session: SessionId, at: u32, from: u64, cause: GapCause, snapshot: bool) -> Served {
        let stream = &self.streams[at as usize];
        let (id, to) = (stream.id, stream.position);
        let book = matches!(id.kind, StreamKind::Book(_));
        if book && stream.replica.is_none() {
            return Served::NotYet;
        }
        self.push_gap(session, id, from, to, cause);
        if book || snapshot {
            return self.serve_snapshot(session, at);
        }
        Served::Whole
    }

    /// Tells a session of the numbers `from` to `to`, if there are any.
    pub(super) fn push_gap(&mut self, session: SessionId, id: StreamId, from: u64, to: u64, cause: GapCause) {
        if from <= to {
            let frame = self.gap_frame(id, self.sessions[session as usize].format, from, to, cause);
            self.counts.gapped[cause as usize - 1] += to + 1 - from;
            let sub = &mut self.sessions[session as usize];
            sub.outbox.push(frame, true);
            sub.flags |= QUEUED;
            self.held.count_stuck(sub);
        }
    }

    /// The held events from `next` to the worker's position, in portions.
    fn serve_resume(&mut self, session: SessionId, at: u32, next: u64, cause: GapCause, snapshot: bool) -> Served {
        let stream = &self.streams[at as usize];
        let (id, format, position) = (stream.id, stream.format, stream.position);
        let window_due = matches!(id.kind, StreamKind::Book(_)) && stream.replica.is_none() && !stream.begins_again;
        if next > position + 1 || (next > position && window_due) {
            // The session has seen more than this worker yet; or a book is coming into use and may
            // begin under a number of its own, which is then missing.
            return Served::NotYet;
        }
        let mut held =
            if next <= position { self.store.held_after(id, next - 1, RESUME_RECORDS_MAX) } else { Vec::new() };
        held.retain(|event| event.seq() <= position);
        if matches!(id.kind, StreamKind::Book(_)) && !self.book_resumable(at, next, &held) {
            let lost = Join::Lost { from: next, cause, snapshot };
            self.sessions[session as usize].join(id.index() as u32, lost);
            return self.serve_lost(session, at, next, cause, snapshot);
        }
        let mut next = next;
        for event in &held {
            if event.seq() > next {
                self.push_gap(session, id, next, event.seq() - 1, cause);
            }
            let frame = self.encode_held(id, format, event);
            if let Some(frame) = frame {
                self.sessions[session as usize].outbox.push(frame, true);
            }
            next = event.seq() + 1;
        }
        if held.is_empty() {
            self.push_gap(session, id, next, position, cause);
            next = position + 1;
        }
        // Also where the snapshot must be waited for: nothing is told twice.
        self.sessions[session as usize].join(id.index() as u32, Join::Resume { next, cause, snapshot });
        if next <= position {
            return Served::Partly;
        }
        if snapshot { self.serve_snapshot(session, at) } else { Served::Whole }
    }

    /// Whether all of a book's numbers from `next` are held, none of them a gap. Of a long
    /// history this looks at a portion at a time.
    fn book_resumable(&self, at: u32, next: u64, held: &[Held]) -> bool {
        let position = self.streams[at as usize].position;
        if next > position {
            return true;
        }
        let whole = held.iter().zip(next..).all(|(event, seq)| event.seq() == seq);
        let broken = held.iter().any(|event| matches!(event, Held::Gap { .. }));
        let last = held.last().map_or(0, Held::seq);
        whole && !broken && (last == position || (last > 0 && held.len() >= RESUME_RECORDS_MAX / 2))
    }

    fn encode_held(&mut self, id: StreamId, format: Format, event: &Held) -> Option<Frame> {
        let store = std::sync::Arc::clone(&self.store);
        let instrument = &store.definition(id.key)?.id;
        let mut encode = |seq, ts, rx, payload: &Payload<'_>| {
            let head = Head { id: instrument, key: id.key, seq, ts, rx, snapshot: false };
            format.encode(&mut self.scratch, &head, payload)
        };
        Some(match event {
            Held::Quote(s, v) => encode(s.seq, v.ts_event, s.received, &Payload::Quote(v)),
            Held::Trade(s, v) => encode(s.seq, v.ts_event, s.received, &Payload::Trade(v)),
            Held::Ticker(s, v) => encode(s.seq, v.ts_event, s.received, &Payload::Ticker(v)),
            Held::Book { stamp, ts_event, bids, asks } => {
                let StreamKind::Book(depth) = id.kind else { return None };
                encode(stamp.seq, *ts_event, stamp.received, &Payload::Book { depth, bids, asks })
            }
            Held::Gap { seq, lost } => {
                let (StreamId { key, kind }, cause) = (id, GapCause::Upstream);
                let gap = Gap { id: instrument, key, kind, from: *seq, to: *seq, cause, lost: *lost };
                format.gap(&mut self.scratch, &gap)
            }
        })
    }
}

impl super::worker::Turn {
    /// Copies the frames from `indexes[from]` on together, as many as fit; where they end. A
    /// session with the same frames as the one before it finds them copied already.
    fn join(&mut self, indexes: &[u32], from: usize) -> usize {
        if indexes.len() - from == 1 {
            return from + 1;
        }
        if from == 0 && self.joined_of == indexes && self.joined.len() <= JOINED_BYTES_MAX && !self.joined.is_empty() {
            return indexes.len();
        }
        self.joined.clear();
        self.joined_of.clear();
        let mut until = from;
        while until < indexes.len() {
            let frame = &self.frames[indexes[until] as usize];
            if until > from && self.joined.len() + frame.len() > JOINED_BYTES_MAX {
                break;
            }
            self.joined.extend_from_slice(frame.bytes());
            until += 1;
        }
        if from == 0 && until == indexes.len() {
            self.joined_of.extend_from_slice(indexes);
        }
        until
    }
}
