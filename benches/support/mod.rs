//! A hub without venues and sockets, for what measures the way between them: one feed with one
//! instrument, and workers whose sessions all want its quotes.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)] // Each user takes its part of it.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use tickhub::fanout::{Fanout, LaneReader, Options, OutboxLimits, Requests, SessionId, Sink, Wake, lane};
use tickhub::ingest::{Feed, Ingest, Instrument};
use tickhub::metrics::{self, Registry};
use tickhub::model::{
    AggressorSide, BookLevel, Channel, Decimal, Depth, InstrumentDefinition, InstrumentId, Pattern, Quote, Received,
    Ticker, Trade, TradeId, UnixNanos,
};
use tickhub::provider::VENUES;
use tickhub::provider::recording::{Line, Recording, Row, RowKind};
use tickhub::store::Store;
use tickhub::wire::Format;
use tickhub::wire::command::{Mode, ResumeEntry};

/// The instrument of [`hub`].
pub const SYMBOL: &str = "SIM:AAA-USD";
/// The epoch of its numbers.
pub const EPOCH: &str = "bench";
/// Updates that wait when a worker begins its turn.
pub const BACKLOG: usize = 32;
/// Events that fit a lane of [`hub`], as in the hub itself.
pub const LANE_EVENTS_MAX: usize = tickhub::limits::LANE_EVENTS_MAX;
/// When everything is received.
pub const RECEIVED: Received = Received { wall: Some(UnixNanos(1_723_161_253_937_085_768)), mono: 1 };

pub fn level(price: &str, size: &str) -> BookLevel {
    BookLevel { price: price.parse().unwrap(), size: size.parse().unwrap() }
}

pub fn quote() -> Quote {
    let bid = Some(level("61837.63000000", "3.78826000"));
    let ask = Some(level("61837.64000000", "1.54698000"));
    Quote { ts_event: RECEIVED.wall, bid, ask }
}

pub fn trade() -> Trade {
    let BookLevel { price, size } = level("61837.63000000", "0.02000000");
    Trade { ts_event: RECEIVED.wall, price, size, side: AggressorSide::Sell, id: TradeId::from_u64(3_735_683_259) }
}

pub fn ticker() -> Ticker {
    let Quote { ts_event, bid, ask } = quote();
    let day = |price: &str| Some(price.parse::<Decimal>().unwrap());
    let last = Some(level("61837.63000000", "0.02000000"));
    let (open, high, low) = (day("60000.01000000"), day("62745.00000000"), day("59535.00000000"));
    Ticker { ts_event, last, bid, ask, open, high, low, volume: day("38547.21309000") }
}

/// Bids below and asks above the [`quote`], `levels` a side.
pub fn book(levels: i64) -> (Vec<BookLevel>, Vec<BookLevel>) {
    let at = |cents: i64| level(&format!("{}.{:02}000000", cents / 100, cents % 100), "0.32329000");
    let bids = (0..levels).map(|step| at(6_183_763 - step)).collect();
    let asks = (0..levels).map(|step| at(6_183_764 + step)).collect();
    (bids, asks)
}

/// One feed with one instrument, and a lane for each worker.
pub struct Hub {
    pub store: Arc<Store>,
    pub feed: Feed,
    pub instrument: Instrument,
    pub lanes: Vec<LaneReader>,
    pub wakes: Vec<Arc<Wake>>,
}

pub fn hub(workers: usize) -> Hub {
    let (store, registry) = (Store::new(256 << 20), Registry::new());
    let dropped = registry.counter(metrics::LANE_DROPPED, &[]);
    let wakes: Vec<Arc<Wake>> = (0..workers).map(|_| Arc::default()).collect();
    let (writers, mut lanes): (_, Vec<LaneReader>) =
        wakes.iter().map(|wake| lane(LANE_EVENTS_MAX, Arc::clone(wake), dropped.clone())).unzip();
    let ingest = Ingest::new(Arc::clone(&store), registry, 0, writers, Requests::new(16));
    let feed = ingest.feed("SIM", EPOCH, UnixNanos(0)).unwrap();
    let id = InstrumentId::parse(SYMBOL).unwrap();
    let instrument =
        feed.claim(InstrumentDefinition { id, raw_symbol: "AAA".into(), base: None, quote: None }).unwrap();
    // Workers that are made from here on know the instrument already.
    lanes.iter_mut().for_each(|lane| while lane.pop().is_some() {});
    Hub { store, feed, instrument, lanes, wakes }
}

/// Worker `index` of a hub, without sessions.
pub fn worker(store: &Arc<Store>, index: usize) -> Fanout {
    let limits = OutboxLimits { events_max: 4096, bytes_max: 1 << 20, control_bytes_max: 1 << 18 };
    Fanout::new(index, Arc::clone(store), limits, vec![Requests::new(16)], None)
}

pub fn options(mode: Mode) -> Options {
    Options { mode, max_rate: None, depth: Depth::Ten, snapshot: Some(false), overflow: None, backlog: None }
}

/// One more session, in JSON, which wants every quote from now on, or those after `resume`.
pub fn session(fanout: &mut Fanout, mode: Mode, resume: Option<u64>) -> SessionId {
    let session = fanout.open(Arc::from([Pattern::all()]), Format::Json);
    let options = options(mode);
    let resume: Vec<ResumeEntry> =
        resume.into_iter().map(|seq| ResumeEntry { symbol: SYMBOL.to_owned(), epoch: EPOCH.into(), seq }).collect();
    let symbols = [SYMBOL.to_owned()];
    fanout.subscribe(session, Channel::Quote, (options, options), &symbols, &resume, 10).unwrap();
    session
}

/// Worker `index` of a hub, with `sessions` that want the quotes.
pub fn crowd(store: &Arc<Store>, index: usize, sessions: usize, mode: Mode) -> Fanout {
    let mut fanout = worker(store, index);
    for _ in 0..sessions {
        session(&mut fanout, mode, None);
    }
    fanout
}

/// A socket that takes everything, and counts it.
#[derive(Default)]
pub struct Null {
    pub writes: u64,
    pub bytes: u64,
}

impl Sink for Null {
    #[inline]
    fn write(&mut self, _: SessionId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        self.writes += 1;
        self.bytes += bytes as u64;
        Ok(bytes)
    }
}

/// One turn of a worker, with at most `events_max` events of its lane; how many it took.
#[inline]
pub fn turn(fanout: &mut Fanout, lane: &mut LaneReader, sink: &mut Null, events_max: usize) -> usize {
    let mut events = 0;
    while events < events_max
        && let Some(event) = lane.pop()
    {
        fanout.on_event(event);
        events += 1;
    }
    fanout.end_turn(1, sink);
    fanout.close_turn(2);
    events
}

/// One recorded message of a venue.
pub struct Message {
    pub rest: bool,
    pub url: Option<String>,
    pub bytes: Vec<u8>,
}

/// The recorded messages of each venue that has some in `tests/fixtures`, in a fixed order.
pub fn recorded() -> Vec<(&'static str, Vec<Message>)> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("tests/fixtures"));
    let fixtures = fixtures.into_iter().find(|folder| folder.is_dir()).expect("the recorded messages are there");
    let mut venues = Vec::new();
    for venue in VENUES {
        let Ok(files) = fixtures.join(venue.name).read_dir() else { continue };
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.retain(|file| file.to_string_lossy().contains(".ndjson"));
        files.sort();
        let messages: Vec<Message> = files.iter().flat_map(|file| messages(file)).collect();
        assert!(!messages.is_empty(), "nothing in the recordings of {}", venue.name);
        venues.push((venue.name, messages));
    }
    venues
}

fn messages(file: &Path) -> Vec<Message> {
    let mut recording = Recording::open(file).unwrap();
    let mut messages = Vec::new();
    loop {
        let line = match recording.next_line().unwrap() {
            Line::Text(line) => line,
            Line::End => return messages,
            _ => continue,
        };
        let row = Row::parse(line).expect("a row of a fixture");
        if row.kind != RowKind::Other {
            let url = row.url.map(|url| url.into_owned());
            messages.push(Message { rest: row.kind == RowKind::Rest, url, bytes: row.data.into_owned() });
        }
    }
}
