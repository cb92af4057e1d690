//! From a venue's own symbol to base and quote.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::model::{IdError, InstrumentDefinition, InstrumentId};

/// Most symbols of one venue whose definitions are kept: twenty times what the largest lists.
const DEFINITIONS_MAX: usize = 65_536;

/// Longest name of an asset, in bytes: what an id has room for.
const ASSET_BYTES_MAX: usize = crate::model::SYMBOL_BYTES_MAX;

/// Quote assets by which an undefined Binance symbol is split, the longest match counting.
/// `AEUR` and `U` are missing on purpose: they would split `ADAEUR` and every symbol ending in U
/// in the wrong place. `tickhub normalize --instruments` makes the list unnecessary.
pub const SUFFIXES_BINANCE: &[&str] = &[
    "USDT", "FDUSD", "USDC", "BUSD", "TUSD", "USDP", "USDS", "USD1", "UST", "PAX", "DAI", "VAI", "EURI", "EUR", "GBP",
    "AUD", "BRL", "TRY", "RUB", "UAH", "NGN", "ZAR", "IDRT", "BIDR", "IDR", "BKRW", "BVND", "GYEN", "JPY", "MXN",
    "PLN", "RON", "ARS", "COP", "CZK", "KZT", "BTC", "ETH", "BNB", "XRP", "TRX", "DOGE", "SOL", "DOT",
];

/// The same for Binance.US, which quotes in dollars: `BUSD` and `TUSD` are missing on purpose,
/// since `BNBUSD` and `BATUSD` end in `USD`.
pub const SUFFIXES_BINANCE_US: &[&str] = &["USDT", "USDC", "USD", "DAI", "BTC", "ETH", "BNB"];

/// What a symbol buys and sells. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    base: Arc<str>,
    quote: Arc<str>,
}

/// How much a definition counts: one of a lower rank never replaces one of a higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Authority {
    /// The venue's own list, as it came by.
    Venue,
    /// A file that the operator named.
    Operator,
}

/// What is known of a venue's symbols.
#[derive(Debug)]
pub struct Symbology {
    suffixes: &'static [&'static str],
    pairs: FxHashMap<Box<str>, (Authority, Pair)>,
}

impl Symbology {
    /// Knows nothing but the quote assets in `suffixes`.
    #[must_use]
    pub fn new(suffixes: &'static [&'static str]) -> Self {
        Self { suffixes, pairs: FxHashMap::default() }
    }

    /// Takes a definition; says whether it was kept.
    pub fn define(&mut self, authority: Authority, raw_symbol: &str, base: &str, quote: &str) -> bool {
        let sane = |name: &str| (1..=ASSET_BYTES_MAX).contains(&name.len());
        if ![raw_symbol, base, quote].into_iter().all(sane) {
            return false;
        }
        let known = self.pairs.get(raw_symbol).map(|(authority, _)| *authority);
        if known.is_none() && self.pairs.len() >= DEFINITIONS_MAX || known > Some(authority) {
            return false;
        }
        let pair = Pair { base: Arc::from(base), quote: Arc::from(quote) };
        self.pairs.insert(raw_symbol.into(), (authority, pair));
        true
    }

    /// The instrument that a symbol stands for now. One that is neither defined nor ends in a
    /// known quote asset is written as the venue writes it.
    ///
    /// # Errors
    /// [`IdError`] where it cannot be written as an id.
    pub fn definition(&self, venue: &str, raw_symbol: &str) -> Result<InstrumentDefinition, IdError> {
        let pair = match self.pairs.get(raw_symbol) {
            Some((_, pair)) => Some((pair.base.to_string(), pair.quote.to_string())),
            None => self.split(raw_symbol),
        };
        let id = match &pair {
            Some((base, quote)) => InstrumentId::new(venue, &format!("{base}-{quote}"))?,
            None => InstrumentId::new(venue, raw_symbol)?,
        };
        let (base, quote) = pair.unzip();
        Ok(InstrumentDefinition { id, raw_symbol: raw_symbol.to_owned(), base, quote })
    }

    fn split(&self, raw_symbol: &str) -> Option<(String, String)> {
        let upper = raw_symbol.to_ascii_uppercase();
        let quote = self.suffixes.iter().filter(|quote| upper.len() > quote.len() && upper.ends_with(*quote));
        let quote = quote.max_by_key(|quote| quote.len())?;
        Some((upper[..upper.len() - quote.len()].to_owned(), (*quote).to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(symbology: &Symbology, raw: &str) -> String {
        symbology.definition("BINANCE", raw).map_or_else(|error| error.to_string(), |it| it.id.to_string())
    }

    #[test]
    fn the_longest_known_quote_asset_splits_an_undefined_symbol() {
        let symbology = Symbology::new(SUFFIXES_BINANCE);
        assert_eq!(id(&symbology, "BTCUSDT"), "BINANCE:BTC-USDT");
        assert_eq!(id(&symbology, "ADAEUR"), "BINANCE:ADA-EUR");
        assert_eq!(id(&symbology, "BNBBIDR"), "BINANCE:BNB-BIDR");
        assert_eq!(id(&symbology, "BTCFDUSD"), "BINANCE:BTC-FDUSD");
        assert_eq!(id(&symbology, "1000satstry"), "BINANCE:1000SATS-TRY");
        // No quote asset that is known, or nothing left of the base: as the venue writes it.
        assert_eq!(id(&symbology, "ABCXYZ"), "BINANCE:ABCXYZ");
        assert_eq!(id(&symbology, "USDT"), "BINANCE:USDT");
    }

    #[test]
    fn a_definition_beats_the_suffix_and_an_operators_beats_the_venues() {
        let mut symbology = Symbology::new(SUFFIXES_BINANCE);
        assert!(symbology.define(Authority::Venue, "BTCAEUR", "BTC", "AEUR"));
        assert_eq!(id(&symbology, "BTCAEUR"), "BINANCE:BTC-AEUR");
        assert!(symbology.define(Authority::Operator, "BTCAEUR", "XBT", "AEUR"));
        assert!(!symbology.define(Authority::Venue, "BTCAEUR", "BTC", "AEUR"));
        assert_eq!(id(&symbology, "BTCAEUR"), "BINANCE:XBT-AEUR");
    }

    #[test]
    fn what_cannot_be_written_is_an_error() {
        let mut symbology = Symbology::new(SUFFIXES_BINANCE);
        assert_eq!(symbology.definition("BINANCE", "币安人生USDT").map(|it| it.id), Err(IdError::Symbol));
        assert!(!symbology.define(Authority::Venue, "AB", "", "B"));
        assert!(symbology.define(Authority::Venue, "AB", "A B", "C"));
        assert_eq!(symbology.definition("BINANCE", "AB").map(|it| it.id), Err(IdError::Symbol));
    }

    #[test]
    fn definitions_are_bounded() {
        let mut symbology = Symbology::new(SUFFIXES_BINANCE);
        for n in 0..DEFINITIONS_MAX {
            assert!(symbology.define(Authority::Venue, &format!("S{n}"), "A", "B"));
        }
        assert!(!symbology.define(Authority::Venue, "MORE", "A", "B"));
        assert!(symbology.define(Authority::Operator, "S1", "C", "D"));
    }
}
