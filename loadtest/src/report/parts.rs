//! The members of the result. A reader of older results finds what it does not know at its default.

use std::collections::BTreeMap;

use hdrhistogram::{Counter, Histogram};
use serde::{Deserialize, Serialize};

/// Quantiles of the curve that is drawn.
const QUANTILES: [f64; 15] =
    [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999, 0.99999, 1.0];

/// A distribution in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Spread {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Spread {
    /// Of a histogram of nanoseconds.
    pub fn of<T: Counter>(histogram: &Histogram<T>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            count: histogram.len(),
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1e3,
        }
    }
}

/// Points of the curve of a histogram of nanoseconds: quantile and microseconds, as far as there are samples for it.
pub(super) fn curve<T: Counter>(histogram: &Histogram<T>) -> Vec<(f64, f64)> {
    let enough = |quantile: &f64| (1.0 - quantile) * histogram.len() as f64 >= 1.0 || *quantile == 1.0;
    let point = |quantile: f64| (quantile, histogram.value_at_quantile(quantile) as f64 / 1e3);
    if histogram.is_empty() { Vec::new() } else { QUANTILES.into_iter().filter(enough).map(point).collect() }
}

/// What was run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct OptionsPart {
    pub scenario: String,
    pub about: String,
    pub url: String,
    pub source: String,
    pub clients: usize,
    pub threads: usize,
    pub seed: u64,
    pub connect_rate: u32,
    pub check_values: u32,
    pub settle_s: f64,
    pub tail_s: f64,
    pub instruments: usize,
    pub groups: Vec<GroupPart>,
}

/// Clients that hold the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct GroupPart {
    pub name: String,
    pub clients: usize,
    pub subscriptions: Vec<SubscriptionPart>,
}

/// What they hold on one channel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct SubscriptionPart {
    pub channel: String,
    pub mode: String,
    pub symbols: Vec<String>,
    /// `null` = all that the patterns match.
    pub symbols_per_client: Option<usize>,
    pub max_rate: Option<u32>,
    pub depth: Option<u32>,
}

/// How the clients got connected.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ConnectPart {
    pub ready: u64,
    pub failed: u64,
    pub streams: u64,
    pub seconds: f64,
    pub rate_per_s: f64,
    pub upgrade_us: Spread,
    pub ready_us: Spread,
    pub failures: BTreeMap<String, u64>,
    pub rejected: BTreeMap<String, u64>,
}

/// What was counted in a stretch of time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct WindowPart {
    pub seconds: f64,
    pub deliveries: u64,
    pub deliveries_per_s: f64,
    pub bytes: u64,
    pub bytes_per_s: f64,
    pub deliveries_per_read: f64,
    pub snapshots: u64,
    pub statuses: u64,
    pub conflated: u64,
    pub gaps: u64,
    pub gap_numbers: u64,
    pub closed: u64,
    pub values_checked: u64,
    pub values_compared: u64,
    pub slow_path: u64,
    pub clock_ahead: u64,
}

/// One phase of the scenario.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct PhasePart {
    pub name: String,
    pub measured: bool,
    pub duration_s: f64,
    pub slow: f64,
    pub slow_bytes_per_s: u64,
    pub reconnect: f64,
    pub reconnect_rate: u32,
    pub churn_rate: u32,
    pub rate: u32,
    pub burst: u32,
    pub window: WindowPart,
    pub latency_us: Spread,
    /// Quantile and microseconds.
    pub latency_curve: Vec<(f64, f64)>,
    pub commands: Option<CommandsPart>,
    pub comeback: Option<ComebackPart>,
    pub late_us: Spread,
    pub client: ClientPart,
    pub hub: Option<PhaseHubPart>,
}

/// Commands sent by plan, from their planned time to the answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct CommandsPart {
    pub sent: u64,
    pub answered: u64,
    pub latency_us: Spread,
}

/// Clients that were cut off and came back, in this phase.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ComebackPart {
    pub cut: u64,
    pub back: u64,
    pub not_back: u64,
    pub streams_resumed: u64,
    pub streams_renewed: u64,
    pub ready_us: Spread,
}

/// The hub's process in one phase.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct PhaseHubPart {
    pub cpu_s: f64,
    pub cpu_ns_per_delivery: Option<f64>,
    pub rss_bytes: u64,
}

/// Slow clients, whole run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct SlowPart {
    pub clients: u64,
    pub deliveries: u64,
    pub bytes: u64,
    pub gaps: u64,
    pub gap_numbers: u64,
    pub closes: BTreeMap<String, u64>,
}

/// Broken guarantees.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ViolationsPart {
    pub total: u64,
    pub by_name: BTreeMap<String, u64>,
    pub described: Vec<String>,
}

/// How well the harness kept to its plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct GeneratorPart {
    pub late_us: Spread,
    pub late_p99_max_us: f64,
    pub valid: bool,
}

/// This process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ClientPart {
    pub cpu_s: f64,
    pub cpu_ns_per_delivery: f64,
    pub busiest_thread: f64,
    pub turn_us: Spread,
    pub saturated: bool,
}

/// The hub's process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct HubPart {
    pub cpu_s: f64,
    pub cpu_ns_per_delivery: Option<f64>,
    pub cpu_exact: bool,
    pub cpu_ns_per_delivery_by_thread: BTreeMap<String, f64>,
    pub sessions: u64,
    pub rss_before_bytes: u64,
    pub rss_idle_bytes: u64,
    pub rss_after_bytes: u64,
    pub bytes_per_session: Option<f64>,
}

/// One second of a phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Second {
    pub phase: usize,
    pub at_s: f64,
    pub deliveries_per_s: f64,
    pub bytes_per_s: f64,
    pub conflated_per_s: f64,
    pub latency_us: Spread,
    /// Cores.
    pub hub_cpu: Option<f64>,
    pub hub_cpu_ns_per_delivery: Option<f64>,
    pub hub_rss_bytes: Option<u64>,
}
