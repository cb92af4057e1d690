//! When things are to happen: an open loop's plan. It is made once and never waits for an answer, so that what a
//! slow server delays is counted as its delay, from the planned time on.

use std::time::{Duration, Instant};

/// Planned times at a steady rate; one thread's part of the plan of all.
#[derive(Debug, Clone)]
pub struct Schedule {
    begun: Instant,
    per_second: u32,
    /// The number of the next one within the plan of all threads.
    next: u64,
    step: u64,
    left: u64,
}

impl Schedule {
    /// `count` things of the thread `thread` of `threads`, which all begin at `begun` and together do `per_second`.
    pub fn new(begun: Instant, per_second: u32, count: u64, thread: usize, threads: usize) -> Self {
        Self { begun, per_second: per_second.max(1), next: thread as u64, step: threads as u64, left: count }
    }

    /// When the next one is planned; `None` when all are done.
    pub fn planned(&self) -> Option<Instant> {
        let ns = u128::from(self.next) * 1_000_000_000 / u128::from(self.per_second);
        (self.left > 0).then(|| self.begun + Duration::from_nanos(ns.min(u128::from(u64::MAX)) as u64))
    }

    /// The planned time of the next one if it is due; that one is done with then.
    pub fn take(&mut self, now: Instant) -> Option<Instant> {
        let planned = self.planned().filter(|planned| *planned <= now)?;
        self.next += self.step;
        self.left -= 1;
        Some(planned)
    }

    /// How many are left.
    pub fn left(&self) -> u64 {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_one_plan_and_a_late_one_catches_up_from_the_planned_times() {
        let begun = crate::clock::instant();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut all: Vec<Instant> = Vec::new();
        for thread in 0..3 {
            let mut schedule = Schedule::new(begun, 1_000, 4, thread, 3);
            assert_eq!(schedule.planned(), Some(at(thread as u64)));
            while let Some(planned) = schedule.take(at(500)) {
                all.push(planned);
            }
            assert_eq!((schedule.left(), schedule.planned()), (0, None));
        }
        all.sort();
        assert_eq!(all, (0..12).map(at).collect::<Vec<_>>());
        assert_eq!(Schedule::new(begun, 1, 2, 1, 2).take(at(999)), None, "nothing happens before its time");
    }
}
