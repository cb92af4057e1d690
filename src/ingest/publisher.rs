//! One feed thread's side of the lanes: encodes, sends, and measures its stages.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::delay::Taps;
use crate::fanout::{Event, LaneWriter};
use crate::metrics::{self, Counter, Gauge, Histogram, Registry};
use crate::model::{Received, UnixNanos};
use crate::store::{Interest, Store};
use crate::time;
use crate::wire::{Format, Frame, Gap, Head, Payload, Scratch};

/// A point on the way of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// In the store, before encoding.
    Stored,
}

/// One feed thread's encoder and lanes.
pub(super) struct Publisher {
    pub(super) store: Arc<Store>,
    /// Where what providers call is recorded, if there is a delayed world.
    pub(super) taps: Option<Taps>,
    /// Whether books are numbered at every depth, wanted or not: else their numbers would say who
    /// wanted them when, which a live and a delayed world do not have in common.
    pub(super) numbers_all: bool,
    lanes: RefCell<Vec<LaneWriter>>,
    scratch: RefCell<Scratch>,
    clock: fn() -> u64,
    venue_receive: Arc<Histogram>,
    receive_store: Arc<Histogram>,
    store_lane: Arc<Histogram>,
    clock_ahead: Counter,
    /// By format, as all tables here.
    encoded: [Counter; Format::COUNT],
    encoded_now: [Cell<u64>; Format::COUNT],
    unfit: Counter,
    depths: Vec<Gauge>,
}

impl Publisher {
    pub(super) fn new(store: Arc<Store>, lanes: Vec<LaneWriter>, registry: &Registry, thread: usize) -> Self {
        let stage = |stage| registry.histogram(metrics::LATENCY, &[("stage", stage)]);
        let thread = thread.to_string();
        let depths = (0..lanes.len())
            .map(|worker| {
                let labels = [("feed_thread", thread.as_str()), ("worker", &worker.to_string())];
                registry.gauge(metrics::LANE_DEPTH_MAX, &labels).set(crate::limits::LANE_EVENTS_MAX as f64);
                registry.gauge(metrics::LANE_DEPTH, &labels)
            })
            .collect();
        Self {
            store,
            taps: None,
            numbers_all: false,
            lanes: RefCell::new(lanes),
            scratch: RefCell::new(Scratch::new()),
            clock: time::mono,
            venue_receive: stage("venue_receive"),
            receive_store: stage("receive_store"),
            store_lane: stage("store_lane"),
            clock_ahead: registry.counter(metrics::CLOCK_AHEAD, &[]),
            encoded: Format::ALL.map(|format| registry.counter(metrics::ENCODED, &[("format", format.as_str())])),
            encoded_now: Default::default(),
            unfit: registry.counter(metrics::BINARY_UNFIT, &[]),
            depths,
        }
    }

    /// Measures up to `stage`; the time now, on the monotonic clock.
    #[inline]
    pub(super) fn stage(&self, stage: Stage, received: Received, ts_event: Option<UnixNanos>) -> u64 {
        let Stage::Stored = stage;
        let now = (self.clock)();
        self.receive_store.record(now.saturating_sub(received.mono));
        if let (Some(wall), Some(ts)) = (received.wall, ts_event) {
            let behind = wall.0.saturating_sub(ts.0);
            if behind < 0 {
                self.clock_ahead.increment(1);
            }
            self.venue_receive.record(u64::try_from(behind).unwrap_or(0));
        }
        now
    }

    pub(super) fn encode(&self, format: Format, head: &Head<'_>, payload: &Payload<'_>) -> Frame {
        let encoded = &self.encoded_now[format.index()];
        encoded.set(encoded.get() + 1);
        format.encode(&mut self.scratch.borrow_mut(), head, payload)
    }

    pub(super) fn gap(&self, format: Format, gap: &Gap<'_>) -> Frame {
        format.gap(&mut self.scratch.borrow_mut(), gap)
    }

    /// Encodes an event in each format that someone wants, and puts it into the lane of each who
    /// does. `stored` is when the event was stored (0 = not measured); `event` is given what was
    /// encoded and the time of its queueing, or 0.
    #[inline]
    pub(super) fn send<E>(
        &self,
        interest: Interest,
        stored: u64,
        encode: impl Fn(Format) -> E,
        event: impl Fn(Format, &E, u64) -> Event,
    ) {
        for format in Format::ALL {
            let mut left = interest.workers(format.index());
            if left == 0 {
                continue;
            }
            let encoded = encode(format);
            let mut queued = (self.clock)();
            if stored == 0 {
                // What answers a request is as old as it is: its age is no latency of ours.
                queued = 0;
            } else {
                self.store_lane.record(queued.saturating_sub(stored));
            }
            let lanes = &mut *self.lanes.borrow_mut();
            while left != 0 {
                let worker = left.trailing_zeros() as usize;
                left &= left - 1;
                if let Some(lane) = lanes.get_mut(worker) {
                    lane.push(event(format, &encoded, queued));
                }
            }
        }
    }

    /// Tells every worker.
    pub(super) fn broadcast(&self, event: impl Fn() -> Event) {
        for lane in self.lanes.borrow_mut().iter_mut() {
            lane.push(event());
        }
    }

    /// Has every worker bring itself up to what is in the store.
    pub(super) fn lose(&self) {
        self.lanes.borrow_mut().iter_mut().for_each(LaneWriter::lose);
    }

    /// Wakes the workers for what they were sent.
    pub(super) fn flush(&self) {
        self.lanes.borrow().iter().for_each(LaneWriter::flush);
    }

    /// Publishes what is counted in plain integers.
    pub(super) fn report(&self) {
        for (counter, now) in self.encoded.iter().zip(&self.encoded_now) {
            counter.increment(now.take());
        }
        self.unfit.increment(self.scratch.borrow_mut().take_unfit());
        if let Some(taps) = &self.taps {
            taps.report();
        }
        for (lane, gauge) in self.lanes.borrow().iter().zip(&self.depths) {
            gauge.set(lane.depth() as f64);
        }
    }
}
