//! The hub's threads: feed threads and workers, each with a single-threaded runtime of its own.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::audit::Audit;
use crate::auth::Revocations;
use crate::config::Config;
use crate::fanout::{Budget, Fanout, LaneReader, LaneWaker, LaneWriter, Latencies, OutboxLimits, Requests, Wake, lane};
use crate::ingest::{Ingest, LineWriter};
use crate::limits::{FEED_REQUESTS_MAX, LANE_EVENTS_MAX};
use crate::metrics::{self, Registry};
use crate::provider::{self, ProviderConfig, supervisor};
use crate::session::Meters;
use crate::shutdown::Stop;
use crate::store::Store;
use crate::time;
use crate::transport::{
    self, DrainConfig, Handover, OrderBook, SharedTerms, Verifier, WorkerDoor, WorkerMeters, WorkerParts, Worlds,
};

/// Finished handshakes that may wait for one worker: more than it opens in a turn.
const HANDOVERS_MAX: usize = 1024;

/// What joins feed threads and workers: a lane from each to each, and a mailbox back. And what
/// joins the control side to the workers: orders.
pub(super) struct Joints {
    /// How much later than live all of it is.
    delay: Duration,
    /// The number of the first worker, counted over all worlds.
    first: usize,
    /// What the control side wants of the workers.
    pub(super) books: Vec<OrderBook>,
    pub(super) mailboxes: Vec<Requests>,
    /// How the control side and other worlds' workers reach the workers.
    pub(super) doors: Vec<WorkerDoor>,
    handovers: Vec<mpsc::Receiver<Handover>>,
    wakes: Vec<Arc<Wake>>,
    writers: Vec<Vec<LaneWriter>>,
    readers: Vec<Vec<LaneReader>>,
}

impl Joints {
    pub(super) fn new(
        delay: Duration,
        feed_threads: usize,
        (first, workers): (usize, usize),
        registry: &Registry,
    ) -> Self {
        let (mut doors, mut receivers) = (Vec::new(), Vec::new());
        for _ in 0..workers {
            let (handovers, receiver) = mpsc::channel(HANDOVERS_MAX);
            doors.push(WorkerDoor { handovers, sessions: Arc::default() });
            receivers.push(receiver);
        }
        let wakes: Vec<Arc<Wake>> = (0..workers).map(|_| Arc::default()).collect();
        for (worker, wake) in wakes.iter().enumerate() {
            let counter = registry.counter(metrics::WORKER_WAKES, &[("worker", &(first + worker).to_string())]);
            let wake = Arc::clone(wake);
            registry.before_scrape(move || counter.absolute(wake.wakes()));
        }
        let mut readers: Vec<Vec<LaneReader>> = (0..workers).map(|_| Vec::new()).collect();
        let mut writers = Vec::new();
        for _ in 0..feed_threads {
            let mut row = Vec::new();
            for (worker, wake) in wakes.iter().enumerate() {
                let dropped = registry.counter(metrics::LANE_DROPPED, &[("worker", &(first + worker).to_string())]);
                let (writer, reader) = lane(LANE_EVENTS_MAX, Arc::clone(wake), dropped);
                row.push(writer);
                readers[worker].push(reader);
            }
            writers.push(row);
        }
        let mailboxes = (0..feed_threads).map(|_| Requests::new(FEED_REQUESTS_MAX)).collect();
        Self { delay, first, books: Vec::new(), mailboxes, doors, handovers: receivers, wakes, writers, readers }
    }

    /// By feed thread, its lanes.
    pub(super) fn take_writers(&mut self) -> Vec<Vec<LaneWriter>> {
        std::mem::take(&mut self.writers)
    }
}

/// What every thread is given.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) store: Arc<Store>,
    pub(super) registry: Arc<Registry>,
    pub(super) epoch: Arc<str>,
    pub(super) audit: Audit,
    pub(super) revocations: Arc<Revocations>,
}

/// Starts the feed threads; provider `n` runs on thread `n` modulo their number. `lines` are each
/// thread's into the delayed worlds.
pub(super) fn start_feeds(
    config: &Config,
    joints: &mut Joints,
    common: &Common,
    lines: Vec<Vec<LineWriter>>,
    stop: &Stop,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let threads = joints.writers.len();
    let mut handles = Vec::new();
    for (thread, (lanes, lines)) in joints.take_writers().into_iter().zip(lines).enumerate() {
        let providers: Vec<ProviderConfig> = config.provider.iter().skip(thread).step_by(threads).cloned().collect();
        let supervision = config.supervisor.clone();
        let (common, stop, mailbox) = (common.clone(), stop.clone(), joints.mailboxes[thread].clone());
        let wakers: Vec<LaneWaker> = lanes.iter().map(LaneWriter::waker).collect();
        let runtime = Builder::new_current_thread()
            .enable_all()
            // Only once all that has arrived is published: it becomes one turn, one write a session.
            .on_thread_park(move || wakers.iter().for_each(LaneWaker::flush))
            .build()
            .context("starting a feed thread")?;
        let handle = std::thread::Builder::new().name(format!("feed-{thread}")).spawn(move || {
            let registry = Arc::clone(&common.registry);
            let ingest = Ingest::with_lines(common.store, registry, thread, lanes, mailbox, lines);
            let local = LocalSet::new();
            for provider in providers {
                let epoch = Arc::clone(&common.epoch);
                local.spawn_local(supervise(ingest.clone(), provider, supervision.clone(), epoch, stop.clone()));
            }
            local.block_on(&runtime, ingest.serve(stop));
        })?;
        handles.push(handle);
    }
    Ok(handles)
}

async fn supervise(
    ingest: Ingest,
    config: ProviderConfig,
    supervision: supervisor::Config,
    epoch: Arc<str>,
    stop: Stop,
) {
    let now = time::wall();
    let Some(feed) = ingest.feed(config.venue(), &epoch, now) else {
        tracing::error!(venue = config.venue(), "more feeds than the hub can hold");
        return;
    };
    let make = || provider::build(&config);
    let ending = supervisor::supervise(make, feed, &supervision, now.0.unsigned_abs(), stop).await;
    tracing::info!(venue = config.venue(), ?ending, "provider ended");
}

/// What workers of all worlds share.
pub(super) struct Shared {
    pub(super) verifier: Arc<dyn Verifier>,
    pub(super) terms: SharedTerms,
    pub(super) meters: Arc<Meters>,
    pub(super) budget: Arc<Budget>,
    pub(super) worlds: Worlds,
}

/// Starts the workers of one world; their threads.
pub(super) fn start_workers(
    config: &Config,
    joints: &mut Joints,
    common: &Common,
    shared: &Shared,
    (drain, stop): (&Stop, &Stop),
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let mut handles = Vec::new();
    let session = Arc::clone(&shared.terms.load().session);
    let reached = joints.handovers.drain(..).zip(joints.books.drain(..));
    let ends = joints.readers.drain(..).zip(joints.wakes.drain(..)).zip(reached);
    for (worker, ((lanes, wake), (handovers, orders))) in ends.enumerate() {
        let outbox = OutboxLimits {
            events_max: session.outbox_events_max,
            bytes_max: session.outbox_bytes_max,
            control_bytes_max: session.answer_bytes_max,
        };
        // By feed index: feeds were registered in the order of their providers.
        let mailboxes = joints.mailboxes.iter().cycle().take(config.provider.len()).cloned().collect();
        let stage = |stage| common.registry.histogram(metrics::LATENCY, &[("stage", stage)]);
        let latencies = Latencies { lane_write: stage("lane_write"), receive_write: stage("receive_write") };
        let store = Arc::clone(&common.store);
        // What waited out a delay has no latency that says anything of the hub.
        let latencies = joints.delay.is_zero().then_some(latencies);
        let mut fanout = Fanout::new(worker, store, outbox, mailboxes, latencies);
        let number = joints.first + worker;
        fanout.share_as(Arc::clone(&shared.budget), number);
        let parts = WorkerParts {
            fanout,
            lanes,
            wake,
            handovers,
            orders,
            terms: Arc::clone(&shared.terms),
            meters: Arc::clone(&shared.meters),
            worker_meters: WorkerMeters::new(&common.registry, number, "websocket"),
            verifier: Arc::clone(&shared.verifier),
            delay: joints.delay,
            worlds: shared.worlds.clone(),
            revocations: Arc::clone(&common.revocations),
            drain: DrainConfig {
                spread: config.timeouts.drain.duration(),
                retry_after: config.timeouts.drain.duration(),
            },
            audit: common.audit.clone(),
        };
        let (drain, stop) = (drain.clone(), stop.clone());
        let runtime = Builder::new_current_thread().enable_all().build().context("starting a worker")?;
        let handle = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            LocalSet::new().block_on(&runtime, transport::run(parts, drain, stop));
        })?;
        handles.push(handle);
    }
    Ok(handles)
}
