//! The feeds' states as a worker's sessions know them: as of its place in the lanes, which may be
//! behind the store. Told from the store, a newcomer would hear of a change twice, or of an older
//! one after a newer.

use std::sync::Arc;

use super::subscriber::{CLOSING, QUEUED, Selector, SessionId};
use super::worker::Fanout;
use crate::model::FeedState;
use crate::store::FeedStatus;
use crate::wire::{Frame, json};

/// What was told of a feed last.
#[derive(Debug)]
pub(super) struct Told {
    changes: u64,
    state: FeedState,
    frame: Frame,
}

impl Told {
    fn of(venue: &str, status: &FeedStatus) -> Self {
        let frame = json::status(&format!("{venue}:*"), status.state, &status.cause, status.since);
        Self { changes: status.changes, state: status.state, frame }
    }
}

impl Fanout {
    /// Takes the states as they are: whatever is in a lane now is no news.
    pub(super) fn learn_feeds(&mut self) {
        for (_, feed) in self.store.feeds() {
            self.feeds.push(Told::of(&feed.venue, &feed.status()));
        }
    }

    /// A feed that was registered since begins with the state that it had then, which is told to
    /// those whose patterns it concerns.
    pub fn learn_new_feeds(&mut self) {
        let store = Arc::clone(&self.store);
        for (index, feed) in store.feeds().skip(self.feeds.len()) {
            self.feeds.push(Told::of(&feed.venue, feed.first()));
            if self.scopes.add_feed(index, &feed.venue) {
                self.concern(index);
            }
        }
    }

    fn concern(&mut self, feed: u8) {
        let mut concerned = Vec::new();
        for (session, sub) in &mut self.sessions {
            let scopes = &self.scopes;
            let selects = |selector: &Selector| match selector {
                Selector::Exact(_) => false,
                Selector::Pattern { scope, .. } => scopes.scope(*scope).feeds >> feed & 1 == 1,
            };
            if sub.entries.iter().any(|(_, entry)| selects(&entry.selector)) {
                sub.feeds |= 1 << feed;
                concerned.push(session as SessionId);
            }
        }
        for session in concerned {
            self.tell_states(session, 1 << feed);
            self.touch(session);
        }
    }

    /// Tells a session the state of each of `feeds` (one bit each) that is not live.
    pub fn tell_states(&mut self, session: SessionId, feeds: u64) {
        for index in 0..self.feeds.len() {
            if feeds >> index & 1 == 1 && self.feeds[index].state != FeedState::Live {
                self.answer(session, self.feeds[index].frame.clone());
            }
        }
    }

    /// After dropped events: the states that have changed meanwhile.
    pub(super) fn resync_feeds(&mut self) {
        self.learn_new_feeds();
        for index in 0..self.feeds.len() as u8 {
            if let Some(feed) = self.store.feed(index) {
                let Told { changes, state, frame } = Told::of(&feed.venue, &feed.status());
                self.on_feed(index, changes, state, &frame);
            }
        }
    }

    /// A change of a feed's state goes to every session that it concerns, once.
    pub(super) fn on_feed(&mut self, feed: u8, changes: u64, state: FeedState, frame: &Frame) {
        self.learn_new_feeds();
        let Some(told) = self.feeds.get_mut(usize::from(feed)).filter(|told| told.changes < changes) else { return };
        *told = Told { changes, state, frame: frame.clone() };
        let index = self.add_frame(frame.clone(), (0, 0));
        let mut full = Vec::new();
        for (session, sub) in &mut self.sessions {
            if sub.feeds >> feed & 1 == 0 || sub.flags & CLOSING != 0 {
                continue;
            }
            if sub.flags & QUEUED != 0 {
                sub.outbox.push(frame.clone(), false);
                self.held.count_stuck(sub);
                full.push(session as SessionId);
            } else {
                if sub.turn.is_empty() {
                    self.turn.touched.push(session as SessionId);
                }
                sub.turn.push(index);
            }
        }
        for session in full {
            self.bound_control(session);
        }
    }
}
