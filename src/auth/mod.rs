//! Who may connect, and what they may have.
//!
//! A credential goes in with the time it is, and a [`Principal`] comes out: a subject, its role,
//! and the [`Grant`] in which role and claims agree. Nothing here reads a clock.

mod api_key;
mod audited;
mod authenticator;
mod authority;
mod certificate;
mod claims;
mod config;
mod development;
mod error;
mod grant;
mod issued;
mod issuer;
mod issuer_config;
#[cfg(test)]
mod issuer_tests;
mod jwks;
#[cfg(test)]
mod jwks_tests;
mod key;
mod ledger;
mod mapping;
mod members;
mod nanos;
mod patience;
mod refresh;
mod revocation;
mod ring;
#[cfg(test)]
#[path = "../../tests/support/signer.rs"]
pub(crate) mod signer;
mod succession;
#[cfg(test)]
mod tests;

pub use api_key::{API_KEY_ID_BYTES_MAX, ApiKeyHash, HashError, NewApiKey, is_api_key_id, new_api_key};
pub use authenticator::{Account, Authenticator, CredentialKind, KeyTerms, Principal, TOKEN_BYTES_MAX, TokenRequest};
pub use authority::Authority;
pub use certificate::{CertificateConfig, ClientCertificate, not_after};
pub use claims::{SUBJECT_BYTES_MAX, TOKEN_ID_BYTES_MAX, is_name};
pub use config::{ApiKeyConfig, AuthConfig, KeyConfig, RoleConfig};
pub use development::{DevelopmentKey, KeyFileError, OpenToStrangers, check_listen};
pub use error::{AuthError, SignError};
pub use grant::{ChannelSet, GRANT_PATTERNS_MAX, Grant, NO_LIMIT, Narrowing, TooManyPatterns};
pub use issued::IssuedKey;
pub use issuer_config::{Audience, ClaimsConfig, IssuerConfig, RoleOfConfig};
pub use jwks::{JWKS_BYTES_MAX, JWKS_KEYS_MAX, JwksError, KeySet, SkipReason};
pub use key::Algorithm;
pub use ledger::{
    Change, Decision, Deed, Denied, Done, FAMILIES_MAX, FAMILIES_PER_KEY_MAX, ISSUED_KEYS_MAX, Ledger, REVOCATIONS_MAX,
};
pub use patience::{Patience, Policies};
pub use refresh::{Family, FamilyId, Fresh, Issue, Presented, REFRESH_TOKEN_BYTES_MAX, TokensConfig};
pub use revocation::{Held, REVOCATION_KEPT, Revocations};
pub use ring::KeyRing;
pub use succession::{Standing, Succession};

/// Bytes from the system's generator; `None` where it has none.
fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(bytes)
}
