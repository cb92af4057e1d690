//! TLS of the listeners: their acceptors, and what health says of their certificates.

use std::sync::Arc;

use crate::config::Config;
use crate::http::CertificateHealth;
use crate::metrics::Registry;
use crate::time::{rfc3339, wall};
use crate::transport::tls::{Acceptor, Lasting};

/// The acceptors of the public and the operations listener, where they speak TLS.
///
/// # Errors
/// A file of theirs that cannot be used.
pub(super) fn acceptors(config: &Config, registry: &Registry) -> anyhow::Result<[Option<Arc<Acceptor>>; 2]> {
    let timeout = config.timeouts.handshake.duration();
    let [(path, public), (ops_path, ops)] = config.server.tls();
    let acceptor = |tls: &crate::transport::tls::TlsConfig, names| {
        let made = tls.is_on().then(|| Acceptor::new(tls.clone(), names, timeout, registry)).transpose();
        made.map_err(|fault| anyhow::anyhow!("{fault}"))
    };
    let both = [acceptor(public, (path, "public"))?, acceptor(ops, (ops_path, "ops"))?];
    if both[0].is_none() && !config.server.listen.ip().is_loopback() {
        tracing::warn!("server.listen is not loopback and has no TLS: unless a proxy does it, tokens can be read");
    }
    Ok(both)
}

/// What health says of the certificates of these listeners.
pub(super) fn certificates(
    acceptors: [&Option<Arc<Acceptor>>; 2],
) -> impl Fn() -> Vec<CertificateHealth> + Send + Sync + 'static {
    let acceptors: Vec<Arc<Acceptor>> = acceptors.into_iter().flatten().cloned().collect();
    move || {
        let health = |acceptor: &Arc<Acceptor>| {
            let (not_after, now) = (acceptor.not_after(), wall());
            let state = Lasting::of(not_after, now);
            CertificateHealth {
                listener: acceptor.name(),
                state: state.as_str(),
                not_after: rfc3339(not_after),
                good: state == Lasting::Good,
            }
        };
        acceptors.iter().map(health).collect()
    }
}
