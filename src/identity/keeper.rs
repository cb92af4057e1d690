//! Keeps the keys of one issuer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use metrics::{Counter, Gauge};
use tokio::sync::watch;
use tokio::time::sleep;

use super::source::{FetchError, fetch};
use super::{Freshness, IssuerStatus, lock};
use crate::auth::{KeyRing, KeySet, SkipReason};
use crate::metrics::{self as names, Registry};
use crate::shutdown::Stop;
use crate::time::{Mono, mono};

/// How often a file is looked at: it costs nothing, and whoever changed it waits for it.
const FILE_PAUSE: Duration = Duration::from_secs(2);
/// The pause after a first failure; each further one doubles it.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failures, if keys are not fetched more often anyway.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);

/// What is known of an issuer's keys.
#[derive(Default)]
struct Known {
    /// The text that the ring's keys were read from.
    text: Bytes,
    /// When it was last fetched.
    at: Option<Mono>,
    /// Why the last fetch failed.
    fault: Option<String>,
    /// Fetches that failed since the last good one.
    failures: u32,
    tried: bool,
}

/// An issuer's keys, and how they came.
pub(super) struct Keeper {
    ring: Arc<KeyRing>,
    since: Mono,
    known: Mutex<Known>,
    registry: Arc<Registry>,
    keys: Gauge,
    age: Gauge,
    unknown: Counter,
}

impl Keeper {
    pub(super) fn new(ring: Arc<KeyRing>, registry: &Arc<Registry>, now: Mono) -> Self {
        let labels = [("issuer", ring.config().name.as_str())];
        let (keys, age) =
            (registry.gauge(names::ISSUER_KEYS, &labels), registry.gauge(names::ISSUER_KEYS_AGE, &labels));
        let unknown = registry.counter(names::ISSUER_UNKNOWN_KEYS, &labels);
        Self { since: now, known: Mutex::default(), registry: Arc::clone(registry), keys, age, unknown, ring }
    }

    pub(super) fn is_of(&self, ring: &Arc<KeyRing>) -> bool {
        Arc::ptr_eq(&self.ring, ring)
    }

    pub(super) fn is_tried(&self) -> bool {
        lock(&self.known).tried
    }

    pub(super) fn status(&self, now: Mono) -> IssuerStatus {
        let known = lock(&self.known);
        let freshness = match (known.at, &known.fault) {
            (None, _) => Freshness::Missing,
            (Some(_), Some(_)) => Freshness::Stale,
            (Some(_), None) => Freshness::Current,
        };
        IssuerStatus {
            name: self.ring.config().name.clone(),
            freshness,
            keys: self.ring.keys().map_or(0, |keys| keys.len()),
            age: known.at.map(|at| Duration::from_nanos(now.saturating_sub(at))),
        }
    }

    /// Gauges that are read when asked for.
    pub(super) fn observe(&self, now: Mono) {
        let at = lock(&self.known).at.unwrap_or(self.since);
        self.age.set(Duration::from_nanos(now.saturating_sub(at)).as_secs_f64());
        self.unknown.absolute(self.ring.unknown());
    }

    /// Nobody's keys any more.
    pub(super) fn forget(&self) {
        self.keys.set(0.0);
        self.age.set(0.0);
    }

    /// Takes what a fetch has brought; how long to wait for the next.
    fn take(&self, fetched: Result<Bytes, FetchError>, now: Mono) -> Duration {
        let config = self.ring.config();
        let mut known = lock(&self.known);
        let taken = fetched.and_then(|text| {
            if known.at.is_none() || known.text != text {
                self.put(KeySet::parse(&text)?);
                known.text = text;
            }
            Ok(())
        });
        let outcome = taken.as_ref().map_or_else(FetchError::as_str, |()| "ok");
        self.registry
            .counter(names::ISSUER_FETCHES, &[("issuer", config.name.as_str()), ("outcome", outcome)])
            .increment(1);
        known.tried = true;
        let often = if config.jwks_file.is_some() { FILE_PAUSE } else { config.refresh.duration() };
        let Err(error) = taken else {
            if known.fault.take().is_some() {
                tracing::info!(issuer = config.name, "the keys of an issuer can be fetched again");
            }
            (known.at, known.failures) = (Some(now), 0);
            return often;
        };
        let fault = error.to_string();
        // Once for each reason: it is tried again and again.
        if known.fault.as_ref() != Some(&fault) {
            let in_use = self.ring.keys().map_or(0, |keys| keys.len());
            tracing::warn!(issuer = config.name, in_use, fault, "the keys of an issuer cannot be fetched");
        }
        known.fault = Some(fault);
        let doubled = RETRY_PAUSE.saturating_mul(1u32.checked_shl(known.failures).unwrap_or(u32::MAX));
        known.failures = known.failures.saturating_add(1);
        doubled.min(RETRY_PAUSE_MAX).min(often)
    }

    fn put(&self, keys: KeySet) {
        let name = &self.ring.config().name;
        let skipped: Vec<(SkipReason, u32)> = keys.skipped().collect();
        for (reason, count) in &skipped {
            let labels = [("issuer", name.as_str()), ("reason", reason.as_str())];
            self.registry.gauge(names::ISSUER_KEYS_SKIPPED, &labels).set(f64::from(*count));
        }
        self.keys.set(keys.len() as f64);
        let skipped: u32 = skipped.iter().map(|(_, count)| count).sum();
        tracing::info!(issuer = name, keys = keys.len(), skipped, "the keys of an issuer are new");
        self.ring.replace(keys);
    }
}

/// Fetches the keys of one issuer until it is told to stop: one fetch at a time, however many
/// tokens ask for one.
pub(super) async fn keep(keeper: Arc<Keeper>, fetched: watch::Sender<u64>, mut stop: Stop) {
    let ring = &keeper.ring;
    loop {
        let text = tokio::select! {
            () = stop.stopped() => return,
            text = fetch(ring.config()) => text,
        };
        let pause = keeper.take(text, mono());
        fetched.send_modify(|count| *count = count.wrapping_add(1));
        let asked = async {
            sleep(ring.config().refresh_pause.duration()).await;
            ring.wanted().await;
        };
        tokio::select! {
            () = stop.stopped() => return,
            () = sleep(pause) => {}
            () = asked => {}
        }
    }
}
