//! Accepting connections, and bounding what each may take.

mod connection;
mod limits;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Problem, RequestId};
use crate::metrics::{self, Counter, Gauge, Registry};
use crate::shutdown::Stop;
use crate::time::wall;

pub use limits::ServeLimits;

use connection::Connection;

/// First pause after an error of the listener itself, such as too many open files.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest such pause: file descriptors come free within a second or not at all.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// When one that was turned away may come again, in seconds.
const RETRY_AFTER_SECONDS: u32 = 2;

/// Why a connection is counted as refused.
struct Refusals {
    accept_error: Counter,
    connections_max: Counter,
    header_timeout: Counter,
    idle_timeout: Counter,
    malformed: Counter,
}

struct Listening {
    router: Router,
    limits: ServeLimits,
    builder: http1::Builder,
    refusals: Refusals,
    connections: Gauge,
    stop: Stop,
}

/// Serves `router` on `listener` until the stop, and then for at most the grace. Each request has
/// its [`Remote`](crate::transport::Remote) as an extension.
///
/// `name` tells the listeners apart in metrics. Connections that become something else, such as a
/// WebSocket, are given away: they count no longer, and the stop does not wait for them. Their
/// `hyper::upgrade::Upgraded` downcasts to `hyper_util::rt::TokioIo<tokio::net::TcpStream>`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ServeLimits,
    name: &'static str,
    registry: Arc<Registry>,
    stop: Stop,
) {
    let refused = |reason| registry.counter(metrics::HTTP_REFUSED, &[("listener", name), ("reason", reason)]);
    let refusals = Refusals {
        accept_error: refused("accept_error"),
        connections_max: refused("connections_max"),
        header_timeout: refused("header_timeout"),
        idle_timeout: refused("idle_timeout"),
        malformed: refused("malformed"),
    };
    let labels = [("listener", name)];
    registry.gauge(metrics::CONNECTIONS_MAX, &labels).set(f64::from(limits.connections_max));
    let connections = registry.gauge(metrics::CONNECTIONS, &labels);
    let builder = builder(&limits);
    let permits = Arc::new(Semaphore::new(limits.connections_max as usize));
    let listening = Arc::new(Listening { router, limits, builder, refusals, connections, stop });
    accept(&listener, &listening, &permits).await;
    drop(listener);
    // All permits are back once all connections are gone, which the grace sees to.
    let _all = permits.acquire_many(listening.limits.connections_max).await;
}

fn builder(limits: &ServeLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout.duration())
        .max_buf_size(limits.header_bytes_max)
        .max_headers(limits.headers_max)
        .keep_alive(true);
    builder
}

async fn accept(listener: &TcpListener, listening: &Arc<Listening>, permits: &Arc<Semaphore>) {
    let mut stop = listening.stop.clone();
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        let accepted = tokio::select! {
            () = stop.stopped() => return,
            accepted = listener.accept() => accepted,
        };
        let error = match accepted {
            Ok((stream, peer)) => {
                pause = ACCEPT_PAUSE_MIN;
                match Arc::clone(permits).try_acquire_owned() {
                    Ok(permit) => begin(listening, stream, peer, permit),
                    Err(_) => turn_away(listening, &stream),
                }
                continue;
            }
            Err(error) => error,
        };
        listening.refusals.accept_error.increment(1);
        if is_of_the_connection(&error) {
            continue;
        }
        // The pause grows, and with it the time between two of these lines.
        tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "cannot accept connections");
        if stop.sleep(pause).await {
            return;
        }
        pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
    }
}

/// Whether the connection failed before it was accepted, and the listener is well.
fn is_of_the_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn begin(listening: &Arc<Listening>, stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
    // It fails only on a connection that is gone, which the first read finds out.
    let _ = stream.set_nodelay(true);
    listening.connections.increment(1.0);
    let connection = Connection::new(Arc::clone(listening), peer);
    tokio::spawn(async move {
        // Held together, so that a panic gives both back.
        let _held = (connection.counted(), permit);
        connection.run(stream).await;
    });
}

/// Answers a connection that is one too many, without waiting for anything: what the socket does
/// not take at once is lost.
fn turn_away(listening: &Listening, stream: &TcpStream) {
    listening.refusals.connections_max.increment(1);
    let id = RequestId::random();
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "the hub has too many connections");
    let envelope = problem.envelope(id.as_str(), wall());
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         retry-after: {RETRY_AFTER_SECONDS}\r\nx-request-id: {}\r\nconnection: close\r\n\r\n{envelope}",
        envelope.len(),
        id.as_str(),
    );
    let socket = socket2::SockRef::from(stream);
    // A socket that is closed with something unread is reset, and the answer may be lost with it.
    let mut unread = [std::mem::MaybeUninit::uninit(); 4096];
    let _ = socket.recv(&mut unread);
    let _ = socket.send(answer.as_bytes());
    let _ = socket.shutdown(std::net::Shutdown::Write);
}
