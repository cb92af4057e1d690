//! One connection, from its acceptance to its end or its upgrade.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tower::ServiceExt as _;

use super::answer::Answering;
use super::waiting::Waiting;
use super::{Listening, answer_at_once};
use crate::auth::ClientCertificate;
use crate::http::Problem;
use crate::metrics::Gauge;
use crate::time::{duration_ns, mono};
use crate::transport::tls::Accepted;
use crate::transport::{Pending, Presence, Remote, Stream, Turned, client_of};

pub(super) struct Connection {
    listening: Arc<Listening>,
    seat: Seat,
    /// When its last request began, in ns of the monotonic clock; its acceptance before that.
    began: AtomicU64,
    place: Arc<Waiting>,
}

/// Whose a connection is, and the places that it takes.
pub(super) struct Seat {
    pub(super) remote: Remote,
    pub(super) presence: Arc<Presence>,
    pub(super) _pending: Pending,
}

/// Takes a connection off the gauge when it ends, however it does.
pub(super) struct Counted(Gauge);

impl Counted {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl Connection {
    pub(super) fn new(listening: Arc<Listening>, seat: Seat, place: Arc<Waiting>) -> Arc<Self> {
        Arc::new(Self { listening, seat, began: AtomicU64::new(mono()), place })
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
        let io = TokioIo::new(Answering::new(stream));
        let mut connection = pin!(self.listening.builder.serve_connection(io, service).with_upgrades());
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
                tracing::debug!(remote = %self.seat.remote, reason = reason.as_str(), "not let into TLS");
                if let Some(stream) = told {
                    let text = "this port speaks TLS: use https:// or wss://";
                    answer_at_once(&stream, &Problem::bad_request(text));
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
        let refusals = &self.listening.refusals;
        if error.is_parse_too_large() {
            refusals.header_too_large.increment(1);
        } else if error.is_parse() {
            refusals.malformed.increment(1);
        } else if error.is_timeout() {
            refusals.header_timeout.increment(1);
        }
        tracing::debug!(remote = %self.seat.remote, %error, "connection failed");
    }

    /// Who asks, which behind a trusted proxy the request says; and whether it may.
    fn visitor(&self, headers: &HeaderMap) -> (Remote, Result<Arc<Presence>, Turned>) {
        let (gate, remote, now) = (&self.listening.gate, self.seat.remote, mono());
        // The first belongs to the handshake, which is counted.
        let first = self.place.ask();
        let proxies = gate.proxies();
        if let Some(name) = proxies.header.name().filter(|_| gate.trusts(&remote)) {
            let lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
            let client = client_of(proxies.header, lines, &proxies.trusted, remote.client());
            if client != remote.client() {
                let visitor = remote.for_client(client);
                return (visitor, gate.enter(&visitor, now).map(Arc::new));
            }
        }
        let presence = &self.seat.presence;
        let again = if first { Ok(()) } else { gate.again(presence, now) };
        (remote, again.map(|()| Arc::clone(presence)))
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
        let (remote, presence) = self.0.visitor(request.headers());
        request.extensions_mut().insert(remote);
        match presence {
            Ok(presence) => drop(request.extensions_mut().insert(presence)),
            Err(turned) => {
                self.0.listening.refusals.turned[turned.index()].increment(1);
                // The router's edge answers it, as all else.
                request.extensions_mut().insert(turned);
            }
        }
        if let Some(certificate) = &self.1 {
            request.extensions_mut().insert(Arc::clone(certificate));
        }
        Box::pin(self.0.listening.router.clone().oneshot(request))
    }
}
