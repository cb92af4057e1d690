//! The harness as its users run it, against a hub that breaks one guarantee on order: it must notice every one, and
//! accuse nobody who kept them all.

#![allow(clippy::unwrap_used)]

mod fake_hub;

use std::{
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
};

use fake_hub::{Deed, FakeHub, TOKEN};
use serde_json::Value;

struct Run {
    exit: i32,
    output: Output,
    result: Value,
}

impl Run {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned() + &String::from_utf8_lossy(&self.output.stderr)
    }
}

fn against(hub: &FakeHub, arguments: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("result.json");
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["--url", &format!("ws://{}/api/v1/ws/prices", hub.address), "--clients", "8"])
        .args(if arguments.contains(&"--symbols") { &[][..] } else { &["--symbols", "SIM:*"] })
        .args(["--settle", "0s", "--warmup", "100ms", "--duration", "400ms", "--tail", "1s", "--check-values", "1"])
        .args(["--lateness-p99-max", ANY_LATENESS])
        .args(arguments)
        .arg("--json")
        .arg(&json)
        .env("TICKHUB_TOKEN", TOKEN)
        .output()
        .unwrap();
    let result = std::fs::read(&json).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
    Run { exit: output.status.code().unwrap(), output, result }
}

/// The machine that tests run on does other things too: how late the harness was is judged in tests of the pace.
const ANY_LATENESS: &str = "10s";

/// Timed deliveries over counted ones: threads enter the window within a turn of each other, so not quite 1.
fn timed_share(result: &Value) -> f64 {
    let share = result["latency_us"]["count"].as_f64().unwrap() / result["window"]["deliveries"].as_f64().unwrap();
    share.min(1.0 / share)
}

#[test]
fn a_hub_that_keeps_its_promises_passes() {
    let hub = FakeHub::start(Deed::Nothing);
    let pid = std::process::id().to_string();
    let run = against(&hub, &["--symbols-per-client", "3", "--threads", "2", "--pid", &pid]);
    assert_eq!(run.exit, 0, "{}", run.text());
    let result = &run.result;
    assert_eq!((&result["outcome"], &result["connect"]["ready"]), (&"ok".into(), &8.into()));
    assert_eq!((&result["connect"]["streams"], &result["options"]["instruments"]), (&24.into(), &4.into()));
    // 24 streams, one number in 2 ms, for 400 ms, give or take the window's edges on a busy machine.
    let deliveries = result["window"]["deliveries"].as_u64().unwrap();
    assert!((2_400..9_600).contains(&deliveries), "{deliveries}");
    assert!(timed_share(result) > 0.8, "{}", run.text());
    assert!(result["hub"]["rss_idle_bytes"].as_u64().unwrap() > 0);
    assert_eq!(result["window"]["slow_path"], 0);
    assert!(run.text().contains("violations   0"));
}

#[test]
fn every_broken_promise_is_noticed_and_named() {
    let cases = [
        (Deed::Lose, "hole"),
        (Deed::Repeat, "repeat"),
        (Deed::Reorder, "hole"),
        (Deed::Corrupt, "message"),
        (Deed::CorruptValue, "value"),
        (Deed::NoSnapshot, "snapshot_missing"),
        (Deed::OldSnapshot, "snapshot_behind"),
        (Deed::BeforeAnswer, "not_subscribed"),
        (Deed::Foreign, "not_subscribed"),
        (Deed::WrongGap, "hole"),
        (Deed::LoseTail, "left_behind"),
        (Deed::Binary, "binary"),
        (Deed::Masked, "frame"),
        (Deed::AlterValue, "unequal"),
        (Deed::WrongLastValue, "unequal"),
        (Deed::WrongLastValue, "last_value"),
    ];
    std::thread::scope(|scope| {
        for (deed, name) in cases {
            scope.spawn(move || {
                let run = against(&FakeHub::start(deed), &[]);
                assert_eq!(run.exit, 1, "{deed:?}: {}", run.text());
                assert!(run.result["violations"]["by_name"][name].as_u64() > Some(0), "{deed:?}: {}", run.text());
                assert!(run.text().contains(": client "), "{deed:?}: {}", run.text());
                assert_eq!(run.result["outcome"], "violations");
            });
        }
    });
}

#[test]
fn an_honest_gap_is_no_fault_and_is_counted() {
    let run = against(&FakeHub::start(Deed::HonestGap), &["--warmup", "0s"]);
    assert_eq!(run.exit, 0, "{}", run.text());
    assert_eq!(run.result["gaps_by_cause"]["slow_consumer"], 1);
}

#[test]
fn pieces_fragments_and_pings_are_no_fault() {
    let run = against(&FakeHub::start(Deed::Trickle), &["--clients", "1"]);
    assert_eq!(run.exit, 0, "{}", run.text());
    assert!(run.result["window"]["deliveries"].as_u64().unwrap() > 50, "{}", run.text());
}

#[test]
fn latest_may_skip_numbers_and_every_may_not() {
    let latest = against(&FakeHub::start(Deed::Conflate), &["--mode", "latest", "--clients", "1"]);
    assert_eq!(latest.exit, 0, "{}", latest.text());
    let window = &latest.result["window"];
    let (delivered, passed) = (window["deliveries"].as_u64().unwrap(), window["conflated"].as_u64().unwrap());
    assert!(delivered > 20 && passed == delivered * 2, "{}", latest.text());
    let every = against(&FakeHub::start(Deed::Conflate), &["--clients", "1"]);
    assert_eq!(every.exit, 1, "{}", every.text());
}

#[test]
fn patterns_can_be_subscribed_to_as_they_are() {
    let run = against(&FakeHub::start(Deed::Nothing), &["--symbols-per-client", "all"]);
    assert_eq!(run.exit, 0, "{}", run.text());
    assert_eq!(run.result["connect"]["streams"], 32);
}

#[test]
fn a_subscriber_that_is_cut_off_is_reported_by_code() {
    let closed = against(&FakeHub::start(Deed::Close), &[]);
    assert_eq!((closed.exit, &closed.result["closes"]["4005"]), (0, &1.into()), "{}", closed.text());
    let lost = against(&FakeHub::start(Deed::Drop), &[]);
    assert_eq!(lost.result["closes"]["lost"], 1, "{}", lost.text());
    assert!(lost.text().contains("lost their connection"));
}

#[test]
fn who_cannot_subscribe_makes_the_run_incomplete() {
    let refused = against(&FakeHub::start(Deed::Refuse), &[]);
    assert_eq!(refused.exit, 1, "{}", refused.text());
    assert_eq!((&refused.result["outcome"], &refused.result["connect"]["failed"]), (&"incomplete".into(), &1.into()));
    assert!(refused.text().contains("401"));
    let rejected = against(&FakeHub::start(Deed::Reject), &["--symbols-per-client", "2"]);
    assert_eq!((rejected.exit, &rejected.result["connect"]["rejected"]["not_entitled"]), (1, &1.into()));
}

#[test]
fn slow_subscribers_are_told_apart_and_still_judged() {
    for rate in ["never", "2000"] {
        let run = against(&FakeHub::start(Deed::Nothing), &["--slow", "25%", "--slow-rate", rate]);
        assert_eq!(run.exit, 0, "{}", run.text());
        let slow = &run.result["slow"];
        assert_eq!(slow["clients"], 2);
        // What they did not read in the window they read at its end, and none of it is missing.
        assert!(slow["deliveries"].as_u64().unwrap() > 200, "{}", run.text());
        assert!(timed_share(&run.result) > 0.8, "{}", run.text());
    }
}

const STORM: &str = r#"
name = "storm"
clients = 8
settle = "0s"
tail = "1s"
check_values = 1
[[subscribe]]
symbols = ["SIM:*"]
symbols_per_client = 2
[[phase]]
name = "before"
duration = "200ms"
[[phase]]
name = "storm"
duration = "400ms"
reconnect = "50%"
reconnect_rate = 100
"#;

/// A scenario from a file, with its page beside the result.
fn run_file(hub: &FakeHub, scenario: &str, arguments: &[&str]) -> (Run, String) {
    let folder = tempfile::tempdir().unwrap();
    let [file, json, html] = ["scenario.toml", "result.json", "page.html"].map(|name| folder.path().join(name));
    std::fs::write(&file, scenario).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .arg("run")
        .arg(&file)
        .args(["--url", &format!("ws://{}/api/v1/ws/prices", hub.address)])
        .args(["--set", &format!("lateness_p99_max={ANY_LATENESS}")])
        .args(arguments)
        .arg("--json")
        .arg(&json)
        .arg("--html")
        .arg(&html)
        .env("TICKHUB_TOKEN", TOKEN)
        .output()
        .unwrap();
    let result = std::fs::read(&json).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
    let page = std::fs::read_to_string(&html).unwrap_or_default();
    (Run { exit: output.status.code().unwrap(), output, result }, page)
}

#[test]
fn after_a_storm_everyone_is_back_without_a_hole() {
    for threads in ["threads=1", "threads=3"] {
        let (run, page) = run_file(&FakeHub::start(Deed::Nothing), STORM, &["--set", threads]);
        assert_eq!(run.exit, 0, "{}", run.text());
        let comeback = &run.result["comeback"];
        assert_eq!((&comeback["cut"], &comeback["back"]), (&4.into(), &4.into()), "{}", run.text());
        assert_eq!((&comeback["streams_resumed"], &comeback["streams_renewed"]), (&8.into(), &0.into()));
        let stayed = run.result["phases"][1]["latency_us"]["count"].as_u64().unwrap();
        let all = run.result["phases"][1]["window"]["deliveries"].as_u64().unwrap();
        assert!(stayed > 0 && stayed < all, "those who were away are not timed: {stayed} of {all}");
        assert!(run.result["window"]["values_compared"].as_u64().unwrap() > 1_000, "{}", run.text());
        assert!(page.contains("<svg") && page.contains("went on without a hole"));
    }
}

#[test]
fn what_a_hub_does_wrong_at_a_resume_is_noticed_and_named() {
    std::thread::scope(|scope| {
        for (deed, name) in [(Deed::HoleAfterResume, "hole"), (Deed::ForgetAtResume, "resume_ahead")] {
            scope.spawn(move || {
                let (run, page) = run_file(&FakeHub::start(deed), STORM, &[]);
                assert_eq!(run.exit, 1, "{deed:?}: {}", run.text());
                assert!(run.result["violations"]["by_name"][name].as_u64() > Some(0), "{deed:?}: {}", run.text());
                assert!(page.contains("verdict bad") && page.contains(name));
            });
        }
    });
    let (run, _) = run_file(&FakeHub::start(Deed::KeepOut), STORM, &[]);
    assert_eq!((run.exit, &run.result["outcome"]), (1, &"incomplete".into()), "{}", run.text());
    assert!(run.text().contains("1 clients that were cut off did not come back"), "{}", run.text());
}

#[test]
fn exchanges_are_planned_timed_and_judged() {
    let churn = ["--set", "phase.storm.reconnect=0", "--set", "phase.storm.churn_rate=200"];
    let (run, _) = run_file(&FakeHub::start(Deed::Nothing), STORM, &churn);
    assert_eq!(run.exit, 0, "{}", run.text());
    let commands = &run.result["phases"][1]["commands"];
    let sent = commands["sent"].as_u64().unwrap();
    assert!((100..=160).contains(&sent), "two commands 200 times a second for 400 ms: {sent}");
    // Threads leave a phase within a turn of the one that counts.
    let late = run.result["phases"][1]["late_us"]["count"].as_u64().unwrap();
    assert!(late.abs_diff(sent / 2) <= 2, "each exchange has its lateness: {late} of {sent}");
    assert!(commands["latency_us"]["count"].as_u64().unwrap() + 8 >= sent, "{}", run.text());
    let (deaf, _) = run_file(&FakeHub::start(Deed::DeafToUnsubscribe), STORM, &churn);
    assert!(deaf.result["violations"]["by_name"]["not_subscribed"].as_u64() > Some(0), "{}", deaf.text());
}

#[test]
fn two_phases_tell_the_healthy_with_and_without_slow_ones() {
    let slow = ["--set", "phase.storm.reconnect=0", "--set", "phase.storm.slow=25%"];
    let (run, _) = run_file(&FakeHub::start(Deed::Nothing), STORM, &slow);
    assert_eq!(run.exit, 0, "{}", run.text());
    let per_second = |at: usize| run.result["phases"][at]["window"]["deliveries_per_s"].as_f64().unwrap();
    let share = per_second(1) / per_second(0);
    assert!((0.5..0.95).contains(&share), "a quarter of the clients does not count while it is slow: {share}");
    assert_eq!(run.result["slow"]["clients"], 2);
}

#[test]
fn a_bad_scenario_is_refused_with_its_reasons_and_a_good_one_is_told_to_be() {
    let hub = FakeHub::start(Deed::Nothing);
    let (run, _) = run_file(&hub, STORM, &["--set", "phase.storm.recconect=50%", "--set", "clients=0"]);
    assert_eq!(run.exit, 2, "{}", run.text());
    for part in ["clients = 0", "did you mean `reconnect`?", "scenario.toml"] {
        assert!(run.text().contains(part), "{}", run.text());
    }
    let (checked, _) = run_file(&hub, STORM, &["--check"]);
    assert_eq!(checked.exit, 0, "{}", checked.text());
    assert!(checked.result.is_null() && checked.text().contains("nothing is wrong"), "nothing was run");
}

#[test]
fn two_results_are_compared_and_shown_again() {
    let hub = FakeHub::start(Deed::Nothing);
    let folder = tempfile::tempdir().unwrap();
    let files = ["a.json", "b.json", "diff.html"].map(|name| folder.path().join(name).display().to_string());
    for (file, clients) in [(&files[0], "4"), (&files[1], "8")] {
        let run = against(&hub, &["--clients", clients]);
        std::fs::write(file, run.result.to_string()).unwrap();
    }
    let tool = |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_loadtest")).args(arguments).output().unwrap();
    let diff = tool(&["diff", &files[0], &files[1], "--html", &files[2]]);
    let text = String::from_utf8(diff.stdout).unwrap();
    assert!(diff.status.success() && text.contains("deliveries"), "{text}");
    assert!(text.contains("other clients: 4 before, 8 after"), "{text}");
    assert!(std::fs::read_to_string(&files[2]).unwrap().contains("after ÷ before"));
    assert!(tool(&["show", &files[0]]).status.success());
    std::fs::write(&files[1], "{}").unwrap();
    let refused = tool(&["diff", &files[0], &files[1]]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("format is 0"));
}

/// The hub of this workspace, built if it is not there yet.
fn hub_program() -> std::path::PathBuf {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_loadtest")).with_file_name("tickhub");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "tickhub", "--bin", "tickhub"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(program.is_file() || build.status().unwrap().success(), "the hub cannot be built");
    program
}

#[test]
fn as_the_venue_it_knows_what_was_sent_and_when() {
    let scenario = r#"
        name = "venue"
        clients = 20
        settle = "0s"
        [source]
        kind = "venue"
        instruments = 4
        [[subscribe]]
        symbols_per_client = 4
        [[subscribe]]
        channel = "trade"
        symbols_per_client = 2
        [[phase]]
        name = "even"
        duration = "1s"
        rate = 400
        [[phase]]
        name = "bursts"
        duration = "1s"
        rate = 400
        burst = 100
    "#;
    let hub = FakeHub::start(Deed::Nothing);
    let program = hub_program();
    let (run, _) = run_file(&hub, scenario, &["--hub", program.to_str().unwrap()]);
    assert_eq!(run.exit, 0, "{}", run.text());
    let phases = &run.result["phases"];
    for at in 0..2 {
        assert_eq!(phases[at]["late_us"]["count"], 400, "every event of the plan was sent: {}", run.text());
    }
    // Half of the events are quotes, which all hold; the other half trades, of which each client holds two of four.
    let deliveries = run.result["window"]["deliveries"].as_u64().unwrap();
    assert!(deliveries <= 800 * 15 && deliveries > 800 * 12, "{deliveries}: {}", run.text());
    let compared = run.result["window"]["values_compared"].as_u64().unwrap();
    assert!(compared > deliveries / 2, "{compared} of {deliveries}");
}

#[test]
fn what_cannot_begin_says_why() {
    let hub = FakeHub::start(Deed::Nothing);
    for (arguments, reason) in [
        (&["--symbols", "NONE:*"][..], "no instrument matches"),
        (&["--symbols-per-client", "9"], "only 4 instruments"),
        (&["--token", "wrong"], "401"),
        (&["--clients", "100000000"], "open files"),
        (&["--pid", "4000000000"], "process"),
        (&["--channel", "status"], "no numbers"),
    ] {
        let run = against(&hub, arguments);
        assert_eq!(run.exit, 2, "{arguments:?}: {}", run.text());
        assert!(run.text().contains(reason), "{arguments:?}: {}", run.text());
    }
}

#[test]
fn an_interrupt_ends_the_window_early_with_a_report() {
    let hub = FakeHub::start(Deed::Nothing);
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["--url", &format!("ws://{}/api/v1/ws/prices", hub.address), "--token", TOKEN, "--duration", "1h"])
        .args(["--settle", "0s", "--warmup", "0s", "--lateness-p99-max", ANY_LATENESS])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut progress = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(progress.any(|line| line.unwrap().contains("measured")));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    progress.for_each(drop);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("ended early"), "{text}");
}
