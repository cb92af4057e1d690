//! Looking for secrets where none may be: in logs, metrics, audit trails, answers.

use std::collections::HashMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Bytes of a part of a secret that gives it away: 12 characters of base64 are 72 bits, and no word of
/// the hub's own happens to be among them.
const PART_BYTES: usize = 12;

/// Secrets, and what they look like once something was done to them.
#[derive(Default)]
pub struct Secrets {
    /// Parts by their bytes: whose they are, and in which form.
    parts: HashMap<[u8; PART_BYTES], (String, &'static str)>,
}

impl Secrets {
    /// A secret that may be found nowhere, not even a part of it: as it is, in base64, hexadecimal or
    /// percent-encoding, backwards.
    ///
    /// # Panics
    /// Where it is too short to be told from anything else.
    pub fn add(&mut self, name: &str, secret: &str) {
        assert!(secret.len() >= PART_BYTES, "{name} is too short to look for");
        let bytes = secret.as_bytes();
        let mut forms = vec![("plain", secret.to_owned()), ("backwards", secret.chars().rev().collect())];
        // Inside of a longer text that is encoded it may begin at any of three places.
        for skipped in 0..3.min(bytes.len()) {
            let whole = (bytes.len() - skipped) / 3 * 3;
            let inner = &bytes[skipped..skipped + whole];
            forms.push(("base64", STANDARD_NO_PAD.encode(inner)));
            forms.push(("base64url", URL_SAFE_NO_PAD.encode(inner)));
        }
        let (mut lower, mut upper, mut percent) = (String::new(), String::new(), String::new());
        for byte in bytes {
            let _ = write!(lower, "{byte:02x}");
            let _ = write!(upper, "{byte:02X}");
            let _ = write!(percent, "%{byte:02X}");
        }
        forms.extend([("hex", lower), ("hex", upper), ("percent", percent.to_lowercase()), ("percent", percent)]);
        forms.push(("percent", reserved_only(secret)));
        for (form, text) in forms {
            for part in text.as_bytes().windows(PART_BYTES) {
                let part: [u8; PART_BYTES] = part.try_into().expect("of that length");
                self.parts.entry(part).or_insert_with(|| (name.to_owned(), form));
            }
        }
    }

    /// A token: its signature, which is of no other and without which it is none. Header and claims
    /// begin alike for all tokens.
    pub fn add_token(&mut self, name: &str, token: &str) {
        self.add(name, token.rsplit_once('.').map_or(token, |(_, signature)| signature));
    }

    /// An API key: what stands behind its id.
    pub fn add_api_key(&mut self, name: &str, key: &str) {
        self.add(name, key.split_once('.').map_or(key, |(_, secret)| secret));
    }

    /// What is found in `text`, each secret once for each form.
    pub fn found(&self, text: &[u8]) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for (at, part) in text.windows(PART_BYTES).enumerate() {
            if let Some((name, form)) = self.parts.get(part) {
                let line = text[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
                let said = format!("{name} ({form})");
                if !found.iter().any(|one| one.starts_with(&said)) {
                    found.push(format!("{said}, line {line}"));
                }
            }
        }
        found
    }

    /// Fails where anything is found in `text`.
    ///
    /// # Panics
    /// With what was found, not with the text.
    pub fn assert_none_in(&self, place: &str, text: &[u8]) {
        assert!(!self.parts.is_empty(), "there is something to look for");
        let found = self.found(text);
        assert!(found.is_empty(), "{place} holds {}", found.join("; "));
    }
}

/// Percent-encoding of what is no letter and no digit.
fn reserved_only(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}
