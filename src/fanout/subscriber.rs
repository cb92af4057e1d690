//! What one session holds on its worker: entries, and what is owed to it.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use slab::Slab;
use smallvec::SmallVec;

use super::bounds::Bounds;
use super::cohort::CohortId;
use super::outbox::Outbox;
use super::scope::{ScopeId, Scopes};
use crate::model::{Channel, Depth, GapCause, InstrumentKey, Overflow, Pattern, StreamKind};
use crate::wire::command::Mode;
use crate::wire::{CloseCode, Format};

/// Index of a session on its worker; used again after the session is closed.
pub type SessionId = u32;

/// Index of an entry of a session.
pub(super) type EntryId = u32;

/// What an entry names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selector {
    Exact(InstrumentKey),
    Pattern { pattern: Pattern, scope: ScopeId },
}

/// The options of a subscription, as they are in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether values may be conflated.
    pub mode: Mode,
    /// Updates a second for one instrument; `latest` only.
    pub max_rate: Option<u32>,
    /// `book` only.
    pub depth: Depth,
    /// What was said of snapshots; `None` is the default, which is to send them.
    pub snapshot: Option<bool>,
    /// What happens when too much waits; `every` only, a gap where it is `None`.
    pub overflow: Option<Overflow>,
    /// Events that may wait for the session before that; `every` only, as many as the session's
    /// bounds allow where it is `None`.
    pub backlog: Option<u32>,
}

impl Options {
    pub(super) const fn kind(&self, channel: Channel) -> Option<StreamKind> {
        match channel {
            Channel::Ticker => Some(StreamKind::Ticker),
            Channel::Quote => Some(StreamKind::Quote),
            Channel::Trade => Some(StreamKind::Trade),
            Channel::Book => Some(StreamKind::Book(self.depth)),
            Channel::Status => None,
        }
    }
}

/// One (channel, id or pattern) that a session holds.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) channel: Channel,
    pub(super) selector: Selector,
    /// A pattern as the client wrote it.
    pub(super) text: Box<str>,
    /// What the client asked for.
    pub(super) asked: Options,
    /// What its grant leaves of that.
    pub(super) options: Options,
    /// `None` on `status`.
    pub(super) cohort: Option<CohortId>,
    /// Its place among the cohort's members.
    pub(super) member: u32,
    /// Grows with each subscription, for ties among patterns.
    pub(super) order: u64,
}

/// What of a stream is owed to a session before live events go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    /// Its state, as it is when the socket can take it.
    Snapshot,
    /// The held events from this number on; those that are not held are a gap of this cause. Then
    /// the state, if asked for.
    Resume { next: u64, cause: GapCause, snapshot: bool },
    /// A gap from this number to the last published; on a book, or if asked for, the state too.
    Lost { from: u64, cause: GapCause, snapshot: bool },
}

/// Streams (by index) that a session has joined and not yet got the beginning of.
#[derive(Debug, Default)]
pub(super) struct Joins {
    pub(super) by_stream: FxHashMap<u32, Join>,
    /// Those that may be served. Who waits for a stream to move is on that stream's list instead.
    pub(super) order: VecDeque<u32>,
}

/// Streams (by index) whose newest value is owed to a session.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) streams: FxHashSet<u32>,
    pub(super) order: VecDeque<u32>,
}

impl Dirty {
    /// Marks a stream; `false` where it was marked already.
    pub(super) fn mark(&mut self, stream: u32) -> bool {
        let new = self.streams.insert(stream);
        if new {
            // Streams that were unmarked stay in the order until met: bounded by this.
            if self.order.len() > 2 * self.streams.len() + 64 {
                let streams = &self.streams;
                let mut seen = FxHashSet::default();
                self.order.retain(|s| streams.contains(s) && *s != stream && seen.insert(*s));
            }
            self.order.push_back(stream);
        }
        new
    }

    pub(super) fn pop(&mut self) -> Option<u32> {
        while let Some(stream) = self.order.pop_front() {
            if self.streams.remove(&stream) {
                return Some(stream);
            }
        }
        None
    }
}

/// Something waits for the socket, or the socket is full.
pub(super) const QUEUED: u16 = 1;
/// `joins` is not empty.
pub(super) const JOINING: u16 = 2;
/// The session is being closed: nothing more is delivered.
pub(super) const CLOSING: u16 = 4;
/// `dirty` is not empty.
pub(super) const DIRTY: u16 = 8;
/// Entries of a channel overlap: one bit a channel from here.
const OVERLAP: u16 = 16;

/// The flag for overlapping entries of `channel`.
#[inline]
pub(super) const fn overlap_flag(channel: Channel) -> u16 {
    OVERLAP << channel as u16
}

/// Frames that a session gets in a turn, as indexes into the turn's table. Up to four are held
/// without memory of their own: idle, an event is a turn.
pub(super) type TurnFrames = SmallVec<[u32; 4]>;

/// One session on its worker. Where nothing waits, delivering and writing an event touch this part
/// only: a few bytes beside those of the next session. Everything else lies elsewhere.
#[derive(Debug)]
pub(super) struct Subscriber {
    /// Frames of this turn to be written.
    pub(super) turn: TurnFrames,
    pub(super) flags: u16,
    /// What its events come in.
    pub(super) format: Format,
    account: Box<Account>,
}

/// What a session holds, and what waits for it.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) outbox: Outbox,
    pub(super) bounds: Bounds,
    /// When something that it asked for was last queued; monotonic ns.
    pub(super) grace_since: u64,
    /// What of its memory is in the worker's sum.
    pub(super) counted: usize,
    /// Why it is being closed, if it is.
    pub(super) close: Option<CloseCode>,
    pub(super) grant: Arc<[Pattern]>,
    pub(super) entries: Slab<Entry>,
    pub(super) exact: FxHashMap<(Channel, InstrumentKey), EntryId>,
    pub(super) patterns: Vec<EntryId>,
    pub(super) joins: Option<Box<Joins>>,
    pub(super) dirty: Option<Box<Dirty>>,
    /// One bit for each feed whose state the session is told of.
    pub(super) feeds: u64,
    pub(super) next_order: u64,
}

impl Deref for Subscriber {
    type Target = Account;

    fn deref(&self) -> &Account {
        &self.account
    }
}

impl DerefMut for Subscriber {
    fn deref_mut(&mut self) -> &mut Account {
        &mut self.account
    }
}

impl Subscriber {
    pub(super) fn new(grant: Arc<[Pattern]>, format: Format, bounds: Bounds) -> Self {
        let account = Account {
            outbox: Outbox::default(),
            bounds,
            grace_since: 0,
            counted: 0,
            close: None,
            grant,
            entries: Slab::new(),
            exact: FxHashMap::default(),
            patterns: Vec::new(),
            joins: None,
            dirty: None,
            feeds: 0,
            next_order: 0,
        };
        Self { turn: TurnFrames::new(), flags: 0, format, account: Box::new(account) }
    }

    /// The entry whose options are in effect for an instrument on a channel: the exact one, else
    /// the matching pattern with the most bytes, among equals the one subscribed last.
    pub(super) fn effective(&self, scopes: &Scopes, channel: Channel, key: InstrumentKey) -> Option<EntryId> {
        if let Some(entry) = self.exact.get(&(channel, key)) {
            return Some(*entry);
        }
        self.patterns
            .iter()
            .filter_map(|id| match &self.entries[*id as usize] {
                Entry { channel: c, selector: Selector::Pattern { pattern, scope }, order, .. }
                    if *c == channel && scopes.scope(*scope).covers(key) =>
                {
                    Some(((pattern.as_str().len(), *order), *id))
                }
                _ => None,
            })
            .max()
            .map(|(_, id)| id)
    }

    /// Sets the overlap flag of a channel from its entries.
    pub(super) fn update_overlap(&mut self, channel: Channel) {
        let patterns = self.patterns.iter().filter(|id| self.entries[**id as usize].channel == channel).count();
        // Any exact entry may overlap any pattern: looking closer costs more than it saves.
        let exact = patterns > 0 && self.exact.keys().any(|(c, _)| *c == channel);
        if patterns + usize::from(exact) > 1 {
            self.flags |= overlap_flag(channel);
        } else {
            self.flags &= !overlap_flag(channel);
        }
    }

    pub(super) fn is_joining(&self, stream: u32) -> bool {
        self.flags & JOINING != 0 && self.joins.as_ref().is_some_and(|joins| joins.by_stream.contains_key(&stream))
    }

    pub(super) fn join(&mut self, stream: u32, join: Join) {
        let joins = self.joins.get_or_insert_default();
        if joins.by_stream.insert(stream, join).is_none() {
            joins.order.push_back(stream);
        }
        self.flags |= JOINING;
    }

    /// Looks at a join again that was put off until its stream moves.
    pub(super) fn take_up(&mut self, stream: u32) {
        if let Some(joins) = &mut self.joins
            && joins.by_stream.contains_key(&stream)
        {
            joins.order.push_back(stream);
        }
    }

    pub(super) fn take_join(&mut self, stream: u32) -> Option<Join> {
        let joins = self.joins.as_mut()?;
        let taken = joins.by_stream.remove(&stream);
        if joins.by_stream.is_empty() {
            self.joins = None;
            self.flags &= !JOINING;
        } else if taken.is_some() && joins.order.len() > 2 * joins.by_stream.len() + 64 {
            let by_stream = &joins.by_stream;
            joins.order.retain(|s| by_stream.contains_key(s));
        }
        taken
    }

    /// Marks a stream dirty; `false` where it was so already.
    pub(super) fn mark_dirty(&mut self, stream: u32) -> bool {
        self.flags |= DIRTY;
        self.dirty.get_or_insert_default().mark(stream)
    }

    pub(super) fn unmark_dirty(&mut self, stream: u32) {
        if let Some(dirty) = &mut self.dirty {
            dirty.streams.remove(&stream);
            if dirty.streams.is_empty() {
                self.dirty = None;
                self.flags &= !DIRTY;
            }
        }
    }

    pub(super) fn pop_dirty(&mut self) -> Option<u32> {
        let popped = self.dirty.as_mut().and_then(|dirty| dirty.pop());
        if self.dirty.as_ref().is_none_or(|dirty| dirty.streams.is_empty()) {
            self.dirty = None;
            self.flags &= !DIRTY;
        }
        popped
    }
}
