//! Two results beside each other: figures, their ratio, which is better, and whether the difference is more than the
//! figures vary from second to second anyhow.

use std::fmt::Write as _;

use crate::report::{PhasePart, Report, Second, count, microseconds};

/// Differences below this are not told apart from chance, however steady the seconds were: two runs of one program
/// differ by as much through where its memory happens to lie.
const SAME_SHARE: f64 = 0.03;
/// The same of figures that are measured once in a run, or over too few seconds to know how they vary.
const SAME_SHARE_OF_ONE: f64 = 0.25;
/// Seconds that a figure needs before its variation says anything.
const SECONDS_MIN: usize = 5;

/// What is to be read of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A number.
    Count,
    /// A number each second.
    PerSecond,
    /// Microseconds.
    Micros,
    /// Nanoseconds of CPU.
    CpuNs,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// The figure as people read it.
    pub fn show(self, figure: f64) -> String {
        match self {
            Self::Count => count(figure).trim().to_owned(),
            Self::PerSecond => format!("{}/s", count(figure)),
            Self::Micros => microseconds(figure),
            Self::CpuNs => format!("{figure:.0} ns"),
            Self::Bytes => format!("{}B", count(figure)),
        }
    }
}

/// Which of the two is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The first.
    Before,
    /// The second.
    After,
    /// They cannot be told apart.
    Same,
}

impl Better {
    /// For a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Before => "worse",
            Self::After => "better",
            Self::Same => "same",
        }
    }
}

/// One figure of both.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Of which phase; empty = of the whole.
    pub phase: String,
    /// What it is.
    pub name: &'static str,
    /// How it is read.
    pub unit: Unit,
    /// In the first result.
    pub before: f64,
    /// In the second.
    pub after: f64,
    /// By how much of itself it may differ by chance, where that is known.
    pub noise: Option<f64>,
    /// Which is better.
    pub better: Better,
}

impl Row {
    /// The noise as people read it.
    pub fn noise_text(&self) -> String {
        self.noise.map_or_else(|| "not known".to_owned(), |noise| format!("± {:.0} %", noise * 100.0))
    }

    /// Second over first; `None` where the first is nothing.
    pub fn ratio(&self) -> Option<f64> {
        (self.before > 0.0).then(|| self.after / self.before)
    }
}

/// Two results compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Diff {
    /// Both results' names: scenario and outcome.
    pub titles: [String; 2],
    /// The figures.
    pub rows: Vec<Row>,
    /// What has to be known of them.
    pub notes: Vec<String>,
    /// Both results.
    pub reports: [Report; 2],
}

impl Diff {
    /// Compares `after` with `before`.
    pub fn new(before: &Report, after: &Report) -> Self {
        let mut rows = Vec::new();
        let whole = [(before, None), (after, None)];
        rows_of_whole(&mut rows, before, after);
        rows_of_stretch(&mut rows, "", whole);
        let several = before.phases.iter().filter(|phase| phase.measured).count() > 1;
        for (at, phase) in before.phases.iter().enumerate().filter(|(_, phase)| phase.measured && several) {
            let same = after.phases.iter().enumerate().find(|(_, other)| other.name == phase.name && other.measured);
            if let Some((other_at, other)) = same {
                let both = [(before, Some((at, phase))), (after, Some((other_at, other)))];
                rows_of_stretch(&mut rows, &phase.name, both);
            }
        }
        let title = |report: &Report| format!("{} ({})", report.options.scenario, report.outcome);
        Self {
            titles: [title(before), title(after)],
            rows,
            notes: notes(before, after),
            reports: [before.clone(), after.clone()],
        }
    }

    /// The table for a terminal.
    pub fn text(&self) -> String {
        let mut out = format!("before: {}\nafter:  {}\n\n", self.titles[0], self.titles[1]);
        let _ = writeln!(out, "{:<36}{:>12}{:>12}{:>8}  {:<9} noise", "", "before", "after", "ratio", "after is");
        let mut phase = "";
        for row in &self.rows {
            if row.phase != phase {
                phase = &row.phase;
                let _ = writeln!(out, "{phase}");
            }
            let ratio = row.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            let name = if phase.is_empty() { row.name.to_owned() } else { format!("  {}", row.name) };
            let (before, after) = (row.unit.show(row.before), row.unit.show(row.after));
            let (better, noise) = (row.better.name(), row.noise_text());
            let _ = writeln!(out, "{name:<36}{before:>12}{after:>12}{ratio:>8}  {better:<9} {noise}");
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        out
    }
}

struct Adder<'a> {
    rows: &'a mut Vec<Row>,
    phase: &'a str,
}

impl Adder<'_> {
    /// A figure of which `less` is better, or more.
    fn add(&mut self, name: &'static str, unit: Unit, less: bool, figures: (f64, f64), noise: Option<f64>) {
        let (before, after) = figures;
        if before == 0.0 && after == 0.0 {
            return;
        }
        let noise = noise.map(|noise| noise.max(SAME_SHARE));
        let differs = (after - before).abs() > noise.unwrap_or(SAME_SHARE_OF_ONE) * before.abs().max(after.abs());
        let better = match (differs, (after < before) == less) {
            (false, _) => Better::Same,
            (true, true) => Better::After,
            (true, false) => Better::Before,
        };
        self.rows.push(Row { phase: self.phase.to_owned(), name, unit, before, after, noise, better });
    }
}

fn rows_of_whole(rows: &mut Vec<Row>, before: &Report, after: &Report) {
    let mut adder = Adder { rows, phase: "" };
    let both = |figure: fn(&Report) -> f64| (figure(before), figure(after));
    adder.add("violations", Unit::Count, true, both(|report| report.violations.total as f64), Some(0.0));
    adder.add("connects", Unit::PerSecond, false, both(|report| report.connect.rate_per_s), None);
    adder.add("connect to subscribed, p99", Unit::Micros, true, both(|report| report.connect.ready_us.p99), None);
    let idle = both(|report| report.hub.as_ref().and_then(|hub| hub.bytes_per_session).unwrap_or(0.0));
    adder.add("memory of an idle session", Unit::Bytes, true, idle, None);
    let rss = both(|report| report.hub.as_ref().map_or(0.0, |hub| hub.rss_after_bytes as f64));
    adder.add("memory at the end", Unit::Bytes, true, rss, None);
}

type Stretch<'a> = (&'a Report, Option<(usize, &'a PhasePart)>);

fn rows_of_stretch(rows: &mut Vec<Row>, name: &str, both: [Stretch<'_>; 2]) {
    let mut adder = Adder { rows, phase: name };
    let seconds = both.map(|(report, phase)| {
        let is_in = |second: &&Second| match phase {
            Some((at, _)) => second.phase == at,
            None => report.phases.get(second.phase).is_some_and(|phase| phase.measured),
        };
        report.seconds.iter().filter(is_in).collect::<Vec<_>>()
    });
    let noise =
        |figure: fn(&Second) -> f64| Some(variation(&seconds[0], figure)?.hypot(variation(&seconds[1], figure)?));
    let windows = both.map(|(report, phase)| phase.map_or(&report.window, |(_, phase)| &phase.window));
    let spreads = both.map(|(report, phase)| phase.map_or(&report.latency_us, |(_, phase)| &phase.latency_us));
    let rate = (windows[0].deliveries_per_s, windows[1].deliveries_per_s);
    adder.add("deliveries", Unit::PerSecond, false, rate, noise(|second| second.deliveries_per_s));
    adder.add("latency p50", Unit::Micros, true, (spreads[0].p50, spreads[1].p50), noise(|s| s.latency_us.p50));
    adder.add("latency p99", Unit::Micros, true, (spreads[0].p99, spreads[1].p99), noise(|s| s.latency_us.p99));
    adder.add("latency p99.9", Unit::Micros, true, (spreads[0].p999, spreads[1].p999), noise(|s| s.latency_us.p999));
    adder.add("latency max", Unit::Micros, true, (spreads[0].max, spreads[1].max), noise(|s| s.latency_us.max));
    let cpu = both.map(|(report, phase)| match phase {
        Some((_, phase)) => phase.hub.as_ref().and_then(|hub| hub.cpu_ns_per_delivery),
        None => report.hub.as_ref().and_then(|hub| hub.cpu_ns_per_delivery),
    });
    if let [Some(before), Some(after)] = cpu {
        let noise = noise(|second| second.hub_cpu_ns_per_delivery.unwrap_or(0.0));
        adder.add("hub CPU a delivery", Unit::CpuNs, true, (before, after), noise);
    }
    let conflated = (windows[0].conflated as f64, windows[1].conflated as f64);
    adder.add("conflated", Unit::Count, true, conflated, noise(|second| second.conflated_per_s));
    adder.add("gaps", Unit::Count, true, (windows[0].gaps as f64, windows[1].gaps as f64), None);
    let phases = both.map(|(_, phase)| phase.map(|(_, phase)| phase));
    if let [Some(before), Some(after)] = phases {
        let commands = |phase: &PhasePart| phase.commands.as_ref().map_or(0.0, |commands| commands.latency_us.p99);
        adder.add("command to answer, p99", Unit::Micros, true, (commands(before), commands(after)), None);
        let back = |phase: &PhasePart| phase.comeback.as_ref().map_or(0.0, |comeback| comeback.ready_us.p99);
        adder.add("cut to back again, p99", Unit::Micros, true, (back(before), back(after)), None);
    }
}

/// Two standard errors of the mean of a figure over seconds, as a share of it; `None` where too few tell nothing.
fn variation(seconds: &[&Second], figure: fn(&Second) -> f64) -> Option<f64> {
    if seconds.len() < SECONDS_MIN {
        return None;
    }
    let number = seconds.len() as f64;
    let mean = seconds.iter().map(|second| figure(second)).sum::<f64>() / number;
    let variance = seconds.iter().map(|second| (figure(second) - mean).powi(2)).sum::<f64>() / (number - 1.0);
    Some(if mean > 0.0 { 2.0 * (variance / number).sqrt() / mean } else { 0.0 })
}

fn notes(before: &Report, after: &Report) -> Vec<String> {
    let mut notes = vec![format!(
        "the noise is two standard errors of the seconds of both runs, at least {:.0} %; where it is not known, \
         {:.0} % is taken for the same; one run each tells nothing of how runs differ: repeat what matters",
        SAME_SHARE * 100.0,
        SAME_SHARE_OF_ONE * 100.0
    )];
    for (name, report) in [("before", before), ("after", after)] {
        if report.outcome != "ok" {
            notes.push(format!("{name} ended as `{}`: its figures do not count", report.outcome));
        }
        if report.client.saturated {
            notes.push(format!("{name}: the client was saturated, so latencies and rates are its own"));
        }
    }
    let what = |report: &Report| {
        let options = &report.options;
        let phases: Vec<String> =
            report.phases.iter().map(|phase| format!("{} {} s", phase.name, phase.duration_s)).collect();
        [
            ("scenario", options.scenario.clone()),
            ("clients", options.clients.to_string()),
            ("threads", options.threads.to_string()),
            ("source", options.source.clone()),
            ("connect rate", options.connect_rate.to_string()),
            ("instruments", options.instruments.to_string()),
            ("phases", phases.join(", ")),
            ("subscriptions", format!("{:?}", options.groups)),
        ]
    };
    for ((name, before), (_, after)) in what(before).into_iter().zip(what(after)) {
        if before != after && name == "subscriptions" {
            notes.push("the clients hold other subscriptions".to_owned());
        } else if before != after {
            notes.push(format!("other {name}: {before} before, {after} after"));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{HubPart, Spread, WindowPart};

    fn report(per_second: &[f64], p99: f64, cpu: f64) -> Report {
        let second = |deliveries_per_s: &f64| Second { deliveries_per_s: *deliveries_per_s, ..Second::default() };
        let mean = per_second.iter().sum::<f64>() / per_second.len() as f64;
        Report {
            format: 2,
            outcome: "ok".to_owned(),
            phases: vec![PhasePart { name: "one".to_owned(), measured: true, ..PhasePart::default() }],
            window: WindowPart { deliveries_per_s: mean, ..WindowPart::default() },
            latency_us: Spread { p99, ..Spread::default() },
            hub: Some(HubPart { cpu_ns_per_delivery: Some(cpu), ..HubPart::default() }),
            seconds: per_second.iter().map(second).collect(),
            ..Report::default()
        }
    }

    fn row<'a>(diff: &'a Diff, name: &str) -> &'a Row {
        diff.rows.iter().find(|row| row.name == name).unwrap()
    }

    #[test]
    fn each_figure_has_a_ratio_and_says_which_is_better() {
        let steady = [100.0; 8];
        let diff = Diff::new(&report(&steady, 1_000.0, 500.0), &report(&[150.0; 8], 2_000.0, 505.0));
        let deliveries = row(&diff, "deliveries");
        assert_eq!((deliveries.ratio(), deliveries.better), (Some(1.5), Better::After), "more is better");
        let p99 = row(&diff, "latency p99");
        assert_eq!((p99.ratio(), p99.better), (Some(2.0), Better::Before), "less is better");
        assert_eq!(row(&diff, "hub CPU a delivery").better, Better::Same, "1 % is not told from chance");
        let text = diff.text();
        assert!(text.contains("1.50") && text.contains("worse") && text.contains("noise"), "{text}");
    }

    #[test]
    fn a_difference_within_the_seconds_own_variation_is_no_difference() {
        let wild = [50.0, 150.0, 60.0, 140.0, 80.0, 120.0];
        let wilder = [70.0, 170.0, 80.0, 160.0, 100.0, 140.0];
        let row =
            |a: &[f64], b: &[f64]| row(&Diff::new(&report(a, 1.0, 1.0), &report(b, 1.0, 1.0)), "deliveries").clone();
        assert_eq!(row(&wild, &wilder).better, Better::Same);
        assert_eq!(row(&[100.0; 6], &[120.0; 6]).better, Better::After);
    }

    #[test]
    fn too_few_seconds_tell_no_small_difference() {
        let row =
            |after| row(&Diff::new(&report(&[100.0], 1.0, 1.0), &report(&[after], 1.0, 1.0)), "deliveries").clone();
        assert_eq!((row(120.0).better, row(120.0).noise), (Better::Same, None));
        assert_eq!(row(200.0).better, Better::After);
        assert_eq!(row(120.0).noise_text(), "not known");
    }

    #[test]
    fn what_was_run_differently_or_does_not_count_is_said() {
        let mut other = report(&[1.0], 1.0, 1.0);
        (other.options.clients, other.outcome) = (7, "invalid".to_owned());
        let diff = Diff::new(&report(&[1.0], 1.0, 1.0), &other);
        assert!(diff.notes.iter().any(|note| note.contains("other clients: 0 before, 7 after")), "{:?}", diff.notes);
        assert!(diff.notes.iter().any(|note| note.contains("`invalid`")), "{:?}", diff.notes);
    }
}
