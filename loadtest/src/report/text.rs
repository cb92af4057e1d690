//! The report as people read it.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use super::{PhasePart, Report, Second, Spread};
use crate::measure::{Count, Totals};

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p90, p99, p999, max] = [self.p50, self.p90, self.p99, self.p999, self.max].map(microseconds);
        write!(f, "p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p999}  max {max}")
    }
}

impl Second {
    /// For the progress bar.
    pub fn line(&self, totals: Totals) -> String {
        let hub = match (self.hub_cpu, self.hub_rss_bytes) {
            (Some(cores), Some(rss)) => format!("  hub {:.0} % CPU {}B", cores * 100.0, count(rss as f64)),
            _ => String::new(),
        };
        format!(
            "{}/s  {}B/s  p50 {}  p99 {}{hub}  gaps {}  conflated {}  closed {}  violations {}",
            count(self.deliveries_per_s),
            count(self.bytes_per_s),
            microseconds(self.latency_us.p50),
            microseconds(self.latency_us.p99),
            totals[Count::Gaps] + totals[Count::SlowGaps],
            count(totals[Count::Conflated] as f64).trim(),
            totals[Count::Closed],
            totals[Count::Violations],
        )
    }
}

impl Report {
    /// The report for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.write_text(&mut out).expect("writing to a String cannot fail");
        out.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
    }

    fn write_text(&self, out: &mut String) -> fmt::Result {
        let options = &self.options;
        writeln!(out, "\n{}: {} clients, {}", options.scenario, options.clients, options.url)?;
        for group in &options.groups {
            for held in &group.subscriptions {
                let symbols = match held.symbols_per_client {
                    Some(count) => format!("{count} of"),
                    None => "all of".to_owned(),
                };
                let (channel, mode, of) = (&held.channel, &held.mode, held.symbols.join(","));
                writeln!(out, "  {} clients {channel} ({mode}), {symbols} {of}", group.clients)?;
            }
        }
        let connect = &self.connect;
        writeln!(
            out,
            "connect      {} subscribed, {} failed in {:.2} s ({}/s), {} streams",
            connect.ready,
            connect.failed,
            connect.seconds,
            count(connect.rate_per_s),
            connect.streams
        )?;
        writeln!(out, "  upgraded   {}", connect.upgrade_us)?;
        writeln!(out, "  subscribed {}", connect.ready_us)?;
        for (reason, times) in connect.failures.iter().chain(&connect.rejected) {
            writeln!(out, "  failed     {times} × {reason}")?;
        }
        let window = &self.window;
        let early = if self.interrupted { ", ended early" } else { "" };
        writeln!(out, "measured     {:.2} s{early}", window.seconds)?;
        writeln!(
            out,
            "deliveries   {} verified, {}/s, {}B/s, {:.1} a read, {} values compared, {} checked",
            window.deliveries,
            count(window.deliveries_per_s),
            count(window.bytes_per_s),
            window.deliveries_per_read,
            window.values_compared,
            window.values_checked
        )?;
        writeln!(out, "latency      {}", self.latency_us)?;
        writeln!(
            out,
            "losses       {} conflated, {} gaps naming {} numbers",
            window.conflated, window.gaps, window.gap_numbers
        )?;
        self.write_phases(out)?;
        self.write_ends(out)?;
        self.write_cpu(out)?;
        if self.generator.late_us.count > 0 {
            writeln!(out, "plan kept    late by {}", self.generator.late_us)?;
        }
        for note in &self.notes {
            writeln!(out, "note         {note}")?;
        }
        writeln!(out, "violations   {} {}", self.violations.total, listed(&self.violations.by_name))?;
        for described in &self.violations.described {
            writeln!(out, "  {described}")?;
        }
        writeln!(out, "outcome      {}", self.outcome)
    }

    /// A line for each measured phase, where there are several.
    fn write_phases(&self, out: &mut String) -> fmt::Result {
        let measured: Vec<&PhasePart> = self.phases.iter().filter(|phase| phase.measured).collect();
        for phase in measured.iter().filter(|_| measured.len() > 1) {
            let cpu = phase.hub.as_ref().and_then(|hub| hub.cpu_ns_per_delivery);
            let hub = cpu.map_or_else(String::new, |ns| format!("  hub {ns:.0} ns a delivery"));
            let (name, rate) = (&phase.name, count(phase.window.deliveries_per_s));
            writeln!(out, "  {name:<10} {rate}/s  {}{hub}", phase.latency_us)?;
        }
        for phase in &self.phases {
            if let Some(commands) = &phase.commands {
                let (name, sent, answered) = (&phase.name, commands.sent, commands.answered);
                writeln!(out, "commands     {name}: {sent} sent, {answered} answered, {}", commands.latency_us)?;
            }
        }
        let Some(comeback) = &self.comeback else { return Ok(()) };
        writeln!(
            out,
            "comeback     {} cut off, {} back, {} streams resumed, {} begun anew; {}",
            comeback.cut, comeback.back, comeback.streams_resumed, comeback.streams_renewed, comeback.ready_us
        )
    }

    fn write_ends(&self, out: &mut String) -> fmt::Result {
        if !self.gaps_by_cause.is_empty() {
            writeln!(out, "gaps         {}", listed(&self.gaps_by_cause))?;
        }
        if !self.closes.is_empty() {
            writeln!(out, "closes       {}", listed(&self.closes))?;
        }
        if let Some(slow) = &self.slow {
            writeln!(
                out,
                "slow         {} clients: {} deliveries, {}B, {} gaps naming {} numbers, closes {}",
                slow.clients,
                slow.deliveries,
                count(slow.bytes as f64),
                slow.gaps,
                slow.gap_numbers,
                listed(&slow.closes)
            )?;
        }
        Ok(())
    }

    fn write_cpu(&self, out: &mut String) -> fmt::Result {
        let client = &self.client;
        writeln!(
            out,
            "client       {:.2} s CPU, {:.0} ns a delivery, busiest thread {:.0} %; turns {}",
            client.cpu_s,
            client.cpu_ns_per_delivery,
            client.busiest_thread * 100.0,
            client.turn_us
        )?;
        let Some(hub) = &self.hub else { return Ok(()) };
        let per_delivery = hub.cpu_ns_per_delivery.map_or_else(|| "-".to_owned(), |ns| format!("{ns:.0} ns"));
        let shares: BTreeMap<String, u64> =
            hub.cpu_ns_per_delivery_by_thread.iter().map(|(name, ns)| (name.clone(), *ns as u64)).collect();
        writeln!(out, "hub          {:.2} s CPU, {per_delivery} a delivery {}", hub.cpu_s, listed(&shares))?;
        writeln!(
            out,
            "hub memory   {}B before, {}B with {} sessions idle ({} a session), {}B at the end",
            count(hub.rss_before_bytes as f64),
            count(hub.rss_idle_bytes as f64),
            hub.sessions,
            hub.bytes_per_session.map_or_else(|| "-".to_owned(), |bytes| format!("{bytes:.0} B")),
            count(hub.rss_after_bytes as f64)
        )
    }
}

fn listed(counts: &BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let items: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    format!("({})", items.join(", "))
}

/// A number with a unit prefix, as in `31.2 k`.
pub fn count(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.2} G", n / 1e9),
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n if n >= 1e3 => format!("{:.1} k", n / 1e3),
        n => format!("{n:.0} "),
    }
}

/// A time in the unit that suits it.
pub fn microseconds(us: f64) -> String {
    let ns = (us * 1e3) as u64;
    match ns {
        0..1_000_000 => format!("{:.0} µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}
