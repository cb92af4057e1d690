//! Carries out actions on the hub and on the plain model beside it, and lets every client check
//! what it gets.

use std::collections::BTreeMap;
use std::rc::Rc;

use tickhub::auth::AuthError;
use tickhub::ingest::{Instrument, QuoteSource};
use tickhub::model::{
    AggressorSide, BookLevel, Decimal, FeedState, InstrumentDefinition, InstrumentId, InstrumentKey, Quote, Received,
    Stats, StreamId, StreamKind, Trade, TradeId, UnixNanos,
};
use tickhub::session::{Session, Verdict};

use crate::action::{Action, INSTRUMENTS, Level, ResumeFrom, Subscribe, Take, VENUES};
use crate::client::{BOOK_CHANNEL, Change, Client, Context, Facts, ResumePoint, Sent, What, channel_index, venue_of};
use crate::grants::{GRANTS, principal};
use crate::hub::{Hub, Sizes};
use crate::stream::{Check, Due, ensure};
use crate::truth::{self, BOOK, DEPTHS, Window};

/// Turns after which everything must have arrived, whatever the sizes are.
const SETTLE_ROUNDS_MAX: usize = 200;

/// What a client had of a stream when its session ended: kind, number, and a book's state.
type Had = BTreeMap<(usize, usize), (usize, u64, Option<Rc<Window>>)>;

struct Slot {
    session: Session,
    client: Client,
}

/// The plain model of what the feed side did.
struct Market {
    /// By index into [`INSTRUMENTS`].
    instruments: Vec<truth::Instrument>,
    keys: Vec<usize>,
    changes: [Vec<Change>; 2],
    last: Option<Rc<Vec<[u64; 7]>>>,
}

impl Market {
    fn last(&mut self) -> Rc<Vec<[u64; 7]>> {
        let (keys, instruments) = (&self.keys, &self.instruments);
        let numbers = |key: &usize| std::array::from_fn(|kind| instruments[*key].streams[kind].last());
        Rc::clone(self.last.get_or_insert_with(|| Rc::new(keys.iter().map(numbers).collect())))
    }

    fn facts(&self, overflowed: bool, now: u64) -> Facts<'_> {
        Facts { instruments: &self.instruments, keys: &self.keys, changes: &self.changes, overflowed, now }
    }
}

pub(crate) struct World {
    sizes: Sizes,
    hub: Hub,
    writers: Vec<Option<Instrument>>,
    market: Market,
    slots: Vec<Option<Slot>>,
    had: Vec<Had>,
    next_id: u64,
    /// Events that one turn of a worker took at most.
    turn_events_max: usize,
    pub(crate) messages: u64,
}

fn decimal(hundredths: i64) -> Decimal {
    Decimal::new(hundredths, -2).expect("not absent")
}

fn level((price, size): Level) -> BookLevel {
    BookLevel { price: decimal(price), size: decimal(size) }
}

fn book_levels(levels: &[Level]) -> Vec<BookLevel> {
    levels.iter().copied().map(level).collect()
}

impl World {
    pub(crate) fn new(sizes: Sizes) -> Self {
        let mut world = Self {
            hub: Hub::new(&sizes),
            writers: INSTRUMENTS.iter().map(|_| None).collect(),
            market: Market {
                instruments: (0..INSTRUMENTS.len()).map(truth::Instrument::new).collect(),
                keys: Vec::new(),
                changes: [Vec::new(), Vec::new()],
                last: None,
            },
            slots: (0..sizes.clients).map(|_| None).collect(),
            had: (0..sizes.clients).map(|_| Had::new()).collect(),
            next_id: 1,
            turn_events_max: 0,
            messages: 0,
            sizes,
        };
        world.register_feed(0);
        if !sizes.late_feed {
            world.register_feed(1);
        }
        world
    }

    fn register_feed(&mut self, feed: usize) {
        self.hub.register_feed(feed);
        self.market.changes[feed].push(Change { state: 3, since: self.hub.wall().to_string() });
    }

    /// Carries out one action and checks everything that follows from it at once.
    pub(crate) fn step(&mut self, action: &Action) -> Check {
        self.hub.now += 1_000;
        match action {
            Action::Turn { worker, events } => {
                if self.turn(*worker, *events)? {
                    self.check_open(*worker, false)?;
                }
            }
            Action::Advance { micros } => self.advance(*micros),
            Action::ServeRequests { thread } => self.serve_requests(*thread)?,
            Action::LateFeed => {
                if self.market.changes[1].is_empty() {
                    self.register_feed(1);
                }
            }
            Action::FeedState { feed, state } => self.set_feed_state(*feed, *state),
            Action::Settle => self.settle()?,
            Action::Drain { worker } => self.drain(*worker)?,
            Action::Connect { client, worker, grant } => self.connect(*client, *worker, *grant)?,
            Action::Disconnect { client } => self.disconnect(*client),
            Action::Socket { client, take } => self.set_socket(*client, *take),
            Action::Renew { client, grant } => self.renew(*client, Ok(*grant))?,
            Action::BadRenew { client, other_subject } => self.renew(*client, Err(*other_subject))?,
            Action::Subscribe { client, command } => self.subscribe(*client, command),
            Action::Unsubscribe { client, channel, symbols } => {
                let id = self.next_id;
                let list = symbols.iter().map(|symbol| format!("\"{symbol}\"")).collect::<Vec<_>>().join(",");
                let text =
                    format!("{{\"op\":\"unsubscribe\",\"id\":{id},\"channel\":\"{channel}\",\"symbols\":[{list}]}}");
                self.command(*client, What::Unsubscribe { channel, symbols: symbols.clone() }, &text);
            }
            Action::Ping { client } => {
                let text = format!("{{\"op\":\"ping\",\"id\":{}}}", self.next_id);
                self.command(*client, What::Ping, &text);
            }
            Action::Nonsense { client, text } => {
                self.command(*client, What::Nonsense, text);
            }
            publication => self.publish(publication)?,
        }
        self.look_at_sockets()?;
        self.check_bounds()
    }

    // The feed side.

    fn received(&self) -> Received {
        Received { wall: Some(UnixNanos(self.hub.wall())), mono: self.hub.now }
    }

    fn publish(&mut self, action: &Action) -> Check {
        let (received, rx) = (self.received(), self.hub.wall());
        let ts = Some(rx - 5_000_000);
        let at = |ts: Option<i64>| ts.map(UnixNanos);
        let index = match action {
            Action::Claim { instrument } => return self.claim(*instrument),
            Action::Release { instrument }
            | Action::Quote { instrument, .. }
            | Action::Trade { instrument, .. }
            | Action::Stats { instrument, .. }
            | Action::Lost { instrument, .. }
            | Action::BookSnapshot { instrument, .. }
            | Action::BookDelta { instrument, .. }
            | Action::BookLost { instrument, .. } => *instrument,
            other => return Err(format!("{other:?} is no publication")),
        };
        let used = if self.market.instruments[index].book_is_live() { self.used_depths(index) } else { [false; 4] };
        let Some(writer) = self.writers[index].as_mut() else { return Ok(()) };
        let plain = &mut self.market.instruments[index];
        match action {
            Action::Release { .. } => {
                plain.book_lost(None);
                self.writers[index] = None;
            }
            Action::Quote { bid, ask, ts: has_ts, .. } if !INSTRUMENTS[index].1 => {
                let ts = ts.filter(|_| *has_ts);
                plain.quote((*bid, *ask), ts, rx);
                writer.quote(received, &Quote { ts_event: at(ts), bid: bid.map(level), ask: ask.map(level) });
            }
            Action::Quote { .. } => {}
            Action::Trade { at: (price, size), side, id, .. } => {
                plain.trade((*price, *size), *side, *id, ts, rx);
                let id = if *id == 0 { TradeId::EMPTY } else { TradeId::from_u64(*id) };
                let side = [AggressorSide::Buy, AggressorSide::Sell, AggressorSide::Unknown][*side];
                let (price, size) = (decimal(*price), decimal(*size));
                writer.trade(received, &Trade { ts_event: at(ts), price, size, side, id });
            }
            Action::Stats { values, .. } => {
                plain.stats(*values, ts, rx);
                let [open, high, low, volume] = values.map(|value| value.map(decimal));
                writer.stats(received, &Stats { ts_event: at(ts), open, high, low, volume });
            }
            Action::Lost { kind, lost, .. } => {
                plain.lost(*kind, *lost);
                writer.lost(received, [StreamKind::Ticker, StreamKind::Quote, StreamKind::Trade][*kind], *lost);
            }
            Action::BookSnapshot { bids, asks, .. } => {
                let sane = plain.book(true, bids, asks, ts, rx);
                let result = writer.book_snapshot(received, at(ts), &book_levels(bids), &book_levels(asks));
                ensure!(result.is_ok() == sane, "a snapshot judged {result:?}");
            }
            Action::BookDelta { bids, asks, .. } if plain.book_is_live() => {
                let sane = plain.book(false, bids, asks, ts, rx);
                let result = writer.book_delta(received, at(ts), &book_levels(bids), &book_levels(asks));
                ensure!(result.is_ok() == sane, "a change judged {result:?}");
            }
            Action::BookDelta { bids, asks, .. } => {
                let result = writer.book_delta(received, at(ts), &book_levels(bids), &book_levels(asks));
                ensure!(result.is_err(), "a change without a snapshot was taken");
            }
            Action::BookLost { lost, .. } => {
                plain.book_lost(*lost);
                writer.book_lost(received, *lost);
            }
            _ => {}
        }
        self.check_numbers(index)?;
        let plain = &self.market.instruments[index];
        for (depth, _) in used.iter().enumerate().filter(|(_, used)| **used && !plain.book_is_live()) {
            let last = plain.streams[BOOK + depth].numbers.last();
            ensure!(last.is_some_and(|number| number.gap.is_some()), "a book of depth {depth} was lost without a gap");
        }
        Ok(())
    }

    /// The depths of an instrument's book that some client has, live and up to date.
    fn used_depths(&self, index: usize) -> [bool; 4] {
        std::array::from_fn(|depth| {
            let (last, kind) = (self.market.instruments[index].streams[BOOK + depth].last(), BOOK + depth);
            self.slots.iter().flatten().any(|slot| {
                let stream = slot.client.streams.get(&(BOOK_CHANNEL, index));
                let has = stream.is_some_and(|s| {
                    let told = s.due == Due::Nothing && !s.resumed;
                    told && s.kind == kind && s.window.is_some() && s.state_at == last
                });
                has && slot.client.sent.is_empty() && slot.session.closed().is_none()
            })
        })
    }

    /// The hub's numbers are those of the model; of books they are taken note of.
    fn check_numbers(&mut self, index: usize) -> Check {
        self.market.last = None;
        let Some(key) = self.market.keys.iter().position(|of| *of == index) else { return Ok(()) };
        let key = InstrumentKey(key as u32);
        let plain = &mut self.market.instruments[index];
        for kind in StreamKind::ALL {
            let seq = self.hub.store.sequence(StreamId { key, kind });
            if kind.index() >= BOOK {
                plain.note_book(kind.index() - BOOK, seq)?;
            } else {
                let last = plain.streams[kind.index()].last();
                ensure!(seq == last, "{kind:?} of {} is at {seq}, should be {last}", INSTRUMENTS[index].0);
            }
        }
        Ok(())
    }

    fn claim(&mut self, index: usize) -> Check {
        let id = INSTRUMENTS[index].0;
        let Some(feed) = &self.hub.feeds[venue_of(id)] else { return Ok(()) };
        if self.writers[index].is_some() {
            return Ok(());
        }
        let parsed = InstrumentId::parse(id).map_err(|error| error.to_string())?;
        let definition = InstrumentDefinition { id: parsed, raw_symbol: id.to_owned(), base: None, quote: None };
        let quotes = if INSTRUMENTS[index].1 { QuoteSource::Book } else { QuoteSource::Venue };
        let writer = feed.claim_with(definition, quotes).map_err(|error| error.to_string())?;
        self.market.instruments[index].claimed();
        if !self.market.keys.contains(&index) {
            ensure!(writer.key().index() == self.market.keys.len(), "key {:?}", writer.key());
            self.market.keys.push(index);
        }
        self.writers[index] = Some(writer);
        self.check_numbers(index)
    }

    fn set_feed_state(&mut self, feed: usize, state: usize) {
        let (wall, Some(of)) = (self.hub.wall(), &self.hub.feeds[feed]) else { return };
        of.set_state(FeedState::ALL[state], "as simulated", UnixNanos(wall));
        let changes = &mut self.market.changes[feed];
        if changes.last().is_none_or(|last| last.state != state) {
            changes.push(Change { state, since: wall.to_string() });
        }
    }

    fn serve_requests(&mut self, thread: usize) -> Check {
        if let Some(door) = self.hub.ingests.get(thread) {
            door.serve_requests();
        }
        (0..INSTRUMENTS.len()).try_for_each(|index| self.check_numbers(index))
    }

    // The workers.

    /// One turn; whether the worker has nothing left to do.
    fn turn(&mut self, worker: usize, events: usize) -> Result<bool, String> {
        let (last, known, now) = (self.market.last(), self.market.keys.len(), self.hub.now);
        let worker = &mut self.hub.workers[worker];
        let waiting = worker.blocked_events();
        let empty = worker.turn(events, now);
        for ((id, before), (_, after)) in waiting.iter().zip(worker.blocked_events()) {
            // A full socket's outbox takes no more than its bound, even while it catches up.
            let most = before.map(|before| before.max(self.sizes.outbox.events_max * 4));
            ensure!(most.is_none() || after <= most, "session {id}: {before:?} events waited, now {after:?}");
        }
        self.turn_events_max = self.turn_events_max.max(events.min(worker.lanes.len() * self.sizes.lane_events));
        if empty {
            (worker.seen, worker.known) = (last, known);
            worker.changes = std::array::from_fn(|feed| self.market.changes[feed].len().saturating_sub(1));
        }
        let idle = empty && !worker.fanout.has_work();
        self.look_at_sockets()?;
        Ok(idle)
    }

    /// Every client whose socket takes everything has everything.
    fn check_open(&mut self, worker: usize, settled: bool) -> Check {
        let at = &self.hub.workers[worker];
        let facts = self.market.facts(at.overflowed(), self.hub.now);
        for (name, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot.as_mut().filter(|slot| slot.client.worker == worker) else { continue };
            let id = slot.session.id();
            let open = at.sockets.0[id as usize].as_ref().is_some_and(|socket| socket.room.is_none());
            if open && slot.session.closed().is_none() && !at.fanout.is_blocked(id) {
                ensure!(at.fanout.backlog(id) == (0, 0), "client {name}: a backlog for an open socket");
                let check = slot.client.check_complete(&facts, settled);
                check.map_err(|broken| format!("client {name} behind a whole turn: {broken}"))?;
            }
        }
        Ok(())
    }

    fn advance(&mut self, micros: u64) {
        self.hub.now += micros * 1_000;
        let now = self.hub.clocks();
        for slot in self.slots.iter_mut().flatten() {
            slot.session.on_sign_of_life(now);
            let worker = &mut self.hub.workers[slot.client.worker];
            if slot.session.due(&worker.fanout) > now.mono {
                continue;
            }
            let id = slot.session.id();
            if slot.session.on_time(&mut worker.fanout, now) {
                worker.write(id, now.mono);
            } else if let Some(socket) = &mut worker.sockets.0[id as usize] {
                // The close frame did not get through in time: the socket is reset.
                socket.room = Some(0);
                worker.fanout.close(id);
                worker.sockets.0[id as usize] = None;
            }
        }
    }

    fn settle(&mut self) -> Check {
        for client in 0..self.slots.len() {
            self.set_socket(client, Take::Open);
        }
        self.look_at_sockets()?;
        let mut quiet = 0;
        for _ in 0..SETTLE_ROUNDS_MAX {
            let before = self.messages;
            for thread in 0..self.hub.ingests.len() {
                self.serve_requests(thread)?;
            }
            let mut idle = true;
            for worker in 0..self.hub.workers.len() {
                idle &= self.turn(worker, usize::MAX)?;
            }
            // Longer than the longest interval of a limited rate.
            self.advance(1_100_000);
            self.look_at_sockets()?;
            quiet = if idle && self.messages == before { quiet + 1 } else { 0 };
            if quiet == 3 {
                return (0..self.hub.workers.len()).try_for_each(|worker| self.check_open(worker, true));
            }
        }
        Err("it never comes to rest".to_owned())
    }

    fn drain(&mut self, worker: usize) -> Check {
        self.turn(worker, usize::MAX)?;
        let now = self.hub.clocks();
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots[index].as_mut().filter(|slot| slot.client.worker == worker) else { continue };
            let id = slot.session.id();
            if slot.session.closed().is_some() {
                continue;
            }
            let of = &mut self.hub.workers[worker];
            slot.client.draining = true;
            of.fanout.release(id);
            of.write(id, now.mono);
            let blocked = of.fanout.is_blocked(id);
            self.look_at_sockets()?;
            let of = &mut self.hub.workers[worker];
            let facts = self.market.facts(of.overflowed(), now.mono);
            let Some(slot) = self.slots[index].as_mut() else { continue };
            if !blocked {
                let check = slot.client.check_newest(&facts);
                check.map_err(|broken| format!("client {index} before a drain's close: {broken}"))?;
            }
            let code = tickhub::wire::CloseCode::Drain;
            slot.session.end_flushed(&mut of.fanout, code, "retry_after_ms=1", now);
            of.write(id, now.mono);
            self.look_at_sockets()?;
        }
        Ok(())
    }

    // The clients.

    fn connect(&mut self, index: usize, worker: usize, grant: usize) -> Check {
        if self.slots[index].is_some() {
            return Ok(());
        }
        let session = self.hub.open(worker, &format!("session-{index}"));
        self.slots[index] = Some(Slot { session, client: Client::new(worker, grant) });
        self.authenticate(
            index,
            What::Auth { grant },
            Verdict::Good(principal(grant, &format!("client-{index}")), None),
        )
    }

    fn renew(&mut self, index: usize, with: Result<usize, bool>) -> Check {
        let subject = format!("client-{index}");
        let (what, verdict) = match with {
            Ok(grant) => (What::Auth { grant }, Verdict::Good(principal(grant, &subject), None)),
            Err(true) => (What::BadAuth, Verdict::Good(principal(0, "somebody else"), None)),
            Err(false) => (What::BadAuth, Verdict::Bad(AuthError::Malformed)),
        };
        self.authenticate(index, what, verdict)
    }

    fn authenticate(&mut self, index: usize, what: What, verdict: Verdict) -> Check {
        let text = format!("{{\"op\":\"auth\",\"id\":{},\"token\":\"t\"}}", self.next_id);
        if !self.command(index, what, &text) {
            return Ok(());
        }
        let now = self.hub.clocks();
        let Some(slot) = self.slots[index].as_mut() else { return Ok(()) };
        let worker = &mut self.hub.workers[slot.client.worker];
        slot.session.on_verdict(&mut worker.fanout, verdict, now);
        worker.write(slot.session.id(), now.mono);
        Ok(())
    }

    /// Gives a command to a client's session, if that takes one now; whether it asks for a verdict.
    fn command(&mut self, index: usize, what: What, text: &str) -> bool {
        let (last, known, now) = (self.market.last(), self.market.keys.len(), self.hub.clocks());
        let Some(slot) = self.slots[index].as_mut() else { return false };
        let worker = &mut self.hub.workers[slot.client.worker];
        let id = slot.session.id();
        if slot.session.closed().is_some() || !worker.fanout.takes_commands(id) {
            return false;
        }
        let changes = std::array::from_fn(|feed| {
            let last = self.market.changes[feed].len().checked_sub(1)?;
            Some((worker.changes[feed].min(last), last))
        });
        let context = Context { known: (worker.known, known), last: (Rc::clone(&worker.seen), last), changes };
        slot.client.sent.push_back(Sent { id: self.next_id, what, context });
        self.next_id += 1;
        let verify = slot.session.on_text(&mut worker.fanout, text, now);
        worker.write(id, now.mono);
        verify.is_some()
    }

    fn subscribe(&mut self, index: usize, command: &Subscribe) {
        let Some(slot) = &self.slots[index] else { return };
        let grant = &GRANTS[slot.client.grant];
        let mut text = format!("{{\"op\":\"subscribe\",\"id\":{},\"channel\":\"{}\"", self.next_id, command.channel);
        let symbols = command.symbols.iter().map(|symbol| format!("\"{symbol}\"")).collect::<Vec<_>>().join(",");
        text += &format!(",\"symbols\":[{symbols}]");
        if let Some(mode) = command.mode {
            text += &format!(",\"mode\":\"{mode}\"");
        }
        if let Some(rate) = command.max_rate {
            text += &format!(",\"max_rate\":{rate}");
        }
        if let Some(depth) = command.depth {
            text += &format!(",\"depth\":{depth}");
        }
        if let Some(snapshot) = command.snapshot {
            text += &format!(",\"snapshot\":{snapshot}");
        }
        if let Some(overflow) = command.overflow {
            text += &format!(",\"overflow\":\"{overflow}\"");
        }
        let depth = DEPTHS.iter().position(|depth| *depth == command.depth.unwrap_or(10)).unwrap_or(1).min(grant.depth);
        let resume = command.resume.as_ref().map(|from| self.resume(index, command, depth, from));
        if let Some(points) = &resume {
            let point = |p: &ResumePoint| {
                let (id, seq) = (INSTRUMENTS[p.instrument].0, p.seq);
                match (p.right_epoch, venue_of(id)) {
                    (true, 0) => format!("\"{id}\":{seq}"),
                    (true, venue) => format!("\"{id}\":{{\"epoch\":\"{}\",\"seq\":{seq}}}", VENUES[venue].1),
                    (false, _) => format!("\"{id}\":{{\"epoch\":\"another\",\"seq\":{seq}}}"),
                }
            };
            let list = points.iter().map(point).collect::<Vec<_>>().join(",");
            text += &format!(",\"resume\":{{\"epoch\":\"{}\",\"seq\":{{{list}}}}}", VENUES[0].1);
        }
        text.push('}');
        self.command(index, What::Subscribe(command.clone(), resume.unwrap_or_default()), &text);
    }

    fn resume(&self, index: usize, command: &Subscribe, depth: usize, from: &ResumeFrom) -> Vec<ResumePoint> {
        let Ok(channel) = channel_index(command.channel) else { return Vec::new() };
        let kind = if channel == BOOK_CHANNEL { BOOK + depth } else { channel };
        if let ResumeFrom::Behind { instrument, by } = from {
            let Some(truth) = self.market.instruments[*instrument].streams.get(kind) else { return Vec::new() };
            let seq = truth.last().saturating_add_signed(-by);
            let window = truth.number(seq).and_then(|number| number.window.clone());
            return vec![ResumePoint { instrument: *instrument, seq, right_epoch: true, window }];
        }
        let right_epoch = *from == ResumeFrom::Have;
        let of_channel = self.had[index].iter().filter(|((of, _), (k, ..))| *of == channel && *k == kind);
        of_channel
            .map(|((_, instrument), (_, seq, window))| ResumePoint {
                instrument: *instrument,
                seq: *seq,
                right_epoch,
                window: window.clone(),
            })
            .collect()
    }

    fn disconnect(&mut self, index: usize) {
        if let Some(slot) = self.slots[index].take() {
            self.remember(index, &slot.client);
            self.hub.close(slot.client.worker, slot.session.id());
        }
    }

    fn remember(&mut self, index: usize, client: &Client) {
        let streams = client.streams.iter();
        let had = streams.filter_map(|(at, stream)| {
            let (seq, window) = stream.resume_from()?;
            Some((*at, (stream.kind, seq, window)))
        });
        self.had[index] = had.collect();
    }

    fn set_socket(&mut self, index: usize, take: Take) {
        let now = self.hub.now;
        let Some(slot) = &self.slots[index] else { return };
        let (worker, id) = (&mut self.hub.workers[slot.client.worker], slot.session.id());
        let Some(socket) = &mut worker.sockets.0[id as usize] else { return };
        socket.room = match take {
            Take::Stall => Some(0),
            Take::Bytes(bytes) => Some(socket.room.unwrap_or(0) + bytes),
            Take::Open => None,
        };
        if take != Take::Stall && worker.fanout.is_blocked(id) {
            worker.write(id, now);
        }
    }

    /// Gives each client what its socket took, and buries the sessions that are over.
    fn look_at_sockets(&mut self) -> Check {
        let now = self.hub.clocks();
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots[index].as_mut() else { continue };
            let (at, id) = (slot.client.worker, slot.session.id());
            let worker = &mut self.hub.workers[at];
            let overflowed = worker.overflowed();
            if worker.fanout.overflow_closed(id) && slot.session.closed().is_none() {
                slot.session.on_time(&mut worker.fanout, now);
                worker.write(id, now.mono);
            }
            let taken = worker.sockets.0[id as usize].as_mut().map(|socket| {
                slot.client.blocked |= socket.was_full;
                std::mem::take(&mut socket.taken)
            });
            let facts = self.market.facts(overflowed, now.mono);
            let before = slot.client.messages;
            let check = slot.client.receive(&facts, &taken.clone().unwrap_or_default());
            check.map_err(|broken| format!("client {index}: {broken}"))?;
            self.messages += slot.client.messages - before;
            let over = slot.session.closed().is_some() && worker.fanout.is_ended(id);
            if (over || taken.is_none())
                && let Some(slot) = self.slots[index].take()
            {
                ensure!(taken.is_none() || slot.client.closed.is_some(), "client {index}: ended without a close frame");
                self.remember(index, &slot.client);
                if taken.is_some() {
                    self.hub.close(at, id);
                }
            }
        }
        Ok(())
    }

    /// What waits for a socket is bounded.
    fn check_bounds(&self) -> Check {
        let limits = &self.sizes.outbox;
        // What catching up may add at once is bounded by bytes: some sixty a message at least.
        let events_max = limits.events_max * 4 + self.turn_events_max + 256 * 1024 / 60;
        for (index, slot) in self.slots.iter().enumerate() {
            let Some(slot) = slot else { continue };
            let worker = &self.hub.workers[slot.client.worker];
            let (events, bytes) = worker.fanout.backlog(slot.session.id());
            ensure!(events <= events_max, "client {index}: {events} events wait");
            let bytes_max = limits.bytes_max * 4 + self.turn_events_max * 2_048 + 512 * 1024;
            ensure!(bytes <= bytes_max + limits.control_bytes_max * 4, "client {index}: {bytes} bytes wait");
        }
        Ok(())
    }

    /// The end of a run: all is settled, then everyone leaves, and nothing may be left of them.
    pub(crate) fn finish(&mut self) -> Check {
        self.step(&Action::Settle)?;
        for client in 0..self.slots.len() {
            self.disconnect(client);
        }
        for (index, worker) in self.hub.workers.iter().enumerate() {
            let left = worker.fanout.holdings();
            ensure!(left == tickhub::fanout::Holdings::default(), "worker {index} still holds {left:?}");
        }
        Ok(())
    }
}
