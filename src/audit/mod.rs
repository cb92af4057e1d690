//! The audit trail: who was let in and refused, what was granted and taken back, what admins did.
//!
//! Whoever has something to record gives it to an [`Audit`], which puts it into a bounded queue and
//! never waits; one thread writes the queue to a folder of files, each line chained to the one
//! before. `docs/audit.md` has the fields and the chain. Nothing on the way of an event calls it.

mod chain;
mod config;
mod folder;
mod line;
mod note;
mod record;
mod storms;
#[cfg(test)]
mod tests;
mod trail;
mod verify;
mod writer;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;

use crate::metrics::{self, Counter, Registry};
use crate::model::UnixNanos;
use crate::settings::Fault;
use crate::time::{duration_ns, mono, wall};

pub use chain::{Hash, Seal};
pub use config::{AuditConfig, SyncWhen, read_key};
pub use folder::Place;
pub use record::{Event, Granted, Origin, Record, Who};
pub use trail::TrailError;
pub use verify::{Broken, Report, VerifyError, lines, verify};

use trail::Trail;
use writer::{Meters, Writer};

/// Records that wait to be written: three for each of the sessions that come back in a reconnect
/// storm of 5,000 a second, while the disk takes a second over one write. Some 4 MB.
pub const QUEUE_RECORDS_MAX: usize = 16_384;

/// How long the end of a hub waits for the last records to be written.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Where things are recorded. Cheap to clone. Where auditing is off it does nothing.
#[derive(Clone, Default)]
pub struct Audit {
    shared: Option<Arc<Shared>>,
}

/// A record in the queue.
struct Item {
    record: Record,
    at: UnixNanos,
    /// Records that found the queue full before this one came.
    lost_before: u64,
}

/// What callers and the writer share.
struct Shared {
    queue: ArrayQueue<Item>,
    /// Lost, and not yet told to the writer.
    lost: AtomicU64,
    lost_total: Counter,
    /// The writer sleeps, or is about to.
    resting: AtomicBool,
    writer: OnceLock<Thread>,
    stopping: AtomicBool,
    failing: AtomicBool,
}

impl Audit {
    /// One that records nothing.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Whether anything is recorded.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.shared.is_some()
    }

    /// Whether records cannot be written at present.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.failing.load(Ordering::Acquire))
    }

    /// One whose disk takes nothing.
    #[cfg(test)]
    pub(crate) fn failing() -> Self {
        let shared = Shared::new(1, &Registry::new());
        shared.failing.store(true, Ordering::Release);
        Self { shared: Some(Arc::new(shared)) }
    }

    /// Records what `make` gives, with the time it is now. Never waits; where the queue is full the
    /// record is counted as lost. `make` is not called where auditing is off.
    pub fn record(&self, make: impl FnOnce() -> Record) {
        if let Some(shared) = &self.shared {
            shared.offer(make(), wall());
        }
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").field("on", &self.is_on()).finish_non_exhaustive()
    }
}

impl Shared {
    fn new(records_max: usize, registry: &Registry) -> Self {
        Self {
            queue: ArrayQueue::new(records_max),
            lost: AtomicU64::new(0),
            lost_total: registry.counter(metrics::AUDIT_LOST, &[]),
            resting: AtomicBool::new(false),
            writer: OnceLock::new(),
            stopping: AtomicBool::new(false),
            failing: AtomicBool::new(false),
        }
    }

    fn offer(&self, record: Record, at: UnixNanos) {
        // Refusals, which strangers can cause, leave half of the queue to everything else.
        let refusal = matches!(record.event, Event::Refused { .. });
        let room = !refusal || self.queue.len() < self.queue.capacity() / 2;
        let lost_before = self.lost.swap(0, Ordering::AcqRel);
        let item = Item { record, at, lost_before };
        if !room || self.queue.push(item).is_err() {
            self.lost.fetch_add(lost_before + 1, Ordering::AcqRel);
            self.lost_total.increment(1);
        } else if self.resting.swap(false, Ordering::SeqCst) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    /// The writer's sleep, until there is something or `at_most` has passed.
    fn rest(&self, at_most: Duration) {
        self.resting.store(true, Ordering::SeqCst);
        if self.queue.is_empty() && !self.stopping.load(Ordering::Acquire) {
            std::thread::park_timeout(at_most);
        }
        self.resting.store(false, Ordering::SeqCst);
    }
}

/// The owner of a trail's thread. Dropping it writes what is left.
#[derive(Debug)]
pub struct Auditor {
    audit: Audit,
    thread: Option<JoinHandle<()>>,
}

impl Auditor {
    /// Opens the trail that `config` asks for, if it does, and starts the thread that writes it.
    ///
    /// # Errors
    /// A [`Fault`] of the section where the trail cannot be written.
    pub fn start(config: &AuditConfig, registry: &Arc<Registry>) -> Result<Self, Fault> {
        Self::start_with(config, registry, QUEUE_RECORDS_MAX)
    }

    fn start_with(config: &AuditConfig, registry: &Arc<Registry>, records_max: usize) -> Result<Self, Fault> {
        let Some(dir) = &config.dir else { return Ok(Self { audit: Audit::off(), thread: None }) };
        let seal = config.seal()?;
        let fault = |error: &dyn std::error::Error| {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            Fault::new("audit.dir", dir, format!("no audit trail can be written there: {error}{cause}"))
        };
        let trail = Trail::open(dir, seal, config.policy(), wall()).map_err(|error| fault(&error))?;
        let shared = Arc::new(Shared::new(records_max, registry));
        registry.gauge(metrics::AUDIT_QUEUE_MAX, &[]).set(records_max as f64);
        let (depth, queued) = (registry.gauge(metrics::AUDIT_QUEUE, &[]), Arc::downgrade(&shared));
        registry.before_scrape(move || depth.set(queued.upgrade().map_or(0.0, |shared| shared.queue.len() as f64)));
        let writer = Writer::new(Arc::clone(&shared), trail, Meters::new(registry));
        let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run());
        let thread = thread.map_err(|error| fault(&error))?;
        let _ = shared.writer.set(thread.thread().clone());
        Ok(Self { audit: Audit { shared: Some(shared) }, thread: Some(thread) })
    }

    /// Where things are recorded.
    #[must_use]
    pub fn audit(&self) -> Audit {
        self.audit.clone()
    }

    /// Has everything written that was recorded before, and ends; within some seconds, even if the
    /// disk does not answer.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let (Some(shared), Some(thread)) = (&self.audit.shared, self.thread.take()) else { return };
        shared.stopping.store(true, Ordering::Release);
        let until = mono().saturating_add(duration_ns(STOP_GRACE));
        while !thread.is_finished() && mono() < until {
            shared.wake();
            std::thread::park_timeout(Duration::from_millis(5));
        }
        if thread.is_finished() {
            // A writer that panicked has told so.
            let _ = thread.join();
        } else {
            tracing::error!(waiting = shared.queue.len(), "the audit trail's last records are not written");
        }
    }
}

impl Drop for Auditor {
    fn drop(&mut self) {
        self.end();
    }
}
