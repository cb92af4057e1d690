//! Why a credential is refused.

use std::fmt;

/// Why a credential is refused. Whoever sent it must come with another one; trying again is
/// useless, save for [`Self::NotYetValid`] and where [`Self::may_pass`] says so. Its text repeats nothing of the credential, so it may
/// be sent to the client and be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthError {
    /// Longer than a credential may be.
    TooLong,
    /// Not three parts of base64url, not JSON, or a member stands there twice.
    Malformed,
    /// The header asks for what is not understood: `crit`, or a nested token.
    UnsupportedHeader,
    /// The header's algorithm is not the key's.
    WrongAlgorithm,
    /// No key has this `kid`.
    UnknownKey,
    /// Its issuer has published no key of this `kid`, as far as is known; what it publishes is
    /// fetched anew for that.
    UnpublishedKey,
    /// The keys of its issuer could not be fetched yet.
    NoKeysYet,
    /// No `kid`, and more than one key.
    MissingKeyId,
    /// The signature is not this key's.
    BadSignature,
    /// `exp` has passed, or the API key's end.
    Expired,
    /// `nbf` or `iat` lies in the future.
    NotYetValid,
    /// `iss` is another.
    WrongIssuer,
    /// `aud` does not name this hub.
    WrongAudience,
    /// A required claim is absent.
    MissingClaim(&'static str),
    /// A claim has the wrong type or cannot be read: it is refused, as ignoring it could widen.
    BadClaim(&'static str),
    /// No role has this name.
    UnknownRole,
    /// No API key has this id, or its secret is another.
    BadApiKey,
    /// The API key is switched off.
    DisabledKey,
    /// The token was revoked, or its subject, or what it was issued from.
    Revoked,
    /// The token was issued before anything that is known of revocations.
    TooOld,
}

impl AuthError {
    /// One word for it, for metrics: without the claim's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::UnsupportedHeader => "unsupported_header",
            Self::WrongAlgorithm => "wrong_algorithm",
            Self::UnknownKey => "unknown_key",
            Self::UnpublishedKey => "unpublished_key",
            Self::NoKeysYet => "no_keys_yet",
            Self::MissingKeyId => "missing_key_id",
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::MissingClaim(_) => "missing_claim",
            Self::BadClaim(_) => "bad_claim",
            Self::UnknownRole => "unknown_role",
            Self::BadApiKey => "bad_api_key",
            Self::DisabledKey => "disabled_key",
            Self::Revoked => "revoked",
            Self::TooOld => "too_old",
        }
    }
}

impl AuthError {
    /// Whether the same credential may be good once its issuer's keys have been fetched.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::UnpublishedKey | Self::NoKeysYet)
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the credential is too long",
            Self::Malformed => "the token is malformed",
            Self::UnsupportedHeader => "the token's header asks for what is not supported",
            Self::WrongAlgorithm => "the token's algorithm is not its key's",
            Self::UnknownKey => "the token's key is not known",
            Self::UnpublishedKey => "the token's key is not among those of its issuer (yet); try again",
            Self::NoKeysYet => "the keys of the token's issuer are not known yet; try again",
            Self::MissingKeyId => "the token's header must name its key in \"kid\"",
            Self::BadSignature => "the token's signature is wrong",
            Self::Expired => "the credential has expired",
            Self::NotYetValid => "the token is not valid yet",
            Self::WrongIssuer => "the token's issuer is not accepted",
            Self::WrongAudience => "the token is for another audience",
            Self::MissingClaim(claim) => return write!(f, "the token lacks the claim \"{claim}\""),
            Self::BadClaim(claim) => return write!(f, "the token's claim \"{claim}\" cannot be read"),
            Self::UnknownRole => "the role is not known",
            Self::BadApiKey => "the API key is wrong",
            Self::DisabledKey => "the API key is disabled",
            Self::Revoked => "the credential was revoked",
            Self::TooOld => "the token was issued too long ago",
        })
    }
}

impl std::error::Error for AuthError {}

/// Why no token could be signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The configuration has no key that signs.
    #[error("there is no key to sign with: set one in auth.keys")]
    NoKey,
    /// The role is not configured.
    #[error("the role {0:?} is not known; known are {1}")]
    UnknownRole(String, String),
    /// The subject is empty, too long, or has control characters.
    #[error("the subject must be 1 to {max} bytes without control characters", max = super::SUBJECT_BYTES_MAX)]
    Subject,
    /// The token would be refused for its length.
    #[error("the token would be longer than {max} bytes: name fewer symbols", max = super::TOKEN_BYTES_MAX)]
    TooLong,
    /// The token would end at once.
    #[error("the time to live must be at least one second")]
    Ttl,
    /// The cryptographic library refused.
    #[error("signing failed")]
    Signing,
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}
