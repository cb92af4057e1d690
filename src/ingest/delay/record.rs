//! A call of a provider as words, and read back.

use crate::model::{BookLevel, Decimal, UnixNanos};
use crate::store::{Words, time_word, word_time};

/// Words before a record's own: length and kind, when it was made, what it is about.
pub(super) const HEAD_WORDS: usize = 3;

/// A number that is not known: how many events a venue lost.
const UNKNOWN: u64 = u64::MAX;

/// What was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    State,
    LeftOut,
    Claim,
    Release,
    Quote,
    Trade,
    Stats,
    Lost,
    BookSnapshot,
    BookDelta,
    BookLost,
    /// All that is known of an instrument, behind calls that were dropped.
    Resync,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::State,
        Self::LeftOut,
        Self::Claim,
        Self::Release,
        Self::Quote,
        Self::Trade,
        Self::Stats,
        Self::Lost,
        Self::BookSnapshot,
        Self::BookDelta,
        Self::BookLost,
        Self::Resync,
    ];
}

/// A record that is being made. Kept, so that it is allocated once.
#[derive(Default)]
pub(in crate::ingest) struct Scratch {
    words: Vec<u64>,
}

impl Scratch {
    /// Begins a record about the feed or instrument `about`.
    pub(super) fn begin(&mut self, kind: Kind, about: u32) -> &mut Self {
        self.words.clear();
        self.words.extend([kind as u64, 0, u64::from(about)]);
        self
    }

    /// Completes it: it was made at `at` on the monotonic clock.
    pub(super) fn finish(&mut self, at: u64) -> &[u64] {
        self.words[0] |= (self.words.len() as u64) << 8;
        self.words[1] = at;
        &self.words
    }

    pub(super) fn word(&mut self, word: u64) -> &mut Self {
        self.words.push(word);
        self
    }

    pub(super) fn time(&mut self, time: Option<UnixNanos>) -> &mut Self {
        self.word(time_word(time))
    }

    pub(super) fn count(&mut self, count: Option<u64>) -> &mut Self {
        self.word(count.unwrap_or(UNKNOWN))
    }

    pub(super) fn value<const N: usize>(&mut self, value: &impl Words<N>) -> &mut Self {
        self.words.extend(value.to_words());
        self
    }

    /// The first words of a value whose others are zero. Only as the last of a record.
    pub(super) fn value_head<const N: usize>(&mut self, value: &impl Words<N>, used: usize) -> &mut Self {
        self.words.extend(&value.to_words()[..used.min(N)]);
        self
    }

    pub(super) fn levels(&mut self, bids: &[BookLevel], asks: &[BookLevel]) -> &mut Self {
        self.word((bids.len() as u64) << 32 | asks.len() as u64);
        for level in bids.iter().chain(asks) {
            let exponents = u64::from(level.price.exponent() as u8) | u64::from(level.size.exponent() as u8) << 8;
            self.words.extend([level.price.mantissa() as u64, level.size.mantissa() as u64, exponents]);
        }
        self
    }

    pub(super) fn text(&mut self, text: &[u8]) -> &mut Self {
        self.word(text.len() as u64);
        self.words.extend(text.chunks(8).map(|chunk| {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(bytes)
        }));
        self
    }
}

/// The length of a record, from its first word.
pub(super) const fn len_of(first: u64) -> usize {
    (first >> 8) as usize
}

/// A record that is being read. `None` of any part: it is no record of [`Scratch`]'s.
pub(super) struct Cursor<'a> {
    words: &'a [u64],
}

impl<'a> Cursor<'a> {
    /// What was called, what it is about, and the rest.
    pub(super) fn open(words: &'a [u64]) -> Option<(Kind, u32, Self)> {
        let [first, _, about, rest @ ..] = words else { return None };
        let kind = Kind::ALL.get((first & 0xff) as usize)?;
        Some((*kind, u32::try_from(*about).ok()?, Self { words: rest }))
    }

    pub(super) fn word(&mut self) -> Option<u64> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(*first)
    }

    pub(super) fn time(&mut self) -> Option<Option<UnixNanos>> {
        self.word().map(word_time)
    }

    pub(super) fn count(&mut self) -> Option<Option<u64>> {
        self.word().map(|count| (count != UNKNOWN).then_some(count))
    }

    pub(super) fn value<const N: usize, V: Words<N>>(&mut self) -> Option<V> {
        let (value, rest) = self.words.split_first_chunk::<N>()?;
        self.words = rest;
        Some(V::from_words(value))
    }

    /// The inverse of [`Scratch::value_head`].
    pub(super) fn value_head<const N: usize, V: Words<N>>(&mut self) -> Option<V> {
        let mut value = [0; N];
        value.get_mut(..self.words.len())?.copy_from_slice(self.words);
        self.words = &[];
        Some(V::from_words(&value))
    }

    pub(super) fn levels(&mut self, bids: &mut Vec<BookLevel>, asks: &mut Vec<BookLevel>) -> Option<()> {
        let counts = self.word()?;
        let (bid_count, ask_count) = ((counts >> 32) as usize, (counts & 0xffff_ffff) as usize);
        bids.clear();
        asks.clear();
        for index in 0..bid_count + ask_count {
            let (level, rest) = self.words.split_first_chunk::<3>()?;
            self.words = rest;
            let price = Decimal::new(level[0] as i64, level[2] as u8 as i8)?;
            let size = Decimal::new(level[1] as i64, (level[2] >> 8) as u8 as i8)?;
            let side = if index < bid_count { &mut *bids } else { &mut *asks };
            side.push(BookLevel { price, size });
        }
        Some(())
    }

    pub(super) fn text(&mut self) -> Option<String> {
        let len = self.word()? as usize;
        let words = self.words.get(..len.div_ceil(8))?;
        self.words = &self.words[words.len()..];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(len);
        String::from_utf8(bytes).ok()
    }
}
