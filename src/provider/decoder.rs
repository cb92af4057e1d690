//! What every venue's decoder does, whatever drives it.

use crate::ingest::{Feed, Instrument};
use crate::model::Received;

/// What a decoder is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether a symbol that was not asked for by [`Decoder::watch`] becomes an instrument when
    /// data of it arrives: for recordings, whose symbols are known only from their rows. A live
    /// feed leaves it off, so that nothing the venue sends can add instruments.
    pub discover: bool,
    /// Whether books are built (and so whether snapshots are asked for).
    pub books: bool,
    /// Levels a side to ask of a REST snapshot. A level outside that window which never changes
    /// is never sent, so less than 1,000 makes books that are wrong without any sign of it.
    pub snapshot_levels: u32,
}

impl Options {
    /// As a live connection wants it.
    #[must_use]
    pub const fn live() -> Self {
        Self { discover: false, books: true, snapshot_levels: 1_000 }
    }

    /// As recordings want it.
    #[must_use]
    pub const fn recorded() -> Self {
        Self { discover: true, ..Self::live() }
    }
}

/// What a message was, for the driver. Everything in it has been published, or counted and
/// rejected, when this is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Market data of a known symbol.
    Data,
    /// A message that the hub knows and has no use for.
    Unused,
    /// The venue took the command with this id.
    Ack(Option<u64>),
    /// The venue refused something, and says so with this code.
    Refused {
        /// The command, where the venue names it.
        id: Option<u64>,
        /// The venue's error code.
        code: i64,
    },
    /// Nothing that could be used; it has been counted by reason.
    Rejected,
}

/// A REST answer that a decoder needs: `path` is relative to the venue's REST address and begins
/// with `/`. The answer goes to [`Decoder::on_rest`] with that path at the end of its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestRequest {
    /// Path and query, e.g. `/api/v3/depth?symbol=BTCUSDT&limit=1000`.
    pub path: String,
}

/// A symbol cannot be watched: it cannot be written as an instrument id, or the hub refused it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{symbol}` cannot be an instrument: {cause}")]
pub struct WatchError {
    /// The venue's symbol.
    pub symbol: String,
    /// Why.
    pub cause: String,
}

/// A book of which something has been seen.
#[derive(Clone, Copy)]
pub struct BookState<'a> {
    /// The instrument, whose levels there are while the book is whole.
    pub instrument: &'a Instrument,
    /// Why there is none, if there is none.
    pub broken: Option<&'static str>,
}

/// Turns one venue's messages into events. Pure but for the [`Feed`] that it is handed: no clock,
/// no socket, no task. Single-threaded, one for each feed.
pub trait Decoder {
    /// One text or binary message of the venue's WebSocket, whole.
    fn on_frame(&mut self, feed: &Feed, received: Received, frame: &[u8]) -> Heard;

    /// The body of a successful REST answer. `url` is where it came from (whole, or only path and
    /// query); without a symbol in it the body belongs to the only symbol seen so far.
    fn on_rest(&mut self, feed: &Feed, received: Received, url: Option<&str>, body: &[u8]) -> Heard;

    /// A request of [`poll_request`](Self::poll_request) came to nothing: it will be asked again.
    fn on_rest_failed(&mut self, url: &str);

    /// The connection is gone. Books are lost; trade ids are kept, so that the loss across a
    /// reconnect is counted exactly and what the venue sends again is not published twice.
    fn on_disconnect(&mut self, feed: &Feed, received: Received);

    /// A recording starts again from its beginning: books are lost and no continuity is expected
    /// of anything, but instruments and their numbering go on.
    fn on_rewind(&mut self, feed: &Feed, received: Received);

    /// Definitions that take precedence over all others (the file of `--instruments`). Returns
    /// how many symbols were read, zero where the body holds none.
    fn on_instruments(&mut self, body: &[u8]) -> usize;

    /// Claims `raw_symbol`, written as the venue's data writes it, and expects its streams.
    /// Watching a symbol twice changes nothing.
    ///
    /// # Errors
    /// [`WatchError`] where the symbol cannot be an instrument of this hub.
    fn watch(&mut self, feed: &Feed, raw_symbol: &str) -> Result<(), WatchError>;

    /// The streams of all watched symbols, as the venue's subscribe command names them.
    fn streams(&self) -> Vec<String>;

    /// Those of [`streams`](Self::streams) that have said nothing since the last connect. Some
    /// venues accept a misspelt stream and stay silent: silence alone proves nothing on a quiet
    /// market, but a stream that never spoke deserves a warning.
    fn silent(&self) -> Vec<String>;

    /// The next REST answer that is needed, each once until it is answered or has failed. To be
    /// polled while connected, at the pace that the venue allows.
    fn poll_request(&mut self) -> Option<RestRequest>;

    /// The books of all instruments, in the order in which their symbols appeared. One that is
    /// not whole says why.
    fn books(&self) -> Vec<BookState<'_>>;

    /// Symbols that were left out, with the cause.
    fn left_out(&self) -> Vec<(String, String)>;
}
