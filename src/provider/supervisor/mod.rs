//! Keeps one provider running: runs it, watches its pulse, says its feed's state, and after a
//! failure waits and tries again.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::backoff::{Backoff, BackoffLimits, Pause};
use super::{Provider, ProviderError, Pulse};
use crate::ingest::{Feed, sanitized};
use crate::metrics::{self, Counter, Gauge};
use crate::model::FeedState;
use crate::settings::Span;
use crate::shutdown::Stop;
use crate::time;

/// How long a provider may take to end by itself when told to stop, before it is dropped.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// How often signs of life are compared, at the longest. States are said at most this much late.
const WATCH_EVERY_MAX: Duration = Duration::from_millis(500);

/// How every provider is supervised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Ceiling of the wait after the first failure; it doubles with each further one. Waits
    /// are drawn evenly between 0 and their ceiling.
    pub backoff_first: Span,
    /// Ceiling of every wait.
    pub backoff_max: Span,
    /// Failures in a row that open the breaker: from then on only single trials are made.
    pub breaker_failures: u32,
    /// Time between trials while the breaker is open: long enough for a venue's ban for
    /// connecting too often to pass.
    pub breaker_open: Span,
    /// A feed that has been live for this long, starts afresh with no failures.
    pub healthy_after: Span,
    /// Silence of a connection after which its feed is `stale`: longer than a venue's own
    /// ping interval (20 s is common).
    pub stale_after: Span,
    /// Silence of a connection after which it is given up and made anew.
    pub reconnect_after: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backoff_first: Span::millis(250),
            backoff_max: Span::seconds(30),
            breaker_failures: 10,
            breaker_open: Span::seconds(120),
            healthy_after: Span::seconds(60),
            stale_after: Span::seconds(30),
            reconnect_after: Span::seconds(60),
        }
    }
}

impl Config {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// A sentence that names the key and what it may be.
    pub fn check(&self) -> Result<(), String> {
        if self.breaker_failures == 0 {
            return Err("breaker_failures: must be at least 1".to_owned());
        }
        if self.stale_after < Span::millis(1) {
            return Err("stale_after: must be at least 1ms".to_owned());
        }
        if self.reconnect_after <= self.stale_after {
            return Err("reconnect_after: must be above stale_after".to_owned());
        }
        Ok(())
    }

    fn limits(&self) -> BackoffLimits {
        BackoffLimits {
            first: self.backoff_first.duration(),
            longest: self.backoff_max.duration(),
            failures_max: self.breaker_failures,
            open: self.breaker_open.duration(),
            healthy: self.healthy_after.duration(),
        }
    }
}

/// How supervision ended.
#[derive(Debug)]
pub enum Ending {
    /// The provider came to its own end: a recording was played.
    Finished,
    /// The process stops.
    Stopped,
    /// No further attempt can succeed.
    Failed(ProviderError),
}

/// Runs the provider that `make` makes until its own end, a permanent error, or the stop. The feed
/// is `down` when this returns.
///
/// A provider is made once and keeps its instruments across reconnects; only after a panic, which
/// may have left it in any state, is it made anew. `seed` decides the jitter of the waits.
pub async fn supervise<M>(mut make: M, feed: Feed, config: &Config, seed: u64, mut stop: Stop) -> Ending
where
    M: FnMut() -> Result<Box<dyn Provider>, ProviderError>,
{
    let meters = Meters::new(&feed);
    let mut backoff = Backoff::new(config.limits(), seed);
    let mut provider = None;
    loop {
        let mut healthy_for = Duration::ZERO;
        let outcome = match provider.take().map_or_else(&mut make, Ok) {
            Ok(mut made) => {
                let outcome = run_watched(made.as_mut(), &feed, config, stop.clone(), &mut healthy_for).await;
                if !matches!(outcome, Err(ProviderError::Panicked(_))) {
                    provider = Some(made);
                }
                outcome
            }
            Err(error) => Err(error),
        };
        if stop.is_stopped() {
            feed.set_state(FeedState::Down, "stopped", time::wall());
            return Ending::Stopped;
        }
        let error = match outcome {
            Ok(()) => {
                feed.set_state(FeedState::Down, "finished", time::wall());
                return Ending::Finished;
            }
            Err(error) => error,
        };
        meters.count(&error);
        let cause = error.cause();
        if error.is_permanent() {
            tracing::error!(venue = feed.venue(), cause, "feed cannot run");
            feed.set_state(FeedState::Down, &cause, time::wall());
            return Ending::Failed(error);
        }
        let pause = backoff.after_failure(healthy_for, error.retry_after());
        tracing::warn!(
            venue = feed.venue(),
            class = error.class(),
            failures = pause.failures,
            wait_ms = pause.wait.as_millis(),
            breaker_open = pause.open,
            cause,
            "feed is down"
        );
        let prefix =
            if pause.open { format!("breaker open after {} failures: ", pause.failures) } else { String::new() };
        feed.set_state(FeedState::Down, &format!("{prefix}{cause}"), time::wall());
        meters.waiting(Some(&pause));
        let stopped = stop.sleep(pause.wait).await;
        meters.waiting(None);
        if stopped {
            return Ending::Stopped;
        }
        meters.reconnects.increment(1);
    }
}

/// One run, ended also by a pulse that stops. `healthy_for` becomes how long the feed was live.
async fn run_watched(
    provider: &mut dyn Provider,
    feed: &Feed,
    config: &Config,
    mut stop: Stop,
    healthy_for: &mut Duration,
) -> Result<(), ProviderError> {
    let mut watch = Watch::new(provider.pulse(), config);
    let run = AssertUnwindSafe(provider.run(feed, stop.clone())).catch_unwind();
    tokio::pin!(run);
    let mut tick = tokio::time::interval(watch.every());
    let mut grace = None;
    loop {
        tokio::select! {
            biased;
            ended = &mut run => {
                *healthy_for = watch.healthy_for(Instant::now());
                return ended.unwrap_or_else(|payload| Err(ProviderError::Panicked(panic_text(payload.as_ref()))));
            }
            () = stop.stopped(), if grace.is_none() => grace = Some(Instant::now() + STOP_GRACE),
            at = tick.tick() => {
                // A provider that does not listen to the stop is dropped in the end.
                if grace.is_some_and(|grace| at >= grace) {
                    return Ok(());
                }
                if let Err(error) = watch.look(feed, Instant::now()) {
                    *healthy_for = watch.healthy_for(Instant::now());
                    return Err(error);
                }
            }
        }
    }
}

/// Compares signs of life, and times how long the feed has been live.
struct Watch {
    pulse: Option<Pulse>,
    stale_after: Duration,
    reconnect_after: Duration,
    /// Each connection as last seen: its counter, the count, and since when that has not changed.
    seen: Vec<(Rc<Cell<u64>>, u64, Instant)>,
    live_since: Option<Instant>,
}

impl Watch {
    fn new(pulse: Option<Pulse>, config: &Config) -> Self {
        if let Some(pulse) = &pulse {
            pulse.restart();
        }
        // What has no pulse cannot be watched: all of its run counts as healthy.
        let live_since = pulse.is_none().then(Instant::now);
        let (stale_after, reconnect_after) = (config.stale_after.duration(), config.reconnect_after.duration());
        Self { pulse, stale_after, reconnect_after, seen: Vec::new(), live_since }
    }

    /// How often to look: often enough that no bound is overstepped by much.
    fn every(&self) -> Duration {
        (self.stale_after / 8).clamp(Duration::from_millis(1), WATCH_EVERY_MAX)
    }

    fn healthy_for(&self, now: Instant) -> Duration {
        self.live_since.map_or(Duration::ZERO, |since| now - since)
    }

    /// Says `stale` when a connection has been silent for long, and takes it back; fails when it
    /// has been silent for too long.
    fn look(&mut self, feed: &Feed, now: Instant) -> Result<(), ProviderError> {
        let Some(pulse) = self.pulse.clone() else { return Ok(()) };
        let silence = self.longest_silence(&pulse, now);
        if silence >= self.reconnect_after {
            return Err(ProviderError::Stale(silence));
        }
        let stale = silence >= self.stale_after;
        if stale && !pulse.is_overlaid() {
            pulse.overlay(true);
            feed.set_state(FeedState::Stale, &ProviderError::Stale(silence).to_string(), time::wall());
        } else if !stale && pulse.is_overlaid() {
            pulse.overlay(false);
            pulse.settle(feed, pulse.settled().unwrap_or(FeedState::Recovering), "signs of life again");
        }
        let live = !stale && pulse.settled() == Some(FeedState::Live);
        self.live_since = if live { self.live_since.or(Some(now)) } else { None };
        Ok(())
    }

    fn longest_silence(&mut self, pulse: &Pulse, now: Instant) -> Duration {
        let mut longest = Duration::ZERO;
        let seen = &mut self.seen;
        // A counter that nobody else holds belongs to a connection that is gone.
        seen.retain(|(counter, _, _)| Rc::strong_count(counter) > 1);
        pulse.counts(|counter| match seen.iter_mut().find(|(known, _, _)| Rc::ptr_eq(known, counter)) {
            None => seen.push((Rc::clone(counter), counter.get(), now)),
            Some((_, count, since)) if *count != counter.get() => (*count, *since) = (counter.get(), now),
            Some((_, _, since)) => longest = longest.max(now - *since),
        });
        longest
    }
}

/// What a panic said, where it said text.
fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    sanitized(text.unwrap_or("no text").as_bytes())
}

struct Meters {
    reconnects: Counter,
    breaker_open: Gauge,
    backoff: Gauge,
    errors: [Counter; ProviderError::CLASSES.len()],
}

impl Meters {
    fn new(feed: &Feed) -> Self {
        let (registry, venue) = (feed.registry(), feed.venue());
        let error = |class| registry.counter(metrics::FEED_ERRORS, &[("venue", venue), ("class", class)]);
        Self {
            reconnects: registry.counter(metrics::RECONNECTS, &[("venue", venue)]),
            backoff: registry.gauge(metrics::FEED_BACKOFF, &[("venue", venue)]),
            breaker_open: registry.gauge(metrics::BREAKER_OPEN, &[("venue", venue)]),
            errors: ProviderError::CLASSES.map(error),
        }
    }

    fn waiting(&self, pause: Option<&Pause>) {
        self.backoff.set(pause.map_or(0.0, |pause| pause.wait.as_secs_f64()));
        self.breaker_open.set(f64::from(u8::from(pause.is_some_and(|pause| pause.open))));
    }

    fn count(&self, error: &ProviderError) {
        if let Some(index) = ProviderError::CLASSES.iter().position(|class| *class == error.class()) {
            self.errors[index].increment(1);
        }
    }
}

#[cfg(test)]
mod tests;
