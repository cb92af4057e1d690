//! Venues: what they send, turned into events at the ingest door.
//!
//! A venue has two halves. Its [`Decoder`] is pure: bytes and a receive time in, calls on a
//! [`Feed`] out; the live connection, the replay of recordings and
//! `tickhub normalize` all drive the same one. Its [`Provider`] does the I/O, and the
//! [`supervisor`] keeps it running. A venue is added by writing a folder beside this file and one
//! line in [`VENUES`] and [`ProviderConfig`].

pub mod binance;
pub mod recording;
pub mod replay;
pub mod sim;
pub mod supervisor;

mod backoff;
mod config;
mod decoder;
mod error;
mod json;
mod net;
mod pulse;
mod random;
mod symbology;
#[cfg(test)]
mod testing;
mod venues;

use futures_util::future::LocalBoxFuture;

pub use backoff::{Backoff, BackoffLimits, Pause};
pub use config::{ProviderConfig, build};
pub use decoder::{BookState, Decoder, Heard, Options, RestRequest, WatchError};
pub use error::{ProviderError, Source};
pub use pulse::{Beat, Pulse};
pub use symbology::{Authority, SUFFIXES_BINANCE, SUFFIXES_BINANCE_US, Symbology};
pub use venues::{UnknownVenue, VENUES, VenueKind, venue_kind};

use crate::ingest::Feed;
use crate::shutdown::Stop;

/// A venue as the hub sees it: something that runs until it fails.
pub trait Provider {
    /// Connects and hands events to `feed` until it fails, comes to its own end (a recording was
    /// played) or is stopped. Called again after a failure; instruments are kept across calls.
    /// Dropping the future at any await must leave the provider fit for another call.
    ///
    /// # Errors
    /// [`ProviderError`] says who must act and whether to try again.
    fn run<'a>(&'a mut self, feed: &'a Feed, stop: Stop) -> LocalBoxFuture<'a, Result<(), ProviderError>>;

    /// Where it shows signs of life. `None` for what may be silent at any length without a fault,
    /// such as a recording.
    fn pulse(&self) -> Option<Pulse> {
        None
    }
}
