//! Reading the keys that an issuer publishes (RFC 7517): text in, keys that tokens can be verified
//! with out. What cannot be used is skipped and counted; it never stands in the way of the rest.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::claims::{SUBJECT_BYTES_MAX, is_name};
use super::key::{Unfit, VerifyingKey, bytes};
use super::members::Members;

/// Longest text, in bytes: that of the largest identity providers is some 20 KiB.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;

/// Most keys in it, usable or not.
pub const JWKS_KEYS_MAX: usize = 128;

/// Members of a key that only its owner may know (RFC 7518 6.2.2, 6.3.2; RFC 8037 2).
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

/// Why a text is no set of keys. What was known before stays in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// Longer than [`JWKS_BYTES_MAX`].
    #[error("has more than {JWKS_BYTES_MAX} bytes")]
    TooLong,
    /// Not JSON, or another form.
    #[error("is not a JSON object with a list \"keys\"")]
    Malformed,
    /// More than [`JWKS_KEYS_MAX`].
    #[error("has more than {JWKS_KEYS_MAX} keys")]
    TooManyKeys,
    /// Which of two keys a token means must not depend on their order.
    #[error("has two keys with one \"kid\"")]
    DuplicateKeyId,
    /// Every token would be refused: more likely a fault than a wish.
    #[error("has no key that a token can be verified with")]
    NoKey,
}

/// Why a key is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SkipReason {
    /// `kty` is `oct`: a secret that is published is none.
    Symmetric,
    /// It holds its private part: whoever reads it can sign with it.
    Private,
    /// `use` or `key_ops` say that it is not for signatures.
    OtherUse,
    /// `alg` is not what its type is used for here.
    OtherAlgorithm,
    /// A type or a curve that the hub does not verify with.
    Unsupported,
    /// An RSA key of less than 2048 bits.
    Weak,
    /// It cannot be read, or its numbers are no key.
    Malformed,
}

impl SkipReason {
    /// All, in their order.
    pub const ALL: [Self; 7] = [
        Self::Symmetric,
        Self::Private,
        Self::OtherUse,
        Self::OtherAlgorithm,
        Self::Unsupported,
        Self::Weak,
        Self::Malformed,
    ];

    /// One word for it, for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Symmetric => "symmetric",
            Self::Private => "private",
            Self::OtherUse => "other_use",
            Self::OtherAlgorithm => "other_algorithm",
            Self::Unsupported => "unsupported",
            Self::Weak => "weak",
            Self::Malformed => "malformed",
        }
    }
}

/// The keys of an issuer at one time.
pub struct KeySet {
    pub(super) keys: Vec<VerifyingKey>,
    skipped: [u32; SkipReason::ALL.len()],
}

/// The whole text; each key is read on its own.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

impl KeySet {
    /// Reads a JWK set.
    ///
    /// # Errors
    /// [`JwksError`] where the text as a whole is of no use.
    pub fn parse(text: &[u8]) -> Result<Self, JwksError> {
        if text.len() > JWKS_BYTES_MAX {
            return Err(JwksError::TooLong);
        }
        let document: Document<'_> = serde_json::from_slice(text).map_err(|_| JwksError::Malformed)?;
        if document.keys.len() > JWKS_KEYS_MAX {
            return Err(JwksError::TooManyKeys);
        }
        let mut set = Self { keys: Vec::new(), skipped: Default::default() };
        for key in document.keys {
            match read(key.get().as_bytes()) {
                Ok(key) => set.keys.push(key),
                Err(reason) => set.skipped[reason as usize] += 1,
            }
        }
        let mut ids = BTreeSet::new();
        if !set.keys.iter().filter_map(|key| key.id.as_ref()).all(|id| ids.insert(id)) {
            return Err(JwksError::DuplicateKeyId);
        }
        if set.keys.is_empty() { Err(JwksError::NoKey) } else { Ok(set) }
    }

    /// How many keys tokens can be verified with.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // An empty set is none.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// How many keys were skipped, by reason.
    pub fn skipped(&self) -> impl Iterator<Item = (SkipReason, u32)> {
        SkipReason::ALL.into_iter().zip(self.skipped)
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.keys).field("skipped", &self.skipped).finish()
    }
}

fn read(text: &[u8]) -> Result<VerifyingKey, SkipReason> {
    let key = Members::parse(text).map_err(|_| SkipReason::Malformed)?;
    let kind = required(&key, "kty")?;
    if kind == "oct" || key.member("k").is_some() {
        return Err(SkipReason::Symmetric);
    }
    if PRIVATE.iter().any(|name| key.member(name).is_some()) {
        return Err(SkipReason::Private);
    }
    let for_signatures = member(&key, "use")?.is_none_or(|used| used == "sig");
    let verifies = match key.member("key_ops") {
        None => true,
        Some(Value::Array(operations)) => operations.iter().any(|operation| operation == "verify"),
        Some(_) => return Err(SkipReason::Malformed),
    };
    if !for_signatures || !verifies {
        return Err(SkipReason::OtherUse);
    }
    let id = member(&key, "kid")?.map(str::to_owned);
    if id.as_ref().is_some_and(|id| !is_name(id, SUBJECT_BYTES_MAX)) {
        return Err(SkipReason::Malformed);
    }
    let number = |name| bytes(required(&key, name)?).ok_or(SkipReason::Malformed);
    let curve = || required(&key, "crv");
    let made = match kind {
        "RSA" => VerifyingKey::rsa(id, &number("n")?, &number("e")?),
        "EC" if curve()? == "P-256" => VerifyingKey::p256(id, &number("x")?, &number("y")?),
        "OKP" if curve()? == "Ed25519" => VerifyingKey::ed25519(id, &number("x")?),
        _ => return Err(SkipReason::Unsupported),
    };
    let made = made.map_err(|unfit| match unfit {
        Unfit::Malformed => SkipReason::Malformed,
        Unfit::Weak => SkipReason::Weak,
    })?;
    let named = member(&key, "alg")?.is_none_or(|name| made.algorithm.is_named(name));
    if named { Ok(made) } else { Err(SkipReason::OtherAlgorithm) }
}

fn member<'a>(key: &'a Members, name: &str) -> Result<Option<&'a str>, SkipReason> {
    match key.member(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(SkipReason::Malformed),
    }
}

fn required<'a>(key: &'a Members, name: &str) -> Result<&'a str, SkipReason> {
    member(key, name)?.ok_or(SkipReason::Malformed)
}
