//! The join of the diff stream with a REST snapshot, for one symbol. Pure.
//!
//! Every diff carries the update ids `U..=u` that it covers. Diffs are held until a snapshot with
//! its `lastUpdateId` comes; those with `u <= lastUpdateId` are in it already, the first of the
//! others must have `U <= lastUpdateId + 1 <= u`, and from there on each `U` is the `u` before it
//! plus one. Where that breaks, the book is lost and a new snapshot is needed.

use std::collections::VecDeque;

use super::parse::Levels;
use crate::model::{BookLevel, Received, UnixNanos};

/// Diffs that are held for one symbol: at ten a second, over a minute and a half for a snapshot
/// to arrive.
pub(super) const HELD_DIFFS_MAX: usize = 1_024;

/// Levels in all of them: about a megabyte a symbol.
pub(super) const HELD_LEVELS_MAX: usize = 32_768;

/// What a diff says beside its levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiffHead {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) ts: Option<UnixNanos>,
    pub(super) received: Received,
}

/// A diff that waits for a snapshot.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) head: DiffHead,
    pub(super) bids: Vec<BookLevel>,
    pub(super) asks: Vec<BookLevel>,
}

/// A REST answer.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) last: u64,
    pub(super) received: Received,
    pub(super) bids: Vec<BookLevel>,
    pub(super) asks: Vec<BookLevel>,
}

/// What is to be done with a diff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is the next: put it on the book.
    Apply,
    /// It has been held; some that were held before had to go if `overflow`.
    Hold { overflow: bool },
    /// It is in the snapshot, as some of the first after one are.
    Covered,
    /// It was there before.
    Duplicate,
    /// It is not the next: the book is lost, with so many updates where the ids tell. It has been
    /// held for the next snapshot.
    Gap { lost: Option<u64> },
}

/// What is to be done with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the book; then come the diffs of [`Join::take_held`].
    Adopt,
    /// It is older than the first diff held: a newer one is needed.
    Stale,
    /// The book is whole, and at least as new.
    Unneeded,
    /// The book is whole, but older. It is left alone, for its ids prove it right, but if a gap
    /// comes before it has caught up, [`Join::take_ahead`] has this one. (Some recorders ask for
    /// the snapshot before they have noticed that they were cut off.)
    Ahead,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Join {
    state: State,
    ahead: Option<Snapshot>,
    cause: &'static str,
}

#[derive(Debug)]
enum State {
    Waiting {
        held: VecDeque<Held>,
        levels: usize,
    },
    /// The book is whole up to `last`; `fresh` while no diff has followed its snapshot.
    Live {
        last: u64,
        fresh: bool,
    },
}

impl State {
    fn waiting() -> Self {
        Self::Waiting { held: VecDeque::new(), levels: 0 }
    }
}

impl Join {
    pub(super) fn new() -> Self {
        Self { state: State::waiting(), ahead: None, cause: "no snapshot yet" }
    }

    /// Whether a snapshot is needed.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    /// Why there is no book; meaningless while there is one.
    pub(super) fn cause(&self) -> &'static str {
        self.cause
    }

    /// Starts anew: a snapshot is needed, and nothing before it counts.
    pub(super) fn reset(&mut self, cause: &'static str) {
        *self = Self { state: State::waiting(), ahead: None, cause };
    }

    /// Judges a diff, whose levels are copied only if it must be held.
    pub(super) fn diff(&mut self, head: DiffHead, bids: &[BookLevel], asks: &[BookLevel]) -> Step {
        let State::Live { last, fresh } = &mut self.state else { return self.hold(head, bids, asks) };
        if head.last <= *last {
            return if *fresh { Step::Covered } else { Step::Duplicate };
        }
        // No overflow: `last` is below some `u`, or was refused as the maximum.
        let next = *last + 1;
        if head.first == next || (*fresh && head.first < next) {
            *last = head.last;
            *fresh = false;
            if self.ahead.as_ref().is_some_and(|ahead| ahead.last <= head.last) {
                self.ahead = None;
            }
            return Step::Apply;
        }
        let lost = head.first.checked_sub(next);
        self.state = State::waiting();
        self.cause = "gap in the update ids";
        self.hold(head, bids, asks);
        Step::Gap { lost }
    }

    /// Judges a snapshot; `levels` are copied only if it is kept for later.
    pub(super) fn snapshot(&mut self, last: u64, received: Received, levels: &Levels) -> Verdict {
        match &self.state {
            State::Live { last: live, .. } if last <= *live => Verdict::Unneeded,
            State::Live { .. } => {
                let (bids, asks) = (levels.bids.clone(), levels.asks.clone());
                self.ahead = Some(Snapshot { last, received, bids, asks });
                Verdict::Ahead
            }
            State::Waiting { held, .. } => {
                let next = held.iter().find(|diff| diff.head.last > last);
                // `u64::MAX` has no successor; no real id comes near it.
                if last == u64::MAX || next.is_some_and(|diff| diff.head.first > last + 1) {
                    self.cause = "snapshot older than the diffs";
                    return Verdict::Stale;
                }
                Verdict::Adopt
            }
        }
    }

    /// Goes live at `last`, handing out what was held, to be judged by [`Join::diff`] again.
    pub(super) fn take_held(&mut self, last: u64) -> VecDeque<Held> {
        self.ahead = None;
        match std::mem::replace(&mut self.state, State::Live { last, fresh: true }) {
            State::Waiting { held, .. } => held,
            State::Live { .. } => VecDeque::new(),
        }
    }

    /// The snapshot that arrived too early to be needed, after a gap.
    pub(super) fn take_ahead(&mut self) -> Option<Snapshot> {
        self.ahead.take()
    }

    fn hold(&mut self, head: DiffHead, bids: &[BookLevel], asks: &[BookLevel]) -> Step {
        let State::Waiting { held, levels } = &mut self.state else { return Step::Duplicate };
        if let Some(before) = held.back() {
            if head.last <= before.head.last {
                return Step::Duplicate;
            }
            // What lies before a hole is of use only to a snapshot that covers it anyway.
            if head.first != before.head.last + 1 {
                held.clear();
                *levels = 0;
            }
        }
        *levels += bids.len() + asks.len();
        held.push_back(Held { head, bids: bids.to_vec(), asks: asks.to_vec() });
        let mut overflow = false;
        while held.len() > HELD_DIFFS_MAX || (*levels > HELD_LEVELS_MAX && held.len() > 1) {
            overflow = true;
            if let Some(gone) = held.pop_front() {
                *levels -= gone.bids.len() + gone.asks.len();
            }
        }
        Step::Hold { overflow }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Decimal;
    use proptest::prelude::*;

    const NOW: Received = Received { wall: None, mono: 0 };

    fn diff(join: &mut Join, first: u64, last: u64) -> Step {
        join.diff(DiffHead { first, last, ts: None, received: NOW }, &[], &[])
    }

    fn snapshot(join: &mut Join, last: u64) -> Verdict {
        join.snapshot(last, NOW, &Levels::default())
    }

    /// Adopts a snapshot as the decoder does, returning what became of the held diffs.
    fn adopt(join: &mut Join, last: u64) -> Vec<Step> {
        assert_eq!(snapshot(join, last), Verdict::Adopt);
        join.take_held(last).into_iter().map(|held| join.diff(held.head, &held.bids, &held.asks)).collect()
    }

    const HELD: Step = Step::Hold { overflow: false };

    #[test]
    fn the_snapshot_falls_inside_a_held_diff() {
        let mut join = Join::new();
        for (first, last) in [(5, 8), (9, 9), (10, 14), (15, 20)] {
            assert_eq!(diff(&mut join, first, last), HELD);
        }
        assert_eq!(adopt(&mut join, 12), [Step::Covered, Step::Covered, Step::Apply, Step::Apply]);
        assert_eq!(diff(&mut join, 21, 21), Step::Apply);
    }

    #[test]
    fn the_snapshot_ends_with_a_held_diff_or_lies_before_all_of_them() {
        let mut join = Join::new();
        diff(&mut join, 5, 8);
        assert_eq!(adopt(&mut join, 8), [Step::Covered]);
        assert_eq!(diff(&mut join, 9, 9), Step::Apply);

        let mut join = Join::new();
        diff(&mut join, 5, 8);
        assert_eq!(adopt(&mut join, 4), [Step::Apply]);
    }

    #[test]
    fn the_snapshot_comes_first() {
        let mut join = Join::new();
        assert_eq!(adopt(&mut join, 12), []);
        assert_eq!(diff(&mut join, 5, 11), Step::Covered);
        assert_eq!(diff(&mut join, 12, 12), Step::Covered);
        assert_eq!(diff(&mut join, 13, 13), Step::Apply);
        assert_eq!(diff(&mut join, 13, 13), Step::Duplicate);
    }

    #[test]
    fn a_snapshot_older_than_the_diffs_is_refused_and_a_newer_one_taken() {
        let mut join = Join::new();
        diff(&mut join, 5, 8);
        assert_eq!(snapshot(&mut join, 3), Verdict::Stale);
        assert!(join.is_waiting());
        assert_eq!(adopt(&mut join, 6), [Step::Apply]);
    }

    #[test]
    fn a_gap_loses_the_book_until_the_next_snapshot() {
        let mut join = Join::new();
        adopt(&mut join, 10);
        assert_eq!(diff(&mut join, 11, 15), Step::Apply);
        assert_eq!(diff(&mut join, 19, 20), Step::Gap { lost: Some(3) });
        assert!(join.is_waiting());
        assert_eq!(diff(&mut join, 21, 22), HELD);
        assert_eq!(snapshot(&mut join, 17), Verdict::Stale);
        assert_eq!(adopt(&mut join, 19), [Step::Apply, Step::Apply]);
    }

    #[test]
    fn a_diff_that_overlaps_is_a_gap_of_unknown_size() {
        let mut join = Join::new();
        adopt(&mut join, 10);
        assert_eq!(diff(&mut join, 9, 15), Step::Apply, "the first may overlap the snapshot");
        assert_eq!(diff(&mut join, 15, 16), Step::Gap { lost: None }, "the others may not");
    }

    #[test]
    fn the_first_diff_after_a_snapshot_must_reach_it() {
        let mut join = Join::new();
        adopt(&mut join, 10);
        assert_eq!(diff(&mut join, 12, 15), Step::Gap { lost: Some(1) });
    }

    #[test]
    fn a_snapshot_of_a_whole_book_changes_nothing() {
        let mut join = Join::new();
        adopt(&mut join, 10);
        diff(&mut join, 11, 15);
        assert_eq!(snapshot(&mut join, 15), Verdict::Unneeded);
        assert_eq!(snapshot(&mut join, 20), Verdict::Ahead);
        assert_eq!(diff(&mut join, 16, 20), Step::Apply);
        assert!(join.take_ahead().is_none(), "the book has caught up with it");
    }

    #[test]
    fn a_snapshot_that_came_before_the_gap_heals_it() {
        let mut join = Join::new();
        adopt(&mut join, 10);
        assert_eq!(snapshot(&mut join, 50), Verdict::Ahead);
        assert_eq!(diff(&mut join, 45, 52), Step::Gap { lost: Some(34) });
        let ahead = join.take_ahead().expect("kept");
        assert_eq!(adopt(&mut join, ahead.last), [Step::Apply]);
    }

    #[test]
    fn held_diffs_are_bounded_and_the_newest_stay() {
        let mut join = Join::new();
        for id in 1..=HELD_DIFFS_MAX as u64 {
            assert_eq!(diff(&mut join, id, id), HELD);
        }
        assert_eq!(diff(&mut join, 1_025, 1_025), Step::Hold { overflow: true });
        assert_eq!(snapshot(&mut join, 0), Verdict::Stale);
        assert_eq!(adopt(&mut join, 1).len(), HELD_DIFFS_MAX);

        let mut join = Join::new();
        let level = BookLevel { price: Decimal::from(1), size: Decimal::from(1) };
        let head = |id| DiffHead { first: id, last: id, ts: None, received: NOW };
        let many = vec![level; HELD_LEVELS_MAX / 2 + 1];
        assert_eq!(join.diff(head(1), &many, &[]), HELD);
        assert_eq!(join.diff(head(2), &many, &[]), Step::Hold { overflow: true });
        assert_eq!(adopt(&mut join, 1), [Step::Apply]);
    }

    #[test]
    fn what_lies_before_a_hole_is_not_held() {
        let mut join = Join::new();
        diff(&mut join, 1, 5);
        diff(&mut join, 9, 10);
        assert_eq!(diff(&mut join, 6, 8), Step::Duplicate);
        assert_eq!(snapshot(&mut join, 3), Verdict::Stale);
        assert_eq!(adopt(&mut join, 9), [Step::Apply]);
    }

    proptest! {
        /// Whatever is cut, repeated or reordered: applied diffs always follow one another
        /// without a hole from the snapshot that was adopted last.
        #[test]
        fn applied_diffs_never_have_a_hole(
            steps in proptest::collection::vec((0_u8..12, 0_u64..40, 1_u64..5), 1..200),
        ) {
            let mut join = Join::new();
            let mut at: Option<u64> = None;
            let check = |at: &mut Option<u64>, step: Step, first: u64, last: u64| -> Result<(), TestCaseError> {
                match step {
                    Step::Apply => {
                        let known = at.expect("there is a book");
                        prop_assert!(first <= known + 1 && last > known);
                        *at = Some(last);
                    }
                    Step::Gap { .. } => *at = None,
                    Step::Hold { .. } => prop_assert!(at.is_none()),
                    Step::Covered | Step::Duplicate => {}
                }
                Ok(())
            };
            for (kind, id, length) in steps {
                if kind == 0 {
                    match snapshot(&mut join, id) {
                        Verdict::Adopt => {
                            prop_assert!(at.is_none());
                            at = Some(id);
                            for held in join.take_held(id) {
                                let step = join.diff(held.head, &[], &[]);
                                check(&mut at, step, held.head.first, held.head.last)?;
                            }
                        }
                        Verdict::Stale => prop_assert!(at.is_none()),
                        Verdict::Unneeded | Verdict::Ahead => prop_assert!(at.is_some()),
                    }
                } else {
                    let step = diff(&mut join, id, id + length);
                    check(&mut at, step, id, id + length)?;
                }
                prop_assert_eq!(at.is_none(), join.is_waiting());
            }
        }
    }
}
