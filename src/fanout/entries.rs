//! Entries in their sessions and cohorts, and cohorts on their streams.

use std::sync::Arc;

use super::cohort::{CohortId, CohortKey, Covers, Member};
use super::scope::ScopeId;
use super::subscriber::{Entry, EntryId, Options, Selector, SessionId};
use super::worker::Fanout;
use crate::model::{InstrumentKey, Pattern, StreamId, StreamKind};
use crate::wire::Format;

impl Fanout {
    pub(super) fn acquire_scope(&mut self, pattern: &Pattern, grant: &Arc<[Pattern]>) -> ScopeId {
        self.learn_new_feeds();
        let store = Arc::clone(&self.store);
        let known = self.ids.iter().map(|(id, key)| (*key, id));
        let venues = store.feeds().map(|(index, feed)| (index, &*feed.venue));
        self.scopes.acquire(pattern, grant, known, venues)
    }

    pub(super) fn release_scope(&mut self, scope: ScopeId) {
        self.scopes.release(scope);
    }

    pub(super) fn keys_of(&self, selector: &Selector) -> Vec<InstrumentKey> {
        match selector {
            Selector::Exact(key) => vec![*key],
            Selector::Pattern { scope, .. } => self.scopes.scope(*scope).keys().collect(),
        }
    }

    /// Adds an entry to its session and its cohort.
    pub(super) fn attach_entry(&mut self, session: SessionId, mut entry: Entry) -> EntryId {
        let (channel, format) = (entry.channel, self.sessions[session as usize].format);
        entry.cohort = entry.options.kind(channel).map(|kind| {
            let covers = match &entry.selector {
                Selector::Exact(key) => Covers::Exact(*key),
                Selector::Pattern { scope, .. } => Covers::Scope(*scope),
            };
            let Options { mode, max_rate, .. } = entry.options;
            let (cohort, new) = self.cohorts.obtain(CohortKey { covers, kind, mode, max_rate, format });
            if new {
                self.attach_cohort(cohort, covers, kind, format);
            }
            cohort
        });
        let cohort = entry.cohort;
        let selector = entry.selector.clone();
        entry.member = cohort.map_or(0, |c| self.cohorts.cohort(c).members.len() as u32);
        let sub = &mut self.sessions[session as usize];
        if sub.entries.is_empty() {
            // Most sessions hold one: without this the first takes the room of four.
            sub.entries.reserve_exact(1);
        }
        let id = sub.entries.insert(entry) as EntryId;
        match selector {
            Selector::Exact(key) => {
                sub.exact.insert((channel, key), id);
            }
            Selector::Pattern { .. } => sub.patterns.push(id),
        }
        if let Some(cohort) = cohort {
            self.cohorts.cohort_mut(cohort).members.push(Member { session, entry: id });
        }
        id
    }

    fn attach_cohort(&mut self, cohort: CohortId, covers: Covers, kind: StreamKind, format: Format) {
        let keys = match covers {
            Covers::Exact(key) => vec![key],
            Covers::Scope(scope) => {
                self.scopes.scope_mut(scope).cohorts.push(cohort);
                self.scopes.scope(scope).keys().collect()
            }
        };
        for key in keys {
            let at = self.obtain_stream(StreamId { key, kind }, format);
            self.streams[at as usize].cohorts.push(cohort);
        }
    }

    /// Takes an entry out of its session and its cohort, giving back what only it used.
    pub(super) fn detach_entry(&mut self, session: SessionId, id: EntryId) -> Entry {
        let sub = &mut self.sessions[session as usize];
        let entry = sub.entries.remove(id as usize);
        match &entry.selector {
            Selector::Exact(key) => {
                // A new entry for the same may stand there already.
                if sub.exact.get(&(entry.channel, *key)) == Some(&id) {
                    sub.exact.remove(&(entry.channel, *key));
                }
            }
            Selector::Pattern { .. } => sub.patterns.retain(|p| *p != id),
        }
        if let Some(cohort_id) = entry.cohort {
            if entry.options.max_rate.is_some() {
                self.cohorts.forget(cohort_id, session);
            }
            let cohort = self.cohorts.cohort_mut(cohort_id);
            cohort.members.swap_remove(entry.member as usize);
            if let Some(moved) = cohort.members.get(entry.member as usize) {
                self.sessions[moved.session as usize].entries[moved.entry as usize].member = entry.member;
            }
            if self.cohorts.cohort(cohort_id).members.is_empty() {
                self.detach_cohort(cohort_id);
            }
        }
        if let Selector::Pattern { scope, .. } = &entry.selector {
            self.release_scope(*scope);
        }
        entry
    }

    fn detach_cohort(&mut self, id: CohortId) {
        let key = self.cohorts.cohort(id).key;
        let keys = match key.covers {
            Covers::Exact(key) => vec![key],
            Covers::Scope(scope) => {
                self.scopes.scope_mut(scope).cohorts.retain(|cohort| *cohort != id);
                self.scopes.scope(scope).keys().collect()
            }
        };
        for instrument in keys {
            self.detach_stream(StreamId { key: instrument, kind: key.kind }, key.format, id);
        }
        self.cohorts.remove(id);
    }

    pub(super) fn remove_entry(&mut self, session: SessionId, id: EntryId) {
        let entry = self.detach_entry(session, id);
        self.sessions[session as usize].update_overlap(entry.channel);
    }
}
