//! The live side: what providers call, recorded.

use std::cell::RefCell;

use rustc_hash::FxHashSet;

use super::record::Kind;
use super::state::CoreState;
use super::{LineWriter, Scratch};
use crate::ingest::QuoteSource;
use crate::model::{BookLevel, FeedState, InstrumentKey, Quote, Received, Stats, StreamKind, Ticker, Trade, UnixNanos};
use crate::store::{FeedStatus, Store, trade_words_used};
use crate::sync::Ordering;

/// Parts of a line of which one must be free before what was dropped is brought up to date: what
/// that takes must not fill the line again at once.
const FREE_PARTS: usize = 8;

/// Words of such states that one look may write, so that the feed thread's own work is not kept
/// waiting; a state that is larger goes alone. Half a MiB is copied in some 0.1 ms.
const HEAL_WORDS_MAX: usize = 64 * 1024;

/// Text of a venue's left-out symbols that is told on, in bytes; the others are not named.
const LEFT_OUT_BYTES_MAX: usize = 64 * 1024;

/// What a record is about.
#[derive(Clone, Copy)]
enum About {
    Feed(u8),
    Instrument(InstrumentKey),
}

/// One delay line, and what of it was dropped.
struct Tap {
    line: LineWriter,
    /// Instruments of which something was dropped: nothing more is recorded of them until all that
    /// is known of them fits. At most as many as the hub can hold.
    lossy: FxHashSet<u32>,
    /// The same for feeds, one bit each.
    lossy_feeds: u64,
    recorded: u64,
    dropped: u64,
}

impl Tap {
    fn append(&mut self, about: About, words: &[u64]) {
        let lossy = match about {
            About::Feed(feed) => self.lossy_feeds >> feed & 1 == 1,
            About::Instrument(key) => !self.lossy.is_empty() && self.lossy.contains(&key.0),
        };
        if !lossy && self.push(words) {
            return;
        }
        self.dropped += 1;
        match about {
            About::Feed(feed) => self.lossy_feeds |= 1 << feed,
            About::Instrument(key) => {
                self.lossy.insert(key.0);
            }
        }
    }

    fn push(&mut self, words: &[u64]) -> bool {
        let fits = self.line.words.push_entire_slice(words).is_ok();
        self.recorded += u64::from(fits);
        fits
    }

    fn is_lossy(&self) -> bool {
        self.lossy_feeds != 0 || !self.lossy.is_empty()
    }

    fn has_room(&self) -> bool {
        self.line.words.slots() >= self.line.words_max / FREE_PARTS
    }

    fn report(&mut self) {
        self.line.meters.recorded.store(self.recorded, Ordering::Relaxed);
        self.line.meters.dropped.increment(std::mem::take(&mut self.dropped));
    }
}

/// The delay lines of one feed thread.
pub(in crate::ingest) struct Taps {
    taps: RefCell<Vec<Tap>>,
    scratch: RefCell<Scratch>,
    clock: fn() -> u64,
}

/// Names what is recorded: a part of [`Taps`] about one instrument.
pub(in crate::ingest) struct Recorder<'a> {
    taps: &'a Taps,
    key: InstrumentKey,
}

impl Taps {
    pub(in crate::ingest) fn new(lines: Vec<LineWriter>, clock: fn() -> u64) -> Self {
        let tap = |line| Tap { line, lossy: FxHashSet::default(), lossy_feeds: 0, recorded: 0, dropped: 0 };
        Self { taps: RefCell::new(lines.into_iter().map(tap).collect()), scratch: RefCell::default(), clock }
    }

    pub(in crate::ingest) fn of(&self, key: InstrumentKey) -> Recorder<'_> {
        Recorder { taps: self, key }
    }

    fn record(&self, kind: Kind, about: About, fill: impl FnOnce(&mut Scratch)) {
        let scratch = &mut *self.scratch.borrow_mut();
        let subject = match about {
            About::Feed(feed) => u32::from(feed),
            About::Instrument(key) => key.0,
        };
        fill(scratch.begin(kind, subject));
        let words = scratch.finish((self.clock)());
        for tap in self.taps.borrow_mut().iter_mut() {
            tap.append(about, words);
        }
    }

    pub(in crate::ingest) fn state(&self, feed: u8, state: FeedState, cause: &str, now: UnixNanos) {
        self.record(Kind::State, About::Feed(feed), |scratch| fill_state(scratch, state, cause, now));
    }

    pub(in crate::ingest) fn left_out(&self, feed: u8, symbols: &[String]) {
        self.record(Kind::LeftOut, About::Feed(feed), |scratch| fill_left_out(scratch, symbols));
    }

    /// Publishes what is counted in plain integers.
    pub(in crate::ingest) fn report(&self) {
        self.taps.borrow_mut().iter_mut().for_each(Tap::report);
    }

    /// Brings up to date what was dropped, where there is room for it again. `state` is what is
    /// known of an instrument.
    pub(in crate::ingest) fn heal(&self, store: &Store, state: impl Fn(InstrumentKey) -> CoreState) {
        let scratch = &mut *self.scratch.borrow_mut();
        let now = (self.clock)();
        for tap in self.taps.borrow_mut().iter_mut().filter(|tap| tap.is_lossy() && tap.has_room()) {
            for (index, feed) in
                store.feeds().filter(|(index, _)| tap.lossy_feeds >> index & 1 == 1).collect::<Vec<_>>()
            {
                let FeedStatus { state, cause, since, .. } = feed.status();
                fill_state(scratch.begin(Kind::State, u32::from(index)), state, &cause, since);
                let told = tap.push(scratch.finish(now));
                fill_left_out(scratch.begin(Kind::LeftOut, u32::from(index)), &feed.left_out());
                if told && tap.push(scratch.finish(now)) {
                    tap.lossy_feeds &= !(1 << index);
                }
            }
            let mut written = 0;
            // What fits into one look at most: a state has more than a dozen words.
            let keys: Vec<u32> = tap.lossy.iter().copied().take(HEAL_WORDS_MAX / 16).collect();
            for key in keys {
                state(InstrumentKey(key)).write(scratch.begin(Kind::Resync, key));
                let words = scratch.finish(now);
                written += words.len();
                if !tap.push(words) {
                    if words.len() > tap.line.words_max {
                        // Never will: the configuration's least line has room for any.
                        continue;
                    }
                    break;
                }
                tap.lossy.remove(&key);
                tap.line.meters.resyncs.increment(1);
                if written >= HEAL_WORDS_MAX {
                    break;
                }
            }
        }
    }
}

fn fill_state(scratch: &mut Scratch, state: FeedState, cause: &str, now: UnixNanos) {
    scratch.word(state as u64).time(Some(now)).text(cause.as_bytes());
}

fn fill_left_out(scratch: &mut Scratch, symbols: &[String]) {
    let mut bytes = 0;
    let fits = symbols.iter().take_while(|symbol| {
        bytes += symbol.len();
        bytes <= LEFT_OUT_BYTES_MAX
    });
    let fits: Vec<&String> = fits.collect();
    scratch.word(fits.len() as u64);
    for symbol in fits {
        scratch.text(symbol.as_bytes());
    }
}

impl Recorder<'_> {
    fn record(&self, kind: Kind, fill: impl FnOnce(&mut Scratch)) {
        self.taps.record(kind, About::Instrument(self.key), fill);
    }

    pub(in crate::ingest) fn claim(&self, feed: u8, quotes: QuoteSource) {
        self.record(Kind::Claim, |scratch| {
            scratch.word(u64::from(feed)).word(quotes as u64);
        });
    }

    pub(in crate::ingest) fn release(&self) {
        self.record(Kind::Release, |_| {});
    }

    pub(in crate::ingest) fn quote(&self, received: Received, quote: &Quote) {
        self.record(Kind::Quote, |scratch| {
            scratch.time(received.wall).value(quote);
        });
    }

    pub(in crate::ingest) fn trade(&self, received: Received, trade: &Trade) {
        self.record(Kind::Trade, |scratch| {
            scratch.time(received.wall).value_head(trade, trade_words_used(trade));
        });
    }

    pub(in crate::ingest) fn stats(&self, received: Received, stats: &Stats) {
        let Stats { ts_event, open, high, low, volume } = *stats;
        let ticker = Ticker { ts_event, open, high, low, volume, ..Ticker::default() };
        self.record(Kind::Stats, |scratch| {
            scratch.time(received.wall).value(&ticker);
        });
    }

    pub(in crate::ingest) fn lost(&self, received: Received, kind: StreamKind, lost: Option<u64>) {
        self.record(Kind::Lost, |scratch| {
            scratch.time(received.wall).word(kind.index() as u64).count(lost);
        });
    }

    pub(in crate::ingest) fn book_snapshot(
        &self,
        received: Received,
        ts_event: Option<UnixNanos>,
        (bids, asks): (&[BookLevel], &[BookLevel]),
    ) {
        self.record(Kind::BookSnapshot, |scratch| {
            scratch.time(received.wall).time(ts_event).levels(bids, asks);
        });
    }

    pub(in crate::ingest) fn book_delta(
        &self,
        received: Received,
        ts_event: Option<UnixNanos>,
        (bids, asks): (&[BookLevel], &[BookLevel]),
    ) {
        self.record(Kind::BookDelta, |scratch| {
            scratch.time(received.wall).time(ts_event).levels(bids, asks);
        });
    }

    pub(in crate::ingest) fn book_lost(&self, received: Received, lost: Option<u64>) {
        self.record(Kind::BookLost, |scratch| {
            scratch.time(received.wall).count(lost);
        });
    }
}
