//! Values: pure, small, without clocks or I/O. Imports nothing else of the crate.

mod book;
mod channel;
mod decimal;
mod event;
mod instrument;
mod overflow;

pub use book::{BOOK_LEVELS_MAX, Book, BookFault, Window};
pub use channel::{Channel, Depth, StreamId, StreamKind};
pub use decimal::{Decimal, DecimalError};
pub use event::{
    AggressorSide, BookLevel, BookSide, FeedState, GapCause, Quote, Received, Stats, Ticker, Trade, TradeId, UnixNanos,
};
pub use instrument::{
    IdError, InstrumentDefinition, InstrumentId, InstrumentKey, Pattern, SYMBOL_BYTES_MAX, VENUE_BYTES_MAX, check_venue,
};
pub use overflow::Overflow;
