//! Sessions that get exactly the same of a stream, so that one list serves them all.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::{FxHashMap, FxHashSet};
use slab::Slab;

use super::scope::ScopeId;
use super::subscriber::{EntryId, SessionId};
use crate::model::{InstrumentKey, StreamKind};
use crate::wire::Format;
use crate::wire::command::Mode;

/// Index of a cohort.
pub(super) type CohortId = u32;

/// The instruments of a cohort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Covers {
    Exact(InstrumentKey),
    Scope(ScopeId),
}

/// What makes two entries one cohort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct CohortKey {
    pub(super) covers: Covers,
    pub(super) kind: StreamKind,
    pub(super) mode: Mode,
    pub(super) max_rate: Option<u32>,
    pub(super) format: Format,
}

/// An entry of a session in a cohort.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) session: SessionId,
    pub(super) entry: EntryId,
}

/// A stream of a rate-limited cohort within the pause after an update.
#[derive(Debug)]
pub(super) struct RateWindow {
    pub(super) due: u64,
    /// A newer value than the one sent waits for the end of the pause.
    pub(super) dirty: bool,
    /// Sessions that have got this newer value already, by a snapshot or behind a full socket. A
    /// gap behind it changes nothing: the value is the same.
    pub(super) served: FxHashSet<SessionId>,
    /// Sessions that alone wait for it: they came from another cohort, which owed it to them.
    pub(super) owed: FxHashSet<SessionId>,
}

impl RateWindow {
    /// There is a newer value, for everyone.
    pub(super) fn renew(&mut self) {
        self.dirty = true;
        self.served.clear();
        self.owed.clear();
    }

    /// Whether the end of the pause must bring a session something.
    pub(super) fn owes(&self, session: SessionId) -> bool {
        (self.dirty && !self.served.contains(&session)) || self.owed.contains(&session)
    }

    pub(super) fn owe(&mut self, session: SessionId) {
        if self.dirty {
            self.served.remove(&session);
        } else {
            self.owed.insert(session);
        }
    }

    pub(super) fn serve(&mut self, session: SessionId) {
        if self.dirty {
            self.served.insert(session);
        }
        self.owed.remove(&session);
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Cohort {
    pub(super) key: CohortKey,
    pub(super) members: Vec<Member>,
    /// By stream index.
    pub(super) windows: FxHashMap<u32, RateWindow>,
}

/// All cohorts of a worker, and when their pauses end.
#[derive(Debug, Default)]
pub(super) struct Cohorts {
    pub(super) cohorts: Slab<Cohort>,
    by_key: FxHashMap<CohortKey, CohortId>,
    due: BinaryHeap<Reverse<(u64, CohortId, u32)>>,
}

impl Cohorts {
    /// The cohort of `key`, and whether it is new.
    pub(super) fn obtain(&mut self, key: CohortKey) -> (CohortId, bool) {
        if let Some(id) = self.by_key.get(&key) {
            return (*id, false);
        }
        let id = self.cohorts.insert(Cohort { key, members: Vec::new(), windows: FxHashMap::default() }) as CohortId;
        self.by_key.insert(key, id);
        (id, true)
    }

    /// Removes an empty cohort.
    pub(super) fn remove(&mut self, id: CohortId) {
        let cohort = self.cohorts.remove(id as usize);
        self.by_key.remove(&cohort.key);
    }

    pub(super) fn cohort(&self, id: CohortId) -> &Cohort {
        &self.cohorts[id as usize]
    }

    pub(super) fn cohort_mut(&mut self, id: CohortId) -> &mut Cohort {
        &mut self.cohorts[id as usize]
    }

    /// Begins a pause for a stream of a cohort.
    pub(super) fn begin_window(&mut self, id: CohortId, stream: u32, due: u64) {
        let window = RateWindow { due, dirty: false, served: FxHashSet::default(), owed: FxHashSet::default() };
        self.cohorts[id as usize].windows.insert(stream, window);
        self.due.push(Reverse((due, id, stream)));
    }

    /// Forgets what the pauses of a cohort know of a session that leaves it.
    pub(super) fn forget(&mut self, id: CohortId, session: SessionId) {
        for window in self.cohorts[id as usize].windows.values_mut() {
            window.served.remove(&session);
            window.owed.remove(&session);
        }
    }

    /// When the next pause ends.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.due.peek().map(|Reverse((due, ..))| *due)
    }

    /// A pause that has ended by `now`, taken out.
    pub(super) fn pop_due(&mut self, now: u64) -> Option<(CohortId, u32, RateWindow)> {
        while let Some(Reverse((due, id, stream))) = self.due.peek().copied() {
            if due > now {
                return None;
            }
            self.due.pop();
            let Some(cohort) = self.cohorts.get_mut(id as usize) else { continue };
            if cohort.windows.get(&stream).is_some_and(|window| window.due == due)
                && let Some(window) = cohort.windows.remove(&stream)
            {
                return Some((id, stream, window));
            }
        }
        None
    }
}
