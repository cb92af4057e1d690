//! One connection, from its acceptance to its end or its upgrade.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tower::ServiceExt as _;

use super::{Listening, Peer, answer_at_once};
use crate::auth::ClientCertificate;
use crate::http::Problem;
use crate::metrics::Gauge;
use crate::time::{duration_ns, mono};
use crate::transport::Stream;
use crate::transport::tls::Accepted;

pub(super) struct Connection {
    listening: Arc<Listening>,
    peer: SocketAddr,
    /// When its last request began, in ns of the monotonic clock; its acceptance before that.
    began: AtomicU64,
}

/// Takes a connection off the gauge when it ends, however it does.
pub(super) struct Counted(Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl Connection {
    pub(super) fn new(listening: Arc<Listening>, peer: SocketAddr) -> Arc<Self> {
        Arc::new(Self { listening, peer, began: AtomicU64::new(mono()) })
    }

    pub(super) fn counted(&self) -> Counted {
        Counted(self.listening.connections.clone())
    }

    pub(super) async fn run(self: Arc<Self>, stream: TcpStream) {
        let mut stop = self.listening.stop.clone();
        let secured = tokio::select! {
            secured = self.secure(stream) => secured,
            // It has asked for nothing yet.
            () = stop.stopped() => None,
        };
        let Some((stream, certificate)) = secured else { return };
        let limits = &self.listening.limits;
        let service = Requests(Arc::clone(&self), certificate);
        let mut connection =
            pin!(self.listening.builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
        let mut deadline = pin!(sleep(limits.idle_timeout.duration()));
        let mut draining = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        self.failed(&error);
                    }
                    return;
                }
                () = stop.stopped(), if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                    deadline.set(sleep(limits.grace.duration()));
                }
                () = deadline.as_mut() => {
                    if draining || !self.still_active(&mut deadline) {
                        return;
                    }
                }
            }
        }
    }

    /// Does the handshake of TLS, where that is spoken; what HTTP is spoken over, and the client's
    /// certificate.
    async fn secure(&self, stream: TcpStream) -> Option<(Stream, Option<Arc<ClientCertificate>>)> {
        let Some(acceptor) = &self.listening.tls else { return Some((Stream::plain(stream), None)) };
        match acceptor.accept(stream).await {
            Ok(Accepted { stream, certificate }) => Some((stream, certificate)),
            Err((reason, told)) => {
                tracing::debug!(peer = %self.peer, reason = reason.as_str(), "not let into TLS");
                if let Some(stream) = told {
                    let text = "this port speaks TLS: use https:// or wss://";
                    answer_at_once(&stream, &Problem::bad_request(text), "");
                }
                None
            }
        }
    }

    /// Whether a request began within the idle timeout; then sets the deadline anew.
    fn still_active(&self, deadline: &mut Pin<&mut Sleep>) -> bool {
        let since = mono().saturating_sub(self.began.load(Ordering::Relaxed));
        let left = duration_ns(self.listening.limits.idle_timeout.duration()).saturating_sub(since);
        if left == 0 {
            self.listening.refusals.idle_timeout.increment(1);
            return false;
        }
        deadline.set(sleep(Duration::from_nanos(left)));
        true
    }

    fn failed(&self, error: &hyper::Error) {
        if error.is_parse() {
            self.listening.refusals.malformed.increment(1);
        } else if error.is_timeout() {
            self.listening.refusals.header_timeout.increment(1);
        }
        tracing::debug!(peer = %self.peer, %error, "connection failed");
    }
}

/// Gives the requests of one connection to the router.
struct Requests(Arc<Connection>, Option<Arc<ClientCertificate>>);

impl Service<Request<Incoming>> for Requests {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.0.began.store(mono(), Ordering::Relaxed);
        request.extensions_mut().insert(Peer(self.0.peer));
        if let Some(certificate) = &self.1 {
            request.extensions_mut().insert(Arc::clone(certificate));
        }
        Box::pin(self.0.listening.router.clone().oneshot(request))
    }
}
