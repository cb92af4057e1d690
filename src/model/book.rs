//! One instrument's validated book, and the windows of it that streams carry. Pure.

use std::cmp::Ordering;

use super::{BookLevel, BookSide, Decimal, Depth};

/// Levels a side at most: the largest known book of a venue stays below 60,000.
pub const BOOK_LEVELS_MAX: usize = 200_000;

/// Why a book is not one. It is lost: the venue must be asked for a new snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BookFault {
    /// The best bid is not below the best ask.
    #[error("crossed")]
    Crossed,
    /// A price or size that cannot be: not positive, or a negative size.
    #[error("impossible level")]
    Impossible,
    /// More levels than any real book has.
    #[error("too many levels")]
    TooDeep,
    /// A change for a book of which there is no snapshot.
    #[error("no snapshot yet")]
    NoSnapshot,
}

impl BookFault {
    /// The word for it in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Crossed => "crossed",
            Self::Impossible => "impossible",
            Self::TooDeep => "too_deep",
            Self::NoSnapshot => "no_snapshot",
        }
    }
}

/// All levels of both sides. Each side is sorted with the best price last, where changes are
/// frequent and insertion is cheap.
#[derive(Clone, Debug, Default)]
pub struct Book {
    bids: Vec<BookLevel>,
    asks: Vec<BookLevel>,
}

impl Book {
    /// A book from a snapshot; the order of the levels does not matter, a repeated price counts
    /// with its last size, size zero is no level.
    ///
    /// # Errors
    /// [`BookFault`] where it cannot be a book.
    pub fn from_snapshot(bids: &[BookLevel], asks: &[BookLevel]) -> Result<Self, BookFault> {
        let mut book = Self::default();
        book.apply(bids, asks)?;
        Ok(book)
    }

    /// Applies changed levels: a size replaces, size zero removes.
    ///
    /// # Errors
    /// [`BookFault`] where the result cannot be a book; it must then be thrown away.
    pub fn apply(&mut self, bids: &[BookLevel], asks: &[BookLevel]) -> Result<(), BookFault> {
        set_all(&mut self.bids, BookSide::Bid, bids)?;
        set_all(&mut self.asks, BookSide::Ask, asks)?;
        if self.bids.len() > BOOK_LEVELS_MAX || self.asks.len() > BOOK_LEVELS_MAX {
            return Err(BookFault::TooDeep);
        }
        match (self.bids.last(), self.asks.last()) {
            (Some(bid), Some(ask)) if bid.price >= ask.price => Err(BookFault::Crossed),
            _ => Ok(()),
        }
    }

    /// The best bid.
    #[must_use]
    pub fn best_bid(&self) -> Option<BookLevel> {
        self.bids.last().copied()
    }

    /// The best ask.
    #[must_use]
    pub fn best_ask(&self) -> Option<BookLevel> {
        self.asks.last().copied()
    }

    /// The levels of a window, best first.
    pub fn window(&self, side: BookSide, depth: Depth) -> impl ExactSizeIterator<Item = &BookLevel> {
        let levels = match side {
            BookSide::Bid => &self.bids,
            BookSide::Ask => &self.asks,
        };
        levels.iter().rev().take(depth.levels_max())
    }
}

/// Best last: bids ascend, asks descend.
fn order(side: BookSide, a: Decimal, b: Decimal) -> Ordering {
    match side {
        BookSide::Bid => a.cmp(&b),
        BookSide::Ask => b.cmp(&a),
    }
}

fn set_all(levels: &mut Vec<BookLevel>, side: BookSide, changes: &[BookLevel]) -> Result<(), BookFault> {
    for change in changes {
        if change.size.is_negative() || change.price.is_negative() || change.price.is_zero() {
            return Err(BookFault::Impossible);
        }
        set(levels, side, *change);
    }
    Ok(())
}

fn set(levels: &mut Vec<BookLevel>, side: BookSide, change: BookLevel) {
    let found = match levels.last() {
        // A snapshot's levels, best first or last, and every new best price.
        Some(best) if order(side, best.price, change.price) == Ordering::Less => Err(levels.len()),
        _ => levels.binary_search_by(|level| order(side, level.price, change.price)),
    };
    match found {
        Ok(at) if change.size.is_zero() => {
            levels.remove(at);
        }
        Ok(at) => levels[at] = change,
        Err(_) if change.size.is_zero() => {}
        Err(at) => levels.insert(at, change),
    }
}

/// A window as it was last published, and the change to what it is now.
#[derive(Clone, Debug, Default)]
pub struct Window {
    bids: Vec<BookLevel>,
    asks: Vec<BookLevel>,
}

impl Window {
    /// The window of `book` at `depth`.
    #[must_use]
    pub fn of(book: &Book, depth: Depth) -> Self {
        Self {
            bids: book.window(BookSide::Bid, depth).copied().collect(),
            asks: book.window(BookSide::Ask, depth).copied().collect(),
        }
    }

    /// The bids, best first.
    #[must_use]
    pub fn bids(&self) -> &[BookLevel] {
        &self.bids
    }

    /// The asks, best first.
    #[must_use]
    pub fn asks(&self) -> &[BookLevel] {
        &self.asks
    }

    /// Becomes the window of `book`, appending what changed: the levels that entered or have
    /// another size, and those that left with size zero.
    pub fn advance(&mut self, book: &Book, depth: Depth, bids: &mut Vec<BookLevel>, asks: &mut Vec<BookLevel>) {
        advance_side(&mut self.bids, book.window(BookSide::Bid, depth), BookSide::Bid, bids);
        advance_side(&mut self.asks, book.window(BookSide::Ask, depth), BookSide::Ask, asks);
    }

    /// Applies a change as a subscriber does.
    pub fn apply(&mut self, bids: &[BookLevel], asks: &[BookLevel]) {
        // Best first here: the other way round than in `Book`.
        for change in bids {
            set(&mut self.bids, BookSide::Ask, *change);
        }
        for change in asks {
            set(&mut self.asks, BookSide::Bid, *change);
        }
    }
}

fn advance_side<'a>(
    old: &mut Vec<BookLevel>,
    new: impl ExactSizeIterator<Item = &'a BookLevel>,
    side: BookSide,
    changes: &mut Vec<BookLevel>,
) {
    let first = changes.len();
    let length = new.len();
    let mut at = 0;
    for level in new {
        while let Some(gone) = old.get(at).filter(|o| order(side, o.price, level.price) == Ordering::Greater) {
            changes.push(BookLevel { price: gone.price, size: Decimal::ZERO });
            at += 1;
        }
        match old.get(at) {
            Some(same) if same.price == level.price => {
                if same.size != level.size {
                    changes.push(*level);
                }
                at += 1;
            }
            _ => changes.push(*level),
        }
    }
    changes.extend(old[at..].iter().map(|gone| BookLevel { price: gone.price, size: Decimal::ZERO }));
    // Only the changed levels are touched, so that a deep window costs what it changes.
    let at_side = if side == BookSide::Bid { BookSide::Ask } else { BookSide::Bid };
    for change in &changes[first..] {
        set(old, at_side, *change);
    }
    debug_assert_eq!(old.len(), length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn level(price: i64, size: i64) -> BookLevel {
        BookLevel { price: Decimal::from(price), size: Decimal::from(size) }
    }

    fn prices(levels: &[BookLevel]) -> Vec<(i64, i64)> {
        levels.iter().map(|l| (l.price.mantissa(), l.size.mantissa())).collect()
    }

    #[test]
    fn a_change_that_moves_the_window_names_who_enters_and_who_leaves() {
        let mut book = Book::from_snapshot(&[level(9, 1), level(8, 1), level(7, 1)], &[level(11, 1)]).expect("sane");
        let mut window = Window::of(&book, Depth::One);
        let (mut bids, mut asks) = (Vec::new(), Vec::new());
        book.apply(&[level(10, 5)], &[]).expect("sane");
        window.advance(&book, Depth::One, &mut bids, &mut asks);
        assert_eq!(prices(&bids), [(10, 5), (9, 0)]);
        assert_eq!(asks, []);
        bids.clear();
        book.apply(&[level(10, 0)], &[]).expect("sane");
        window.advance(&book, Depth::One, &mut bids, &mut asks);
        assert_eq!(prices(&bids), [(10, 0), (9, 1)]);
        bids.clear();
        book.apply(&[level(7, 3)], &[]).expect("sane");
        window.advance(&book, Depth::One, &mut bids, &mut asks);
        assert_eq!(bids, [], "a change below the window is none");
    }

    #[test]
    fn finds_crossed_and_impossible_books() {
        let sane = Book::from_snapshot(&[level(9, 1)], &[level(10, 1)]).expect("sane");
        assert_eq!(sane.clone().apply(&[level(10, 1)], &[]), Err(BookFault::Crossed));
        assert_eq!(sane.clone().apply(&[level(5, -1)], &[]), Err(BookFault::Impossible));
        assert_eq!(sane.clone().apply(&[level(0, 1)], &[]), Err(BookFault::Impossible));
        assert_eq!(sane.clone().apply(&[level(10, 1)], &[level(10, 0), level(11, 1)]), Ok(()));
    }

    proptest! {
        /// Windows by changes are the same as windows by sorting, at every depth.
        #[test]
        fn a_subscriber_that_applies_the_changes_has_the_window(
            steps in proptest::collection::vec(proptest::collection::vec((any::<bool>(), 0_i64..80, 0_i64..4), 1..12), 1..60)
        ) {
            let mut book = Book::default();
            let mut windows: Vec<(Depth, Window, Window)> =
                Depth::ALL.iter().map(|d| (*d, Window::default(), Window::default())).collect();
            let (mut bids, mut asks): (BTreeMap<i64, i64>, BTreeMap<i64, i64>) = Default::default();
            for step in steps {
                let (mut bid_changes, mut ask_changes) = (Vec::new(), Vec::new());
                for (is_bid, price, size) in step {
                    let (price, changes, model) = if is_bid {
                        (1 + price, &mut bid_changes, &mut bids)
                    } else {
                        (100 + price, &mut ask_changes, &mut asks)
                    };
                    changes.push(level(price, size));
                    if size == 0 { model.remove(&price); } else { model.insert(price, size); }
                }
                book.apply(&bid_changes, &ask_changes).expect("never crossed");
                for (depth, published, subscriber) in &mut windows {
                    let (mut b, mut a) = (Vec::new(), Vec::new());
                    published.advance(&book, *depth, &mut b, &mut a);
                    subscriber.apply(&b, &a);
                    let expected_bids: Vec<(i64, i64)> = bids.iter().rev().take(depth.levels_max()).map(|(p, s)| (*p, *s)).collect();
                    let expected_asks: Vec<(i64, i64)> = asks.iter().take(depth.levels_max()).map(|(p, s)| (*p, *s)).collect();
                    prop_assert_eq!(prices(subscriber.bids()), expected_bids.clone());
                    prop_assert_eq!(prices(subscriber.asks()), expected_asks);
                    prop_assert_eq!(prices(published.bids()), expected_bids);
                }
            }
        }
    }
}
