//! The thread that owns the file: nobody else waits for a disk.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::oneshot;

use super::file::KeyNews;
use super::{Carried, FileState, StateError, StateStore};
use crate::audit::{Audit, Event, Record};
use crate::auth::{Deed, Denied, Done, Revocations};
use crate::metrics::{self, Counter, Gauge, Histogram, Registry};
use crate::time;

/// Deeds that may wait: more than a disk carries out within the time that anyone waits.
const DEEDS_MAX: usize = 1024;
/// Deeds of one sync.
const BATCH_MAX: usize = 256;
/// How often it is looked whether another process has written.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often what has no effect any more is forgotten.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
/// For one deed: behind it the disk is said to be busy.
const DEED_TIMEOUT: Duration = Duration::from_secs(10);

struct Task {
    deed: Deed,
    done: oneshot::Sender<Result<Done, StateError>>,
}

/// The state in a file, with a thread of its own that ends when this is dropped.
#[derive(Clone)]
pub struct FileStore {
    tasks: SyncSender<Task>,
}

impl std::fmt::Debug for FileStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileStore").finish_non_exhaustive()
    }
}

/// What the store counts.
pub struct StateMeters {
    entries: Vec<(Gauge, Gauge)>,
    bytes: Gauge,
    committed: Counter,
    failed: Counter,
    commit: Arc<Histogram>,
}

impl StateMeters {
    /// The meters of `registry`.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let gauges = |(kind, ..): (&'static str, usize, usize)| {
            let labels = [("kind", kind)];
            (registry.gauge(metrics::STATE_ENTRIES, &labels), registry.gauge(metrics::STATE_ENTRIES_MAX, &labels))
        };
        let commits = |outcome| registry.counter(metrics::STATE_COMMITS, &[("outcome", outcome)]);
        Self {
            entries: crate::auth::Ledger::default().counts().map(gauges).into(),
            bytes: registry.gauge(metrics::STATE_BYTES, &[]),
            committed: commits("ok"),
            failed: commits("failed"),
            commit: registry.histogram(metrics::STATE_COMMIT_TIME, &[]),
        }
    }

    fn show(&self, state: &FileState) {
        for ((count, most), (_, entries, entries_max)) in self.entries.iter().zip(state.ledger().counts()) {
            count.set(entries as f64);
            most.set(entries_max as f64);
        }
        self.bytes.set(state.bytes() as f64);
    }
}

impl FileStore {
    /// Starts the thread, and fills `revocations` with what is there; what other processes do to API
    /// keys is recorded in `audit`.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(
        state: FileState,
        revocations: Arc<Revocations>,
        audit: Audit,
        meters: StateMeters,
    ) -> std::io::Result<Self> {
        let (tasks, receiver) = sync_channel(DEEDS_MAX);
        let mut keeper = Keeper { state, revocations, audit, meters, failing: false, pruned: time::mono() };
        keeper.show();
        std::thread::Builder::new().name("state".to_owned()).spawn(move || keeper.run(&receiver))?;
        Ok(Self { tasks })
    }
}

impl StateStore for FileStore {
    fn carry_out(&self, deed: Deed) -> Carried<'_> {
        let (done, outcome) = oneshot::channel();
        let sent = self.tasks.try_send(Task { deed, done });
        Box::pin(async move {
            sent.map_err(|_| StateError::Busy)?;
            match tokio::time::timeout(DEED_TIMEOUT, outcome).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err(StateError::Gone),
                Err(_) => Err(StateError::Busy),
            }
        })
    }
}

struct Keeper {
    state: FileState,
    revocations: Arc<Revocations>,
    audit: Audit,
    meters: StateMeters,
    /// The last try failed: said once, not each time.
    failing: bool,
    pruned: u64,
}

impl Keeper {
    fn run(mut self, tasks: &Receiver<Task>) {
        loop {
            match tasks.recv_timeout(LOOK_INTERVAL) {
                Ok(first) => {
                    let mut batch = vec![first];
                    batch.extend(tasks.try_iter().take(BATCH_MAX - 1));
                    self.carry_out(batch);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let looked = self.state.refresh();
                    self.note(looked.err().as_ref());
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if time::mono().saturating_sub(self.pruned) >= time::duration_ns(PRUNE_INTERVAL) {
                self.pruned = time::mono();
                self.state.prune(time::wall());
            }
            self.show();
        }
    }

    fn carry_out(&mut self, batch: Vec<Task>) {
        let began = time::mono();
        let outcomes = self.state.carry_out(batch.iter().map(|task| &task.deed), time::wall());
        self.meters.commit.record(time::mono() - began);
        match outcomes {
            Ok(outcomes) => {
                self.note(None);
                self.meters.committed.increment(1);
                // Everyone who judges knows of it before anyone is told that it is done.
                self.show();
                for (task, outcome) in batch.into_iter().zip(outcomes) {
                    let _ = task.done.send(outcome.map_err(|denied: Denied| denied.into()));
                }
            }
            Err(error) => {
                self.meters.failed.increment(1);
                self.note(Some(&error));
                let mut error = Some(error);
                for task in batch {
                    // The first is told what it was, the others that it went wrong.
                    let _ = task.done.send(Err(error.take().unwrap_or(StateError::Busy)));
                }
            }
        }
    }

    fn show(&mut self) {
        if let Some(held) = self.state.take_held() {
            self.revocations.publish(held);
        }
        for news in self.state.take_news() {
            self.audit.record(|| Record::of(event_of(news)));
        }
        self.meters.show(&self.state);
    }

    fn note(&mut self, error: Option<&StateError>) {
        match error {
            Some(error) if !self.failing => {
                tracing::error!(%error, cause = %cause(error), "the state store fails: nothing new is issued or revoked");
            }
            None if self.failing => tracing::info!("the state store works again"),
            _ => {}
        }
        self.failing = error.is_some();
    }
}

fn event_of(news: KeyNews) -> Event {
    match news {
        KeyNews::Made(key) => {
            Event::ApiKeyCreated { key: key.id, owner: key.owner, key_role: key.role, expires: key.expires }
        }
        KeyNews::Off(key) => Event::ApiKeyDisabled { key },
    }
}

fn cause(error: &StateError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}
