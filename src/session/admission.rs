//! What the sessions of each subject have and do together: counted where credentials are judged,
//! across all workers.

use std::sync::Arc;

use dashmap::DashMap;

use super::limits::PrincipalLimits;
use crate::auth::{Account, Principal};
use crate::rate::{Rate, SharedBucket};
use crate::sync::{AtomicU64, Ordering};

/// Sessions by subject.
#[derive(Clone, Debug, Default)]
pub struct Admissions {
    open: Arc<DashMap<Account, Held>>,
}

/// A subject that has at least one session.
#[derive(Debug)]
struct Held {
    sessions: u32,
    shared: Arc<Shared>,
}

/// What its sessions share. The buckets live as long as any of them does.
#[derive(Debug)]
struct Shared {
    open: Arc<DashMap<Account, Held>>,
    account: Account,
    entries: AtomicU64,
    commands: SharedBucket,
    bytes: SharedBucket,
}

/// One session's place among its subject's; dropping it gives the place back, and its entries.
#[derive(Debug)]
pub struct Admission {
    shared: Arc<Shared>,
    /// Entries that are counted for this session.
    entries: u64,
}

impl Admissions {
    /// A place for one more session of `principal`, if its grant and `connections_max` allow it.
    #[must_use]
    pub fn admit(&self, principal: &Principal, connections_max: u32) -> Option<Admission> {
        self.place(principal.account(), principal.grant.connections().min(connections_max))
    }

    fn place(&self, account: Account, max: u32) -> Option<Admission> {
        let mut held = self.open.entry(account.clone()).or_insert_with(|| Held {
            sessions: 0,
            shared: Arc::new(Shared {
                open: Arc::clone(&self.open),
                account,
                entries: AtomicU64::new(0),
                commands: SharedBucket::default(),
                bytes: SharedBucket::default(),
            }),
        });
        if held.sessions >= max {
            return None;
        }
        held.sessions += 1;
        Some(Admission { shared: Arc::clone(&held.shared), entries: 0 })
    }

    /// Subjects with at least one session.
    #[must_use]
    pub fn subjects(&self) -> usize {
        self.open.len()
    }
}

impl Admission {
    /// Whether the subject may send one more command now.
    pub(super) fn takes_command(&self, limits: &PrincipalLimits, now: u64) -> bool {
        self.shared.commands.take(Rate::per_second(limits.commands_per_second.into()), 1, now).is_ok()
    }

    /// Counts what a command cost beyond one, once that is known.
    pub(super) fn charge(&self, limits: &PrincipalLimits, commands: u64, now: u64) {
        self.shared.commands.charge(Rate::per_second(limits.commands_per_second.into()), commands, now);
    }

    /// Whether the subject may send so many more bytes now.
    pub(super) fn takes_bytes(&self, limits: &PrincipalLimits, bytes: u64, now: u64) -> bool {
        self.shared.bytes.take(Rate::per_second(limits.bytes_per_second.into()), bytes, now).is_ok()
    }

    /// Counts up to `wanted` entries more for the session, as far as the subject may have them; how
    /// many that are. [`Self::settle`] gives back what is not used.
    pub(super) fn reserve(&mut self, limits: &PrincipalLimits, wanted: u64) -> u64 {
        let most = u64::from(limits.subscriptions);
        let mut held = self.shared.entries.load(Ordering::Relaxed);
        loop {
            let more = wanted.min(most.saturating_sub(held));
            let then = held + more;
            match self.shared.entries.compare_exchange_weak(held, then, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    self.entries += more;
                    return more;
                }
                Err(other) => held = other,
            }
        }
    }

    /// Counts exactly `entries` for the session.
    pub(super) fn settle(&mut self, entries: u64) {
        if entries >= self.entries {
            self.shared.entries.fetch_add(entries - self.entries, Ordering::Relaxed);
        } else {
            self.shared.entries.fetch_sub(self.entries - entries, Ordering::Relaxed);
        }
        self.entries = entries;
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let Shared { open, account, .. } = &*self.shared;
        if let Some(mut held) = open.get_mut(account) {
            held.sessions -= 1;
        }
        open.remove_if(account, |_, held| held.sessions == 0);
        self.settle(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sessions_of_a_subject_share_its_rates_and_its_entries() {
        let (admissions, limits) = (
            Admissions::default(),
            PrincipalLimits { subscriptions: 10, commands_per_second: 5, ..PrincipalLimits::default() },
        );
        let admit = |subject: &str| admissions.place(Account { issuer: None, subject: subject.into() }, 2);
        let (mut one, mut two) = (admit("ann").expect("room"), admit("ann").expect("room"));
        assert!(admit("ann").is_none());
        let mut other = admit("bob").expect("room");
        assert_eq!((0..4).filter(|_| one.takes_command(&limits, 0)).count(), 4);
        assert_eq!((0..4).filter(|_| two.takes_command(&limits, 0)).count(), 1);
        assert!(other.takes_command(&limits, 0), "another subject is not concerned");
        assert_eq!((one.reserve(&limits, 6), two.reserve(&limits, 6), other.reserve(&limits, 6)), (6, 4, 6));
        one.settle(1);
        assert_eq!(two.reserve(&limits, 20), 5);
        drop(two);
        assert_eq!(one.reserve(&limits, 20), 9);
        drop((one, other));
        assert_eq!(admissions.subjects(), 0, "who has no session is forgotten");
    }
}
