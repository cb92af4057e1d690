//! API keys, `<id>.<secret>`: made once, kept as salted hashes.
//!
//! A secret has 256 random bits, so a fast hash is the right one: nobody can search that space,
//! and a slow hash would only let strangers burn the hub's time. Secrets of any other size are
//! refused, so that no guessable word can take the place of one.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{AuthError, random};

/// Bytes of a key's secret.
pub(super) const SECRET_BYTES: usize = 32;
/// Bytes of the salt.
pub(super) const SALT_BYTES: usize = 16;
/// Bytes of a mark.
pub(super) const MARK_BYTES: usize = 16;
/// Longest id.
pub const API_KEY_ID_BYTES_MAX: usize = 64;
/// Name of the way a hash is made, first in its text: another way gets another name.
const SCHEME: &str = "hmac-sha256";

/// A key's salted hash, `hmac-sha256$<salt>$<hash>`, both in base64url.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKeyHash {
    salt: [u8; SALT_BYTES],
    hash: [u8; SECRET_BYTES],
}

/// A key as it was made: its text is shown once and kept nowhere.
pub struct NewApiKey {
    /// `<id>.<secret>`, for its owner.
    pub key: SecretString,
    /// What the configuration keeps.
    pub hash: ApiKeyHash,
}

/// A text is not a key's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a hash made by `tickhub api-key new`")]
pub struct HashError;

/// Makes a key with a random secret; `None` where `id` is not an id or the system has no randomness.
#[must_use]
pub fn new_api_key(id: &str) -> Option<NewApiKey> {
    is_api_key_id(id).then_some(())?;
    let key = format!("{id}.{}", URL_SAFE_NO_PAD.encode(random::<SECRET_BYTES>()?));
    let salt = random()?;
    let hash = digest(&salt, &key);
    Some(NewApiKey { key: key.into(), hash: ApiKeyHash { salt, hash } })
}

/// Whether `id` may name a key: 1 to 64 of letters, digits, `_` and `-`.
#[must_use]
pub fn is_api_key_id(id: &str) -> bool {
    let sane = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (1..=API_KEY_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(sane)
}

/// The id of a key whose form is right.
pub(super) fn id_of(key: &str) -> Result<&str, AuthError> {
    let (id, secret) = key.split_once('.').ok_or(AuthError::BadApiKey)?;
    let secret = URL_SAFE_NO_PAD.decode(secret).map_err(|_| AuthError::BadApiKey)?;
    if secret.len() == SECRET_BYTES && is_api_key_id(id) { Ok(id) } else { Err(AuthError::BadApiKey) }
}

fn hmac_key(salt: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, salt)
}

/// The id is hashed with the secret, so that a hash cannot be moved to another id.
fn digest(salt: &[u8], key: &str) -> [u8; SECRET_BYTES] {
    let tag = hmac::sign(&hmac_key(salt), key.as_bytes());
    let mut hash = [0; SECRET_BYTES];
    hash.copy_from_slice(tag.as_ref());
    hash
}

impl ApiKeyHash {
    /// A hash that no key has: compared with where there is none, so that an unknown id takes as
    /// long as a wrong secret.
    pub(super) const NOBODY: Self = Self { salt: [0; SALT_BYTES], hash: [0; SECRET_BYTES] };

    /// The hash of a text that holds a random secret.
    pub(super) fn of(salt: [u8; SALT_BYTES], text: &str) -> Self {
        Self { salt, hash: digest(&salt, text) }
    }

    pub(super) const fn salt(&self) -> [u8; SALT_BYTES] {
        self.salt
    }

    /// A mark on `name` that only one who has the salt can make. It never equals a hash: what is
    /// hashed has a dot, which no name has.
    pub(super) fn mark(&self, name: &str) -> [u8; MARK_BYTES] {
        let mut mark = [0; MARK_BYTES];
        mark.copy_from_slice(&digest(&self.salt, name)[..MARK_BYTES]);
        mark
    }

    /// Reads the text that [`fmt::Display`] writes.
    ///
    /// # Errors
    /// [`HashError`] where it is anything else.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        fn part<const N: usize>(text: Option<&str>) -> Result<[u8; N], HashError> {
            let bytes = URL_SAFE_NO_PAD.decode(text.ok_or(HashError)?).map_err(|_| HashError)?;
            bytes.try_into().map_err(|_| HashError)
        }
        let mut parts = text.split('$');
        if parts.next() != Some(SCHEME) {
            return Err(HashError);
        }
        let hash = Self { salt: part(parts.next())?, hash: part(parts.next())? };
        if parts.next().is_none() { Ok(hash) } else { Err(HashError) }
    }

    /// Whether it is `key`'s hash, in a time that does not depend on where they differ.
    pub(super) fn is_of(&self, key: &str) -> bool {
        hmac::verify(&hmac_key(&self.salt), key.as_bytes(), &self.hash).is_ok()
    }
}

impl fmt::Display for ApiKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}${}${}", URL_SAFE_NO_PAD.encode(self.salt), URL_SAFE_NO_PAD.encode(self.hash))
    }
}

impl Serialize for ApiKeyHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ApiKeyHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for ApiKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKeyHash([redacted])")
    }
}

impl fmt::Debug for NewApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewApiKey([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[test]
    fn a_hash_is_of_its_key_only() {
        let made = new_api_key("desk-1").expect("valid id");
        let key = made.key.expose_secret();
        assert_eq!(id_of(key), Ok("desk-1"));
        assert!(made.hash.is_of(key));
        assert!(!made.hash.is_of(&key.replace("desk-1", "desk-2")), "the id is part of it");
        assert!(!made.hash.is_of(new_api_key("desk-1").expect("valid id").key.expose_secret()));
        assert_eq!(ApiKeyHash::parse(&made.hash.to_string()), Ok(made.hash));
    }

    #[test]
    fn two_hashes_of_one_secret_differ_by_their_salt() {
        let key = new_api_key("a").expect("valid id").key;
        let [one, other] = [[1; SALT_BYTES], [2; SALT_BYTES]].map(|salt| digest(&salt, key.expose_secret()));
        assert_ne!(one, other);
    }

    #[test]
    fn what_has_not_the_form_of_a_key_is_refused() {
        let secret = "A".repeat(43);
        assert_eq!(id_of(&format!("desk.{secret}")), Ok("desk"));
        for bad in [
            "",
            "desk",
            "desk.",
            "desk.password",
            &format!(".{secret}"),
            &format!("de sk.{secret}"),
            &format!("desk.{secret}A"),
            &format!("desk.{secret}="),
            &format!("desk..{secret}"),
            &format!("{}.{secret}", "d".repeat(65)),
        ] {
            assert_eq!(id_of(bad), Err(AuthError::BadApiKey), "{bad}");
        }
        for bad in ["", "desk 1", "désk", "a.b"] {
            assert!(new_api_key(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_a_hash_is_refused() {
        let good = ApiKeyHash::NOBODY.to_string();
        assert!(ApiKeyHash::parse(&good).is_ok());
        for bad in ["", "hmac-sha256", "sha256$AA$AA", &format!("{good}$"), &good[..good.len() - 1], &good[1..]] {
            assert_eq!(ApiKeyHash::parse(bad), Err(HashError), "{bad}");
        }
    }
}
