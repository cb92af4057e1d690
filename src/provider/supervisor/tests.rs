use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;

use super::*;
use crate::ingest::{Standalone, standalone};
use crate::provider::testing::{published, states};
use crate::settings::Span;
use crate::shutdown::{Stopper, stop_signal};

/// What the provider of a test does in one run, one after the other.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Beats ten times a second for so many seconds, in this state.
    Beat(u64, FeedState),
    /// Stays connected without a beat.
    Silence(u64),
    /// The connection closes; ends the run.
    Close,
    /// As above, with a pause that the venue asks for in seconds.
    Limit(u64),
    Config,
    Finish,
    Panic,
}

#[derive(Clone, Default)]
struct Stage {
    acts: Rc<RefCell<VecDeque<Act>>>,
    runs: Rc<RefCell<Vec<Instant>>>,
    made: Rc<Cell<u32>>,
}

struct Actor {
    stage: Stage,
    pulse: Pulse,
}

impl Provider for Actor {
    fn run<'a>(&'a mut self, feed: &'a Feed, _stop: Stop) -> LocalBoxFuture<'a, Result<(), ProviderError>> {
        async move {
            self.stage.runs.borrow_mut().push(Instant::now());
            let beat = self.pulse.connection();
            loop {
                let act = self.stage.acts.borrow_mut().pop_front();
                match act {
                    Some(Act::Beat(seconds, state)) => {
                        self.pulse.settle(feed, state, "acting");
                        for _ in 0..seconds * 10 {
                            beat.beat();
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                    }
                    Some(Act::Silence(seconds)) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                    Some(Act::Close) => {
                        return Err(ProviderError::Closed { code: None, reason: String::new(), source: None });
                    }
                    Some(Act::Limit(seconds)) => {
                        let retry_after = Some(Duration::from_secs(seconds));
                        return Err(ProviderError::RateLimited { status: 429, retry_after });
                    }
                    Some(Act::Config) => return Err(ProviderError::Config("no such symbol".to_owned())),
                    Some(Act::Finish) => return Ok(()),
                    Some(Act::Panic) => panic!("a bug\nin two lines"),
                    // Deaf to the stop.
                    None => std::future::pending().await,
                }
            }
        }
        .boxed_local()
    }

    fn pulse(&self) -> Option<Pulse> {
        Some(self.pulse.clone())
    }
}

struct Play {
    hub: Standalone,
    stage: Stage,
    _stopper: Stopper,
    ending: Option<Ending>,
    took: Duration,
}

/// Supervises the acts until the supervision ends or `limit` has passed, on a virtual clock.
async fn play(acts: &[Act], config: &Config, limit: Duration) -> Play {
    let hub = standalone("T", &[]);
    let stage = Stage { acts: Rc::new(RefCell::new(acts.iter().copied().collect())), ..Stage::default() };
    let (stopper, stop) = stop_signal();
    let actors = stage.clone();
    let make = move || -> Result<Box<dyn Provider>, ProviderError> {
        actors.made.set(actors.made.get() + 1);
        Ok(Box::new(Actor { stage: actors.clone(), pulse: Pulse::default() }))
    };
    let started = Instant::now();
    let ending = tokio::time::timeout(limit, supervise(make, hub.feed.clone(), config, 1, stop)).await.ok();
    Play { hub, stage, _stopper: stopper, ending, took: started.elapsed() }
}

const HOUR: Duration = Duration::from_secs(3600);

fn metric(play: &Play, line: &str) -> bool {
    let text = play.hub.feed.registry().render();
    text.lines().any(|l| l == line)
}

#[tokio::test(start_paused = true)]
async fn says_every_state_on_the_way_from_failure_to_live() {
    let acts = [
        Act::Close,
        Act::Beat(1, FeedState::Recovering),
        Act::Beat(1, FeedState::Live),
        Act::Close,
        Act::Beat(1, FeedState::Live),
        Act::Finish,
    ];
    let mut play = play(&acts, &Config::default(), HOUR).await;
    assert!(matches!(play.ending, Some(Ending::Finished)));
    let events = published(&mut play.hub);
    // A feed is down from the beginning, so the first failure changes nothing.
    let expected = ["recovering: acting", "live: acting", "down: connection closed", "live: acting", "down: finished"];
    assert_eq!(states(&events), expected);
    assert_eq!(play.stage.made.get(), 1, "one provider keeps its instruments across reconnects");
    assert!(metric(&play, "tickhub_feed_reconnects_total{venue=\"T\"} 2"));
    assert!(metric(&play, "tickhub_feed_errors_total{venue=\"T\",class=\"closed\"} 2"));
    assert!(metric(&play, "tickhub_feed_errors_total{venue=\"T\",class=\"connect\"} 0"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_stale_and_live_again_when_it_speaks() {
    let acts = [Act::Beat(10, FeedState::Live), Act::Silence(45), Act::Beat(10, FeedState::Live), Act::Finish];
    let mut play = play(&acts, &Config::default(), HOUR).await;
    let events = published(&mut play.hub);
    let expected = ["live: acting", "stale: no sign of life for 30 s", "live: signs of life again", "down: finished"];
    assert_eq!(states(&events), expected);
    assert_eq!(play.stage.runs.borrow().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_stays_silent_is_made_anew() {
    let acts = [Act::Beat(10, FeedState::Live), Act::Silence(3600), Act::Finish];
    let mut play = play(&acts, &Config::default(), HOUR).await;
    let events = published(&mut play.hub);
    let expected =
        ["live: acting", "stale: no sign of life for 30 s", "down: no sign of life for 60 s", "down: finished"];
    // The second `down` is no change and not said.
    assert_eq!(states(&events), expected[..3]);
    let runs = play.stage.runs.borrow();
    let silent = runs[1] - runs[0];
    assert!(silent >= Duration::from_secs(69) && silent < Duration::from_secs(72), "{silent:?}");
    assert!(metric(&play, "tickhub_feed_errors_total{venue=\"T\",class=\"stale\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn one_silent_connection_of_several_is_enough() {
    let mut hub = standalone("T", &[]);
    let pulse = Pulse::default();
    let (loud, silent) = (pulse.connection(), pulse.connection());
    let mut watch = Watch::new(Some(pulse.clone()), &Config::default());
    pulse.settle(&hub.feed, FeedState::Live, "");
    for _ in 0..31 {
        loud.beat();
        watch.look(&hub.feed, Instant::now()).expect("not for a minute");
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(states(&published(&mut hub)), ["live: ", "stale: no sign of life for 30 s"]);
    drop(silent);
    watch.look(&hub.feed, Instant::now()).expect("the silent one is gone");
    assert_eq!(hub.feed.state(), FeedState::Live);
}

#[tokio::test(start_paused = true)]
async fn repeated_failures_open_the_breaker_and_a_healthy_run_closes_it() {
    let mut acts = vec![Act::Close; 12];
    acts.extend([Act::Beat(61, FeedState::Live), Act::Close, Act::Finish]);
    let mut play = play(&acts, &Config::default(), HOUR).await;
    assert!(matches!(play.ending, Some(Ending::Finished)));
    let runs = play.stage.runs.borrow();
    let gaps: Vec<Duration> = runs.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps[..9].iter().all(|gap| *gap <= Duration::from_millis(30_001)), "{gaps:?}");
    assert!(gaps[9..12].iter().all(|gap| *gap >= Duration::from_secs(120)), "an open breaker tries rarely: {gaps:?}");
    assert!(gaps[12] <= Duration::from_millis(61_251), "after health the first wait is short: {gaps:?}");
    drop(runs);
    let events = published(&mut play.hub);
    assert_eq!(states(&events), ["live: acting", "down: connection closed"]);
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_stands_in_the_metrics_and_in_the_cause() {
    let config = Config { breaker_failures: 2, ..Config::default() };
    let acts = [Act::Close, Act::Beat(1, FeedState::Live), Act::Close];
    let mut play = play(&acts, &config, Duration::from_secs(30)).await;
    assert!(play.ending.is_none(), "it waits");
    let events = published(&mut play.hub);
    assert_eq!(states(&events), ["live: acting", "down: breaker open after 2 failures: connection closed"]);
    assert!(metric(&play, "tickhub_feed_breaker_open{venue=\"T\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn never_comes_back_before_the_venue_allows_it() {
    let play = play(&[Act::Limit(500), Act::Finish], &Config::default(), HOUR).await;
    assert!(play.took >= Duration::from_secs(500) && play.took < Duration::from_secs(501));
}

#[tokio::test(start_paused = true)]
async fn a_panic_takes_down_the_feed_and_nothing_else() {
    let acts = [Act::Beat(1, FeedState::Live), Act::Panic, Act::Beat(1, FeedState::Live), Act::Finish];
    let mut play = play(&acts, &Config::default(), HOUR).await;
    assert!(matches!(play.ending, Some(Ending::Finished)));
    let events = published(&mut play.hub);
    let expected = ["live: acting", "down: provider panicked: a bug?in two lines", "live: acting", "down: finished"];
    assert_eq!(states(&events), expected);
    assert_eq!(play.stage.made.get(), 2, "what panicked may be in any state, so it is made anew");
}

#[tokio::test(start_paused = true)]
async fn wrong_settings_are_not_tried_again() {
    let mut play = play(&[Act::Beat(1, FeedState::Live), Act::Config], &Config::default(), HOUR).await;
    assert!(matches!(play.ending, Some(Ending::Failed(ProviderError::Config(_)))));
    assert_eq!(play.stage.runs.borrow().len(), 1);
    let events = published(&mut play.hub);
    assert_eq!(states(&events).last().map(String::as_str), Some("down: configuration: no such symbol"));
}

#[tokio::test(start_paused = true)]
async fn the_stop_ends_a_wait_at_once_and_a_deaf_provider_after_a_grace() {
    for (act, most) in [(Act::Limit(500), Duration::ZERO), (Act::Beat(1, FeedState::Live), STOP_GRACE)] {
        let hub = standalone("T", &[]);
        let stage = Stage::default();
        stage.acts.borrow_mut().push_back(act);
        let (stopper, stop) = stop_signal();
        let make = || -> Result<Box<dyn Provider>, ProviderError> {
            Ok(Box::new(Actor { stage: stage.clone(), pulse: Pulse::default() }))
        };
        let stopped = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            stopper.stop();
            Instant::now()
        };
        let config = Config::default();
        let (ending, stopped) = tokio::join!(supervise(make, hub.feed.clone(), &config, 1, stop), stopped);
        assert!(matches!(ending, Ending::Stopped));
        assert!(stopped.elapsed() <= most + WATCH_EVERY_MAX, "{act:?} took {:?}", stopped.elapsed());
        assert_eq!(hub.feed.state(), FeedState::Down);
    }
}

#[test]
fn names_the_key_that_is_wrong() {
    let check = |change: fn(&mut Config)| {
        let mut config = Config::default();
        change(&mut config);
        config.check().expect_err("must be refused")
    };
    assert_eq!(Config::default().check(), Ok(()));
    assert!(check(|c| c.breaker_failures = 0).starts_with("breaker_failures:"));
    assert!(check(|c| c.reconnect_after = c.stale_after).starts_with("reconnect_after:"));
    assert!(check(|c| c.stale_after = Span::default()).starts_with("stale_after:"));
}
