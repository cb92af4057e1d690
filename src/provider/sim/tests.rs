use serde_json::Value;

use super::*;
use crate::ingest::{Standalone, standalone};
use crate::model::Depth;
use crate::provider::supervisor::{self, supervise};
use crate::provider::testing::{published, states};
use crate::settings::Span;
use crate::shutdown::stop_signal;

const KINDS: [StreamKind; 3] = [StreamKind::Quote, StreamKind::Trade, StreamKind::Book(Depth::Ten)];
const BREATH: Duration = Duration::from_millis(20);

fn config(instruments: u32, rate: Rate) -> Config {
    Config { instruments, events_per_second: rate, ..Config::default() }
}

fn fault(kind: FaultKind, at_event: u64) -> Fault {
    Fault { kind, at_event, after: Span::default(), lasts: Span::default(), count: 0, instrument: 0 }
}

/// Supervises the simulation for `duration` of virtual time; what was published, in order.
async fn watch(hub: &mut Standalone, config: &Config, duration: Duration) -> Vec<Value> {
    let (_stopper, stop) = stop_signal();
    let feed = hub.feed.clone();
    let supervision = supervisor::Config { stale_after: Span::seconds(10), ..supervisor::Config::default() };
    let running = supervise(|| Ok(Box::new(Sim::new(config))), feed, &supervision, 1, stop);
    tokio::pin!(running);
    let end = Instant::now() + duration;
    let mut events = Vec::new();
    while Instant::now() < end {
        tokio::select! {
            ending = &mut running => panic!("ended: {ending:?}"),
            () = tokio::time::sleep(BREATH) => events.append(&mut published(hub)),
        }
    }
    events
}

/// What is the same in every run: all but the times.
fn timeless(events: &[Value]) -> Vec<Value> {
    let mut events: Vec<Value> = events.iter().filter(|event| event["ch"] != "status").cloned().collect();
    for event in events.iter_mut().filter_map(Value::as_object_mut) {
        event.remove("ts");
        event.remove("rx");
    }
    events
}

#[tokio::test(start_paused = true)]
async fn publishes_the_same_events_whatever_the_pace() {
    let (mut slow, mut fast) = (standalone("SIM", &KINDS), standalone("SIM", &KINDS));
    let slow = timeless(&watch(&mut slow, &config(5, Rate::PerSecond(200)), Duration::from_secs(10)).await);
    let fast = timeless(&watch(&mut fast, &config(5, Rate::PerSecond(5_000)), Duration::from_secs(1)).await);
    assert!(slow.len() > 1_800, "{}", slow.len());
    assert_eq!(slow[..1_800], fast[..1_800]);
    assert_eq!(slow[0]["sym"], "SIM:AAA-USD");
    let trade = slow.iter().find(|event| event["ch"] == "trade").expect("trades");
    assert!(trade["px"].is_string() && trade["tid"].is_string(), "{trade}");
}

#[tokio::test(start_paused = true)]
async fn stamps_events_with_their_plan_and_catches_up_after_a_delay() {
    let config = Config { burst_percent: 0, book_share: 0, trade_share: 0, ..config(3, Rate::PerSecond(500)) };
    let mut hub = standalone("SIM", &KINDS);
    let (_stopper, stop) = stop_signal();
    let feed = hub.feed.clone();
    let mut sim = Sim::new(&config);
    let mut running = sim.run(&feed, stop);
    let mut events = Vec::new();
    for at in 0..40 {
        tokio::select! {
            _ = &mut running => panic!("ended"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        // The thread is held up for a second in the middle.
        tokio::time::advance(Duration::from_secs(u64::from(at == 20))).await;
        events.append(&mut published(&mut hub));
    }
    let ts = |event: &Value| event["ts"].as_str().expect("ts").parse::<i64>().expect("ns");
    let quotes: Vec<i64> = events.iter().filter(|event| event["ch"] == "quote").map(ts).collect();
    // Three seconds have passed, and the one in which nothing ran is not missing.
    assert!((1_470..=1_501).contains(&quotes.len()), "{}", quotes.len());
    assert!(quotes.windows(2).all(|pair| pair[1] - pair[0] == 2_000_000), "the plan knows of no delay");
    assert_eq!(late_at_most(&hub, 2.0), quotes.len());
    assert!((450..=520).contains(&(quotes.len() - late_at_most(&hub, 0.07))), "500 events were late, and it says so");
}

/// How many events were late by no more than `seconds`.
fn late_at_most(hub: &Standalone, seconds: f64) -> usize {
    let text = hub.feed.registry().render();
    let bound = |line: &&str| line.split("le=\"").nth(1).and_then(|l| l.split('"').next()?.parse::<f64>().ok());
    let mut late = text.lines().filter(|line| line.starts_with("tickhub_sim_lateness_seconds_bucket"));
    let line = late.rfind(|line| bound(line).is_some_and(|bound| bound <= seconds)).expect("a bucket");
    line.rsplit(' ').next().and_then(|count| count.parse().ok()).expect("a count")
}

#[tokio::test(start_paused = true)]
async fn busy_waiting_beats_the_resolution_of_timers() {
    for (busy_wait, expected) in [(true, 300..=301), (false, 0..=150)] {
        let config = Config { busy_wait, burst_percent: 0, ..config(3, Rate::PerSecond(300)) };
        let hub = standalone("SIM", &[]);
        let (stopper, stop) = stop_signal();
        let mut sim = Sim::new(&config);
        let clock = async {
            for _ in 0..100_000 {
                tokio::time::advance(Duration::from_micros(10)).await;
            }
            stopper.stop();
        };
        let (ended, ()) = tokio::join!(sim.run(&hub.feed, stop), clock);
        ended.expect("stopped");
        assert!((300..=301).contains(&late_at_most(&hub, 1.0)), "a second's events, whatever the waiting");
        let punctual = late_at_most(&hub, 0.000_05);
        assert!(expected.contains(&punctual), "{punctual} with busy_wait = {busy_wait}");
    }
}

#[tokio::test(start_paused = true)]
async fn going_stale_is_seen_and_over_again() {
    let stale = Fault { lasts: Span::seconds(15), ..fault(FaultKind::Stale, 300) };
    let config = Config { faults: vec![stale], ..config(2, Rate::PerSecond(100)) };
    let mut hub = standalone("SIM", &KINDS);
    let events = watch(&mut hub, &config, Duration::from_secs(25)).await;
    let seen = states(&events);
    assert_eq!(
        seen,
        ["recovering: connected", "live: ", "stale: no sign of life for 10 s", "live: signs of life again"]
    );
    let data = events.iter().filter(|event| event["ch"] == "quote" || event["ch"] == "trade").count();
    assert!(data < 700, "what was not said in the silence is not said afterwards: {data}");
}

#[tokio::test(start_paused = true)]
async fn dropped_events_are_announced_and_the_books_made_whole() {
    let drop = Fault { count: 100, ..fault(FaultKind::Drop, 500) };
    let config = Config { faults: vec![drop], ..config(3, Rate::PerSecond(500)) };
    let mut hub = standalone("SIM", &KINDS);
    let events = watch(&mut hub, &config, Duration::from_secs(4)).await;
    let gaps: Vec<&Value> = events.iter().filter(|event| event["op"] == "gap").collect();
    let lost: u64 = gaps.iter().map(|gap| gap["lost"].as_u64().expect("known")).sum();
    assert_eq!(lost, 100);
    assert!(gaps.iter().all(|gap| gap["cause"] == "upstream"));
    let resynced = |gap: &&&Value| {
        events.iter().any(|e| e["snap"] == true && e["sym"] == gap["sym"] && e["ch"] == "book" && e["seq"] == gap["to"])
    };
    let books: Vec<_> = gaps.iter().filter(|gap| gap["ch"] == "book").collect();
    assert!(!books.is_empty() && books.iter().all(resynced));
}

#[tokio::test(start_paused = true)]
async fn a_crossed_book_is_found_out_and_replaced() {
    let cross = Fault { instrument: 1, ..fault(FaultKind::Cross, 400) };
    let config = Config { faults: vec![cross], ..config(2, Rate::PerSecond(500)) };
    let mut hub = standalone("SIM", &KINDS);
    let events = watch(&mut hub, &config, Duration::from_secs(3)).await;
    let at = events.iter().position(|event| event["op"] == "gap").expect("a gap");
    assert_eq!((&events[at]["ch"], &events[at]["sym"]), (&Value::from("book"), &Value::from("SIM:AAB-USD")));
    let next = events[at + 1..].iter().find(|e| e["ch"] == "book" && e["sym"] == "SIM:AAB-USD").expect("a book");
    assert_eq!((&next["snap"], &next["seq"]), (&Value::from(true), &events[at]["to"]));
    assert_eq!(events.iter().filter(|event| event["op"] == "gap").count(), 1);
    assert!(hub.feed.registry().render().contains("reason=\"crossed\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_comes_back_with_its_numbers_and_whole_books() {
    let disconnect = Fault { count: 50, ..fault(FaultKind::Disconnect, 300) };
    let config = Config { faults: vec![disconnect], ..config(2, Rate::PerSecond(200)) };
    let mut hub = standalone("SIM", &KINDS);
    let events = watch(&mut hub, &config, Duration::from_secs(5)).await;
    assert_eq!(
        states(&events),
        [
            "recovering: connected",
            "live: ",
            "down: connection closed with code 1001 (on demand)",
            "recovering: connected",
            "live: "
        ]
    );
    let gaps = events.iter().filter(|event| event["op"] == "gap");
    assert_eq!(gaps.map(|gap| gap["lost"].as_u64().unwrap_or(0)).sum::<u64>(), 50);
    let mut last = std::collections::HashMap::new();
    for event in events.iter().filter(|event| event["ch"] != "status") {
        let stream = format!("{}{}", event["sym"], event["ch"]);
        let seq = event.get("seq").unwrap_or_else(|| &event["to"]).as_u64().expect("a number");
        let before = last.insert(stream, seq).unwrap_or(0);
        let expected = if event["snap"] == true && before > 0 { before } else { before + 1 };
        assert_eq!(seq, expected, "{event}");
    }
}

#[tokio::test(start_paused = true)]
async fn instruments_appear_late_and_on_demand() {
    let config = Config { late_instruments: 3, late_after: Span::seconds(1), ..config(2, Rate::PerSecond(100)) };
    let mut hub = standalone("SIM", &KINDS);
    let feed = hub.feed.clone();
    let (_stopper, stop) = stop_signal();
    let mut sim = Sim::new(&config);
    let control = sim.control();
    let mut running = sim.run(&feed, stop);
    let mut counts = Vec::new();
    for _ in 0..3 {
        tokio::select! {
            _ = &mut running => panic!("ended"),
            () = tokio::time::sleep(Duration::from_millis(990)) => counts.push(hub.store.len()),
        }
    }
    assert!(control.demand(Fault { count: 2, ..fault(FaultKind::Late, 0) }));
    tokio::select! {
        _ = &mut running => panic!("ended"),
        () = tokio::time::sleep(Duration::from_millis(15)) => counts.push(hub.store.len()),
    }
    assert_eq!(counts, [2, 5, 5, 7]);
    let heard = published(&mut hub).into_iter().any(|event| event["sym"] == "SIM:AAE-USD");
    assert!(heard, "and they trade");
}

#[tokio::test(start_paused = true)]
async fn as_fast_as_it_can_leaves_turns_to_others() {
    let config = Config { events_per_second: Rate::Max, ..config(10, Rate::Max) };
    let hub = standalone("SIM", &[]);
    let (stopper, stop) = stop_signal();
    let mut sim = Sim::new(&config);
    let others = async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        stopper.stop();
    };
    let (ended, ()) = tokio::join!(sim.run(&hub.feed, stop), others);
    ended.expect("stopped");
    assert!(sim.event >= 50 * BATCH, "{}", sim.event);
}
