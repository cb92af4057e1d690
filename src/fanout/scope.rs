//! What a pattern selects inside a grant, worked out once for all sessions that share both.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use slab::Slab;

use crate::model::{InstrumentId, InstrumentKey, Pattern};

/// Index of a scope.
pub(super) type ScopeId = u32;

/// One distinct (pattern, grant).
#[derive(Debug)]
pub(super) struct Scope {
    key: (Pattern, Arc<[Pattern]>),
    /// The pattern, narrowed by each pattern of the grant.
    narrowed: Vec<Pattern>,
    /// One bit for each instrument that is selected.
    covers: Vec<u64>,
    /// One bit for each feed that may have such instruments.
    pub(super) feeds: u64,
    /// Entries that use it.
    uses: u32,
    /// Cohorts whose members hold entries of it.
    pub(super) cohorts: Vec<u32>,
}

impl Scope {
    /// Whether it selects the instrument.
    #[inline]
    pub(super) fn covers(&self, key: InstrumentKey) -> bool {
        self.covers.get(key.index() / 64).is_some_and(|word| word >> (key.0 % 64) & 1 == 1)
    }

    /// The instruments that it selects, in the order of their keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = InstrumentKey> {
        self.covers.iter().enumerate().flat_map(|(index, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(InstrumentKey(index as u32 * 64 + bit))
            })
        })
    }

    fn matches(&self, id: &InstrumentId) -> bool {
        self.narrowed.iter().any(|pattern| pattern.matches(id))
    }

    fn cover(&mut self, key: InstrumentKey) {
        let index = key.index() / 64;
        if self.covers.len() <= index {
            self.covers.resize(index + 1, 0);
        }
        self.covers[index] |= 1 << (key.0 % 64);
    }
}

/// All scopes in use on a worker.
#[derive(Debug, Default)]
pub(super) struct Scopes {
    scopes: Slab<Scope>,
    by_key: FxHashMap<(Pattern, Arc<[Pattern]>), ScopeId>,
}

impl Scopes {
    /// The scope of `pattern` inside `grant`, with one more use; `known` are the instruments and
    /// `venues` the feeds that exist now. A grant that allows nothing of the pattern makes a scope
    /// that selects nothing: a pattern stays held whatever a renewal leaves of it.
    pub(super) fn acquire<'a>(
        &mut self,
        pattern: &Pattern,
        grant: &Arc<[Pattern]>,
        known: impl Iterator<Item = (InstrumentKey, &'a InstrumentId)>,
        venues: impl Iterator<Item = (u8, &'a str)>,
    ) -> ScopeId {
        let key = (pattern.clone(), Arc::clone(grant));
        if let Some(id) = self.by_key.get(&key) {
            self.scopes[*id as usize].uses += 1;
            return *id;
        }
        let narrowed: Vec<Pattern> = grant.iter().filter_map(|allowed| pattern.intersect(allowed)).collect();
        let mut scope =
            Scope { key: key.clone(), narrowed, covers: Vec::new(), feeds: 0, uses: 1, cohorts: Vec::new() };
        for (instrument, id) in known {
            if scope.matches(id) {
                scope.cover(instrument);
            }
        }
        for (feed, venue) in venues {
            if scope.narrowed.iter().any(|p| p.venue().is_none_or(|v| v == venue)) {
                scope.feeds |= 1 << feed;
            }
        }
        let id = self.scopes.insert(scope) as ScopeId;
        self.by_key.insert(key, id);
        id
    }

    /// Gives one use back.
    pub(super) fn release(&mut self, id: ScopeId) {
        let scope = &mut self.scopes[id as usize];
        scope.uses -= 1;
        if scope.uses == 0 {
            let scope = self.scopes.remove(id as usize);
            self.by_key.remove(&scope.key);
        }
    }

    pub(super) fn scope(&self, id: ScopeId) -> &Scope {
        &self.scopes[id as usize]
    }

    pub(super) fn scope_mut(&mut self, id: ScopeId) -> &mut Scope {
        &mut self.scopes[id as usize]
    }

    /// A new feed; whether any scope may select instruments of it.
    pub(super) fn add_feed(&mut self, feed: u8, venue: &str) -> bool {
        let mut any = false;
        for (_, scope) in &mut self.scopes {
            if scope.narrowed.iter().any(|p| p.venue().is_none_or(|v| v == venue)) {
                scope.feeds |= 1 << feed;
                any = true;
            }
        }
        any
    }

    /// A new instrument: the scopes that select it.
    pub(super) fn appear(&mut self, key: InstrumentKey, id: &InstrumentId) -> Vec<ScopeId> {
        let mut hit = Vec::new();
        for (index, scope) in &mut self.scopes {
            if scope.matches(id) {
                scope.cover(key);
                hit.push(index as ScopeId);
            }
        }
        hit
    }
}
