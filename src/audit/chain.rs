//! How records are chained: each line ends with the hash of all that stands before that hash, the
//! hash of the line before included.

use std::fmt;

use aws_lc_rs::{digest, hmac};

/// What stands before a line's own hash. No member of a record can bring it about, as quotes
/// inside of texts are escaped; and it is looked for at one place only.
const BEFORE: &str = ",\"hash\":\"";

/// What stands behind it.
const AFTER: &str = "\"}\n";

/// Characters of a hash.
const HEX: usize = 64;

/// Bytes that a line has behind what is hashed.
pub(super) const SEAL_BYTES: usize = BEFORE.len() + HEX + AFTER.len();

/// The hash of a line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; HEX / 2]);

impl Hash {
    /// What the first record of a trail says of the one before: there is none.
    pub const NONE: Self = Self([0; HEX / 2]);

    /// Reads 64 hexadecimal digits, in lower case as they are written.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut hash = [0; HEX / 2];
        if text.len() != HEX {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(hash))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a trail's hashes are made.
#[derive(Clone)]
pub enum Seal {
    /// SHA-256: shows what was changed by who does not know of the chain.
    Plain,
    /// HMAC-SHA-256: shows also what was changed by who can write the folder, but has not the key.
    Keyed(Box<hmac::Key>),
}

impl Seal {
    /// With a key, or without.
    #[must_use]
    pub fn new(key: Option<&[u8]>) -> Self {
        key.map_or(Self::Plain, |key| Self::Keyed(Box::new(hmac::Key::new(hmac::HMAC_SHA256, key))))
    }

    /// Its name in the first line of a file.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Plain => "sha256",
            Self::Keyed(_) => "hmac-sha256",
        }
    }

    /// The hash of what stands in a line before its hash.
    #[must_use]
    pub fn hash(&self, bytes: &[u8]) -> Hash {
        let mut hash = [0; HEX / 2];
        match self {
            Self::Plain => hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref()),
            Self::Keyed(key) => hash.copy_from_slice(hmac::sign(key, bytes).as_ref()),
        }
        Hash(hash)
    }

    /// Ends the line that begins at `from` in `text`, an object without its closing brace: adds its
    /// hash, the brace and the newline.
    pub(super) fn close(&self, text: &mut String, from: usize) -> Hash {
        use fmt::Write as _;
        let hash = self.hash(&text.as_bytes()[from..]);
        let _ = write!(text, "{BEFORE}{hash}{AFTER}");
        hash
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The two parts of a whole line: what is hashed, and the hash that it states.
pub(super) fn split(line: &[u8]) -> Option<(&[u8], Hash)> {
    let (hashed, seal) = line.split_at_checked(line.len().checked_sub(SEAL_BYTES)?)?;
    let hash = seal.strip_prefix(BEFORE.as_bytes())?.strip_suffix(AFTER.as_bytes())?;
    Some((hashed, Hash::parse(hash)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_closed_with_the_hash_of_what_stands_before_it() {
        // By another program: printf '{"seq":1' | sha256sum; the same | openssl dgst -sha256 -hmac k
        for (seal, hash) in [
            (Seal::new(None), "c3cbb64b1e95827cfe69efc3c340f89040108b1557548db868ad5c16e13780a5"),
            (Seal::new(Some(b"k")), "cd84538bf91ccbd21cb04d81bc6c81ca06b3f57d2adac3cdc60f068ec20f6b11"),
        ] {
            let mut text = "before\n{\"seq\":1".to_owned();
            let closed = seal.close(&mut text, 7);
            assert_eq!(text, format!("before\n{{\"seq\":1,\"hash\":\"{hash}\"}}\n"));
            let line = &text.as_bytes()[7..];
            assert_eq!(split(line), Some((&b"{\"seq\":1"[..], closed)));
            assert_eq!(Hash::parse(closed.to_string().as_bytes()), Some(closed));
            for bad in [&line[..line.len() - 1], &line[line.len() - 10..], &text.to_uppercase().as_bytes()[7..], b""] {
                assert_eq!(split(bad), None);
            }
        }
    }

    #[test]
    fn no_debug_output_shows_a_key() {
        let shown = format!("{:?}", Seal::new(Some(b"secret-key")));
        assert_eq!(shown, "hmac-sha256");
    }
}
