//! The simulated market: correlated random walks with spreads, sizes, trades and ten-level books.
//! Pure and integer only: equal seeds make equal events, whatever the clock.

use super::config::Config;
use crate::model::{AggressorSide, BookLevel, BookSide, Decimal, Quote, Trade, TradeId, UnixNanos};
use crate::provider::random::Random;

/// Levels a side of a simulated book.
pub(crate) const LEVELS: usize = 10;

/// One event of one instrument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SimEvent {
    /// Which instrument, counted from 0.
    pub(crate) instrument: usize,
    pub(crate) kind: SimKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// The largest variant is the trade with its id in place; a box would be an allocation an event.
#[allow(clippy::large_enum_variant)]
pub(crate) enum SimKind {
    Quote(Quote),
    Trade(Trade),
    Book(BookChange),
}

/// One or two changed levels of one side: a level that moves in pushes one out at the far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BookChange {
    pub(crate) ts_event: UnixNanos,
    side: BookSide,
    levels: [BookLevel; 2],
    len: u8,
}

impl BookChange {
    pub(crate) fn bids(&self) -> &[BookLevel] {
        self.of(BookSide::Bid)
    }

    pub(crate) fn asks(&self) -> &[BookLevel] {
        self.of(BookSide::Ask)
    }

    fn of(&self, side: BookSide) -> &[BookLevel] {
        if self.side == side { &self.levels[..usize::from(self.len)] } else { &[] }
    }
}

/// One instrument. Prices are in ticks and sizes in lots; the ladder has a level on every tick.
#[derive(Clone, Debug)]
struct Listing {
    bid: i64,
    ask: i64,
    /// The price that the walk is pulled back to, so that it never reaches nothing.
    anchor: i64,
    /// The pull grows by one unit with every `2^pull_shift` ticks of distance.
    pull_shift: u8,
    /// How far it follows the market's drift: 0 to 15.
    beta: u8,
    spread_max: u8,
    price_exponent: i8,
    size_exponent: i8,
    trades: u64,
    /// Lots, best first.
    bid_sizes: [u32; LEVELS],
    ask_sizes: [u32; LEVELS],
}

/// Price classes as venues have them: digits behind the point of prices and of sizes, lowest
/// starting price in ticks.
const CLASSES: [(i8, i8, i64); 4] = [(-2, 0, 2_000), (-2, -4, 50_000), (-4, -2, 5_000), (-8, 0, 20_000)];

impl Listing {
    /// The instrument `index` of the market of `seed`, whatever others there are.
    fn new(seed: u64, index: u64) -> Self {
        let mut random = Random::new(seed ^ index.wrapping_mul(0xd134_2543_de82_ef95));
        let (price_exponent, size_exponent, lowest) = CLASSES[random.below(4) as usize];
        let anchor = lowest + random.below(9 * lowest as u64) as i64;
        let spread_max = 2 + random.below(5) as u8;
        let mut sizes = || std::array::from_fn(|_| lots(random.next()));
        let (bid_sizes, ask_sizes) = (sizes(), sizes());
        Self {
            bid: anchor,
            ask: anchor + 1,
            anchor,
            pull_shift: (anchor as u64).ilog2().saturating_sub(10) as u8,
            beta: 4 + random.below(12) as u8,
            spread_max,
            price_exponent,
            size_exponent,
            trades: 0,
            bid_sizes,
            ask_sizes,
        }
    }

    #[inline]
    fn level(&self, ticks: i64, lots: u32) -> BookLevel {
        BookLevel { price: exact(ticks, self.price_exponent), size: exact(lots.into(), self.size_exponent) }
    }

    fn quote(&self, ts: UnixNanos) -> Quote {
        let (bid, ask) = (self.level(self.bid, self.bid_sizes[0]), self.level(self.ask, self.ask_sizes[0]));
        Quote { ts_event: Some(ts), bid: Some(bid), ask: Some(ask) }
    }

    fn trade(&mut self, ts: UnixNanos, up: bool, bits: u64) -> Trade {
        self.trades += 1;
        let (side, ticks, offered) = if up {
            (AggressorSide::Buy, self.ask, self.ask_sizes[0])
        } else {
            (AggressorSide::Sell, self.bid, self.bid_sizes[0])
        };
        // Part of what is offered; what is taken is filled up again at once.
        let size = 1 + ((u64::from(offered) * (bits & 0xff)) >> 8) as u32;
        let BookLevel { price, size } = self.level(ticks, size.min(offered));
        Trade { ts_event: Some(ts), price, size, side, id: TradeId::from_u64(self.trades) }
    }

    /// Moves one side of the top by one tick, up or down, so that the spread stays between one
    /// tick and `spread_max`.
    fn step(&mut self, ts: UnixNanos, up: bool, bits: u64) -> BookChange {
        let spread = self.ask - self.bid;
        let narrow = spread > 1 && (spread >= self.spread_max.into() || bits & 3 != 0);
        let new = lots(bits >> 8);
        match (up, narrow) {
            (true, true) => {
                self.bid += 1;
                push_in(&mut self.bid_sizes, new);
                self.change(ts, BookSide::Bid, [(self.bid, new), (self.bid - LEVELS as i64, 0)], 2)
            }
            (true, false) => {
                self.ask += 1;
                push_out(&mut self.ask_sizes, new);
                self.change(ts, BookSide::Ask, [(self.ask - 1, 0), (self.ask + LEVELS as i64 - 1, new)], 2)
            }
            (false, true) => {
                self.ask -= 1;
                push_in(&mut self.ask_sizes, new);
                self.change(ts, BookSide::Ask, [(self.ask, new), (self.ask + LEVELS as i64, 0)], 2)
            }
            (false, false) => {
                self.bid -= 1;
                push_out(&mut self.bid_sizes, new);
                self.change(ts, BookSide::Bid, [(self.bid + 1, 0), (self.bid - LEVELS as i64 + 1, new)], 2)
            }
        }
    }

    /// Changes the size at one level.
    fn resize(&mut self, ts: UnixNanos, level: usize, bits: u64) -> BookChange {
        let (side, sizes) = match bits & 1 {
            0 => (BookSide::Bid, &mut self.bid_sizes),
            _ => (BookSide::Ask, &mut self.ask_sizes),
        };
        let mut new = lots(bits >> 8);
        // A change that changes nothing is none.
        new += u32::from(new == sizes[level]);
        sizes[level] = new;
        let ticks = if side == BookSide::Bid { self.bid - level as i64 } else { self.ask + level as i64 };
        self.change(ts, side, [(ticks, new); 2], 1)
    }

    fn change(&self, ts_event: UnixNanos, side: BookSide, levels: [(i64, u32); 2], len: u8) -> BookChange {
        BookChange { ts_event, side, levels: levels.map(|(ticks, lots)| self.level(ticks, lots)), len }
    }

    /// How many of 256 steps go up: the pull back to the anchor and the drift of the market.
    #[inline]
    fn up_of_256(&self, drift: i64) -> i64 {
        let pull = ((self.anchor - self.bid) >> self.pull_shift).clamp(-96, 96);
        (128 + pull + ((drift * i64::from(self.beta)) >> 4)).clamp(8, 248)
    }
}

/// Puts a new best level in front; the farthest falls out.
fn push_in(sizes: &mut [u32; LEVELS], new: u32) {
    sizes.copy_within(..LEVELS - 1, 1);
    sizes[0] = new;
}

/// Takes the best level away; a new one comes in at the far end.
fn push_out(sizes: &mut [u32; LEVELS], new: u32) {
    sizes.copy_within(1.., 0);
    sizes[LEVELS - 1] = new;
}

/// 1 to 1024 lots, small ones more often than large ones.
#[inline]
const fn lots(bits: u64) -> u32 {
    let shift = (bits >> 10) & 7;
    1 + ((bits & 0x3ff) >> shift) as u32
}

#[inline]
fn exact(mantissa: i64, exponent: i8) -> Decimal {
    // Only `i64::MIN` is not a decimal, and no walk gets near it.
    Decimal::new(mantissa, exponent).unwrap_or(Decimal::ZERO)
}

/// How often the drift of the whole market changes, in events.
const DRIFT_EVENTS: u32 = 64;

/// All instruments and what they share.
#[derive(Clone, Debug)]
pub(crate) struct Market {
    seed: u64,
    random: Random,
    listings: Vec<Listing>,
    /// Where the whole market is going: added to how many of 256 steps go up.
    drift: i64,
    drift_countdown: u32,
    /// Instrument whose top a book change just moved: its quote is the next event.
    quote_due: Option<usize>,
    books: bool,
    /// Of 65536 draws, those below the first bound are moves of the top, those below the second
    /// changes behind the top, and the others trades.
    top_below: u64,
    deep_below: u64,
    /// Whether a move of the top is said with a quote.
    quotes: bool,
}

impl Market {
    pub(crate) fn new(config: &Config) -> Self {
        let [quote, trade, book] = [config.quote_share, config.trade_share, config.book_share].map(u64::from);
        // A draw is not an event: a move of the top is two, a book change and its quote. Without
        // quotes the top moves with every second book change; without books nothing lies behind.
        let (top, deep) = match (quote, book) {
            (quote, 0) => (quote, 0),
            (0, book) => (book / 2, book - book / 2),
            (quote, book) => (quote, book.saturating_sub(quote)),
        };
        let draws = (top + deep + trade).max(1);
        let mut market = Self {
            seed: config.seed,
            random: Random::new(config.seed),
            listings: Vec::new(),
            drift: 0,
            drift_countdown: DRIFT_EVENTS,
            quote_due: None,
            books: book > 0,
            top_below: (top << 16) / draws,
            deep_below: ((top + deep) << 16) / draws,
            quotes: quote > 0,
        };
        market.list(config.instruments);
        market
    }

    /// Adds instruments.
    pub(crate) fn list(&mut self, count: u32) {
        let known = self.listings.len() as u64;
        self.listings.extend((known..known + u64::from(count)).map(|index| Listing::new(self.seed, index)));
    }

    pub(crate) fn len(&self) -> usize {
        self.listings.len()
    }

    /// Whether the market has books at all.
    pub(crate) const fn has_books(&self) -> bool {
        self.books
    }

    /// The next event; `ts` is the time it is planned for.
    pub(crate) fn next(&mut self, ts: UnixNanos) -> SimEvent {
        if let Some(instrument) = self.quote_due.take() {
            return SimEvent { instrument, kind: SimKind::Quote(self.listings[instrument].quote(ts)) };
        }
        let (pick, bits) = (self.random.next(), self.random.next());
        self.wander(bits >> 48);
        let instrument = (((pick >> 32) * self.listings.len() as u64) >> 32) as usize;
        let listing = &mut self.listings[instrument];
        let up = (bits >> 40 & 0xff) < listing.up_of_256(self.drift) as u64;
        let draw = pick & 0xffff;
        if draw >= self.deep_below {
            return SimEvent { instrument, kind: SimKind::Trade(listing.trade(ts, up, bits)) };
        }
        let change = if draw >= self.top_below {
            let behind = ((pick >> 16 & 0xffff) * (LEVELS as u64 - 1)) >> 16;
            listing.resize(ts, 1 + behind as usize, bits)
        } else if pick & 0x1_0000 == 0 {
            listing.step(ts, up, bits)
        } else {
            listing.resize(ts, 0, bits)
        };
        if !self.books {
            return SimEvent { instrument, kind: SimKind::Quote(listing.quote(ts)) };
        }
        self.quote_due = (self.quotes && draw < self.top_below).then_some(instrument);
        SimEvent { instrument, kind: SimKind::Book(change) }
    }

    #[cfg(test)]
    /// The quote of an instrument as it is now.
    pub(crate) fn quote(&self, instrument: usize, ts: UnixNanos) -> Quote {
        self.listings[instrument].quote(ts)
    }

    /// Writes all levels of an instrument's book, best first: bids, then asks.
    pub(crate) fn book(&self, instrument: usize) -> ([BookLevel; LEVELS], [BookLevel; LEVELS]) {
        let listing = &self.listings[instrument];
        let bid = |level: usize| listing.level(listing.bid - level as i64, listing.bid_sizes[level]);
        let ask = |level: usize| listing.level(listing.ask + level as i64, listing.ask_sizes[level]);
        (std::array::from_fn(bid), std::array::from_fn(ask))
    }

    /// A bid above the best ask: what no book may take.
    pub(crate) fn crossing_bid(&self, instrument: usize) -> BookLevel {
        let listing = &self.listings[instrument];
        listing.level(listing.ask + 1, 1)
    }

    /// Moves the drift that all instruments share: a walk that decays.
    fn wander(&mut self, bits: u64) {
        self.drift_countdown -= 1;
        if self.drift_countdown == 0 {
            self.drift_countdown = DRIFT_EVENTS;
            self.drift += (bits & 0x1f) as i64 - 15 - (self.drift >> 4);
        }
    }
}

/// The symbol of the instrument `index`: three letters and `-USD` for the first 26³, then four
/// for the next 26⁴, and so on.
pub(crate) fn symbol(index: usize) -> String {
    let (mut letters, mut first, mut count) = (3_usize, 0_usize, 26_usize.pow(3));
    while index - first >= count {
        first += count;
        count *= 26;
        letters += 1;
    }
    let mut rest = index - first;
    let mut base = vec![b'A'; letters];
    for letter in base.iter_mut().rev() {
        *letter += (rest % 26) as u8;
        rest /= 26;
    }
    base.extend_from_slice(b"-USD");
    base.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests;
