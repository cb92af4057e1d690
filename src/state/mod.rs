//! What must outlive the process: API keys, families of refresh tokens, revocations.
//!
//! [`StateStore`] is the door, behind which another kind of store may stand. [`FileStore`] keeps all
//! of it in one file of `server.state_dir`: an append-only log of checksummed frames, synced to the
//! disk before anything is acknowledged, and written anew when most of it is outdated. Several
//! processes may have it open, such as a hub and the command line: each takes an advisory lock for
//! as long as it reads or writes, reads first what others have added, and judges on top of that.

mod error;
mod file;
mod frame;
mod keeper;
mod log;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;

use crate::auth::{Deed, Done};

pub use error::StateError;
pub use file::{FileState, StateOptions};
pub use keeper::{FileStore, StateMeters};

/// The outcome of a deed, when it comes.
pub type Carried<'a> = Pin<Box<dyn Future<Output = Result<Done, StateError>> + Send + 'a>>;

/// Where keys, families and revocations are kept.
pub trait StateStore: Send + Sync {
    /// Carries out one deed. Once this says so it will be found again whatever happens to the
    /// process or the machine, and everyone who judges knows of it.
    ///
    /// # Errors
    /// [`StateError::Denied`] where it is not to be done; what a denial changes is kept as well.
    /// With any other error it may have been done or not.
    fn carry_out(&self, deed: Deed) -> Carried<'_>;
}
