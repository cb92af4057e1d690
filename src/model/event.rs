//! What a venue says: quotes, trades, tickers, book changes, and the state of its feed.

use std::fmt;

use super::Decimal;

/// Nanoseconds since the Unix epoch, UTC. Venue clocks may run ahead of ours: differences are
/// signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixNanos(pub i64);

impl UnixNanos {
    /// From the milliseconds that most venues send; `None` where it does not fit.
    #[must_use]
    pub fn from_millis(millis: i64) -> Option<Self> {
        millis.checked_mul(1_000_000).map(Self)
    }
}

/// When a message reached the hub's socket, on two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Wall clock: the `rx` of the wire. `None` only for recorded rows without a time.
    pub wall: Option<UnixNanos>,
    /// Monotonic clock of this process, in ns: for latencies.
    pub mono: u64,
}

/// Best bid and offer. A side that the venue leaves empty is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quote {
    /// The venue's event time.
    pub ts_event: Option<UnixNanos>,
    /// Best bid.
    pub bid: Option<BookLevel>,
    /// Best ask.
    pub ask: Option<BookLevel>,
}

/// Who took the liquidity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AggressorSide {
    /// The buyer.
    Buy,
    /// The seller.
    Sell,
    /// The venue does not say.
    #[default]
    Unknown,
}

impl AggressorSide {
    /// The word for it on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Buy => "buy",
            Self::Sell => "sell",
            Self::Unknown => "unknown",
        }
    }
}

/// The venue's id of a trade, held in place: at most [`TradeId::BYTES_MAX`] printable ASCII bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TradeId {
    bytes: [u8; Self::BYTES_MAX],
    len: u8,
}

impl TradeId {
    /// Longest id that is taken: every known venue stays below 40.
    pub const BYTES_MAX: usize = 63;

    /// No id.
    pub const EMPTY: Self = Self { bytes: [0; Self::BYTES_MAX], len: 0 };

    /// Copies `text`; `None` where it is too long or not printable ASCII (which JSON could not
    /// carry as it is).
    #[must_use]
    pub fn new(text: &[u8]) -> Option<Self> {
        let sane = |b: &u8| (0x20..0x7f).contains(b) && *b != b'"' && *b != b'\\';
        if text.len() > Self::BYTES_MAX || !text.iter().all(sane) {
            return None;
        }
        let mut bytes = [0; Self::BYTES_MAX];
        bytes[..text.len()].copy_from_slice(text);
        Some(Self { bytes, len: text.len() as u8 })
    }

    /// An id that the venue sends as a number.
    #[must_use]
    pub fn from_u64(number: u64) -> Self {
        let mut buffer = itoa::Buffer::new();
        let text = buffer.format(number).as_bytes();
        let mut bytes = [0; Self::BYTES_MAX];
        bytes[..text.len()].copy_from_slice(text);
        Self { bytes, len: text.len() as u8 }
    }

    /// The id's bytes: printable ASCII without quote or backslash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Whether there is no id.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Default for TradeId {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl fmt::Debug for TradeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(self.as_bytes()), f)
    }
}

/// One execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trade {
    /// The venue's event time.
    pub ts_event: Option<UnixNanos>,
    /// Price.
    pub price: Decimal,
    /// Size, in the venue's unit.
    pub size: Decimal,
    /// Who took the liquidity.
    pub side: AggressorSide,
    /// The venue's id of it; empty where it gives none.
    pub id: TradeId,
}

/// What the venue itself states of a session or day. A member that it does not state is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The venue's event time.
    pub ts_event: Option<UnixNanos>,
    /// Opening price.
    pub open: Option<Decimal>,
    /// Highest price.
    pub high: Option<Decimal>,
    /// Lowest price.
    pub low: Option<Decimal>,
    /// Traded volume.
    pub volume: Option<Decimal>,
}

/// The merged latest state of an instrument: one event for each change of any member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticker {
    /// The venue's event time of what caused the last change.
    pub ts_event: Option<UnixNanos>,
    /// Price and size of the last trade.
    pub last: Option<BookLevel>,
    /// Best bid.
    pub bid: Option<BookLevel>,
    /// Best ask.
    pub ask: Option<BookLevel>,
    /// Opening price, as the venue states it.
    pub open: Option<Decimal>,
    /// Highest price, as the venue states it.
    pub high: Option<Decimal>,
    /// Lowest price, as the venue states it.
    pub low: Option<Decimal>,
    /// Traded volume, as the venue states it.
    pub volume: Option<Decimal>,
}

/// A price and the size there. In a change, size zero removes the level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BookLevel {
    /// Price.
    pub price: Decimal,
    /// Size, in the venue's unit.
    pub size: Decimal,
}

/// A side of a book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BookSide {
    /// Buyers: best is highest.
    Bid,
    /// Sellers: best is lowest.
    Ask,
}

/// The state of a feed, as its subscribers are told in band.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FeedState {
    /// Data flows, or would if the venue had any.
    Live = 0,
    /// Connected, but silent for longer than its bound.
    Stale = 1,
    /// Connected again, not yet complete.
    Recovering = 2,
    /// Not connected.
    Down = 3,
}

impl FeedState {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Live, Self::Stale, Self::Recovering, Self::Down];

    /// The word for it on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Stale => "stale",
            Self::Recovering => "recovering",
            Self::Down => "down",
        }
    }
}

/// Why numbers of a stream did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum GapCause {
    /// The subscriber did not take them in time.
    SlowConsumer = 1,
    /// The venue's stream had a hole, or its connection was lost.
    Upstream = 2,
    /// The hub no longer holds them, or one of its own queues was full.
    Hub = 3,
}

impl GapCause {
    /// The word for it on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SlowConsumer => "slow_consumer",
            Self::Upstream => "upstream",
            Self::Hub => "hub",
        }
    }
}
