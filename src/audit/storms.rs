//! Refusals by the thousand, told in few records: strangers must not be able to fill the disk.
//!
//! The first refusal of an address for a reason is recorded as it is; those like it are counted and
//! told together, at first after a second, then after two, four and so on up to a minute for as long
//! as they go on. How many addresses get records of their own is bounded; the rest is counted by
//! door and reason alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use super::line::Line;
use super::record::Event;
use super::{Record, UnixNanos};
use crate::time::{Mono, rfc3339_nanos};

/// Addresses and reasons that are counted apart at a time. Each costs a record a minute while its
/// storm lasts: some 2 MB an hour for all of them.
pub(super) const APART_MAX: usize = 128;

/// Refusals that are recorded one by one before others of new addresses are only counted, and how
/// many more may be each second: 10 MB an hour.
const SINGLE_BURST: u64 = 100;
const SINGLES_PER_SECOND: u64 = 10;

/// How long repetitions are counted before they are told: first, and at most.
const WINDOW_FIRST: Mono = 1_000_000_000;
const WINDOW_MAX: Mono = 60_000_000_000;

/// Leading bits of an IPv6 address that belong to one customer: refusals from anywhere in there are
/// alike.
const V6_PREFIX_BITS: u32 = 64;

/// What makes refusals alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    /// `None` = all those that have no place of their own.
    address: Option<IpAddr>,
    at: &'static str,
    reason: &'static str,
}

#[derive(Debug)]
struct Tally {
    count: u64,
    since: UnixNanos,
    until: UnixNanos,
    window: Mono,
    due: Mono,
}

/// Refusals of the last while.
#[derive(Debug)]
pub(super) struct Storms {
    tallies: BTreeMap<Kind, Tally>,
    /// Tallies with an address.
    apart: usize,
    /// Billionths of a record that may be written singly.
    level: u64,
    filled: Mono,
}

/// Refusals that are told together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repeated {
    address: Option<IpAddr>,
    at: &'static str,
    reason: &'static str,
    pub(super) count: u64,
    since: UnixNanos,
    until: UnixNanos,
}

impl Storms {
    pub(super) const fn new(mono: Mono) -> Self {
        Self { tallies: BTreeMap::new(), apart: 0, level: SINGLE_BURST * 1_000_000_000, filled: mono }
    }

    /// Whether `record` is to be written; else it is counted here.
    pub(super) fn passes(&mut self, record: &Record, at: UnixNanos, mono: Mono) -> bool {
        let Event::Refused { at: door, reason, .. } = record.event else { return true };
        let mut kind = Kind { address: record.remote.map(|remote| alike(remote.ip())), at: door, reason };
        if kind.address.is_some() && !self.tallies.contains_key(&kind) {
            if self.apart < APART_MAX && self.take(mono) {
                self.apart += 1;
                self.tallies.insert(kind, Tally::new(0, at, mono));
                return true;
            }
            kind.address = None;
        }
        let tally = self.tallies.entry(kind).or_insert_with(|| Tally::new(0, at, mono));
        if tally.count == 0 {
            tally.since = at;
        }
        tally.count += 1;
        tally.until = at;
        false
    }

    /// A place among those that are written singly.
    fn take(&mut self, mono: Mono) -> bool {
        let gained = mono.saturating_sub(self.filled).saturating_mul(SINGLES_PER_SECOND);
        self.level = self.level.saturating_add(gained).min(SINGLE_BURST * 1_000_000_000);
        self.filled = mono;
        let has = self.level >= 1_000_000_000;
        if has {
            self.level -= 1_000_000_000;
        }
        has
    }

    /// What is to be told by `mono`; with `all`, everything. What has gone quiet is forgotten.
    pub(super) fn due(&mut self, mono: Mono, all: bool, mut tell: impl FnMut(Repeated)) {
        let apart = &mut self.apart;
        self.tallies.retain(|kind, tally| {
            if !all && tally.due > mono {
                return true;
            }
            if tally.count == 0 {
                *apart -= usize::from(kind.address.is_some());
                return false;
            }
            let Tally { count, since, until, .. } = *tally;
            tell(Repeated { address: kind.address, at: kind.at, reason: kind.reason, count, since, until });
            tally.count = 0;
            tally.window = (tally.window * 2).min(WINDOW_MAX);
            tally.due = mono.saturating_add(tally.window);
            true
        });
    }

    /// Whether nothing is counted that is not told yet.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.tallies.values().all(|tally| tally.count == 0)
    }
}

impl Tally {
    const fn new(count: u64, at: UnixNanos, mono: Mono) -> Self {
        Self { count, since: at, until: at, window: WINDOW_FIRST, due: mono.saturating_add(WINDOW_FIRST) }
    }
}

impl Repeated {
    pub(super) const NAME: &str = "refused_again";

    pub(super) fn write(&self, text: &mut String, seq: u64, at: UnixNanos) {
        let mut line = Line::begin(text, seq);
        line.text("at", &rfc3339_nanos(at));
        line.text("event", Self::NAME);
        line.optional_text("remote", self.address.map(shown).as_deref());
        line.text("door", self.at);
        line.text("reason", self.reason);
        line.number("count", self.count);
        line.text("since", &rfc3339_nanos(self.since));
        line.text("until", &rfc3339_nanos(self.until));
    }
}

fn alike(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (128 - V6_PREFIX_BITS))).into(),
    }
}

fn shown(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("{v6}/{V6_PREFIX_BITS}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Origin;
    use super::*;

    const SECOND: Mono = 1_000_000_000;

    fn refusal(remote: &str, reason: &'static str) -> Record {
        let origin = Origin { remote: Some(remote.parse().expect("an address")), request_id: None };
        Record::of(Event::Refused { at: "handshake", reason, code: Some(401) }).origin(&origin)
    }

    fn told(storms: &mut Storms, mono: Mono) -> Vec<(Option<String>, &'static str, u64)> {
        let mut told = Vec::new();
        storms.due(mono, false, |one| told.push((one.address.map(shown), one.reason, one.count)));
        told
    }

    #[test]
    fn the_first_is_told_at_once_and_its_like_together() {
        let mut storms = Storms::new(0);
        let mut pass = |remote, reason, at| storms.passes(&refusal(remote, reason), UnixNanos(at), 0);
        assert!(pass("1.2.3.4:1", "expired", 1));
        assert!(!pass("1.2.3.4:2", "expired", 2), "another port of the same");
        assert!(!pass("1.2.3.4:3", "expired", 3));
        assert!(pass("1.2.3.4:1", "malformed", 4), "another reason");
        assert!(pass("1.2.3.5:1", "expired", 5), "another address");
        assert!(pass("[2001:db8:0:1::1]:1", "expired", 6));
        assert!(!pass("[2001:db8:0:1:ffff::2]:1", "expired", 7), "the same network");
        assert!(pass("[2001:db8:0:2::1]:1", "expired", 8));
        assert_eq!(told(&mut storms, SECOND - 1), []);
        let v4 = (Some("1.2.3.4".to_owned()), "expired", 2);
        let v6 = (Some("2001:db8:0:1::/64".to_owned()), "expired", 1);
        assert_eq!(told(&mut storms, SECOND), [v4, v6]);
        assert_eq!((told(&mut storms, 10 * SECOND), storms.apart, storms.is_empty()), (vec![], 0, true));
        assert!(storms.passes(&refusal("1.2.3.4:1", "expired"), UnixNanos(9), 10 * SECOND), "a new beginning");
    }

    #[test]
    fn a_storm_that_goes_on_is_told_ever_more_seldom() {
        let mut storms = Storms::new(0);
        let mut records = 0;
        let mut counted = 0;
        for step in 0..36_000_u64 {
            let mono = step * SECOND / 10;
            records += u64::from(storms.passes(&refusal("1.2.3.4:1", "expired"), UnixNanos(0), mono));
            for (_, _, count) in told(&mut storms, mono) {
                (records, counted) = (records + 1, counted + count);
            }
        }
        storms.due(u64::MAX, true, |one| counted += one.count);
        assert_eq!(counted + 1, 36_000, "none is forgotten");
        assert!(records < 70, "{records} records of an hour");
    }

    #[test]
    fn a_storm_of_many_addresses_takes_a_bounded_number_of_records() {
        let mut storms = Storms::new(0);
        let (mut singles, mut together, mut counted) = (0, 0, 0);
        for n in 0..200_000_u32 {
            let mono = u64::from(n) * SECOND / 10_000;
            let remote = format!("{}:1", std::net::Ipv4Addr::from_bits(n));
            singles += u64::from(storms.passes(&refusal(&remote, "bad_signature"), UnixNanos(0), mono));
            for (_, _, count) in told(&mut storms, mono) {
                (together, counted) = (together + 1, counted + count);
            }
            assert!(storms.tallies.len() <= APART_MAX + 1);
        }
        storms.due(u64::MAX, true, |one| counted += one.count);
        assert_eq!(singles + counted, 200_000, "none is forgotten");
        assert!(singles <= SINGLE_BURST + 20 * SINGLES_PER_SECOND + 1, "{singles} in 20 s");
        assert!(together < 20, "{together}");
    }
}
