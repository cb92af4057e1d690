//! What is kept of one symbol.

use super::join::Join;
use super::parse::TradeStream;
use crate::ingest::{Feed, Instrument, Reject};
use crate::provider::symbology::Symbology;

/// How far behind the last id from before a disconnect a trade counts as a repeat. What lies
/// further back is a venue that numbers anew, and must not be dropped.
const REPEATS_MAX: u64 = 100_000;

/// A stream of a symbol, or a REST answer about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Trade,
    Quote,
    Depth,
    Stats,
    Rest,
}

impl Stream {
    /// Those that are subscribed to, with their names behind the symbol.
    pub(super) const SUBSCRIBED: [(Self, &'static str); 4] = [
        (Self::Trade, "trade"),
        (Self::Quote, "bookTicker"),
        (Self::Depth, "depth@100ms"),
        (Self::Stats, "miniTicker"),
    ];

    pub(super) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Whether a symbol is an instrument.
pub(super) enum Claimed {
    /// Nothing that could be published has come yet.
    NotYet,
    Yes(Instrument),
    /// It cannot be one; why.
    Refused(String),
}

/// How far a symbol's wish for a snapshot has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    No,
    /// It stands in the queue of requests.
    Queued,
    /// The driver has taken the request.
    Sent,
}

/// See the module.
pub(super) struct Symbol {
    pub(super) name: Box<str>,
    pub(super) claimed: Claimed,
    pub(super) watched: bool,
    /// One bit for each [`Stream`] that has said something since the last connect.
    pub(super) heard: u8,
    pub(super) trades: TradeFlow,
    pub(super) join: Join,
    /// Whether anything of a book has come.
    pub(super) has_book: bool,
    pub(super) asked: Asked,
}

impl Symbol {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            claimed: Claimed::NotYet,
            watched: false,
            heard: 0,
            trades: TradeFlow::default(),
            join: Join::new(),
            has_book: false,
            asked: Asked::No,
        }
    }

    /// Makes it an instrument, once: it keeps the id that it gets here.
    pub(super) fn claim(&mut self, feed: &Feed, symbology: &Symbology) {
        if !matches!(self.claimed, Claimed::NotYet) {
            return;
        }
        let claimed = match symbology.definition(feed.venue(), &self.name) {
            Ok(definition) => feed.claim(definition).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        self.claimed = claimed.map_or_else(Claimed::Refused, Claimed::Yes);
    }
}

/// The order of a symbol's trades.
#[derive(Debug, Default)]
pub(super) struct TradeFlow {
    stream: Option<TradeStream>,
    last: Option<u64>,
    /// The last id from before a disconnect.
    repeats_to: Option<u64>,
}

impl TradeFlow {
    /// How many trades are missing before this one, if any; or why it is not to be published.
    pub(super) fn judge(&mut self, stream: TradeStream, id: u64) -> Result<Option<u64>, Reject> {
        if *self.stream.get_or_insert(stream) != stream {
            return Err(Reject::Unused);
        }
        if let Some(behind) = self.repeats_to.and_then(|to| to.checked_sub(id))
            && behind < REPEATS_MAX
        {
            return Err(Reject::Duplicate);
        }
        let jump = self.last.and_then(|last| id.checked_sub(last)).unwrap_or(0);
        // Where the ids go back, they are counted on from there: else one absurd id would hide
        // every loss behind it.
        self.last = Some(id);
        Ok((jump > 1).then(|| jump - 1))
    }

    pub(super) fn disconnected(&mut self) {
        self.repeats_to = self.last;
    }

    pub(super) fn rewound(&mut self) {
        self.last = None;
        self.repeats_to = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TradeStream::{Aggregate, Single};

    #[test]
    fn a_jump_is_a_loss_and_a_step_back_is_not() {
        let mut flow = TradeFlow::default();
        let judged: Vec<_> = [7, 8, 12, 11, 12, 13, u64::MAX, 14, 15]
            .map(|id| flow.judge(Single, id))
            .into_iter()
            .map(|it| it.expect("published"))
            .collect();
        let huge = u64::MAX - 14;
        assert_eq!(judged, [None, None, Some(3), None, None, None, Some(huge), None, None]);
    }

    #[test]
    fn the_stream_that_comes_first_is_the_source() {
        let mut flow = TradeFlow::default();
        assert_eq!(flow.judge(Aggregate, 5), Ok(None));
        assert_eq!(flow.judge(Single, 100), Err(Reject::Unused));
        assert_eq!(flow.judge(Aggregate, 6), Ok(None));
    }

    #[test]
    fn after_a_disconnect_repeats_are_dropped_and_the_loss_is_exact() {
        let mut flow = TradeFlow::default();
        flow.judge(Single, 1_000_000).expect("published");
        flow.disconnected();
        assert_eq!(flow.judge(Single, 999_999), Err(Reject::Duplicate));
        assert_eq!(flow.judge(Single, 1_000_000), Err(Reject::Duplicate));
        assert_eq!(flow.judge(Single, 1_000_004), Ok(Some(3)));
        assert_eq!(flow.judge(Single, 17), Ok(None), "so far back is a new numbering");
    }

    #[test]
    fn a_rewound_recording_starts_without_expectations() {
        let mut flow = TradeFlow::default();
        flow.judge(Single, 9).expect("published");
        flow.disconnected();
        flow.rewound();
        assert_eq!(flow.judge(Single, 1), Ok(None));
        assert_eq!(flow.judge(Single, 2), Ok(None));
    }
}
