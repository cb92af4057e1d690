//! Reading a token's header and claims, once it is known who signed them.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use super::{AuthError, ChannelSet, Narrowing};
use crate::model::{Channel, Depth, Pattern, UnixNanos};

/// Longest `sub`, in bytes: it stands in each session and in logs.
pub const SUBJECT_BYTES_MAX: usize = 256;

/// Longest `jti`, in bytes, for the same reason.
pub const TOKEN_ID_BYTES_MAX: usize = 256;

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
        Header::read(members(self.header)?)
    }

    pub(super) fn claims(&self) -> Result<Claims, AuthError> {
        Claims::read(members(self.claims)?)
    }
}

/// What counts of a token's header.
pub(super) struct Header {
    pub(super) algorithm: String,
    pub(super) key_id: Option<String>,
}

impl Header {
    fn read(mut members: Members) -> Result<Self, AuthError> {
        // RFC 7515 4.1.11: extensions that are not understood must be refused. A token inside a
        // token (RFC 7519 5.2) would be read as claims by nobody.
        let nested = members.take("cty").is_some_and(|cty| !matches!(cty, Value::String(cty) if cty.is_empty()));
        if members.take("crit").is_some() || members.take("enc").is_some() || nested {
            return Err(AuthError::UnsupportedHeader);
        }
        let Some(Value::String(algorithm)) = members.take("alg") else { return Err(AuthError::Malformed) };
        let key_id = match members.take("kid") {
            None => None,
            Some(Value::String(id)) => Some(id),
            Some(_) => return Err(AuthError::Malformed),
        };
        Ok(Self { algorithm, key_id })
    }
}

/// The claims, each in its type; whether they hold now is for the authenticator to say.
pub(super) struct Claims {
    pub(super) subject: Arc<str>,
    pub(super) issuer: String,
    pub(super) audience: Vec<String>,
    pub(super) expires: UnixNanos,
    pub(super) issued: UnixNanos,
    pub(super) not_before: Option<UnixNanos>,
    pub(super) token_id: Option<Arc<str>>,
    pub(super) role: Option<String>,
    pub(super) narrowing: Narrowing,
}

impl Claims {
    fn read(mut members: Members) -> Result<Self, AuthError> {
        let subject = members.required("sub", |value| name(value, SUBJECT_BYTES_MAX))?;
        Ok(Self {
            subject,
            issuer: members.required("iss", text)?,
            audience: members.required("aud", audience)?,
            expires: members.required("exp", numeric_date)?,
            issued: members.required("iat", numeric_date)?,
            not_before: members.optional("nbf", numeric_date)?,
            token_id: members.optional("jti", |value| name(value, TOKEN_ID_BYTES_MAX))?,
            role: members.optional("role", text)?,
            narrowing: Narrowing {
                symbols: members.optional("symbols", symbols)?,
                channels: members.optional("channels", channels)?,
                max_rate: members.optional("max_rate", |value| NonZeroU32::new(count(value)?))?,
                depth: members.optional("depth", |value| count(value).map(depth_within))?,
                connections: members.optional("connections", count)?,
                subscriptions: members.optional("subscriptions", count)?,
            },
        })
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

/// The channel of a name. `Some(None)` = one of the protocol's that the hub does not make.
fn channel(name: &str) -> Option<Option<Channel>> {
    match Channel::parse(name) {
        Some(channel) => Some(Some(channel)),
        None => name.strip_prefix("bar.").filter(|interval| !interval.is_empty()).map(|_| None),
    }
}

fn channels(value: Value) -> Option<ChannelSet> {
    let names = list(value)?;
    let channels: Option<Vec<_>> = names.iter().map(|name| channel(name)).collect();
    Some(channels?.into_iter().flatten().collect())
}

fn symbols(value: Value) -> Option<Vec<Pattern>> {
    list(value)?.iter().map(|text| Pattern::parse(text).ok()).collect()
}

fn list(value: Value) -> Option<Vec<String>> {
    let Value::Array(values) = value else { return None };
    values.into_iter().map(text).collect()
}

fn text(value: Value) -> Option<String> {
    if let Value::String(text) = value { Some(text) } else { None }
}

/// A text that may stand in logs.
fn name(value: Value, bytes_max: usize) -> Option<Arc<str>> {
    text(value).filter(|text| is_name(text, bytes_max)).map(Arc::from)
}

/// Whether `text` may stand in logs: not empty, not longer than that, no control characters.
#[must_use]
pub fn is_name(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn count(value: Value) -> Option<u32> {
    value.as_u64().and_then(|count| u32::try_from(count).ok())
}

/// `aud` is a string or a list of them (RFC 7519 4.1.3).
fn audience(value: Value) -> Option<Vec<String>> {
    if value.is_string() { text(value).map(|one| vec![one]) } else { list(value) }
}

/// Seconds since the epoch, whole or not, of any size (RFC 7519 2): times beyond what can be held
/// are the last or the first that can.
fn numeric_date(value: Value) -> Option<UnixNanos> {
    const NANOS: i64 = 1_000_000_000;
    let Value::Number(seconds) = value else { return None };
    if let Some(seconds) = seconds.as_i64() {
        return Some(UnixNanos(seconds.saturating_mul(NANOS)));
    }
    // A cast from a float saturates, and JSON has neither infinity nor NaN.
    seconds.as_f64().map(|seconds| UnixNanos((seconds * 1e9) as i64))
}

fn members(encoded: &str) -> Result<Members, AuthError> {
    let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| AuthError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| AuthError::Malformed)
}

/// The members of a JSON object, each of which stands there once: of two claims of one name,
/// another reader may have checked the other one.
struct Members(BTreeMap<String, Value>);

impl Members {
    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Option<T>,
    ) -> Result<Option<T>, AuthError> {
        self.take(name).map(|value| read(value).ok_or(AuthError::BadClaim(name))).transpose()
    }

    fn required<T>(&mut self, name: &'static str, read: impl FnOnce(Value) -> Option<T>) -> Result<T, AuthError> {
        self.optional(name, read)?.ok_or(AuthError::MissingClaim(name))
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a member stands there twice"));
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
