//! What the audit trail is told of the hub itself.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::audit::{Audit, Auditor, Event, Record, Seal};
use crate::config::{Config, ConfigError};
use crate::metrics::Registry;

/// Opens the trail, if there shall be one, and records the configuration that the hub starts with.
///
/// # Errors
/// A fault of the `[audit]` section where the trail cannot be written.
pub(super) fn start(config: &Config, registry: &Arc<Registry>) -> Result<Auditor, ConfigError> {
    let auditor = Auditor::start(&config.audit, registry).map_err(|fault| ConfigError::Faulty(vec![fault.into()]))?;
    auditor.audit().record(|| Record::of(Event::ConfigLoaded { digest: digest(config) }));
    Ok(auditor)
}

/// SHA-256 of a configuration as JSON: its secrets are not in there.
fn digest(config: &Config) -> Arc<str> {
    // A value that could not be written would be a fault of its type: the digest is then of nothing.
    let json = serde_json::to_vec(config).unwrap_or_default();
    Seal::new(None).hash(&json).to_string().into()
}

/// Records that the hub listens.
pub(super) fn started(audit: &Audit, listen: SocketAddr, ops_listen: SocketAddr) {
    let version = env!("CARGO_PKG_VERSION");
    audit.record(|| Record::of(Event::HubStarted { version, listen, ops_listen }));
}

/// Records that the hub ends as it should.
pub(super) fn stopped(audit: &Audit) {
    audit.record(|| Record::of(Event::HubStopped));
}

/// Records that another configuration is in use, and which keys of it are other than before.
pub(super) fn reloaded(audit: &Audit, running: &Config, changed: Vec<String>) {
    audit.record(|| Record::of(Event::ConfigReloaded { digest: digest(running), changed }));
}

/// Records that a configuration was refused, and the keys at fault.
pub(super) fn not_reloaded(audit: &Audit, keys: Vec<String>) {
    audit.record(|| Record::of(Event::ConfigFailed { keys }));
}
