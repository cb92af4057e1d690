//! Venues: what they send, turned into events at the ingest door.
//!
//! The live half: a [`Provider`] connects to a venue and hands what it says to its feed; the
//! [`supervisor`] keeps it running. Which providers there are stands once, in [`ProviderConfig`].

pub mod sim;
pub mod supervisor;

mod backoff;
mod config;
mod error;
mod pulse;
mod random;
#[cfg(test)]
mod testing;

use futures_util::future::LocalBoxFuture;

pub use backoff::{Backoff, BackoffLimits, Pause};
pub use config::{ProviderConfig, build};
pub use error::{ProviderError, Source};
pub use pulse::{Beat, Pulse};

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
