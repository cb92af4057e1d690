//! What a change of entries means for one instrument: what begins, goes on, or ends, and what the
//! session is owed and told for it.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::cohort::{CohortId, CohortKey, Member};
use super::deliver::interval_ns;
use super::subscriber::{EntryId, Join, Options, Selector, SessionId};
use super::worker::Fanout;
use crate::model::{Channel, GapCause, InstrumentKey, StreamId, StreamKind};
use crate::wire::answer::{Accepted, Subscribed};
use crate::wire::command::{Mode, ResumeEntry};
use crate::wire::{Format, Frame};

/// What is in effect for an instrument on a channel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) entry: EntryId,
    pub(super) options: Options,
    pub(super) cohort: Option<CohortId>,
    /// A rate-limited value that came after the last one sent waits for the end of the pause.
    pub(super) owed: bool,
    /// When that pause began.
    pub(super) paused_since: Option<u64>,
}

/// What of a `subscribe` concerns the beginning of each stream.
pub(super) struct Beginning<'a> {
    pub(super) snapshot: Option<bool>,
    pub(super) resume: &'a [ResumeEntry],
}

/// What was in effect, before a command with several symbols, for the instruments that it concerns.
#[derive(Default)]
pub(super) struct Before {
    pub(super) effects: FxHashMap<InstrumentKey, Option<Effect>>,
}

impl Before {
    /// Takes note of those that no earlier symbol concerned.
    pub(super) fn note(&mut self, keys: &[InstrumentKey], effect: impl Fn(InstrumentKey) -> Option<Effect>) {
        for key in keys {
            self.effects.entry(*key).or_insert_with(|| effect(*key));
        }
    }

    pub(super) fn in_order(self) -> Vec<(InstrumentKey, Option<Effect>)> {
        let mut effects: Vec<_> = self.effects.into_iter().collect();
        effects.sort_unstable_by_key(|(key, _)| *key);
        effects
    }
}

impl Fanout {
    pub(super) fn effect(&self, session: SessionId, channel: Channel, key: InstrumentKey) -> Option<Effect> {
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

    pub(super) fn effects(&self, session: SessionId, channel: Channel, keys: &[InstrumentKey]) -> Vec<Option<Effect>> {
        keys.iter().map(|key| self.effect(session, channel, *key)).collect()
    }

    /// The number of the stream in effect.
    pub(super) fn position(&self, session: SessionId, channel: Channel, key: InstrumentKey) -> Option<u64> {
        let kind = self.effect(session, channel, key)?.options.kind(channel)?;
        let at = self.stream_slot(StreamId { key, kind }, self.sessions[session as usize].format)?;
        Some(self.streams[at as usize].position)
    }

    /// What a command changes for one instrument.
    pub(super) fn transition(
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
    pub(super) fn transition_unasked(
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
                let CohortKey { kind, format, .. } = self.cohorts.cohort(cohort).key;
                let at = self.obtain_stream(StreamId { key, kind }, format);
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

    /// A `subscribed` without `id` for one instrument.
    pub(super) fn announcement(
        &self,
        session: SessionId,
        channel: Channel,
        key: InstrumentKey,
        effect: Effect,
    ) -> Option<Frame> {
        let definition = self.store.definition(key)?;
        let entry = &self.sessions[session as usize].entries[effect.entry as usize];
        let Options { mode, max_rate, depth, overflow, backlog, .. } = effect.options;
        let epoch = self.store.feed_index(key).and_then(|feed| self.store.feed(feed)).map(|feed| &*feed.epoch);
        let accepted = Accepted {
            symbol: definition.id.as_str(),
            iid: key,
            seq: self.position(session, channel, key),
            epoch: None,
            pattern: matches!(entry.selector, Selector::Pattern { .. }).then_some(&*entry.text),
        };
        let answer = Subscribed { id: None, channel, mode, max_rate, depth, overflow, backlog, epoch };
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
                self.recount(session);
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
        let format = self.sessions[session as usize].format;
        let Some(at) = self.stream_slot(StreamId { key, kind }, format) else { return };
        let stream = &self.streams[at as usize];
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
        self.recount(session);
    }

    /// An instrument no longer reaches the session by the stream of `before`: nothing of it is
    /// owed any more, but for the word that numbers are missing.
    pub(super) fn leave(&mut self, session: SessionId, channel: Channel, key: InstrumentKey, before: Option<Effect>) {
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
        let format = sub.format;
        if let Some((from, cause)) = missing {
            let at = self.stream_slot(id, format);
            let to = at.map_or_else(|| self.store.sequence(id), |at| self.streams[at as usize].position);
            self.push_gap(session, id, from, to, cause);
        }
        self.recount(session);
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
        let first = (beginning.snapshot != Some(false)
            && self.may_have_state(id, self.sessions[session as usize].format))
        .then_some(Join::Snapshot);
        let join = self
            .resume_point(id, beginning.resume)
            .map_or(first, |after| Some(Join::Resume { next: after + 1, cause: GapCause::Hub, snapshot: false }));
        match join {
            Some(join) => {
                self.sessions[session as usize].join(id.index() as u32, join);
                self.recount(session);
            }
            // It did not want what a pause of its new cohort still owes the others.
            None => self.note_served(session, id),
        }
    }

    /// Whether there is a state to begin with, or may be once it has come. Where there is none the
    /// first event is the next number, which must not be taken for part of a snapshot.
    fn may_have_state(&mut self, id: StreamId, format: Format) -> bool {
        let at = self.stream_slot(id, format);
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
}

fn same_stream(channel: Channel, a: Options, b: Options) -> bool {
    a.mode == b.mode && a.kind(channel) == b.kind(channel)
}
