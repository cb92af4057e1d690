//! A feed on its own, without workers: what it publishes is taken from one lane that wants all.
//! For `normalize`, and for tests of providers.

use std::sync::Arc;

use super::{Feed, Ingest};
use crate::fanout::{Event, LaneReader, Requests, Wake, lane};
use crate::limits::LANE_EVENTS_MAX;
use crate::metrics::Registry;
use crate::model::{Channel, StreamKind, UnixNanos};
use crate::store::{Interest, Store};
use crate::wire::Format;

/// See the module.
pub struct Standalone {
    /// The feed to give to a provider or decoder.
    pub feed: Feed,
    /// The store that it writes.
    pub store: Arc<Store>,
    wanted: Vec<StreamKind>,
    lane: LaneReader,
}

/// A feed of `venue` whose lane wants `kinds` of every instrument as it appears.
///
/// # Panics
/// Never: a new store has room for a feed.
#[must_use]
pub fn standalone(venue: &str, kinds: &[StreamKind]) -> Standalone {
    let store = Store::with_interest(0, kinds, Interest::of(0, Format::Json.index()));
    let registry = Registry::new();
    let dropped = registry.counter(crate::metrics::LANE_DROPPED, &[]);
    let (writer, reader) = lane(LANE_EVENTS_MAX, Arc::new(Wake::default()), dropped);
    let ingest = Ingest::new(Arc::clone(&store), registry, 0, vec![writer], Requests::new(1));
    let feed = ingest.feed(venue, "0", UnixNanos(0)).expect("a new store has room");
    Standalone { feed, store, wanted: kinds.to_vec(), lane: reader }
}

impl Standalone {
    /// The next event of a channel that is wanted, or of a feed's state.
    pub fn pop(&mut self) -> Option<Event> {
        loop {
            match self.lane.pop()? {
                Event::Instrument(_) => {}
                event => return Some(event),
            }
        }
    }

    /// The channels that are wanted.
    #[must_use]
    pub fn channels(&self) -> Vec<Channel> {
        self.wanted.iter().map(|kind| kind.channel()).collect()
    }
}
