//! A venue that behaves like Binance spot, and misbehaves on order.
//!
//! One port serves the WebSocket and the REST paths. The market goes on whoever is connected, and
//! REST answers are made from its books as they are at that moment, so that the join races as it
//! does with the real venue.

#![allow(dead_code)] // Not every test gives every order.

mod market;
mod socket;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub(crate) use market::{Market, Row, Sides};

/// Messages that a slow connection may be behind before it is cut off.
const BEHIND_MAX: usize = 65_536;

/// What every open connection does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Closes with a code.
    Close(u16),
    /// Stays open and sends nothing any more, pings neither.
    Stall,
    /// Sends this instead of the next message of a stream that ends so.
    Corrupt(&'static str, &'static str),
    /// Leaves out so many messages of streams that end so.
    Skip(&'static str, usize),
    /// Swaps the next two messages of streams that end so.
    Reorder(&'static str),
    /// Resets the connection.
    Reset,
    /// Sends so many messages byte by byte.
    Trickle(usize),
    /// Sends a frame that no server may send.
    BadFrame,
}

/// What the venue does with the next REST request whose path begins so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RestFault {
    /// Answers with a status and perhaps `Retry-After`.
    Status(u16, Option<u64>),
    /// Answers with this body.
    Garbage(&'static str),
    /// Answers after this long.
    Slow(Duration),
}

#[derive(Clone, Debug)]
enum Item {
    Row(Arc<Row>),
    Order(Order),
}

/// What the venue has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Paths of WebSocket connections.
    pub(crate) connections: Vec<String>,
    /// Commands, as they came.
    pub(crate) commands: Vec<String>,
    /// REST requests and when they came.
    pub(crate) requests: Vec<(Instant, String)>,
    /// Payloads of pings sent and of pongs received.
    pub(crate) pings: Vec<String>,
    pub(crate) pongs: Vec<String>,
    /// Connections that are open now.
    pub(crate) open: usize,
}

struct State {
    market: Market,
    seen: Seen,
    rest_faults: VecDeque<(&'static str, RestFault)>,
    handshake_faults: VecDeque<(u16, Option<u64>)>,
    /// Streams that are accepted and never served, as a misspelt one.
    mute: Vec<String>,
    running: bool,
    sent: u64,
}

struct Shared {
    state: Mutex<State>,
    items: broadcast::Sender<Item>,
    ping_every: Duration,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }
}

/// A running venue; it ends when dropped.
pub(crate) struct FakeVenue {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for FakeVenue {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl FakeVenue {
    /// Opens a venue on a free port; its market sends `rows_per_ms`.
    pub(crate) async fn open(market: Market, rows_per_ms: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = State {
            market,
            seen: Seen::default(),
            rest_faults: VecDeque::new(),
            handshake_faults: VecDeque::new(),
            mute: Vec::new(),
            running: true,
            sent: 0,
        };
        let (items, _) = broadcast::channel(BEHIND_MAX);
        let shared = Arc::new(Shared { state: Mutex::new(state), items, ping_every: Duration::from_millis(50) });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        let trading = tokio::spawn(trade(Arc::clone(&shared), rows_per_ms));
        Self { address, shared, tasks: [accepting, trading] }
    }

    pub(crate) fn ws_url(&self) -> String {
        format!("ws://{}", self.address)
    }

    pub(crate) fn rest_url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn seen(&self) -> Seen {
        self.shared.state().seen.clone()
    }

    /// Has every open connection misbehave.
    pub(crate) fn order(&self, order: Order) {
        // Nobody connected is nobody to misbehave to.
        let _ = self.shared.items.send(Item::Order(order));
    }

    /// Has the next REST request whose path begins so go wrong.
    pub(crate) fn rest_fault(&self, path: &'static str, fault: RestFault) {
        self.shared.state().rest_faults.push_back((path, fault));
    }

    /// Turns down the next WebSocket handshake.
    pub(crate) fn handshake_fault(&self, status: u16, retry_after: Option<u64>) {
        self.shared.state().handshake_faults.push_back((status, retry_after));
    }

    /// Accepts a stream and never serves it.
    pub(crate) fn mute(&self, stream: &str) {
        self.shared.state().mute.push(stream.to_owned());
    }

    /// Serves every stream.
    pub(crate) fn unmute(&self) {
        self.shared.state().mute.clear();
    }

    /// Stops and starts the market; connections live on.
    pub(crate) fn run_market(&self, running: bool) {
        self.shared.state().running = running;
    }

    /// How many messages the market has made.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.state().sent
    }

    /// A symbol's book, and the ids of its last trade and update.
    pub(crate) fn book(&self, symbol: &str) -> (Sides, u64, u64) {
        let state = self.shared.state();
        let listing = state.market.listing(symbol).expect("listed");
        (listing.book.clone(), listing.trade_id, listing.update_id)
    }
}

async fn trade(shared: Arc<Shared>, rows_per_ms: usize) {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let mut state = shared.state();
        // A market that nobody can see stands still, so that a recording is played once.
        if !state.running || shared.items.receiver_count() == 0 {
            continue;
        }
        for _ in 0..rows_per_ms {
            let Some(row) = state.market.next() else { break };
            state.sent += 1;
            let _ = shared.items.send(Item::Row(Arc::new(row)));
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // A client that goes away in the middle is the client's business.
            let _ = serve(stream, shared).await;
        });
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let header = |name: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    match header("sec-websocket-key") {
        Some(key) => {
            let fault = shared.state().handshake_faults.pop_front();
            if let Some((status, retry_after)) = fault {
                return answer(&mut stream, status, retry_after, "{}").await;
            }
            socket::serve(stream, &key, path, &shared).await
        }
        None => rest(stream, path, &shared).await,
    }
}

async fn rest(mut stream: TcpStream, path: String, shared: &Shared) -> std::io::Result<()> {
    let fault = {
        let mut state = shared.state();
        state.seen.requests.push((Instant::now(), path.clone()));
        let hit = state.rest_faults.iter().position(|(prefix, _)| path.starts_with(prefix));
        hit.and_then(|index| state.rest_faults.remove(index)).map(|(_, fault)| fault)
    };
    match fault {
        Some(RestFault::Status(status, retry_after)) => return answer(&mut stream, status, retry_after, "{}").await,
        Some(RestFault::Garbage(body)) => return answer(&mut stream, 200, None, body).await,
        Some(RestFault::Slow(pause)) => tokio::time::sleep(pause).await,
        None => {}
    }
    let body = {
        let market = &shared.state().market;
        match path.split_once('?') {
            Some(("/api/v3/depth", query)) => {
                query.split('&').find_map(|q| q.strip_prefix("symbol=")).and_then(|symbol| market.depth(symbol))
            }
            Some(("/api/v3/exchangeInfo", query)) => {
                let list =
                    query.trim_start_matches("symbols=").replace("%5B", "[").replace("%5D", "]").replace("%22", "\"");
                serde_json::from_str::<Vec<String>>(&list).ok().and_then(|symbols| market.definitions(&symbols))
            }
            _ => None,
        }
    };
    match body {
        Some(body) => answer(&mut stream, 200, None, &body).await,
        None => answer(&mut stream, 400, None, "{\"code\":-1121,\"msg\":\"Invalid symbol.\"}").await,
    }
}

async fn answer(stream: &mut TcpStream, status: u16, retry_after: Option<u64>, body: &str) -> std::io::Result<()> {
    let pause = retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{pause}\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
