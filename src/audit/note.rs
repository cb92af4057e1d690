//! What a trail says of itself.

use super::line::Line;
use crate::model::UnixNanos;
use crate::time::rfc3339_nanos;

/// The form of the lines; another form gets another number.
pub(super) const FORMAT: u64 = 1;

/// A record of the trail about the trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note<'a> {
    /// The first of each file.
    File {
        /// Its own name.
        file: &'a str,
        /// How hashes are made.
        chain: &'static str,
        /// The file before.
        after: Option<&'a str>,
    },
    /// The queue was full.
    Lost {
        /// Records that are missing here.
        count: u64,
    },
    /// At the start the end of the trail was not as it was left.
    Recovered {
        /// The file that was last.
        file: &'a str,
        /// What was wrong, in one word.
        reason: &'static str,
        /// Bytes of an unfinished line that were cut off.
        cut_bytes: u64,
        /// Number of the last record as the head had it.
        expected: Option<u64>,
        /// Number of the last record that was found.
        found: u64,
    },
    /// A file's time has passed.
    Deleted {
        /// The file.
        file: &'a str,
        /// Number of its last record.
        through: u64,
    },
}

impl Note<'_> {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Lost { .. } => "lost",
            Self::Recovered { .. } => "recovered",
            Self::Deleted { .. } => "deleted",
        }
    }

    pub(super) fn write(&self, text: &mut String, seq: u64, at: UnixNanos) {
        let mut line = Line::begin(text, seq);
        line.text("at", &rfc3339_nanos(at));
        line.text("event", self.name());
        match *self {
            Self::File { file, chain, after } => {
                line.number("trail", FORMAT);
                line.text("chain", chain);
                line.text("file", file);
                line.optional_text("after_file", after);
            }
            Self::Lost { count } => {
                line.number("count", count);
                line.number("after", seq - 1);
                line.number("before", seq + 1);
            }
            Self::Recovered { file, reason, cut_bytes, expected, found } => {
                line.text("file", file);
                line.text("reason", reason);
                line.number("cut_bytes", cut_bytes);
                line.optional_number("expected", expected);
                line.number("found", found);
            }
            Self::Deleted { file, through } => {
                line.text("file", file);
                line.number("through", through);
            }
        }
    }
}
