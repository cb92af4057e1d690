//! Another configuration for a running hub: all of it that can be taken over, or none.

use std::path::Path;
use std::sync::Arc;

use super::{Hub, SetLevel, auditing, show_bounds, terms};
use crate::auth::{Authenticator, Succession};
use crate::config::{Config, ConfigError};
use crate::metrics::{self, Registry};
use crate::settings::Fault;
use crate::time;
use crate::transport::Succeeded;

/// Faults of one configuration that are told in the log: a wrong file may have thousands.
const FAULTS_TOLD_MAX: usize = 20;

/// What a reload came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys that differ from what the hub runs with, and wait for a restart.
    pub waiting: Vec<String>,
    /// What became of live sessions.
    pub sessions: Succeeded,
}

impl Hub {
    /// Takes over what it can of `next`: for all that come from now on, and for the grants of those
    /// who are here. With a fault it goes on as it was.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault of what it would run with.
    pub async fn reload(&mut self, next: &Config) -> Result<Reloaded, ConfigError> {
        let reloaded = self.take_over(next).await.inspect_err(|error| self.refused(error));
        if let Ok(reloaded) = &reloaded {
            self.count_reload(if reloaded.waiting.is_empty() { "applied" } else { "partial" });
            loaded(&self.registry, reloaded.waiting.len());
        }
        reloaded
    }

    async fn take_over(&mut self, next: &Config) -> Result<Reloaded, ConfigError> {
        let faulty = |faults: Vec<Fault>| ConfigError::Faulty(faults.into_iter().map(Into::into).collect());
        let (running, waiting) = self.config.reloaded(next);
        if running.auth.is_development() && !self.config.auth.is_development() {
            let reason = "and auth.api_keys are empty: the hub would go over to development mode; restart it for that";
            return Err(faulty(vec![Fault::hidden("auth.keys", reason)]));
        }
        // What is taken over must fit to what is not.
        let faults = running.faults();
        if !faults.is_empty() {
            return Err(faulty(faults));
        }
        let after = Authenticator::new(&running.auth, self.development.as_ref()).map_err(faulty)?;
        let after = Arc::new(after.with_keys_of(&self.authority.current()));
        self.identity.follow(&after);
        let before = self.authority.replace(Arc::clone(&after));
        self.terms.store(Arc::new(terms(&running)));
        show_bounds(&running, &self.registry);
        auditing::reloaded(&self.auditor.audit(), &running, self.config.differing(&running));
        self.config = running;
        let succession = Succession::new(before, after);
        let sessions = match succession.changes_nothing() {
            true => Succeeded::default(),
            false => self.orders.succeed(Arc::new(succession)).await,
        };
        Ok(Reloaded { waiting, sessions })
    }

    /// A configuration was not taken over.
    fn refused(&self, error: &ConfigError) {
        self.count_reload("failed");
        let keys = match error {
            ConfigError::Faulty(faults) => {
                faults.iter().take(FAULTS_TOLD_MAX).map(|fault| fault.fault.key.clone()).collect()
            }
            _ => Vec::new(),
        };
        auditing::not_reloaded(&self.auditor.audit(), keys);
    }

    fn count_reload(&self, outcome: &str) {
        self.registry.counter(metrics::CONFIG_RELOADS, &[("outcome", outcome)]).increment(1);
    }
}

/// Notes that the configuration in use was read now, and how many of its keys wait for a restart.
pub(super) fn loaded(registry: &Registry, waiting: usize) {
    registry.gauge(metrics::CONFIG_WAITING, &[]).set(waiting as f64);
    let seconds = time::wall().0 as f64 / 1e9;
    registry.gauge(metrics::CONFIG_LOADED, &[]).set(seconds);
}

/// Reads the configuration again and has the hub take it over; says in the log what came of it.
pub(super) async fn read_again(hub: &mut Hub, file: Option<&Path>, set_level: &SetLevel) {
    let path = file.map(Path::to_owned);
    let read = tokio::task::spawn_blocking(move || Config::load_to_serve(path.as_deref())).await;
    let reloaded = match read {
        Ok(Ok(next)) => hub.reload(&next).await,
        Ok(Err(error)) => {
            hub.refused(&error);
            Err(error)
        }
        Err(error) => {
            hub.count_reload("failed");
            tracing::error!(%error, "reading the configuration failed; the old one stays in use");
            return;
        }
    };
    match reloaded {
        Ok(reloaded) => {
            if let Err(error) = set_level(&hub.config.log.level) {
                tracing::error!(%error, "the log keeps its level");
            }
            tell(&reloaded);
        }
        Err(error) => tell_faults(&error),
    }
}

fn tell(reloaded: &Reloaded) {
    for key in &reloaded.waiting {
        tracing::warn!(key, "this key has changed and takes a restart; the old value stays in use");
    }
    let Succeeded { changed, ended, silent } = reloaded.sessions;
    if silent > 0 {
        tracing::error!(silent, "workers did not answer: their sessions may have their old grants still; reload again");
    }
    tracing::info!(changed, ended, "the configuration is in use");
}

fn tell_faults(error: &ConfigError) {
    if let ConfigError::Faulty(faults) = error {
        for fault in faults.iter().take(FAULTS_TOLD_MAX) {
            tracing::error!(%fault, "a fault of the configuration");
        }
        let faults = faults.len();
        tracing::error!(faults, "the configuration is not taken over; the old one stays in use");
    } else {
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        tracing::error!(%error, cause, "the configuration is not taken over; the old one stays in use");
    }
}
