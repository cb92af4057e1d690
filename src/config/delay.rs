//! The `[delay]` section: what delayed worlds take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::sections::{GIB, MIB, within};
use crate::limits::{DELAY_LINE_BYTES_MIN, DELAY_RECORD_BYTES, WORKERS_MAX};
use crate::settings::{Fault, Span};

/// What the delayed worlds of roles with a `delay` take. Without such a role, nothing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DelayConfig {
    /// Memory of all that waits out a delay, in bytes.
    pub bytes: usize,
    /// Events a second, on average and over all venues, for which that must suffice.
    pub events_per_second: u32,
    /// Threads that own the subscribers of one delayed world.
    pub worker_threads: usize,
}

impl Default for DelayConfig {
    fn default() -> Self {
        Self { bytes: 256 * MIB, events_per_second: 2_000, worker_threads: 1 }
    }
}

impl DelayConfig {
    pub(super) fn check(&self, delays: &[Duration], feed_threads: usize, faults: &mut Vec<Fault>) {
        within(faults, "delay.bytes", self.bytes, DELAY_LINE_BYTES_MIN, 1024 * GIB);
        within(faults, "delay.events_per_second", self.events_per_second as usize, 1, 10_000_000);
        within(faults, "delay.worker_threads", self.worker_threads, 1, WORKERS_MAX);
        let lines = delays.len() * feed_threads;
        let held = u128::from(self.events_per_second) * sum(delays).as_millis() / 1000 * DELAY_RECORD_BYTES as u128;
        let least = held + (lines * DELAY_LINE_BYTES_MIN) as u128;
        if (self.bytes as u128) < least {
            let listed: Vec<String> = delays.iter().map(|delay| Span(*delay).to_string()).collect();
            let reason = format!(
                "does not hold what waits out the roles' delays ({}): {} events a second take some {DELAY_RECORD_BYTES} \
                 bytes each, and each of {lines} lines at least {DELAY_LINE_BYTES_MIN}; set it to {least} or more, or \
                 delay.events_per_second or the delays lower",
                listed.join(", "),
                self.events_per_second,
            );
            faults.push(Fault::new("delay.bytes", self.bytes, reason));
        }
    }

    /// Bytes of the line of each of `feed_threads` into the world of `delay`, one of `delays`: the
    /// least that one needs, and of the rest as much as it is delayed.
    #[must_use]
    pub fn line_bytes(&self, delay: Duration, delays: &[Duration], feed_threads: usize) -> usize {
        let rest = self.bytes.saturating_sub(delays.len() * feed_threads * DELAY_LINE_BYTES_MIN) as u128;
        let share = rest * delay.as_nanos() / sum(delays).as_nanos().max(1) / feed_threads.max(1) as u128;
        DELAY_LINE_BYTES_MIN + usize::try_from(share).unwrap_or(0)
    }
}

fn sum(delays: &[Duration]) -> Duration {
    delays.iter().fold(Duration::ZERO, |sum, delay| sum.saturating_add(*delay))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(config: &DelayConfig, delays: &[u64], feed_threads: usize) -> Vec<String> {
        let mut faults = Vec::new();
        let delays: Vec<_> = delays.iter().map(|seconds| Duration::from_secs(*seconds)).collect();
        config.check(&delays, feed_threads, &mut faults);
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_cannot_hold_the_delay_at_the_expected_rate_is_refused_and_told_what_would() {
        let config = DelayConfig::default();
        assert_eq!(faults(&config, &[], 64), [] as [&str; 0], "who delays nobody needs nothing");
        assert_eq!(faults(&config, &[2], 1), [] as [&str; 0]);
        assert_eq!(faults(&config, &[900], 1), [] as [&str; 0], "the default is for a quarter of an hour");
        let said = faults(&config, &[60, 3_600], 2).join("; ");
        // 3,660 s × 2,000 × 100 bytes, and four lines of 16 MiB.
        for part in ["delay.bytes = 268435456", "(1m, 1h)", "set it to 799108864 or more", "each of 4 lines"] {
            assert!(said.contains(part), "{part} in {said}");
        }
        let enough = DelayConfig { bytes: 799_108_864, ..config };
        assert_eq!(faults(&enough, &[60, 3_600], 2), [] as [&str; 0]);
        let delays = [60, 3_600].map(Duration::from_secs);
        let lines: usize = delays.iter().map(|delay| 2 * enough.line_bytes(*delay, &delays, 2)).sum();
        assert!(lines <= enough.bytes && lines > enough.bytes - 1000, "{lines}");
        let seconds = |delay: usize| enough.line_bytes(delays[delay], &delays, 2) - DELAY_LINE_BYTES_MIN;
        assert!(seconds(1) / seconds(0) == 60, "by delay");
    }
}
