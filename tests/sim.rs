//! The simulated venue as the hub runs it: built from settings, supervised, on its own thread.

use std::time::Duration;

use serde_json::Value;
use tickhub::fanout::Event;
use tickhub::ingest::{Standalone, standalone};
use tickhub::model::{Depth, FeedState, InstrumentId, StreamKind};
use tickhub::provider::sim::{Config, Rate};
use tickhub::provider::supervisor::{self, Ending, supervise};
use tickhub::provider::{ProviderConfig, build};
use tickhub::shutdown::stop_signal;
use tokio::time::Instant;

const KINDS: [StreamKind; 3] = [StreamKind::Quote, StreamKind::Trade, StreamKind::Book(Depth::Ten)];

/// Runs a simulation until `done` says so, then stops it; everything it published.
async fn run(hub: &mut Standalone, config: Config, mut done: impl FnMut(&Standalone, &[Value]) -> bool) -> Vec<Value> {
    let (stopper, stop) = stop_signal();
    let config = ProviderConfig::Sim(config);
    let feed = hub.feed.clone();
    let supervision = supervisor::Config::default();
    let running = supervise(|| build(&config), feed, &supervision, 1, stop);
    tokio::pin!(running);
    let mut events = Vec::new();
    let started = Instant::now();
    while !done(hub, &events) {
        assert!(started.elapsed() < Duration::from_secs(60), "{} events", events.len());
        tokio::select! {
            ending = &mut running => panic!("ended: {ending:?}"),
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
        while let Some(event) = hub.pop() {
            if let Event::Update(update) = event {
                events.push(serde_json::from_slice(update.frame.payload()).expect("JSON"));
            }
        }
    }
    stopper.stop();
    assert!(matches!(running.await, Ending::Stopped));
    events
}

#[tokio::test]
async fn the_default_market_keeps_its_rate_on_a_real_clock() {
    let mut hub = standalone("SIM", &KINDS);
    let mut first = None;
    let events = run(&mut hub, Config::default(), |hub, _| {
        if hub.feed.state() == FeedState::Live {
            first.get_or_insert_with(Instant::now);
        }
        first.is_some_and(|first| first.elapsed() >= Duration::from_secs(2))
    })
    .await;
    assert_eq!(hub.store.len(), 50);
    // 1000 events and 50 first snapshots, give or take what a busy machine delays.
    let numbered = events.iter().filter(|event| event["snap"] != true).count();
    assert!((900..1_100).contains(&numbered), "{numbered}");
    for channel in ["quote", "trade", "book"] {
        assert!(events.iter().any(|event| event["ch"] == channel), "{channel}");
    }
    // Receive time minus planned time is what a subscriber would measure: never negative.
    let nanos = |event: &Value, member: &str| event[member].as_str().and_then(|t| t.parse::<i64>().ok());
    let late = |event: &&Value| Some(nanos(event, "rx")? - nanos(event, "ts")?);
    let quotes: Vec<i64> = events.iter().filter(|event| event["ch"] == "quote").filter_map(|e| late(&e)).collect();
    assert!(quotes.iter().all(|late| *late >= -1_000_000), "{:?}", quotes.iter().min());
}

#[tokio::test]
async fn a_hundred_thousand_instruments_have_predictable_names() {
    let mut hub = standalone("SIM", &[]);
    let config = Config { instruments: 100_000, events_per_second: Rate::Max, ..Config::default() };
    run(&mut hub, config, |hub, _| hub.feed.state() == FeedState::Live).await;
    assert_eq!(hub.store.len(), 100_000);
    for name in ["SIM:AAA-USD", "SIM:AAB-USD", "SIM:ZZZ-USD", "SIM:AAAA-USD", "SIM:ERYD-USD"] {
        assert!(hub.store.key(&InstrumentId::parse(name).expect("an id")).is_some(), "{name}");
    }
}

#[tokio::test]
async fn wrong_settings_end_at_once_and_name_the_key() {
    let hub = standalone("SIM", &[]);
    let (_stopper, stop) = stop_signal();
    let config = ProviderConfig::Sim(Config { instruments: 0, ..Config::default() });
    let ending = supervise(|| build(&config), hub.feed.clone(), &supervisor::Config::default(), 1, stop).await;
    let Ending::Failed(error) = ending else { panic!("{ending:?}") };
    assert_eq!(error.to_string(), "configuration: instruments: must be 1 to 100000, is 0");
}
