//! The way of an event, piece by piece: parse, encode, ingest, fan-out. `cargo bench`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::io::{self, IoSlice};
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tickhub::fanout::{Fanout, LaneReader, Options, OutboxLimits, Requests, SessionId, Sink, Wake, lane};
use tickhub::ingest::{Feed, Ingest, Instrument};
use tickhub::metrics::{self, Registry};
use tickhub::model::{
    BookLevel, Channel, Decimal, Depth, InstrumentDefinition, InstrumentId, Pattern, Quote, Received, UnixNanos,
};
use tickhub::store::Store;
use tickhub::wire::command::Mode;
use tickhub::wire::{Format, Head, Payload, Scratch};

/// Updates that wait when a worker begins its turn.
const BACKLOG: usize = 32;

fn level(price: &str, size: &str) -> Option<BookLevel> {
    Some(BookLevel { price: price.parse().unwrap(), size: size.parse().unwrap() })
}

fn quote() -> Quote {
    let (bid, ask) = (level("61837.63000000", "3.78826000"), level("61837.64000000", "1.54698000"));
    Quote { ts_event: Some(UnixNanos(1_723_161_253_937_085_768)), bid, ask }
}

const RECEIVED: Received = Received { wall: Some(UnixNanos(1_723_161_253_937_085_768)), mono: 1 };

/// A socket that takes everything.
struct Null;

impl Sink for Null {
    fn write(&mut self, _: SessionId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }
}

/// A feed with one instrument, and one worker's lane.
fn feed() -> (Arc<Store>, Feed, Instrument, LaneReader) {
    let (store, registry) = (Store::new(1 << 20), Registry::new());
    let dropped = registry.counter(metrics::LANE_DROPPED, &[]);
    let (writer, reader) = lane(1 << 14, Arc::new(Wake::default()), dropped);
    let ingest = Ingest::new(Arc::clone(&store), registry, 0, vec![writer], Requests::new(16));
    let feed = ingest.feed("SIM", "bench", UnixNanos(0)).unwrap();
    let id = InstrumentId::parse("SIM:AAA-USD").unwrap();
    let definition = InstrumentDefinition { id, raw_symbol: "AAA".into(), base: None, quote: None };
    let instrument = feed.claim(definition).unwrap();
    (store, feed, instrument, reader)
}

/// A worker with `sessions` that each want every quote.
fn worker(store: &Arc<Store>, sessions: usize) -> Fanout {
    let limits = OutboxLimits { events_max: 4096, bytes_max: 1 << 20, control_bytes_max: 1 << 18 };
    let mut fanout = Fanout::new(0, Arc::clone(store), limits, vec![Requests::new(16)], None);
    let options = Options {
        mode: Mode::Every,
        max_rate: None,
        depth: Depth::Ten,
        snapshot: Some(false),
        overflow: None,
        backlog: None,
    };
    for _ in 0..sessions {
        let session = fanout.open(Arc::from([Pattern::all()]));
        fanout.subscribe(session, Channel::Quote, (options, options), &["SIM:AAA-USD".to_owned()], &[], 10).unwrap();
    }
    fanout
}

fn parse_and_encode(c: &mut Criterion) {
    c.bench_function("decimal/parse", |b| b.iter(|| Decimal::parse(black_box(b"61837.63000000"))));
    let (id, quote, mut scratch) = (InstrumentId::parse("BINANCE:BTC-USDT").unwrap(), quote(), Scratch::new());
    let head = Head { id: &id, seq: 123_456, ts: quote.ts_event, rx: RECEIVED.wall, snapshot: false };
    c.bench_function("encode/json quote", |b| {
        b.iter(|| Format::Json.encode(&mut scratch, black_box(&head), &Payload::Quote(&quote)));
    });
}

fn ingest(c: &mut Criterion) {
    let quote = quote();
    let (_store, _feed, mut instrument, _lane) = feed();
    c.bench_function("ingest/quote, nobody wants it", |b| b.iter(|| instrument.quote(RECEIVED, black_box(&quote))));
    let (store, _feed, mut instrument, mut lane) = feed();
    let _worker = worker(&store, 1);
    c.bench_function("ingest/quote, encoded for a worker", |b| {
        b.iter(|| {
            instrument.quote(RECEIVED, black_box(&quote));
            lane.pop()
        });
    });
}

fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("fan-out to a null sink, a delivery");
    for (sessions, updates) in [(1_000, 1), (1_000, BACKLOG), (10_000, 1), (10_000, BACKLOG)] {
        let (store, _feed, mut instrument, mut lane) = feed();
        let mut fanout = worker(&store, sessions);
        let quote = quote();
        group.throughput(Throughput::Elements((sessions * updates) as u64));
        group.bench_function(format!("{sessions} sessions, {updates} at a time"), |b| {
            b.iter_batched(
                || (0..updates).for_each(|_| instrument.quote(RECEIVED, &quote)),
                |()| {
                    while let Some(event) = lane.pop() {
                        fanout.on_event(event);
                    }
                    fanout.end_turn(1, &mut Null);
                    fanout.close_turn(2);
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, parse_and_encode, ingest, fan_out);
criterion_main!(benches);
