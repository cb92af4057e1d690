//! The composition root: builds every part, starts every thread, and drains them in order.

mod ready;
mod threads;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::auth::{Authenticator, DevelopmentKey, check_listen};
use crate::config::{Config, LogFormat};
use crate::http::{self, Api, Browsers, Readiness, ReadinessState};
use crate::metrics::{self, Registry};
use crate::session::{Admissions, Meters};
use crate::shutdown::{Stopper, stop_signal};
use crate::store::Store;
use crate::time;
use crate::transport::{ControlVerifier, Door, Gate, Verifier};

pub use ready::Ready;

use ready::Draft;
use threads::{Common, Joints, start_feeds, start_workers};

/// What the listeners' sockets may have waiting in the kernel.
const BACKLOG: u32 = 4096;

/// How much lower than the data side the control side is scheduled.
const CONTROL_NICE: i32 = 5;

/// How long the threads may take to end after everyone has been told to go.
const END_GRACE: Duration = Duration::from_secs(3);

/// A running hub. Dropping it ends it without a drain.
pub struct Hub {
    ready: Ready,
    development: bool,
    registry: Arc<Registry>,
    readiness: Arc<Readiness>,
    http_stopper: Stopper,
    drain_stopper: Stopper,
    worker_stopper: Stopper,
    feed_stopper: Stopper,
    workers: Vec<JoinHandle<()>>,
    feeds: Vec<JoinHandle<()>>,
    drain: Duration,
    control: Option<Runtime>,
}

impl Hub {
    /// Starts a hub. When this returns it listens.
    ///
    /// # Errors
    /// Where the configuration cannot work here: an address in use, a state directory that is
    /// not ours, no keys on a public address.
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        check_listen(&config.auth, &[config.server.listen, config.server.ops_listen])?;
        let development = config.auth.is_development();
        let key = development.then(|| DevelopmentKey::open(&config.server.state_dir)).transpose()?;
        let authenticator = Authenticator::new(&config.auth, key.as_ref())
            .map_err(|faults| anyhow::anyhow!("auth: {}", join(&faults)))?;
        let authenticator = Arc::new(authenticator);
        let registry = Registry::new();
        let store = Store::new(config.limits.resume_bytes);
        let common = Common { store, registry: Arc::clone(&registry), epoch: epoch()?.into() };
        for provider in &config.provider {
            common.store.feed_of(provider.venue(), &common.epoch, time::wall()).context("too many providers")?;
        }
        observe(&common);

        let control = Builder::new_multi_thread()
            .worker_threads(config.server.control_threads)
            .thread_name("control")
            .on_thread_start(lower_priority)
            .enable_all()
            .build()?;
        let workers = match config.server.worker_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(crate::limits::WORKERS_MAX),
            threads => threads,
        };
        let mut joints = Joints::new(config.server.feed_threads, workers, &registry);
        let (http_stopper, http_stop) = stop_signal();
        let (drain_stopper, drain) = stop_signal();
        let (worker_stopper, worker_stop) = stop_signal();
        let (feed_stopper, feed_stop) = stop_signal();
        let admissions = Admissions::default();
        let connections_max = config.session().connections_max;
        let verifier: Arc<dyn Verifier> = Arc::new(ControlVerifier {
            runtime: control.handle().clone(),
            authenticator: Arc::clone(&authenticator),
            admissions: admissions.clone(),
            connections_max,
        });
        let meters = Arc::new(Meters::new(&registry));
        let stops = (&drain, &worker_stop);
        let (doors, workers) = start_workers(config, &mut joints, &common, &verifier, &meters, stops)?;
        let feeds = start_feeds(config, &mut joints, &common, &feed_stop)?;

        show_bounds(config, &registry);
        let door = Door::new(
            doors,
            (config.limits.sessions, config.limits.unauthenticated),
            connections_max,
            Arc::clone(&authenticator),
            admissions,
            meters,
        );
        let readiness = Arc::new(Readiness::default());
        let api = api(config, &common, &authenticator, &readiness);
        let (listen, ops) = control.block_on(async {
            anyhow::Ok((
                bind(config.server.listen, "server.listen")?,
                bind(config.server.ops_listen, "server.ops_listen")?,
            ))
        })?;
        let (at, ops_at) = (listen.local_addr()?, ops.local_addr()?);
        let limits = http::ServeLimits {
            connections_max: u32::try_from(config.limits.unauthenticated).unwrap_or(u32::MAX),
            header_timeout: config.timeouts.header,
            ..http::ServeLimits::default()
        };
        let upgrade = http::upgrade_router(Arc::new(door), config.timeouts.handshake.duration());
        let public = http::public_router(Arc::clone(&api), upgrade);
        let gate = gate(config, &registry);
        control.spawn(http::serve(listen, public, limits.clone(), gate, "public", Arc::clone(&registry), http_stop));
        // Who reaches it is for the operator to say, by its address.
        let open = Gate::open(&registry);
        // The operations listener outlives the drain, so that it can be watched.
        control.spawn(http::serve(ops, http::ops_router(api), limits, open, "ops", Arc::clone(&registry), feed_stop));
        readiness.advance(ReadinessState::Ready);

        let token = authenticator.sign(&DevelopmentKey::token_request(), time::wall()).unwrap_or_default();
        let ready = Ready {
            http: format!("http://{at}"),
            ws: format!("ws://{at}/api/v1/ws/prices"),
            ops: format!("http://{ops_at}"),
            token,
        };
        Ok(Self {
            ready,
            development,
            registry,
            readiness,
            http_stopper,
            drain_stopper,
            worker_stopper,
            feed_stopper,
            workers,
            feeds,
            drain: config.timeouts.drain.duration() + config.timeouts.close.duration(),
            control: Some(control),
        })
    }

    /// Where it listens, and a token for it.
    #[must_use]
    pub const fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Its metrics.
    #[must_use]
    pub const fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Stops accepting, gives everyone the last values and tells them to come back later, spread
    /// over the drain time; then ends the workers and, last, the feeds.
    pub fn drain(mut self) {
        self.readiness.advance(ReadinessState::Draining);
        self.http_stopper.stop();
        self.drain_stopper.stop();
        wait_for(&mut self.workers, self.drain + END_GRACE);
        self.worker_stopper.stop();
        wait_for(&mut self.workers, END_GRACE);
        self.feed_stopper.stop();
        wait_for(&mut self.feeds, END_GRACE);
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.http_stopper.stop();
        self.worker_stopper.stop();
        self.feed_stopper.stop();
        if let Some(control) = self.control.take() {
            // May be dropped inside another runtime, where blocking is not allowed.
            control.shutdown_background();
        }
    }
}

/// Runs a hub until SIGTERM or SIGINT, then drains it. Standard output gets a token in
/// development mode, and nothing else.
///
/// # Errors
/// Where the hub cannot start.
pub fn serve(config: Config, ready_file: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    start_log(&config)?;
    raise_open_files();
    let draft = ready_file.as_deref().map(Draft::make).transpose()?;
    let hub = Hub::start(&config)?;
    let ready = hub.ready().clone();
    if hub.development {
        announce(&ready);
    }
    if let Some(draft) = draft {
        draft.publish(&ready)?;
    }
    tracing::info!(ws = ready.ws, http = ready.http, ops = ready.ops, "ready");
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        anyhow::Ok(())
    })?;
    tracing::info!("draining");
    hub.drain();
    if let Some(path) = &ready_file {
        // Whoever looks for it finds a hub there, or nothing.
        let _ = std::fs::remove_file(path);
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout)] // This is what was asked for.
fn announce(ready: &Ready) {
    println!("{}", ready.token);
}

fn start_log(config: &Config) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log.level).context("log.level")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.log.format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("starting the log: {error}"))
}

fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    let fix = || format!("{key} = {address}: cannot listen there; free it or choose another address (port 0 = any)");
    socket.bind(address).with_context(fix)?;
    socket.listen(BACKLOG).with_context(fix)
}

/// What the HTTP interface is about.
fn api(config: &Config, common: &Common, authenticator: &Arc<Authenticator>, readiness: &Arc<Readiness>) -> Arc<Api> {
    let (store, registry) = (Arc::clone(&common.store), Arc::clone(&common.registry));
    let api = Api::new(store, Arc::clone(authenticator), registry, Arc::clone(readiness));
    Arc::new(api.with_browsers(Browsers::new(config.server.allowed_origins.clone(), false)))
}

/// Who may come in to the public listener.
fn gate(config: &Config, registry: &Registry) -> Arc<Gate> {
    let limits = &config.limits;
    let gate = Gate::new(limits.per_address.clone(), config.server.proxies(), limits.handshakes_per_second, registry);
    gate.show(registry);
    gate
}

/// The epoch of this process's numbering.
fn epoch() -> anyhow::Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("the system gave no random bytes: {error}"))?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

/// The bounds of queues, beside their depths.
fn show_bounds(config: &Config, registry: &Registry) {
    registry.gauge(metrics::SESSIONS_MAX, &[]).set(config.limits.sessions as f64);
    registry.gauge(metrics::OUTBOX_EVENTS_MAX, &[]).set(config.limits.outbox_events as f64);
    registry.gauge(metrics::OUTBOX_MEMORY_MAX, &[]).set(config.limits.outboxes_bytes as f64);
    registry.gauge(metrics::OUTBOX_BYTES_MAX, &[]).set(config.limits.outbox_bytes as f64);
}

/// Gauges that are read when asked for.
fn observe(common: &Common) {
    let registry = &common.registry;
    let (instruments, bytes) = (registry.gauge(metrics::INSTRUMENTS, &[]), registry.gauge(metrics::RING_BYTES, &[]));
    let (max, refused) = (registry.gauge(metrics::RING_BYTES_MAX, &[]), registry.counter(metrics::RINGS_REFUSED, &[]));
    let store = Arc::clone(&common.store);
    registry.before_scrape(move || {
        let rings = store.ring_use();
        instruments.set(f64::from(store.len()));
        bytes.set(rings.bytes_used as f64);
        max.set(rings.bytes_max as f64);
        refused.absolute(rings.refused);
    });
}

/// Handshakes, tokens and REST give way to the data side.
fn lower_priority() {
    // Not allowed in every container; the hub works without it.
    let _ = rustix::process::setpriority_process(None, CONTROL_NICE);
}

/// Every session is an open file: take as many as the system allows.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        limit.current = limit.maximum;
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

fn wait_for(threads: &mut Vec<JoinHandle<()>>, at_most: Duration) {
    let until = time::mono() + time::duration_ns(at_most);
    while threads.iter().any(|thread| !thread.is_finished()) && time::mono() < until {
        std::thread::park_timeout(Duration::from_millis(10));
    }
    threads.retain(|thread| !thread.is_finished());
}

fn join(faults: &[crate::settings::Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
