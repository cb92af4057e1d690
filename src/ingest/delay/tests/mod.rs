//! The delayed world beside the live one, on a clock that only the test moves.

mod subscribers;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Delayed, delay_line};
use crate::fanout::{Event, LaneReader, Requests, Wake, lane};
use crate::ingest::{Feed, Ingest, Instrument, QuoteSource};
use crate::metrics::{self, Registry};
use crate::model::{
    AggressorSide, BookLevel, Decimal, Depth, FeedState, InstrumentDefinition, InstrumentId, InstrumentKey, Quote,
    Received, Stats, StreamId, StreamKind, Trade, TradeId, UnixNanos,
};
use crate::store::{Interest, Store};
use crate::wire::Format;
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const DELAY: Duration = Duration::from_millis(100);
const DELAY_MS: u64 = 100;
const ROOMY: usize = 1 << 20;

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

fn now() -> u64 {
    NOW.with(Cell::get)
}

/// One of the worlds: its store, and what came out of its lane.
struct Side {
    store: Arc<Store>,
    lane: LaneReader,
    requests: Requests,
    log: Vec<(u64, Seen)>,
    /// Times that its worker was told to bring itself up to the store.
    resyncs: usize,
}

/// An event: which, where it is numbered, and all of it.
type Seen = (Option<(StreamId, u64)>, String);

fn seen(event: &Event) -> Seen {
    let text = |frame: &crate::wire::Frame| String::from_utf8_lossy(frame.payload()).into_owned();
    match event {
        Event::Update(u) => (Some((u.stream, u.seq)), format!("{:?} {} {:?}", u.standing, text(&u.frame), u.book)),
        Event::Gap { stream, seq, frame, snapshot, .. } => {
            (Some((*stream, *seq)), format!("gap {} {:?}", text(frame), snapshot.as_ref().map(text)))
        }
        Event::Instrument(key) => (None, format!("{key:?}")),
        Event::Feed { feed, changes, state, frame } => (None, format!("{feed} {changes} {state:?} {}", text(frame))),
    }
}

impl Side {
    fn drain(&mut self) {
        while let Some(event) = self.lane.pop() {
            self.log.push((now(), seen(&event)));
        }
        self.resyncs += usize::from(self.lane.take_overflow());
    }
}

/// A live world, its delayed one, and what joins them.
struct Twin {
    live: Side,
    late: Side,
    ingest: Ingest,
    feed: Feed,
    claimed: BTreeMap<usize, Instrument>,
    delayed: Delayed,
    registry: Arc<Registry>,
}

/// Worlds joined by a line of `bytes`; with `wanted` both lanes get all streams.
fn twin(bytes: usize, wanted: bool) -> Twin {
    NOW.with(|now| now.set(MS));
    let interest = if wanted { Interest::of(0, Format::Json.index()) } else { Interest::default() };
    let store = Store::with_interest(1 << 24, &StreamKind::ALL, interest);
    store.feed_of("SIM", "e1", UnixNanos(7));
    let registry = Registry::new();
    let side = |store: &Arc<Store>| {
        let (writer, reader) = lane(1 << 16, Arc::new(Wake::default()), registry.counter(metrics::LANE_DROPPED, &[]));
        let requests = Requests::new(64);
        (writer, Side { store: Arc::clone(store), lane: reader, requests, log: Vec::new(), resyncs: 0 })
    };
    let ((live_lane, live), (late_lane, late)) = (side(&store), side(&store.beside()));
    let (writer, reader) = delay_line(bytes, DELAY, 0, &registry);
    let lines = (vec![writer], now as fn() -> u64);
    let ingest =
        Ingest::with_lines_at(store, Arc::clone(&registry), (0, vec![live_lane]), live.requests.clone(), lines);
    let feed = ingest.feed("SIM", "e1", UnixNanos(7)).expect("room");
    let (from, to) = (Arc::clone(&live.store), Arc::clone(&late.store));
    let delayed = Delayed::new(from, to, 0, vec![late_lane], late.requests.clone(), reader);
    Twin { live, late, ingest, feed, claimed: BTreeMap::new(), delayed, registry }
}

fn id(index: usize) -> InstrumentId {
    InstrumentId::parse(&format!("SIM:I{index}")).expect("valid")
}

fn level(price: i64, size: i64) -> BookLevel {
    BookLevel { price: Decimal::from(price), size: Decimal::from(size) }
}

/// What a provider may do, or time.
#[derive(Clone, Debug)]
enum Step {
    Claim(usize, bool),
    Release(usize),
    State(usize),
    LeftOut(usize),
    Quote(usize, i64),
    Trade(usize, i64),
    Stats(usize, i64),
    Lost(usize, usize),
    /// Whether it is whole; then levels of bids and asks.
    Book(usize, bool, Vec<(bool, i64, i64)>),
    BookLost(usize),
    Pass(u64),
}

impl Twin {
    fn received() -> Received {
        Received { wall: Some(UnixNanos(now() as i64)), mono: now() }
    }

    fn claim(&mut self, index: usize, quotes: QuoteSource) {
        let definition = InstrumentDefinition { id: id(index), raw_symbol: "i".into(), base: None, quote: None };
        if let Ok(instrument) = self.feed.claim_with(definition, quotes) {
            self.claimed.insert(index, instrument);
        }
    }

    fn step(&mut self, step: &Step) {
        let received = Self::received();
        let ts_event = received.wall;
        let of = |claimed: &mut BTreeMap<usize, Instrument>, index: usize, call: &dyn Fn(&mut Instrument)| {
            if let Some(instrument) = claimed.get_mut(&index) {
                call(instrument);
            }
        };
        let claimed = &mut self.claimed;
        match step {
            Step::Claim(index, book) => self.claim(*index, if *book { QuoteSource::Book } else { QuoteSource::Venue }),
            Step::Release(index) => drop(claimed.remove(index)),
            Step::State(n) => {
                self.feed.set_state(FeedState::ALL[n % 4], &format!("cause {}", n / 4), UnixNanos(now() as i64));
            }
            Step::LeftOut(n) => self.feed.set_left_out(&vec![format!("odd {n}"); *n]),
            Step::Quote(index, price) => of(claimed, *index, &|instrument| {
                instrument.quote(received, &Quote { ts_event, bid: Some(level(*price, 1)), ask: None });
            }),
            Step::Trade(index, price) => of(claimed, *index, &|instrument| {
                let id = TradeId::new("t".repeat(*price as usize).as_bytes()).expect("short");
                let (price, size) = (Decimal::from(*price), Decimal::from(2));
                instrument.trade(received, &Trade { ts_event, price, size, side: AggressorSide::Sell, id });
            }),
            Step::Stats(index, price) => of(claimed, *index, &|instrument| {
                instrument.stats(received, &Stats { ts_event, high: Some(Decimal::from(*price)), ..Stats::default() });
            }),
            Step::Lost(index, kind) => of(claimed, *index, &|instrument| {
                instrument.lost(received, StreamKind::ALL[kind % 3], (kind % 2 == 0).then_some(*kind as u64));
            }),
            Step::Book(index, whole, levels) => of(claimed, *index, &|instrument| {
                let side = |bid| {
                    let of_side = levels.iter().filter(|(is_bid, ..)| *is_bid == bid);
                    of_side.map(|(_, price, size)| level(*price, *size)).collect::<Vec<_>>()
                };
                // Some are no book: what follows from that must be the same too.
                let _ = match whole {
                    true => instrument.book_snapshot(received, ts_event, &side(true), &side(false)),
                    false => instrument.book_delta(received, ts_event, &side(true), &side(false)),
                };
            }),
            Step::BookLost(index) => of(claimed, *index, &|instrument| instrument.book_lost(received, None)),
            Step::Pass(ms) => self.pass(*ms),
        }
        self.live.drain();
    }

    /// Time passes; each millisecond the delayed world looks whether something is due.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            NOW.with(|now| now.set(now.get() + MS));
            self.ingest.heal();
            self.delayed.tell_due(now(), usize::MAX);
            self.live.drain();
            self.late.drain();
        }
    }

    fn metric(&self, name: &str) -> u64 {
        self.ingest.inner.publisher.report();
        let text = self.registry.render();
        let line = text.lines().find(|line| line.starts_with(name)).expect("a metric");
        line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number") as u64
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = || 0..4_usize;
    let levels = || proptest::collection::vec((any::<bool>(), 1..9_i64, 0..3_i64), 0..12).prop_map(spread);
    let one = prop_oneof![
        2 => (index(), any::<bool>()).prop_map(|(index, book)| Step::Claim(index, book)),
        1 => index().prop_map(Step::Release),
        1 => (0..12_usize).prop_map(Step::State),
        1 => (0..4_usize).prop_map(Step::LeftOut),
        8 => (index(), 1..5_i64).prop_map(|(index, price)| Step::Quote(index, price)),
        8 => (index(), 1..40_i64).prop_map(|(index, price)| Step::Trade(index, price)),
        2 => (index(), 1..5_i64).prop_map(|(index, price)| Step::Stats(index, price)),
        2 => (index(), 0..9_usize).prop_map(|(index, kind)| Step::Lost(index, kind)),
        4 => (index(), any::<bool>(), levels()).prop_map(|(index, whole, levels)| Step::Book(index, whole, levels)),
        8 => (index(), levels()).prop_map(|(index, levels)| Step::Book(index, false, levels)),
        1 => index().prop_map(Step::BookLost),
        3 => (0..60_u64).prop_map(Step::Pass),
    ];
    proptest::collection::vec(one, 1..200)
}

/// Asks mostly above bids, so that most books are some.
fn spread(levels: Vec<(bool, i64, i64)>) -> Vec<(bool, i64, i64)> {
    let raise = |at: usize, bid: bool| if bid || at % 11 == 10 { 0 } else { 8 };
    levels.into_iter().enumerate().map(|(at, (bid, price, size))| (bid, price + raise(at, bid), size)).collect()
}

/// All four instruments, each with a book.
fn begun(bytes: usize, wanted: bool) -> Twin {
    let mut twin = twin(bytes, wanted);
    for index in 0..4 {
        twin.step(&Step::Claim(index, false));
        twin.step(&Step::Book(index, true, vec![(true, 5, 1), (false, 9, 1)]));
    }
    twin
}

proptest! {
    #[test]
    fn the_delayed_world_is_the_live_one_shifted_event_by_event(steps in steps()) {
        let mut twin = begun(ROOMY, true);
        steps.iter().for_each(|step| twin.step(step));
        twin.pass(DELAY_MS);
        let shifted: Vec<_> = twin.live.log.iter().map(|(at, seen)| (at + DELAY_MS * MS, seen.clone())).collect();
        prop_assert_eq!(&twin.late.log, &shifted);
        prop_assert_eq!(twin.late.resyncs, 0);
        prop_assert_eq!(twin.metric("tickhub_delay_dropped_total"), 0);
    }

    /// What did not fit is missing, and what comes is as it was; in the end both are the same again.
    #[test]
    fn behind_an_overflow_numbers_and_values_are_those_of_live_again(steps in steps(), words in 250..900_usize) {
        let mut twin = begun(words * 8, true);
        steps.iter().for_each(|step| twin.step(step));
        // Time to make room, for what waits to be brought up, and for that to be due, more than once.
        twin.pass(20 * DELAY_MS);
        let was: BTreeMap<&Seen, ()> = twin.live.log.iter().map(|(_, seen)| (seen, ())).collect();
        let mut last = BTreeMap::new();
        let mut holes = 0;
        for (_, seen) in &twin.late.log {
            let Some((stream, seq)) = seen.0 else { continue };
            prop_assert!(was.contains_key(seen), "{} was never so", seen.1);
            let before = last.insert(stream, seq).unwrap_or(0);
            // A book behind its gap has the gap's number.
            prop_assert!(seq >= before, "{stream:?} went back from {before} to {seq}");
            holes += usize::from(seq > before + 1);
        }
        prop_assert!(holes == 0 || twin.late.resyncs > 0, "holes that no worker was told of");
        prop_assert_eq!(twin.live.store.len(), twin.late.store.len());
        for key in (0..twin.live.store.len()).map(InstrumentKey) {
            let all = |store: &Store| {
                let numbers = StreamKind::ALL.map(|kind| store.sequence(StreamId { key, kind }));
                let id = store.definition(key).map(|definition| definition.id.clone());
                (id, numbers, store.quote(key), store.trade(key), store.ticker(key))
            };
            prop_assert_eq!(all(&twin.live.store), all(&twin.late.store));
        }
        let feed = |store: &Store| store.feed(0).map(|feed| (feed.status().state, feed.status().cause, feed.left_out()));
        prop_assert_eq!(feed(&twin.live.store), feed(&twin.late.store));
        for (index, instrument) in &twin.claimed {
            let late = twin.delayed.instrument(instrument.key());
            prop_assert_eq!(late, Some(instrument.state()), "instrument {}", index);
        }
        prop_assert_eq!(twin.delayed.instruments(), twin.claimed.len());
    }
}

#[test]
fn nothing_of_an_instrument_is_known_before_its_delay_has_passed() {
    let mut twin = twin(ROOMY, true);
    twin.feed.set_state(FeedState::Live, "on", UnixNanos(8));
    twin.step(&Step::Claim(0, false));
    twin.step(&Step::Trade(0, 3));
    twin.pass(DELAY_MS - 1);
    let late = &twin.late.store;
    assert_eq!((late.len(), late.key(&id(0)), twin.late.log.len()), (0, None, 0));
    assert_eq!(late.feed(0).expect("registered").status().state, FeedState::Down);
    assert!(late.trade(InstrumentKey(0)).is_none());
    twin.pass(1);
    let late = &twin.late.store;
    assert_eq!((late.len(), late.key(&id(0))), (1, Some(InstrumentKey(0))));
    let status = late.feed(0).expect("registered").status();
    assert_eq!((status.state, status.since), (FeedState::Live, UnixNanos(8)), "with the time of then");
    assert_eq!(late.trade(InstrumentKey(0)), twin.live.store.trade(InstrumentKey(0)));
}

#[test]
fn books_are_numbered_alike_whoever_wants_them_and_when() {
    let mut twin = begun(ROOMY, false);
    let kind = StreamKind::Book(Depth::Ten);
    let stream = StreamId { key: InstrumentKey(0), kind };
    for size in 2..5 {
        // Nobody wants it, then someone live, then someone in the delayed world too.
        twin.step(&Step::Book(0, false, vec![(true, 5, size)]));
        twin.pass(2 * DELAY_MS);
        assert_eq!(twin.live.store.sequence(stream), size as u64);
        assert_eq!(twin.late.store.sequence(stream), size as u64);
        let store = if size == 2 { &twin.live.store } else { &twin.late.store };
        store.want(stream, 0, Format::Json.index());
    }
}
