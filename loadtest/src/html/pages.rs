//! The pages: what was run, the verdict, the plots, the tables.

use std::fmt::Write as _;

use super::{
    STYLE,
    chart::{Axis, Chart, Series},
    escaped,
};
use crate::{
    diff::Diff,
    report::{PhasePart, Report, Second, Spread, count, microseconds},
};

fn page(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"/>\
         <title>{}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n",
        escaped(title)
    )
}

/// A result.
pub fn report_page(report: &Report) -> String {
    let options = &report.options;
    let mut body = String::new();
    let class = if report.outcome == "ok" { "ok" } else { "bad" };
    let early = if report.interrupted { ", ended early" } else { "" };
    let _ = write!(
        body,
        "<h1>{}</h1><p class=\"dim\">{}</p><p><span class=\"verdict {class}\">{}{early}</span> \
         <span class=\"dim\">{} violations · {}</span></p>",
        escaped(&options.scenario),
        escaped(&options.about),
        escaped(&report.outcome),
        report.violations.total,
        escaped(&report.tool)
    );
    body.push_str(&cards(report));
    body.push_str(&troubles(report));
    body.push_str("<h2>Plots</h2><div class=\"plots\">");
    for chart in charts(&[("", report)]) {
        body.push_str(&chart.svg());
    }
    body.push_str("</div>");
    body.push_str(&phases(report));
    body.push_str(&run_options(report));
    page(&format!("{} · {}", options.scenario, report.outcome), &body)
}

/// A comparison.
pub fn diff_page(diff: &Diff) -> String {
    let mut body = String::from("<h1>Comparison</h1>");
    let _ = write!(
        body,
        "<p class=\"dim\">before: {}<br/>after: {}</p>",
        escaped(&diff.titles[0]),
        escaped(&diff.titles[1])
    );
    body.push_str(
        "<div class=\"wide\"><table><thead><tr><th>figure</th><th>before</th><th>after</th><th>after ÷ before</th>\
         <th>after is</th><th>noise</th></tr></thead><tbody>",
    );
    let mut phase = "";
    for row in &diff.rows {
        if row.phase != phase {
            phase = &row.phase;
            let _ = write!(body, "<tr class=\"part\"><td colspan=\"6\">{}</td></tr>", escaped(phase));
        }
        let ratio = row.ratio().map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
        let better = row.better.name();
        let _ = write!(
            body,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{ratio}</td><td class=\"{better}\">{better}</td>\
             <td>{}</td></tr>",
            escaped(row.name),
            escaped(&row.unit.show(row.before)),
            escaped(&row.unit.show(row.after)),
            row.noise_text()
        );
    }
    body.push_str("</tbody></table></div><h2>Notes</h2><ul>");
    for note in &diff.notes {
        let _ = write!(body, "<li>{}</li>", escaped(note));
    }
    body.push_str("</ul><h2>Plots</h2><div class=\"plots\">");
    for chart in charts(&[("before", &diff.reports[0]), ("after", &diff.reports[1])]) {
        body.push_str(&chart.svg());
    }
    body.push_str("</div>");
    page("Comparison", &body)
}

fn cards(report: &Report) -> String {
    let hub = report.hub.as_ref();
    let none = || "–".to_owned();
    let cards = [
        (format!("{}/s", count(report.window.deliveries_per_s)), "deliveries, all verified"),
        (microseconds(report.latency_us.p50), "latency p50"),
        (microseconds(report.latency_us.p99), "latency p99"),
        (microseconds(report.latency_us.p999), "latency p99.9"),
        (
            hub.and_then(|hub| hub.cpu_ns_per_delivery).map_or_else(none, |ns| format!("{ns:.0} ns")),
            "hub CPU a delivery",
        ),
        (
            hub.and_then(|hub| hub.bytes_per_session).map_or_else(none, |bytes| format!("{}B", count(bytes))),
            "memory of an idle session",
        ),
        (format!("{} of {}", report.connect.ready, report.options.clients), "clients subscribed"),
        (format!("{}/s", count(report.connect.rate_per_s)), "connects"),
    ];
    let mut out = String::from("<div class=\"cards\">");
    for (figure, name) in cards {
        let _ = write!(out, "<div class=\"card\"><b>{}</b><span>{name}</span></div>", escaped(&figure));
    }
    out + "</div>"
}

fn troubles(report: &Report) -> String {
    let mut out = String::new();
    if report.violations.total > 0 {
        let _ = write!(out, "<h2>Violations</h2><p>{} in all: ", report.violations.total);
        let named: Vec<String> =
            report.violations.by_name.iter().map(|(name, times)| format!("{} {times}", escaped(name))).collect();
        let _ = write!(out, "{}</p>", named.join(", "));
        for described in &report.violations.described {
            let _ = write!(out, "<pre>{}</pre>", escaped(described));
        }
    }
    if !report.notes.is_empty() {
        out.push_str("<h2>Notes</h2><ul>");
        for note in &report.notes {
            let _ = write!(out, "<li>{}</li>", escaped(note));
        }
        out.push_str("</ul>");
    }
    out
}

fn charts(reports: &[(&str, &Report)]) -> Vec<Chart> {
    let named = |which: &str, name: &str| if which.is_empty() { name.to_owned() } else { format!("{which}: {name}") };
    let over_time = |title, unit, log, show, figures: &[(&str, Figure)]| {
        let series = reports.iter().enumerate().flat_map(|(at, (which, report))| {
            figures.iter().enumerate().map(move |(color, (name, figure))| {
                let point = |second: &Second| figure(second).map(|value| (second.at_s, value));
                let points = report.seconds.iter().filter_map(point).collect();
                Series { name: named(which, name), points, color, dashed: at == 0 && reports.len() > 1 }
            })
        });
        Chart {
            title,
            x: Axis { label: "seconds", log: false, show: |value| format!("{value:.0}"), marks: None },
            y: Axis { label: unit, log, show, marks: None },
            series: series.collect(),
            bands: if let [(_, report)] = reports { bands(report) } else { Vec::new() },
        }
    };
    let positive = |value: f64| (value > 0.0).then_some(value);
    let p50: Figure = Box::new(move |second| positive(second.latency_us.p50));
    let p99: Figure = Box::new(move |second| positive(second.latency_us.p99));
    let max: Figure = Box::new(move |second| positive(second.latency_us.max));
    let latencies: Vec<(&str, Figure)> = if reports.len() == 1 {
        vec![("p50", p50), ("p99", p99), ("max", max)]
    } else {
        vec![("p50", p50), ("p99", p99)]
    };
    let deliveries: Figure = Box::new(|second| Some(second.deliveries_per_s));
    let cpu: Figure = Box::new(|second| second.hub_cpu_ns_per_delivery);
    let memory: Figure = Box::new(|second| second.hub_rss_bytes.map(|bytes| bytes as f64));
    let number: fn(f64) -> String = |value| round(count(value).trim().to_owned());
    let bytes: fn(f64) -> String = |value| round(format!("{}B", count(value)));
    vec![
        percentiles(reports, named),
        over_time("Latency over time", "latency", true, round_time, &latencies),
        over_time("Deliveries over time", "deliveries a second", false, number, &[("deliveries", deliveries)]),
        over_time("CPU of the hub for one delivery", "nanoseconds", false, number, &[("CPU a delivery", cpu)]),
        over_time("Memory of the hub", "resident", false, bytes, &[("resident memory", memory)]),
    ]
}

/// Marks of an axis stand at round numbers.
fn round(text: String) -> String {
    text.replace(".00 ", " ").replace(".0 ", " ")
}

fn round_time(us: f64) -> String {
    round(microseconds(us))
}

type Figure = Box<dyn Fn(&Second) -> Option<f64>>;

/// Latency by percentile: each step to the right is ten times rarer.
fn percentiles(reports: &[(&str, &Report)], named: impl Fn(&str, &str) -> String) -> Chart {
    /// Of more phases than this the picture shows nothing any more; the table has them all.
    const LINES_MAX: usize = super::chart::COLORS;
    let mut series = Vec::new();
    for (at, (which, report)) in reports.iter().enumerate() {
        let measured = report.phases.iter().filter(|phase| phase.measured && !phase.latency_curve.is_empty());
        for (color, phase) in measured.enumerate().take(LINES_MAX) {
            let rarest = phase.latency_us.count.max(1) as f64;
            let point = |(quantile, us): &(f64, f64)| ((1.0 / (1.0 - quantile).max(1.0 / rarest)), *us);
            let points = phase.latency_curve.iter().map(point).collect();
            let dashed = at == 0 && reports.len() > 1;
            series.push(Series { name: named(which, &phase.name), points, color, dashed });
        }
    }
    let rarest = series.iter().flat_map(|line| &line.points).map(|(x, _)| *x).fold(100.0, f64::max);
    let marks = [
        (2.0, "50 %"),
        (10.0, "90 %"),
        (100.0, "99 %"),
        (1e3, "99.9 %"),
        (1e4, "99.99 %"),
        (1e5, "99.999 %"),
        (1e6, "99.9999 %"),
    ];
    Chart {
        title: "Latency by percentile",
        x: Axis {
            label: "share of the deliveries that were faster",
            log: true,
            show: |_| String::new(),
            marks: Some(
                marks.iter().filter(|(at, _)| *at <= rarest).map(|(at, name)| (*at, (*name).to_owned())).collect(),
            ),
        },
        y: Axis { label: "latency", log: true, show: round_time, marks: None },
        series,
        bands: Vec::new(),
    }
}

fn bands(report: &Report) -> Vec<(f64, f64, String)> {
    let mut begin = 0.0;
    let band = |phase: &PhasePart| {
        let from = begin;
        begin += phase.window.seconds;
        (from, begin, phase.name.clone())
    };
    report.phases.iter().map(band).collect()
}

fn phases(report: &Report) -> String {
    let mut out = String::from(
        "<h2>Phases</h2><div class=\"wide\"><table><thead><tr><th>phase</th><th>seconds</th><th>deliveries/s</th>\
         <th>p50</th><th>p99</th><th>p99.9</th><th>max</th><th>hub CPU a delivery</th><th>hub memory</th>\
         <th>conflated</th><th>gaps</th><th>harness late, p99</th></tr></thead><tbody>",
    );
    for phase in &report.phases {
        let name =
            if phase.measured { escaped(&phase.name) } else { format!("{} (not counted)", escaped(&phase.name)) };
        let latency = |figure: fn(&Spread) -> f64| match phase.latency_us.count {
            0 => "–".to_owned(),
            _ => microseconds(figure(&phase.latency_us)),
        };
        let hub = phase.hub.as_ref();
        let cpu =
            hub.and_then(|hub| hub.cpu_ns_per_delivery).map_or_else(|| "–".to_owned(), |ns| format!("{ns:.0} ns"));
        let rss = hub.map_or_else(|| "–".to_owned(), |hub| format!("{}B", count(hub.rss_bytes as f64)));
        let late = if phase.late_us.count == 0 { "–".to_owned() } else { microseconds(phase.late_us.p99) };
        let window = &phase.window;
        let _ = write!(
            out,
            "<tr><td>{name}</td><td>{:.1}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{cpu}</td>\
             <td>{rss}</td><td>{}</td><td>{}</td><td>{late}</td></tr>",
            window.seconds,
            count(window.deliveries_per_s).trim(),
            latency(|spread| spread.p50),
            latency(|spread| spread.p99),
            latency(|spread| spread.p999),
            latency(|spread| spread.max),
            count(window.conflated as f64).trim(),
            window.gaps
        );
    }
    out.push_str("</tbody></table></div>");
    for phase in &report.phases {
        if let Some(commands) = &phase.commands {
            let (sent, answered) = (commands.sent, commands.answered);
            let (p50, p99) = (microseconds(commands.latency_us.p50), microseconds(commands.latency_us.p99));
            let _ = write!(
                out,
                "<p>{}: {sent} commands by plan, {answered} answered, p50 {p50}, p99 {p99} from the planned time.</p>",
                escaped(&phase.name)
            );
        }
    }
    if let Some(comeback) = &report.comeback {
        let _ = write!(
            out,
            "<p>Cut off: {} clients, {} came back; {} streams went on without a hole, {} began anew; from the planned \
             time to subscribed p50 {}, p99 {}.</p>",
            comeback.cut,
            comeback.back,
            comeback.streams_resumed,
            comeback.streams_renewed,
            microseconds(comeback.ready_us.p50),
            microseconds(comeback.ready_us.p99)
        );
    }
    out
}

fn run_options(report: &Report) -> String {
    let options = &report.options;
    let mut rows: Vec<(String, String)> = vec![
        ("server".into(), options.url.clone()),
        ("source of events".into(), options.source.clone()),
        (
            "clients".into(),
            format!("{}, {} connects/s, threads: {}", options.clients, options.connect_rate, options.threads),
        ),
        ("instruments".into(), options.instruments.to_string()),
        ("seed".into(), options.seed.to_string()),
    ];
    for group in &options.groups {
        for held in &group.subscriptions {
            let symbols = match held.symbols_per_client {
                Some(count) => format!("{count} of {}", held.symbols.join(", ")),
                None => format!("all of {}", held.symbols.join(", ")),
            };
            let rate = held.max_rate.map_or_else(String::new, |rate| format!(", at most {rate}/s"));
            let depth = held.depth.map_or_else(String::new, |depth| format!(", depth {depth}"));
            let text = format!("{} clients: {} ({}{rate}{depth}), {symbols}", group.clients, held.channel, held.mode);
            rows.push((format!("group {}", group.name), text));
        }
    }
    for phase in &report.phases {
        rows.push((format!("phase {}", phase.name), happens(phase)));
    }
    let client = &report.client;
    let busiest = client.busiest_thread * 100.0;
    rows.push((
        "harness".into(),
        format!(
            "{:.0} ns a delivery, busiest thread {busiest:.0} %, late by {} at p99 ({} is the most)",
            client.cpu_ns_per_delivery,
            microseconds(report.generator.late_us.p99),
            microseconds(report.generator.late_p99_max_us)
        ),
    ));
    rows.push((
        "checked".into(),
        format!(
            "{} values compared among clients, {} checked whole",
            report.window.values_compared, report.window.values_checked
        ),
    ));
    let mut out = String::from("<h2>What was run</h2><div class=\"wide\"><table><tbody>");
    for (name, text) in rows {
        let _ = write!(out, "<tr><td>{}</td><td class=\"text\">{}</td></tr>", escaped(&name), escaped(&text));
    }
    out + "</tbody></table></div>"
}

/// What happens in a phase, in words.
fn happens(phase: &PhasePart) -> String {
    let mut parts = vec![format!("{} s", phase.duration_s)];
    if phase.slow > 0.0 {
        let rate = match phase.slow_bytes_per_s {
            0 => "nothing".to_owned(),
            bytes => format!("{bytes} bytes a second"),
        };
        parts.push(format!("{:.1} % of the clients read {rate}", phase.slow * 100.0));
    }
    if phase.reconnect > 0.0 {
        let (share, rate) = (phase.reconnect * 100.0, phase.reconnect_rate);
        parts.push(format!("{share:.0} % of the clients are cut off and come back, {rate} a second"));
    }
    if phase.churn_rate > 0 {
        parts.push(format!("{} instruments a second are exchanged", phase.churn_rate));
    }
    if phase.rate > 0 {
        let burst = if phase.burst > 1 { format!(" in bursts of {}", phase.burst) } else { String::new() };
        parts.push(format!("{} events a second{burst}", phase.rate));
    }
    parts.join("; ")
}
