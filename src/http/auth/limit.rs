//! How often an address and a key may ask. A bucket for each, of which only so many are held.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Buckets that are held for addresses, and for keys: some MB. Where they are all in use, those who
/// come new share one.
const BUCKETS_MAX: usize = 65_536;
/// Bits of an IPv6 address that one household or machine has as its own.
const IPV6_PREFIX_BITS: u32 = 64;

/// Requests in a row and, behind that, a second, of one address and of one API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Of one address (of IPv6: one /64), for all three paths together: an office behind one address
    /// can begin its day, and nobody can keep the disk busy.
    pub address: Rate,
    /// Exchanges of one key: a program asks once, and refreshes from there on.
    pub key: Rate,
}

/// One rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// A second.
    pub per_second: u32,
}

impl Default for Rates {
    fn default() -> Self {
        Self { address: Rate { burst: 60, per_second: 10 }, key: Rate { burst: 20, per_second: 1 } }
    }
}

/// The buckets of both.
pub(super) struct Limits {
    addresses: Mutex<Buckets<IpAddr>>,
    keys: Mutex<Buckets<String>>,
}

impl Limits {
    pub(super) fn new(rates: Rates) -> Self {
        Self { addresses: Mutex::new(Buckets::new(rates.address)), keys: Mutex::new(Buckets::new(rates.key)) }
    }

    /// Takes one request of an address, or says how long to wait.
    pub(super) fn take_address(&self, address: IpAddr, now: u64) -> Result<(), Duration> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).take(prefix(address), now)
    }

    /// Takes one request of an API key, or says how long to wait.
    pub(super) fn take_key(&self, id: &str, now: u64) -> Result<(), Duration> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).take(id.to_owned(), now)
    }
}

/// What counts as one address.
fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (128 - IPV6_PREFIX_BITS))).into(),
        v4 => v4,
    }
}

struct Buckets<K> {
    rate: Rate,
    /// When each will be full again, in ns of the monotonic clock.
    full_at: HashMap<K, u64>,
    /// The bucket of those for whom there is none.
    others: u64,
}

impl<K: Hash + Eq> Buckets<K> {
    fn new(rate: Rate) -> Self {
        Self { rate, full_at: HashMap::new(), others: 0 }
    }

    fn take(&mut self, who: K, now: u64) -> Result<(), Duration> {
        if self.full_at.len() >= BUCKETS_MAX && !self.full_at.contains_key(&who) {
            // One that is full is as good as none.
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        let room = self.full_at.len() < BUCKETS_MAX || self.full_at.contains_key(&who);
        let full_at = if room { self.full_at.entry(who).or_insert(0) } else { &mut self.others };
        let each = 1_000_000_000 / u64::from(self.rate.per_second.max(1));
        let next = (*full_at).max(now) + each;
        let over = next.saturating_sub(now + each * u64::from(self.rate.burst));
        if over > 0 {
            return Err(Duration::from_nanos(over));
        }
        *full_at = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const RATE: Rate = Rate { burst: 5, per_second: 2 };

    #[test]
    fn a_burst_is_given_at_once_and_then_the_rate() {
        let mut buckets = Buckets::new(RATE);
        let mut taken = |now| (0..20).filter(|_| buckets.take("a", now).is_ok()).count();
        assert_eq!((taken(SECOND), taken(2 * SECOND), taken(2 * SECOND), taken(1000 * SECOND)), (5, 2, 0, 5));
        assert_eq!(buckets.take("a", 1000 * SECOND), Err(Duration::from_millis(500)), "says how long to wait");
        assert!(buckets.take("b", 1000 * SECOND).is_ok(), "each has its own");
    }

    #[test]
    fn an_ipv6_network_is_one_address_and_a_mapped_one_its_ipv4() {
        let same = |a: &str, b: &str| prefix(a.parse().expect("valid")) == prefix(b.parse().expect("valid"));
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff::9") && !same("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(same("::ffff:10.0.0.1", "10.0.0.1") && !same("10.0.0.1", "10.0.0.2"));
    }

    #[test]
    fn there_are_so_many_buckets_and_no_more() {
        let mut buckets = Buckets::new(RATE);
        for n in 0..BUCKETS_MAX {
            assert!(buckets.take(n, 0).is_ok());
        }
        let newcomers = (0..100).filter(|n| buckets.take(BUCKETS_MAX + n, 0).is_ok()).count();
        assert_eq!((newcomers, buckets.full_at.len()), (5, BUCKETS_MAX), "they share one");
        assert!(buckets.take(7, 0).is_ok(), "who is known keeps its own");
        assert!(buckets.take(BUCKETS_MAX, 10 * SECOND).is_ok());
        assert_eq!(buckets.full_at.len(), 1, "those that are full again make room");
    }
}
