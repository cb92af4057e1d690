//! The servers that are compared: how each is found, started on its core, fed, and ended.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, anyhow, bail, ensure};
use clap::ValueEnum;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::feed::{Feed, Line};
use crate::{
    clock,
    target::Target,
    venue::{Kind as EventKind, Venue, instrument},
};

/// Connections that may wait to be accepted: as many as are in flight at once, and more.
const BACKLOG: i32 = 4_096;
/// How long a server may take to be ready.
const START_MAX: Duration = Duration::from_secs(30);
/// Where the peers of the npm registry and the Debian package are put by `scripts/install-peers`.
const PEERS: &str = "target/peers";

/// A server that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// tickhub.
    Hub,
    /// Another build of tickhub, `--other-hub`.
    Other,
    /// A bare `send()` loop, part of the harness.
    Floor,
    /// Bun's `publish` (uWebSockets).
    Bun,
    /// Node.js with `ws`.
    Ws,
    /// nats-server's WebSocket listener.
    Nats,
    /// tokio-tungstenite and a tokio broadcast channel, both with their defaults, part of the harness.
    Broadcast,
}

impl Peer {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Other => "other",
            Self::Floor => "floor",
            Self::Bun => "bun",
            Self::Ws => "ws",
            Self::Nats => "nats",
            Self::Broadcast => "broadcast",
        }
    }
}

/// The cores of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cores {
    /// Of client and generator.
    pub client: usize,
    /// Of the server; `None` where there is one core for all.
    pub server: Option<usize>,
}

impl Cores {
    /// The first core that this process may use for itself, the last one for the server.
    ///
    /// # Errors
    /// As the system says.
    pub fn choose() -> anyhow::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let usable: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
        let (first, last) = (*usable.first().context("no core")?, *usable.last().context("no core")?);
        Ok(Self { client: first, server: (last != first).then_some(last) })
    }

    /// Keeps the calling thread, and the threads and processes that it starts from now on, on one core.
    fn pin(core: usize) -> io::Result<()> {
        let mut set = CpuSet::new();
        set.set(core);
        Ok(sched_setaffinity(None, &set)?)
    }

    /// Keeps this thread on the client's core.
    ///
    /// # Errors
    /// As the system says.
    pub fn pin_client(self) -> io::Result<()> {
        Self::pin(self.client)
    }

    /// Starts a process on the server's core: a child inherits where its parent's thread may run.
    fn spawn(self, command: &mut Command) -> io::Result<Child> {
        if let Some(server) = self.server {
            Self::pin(server)?;
        }
        let child = command.spawn();
        Self::pin(self.client)?;
        child
    }
}

/// What a client has to say and hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dialect {
    /// The hub's protocol, with its path and host, and a token.
    Hub {
        /// Path of the WebSocket.
        path: String,
        /// Sent by every client.
        token: String,
    },
    /// The symbols in the path, then [`super::feed::READY`].
    Plain,
    /// NATS inside of WebSocket frames.
    Nats,
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where clients connect.
    pub address: SocketAddr,
    /// How they speak.
    pub dialect: Dialect,
    /// The way in.
    pub feed: Feed,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server of the plain dialect prints when it listens.
#[derive(Debug, Serialize, Deserialize)]
struct Announcement {
    ws: u16,
    feed: u16,
    version: String,
}

/// What the hub writes when it is ready.
#[derive(Deserialize)]
struct ReadyFile {
    ws: String,
    token: String,
}

/// Where the servers are.
#[derive(Debug, Clone)]
pub struct Found {
    hub: PathBuf,
    other: Option<PathBuf>,
    peers: PathBuf,
    scripts: PathBuf,
}

impl Found {
    /// Programs at `hub` (by default beside the harness), at `other` and below the working directory.
    ///
    /// # Errors
    /// As the system says.
    pub fn new(hub: Option<PathBuf>, other: Option<PathBuf>) -> anyhow::Result<Self> {
        let beside = std::env::current_exe()?.with_file_name("tickhub");
        Ok(Self { hub: hub.unwrap_or(beside), other, peers: PEERS.into(), scripts: "loadtest/peers".into() })
    }

    fn program(&self, peer: Peer) -> anyhow::Result<&Path> {
        let (program, option) = match peer {
            Peer::Other => (self.other.as_deref().context("--other-hub PATH is needed")?, "--other-hub"),
            _ => (self.hub.as_path(), "--hub"),
        };
        ensure!(program.is_file(), "there is no hub at {}: build it, or say {option} PATH", program.display());
        Ok(program)
    }

    /// The program of a peer and its version; an error says what is missing.
    ///
    /// # Errors
    /// It is not installed.
    pub fn version(&self, peer: Peer) -> anyhow::Result<String> {
        let own = || format!("loadtest {}", env!("CARGO_PKG_VERSION"));
        match peer {
            Peer::Hub | Peer::Other => said(Command::new(self.program(peer)?).arg("--version")),
            Peer::Floor => Ok(own()),
            Peer::Broadcast => Ok(own() + ", tokio-tungstenite 0.30"),
            Peer::Bun => said(Command::new(self.bun()?).arg("--version")).map(|version| format!("bun {version}")),
            Peer::Ws => {
                let package = self.peers.join("node_modules/ws/package.json");
                let text = std::fs::read(&package).map_err(|_| missing("ws"))?;
                let package: serde_json::Value = serde_json::from_slice(&text)?;
                let node = said(Command::new("node").arg("--version")).map_err(|_| missing("node"))?;
                Ok(format!("ws {}, node {node}", package["version"].as_str().unwrap_or("?")))
            }
            Peer::Nats => said(Command::new(self.nats()?).arg("--version")),
        }
    }

    fn bun(&self) -> anyhow::Result<PathBuf> {
        let bun = self.peers.join("node_modules/.bin/bun");
        if bun.is_file() { Ok(bun) } else { Err(missing("bun")) }
    }

    fn nats(&self) -> anyhow::Result<PathBuf> {
        let places = [self.peers.join("nats/usr/sbin/nats-server"), "/usr/sbin/nats-server".into()];
        places.into_iter().find(|place| place.is_file()).ok_or_else(|| missing("nats-server"))
    }

    /// Starts a server that takes updates of so many symbols.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn start(&self, peer: Peer, symbols: usize, cores: Cores) -> anyhow::Result<Server> {
        let started = match peer {
            Peer::Hub | Peer::Other => start_hub(self.program(peer)?, symbols, cores),
            Peer::Nats => self.start_nats(cores),
            Peer::Floor | Peer::Broadcast => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["peer", peer.name()]);
                start_plain(command, cores)
            }
            Peer::Bun => self.start_script(Command::new(self.bun()?), "bun.js", cores),
            Peer::Ws => self.start_script(Command::new("node"), "ws.js", cores),
        };
        started.with_context(|| format!("starting {}", peer.name()))
    }

    fn start_script(&self, mut command: Command, script: &str, cores: Cores) -> anyhow::Result<Server> {
        command.arg(self.scripts.join(script)).env("NODE_PATH", self.peers.join("node_modules"));
        start_plain(command, cores)
    }

    fn start_nats(&self, cores: Cores) -> anyhow::Result<Server> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("nats.conf");
        let ports = folder.path().display().to_string();
        std::fs::write(
            &config,
            format!(
                "listen: \"127.0.0.1:-1\"\nports_file_dir: \"{ports}\"\nping_interval: \"30m\"\nmax_connections: 100000\n\
                 websocket {{ listen: \"127.0.0.1:-1\", no_tls: true, compression: false }}\n"
            ),
        )?;
        let mut command = Command::new(self.nats()?);
        command.arg("-c").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = Ended(Some(cores.spawn(&mut command)?));
        let file = folder.path().join(format!("nats-server_{}.ports", child.id()));
        let ports: NatsPorts = poll(START_MAX, || {
            child.check()?;
            Ok(std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()))
        })?;
        let address = |urls: &[String]| -> anyhow::Result<SocketAddr> {
            let url = urls.first().context("nats-server names no address")?;
            Ok(url.split_once("://").map_or(url.as_str(), |(_, address)| address).parse()?)
        };
        let stream = TcpStream::connect(address(&ports.nats)?)?;
        stream.set_nodelay(true)?;
        (&stream).write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n")?;
        let (address, feed) = (address(&ports.websocket)?, Feed::Nats(Line::new(stream)));
        Ok(Server { child: child.take()?, address, dialect: Dialect::Nats, feed, _folder: folder })
    }
}

#[derive(Deserialize)]
struct NatsPorts {
    nats: Vec<String>,
    websocket: Vec<String>,
}

impl Server {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

fn start_hub(program: &Path, symbols: usize, cores: Cores) -> anyhow::Result<Server> {
    let folder = tempfile::tempdir()?;
    let venue = Venue::start(symbols)?;
    let config = folder.path().join("tickhub.toml");
    std::fs::write(&config, hub_toml(folder.path(), &venue))?;
    let ready = folder.path().join("ready.json");
    let mut command = Command::new(program);
    command.arg("serve").arg("--config").arg(&config).arg("--ready-file").arg(&ready);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = Ended(Some(cores.spawn(&mut command)?));
    let text = poll(START_MAX, || {
        child.check()?;
        Ok(std::fs::read(&ready).ok())
    })?;
    let ready: ReadyFile = serde_json::from_slice(&text).context("the hub's ready file")?;
    venue.wait_subscribed(START_MAX)?;
    // An instrument exists from its first event on. It is number 0, so that what is measured begins with 1.
    venue.prime(EventKind::Quote, 0)?;
    let target = Target::resolve(&ready.ws, None)?;
    poll(START_MAX, || {
        venue.flush()?;
        Ok(has_quote(&target, &ready.token, &instrument(symbols - 1))?.then_some(()))
    })?;
    let dialect = Dialect::Hub { path: target.path, token: ready.token };
    Ok(Server { child: child.take()?, address: target.address, dialect, feed: Feed::Venue(venue), _folder: folder })
}

fn hub_toml(folder: &Path, venue: &Venue) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nops_listen = \"127.0.0.1:0\"\nstate_dir = \"{}\"\n\
         worker_threads = 1\nfeed_threads = 1\ncontrol_threads = 1\n\
         [timeouts]\nping = \"30m\"\nidle = \"1h\"\n\
         [limits]\nsessions = 200000\nunauthenticated = 100000\nconnections = 200000\n\
         [log]\nlevel = \"warn\"\n{}",
        folder.join("state").display(),
        venue.provider_toml()
    )
}

fn start_plain(mut command: Command, cores: Cores) -> anyhow::Result<Server> {
    let folder = tempfile::tempdir()?;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = Ended(Some(cores.spawn(&mut command)?));
    let stdout = child.stdout().context("its output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let said: Announcement = serde_json::from_str(&line).map_err(|_| anyhow!("it said {line:?}"))?;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, said.feed))?;
    stream.set_nodelay(true)?;
    let address = (Ipv4Addr::LOCALHOST, said.ws).into();
    let feed = Feed::Framed(Line::new(stream));
    Ok(Server { child: child.take()?, address, dialect: Dialect::Plain, feed, _folder: folder })
}

/// A child that is ended unless it is taken.
struct Ended(Option<Child>);

impl Ended {
    fn check(&mut self) -> anyhow::Result<()> {
        let status = self.0.as_mut().map(Child::try_wait).transpose()?.flatten();
        status.map_or(Ok(()), |status| bail!("it ended at once: {status}"))
    }

    fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.0.as_mut()?.stdout.take()
    }

    fn take(&mut self) -> anyhow::Result<Child> {
        self.0.take().context("it is taken already")
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Asks again until there is an answer.
fn poll<T>(longest: Duration, mut ask: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let begun = clock::instant();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(clock::instant() - begun < longest, "it is not ready after {longest:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn missing(what: &str) -> anyhow::Error {
    anyhow!("{what} is not installed (scripts/install-peers)")
}

/// Whether the hub has published a quote of the instrument.
fn has_quote(target: &Target, token: &str, id: &str) -> anyhow::Result<bool> {
    let mut stream = TcpStream::connect(target.http_address)?;
    let request = format!(
        "GET /api/v1/instruments/{id} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n",
        target.http_host
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200") && answer.contains("\"quote\":1"))
}

/// The first line that a command prints.
fn said(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{:?} failed", command.get_program());
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned())
}

/// A listener for clients of the plain dialect.
///
/// # Errors
/// As the system says.
pub fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Says where a server of the plain dialect listens.
///
/// # Errors
/// Nobody listens.
pub fn announce(version: &str, ws: &TcpListener, feed: &TcpListener) -> io::Result<()> {
    let (ws, feed) = (ws.local_addr()?.port(), feed.local_addr()?.port());
    let line = serde_json::to_string(&Announcement { ws, feed, version: version.to_owned() })?;
    let mut out = io::stdout();
    writeln!(out, "{line}")?;
    out.flush()
}
