//! A token bucket: so many at once, then so many a minute. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the bucket would be full if nothing more were taken. Each taking moves it on by one
    /// `every`; it may lie at most `burst` of them ahead of now.
    full_at: Instant,
    every: Duration,
    burst: u32,
}

impl Pace {
    pub(super) fn new(now: Instant, per_minute: u32, burst: u32) -> Self {
        Self { full_at: now, every: Duration::from_secs(60) / per_minute.max(1), burst: burst.max(1) }
    }

    /// How long to wait before taking one more; nothing if it has been taken.
    pub(super) fn take(&mut self, now: Instant) -> Option<Duration> {
        let full_at = self.full_at.max(now);
        let wait = (full_at + self.every).saturating_duration_since(now + self.every * self.burst);
        if wait > Duration::ZERO {
            return Some(wait);
        }
        self.full_at = full_at + self.every;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn gives_a_burst_and_then_a_steady_rate() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 90, 20);
        let mut now = start;
        let mut taken = 0;
        while now < start + Duration::from_secs(60) {
            match pace.take(now) {
                None => taken += 1,
                Some(wait) => {
                    assert!(wait <= Duration::from_secs(60) / 90);
                    now += wait;
                }
            }
        }
        assert!((109..=110).contains(&taken), "20 at once and 90 in the minute: {taken}");
        let idle = now + Duration::from_secs(600);
        let burst = (0..100).take_while(|_| pace.take(idle).is_none()).count();
        assert_eq!(burst, 20, "idle time is not saved up");
    }
}
