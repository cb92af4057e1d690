//! How many sessions each subject has: counted where credentials are judged, across all workers.

use std::sync::Arc;

use dashmap::DashMap;

use crate::auth::Principal;

/// Sessions by subject.
#[derive(Clone, Debug, Default)]
pub struct Admissions {
    open: Arc<DashMap<Arc<str>, u32>>,
}

/// One session's place among its subject's; dropping it gives the place back.
#[derive(Debug)]
pub struct Admission {
    open: Arc<DashMap<Arc<str>, u32>>,
    subject: Arc<str>,
}

impl Admissions {
    /// A place for one more session of `principal`, if its grant and `connections_max` allow it.
    #[must_use]
    pub fn admit(&self, principal: &Principal, connections_max: u32) -> Option<Admission> {
        let max = principal.grant.connections().min(connections_max);
        let mut count = self.open.entry(Arc::clone(&principal.subject)).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Admission { open: Arc::clone(&self.open), subject: Arc::clone(&principal.subject) })
    }

    /// Subjects with at least one session.
    #[must_use]
    pub fn subjects(&self) -> usize {
        self.open.len()
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(mut count) = self.open.get_mut(&self.subject) {
            *count -= 1;
        }
        self.open.remove_if(&self.subject, |_, count| *count == 0);
    }
}
