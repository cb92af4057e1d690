//! The one list of venues.

use super::binance::BinanceDecoder;
use super::decoder::{Decoder, Options};
use super::symbology::{SUFFIXES_BINANCE, SUFFIXES_BINANCE_US, Symbology};

/// A kind of venue: a wire format and the name it publishes under.
#[derive(Clone, Copy, Debug)]
pub struct VenueKind {
    /// Its name in settings and on the command line, which is also the name of the folder that
    /// its recordings are kept in.
    pub name: &'static str,
    /// The venue part of its instrument ids.
    pub venue: &'static str,
    /// Makes its decoder.
    pub decoder: fn(Options) -> Box<dyn Decoder>,
}

/// Every venue that the hub can read.
pub const VENUES: &[VenueKind] = &[
    VenueKind {
        name: "binance_spot",
        venue: "BINANCE",
        decoder: |options| Box::new(BinanceDecoder::new(Symbology::new(SUFFIXES_BINANCE), options)),
    },
    VenueKind {
        name: "binance_us",
        venue: "BINANCE_US",
        decoder: |options| Box::new(BinanceDecoder::new(Symbology::new(SUFFIXES_BINANCE_US), options)),
    },
];

/// There is no venue of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown venue `{name}`; known are {}", known())]
pub struct UnknownVenue {
    /// What was asked for.
    pub name: String,
}

fn known() -> String {
    VENUES.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ")
}

/// The venue of a name.
///
/// # Errors
/// [`UnknownVenue`] lists the names that are known.
pub fn venue_kind(name: &str) -> Result<&'static VenueKind, UnknownVenue> {
    VENUES.iter().find(|kind| kind.name == name).ok_or_else(|| UnknownVenue { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_venue_names_the_known_ones() {
        assert_eq!(venue_kind("binance_spot").expect("listed").venue, "BINANCE");
        let error = venue_kind("binanse").expect_err("misspelt").to_string();
        assert_eq!(error, "unknown venue `binanse`; known are binance_spot, binance_us");
    }

    #[test]
    fn every_venue_name_can_stand_in_an_id() {
        for kind in VENUES {
            crate::model::check_venue(kind.venue).expect(kind.venue);
        }
    }
}
