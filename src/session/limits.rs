//! How much one session may ask, and how long it may be silent.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::settings::Fault;

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
    /// What all sessions of one subject may do together.
    pub principal: PrincipalLimits,
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
            principal: PrincipalLimits::default(),
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

/// Least bytes a second that can be set: a longest read takes as many at once.
const BYTES_PER_SECOND_MIN: u32 = 64 * 1024;
/// Most that any of the numbers can be.
const MOST: u32 = 1_000_000_000;

/// What all sessions of one subject may do together, beside what each may; the section
/// `limits.per_principal`. High by default: a service's token may be that of many people.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrincipalLimits {
    /// Commands a second, with a second's worth at once; those over many instruments count more.
    pub commands_per_second: u32,
    /// Entries at the same time.
    pub subscriptions: u32,
    /// Bytes a second, with a second's worth at once.
    pub bytes_per_second: u32,
}

impl Default for PrincipalLimits {
    fn default() -> Self {
        Self { commands_per_second: 20_000, subscriptions: 5_000_000, bytes_per_second: 64 * 1024 * 1024 }
    }
}

impl PrincipalLimits {
    /// What is wrong with it; `path` is where it stands.
    pub fn check(&self, path: &str, faults: &mut Vec<Fault>) {
        let mut within = |key: &str, value: u32, least: u32| {
            if !(least..=MOST).contains(&value) {
                faults.push(Fault::new(format!("{path}.{key}"), value, format!("must be from {least} to {MOST}")));
            }
        };
        within("commands_per_second", self.commands_per_second, 1);
        within("subscriptions", self.subscriptions, 1);
        within("bytes_per_second", self.bytes_per_second, BYTES_PER_SECOND_MIN);
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
    fn faults_are_forgotten_after_a_minute() {
        let mut faults = Faults::default();
        for n in 1..10 {
            assert_eq!(faults.add(n), n as u32);
        }
        assert_eq!(faults.add(FAULT_WINDOW_NS + 1), 1);
    }
}
