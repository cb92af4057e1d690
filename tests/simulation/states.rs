//! The states of feeds as a client is told them: each change once and in order.

use std::collections::BTreeSet;

use crate::action::{FEED_STATES, VENUES};
use crate::client::{Change, Client, Facts, View};
use crate::message::Message;
use crate::stream::{Check, ensure};

impl Client {
    pub(crate) fn concerns(&self, symbol: &str, feed: usize) -> bool {
        self.allowed().concerns(symbol, VENUES[feed].0)
    }

    pub(crate) fn concerned(&self, feed: usize) -> bool {
        self.entries.iter().any(|entry| entry.options.is_some() && self.concerns(entry.symbol, feed))
    }

    pub(crate) fn set_concern(&mut self, feed: usize) {
        if !self.concerned(feed) {
            self.views[feed] = Some(View::Unconcerned);
            self.initial[feed] = None;
        }
    }

    pub(crate) fn begin_initial(&mut self, facts: &Facts<'_>, feed: usize, changes: Option<(usize, usize)>) {
        if changes.is_some() && !facts.changes[feed].is_empty() {
            self.initial[feed] = changes;
        }
    }

    /// A feed that was registered late: its state may be told with its first instrument.
    pub(crate) fn concern_late_feed(&mut self, facts: &Facts<'_>, feed: usize) {
        if self.views[feed].as_ref().is_none_or(|view| *view == View::Unconcerned) {
            self.begin_initial(facts, feed, Some((0, facts.changes[feed].len() - 1)));
        }
    }

    /// What comes next is no state: those that were not told are live.
    pub(crate) fn end_initial(&mut self, facts: &Facts<'_>) -> Check {
        for feed in 0..VENUES.len() {
            let Some((least, most)) = self.initial[feed].take() else { continue };
            let live = |change: &usize| facts.changes[feed][*change].state == 0;
            let mut candidates: BTreeSet<usize> = (least..=most).filter(live).collect();
            if let Some(View::OneOf(seen)) = &self.views[feed]
                && !facts.overflowed
            {
                candidates.retain(|change| seen.contains(change));
            }
            ensure!(!candidates.is_empty(), "the state of {} was not told behind the answer", VENUES[feed].0);
            self.views[feed] = Some(View::OneOf(candidates));
        }
        Ok(())
    }

    pub(crate) fn on_status(&mut self, facts: &Facts<'_>, message: &Message<'_>) -> Check {
        let symbol = message.sym.ok_or("no symbol")?;
        let named = |(venue, _): &(&str, &str)| symbol.strip_suffix(":*") == Some(venue);
        let feed = VENUES.iter().position(named).ok_or("a status of no venue")?;
        ensure!(self.concerned(feed), "a status of a feed that does not concern the session");
        let is =
            |change: &Change| message.ts == Some(&change.since) && message.state == Some(FEED_STATES[change.state]);
        let change = facts.changes[feed].iter().rposition(is).ok_or("a status that never was")?;
        let seen = self.views[feed].clone();
        if let Some((least, most)) = self.initial[feed].take() {
            let fits = match &seen {
                Some(View::OneOf(seen)) if !facts.overflowed => seen.contains(&change),
                Some(View::OneOf(seen)) => seen.iter().any(|seen| *seen <= change),
                _ => true,
            };
            if fits && (least..=most).contains(&change) && facts.changes[feed][change].state != 0 {
                self.views[feed] = Some(View::OneOf([change].into()));
                return Ok(());
            }
            self.initial[feed] = Some((least, most));
        }
        self.end_initial(facts)?;
        if let Some(View::OneOf(seen)) = &self.views[feed] {
            let next = change > 0 && seen.contains(&(change - 1));
            let skips = facts.overflowed && seen.iter().any(|seen| *seen < change);
            ensure!(next || skips, "change {change} of the feed after {seen:?}");
        }
        self.views[feed] = Some(View::OneOf([change].into()));
        Ok(())
    }
}
