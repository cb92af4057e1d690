//! Every metric of the hub: its name, kind and help once, and the registry that renders them.
//!
//! Each hub has a registry of its own; nothing is global. Counters and gauges are handles that
//! are made once and kept; threads of the hot path count in plain integers of their own and
//! publish a few times a second.

mod histogram;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

pub use histogram::Histogram;
pub use metrics::{Counter, Gauge};

/// What a metric is, for its `# TYPE` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

macro_rules! metric_names {
    ($($(#[$doc:meta])* $ident:ident = $name:literal, $kind:ident, $help:literal;)*) => {
        $(#[doc = $help] pub const $ident: &str = $name;)*
        /// Every metric: name, kind, help.
        pub const ALL: &[(&str, Kind, &str)] = &[$(($name, Kind::$kind, $help)),*];
    };
}

metric_names! {
    BUILD_INFO = "tickhub_build_info", Gauge, "Always 1; the version is in its label";
    CONFIG_RELOADS = "tickhub_config_reloads_total", Counter, "Times that the configuration was read again, by outcome";
    CONFIG_LOADED = "tickhub_config_loaded_timestamp_seconds", Gauge, "When the configuration in use was read, in Unix time";
    CONFIG_WAITING = "tickhub_config_waiting_keys", Gauge, "Keys of the configuration that differ from what is in use and wait for a restart";
    EVENTS = "tickhub_ingest_events_total", Counter, "Events taken in, by venue and kind";
    REJECTS = "tickhub_ingest_rejects_total", Counter, "Upstream messages or parts of them refused, by venue and reason";
    UPSTREAM_GAPS = "tickhub_ingest_upstream_gaps_total", Counter, "Losses of the venue's streams, by venue and kind";
    BOOK_FAULTS = "tickhub_ingest_book_faults_total", Counter, "Books found broken, by venue and reason";
    ENCODED = "tickhub_ingest_encoded_total", Counter, "Events encoded for subscribers, by format";
    BINARY_UNFIT = "tickhub_binary_unfit_total", Counter, "Events that no binary record can hold, encoded as JSON text instead";
    FEED_STATE = "tickhub_feed_state", Gauge, "1 for the state that the venue's feed is in, 0 for the others";
    FEED_CHANGES = "tickhub_feed_state_changes_total", Counter, "Changes of a feed's state, by venue and new state";
    RECONNECTS = "tickhub_feed_reconnects_total", Counter, "Connections to a venue made anew, by venue";
    FEED_ERRORS = "tickhub_feed_errors_total", Counter, "Connections to a venue that failed, by venue and class";
    BREAKER_OPEN = "tickhub_feed_breaker_open", Gauge, "1 while the circuit breaker of a venue is open";
    FEED_BACKOFF = "tickhub_feed_backoff_seconds", Gauge, "The pause before the next connection attempt, by venue; 0 while connected";
    FEED_STREAMS_SILENT = "tickhub_feed_streams_silent", Gauge, "Subscribed upstream streams that never sent anything, by venue";
    FEED_SYMBOLS_SKIPPED = "tickhub_feed_symbols_skipped", Gauge, "Venue symbols that cannot be written as an instrument id";
    FEED_REST_REQUESTS = "tickhub_feed_rest_requests_total", Counter, "REST requests to a venue, by outcome";
    SIM_LATENESS = "tickhub_sim_lateness_seconds", Histogram, "How late the simulated market made its events, after their planned time";
    LATENCY = "tickhub_stage_latency_seconds", Histogram, "Time spent from stage to stage, from venue to socket";
    CLOCK_AHEAD = "tickhub_venue_clock_ahead_total", Counter, "Events whose venue time lies after their receive time (counted as 0 latency)";
    INSTRUMENTS = "tickhub_instruments", Gauge, "Instruments known";
    RING_BYTES = "tickhub_resume_ring_bytes", Gauge, "Memory of the rings of recent events";
    RING_BYTES_MAX = "tickhub_resume_ring_bytes_max", Gauge, "Bound of tickhub_resume_ring_bytes";
    RINGS_REFUSED = "tickhub_resume_rings_refused_total", Counter, "Streams without a ring because the budget is used up";
    DELAY_BYTES = "tickhub_delay_line_bytes", Gauge, "Bytes that wait out a delay, by delay and feed thread";
    DELAY_BYTES_MAX = "tickhub_delay_line_bytes_max", Gauge, "Bound of tickhub_delay_line_bytes";
    DELAY_RECORDS = "tickhub_delay_line_records", Gauge, "Calls of providers that wait out a delay";
    DELAY_AGE = "tickhub_delay_line_age_seconds", Gauge, "Age of the oldest record that waits out a delay";
    DELAY_LAG = "tickhub_delay_lag_seconds", Gauge, "How far a delayed world was behind its delay, at most in the last tenth of a second";
    DELAY_DROPPED = "tickhub_delay_dropped_total", Counter, "Records that did not fit into a delay line, or followed one of their instrument that did not";
    DELAY_RESYNCS = "tickhub_delay_resyncs_total", Counter, "Instruments brought up to date in a delayed world behind dropped records";
    LANE_DEPTH = "tickhub_lane_events", Gauge, "Events waiting in the lane from a feed thread to a worker";
    LANE_DEPTH_MAX = "tickhub_lane_events_max", Gauge, "Bound of tickhub_lane_events";
    LANE_DROPPED = "tickhub_lane_dropped_total", Counter, "Events that found a lane full; the worker's subscribers are told of a gap";
    WORKER_WAKES = "tickhub_worker_wakes_total", Counter, "Times that an event woke a sleeping worker, by worker; a busy one needs no waking";
    FEED_REQUESTS_FULL = "tickhub_feed_requests_full_total", Counter, "Requests of workers that found a feed thread's mailbox full and were tried again";
    SESSIONS = "tickhub_sessions", Gauge, "Open sessions, by transport and worker";
    SESSIONS_OPENED = "tickhub_sessions_opened_total", Counter, "Sessions opened, by transport";
    SESSIONS_CLOSED = "tickhub_sessions_closed_total", Counter, "Sessions closed, by transport and reason";
    ORDERS = "tickhub_orders_total", Counter, "Orders of the control side to a worker, by kind and outcome";
    SUBSCRIPTIONS = "tickhub_subscriptions", Gauge, "Subscription entries held by sessions, by worker";
    STREAMS = "tickhub_streams_active", Gauge, "Streams that at least one session of a worker wants";
    DELIVERIES = "tickhub_deliveries_total", Counter, "Events written to sessions, by transport and format";
    BYTES_OUT = "tickhub_sent_bytes_total", Counter, "Bytes written to sessions, by transport and format";
    WRITES = "tickhub_writes_total", Counter, "Socket writes, by transport";
    WRITES_BLOCKED = "tickhub_writes_blocked_total", Counter, "Socket writes that found the socket full or took only a part";
    CONFLATED = "tickhub_conflated_total", Counter, "Events replaced by a newer value before they were written";
    GAPPED = "tickhub_gapped_total", Counter, "Events that subscribers were told of as a gap, by cause";
    OUTBOX_BLOCKED = "tickhub_outbox_blocked_sessions", Gauge, "Sessions whose socket is full, by worker";
    OUTBOX_BYTES = "tickhub_outbox_bytes", Gauge, "Bytes waiting for full sockets, by worker";
    OUTBOX_BYTES_MAX = "tickhub_outbox_session_bytes_max", Gauge, "Bound of the bytes waiting for one session";
    OUTBOX_EVENTS_MAX = "tickhub_outbox_session_events_max", Gauge, "Bound of the events waiting for one session";
    OUTBOX_OVERFLOWS = "tickhub_outbox_overflows_total", Counter, "Times that a session's outbox was full and its overflow policy applied, by policy";
    OUTBOX_BYTES_MOST = "tickhub_outbox_bytes_most", Gauge, "Bytes waiting for the fullest socket, by worker";
    OUTBOX_GRACE = "tickhub_outbox_grace_sessions", Gauge, "Sessions that catch up with what they asked for and are not judged by it, by worker";
    OUTBOX_MEMORY = "tickhub_outbox_memory_bytes", Gauge, "Memory of what waits for full sockets as the budget counts it, by worker";
    OUTBOX_MEMORY_MAX = "tickhub_outbox_memory_bytes_max", Gauge, "The budget, bound of the sum of tickhub_outbox_memory_bytes";
    OUTBOX_SHED_BYTES = "tickhub_outbox_shed_bytes_total", Counter, "Bytes given back by closing sessions for the budget";
    SLOW_CLOSES = "tickhub_slow_closes_total", Counter, "Sessions closed for what waited for them, by cause";
    COMMANDS = "tickhub_commands_total", Counter, "Commands of sessions, by operation";
    COMMAND_ERRORS = "tickhub_command_errors_total", Counter, "Commands refused, by code";
    AUTH_REFUSED = "tickhub_auth_refusals_total", Counter, "Credentials refused, by reason";
    ISSUER_KEYS = "tickhub_issuer_keys", Gauge, "Keys of an issuer that tokens can be verified with";
    ISSUER_KEYS_SKIPPED = "tickhub_issuer_keys_skipped", Gauge, "Keys of an issuer that are not used, by reason";
    ISSUER_KEYS_AGE = "tickhub_issuer_keys_age_seconds", Gauge, "Time since the keys of an issuer were last fetched, or first tried to be";
    ISSUER_FETCHES = "tickhub_issuer_fetches_total", Counter, "Fetches of an issuer's keys, by outcome";
    ISSUER_UNKNOWN_KEYS = "tickhub_issuer_unknown_keys_total", Counter, "Tokens of an issuer that named a key which it has not published";
    AUDIT_RECORDS = "tickhub_audit_records_total", Counter, "Records written to the audit trail, by event";
    AUDIT_SUMMED = "tickhub_audit_refusals_summed_total", Counter, "Refusals that the audit trail tells together with others like them";
    AUDIT_LOST = "tickhub_audit_lost_total", Counter, "Records that found the audit trail's queue full; the trail says where";
    AUDIT_QUEUE = "tickhub_audit_queue_records", Gauge, "Records that wait to be written to the audit trail";
    AUDIT_QUEUE_MAX = "tickhub_audit_queue_records_max", Gauge, "Bound of tickhub_audit_queue_records";
    AUDIT_BYTES = "tickhub_audit_written_bytes_total", Counter, "Bytes written to the audit trail";
    AUDIT_ERRORS = "tickhub_audit_write_errors_total", Counter, "Writes to the audit trail that failed; they are tried again";
    AUDIT_FAILING = "tickhub_audit_failing", Gauge, "1 while the audit trail cannot be written";
    TOKEN_REQUESTS = "tickhub_token_requests_total", Counter, "Requests to exchange, refresh or revoke, by outcome";
    STATE_ENTRIES = "tickhub_state_entries", Gauge, "What the state store keeps, by kind";
    STATE_ENTRIES_MAX = "tickhub_state_entries_max", Gauge, "Bounds of tickhub_state_entries";
    STATE_BYTES = "tickhub_state_bytes", Gauge, "Bytes of the state store's log";
    STATE_COMMITS = "tickhub_state_commits_total", Counter, "Commits of the state store, by outcome";
    STATE_COMMIT_TIME = "tickhub_state_commit_seconds", Histogram, "Time of a commit of the state store, until it is on the disk";
    HTTP_REQUESTS = "tickhub_http_requests_total", Counter, "HTTP requests, by path template and status";
    HTTP_REFUSED = "tickhub_http_refusals_total", Counter, "Requests and connections refused before an upgrade, by reason";
    TLS_HANDSHAKES = "tickhub_tls_handshakes_total", Counter, "Handshakes of TLS done, by listener, version and whether resumed";
    TLS_REFUSED = "tickhub_tls_refusals_total", Counter, "Connections not let into TLS, by listener and reason";
    TLS_HANDSHAKES_OPEN = "tickhub_tls_handshakes_open", Gauge, "Handshakes of TLS under way, by listener";
    TLS_HANDSHAKES_MAX = "tickhub_tls_handshakes_open_max", Gauge, "Bound of tickhub_tls_handshakes_open";
    TLS_NOT_AFTER = "tickhub_tls_certificate_not_after_seconds", Gauge, "Unix time at which the certificate in use ends, by listener";
    TLS_RELOADS = "tickhub_tls_reloads_total", Counter, "Certificates read anew, by listener and result";
    TLS_BROKEN = "tickhub_tls_broken_total", Counter, "Sessions whose TLS broke, by reason";
    TLS_PENDING = "tickhub_tls_pending_bytes", Gauge, "Ciphertext that waits for full sockets, by worker";
    ADDRESSES = "tickhub_addresses", Gauge, "Addresses that are remembered for their limits, IPv6 networks as one";
    ADDRESSES_IDLE_MAX = "tickhub_addresses_idle_max", Gauge, "Bound of those among tickhub_addresses that have no connection";
    ADDRESSES_CROWDED = "tickhub_addresses_crowded_total", Counter, "Connections of new addresses that found no room to be remembered, and share one set of limits";
    RATE_LIMITED = "tickhub_rate_limited_total", Counter, "Times that a session met a limit, by what is limited and by whom it is counted";
    PATTERN_LOOKS = "tickhub_pattern_looks_total", Counter, "Instruments looked at for what sessions subscribed to, the measure of a command's work";
    CONNECTIONS = "tickhub_connections", Gauge, "TCP connections that are not yet sessions";
    CONNECTIONS_MAX = "tickhub_connections_max", Gauge, "Bound of tickhub_connections";
    SESSIONS_MAX = "tickhub_sessions_max", Gauge, "Bound of the sum of tickhub_sessions";
}

/// By name and rendered labels: one histogram for each thread.
type Histograms = BTreeMap<(&'static str, String), Vec<Arc<Histogram>>>;

/// The registry of one hub.
pub struct Registry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    histograms: Mutex<Histograms>,
    scrapes: Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

const METADATA: Metadata<'static> = Metadata::new("tickhub", Level::INFO, None);

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        for (name, kind, help) in ALL {
            let name = KeyName::from_const_str(name);
            match kind {
                Kind::Counter => recorder.describe_counter(name, None, (*help).into()),
                Kind::Gauge => recorder.describe_gauge(name, None, (*help).into()),
                Kind::Histogram => {}
            }
        }
        let registry = Self { recorder, handle, histograms: Mutex::default(), scrapes: Mutex::default() };
        registry.gauge(BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        Arc::new(registry)
    }

    /// A counter; the same name and labels give the same counter. Make it once and keep it.
    pub fn counter(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        self.recorder.register_counter(&key(name, labels), &METADATA)
    }

    /// A gauge; the same name and labels give the same gauge.
    pub fn gauge(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    /// A new histogram for one thread; all of one name and labels are rendered as their sum.
    #[must_use]
    pub fn histogram(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Arc<Histogram> {
        let mut text = String::new();
        for (label, value) in labels {
            let comma = if text.is_empty() { "" } else { "," };
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(text, "{comma}{label}=\"{value}\"");
        }
        let histogram = Arc::new(Histogram::default());
        lock(&self.histograms).entry((name, text)).or_default().push(Arc::clone(&histogram));
        histogram
    }

    /// Runs `hook` before each rendering: for gauges that are read, not kept.
    pub fn before_scrape(&self, hook: impl Fn() + Send + Sync + 'static) {
        lock(&self.scrapes).push(Box::new(hook));
    }

    /// All metrics in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        for hook in lock(&self.scrapes).iter() {
            hook();
        }
        let mut text = self.handle.render();
        let mut last = "";
        for ((name, labels), parts) in lock(&self.histograms).iter() {
            if *name != last {
                let help = ALL.iter().find(|(n, ..)| n == name).map_or("", |(.., help)| help);
                let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
                last = name;
            }
            let parts: Vec<&Histogram> = parts.iter().map(AsRef::as_ref).collect();
            histogram::render(name, labels, &parts, &mut text);
        }
        text
    }

    /// The recorder's own housekeeping; call it every few seconds.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    Key::from_parts(name, labels.iter().map(|(k, v)| Label::new(*k, (*v).to_owned())).collect::<Vec<_>>())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        for (name, kind, help) in ALL {
            assert!(
                name.starts_with("tickhub_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(*kind != Kind::Histogram || name.ends_with("_seconds"), "{name}");
            assert!(!help.is_empty() && !help.ends_with('.'), "{name}");
            assert_eq!(ALL.iter().filter(|(n, ..)| n == name).count(), 1, "{name} twice");
        }
    }

    #[test]
    fn renders_what_was_counted() {
        let registry = Registry::new();
        registry.counter(EVENTS, &[("venue", "SIM"), ("kind", "quote")]).increment(3);
        registry.histogram(LATENCY, &[("stage", "a")]).record(10);
        registry.histogram(LATENCY, &[("stage", "a")]).record(10);
        let text = registry.render();
        assert!(text.contains("tickhub_ingest_events_total{venue=\"SIM\",kind=\"quote\"} 3"), "{text}");
        assert!(text.contains("# TYPE tickhub_stage_latency_seconds histogram"), "{text}");
        assert!(text.contains("tickhub_stage_latency_seconds_count{stage=\"a\"} 2"), "{text}");
        assert!(text.contains("tickhub_build_info{version="), "{text}");
    }
}
