//! Signs of life: what a running provider tells its supervisor.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::ingest::Feed;
use crate::model::FeedState;
use crate::time;

/// Signs of life of all connections of a provider, and the state it believes its feed to be in.
/// Shared between the provider and its supervisor, on one thread; cheap to clone.
///
/// Connected is not live: a connection that is open and silent looks healthy from inside. So the
/// provider only counts what it hears, without reading a clock, and the supervisor compares.
#[derive(Clone, Debug, Default)]
pub struct Pulse {
    shared: Rc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    connections: RefCell<Vec<Rc<Cell<u64>>>>,
    settled: Cell<Option<FeedState>>,
    stale: Cell<bool>,
}

/// One connection's signs of life. It is watched until it is dropped.
#[derive(Debug)]
pub struct Beat {
    count: Rc<Cell<u64>>,
    pulse: Pulse,
}

impl Beat {
    /// Something came from the venue: data, an answer, a ping.
    #[inline]
    pub fn beat(&self) {
        self.count.set(self.count.get().wrapping_add(1));
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.pulse.shared.connections.borrow_mut().retain(|count| !Rc::ptr_eq(count, &self.count));
    }
}

impl Pulse {
    /// Watches one more connection.
    #[must_use]
    pub fn connection(&self) -> Beat {
        let count = Rc::new(Cell::new(0));
        self.shared.connections.borrow_mut().push(Rc::clone(&count));
        Beat { count, pulse: self.clone() }
    }

    /// Says which state the feed is in as far as the provider knows. The supervisor overlays it
    /// with `stale` while a connection is silent.
    pub fn settle(&self, feed: &Feed, state: FeedState, cause: &str) {
        self.shared.settled.set(Some(state));
        if !self.shared.stale.get() {
            feed.set_state(state, cause, time::wall());
        }
    }

    /// What the provider last said of this run.
    pub(super) fn settled(&self) -> Option<FeedState> {
        self.shared.settled.get()
    }

    /// A new run: nothing is settled, nothing stale.
    pub(super) fn restart(&self) {
        self.shared.settled.set(None);
        self.shared.stale.set(false);
    }

    /// Begins or ends the overlay.
    pub(super) fn overlay(&self, stale: bool) {
        self.shared.stale.set(stale);
    }

    pub(super) fn is_overlaid(&self) -> bool {
        self.shared.stale.get()
    }

    /// Every watched connection with its count so far.
    pub(super) fn counts(&self, mut each: impl FnMut(&Rc<Cell<u64>>)) {
        self.shared.connections.borrow().iter().for_each(&mut each);
    }
}
