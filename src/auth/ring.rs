//! The keys of one issuer as they are now: whoever fetches them puts a new set in place of the
//! old, whoever verifies reads it, and neither waits for the other.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::IssuerConfig;
use super::jwks::KeySet;
use crate::sync::{AtomicU64, Notify, Ordering};

/// The keys that an issuer publishes, as they were when they were last fetched.
pub struct KeyRing {
    config: IssuerConfig,
    keys: ArcSwapOption<KeySet>,
    wanted: Notify,
    unknown: AtomicU64,
}

impl KeyRing {
    /// A ring without keys, until some are put in.
    pub(super) fn new(config: &IssuerConfig) -> Self {
        let (keys, wanted, unknown) = (ArcSwapOption::empty(), Notify::default(), AtomicU64::new(0));
        Self { config: config.clone(), keys, wanted, unknown }
    }

    /// The issuer's table: where its keys are to be had, and how often.
    #[must_use]
    pub const fn config(&self) -> &IssuerConfig {
        &self.config
    }

    /// Its keys; `None` while none were ever had.
    #[must_use]
    pub fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// Puts `keys` in place of those that are there: from now on only they count.
    pub fn replace(&self, keys: KeySet) {
        self.keys.store(Some(Arc::new(keys)));
    }

    /// Tokens that named a key which is not in the ring.
    #[must_use]
    pub fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    /// Returns when a token has named a key which is not in the ring. For one that waits; any
    /// number of such tokens before it is asked count as one.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// A token named a key which is not in the ring.
    pub(super) fn want(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
        self.wanted.notify_one();
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("issuer", &self.config.issuer).field("keys", &self.keys()).finish()
    }
}
