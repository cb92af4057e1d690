//! The sections that belong to no other module.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use crate::http::AllowedOrigin;
use crate::limits::WORKERS_MAX;
use crate::session::PrincipalLimits;
use crate::settings::{Fault, Span};
use crate::transport::tls::TlsConfig;
use crate::transport::{AddressLimits, ForwardedHeader, Network, Proxies, ProxyProtocol};

/// Most feed threads, and threads of the control side: beyond, they only take turns.
const THREADS_MAX: usize = 64;
/// Most sessions: beyond what one machine's memory holds.
const SESSIONS_MAX: usize = 10_000_000;
/// Longest of any timeout: what is longer was meant to be another number.
const TIMEOUT_MAX: Span = Span::seconds(24 * 3600);

/// Where the hub listens, and on how many threads it works.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Address of the WebSocket and HTTP interface; port 0 = any free one.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// Address of `/metrics`, `/livez` and `/readyz`, which ask for no credentials.
    #[serde(deserialize_with = "address")]
    pub ops_listen: SocketAddr,
    /// Directory for what must outlive the process; made if it is not there.
    pub state_dir: PathBuf,
    /// Threads that own the subscribers; 0 = one per core.
    pub worker_threads: usize,
    /// Threads that run the providers, each of which stays on one.
    pub feed_threads: usize,
    /// Threads for handshakes, tokens and HTTP.
    pub control_threads: usize,
    /// TLS of the WebSocket and HTTP interface.
    pub tls: TlsConfig,
    /// TLS of the operations listener.
    pub ops_tls: TlsConfig,
    /// Pages that browsers may use the hub from.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// Proxies that are believed when they say for whom they speak.
    pub trusted_proxies: Vec<Network>,
    /// What they begin a connection with.
    pub proxy_protocol: ProxyProtocol,
    /// Which header of theirs names the client.
    pub forwarded_header: ForwardedHeader,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            ops_listen: SocketAddr::from(([127, 0, 0, 1], 9090)),
            state_dir: PathBuf::from(".state"),
            worker_threads: 0,
            feed_threads: 1,
            control_threads: 2,
            tls: TlsConfig::default(),
            ops_tls: TlsConfig::default(),
            allowed_origins: vec![AllowedOrigin::SameHost, AllowedOrigin::Localhost],
            trusted_proxies: Vec::new(),
            proxy_protocol: ProxyProtocol::Off,
            forwarded_header: ForwardedHeader::XForwardedFor,
        }
    }
}

impl ServerConfig {
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        if self.listen.port() != 0 && self.listen == self.ops_listen {
            let reason = "is the address of server.listen too; give it another port";
            faults.push(Fault::new("server.ops_listen", self.ops_listen.to_string(), reason));
        }
        if self.state_dir.as_os_str().is_empty() {
            faults.push(Fault::new("server.state_dir", "", "must name a directory"));
        }
        if self.proxy_protocol != ProxyProtocol::Off && self.trusted_proxies.is_empty() {
            let reason = "is believed from trusted proxies only; name them in server.trusted_proxies";
            faults.push(Fault::new("server.proxy_protocol", self.proxy_protocol.as_str(), reason));
        }
        within(faults, "server.worker_threads", self.worker_threads, 0, WORKERS_MAX);
        within(faults, "server.feed_threads", self.feed_threads, 1, THREADS_MAX);
        within(faults, "server.control_threads", self.control_threads, 1, THREADS_MAX);
        for (path, tls) in self.tls() {
            faults.extend(tls.faults(path));
        }
    }

    /// TLS of each listener, with the path of its section.
    #[must_use]
    pub const fn tls(&self) -> [(&'static str, &TlsConfig); 2] {
        [("server.tls", &self.tls), ("server.ops_tls", &self.ops_tls)]
    }
}

impl ServerConfig {
    /// Which proxies are believed.
    #[must_use]
    pub fn proxies(&self) -> Proxies {
        Proxies { trusted: self.trusted_proxies.clone(), protocol: self.proxy_protocol, header: self.forwarded_header }
    }
}

/// How long the hub waits, for each thing that a peer could let it wait for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutsConfig {
    /// From the accepted connection to the end of its handshake.
    pub handshake: Span,
    /// For a request's line and headers.
    pub header: Span,
    /// For the first credential of a session that came without one (4503).
    pub authentication: Span,
    /// Between the pings that the hub sends.
    pub ping: Span,
    /// Without a sign of life from the client (4002).
    pub idle: Span,
    /// With something waiting that the client does not take (4001).
    pub write_stall: Span,
    /// For which snapshots and resumed events that wait do not count as a backlog.
    pub catch_up: Span,
    /// For a close behind a full socket, before it is reset.
    pub close: Span,
    /// Over which a drain spreads its goodbyes; clients come back within it.
    pub drain: Span,
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self {
            handshake: Span::seconds(10),
            header: Span::seconds(5),
            authentication: Span::seconds(5),
            ping: Span::seconds(15),
            idle: Span::seconds(45),
            write_stall: Span::seconds(20),
            catch_up: Span::seconds(30),
            close: Span::seconds(2),
            drain: Span::seconds(5),
        }
    }
}

impl TimeoutsConfig {
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        let spans = [
            ("handshake", self.handshake),
            ("header", self.header),
            ("authentication", self.authentication),
            ("ping", self.ping),
            ("idle", self.idle),
            ("write_stall", self.write_stall),
            ("close", self.close),
        ];
        for (name, span) in spans {
            if span < Span::millis(1) || span > TIMEOUT_MAX {
                let reason = format!("must be from 1ms to {TIMEOUT_MAX}");
                faults.push(Fault::new(format!("timeouts.{name}"), span.to_string(), reason));
            }
        }
        // No drain at all is a choice: every session is said goodbye at once. So is no grace.
        for (name, span) in [("drain", self.drain), ("catch_up", self.catch_up)] {
            if span > TIMEOUT_MAX {
                let reason = format!("must be at most {TIMEOUT_MAX}");
                faults.push(Fault::new(format!("timeouts.{name}"), span.to_string(), reason));
            }
        }
        if self.idle <= self.ping {
            let reason = format!("must be longer than timeouts.ping, {}: a healthy client answers that", self.ping);
            faults.push(Fault::new("timeouts.idle", self.idle.to_string(), reason));
        }
    }
}

/// What one session, and all of them, may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Sessions at the same time, over all principals.
    pub sessions: usize,
    /// Connections that have not finished their handshake, or not shown a credential.
    pub unauthenticated: usize,
    /// Connections that are accepted in a second, over all addresses.
    pub handshakes_per_second: u32,
    /// Sessions of one subject at the same time, whatever its role allows.
    pub connections: u32,
    /// Longest message of a client, in bytes.
    pub message_bytes: usize,
    /// Commands a second of one session, whatever its role allows.
    pub commands_per_second: u32,
    /// Entries of one session, whatever its role allows.
    pub subscriptions: u32,
    /// Events in `every` mode that wait for one blocked session, before its overflow policy.
    pub outbox_events: usize,
    /// Bytes that wait for one blocked session, before its overflow policy.
    pub outbox_bytes: usize,
    /// Memory of what waits for all sessions together, in bytes; beyond, those with the most are
    /// closed (4005).
    pub outboxes_bytes: usize,
    /// Bytes of answers that wait for one session before its next command is read.
    pub answer_bytes: usize,
    /// Memory for the recent events that `resume` goes on from, in bytes, for all instruments.
    pub resume_bytes: usize,
    /// What one address may take.
    pub per_address: AddressLimits,
    /// What all sessions of one subject may do together.
    pub per_principal: PrincipalLimits,
}

const KIB: usize = 1024;
pub(super) const MIB: usize = 1024 * KIB;
pub(super) const GIB: usize = 1024 * MIB;

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            sessions: 100_000,
            unauthenticated: 1_024,
            handshakes_per_second: 10_000,
            connections: 100_000,
            message_bytes: 64 * KIB,
            commands_per_second: 100,
            subscriptions: 10_000,
            outbox_events: 4_096,
            outbox_bytes: MIB,
            outboxes_bytes: GIB,
            answer_bytes: 256 * KIB,
            resume_bytes: 256 * MIB,
            per_address: AddressLimits::default(),
            per_principal: PrincipalLimits::default(),
        }
    }
}

impl LimitsConfig {
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        within(faults, "limits.sessions", self.sessions, 1, SESSIONS_MAX);
        within(faults, "limits.connections", self.connections as usize, 1, SESSIONS_MAX);
        within(faults, "limits.unauthenticated", self.unauthenticated, 1, 1_000_000);
        // A token of the longest form must fit into an `auth` command.
        within(faults, "limits.message_bytes", self.message_bytes, 16 * KIB, 16 * MIB);
        within(faults, "limits.commands_per_second", self.commands_per_second as usize, 1, 1_000_000);
        within(faults, "limits.subscriptions", self.subscriptions as usize, 1, 1_000_000);
        within(faults, "limits.outbox_events", self.outbox_events, 16, 16_777_216);
        within(faults, "limits.outbox_bytes", self.outbox_bytes, 64 * KIB, GIB);
        within(faults, "limits.outboxes_bytes", self.outboxes_bytes, self.outbox_bytes.max(MIB), 1024 * GIB);
        within(faults, "limits.answer_bytes", self.answer_bytes, 16 * KIB, GIB);
        within(faults, "limits.resume_bytes", self.resume_bytes, 0, 1024 * GIB);
        within(faults, "limits.handshakes_per_second", self.handshakes_per_second as usize, 1, 1_000_000_000);
        self.per_address.check("limits.per_address", faults);
        self.per_principal.check("limits.per_principal", faults);
    }
}

/// What the hub writes to standard error.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Level, or directives by module such as `info,tickhub::provider=debug`.
    pub level: String,
    /// How lines are written.
    pub format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl LogConfig {
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        // A bare word is a level here; to the filter any other would be a module's name.
        let words = self.level.split(',').filter(|part| !part.contains('='));
        let levels = ["error", "warn", "info", "debug", "trace", "off"];
        let sane = words.map(|word| word.trim().to_ascii_lowercase()).all(|word| levels.contains(&word.as_str()));
        if !sane || tracing_subscriber::EnvFilter::try_new(&self.level).is_err() {
            let reason = "is not a level; write error, warn, info, debug, trace or off, also by module: \
                          \"info,tickhub::provider=debug\"";
            faults.push(Fault::new("log.level", &self.level, reason));
        }
    }
}

pub(super) fn within(faults: &mut Vec<Fault>, key: &str, value: usize, least: usize, most: usize) {
    if !(least..=most).contains(&value) {
        faults.push(Fault::new(key, value, format!("must be from {least} to {most}")));
    }
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong =
        "is not an address; write IP:PORT such as \"127.0.0.1:8080\" or \"[::1]:8080\", port 0 for any free one";
    text.parse().map_err(|_| serde::de::Error::custom(wrong))
}
