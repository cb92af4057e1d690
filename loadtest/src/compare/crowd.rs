//! The clients: sockets in one epoll set, read in turn into one buffer. A client costs a `recv` and a walk over frame
//! headers; what is verified is said in [`super::payload`].

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;
use rustix::event::{
    Timespec,
    epoll::{self, Event, EventData, EventFlags},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    feed,
    payload::{Fault, Judge, Read as Message, follow, symbol_in},
    server::Dialect,
};
use crate::{clock, connect::head_end, frame, venue};

/// A local address has some 28,000 ports to one destination.
const CLIENTS_PER_ADDRESS: usize = 10_000;
/// Handshakes at once: enough to keep any server busy, below every listener's backlog.
const HANDSHAKES_MAX: usize = 256;
/// How long all handshakes together may make no progress.
const CONNECT_STALL_MAX: Duration = Duration::from_secs(20);
/// Sockets that are read between two looks at the clock.
const EVENTS: usize = 256;
const READ_BYTES: usize = 1 << 20;
/// How long the client leaves the epoll set alone when it was empty. To ask it without pause would contend for its
/// lock with the server's sends; to sleep would have the server pay for waking it, more often the faster the client
/// is. This way every server finds the same client.
const GULP: Duration = Duration::from_micros(20);
/// Faults that are described.
const DESCRIBED_MAX: usize = 10;
/// Longest time that is told apart.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Upgrading,
    Subscribing,
    Live,
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    stage: Stage,
    /// Snapshots that are still to come before it is live.
    snapshots: usize,
    subscribed: bool,
    symbols: Vec<usize>,
    /// Bytes of a frame that is not whole.
    rest: Vec<u8>,
    /// NATS: bytes of a message that is not whole.
    inner: Vec<u8>,
}

/// What has come.
#[derive(Debug, Default, Clone)]
pub struct Totals {
    /// Updates that were verified.
    pub delivered: u64,
    /// Updates that a server said would not come, or that did not.
    pub lost: u64,
    /// What must never happen: repeats, alterations, losses that nobody named.
    pub violations: u64,
    /// The first of them.
    pub described: Vec<String>,
}

/// All clients of one server.
pub struct Crowd {
    epoll: OwnedFd,
    clients: Vec<Client>,
    /// The number that has to come next, by client and symbol; `u32::MAX` where it is not subscribed.
    next: Vec<u32>,
    symbols: usize,
    judge: Judge,
    dialect: Dialect,
    buffer: Vec<u8>,
    events: Vec<Event>,
    live: usize,
    /// What has come.
    pub totals: Totals,
    /// Where set, latencies are taken from the planned times.
    pub timing: Option<Timing>,
    /// Time spent on reading, as against waiting.
    pub busy: Duration,
    /// Whether the client has a core of its own, and may wait by spinning.
    spins: bool,
}

/// Latencies from planned times.
#[derive(Debug)]
pub struct Timing {
    /// When the updates were to be sent: those of symbol `s` from the number `first[s]` on.
    pub planned: Vec<Vec<Instant>>,
    /// Numbers of the first planned updates.
    pub first: Vec<u32>,
    /// From planned to read, in nanoseconds.
    pub latency: Histogram<u64>,
}

impl Timing {
    /// Nothing planned yet; `first` has the number that each symbol begins with.
    ///
    /// # Errors
    /// Never: the bounds of the histogram are fixed.
    pub fn new(first: Vec<u32>) -> anyhow::Result<Self> {
        let latency = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)?;
        Ok(Self { planned: vec![Vec::new(); first.len()], first, latency })
    }

    fn take(&mut self, symbol: usize, number: u32, now: Instant) {
        let at = number.checked_sub(self.first[symbol]);
        if let Some(planned) = at.and_then(|at| self.planned[symbol].get(at as usize)) {
            self.latency.saturating_record((now - *planned).as_nanos() as u64);
        }
    }
}

impl Crowd {
    /// A crowd that speaks `dialect`; client `i` is to hold the symbols `holds(i)`.
    ///
    /// # Errors
    /// As the system says, or a client that cannot be subscribed.
    pub fn connect(
        (address, dialect): (SocketAddr, &Dialect),
        clients: usize,
        symbols: usize,
        spins: bool,
        mut holds: impl FnMut(usize) -> Vec<usize>,
    ) -> anyhow::Result<Self> {
        let mut crowd = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            clients: Vec::with_capacity(clients),
            next: vec![u32::MAX; clients * symbols],
            symbols,
            judge: Judge::new(symbols),
            dialect: dialect.clone(),
            buffer: vec![0; READ_BYTES],
            events: Vec::with_capacity(EVENTS),
            live: 0,
            totals: Totals::default(),
            timing: None,
            busy: Duration::ZERO,
            spins,
        };
        let mut progress = (0, clock::instant());
        while crowd.live < clients {
            while crowd.clients.len() < clients && crowd.clients.len() - crowd.live < HANDSHAKES_MAX {
                crowd.open(address, holds(crowd.clients.len()))?;
            }
            crowd.turn(Some(Duration::from_millis(10)))?;
            if crowd.live > progress.0 {
                progress = (crowd.live, clock::instant());
            }
            let stalled = clock::instant() - progress.1 > CONNECT_STALL_MAX;
            ensure!(!stalled, "only {} of {clients} clients are subscribed: {:?}", crowd.live, crowd.totals.described);
        }
        if let Some(fault) = crowd.totals.described.first() {
            bail!("while subscribing: {fault}");
        }
        Ok(crowd)
    }

    fn open(&mut self, address: SocketAddr, symbols: Vec<usize>) -> anyhow::Result<()> {
        let at = self.clients.len();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        let source = Ipv4Addr::new(127, 1, (std::process::id() % 250) as u8, 1 + (at / CLIENTS_PER_ADDRESS) as u8);
        socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            other => other.context("connecting a client")?,
        }
        let stream: TcpStream = socket.into();
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::add(&self.epoll, &stream, EventData::new_u64(at as u64), flags)?;
        for symbol in &symbols {
            self.next[at * self.symbols + symbol] = 1;
        }
        let snapshots = if matches!(self.dialect, Dialect::Hub { .. }) { symbols.len() } else { 0 };
        let (stage, subscribed) = (Stage::Connecting, false);
        let (rest, inner) = (Vec::new(), Vec::new());
        self.clients.push(Client { stream, stage, snapshots, subscribed, symbols, rest, inner });
        Ok(())
    }

    /// The judge, to be told what was sent.
    pub fn judge(&mut self) -> &mut Judge {
        &mut self.judge
    }

    /// Reads what there is, waiting for at most `longest` where there is nothing (`None` = not at all). Returns how
    /// many sockets had something.
    ///
    /// # Errors
    /// A client has lost its connection.
    pub fn turn(&mut self, longest: Option<Duration>) -> anyhow::Result<usize> {
        let begun = clock::instant();
        let wait = if self.spins { Duration::ZERO } else { longest.unwrap_or_default() };
        let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let found = events.len();
        let woken = if self.spins { begun } else { clock::instant() };
        let mut fault = None;
        for event in &events {
            if let Err(error) = self.hear(event.data.u64() as usize, event.flags) {
                fault.get_or_insert(error);
            }
        }
        self.events = events;
        if let Some(fault) = fault {
            return Err(fault);
        }
        if found > 0 {
            self.busy += clock::instant() - woken;
        } else if self.spins && longest.is_some() {
            while clock::instant() - begun < GULP {
                std::hint::spin_loop();
            }
        }
        Ok(found)
    }

    fn hear(&mut self, at: usize, flags: EventFlags) -> anyhow::Result<()> {
        if self.clients[at].stage == Stage::Connecting {
            if !flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP) {
                return Ok(());
            }
            if let Some(error) = self.clients[at].stream.take_error()? {
                return Err(error).with_context(|| format!("client {at} cannot connect"));
            }
            let request = self.request(at);
            self.clients[at].stage = Stage::Upgrading;
            self.say(at, &request)?;
            // From here on only what comes is of interest.
            let (data, flags) = (EventData::new_u64(at as u64), EventFlags::IN | EventFlags::RDHUP | EventFlags::ET);
            epoll::modify(&self.epoll, &self.clients[at].stream, data, flags)?;
            return Ok(());
        }
        let ended = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let mut buffer = std::mem::take(&mut self.buffer);
        let heard = loop {
            let client = &mut self.clients[at];
            let kept = client.rest.len();
            buffer[..kept].copy_from_slice(&client.rest);
            client.rest.clear();
            match client.stream.read(&mut buffer[kept..]) {
                Ok(0) => break Err(anyhow::anyhow!("the server closed client {at}")),
                Ok(bytes) => {
                    if let Err(error) = self.take(at, &buffer[..kept + bytes]) {
                        break Err(error);
                    }
                    // With edges, a read that leaves room has taken everything but the end.
                    if kept + bytes < buffer.len() && !ended {
                        break Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    client.rest.extend_from_slice(&buffer[..kept]);
                    break Ok(());
                }
                Err(error) => break Err(error).with_context(|| format!("client {at}")),
            }
        };
        self.buffer = buffer;
        heard
    }

    /// Everything that a client says is a few bytes on an empty socket, which takes them at once.
    fn say(&mut self, at: usize, bytes: &[u8]) -> anyhow::Result<()> {
        self.clients[at].stream.write_all(bytes).with_context(|| format!("client {at} cannot send"))
    }

    fn request(&self, at: usize) -> Vec<u8> {
        let (path, more) = match &self.dialect {
            Dialect::Hub { path, token } => {
                (path.clone(), format!("Sec-WebSocket-Protocol: tickhub.v1.json\r\nAuthorization: Bearer {token}\r\n"))
            }
            Dialect::Plain => (feed::path_of(&self.clients[at].symbols), String::new()),
            Dialect::Nats => ("/".to_owned(), String::new()),
        };
        format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        )
        .into_bytes()
    }

    fn take(&mut self, at: usize, bytes: &[u8]) -> anyhow::Result<()> {
        let mut rest = bytes;
        if self.clients[at].stage == Stage::Upgrading {
            let Some(end) = head_end(rest) else {
                self.clients[at].rest.extend_from_slice(rest);
                return Ok(());
            };
            let status = rest[..end].split(|byte| *byte == b'\r').next().unwrap_or_default();
            ensure!(status.starts_with(b"HTTP/1.1 101"), "the upgrade was answered {}", crate::measure::shown(status));
            rest = &rest[end..];
            self.upgraded(at)?;
        }
        // One clock for what one read brought.
        let now = self.timing.as_ref().map(|_| clock::instant());
        while let Some((frame, used)) = frame::parse(rest)? {
            rest = &rest[used..];
            match frame.opcode {
                frame::TEXT | frame::BINARY if frame.fin => self.message(at, frame.payload, now)?,
                frame::PING => {
                    let mut pong = Vec::new();
                    frame::append_client(&mut pong, frame::PONG, frame.payload, [1, 2, 3, 4]);
                    self.say(at, &pong)?;
                }
                frame::PONG => {}
                frame::CLOSE => bail!("the server closed client {at}: {}", crate::measure::shown(frame.payload)),
                other => bail!("client {at}: a frame in parts, or of opcode {other}"),
            }
        }
        self.clients[at].rest.extend_from_slice(rest);
        Ok(())
    }

    fn upgraded(&mut self, at: usize) -> anyhow::Result<()> {
        let client = &mut self.clients[at];
        client.stage = Stage::Subscribing;
        let mut out = Vec::new();
        match &self.dialect {
            Dialect::Plain => return Ok(()),
            Dialect::Hub { .. } => {
                let symbols: Vec<String> = client.symbols.iter().map(|symbol| venue::instrument(*symbol)).collect();
                let command = serde_json::json!({
                    "op": "subscribe", "id": 1, "channel": "quote", "symbols": symbols, "mode": "every",
                });
                frame::append_client(&mut out, frame::TEXT, command.to_string().as_bytes(), [1, 2, 3, 4]);
            }
            Dialect::Nats => {
                let mut words = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n".to_owned();
                for symbol in &client.symbols {
                    words += &format!("SUB s{symbol} {symbol}\r\n");
                }
                words += "PING\r\n";
                frame::append_client(&mut out, frame::BINARY, words.as_bytes(), [1, 2, 3, 4]);
            }
        }
        self.say(at, &out)
    }

    #[inline]
    fn message(&mut self, at: usize, payload: &[u8], now: Option<Instant>) -> anyhow::Result<()> {
        if self.dialect == Dialect::Nats {
            return super::nats::take(self, at, payload, now);
        }
        if self.clients[at].stage == Stage::Live {
            self.update(at, payload, now);
            return Ok(());
        }
        self.before_live(at, payload)
    }

    fn before_live(&mut self, at: usize, payload: &[u8]) -> anyhow::Result<()> {
        if self.dialect == Dialect::Plain {
            ensure!(payload == feed::READY, "client {at} was told {}", crate::measure::shown(payload));
            self.set_live(at);
            return Ok(());
        }
        match self.judge.read(payload) {
            Ok(Message::Update { symbol, number: 0, snapshot: true }) => {
                let expected = self.next.get(at * self.symbols + symbol) == Some(&1);
                ensure!(expected && self.clients[at].subscribed, "client {at}: a snapshot that it did not ask for");
                self.clients[at].snapshots = self.clients[at].snapshots.saturating_sub(1);
            }
            Ok(Message::Other) => {
                let value: serde_json::Value = serde_json::from_slice(payload)?;
                match value["op"].as_str() {
                    Some("error") => bail!("client {at} was told {}", crate::measure::shown(payload)),
                    Some("subscribed") => {
                        let rejected = value["rejected"].as_array().map_or(0, Vec::len);
                        ensure!(rejected == 0, "client {at}: {}", crate::measure::shown(payload));
                        self.clients[at].subscribed = true;
                    }
                    _ => {}
                }
            }
            Ok(other) => bail!("client {at}: {other:?} before anything was sent"),
            Err(fault) => bail!("client {at}: {fault}: {}", crate::measure::shown(payload)),
        }
        if self.clients[at].subscribed && self.clients[at].snapshots == 0 {
            self.set_live(at);
        }
        Ok(())
    }

    pub(super) fn set_live(&mut self, at: usize) {
        self.clients[at].stage = Stage::Live;
        self.live += 1;
    }

    pub(super) fn is_live(&self, at: usize) -> bool {
        self.clients[at].stage == Stage::Live
    }

    pub(super) fn inner(&mut self, at: usize) -> &mut Vec<u8> {
        &mut self.clients[at].inner
    }

    pub(super) fn answer(&mut self, at: usize, frame: &[u8]) -> anyhow::Result<()> {
        self.say(at, frame)
    }

    /// One update to one client.
    #[inline]
    pub(super) fn update(&mut self, at: usize, text: &[u8], now: Option<Instant>) {
        if let Some(symbol) = symbol_in(text)
            && symbol < self.symbols
        {
            let next = &mut self.next[at * self.symbols + symbol];
            let number = *next;
            if number != u32::MAX && self.judge.is_known(symbol, number, text) {
                *next += 1;
                self.delivered(symbol, number, now);
                return;
            }
        }
        self.unknown(at, text, now);
    }

    #[inline]
    fn delivered(&mut self, symbol: usize, number: u32, now: Option<Instant>) {
        self.totals.delivered += 1;
        if let (Some(timing), Some(now)) = (&mut self.timing, now) {
            timing.take(symbol, number, now);
        }
    }

    /// What was not seen yet, or should not have come.
    #[cold]
    fn unknown(&mut self, at: usize, text: &[u8], now: Option<Instant>) {
        let fault = match self.judge.read(text) {
            Ok(Message::Other) => return,
            Ok(Message::Gap { symbol, to }) => {
                let next = &mut self.next[at * self.symbols + symbol];
                self.totals.lost += u64::from((to + 1).saturating_sub(*next));
                *next = (to + 1).max(*next);
                return;
            }
            Ok(Message::Update { symbol, number, snapshot }) => {
                let next = &mut self.next[at * self.symbols + symbol];
                match follow(next, symbol, number) {
                    Ok(()) if !snapshot => return self.delivered(symbol, number, now),
                    Ok(()) => Fault::Altered(format!("number {number} came as a snapshot")),
                    Err(fault) => {
                        if let Fault::Lost(count) = fault {
                            // The update itself did come.
                            self.totals.lost += u64::from(count);
                            self.delivered(symbol, number, now);
                        }
                        fault
                    }
                }
            }
            Err(fault) => fault,
        };
        self.totals.violations += 1;
        if self.totals.described.len() < DESCRIBED_MAX {
            self.totals.described.push(format!("client {at}: {fault}"));
        }
    }
}
