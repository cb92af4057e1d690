//! A finished handshake on its way from the control side to a worker.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::gate::{Pending, Presence};
use super::remote::Remote;
use super::stream::Leaving;
use crate::audit::Origin;
use crate::auth::Principal;
use crate::session::{Admission, Session, Verdict, Verify};
use crate::wire::command::Subscribe;
use crate::wire::{CloseCode, Format};

/// What the handshake said of the subscriber's right to be here.
#[derive(Debug)]
pub enum Entry {
    /// A good credential, with a place among its subject's sessions.
    Good(Arc<Principal>, Admission),
    /// None: it may come in band. The places are among those who have not shown one yet, all of them
    /// and those of its address.
    Open(Place, Pending),
    /// To be told in band that it may not: its script cannot see an HTTP status.
    Refused(CloseCode, String),
    /// A session that began on another worker, and belongs to one of this one's world.
    Moved(Box<Moved>),
}

/// A session between two workers.
#[derive(Debug)]
pub struct Moved {
    pub(super) session: Session,
    /// Of its first credential; the session is to be told.
    pub(super) verdict: Verdict,
}

/// A subscriber whose handshake is done.
#[derive(Debug)]
pub struct Handover {
    /// Its connection.
    pub connection: Leaving,
    /// The session's name.
    pub name: String,
    /// Where it comes from.
    pub origin: Origin,
    /// Who is at the other end.
    pub remote: Remote,
    /// Its connection among those of its address.
    pub presence: Arc<Presence>,
    /// What its events come in.
    pub format: Format,
    /// Its right to be here.
    pub entry: Entry,
    /// The number of the last order when that was judged: later ones apply to it.
    pub judged: u64,
    /// What its URL subscribes to.
    pub url: Vec<Subscribe>,
    /// Counts it among the open sessions until dropped.
    pub places: Places,
}

/// Where workers have credentials judged: on the control side, not on their own threads.
pub trait Verifier: Send + Sync {
    /// Judges one; the answer comes when it comes.
    fn verify(&self, verify: Verify) -> oneshot::Receiver<Verdict>;
}

/// A session's places: among the hub's sessions, and among its worker's.
pub type Places = (Place, Place);

/// A count that goes down again when this is dropped.
#[derive(Debug)]
pub struct Place {
    count: Arc<std::sync::atomic::AtomicUsize>,
}

impl Place {
    /// One more in `count`, if it stays within `max`.
    #[must_use]
    pub fn take(count: &Arc<std::sync::atomic::AtomicUsize>, max: usize) -> Option<Self> {
        use std::sync::atomic::Ordering::Relaxed;
        count.fetch_update(Relaxed, Relaxed, |n| (n < max).then_some(n + 1)).ok()?;
        Some(Self { count: Arc::clone(count) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.count.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}
