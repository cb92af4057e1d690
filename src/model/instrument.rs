//! Instrument ids, the patterns that select them, and their definitions.

use std::fmt;
use std::sync::Arc;

/// Longest venue, in bytes.
pub const VENUE_BYTES_MAX: usize = 16;
/// Longest symbol, in bytes.
pub const SYMBOL_BYTES_MAX: usize = 40;

/// `VENUE:SYMBOL`: the name of an instrument everywhere outside the process. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstrumentId {
    text: Arc<str>,
    venue_bytes: u8,
}

/// Why a text is not an instrument id or a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// There is no `:` between venue and symbol.
    #[error("expected VENUE:SYMBOL")]
    NoColon,
    /// The venue is empty, too long, or has a character outside `[A-Z0-9_]`.
    #[error("venue must be 1 to 16 of A-Z 0-9 _")]
    Venue,
    /// The symbol is empty, too long, or has a character outside `[A-Z0-9._=^/+-]`.
    #[error("symbol must be 1 to 40 of A-Z 0-9 . _ = ^ / + -")]
    Symbol,
}

impl InstrumentId {
    /// Reads `VENUE:SYMBOL`.
    ///
    /// # Errors
    /// [`IdError`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let (venue, symbol) = text.split_once(':').ok_or(IdError::NoColon)?;
        check_venue(venue)?;
        check_symbol(symbol)?;
        // The venue was just checked to be at most 16 bytes long.
        Ok(Self { text: Arc::from(text), venue_bytes: venue.len() as u8 })
    }

    /// Joins a venue and a symbol as the venue writes it; lower case is raised.
    ///
    /// # Errors
    /// [`IdError`] says which part is wrong.
    pub fn new(venue: &str, symbol: &str) -> Result<Self, IdError> {
        Self::parse(&format!("{venue}:{}", symbol.to_ascii_uppercase()))
    }

    /// The whole id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part before the colon.
    #[must_use]
    pub fn venue(&self) -> &str {
        &self.text[..usize::from(self.venue_bytes)]
    }

    /// The part behind the colon.
    #[must_use]
    pub fn symbol(&self) -> &str {
        &self.text[usize::from(self.venue_bytes) + 1..]
    }
}

impl fmt::Display for InstrumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for InstrumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether `venue` is a venue name.
///
/// # Errors
/// [`IdError::Venue`] where it is not.
pub fn check_venue(venue: &str) -> Result<(), IdError> {
    let sane = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    if (1..=VENUE_BYTES_MAX).contains(&venue.len()) && venue.bytes().all(sane) { Ok(()) } else { Err(IdError::Venue) }
}

fn symbol_byte(b: u8) -> bool {
    b.is_ascii_uppercase() || b.is_ascii_digit() || b"._=^/+-".contains(&b)
}

fn check_symbol(symbol: &str) -> Result<(), IdError> {
    if (1..=SYMBOL_BYTES_MAX).contains(&symbol.len()) && symbol.bytes().all(symbol_byte) {
        Ok(())
    } else {
        Err(IdError::Symbol)
    }
}

/// A dense number for an instrument, given in the order of appearance and never reused while the
/// process lives. On the wire it is the `iid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstrumentKey(pub u32);

impl InstrumentKey {
    /// The key as an index into dense tables.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Selects instruments: `VENUE:SYMBOL` where the venue is exact or `*`, and the symbol exact, `*`
/// or a head followed by `*`. `*` alone is `*:*`.
///
/// It is kept in the long form, so that `as_str().len()` is its rank among overlapping patterns.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern {
    text: Arc<str>,
    venue_bytes: u8,
}

impl Pattern {
    /// Reads a pattern; an exact id is a pattern too.
    ///
    /// # Errors
    /// [`IdError`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let text = if text == "*" { "*:*" } else { text };
        let (venue, symbol) = text.split_once(':').ok_or(IdError::NoColon)?;
        if venue != "*" {
            check_venue(venue)?;
        }
        let head = symbol.strip_suffix('*').unwrap_or(symbol);
        if head.len() > SYMBOL_BYTES_MAX || symbol.is_empty() || !head.bytes().all(symbol_byte) {
            return Err(IdError::Symbol);
        }
        Ok(Self { text: Arc::from(text), venue_bytes: venue.len() as u8 })
    }

    /// Every instrument: `*:*`.
    #[must_use]
    pub fn all() -> Self {
        Self { text: Arc::from("*:*"), venue_bytes: 1 }
    }

    /// The pattern's text in its long form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The venue, or `None` for any.
    #[must_use]
    pub fn venue(&self) -> Option<&str> {
        let venue = &self.text[..usize::from(self.venue_bytes)];
        (venue != "*").then_some(venue)
    }

    fn symbol(&self) -> &str {
        &self.text[usize::from(self.venue_bytes) + 1..]
    }

    /// The exact id, where the pattern can match no other.
    #[must_use]
    pub fn exact(&self) -> Option<InstrumentId> {
        InstrumentId::parse(&self.text).ok()
    }

    /// Whether the pattern selects `id`.
    #[must_use]
    pub fn matches(&self, id: &InstrumentId) -> bool {
        self.venue().is_none_or(|venue| venue == id.venue()) && symbol_matches(self.symbol(), id.symbol())
    }

    /// The pattern that selects exactly what both select; `None` where nothing can be.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let venue = match (self.venue(), other.venue()) {
            (Some(a), Some(b)) if a != b => return None,
            (a, b) => a.or(b).unwrap_or("*"),
        };
        let (mine, theirs) = (self.symbol(), other.symbol());
        let symbol = match (mine.strip_suffix('*'), theirs.strip_suffix('*')) {
            (None, _) if symbol_matches(theirs, mine) => mine,
            (_, None) if symbol_matches(mine, theirs) => theirs,
            (Some(a), Some(b)) if a.starts_with(b) => mine,
            (Some(a), Some(b)) if b.starts_with(a) => theirs,
            _ => return None,
        };
        Some(Self { text: Arc::from(format!("{venue}:{symbol}")), venue_bytes: venue.len() as u8 })
    }
}

fn symbol_matches(pattern: &str, symbol: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(head) => symbol.starts_with(head),
        None => pattern == symbol,
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What is known of an instrument beside its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstrumentDefinition {
    /// Its id.
    pub id: InstrumentId,
    /// The venue's own string for it.
    pub raw_symbol: String,
    /// What is bought and sold, where the venue says.
    pub base: Option<String>,
    /// What it is priced in, where the venue says.
    pub quote: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect(text)
    }

    #[test]
    fn reads_ids_and_refuses_what_is_not_one() {
        let id = InstrumentId::parse("BINANCE:BTC-USDT").expect("valid");
        assert_eq!((id.venue(), id.symbol()), ("BINANCE", "BTC-USDT"));
        assert_eq!(InstrumentId::new("BINANCE", "btc-usdt"), Ok(id));
        assert_eq!(InstrumentId::parse("BTC-USDT"), Err(IdError::NoColon));
        for bad in [":A", "a:A", "VENUE_OF_17_BYTES:A", "BÌNANCE:A", "*:A"] {
            assert_eq!(InstrumentId::parse(bad), Err(IdError::Venue), "{bad}");
        }
        for bad in ["A:", "A:a", "A:B:C", "A:B C", "A:B\0", "A:*", "A:12345678901234567890123456789012345678901"] {
            assert_eq!(InstrumentId::parse(bad), Err(IdError::Symbol), "{bad}");
        }
    }

    #[test]
    fn patterns_select_by_venue_and_head() {
        let id = InstrumentId::parse("BINANCE:BTC-USDT").expect("valid");
        for yes in ["*", "*:*", "BINANCE:*", "BINANCE:BTC-*", "*:BTC-USDT", "BINANCE:BTC-USDT", "BINANCE:BTC-USDT*"] {
            assert!(pattern(yes).matches(&id), "{yes}");
        }
        for no in ["BINANC:*", "SIM:*", "BINANCE:ETH*", "BINANCE:BTC-USD", "*:BTC-USDTX*"] {
            assert!(!pattern(no).matches(&id), "{no}");
        }
        for bad in ["", "**", "A", "A:", "A:*B", "A:B*C", "A*:B", "A:**", "a:*", "A:b*", "A:\u{212a}*"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(pattern("*").as_str(), "*:*");
    }

    proptest! {
        #[test]
        fn intersection_selects_what_both_select(a in "(\\*|A|B):(A|B|AB|BA){0,2}\\*?", b in "(\\*|A|B):(A|B|AB|BA){0,2}\\*?",
                                                 id in "(A|B):(A|B|AB|BA){1,3}") {
            let (Ok(a), Ok(b)) = (Pattern::parse(&a), Pattern::parse(&b)) else { return Ok(()) };
            let id = InstrumentId::parse(&id).expect("valid");
            let both = a.intersect(&b);
            prop_assert_eq!(both.is_some_and(|p| p.matches(&id)), a.matches(&id) && b.matches(&id));
            prop_assert_eq!(a.intersect(&b), b.intersect(&a));
        }
    }
}
