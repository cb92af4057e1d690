//! Ends the live sessions of a worker whose credential is revoked.
//!
//! A revocation is shown to everyone who judges before it is acknowledged, and its version tells
//! each worker that there is something new. A worker then looks at all of its sessions, in portions,
//! as a look at fifty thousand at once would hold up what they wait for. A session that is opened or
//! renewed on the way is judged once more by the worker itself: whatever was revoked before that is
//! found there, and whatever is revoked after it by the next look.

use std::sync::Arc;

use super::worker::{State, now};
use crate::auth::Revocations;
use crate::fanout::SessionId;
use crate::wire::CloseCode;

/// Sessions of one portion, at the least.
const PORTION_MIN: usize = 1024;
/// Portions of a whole look, at the most: with one in every sweep it is done within a second.
const PORTIONS_MAX: usize = 12;

/// How far a worker's look at its sessions is.
pub(super) struct Rejudge {
    revocations: Arc<Revocations>,
    /// The version that the look under way is for.
    version: u64,
    next: usize,
    /// Sessions that are still to be looked at.
    left: usize,
}

impl Rejudge {
    pub(super) fn new(revocations: Arc<Revocations>) -> Self {
        let version = revocations.version();
        Self { revocations, version, next: 0, left: 0 }
    }

    /// Looks at the next portion of sessions, if anything was revoked since they were looked at.
    pub(super) fn step(&mut self, state: &mut State) {
        let sessions = state.sockets.live.len();
        let version = self.revocations.version();
        if version != self.version {
            // Once around from here: what was looked at before may be revoked now.
            self.version = version;
            self.left = sessions;
        }
        for _ in 0..portion(sessions).min(self.left) {
            self.next = if self.next < sessions { self.next } else { 0 };
            self.look_at(state, self.next);
            self.next += 1;
            self.left -= 1;
        }
    }

    fn look_at(&self, state: &mut State, index: usize) {
        let Some(Some(live)) = state.sockets.live.get(index) else { return };
        let principal = live.session.principal().filter(|_| live.session.closed().is_none());
        if principal.is_some_and(|principal| self.revocations.refuses(principal)) {
            let (id, now) = (index as SessionId, now());
            state.end_at_once(id, CloseCode::Revoked, CloseCode::Revoked.as_str(), now);
            state.write(id, now.mono);
        }
    }
}

const fn portion(sessions: usize) -> usize {
    let share = sessions.div_ceil(PORTIONS_MAX);
    if share > PORTION_MIN { share } else { PORTION_MIN }
}
