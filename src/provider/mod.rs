//! Venues: what they send, turned into events at the ingest door.
//!
//! A venue has two halves. Its [`Decoder`] is pure: bytes and a receive time in, calls on a
//! [`Feed`](crate::ingest::Feed) out; the live connection, the replay of recordings and
//! `tickhub normalize` all drive the same one. Its connection does the I/O. A venue is added by
//! writing a folder beside this file and one line in [`VENUES`].

pub mod binance;
pub mod recording;

mod decoder;
mod json;
mod symbology;
mod venues;

pub use decoder::{BookState, Decoder, Heard, Options, RestRequest, WatchError};
pub use symbology::{Authority, SUFFIXES_BINANCE, SUFFIXES_BINANCE_US, Symbology};
pub use venues::{UnknownVenue, VENUES, VenueKind, venue_kind};
