//! Who may come in, judged by address before anything else is known of them.
//!
//! An address is remembered for as long as it has a connection or a bucket of its own that is not
//! full: what is forgotten is the same as what is new, so nobody gains by being forgotten, and
//! nobody can push another out. Connections bound how many have one. The others are few as long as
//! handshakes in all are bounded, since a bucket fills up again; beyond [`ADDRESSES_IDLE_MAX`] those
//! that are new share one bucket and one set of counts, and those that are known keep theirs.

mod config;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::remote::{Group, Remote};
use crate::limits::{ADDRESS_FEW, ADDRESSES_IDLE_MAX, RESERVED_PARTS};
use crate::metrics::{self, Counter, Registry};
use crate::rate::{Rate, SharedBucket};

pub use config::{AddressLimits, Proxies};

/// Parts of the table, each with a lock: connections come from few threads.
const SHARDS: usize = 16;
/// Addresses of a part at which it is looked through for the first time.
const SHARD_SWEEP_MIN: usize = 64;
/// Between two looks through a part that is full.
const SWEEP_INTERVAL_NS: u64 = 100_000_000;
/// When one that was turned away for what is open may come again: connections come and go.
const RETRY_SECONDS: u32 = 2;

/// Why one is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// More connections a second than the hub takes; come back after so many seconds.
    HubHandshakes(u32),
    /// More connections a second than an address may make.
    Handshakes(u32),
    /// As many connections as an address may have.
    Connections,
    /// As many without a credential as an address may have.
    Unauthenticated,
    /// What is left without a credential is kept for addresses that have few.
    Reserved,
    /// No connection without a credential is left.
    Full,
}

impl Turned {
    /// All reasons, as metrics name them.
    pub const REASONS: [&str; 6] = [
        "handshakes_max",
        "address_handshakes",
        "address_connections",
        "address_unauthenticated",
        "reserved",
        "connections_max",
    ];

    /// Its reason, one of [`Self::REASONS`].
    #[must_use]
    pub const fn reason(self) -> &'static str {
        Self::REASONS[self.index()]
    }

    /// The place of its reason among [`Self::REASONS`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::HubHandshakes(_) => 0,
            Self::Handshakes(_) => 1,
            Self::Connections => 2,
            Self::Unauthenticated => 3,
            Self::Reserved => 4,
            Self::Full => 5,
        }
    }

    /// Whether it is for what the address itself does (429), or for the hub's own state (503).
    #[must_use]
    pub const fn is_own(self) -> bool {
        matches!(self, Self::Handshakes(_) | Self::Connections | Self::Unauthenticated)
    }

    /// When to come again, in seconds.
    #[must_use]
    pub const fn retry_after(self) -> u32 {
        match self {
            Self::HubHandshakes(seconds) | Self::Handshakes(seconds) => seconds,
            Self::Connections | Self::Unauthenticated | Self::Reserved | Self::Full => RETRY_SECONDS,
        }
    }

    /// It in words.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::HubHandshakes(_) => "the hub takes no more connections at the moment",
            Self::Handshakes(_) => "more connections or requests a second than an address may make",
            Self::Connections => "the address has as many connections as it may",
            Self::Unauthenticated => "the address has as many connections without a credential as it may",
            Self::Reserved | Self::Full => "the hub has too many connections without a credential",
        }
    }
}

/// What one address has, or a group of them that counts as one.
#[derive(Debug)]
struct Address {
    /// Whether it is bounded at all.
    limited: bool,
    open: AtomicU32,
    pending: AtomicU32,
    handshakes: SharedBucket,
    bytes: SharedBucket,
    bytes_rate: Rate,
}

impl Address {
    fn new(limited: bool, limits: &AddressLimits) -> Arc<Self> {
        Arc::new(Self {
            limited,
            open: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            handshakes: SharedBucket::default(),
            bytes: SharedBucket::default(),
            bytes_rate: Rate::per_second(limits.bytes_per_second.into()),
        })
    }

    /// Whether nothing is lost by forgetting it.
    fn is_as_new(&self, now: u64) -> bool {
        self.open.load(Ordering::Relaxed) == 0
            && self.pending.load(Ordering::Relaxed) == 0
            && self.handshakes.is_full(now)
            && self.bytes.is_full(now)
    }

    fn has_few(&self) -> bool {
        !self.limited || self.pending.load(Ordering::Relaxed) < ADDRESS_FEW
    }
}

fn count(place: &AtomicU32, most: u32) -> bool {
    place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < most).then_some(count + 1)).is_ok()
}

/// One connection of an address, from its acceptance to the end of its session.
#[derive(Debug)]
pub struct Presence {
    address: Arc<Address>,
    unauthenticated: u32,
}

impl Presence {
    /// One more of its address that has not shown a credential, if it may have one.
    ///
    /// # Errors
    /// [`Turned::Unauthenticated`].
    pub fn pending(&self) -> Result<Pending, Turned> {
        let most = if self.address.limited { self.unauthenticated } else { u32::MAX };
        if !count(&self.address.pending, most) {
            return Err(Turned::Unauthenticated);
        }
        Ok(Pending(Arc::clone(&self.address)))
    }

    /// Of `most` places for all those without a credential, how many this address may see taken
    /// and still get one: an address that has many leaves some of them to others.
    #[must_use]
    pub fn share_of(&self, most: usize) -> usize {
        if self.address.has_few() { most } else { most - most / RESERVED_PARTS }
    }

    /// Counts bytes that a session of the address sent; `false` = more than it may send.
    #[must_use]
    pub fn sent(&self, bytes: usize, now: u64) -> bool {
        !self.address.limited || self.address.bytes.take(self.address.bytes_rate, bytes as u64, now).is_ok()
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.address.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a connection among those of its address that have not shown a credential, until dropped.
#[derive(Debug)]
pub struct Pending(Arc<Address>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A part of the table.
struct Shard {
    known: HashMap<Group, Arc<Address>>,
    /// How many there may be before it is looked through again.
    sweep_at: usize,
    /// How many there may be at all: the bound of those without a connection, beside the others.
    most: usize,
    swept: u64,
}

impl Shard {
    fn new(idle_max: usize) -> Self {
        Self { known: HashMap::default(), sweep_at: SHARD_SWEEP_MIN, most: idle_max, swept: 0 }
    }

    /// Forgets who is as new. Next at twice of what is left: so a newcomer pays for one or two
    /// others, never for all; and while it is full, only now and then.
    fn sweep(&mut self, idle_max: usize, now: u64) {
        let due = self.known.len() >= self.sweep_at.min(self.most);
        let full = self.known.len() >= self.most;
        if !due || (full && now.saturating_sub(self.swept) < SWEEP_INTERVAL_NS) {
            return;
        }
        self.known.retain(|_, address| Arc::strong_count(address) > 1 || !address.is_as_new(now));
        let held = self.known.values().filter(|address| Arc::strong_count(address) > 1).count();
        self.sweep_at = (2 * self.known.len()).max(SHARD_SWEEP_MIN);
        self.most = idle_max + held;
        self.swept = now;
    }
}

/// The table of addresses, and their limits.
pub struct Gate {
    limits: AddressLimits,
    proxies: Proxies,
    /// Addresses without a connection, in each part, beyond which newcomers share one entry.
    idle_max: usize,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    count: Arc<AtomicUsize>,
    exempt: Arc<Address>,
    crowd: Arc<Address>,
    rate: Rate,
    all: SharedBucket,
    all_rate: Rate,
    crowded: Counter,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Gate {
    /// A gate for so many handshakes a second in all. The hash of addresses is keyed at random: which
    /// of them share a part, nobody outside can know.
    #[must_use]
    pub fn new(limits: AddressLimits, proxies: Proxies, handshakes_per_second: u32, registry: &Registry) -> Arc<Self> {
        Self::with_room(limits, proxies, handshakes_per_second, registry, ADDRESSES_IDLE_MAX)
    }

    fn with_room(
        limits: AddressLimits,
        proxies: Proxies,
        handshakes_per_second: u32,
        registry: &Registry,
        idle_max: usize,
    ) -> Arc<Self> {
        let idle_max = (idle_max / SHARDS).max(1);
        Arc::new(Self {
            idle_max,
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::new(Shard::new(idle_max))),
            count: Arc::default(),
            exempt: Address::new(false, &limits),
            crowd: Address::new(true, &limits),
            rate: Rate::new(limits.handshakes_per_second.into(), limits.handshakes_burst.into()),
            all: SharedBucket::default(),
            all_rate: Rate::per_second(handshakes_per_second.into()),
            crowded: registry.counter(metrics::ADDRESSES_CROWDED, &[]),
            limits,
            proxies,
        })
    }

    /// A gate that is open to everyone: for a listener that strangers do not reach, and for tests.
    #[must_use]
    pub fn open(registry: &Registry) -> Arc<Self> {
        let exempt = ["0.0.0.0/0", "::/0"].into_iter().filter_map(|text| text.parse().ok()).collect();
        let limits = AddressLimits { exempt, ..AddressLimits::default() };
        Self::new(limits, Proxies::default(), u32::MAX, registry)
    }

    /// Shows in `registry` how many addresses are remembered.
    pub fn show(&self, registry: &Registry) {
        let (gauge, count) = (registry.gauge(metrics::ADDRESSES, &[]), Arc::clone(&self.count));
        registry.before_scrape(move || gauge.set(count.load(Ordering::Relaxed) as f64));
        registry.gauge(metrics::ADDRESSES_IDLE_MAX, &[]).set((self.idle_max * SHARDS) as f64);
    }

    /// Which proxies are believed.
    #[must_use]
    pub const fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// Whether what the socket of `remote` says of others is believed.
    #[must_use]
    pub fn trusts(&self, remote: &Remote) -> bool {
        let ip = remote.client().ip();
        self.proxies.trusted.iter().any(|network| network.contains(ip))
    }

    /// Takes one connection out of what the hub accepts in a second.
    ///
    /// # Errors
    /// [`Turned::HubHandshakes`].
    pub fn knock(&self, now: u64) -> Result<(), Turned> {
        self.all.take(self.all_rate, 1, now).map_err(|wait| Turned::HubHandshakes(seconds(wait)))
    }

    /// One more connection of a client. A trusted proxy's own is never bounded by address: it is
    /// everyone behind it, who are judged once they are known.
    ///
    /// # Errors
    /// [`Turned`] says what the client has too many of.
    pub fn enter(&self, remote: &Remote, now: u64) -> Result<Presence, Turned> {
        let address = self.address(remote, now);
        if address.limited {
            address.handshakes.take(self.rate, 1, now).map_err(|wait| Turned::Handshakes(seconds(wait)))?;
        }
        let most = if address.limited { self.limits.connections } else { u32::MAX };
        if !count(&address.open, most) {
            return Err(Turned::Connections);
        }
        Ok(Presence { address, unauthenticated: self.limits.unauthenticated })
    }

    /// A further request on a connection.
    ///
    /// # Errors
    /// [`Turned::Handshakes`].
    pub fn again(&self, presence: &Presence, now: u64) -> Result<(), Turned> {
        let address = &presence.address;
        if !address.limited {
            return Ok(());
        }
        address.handshakes.take(self.rate, 1, now).map_err(|wait| Turned::Handshakes(seconds(wait)))
    }

    /// Addresses that are remembered.
    #[must_use]
    pub fn known(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn address(&self, remote: &Remote, now: u64) -> Arc<Address> {
        let ip = remote.client().ip();
        if self.trusts(remote) || self.limits.exempt.iter().any(|network| network.contains(ip)) {
            return Arc::clone(&self.exempt);
        }
        let group = remote.group(self.limits.ipv6_prefix);
        let mut shard = lock(&self.shards[self.hasher.hash_one(group) as usize % SHARDS]);
        if let Some(address) = shard.known.get(&group) {
            return Arc::clone(address);
        }
        let before = shard.known.len();
        shard.sweep(self.idle_max, now);
        let address = if shard.known.len() < shard.most {
            let address = Address::new(true, &self.limits);
            shard.known.insert(group, Arc::clone(&address));
            address
        } else {
            self.crowded.increment(1);
            Arc::clone(&self.crowd)
        };
        let now_known = shard.known.len();
        drop(shard);
        if now_known >= before {
            self.count.fetch_add(now_known - before, Ordering::Relaxed);
        } else {
            self.count.fetch_sub(before - now_known, Ordering::Relaxed);
        }
        address
    }
}

/// Rounded up.
fn seconds(wait_ns: u64) -> u32 {
    u32::try_from(wait_ns.div_ceil(1_000_000_000)).unwrap_or(u32::MAX).max(1)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
