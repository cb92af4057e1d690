//! The latest value of every instrument, and its recent events.
//!
//! Writing is wait-free and done by the one [`Writer`] of an instrument; reading never blocks it.
//! The directory (ids, definitions, feeds) is on the control side and uses ordinary locks.

use std::sync::{Arc, OnceLock, RwLock};

use dashmap::DashMap;

use crate::limits::{FEEDS_MAX, FORMATS_MAX, INSTRUMENTS_MAX, RING_BUDGET_SHARE, RING_BYTES_MAX, RING_BYTES_MIN};
use crate::model::{
    BookLevel, FeedState, InstrumentDefinition, InstrumentId, InstrumentKey, Quote, StreamId, StreamKind, Ticker,
    Trade, UnixNanos,
};
use crate::sync::{AtomicU64, Ordering, fence};

mod beside;
mod record;
mod ring;
mod shard;
mod slot;

pub use record::Stamp;
pub(crate) use record::{Words, time_word, trade_words_used, word_time};
pub use shard::{BookChange, Latest};

use record::{book_from_words, unstamped};
use ring::{Record, Ring};
use shard::{Cell, Shards};

/// What a ring's record is.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Tag {
    Value = 0,
    Gap = 1,
}

/// The hub-wide bound on the memory of all rings.
pub(crate) struct Budget {
    bytes_max: usize,
    bytes_used: AtomicU64,
    refused: AtomicU64,
}

impl Budget {
    /// A ring as large as the budget allows now: full-sized while there is plenty, smaller as it
    /// runs out, none at the end.
    fn ring(&self) -> Option<Box<Ring>> {
        let left = self.bytes_max.saturating_sub(self.bytes_used.load(Ordering::Relaxed) as usize);
        let share = (left / RING_BUDGET_SHARE).clamp(RING_BYTES_MIN, RING_BYTES_MAX);
        let bytes = 1 << share.ilog2();
        if bytes > left {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.bytes_used.fetch_add(bytes as u64, Ordering::Relaxed);
        Some(Box::new(Ring::new(bytes / 8)))
    }
}

/// The memory of all resume rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingUse {
    /// Bytes taken.
    pub bytes_used: u64,
    /// The bound.
    pub bytes_max: u64,
    /// Streams that got no ring because the budget was used up.
    pub refused: u64,
}

/// Who wants a stream: for each format one bit for each worker. Which number a format has is for
/// those to say who encode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest(pub [u64; FORMATS_MAX]);

impl Interest {
    /// Whether nobody does.
    #[inline]
    #[must_use]
    pub fn is_none(self) -> bool {
        self.0.iter().all(|mask| *mask == 0)
    }

    /// The interest of one worker in one format.
    #[must_use]
    pub fn of(worker: usize, format: usize) -> Self {
        let mut interest = Self::default();
        interest.0[format] = 1 << worker;
        interest
    }

    /// One bit for each worker that wants it in the format of this number.
    #[inline]
    #[must_use]
    pub fn workers(self, format: usize) -> u64 {
        self.0.get(format).copied().unwrap_or(0)
    }
}

/// A feed as its subscribers are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedStatus {
    /// Its state.
    pub state: FeedState,
    /// Why, in words.
    pub cause: Arc<str>,
    /// Since when.
    pub since: UnixNanos,
    /// How often it has changed.
    pub changes: u64,
}

/// One upstream: a venue, its numbering's epoch, its state.
pub struct Feed {
    /// The venue that it publishes.
    pub venue: Box<str>,
    /// Changes whenever its numbering starts anew.
    pub epoch: Arc<str>,
    first: FeedStatus,
    status: RwLock<FeedStatus>,
    left_out: RwLock<Vec<String>>,
}

impl Feed {
    /// The venue's symbols that cannot be written as an id, or whose id another has.
    #[must_use]
    pub fn left_out(&self) -> Vec<String> {
        self.left_out.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Sets what is left out. Only the feed's own ingest calls it.
    pub(crate) fn set_left_out(&self, symbols: Vec<String>) {
        *self.left_out.write().unwrap_or_else(std::sync::PoisonError::into_inner) = symbols;
    }

    /// Its state when it was registered.
    #[must_use]
    pub const fn first(&self) -> &FeedStatus {
        &self.first
    }

    /// Its state now.
    #[must_use]
    pub fn status(&self) -> FeedStatus {
        self.status.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Sets its state. Only the feed's own ingest calls it.
    pub(crate) fn set_status(&self, status: FeedStatus) {
        *self.status.write().unwrap_or_else(std::sync::PoisonError::into_inner) = status;
    }
}

/// Why an instrument was not claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Another writer has it: two raw symbols with one id, or two providers.
    #[error("already claimed by another writer")]
    Taken,
    /// The hub holds as many instruments as it can.
    #[error("the directory is full")]
    Full,
    /// The instrument belongs to another feed.
    #[error("belongs to another feed")]
    OtherFeed,
}

/// A recent event, read back for `resume`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// A quote.
    Quote(Stamp, Quote),
    /// A trade.
    Trade(Stamp, Trade),
    /// A ticker.
    Ticker(Stamp, Ticker),
    /// A change of a book stream.
    Book {
        /// Number and receive time.
        stamp: Stamp,
        /// The venue's event time.
        ts_event: Option<UnixNanos>,
        /// Changed bids.
        bids: Vec<BookLevel>,
        /// Changed asks.
        asks: Vec<BookLevel>,
    },
    /// An upstream loss.
    Gap {
        /// The number it took.
        seq: u64,
        /// How many events were lost, where known.
        lost: Option<u64>,
    },
}

impl Held {
    /// The event's number.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        match self {
            Self::Quote(stamp, _) | Self::Trade(stamp, _) | Self::Ticker(stamp, _) | Self::Book { stamp, .. } => {
                stamp.seq
            }
            Self::Gap { seq, .. } => *seq,
        }
    }
}

/// The latest values of all instruments, shared by everyone.
pub struct Store {
    shards: Shards,
    len: AtomicU64,
    directory: DashMap<InstrumentId, InstrumentKey>,
    feeds: [OnceLock<Feed>; FEEDS_MAX],
    budget: Arc<Budget>,
    /// Interest that every new instrument begins with, by stream kind.
    initial_interest: [Interest; StreamKind::COUNT],
    /// Serializes the appearance of instruments and feeds; never taken on the hot path.
    growing: std::sync::Mutex<()>,
}

impl Store {
    /// An empty store whose resume rings may take `ring_bytes_max` in all.
    #[must_use]
    pub fn new(ring_bytes_max: usize) -> Arc<Self> {
        Self::with_interest(ring_bytes_max, &[], Interest::default())
    }

    /// A store whose instruments begin with this interest in `kinds`: for a reader that wants
    /// everything from the first event on.
    #[must_use]
    pub fn with_interest(ring_bytes_max: usize, kinds: &[StreamKind], interest: Interest) -> Arc<Self> {
        let budget = Budget { bytes_max: ring_bytes_max, bytes_used: AtomicU64::new(0), refused: AtomicU64::new(0) };
        let mut initial_interest = [Interest::default(); StreamKind::COUNT];
        for kind in kinds {
            initial_interest[kind.index()] = interest;
        }
        Self::within(Arc::new(budget), initial_interest)
    }

    fn within(budget: Arc<Budget>, initial_interest: [Interest; StreamKind::COUNT]) -> Arc<Self> {
        Arc::new(Self {
            initial_interest,
            shards: Shards::new(INSTRUMENTS_MAX),
            len: AtomicU64::new(0),
            directory: DashMap::new(),
            feeds: std::array::from_fn(|_| OnceLock::new()),
            budget,
            growing: std::sync::Mutex::new(()),
        })
    }

    /// Registers a feed, or finds the one of that venue; `None` where there are too many.
    pub fn feed_of(&self, venue: &str, epoch: &str, now: UnixNanos) -> Option<u8> {
        let _growing = self.growing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (index, cell) in self.feeds.iter().enumerate() {
            let feed = cell.get_or_init(|| {
                let cause = "not yet connected".into();
                let first = FeedStatus { state: FeedState::Down, cause, since: now, changes: 0 };
                Feed {
                    venue: venue.into(),
                    epoch: epoch.into(),
                    left_out: RwLock::default(),
                    status: RwLock::new(first.clone()),
                    first,
                }
            });
            if &*feed.venue == venue {
                return Some(index as u8);
            }
        }
        None
    }

    /// A feed by its index.
    #[must_use]
    pub fn feed(&self, index: u8) -> Option<&Feed> {
        self.feeds.get(usize::from(index))?.get()
    }

    /// All feeds, with their indexes.
    pub fn feeds(&self) -> impl Iterator<Item = (u8, &Feed)> {
        self.feeds.iter().enumerate().map_while(|(index, cell)| Some((index as u8, cell.get()?)))
    }

    /// How many instruments there are; their keys are `0..len`.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len.load(Ordering::Acquire) as u32
    }

    /// Whether no instrument has appeared yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key of an id.
    #[must_use]
    pub fn key(&self, id: &InstrumentId) -> Option<InstrumentKey> {
        self.directory.get(id).map(|entry| *entry)
    }

    fn cell(&self, key: InstrumentKey) -> Option<&Cell> {
        self.shards.cell(key.index())
    }

    /// The definition of an instrument.
    #[must_use]
    pub fn definition(&self, key: InstrumentKey) -> Option<&InstrumentDefinition> {
        self.cell(key)?.definition.get()
    }

    /// The index of the feed that an instrument belongs to.
    #[must_use]
    pub fn feed_index(&self, key: InstrumentKey) -> Option<u8> {
        self.cell(key)?.feed.get().copied()
    }

    /// The number last published on a stream; 0 = none yet.
    #[must_use]
    pub fn sequence(&self, stream: StreamId) -> u64 {
        self.cell(stream.key).map_or(0, |cell| cell.sequence(stream.kind))
    }

    /// The latest quote.
    #[must_use]
    pub fn quote(&self, key: InstrumentKey) -> Option<(Stamp, Quote)> {
        unstamped(&self.cell(key)?.quote.read()?)
    }

    /// The last trade.
    #[must_use]
    pub fn trade(&self, key: InstrumentKey) -> Option<(Stamp, Trade)> {
        unstamped(&self.cell(key)?.trade.read()?)
    }

    /// The merged latest state.
    #[must_use]
    pub fn ticker(&self, key: InstrumentKey) -> Option<(Stamp, Ticker)> {
        unstamped(&self.cell(key)?.ticker.read()?)
    }

    /// Declares the interest of a worker in a stream in a format. Every event that is written
    /// after the values read behind this call reaches the worker's lane in that format.
    pub fn want(&self, stream: StreamId, worker: usize, format: usize) {
        if let Some(cell) = self.cell(stream.key) {
            cell.want(stream.kind, (worker, format));
        }
    }

    /// Takes it back.
    pub fn unwant(&self, stream: StreamId, worker: usize, format: usize) {
        if let Some(cell) = self.cell(stream.key) {
            cell.unwant(stream.kind, (worker, format));
        }
    }

    /// The held events of a stream after number `seq`, oldest first, at most `records_max`.
    #[must_use]
    pub fn held_after(&self, stream: StreamId, seq: u64, records_max: usize) -> Vec<Held> {
        let Some(ring) = self.cell(stream.key).and_then(|cell| cell.ring(stream.kind)) else { return Vec::new() };
        let mut records = Vec::new();
        ring.after(seq, records_max, &mut records);
        records.into_iter().filter_map(|record| held(stream.kind, &record)).collect()
    }

    /// The memory of all resume rings.
    #[must_use]
    pub fn ring_use(&self) -> RingUse {
        RingUse {
            bytes_used: self.budget.bytes_used.load(Ordering::Relaxed),
            bytes_max: self.budget.bytes_max as u64,
            refused: self.budget.refused.load(Ordering::Relaxed),
        }
    }

    /// Claims an instrument for one writer, making it if it is new; says whether it is.
    ///
    /// # Errors
    /// [`ClaimError`] where another has it, or there is no room.
    pub fn claim(self: &Arc<Self>, definition: InstrumentDefinition, feed: u8) -> Result<(Writer, bool), ClaimError> {
        let _growing = self.growing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = self.key(&definition.id);
        let key = match known {
            Some(key) => key,
            None if (self.len() as usize) < INSTRUMENTS_MAX => InstrumentKey(self.len()),
            None => return Err(ClaimError::Full),
        };
        let cell = self.shards.make(key.index());
        if *cell.feed.get_or_init(|| feed) != feed {
            return Err(ClaimError::OtherFeed);
        }
        if cell.claimed.swap(true, Ordering::AcqRel) {
            return Err(ClaimError::Taken);
        }
        let id = definition.id.clone();
        if known.is_none() && cell.definition.set(definition).is_ok() {
            cell.begin_interest(&self.initial_interest);
            self.len.store(u64::from(key.0) + 1, Ordering::Release);
            self.directory.insert(id, key);
        }
        Ok((Writer { store: Arc::clone(self), key }, known.is_none()))
    }
}

fn held(kind: StreamKind, record: &Record) -> Option<Held> {
    if record.tag == Tag::Gap as u8 {
        let lost = *record.data.first()?;
        return Some(Held::Gap { seq: record.seq, lost: (lost != u64::MAX).then_some(lost) });
    }
    let mut words = vec![record.seq];
    words.extend(&record.data);
    match kind {
        StreamKind::Quote => unstamped(&words).map(|(stamp, quote)| Held::Quote(stamp, quote)),
        StreamKind::Trade => unstamped(&words).map(|(stamp, trade)| Held::Trade(stamp, trade)),
        StreamKind::Ticker => unstamped(&words).map(|(stamp, ticker)| Held::Ticker(stamp, ticker)),
        StreamKind::Book(_) => {
            let (received, ts_event, bids, asks) = book_from_words(&record.data)?;
            Some(Held::Book { stamp: Stamp { seq: record.seq, received }, ts_event, bids, asks })
        }
    }
}

/// The one writer of an instrument. Not `Clone`; dropping it lets another claim the instrument.
pub struct Writer {
    store: Arc<Store>,
    key: InstrumentKey,
}

impl Writer {
    /// The instrument's key.
    #[must_use]
    pub const fn key(&self) -> InstrumentKey {
        self.key
    }

    #[inline]
    fn cell(&self) -> &Cell {
        self.store.shards.make(self.key.index())
    }

    /// Makes a quote the latest.
    #[inline]
    pub fn quote(&mut self, stamp: Stamp, quote: &Quote) {
        self.cell().write_quote(&self.store.budget, stamp, quote);
    }

    /// Makes a trade the last.
    #[inline]
    pub fn trade(&mut self, stamp: Stamp, trade: &Trade) {
        self.cell().write_trade(&self.store.budget, stamp, trade);
    }

    /// Makes a merged state the latest.
    #[inline]
    pub fn ticker(&mut self, stamp: Stamp, ticker: &Ticker) {
        self.cell().write_ticker(&self.store.budget, stamp, ticker);
    }

    /// Keeps a book stream's change for `resume`.
    pub fn book(&mut self, kind: StreamKind, seq: u64, change: &BookChange<'_>) {
        self.cell().write_book(kind, &self.store.budget, seq, change);
    }

    /// A book stream comes into use: its numbering goes on with `seq`, its history begins anew.
    pub fn begin_book(&mut self, kind: StreamKind, seq: u64) {
        self.cell().begin_book(kind, seq);
    }

    /// Goes on from `stamp`, with `latest` under its number: what came between is not known here
    /// and cannot be resumed from.
    pub fn skip(&mut self, kind: StreamKind, stamp: Stamp, latest: Latest<'_>) {
        self.cell().skip(kind, stamp, latest);
    }

    /// An upstream loss takes the number of `stamp`.
    pub fn gap(&mut self, kind: StreamKind, stamp: Stamp, lost: Option<u64>) {
        self.cell().write_gap(kind, &self.store.budget, stamp, lost);
    }

    /// The number last published on a stream.
    #[must_use]
    pub fn sequence(&self, kind: StreamKind) -> u64 {
        self.cell().sequence(kind)
    }

    /// Orders all that was written before every [`Self::interest`] behind it.
    #[inline]
    pub fn publish(&self) {
        fence(Ordering::SeqCst);
    }

    /// Who wants the stream. Call [`Self::publish`] first.
    #[inline]
    #[must_use]
    pub fn interest(&self, kind: StreamKind) -> Interest {
        self.cell().interest(kind)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.cell().claimed.store(false, Ordering::Release);
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests;
#[cfg(all(test, not(feature = "loom")))]
mod tests;
