//! Instruments' cells in chunks that are made when first needed and never move.

use std::sync::OnceLock;

use super::record::{book_words, stamped, trade_words_used};
use super::ring::Ring;
use super::slot::Slot;
use super::{Budget, Interest, Stamp, Tag};
use crate::limits::FORMATS_MAX;
use crate::model::{BookLevel, InstrumentDefinition, Quote, StreamKind, Ticker, Trade, UnixNanos};
use crate::sync::{AtomicBool, AtomicU64, Ordering, fence};

/// Cells of one shard: a power of two that keeps a chunk below 100 kB.
pub(super) const SHARD_CELLS: usize = 64;

/// All that is kept of one instrument.
pub(super) struct Cell {
    pub(super) definition: OnceLock<InstrumentDefinition>,
    pub(super) feed: OnceLock<u8>,
    pub(super) claimed: AtomicBool,
    pub(super) quote: Slot<8>,
    pub(super) trade: Slot<14>,
    pub(super) ticker: Slot<15>,
    /// Last published number by stream kind.
    sequences: [AtomicU64; StreamKind::COUNT],
    /// For each stream kind and format, one bit for each worker that wants the stream in it.
    interest: [[AtomicU64; FORMATS_MAX]; StreamKind::COUNT],
    rings: [OnceLock<Option<Box<Ring>>>; StreamKind::COUNT],
}

impl Cell {
    fn new() -> Self {
        Self {
            definition: OnceLock::new(),
            feed: OnceLock::new(),
            claimed: AtomicBool::new(false),
            quote: Slot::new(),
            trade: Slot::new(),
            ticker: Slot::new(),
            sequences: std::array::from_fn(|_| AtomicU64::new(0)),
            interest: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
            rings: std::array::from_fn(|_| OnceLock::new()),
        }
    }

    pub(super) fn sequence(&self, kind: StreamKind) -> u64 {
        self.sequences[kind.index()].load(Ordering::Acquire)
    }

    /// Who wants the stream, as of after everything written so far: together with
    /// [`Self::want`], either the writer sees the interest or the reader sees the value.
    #[inline]
    pub(super) fn interest(&self, kind: StreamKind) -> Interest {
        let by_format = &self.interest[kind.index()];
        Interest(std::array::from_fn(|format| by_format[format].load(Ordering::Relaxed)))
    }

    pub(super) fn want(&self, kind: StreamKind, (worker, format): (usize, usize)) {
        self.interest[kind.index()][format].fetch_or(1 << worker, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(super) fn begin_interest(&self, initial: &[Interest; StreamKind::COUNT]) {
        for (interest, Interest(masks)) in self.interest.iter().zip(initial) {
            for (interest, mask) in interest.iter().zip(masks) {
                interest.fetch_or(*mask, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn unwant(&self, kind: StreamKind, (worker, format): (usize, usize)) {
        self.interest[kind.index()][format].fetch_and(!(1 << worker), Ordering::Relaxed);
    }

    pub(super) fn ring(&self, kind: StreamKind) -> Option<&Ring> {
        self.rings[kind.index()].get()?.as_deref()
    }

    fn ring_or_new(&self, kind: StreamKind, budget: &Budget) -> Option<&Ring> {
        self.rings[kind.index()].get_or_init(|| budget.ring()).as_deref()
    }

    fn advance(&self, kind: StreamKind, seq: u64) {
        self.sequences[kind.index()].store(seq, Ordering::Release);
    }

    #[inline]
    pub(super) fn write_quote(&self, budget: &Budget, stamp: Stamp, quote: &Quote) {
        let words: [u64; 8] = stamped(stamp, quote);
        self.record(StreamKind::Quote, budget, stamp.seq, &words[1..]);
        self.quote.write(&words);
        self.advance(StreamKind::Quote, stamp.seq);
    }

    #[inline]
    pub(super) fn write_ticker(&self, budget: &Budget, stamp: Stamp, ticker: &Ticker) {
        let words: [u64; 15] = stamped(stamp, ticker);
        self.record(StreamKind::Ticker, budget, stamp.seq, &words[1..]);
        self.ticker.write(&words);
        self.advance(StreamKind::Ticker, stamp.seq);
    }

    #[inline]
    pub(super) fn write_trade(&self, budget: &Budget, stamp: Stamp, trade: &Trade) {
        let words: [u64; 14] = stamped(stamp, trade);
        self.record(StreamKind::Trade, budget, stamp.seq, &words[1..2 + trade_words_used(trade)]);
        self.trade.write(&words);
        self.advance(StreamKind::Trade, stamp.seq);
    }

    /// Before the slot: who reads number n from the slot finds n in the ring, if it is held.
    #[inline]
    fn record(&self, kind: StreamKind, budget: &Budget, seq: u64, words: &[u64]) {
        if let Some(ring) = self.ring_or_new(kind, budget) {
            ring.push(seq, Tag::Value as u8, words);
        }
    }

    pub(super) fn write_book(&self, kind: StreamKind, budget: &Budget, seq: u64, change: &BookChange<'_>) {
        if let Some(ring) = self.ring_or_new(kind, budget) {
            let mut words = Vec::new();
            book_words(change.received, change.ts_event, change.bids, change.asks, &mut words);
            ring.push(seq, Tag::Value as u8, &words);
        }
        self.advance(kind, seq);
    }

    /// A book stream comes into use with number `seq`: nothing before it can be resumed from.
    pub(super) fn begin_book(&self, kind: StreamKind, seq: u64) {
        if let Some(ring) = self.ring(kind) {
            ring.clear();
        }
        self.advance(kind, seq);
    }

    /// Numbers up to that of `stamp` are passed over: nothing before it can be resumed from.
    pub(super) fn skip(&self, kind: StreamKind, stamp: Stamp, latest: Latest<'_>) {
        if let Some(ring) = self.ring(kind) {
            ring.clear();
        }
        match latest {
            Latest::Nothing => {}
            Latest::Quote(quote) => self.quote.write(&stamped(stamp, quote)),
            Latest::Trade(trade) => self.trade.write(&stamped(stamp, trade)),
            Latest::Ticker(ticker) => self.ticker.write(&stamped(stamp, ticker)),
        }
        self.advance(kind, stamp.seq);
    }

    pub(super) fn write_gap(&self, kind: StreamKind, budget: &Budget, stamp: Stamp, lost: Option<u64>) {
        if let Some(ring) = self.ring_or_new(kind, budget) {
            ring.push(stamp.seq, Tag::Gap as u8, &[lost.unwrap_or(u64::MAX)]);
        }
        // The slot keeps its value under the gap's number: a snapshot carries the last published.
        match kind {
            StreamKind::Quote => renumber(&self.quote, stamp.seq),
            StreamKind::Trade => renumber(&self.trade, stamp.seq),
            StreamKind::Ticker => renumber(&self.ticker, stamp.seq),
            StreamKind::Book(_) => {}
        }
        self.advance(kind, stamp.seq);
    }
}

fn renumber<const N: usize>(slot: &Slot<N>, seq: u64) {
    if let Some(mut words) = slot.read() {
        words[0] = seq;
        slot.write(&words);
    }
}

/// What a stream's latest value is, where it is one.
#[derive(Clone, Copy, Debug)]
pub enum Latest<'a> {
    /// None, or a book, which is not kept here.
    Nothing,
    /// Of quotes.
    Quote(&'a Quote),
    /// Of trades.
    Trade(&'a Trade),
    /// Of tickers.
    Ticker(&'a Ticker),
}

/// A change of one book stream.
#[derive(Clone, Copy, Debug)]
pub struct BookChange<'a> {
    /// When the hub received it.
    pub received: Option<UnixNanos>,
    /// The venue's event time.
    pub ts_event: Option<UnixNanos>,
    /// Changed bids; size zero removes.
    pub bids: &'a [BookLevel],
    /// Changed asks; size zero removes.
    pub asks: &'a [BookLevel],
}

/// Shards by index, each made once.
pub(super) struct Shards {
    shards: Box<[OnceLock<Box<[Cell]>>]>,
}

impl Shards {
    pub(super) fn new(instruments_max: usize) -> Self {
        Self { shards: (0..instruments_max.div_ceil(SHARD_CELLS)).map(|_| OnceLock::new()).collect() }
    }

    /// The cell at `index`, made if it is the first of its shard.
    pub(super) fn make(&self, index: usize) -> &Cell {
        let shard = self.shards[index / SHARD_CELLS].get_or_init(|| (0..SHARD_CELLS).map(|_| Cell::new()).collect());
        &shard[index % SHARD_CELLS]
    }

    #[inline]
    pub(super) fn cell(&self, index: usize) -> Option<&Cell> {
        Some(&self.shards.get(index / SHARD_CELLS)?.get()?[index % SHARD_CELLS])
    }
}
