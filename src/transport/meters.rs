//! What a worker counts, published a few times a second.

use std::sync::Arc;

use crate::fanout::{Counts, Holdings};
use crate::metrics::{self, Counter, Gauge, Registry};
use crate::model::GapCause;
use crate::wire::Format;

/// Handles to one worker's metrics.
pub struct WorkerMeters {
    registry: Arc<Registry>,
    transport: &'static str,
    opened: Counter,
    /// By format, as the next.
    deliveries: [Counter; Format::COUNT],
    bytes: [Counter; Format::COUNT],
    writes: Counter,
    blocked: Counter,
    conflated: Counter,
    gapped: [Counter; 3],
    overflow_gaps: Counter,
    overflow_closes: Counter,
    closes: [Counter; 3],
    shed_bytes: Counter,
    requests_full: Counter,
    unfit: Counter,
    looks: Counter,
    sessions: Gauge,
    entries: Gauge,
    streams: Gauge,
    blocked_sessions: Gauge,
    outbox_bytes: Gauge,
    outbox_bytes_most: Gauge,
    in_grace: Gauge,
    memory_bytes: Gauge,
    tls_pending_bytes: Gauge,
}

impl WorkerMeters {
    /// Registers them for one worker and transport.
    #[must_use]
    pub fn new(registry: &Arc<Registry>, worker: usize, transport: &'static str) -> Self {
        let worker = worker.to_string();
        let by_format =
            |name| Format::ALL.map(|f| registry.counter(name, &[("transport", transport), ("format", f.as_str())]));
        let by = [("transport", transport)];
        let at = [("worker", worker.as_str())];
        let gap = |cause: GapCause| registry.counter(metrics::GAPPED, &[("cause", cause.as_str())]);
        let close = |cause| registry.counter(metrics::SLOW_CLOSES, &[("cause", cause)]);
        let overflow = |policy| registry.counter(metrics::OUTBOX_OVERFLOWS, &[("policy", policy)]);
        Self {
            registry: Arc::clone(registry),
            transport,
            opened: registry.counter(metrics::SESSIONS_OPENED, &by),
            deliveries: by_format(metrics::DELIVERIES),
            bytes: by_format(metrics::BYTES_OUT),
            writes: registry.counter(metrics::WRITES, &by),
            blocked: registry.counter(metrics::WRITES_BLOCKED, &by),
            conflated: registry.counter(metrics::CONFLATED, &[]),
            gapped: [GapCause::SlowConsumer, GapCause::Upstream, GapCause::Hub].map(gap),
            overflow_gaps: overflow("gap"),
            overflow_closes: overflow("disconnect"),
            closes: ["backlog", "answers", "budget"].map(close),
            shed_bytes: registry.counter(metrics::OUTBOX_SHED_BYTES, &[]),
            requests_full: registry.counter(metrics::FEED_REQUESTS_FULL, &[]),
            unfit: registry.counter(metrics::BINARY_UNFIT, &[]),
            looks: registry.counter(metrics::PATTERN_LOOKS, &[]),
            sessions: registry.gauge(metrics::SESSIONS, &[("transport", transport), ("worker", &worker)]),
            entries: registry.gauge(metrics::SUBSCRIPTIONS, &at),
            streams: registry.gauge(metrics::STREAMS, &at),
            blocked_sessions: registry.gauge(metrics::OUTBOX_BLOCKED, &at),
            outbox_bytes: registry.gauge(metrics::OUTBOX_BYTES, &at),
            outbox_bytes_most: registry.gauge(metrics::OUTBOX_BYTES_MOST, &at),
            in_grace: registry.gauge(metrics::OUTBOX_GRACE, &at),
            memory_bytes: registry.gauge(metrics::OUTBOX_MEMORY, &at),
            tls_pending_bytes: registry.gauge(metrics::TLS_PENDING, &at),
        }
    }

    pub(super) fn opened(&self) {
        self.opened.increment(1);
    }

    pub(super) fn closed(&self, reason: &str) {
        let labels = [("transport", self.transport), ("reason", reason)];
        self.registry.counter(metrics::SESSIONS_CLOSED, &labels).increment(1);
    }

    pub(super) fn publish(&self, counts: &Counts) {
        for format in Format::ALL.map(Format::index) {
            self.deliveries[format].increment(counts.deliveries[format]);
            self.bytes[format].increment(counts.bytes[format]);
        }
        self.writes.increment(counts.writes);
        self.blocked.increment(counts.blocked);
        self.conflated.increment(counts.conflated);
        for (counter, count) in self.gapped.iter().zip(counts.gapped) {
            counter.increment(count);
        }
        self.overflow_gaps.increment(counts.overflow_gaps);
        self.overflow_closes.increment(counts.overflow_closes);
        for (counter, count) in self.closes.iter().zip([counts.overflow_closes, counts.answer_closes, counts.shed]) {
            counter.increment(count);
        }
        self.shed_bytes.increment(counts.shed_bytes);
        self.requests_full.increment(counts.requests_full);
        self.unfit.increment(counts.unfit);
        self.looks.increment(counts.looks);
    }

    pub(super) fn hold(&self, holdings: &Holdings) {
        self.sessions.set(holdings.sessions as f64);
        self.entries.set(holdings.entries as f64);
        self.streams.set(holdings.streams as f64);
        self.blocked_sessions.set(holdings.blocked as f64);
        self.outbox_bytes.set(holdings.outbox_bytes as f64);
        self.outbox_bytes_most.set(holdings.outbox_bytes_most as f64);
        self.in_grace.set(holdings.in_grace as f64);
    }

    /// A session's carrier failed.
    pub(super) fn broken(&self, reason: &str) {
        self.registry.counter(metrics::TLS_BROKEN, &[("reason", reason)]).increment(1);
    }

    pub(super) fn tls_pending(&self, bytes: usize) {
        self.tls_pending_bytes.set(bytes as f64);
    }

    pub(super) fn held(&self, bytes: usize) {
        self.memory_bytes.set(bytes as f64);
    }
}
