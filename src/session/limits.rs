//! How much one session may ask, and how long it may be silent.

use std::time::Duration;

/// Faulty commands in a minute before the session is closed with 4500.
pub(super) const BAD_MESSAGES_MAX: u32 = 10;

/// Commands over the rate in a minute before the session is closed with 4003.
pub(super) const RATE_LIMITED_MAX: u32 = 10;

/// The time in which they are counted.
pub(super) const FAULT_WINDOW_NS: u64 = 60_000_000_000;

/// Bounds and deadlines of one session. The configuration sets them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Longest client message, in bytes. Commands with a thousand symbols fit.
    pub message_bytes_max: usize,
    /// Commands a second that a session may send; a second's worth may come at once.
    pub commands_per_second: u32,
    /// Subscriptions (ids and patterns) that a session may hold; a role may allow fewer.
    pub subscriptions_max: u32,
    /// Sessions that one subject may have at a time; a role may allow fewer.
    pub connections_max: u32,
    /// Time for the first authentication before 4503.
    pub authentication_timeout: Duration,
    /// How often the hub sends a ping.
    pub ping_interval: Duration,
    /// Time without any sign of life before 4002.
    pub idle_timeout: Duration,
    /// Time in which a socket takes nothing while something waits before 4001.
    pub write_stall_timeout: Duration,
    /// Time for which snapshots and resumed events that wait do not count as a backlog.
    pub catch_up_timeout: Duration,
    /// Time that a close frame is tried for before the socket is reset.
    pub close_timeout: Duration,
    /// Events that may wait for one session's full socket before its overflow policy applies.
    pub outbox_events_max: usize,
    /// Bytes of such events.
    pub outbox_bytes_max: usize,
    /// Bytes of answers that may wait before the session's next command is not read.
    pub answer_bytes_max: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            message_bytes_max: 64 * 1024,
            commands_per_second: 50,
            subscriptions_max: 10_000,
            connections_max: 100_000,
            authentication_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(45),
            write_stall_timeout: Duration::from_secs(20),
            catch_up_timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(2),
            outbox_events_max: 4096,
            outbox_bytes_max: 1024 * 1024,
            answer_bytes_max: 256 * 1024,
        }
    }
}

/// Commands within a rate: a bucket that holds a second's worth.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    per_second: u32,
    /// Billionths of a command.
    level: u64,
    at: u64,
}

impl Bucket {
    pub(super) const fn new(per_second: u32, now: u64) -> Self {
        Self { per_second, level: per_second as u64 * 1_000_000_000, at: now }
    }

    pub(super) fn set_rate(&mut self, per_second: u32) {
        self.per_second = per_second;
        self.level = self.level.min(u64::from(per_second) * 1_000_000_000);
    }

    /// Takes one command out, if there is one.
    pub(super) fn take(&mut self, now: u64) -> bool {
        let full = u64::from(self.per_second) * 1_000_000_000;
        let gained = now.saturating_sub(self.at).saturating_mul(u64::from(self.per_second));
        self.level = self.level.saturating_add(gained).min(full);
        self.at = now;
        if self.level < 1_000_000_000 {
            return false;
        }
        self.level -= 1_000_000_000;
        true
    }
}

/// Faults in the last minute, counted in a window that begins with the first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    since: u64,
    count: u32,
}

impl Faults {
    /// Counts one; how many there are now.
    pub(super) fn add(&mut self, now: u64) -> u32 {
        if self.count == 0 || now.saturating_sub(self.since) >= FAULT_WINDOW_NS {
            *self = Self { since: now, count: 0 };
        }
        self.count += 1;
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_a_seconds_worth_at_once_and_then_the_rate() {
        let mut bucket = Bucket::new(5, 0);
        assert_eq!((0..10).filter(|_| bucket.take(0)).count(), 5);
        assert_eq!((0..10).filter(|_| bucket.take(200_000_000)).count(), 1);
        assert_eq!((0..20).filter(|_| bucket.take(100_000_000_000)).count(), 5);
    }

    #[test]
    fn faults_are_forgotten_after_a_minute() {
        let mut faults = Faults::default();
        for n in 1..10 {
            assert_eq!(faults.add(n), n as u32);
        }
        assert_eq!(faults.add(FAULT_WINDOW_NS + 1), 1);
    }
}
