//! Accepting connections, and bounding what each may take.

mod answer;
mod arrival;
mod connection;
mod limits;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::Problem;
use crate::metrics::{self, Counter, Gauge, Registry};
use crate::shutdown::Stop;
use crate::time::mono;
use crate::transport::tls::Acceptor;
use crate::transport::{Gate, Remote, Stream, Turned};

pub use limits::ServeLimits;

use answer::{Answering, refusal};
use arrival::{Unannounced, announced, is_announced};
use connection::{Connection, Counted, Seat};
use waiting::{Queue, Waiting};

/// First pause after an error of the listener itself, such as too many open files.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest such pause: file descriptors come free within a second or not at all.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why a connection is counted as refused.
struct Refusals {
    accept_error: Counter,
    displaced: Counter,
    header_timeout: Counter,
    header_too_large: Counter,
    idle_timeout: Counter,
    malformed: Counter,
    proxy_header: Counter,
    proxy_timeout: Counter,
    /// By [`Turned::index`].
    turned: [Counter; Turned::REASONS.len()],
}

impl Refusals {
    fn new(listener: &'static str, registry: &Registry) -> Self {
        let of = |reason| registry.counter(metrics::HTTP_REFUSED, &[("listener", listener), ("reason", reason)]);
        Self {
            accept_error: of("accept_error"),
            displaced: of("displaced"),
            header_timeout: of("header_timeout"),
            header_too_large: of("header_too_large"),
            idle_timeout: of("idle_timeout"),
            malformed: of("malformed"),
            proxy_header: of("proxy_header"),
            proxy_timeout: of("proxy_timeout"),
            turned: Turned::REASONS.map(of),
        }
    }
}

/// Where connections come from.
#[derive(Debug)]
pub struct Listener {
    /// Their socket.
    pub socket: TcpListener,
    /// What they speak TLS with, if they do.
    pub tls: Option<Arc<Acceptor>>,
}

impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Self {
        Self { socket, tls: None }
    }
}

struct Listening {
    router: Router,
    tls: Option<Arc<Acceptor>>,
    limits: ServeLimits,
    builder: http1::Builder,
    gate: Arc<Gate>,
    refusals: Refusals,
    connections: Gauge,
    permits: Arc<Semaphore>,
    queue: Queue,
    stop: Stop,
}

/// Serves `router` on `listener` until the stop, and then for at most the grace. Each request has
/// its [`Remote`](crate::transport::Remote) as an extension.
///
/// `gate` judges who may come in. `name` tells the listeners apart in metrics. Connections that
/// become something else, such as a WebSocket, are given away: they count no longer, and the stop
/// does not wait for them; [`socket_of`] gives their socket.
pub async fn serve(
    listener: impl Into<Listener>,
    router: Router,
    limits: ServeLimits,
    gate: Arc<Gate>,
    name: &'static str,
    registry: Arc<Registry>,
    stop: Stop,
) {
    let Listener { socket: listener, tls } = listener.into();
    let labels = [("listener", name)];
    registry.gauge(metrics::CONNECTIONS_MAX, &labels).set(f64::from(limits.connections_max));
    let listening = Arc::new(Listening {
        router,
        tls,
        builder: builder(&limits),
        gate,
        refusals: Refusals::new(name, &registry),
        connections: registry.gauge(metrics::CONNECTIONS, &labels),
        permits: Arc::new(Semaphore::new(limits.connections_max as usize)),
        queue: Queue::default(),
        limits,
        stop,
    });
    accept(&listener, &listening).await;
    drop(listener);
    // All permits are back once all connections are gone, which the grace sees to.
    let _all = listening.permits.acquire_many(listening.limits.connections_max).await;
}

/// The socket of an upgraded connection, and what was read of it already. `None` where it is not
/// one of [`serve`]'s.
#[must_use]
pub fn socket_of(upgraded: Upgraded) -> Option<(Stream, Bytes)> {
    let parts = upgraded.downcast::<TokioIo<Answering<Stream>>>().ok()?;
    Some((parts.io.into_inner().into_inner(), parts.read_buf))
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

async fn accept(listener: &TcpListener, listening: &Arc<Listening>) {
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
                match admit(listening, Remote::direct(peer)) {
                    Ok(admitted) => begin(listening, stream, admitted),
                    Err(turned) => turn_away(listening, &stream, turned),
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

/// A connection that may stay, for now: a trusted proxy's is judged once it has said for whom.
struct Admitted {
    remote: Remote,
    seat: Option<Seat>,
    place: Arc<Waiting>,
}

/// Judges a connection by its address, which is all that is known of it.
fn admit(listening: &Listening, remote: Remote) -> Result<Admitted, Turned> {
    let now = mono();
    listening.gate.knock(now)?;
    let free = Arc::clone(&listening.permits).try_acquire_owned().ok();
    let seat = if is_announced(&listening.gate, &remote) { None } else { Some(seat(listening, remote)?) };
    let place = free.or_else(|| listening.queue.displace(now)).ok_or(Turned::Full)?;
    Ok(Admitted { remote, seat, place: listening.queue.join(place, now) })
}

/// A place among its address's connections, and one among all.
fn seat(listening: &Listening, remote: Remote) -> Result<Seat, Turned> {
    let presence = listening.gate.enter(&remote, mono())?;
    let pending = presence.pending()?;
    let most = listening.limits.connections_max as usize;
    let taken = most.saturating_sub(listening.permits.available_permits());
    if taken > presence.share_of(most) {
        return Err(Turned::Reserved);
    }
    Ok(Seat { remote, presence: Arc::new(presence), _pending: pending })
}

fn begin(listening: &Arc<Listening>, mut stream: TcpStream, admitted: Admitted) {
    // It fails only on a connection that is gone, which the first read finds out.
    let _ = stream.set_nodelay(true);
    let listening = Arc::clone(listening);
    tokio::spawn(async move {
        let Admitted { remote, seat, place } = admitted;
        // Held together, so that a panic gives both back.
        let _held = (Counted::new(&listening.connections), Arc::clone(&place));
        let serve = async {
            let seat = match seat {
                Some(seat) => Some(seat),
                None => announced_seat(&listening, &mut stream, remote).await,
            };
            if let Some(seat) = seat {
                Connection::new(Arc::clone(&listening), seat, Arc::clone(&place)).run(stream).await;
            }
        };
        tokio::select! {
            () = serve => {}
            () = place.displaced() => listening.refusals.displaced.increment(1),
        }
    });
}

/// The same for a proxy's connection, once it has said for whom it speaks.
async fn announced_seat(listening: &Listening, stream: &mut TcpStream, proxy: Remote) -> Option<Seat> {
    let (protocol, timeout) = (listening.gate.proxies().protocol, listening.limits.header_timeout.duration());
    let mut stop = listening.stop.clone();
    let remote = tokio::select! {
        () = stop.stopped() => return None,
        remote = announced(stream, proxy, protocol, timeout) => remote,
    };
    let remote = match remote {
        Ok(remote) => remote,
        Err(why) => {
            match why {
                Unannounced::Garbage(error) => {
                    listening.refusals.proxy_header.increment(1);
                    tracing::debug!(%proxy, %error, "no PROXY header");
                }
                Unannounced::Late => listening.refusals.proxy_timeout.increment(1),
                // A port that is only tried, as many balancers do for health.
                Unannounced::Gone => {}
            }
            return None;
        }
    };
    seat(listening, remote).inspect_err(|turned| turn_away(listening, stream, *turned)).ok()
}

/// Answers a connection that may not stay, without waiting for anything: what the socket does not
/// take at once is lost.
fn turn_away(listening: &Listening, stream: &TcpStream, turned: Turned) {
    listening.refusals.turned[turned.index()].increment(1);
    // Over TLS it could read nothing of an answer.
    if listening.tls.is_none() {
        answer_at_once(stream, &Problem::from(turned));
    }
}

/// Answers whatever was asked in plain text and ends the connection, without waiting for anything.
fn answer_at_once(stream: &TcpStream, problem: &Problem) {
    let answer = refusal(problem);
    let socket = socket2::SockRef::from(stream);
    // A socket that is closed with something unread is reset, and the answer may be lost with it.
    let mut unread = [std::mem::MaybeUninit::uninit(); 4096];
    let _ = socket.recv(&mut unread);
    let _ = socket.send(&answer);
    let _ = socket.shutdown(std::net::Shutdown::Write);
}

impl From<Turned> for Problem {
    fn from(turned: Turned) -> Self {
        let (status, code) = match turned.is_own() {
            true => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
        };
        Self::new(status, code, turned.message()).retry_after(turned.retry_after())
    }
}
