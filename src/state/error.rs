//! Why the state store could not do what was asked.

use std::io;
use std::path::PathBuf;

use crate::auth::Denied;

/// Why the state store could not do what was asked. The texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It is not to be done: asking again is useless.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Too much is waiting, or the disk takes too long: ask again in a moment.
    #[error("the state store is busy")]
    Busy,
    /// The store has ended, as the hub is stopping.
    #[error("the state store has ended")]
    Gone,
    /// The file or its directory cannot be made, read or written.
    #[error("{path}: {doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has held the lock for too long.
    #[error("{0}: another process holds the lock; end it, or wait until it is done")]
    Locked(PathBuf),
    /// Others than the owner may read or write it.
    #[error("{0}: others may read or write it; take that right away (chmod go= on it), its keys may be known")]
    Open(PathBuf),
    /// Anyone may write in its directory, and so put other keys there.
    #[error("{0}: anyone may write in this directory; take that right away, or set server.state_dir to another")]
    OpenDirectory(PathBuf),
    /// It is a link, a directory, a device.
    #[error("{0}: is not a regular file; remove it, or set server.state_dir to another directory")]
    NotRegular(PathBuf),
    /// What was acknowledged is not there as it was written.
    #[error(
        "{path}: damaged at byte {offset}: {reason}; restore the file from a backup (revocations that came behind it \
         are lost), and find out what is wrong with the disk"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
}

impl StateError {
    /// Whether asking again in a moment may help.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        matches!(self, Self::Busy | Self::Locked(_) | Self::Denied(Denied::Full(_)))
    }
}
