//! When events are planned: an absolute schedule with bursts. Pure.

use super::super::random::Random;
use super::config::{Config, Rate};

const SECOND_NS: u64 = 1_000_000_000;

/// Yields the planned time of one event after the other, in ns since the start of the schedule,
/// never going back.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    /// `None` for as fast as it can.
    rate: Option<u64>,
    /// Regular time of the next event, and the rest of the division that no whole ns holds.
    slot_ns: u64,
    slot_rest: u64,
    /// Events left of the burst, and the instant that all of it is planned for.
    burst_left: u64,
    burst_ns: u64,
    burst_events: u64,
    /// Probability that an event outside of a burst starts one, in units of 2^-32.
    burst_chance: u64,
    random: Random,
}

impl Schedule {
    pub(crate) fn new(config: &Config) -> Self {
        let rate = match config.events_per_second {
            Rate::PerSecond(rate) => Some(u64::from(rate.max(1))),
            Rate::Max => None,
        };
        // A share s of the events is in bursts of mean length l where each event outside of one
        // starts one with probability s / (l (1 - s) + s).
        let (share, length) = (u64::from(config.burst_percent), u64::midpoint(2, config.burst_events.into()));
        let burst_chance = (share << 32) / (length * (100 - share.min(100)) + share).max(1);
        Self {
            rate,
            slot_ns: 0,
            slot_rest: 0,
            burst_left: 0,
            burst_ns: 0,
            burst_events: u64::from(config.burst_events.max(2)),
            burst_chance,
            random: Random::new(config.seed ^ 0x5c4e_d01e),
        }
    }

    /// Whether there is a schedule at all.
    pub(crate) const fn is_paced(&self) -> bool {
        self.rate.is_some()
    }

    /// When the next event is planned.
    #[inline]
    pub(crate) const fn planned_ns(&self) -> u64 {
        if self.burst_left > 0 { self.burst_ns } else { self.slot_ns }
    }

    /// Goes on to the event behind the next one.
    #[inline]
    pub(crate) fn advance(&mut self) {
        let Some(rate) = self.rate else { return };
        if self.burst_left > 0 {
            self.burst_left -= 1;
        } else if self.random.next() >> 32 < self.burst_chance {
            self.burst_ns = self.slot_ns;
            // Two to `burst_events` events, this one included.
            self.burst_left = 1 + self.random.below(self.burst_events - 1);
        }
        self.slot_ns += SECOND_NS / rate;
        self.slot_rest += SECOND_NS % rate;
        if self.slot_rest >= rate {
            self.slot_rest -= rate;
            self.slot_ns += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(config: &Config, events: usize) -> Vec<u64> {
        let mut schedule = Schedule::new(config);
        let next = || {
            let at = schedule.planned_ns();
            schedule.advance();
            at
        };
        std::iter::repeat_with(next).take(events).collect()
    }

    fn config(rate: u32, burst_percent: u32) -> Config {
        Config { events_per_second: Rate::PerSecond(rate), burst_percent, ..Config::default() }
    }

    #[test]
    fn keeps_the_rate_exactly_however_it_divides_the_second() {
        for rate in [1, 3, 7, 500, 999_983, 1_000_000] {
            let times = planned(&config(rate, 0), 2 * rate as usize + 1);
            assert_eq!(times[rate as usize], SECOND_NS, "rate {rate}");
            assert_eq!(times[2 * rate as usize], 2 * SECOND_NS, "rate {rate}");
        }
    }

    #[test]
    fn bursts_take_their_share_and_leave_the_mean_rate() {
        let times = planned(&config(1_000, 20), 200_000);
        assert!(times.is_sorted());
        let together = times.chunk_by(|a, b| a == b).filter(|burst| burst.len() > 1);
        let (mut events, mut longest) = (0, 0);
        for burst in together {
            events += burst.len();
            longest = longest.max(burst.len());
        }
        assert!((36_000..44_000).contains(&events), "{events} of 200000 in bursts");
        assert_eq!(longest, 32);
        // The last event may belong to a burst that began at most 32 slots before it.
        let behind = 199_999 * 1_000_000 - times[199_999];
        assert!(behind <= 32 * 1_000_000, "{behind}");
    }

    #[test]
    fn equal_seeds_plan_equal_times() {
        let other = Config { seed: 2, ..config(1_000, 20) };
        assert_eq!(planned(&config(1_000, 20), 10_000), planned(&config(1_000, 20), 10_000));
        assert_ne!(planned(&config(1_000, 20), 10_000), planned(&other, 10_000));
    }
}
