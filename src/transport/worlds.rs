//! The workers of a hub by how much later than live what they serve is.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::door::WorkerDoor;

/// The live world and the delayed ones, each with its workers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Worlds {
    worlds: Arc<[(Duration, Vec<WorkerDoor>)]>,
}

impl From<Vec<WorkerDoor>> for Worlds {
    /// The live world alone.
    fn from(workers: Vec<WorkerDoor>) -> Self {
        Self::new([(Duration::ZERO, workers)])
    }
}

impl Worlds {
    /// Worlds by their delays; zero is the live one.
    #[must_use]
    pub fn new(worlds: impl IntoIterator<Item = (Duration, Vec<WorkerDoor>)>) -> Self {
        Self { worlds: worlds.into_iter().collect() }
    }

    fn workers(&self, delay: Duration) -> &[WorkerDoor] {
        self.worlds.iter().find(|(of, _)| *of == delay).map_or(&[], |(_, workers)| workers)
    }

    /// Whether there is a world of exactly this delay: no other may stand for it.
    pub(super) fn has(&self, delay: Duration) -> bool {
        !self.workers(delay).is_empty()
    }

    /// The worker with the fewest sessions in the world of this delay.
    pub(super) fn least(&self, delay: Duration) -> Option<&WorkerDoor> {
        self.workers(delay).iter().min_by_key(|worker| worker.sessions.load(Ordering::Relaxed))
    }
}
