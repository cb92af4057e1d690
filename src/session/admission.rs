//! How many sessions each subject has: counted where credentials are judged, across all workers.

use std::sync::Arc;

use dashmap::DashMap;

use crate::auth::{Account, Principal};

/// Sessions by subject.
#[derive(Clone, Debug, Default)]
pub struct Admissions {
    open: Arc<DashMap<Account, u32>>,
}

/// One session's place among its subject's; dropping it gives the place back.
#[derive(Debug)]
pub struct Admission {
    open: Arc<DashMap<Account, u32>>,
    account: Account,
}

impl Admissions {
    /// A place for one more session of `principal`, if its grant and `connections_max` allow it.
    #[must_use]
    pub fn admit(&self, principal: &Principal, connections_max: u32) -> Option<Admission> {
        let max = principal.grant.connections().min(connections_max);
        let account = principal.account();
        let mut count = self.open.entry(account.clone()).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Admission { open: Arc::clone(&self.open), account })
    }

    /// Subjects with at least one session.
    #[must_use]
    pub fn subjects(&self) -> usize {
        self.open.len()
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(mut count) = self.open.get_mut(&self.account) {
            *count -= 1;
        }
        self.open.remove_if(&self.account, |_, count| *count == 0);
    }
}
