//! `subscribe` and `unsubscribe`: each symbol judged, its entry made or removed, and what follows.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::deliver::{DATA_CHANNELS, entry_feeds};
use super::subscriber::{CLOSING, Entry, EntryId, Options, Selector, SessionId};
use super::transition::{Before, Beginning};
use super::worker::Fanout;
use crate::limits::{COMMAND_LOOKS_MAX, SESSION_PATTERNS_MAX};
use crate::model::{Channel, IdError, InstrumentId, InstrumentKey, Pattern};
use crate::wire::command::ResumeEntry;
use crate::wire::{ErrorCode, Frame};

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
    /// More work than one command may be.
    Work,
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
            Self::Work => ErrorCode::RateLimited,
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
            Self::Limit => "no more subscriptions or patterns are allowed; unsubscribe others first".to_owned(),
            Self::Work => "one command may not concern so many instruments; send it in another one".to_owned(),
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

/// A command's symbol, judged.
enum Judged {
    Exact(InstrumentKey),
    Pattern(Pattern),
}

/// What a command has cost so far.
#[derive(Default)]
struct Work {
    looks: u64,
}

impl Work {
    /// Whether so much more may be done in the same command. The first pattern always may: else there
    /// would be some that nobody could have.
    fn takes(&mut self, looks: u64) -> bool {
        let may = looks <= 1 || self.looks == 0 || self.looks + looks <= COMMAND_LOOKS_MAX;
        self.looks += if may { looks } else { 0 };
        may
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
        if self.ids.len() < self.store.len() as usize {
            // Claimed, and the word of it still in a lane: who asks for it is not told that there is none.
            self.learn_instruments();
        }
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
        let mut work = Work::default();
        for (index, symbol) in symbols.iter().enumerate() {
            let judged = match self.judge(session, symbol) {
                Ok(judged) => judged,
                Err(fault) => {
                    outcome.rejected.push((index, fault));
                    continue;
                }
            };
            let held = self.find_entry(session, channel, &judged);
            let sub = &self.sessions[session as usize];
            let patterns_full = matches!(judged, Judged::Pattern(_)) && sub.patterns.len() >= SESSION_PATTERNS_MAX;
            if held.is_none() && (patterns_full || sub.entries.len() >= entries_max) {
                outcome.rejected.push((index, SymbolFault::Limit));
                continue;
            }
            if !work.takes(self.looks_for(session, &judged)) {
                outcome.rejected.push((index, SymbolFault::Work));
                continue;
            }
            let exact = matches!(judged, Judged::Exact(_));
            let entry = self.put_entry(session, channel, judged, symbol, (asked, options), held, &mut before);
            let selector = &self.sessions[session as usize].entries[entry as usize].selector;
            outcome.feeds |= entry_feeds(self, selector);
            let keys = self.keys_of(selector);
            work.looks += self.looks_at(session, &keys);
            for key in keys {
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
        self.looks += work.looks;
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
        let mut work = Work::default();
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
            let held = judged.and_then(|judged| self.find_entry(session, channel, &judged));
            let Some(entry) = held else {
                rejected.push((index, SymbolFault::NotSubscribed));
                continue;
            };
            let keys = self.keys_of(&self.sessions[session as usize].entries[entry as usize].selector);
            if !work.takes(self.looks_at(session, &keys)) {
                rejected.push((index, SymbolFault::Work));
                continue;
            }
            before.note(&keys, |key| self.effect(session, channel, key));
            self.remove_entry(session, entry);
            removed.push(index);
        }
        for (key, before) in before.in_order() {
            changed.extend(self.transition_unasked(session, channel, key, before));
        }
        self.update_session(session, channel);
        self.looks += work.looks;
        (removed, rejected, changed)
    }

    /// Looks at instruments that commands have taken since the last call: the measure of their work,
    /// whatever machine does it.
    pub fn take_looks(&mut self) -> u64 {
        self.counts.looks += self.looks;
        std::mem::take(&mut self.looks)
    }

    /// What it costs to find what a symbol selects: of a pattern, every instrument is compared with all
    /// that its grant leaves of it.
    fn looks_for(&self, session: SessionId, judged: &Judged) -> u64 {
        let Judged::Pattern(pattern) = judged else { return 1 };
        let grant = &self.sessions[session as usize].grant;
        let within = grant.iter().filter(|allowed| allowed.intersect(pattern).is_some()).count();
        within as u64 * self.ids.len() as u64
    }

    /// What it costs to find for each of `keys` what is in effect, among the patterns that are held.
    fn looks_at(&self, session: SessionId, keys: &[InstrumentKey]) -> u64 {
        keys.len() as u64 * (1 + self.sessions[session as usize].patterns.len() as u64)
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

    /// After a change of entries: whose states the session is told, and its overlap flags.
    pub(super) fn update_session(&mut self, session: SessionId, channel: Channel) {
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
