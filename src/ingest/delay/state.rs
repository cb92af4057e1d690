//! All that is known of an instrument, as one record: what a delayed world goes on from behind
//! calls that were dropped.

use super::Scratch;
use super::record::Cursor;
use crate::ingest::QuoteSource;
use crate::ingest::instrument::{Change, Core, DepthState};
use crate::model::{
    Book, BookLevel, BookSide, Depth, InstrumentKey, Quote, Received, StreamId, StreamKind, Ticker, Trade, UnixNanos,
    Window,
};
use crate::store::{Latest, Stamp, Store};

/// A stored value, and when it was received.
type Stored<T> = Option<(Option<UnixNanos>, T)>;

/// The times of a change: the venue's, and the hub's.
type Times = (Option<UnixNanos>, Option<UnixNanos>);

/// How a book stream stands, and what its window came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Idle,
    Live(Times),
    Lost,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ingest) struct CoreState {
    /// Whether someone writes it now.
    pub(super) claimed: bool,
    book_quotes: bool,
    /// By stream kind.
    sequences: [u64; StreamKind::COUNT],
    quote: Stored<Quote>,
    trade: Stored<Trade>,
    ticker: Stored<Ticker>,
    /// What the writer merges into, and compares with: those of its connection.
    merged: Ticker,
    compared: Quote,
    changed: Times,
    depths: [Standing; 4],
    book: Option<(Vec<BookLevel>, Vec<BookLevel>)>,
}

const CLAIMED: u64 = 1;
const BOOK_QUOTES: u64 = 1 << 1;
const HAS_BOOK: u64 = 1 << 2;
const HAS_QUOTE: u64 = 1 << 3;
const HAS_TRADE: u64 = 1 << 4;
const HAS_TICKER: u64 = 1 << 5;
/// Two bits for each depth from here on.
const DEPTHS_SHIFT: u32 = 8;

impl CoreState {
    /// Of an instrument that nobody writes; of `lost` one bit for each depth whose gap was
    /// published.
    pub(in crate::ingest) fn unclaimed(store: &Store, key: InstrumentKey, lost: u8) -> Self {
        Self {
            claimed: false,
            book_quotes: false,
            sequences: StreamKind::ALL.map(|kind| store.sequence(StreamId { key, kind })),
            quote: store.quote(key).map(|(stamp, quote)| (stamp.received, quote)),
            trade: store.trade(key).map(|(stamp, trade)| (stamp.received, trade)),
            ticker: store.ticker(key).map(|(stamp, ticker)| (stamp.received, ticker)),
            merged: Ticker::default(),
            compared: Quote::default(),
            changed: (None, None),
            depths: Depth::ALL.map(|depth| match lost >> depth as u8 & 1 {
                1 => Standing::Lost,
                _ => Standing::Idle,
            }),
            book: None,
        }
    }

    pub(super) fn write(&self, scratch: &mut Scratch) {
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        let depth = |(index, standing): (usize, &Standing)| {
            let code = match standing {
                Standing::Idle => 0,
                Standing::Live(_) => 1,
                Standing::Lost => 2,
            };
            code << (DEPTHS_SHIFT + 2 * index as u32)
        };
        let flags = flag(self.claimed, CLAIMED)
            | flag(self.book_quotes, BOOK_QUOTES)
            | flag(self.book.is_some(), HAS_BOOK)
            | flag(self.quote.is_some(), HAS_QUOTE)
            | flag(self.trade.is_some(), HAS_TRADE)
            | flag(self.ticker.is_some(), HAS_TICKER)
            | self.depths.iter().enumerate().map(depth).sum::<u64>();
        scratch.word(flags);
        for seq in self.sequences {
            scratch.word(seq);
        }
        if let Some((received, quote)) = &self.quote {
            scratch.time(*received).value(quote);
        }
        if let Some((received, trade)) = &self.trade {
            scratch.time(*received).value(trade);
        }
        if let Some((received, ticker)) = &self.ticker {
            scratch.time(*received).value(ticker);
        }
        scratch.value(&self.merged).value(&self.compared).time(self.changed.0).time(self.changed.1);
        for standing in self.depths {
            if let Standing::Live((ts, received)) = standing {
                scratch.time(ts).time(received);
            }
        }
        if let Some((bids, asks)) = &self.book {
            scratch.levels(bids, asks);
        }
    }

    /// The inverse of [`Self::write`].
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        let flags = cursor.word()?;
        let has = |bit: u64| flags & bit != 0;
        let mut sequences = [0; StreamKind::COUNT];
        for seq in &mut sequences {
            *seq = cursor.word()?;
        }
        let quote = if has(HAS_QUOTE) { Some((cursor.time()?, cursor.value()?)) } else { None };
        let trade = if has(HAS_TRADE) { Some((cursor.time()?, cursor.value()?)) } else { None };
        let ticker = if has(HAS_TICKER) { Some((cursor.time()?, cursor.value()?)) } else { None };
        let (merged, compared) = (cursor.value()?, cursor.value()?);
        let changed = (cursor.time()?, cursor.time()?);
        let mut depths = [Standing::Idle; 4];
        for (index, standing) in depths.iter_mut().enumerate() {
            *standing = match flags >> (DEPTHS_SHIFT + 2 * index as u32) & 3 {
                0 => Standing::Idle,
                1 => Standing::Live((cursor.time()?, cursor.time()?)),
                _ => Standing::Lost,
            };
        }
        let book = if has(HAS_BOOK) {
            let (mut bids, mut asks) = (Vec::new(), Vec::new());
            cursor.levels(&mut bids, &mut asks)?;
            Some((bids, asks))
        } else {
            None
        };
        let (claimed, book_quotes) = (has(CLAIMED), has(BOOK_QUOTES));
        Some(Self { claimed, book_quotes, sequences, quote, trade, ticker, merged, compared, changed, depths, book })
    }

    /// The value of a stream, to be stored under its number.
    fn latest(&self, kind: StreamKind) -> (Option<UnixNanos>, Latest<'_>) {
        let found = match kind {
            StreamKind::Quote => self.quote.as_ref().map(|(received, quote)| (*received, Latest::Quote(quote))),
            StreamKind::Trade => self.trade.as_ref().map(|(received, trade)| (*received, Latest::Trade(trade))),
            StreamKind::Ticker => self.ticker.as_ref().map(|(received, ticker)| (*received, Latest::Ticker(ticker))),
            StreamKind::Book(_) => None,
        };
        found.unwrap_or((None, Latest::Nothing))
    }
}

impl Core {
    /// All that is known of the instrument.
    pub(in crate::ingest) fn state(&self) -> CoreState {
        let side = |book: &Book, side| book.window(side, Depth::All).copied().collect::<Vec<_>>();
        CoreState {
            claimed: true,
            book_quotes: self.quotes == QuoteSource::Book,
            merged: self.ticker,
            compared: self.quote,
            changed: (self.changed.ts_event, self.changed.received.wall),
            depths: Depth::ALL.map(|depth| match &self.depths[depth as usize] {
                DepthState::Idle => Standing::Idle,
                DepthState::Live { changed, .. } => Standing::Live((changed.ts_event, changed.received.wall)),
                DepthState::Lost => Standing::Lost,
            }),
            book: self.book.as_ref().map(|book| (side(book, BookSide::Bid), side(book, BookSide::Ask))),
            ..CoreState::unclaimed(&self.publisher.store, self.writer.key(), 0)
        }
    }

    /// Goes on from `state`, in place of calls that were dropped. Workers are told to bring
    /// themselves up to it: what lies between is a gap to their subscribers.
    pub(in crate::ingest) fn adopt(&mut self, state: &CoreState, mono: u64) {
        for kind in StreamKind::ALL {
            let seq = state.sequences[kind.index()];
            if self.writer.sequence(kind) != seq {
                let (received, latest) = state.latest(kind);
                self.writer.skip(kind, Stamp { seq, received }, latest);
            }
        }
        let change = |(ts_event, wall): Times| Change { ts_event, received: Received { wall, mono } };
        self.quotes = if state.book_quotes { QuoteSource::Book } else { QuoteSource::Venue };
        (self.ticker, self.quote, self.changed) = (state.merged, state.compared, change(state.changed));
        self.book = state.book.as_ref().and_then(|(bids, asks)| Book::from_snapshot(bids, asks).ok());
        for depth in Depth::ALL {
            self.depths[depth as usize] = match (state.depths[depth as usize], &self.book) {
                (Standing::Idle, _) => DepthState::Idle,
                (Standing::Live(times), Some(book)) => {
                    DepthState::Live { window: Window::of(book, depth), changed: change(times) }
                }
                (Standing::Live(_), None) | (Standing::Lost, _) => DepthState::Lost,
            };
        }
        self.writer.publish();
        self.publisher.lose();
    }
}
