//! What a principal may have: symbols, channels and limits, and how they are narrowed.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::Patience;
use crate::model::{Channel, Depth, InstrumentId, Pattern};

/// Most patterns in one grant. Every pattern is tried for each instrument that appears, and a
/// token's claims times a role's patterns must not grow into more than can be listed.
pub const GRANT_PATTERNS_MAX: usize = 1024;

/// No limit, where a grant counts something.
pub const NO_LIMIT: u32 = u32::MAX;

/// A set of channels.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ChannelSet(u8);

impl ChannelSet {
    /// No channel.
    pub const NONE: Self = Self(0);

    /// Every channel that the hub makes.
    #[must_use]
    pub fn all() -> Self {
        Channel::ALL.into_iter().collect()
    }

    const fn bit(channel: Channel) -> u8 {
        match channel {
            Channel::Ticker => 1,
            Channel::Quote => 1 << 1,
            Channel::Trade => 1 << 2,
            Channel::Book => 1 << 3,
            Channel::Status => 1 << 4,
        }
    }

    /// Whether `channel` is in it.
    #[must_use]
    pub const fn contains(self, channel: Channel) -> bool {
        self.0 & Self::bit(channel) != 0
    }

    /// The channels in both.
    #[must_use]
    pub const fn intersect(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Its channels, in their order.
    pub fn iter(self) -> impl Iterator<Item = Channel> {
        Channel::ALL.into_iter().filter(move |channel| self.contains(*channel))
    }
}

impl FromIterator<Channel> for ChannelSet {
    fn from_iter<I: IntoIterator<Item = Channel>>(channels: I) -> Self {
        Self(channels.into_iter().fold(0, |bits, channel| bits | Self::bit(channel)))
    }
}

impl fmt::Debug for ChannelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Channel::as_str)).finish()
    }
}

/// What a set of claims, or the settings of a role, allow at most. `None` leaves a limit as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Narrowing {
    /// Instruments.
    pub symbols: Option<Vec<Pattern>>,
    /// Channels.
    pub channels: Option<ChannelSet>,
    /// Updates a second for one instrument.
    pub max_rate: Option<NonZeroU32>,
    /// Deepest book.
    pub depth: Option<Depth>,
    /// Connections of one subject at a time.
    pub connections: Option<u32>,
    /// Entries of one session.
    pub subscriptions: Option<u32>,
    /// How much later than live everything is seen at least.
    pub delay: Option<Duration>,
}

/// More than [`GRANT_PATTERNS_MAX`] patterns would be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {GRANT_PATTERNS_MAX} patterns would be left")]
pub struct TooManyPatterns;

/// What a principal may have. Equal grants compare and hash equal however they came about, so that
/// sessions can share one, and each instrument is matched once per distinct grant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// Sorted, and none inside another.
    symbols: Arc<[Pattern]>,
    channels: ChannelSet,
    max_rate: Option<NonZeroU32>,
    depth: Depth,
    connections: u32,
    subscriptions: u32,
    commands_per_second: u32,
    patience: Patience,
    delay: Duration,
}

impl Grant {
    /// All there is, without a limit: what roles are narrowed from.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            symbols: Arc::from([Pattern::all()]),
            channels: ChannelSet::all(),
            max_rate: None,
            depth: Depth::All,
            connections: NO_LIMIT,
            subscriptions: NO_LIMIT,
            commands_per_second: NO_LIMIT,
            patience: Patience::UNLIMITED,
            delay: Duration::ZERO,
        }
    }

    /// The intersection with `narrowing`: nothing in it is allowed that either side forbids.
    ///
    /// # Errors
    /// [`TooManyPatterns`] where the patterns multiply beyond the bound.
    pub fn narrow(&self, narrowing: &Narrowing) -> Result<Self, TooManyPatterns> {
        let symbols = match &narrowing.symbols {
            Some(theirs) => intersections(&self.symbols, theirs)?.into(),
            None => Arc::clone(&self.symbols),
        };
        // An absent rate is the highest: `Option`'s own order has it lowest.
        let max_rate = [self.max_rate, narrowing.max_rate].into_iter().flatten().min();
        Ok(Self {
            symbols,
            channels: self.channels.intersect(narrowing.channels.unwrap_or(self.channels)),
            max_rate,
            depth: self.depth.min(narrowing.depth.unwrap_or(Depth::All)),
            connections: self.connections.min(narrowing.connections.unwrap_or(NO_LIMIT)),
            subscriptions: self.subscriptions.min(narrowing.subscriptions.unwrap_or(NO_LIMIT)),
            commands_per_second: self.commands_per_second,
            patience: self.patience,
            delay: self.delay.max(narrowing.delay.unwrap_or(Duration::ZERO)),
        })
    }

    /// The same grant in the least delayed of the worlds of `delays` that is delayed by as much as
    /// the grant at least; the live one has no place among them. `None` where there is none: less
    /// delay is never an answer.
    #[must_use]
    pub fn in_world(self, delays: &[Duration]) -> Option<Self> {
        if self.delay.is_zero() {
            return Some(self);
        }
        let delay = *delays.iter().filter(|delay| **delay >= self.delay).min()?;
        Some(Self { delay, ..self })
    }

    /// The same grant with at most `commands_per_second`.
    #[must_use]
    pub fn limit_commands(self, commands_per_second: u32) -> Self {
        Self { commands_per_second: self.commands_per_second.min(commands_per_second), ..self }
    }

    /// The same grant with these bounds for a slow consumer.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// Whether `id` may be seen.
    #[must_use]
    pub fn allows(&self, id: &InstrumentId) -> bool {
        self.symbols.iter().any(|pattern| pattern.matches(id))
    }

    /// What of `pattern` lies inside the grant, as patterns none of which is inside another; empty
    /// where nothing does, whether or not such instruments exist.
    #[must_use]
    pub fn restrict(&self, pattern: &Pattern) -> Vec<Pattern> {
        minimal(self.symbols.iter().filter_map(|mine| mine.intersect(pattern)).collect())
    }

    /// Whether anything of `pattern` lies inside the grant.
    #[must_use]
    pub fn overlaps(&self, pattern: &Pattern) -> bool {
        self.symbols.iter().any(|mine| mine.intersect(pattern).is_some())
    }

    /// Whether `channel` may be subscribed.
    #[must_use]
    pub const fn allows_channel(&self, channel: Channel) -> bool {
        self.channels.contains(channel)
    }

    /// Whether `every` may be asked of `channel`: a limited rate forbids it where updates could be
    /// conflated instead, and trades and states never are.
    #[must_use]
    pub const fn allows_every(&self, channel: Channel) -> bool {
        self.max_rate.is_none() || matches!(channel, Channel::Trade | Channel::Status)
    }

    /// The rate in effect for one that was asked, or for none.
    #[must_use]
    pub fn effective_rate(&self, asked: Option<u32>) -> Option<u32> {
        [self.max_rate(), asked].into_iter().flatten().min()
    }

    /// The depth in effect for one that was asked.
    #[must_use]
    pub fn effective_depth(&self, asked: Depth) -> Depth {
        self.depth.min(asked)
    }

    /// The instruments, sorted, none inside another.
    #[must_use]
    pub fn symbols(&self) -> &[Pattern] {
        &self.symbols
    }

    /// The instruments, shared.
    #[must_use]
    pub fn symbols_shared(&self) -> Arc<[Pattern]> {
        Arc::clone(&self.symbols)
    }

    /// The channels.
    #[must_use]
    pub const fn channels(&self) -> ChannelSet {
        self.channels
    }

    /// Most updates a second for one instrument; `None` = no limit.
    #[must_use]
    pub fn max_rate(&self) -> Option<u32> {
        self.max_rate.map(NonZeroU32::get)
    }

    /// Deepest book.
    #[must_use]
    pub const fn depth(&self) -> Depth {
        self.depth
    }

    /// Most connections of one subject at a time; [`NO_LIMIT`] where there is none.
    #[must_use]
    pub const fn connections(&self) -> u32 {
        self.connections
    }

    /// Most entries of one session; [`NO_LIMIT`] where there is none.
    #[must_use]
    pub const fn subscriptions(&self) -> u32 {
        self.subscriptions
    }

    /// Most commands a second; [`NO_LIMIT`] where there is none.
    #[must_use]
    pub const fn commands_per_second(&self) -> u32 {
        self.commands_per_second
    }

    /// How much later than live everything is seen; zero is live.
    #[must_use]
    pub const fn delay(&self) -> Duration {
        self.delay
    }

    /// How slow its sessions may be.
    #[must_use]
    pub const fn patience(&self) -> &Patience {
        &self.patience
    }
}

fn intersections(mine: &[Pattern], theirs: &[Pattern]) -> Result<Vec<Pattern>, TooManyPatterns> {
    let mut both = BTreeSet::new();
    for a in mine {
        both.extend(theirs.iter().filter_map(|b| a.intersect(b)));
        if both.len() > GRANT_PATTERNS_MAX {
            return Err(TooManyPatterns);
        }
    }
    Ok(minimal(both))
}

/// Sorted, without those that another one covers.
fn minimal(patterns: BTreeSet<Pattern>) -> Vec<Pattern> {
    let covered = |pattern: &Pattern| {
        patterns.iter().any(|other| other != pattern && other.intersect(pattern).as_ref() == Some(pattern))
    };
    patterns.iter().filter(|pattern| patterns.len() == 1 || !covered(pattern)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::parse(text).expect(text)).collect()
    }

    fn grant(symbols: &[&str]) -> Grant {
        Grant::everything()
            .narrow(&Narrowing { symbols: Some(patterns(symbols)), ..Narrowing::default() })
            .expect("few")
    }

    #[test]
    fn what_is_inside_another_pattern_is_left_out() {
        assert_eq!(grant(&["SIM:A*", "SIM:*", "SIM:AB", "*:AB", "SIM:A*"]).symbols(), patterns(&["*:AB", "SIM:*"]));
        assert_eq!(grant(&["B:*", "A:*"]), grant(&["A:*", "B:*", "A:X"]));
        assert_eq!(grant(&[]).symbols(), []);
    }

    #[test]
    fn a_pattern_is_restricted_to_the_grant() {
        let grant = grant(&["SIM:*", "BINANCE:BTC-*"]);
        let all = Pattern::all();
        assert_eq!(grant.restrict(&all), patterns(&["BINANCE:BTC-*", "SIM:*"]));
        assert_eq!(grant.restrict(&patterns(&["*:BTC-USD"])[0]), patterns(&["BINANCE:BTC-USD", "SIM:BTC-USD"]));
        assert_eq!(grant.restrict(&patterns(&["BINANCE:ETH-*"])[0]), []);
        assert!(grant.overlaps(&all) && !grant.overlaps(&patterns(&["BINANCE:ETH-*"])[0]));
    }

    #[test]
    fn a_limited_rate_forbids_every_only_where_updates_can_be_conflated() {
        let limited = Narrowing { max_rate: NonZeroU32::new(5), ..Narrowing::default() };
        let grant = Grant::everything().narrow(&limited).expect("few");
        let every: ChannelSet = Channel::ALL.into_iter().filter(|channel| grant.allows_every(*channel)).collect();
        assert_eq!(every, [Channel::Trade, Channel::Status].into_iter().collect());
        assert_eq!([None, Some(9), Some(2)].map(|asked| grant.effective_rate(asked)), [Some(5), Some(5), Some(2)]);
        assert!(Channel::ALL.into_iter().all(|channel| Grant::everything().allows_every(channel)));
    }

    #[test]
    fn a_delayed_grant_is_never_in_a_world_of_less_delay() {
        let delays = [2, 900].map(Duration::from_secs);
        let world = |seconds| {
            let narrowing = Narrowing { delay: Some(Duration::from_secs(seconds)), ..Narrowing::default() };
            let grant = Grant::everything().narrow(&narrowing).expect("few").in_world(&delays);
            grant.map(|grant| grant.delay().as_secs())
        };
        assert_eq!([0, 1, 2, 3, 900, 901].map(world), [Some(0), Some(2), Some(2), Some(900), Some(900), None]);
    }

    #[test]
    fn patterns_that_multiply_without_end_are_refused() {
        let heads: Vec<_> = (0..100).map(|n| Pattern::parse(&format!("*:H{n:03}*")).expect("valid")).collect();
        let venues: Vec<_> = (0..100).map(|n| Pattern::parse(&format!("V{n:03}:*")).expect("valid")).collect();
        let narrowing = |symbols| Narrowing { symbols: Some(symbols), ..Narrowing::default() };
        let grant = Grant::everything().narrow(&narrowing(heads)).expect("few");
        assert_eq!(grant.narrow(&narrowing(venues)), Err(TooManyPatterns));
    }

    fn any_patterns() -> impl Strategy<Value = Vec<Pattern>> {
        let one = "(\\*|A|B):((A|B|AB){1,2}\\*?|\\*)".prop_map(|text| Pattern::parse(&text).expect("valid"));
        proptest::collection::vec(one, 0..4)
    }

    fn any_narrowing() -> impl Strategy<Value = Narrowing> {
        let channels = proptest::collection::vec(proptest::sample::select(&Channel::ALL[..]), 0..5);
        let depth = proptest::sample::select(&Depth::ALL[..]);
        (
            proptest::option::of(any_patterns()),
            proptest::option::of(channels.prop_map(|channels| channels.into_iter().collect())),
            proptest::option::of((1u32..5).prop_map(|rate| NonZeroU32::new(rate).expect("above zero"))),
            proptest::option::of(depth),
            proptest::option::of(0u32..5),
            proptest::option::of(0u32..5),
            proptest::option::of((0u64..5).prop_map(Duration::from_secs)),
        )
            .prop_map(|(symbols, channels, max_rate, depth, connections, subscriptions, delay)| Narrowing {
                symbols,
                channels,
                max_rate,
                depth,
                connections,
                subscriptions,
                delay,
            })
    }

    proptest! {
        #[test]
        fn a_grant_allows_exactly_what_role_and_claims_both_allow(
            role in any_narrowing(), claims in any_narrowing(), id in "(A|B):(A|B|AB){1,3}", asked in 1u32..9,
        ) {
            let id = InstrumentId::parse(&id).expect("valid");
            let [a, b] = [&role, &claims].map(|n| Grant::everything().narrow(n).expect("few"));
            let both = a.narrow(&claims).expect("few");
            prop_assert_eq!(both.allows(&id), a.allows(&id) && b.allows(&id));
            for channel in Channel::ALL {
                prop_assert_eq!(both.allows_channel(channel), a.allows_channel(channel) && b.allows_channel(channel));
                prop_assert_eq!(both.allows_every(channel), a.allows_every(channel) && b.allows_every(channel));
            }
            let asked = Some(asked);
            prop_assert_eq!(both.effective_rate(asked), a.effective_rate(asked).min(b.effective_rate(asked)));
            for depth in Depth::ALL {
                let levels = both.effective_depth(depth).levels_max();
                let least = a.effective_depth(depth).levels_max().min(b.effective_depth(depth).levels_max());
                prop_assert_eq!(levels, least);
            }
            prop_assert_eq!(both.connections(), a.connections().min(b.connections()));
            prop_assert_eq!(both.subscriptions(), a.subscriptions().min(b.subscriptions()));
            prop_assert_eq!(both.delay(), a.delay().max(b.delay()));
            // In whatever order they meet, the grant is the same object to an interner.
            prop_assert_eq!(both, b.narrow(&role).expect("few"));
        }

        #[test]
        fn a_restricted_pattern_selects_what_pattern_and_grant_both_select(
            symbols in any_patterns(), asked in any_patterns(), id in "(A|B):(A|B|AB){1,3}",
        ) {
            let id = InstrumentId::parse(&id).expect("valid");
            let narrowing = Narrowing { symbols: Some(symbols), ..Narrowing::default() };
            let grant = Grant::everything().narrow(&narrowing).expect("few");
            for pattern in asked {
                let inside = grant.restrict(&pattern);
                prop_assert_eq!(inside.iter().any(|p| p.matches(&id)), grant.allows(&id) && pattern.matches(&id));
                prop_assert_eq!(grant.overlaps(&pattern), !inside.is_empty());
            }
        }
    }
}
