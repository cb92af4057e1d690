//! What must outlive the process, as a pure state: a deed goes in with the time it is, and changes
//! come out. A change that was written is never judged again, so whoever reads all of them in their
//! order has the same state.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::IssuedKey;
use super::refresh::{Family, FamilyId, Fresh, Issue, Presentation, Presented, TokensConfig};
use super::revocation::{Held, kept_until};
use crate::model::UnixNanos;

/// Most API keys, those that are switched off included: a key belongs to a program, not a person.
pub const ISSUED_KEYS_MAX: usize = 10_000;
/// Most families: programs that hold a refresh token at a time.
pub const FAMILIES_MAX: usize = 50_000;
/// Most families of one API key; one more takes the place of the one that was used longest ago, so
/// that a program that never refreshes, and asks anew each time, takes no more than its share.
pub const FAMILIES_PER_KEY_MAX: usize = 1_000;
/// Most revocations. Beyond it none is taken, and none is forgotten.
pub const REVOCATIONS_MAX: usize = 100_000;

/// What shall be done.
#[derive(Debug)]
pub enum Deed {
    /// Take in an API key.
    MakeKey(IssuedKey),
    /// Switch an API key off, for good; `configured` = the configuration has it.
    EndKey {
        /// Its id.
        id: Arc<str>,
        /// Whether the configuration has it: the ledger knows its own keys only.
        configured: bool,
    },
    /// Begin a family for an API key.
    Begin {
        /// The key's id.
        key: Arc<str>,
        /// Its owner.
        subject: Arc<str>,
        /// What is random about it.
        fresh: Fresh,
    },
    /// Issue the next token for a refresh token.
    Rotate {
        /// The token.
        presented: Presented,
        /// What is random about the next.
        fresh: Fresh,
    },
    /// End a family.
    EndFamily(FamilyId),
    /// Revoke a subject's tokens that were issued until now.
    RevokeSubject(Arc<str>),
    /// Revoke one token by its `jti`, and the family that it was issued from.
    RevokeToken(Arc<str>),
}

/// What was done.
#[derive(Debug)]
pub enum Done {
    /// Nothing more is to be said.
    Done,
    /// Tokens were issued.
    Issued(Issue),
    /// Something was revoked, and is kept until then.
    Revoked {
        /// When it may be forgotten.
        kept_until: UnixNanos,
    },
}

/// Why something was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// An API key has this id, or had it.
    #[error("there is an API key of this id already")]
    KeyExists,
    /// No API key has this id.
    #[error("there is no API key of this id")]
    UnknownKey,
    /// The API key is switched off.
    #[error("the API key is disabled")]
    KeyOff,
    /// The refresh token is none that is known.
    #[error("the refresh token is not known")]
    Forged,
    /// The refresh token was used before: its family is ended.
    #[error("the refresh token has been used before; all that was issued with it is revoked")]
    Reused,
    /// The family was ended.
    #[error("the refresh token was revoked")]
    Ended,
    /// The refresh token came too late.
    #[error("the refresh token has expired")]
    Expired,
    /// There is no room.
    #[error("there are as many {0} as can be held")]
    Full(&'static str),
}

/// One change, as it is written. A later one of the same thing takes the place of the earlier.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// An API key was made.
    KeyMade(IssuedKey),
    /// An API key was switched off, and its families with it.
    KeyOff {
        /// Its id.
        id: Arc<str>,
        /// When.
        #[serde(with = "crate::auth::nanos")]
        at: UnixNanos,
    },
    /// A family as it is now.
    Family(Family),
    /// A family has made room for another.
    FamilyGone(FamilyId),
    /// A subject's tokens and families until then are ended.
    SubjectRevoked {
        /// The subject.
        subject: Arc<str>,
        /// The last moment of what is ended.
        #[serde(with = "crate::auth::nanos")]
        at: UnixNanos,
        /// When this may be forgotten.
        #[serde(with = "crate::auth::nanos")]
        until: UnixNanos,
    },
    /// A token is revoked.
    TokenRevoked {
        /// Its `jti`.
        id: Arc<str>,
        /// When this may be forgotten.
        #[serde(with = "crate::auth::nanos")]
        until: UnixNanos,
    },
}

/// What a deed comes to: changes to be written before the outcome is told, also where it is denied.
#[derive(Debug)]
pub struct Decision {
    /// What is to be written.
    pub changes: Vec<Change>,
    /// What is to be said.
    pub outcome: Result<Done, Denied>,
}

impl Decision {
    const fn nothing(outcome: Result<Done, Denied>) -> Self {
        Self { changes: Vec::new(), outcome }
    }

    fn one(change: Change, outcome: Result<Done, Denied>) -> Self {
        Self { changes: vec![change], outcome }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SubjectMark {
    at: UnixNanos,
    until: UnixNanos,
}

/// Keys, families and revocations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    keys: HashMap<Arc<str>, Arc<IssuedKey>>,
    off: HashMap<Arc<str>, UnixNanos>,
    families: HashMap<FamilyId, Family>,
    /// Families by API key.
    by_key: HashMap<Arc<str>, usize>,
    subjects: HashMap<Arc<str>, SubjectMark>,
    tokens: HashMap<Arc<str>, UnixNanos>,
}

impl Ledger {
    /// What `deed` comes to at `now`. Nothing is changed by it.
    #[must_use]
    pub fn decide(&self, deed: &Deed, lifetimes: &TokensConfig, now: UnixNanos) -> Decision {
        match deed {
            Deed::MakeKey(key) => self.make_key(key),
            Deed::EndKey { id, configured } => self.end_key(id, *configured, now),
            Deed::Begin { key, subject, fresh } => self.begin((key, subject), fresh, lifetimes, now),
            Deed::Rotate { presented, fresh } => self.rotate(presented, fresh, lifetimes, now),
            Deed::EndFamily(id) => Decision { changes: self.end_family(*id), outcome: Ok(Done::Done) },
            Deed::RevokeSubject(subject) => {
                if !self.subjects.contains_key(subject) && self.revocations() >= REVOCATIONS_MAX {
                    return Decision::nothing(Err(Denied::Full("revocations")));
                }
                // A clock that was set back must not take anything back.
                let at = self.subjects.get(subject).map_or(now, |mark| mark.at.max(now));
                let until = kept_until(at);
                let change = Change::SubjectRevoked { subject: Arc::clone(subject), at, until };
                Decision::one(change, Ok(Done::Revoked { kept_until: until }))
            }
            Deed::RevokeToken(id) => self.revoke_token(id, now),
        }
    }

    fn make_key(&self, key: &IssuedKey) -> Decision {
        if self.keys.contains_key(&key.id) || self.off.contains_key(&key.id) {
            return Decision::nothing(Err(Denied::KeyExists));
        }
        if self.keys.len() >= ISSUED_KEYS_MAX {
            return Decision::nothing(Err(Denied::Full("API keys")));
        }
        Decision::one(Change::KeyMade(key.clone()), Ok(Done::Done))
    }

    fn end_key(&self, id: &Arc<str>, configured: bool, now: UnixNanos) -> Decision {
        let kept_until = self.keys.get(id).and_then(|key| key.expires).unwrap_or(UnixNanos(i64::MAX));
        if self.off.contains_key(id) {
            return Decision::nothing(Ok(Done::Revoked { kept_until }));
        }
        if !configured && !self.keys.contains_key(id) {
            return Decision::nothing(Err(Denied::UnknownKey));
        }
        // One of our own has its place already, so that it can always be switched off.
        if !self.keys.contains_key(id) && self.off.len() >= 2 * ISSUED_KEYS_MAX {
            return Decision::nothing(Err(Denied::Full("API keys")));
        }
        Decision::one(Change::KeyOff { id: Arc::clone(id), at: now }, Ok(Done::Revoked { kept_until }))
    }

    fn begin(
        &self,
        owner: (&Arc<str>, &Arc<str>),
        fresh: &Fresh,
        lifetimes: &TokensConfig,
        now: UnixNanos,
    ) -> Decision {
        if self.off.contains_key(owner.0) {
            return Decision::nothing(Err(Denied::KeyOff));
        }
        let mut changes = Vec::new();
        if self.by_key.get(owner.0).is_some_and(|count| *count >= FAMILIES_PER_KEY_MAX) {
            let own = self.families.values().filter(|family| family.key == *owner.0);
            // An ended one still says that its access tokens are revoked.
            let oldest = own.filter(|family| !family.ended).min_by_key(|family| (family.used, family.id));
            let Some(oldest) = oldest else { return Decision::nothing(Err(Denied::Full("refresh tokens"))) };
            changes.push(Change::FamilyGone(oldest.id));
        } else if self.families.len() >= FAMILIES_MAX {
            return Decision::nothing(Err(Denied::Full("refresh tokens")));
        }
        let (family, issue) = Family::begin(fresh, owner, lifetimes, now);
        changes.push(Change::Family(family));
        Decision { changes, outcome: Ok(Done::Issued(issue)) }
    }

    fn rotate(&self, presented: &Presented, fresh: &Fresh, lifetimes: &TokensConfig, now: UnixNanos) -> Decision {
        let Some(family) = self.families.get(&presented.family()) else {
            return Decision::nothing(Err(Denied::Forged));
        };
        match family.judge(presented, now) {
            Presentation::Newest => {
                let (family, issue) = family.rotated(fresh, lifetimes, now);
                Decision::one(Change::Family(family), Ok(Done::Issued(issue)))
            }
            Presentation::Used => Decision { changes: self.end_family(family.id), outcome: Err(Denied::Reused) },
            Presentation::Forged => Decision::nothing(Err(Denied::Forged)),
            Presentation::Ended => Decision::nothing(Err(Denied::Ended)),
            Presentation::Expired => Decision::nothing(Err(Denied::Expired)),
        }
    }

    fn end_family(&self, id: FamilyId) -> Vec<Change> {
        let alive = self.families.get(&id).filter(|family| !family.ended);
        alive.map(|family| Change::Family(family.ended())).into_iter().collect()
    }

    fn revoke_token(&self, id: &Arc<str>, now: UnixNanos) -> Decision {
        if !self.tokens.contains_key(id) && self.revocations() >= REVOCATIONS_MAX {
            return Decision::nothing(Err(Denied::Full("revocations")));
        }
        let of_family = FamilyId::of_token_id(id).filter(|family| self.families.contains_key(family));
        let mut changes = of_family.map(|family| self.end_family(family)).unwrap_or_default();
        let until = kept_until(now);
        changes.push(Change::TokenRevoked { id: Arc::clone(id), until });
        Decision { changes, outcome: Ok(Done::Revoked { kept_until: until }) }
    }

    /// Takes in a change that was written. Whether it changes what [`Self::held`] says.
    pub fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::KeyMade(key) => {
                self.keys.insert(Arc::clone(&key.id), Arc::new(key));
            }
            Change::KeyOff { id, at } => {
                self.end_families(|family| family.key == id);
                self.off.insert(id, at);
            }
            Change::Family(family) => {
                let ended = family.ended;
                let key = Arc::clone(&family.key);
                let before = self.families.insert(family.id, family);
                if before.is_none() {
                    *self.by_key.entry(key).or_default() += 1;
                }
                return ended || before.is_some_and(|before| before.ended);
            }
            Change::FamilyGone(id) => {
                self.forget_families(|family| family.id == id);
                return false;
            }
            Change::SubjectRevoked { subject, at, until } => {
                self.end_families(|family| family.subject == subject);
                self.subjects.insert(subject, SubjectMark { at, until });
            }
            Change::TokenRevoked { id, until } => {
                self.tokens.insert(id, until);
            }
        }
        true
    }

    fn end_families(&mut self, which: impl Fn(&Family) -> bool) {
        for family in self.families.values_mut().filter(|family| which(family)) {
            family.ended = true;
        }
    }

    fn forget_families(&mut self, which: impl Fn(&Family) -> bool) {
        let by_key = &mut self.by_key;
        self.families.retain(|_, family| {
            let keep = !which(family);
            if !keep && let Some(count) = by_key.get_mut(&family.key) {
                *count -= 1;
            }
            keep
        });
        by_key.retain(|_, count| *count > 0);
    }

    /// Forgets what can forbid and allow nothing any more. Whether it changes what [`Self::held`]
    /// says.
    pub fn prune(&mut self, now: UnixNanos) -> bool {
        let before = self.revocations() + self.keys.len() + self.off.len() + self.families.len();
        self.subjects.retain(|_, mark| mark.until > now);
        self.tokens.retain(|_, until| *until > now);
        self.forget_families(|family| family.over() <= now);
        // A key is listed for a while behind its end. What is off by its id alone belongs to the
        // configuration, which may hold it for ever.
        let off = &mut self.off;
        self.keys.retain(|id, key| {
            let end = off.get(id).copied().into_iter().chain(key.expires).min();
            let keep = end.is_none_or(|end| kept_until(end) > now);
            if !keep {
                off.remove(id);
            }
            keep
        });
        before != self.revocations() + self.keys.len() + self.off.len() + self.families.len()
    }

    /// What everyone who judges must know.
    #[must_use]
    pub fn held(&self) -> Held {
        Held {
            version: 0,
            keys: self.keys.clone(),
            off: self.off.keys().cloned().collect(),
            subjects: self.subjects.iter().map(|(subject, mark)| (Arc::clone(subject), mark.at)).collect(),
            tokens: self.tokens.keys().cloned().collect(),
            families: self.families.values().filter(|family| family.ended).map(|family| family.id).collect(),
        }
    }

    /// The changes that make this state out of nothing. Revocations come before the families, which
    /// are as they are: nothing is ended by reading them.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        let keys = self.keys.values().map(|key| Change::KeyMade((**key).clone()));
        let off = self.off.iter().map(|(id, at)| Change::KeyOff { id: Arc::clone(id), at: *at });
        let subjects = self.subjects.iter().map(|(subject, mark)| {
            let SubjectMark { at, until } = *mark;
            Change::SubjectRevoked { subject: Arc::clone(subject), at, until }
        });
        let tokens = self.tokens.iter().map(|(id, until)| Change::TokenRevoked { id: Arc::clone(id), until: *until });
        let families = self.families.values().map(|family| Change::Family(family.clone()));
        keys.chain(off).chain(subjects).chain(tokens).chain(families)
    }

    /// The API keys, in the order of their ids, with the time at which they were switched off.
    #[must_use]
    pub fn keys(&self) -> Vec<(Arc<IssuedKey>, Option<UnixNanos>)> {
        let mut keys: Vec<_> =
            self.keys.values().map(|key| (Arc::clone(key), self.off.get(&key.id).copied())).collect();
        keys.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
        keys
    }

    /// Whether the API key of an id is switched off, and since when.
    #[must_use]
    pub fn off_since(&self, id: &str) -> Option<UnixNanos> {
        self.off.get(id).copied()
    }

    /// How many keys, families and revocations there are.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, usize, usize); 3] {
        [
            ("api_key", self.keys.len(), ISSUED_KEYS_MAX),
            ("refresh_token", self.families.len(), FAMILIES_MAX),
            ("revocation", self.revocations(), REVOCATIONS_MAX),
        ]
    }

    fn revocations(&self) -> usize {
        self.subjects.len() + self.tokens.len()
    }
}
