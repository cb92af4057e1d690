//! Keys that tokens are verified with, each bound to its one algorithm.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde::{Deserialize, Serialize};

use super::AuthError;
use super::claims::{Header, Parts};

/// Sizes of RSA keys that are taken, in bits: RFC 7518 3.3 asks for 2048, and one beyond the upper
/// would let a stranger spend the hub's time.
pub(super) const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Longest exponent of an RSA key, in bytes: 65537, the usual one, has three.
const EXPONENT_BYTES_MAX: usize = 4;

/// Bytes of a coordinate on P-256 (RFC 7518 6.2.1.2), and of a public key of Ed25519.
const POINT_BYTES: usize = 32;

/// The algorithm that belongs to a key, whatever a token's header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
pub enum Algorithm {
    /// HMAC with SHA-256: for secrets that the hub shares with nobody.
    #[default]
    HS256,
    /// RSA, PKCS #1 v1.5, with SHA-256.
    RS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519 (RFC 8037).
    EdDSA,
}

impl Algorithm {
    /// Those of public keys.
    pub const PUBLIC: [Self; 3] = [Self::RS256, Self::ES256, Self::EdDSA];

    /// Its name in a token's header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::RS256 => "RS256",
            Self::ES256 => "ES256",
            Self::EdDSA => "EdDSA",
        }
    }

    /// Whether `name` means it. RFC 9864 gave Ed25519 a name that says the curve as well.
    pub(super) fn is_named(self, name: &str) -> bool {
        name == self.as_str() || (self == Self::EdDSA && name == "Ed25519")
    }

    pub(super) const fn of_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::HS256 => jsonwebtoken::Algorithm::HS256,
            Self::RS256 => jsonwebtoken::Algorithm::RS256,
            Self::ES256 => jsonwebtoken::Algorithm::ES256,
            Self::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

/// Why a public key is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Its numbers are no key.
    Malformed,
    /// It is an RSA key of less than 2048 bits.
    Weak,
}

/// A key that tokens are verified with.
pub(super) struct VerifyingKey {
    /// The `kid` that it goes by; a published key may have none.
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    key: DecodingKey,
}

impl VerifyingKey {
    /// A secret for HS256.
    pub(super) fn secret(id: &str, secret: &[u8]) -> Self {
        Self { id: Some(id.to_owned()), algorithm: Algorithm::HS256, key: DecodingKey::from_secret(secret) }
    }

    /// An RSA key for RS256, of its modulus and exponent, big-endian.
    pub(super) fn rsa(id: Option<String>, n: &[u8], e: &[u8]) -> Result<Self, Unfit> {
        // Some encoders write the sign byte of their own big integers.
        let [n, e] = [n, e].map(|number| &number[number.iter().take_while(|byte| **byte == 0).count()..]);
        let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
        if bits < *RSA_BITS.start() {
            return Err(if bits == 0 { Unfit::Malformed } else { Unfit::Weak });
        }
        // An exponent of 1 signs everything; a long one only takes time.
        let exponent = e.len() <= EXPONENT_BYTES_MAX && e != [1] && e.last().is_some_and(|last| last % 2 == 1);
        let fit = || RsaPublicKeyComponents { n, e }.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).is_ok();
        if bits > *RSA_BITS.end() || !exponent || !fit() {
            return Err(Unfit::Malformed);
        }
        Ok(Self { id, algorithm: Algorithm::RS256, key: DecodingKey::from_rsa_raw_components(n, e) })
    }

    /// A point on P-256 for ES256.
    pub(super) fn p256(id: Option<String>, x: &[u8], y: &[u8]) -> Result<Self, Unfit> {
        if x.len() != POINT_BYTES || y.len() != POINT_BYTES {
            return Err(Unfit::Malformed);
        }
        // As it is written uncompressed (SEC 1, 2.3.3); whether it is on the curve is looked at here.
        let point = [&[4], x, y].concat();
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).map_err(|_| Unfit::Malformed)?;
        Ok(Self { id, algorithm: Algorithm::ES256, key: DecodingKey::from_ec_der(&point) })
    }

    /// A key of Ed25519 for EdDSA.
    pub(super) fn ed25519(id: Option<String>, x: &[u8]) -> Result<Self, Unfit> {
        if x.len() != POINT_BYTES {
            return Err(Unfit::Malformed);
        }
        ParsedPublicKey::new(&ED25519, x).map_err(|_| Unfit::Malformed)?;
        Ok(Self { id, algorithm: Algorithm::EdDSA, key: DecodingKey::from_ed_der(x) })
    }

    /// Whether `parts` were signed with it.
    pub(super) fn signed(&self, parts: &Parts<'_>) -> bool {
        let (signed, algorithm) = (parts.signed.as_bytes(), self.algorithm.of_library());
        jsonwebtoken::crypto::verify(parts.signature, signed, &self.key, algorithm).unwrap_or(false)
    }

    /// That of `keys` which a header names. Its algorithm is its own, never the header's choice.
    pub(super) fn named<'a>(keys: &'a [Self], header: &Header) -> Result<&'a Self, AuthError> {
        let key = match (&header.key_id, keys) {
            (Some(id), keys) => keys.iter().find(|key| key.id.as_ref() == Some(id)).ok_or(AuthError::UnknownKey)?,
            (None, [only]) => only,
            (None, []) => return Err(AuthError::UnknownKey),
            (None, _) => return Err(AuthError::MissingKeyId),
        };
        if key.algorithm.is_named(&header.algorithm) { Ok(key) } else { Err(AuthError::WrongAlgorithm) }
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingKey").field("id", &self.id).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// The bytes that a text says in base64url without padding (RFC 7515 2).
pub(super) fn bytes(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}
