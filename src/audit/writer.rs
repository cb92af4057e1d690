//! The one thread that writes a trail: takes records off the queue, in their order.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::note::Note;
use super::storms::{Repeated, Storms};
use super::trail::Trail;
use super::{Item, Shared};
use crate::metrics::{self, Counter, Gauge, Registry};
use crate::model::UnixNanos;
use crate::time::{Mono, duration_ns, mono, wall};

/// Bytes that are written at once; what exceeds it waits for the next write.
const BATCH_BYTES_MAX: usize = 256 * 1024;

/// How long the thread sleeps at most: files are looked after that often.
const REST: Duration = Duration::from_secs(1);

/// Between two tries of a write that failed.
const RETRY: Duration = Duration::from_millis(500);

/// How much lower than the data side the thread is scheduled.
const NICE: i32 = 10;

/// What the thread counts.
pub(super) struct Meters {
    registry: Arc<Registry>,
    bytes: Counter,
    errors: Counter,
    summed: Counter,
    failing: Gauge,
}

impl Meters {
    pub(super) fn new(registry: &Arc<Registry>) -> Self {
        Self {
            bytes: registry.counter(metrics::AUDIT_BYTES, &[]),
            errors: registry.counter(metrics::AUDIT_ERRORS, &[]),
            summed: registry.counter(metrics::AUDIT_SUMMED, &[]),
            failing: registry.gauge(metrics::AUDIT_FAILING, &[]),
            registry: Arc::clone(registry),
        }
    }
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    pub(super) trail: Trail,
    storms: Storms,
    meters: Meters,
    /// When the disk and files were looked after.
    looked: Mono,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, trail: Trail, meters: Meters) -> Self {
        Self { shared, trail, storms: Storms::new(mono()), meters, looked: 0 }
    }

    /// Writes until the stop, and then what is left.
    pub(super) fn run(mut self) {
        // Not allowed in every container; the hub works without it.
        let _ = rustix::process::setpriority_process(None, NICE);
        loop {
            let stopping = self.shared.stopping.load(Ordering::Acquire);
            let failed = !self.turn(mono(), wall(), stopping);
            if stopping && (failed || self.shared.queue.is_empty()) {
                return;
            }
            if failed {
                self.wait_to_retry();
            } else if self.trail.waiting() == 0 {
                self.shared.rest(REST);
            }
        }
    }

    /// Takes what is queued and writes it; whether that went well.
    pub(super) fn turn(&mut self, mono: Mono, wall: UnixNanos, stopping: bool) -> bool {
        self.take(mono, wall, stopping);
        let outcome = self.write(mono, wall, stopping);
        let well = outcome.is_ok();
        self.tell(outcome);
        well
    }

    /// Takes what is queued, as far as it fits into one write.
    fn take(&mut self, mono: Mono, wall: UnixNanos, stopping: bool) {
        while self.trail.waiting() < BATCH_BYTES_MAX {
            let Some(Item { record, at, lost_before }) = self.shared.queue.pop() else {
                // Nobody came behind those that were lost.
                let lost = self.shared.lost.swap(0, Ordering::AcqRel);
                self.lost(lost, wall);
                break;
            };
            self.lost(lost_before, at);
            if self.storms.passes(&record, at, mono) {
                self.trail.push(record.event.name(), |text, seq| record.write(text, seq, at));
            } else {
                self.meters.summed.increment(1);
            }
        }
        if self.trail.waiting() >= BATCH_BYTES_MAX {
            return;
        }
        let trail = &mut self.trail;
        self.storms.due(mono, stopping, |repeated| {
            trail.push(Repeated::NAME, |text, seq| repeated.write(text, seq, wall));
        });
    }

    fn lost(&mut self, count: u64, at: UnixNanos) {
        if count > 0 {
            self.trail.note(&Note::Lost { count }, at);
        }
    }

    fn write(&mut self, mono: Mono, wall: UnixNanos, stopping: bool) -> io::Result<()> {
        self.trail.commit()?;
        if self.trail.is_full(wall) {
            self.trail.rotate(wall)?;
        }
        if stopping {
            return self.trail.sync();
        }
        if mono.saturating_sub(self.looked) < duration_ns(REST) {
            return Ok(());
        }
        self.looked = mono;
        self.trail.sync()?;
        if self.trail.is_gone() {
            self.trail.rotate(wall)?;
        }
        while self.trail.delete_oldest(wall)? {}
        Ok(())
    }

    /// Tells the metrics, and the log where it changes.
    fn tell(&mut self, outcome: io::Result<()>) {
        let done = self.trail.take_done();
        self.meters.bytes.increment(done.bytes);
        for event in done.events {
            self.meters.registry.counter(metrics::AUDIT_RECORDS, &[("event", event)]).increment(1);
        }
        let failed = outcome.is_err();
        let failed_before = self.shared.failing.swap(failed, Ordering::AcqRel);
        self.meters.failing.set(f64::from(u8::from(failed)));
        match outcome {
            Err(error) => {
                self.meters.errors.increment(1);
                if !failed_before {
                    tracing::error!(%error, "the audit trail cannot be written; records wait, and are lost beyond the queue");
                }
            }
            Ok(()) if failed_before => tracing::info!("the audit trail can be written again"),
            Ok(()) => {}
        }
    }

    fn wait_to_retry(&self) {
        let until = mono().saturating_add(duration_ns(RETRY));
        while !self.shared.stopping.load(Ordering::Acquire) {
            let left = until.saturating_sub(mono());
            if left == 0 {
                return;
            }
            std::thread::park_timeout(Duration::from_nanos(left));
        }
    }
}
