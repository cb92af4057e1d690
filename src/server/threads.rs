//! The hub's threads: feed threads and workers, each with a single-threaded runtime of its own.

use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::auth::Revocations;
use crate::config::Config;
use crate::fanout::{Budget, Fanout, LaneReader, LaneWaker, LaneWriter, Latencies, OutboxLimits, Requests, Wake, lane};
use crate::ingest::Ingest;
use crate::limits::{FEED_REQUESTS_MAX, LANE_EVENTS_MAX};
use crate::metrics::{self, Registry};
use crate::provider::{self, ProviderConfig, supervisor};
use crate::session::Meters;
use crate::shutdown::Stop;
use crate::store::Store;
use crate::time;
use crate::transport::{self, DrainConfig, Verifier, WorkerDoor, WorkerMeters, WorkerParts};

/// Finished handshakes that may wait for one worker: more than it opens in a turn.
const HANDOVERS_MAX: usize = 1024;

/// What joins feed threads and workers: a lane from each to each, and a mailbox back.
pub(super) struct Joints {
    pub(super) mailboxes: Vec<Requests>,
    wakes: Vec<Arc<Wake>>,
    writers: Vec<Vec<LaneWriter>>,
    readers: Vec<Vec<LaneReader>>,
}

impl Joints {
    pub(super) fn new(feed_threads: usize, workers: usize, registry: &Registry) -> Self {
        let wakes: Vec<Arc<Wake>> = (0..workers).map(|_| Arc::default()).collect();
        for (worker, wake) in wakes.iter().enumerate() {
            let counter = registry.counter(metrics::WORKER_WAKES, &[("worker", &worker.to_string())]);
            let wake = Arc::clone(wake);
            registry.before_scrape(move || counter.absolute(wake.wakes()));
        }
        let mut readers: Vec<Vec<LaneReader>> = (0..workers).map(|_| Vec::new()).collect();
        let mut writers = Vec::new();
        for _ in 0..feed_threads {
            let mut row = Vec::new();
            for (worker, wake) in wakes.iter().enumerate() {
                let dropped = registry.counter(metrics::LANE_DROPPED, &[("worker", &worker.to_string())]);
                let (writer, reader) = lane(LANE_EVENTS_MAX, Arc::clone(wake), dropped);
                row.push(writer);
                readers[worker].push(reader);
            }
            writers.push(row);
        }
        let mailboxes = (0..feed_threads).map(|_| Requests::new(FEED_REQUESTS_MAX)).collect();
        Self { mailboxes, wakes, writers, readers }
    }
}

/// What every thread is given.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) store: Arc<Store>,
    pub(super) registry: Arc<Registry>,
    pub(super) epoch: Arc<str>,
    pub(super) revocations: Arc<Revocations>,
}

/// Starts the feed threads; provider `n` runs on thread `n` modulo their number.
pub(super) fn start_feeds(
    config: &Config,
    joints: &mut Joints,
    common: &Common,
    stop: &Stop,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let threads = joints.writers.len();
    let mut handles = Vec::new();
    for (thread, lanes) in joints.writers.drain(..).enumerate() {
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
            let ingest = Ingest::new(common.store, Arc::clone(&common.registry), thread, lanes, mailbox);
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

/// Starts the workers; how the control side reaches them, and their threads.
pub(super) fn start_workers(
    config: &Config,
    joints: &mut Joints,
    common: &Common,
    verifier: &Arc<dyn Verifier>,
    meters: &Arc<Meters>,
    (drain, stop): (&Stop, &Stop),
) -> anyhow::Result<(Vec<WorkerDoor>, Vec<JoinHandle<()>>)> {
    let (mut doors, mut handles) = (Vec::new(), Vec::new());
    let session = Arc::new(config.session());
    let budget = Budget::new(config.limits.outboxes_bytes, joints.readers.len());
    for (worker, (lanes, wake)) in joints.readers.drain(..).zip(joints.wakes.drain(..)).enumerate() {
        let (handovers, receiver) = mpsc::channel(HANDOVERS_MAX);
        doors.push(WorkerDoor { handovers, sessions: Arc::default() });
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
        let mut fanout = Fanout::new(worker, store, outbox, mailboxes, Some(latencies));
        fanout.share(Arc::clone(&budget));
        let parts = WorkerParts {
            fanout,
            lanes,
            wake,
            handovers: receiver,
            session: Arc::clone(&session),
            meters: Arc::clone(meters),
            worker_meters: WorkerMeters::new(&common.registry, worker, "websocket"),
            verifier: Arc::clone(verifier),
            revocations: Arc::clone(&common.revocations),
            drain: DrainConfig {
                spread: config.timeouts.drain.duration(),
                retry_after: config.timeouts.drain.duration(),
            },
        };
        let (drain, stop) = (drain.clone(), stop.clone());
        let runtime = Builder::new_current_thread().enable_all().build().context("starting a worker")?;
        let handle = std::thread::Builder::new().name(format!("worker-{worker}")).spawn(move || {
            LocalSet::new().block_on(&runtime, transport::run(parts, drain, stop));
        })?;
        handles.push(handle);
    }
    Ok((doors, handles))
}
