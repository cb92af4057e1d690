//! Bytes and messages: events and answers to frames, client text to commands. Pure: no clocks, no
//! I/O, and of the crate it imports `model` only.
//!
//! An event is encoded once for each [`Format`] in use; the [`Frame`] is then shared by everyone.
//! Commands, their answers, `status` and `epoch` are JSON text in every format.

pub mod answer;
mod binary;
pub mod command;
pub mod json;

mod code;
mod frame;

pub use code::{CloseCode, ErrorCode, close_frame, ping_frame, pong_frame};
pub use frame::{Frame, Scratch};

use crate::model::{
    BookLevel, Depth, GapCause, InstrumentId, InstrumentKey, Quote, StreamKind, Ticker, Trade, UnixNanos,
};

/// How events and gaps are written. A new one is a module with the three functions below, a
/// variant, and its lines here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// One JSON object a message.
    Json,
    /// Packed little-endian records.
    Binary,
}

/// What every event says beside its payload.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The instrument.
    pub id: &'a InstrumentId,
    /// Its key: the `iid` of the wire.
    pub key: InstrumentKey,
    /// The number of the event in its stream, from 1.
    pub seq: u64,
    /// The venue's event time; `null` on the wire where it gives none. The times inside a
    /// [`Payload`] are not looked at.
    pub ts: Option<UnixNanos>,
    /// When the hub's socket received it.
    pub rx: Option<UnixNanos>,
    /// Whether it is a snapshot.
    pub snapshot: bool,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// A merged latest state.
    Ticker(&'a Ticker),
    /// A best bid and offer.
    Quote(&'a Quote),
    /// An execution.
    Trade(&'a Trade),
    /// A change of a book, or with [`Head::snapshot`] a whole one.
    Book {
        /// The stream's depth.
        depth: Depth,
        /// Bids, best first in a snapshot; size zero removes.
        bids: &'a [BookLevel],
        /// Asks, best first in a snapshot; size zero removes.
        asks: &'a [BookLevel],
    },
}

/// The numbers `from` to `to` of a stream, both included, do not arrive.
#[derive(Clone, Copy, Debug)]
pub struct Gap<'a> {
    /// The instrument.
    pub id: &'a InstrumentId,
    /// Its key: the `iid` of the wire.
    pub key: InstrumentKey,
    /// Which of its streams.
    pub kind: StreamKind,
    /// The first number.
    pub from: u64,
    /// The last number.
    pub to: u64,
    /// Why.
    pub cause: GapCause,
    /// How many of the venue's events an upstream loss took, where that is known.
    pub lost: Option<u64>,
}

impl Format {
    /// How many formats there are: the length of tables by format.
    pub const COUNT: usize = 2;

    /// Every format, by index. The first is the one used where a client asks for none.
    pub const ALL: [Self; Self::COUNT] = [Self::Json, Self::Binary];

    /// Its place in tables.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The word for it in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Binary => "binary",
        }
    }

    /// Its WebSocket subprotocol.
    #[must_use]
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => "tickhub.v1.json",
            Self::Binary => "tickhub.v1.bin",
        }
    }

    /// The format of a WebSocket subprotocol.
    #[must_use]
    pub fn from_subprotocol(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.subprotocol() == name)
    }

    /// One event.
    #[inline]
    #[must_use]
    pub fn encode(self, scratch: &mut Scratch, head: &Head<'_>, payload: &Payload<'_>) -> Frame {
        match self {
            Self::Json => json::event(scratch, head, payload),
            Self::Binary => binary::event(scratch, head, payload),
        }
    }

    /// A gap.
    #[must_use]
    pub fn gap(self, scratch: &mut Scratch, gap: &Gap<'_>) -> Frame {
        match self {
            Self::Json => json::gap(scratch, gap),
            Self::Binary => binary::gap(scratch, gap),
        }
    }

    /// The event of `live` marked as a snapshot: the same bytes that [`encode`](Self::encode)
    /// makes with [`Head::snapshot`]. `live` must be an event, not a gap or an answer; a snapshot
    /// is shared unchanged.
    #[must_use]
    pub fn snapshot_of(self, scratch: &mut Scratch, live: &Frame) -> Frame {
        match self {
            Self::Json => json::snapshot_of(scratch, live),
            Self::Binary => binary::snapshot_of(scratch, live),
        }
    }
}
