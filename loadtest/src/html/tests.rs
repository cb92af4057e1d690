use super::*;
use crate::{
    diff::Diff,
    report::{ComebackPart, CommandsPart, HubPart, PhaseHubPart, PhasePart, Report, Second, Spread},
};

fn report() -> Report {
    let spread = Spread { count: 10_000, mean: 60.0, p50: 50.0, p90: 90.0, p99: 400.0, p999: 2_000.0, max: 9_000.0 };
    let phase = |name: &str| PhasePart {
        name: name.to_owned(),
        measured: true,
        latency_us: spread,
        latency_curve: vec![(0.0, 20.0), (0.5, 50.0), (0.9, 90.0), (0.99, 400.0), (0.999, 2_000.0), (1.0, 9_000.0)],
        commands: Some(CommandsPart { sent: 5, answered: 5, latency_us: spread }),
        comeback: Some(ComebackPart::default()),
        hub: Some(PhaseHubPart { cpu_s: 1.0, cpu_ns_per_delivery: Some(700.0), rss_bytes: 9_000_000 }),
        window: crate::report::WindowPart { seconds: 5.0, ..Default::default() },
        ..PhasePart::default()
    };
    let second = |at: usize| Second {
        phase: at / 5,
        at_s: at as f64 + 1.0,
        deliveries_per_s: 1_000.0 + at as f64,
        latency_us: spread,
        hub_cpu_ns_per_delivery: Some(700.0),
        hub_rss_bytes: Some(8_000_000 + at as u64),
        ..Second::default()
    };
    let mut report = Report {
        format: 2,
        outcome: "violations".to_owned(),
        phases: vec![phase("before"), phase("storm <&>")],
        comeback: Some(ComebackPart::default()),
        hub: Some(HubPart::default()),
        latency_us: spread,
        seconds: (0..10).map(second).collect(),
        notes: vec!["a note with <b> & \"quotes\"".to_owned()],
        ..Report::default()
    };
    report.options.scenario = "<script>alert(1)</script>".to_owned();
    report.violations.total = 1;
    report.violations.described = vec!["hole: client 7, <img src=x>".to_owned()];
    report
}

/// Every tag is closed by its own name, in order, and attributes are quoted.
fn check_well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let body = page.strip_prefix("<!DOCTYPE html>\n").unwrap();
    let mut rest = body;
    while let Some(at) = rest.find('<') {
        let between = &rest[..at];
        let in_style = open.last() == Some(&"style");
        assert!(in_style || !between.contains('>'), "a lone > in {between:?}");
        let end = rest[at..].find('>').unwrap() + at;
        let tag = &rest[at + 1..end];
        assert!(!tag.contains('<'), "a tag within {tag:?}");
        assert!(tag.matches('"').count().is_multiple_of(2), "{tag:?}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{tag:?} closes another tag");
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap());
        }
        rest = &rest[end + 1..];
    }
    assert_eq!(open, Vec::<&str>::new(), "tags that are never closed");
}

fn check_self_contained(page: &str) {
    for outside in ["http:", "https:", "src=", "href=", "@import", "url(", "<script", "<link", "<iframe", "<img"] {
        assert!(!page.contains(outside), "{outside} in the page");
    }
}

#[test]
fn a_report_is_well_formed_and_needs_nothing_from_outside() {
    for report in [report(), Report::default()] {
        let page = report_page(&report);
        check_well_formed(&page);
        check_self_contained(&page.replace("&lt;img src=x&gt;", ""));
    }
    let page = report_page(&report());
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "what a file or a server says is text");
}

#[test]
fn a_report_has_every_plot_the_verdict_and_the_violations() {
    let page = report_page(&report());
    for part in [
        "Latency by percentile",
        "Latency over time",
        "Deliveries over time",
        "CPU of the hub for one delivery",
        "Memory of the hub",
        "verdict bad",
        "hole: client 7",
        "prefers-color-scheme:dark",
        "storm &lt;&amp;&gt;",
    ] {
        assert!(page.contains(part), "{part} is missing");
    }
    assert_eq!(page.matches("<svg").count(), 5);
    assert!(page.matches("<polyline").count() >= 8, "two phases, three latencies, and three more lines");
    let empty = report_page(&Report::default());
    assert!(empty.contains("not measured in this run") && !empty.contains("<svg"));
}

#[test]
fn a_comparison_is_well_formed_too_and_shows_both_lines() {
    let mut other = report();
    other.latency_us.p99 = 900.0;
    let page = diff_page(&Diff::new(&report(), &other));
    check_well_formed(&page);
    check_self_contained(&page.replace("&lt;img src=x&gt;", ""));
    assert!(page.contains("class=\"worse\"") && page.contains("2.25"), "{page}");
    assert!(page.contains("before: deliveries") && page.contains("after: deliveries"));
}
