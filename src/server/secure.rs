//! TLS of the listeners: their acceptors, what health says of their certificates, and how their
//! addresses are written.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::Ready;
use crate::config::Config;
use crate::http::{CertificateHealth, Listener};
use crate::metrics::Registry;
use crate::shutdown::Stop;
use crate::time::{rfc3339, wall};
use crate::transport::tls::{Acceptor, Lasting, TlsConfig};

/// The acceptors of the public and the operations listener, where they speak TLS.
pub(super) struct Secured {
    public: Option<Arc<Acceptor>>,
    ops: Option<Arc<Acceptor>>,
}

impl Secured {
    /// Reads the files of both.
    ///
    /// # Errors
    /// One of them that cannot be used.
    pub(super) fn new(config: &Config, registry: &Registry) -> anyhow::Result<Self> {
        let timeout = config.timeouts.handshake.duration();
        let acceptor = |(path, tls): (&'static str, &TlsConfig), name| {
            let made = tls.is_on().then(|| Acceptor::new(tls.clone(), (path, name), timeout, registry)).transpose();
            made.map_err(|fault| anyhow::anyhow!("{fault}"))
        };
        let [public, ops] = config.server.tls();
        let both = Self { public: acceptor(public, "public")?, ops: acceptor(ops, "ops")? };
        if both.public.is_none() && !config.server.listen.ip().is_loopback() {
            tracing::warn!("server.listen is not loopback and has no TLS: unless a proxy does it, tokens can be read");
        }
        Ok(both)
    }

    fn acceptors(&self) -> impl Iterator<Item = &Arc<Acceptor>> {
        [&self.public, &self.ops].into_iter().flatten()
    }

    /// What health says of their certificates.
    pub(super) fn certificates(&self) -> impl Fn() -> Vec<CertificateHealth> + Send + Sync + use<> {
        let acceptors: Vec<Arc<Acceptor>> = self.acceptors().cloned().collect();
        move || {
            let health = |acceptor: &Arc<Acceptor>| {
                let not_after = acceptor.not_after();
                let state = Lasting::of(not_after, wall());
                let (good, not_after) = (state == Lasting::Good, rfc3339(not_after));
                CertificateHealth { listener: acceptor.name(), state: state.as_str(), not_after, good }
            };
            acceptors.iter().map(health).collect()
        }
    }

    /// Has their files looked at until the stop.
    pub(super) fn watch(&self, control: &Runtime, stop: &Stop) {
        for acceptor in self.acceptors() {
            control.spawn(Arc::clone(acceptor).watch(stop.clone()));
        }
    }

    /// The listeners on these sockets, the public one first.
    pub(super) fn listeners(self, public: TcpListener, ops: TcpListener) -> (Listener, Listener) {
        (Listener { socket: public, tls: self.public }, Listener { socket: ops, tls: self.ops })
    }
}

/// Where a hub is that listens at these addresses.
pub(super) fn ready(config: &Config, at: SocketAddr, ops_at: SocketAddr, token: String) -> Ready {
    let [s, ops_s] = config.server.tls().map(|(_, tls)| if tls.is_on() { "s" } else { "" });
    Ready {
        http: format!("http{s}://{at}"),
        ws: format!("ws{s}://{at}/api/v1/ws/prices"),
        ops: format!("http{ops_s}://{ops_at}"),
        token,
    }
}
