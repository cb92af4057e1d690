//! The lane from one feed thread to one worker: a bounded ring of events and a way to wake it.

use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};
use tokio::sync::Notify;

use crate::metrics::Counter;
use crate::model::{BookLevel, FeedState, InstrumentKey, StreamId, UnixNanos};
use crate::sync::{AtomicBool, Ordering, fence};
use crate::wire::{Format, Frame};

/// What a feed thread tells a worker.
#[derive(Debug)]
pub enum Event {
    /// A numbered event or a snapshot of a stream that the worker wants.
    Update(Update),
    /// An upstream loss took a number.
    Gap {
        /// The stream.
        stream: StreamId,
        /// The number.
        seq: u64,
        /// What it is encoded in.
        format: Format,
        /// The gap, encoded.
        frame: Frame,
        /// The stream's value under the gap's number, encoded as a snapshot, where there is one.
        snapshot: Option<Frame>,
    },
    /// A new instrument. It comes before every event of it.
    Instrument(InstrumentKey),
    /// A feed's state has changed.
    Feed {
        /// The feed's index.
        feed: u8,
        /// Which change of its state it is, from 1.
        changes: u64,
        /// The new state.
        state: FeedState,
        /// The change, encoded for those who may see the whole venue.
        frame: Frame,
    },
}

/// A lane holds many thousands of them.
const _: () = assert!(size_of::<Event>() <= 88);

/// Where an update stands in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// An event with a number of its own. A book stream that comes into use begins with one that
    /// is a full window.
    Numbered,
    /// A full window under the number of the gap before it, for everyone.
    Resync,
    /// A full window under the last published number, for a worker that has just begun to want
    /// a stream that others already have.
    State,
}

/// One event of one stream.
#[derive(Debug)]
pub struct Update {
    /// The stream.
    pub stream: StreamId,
    /// Its number, or the last published one for a snapshot.
    pub seq: u64,
    /// Where it stands.
    pub standing: Standing,
    /// What it is encoded in. A worker that wants a stream in several formats gets an update for
    /// each, so that each is a stream of its own to it.
    pub format: Format,
    /// Encoded once, for everyone.
    pub frame: Frame,
    /// For a book: the levels, so that the worker can keep a replica.
    pub book: Option<Arc<BookUpdate>>,
    /// When it was received, on the monotonic clock.
    pub received: u64,
    /// When it was put into the lane, on the monotonic clock.
    pub queued: u64,
}

/// The levels of a book update.
#[derive(Debug, PartialEq, Eq)]
pub struct BookUpdate {
    /// Whether these are all levels of the window, not changes to it.
    pub full: bool,
    /// The venue's event time.
    pub ts_event: Option<UnixNanos>,
    /// When the hub received it.
    pub received: Option<UnixNanos>,
    /// Bids first, then asks.
    pub levels: Box<[BookLevel]>,
    /// How many of them are bids.
    pub bids: usize,
}

impl BookUpdate {
    /// The bids.
    #[must_use]
    pub fn bids(&self) -> &[BookLevel] {
        &self.levels[..self.bids]
    }

    /// The asks.
    #[must_use]
    pub fn asks(&self) -> &[BookLevel] {
        &self.levels[self.bids..]
    }
}

/// How a worker that has nothing to do is woken: without a syscall while it is awake.
#[derive(Debug, Default)]
pub struct Wake {
    sleeping: AtomicBool,
    notify: Notify,
}

impl Wake {
    /// Called by a feed thread behind a push.
    #[inline]
    pub fn wake(&self) {
        // Pairs with the fence in `prepare_sleep`: either we see the flag or the worker, which
        // looks once more behind its fence, sees the event.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            self.notify.notify_one();
        }
    }

    /// Says that the worker is about to sleep. It must look at its lanes once more behind this.
    pub fn prepare_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that the worker is awake after all, or again.
    pub fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Returns when woken. Cancel-safe.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }
}

/// The feed thread's end.
pub struct LaneWriter {
    events: Producer<Event>,
    shared: Arc<Shared>,
    wake: Arc<Wake>,
    dropped: Counter,
}

/// The worker's end.
pub struct LaneReader {
    events: Consumer<Event>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Set when an event found the lane full; the worker then resynchronizes all it wants.
    overflowed: AtomicBool,
}

/// A lane for `events_max` events to the worker that `wake` belongs to.
#[must_use]
pub fn lane(events_max: usize, wake: Arc<Wake>, dropped: Counter) -> (LaneWriter, LaneReader) {
    let (producer, consumer) = RingBuffer::new(events_max);
    let shared = Arc::new(Shared::default());
    (
        LaneWriter { events: producer, shared: Arc::clone(&shared), wake, dropped },
        LaneReader { events: consumer, shared },
    )
}

impl LaneWriter {
    /// Appends an event and wakes the worker. A full lane drops it, counts it, and has the
    /// worker resynchronize: the feed side never waits.
    #[inline]
    pub fn push(&mut self, event: Event) {
        if self.events.push(event).is_err() {
            self.dropped.increment(1);
            self.shared.overflowed.store(true, Ordering::Release);
        }
        self.wake.wake();
    }

    /// Events that wait now.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.events.buffer().capacity() - self.events.slots()
    }
}

impl LaneReader {
    /// The next event.
    #[inline]
    pub fn pop(&mut self) -> Option<Event> {
        self.events.pop().ok()
    }

    /// Whether there is nothing to take.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && !self.shared.overflowed.load(Ordering::Acquire)
    }

    /// Whether events were dropped since the last call. To be asked when the lane is empty, so
    /// that what is resynchronized is not older than what was in it.
    pub fn take_overflow(&mut self) -> bool {
        self.shared.overflowed.load(Ordering::Acquire) && self.shared.overflowed.swap(false, Ordering::AcqRel)
    }
}
