//! Token buckets. Pure: `now` is an argument, in ns of one clock that never goes back.
//!
//! A bucket is one number, the time at which it will be full again (the generic cell rate algorithm
//! of ITU-T I.371 with its "theoretical arrival time"). So a bucket that nobody has used, or that
//! has filled up again, is the same as none: a table of buckets may forget it, and nobody gains by
//! being forgotten.

use crate::sync::{AtomicU64, Ordering};

const SECOND_NS: u128 = 1_000_000_000;

/// So many a second, and so many at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_second: u64,
    burst: u64,
}

impl Rate {
    /// At least one a second and one at once, whatever is asked for.
    #[must_use]
    pub const fn new(per_second: u64, burst: u64) -> Self {
        Self { per_second: if per_second == 0 { 1 } else { per_second }, burst: if burst == 0 { 1 } else { burst } }
    }

    /// A second's worth at once.
    #[must_use]
    pub const fn per_second(per_second: u64) -> Self {
        Self::new(per_second, per_second)
    }

    /// The time in which so many come back, rounded up: never more than the rate passes.
    fn span_ns(self, units: u64) -> u64 {
        let span = (u128::from(units) * SECOND_NS).div_ceil(u128::from(self.per_second));
        u64::try_from(span).unwrap_or(u64::MAX)
    }

    /// When a bucket that is full at `full_at` will be full with `units` taken out of it; or else
    /// how long until they can be, in ns. More than the burst never can.
    fn take(self, full_at: u64, units: u64, now: u64) -> Result<u64, u64> {
        let then = full_at.max(now).saturating_add(self.span_ns(units));
        let latest = now.saturating_add(self.span_ns(self.burst));
        if then <= latest { Ok(then) } else { Err(then - latest) }
    }
}

/// One bucket; new, it is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// Takes `units` out if they are there.
    ///
    /// # Errors
    /// How long until they are, in ns; nothing is taken.
    pub fn take(&mut self, rate: Rate, units: u64, now: u64) -> Result<(), u64> {
        self.full_at = rate.take(self.full_at, units, now)?;
        Ok(())
    }

    /// Takes `units` out, there or not: what is missing has to come back before anything else is
    /// given. For what is known only once it is done.
    pub fn charge(&mut self, rate: Rate, units: u64, now: u64) {
        self.full_at = self.full_at.max(now).saturating_add(rate.span_ns(units));
    }
}

/// One bucket for many threads.
#[derive(Debug, Default)]
pub struct SharedBucket {
    full_at: AtomicU64,
}

impl SharedBucket {
    /// As [`Bucket::take`].
    ///
    /// # Errors
    /// How long until they are there, in ns.
    pub fn take(&self, rate: Rate, units: u64, now: u64) -> Result<(), u64> {
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let then = rate.take(full_at, units, now)?;
            match self.full_at.compare_exchange_weak(full_at, then, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => full_at = other,
            }
        }
    }

    /// As [`Bucket::charge`].
    pub fn charge(&self, rate: Rate, units: u64, now: u64) {
        let span = rate.span_ns(units);
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let then = full_at.max(now).saturating_add(span);
            match self.full_at.compare_exchange_weak(full_at, then, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => full_at = other,
            }
        }
    }

    /// Whether it is as one that nobody has used.
    #[must_use]
    pub fn is_full(&self, now: u64) -> bool {
        self.full_at.load(Ordering::Relaxed) <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_then_the_rate() {
        let (mut bucket, rate) = (Bucket::default(), Rate::new(5, 20));
        assert_eq!((0..40).filter(|_| bucket.take(rate, 1, 0).is_ok()).count(), 20);
        assert_eq!(bucket.take(rate, 1, 0), Err(SECOND / 5), "it says when to come back");
        assert_eq!((0..40).filter(|_| bucket.take(rate, 1, SECOND / 5).is_ok()).count(), 1);
        assert_eq!((0..40).filter(|_| bucket.take(rate, 1, 100 * SECOND).is_ok()).count(), 20);
        assert!(bucket.take(rate, 21, 1000 * SECOND).is_err(), "more than it ever holds");
    }

    #[test]
    fn what_is_charged_has_to_come_back_first() {
        let (mut bucket, rate) = (Bucket::default(), Rate::per_second(10));
        bucket.charge(rate, 35, 0);
        assert_eq!(bucket.take(rate, 1, 0), Err(26 * SECOND / 10));
        assert_eq!(bucket.take(rate, 1, 25 * SECOND / 10), Err(SECOND / 10));
        assert_eq!(bucket.take(rate, 1, 26 * SECOND / 10), Ok(()));
    }

    #[test]
    fn a_shared_bucket_gives_no_more_to_many_than_to_one() {
        let (bucket, rate) = (SharedBucket::default(), Rate::new(1, 1000));
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..1000).filter(|_| bucket.take(rate, 1, 7).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(taken, 1000);
        assert!(!bucket.is_full(999 * SECOND) && bucket.is_full(7 + 1000 * SECOND));
    }

    /// A bucket as one would explain it: so much in it, and so much added with time. In billionths.
    struct Plain {
        level: u128,
        at: u64,
    }

    impl Plain {
        fn take(&mut self, (per_second, burst): (u64, u64), units: u64, now: u64) -> bool {
            let full = u128::from(burst) * SECOND_NS;
            self.level = (self.level + u128::from(now - self.at) * u128::from(per_second)).min(full);
            self.at = now;
            let units = u128::from(units) * SECOND_NS;
            let enough = self.level >= units;
            self.level -= if enough { units } else { 0 };
            enough
        }
    }

    proptest! {
        /// Rates whose interval is whole ns: then both are exact.
        #[test]
        fn agrees_with_a_plain_bucket(
            per_second in prop::sample::select(vec![1u64, 2, 5, 100, 1000, 1_000_000, 1_000_000_000]),
            burst in 1u64..2000,
            steps in prop::collection::vec((0u64..3 * SECOND, 1u64..50), 1..200),
        ) {
            let rate = Rate::new(per_second, burst);
            let (mut bucket, shared, mut now) = (Bucket::default(), SharedBucket::default(), 0);
            let mut plain = Plain { level: u128::from(burst) * SECOND_NS, at: 0 };
            for (pause, units) in steps {
                now += pause;
                let expected = plain.take((per_second, burst), units, now);
                prop_assert_eq!(bucket.take(rate, units, now).is_ok(), expected);
                prop_assert_eq!(shared.take(rate, units, now).is_ok(), expected);
            }
        }

        /// Whatever the rate: in no stretch of time more than the burst and what came back in it.
        #[test]
        fn never_more_than_the_rate(
            per_second in 1u64..=1_000_000_000,
            burst in 1u64..10_000,
            steps in prop::collection::vec((0u64..SECOND, 1u64..500), 1..100),
        ) {
            let (rate, mut bucket, mut now) = (Rate::new(per_second, burst), Bucket::default(), 0);
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (pause, units) in steps {
                now += pause;
                if bucket.take(rate, units, now).is_ok() {
                    taken.push((now, units));
                }
            }
            for (first, (since, _)) in taken.iter().enumerate() {
                let mut sum = 0;
                for (at, units) in &taken[first..] {
                    sum += u128::from(*units);
                    let most = u128::from(burst) * SECOND_NS + u128::from(at - since) * u128::from(per_second);
                    prop_assert!(sum * SECOND_NS <= most);
                }
            }
        }

        /// Who waits as long as it is told gets what it asked for, and not a moment earlier.
        #[test]
        fn the_wait_is_exact(per_second in 1u64..=1_000_000_000, burst in 1u64..1000, used in 1u64..1000, units in 1u64..1000) {
            prop_assume!(units <= burst);
            let (rate, mut bucket) = (Rate::new(per_second, burst), Bucket::default());
            bucket.charge(rate, used, 0);
            if let Err(wait) = bucket.take(rate, units, 0) {
                prop_assert!(bucket.take(rate, units, wait - 1).is_err());
                prop_assert_eq!(bucket.take(rate, units, wait), Ok(()));
            }
        }

        #[test]
        fn nothing_overflows(full_at: u64, per_second: u64, burst: u64, units: u64, now: u64) {
            let (rate, mut bucket) = (Rate::new(per_second, burst), Bucket { full_at });
            let _ = bucket.take(rate, units, now);
            bucket.charge(rate, units, now);
        }
    }
}
