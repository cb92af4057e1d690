//! Channels, book depths, and the streams that are numbered.

use super::InstrumentKey;

/// What a subscriber names: a kind of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// Merged latest state.
    Ticker,
    /// Best bid and offer.
    Quote,
    /// Executions.
    Trade,
    /// Price levels.
    Book,
    /// State of the feeds.
    Status,
}

impl Channel {
    /// Every channel that the hub makes.
    pub const ALL: [Self; 5] = [Self::Ticker, Self::Quote, Self::Trade, Self::Book, Self::Status];

    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ticker => "ticker",
            Self::Quote => "quote",
            Self::Trade => "trade",
            Self::Book => "book",
            Self::Status => "status",
        }
    }

    /// The channel of a name on the wire.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.as_str() == name)
    }
}

/// How many levels a side a book stream carries. Ordered from the smallest to the deepest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Depth {
    /// The best level.
    One,
    /// Ten levels: the default.
    Ten,
    /// Fifty levels.
    Fifty,
    /// All that the hub has; `0` on the wire.
    All,
}

impl Depth {
    /// Every depth, smallest first.
    pub const ALL: [Self; 4] = [Self::One, Self::Ten, Self::Fifty, Self::All];

    /// The number for it on the wire.
    #[must_use]
    pub const fn wire(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Ten => 10,
            Self::Fifty => 50,
            Self::All => 0,
        }
    }

    /// The depth of a number on the wire.
    #[must_use]
    pub fn from_wire(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|depth| u64::from(depth.wire()) == number)
    }

    /// Levels a side at most.
    #[must_use]
    pub const fn levels_max(self) -> usize {
        match self {
            Self::One => 1,
            Self::Ten => 10,
            Self::Fifty => 50,
            Self::All => usize::MAX,
        }
    }
}

/// What is numbered, for one instrument: a channel, for `book` with its depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StreamKind {
    /// The `ticker` stream.
    Ticker,
    /// The `quote` stream.
    Quote,
    /// The `trade` stream.
    Trade,
    /// One `book` stream.
    Book(Depth),
}

impl StreamKind {
    /// How many kinds there are: the stride of dense tables.
    pub const COUNT: usize = 7;

    /// Every kind, by index.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Ticker,
        Self::Quote,
        Self::Trade,
        Self::Book(Depth::One),
        Self::Book(Depth::Ten),
        Self::Book(Depth::Fifty),
        Self::Book(Depth::All),
    ];

    /// Its place in dense tables.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Ticker => 0,
            Self::Quote => 1,
            Self::Trade => 2,
            Self::Book(depth) => 3 + depth as usize,
        }
    }

    /// The channel it belongs to.
    #[must_use]
    pub const fn channel(self) -> Channel {
        match self {
            Self::Ticker => Channel::Ticker,
            Self::Quote => Channel::Quote,
            Self::Trade => Channel::Trade,
            Self::Book(_) => Channel::Book,
        }
    }
}

/// A numbered stream: one instrument and one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId {
    /// The instrument.
    pub key: InstrumentKey,
    /// The kind.
    pub kind: StreamKind,
}

impl StreamId {
    /// Its place in dense tables over all instruments.
    #[must_use]
    pub const fn index(self) -> usize {
        self.key.index() * StreamKind::COUNT + self.kind.index()
    }
}
