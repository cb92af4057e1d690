//! The lane from one feed thread to one worker: a bounded ring of events and a way to wake it.

use std::sync::Arc;

use crate::metrics::Counter;
use crate::model::{BookLevel, FeedState, InstrumentKey, StreamId, UnixNanos};
use crate::sync::{AtomicBool, AtomicU64, Consumer, Notify, Ordering, Producer, fence, ring};
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
    wakes: AtomicU64,
}

impl Wake {
    /// Called by a feed thread behind what it pushed.
    #[inline]
    pub fn wake(&self) {
        // Pairs with the fence in `prepare_sleep`: either we see the flag or the worker, which
        // looks once more behind its fence, sees the event.
        fence(Ordering::SeqCst);
        // Of several feed threads one takes the flag. Who finds it taken writes nothing: an
        // unconditional swap is right too, but loom does not know in which order two threads'
        // writes then stand, and would show a wake-up lost that cannot be.
        let take = || self.sleeping.compare_exchange(true, false, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if self.sleeping.load(Ordering::Relaxed) && take() {
            self.wakes.fetch_add(1, Ordering::Relaxed);
            self.notify.notify_one();
        }
    }

    /// How many times a sleeping worker was woken by an event so far: each is a syscall.
    #[must_use]
    pub fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Relaxed)
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

/// Events behind which a worker is woken although its feed thread has more to do: what a venue
/// sent at once becomes one turn, and of more than that the worker begins with the first.
const UNWOKEN_EVENTS_MAX: u64 = 64;

/// The feed thread's end.
pub struct LaneWriter {
    events: Producer<Event>,
    events_max: usize,
    losses: u64,
    shared: Arc<Shared>,
    waker: LaneWaker,
    dropped: Counter,
}

/// Wakes the worker for what was appended since it was last woken.
#[derive(Clone)]
pub struct LaneWaker {
    wake: Arc<Wake>,
    /// Events appended since then. Written by the feed thread only, and apart from what the
    /// worker reads.
    unwoken: Arc<AtomicU64>,
}

impl LaneWaker {
    /// To be called by the feed thread before it sleeps.
    #[inline]
    pub fn flush(&self) {
        if self.unwoken.load(Ordering::Relaxed) > 0 {
            self.unwoken.store(0, Ordering::Relaxed);
            self.wake.wake();
        }
    }

    fn appended(&self) {
        let unwoken = self.unwoken.load(Ordering::Relaxed) + 1;
        self.unwoken.store(unwoken, Ordering::Relaxed);
        if unwoken >= UNWOKEN_EVENTS_MAX {
            self.flush();
        }
    }
}

/// The worker's end.
pub struct LaneReader {
    events: Consumer<Event>,
    /// The losses that the worker has been told of.
    losses: u64,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// How many events found the lane full. Only the feed thread writes it, so that a loss cannot
    /// be wiped out by the worker's taking note of the one before.
    losses: AtomicU64,
}

/// A lane for `events_max` events to the worker that `wake` belongs to.
#[must_use]
pub fn lane(events_max: usize, wake: Arc<Wake>, dropped: Counter) -> (LaneWriter, LaneReader) {
    let (producer, consumer) = ring(events_max);
    let shared = Arc::new(Shared::default());
    (
        LaneWriter {
            events: producer,
            events_max,
            losses: 0,
            shared: Arc::clone(&shared),
            waker: LaneWaker { wake, unwoken: Arc::new(AtomicU64::new(0)) },
            dropped,
        },
        LaneReader { events: consumer, losses: 0, shared },
    )
}

impl LaneWriter {
    /// Appends an event; the worker is woken by [`LaneWaker::flush`], or behind a number of
    /// events. A full lane drops it, counts it, and has the worker resynchronize: the feed side
    /// never waits.
    #[inline]
    pub fn push(&mut self, event: Event) {
        if self.events.push(event).is_err() {
            self.dropped.increment(1);
            self.losses += 1;
            self.shared.losses.store(self.losses, Ordering::Release);
        }
        self.waker.appended();
    }

    /// Has the worker resynchronize, as behind a full lane: what is in the store is newer than
    /// what it was told.
    pub fn lose(&mut self) {
        self.losses += 1;
        self.shared.losses.store(self.losses, Ordering::Release);
        self.waker.appended();
    }

    /// Wakes the worker for what was appended since it was last woken.
    pub fn flush(&self) {
        self.waker.flush();
    }

    /// What wakes this lane's worker.
    #[must_use]
    pub fn waker(&self) -> LaneWaker {
        self.waker.clone()
    }

    /// Events that wait now.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.events_max - self.events.slots()
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
        self.events.is_empty() && self.shared.losses.load(Ordering::Acquire) == self.losses
    }

    /// Whether events were dropped since the last call. To be asked when the lane is empty, so
    /// that what is resynchronized is not older than what was in it.
    pub fn take_overflow(&mut self) -> bool {
        let losses = self.shared.losses.load(Ordering::Acquire);
        std::mem::replace(&mut self.losses, losses) != losses
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    use super::*;
    use futures_util::FutureExt;

    /// What one feed thread and the worker share.
    struct Feed {
        /// The latest value, as the store holds it. Relaxed: only the lane orders it.
        stored: Arc<AtomicU64>,
        last: u32,
    }

    /// Stores each value and then pushes it, as ingest does.
    fn publish(stored: &AtomicU64, lane: &mut LaneWriter, last: u32) {
        for value in 1..=last {
            stored.store(value.into(), Ordering::Relaxed);
            lane.push(Event::Instrument(InstrumentKey(value)));
            lane.waker.flush();
        }
    }

    /// Runs as a worker does, until it knows the last value of every feed: from the lane or, where
    /// that overflowed, from the store. It sleeps when there is nothing to do, so an event or a
    /// loss that it is not woken for leaves it asleep forever.
    fn work(wake: &Wake, lanes: &mut [LaneReader], feeds: &[Feed]) {
        let mut known = vec![0; lanes.len()];
        loop {
            for (at, lane) in lanes.iter_mut().enumerate() {
                while let Some(Event::Instrument(InstrumentKey(value))) = lane.pop() {
                    // One that a resync has brought already is dropped by its number.
                    known[at] = value.max(known[at]);
                }
                if lane.take_overflow() {
                    let stored = feeds[at].stored.load(Ordering::Relaxed) as u32;
                    assert!(stored >= known[at], "a resync to an older value than the lane had");
                    known[at] = stored;
                }
            }
            if known.iter().zip(feeds).all(|(known, feed)| *known == feed.last) {
                return;
            }
            wake.prepare_sleep();
            if lanes.iter().all(LaneReader::is_empty) {
                wake.woken().now_or_never().expect("the stand-in blocks");
            }
            wake.awake();
        }
    }

    /// One feed thread for each of `values`, which publishes so many through a lane for
    /// `events_max`, and one worker for all of them.
    fn explore(events_max: usize, values: &'static [u32]) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = model.preemption_bound.or(Some(3));
        model.check(move || {
            let wake = Arc::new(Wake::default());
            let (mut lanes, mut feeds, mut threads) = (Vec::new(), Vec::new(), Vec::new());
            for last in values {
                let (mut writer, reader) = lane(events_max, Arc::clone(&wake), Counter::noop());
                let stored = Arc::new(AtomicU64::new(0));
                feeds.push(Feed { stored: Arc::clone(&stored), last: *last });
                lanes.push(reader);
                threads.push(loom::thread::spawn(move || publish(&stored, &mut writer, *last)));
            }
            work(&wake, &mut lanes, &feeds);
            for thread in threads {
                thread.join().expect("a feed thread");
            }
        });
    }

    #[test]
    fn loom_a_worker_sleeps_through_no_event() {
        explore(2, &[2]);
    }

    #[test]
    fn loom_a_worker_sleeps_through_no_overflow_and_catches_up_to_the_last_value() {
        explore(1, &[3]);
    }

    #[test]
    fn loom_two_feed_threads_wake_one_worker() {
        explore(1, &[1, 1]);
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn push(lane: &mut LaneWriter, events: u32) {
        (0..events).for_each(|value| lane.push(Event::Instrument(InstrumentKey(value))));
    }

    #[test]
    fn what_comes_together_wakes_the_worker_once_and_a_flood_at_its_beginning() {
        let wake = Arc::new(Wake::default());
        let (mut lane, _reader) = lane(1_000, Arc::clone(&wake), Counter::noop());
        wake.prepare_sleep();
        push(&mut lane, 10);
        assert_eq!(wake.wakes(), 0, "there may be more");
        lane.waker().flush();
        assert_eq!(wake.wakes(), 1);
        wake.prepare_sleep();
        lane.waker().flush();
        assert_eq!(wake.wakes(), 1, "nothing came since");
        push(&mut lane, UNWOKEN_EVENTS_MAX as u32);
        assert_eq!(wake.wakes(), 2, "the worker begins while the rest is on its way");
    }

    #[test]
    fn a_busy_worker_is_not_woken_and_a_sleeping_one_once_for_all_that_comes() {
        let wake = Arc::new(Wake::default());
        let (mut first, _reader) = lane(1_000, Arc::clone(&wake), Counter::noop());
        let (mut second, _reader) = lane(10, Arc::clone(&wake), Counter::noop());
        push(&mut first, 500);
        push(&mut second, 1_000);
        assert_eq!(wake.wakes(), 0, "awake, it finds what is there by itself, also what overflowed");
        assert!(wake.woken().now_or_never().is_none());

        wake.prepare_sleep();
        push(&mut first, 300);
        push(&mut second, 1_000);
        assert_eq!(wake.wakes(), 1);
        assert!(wake.woken().now_or_never().is_some());
        wake.awake();
        push(&mut first, 100);
        assert_eq!(wake.wakes(), 1);
        assert!(wake.woken().now_or_never().is_none(), "no wake-up is left over");
    }

    #[test]
    fn a_full_lane_says_so_once_and_keeps_what_it_has() {
        let (mut writer, mut reader) = lane(2, Arc::default(), Counter::noop());
        push(&mut writer, 5);
        assert_eq!(writer.depth(), 2);
        let mut taken = Vec::new();
        while let Some(Event::Instrument(key)) = reader.pop() {
            taken.push(key.0);
        }
        assert_eq!(taken, [0, 1]);
        assert!(!reader.is_empty(), "the loss has still to be seen");
        assert!(reader.take_overflow());
        assert!(!reader.take_overflow() && reader.is_empty());
    }
}
