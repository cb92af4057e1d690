//! The composition root: builds every part, starts every thread, and drains them in order.

mod auditing;
mod ready;
mod reload;
mod secure;
mod threads;
mod watch;
mod worlds;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::audit::{Audit, Auditor};
use crate::auth::{Authenticator, Authority, DevelopmentKey, Revocations, check_listen};
use crate::config::{Config, LogFormat, ServeFiles};
use crate::http::{self, Api, Browsers, IssuerHealth, Readiness, ReadinessState};
use crate::identity::{Freshness, Identity};
use crate::metrics::{self, Registry};
use crate::session::{Admissions, Meters};
use crate::shutdown::{Stopper, stop_signal};
use crate::state::{FileState, FileStore, StateMeters, StateOptions, StateStore};
use crate::store::Store;
use crate::time;
use crate::transport::{ControlVerifier, Door, Gate, Orders, SharedTerms, Terms, Verifier};

pub use ready::Ready;
pub use reload::Reloaded;

use ready::Draft;
use secure::Secured;
use threads::Common;
use watch::Watch;
use worlds::{Data, start_data};

/// What the listeners' sockets may have waiting in the kernel.
const BACKLOG: u32 = 4096;

/// How much lower than the data side the control side is scheduled.
const CONTROL_NICE: i32 = 5;

/// How long the threads may take to end after everyone has been told to go.
const END_GRACE: Duration = Duration::from_secs(3);

/// How long a hub that starts waits for the keys of issuers. Without them their subscribers would
/// be refused; behind it they are, until the keys come.
const KEYS_WAIT: Duration = Duration::from_secs(3);

/// A running hub. Dropping it ends it without a drain.
pub struct Hub {
    ready: Ready,
    /// What it runs with: what it was started with, and what reloads have changed of that.
    config: Config,
    /// The key of development mode, where it was started in that.
    development: Option<DevelopmentKey>,
    authority: Arc<Authority>,
    terms: SharedTerms,
    registry: Arc<Registry>,
    readiness: Arc<Readiness>,
    orders: Orders,
    http_stopper: Stopper,
    drain_stopper: Stopper,
    worker_stopper: Stopper,
    feed_stopper: Stopper,
    workers: Vec<JoinHandle<()>>,
    feeds: Vec<JoinHandle<()>>,
    drain: Duration,
    /// Follows the keys of issuers for as long as it is there.
    identity: Identity,
    control: Option<Runtime>,
    /// Dropped last: whatever ends may be recorded.
    auditor: Auditor,
}

impl Hub {
    /// Starts a hub. When this returns it listens.
    ///
    /// # Errors
    /// Where the configuration cannot work here: an address in use, a state directory that is
    /// not ours, no keys on a public address.
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        let revocations = Arc::new(Revocations::default());
        let (development, authority) = authority(config, &revocations)?;
        let registry = Registry::new();
        let auditor = auditing::start(config, &registry)?;
        let audit = auditor.audit();
        let state = open_state(config, &revocations, &registry, &audit)?;
        let store = Store::new(config.limits.resume_bytes);
        let epoch = epoch()?.into();
        let common = Common { store, registry: Arc::clone(&registry), epoch, audit: audit.clone(), revocations };
        for provider in &config.provider {
            common.store.feed_of(provider.venue(), &common.epoch, time::wall()).context("too many providers")?;
        }
        observe(&common);

        let control = control_runtime(config)?;
        let identity = Identity::new(control.handle().clone(), Arc::clone(&registry));
        identity.follow(&authority.current());
        let (http_stopper, http_stop) = stop_signal();
        let (drain_stopper, drain) = stop_signal();
        let (worker_stopper, worker_stop) = stop_signal();
        let (feed_stopper, feed_stop) = stop_signal();
        let admissions = Admissions::default();
        let terms: SharedTerms = Arc::new(ArcSwap::from_pointee(terms(config)));
        let verifier: Arc<dyn Verifier> = Arc::new(ControlVerifier {
            runtime: control.handle().clone(),
            authenticator: Arc::clone(&authority),
            admissions: admissions.clone(),
            terms: Arc::clone(&terms),
            fetched: identity.fetched(),
        });
        let meters = Arc::new(Meters::new(&registry));
        let data = start_data(config, &common, verifier, &meters, &terms, [&drain, &worker_stop, &feed_stop])?;
        let Data { workers, feeds, worlds, delayed, orders } = data;

        show_bounds(config, &registry);
        let door =
            Door::new(worlds, Arc::clone(&terms), Arc::clone(&authority), admissions, orders.number().clone(), meters)
                .with_audit(audit.clone());
        let readiness = Arc::new(Readiness::default());
        let secured = Secured::new(config, &registry)?;
        let store = Arc::clone(&common.store);
        let api =
            Api::new(store, Arc::clone(&authority), Arc::clone(&registry), Arc::clone(&readiness), orders.clone());
        let api = api.with_delayed(delayed).with_certificates(secured.certificates()).with_audit(audit.clone());
        let browsers = Browsers::new(config.server.allowed_origins.clone(), config.server.tls.is_on());
        let api = Arc::new(api.with_issuers(issuers_of(&identity)).with_browsers(browsers));
        let (listen, ops) = control.block_on(async {
            identity.settled(KEYS_WAIT).await;
            anyhow::Ok((
                bind(config.server.listen, "server.listen")?,
                bind(config.server.ops_listen, "server.ops_listen")?,
            ))
        })?;
        let (at, ops_at) = (listen.local_addr()?, ops.local_addr()?);
        let limits = serve_limits(config);
        let upgrade = http::upgrade_router(Arc::new(door), config.timeouts.handshake.duration());
        let tokens = token_router(config, (&authority, &audit), state, &registry);
        let public = http::public_router(Arc::clone(&api), upgrade.merge(tokens));
        secured.watch(&control, &feed_stop);
        let (listen, ops) = secured.listeners(listen, ops);
        let gate = gate(config, &registry);
        control.spawn(http::serve(listen, public, limits.clone(), gate, "public", Arc::clone(&registry), http_stop));
        // Who reaches it is for the operator to say, by its address.
        let open = Gate::open(&registry);
        // The operations listener outlives the drain, so that it can be watched.
        control.spawn(http::serve(ops, http::ops_router(api), limits, open, "ops", Arc::clone(&registry), feed_stop));
        readiness.advance(ReadinessState::Ready);
        auditing::started(&audit, at, ops_at);

        let token = authority.sign(&DevelopmentKey::token_request(), time::wall()).unwrap_or_default();
        reload::loaded(&registry, 0);
        Ok(Self {
            ready: secure::ready(config, at, ops_at, token),
            config: config.clone(),
            development,
            authority,
            terms,
            registry,
            readiness,
            orders,
            http_stopper,
            drain_stopper,
            worker_stopper,
            feed_stopper,
            workers,
            feeds,
            drain: config.timeouts.drain.duration() + config.timeouts.close.duration(),
            identity,
            control: Some(control),
            auditor,
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

    /// How its workers are told whom to end.
    #[must_use]
    pub const fn orders(&self) -> &Orders {
        &self.orders
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
        auditing::stopped(&self.auditor.audit());
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

/// Runs a hub until SIGTERM or SIGINT, then drains it; SIGHUP, or a change of the configuration's
/// files, has them read again. Standard output gets a token in development mode, and nothing else.
///
/// # Errors
/// Where the hub cannot start.
pub fn serve(config: Config, files: ServeFiles) -> anyhow::Result<ExitCode> {
    let watch = Watch::new(files.config.clone());
    let set_level = start_log(&config)?;
    raise_open_files();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    // Before anyone can know of the process: without a handler a signal would end it.
    let signals = {
        let _inside = runtime.enter();
        Signals::new()?
    };
    let draft = files.ready.as_deref().map(Draft::make).transpose()?;
    let mut hub = Hub::start(&config)?;
    let ready = hub.ready().clone();
    if hub.development.is_some() {
        announce(&ready);
    }
    if let Some(draft) = draft {
        draft.publish(&ready)?;
    }
    tracing::info!(ws = ready.ws, http = ready.http, ops = ready.ops, "ready");
    runtime.block_on(until_terminated(&mut hub, signals, watch, files.config.as_deref(), &set_level));
    tracing::info!("draining");
    hub.drain();
    if let Some(path) = &files.ready {
        // Whoever looks for it finds a hub there, or nothing.
        let _ = std::fs::remove_file(path);
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// What the process is told from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

async fn until_terminated(
    hub: &mut Hub,
    mut signals: Signals,
    mut watch: Watch,
    file: Option<&Path>,
    set_level: &SetLevel,
) {
    loop {
        let cause = tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.hangup.recv() => "SIGHUP",
            () = watch.changed() => "a file has changed",
        };
        tracing::info!(cause, "reading the configuration again");
        // Before it is read: what changes from here on is seen.
        watch.look().await;
        reload::read_again(hub, file, set_level).await;
    }
}

#[allow(clippy::print_stdout)] // This is what was asked for.
fn announce(ready: &Ready) {
    println!("{}", ready.token);
}

/// Puts another level in the place of the log's.
type SetLevel = Box<dyn Fn(&str) -> anyhow::Result<()>>;

fn start_log(config: &Config) -> anyhow::Result<SetLevel> {
    let filter = EnvFilter::try_new(&config.log.level).context("log.level")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let failed = |error| anyhow::anyhow!("starting the log: {error}");
    match config.log.format {
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().map_err(failed)?;
            Ok(Box::new(move |level| Ok(handle.reload(EnvFilter::try_new(level)?)?)))
        }
        LogFormat::Text => {
            let colors = std::io::IsTerminal::is_terminal(&std::io::stderr());
            let builder = builder.with_ansi(colors).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().map_err(failed)?;
            Ok(Box::new(move |level| Ok(handle.reload(EnvFilter::try_new(level)?)?)))
        }
    }
}

/// The key of development mode, where the configuration has none, and who judges credentials.
fn authority(
    config: &Config,
    revocations: &Arc<Revocations>,
) -> anyhow::Result<(Option<DevelopmentKey>, Arc<Authority>)> {
    check_listen(&config.auth, &[config.server.listen, config.server.ops_listen])?;
    let development = config.auth.is_development();
    let key = development.then(|| DevelopmentKey::open(&config.server.state_dir)).transpose()?;
    let authenticator =
        Authenticator::new(&config.auth, key.as_ref()).map_err(|faults| anyhow::anyhow!("auth: {}", join(&faults)))?;
    Ok((key, Arc::new(Authority::new(authenticator.with_revocations(Arc::clone(revocations))))))
}

fn control_runtime(config: &Config) -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(config.server.control_threads)
        .thread_name("control")
        .on_thread_start(lower_priority)
        .enable_all()
        .build()
}

fn terms(config: &Config) -> Terms {
    Terms {
        sessions_max: config.limits.sessions,
        strangers_max: config.limits.unauthenticated,
        session: Arc::new(config.session()),
    }
}

fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    let fix = || format!("{key} = {address}: cannot listen there; free it or choose another address (port 0 = any)");
    socket.bind(address).with_context(fix)?;
    socket.listen(BACKLOG).with_context(fix)
}

/// What health says of the issuers of tokens.
fn issuers_of(identity: &Identity) -> impl Fn() -> Vec<IssuerHealth> + Send + Sync + use<> {
    let observer = identity.observer();
    let health = |status: crate::identity::IssuerStatus| IssuerHealth {
        name: status.name,
        state: status.freshness.as_str(),
        keys: status.keys,
        keys_age_seconds: status.age.map(|age| age.as_secs()),
        is_current: status.freshness == Freshness::Current,
    };
    move || observer().into_iter().map(health).collect()
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

fn token_router(
    config: &Config,
    (of, audit): (&Arc<Authority>, &Audit),
    state: FileStore,
    registry: &Arc<Registry>,
) -> axum::Router {
    let state: Arc<dyn StateStore> = Arc::new(state);
    let api = http::TokenApi::new(Arc::clone(of), state, Arc::clone(registry), config.auth.tokens);
    http::token_router(Arc::new(api.with_audit(audit.clone())))
}

/// What outlived the last process, shown to everyone who judges before anyone is let in.
fn open_state(
    config: &Config,
    revocations: &Arc<Revocations>,
    registry: &Registry,
    audit: &Audit,
) -> anyhow::Result<FileStore> {
    let options = StateOptions { lifetimes: config.auth.tokens, ..StateOptions::default() };
    let state = FileState::open(&config.server.state_dir, options).context("server.state_dir")?;
    Ok(FileStore::start(state, Arc::clone(revocations), audit.clone(), StateMeters::new(registry))?)
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

fn serve_limits(config: &Config) -> http::ServeLimits {
    http::ServeLimits {
        connections_max: u32::try_from(config.limits.unauthenticated).unwrap_or(u32::MAX),
        header_timeout: config.timeouts.header,
        ..http::ServeLimits::default()
    }
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
