//! A renewal's grant: what it takes away, gives, and changes of what a session holds.

use std::sync::Arc;

use super::subscriber::{Entry, EntryId, Options, Selector, SessionId};
use super::worker::Fanout;
use crate::model::{Channel, InstrumentKey, Pattern};
use crate::wire::ErrorCode;
use crate::wire::answer::withdrawn;

/// Entries in one message about what a smaller grant takes away.
const WITHDRAWN_ENTRIES_MAX: usize = 250;

impl Fanout {
    /// Replaces a session's grant. `clamp` gives the options that it leaves of those asked for,
    /// or none where it allows the channel or mode no more. What the session must be told is
    /// queued. How many streams it took away: instruments, counted once for each channel.
    pub fn regrant(
        &mut self,
        session: SessionId,
        grant: Arc<[Pattern]>,
        clamp: &dyn Fn(Channel, Options) -> Option<Options>,
    ) -> usize {
        let before = self.sessions[session as usize].feeds;
        let mut withdrawn = 0;
        for channel in Channel::ALL {
            withdrawn += self.regrant_channel(session, channel, &grant, clamp);
        }
        let patterns = self.sessions[session as usize].patterns.len() as u64;
        self.looks += patterns * self.ids.len() as u64;
        self.sessions[session as usize].grant = grant;
        for channel in Channel::ALL {
            self.update_session(session, channel);
        }
        self.tell_states(session, self.sessions[session as usize].feeds & !before);
        withdrawn
    }

    fn regrant_channel(
        &mut self,
        session: SessionId,
        channel: Channel,
        grant: &Arc<[Pattern]>,
        clamp: &dyn Fn(Channel, Options) -> Option<Options>,
    ) -> usize {
        let entries: Vec<EntryId> = self.sessions[session as usize]
            .entries
            .iter()
            .filter(|(_, entry)| entry.channel == channel)
            .map(|(id, _)| id as EntryId)
            .collect();
        let keys = self.keys_under(session, &entries, grant);
        let before = self.effects(session, channel, &keys);
        for id in entries {
            self.regrant_entry(session, id, grant, clamp);
        }
        self.sessions[session as usize].update_overlap(channel);
        let (mut gone, mut changed) = (Vec::new(), Vec::new());
        for (key, before) in keys.iter().zip(before) {
            if before.is_some() && self.effect(session, channel, *key).is_none() {
                self.leave(session, channel, *key, before);
                gone.push(*key);
            } else if let Some(frame) = self.transition_unasked(session, channel, *key, before) {
                changed.push(frame);
            }
        }
        let store = Arc::clone(&self.store);
        for chunk in gone.chunks(WITHDRAWN_ENTRIES_MAX) {
            let symbols = chunk.iter().filter_map(|key| store.definition(*key)).map(|d| d.id.as_str());
            self.answer(session, withdrawn(channel, symbols, ErrorCode::NotEntitled));
        }
        for frame in changed {
            self.answer(session, frame);
        }
        gone.len()
    }

    /// The instruments of entries as they are, and as another grant makes them.
    fn keys_under(&mut self, session: SessionId, entries: &[EntryId], grant: &Arc<[Pattern]>) -> Vec<InstrumentKey> {
        let mut keys: Vec<InstrumentKey> = Vec::new();
        for entry in entries {
            let selector = self.sessions[session as usize].entries[*entry as usize].selector.clone();
            keys.extend(self.keys_of(&selector));
            if let Selector::Pattern { pattern, .. } = selector {
                let scope = self.acquire_scope(&pattern, grant);
                keys.extend(self.scopes.scope(scope).keys());
                self.release_scope(scope);
            }
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// What a grant leaves of one entry. An exact one outside of it ends; a pattern stays held,
    /// though of a channel or mode that is refused it selects nothing.
    fn regrant_entry(
        &mut self,
        session: SessionId,
        id: EntryId,
        grant: &Arc<[Pattern]>,
        clamp: &dyn Fn(Channel, Options) -> Option<Options>,
    ) {
        let entry = &self.sessions[session as usize].entries[id as usize];
        let (channel, asked, order, text) = (entry.channel, entry.asked, entry.order, entry.text.clone());
        let options = clamp(channel, asked);
        let selector = match entry.selector.clone() {
            Selector::Exact(key) => {
                let id = self.store.definition(key).map(|definition| &definition.id);
                let allowed = options.is_some() && id.is_some_and(|id| grant.iter().any(|p| p.matches(id)));
                allowed.then_some(Selector::Exact(key))
            }
            Selector::Pattern { pattern, .. } => {
                let nothing = Arc::from([]);
                let scope = self.acquire_scope(&pattern, if options.is_some() { grant } else { &nothing });
                Some(Selector::Pattern { pattern, scope })
            }
        };
        if let Some(selector) = selector {
            let options = options.unwrap_or(asked);
            let entry = Entry { channel, selector, text, asked, options, cohort: None, member: 0, order };
            self.attach_entry(session, entry);
        }
        self.detach_entry(session, id);
    }
}
