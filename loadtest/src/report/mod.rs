//! The result: one object, written as JSON for programs, as text and as HTML for people.

mod parts;
mod text;

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use self::parts::curve;
pub use self::{
    parts::*,
    text::{count, microseconds},
};
use crate::{
    hub_process::{Sample, Used},
    measure::{Close, Count, Outcome, PhaseOutcome, Totals},
    options::Plan,
    scenario::{LATENESS_COUNT_MIN, PerClient, Phase, Source, Subscription},
};

/// The version of the JSON object's form.
const FORMAT: u32 = 2;
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
    /// By phase, as far as it got.
    pub phases: Vec<PhaseFacts>,
    /// What was counted in all.
    pub totals: Totals,
    /// What was seen of the hub's process.
    pub hub: Option<HubFacts>,
    /// Whether the user ended it early.
    pub interrupted: bool,
    /// What else has to be said.
    pub notes: Vec<String>,
}

/// What it saw of one phase.
#[derive(Debug, Clone, Default)]
pub struct PhaseFacts {
    /// Its length.
    pub seconds: f64,
    /// What was counted in it.
    pub counted: Totals,
    /// CPU time of this process, seconds.
    pub own_cpu_s: f64,
    /// CPU time of the hub, and its memory at the end.
    pub hub: Option<(Used, u64)>,
}

/// The hub's process at three moments.
#[derive(Debug, Clone)]
pub struct HubFacts {
    /// Before the first connection.
    pub before: Sample,
    /// When all were subscribed.
    pub idle: Sample,
    /// At the end of the last phase.
    pub after: Sample,
    /// Sessions open when the first phase began.
    pub sessions: u64,
}

impl Second {
    /// Of what was counted in `interval` seconds up to `at`; `hub` is its CPU time in ns and its memory.
    pub fn new(
        phase: usize,
        at: f64,
        interval: f64,
        delta: Totals,
        latency: &Histogram<u32>,
        hub: Option<(u64, u64)>,
    ) -> Self {
        let delivered = delta[Count::Deliveries] + delta[Count::SlowDeliveries];
        Self {
            phase,
            at_s: at,
            deliveries_per_s: delta[Count::Deliveries] as f64 / interval,
            bytes_per_s: delta[Count::Bytes] as f64 / interval,
            conflated_per_s: delta[Count::Conflated] as f64 / interval,
            latency_us: Spread::of(latency),
            hub_cpu: hub.map(|(ns, _)| ns as f64 / 1e9 / interval),
            hub_cpu_ns_per_delivery: hub.filter(|_| delivered > 0).map(|(ns, _)| ns as f64 / delivered as f64),
            hub_rss_bytes: hub.map(|(_, rss)| rss),
        }
    }
}

/// The result of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Report {
    pub format: u32,
    pub tool: String,
    pub outcome: String,
    pub interrupted: bool,
    pub options: OptionsPart,
    pub connect: ConnectPart,
    pub phases: Vec<PhasePart>,
    /// All measured phases together.
    pub window: WindowPart,
    pub latency_us: Spread,
    pub gaps_by_cause: BTreeMap<String, u64>,
    pub closes: BTreeMap<String, u64>,
    pub comeback: Option<ComebackPart>,
    pub slow: Option<SlowPart>,
    pub violations: ViolationsPart,
    pub generator: GeneratorPart,
    pub client: ClientPart,
    pub hub: Option<HubPart>,
    pub seconds: Vec<Second>,
    pub notes: Vec<String>,
}

impl Report {
    /// Puts together what was seen.
    pub fn new(plan: &Plan, facts: Facts, outcome: Outcome, seconds: Vec<Second>) -> Self {
        let totals = facts.totals;
        let mut all = (PhaseFacts::default(), PhaseOutcome::default());
        let mut used: Option<Used> = None;
        let mut late = outcome.late.clone();
        for ((phase, seen), timed) in plan.scenario.phases.iter().zip(&facts.phases).zip(&outcome.phases) {
            late.add(&timed.late).expect("all histograms have the same bounds");
            if phase.measure {
                all.0.seconds += seen.seconds;
                all.0.counted += seen.counted;
                all.0.own_cpu_s += seen.own_cpu_s;
                all.1.merge(timed);
                if let Some((of_phase, _)) = &seen.hub {
                    used = Some(used.map_or_else(|| of_phase.clone(), |sum| sum.and(of_phase)));
                }
            }
        }
        let phases = plan.scenario.phases.iter().zip(&facts.phases).zip(&outcome.phases);
        let late_us = Spread::of(&late);
        let late_p99_max_us = plan.scenario.lateness_p99_max.as_secs_f64() * 1e6;
        let delivered = delivered(&all.0.counted);
        let mut report = Self {
            format: FORMAT,
            tool: concat!("loadtest ", env!("CARGO_PKG_VERSION")).to_owned(),
            outcome: String::new(),
            interrupted: facts.interrupted,
            options: options_part(plan, facts.instruments),
            connect: connect_part(&facts, &outcome),
            phases: phases.map(|((phase, seen), timed)| phase_part(phase, seen, timed)).collect(),
            window: window_part(all.0.seconds, &all.0.counted),
            latency_us: Spread::of(&all.1.latency),
            gaps_by_cause: outcome.gaps.by_text().clone(),
            closes: closes(&outcome, false),
            comeback: (totals[Count::Cut] > 0).then(|| comeback_part(&totals, Spread::of(&all.1.back))),
            slow: (plan.scenario.slow_max() > 0.0).then(|| slow_part(plan, totals, &outcome)),
            client: client_part(&all.0, &all.1),
            hub: facts.hub.zip(used).map(|(hub, used)| hub_part(&hub, &used, delivered)),
            generator: GeneratorPart {
                valid: late_us.count < LATENESS_COUNT_MIN || late_us.p99 <= late_p99_max_us,
                late_us,
                late_p99_max_us,
            },
            violations: ViolationsPart {
                total: totals[Count::Violations],
                by_name: outcome.faults_by_name.by_text().clone(),
                described: outcome.faults,
            },
            seconds,
            notes: facts.notes,
        };
        report.outcome = report.judge(plan.scenario.clients as u64).to_owned();
        report.take_notes();
        report
    }

    fn judge(&self, clients: u64) -> &'static str {
        let back = self.comeback.as_ref().is_none_or(|comeback| comeback.back >= comeback.cut || self.interrupted);
        if self.violations.total > 0 {
            "violations"
        } else if self.connect.ready < clients || !self.connect.rejected.is_empty() || !back {
            "incomplete"
        } else if !self.generator.valid {
            "invalid"
        } else {
            "ok"
        }
    }

    /// Reads a result that was written as JSON.
    ///
    /// # Errors
    /// It is none, or of another form.
    pub fn from_json(text: &[u8]) -> anyhow::Result<Self> {
        let report: Self = serde_json::from_slice(text).context("not a result of this tool")?;
        ensure!(
            report.format == FORMAT,
            "its format is {}, and this version reads {FORMAT}: measure it again",
            report.format
        );
        Ok(report)
    }

    fn take_notes(&mut self) {
        let mut note = |text: String| self.notes.push(text);
        if !self.generator.valid {
            note(format!(
                "INVALID: the harness was late by {} at the 99th percentile, {} is the most (lateness_p99_max): the \
                 load was not what was asked for; lower the rates, or use more threads",
                microseconds(self.generator.late_us.p99),
                microseconds(self.generator.late_p99_max_us)
            ));
        }
        if self.client.saturated {
            note(format!(
                "THE CLIENT WAS SATURATED (its busiest thread ran {:.0} % of the time): latencies and rates are its \
                 own; use more threads or fewer clients",
                self.client.busiest_thread * 100.0
            ));
        }
        let window = &self.window;
        if window.deliveries == 0 && self.connect.ready > 0 {
            note("nothing was delivered while it was measured".to_owned());
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
        if let Some(comeback) = self.comeback.as_ref().filter(|comeback| comeback.back < comeback.cut) {
            note(format!("{} clients that were cut off did not come back", comeback.cut - comeback.back));
        }
    }
}

fn delivered(counted: &Totals) -> u64 {
    counted[Count::Deliveries] + counted[Count::SlowDeliveries]
}

fn connect_part(facts: &Facts, outcome: &Outcome) -> ConnectPart {
    ConnectPart {
        ready: facts.ready,
        failed: facts.failed,
        streams: outcome.streams,
        seconds: facts.connect_s,
        rate_per_s: facts.ready as f64 / facts.connect_s.max(1e-9),
        upgrade_us: Spread::of(&outcome.upgrade),
        ready_us: Spread::of(&outcome.ready),
        failures: outcome.failures.by_text().clone(),
        rejected: outcome.rejected.by_text().clone(),
    }
}

fn window_part(seconds: f64, counted: &Totals) -> WindowPart {
    let per_second = |number: u64| number as f64 / seconds.max(1e-9);
    WindowPart {
        seconds,
        deliveries: counted[Count::Deliveries],
        deliveries_per_s: per_second(counted[Count::Deliveries]),
        bytes: counted[Count::Bytes],
        bytes_per_s: per_second(counted[Count::Bytes]),
        deliveries_per_read: counted[Count::Deliveries] as f64 / counted[Count::Reads].max(1) as f64,
        snapshots: counted[Count::Snapshots],
        statuses: counted[Count::Statuses],
        conflated: counted[Count::Conflated],
        gaps: counted[Count::Gaps],
        gap_numbers: counted[Count::GapNumbers],
        closed: counted[Count::Closed],
        values_checked: counted[Count::ValuesChecked],
        values_compared: counted[Count::ValuesCompared],
        slow_path: counted[Count::SlowPath],
        clock_ahead: counted[Count::ClockAhead],
    }
}

fn client_part(seen: &PhaseFacts, timed: &PhaseOutcome) -> ClientPart {
    ClientPart {
        cpu_s: seen.own_cpu_s,
        cpu_ns_per_delivery: seen.own_cpu_s * 1e9 / delivered(&seen.counted).max(1) as f64,
        busiest_thread: timed.busiest,
        turn_us: Spread::of(&timed.turns),
        saturated: timed.busiest > SATURATED_SHARE,
    }
}

fn comeback_part(counted: &Totals, ready_us: Spread) -> ComebackPart {
    ComebackPart {
        cut: counted[Count::Cut],
        back: counted[Count::Back],
        not_back: counted[Count::NotBack],
        streams_resumed: counted[Count::Resumed],
        streams_renewed: counted[Count::Renewed],
        ready_us,
    }
}

fn phase_part(phase: &Phase, seen: &PhaseFacts, timed: &PhaseOutcome) -> PhasePart {
    let counted = &seen.counted;
    let delivered = delivered(counted);
    let moved = counted[Count::Cut] + counted[Count::Back] + counted[Count::NotBack];
    PhasePart {
        name: phase.name.clone(),
        measured: phase.measure,
        duration_s: phase.duration.as_secs_f64(),
        slow: phase.slow,
        slow_bytes_per_s: phase.slow_bytes_per_s,
        reconnect: phase.reconnect.map_or(0.0, |storm| storm.share),
        reconnect_rate: phase.reconnect.map_or(0, |storm| storm.rate),
        churn_rate: phase.churn_rate,
        rate: phase.rate,
        burst: phase.burst,
        window: window_part(seen.seconds, counted),
        latency_us: Spread::of(&timed.latency),
        latency_curve: curve(&timed.latency),
        commands: (counted[Count::Commands] > 0).then(|| CommandsPart {
            sent: counted[Count::Commands],
            answered: counted[Count::CommandsAnswered],
            latency_us: Spread::of(&timed.commands),
        }),
        comeback: (moved > 0).then(|| comeback_part(counted, Spread::of(&timed.back))),
        late_us: Spread::of(&timed.late),
        client: client_part(seen, timed),
        hub: seen.hub.as_ref().map(|(used, rss)| PhaseHubPart {
            cpu_s: used.ns as f64 / 1e9,
            cpu_ns_per_delivery: (delivered > 0).then(|| used.ns as f64 / delivered as f64),
            rss_bytes: *rss,
        }),
    }
}

fn options_part(plan: &Plan, instruments: usize) -> OptionsPart {
    let scenario = &plan.scenario;
    let of_group = scenario.group_of_clients();
    let subscription = |held: &Subscription| SubscriptionPart {
        channel: held.channel.clone(),
        mode: held.mode.name().to_owned(),
        symbols: held.symbols.clone(),
        symbols_per_client: match held.per_client {
            PerClient::Count(count) => Some(count),
            PerClient::All => None,
        },
        max_rate: held.max_rate,
        depth: held.depth,
    };
    let groups = scenario.groups.iter().enumerate().map(|(at, group)| GroupPart {
        name: group.name.clone(),
        clients: of_group.iter().filter(|of| usize::from(**of) == at).count(),
        subscriptions: group.subscriptions.iter().map(subscription).collect(),
    });
    OptionsPart {
        scenario: scenario.name.clone(),
        about: scenario.about.clone(),
        url: format!("ws://{}{}", plan.target.host, plan.target.path.split('?').next().unwrap_or_default()),
        source: match &scenario.source {
            Source::Hub => "hub".to_owned(),
            Source::Venue(venue) => format!("venue ({} instruments)", venue.instruments),
        },
        clients: scenario.clients,
        threads: scenario.threads,
        seed: scenario.seed,
        connect_rate: scenario.connect_rate,
        check_values: scenario.check_values,
        settle_s: scenario.settle.as_secs_f64(),
        tail_s: scenario.tail.as_secs_f64(),
        instruments,
        groups: groups.collect(),
    }
}

fn slow_part(plan: &Plan, totals: Totals, outcome: &Outcome) -> SlowPart {
    SlowPart {
        clients: (plan.scenario.clients as f64 * plan.scenario.slow_max() + 1e-9) as u64,
        deliveries: totals[Count::SlowDeliveries],
        bytes: totals[Count::SlowBytes],
        gaps: totals[Count::SlowGaps],
        gap_numbers: totals[Count::SlowGapNumbers],
        closes: closes(outcome, true),
    }
}

fn hub_part(hub: &HubFacts, used: &Used, delivered: u64) -> HubPart {
    let per_delivery = |ns: u64| ns as f64 / delivered.max(1) as f64;
    let grown = hub.idle.rss.saturating_sub(hub.before.rss) as f64;
    HubPart {
        cpu_s: used.ns as f64 / 1e9,
        cpu_ns_per_delivery: (delivered > 0).then(|| per_delivery(used.ns)),
        cpu_exact: used.exact,
        cpu_ns_per_delivery_by_thread: used
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
