//! What the clients may have, and the rules of patterns and options in plain words.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tickhub::auth::{CredentialKind, Grant, Narrowing, Patience, Policies, Principal};
use tickhub::model::{Channel, Depth, Overflow, Pattern};

use crate::truth::DEPTHS;

/// A grant as the model sees it.
#[derive(Debug)]
pub(crate) struct Allowed {
    pub(crate) symbols: &'static [&'static str],
    pub(crate) channels: &'static [&'static str],
    pub(crate) max_rate: Option<u32>,
    /// Index into [`DEPTHS`].
    pub(crate) depth: usize,
    pub(crate) subscriptions: Option<usize>,
    pub(crate) backlog_events: Option<usize>,
    pub(crate) backlog_bytes: Option<usize>,
    /// The first is the default.
    pub(crate) overflow: &'static [&'static str],
    pub(crate) write_stall_ms: Option<u64>,
    pub(crate) catch_up_ms: Option<u64>,
}

const ALL_CHANNELS: &[&str] = &["ticker", "quote", "trade", "book", "status"];

const EVERYTHING: Allowed = Allowed {
    symbols: &["*:*"],
    channels: ALL_CHANNELS,
    max_rate: None,
    depth: 3,
    subscriptions: None,
    backlog_events: None,
    backlog_bytes: None,
    overflow: &["gap", "disconnect"],
    write_stall_ms: None,
    catch_up_ms: None,
};

/// From here on they differ in how slow a session may be.
pub(crate) const SLOW_GRANTS: usize = 9;

pub(crate) const GRANTS: [Allowed; 14] = [
    EVERYTHING,
    Allowed { symbols: &["SIM:*"], ..EVERYTHING },
    Allowed { symbols: &["SIM:A*", "ALT:C-USD"], ..EVERYTHING },
    Allowed { max_rate: Some(20), ..EVERYTHING },
    Allowed { depth: 1, ..EVERYTHING },
    Allowed { channels: &["quote", "trade", "status"], ..EVERYTHING },
    Allowed { subscriptions: Some(4), ..EVERYTHING },
    Allowed { symbols: &["*:AA-USD", "SIM:B-USD"], max_rate: Some(5), depth: 0, ..EVERYTHING },
    Allowed { symbols: &["ALT:*"], channels: &["book", "quote", "ticker"], ..EVERYTHING },
    Allowed { backlog_events: Some(3), ..EVERYTHING },
    Allowed { backlog_bytes: Some(900), catch_up_ms: Some(0), ..EVERYTHING },
    Allowed { backlog_events: Some(8), overflow: &["disconnect"], write_stall_ms: Some(1_000), ..EVERYTHING },
    Allowed { overflow: &["gap"], catch_up_ms: Some(200), ..EVERYTHING },
    Allowed { backlog_events: Some(20), overflow: &["disconnect", "gap"], symbols: &["SIM:*"], ..EVERYTHING },
];

pub(crate) fn principal(grant: usize, subject: &str) -> Arc<Principal> {
    let allowed = &GRANTS[grant];
    let narrowing = Narrowing {
        symbols: Some(allowed.symbols.iter().map(|text| Pattern::parse(text).expect("a pattern")).collect()),
        channels: Some(allowed.channels.iter().filter_map(|name| Channel::parse(name)).collect()),
        max_rate: allowed.max_rate.and_then(NonZeroU32::new),
        depth: Depth::from_wire(DEPTHS[allowed.depth].into()),
        connections: None,
        subscriptions: allowed.subscriptions.map(|count| count as u32),
        delay: None,
    };
    let none = Patience::UNLIMITED;
    let policies: Vec<_> = allowed.overflow.iter().filter_map(|name| Overflow::parse(name)).collect();
    let patience = Patience {
        backlog_events: allowed.backlog_events.unwrap_or(none.backlog_events),
        backlog_bytes: allowed.backlog_bytes.unwrap_or(none.backlog_bytes),
        write_stall: allowed.write_stall_ms.map_or(none.write_stall, Duration::from_millis),
        catch_up: allowed.catch_up_ms.map_or(none.catch_up, Duration::from_millis),
        overflow: Policies::of(&policies).expect("not empty"),
    };
    Arc::new(Principal {
        subject: subject.into(),
        issuer: None,
        role: grant.to_string().into(),
        grant: Arc::new(Grant::everything().narrow(&narrowing).expect("few patterns").with_patience(patience)),
        narrowing: None,
        expires: None,
        issued: None,
        token_id: None,
        credential: CredentialKind::Jwt,
    })
}

/// The long form of a pattern: its length is its rank.
pub(crate) fn long(pattern: &str) -> &str {
    if pattern == "*" { "*:*" } else { pattern }
}

/// Venue, symbol or its head, and whether it is a head.
fn parts(pattern: &str) -> (&str, &str, bool) {
    let (venue, symbol) = long(pattern).split_once(':').expect("well formed");
    match symbol.strip_suffix('*') {
        Some(head) => (venue, head, true),
        None => (venue, symbol, false),
    }
}

/// Whether it is no id or pattern at all.
pub(crate) fn is_malformed(symbol: &str) -> bool {
    long(symbol).split_once(':').is_none_or(|(venue, symbol)| {
        let sane =
            |text: &str| text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b"._-".contains(&b));
        venue.is_empty()
            || symbol.is_empty()
            || (venue != "*" && !sane(venue))
            || !sane(symbol.strip_suffix('*').unwrap_or(symbol))
    })
}

pub(crate) fn is_pattern(symbol: &str) -> bool {
    symbol.contains('*')
}

pub(crate) fn matches(pattern: &str, id: &str) -> bool {
    let (venue, symbol) = id.split_once(':').expect("an id");
    let (of_venue, of_symbol, head) = parts(pattern);
    (of_venue == "*" || of_venue == venue) && if head { symbol.starts_with(of_symbol) } else { symbol == of_symbol }
}

/// Whether some instrument could match both.
pub(crate) fn overlap(a: &str, b: &str) -> bool {
    let ((venue_a, a, head_a), (venue_b, b, head_b)) = (parts(a), parts(b));
    let symbols = match (head_a, head_b) {
        (false, false) => a == b,
        (true, false) => b.starts_with(a),
        (false, true) => a.starts_with(b),
        (true, true) => a.starts_with(b) || b.starts_with(a),
    };
    (venue_a == "*" || venue_b == "*" || venue_a == venue_b) && symbols
}

impl Allowed {
    pub(crate) fn covers(&self, id: &str) -> bool {
        self.symbols.iter().any(|pattern| matches(pattern, id))
    }

    pub(crate) fn overlaps(&self, pattern: &str) -> bool {
        self.symbols.iter().any(|allowed| overlap(allowed, pattern))
    }

    /// Whether what is left of a pattern could be of a venue.
    pub(crate) fn concerns(&self, pattern: &str, venue: &str) -> bool {
        let of = |pattern: &str| matches!(parts(pattern).0, v if v == "*" || v == venue);
        of(pattern) && self.symbols.iter().any(|allowed| of(allowed) && overlap(allowed, pattern))
    }

    /// Whether a channel may be had in a mode.
    pub(crate) fn allows(&self, channel: &str, every: bool) -> bool {
        let conflated = matches!(channel, "ticker" | "quote" | "book");
        self.channels.contains(&channel) && !(every && conflated && self.max_rate.is_some())
    }
}
