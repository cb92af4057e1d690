use clap::Parser;

use super::*;
use crate::{measure::Reasons, options::Cli};

fn report(change: impl FnOnce(&mut Facts, &mut Outcome)) -> Report {
    let arguments = ["loadtest", "--url", "ws://127.0.0.1:1/p?token=secret", "--token", "t", "--clients", "2"];
    let options = Cli::try_parse_from(arguments).unwrap().options;
    let plan = options.access.clone().plan(options.scenario().unwrap()).unwrap();
    let mut facts = Facts { ready: 2, connect_s: 1.0, ..Facts::default() };
    facts.phases = vec![PhaseFacts::default(), PhaseFacts { seconds: 10.0, ..PhaseFacts::default() }];
    facts.phases[0].counted[Count::Deliveries] = 77;
    facts.phases[1].counted[Count::Deliveries] = 1_000;
    let mut outcome = Outcome::new(2);
    outcome.phases[0].latency.saturating_record(50_000_000_000);
    (1..=100).for_each(|ms| outcome.phases[1].latency.saturating_record(ms * 1_000_000));
    change(&mut facts, &mut outcome);
    Report::new(&plan, facts, outcome, Vec::new())
}

#[test]
fn a_clean_run_says_so_in_figures_that_add_up() {
    let report = report(|_, _| {});
    assert!(report.outcome == "ok");
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
    assert_eq!(report.outcome, "violations");
    assert!(report.text().contains("seq 5 where 4 had to come"));
}

#[test]
fn clients_that_never_subscribed_or_were_refused_make_it_incomplete() {
    assert!(report(|facts, _| facts.ready = 1).outcome != "ok");
    let mut refused = Reasons::default();
    refused.count("not_entitled");
    assert!(report(|_, outcome| outcome.rejected = refused).outcome != "ok");
}

#[test]
fn a_saturated_client_is_said_loudly() {
    assert!(report(|_, outcome| outcome.phases[1].busiest = 0.95).text().contains("SATURATED"));
    assert!(!report(|_, outcome| outcome.phases[1].busiest = 0.85).text().contains("SATURATED"));
}

#[test]
fn the_hubs_cost_is_per_delivery_and_per_session() {
    let report = report(|facts, _| {
        let sample = |rss| Sample { rss, ..Sample::default() };
        let used = Used { ns: 5_000_000, exact: true, by_thread: vec![("worker".into(), 4_000_000)] };
        let hub = HubFacts { before: sample(1_000), idle: sample(9_000), after: sample(9_500), sessions: 2 };
        (facts.hub, facts.phases[1].hub) = (Some(hub), Some((used, 9_500)));
    });
    let hub = &serde_json::to_value(&report).unwrap()["hub"];
    assert_eq!((&hub["cpu_ns_per_delivery"], &hub["bytes_per_session"]), (&5_000.0.into(), &4_000.0.into()));
    assert_eq!(hub["cpu_ns_per_delivery_by_thread"]["worker"], 4_000.0);
}

#[test]
fn a_generator_that_was_late_makes_the_run_invalid_and_not_more() {
    let late = report(|_, outcome| (0..100).for_each(|_| outcome.phases[1].late.saturating_record(30_000_000)));
    assert_eq!(late.outcome, "invalid");
    assert!(late.text().contains("INVALID"), "{}", late.text());
    let few = report(|_, outcome| (0..99).for_each(|_| outcome.phases[1].late.saturating_record(30_000_000)));
    assert_eq!(few.outcome, "ok", "a handful is no load");
    let in_time = report(|_, outcome| (0..100).for_each(|_| outcome.phases[1].late.saturating_record(10_000_000)));
    assert_eq!(in_time.outcome, "ok");
    let both = report(|facts, outcome| {
        facts.totals[Count::Violations] = 1;
        (0..100).for_each(|_| outcome.late.saturating_record(30_000_000));
    });
    assert_eq!(both.outcome, "violations", "a broken guarantee counts for more");
}

#[test]
fn who_was_cut_off_and_is_not_back_makes_it_incomplete() {
    let storm = |back| {
        report(|facts, _| {
            (facts.totals[Count::Cut], facts.totals[Count::Back]) = (5, back);
        })
    };
    assert_eq!((storm(5).outcome.as_str(), storm(4).outcome.as_str()), ("ok", "incomplete"));
}

#[test]
fn a_result_is_read_again_as_it_was_written_and_another_format_is_refused() {
    let report = report(|_, _| {});
    let text = serde_json::to_vec(&report).unwrap();
    assert_eq!(Report::from_json(&text).unwrap(), report);
    let other = String::from_utf8(text).unwrap().replace("\"format\":2", "\"format\":1");
    assert!(Report::from_json(other.as_bytes()).unwrap_err().to_string().contains("format is 1"));
    assert!(Report::from_json(b"[]").is_err());
}
