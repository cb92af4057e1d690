//! The rungs between a slow socket and its end, one by one: backlog, grace, gap or close, budget.
//! The real feed, lanes and fan-out; sockets that take what they are told to, and no clock.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{self, IoSlice};
use std::sync::Arc;

use serde_json::Value;
use tickhub::fanout::{
    Bounds, Budget, Fanout, LaneReader, Options, OutboxLimits, Requests, SessionId, Shed, Sink, Wake, lane,
};
use tickhub::ingest::{Feed, Ingest, Instrument};
use tickhub::metrics::{self, Registry};
use tickhub::model::{
    AggressorSide, Channel, Decimal, Depth, InstrumentDefinition, InstrumentId, Overflow, Pattern, Received, Trade,
    TradeId, UnixNanos,
};
use tickhub::store::Store;
use tickhub::wire::command::{Mode, ResumeEntry};
use tickhub::wire::{CloseCode, Format};

const SYMBOL: &str = "SIM:AAA-USD";
const EPOCH: &str = "e1";
const SECOND: u64 = 1_000_000_000;

const EVERY: Options = Options {
    mode: Mode::Every,
    max_rate: None,
    depth: Depth::Ten,
    snapshot: Some(false),
    overflow: None,
    backlog: None,
};

/// Sockets that take so many bytes more.
#[derive(Default)]
struct Sockets(Vec<(usize, Vec<u8>)>);

impl Sink for Sockets {
    fn write(&mut self, session: SessionId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let (room, taken) = &mut self.0[session as usize];
        let before = taken.len();
        for slice in slices {
            let now = slice.len().min(*room);
            taken.extend_from_slice(&slice[..now]);
            *room -= now;
        }
        let took = taken.len() - before;
        if took == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(took) }
    }
}

struct Worker {
    fanout: Fanout,
    lane: LaneReader,
    sockets: Sockets,
    now: u64,
}

struct Hub {
    instrument: Instrument,
    workers: Vec<Worker>,
    _feed: Feed,
}

const LIMITS: OutboxLimits = OutboxLimits { events_max: 1_000, bytes_max: 1 << 20, control_bytes_max: 1 << 18 };

/// A hub with one instrument.
fn hub(workers: usize, budget: Option<&Arc<Budget>>) -> Hub {
    let (store, registry) = (Store::new(1 << 26), Registry::new());
    let (mut writers, mut readers) = (Vec::new(), Vec::new());
    for _ in 0..workers {
        let (writer, reader) = lane(1 << 14, Arc::new(Wake::default()), registry.counter(metrics::LANE_DROPPED, &[]));
        writers.push(writer);
        readers.push(reader);
    }
    let requests = Requests::new(16);
    let ingest = Ingest::new(Arc::clone(&store), registry, 0, writers, requests.clone());
    let feed = ingest.feed("SIM", EPOCH, UnixNanos(0)).unwrap();
    let id = InstrumentId::parse(SYMBOL).unwrap();
    let definition = InstrumentDefinition { id, raw_symbol: "AAA".into(), base: None, quote: None };
    let instrument = feed.claim(definition).unwrap();
    let worker = |(index, lane)| {
        let mut fanout = Fanout::new(index, Arc::clone(&store), LIMITS, vec![requests.clone()], None);
        if let Some(budget) = budget {
            fanout.share(Arc::clone(budget));
        }
        Worker { fanout, lane, sockets: Sockets::default(), now: SECOND }
    };
    let workers = readers.into_iter().enumerate().map(worker).collect();
    Hub { instrument, workers, _feed: feed }
}

impl Worker {
    /// A session that wants every trade; its socket takes nothing.
    fn stuck(&mut self, options: Options) -> SessionId {
        let session = self.fanout.open(Arc::from([Pattern::all()]), Format::Json);
        let index = session as usize;
        if self.sockets.0.len() <= index {
            self.sockets.0.resize_with(index + 1, Default::default);
        }
        self.sockets.0[index] = (0, Vec::new());
        self.subscribe(session, options, &[]);
        session
    }

    fn subscribe(&mut self, session: SessionId, options: Options, resume: &[ResumeEntry]) {
        let symbols = [SYMBOL.to_owned()];
        self.fanout.subscribe(session, Channel::Trade, (options, options), &symbols, resume, 9).unwrap();
        self.fanout.write(session, self.now, &mut self.sockets);
    }

    fn turn(&mut self) {
        while let Some(event) = self.lane.pop() {
            self.fanout.on_event(event);
        }
        self.fanout.end_turn(self.now, &mut self.sockets);
        self.fanout.close_turn(self.now);
    }

    /// What comes out once the socket takes everything.
    fn read(&mut self, session: SessionId) -> Vec<Value> {
        self.sockets.0[session as usize].0 = usize::MAX;
        self.fanout.write(session, self.now, &mut self.sockets);
        let mut bytes = &self.sockets.0[session as usize].1[..];
        let mut messages = Vec::new();
        while let [first, len, rest @ ..] = bytes {
            let (len, rest) = match len {
                126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
                len => (usize::from(*len), rest),
            };
            let (payload, rest) = rest.split_at(len);
            messages.push(match first {
                0x81 => serde_json::from_slice(payload).unwrap(),
                0x88 => serde_json::json!({"close": u16::from_be_bytes([payload[0], payload[1]])}),
                other => panic!("first byte {other}"),
            });
            bytes = rest;
        }
        messages
    }
}

impl Hub {
    fn trade(&mut self, count: usize) {
        let (price, size): (Decimal, Decimal) = ("100.5".parse().unwrap(), "1".parse().unwrap());
        for _ in 0..count {
            let received = Received { wall: Some(UnixNanos(5)), mono: 1 };
            let trade = Trade { ts_event: None, price, size, side: AggressorSide::Buy, id: TradeId::EMPTY };
            self.instrument.trade(received, &trade);
        }
    }

    fn turn(&mut self) {
        for worker in &mut self.workers {
            worker.turn();
        }
    }
}

/// Numbers that came as events, and those that a gap named.
fn numbers(messages: &[Value]) -> (Vec<u64>, Vec<u64>) {
    let events = messages.iter().filter(|m| m["op"].is_null()).filter_map(|m| m["seq"].as_u64()).collect();
    let gaps = messages.iter().filter(|m| m["op"] == "gap");
    let gaps = gaps.flat_map(|m| {
        assert_eq!(m["cause"], "slow_consumer");
        m["from"].as_u64().unwrap()..=m["to"].as_u64().unwrap()
    });
    (events, gaps.collect())
}

fn range(numbers: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    numbers.collect()
}

#[test]
fn a_subscription_has_as_many_waiting_as_it_asked_for_and_then_one_gap() {
    let mut hub = hub(1, None);
    let session = hub.workers[0].stuck(Options { backlog: Some(3), ..EVERY });
    hub.trade(1);
    hub.turn();
    hub.trade(9);
    hub.turn();
    assert_eq!(hub.workers[0].fanout.backlog(session).0, 3);
    let (events, gap) = numbers(&hub.workers[0].read(session));
    assert_eq!((events, gap), (range(1..=3), range(4..=10)));
    // What comes now is not late.
    hub.trade(2);
    hub.turn();
    let (events, gap) = numbers(&hub.workers[0].read(session));
    assert_eq!((events, gap), ([range(1..=3), range(11..=12)].concat(), range(4..=10)));
}

#[test]
fn a_session_has_as_many_waiting_as_its_role_allows_from_the_moment_it_does() {
    let mut hub = hub(1, None);
    let session = hub.workers[0].stuck(EVERY);
    let bounds = |events_max, bytes_max| Bounds { events_max, bytes_max, catch_up_ns: 0 };
    hub.trade(1);
    hub.turn();
    hub.trade(9);
    hub.turn();
    assert_eq!(hub.workers[0].fanout.backlog(session).0, 10);
    hub.workers[0].fanout.set_bounds(session, bounds(12, usize::MAX));
    hub.trade(9);
    hub.turn();
    assert_eq!(hub.workers[0].fanout.backlog(session).0, 12, "the hub's bound is 1,000");
    let (events, gap) = numbers(&hub.workers[0].read(session));
    assert_eq!((events, gap), (range(1..=12), range(13..=19)));
    // No role gets past the hub's own bound.
    hub.workers[0].fanout.set_bounds(session, bounds(usize::MAX, usize::MAX));
    hub.workers[0].sockets.0[session as usize].0 = 0;
    hub.trade(1);
    hub.turn();
    hub.trade(2_000);
    hub.turn();
    assert_eq!(hub.workers[0].fanout.backlog(session).0, LIMITS.events_max);
    // Nor past a bound in bytes: the one that is exceeded was queued below it.
    let other = hub.workers[0].stuck(EVERY);
    hub.workers[0].fanout.set_bounds(other, bounds(usize::MAX, 1_000));
    hub.trade(1);
    hub.turn();
    hub.trade(100);
    hub.turn();
    let (events, bytes) = hub.workers[0].fanout.backlog(other);
    assert!(bytes >= 1_000 && bytes - bytes / events < 1_000, "{events} events of {bytes} bytes");
}

#[test]
fn who_asked_for_a_close_in_place_of_a_gap_is_closed_and_holds_nothing() {
    let mut hub = hub(1, None);
    let session = hub.workers[0].stuck(Options { backlog: Some(3), overflow: Some(Overflow::Disconnect), ..EVERY });
    let patient = hub.workers[0].stuck(Options { overflow: Some(Overflow::Disconnect), ..EVERY });
    hub.trade(1);
    hub.turn();
    hub.trade(2);
    hub.turn();
    assert_eq!(hub.workers[0].fanout.close_code(session), None, "three may wait");
    hub.trade(1);
    hub.turn();
    assert_eq!(hub.workers[0].fanout.close_code(session), Some(CloseCode::SlowConsumer));
    assert_eq!(hub.workers[0].fanout.close_code(patient), None);
    assert_eq!(hub.workers[0].fanout.backlog(session).0, 0, "what waited is given back");
    assert_eq!(hub.workers[0].read(session), [serde_json::json!({"close": 4001})]);
    assert_eq!(numbers(&hub.workers[0].read(patient)).0, range(1..=4));
}

/// A session that is given 200 trades to go on from while its socket takes nothing.
fn catching_up(hub: &mut Hub, catch_up_ns: u64) -> SessionId {
    let worker = &mut hub.workers[0];
    let session = worker.fanout.open(Arc::from([Pattern::all()]), Format::Json);
    worker.sockets.0.resize_with(worker.sockets.0.len().max(session as usize + 1), Default::default);
    worker.fanout.set_bounds(session, Bounds { events_max: 5, bytes_max: 1 << 20, catch_up_ns });
    let resume = ResumeEntry { symbol: SYMBOL.to_owned(), epoch: EPOCH.into(), seq: 0 };
    worker.subscribe(session, EVERY, &[resume]);
    assert_eq!(worker.fanout.backlog(session).0, 200);
    session
}

/// A hub that has published 200 trades, all of which a worker has seen.
fn hub_with_history() -> Hub {
    let mut hub = hub(1, None);
    let watcher = hub.workers[0].stuck(EVERY);
    hub.workers[0].sockets.0[watcher as usize].0 = usize::MAX;
    hub.trade(200);
    hub.turn();
    hub
}

#[test]
fn nobody_is_slow_for_having_asked_for_a_lot() {
    let mut hub = hub_with_history();
    let session = catching_up(&mut hub, 10 * SECOND);
    hub.trade(9);
    hub.turn();
    assert_eq!(hub.workers[0].fanout.backlog(session).0, 205, "its own five come on top");
    assert_eq!(hub.workers[0].fanout.holdings().in_grace, 1);
    let (events, gap) = numbers(&hub.workers[0].read(session));
    assert_eq!((events, gap), (range(1..=205), range(206..=209)));
    assert_eq!(hub.workers[0].fanout.holdings().in_grace, 0);
}

#[test]
fn the_grace_for_it_ends() {
    let mut hub = hub_with_history();
    let session = catching_up(&mut hub, 10 * SECOND);
    hub.workers[0].now += 10 * SECOND - 1;
    hub.turn();
    hub.trade(1);
    hub.turn();
    assert_eq!(hub.workers[0].fanout.backlog(session).0, 201, "until its last nanosecond");
    hub.workers[0].now += 1;
    hub.turn();
    hub.trade(1);
    hub.turn();
    let (events, gap) = numbers(&hub.workers[0].read(session));
    assert_eq!((events, gap), (range(1..=201), vec![202]));
    // A role without grace has none, and one that is given to a session ends what is left.
    for later in [false, true] {
        let mut hub = hub_with_history();
        let strict = Bounds { events_max: 5, bytes_max: 1 << 20, catch_up_ns: 0 };
        let session = catching_up(&mut hub, if later { 10 * SECOND } else { 0 });
        hub.workers[0].fanout.set_bounds(session, strict);
        hub.trade(1);
        hub.turn();
        assert_eq!(numbers(&hub.workers[0].read(session)), (range(1..=200), vec![201]));
    }
}

#[test]
fn the_gap_of_a_slow_session_gives_it_no_grace() {
    let mut hub = hub(1, None);
    let session = hub.workers[0].stuck(Options { backlog: Some(2), ..EVERY });
    hub.trade(1);
    hub.turn();
    hub.trade(5);
    hub.turn();
    // Room for the two events that wait, not for the gap behind them.
    let waiting = hub.workers[0].fanout.backlog(session).1;
    hub.workers[0].sockets.0[session as usize].0 = waiting;
    let (now, worker) = (SECOND, &mut hub.workers[0]);
    worker.fanout.write(session, now, &mut worker.sockets);
    assert_eq!(worker.fanout.backlog(session).0, 1, "the gap waits");
    assert_eq!(worker.fanout.backlog_asked(session).0, 0);
    hub.trade(5);
    hub.turn();
    assert_eq!(hub.workers[0].fanout.backlog(session).0, 2);
}

#[test]
fn above_the_budget_the_one_with_the_most_goes_first_whoever_has_it() {
    let budget = Budget::new(60_000, 2);
    let mut hub = hub(2, Some(&budget));
    // The later one came, the less it has waiting.
    let mut all = Vec::new();
    for (worker, trades) in [(0, 10), (1, 10), (0, 10), (1, 10), (1, 10)] {
        all.push((worker, hub.workers[worker].stuck(EVERY)));
        hub.trade(trades);
        hub.turn();
    }
    let held = |hub: &Hub, (worker, session): (usize, SessionId)| hub.workers[worker].fanout.held_by(session);
    let mut shed: Vec<(usize, Shed)> = Vec::new();
    while shed.is_empty() {
        let before: Vec<usize> = all.iter().map(|at| held(&hub, *at)).collect();
        assert!(before.is_sorted_by(|a, b| a > b), "{before:?}");
        assert!(budget.bytes() <= 60_000);
        hub.trade(1);
        // The worker that has not the worst sees the excess first, and leaves it to the other.
        for worker in [1, 0, 1] {
            hub.workers[worker].turn();
            shed.extend(hub.workers[worker].fanout.take_shed().into_iter().map(|shed| (worker, shed)));
        }
    }
    let gone: Vec<_> = shed.iter().map(|(worker, shed)| (*worker, shed.session)).collect();
    assert_eq!(gone, all[..gone.len()], "in the order of what they held");
    assert!(shed.is_sorted_by(|a, b| a.1.bytes > b.1.bytes), "{shed:?}");
    assert!(gone.len() < all.len() && budget.bytes() <= 60_000, "{gone:?}, {}", budget.bytes());
    let (worker, session) = all[0];
    assert_eq!(hub.workers[worker].read(session), [serde_json::json!({"close": 4005})]);
    // The others have lost nothing.
    let (worker, last) = all[4];
    let (events, gap) = numbers(&hub.workers[worker].read(last));
    assert_eq!((events.first(), gap.len()), (Some(&41), 0));
    assert!(events.len() > 10 && events.is_sorted_by(|a, b| *b == a + 1));
}

#[test]
fn as_many_are_closed_as_free_an_eighth_of_the_budget_and_not_one_more() {
    let budget = Budget::new(100_000, 1);
    let mut hub = hub(1, Some(&budget));
    let sessions: Vec<_> = (0..40).map(|_| hub.workers[0].stuck(EVERY)).collect();
    let shed = loop {
        hub.trade(1);
        hub.turn();
        let shed = hub.workers[0].fanout.take_shed();
        if !shed.is_empty() {
            break shed;
        }
        assert!(budget.bytes() <= 100_000);
    };
    let gone: Vec<_> = shed.iter().map(|shed| shed.session).collect();
    assert_eq!(gone, sessions[..gone.len()], "among equals the first");
    let free = 100_000 - budget.bytes() as usize;
    assert!(free >= 12_500 && free - shed[0].bytes < 12_500, "{free} bytes are free, {} closed", shed.len());
    // The rest goes on, though nobody reads.
    hub.turn();
    assert_eq!(hub.workers[0].fanout.take_shed(), []);
}

#[test]
fn what_the_budget_counts_is_given_back_when_it_is_written_dropped_or_forgotten() {
    let budget = Budget::new(1 << 30, 1);
    let mut hub = hub(1, Some(&budget));
    let sessions: Vec<_> = (0..3).map(|_| hub.workers[0].stuck(EVERY)).collect();
    assert_eq!(hub.workers[0].fanout.held_bytes(), 0, "who waits for nothing holds nothing");
    hub.trade(1);
    hub.turn();
    let one = hub.workers[0].fanout.held_by(sessions[0]);
    let bytes = hub.workers[0].fanout.backlog(sessions[0]).1;
    assert!(one > bytes && one < bytes + 100, "its bytes and its place: {one} for {bytes}");
    assert_eq!(budget.bytes(), 3 * one as u64, "shared frames count once for each");
    hub.workers[0].read(sessions[0]);
    assert_eq!(budget.bytes(), 2 * one as u64);
    hub.workers[0].fanout.close(sessions[1]);
    hub.workers[0].fanout.keep_budget(SECOND);
    assert_eq!(budget.bytes(), one as u64);
    hub.workers[0].fanout.end(sessions[2], CloseCode::SlowConsumer, "nothing was read in time", false);
    hub.workers[0].fanout.keep_budget(SECOND);
    assert!(budget.bytes() < one as u64, "only the close frame waits");
    hub.workers[0].read(sessions[2]);
    assert_eq!(budget.bytes(), 0);
    assert_eq!(hub.workers[0].fanout.held_bytes(), 0);
}
