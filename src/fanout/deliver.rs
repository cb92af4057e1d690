//! From events to the outboxes of those who want them.

use super::cohort::{CohortId, Cohorts, Member, RateWindow};
use super::lane::{Event, Standing, Update};
use super::stream::Replica;
use super::subscriber::{CLOSING, Join, QUEUED, Selector, SessionId, overlap_flag};
use super::worker::Fanout;
use crate::model::{Channel, GapCause, Overflow, StreamId, StreamKind, Window};
use crate::wire::command::Mode;
use crate::wire::{CloseCode, Format, Frame, Gap, Head, Payload};

/// An event on its way to `every` sessions.
struct Parcel<'a> {
    stream: StreamId,
    frame: &'a Frame,
    /// The first number that it stands for.
    from: u64,
    /// Its place in the turn's table.
    index: u32,
}

impl Fanout {
    /// Takes one event out of a lane.
    pub fn on_event(&mut self, event: Event) {
        match event {
            Event::Update(update) => self.on_update(update),
            Event::Gap { stream, seq, format, frame, snapshot } => self.on_gap((stream, format), seq, &frame, snapshot),
            Event::Instrument(key) => self.appear(key),
            Event::Feed { feed, changes, state, frame } => self.on_feed(feed, changes, state, &frame),
        }
    }

    fn on_update(&mut self, update: Update) {
        let Some(at) = self.stream_slot(update.stream, update.format) else { return };
        match update.standing {
            Standing::Numbered => self.on_numbered(at, update),
            Standing::Resync => self.on_window(at, &update, true),
            Standing::State => self.on_window(at, &update, false),
        }
    }

    fn on_numbered(&mut self, at: u32, update: Update) {
        let stream = &mut self.streams[at as usize];
        if update.seq <= stream.position {
            return;
        }
        // A book that begins again does so with a snapshot: a change means that it was dropped.
        let expected = update.seq == stream.position + 1 && !stream.begins_again;
        if !expected {
            let full = update.book.as_ref().is_none_or(|book| book.full);
            if !self.on_hole(at, update.seq, full) {
                return;
            }
        }
        let stream = &mut self.streams[at as usize];
        stream.position = update.seq;
        stream.begins_again = false;
        stream.snapshot = None;
        if let Some(book) = &update.book {
            if book.full {
                let mut window = Window::default();
                window.apply(book.bids(), book.asks());
                stream.replica = Some(Replica { window, ts_event: book.ts_event, received: book.received });
            } else if let Some(replica) = &mut stream.replica {
                replica.window.apply(book.bids(), book.asks());
                (replica.ts_event, replica.received) = (book.ts_event, book.received);
            }
        }
        stream.frame = Some(update.frame.clone());
        let index = self.add_frame(update.frame.clone(), (update.received, update.queued));
        self.deliver_every(at, &Parcel { stream: update.stream, frame: &update.frame, from: update.seq, index });
        self.touch_latest(at);
        self.serve_waiting(at);
    }

    /// A whole book under a number that is published already.
    fn on_window(&mut self, at: u32, update: &Update, for_everyone: bool) {
        let stream = &mut self.streams[at as usize];
        let Some(book) = &update.book else { return };
        if update.seq < stream.position || (!for_everyone && stream.replica.is_some()) {
            return;
        }
        // Those who wait for the snapshot behind a gap take this one, where theirs was dropped.
        let for_everyone = for_everyone || stream.begins_again;
        let hole = update.seq > stream.position;
        if hole {
            self.lose(at, update.seq, GapCause::Hub);
        }
        let stream = &mut self.streams[at as usize];
        stream.position = update.seq;
        stream.begins_again = false;
        let mut window = Window::default();
        window.apply(book.bids(), book.asks());
        stream.replica = Some(Replica { window, ts_event: book.ts_event, received: book.received });
        stream.snapshot = Some(update.frame.clone());
        if for_everyone {
            self.owe_window(at, update.seq);
            let index = self.add_frame(update.frame.clone(), (update.received, update.queued));
            // Its number is the gap's, which was delivered: where it is lost, no number is missing.
            let from = update.seq + 1;
            self.deliver_every(at, &Parcel { stream: update.stream, frame: &update.frame, from, index });
        }
        self.touch_latest(at);
        self.serve_waiting(at);
    }

    /// Who has resumed behind the gap `seq` of a book may have been told of the gap only: its window
    /// comes with the resume, as `every` sessions that are joining get no event.
    fn owe_window(&mut self, at: u32, seq: u64) {
        let stream = &self.streams[at as usize];
        let index = stream.id.index() as u32;
        for cohort in &stream.cohorts {
            for member in &self.cohorts.cohort(*cohort).members {
                if let Some(joins) = &mut self.sessions[member.session as usize].joins
                    && let Some(Join::Resume { next, snapshot, .. }) = joins.by_stream.get_mut(&index)
                {
                    *snapshot |= *next == seq + 1;
                }
            }
        }
    }

    fn on_gap(&mut self, (id, format): (StreamId, Format), seq: u64, frame: &Frame, snapshot: Option<Frame>) {
        let Some(at) = self.stream_slot(id, format) else { return };
        let stream = &mut self.streams[at as usize];
        if seq <= stream.position {
            return;
        }
        let hole = seq > stream.position + 1;
        if hole && !self.on_hole(at, seq, true) {
            return;
        }
        let stream = &mut self.streams[at as usize];
        stream.position = seq;
        stream.replica = None;
        stream.begins_again = matches!(id.kind, StreamKind::Book(_));
        stream.snapshot = snapshot;
        if hole && !stream.begins_again {
            // The last value may be among what was dropped; the one under the gap's number is not.
            stream.frame.clone_from(&stream.snapshot);
            self.touch_latest(at);
        }
        let index = self.add_frame(frame.clone(), (0, 0));
        let delivered = self.deliver_every(at, &Parcel { stream: id, frame, from: seq, index });
        self.counts.gapped[GapCause::Upstream as usize - 1] += delivered;
        self.serve_waiting(at);
    }

    /// The lane lost numbers up to before `seq`. Says whether the event itself can be delivered:
    /// a change of a book whose state is unknown cannot.
    fn on_hole(&mut self, at: u32, seq: u64, usable: bool) -> bool {
        if usable && !matches!(self.streams[at as usize].id.kind, StreamKind::Book(_)) {
            self.skip(at, seq - 1);
            return true;
        }
        if usable {
            // A full window or a gap of a book: its subscribers begin again with what follows.
            self.lose(at, seq - 1, GapCause::Hub);
            return true;
        }
        self.lose(at, seq, GapCause::Hub);
        let stream = &mut self.streams[at as usize];
        stream.replica = None;
        let (id, format) = (stream.id, stream.format);
        self.request_book(id, format);
        false
    }

    /// Tells `every` sessions that the numbers up to `to` were lost in the hub.
    fn skip(&mut self, at: u32, to: u64) {
        let stream = &mut self.streams[at as usize];
        let (id, format, from) = (stream.id, stream.format, stream.position + 1);
        stream.position = to;
        stream.snapshot = None;
        let frame = self.gap_frame(id, format, from, to, GapCause::Hub);
        let index = self.add_frame(frame.clone(), (0, 0));
        let delivered = self.deliver_every(at, &Parcel { stream: id, frame: &frame, from, index });
        self.counts.gapped[GapCause::Hub as usize - 1] += delivered * (to + 1 - from);
    }

    /// `every` sessions of a book get one gap up to its next state, and then that state.
    fn lose(&mut self, at: u32, to: u64, cause: GapCause) {
        let stream = &mut self.streams[at as usize];
        let (id, from) = (stream.id, stream.position + 1);
        stream.position = to;
        stream.begins_again = false;
        stream.snapshot = None;
        let index = id.index() as u32;
        let mut lost = Vec::new();
        for cohort in self.streams[at as usize].cohorts.clone() {
            let cohort = self.cohorts.cohort(cohort);
            if cohort.key.mode == Mode::Every {
                lost.extend(cohort.members.iter().copied());
            }
        }
        for member in lost {
            if self.is_effective(member, id) {
                let sub = &mut self.sessions[member.session as usize];
                if !sub.is_joining(index) && sub.flags & CLOSING == 0 {
                    sub.join(index, Join::Lost { from, cause, snapshot: true });
                    self.held.count_stuck(sub);
                    self.streams[at as usize].waiting.push(member.session);
                }
            }
        }
    }

    /// After dropped events: instruments, feed states and streams are brought up to what the
    /// store holds; what was lost is a gap.
    pub fn resync(&mut self) {
        self.learn_instruments();
        self.resync_feeds();
        let behind: Vec<u32> = self.streams.iter().map(|(at, _)| at as u32).collect();
        for at in behind {
            let stream = &self.streams[at as usize];
            let (id, format, position) = (stream.id, stream.format, stream.position);
            let book = matches!(id.kind, StreamKind::Book(_));
            if book {
                // Its state may have been among what was dropped.
                let seq = self.store.sequence(id);
                let lost = seq > position || stream.replica.is_none();
                if seq > position || stream.begins_again {
                    self.lose(at, seq, GapCause::Hub);
                }
                if lost {
                    self.streams[at as usize].replica = None;
                    self.request_book(id, format);
                }
                continue;
            }
            let (seq, snapshot) = self.stored(id, format);
            if seq > position {
                self.skip(at, seq);
                let stream = &mut self.streams[at as usize];
                stream.frame.clone_from(&snapshot);
                stream.snapshot = snapshot;
                self.touch_latest(at);
                self.serve_waiting(at);
            }
        }
    }

    pub(super) fn add_frame(&mut self, frame: Frame, times: (u64, u64)) -> u32 {
        self.turn.frames.push(frame);
        self.turn.times.push(times);
        (self.turn.frames.len() - 1) as u32
    }

    /// Appends an event to the outbox of each `every` session; how many get it at once.
    fn deliver_every(&mut self, at: u32, parcel: &Parcel<'_>) -> u64 {
        let mut delivered = 0;
        let channel = parcel.stream.kind.channel();
        let mut overflowing = Vec::new();
        for cohort in &self.streams[at as usize].cohorts {
            let cohort = self.cohorts.cohort(*cohort);
            if cohort.key.mode != Mode::Every {
                continue;
            }
            for member in &cohort.members {
                let sub = &mut self.sessions[member.session as usize];
                if sub.flags != 0 {
                    if sub.flags & overlap_flag(channel) != 0
                        && sub.effective(&self.scopes, channel, parcel.stream.key) != Some(member.entry)
                    {
                        continue;
                    }
                    if sub.flags & CLOSING != 0 || sub.is_joining(parcel.stream.index() as u32) {
                        continue;
                    }
                    if sub.flags & QUEUED != 0 {
                        // Queued behind an announcement of this turn it is not slow.
                        if sub.outbox.is_stuck() && sub.is_full(member.entry, self.now) {
                            overflowing.push(*member);
                        } else {
                            sub.outbox.push(parcel.frame.clone(), true);
                            self.held.count_stuck(sub);
                            delivered += 1;
                        }
                        continue;
                    }
                }
                if sub.turn.is_empty() {
                    self.turn.touched.push(member.session);
                }
                sub.turn.push(parcel.index);
                delivered += 1;
            }
        }
        for member in overflowing {
            self.overflow(member, parcel);
        }
        delivered
    }

    /// A full outbox: the declared policy.
    fn overflow(&mut self, member: Member, parcel: &Parcel<'_>) {
        let sub = &mut self.sessions[member.session as usize];
        match sub.entries[member.entry as usize].options.overflow {
            None | Some(Overflow::Gap) => {
                let cause = GapCause::SlowConsumer;
                // Owed when its socket is writable: until then no event needs to look at it again.
                sub.join(parcel.stream.index() as u32, Join::Lost { from: parcel.from, cause, snapshot: false });
                self.held.count_stuck(sub);
                self.counts.overflow_gaps += 1;
            }
            Some(Overflow::Disconnect) => {
                self.counts.overflow_closes += 1;
                self.ended.push(member.session);
                self.end(member.session, CloseCode::SlowConsumer, "outbox full", false);
                self.touch(member.session);
            }
        }
    }

    pub(super) fn touch(&mut self, session: SessionId) {
        self.turn.touched.push(session);
    }

    fn touch_latest(&mut self, at: u32) {
        let stream = &mut self.streams[at as usize];
        if stream.turn_events == 0 {
            self.turn.latest.push(at);
        }
        stream.turn_events += 1;
    }

    /// Sessions that waited for the stream are looked at again in this turn.
    fn serve_waiting(&mut self, at: u32) {
        if self.streams[at as usize].waiting.is_empty() {
            return;
        }
        let index = self.streams[at as usize].id.index() as u32;
        for session in std::mem::take(&mut self.streams[at as usize].waiting) {
            let Some(sub) = self.sessions.get_mut(session as usize) else { continue };
            sub.take_up(index);
            // One whose socket is full looks by itself when it is writable.
            if !sub.outbox.blocked {
                self.touch(session);
            }
        }
    }

    /// Gives `latest` sessions the newest value of each stream that moved in this turn.
    pub(super) fn deliver_latest(&mut self, now: u64) {
        // Nothing in here moves a stream: the list goes back with its room, for the next turn.
        let mut latest = std::mem::take(&mut self.turn.latest);
        for at in latest.drain(..) {
            let Some(stream) = self.streams.get_mut(at as usize) else { continue };
            let merged = std::mem::take(&mut stream.turn_events).saturating_sub(1);
            let id = stream.id;
            // A gap before the first value moves a stream too, and must begin no pause.
            if self.newest(at).is_none() {
                continue;
            }
            let stream = &self.streams[at as usize];
            let mut index = None;
            for cohort in stream.cohorts.clone() {
                let key = self.cohorts.cohort(cohort).key;
                if key.mode != Mode::Latest {
                    continue;
                }
                let members = self.cohorts.cohort(cohort).members.len() as u64;
                self.counts.conflated += merged * members;
                if let Some(rate) = key.max_rate {
                    let window = self.cohorts.cohort_mut(cohort).windows.get_mut(&(id.index() as u32));
                    if let Some(window) = window {
                        self.counts.conflated += u64::from(window.dirty) * members;
                        window.renew();
                        continue;
                    }
                    self.cohorts.begin_window(cohort, id.index() as u32, now + interval_ns(rate));
                }
                self.deliver_newest(at, cohort, None, &mut index);
            }
        }
        debug_assert!(self.turn.latest.is_empty(), "a stream moved while its newest values were given out");
        self.turn.latest = latest;
    }

    /// Sends rate-limited streams whose pause has ended.
    pub(super) fn deliver_due(&mut self, now: u64) {
        while let Some((cohort, stream_index, window)) = self.cohorts.pop_due(now) {
            let format = self.cohorts.cohort(cohort).key.format;
            let Some(at) = self.stream_slot_at(stream_index as usize, format) else { continue };
            if !window.dirty && window.owed.is_empty() {
                continue;
            }
            if let Some(rate) = self.cohorts.cohort(cohort).key.max_rate {
                self.cohorts.begin_window(cohort, stream_index, now + interval_ns(rate));
            }
            self.deliver_newest(at, cohort, Some(&window), &mut None);
        }
    }

    /// The stream's newest value to every member of a cohort, or those whom a pause owes it;
    /// `index` is its place in the turn's table, once it has one.
    fn deliver_newest(&mut self, at: u32, cohort: CohortId, window: Option<&RateWindow>, index: &mut Option<u32>) {
        let id = self.streams[at as usize].id;
        let Some(frame) = self.newest(at) else { return };
        let index = match index {
            Some(index) => *index,
            None => *index.insert(self.add_frame(frame, (0, 0))),
        };
        let channel = id.kind.channel();
        for member in &self.cohorts.cohort(cohort).members {
            if window.is_some_and(|window| !window.owes(member.session)) {
                continue;
            }
            let sub = &mut self.sessions[member.session as usize];
            if sub.flags != 0 {
                if sub.flags & overlap_flag(channel) != 0
                    && sub.effective(&self.scopes, channel, id.key) != Some(member.entry)
                {
                    continue;
                }
                if sub.flags & CLOSING != 0 || sub.is_joining(id.index() as u32) {
                    continue;
                }
                if sub.flags & QUEUED != 0 {
                    let new = sub.mark_dirty(id.index() as u32);
                    self.held.count_stuck(sub);
                    self.counts.conflated += u64::from(!new);
                    continue;
                }
            }
            if sub.turn.is_empty() {
                self.turn.touched.push(member.session);
            }
            sub.turn.push(index);
        }
    }

    /// The newest value of a stream, encoded; a book as the full window.
    pub(super) fn newest(&mut self, at: u32) -> Option<Frame> {
        if matches!(self.streams[at as usize].id.kind, StreamKind::Book(_)) {
            return self.snapshot(at);
        }
        let stream = &self.streams[at as usize];
        stream.frame.clone().or_else(|| stream.snapshot.clone())
    }

    /// The stream's state under its last published number, encoded as a snapshot.
    pub(super) fn snapshot(&mut self, at: u32) -> Option<Frame> {
        let stream = &mut self.streams[at as usize];
        let format = stream.format;
        if stream.snapshot.is_none() {
            stream.snapshot = match (stream.id.kind, &stream.replica) {
                (StreamKind::Book(depth), Some(replica)) => {
                    let definition = self.store.definition(stream.id.key)?;
                    let head = Head {
                        id: &definition.id,
                        key: stream.id.key,
                        seq: stream.position,
                        ts: replica.ts_event,
                        rx: replica.received,
                        snapshot: true,
                    };
                    let payload = Payload::Book { depth, bids: replica.window.bids(), asks: replica.window.asks() };
                    Some(format.encode(&mut self.scratch, &head, &payload))
                }
                (StreamKind::Book(_), None) => None,
                _ => stream.frame.as_ref().map(|live| format.snapshot_of(&mut self.scratch, live)),
            };
        }
        stream.snapshot.clone()
    }

    pub(super) fn gap_frame(
        &mut self,
        StreamId { key, kind }: StreamId,
        format: Format,
        from: u64,
        to: u64,
        cause: GapCause,
    ) -> Frame {
        match self.store.definition(key) {
            Some(definition) => {
                let gap = Gap { id: &definition.id, key, kind, from, to, cause, lost: None };
                format.gap(&mut self.scratch, &gap)
            }
            // A stream exists only for an instrument that has a definition.
            None => Frame::text(b"{}"),
        }
    }

    /// Whether the member's entry is the one in effect for the stream.
    pub(super) fn is_effective(&self, member: Member, id: StreamId) -> bool {
        let sub = &self.sessions[member.session as usize];
        let channel = id.kind.channel();
        sub.flags & overlap_flag(channel) == 0 || sub.effective(&self.scopes, channel, id.key) == Some(member.entry)
    }

    /// A session has got the newest value of a rate-limited stream out of turn: the end of the
    /// pause must not repeat it.
    pub(super) fn note_served(&mut self, session: SessionId, id: StreamId) {
        let sub = &self.sessions[session as usize];
        let Some(entry) = sub.effective(&self.scopes, id.kind.channel(), id.key) else { return };
        let Some(cohort) = sub.entries[entry as usize].cohort else { return };
        note_served(&mut self.cohorts, cohort, session, id);
    }
}

pub(super) fn note_served(cohorts: &mut Cohorts, cohort: CohortId, session: SessionId, id: StreamId) {
    if let Some(window) = cohorts.cohort_mut(cohort).windows.get_mut(&(id.index() as u32)) {
        window.serve(session);
    }
}

pub(super) const fn interval_ns(rate: u32) -> u64 {
    1_000_000_000 / if rate == 0 { 1 } else { rate as u64 }
}

/// The feeds that an entry concerns: one bit each.
pub(super) fn entry_feeds(fanout: &Fanout, selector: &Selector) -> u64 {
    match selector {
        Selector::Exact(key) => fanout.store.feed_index(*key).map_or(0, |feed| 1 << feed),
        Selector::Pattern { scope, .. } => fanout.scopes.scope(*scope).feeds,
    }
}

/// Every channel but `status`.
pub(super) const DATA_CHANNELS: [Channel; 4] = [Channel::Ticker, Channel::Quote, Channel::Trade, Channel::Book];
