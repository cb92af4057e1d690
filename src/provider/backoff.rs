//! How long to wait before the next attempt: exponential with full jitter, then a circuit breaker.
//! Pure: time comes in as durations, chance from a seed.

use std::time::Duration;

use super::random::Random;

/// The numbers that [`Backoff`] works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffLimits {
    /// Ceiling of the first wait.
    pub first: Duration,
    /// Ceiling of every wait: the doubling ends here.
    pub longest: Duration,
    /// Failures in a row that open the breaker.
    pub failures_max: u32,
    /// How long the breaker stays open.
    pub open: Duration,
    /// A run at least this long closes the breaker and forgets earlier failures.
    pub healthy: Duration,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Wait this long, then try again.
    pub wait: Duration,
    /// Failures in a row so far.
    pub failures: u32,
    /// Whether the breaker is open meanwhile: the wait is not one of many but a long one, and
    /// the attempt behind it is a trial.
    pub open: bool,
}

/// Counts failures in a row and says how long to wait after each.
///
/// *Full jitter*: a wait is drawn evenly between nothing and its ceiling, so that many hubs cut
/// off by the same event do not come back in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    limits: BackoffLimits,
    random: Random,
    failures: u32,
}

impl Backoff {
    /// Equal seeds draw equal waits.
    #[must_use]
    pub const fn new(limits: BackoffLimits, seed: u64) -> Self {
        Self { limits, random: Random::new(seed), failures: 0 }
    }

    /// Takes note of a failure of a run that was `healthy_for` so long, and says what to do.
    ///
    /// `at_least` is what the venue asked for (`Retry-After`): it is never undercut.
    pub fn after_failure(&mut self, healthy_for: Duration, at_least: Option<Duration>) -> Pause {
        if healthy_for >= self.limits.healthy {
            self.after_success();
        }
        self.failures = self.failures.saturating_add(1);
        // Once open, each failed trial opens the breaker again at once: the count stays above.
        let open = self.failures >= self.limits.failures_max.max(1);
        let wait =
            if open { self.limits.open + self.jitter(self.limits.open / 10) } else { self.jitter(self.ceiling()) };
        Pause { wait: wait.max(at_least.unwrap_or_default()), failures: self.failures, open }
    }

    /// Forgets earlier failures.
    pub const fn after_success(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row so far.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    fn ceiling(&self) -> Duration {
        let doublings = (self.failures - 1).min(31);
        self.limits.first.saturating_mul(1 << doublings).min(self.limits.longest)
    }

    fn jitter(&mut self, ceiling: Duration) -> Duration {
        let ns = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.random.below(ns.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BackoffLimits = BackoffLimits {
        first: Duration::from_millis(250),
        longest: Duration::from_secs(30),
        failures_max: 10,
        open: Duration::from_secs(120),
        healthy: Duration::from_secs(60),
    };

    #[test]
    fn waits_grow_to_their_ceiling_and_fill_the_range_below_it() {
        let mut longest = [Duration::ZERO; 9];
        let mut shortest = [Duration::MAX; 9];
        for seed in 0..400 {
            let mut backoff = Backoff::new(LIMITS, seed);
            for failure in 0..9 {
                let pause = backoff.after_failure(Duration::ZERO, None);
                assert!(!pause.open);
                longest[failure] = longest[failure].max(pause.wait);
                shortest[failure] = shortest[failure].min(pause.wait);
            }
        }
        for (failure, (longest, shortest)) in longest.into_iter().zip(shortest).enumerate() {
            let ceiling = (LIMITS.first * (1 << failure)).min(LIMITS.longest);
            assert!(longest <= ceiling && longest > ceiling.mul_f64(0.95), "failure {failure}: {longest:?}");
            assert!(shortest < ceiling.mul_f64(0.05), "full jitter reaches down to nothing: {shortest:?}");
        }
    }

    #[test]
    fn opens_the_breaker_after_repeated_failures_and_again_after_a_failed_trial() {
        let mut backoff = Backoff::new(LIMITS, 1);
        for _ in 1..LIMITS.failures_max {
            assert!(!backoff.after_failure(Duration::from_secs(59), None).open);
        }
        for _ in 0..3 {
            let pause = backoff.after_failure(Duration::ZERO, None);
            assert!(pause.open && pause.wait >= LIMITS.open && pause.wait <= LIMITS.open.mul_f64(1.1));
        }
    }

    #[test]
    fn a_healthy_run_forgets_earlier_failures() {
        let mut backoff = Backoff::new(LIMITS, 2);
        for _ in 0..20 {
            let pause = backoff.after_failure(LIMITS.healthy, None);
            assert_eq!((pause.failures, pause.open), (1, false));
            assert!(pause.wait <= LIMITS.first);
        }
    }

    #[test]
    fn never_comes_back_before_the_venue_allows_it() {
        let mut backoff = Backoff::new(LIMITS, 3);
        let asked = Duration::from_secs(77);
        assert_eq!(backoff.after_failure(Duration::ZERO, Some(asked)).wait, asked);
    }

    #[test]
    fn equal_seeds_draw_equal_waits() {
        let draw = |seed| {
            let mut backoff = Backoff::new(LIMITS, seed);
            std::array::from_fn::<_, 8, _>(|_| backoff.after_failure(Duration::ZERO, None).wait)
        };
        assert_eq!(draw(9), draw(9));
        assert_ne!(draw(9), draw(10));
    }
}
