//! Instruments in the order of their ids, and pages of them.
//!
//! A page costs what it holds and what selects it, not what the hub holds: the patterns that are
//! asked and granted become ranges of the sorted ids, and only those are walked.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use crate::auth::Grant;
use crate::model::{InstrumentKey, Pattern};
use crate::store::Store;

/// The keys of all instruments by their ids. Follows the store: instruments appear and stay.
#[derive(Default)]
pub(in crate::http) struct Catalog {
    sorted: RwLock<BTreeMap<Box<str>, InstrumentKey>>,
}

/// One page.
pub(super) struct Page {
    /// Keys in the order of their ids.
    pub(super) keys: Vec<InstrumentKey>,
    /// Whether there are more behind them.
    pub(super) more: bool,
}

impl Catalog {
    /// The first `limit` instruments behind `after` that `pattern` selects and `grant` allows.
    pub(super) fn page(
        &self,
        store: &Store,
        grant: &Grant,
        pattern: &Pattern,
        after: Option<&str>,
        limit: usize,
    ) -> Page {
        self.follow(store);
        let venues: Vec<&str> = store.feeds().map(|(_, feed)| &*feed.venue).collect();
        let ranges = disjoint(grant.restrict(pattern).iter().flat_map(|pattern| Range::of(pattern, &venues)).collect());
        let sorted = self.sorted.read().unwrap_or_else(PoisonError::into_inner);
        let mut keys = Vec::new();
        for range in &ranges {
            let from = match after {
                Some(after) if after >= range.head.as_str() => Bound::Excluded(after),
                _ => Bound::Included(range.head.as_str()),
            };
            let inside = sorted.range::<str, _>((from, Bound::Unbounded)).take_while(|(id, _)| range.holds(id));
            keys.extend(inside.map(|(_, key)| *key).take(limit + 1 - keys.len()));
            if keys.len() > limit {
                keys.truncate(limit);
                return Page { keys, more: true };
            }
        }
        Page { keys, more: false }
    }

    /// Takes in what has appeared since.
    fn follow(&self, store: &Store) {
        let len = store.len();
        let known = |sorted: &BTreeMap<_, _>| sorted.len() as u32;
        if known(&self.sorted.read().unwrap_or_else(PoisonError::into_inner)) >= len {
            return;
        }
        let mut sorted = self.sorted.write().unwrap_or_else(PoisonError::into_inner);
        for key in (known(&sorted)..len).map(InstrumentKey) {
            // Every key below the store's length has its definition.
            if let Some(definition) = store.definition(key) {
                sorted.insert(definition.id.as_str().into(), key);
            }
        }
    }
}

/// Neighbors in the order of ids: those that begin with `head`, or the one that is `head`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    head: String,
    exact: bool,
}

impl Range {
    /// What `pattern` selects, as one range for each venue that it may mean.
    fn of(pattern: &Pattern, venues: &[&str]) -> Vec<Self> {
        let (_, symbol) = pattern.as_str().split_once(':').unwrap_or_default();
        let (head, exact) = symbol.strip_suffix('*').map_or((symbol, true), |head| (head, false));
        let range = |venue: &str| Self { head: format!("{venue}:{head}"), exact };
        match pattern.venue() {
            Some(venue) => vec![range(venue)],
            None => venues.iter().map(|venue| range(venue)).collect(),
        }
    }

    fn holds(&self, id: &str) -> bool {
        if self.exact { id == self.head } else { id.starts_with(&self.head) }
    }
}

/// The same in order, without those that lie inside another. Two ranges are either nested or
/// apart, and in their order the outer one comes first.
fn disjoint(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut kept: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        if !kept.last().is_some_and(|outer| outer.holds(&range.head)) {
            kept.push(range);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth::Narrowing;
    use crate::model::{InstrumentDefinition, InstrumentId, UnixNanos};

    fn grant(symbols: &[String]) -> Grant {
        let symbols = symbols.iter().map(|text| Pattern::parse(text).expect("valid")).collect();
        Grant::everything().narrow(&Narrowing { symbols: Some(symbols), ..Narrowing::default() }).expect("few")
    }

    proptest! {
        #[test]
        fn pages_hold_exactly_what_is_asked_and_granted_once_and_in_order(
            ids in proptest::collection::hash_set("(A|AB|B):(A|B|-|AB){1,3}", 0..40), later in 0..40_usize,
            granted in proptest::collection::vec("(\\*|A|AB|B):((A|B|AB){1,2}\\*?|\\*)", 0..5),
            asked in "(\\*|A|AB|B):((A|B|AB){1,2}\\*?|\\*)", limit in 1..8_usize,
        ) {
            let (store, catalog) = (Store::new(0), Catalog::default());
            let (grant, pattern) = (grant(&granted), Pattern::parse(&asked).expect("valid"));
            let ids: Vec<_> = ids.iter().map(|id| InstrumentId::parse(id).expect("valid")).collect();
            for (index, id) in ids.iter().enumerate() {
                if index == later {
                    catalog.page(&store, &grant, &pattern, None, 1);
                }
                let feed = store.feed_of(id.venue(), "1", UnixNanos(0)).expect("room");
                let definition = InstrumentDefinition { id: id.clone(), raw_symbol: String::new(), base: None, quote: None };
                store.claim(definition, feed).expect("free");
            }
            let mut seen: Vec<InstrumentId> = Vec::new();
            loop {
                let after = seen.last().map(InstrumentId::as_str);
                let page = catalog.page(&store, &grant, &pattern, after, limit);
                prop_assert!(page.keys.len() == limit || !page.more);
                seen.extend(page.keys.iter().map(|key| store.definition(*key).expect("known").id.clone()));
                if !page.more {
                    break;
                }
            }
            let mut expected: Vec<_> = ids.into_iter().filter(|id| grant.allows(id) && pattern.matches(id)).collect();
            expected.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
            prop_assert_eq!(seen, expected);
        }
    }
}
