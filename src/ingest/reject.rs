//! What an upstream sends wrong: counted by reason, logged at most once a period.

use crate::limits::LOG_TEXT_BYTES_MAX;

/// Why an upstream message, or a part of one, was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reject {
    /// Not what the venue's messages look like.
    Malformed,
    /// Of a kind that the connector does not know.
    UnknownMessage,
    /// Of a kind that the connector knows and does not use.
    Unused,
    /// About a symbol that the connector was not told of, or cannot tell.
    UnknownSymbol,
    /// About a symbol that cannot be written as an instrument id, or whose id another has.
    Symbol,
    /// A number that does not fit exactly.
    Number,
    /// A price or size that cannot be.
    Impossible,
    /// A text of the venue's that is longer than any sane one.
    TooLong,
    /// Sent before.
    Duplicate,
    /// Not in the order that the venue promises.
    OutOfOrder,
    /// More than the connector holds while it waits for a snapshot.
    Overflow,
    /// An error that the venue reports.
    VenueError,
    /// A recorded row that is not one.
    Row,
}

impl Reject {
    /// Every reason, by index.
    pub const ALL: [Self; 13] = [
        Self::Malformed,
        Self::UnknownMessage,
        Self::Unused,
        Self::UnknownSymbol,
        Self::Symbol,
        Self::Number,
        Self::Impossible,
        Self::TooLong,
        Self::Duplicate,
        Self::OutOfOrder,
        Self::Overflow,
        Self::VenueError,
        Self::Row,
    ];

    /// The word for it in metrics and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownMessage => "unknown_message",
            Self::Unused => "unused",
            Self::UnknownSymbol => "unknown_symbol",
            Self::Symbol => "symbol",
            Self::Number => "number",
            Self::Impossible => "impossible",
            Self::TooLong => "too_long",
            Self::Duplicate => "duplicate",
            Self::OutOfOrder => "out_of_order",
            Self::Overflow => "overflow",
            Self::VenueError => "venue_error",
            Self::Row => "row",
        }
    }
}

/// Text of a peer, fit for a log line: cut, and without anything but printable ASCII.
#[must_use]
pub fn sanitized(text: &[u8]) -> String {
    let cut = &text[..text.len().min(LOG_TEXT_BYTES_MAX)];
    let mut out: String = cut.iter().map(|b| if (0x20..0x7f).contains(b) { char::from(*b) } else { '?' }).collect();
    if text.len() > cut.len() {
        out.push_str("...");
    }
    out
}
