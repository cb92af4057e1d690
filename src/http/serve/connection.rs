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

use super::Listening;
use crate::metrics::Gauge;
use crate::time::{duration_ns, mono};
use crate::transport::Remote;

pub(super) struct Connection {
    listening: Arc<Listening>,
    remote: Remote,
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
        Arc::new(Self { listening, remote: Remote::direct(peer), began: AtomicU64::new(mono()) })
    }

    pub(super) fn counted(&self) -> Counted {
        Counted(self.listening.connections.clone())
    }

    pub(super) async fn run(self: Arc<Self>, stream: TcpStream) {
        let limits = &self.listening.limits;
        let mut stop = self.listening.stop.clone();
        let service = Requests(Arc::clone(&self));
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
        tracing::debug!(remote = %self.remote, %error, "connection failed");
    }
}

/// Gives the requests of one connection to the router.
struct Requests(Arc<Connection>);

impl Service<Request<Incoming>> for Requests {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.0.began.store(mono(), Ordering::Relaxed);
        request.extensions_mut().insert(self.0.remote);
        Box::pin(self.0.listening.router.clone().oneshot(request))
    }
}
