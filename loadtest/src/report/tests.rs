use clap::Parser;

use super::*;
use crate::{measure::Reasons, options::Options};

fn report(change: impl FnOnce(&mut Facts, &mut Outcome)) -> Report {
    let arguments = ["loadtest", "--url", "ws://127.0.0.1:1/p?token=secret", "--token", "t", "--clients", "2"];
    let plan = Options::try_parse_from(arguments).unwrap().plan().unwrap();
    let mut facts = Facts { ready: 2, connect_s: 1.0, window_s: 10.0, ..Facts::default() };
    facts.window[Count::Deliveries] = 1_000;
    let mut outcome = Outcome::default();
    (1..=100).for_each(|ms| outcome.latency.saturating_record(ms * 1_000_000));
    change(&mut facts, &mut outcome);
    Report::new(&plan, facts, outcome, Vec::new())
}

#[test]
fn a_clean_run_says_so_in_figures_that_add_up() {
    let report = report(|_, _| {});
    assert!(report.is_sound());
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["window"]["deliveries_per_s"], 100.0);
    let p99 = json["latency_us"]["p99"].as_f64().unwrap();
    assert!((99_000.0..99_200.0).contains(&p99), "{p99}");
    assert!(report.text().contains("p99 99.0"), "{}", report.text());
    assert!(!json.to_string().contains("secret") && !report.text().contains("secret"), "no token is shown");
}

#[test]
fn one_violation_fails_a_run_and_is_described() {
    let report = report(|facts, outcome| {
        facts.totals[Count::Violations] = 1;
        outcome.faults.push("hole: client 7, SIM:A: seq 5 where 4 had to come".into());
    });
    assert!(!report.is_sound());
    assert!(report.text().contains("seq 5 where 4 had to come"));
}

#[test]
fn clients_that_never_subscribed_or_were_refused_make_it_incomplete() {
    assert!(!report(|facts, _| facts.ready = 1).is_sound());
    let mut refused = Reasons::default();
    refused.count("not_entitled");
    assert!(!report(|_, outcome| outcome.rejected = refused).is_sound());
}

#[test]
fn a_saturated_client_is_said_loudly() {
    assert!(report(|_, outcome| outcome.busiest = 0.95).text().contains("SATURATED"));
    assert!(!report(|_, outcome| outcome.busiest = 0.85).text().contains("SATURATED"));
}

#[test]
fn the_hubs_cost_is_per_delivery_and_per_session() {
    let report = report(|facts, _| {
        let sample = |rss| Sample { rss, ..Sample::default() };
        let used = Used { ns: 5_000_000, exact: true, by_thread: vec![("worker".into(), 4_000_000)] };
        let hub = HubFacts { before: sample(1_000), idle: sample(9_000), after: sample(9_500), used, sessions: 2 };
        facts.hub = Some(hub);
    });
    let hub = &serde_json::to_value(&report).unwrap()["hub"];
    assert_eq!((&hub["cpu_ns_per_delivery"], &hub["bytes_per_session"]), (&5_000.0.into(), &4_000.0.into()));
    assert_eq!(hub["cpu_ns_per_delivery_by_thread"]["worker"], 4_000.0);
}
