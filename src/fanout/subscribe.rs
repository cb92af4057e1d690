//! Entries: what sessions ask for, what that changes, and what they are owed for it.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::cohort::{CohortId, CohortKey, Covers, Member};
use super::deliver::{DATA_CHANNELS, entry_feeds, interval_ns};
use super::scope::ScopeId;
use super::subscriber::{CLOSING, Entry, EntryId, Join, Options, Selector, SessionId};
use super::worker::Fanout;
use crate::model::{Channel, GapCause, IdError, InstrumentId, InstrumentKey, Pattern, StreamId, StreamKind};
use crate::wire::answer::{Accepted, Subscribed, withdrawn};
use crate::wire::command::{Mode, ResumeEntry};
use crate::wire::{ErrorCode, Frame};

/// Entries in one message about what a smaller grant takes away.
const WITHDRAWN_ENTRIES_MAX: usize = 250;

/// A symbol of a command that is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SymbolFault {
    /// It is no id and no pattern.
    Bad(IdError),
    /// Outside the grant.
    NotEntitled,
    /// Inside the grant, and there is no such instrument.
    Unknown,
    /// Not held.
    NotSubscribed,
    /// One entry more than the grant allows.
    Limit,
}

impl SymbolFault {
    /// Its code on the wire.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Bad(_) => ErrorCode::BadSymbol,
            Self::NotEntitled => ErrorCode::NotEntitled,
            Self::Unknown => ErrorCode::UnknownSymbol,
            Self::NotSubscribed => ErrorCode::NotSubscribed,
            Self::Limit => ErrorCode::SubscriptionLimit,
        }
    }

    /// It in words, with the way out.
    #[must_use]
    pub fn message(self) -> String {
        match self {
            Self::Bad(error) => error.to_string(),
            Self::NotEntitled => "the grant of this session does not cover it".to_owned(),
            Self::Unknown => "there is no such instrument now; a pattern would wait for it".to_owned(),
            Self::NotSubscribed => "there is no such subscription on this channel".to_owned(),
            Self::Limit => "the grant allows no more subscriptions; unsubscribe others first".to_owned(),
        }
    }
}

/// An instrument that a command matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// The instrument.
    pub key: InstrumentKey,
    /// The number last published, on the stream in effect; `None` on `status`.
    pub seq: Option<u64>,
    /// The index of the command's symbol that matched it, where that is a pattern.
    pub pattern: Option<usize>,
}

/// What a `subscribe` came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// One for each instrument that is matched now.
    pub accepted: Vec<Match>,
    /// Symbols at fault, by their index in the command.
    pub rejected: Vec<(usize, SymbolFault)>,
    /// The feeds concerned, one bit each.
    pub feeds: u64,
}

/// A `resume` names an instrument that already reaches the session on that channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} already reaches this session on that channel")]
pub struct AlreadyReached(pub String);

/// What is in effect for an instrument on a channel.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Effect {
    entry: EntryId,
    options: Options,
    cohort: Option<CohortId>,
    /// A rate-limited value that came after the last one sent waits for the end of the pause.
    owed: bool,
    /// When that pause began.
    paused_since: Option<u64>,
}

/// A command's symbol, judged.
enum Judged {
    Exact(InstrumentKey),
    Pattern(Pattern),
}

/// What of a `subscribe` concerns the beginning of each stream.
struct Beginning<'a> {
    snapshot: Option<bool>,
    resume: &'a [ResumeEntry],
}

/// What was in effect, before a command with several symbols, for the instruments that it concerns.
#[derive(Default)]
struct Before {
    effects: FxHashMap<InstrumentKey, Option<Effect>>,
}

impl Before {
    /// Takes note of those that no earlier symbol concerned.
    fn note(&mut self, keys: &[InstrumentKey], effect: impl Fn(InstrumentKey) -> Option<Effect>) {
        for key in keys {
            self.effects.entry(*key).or_insert_with(|| effect(*key));
        }
    }

    fn in_order(self) -> Vec<(InstrumentKey, Option<Effect>)> {
        let mut effects: Vec<_> = self.effects.into_iter().collect();
        effects.sort_unstable_by_key(|(key, _)| *key);
        effects
    }
}

impl Fanout {
    /// Makes or replaces entries: `asked` is what the client wants, `options` what its grant leaves
    /// of that.
    ///
    /// # Errors
    /// [`AlreadyReached`], and then nothing is changed.
    pub fn subscribe(
        &mut self,
        session: SessionId,
        channel: Channel,
        (asked, options): (Options, Options),
        symbols: &[String],
        resume: &[ResumeEntry],
        entries_max: usize,
    ) -> Result<Outcome, AlreadyReached> {
        for entry in resume {
            let key = InstrumentId::parse(&entry.symbol).ok().and_then(|id| self.ids.get(&id).copied());
            if key.is_some_and(|key| self.effect(session, channel, key).is_some()) {
                return Err(AlreadyReached(entry.symbol.clone()));
            }
        }
        let mut outcome = Outcome::default();
        let mut matched = FxHashMap::default();
        let mut before = Before::default();
        let beginning = Beginning { snapshot: options.snapshot, resume };
        for (index, symbol) in symbols.iter().enumerate() {
            let judged = match self.judge(session, symbol) {
                Ok(judged) => judged,
                Err(fault) => {
                    outcome.rejected.push((index, fault));
                    continue;
                }
            };
            let held = self.find_entry(session, channel, &judged);
            if held.is_none() && self.sessions[session as usize].entries.len() >= entries_max {
                outcome.rejected.push((index, SymbolFault::Limit));
                continue;
            }
            let exact = matches!(judged, Judged::Exact(_));
            let entry = self.put_entry(session, channel, judged, symbol, (asked, options), held, &mut before);
            let selector = &self.sessions[session as usize].entries[entry as usize].selector;
            outcome.feeds |= entry_feeds(self, selector);
            for key in self.keys_of(selector) {
                let pattern = if exact { None } else { Some(index) };
                matched.entry(key).and_modify(|p| *p = if exact { None } else { *p }).or_insert_with(|| {
                    outcome.accepted.push(Match { key, seq: None, pattern });
                    pattern
                });
            }
        }
        self.sessions[session as usize].update_overlap(channel);
        for (key, before) in before.in_order() {
            self.transition(session, channel, key, before, &beginning);
        }
        for entry in &mut outcome.accepted {
            entry.pattern = matched.get(&entry.key).copied().flatten();
            entry.seq = self.position(session, channel, entry.key);
        }
        self.update_session(session, channel);
        Ok(outcome)
    }

    /// Removes entries: those removed, by index, and those that are not held.
    pub fn unsubscribe(
        &mut self,
        session: SessionId,
        channel: Channel,
        symbols: &[String],
    ) -> (Vec<usize>, Vec<(usize, SymbolFault)>, Vec<Frame>) {
        let (mut removed, mut rejected, mut changed) = (Vec::new(), Vec::new(), Vec::new());
        let mut before = Before::default();
        for (index, symbol) in symbols.iter().enumerate() {
            let judged = match Pattern::parse(symbol) {
                Err(error) => {
                    rejected.push((index, SymbolFault::Bad(error)));
                    continue;
                }
                Ok(pattern) => match pattern.exact() {
                    Some(id) => self.ids.get(&id).map(|key| Judged::Exact(*key)),
                    None => Some(Judged::Pattern(pattern)),
                },
            };
            let Some(entry) = judged.and_then(|judged| self.find_entry(session, channel, &judged)) else {
                rejected.push((index, SymbolFault::NotSubscribed));
                continue;
            };
            let keys = self.keys_of(&self.sessions[session as usize].entries[entry as usize].selector);
            before.note(&keys, |key| self.effect(session, channel, key));
            self.remove_entry(session, entry);
            removed.push(index);
        }
        for (key, before) in before.in_order() {
            changed.extend(self.transition_unasked(session, channel, key, before));
        }
        self.update_session(session, channel);
        (removed, rejected, changed)
    }

    /// Replaces a session's grant. `clamp` gives the options that it leaves of those asked for,
    /// or none where it allows the channel or mode no more. What the session must be told is
    /// queued.
    pub fn regrant(
        &mut self,
        session: SessionId,
        grant: Arc<[Pattern]>,
        clamp: &dyn Fn(Channel, Options) -> Option<Options>,
    ) {
        let before = self.sessions[session as usize].feeds;
        for channel in Channel::ALL {
            self.regrant_channel(session, channel, &grant, clamp);
        }
        self.sessions[session as usize].grant = grant;
        for channel in Channel::ALL {
            self.update_session(session, channel);
        }
        self.tell_states(session, self.sessions[session as usize].feeds & !before);
    }

    fn regrant_channel(
        &mut self,
        session: SessionId,
        channel: Channel,
        grant: &Arc<[Pattern]>,
        clamp: &dyn Fn(Channel, Options) -> Option<Options>,
    ) {
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

    /// A new instrument: patterns that select it begin to deliver it.
    pub(super) fn appear(&mut self, key: InstrumentKey) {
        if self.known.get(key.index()).is_some_and(|known| *known) {
            return;
        }
        let store = Arc::clone(&self.store);
        let Some(definition) = store.definition(key) else { return };
        if self.known.len() <= key.index() {
            self.known.resize(key.index() + 1, false);
        }
        self.known[key.index()] = true;
        self.learn_new_feeds();
        self.ids.insert(definition.id.clone(), key);
        for scope in self.scopes.appear(key, &definition.id) {
            for cohort in self.scopes.scope(scope).cohorts.clone() {
                let kind = self.cohorts.cohort(cohort).key.kind;
                let at = self.obtain_stream(StreamId { key, kind });
                self.streams[at as usize].cohorts.push(cohort);
                let members = self.cohorts.cohort(cohort).members.clone();
                for member in members {
                    self.announce(member, key);
                }
            }
        }
    }

    fn announce(&mut self, member: Member, key: InstrumentKey) {
        let session = member.session;
        let channel = self.sessions[session as usize].entries[member.entry as usize].channel;
        let Some(effect) = self.effect(session, channel, key) else { return };
        if effect.entry != member.entry {
            return;
        }
        if let Some(frame) = self.announcement(session, channel, key, effect) {
            self.answer(session, frame);
            self.touch(session);
        }
        self.begin(
            session,
            channel,
            key,
            effect.options,
            &Beginning { snapshot: effect.options.snapshot, resume: &[] },
        );
    }

    fn judge(&self, session: SessionId, symbol: &str) -> Result<Judged, SymbolFault> {
        let pattern = Pattern::parse(symbol).map_err(SymbolFault::Bad)?;
        let grant = &self.sessions[session as usize].grant;
        match pattern.exact() {
            Some(id) if !grant.iter().any(|allowed| allowed.matches(&id)) => Err(SymbolFault::NotEntitled),
            Some(id) => self.ids.get(&id).map(|key| Judged::Exact(*key)).ok_or(SymbolFault::Unknown),
            None if grant.iter().any(|allowed| allowed.intersect(&pattern).is_some()) => Ok(Judged::Pattern(pattern)),
            None => Err(SymbolFault::NotEntitled),
        }
    }

    fn find_entry(&self, session: SessionId, channel: Channel, judged: &Judged) -> Option<EntryId> {
        let sub = &self.sessions[session as usize];
        match judged {
            Judged::Exact(key) => sub.exact.get(&(channel, *key)).copied(),
            Judged::Pattern(wanted) => sub.patterns.iter().copied().find(|id| {
                let entry = &sub.entries[*id as usize];
                entry.channel == channel
                    && matches!(&entry.selector, Selector::Pattern { pattern, .. } if pattern == wanted)
            }),
        }
    }

    /// Makes or replaces one entry, noting what was in effect before the command.
    #[allow(clippy::too_many_arguments)] // One call site; a struct would only rename them.
    fn put_entry(
        &mut self,
        session: SessionId,
        channel: Channel,
        judged: Judged,
        text: &str,
        (asked, options): (Options, Options),
        held: Option<EntryId>,
        before: &mut Before,
    ) -> EntryId {
        let selector = match judged {
            Judged::Exact(key) => Selector::Exact(key),
            Judged::Pattern(pattern) => {
                let grant = Arc::clone(&self.sessions[session as usize].grant);
                let scope = self.acquire_scope(&pattern, &grant);
                Selector::Pattern { pattern, scope }
            }
        };
        before.note(&self.keys_of(&selector), |key| self.effect(session, channel, key));
        let sub = &mut self.sessions[session as usize];
        sub.next_order += 1;
        let order = sub.next_order;
        let text = text.into();
        let entry = Entry { channel, selector, text, asked, options, cohort: None, member: 0, order };
        // The new one first: a stream that both use must not be let go of in between.
        let entry = self.attach_entry(session, entry);
        if let Some(held) = held {
            self.remove_entry(session, held);
        }
        entry
    }

    fn acquire_scope(&mut self, pattern: &Pattern, grant: &Arc<[Pattern]>) -> ScopeId {
        self.learn_new_feeds();
        let store = Arc::clone(&self.store);
        let known = self.ids.iter().map(|(id, key)| (*key, id));
        let venues = store.feeds().map(|(index, feed)| (index, &*feed.venue));
        self.scopes.acquire(pattern, grant, known, venues)
    }

    fn release_scope(&mut self, scope: ScopeId) {
        self.scopes.release(scope);
    }

    fn keys_of(&self, selector: &Selector) -> Vec<InstrumentKey> {
        match selector {
            Selector::Exact(key) => vec![*key],
            Selector::Pattern { scope, .. } => self.scopes.scope(*scope).keys().collect(),
        }
    }

    /// Adds an entry to its session and its cohort.
    fn attach_entry(&mut self, session: SessionId, mut entry: Entry) -> EntryId {
        let channel = entry.channel;
        entry.cohort = entry.options.kind(channel).map(|kind| {
            let covers = match &entry.selector {
                Selector::Exact(key) => Covers::Exact(*key),
                Selector::Pattern { scope, .. } => Covers::Scope(*scope),
            };
            let Options { mode, max_rate, .. } = entry.options;
            let (cohort, new) = self.cohorts.obtain(CohortKey { covers, kind, mode, max_rate });
            if new {
                self.attach_cohort(cohort, covers, kind);
            }
            cohort
        });
        let cohort = entry.cohort;
        let selector = entry.selector.clone();
        entry.member = cohort.map_or(0, |c| self.cohorts.cohort(c).members.len() as u32);
        let sub = &mut self.sessions[session as usize];
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

    fn attach_cohort(&mut self, cohort: CohortId, covers: Covers, kind: StreamKind) {
        let keys = match covers {
            Covers::Exact(key) => vec![key],
            Covers::Scope(scope) => {
                self.scopes.scope_mut(scope).cohorts.push(cohort);
                self.scopes.scope(scope).keys().collect()
            }
        };
        for key in keys {
            let at = self.obtain_stream(StreamId { key, kind });
            self.streams[at as usize].cohorts.push(cohort);
        }
    }

    /// Takes an entry out of its session and its cohort, giving back what only it used.
    fn detach_entry(&mut self, session: SessionId, id: EntryId) -> Entry {
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
            self.detach_stream(StreamId { key: instrument, kind: key.kind }, id);
        }
        self.cohorts.remove(id);
    }

    pub(super) fn remove_entry(&mut self, session: SessionId, id: EntryId) {
        let entry = self.detach_entry(session, id);
        self.sessions[session as usize].update_overlap(entry.channel);
    }

    fn effect(&self, session: SessionId, channel: Channel, key: InstrumentKey) -> Option<Effect> {
        let sub = &self.sessions[session as usize];
        let entry = sub.effective(&self.scopes, channel, key)?;
        let held = &sub.entries[entry as usize];
        let (owed, paused_since) = held.cohort.map_or((false, None), |cohort| self.pause(session, cohort, key));
        Some(Effect { entry, options: held.options, cohort: held.cohort, owed, paused_since })
    }

    /// Whether a pause owes the session something, and when it began.
    fn pause(&self, session: SessionId, cohort: CohortId, key: InstrumentKey) -> (bool, Option<u64>) {
        let cohort = self.cohorts.cohort(cohort);
        let index = StreamId { key, kind: cohort.key.kind }.index() as u32;
        let window = cohort.windows.get(&index);
        let since = window.zip(cohort.key.max_rate).map(|(window, rate)| window.due - interval_ns(rate));
        (window.is_some_and(|window| window.owes(session)), since)
    }

    fn effects(&self, session: SessionId, channel: Channel, keys: &[InstrumentKey]) -> Vec<Option<Effect>> {
        keys.iter().map(|key| self.effect(session, channel, *key)).collect()
    }

    /// The number of the stream in effect.
    fn position(&self, session: SessionId, channel: Channel, key: InstrumentKey) -> Option<u64> {
        let kind = self.effect(session, channel, key)?.options.kind(channel)?;
        let at = self.stream_slot(StreamId { key, kind })?;
        Some(self.streams[at as usize].position)
    }

    /// What a command changes for one instrument.
    fn transition(
        &mut self,
        session: SessionId,
        channel: Channel,
        key: InstrumentKey,
        before: Option<Effect>,
        beginning: &Beginning<'_>,
    ) {
        let Some(after) = self.effect(session, channel, key) else { return };
        match before {
            Some(before) if same_stream(channel, before.options, after.options) => {
                self.carry_over(session, channel, key, before, after);
                if beginning.snapshot == Some(true) {
                    self.add_snapshot(session, channel, key, after.options);
                }
            }
            before => {
                self.leave(session, channel, key, before);
                self.begin(session, channel, key, after.options, beginning);
            }
        }
    }

    /// What is changed for one instrument without being asked for: by an `unsubscribe` of
    /// another entry, or by a renewal. What the session must be told of it.
    fn transition_unasked(
        &mut self,
        session: SessionId,
        channel: Channel,
        key: InstrumentKey,
        before: Option<Effect>,
    ) -> Option<Frame> {
        let Some(after) = self.effect(session, channel, key) else {
            self.leave(session, channel, key, before);
            return None;
        };
        let Some(old) = before else {
            // A larger grant: as if the instrument had just appeared.
            let beginning = Beginning { snapshot: after.options.snapshot, resume: &[] };
            self.begin(session, channel, key, after.options, &beginning);
            return self.announcement(session, channel, key, after);
        };
        if same_stream(channel, old.options, after.options) {
            self.carry_over(session, channel, key, old, after);
            return None;
        }
        self.leave(session, channel, key, before);
        // Whatever its subscription said of its own beginning: nobody could expect this one.
        let beginning = Beginning { snapshot: None, resume: &[] };
        self.begin(session, channel, key, after.options, &beginning);
        self.announcement(session, channel, key, after)
    }

    /// A `subscribed` without `id` for one instrument.
    fn announcement(&self, session: SessionId, channel: Channel, key: InstrumentKey, effect: Effect) -> Option<Frame> {
        let definition = self.store.definition(key)?;
        let entry = &self.sessions[session as usize].entries[effect.entry as usize];
        let Options { mode, max_rate, depth, .. } = effect.options;
        let epoch = self.store.feed_index(key).and_then(|feed| self.store.feed(feed)).map(|feed| &*feed.epoch);
        let accepted = Accepted {
            symbol: definition.id.as_str(),
            iid: key,
            seq: self.position(session, channel, key),
            epoch: None,
            pattern: matches!(entry.selector, Selector::Pattern { .. }).then_some(&*entry.text),
        };
        let answer = Subscribed { id: None, channel, mode, max_rate, depth, epoch };
        Some(answer.write([accepted], [], false))
    }

    /// The same stream goes on by another entry: a value that the old one still owed is owed
    /// now, and one that has been sent is not repeated.
    fn carry_over(&mut self, session: SessionId, channel: Channel, key: InstrumentKey, before: Effect, after: Effect) {
        let (Some(kind), Some(new)) = (after.options.kind(channel), after.cohort) else { return };
        if after.options.mode != Mode::Latest {
            return;
        }
        let index = StreamId { key, kind }.index() as u32;
        let owed = before.owed && !self.sessions[session as usize].is_joining(index);
        let Some(rate) = after.options.max_rate else {
            if owed {
                self.sessions[session as usize].mark_dirty(index);
            }
            return;
        };
        if let (Some(since), false) = (before.paused_since, self.cohorts.cohort(new).windows.contains_key(&index)) {
            self.cohorts.begin_window(new, index, since + interval_ns(rate));
        }
        if let Some(window) = self.cohorts.cohort_mut(new).windows.get_mut(&index) {
            if owed { window.owe(session) } else { window.serve(session) }
        }
    }

    fn add_snapshot(&mut self, session: SessionId, channel: Channel, key: InstrumentKey, options: Options) {
        let Some(kind) = options.kind(channel) else { return };
        let index = StreamId { key, kind }.index() as u32;
        let Some(stream) = self.stream_slot(StreamId { key, kind }).map(|at| &self.streams[at as usize]) else {
            return;
        };
        let (position, begins_again) = (stream.position, stream.begins_again);
        // A book whose window is on its way begins with it: what it skips the socket is not to blame for.
        let unknown = matches!(kind, StreamKind::Book(_)) && stream.replica.is_none();
        let cause = if unknown { GapCause::Hub } else { GapCause::SlowConsumer };
        let sub = &mut self.sessions[session as usize];
        if begins_again && options.mode == Mode::Every && !sub.is_joining(index) {
            // Its gap has been told and its snapshot comes anyway, before any change of it.
            return;
        }
        let join = match sub.joins.as_ref().and_then(|joins| joins.by_stream.get(&index)) {
            // What comes until the socket takes the snapshot must not be lost.
            None if options.mode == Mode::Every => Join::Resume { next: position + 1, cause, snapshot: true },
            None | Some(Join::Snapshot) => Join::Snapshot,
            Some(Join::Resume { next, cause, .. }) => Join::Resume { next: *next, cause: *cause, snapshot: true },
            Some(Join::Lost { from, cause, .. }) => Join::Lost { from: *from, cause: *cause, snapshot: true },
        };
        sub.unmark_dirty(index);
        sub.join(index, join);
    }

    /// An instrument no longer reaches the session by the stream of `before`: nothing of it is
    /// owed any more, but for the word that numbers are missing.
    fn leave(&mut self, session: SessionId, channel: Channel, key: InstrumentKey, before: Option<Effect>) {
        let Some(kind) = before.and_then(|before| before.options.kind(channel)) else { return };
        let id = StreamId { key, kind };
        let index = id.index() as u32;
        let sub = &mut self.sessions[session as usize];
        sub.unmark_dirty(index);
        let missing = match sub.take_join(index) {
            Some(Join::Lost { from, cause, .. }) => Some((from, cause)),
            Some(Join::Resume { next, cause, .. }) => Some((next, cause)),
            Some(Join::Snapshot) | None => None,
        };
        if let Some((from, cause)) = missing {
            let to =
                self.stream_slot(id).map_or_else(|| self.store.sequence(id), |at| self.streams[at as usize].position);
            self.push_gap(session, id, from, to, cause);
        }
    }

    /// An instrument begins to reach the session.
    fn begin(
        &mut self,
        session: SessionId,
        channel: Channel,
        key: InstrumentKey,
        options: Options,
        beginning: &Beginning<'_>,
    ) {
        let Some(kind) = options.kind(channel) else { return };
        let id = StreamId { key, kind };
        let first = (beginning.snapshot != Some(false) && self.may_have_state(id)).then_some(Join::Snapshot);
        let join = self
            .resume_point(id, beginning.resume)
            .map_or(first, |after| Some(Join::Resume { next: after + 1, cause: GapCause::Hub, snapshot: false }));
        if let Some(join) = join {
            self.sessions[session as usize].join(id.index() as u32, join);
        } else {
            // The number of the answer stands for the value: the end of a rate limit's pause, begun
            // before the session came, must not bring it.
            self.note_served(session, id);
        }
    }

    /// Whether there is a state to begin with, or may be once it has come. Where there is none the
    /// first event is the next number, which must not be taken for part of a snapshot.
    fn may_have_state(&mut self, id: StreamId) -> bool {
        let at = self.stream_slot(id);
        matches!(id.kind, StreamKind::Book(_)) || at.is_some_and(|at| self.snapshot(at).is_some())
    }

    /// The number after which a stream is to be resumed, if it is listed and can be.
    fn resume_point(&self, id: StreamId, resume: &[ResumeEntry]) -> Option<u64> {
        if resume.is_empty() {
            return None;
        }
        let definition = self.store.definition(id.key)?;
        let listed = resume.iter().find(|entry| entry.symbol == definition.id.as_str())?;
        let feed = self.store.feed_index(id.key).and_then(|feed| self.store.feed(feed))?;
        let last = self.store.sequence(id);
        (*feed.epoch == *listed.epoch && listed.seq <= last).then_some(listed.seq)
    }

    /// After a change of entries: whose states the session is told, and its overlap flags.
    fn update_session(&mut self, session: SessionId, channel: Channel) {
        let feeds = self.sessions[session as usize]
            .entries
            .iter()
            .fold(0, |feeds, (_, entry)| feeds | entry_feeds(self, &entry.selector));
        let sub = &mut self.sessions[session as usize];
        sub.feeds = feeds;
        if DATA_CHANNELS.contains(&channel) && sub.flags & CLOSING == 0 {
            sub.update_overlap(channel);
        }
    }
}

fn same_stream(channel: Channel, a: Options, b: Options) -> bool {
    a.mode == b.mode && a.kind(channel) == b.kind(channel)
}
