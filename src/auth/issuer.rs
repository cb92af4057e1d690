//! One who signs tokens for this hub: whose keys a token is verified with, and how it is read.

use std::sync::Arc;

use super::claims::{Claims, Header, Parts};
use super::key::VerifyingKey;
use super::mapping::Mapping;
use super::ring::KeyRing;
use super::{Algorithm, AuthConfig, AuthError, IssuerConfig};
use crate::model::UnixNanos;
use crate::settings::Span;
use crate::time::duration_ns;

/// Whose keys they are.
#[derive(Debug)]
enum Keys {
    /// Secrets of this hub.
    Own(Vec<VerifyingKey>),
    /// Public keys, of these algorithms only.
    Published(Arc<KeyRing>, Vec<Algorithm>),
}

/// One who signs tokens for this hub.
#[derive(Debug)]
pub(super) struct Issuer {
    /// The `iss` of its tokens.
    pub(super) iss: Arc<str>,
    audience: Vec<String>,
    leeway_ns: i64,
    keys: Keys,
    pub(super) mapping: Mapping,
}

impl Issuer {
    /// The hub itself.
    pub(super) fn own(config: &AuthConfig, keys: Vec<VerifyingKey>) -> Self {
        Self {
            iss: Arc::from(config.issuer.as_str()),
            audience: vec![config.audience.clone()],
            leeway_ns: nanos(config.leeway),
            keys: Keys::Own(keys),
            mapping: Mapping::own(config),
        }
    }

    /// Another one, whose configuration has no fault.
    pub(super) fn other(config: &IssuerConfig, auth: &AuthConfig) -> Self {
        Self {
            iss: Arc::from(config.issuer.as_str()),
            audience: config.audience.0.clone(),
            leeway_ns: nanos(config.leeway.unwrap_or(auth.leeway)),
            keys: Keys::Published(Arc::new(KeyRing::new(config)), config.algorithms.clone()),
            mapping: Mapping::of(config),
        }
    }

    /// The `aud` of tokens for this hub.
    pub(super) fn audience(&self) -> &str {
        self.audience.first().map_or("", String::as_str)
    }

    /// The name that its subjects are kept apart by; `None` for the hub's own.
    pub(super) fn realm(&self) -> Option<&Arc<str>> {
        matches!(self.keys, Keys::Published(..)).then_some(&self.iss)
    }

    /// The keys that it publishes, where it is not the hub itself.
    pub(super) fn ring(&self) -> Option<&Arc<KeyRing>> {
        if let Keys::Published(ring, _) = &self.keys { Some(ring) } else { None }
    }

    /// Goes on with the keys that are known of `other`.
    pub(super) fn adopt(&mut self, other: &Arc<KeyRing>) {
        if let Keys::Published(ring, _) = &mut self.keys {
            *ring = Arc::clone(other);
        }
    }

    /// Whether a token was signed with one of its keys.
    pub(super) fn verify(&self, header: &Header, parts: &Parts<'_>) -> Result<(), AuthError> {
        let signed = |key: &VerifyingKey| if key.signed(parts) { Ok(()) } else { Err(AuthError::BadSignature) };
        let (ring, algorithms) = match &self.keys {
            Keys::Own(keys) => return signed(VerifyingKey::named(keys, header)?),
            Keys::Published(ring, algorithms) => (ring, algorithms),
        };
        if !header.is_for_access() {
            return Err(AuthError::UnsupportedHeader);
        }
        let keys = ring.keys().ok_or(AuthError::NoKeysYet)?;
        match VerifyingKey::named(&keys.keys, header) {
            Ok(key) if algorithms.contains(&key.algorithm) => signed(key),
            Ok(_) => Err(AuthError::WrongAlgorithm),
            Err(AuthError::UnknownKey) => {
                ring.want();
                Err(AuthError::UnpublishedKey)
            }
            Err(other) => Err(other),
        }
    }

    /// When a token must end, if it is good now and for this hub.
    pub(super) fn end(&self, claims: &Claims, now: UnixNanos) -> Result<UnixNanos, AuthError> {
        let last_moment = UnixNanos(claims.expires.0.saturating_add(self.leeway_ns));
        if last_moment <= now {
            return Err(AuthError::Expired);
        }
        let soonest = UnixNanos(now.0.saturating_add(self.leeway_ns));
        if claims.issued > soonest || claims.not_before.is_some_and(|at| at > soonest) {
            return Err(AuthError::NotYetValid);
        }
        if !claims.audience.iter().any(|one| self.audience.contains(one)) {
            return Err(AuthError::WrongAudience);
        }
        Ok(if claims.expires > now { claims.expires } else { last_moment })
    }
}

fn nanos(span: Span) -> i64 {
    i64::try_from(duration_ns(span.duration())).unwrap_or(i64::MAX)
}
