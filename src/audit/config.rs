//! The `[audit]` section.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretBox};
use serde::{Deserialize, Serialize};

use super::chain::Seal;
use super::trail::Policy;
use crate::settings::{Fault, Span};

/// Least bytes of a key: the hash's own size (RFC 2104, 3).
const KEY_BYTES_MIN: usize = 32;
/// Most bytes of a key's file, so that a wrong path cannot fill the memory.
const KEY_BYTES_MAX: u64 = 64 * 1024;
/// Least bytes of a file before the next is begun: some hundred records.
const ROTATE_BYTES_MIN: u64 = 64 * 1024;
/// Most: what tools still open.
const ROTATE_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Longest time of one file, since a file is deleted as a whole.
const ROTATE_EVERY_MAX: Span = Span::seconds(31 * 86_400);

/// The trail of who was let in, refused, and what admins did.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// The folder of the trail; without it there is none.
    pub dir: Option<PathBuf>,
    /// Size of a file, in bytes, beyond which the next is begun.
    pub rotate_bytes: u64,
    /// Age of a file beyond which the next is begun.
    pub rotate_every: Span,
    /// How long records are kept; zero = for ever.
    pub keep: Span,
    /// When records are on the disk for certain.
    pub sync: SyncWhen,
    /// A file with a secret that the chain is keyed with.
    pub key_file: Option<PathBuf>,
}

/// When records are on the disk for certain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncWhen {
    /// Once a second.
    #[default]
    Second,
    /// Before further records are taken.
    Record,
    /// When the system likes.
    Never,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            dir: None,
            rotate_bytes: 64 * 1024 * 1024,
            rotate_every: Span::seconds(86_400),
            keep: Span::seconds(90 * 86_400),
            sync: SyncWhen::Second,
            key_file: None,
        }
    }
}

impl AuditConfig {
    /// Everything that is wrong with the section.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
            faults.push(Fault::new("audit.dir", "", "must name a folder; leave it out for no trail"));
        }
        if !(ROTATE_BYTES_MIN..=ROTATE_BYTES_MAX).contains(&self.rotate_bytes) {
            let reason = format!("must be from {ROTATE_BYTES_MIN} to {ROTATE_BYTES_MAX}");
            faults.push(Fault::new("audit.rotate_bytes", self.rotate_bytes, reason));
        }
        if !(Span::seconds(1)..=ROTATE_EVERY_MAX).contains(&self.rotate_every) {
            let reason = format!("must be from 1s to {ROTATE_EVERY_MAX}: a file is deleted as a whole");
            faults.push(Fault::new("audit.rotate_every", self.rotate_every.to_string(), reason));
        }
        if self.keep != Span::default() && self.keep < self.rotate_every {
            let reason = format!("must be at least audit.rotate_every, {}, or 0s = for ever", self.rotate_every);
            faults.push(Fault::new("audit.keep", self.keep.to_string(), reason));
        }
        faults
    }

    /// Whether the key's file can be used.
    #[must_use]
    pub fn file_faults(&self) -> Vec<Fault> {
        self.seal().err().into_iter().collect()
    }

    /// How the trail is chained.
    ///
    /// # Errors
    /// A [`Fault`] of `audit.key_file`.
    pub fn seal(&self) -> Result<Seal, Fault> {
        let Some(path) = &self.key_file else { return Ok(Seal::new(None)) };
        let key = read_key(path).map_err(|reason| Fault::new("audit.key_file", path, reason))?;
        Ok(Seal::new(Some(key.expose_secret())))
    }

    pub(super) fn policy(&self) -> Policy {
        Policy {
            rotate_bytes: self.rotate_bytes,
            rotate_every: self.rotate_every.duration(),
            keep: (self.keep != Span::default()).then_some(self.keep.duration()),
            sync: self.sync,
        }
    }
}

/// The key that a file holds, byte for byte save for one newline at its end.
///
/// # Errors
/// Why it cannot be used, and what to do.
pub fn read_key(path: &Path) -> Result<SecretBox<Vec<u8>>, String> {
    let read = || {
        let file = fs::File::open(path)?;
        let mode = file.metadata()?.permissions().mode();
        let mut key = Vec::new();
        file.take(KEY_BYTES_MAX + 1).read_to_end(&mut key).map(|_| (mode, key))
    };
    let (mode, mut key) = read().map_err(|error: std::io::Error| format!("cannot be read: {error}"))?;
    if mode & 0o007 != 0 {
        return Err("others may read or write this file, so its key is no secret; take those rights away".to_owned());
    }
    if key.last() == Some(&b'\n') {
        key.pop();
    }
    let make = "make one with `openssl rand -base64 48`";
    match key.len() {
        length if length < KEY_BYTES_MIN => {
            Err(format!("has {length} bytes, at least {KEY_BYTES_MIN} random ones are needed; {make}"))
        }
        length if length as u64 > KEY_BYTES_MAX => Err(format!("has more than {KEY_BYTES_MAX} bytes: it is no key")),
        _ => Ok(SecretBox::new(Box::new(key))),
    }
}
