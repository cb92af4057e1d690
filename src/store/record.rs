//! Values as the words that slots and rings hold.

use crate::model::{AggressorSide, BookLevel, Decimal, Quote, Ticker, Trade, TradeId, UnixNanos};

/// When and as what number a value was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The stream's last published number: the value's own, or that of a gap behind it.
    pub seq: u64,
    /// When the hub received it; `None` only for recorded rows without a time.
    pub received: Option<UnixNanos>,
}

/// A value that fits into a fixed number of words.
pub(crate) trait Words<const N: usize>: Sized {
    fn to_words(&self) -> [u64; N];
    fn from_words(words: &[u64; N]) -> Self;
}

const ABSENT: i64 = i64::MIN;

pub(crate) fn time_word(time: Option<UnixNanos>) -> u64 {
    time.map_or(ABSENT, |t| t.0) as u64
}

pub(crate) fn word_time(word: u64) -> Option<UnixNanos> {
    (word as i64 != ABSENT).then_some(UnixNanos(word as i64))
}

/// Mantissas in words of their own, eight exponents to a word.
struct Packer<'a> {
    words: &'a mut [u64],
    exponents: usize,
    next: usize,
}

impl<'a> Packer<'a> {
    /// `words` begins with the words of exponents.
    fn new(words: &'a mut [u64], exponent_words: usize) -> Self {
        Self { words, exponents: 0, next: exponent_words }
    }

    fn put(&mut self, value: Option<Decimal>) {
        let (mantissa, exponent) = value.map_or((ABSENT, 0), |v| (v.mantissa(), v.exponent()));
        self.words[self.next] = mantissa as u64;
        self.words[self.exponents / 8] |= u64::from(exponent as u8) << (self.exponents % 8 * 8);
        self.next += 1;
        self.exponents += 1;
    }

    fn put_level(&mut self, level: Option<BookLevel>) {
        self.put(level.map(|l| l.price));
        self.put(level.map(|l| l.size));
    }
}

struct Unpacker<'a> {
    words: &'a [u64],
    exponents: usize,
    next: usize,
}

impl<'a> Unpacker<'a> {
    fn new(words: &'a [u64], exponent_words: usize) -> Self {
        Self { words, exponents: 0, next: exponent_words }
    }

    fn take(&mut self) -> Option<Decimal> {
        let exponent = (self.words[self.exponents / 8] >> (self.exponents % 8 * 8)) as u8 as i8;
        let value = Decimal::new(self.words[self.next] as i64, exponent);
        self.next += 1;
        self.exponents += 1;
        value
    }

    fn take_level(&mut self) -> Option<BookLevel> {
        let (price, size) = (self.take(), self.take());
        Some(BookLevel { price: price?, size: size? })
    }
}

impl Words<6> for Quote {
    fn to_words(&self) -> [u64; 6] {
        let mut words = [0; 6];
        words[5] = time_word(self.ts_event);
        let mut packer = Packer::new(&mut words, 1);
        packer.put_level(self.bid);
        packer.put_level(self.ask);
        words
    }

    fn from_words(words: &[u64; 6]) -> Self {
        let mut unpacker = Unpacker::new(words, 1);
        let (bid, ask) = (unpacker.take_level(), unpacker.take_level());
        Self { ts_event: word_time(words[5]), bid, ask }
    }
}

impl Words<13> for Ticker {
    fn to_words(&self) -> [u64; 13] {
        let mut words = [0; 13];
        words[12] = time_word(self.ts_event);
        let mut packer = Packer::new(&mut words, 2);
        for level in [self.last, self.bid, self.ask] {
            packer.put_level(level);
        }
        for value in [self.open, self.high, self.low, self.volume] {
            packer.put(value);
        }
        words
    }

    fn from_words(words: &[u64; 13]) -> Self {
        let mut unpacker = Unpacker::new(words, 2);
        let [last, bid, ask] = std::array::from_fn(|_| unpacker.take_level());
        let [open, high, low, volume] = std::array::from_fn(|_| unpacker.take());
        Self { ts_event: word_time(words[12]), last, bid, ask, open, high, low, volume }
    }
}

/// Words of a trade without its id: exponents with side and id length, price, size, time.
const TRADE_WORDS: usize = 4;

impl Words<12> for Trade {
    fn to_words(&self) -> [u64; 12] {
        let mut words = [0; 12];
        let id = self.id.as_bytes();
        let mut packer = Packer::new(&mut words, 1);
        packer.put(Some(self.price));
        packer.put(Some(self.size));
        words[0] |= (self.side as u64) << 16 | (id.len() as u64) << 24;
        words[3] = time_word(self.ts_event);
        for (word, chunk) in words[TRADE_WORDS..].iter_mut().zip(id.chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_le_bytes(bytes);
        }
        words
    }

    fn from_words(words: &[u64; 12]) -> Self {
        let mut unpacker = Unpacker::new(words, 1);
        let (price, size) = (unpacker.take(), unpacker.take());
        let side = match words[0] >> 16 & 0xff {
            0 => AggressorSide::Buy,
            1 => AggressorSide::Sell,
            _ => AggressorSide::Unknown,
        };
        let mut id = [0; 64];
        for (chunk, word) in id.chunks_mut(8).zip(&words[TRADE_WORDS..]) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        let id_bytes = (words[0] >> 24 & 0xff) as usize;
        Self {
            ts_event: word_time(words[3]),
            price: price.unwrap_or(Decimal::ZERO),
            size: size.unwrap_or(Decimal::ZERO),
            side,
            id: TradeId::new(&id[..id_bytes.min(TradeId::BYTES_MAX)]).unwrap_or_default(),
        }
    }
}

/// The words of a trade that a ring needs: those of an id that is not there are left out.
pub(crate) fn trade_words_used(trade: &Trade) -> usize {
    TRADE_WORDS + trade.id.as_bytes().len().div_ceil(8)
}

/// A slot's or a record's words: the value's, behind sequence and receive time.
pub(super) fn stamped<const N: usize, const M: usize>(stamp: Stamp, value: &impl Words<N>) -> [u64; M] {
    let mut words = [0; M];
    words[0] = stamp.seq;
    words[1] = time_word(stamp.received);
    words[2..].copy_from_slice(&value.to_words());
    words
}

/// The inverse of [`stamped`].
pub(super) fn unstamped<const N: usize, V: Words<N>>(words: &[u64]) -> Option<(Stamp, V)> {
    let stamp = Stamp { seq: *words.first()?, received: word_time(*words.get(1)?) };
    let mut value = [0; N];
    let held = words.get(2..)?;
    value.get_mut(..held.len())?.copy_from_slice(held);
    Some((stamp, V::from_words(&value)))
}

/// A book change as words: receive and event time, counts, then exponents and mantissas.
pub(super) fn book_words(
    received: Option<UnixNanos>,
    ts_event: Option<UnixNanos>,
    bids: &[BookLevel],
    asks: &[BookLevel],
    out: &mut Vec<u64>,
) {
    out.clear();
    out.extend([time_word(received), time_word(ts_event), (bids.len() as u64) << 32 | asks.len() as u64]);
    for level in bids.iter().chain(asks) {
        let exponents = u64::from(level.price.exponent() as u8) | u64::from(level.size.exponent() as u8) << 8;
        out.extend([level.price.mantissa() as u64, level.size.mantissa() as u64, exponents]);
    }
}

/// A book change read back: receive time, event time, bids, asks.
pub(super) type BookWords = (Option<UnixNanos>, Option<UnixNanos>, Vec<BookLevel>, Vec<BookLevel>);

/// The inverse of [`book_words`]; `None` where the words are not such a record.
pub(super) fn book_from_words(words: &[u64]) -> Option<BookWords> {
    let [received, ts_event, counts, levels @ ..] = words else { return None };
    let mut read = levels.chunks_exact(3).map(|level| {
        let price = Decimal::new(level[0] as i64, level[2] as u8 as i8)?;
        let size = Decimal::new(level[1] as i64, (level[2] >> 8) as u8 as i8)?;
        Some(BookLevel { price, size })
    });
    let bids = read.by_ref().take((counts >> 32) as usize).collect::<Option<Vec<_>>>()?;
    let asks = read.collect::<Option<Vec<_>>>()?;
    (asks.len() as u64 == counts & 0xffff_ffff).then_some((word_time(*received), word_time(*ts_event), bids, asks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decimal() -> impl Strategy<Value = Decimal> {
        (any::<i64>(), any::<i8>()).prop_filter_map("not absent", |(m, e)| Decimal::new(m, e))
    }

    fn level() -> impl Strategy<Value = BookLevel> {
        (decimal(), decimal()).prop_map(|(price, size)| BookLevel { price, size })
    }

    fn time() -> impl Strategy<Value = Option<UnixNanos>> {
        proptest::option::of((i64::MIN + 1..=i64::MAX).prop_map(UnixNanos))
    }

    proptest! {
        #[test]
        fn words_carry_every_value(bid in proptest::option::of(level()), ask in proptest::option::of(level()),
                                   last in proptest::option::of(level()), four in proptest::collection::vec(proptest::option::of(decimal()), 4),
                                   ts in time(), id in "[a-zA-Z0-9-]{0,63}", side in 0..3_u8, at in level()) {
            let quote = Quote { ts_event: ts, bid, ask };
            prop_assert_eq!(Quote::from_words(&quote.to_words()), quote);
            let ticker = Ticker { ts_event: ts, last, bid, ask, open: four[0], high: four[1], low: four[2], volume: four[3] };
            prop_assert_eq!(Ticker::from_words(&ticker.to_words()), ticker);
            let side = [AggressorSide::Buy, AggressorSide::Sell, AggressorSide::Unknown][usize::from(side)];
            let trade = Trade { ts_event: ts, price: at.price, size: at.size, side, id: TradeId::new(id.as_bytes()).expect("sane") };
            prop_assert_eq!(Trade::from_words(&trade.to_words()), trade);
            let used = trade_words_used(&trade);
            let stamp = Stamp { seq: 9, received: ts };
            let words: [u64; 14] = stamped(stamp, &trade);
            prop_assert_eq!(unstamped::<12, Trade>(&words[..2 + used]), Some((stamp, trade)));
        }

        #[test]
        fn words_carry_every_book(bids in proptest::collection::vec(level(), 0..5), asks in proptest::collection::vec(level(), 0..5), ts in time()) {
            let mut words = Vec::new();
            book_words(ts, ts, &bids, &asks, &mut words);
            prop_assert_eq!(book_from_words(&words), Some((ts, ts, bids, asks)));
        }
    }
}
