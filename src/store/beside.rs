//! A store beside another one: the same feeds and keys, at another time.

use std::ops::Range;
use std::sync::Arc;

use super::Store;
use crate::model::InstrumentKey;
use crate::sync::Ordering;

impl Store {
    /// Another store, with the same feeds as they were in the beginning, without instruments,
    /// whose resume rings are within the bound of this one's.
    #[must_use]
    pub fn beside(&self) -> Arc<Self> {
        let other = Self::within(Arc::clone(&self.budget), self.initial_interest);
        for (_, feed) in self.feeds() {
            other.feed_of(&feed.venue, &feed.epoch, feed.first.since);
        }
        other
    }

    /// Makes the instruments of `other` up to `key` known here, under the same keys; the keys of
    /// those that were not. Keys are given in the order in which instruments appear: whoever may
    /// know one may know all before it. Both stores must have the same feeds.
    pub fn mirror(&self, other: &Self, key: InstrumentKey) -> Range<u32> {
        let _growing = self.growing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let first = self.len();
        let mut next = first;
        while next <= key.0 {
            let at = InstrumentKey(next);
            let (Some(definition), Some(feed)) = (other.definition(at), other.feed_index(at)) else { break };
            let cell = self.shards.make(at.index());
            cell.feed.get_or_init(|| feed);
            if cell.definition.set(definition.clone()).is_ok() {
                cell.begin_interest(&self.initial_interest);
            }
            next += 1;
            self.len.store(u64::from(next), Ordering::Release);
            self.directory.insert(definition.id.clone(), at);
        }
        first..next
    }
}
