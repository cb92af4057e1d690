//! The result: one object, written as JSON for programs and as text for people.

mod text;

use std::collections::BTreeMap;

use hdrhistogram::{Counter, Histogram};
use serde::Serialize;

pub use self::text::count;
use crate::{
    hub_process::{Sample, Used},
    measure::{Close, Count, Outcome, Totals},
    options::{PerClient, Plan},
};

/// The version of the JSON object's form.
const FORMAT: u32 = 1;
/// A thread that runs for more than this share of the time is what was measured.
const SATURATED_SHARE: f64 = 0.9;

/// What the steering thread saw.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Instruments that clients could choose from (0 = the patterns themselves).
    pub instruments: usize,
    /// Clients that got subscribed.
    pub ready: u64,
    /// Clients that did not.
    pub failed: u64,
    /// From the first connection to the last subscription, seconds.
    pub connect_s: f64,
    /// Length of the measured window, seconds.
    pub window_s: f64,
    /// What was counted in it.
    pub window: Totals,
    /// What was counted in all.
    pub totals: Totals,
    /// CPU time of this process in the window, seconds.
    pub own_cpu_s: f64,
    /// What was seen of the hub's process.
    pub hub: Option<HubFacts>,
    /// Whether the user ended it early.
    pub interrupted: bool,
    /// What else has to be said.
    pub notes: Vec<String>,
}

/// The hub's process at four moments.
#[derive(Debug, Clone)]
pub struct HubFacts {
    /// Before the first connection.
    pub before: Sample,
    /// When all were subscribed.
    pub idle: Sample,
    /// At the end of the window.
    pub after: Sample,
    /// CPU time in the window.
    pub used: Used,
    /// Sessions open when the window began.
    pub sessions: u64,
}

/// A distribution in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    count: u64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Spread {
    fn of<T: Counter>(histogram: &Histogram<T>) -> Self {
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

/// One second of the window.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Second {
    at_s: f64,
    deliveries_per_s: f64,
    bytes_per_s: f64,
    latency_us: Spread,
}

impl Second {
    /// Of what was counted in `interval` seconds up to `at`.
    pub fn new(at: f64, interval: f64, delta: Totals, latency: &Histogram<u32>) -> Self {
        Self {
            at_s: at,
            deliveries_per_s: delta[Count::Deliveries] as f64 / interval,
            bytes_per_s: delta[Count::Bytes] as f64 / interval,
            latency_us: Spread::of(latency),
        }
    }
}

#[derive(Debug, Serialize)]
struct OptionsPart {
    url: String,
    clients: usize,
    symbols: Vec<String>,
    /// `null` = all that the patterns match.
    symbols_per_client: Option<usize>,
    instruments: usize,
    channel: String,
    mode: &'static str,
    max_rate: Option<u32>,
    depth: Option<u32>,
    duration_s: f64,
    warmup_s: f64,
    slow: f64,
    slow_bytes_per_s: u64,
    threads: usize,
    seed: u64,
}

#[derive(Debug, Serialize)]
struct ConnectPart {
    ready: u64,
    failed: u64,
    streams: u64,
    seconds: f64,
    rate_per_s: f64,
    upgrade_us: Spread,
    ready_us: Spread,
    failures: BTreeMap<String, u64>,
    rejected: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct WindowPart {
    seconds: f64,
    deliveries: u64,
    deliveries_per_s: f64,
    bytes: u64,
    bytes_per_s: f64,
    deliveries_per_read: f64,
    snapshots: u64,
    statuses: u64,
    conflated: u64,
    gaps: u64,
    gap_numbers: u64,
    values_checked: u64,
    slow_path: u64,
    clock_ahead: u64,
}

#[derive(Debug, Serialize)]
struct SlowPart {
    clients: u64,
    deliveries: u64,
    bytes: u64,
    gaps: u64,
    gap_numbers: u64,
    closes: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct ViolationsPart {
    total: u64,
    by_name: BTreeMap<String, u64>,
    described: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ClientPart {
    cpu_s: f64,
    cpu_ns_per_delivery: f64,
    busiest_thread: f64,
    turn_us: Spread,
    saturated: bool,
}

#[derive(Debug, Serialize)]
struct HubPart {
    cpu_s: f64,
    cpu_ns_per_delivery: Option<f64>,
    cpu_exact: bool,
    cpu_ns_per_delivery_by_thread: BTreeMap<String, f64>,
    sessions: u64,
    rss_before_bytes: u64,
    rss_idle_bytes: u64,
    rss_after_bytes: u64,
    bytes_per_session: Option<f64>,
}

/// The result of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    format: u32,
    tool: &'static str,
    outcome: &'static str,
    interrupted: bool,
    options: OptionsPart,
    connect: ConnectPart,
    window: WindowPart,
    latency_us: Spread,
    gaps_by_cause: BTreeMap<String, u64>,
    closes: BTreeMap<String, u64>,
    slow: Option<SlowPart>,
    violations: ViolationsPart,
    client: ClientPart,
    hub: Option<HubPart>,
    seconds: Vec<Second>,
    notes: Vec<String>,
}

impl Report {
    /// Puts together what was seen.
    pub fn new(plan: &Plan, facts: Facts, outcome: Outcome, seconds: Vec<Second>) -> Self {
        let (window, totals) = (facts.window, facts.totals);
        let per_second = |number: u64| number as f64 / facts.window_s.max(1e-9);
        let delivered = window[Count::Deliveries] + window[Count::SlowDeliveries];
        let rejected = outcome.rejected.by_text().clone();
        let incomplete = facts.ready < plan.options.clients as u64 || !rejected.is_empty();
        let verdict = match totals[Count::Violations] {
            0 if incomplete => "incomplete",
            0 => "ok",
            _ => "violations",
        };
        let mut report = Self {
            format: FORMAT,
            tool: concat!("loadtest ", env!("CARGO_PKG_VERSION")),
            outcome: verdict,
            interrupted: facts.interrupted,
            options: options_part(plan, facts.instruments),
            connect: ConnectPart {
                ready: facts.ready,
                failed: facts.failed,
                streams: outcome.streams,
                seconds: facts.connect_s,
                rate_per_s: facts.ready as f64 / facts.connect_s.max(1e-9),
                upgrade_us: Spread::of(&outcome.upgrade),
                ready_us: Spread::of(&outcome.ready),
                failures: outcome.failures.by_text().clone(),
                rejected,
            },
            window: WindowPart {
                seconds: facts.window_s,
                deliveries: window[Count::Deliveries],
                deliveries_per_s: per_second(window[Count::Deliveries]),
                bytes: window[Count::Bytes],
                bytes_per_s: per_second(window[Count::Bytes]),
                deliveries_per_read: window[Count::Deliveries] as f64 / window[Count::Reads].max(1) as f64,
                snapshots: window[Count::Snapshots],
                statuses: window[Count::Statuses],
                conflated: window[Count::Conflated],
                gaps: window[Count::Gaps],
                gap_numbers: window[Count::GapNumbers],
                values_checked: window[Count::ValuesChecked],
                slow_path: window[Count::SlowPath],
                clock_ahead: window[Count::ClockAhead],
            },
            latency_us: Spread::of(&outcome.latency),
            gaps_by_cause: outcome.gaps.by_text().clone(),
            closes: closes(&outcome, false),
            slow: (plan.options.slow > 0.0).then(|| slow_part(plan, totals, &outcome)),
            client: ClientPart {
                cpu_s: facts.own_cpu_s,
                cpu_ns_per_delivery: facts.own_cpu_s * 1e9 / delivered.max(1) as f64,
                busiest_thread: outcome.busiest,
                turn_us: Spread::of(&outcome.turns),
                saturated: outcome.busiest > SATURATED_SHARE,
            },
            hub: facts.hub.map(|hub| hub_part(&hub, delivered)),
            violations: ViolationsPart {
                total: totals[Count::Violations],
                by_name: outcome.faults_by_name.by_text().clone(),
                described: outcome.faults,
            },
            seconds,
            notes: facts.notes,
        };
        report.take_notes();
        report
    }

    /// Whether the process may say that all went well.
    pub fn is_sound(&self) -> bool {
        self.outcome == "ok"
    }

    fn take_notes(&mut self) {
        let mut note = |text: String| self.notes.push(text);
        if self.client.saturated {
            note(format!(
                "THE CLIENT WAS SATURATED (its busiest thread ran {:.0} % of the time): latencies and rates are its \
                 own; use more --threads or fewer --clients",
                self.client.busiest_thread * 100.0
            ));
        }
        let window = &self.window;
        if window.deliveries == 0 && self.connect.ready > 0 {
            note("nothing was delivered in the window".to_owned());
        }
        if window.clock_ahead > 0 {
            note(format!("{} events carry an `rx` in the future: the clocks differ", window.clock_ahead));
        }
        if window.slow_path * 10 > window.deliveries.max(1) {
            note(
                "more than a tenth of the events are not in the documented member order, which costs the client".into(),
            );
        }
        if self.hub.as_ref().is_some_and(|hub| !hub.cpu_exact) {
            note("the hub's CPU time is counted in the kernel's ticks (10 ms as a rule)".to_owned());
        }
        let closed: u64 = self.closes.values().sum();
        if closed > 0 {
            note(format!("{closed} clients that were reading lost their connection"));
        }
    }
}

fn options_part(plan: &Plan, instruments: usize) -> OptionsPart {
    let options = &plan.options;
    OptionsPart {
        url: format!("ws://{}{}", plan.target.host, plan.target.path.split('?').next().unwrap_or_default()),
        clients: options.clients,
        symbols: options.symbols.clone(),
        symbols_per_client: match options.symbols_per_client {
            PerClient::Count(count) => Some(count),
            PerClient::All => None,
        },
        instruments,
        channel: options.channel.clone(),
        mode: options.mode.name(),
        max_rate: options.max_rate,
        depth: options.depth,
        duration_s: options.duration.as_secs_f64(),
        warmup_s: options.warmup.as_secs_f64(),
        slow: options.slow,
        slow_bytes_per_s: options.slow_rate.bytes_per_s,
        threads: options.threads,
        seed: options.seed,
    }
}

fn slow_part(plan: &Plan, totals: Totals, outcome: &Outcome) -> SlowPart {
    SlowPart {
        clients: (plan.options.clients as f64 * plan.options.slow + 1e-9) as u64,
        deliveries: totals[Count::SlowDeliveries],
        bytes: totals[Count::SlowBytes],
        gaps: totals[Count::SlowGaps],
        gap_numbers: totals[Count::SlowGapNumbers],
        closes: closes(outcome, true),
    }
}

fn hub_part(hub: &HubFacts, delivered: u64) -> HubPart {
    let per_delivery = |ns: u64| ns as f64 / delivered.max(1) as f64;
    let grown = hub.idle.rss.saturating_sub(hub.before.rss) as f64;
    HubPart {
        cpu_s: hub.used.ns as f64 / 1e9,
        cpu_ns_per_delivery: (delivered > 0).then(|| per_delivery(hub.used.ns)),
        cpu_exact: hub.used.exact,
        cpu_ns_per_delivery_by_thread: hub
            .used
            .by_thread
            .iter()
            .map(|(name, ns)| (name.clone(), per_delivery(*ns)))
            .collect(),
        sessions: hub.sessions,
        rss_before_bytes: hub.before.rss,
        rss_idle_bytes: hub.idle.rss,
        rss_after_bytes: hub.after.rss,
        bytes_per_session: (hub.sessions > 0).then(|| grown / hub.sessions as f64),
    }
}

fn closes(outcome: &Outcome, slow: bool) -> BTreeMap<String, u64> {
    let named = |(close, times): (&Close, &u64)| {
        (close.slow == slow).then(|| (close.code.map_or_else(|| "lost".to_owned(), |code| code.to_string()), *times))
    };
    outcome.closes.iter().filter_map(named).collect()
}

#[cfg(test)]
mod tests;
