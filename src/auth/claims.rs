//! Reading a token's header and claims.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::key::bytes;
use super::mapping::Mapping;
use super::members::{ClaimPath, Members};
use super::{AuthError, ChannelSet, Narrowing};
use crate::model::{Channel, Depth, Pattern, UnixNanos};
use crate::settings::Span;

/// Longest `sub` and `jti`, in bytes: they stand in each session and in logs.
pub const SUBJECT_BYTES_MAX: usize = 256;

/// Longest `jti`, in bytes.
pub const TOKEN_ID_BYTES_MAX: usize = SUBJECT_BYTES_MAX;

/// The three parts of a token, still encoded.
pub(super) struct Parts<'a> {
    /// Header and claims as they were signed.
    pub(super) signed: &'a str,
    header: &'a str,
    claims: &'a str,
    pub(super) signature: &'a str,
}

impl<'a> Parts<'a> {
    pub(super) fn split(token: &'a str) -> Result<Self, AuthError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(AuthError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(AuthError::Malformed)?;
        if claims.contains('.') {
            return Err(AuthError::Malformed);
        }
        Ok(Self { signed, header, claims, signature })
    }

    pub(super) fn header(&self) -> Result<Header, AuthError> {
        Header::read(&members(self.header)?)
    }

    /// The claims as they stand there. Until it is known who signed them, all that they are good
    /// for is to say whose keys to try.
    pub(super) fn claims(&self) -> Result<Members, AuthError> {
        members(self.claims)
    }
}

fn members(encoded: &str) -> Result<Members, AuthError> {
    Members::parse(&bytes(encoded).ok_or(AuthError::Malformed)?)
}

/// What counts of a token's header.
pub(super) struct Header {
    pub(super) algorithm: String,
    pub(super) key_id: Option<String>,
    kind: Option<String>,
}

impl Header {
    fn read(members: &Members) -> Result<Self, AuthError> {
        // RFC 7515 4.1.11: extensions that are not understood must be refused. A token inside a
        // token (RFC 7519 5.2) would be read as claims by nobody.
        let nested = members.member("cty").is_some_and(|cty| cty.as_str() != Some(""));
        if members.member("crit").is_some() || members.member("enc").is_some() || nested {
            return Err(AuthError::UnsupportedHeader);
        }
        let text = |name| match members.member(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(AuthError::Malformed),
        };
        Ok(Self { algorithm: text("alg")?.ok_or(AuthError::Malformed)?, key_id: text("kid")?, kind: text("typ")? })
    }

    /// Whether its `typ`, if it has one, is that of tokens that give access. An issuer signs other
    /// things with the same keys: logouts, events, proofs (RFC 8725 3.11, RFC 9068 2.1).
    pub(super) fn is_for_access(&self) -> bool {
        let kind = self.kind.as_ref().map(|kind| kind.to_ascii_lowercase());
        kind.is_none_or(|kind| ["jwt", "at+jwt"].contains(&kind.trim_start_matches("application/")))
    }
}

/// The names that a token gives its role by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RoleClaim {
    /// One name.
    One(String),
    /// Any number of them, such as the groups of an identity provider.
    Many(Vec<String>),
}

/// The claims, each in its type; whether they hold now is for the authenticator to say.
pub(super) struct Claims {
    pub(super) subject: Arc<str>,
    pub(super) audience: Vec<String>,
    pub(super) expires: UnixNanos,
    pub(super) issued: UnixNanos,
    pub(super) not_before: Option<UnixNanos>,
    pub(super) token_id: Option<Arc<str>>,
    pub(super) role: Option<RoleClaim>,
    pub(super) narrowing: Narrowing,
}

impl Claims {
    /// Reads them where `mapping` says that they stand.
    pub(super) fn read(members: &Members, mapping: &Mapping) -> Result<Self, AuthError> {
        let subject = |value: &Value| {
            let own = value.as_str().filter(|own| !own.is_empty())?;
            name(&format!("{}{own}", mapping.subject_prefix))
        };
        let top = ClaimPath::top;
        Ok(Self {
            subject: members.required(&mapping.subject, "sub", subject)?,
            audience: members.required(&top("aud"), "aud", audience)?,
            expires: members.required(&top("exp"), "exp", numeric_date)?,
            issued: members.required(&top("iat"), "iat", numeric_date)?,
            not_before: members.optional(&top("nbf"), "nbf", numeric_date)?,
            token_id: members.optional(&top("jti"), "jti", |value| name(value.as_str()?))?,
            role: match &mapping.role_path {
                Some(path) => members.optional(path, "role", |value| role(value, mapping.roles_may_be_many))?,
                None => None,
            },
            narrowing: Narrowing {
                symbols: members.optional(&mapping.symbols, "symbols", symbols)?,
                channels: members.optional(&mapping.channels, "channels", channels)?,
                max_rate: members.optional(&mapping.max_rate, "max_rate", |value| NonZeroU32::new(count(value)?))?,
                depth: members.optional(&mapping.depth, "depth", |value| count(value).map(depth_within))?,
                connections: members.optional(&mapping.connections, "connections", count)?,
                subscriptions: members.optional(&mapping.subscriptions, "subscriptions", count)?,
                delay: members.optional(&mapping.delay, "delay", delay)?,
            },
        })
    }
}

fn role(value: &Value, may_be_many: bool) -> Option<RoleClaim> {
    match value {
        Value::String(name) => Some(RoleClaim::One(name.clone())),
        Value::Array(_) if may_be_many => list(value).map(RoleClaim::Many),
        _ => None,
    }
}

/// The deepest depth that does not exceed `levels`; 0 is the deepest of all.
pub(super) fn depth_within(levels: u32) -> Depth {
    match levels {
        0 => Depth::All,
        1..10 => Depth::One,
        10..50 => Depth::Ten,
        50.. => Depth::Fifty,
    }
}

/// A span of time: seconds, or a text as in the configuration.
fn delay(value: &Value) -> Option<Duration> {
    match value {
        Value::String(text) => text.parse().ok().map(Span::duration),
        seconds => seconds.as_u64().map(Duration::from_secs),
    }
}

/// The channel of a name. `Some(None)` = one of the protocol's that the hub does not make.
fn channel(name: &str) -> Option<Option<Channel>> {
    match Channel::parse(name) {
        Some(channel) => Some(Some(channel)),
        None => name.strip_prefix("bar.").filter(|interval| !interval.is_empty()).map(|_| None),
    }
}

fn channels(value: &Value) -> Option<ChannelSet> {
    let names = list(value)?;
    let channels: Option<Vec<_>> = names.iter().map(|name| channel(name)).collect();
    Some(channels?.into_iter().flatten().collect())
}

fn symbols(value: &Value) -> Option<Vec<Pattern>> {
    list(value)?.iter().map(|text| Pattern::parse(text).ok()).collect()
}

fn list(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

/// A text that may stand in logs.
fn name(text: &str) -> Option<Arc<str>> {
    is_name(text, SUBJECT_BYTES_MAX).then(|| Arc::from(text))
}

/// Whether `text` may stand in logs: not empty, not longer than that, no control characters.
#[must_use]
pub fn is_name(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn count(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|count| u32::try_from(count).ok())
}

/// `aud` is a string or a list of them (RFC 7519 4.1.3).
fn audience(value: &Value) -> Option<Vec<String>> {
    value.as_str().map_or_else(|| list(value), |one| Some(vec![one.to_owned()]))
}

/// Seconds since the epoch, whole or not, of any size (RFC 7519 2): times beyond what can be held
/// are the last or the first that can.
fn numeric_date(value: &Value) -> Option<UnixNanos> {
    const NANOS: i64 = 1_000_000_000;
    let Value::Number(seconds) = value else { return None };
    if let Some(seconds) = seconds.as_i64() {
        return Some(UnixNanos(seconds.saturating_mul(NANOS)));
    }
    // A cast from a float saturates, and JSON has neither infinity nor NaN.
    seconds.as_f64().map(|seconds| UnixNanos((seconds * 1e9) as i64))
}
