//! Keeps the keys that issuers publish as they are: fetches them at the start, every so often, and
//! when a token names one that is not known; reads those in files anew when they change.
//!
//! The last good keys stay in use while their source is down. Nothing here stops the hub, and
//! nothing that a stranger sends makes it fetch more than once a pause.

mod config;
mod keeper;
mod source;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::auth::{Authenticator, KeyRing};
use crate::metrics::Registry;
use crate::shutdown::{Stopper, stop_signal};
use crate::time::mono;

pub use config::{check, check_files};

use keeper::Keeper;

/// How current the keys of an issuer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The last fetch was good.
    Current,
    /// The last fetch failed: the keys of the one before are in use.
    Stale,
    /// There never was a good one: its tokens are refused.
    Missing,
}

impl Freshness {
    /// One word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Stale => "stale",
            Self::Missing => "missing",
        }
    }
}

/// How the keys of one issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerStatus {
    /// Its name in the configuration.
    pub name: String,
    /// How current they are.
    pub freshness: Freshness,
    /// How many tokens can be verified with.
    pub keys: usize,
    /// How long ago they were fetched; `None` where they never were.
    pub age: Option<Duration>,
}

/// Who is followed, with the task that does it.
struct Followed {
    keeper: Arc<Keeper>,
    /// Dropping it ends the task.
    _stopper: Stopper,
}

type Everyone = Arc<Mutex<Vec<Followed>>>;

/// Follows the issuers of a configuration. Dropping it ends that.
pub struct Identity {
    runtime: Handle,
    registry: Arc<Registry>,
    everyone: Everyone,
    fetched: watch::Sender<u64>,
}

impl Identity {
    /// Follows nobody yet; what it will do runs on `runtime`.
    #[must_use]
    pub fn new(runtime: Handle, registry: Arc<Registry>) -> Self {
        let everyone = Everyone::default();
        let observed = Arc::clone(&everyone);
        registry.before_scrape(move || lock(&observed).iter().for_each(|one| one.keeper.observe(mono())));
        Self { runtime, registry, everyone, fetched: watch::Sender::new(0) }
    }

    /// Follows the issuers of `authenticator` from now on, and no others. Keys that are followed
    /// already go on as they are.
    pub fn follow(&self, authenticator: &Authenticator) {
        let mut everyone = lock(&self.everyone);
        let wanted: Vec<&Arc<KeyRing>> = authenticator.rings().collect();
        everyone.retain(|one| {
            let stays = wanted.iter().any(|ring| one.keeper.is_of(ring));
            if !stays {
                one.keeper.forget();
            }
            stays
        });
        for ring in wanted {
            if everyone.iter().any(|one| one.keeper.is_of(ring)) {
                continue;
            }
            let keeper = Arc::new(Keeper::new(Arc::clone(ring), &self.registry, mono()));
            let (stopper, stop) = stop_signal();
            self.runtime.spawn(keeper::keep(Arc::clone(&keeper), self.fetched.clone(), stop));
            everyone.push(Followed { keeper, _stopper: stopper });
        }
    }

    /// Counts the fetches that have ended, of all issuers: for those who wait for a key.
    #[must_use]
    pub fn fetched(&self) -> watch::Receiver<u64> {
        self.fetched.subscribe()
    }

    /// Waits until everyone's keys have been tried to be had once, for a bounded time: a hub that
    /// comes back should know them before its subscribers do.
    pub async fn settled(&self, at_most: Duration) {
        let mut fetched = self.fetched.subscribe();
        let all = fetched.wait_for(|_| lock(&self.everyone).iter().all(|one| one.keeper.is_tried()));
        // Who has not answered by then is degraded, and no reason not to start.
        let _ = tokio::time::timeout(at_most, all).await;
    }

    /// How everyone's keys are now.
    #[must_use]
    pub fn status(&self) -> Vec<IssuerStatus> {
        status_of(&self.everyone)
    }

    /// The same for later, without keeping this alive.
    pub fn observer(&self) -> impl Fn() -> Vec<IssuerStatus> + Send + Sync + use<> {
        let everyone = Arc::clone(&self.everyone);
        move || status_of(&everyone)
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        // The registry and the health keep the list: what is in it must end here.
        lock(&self.everyone).clear();
    }
}

fn status_of(everyone: &Everyone) -> Vec<IssuerStatus> {
    lock(everyone).iter().map(|one| one.keeper.status(mono())).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("status", &self.status()).finish_non_exhaustive()
    }
}
