//! The way in: judges a handshake on the control side and hands the socket to a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use secrecy::ExposeSecret;
use tokio::sync::{mpsc, oneshot};

use super::gate::{Presence, Turned};
use super::handover::{Entry, Handover, Place, Places, Verifier};
use super::remote::Remote;
use super::websocket::{Credential, HeaderKind, Offer};
use crate::auth::{AuthError, Authenticator, Principal};
use crate::model::Channel;
use crate::session::{Admissions, Meters, Verdict, Verify};
use crate::time;
use crate::wire::command::Subscribe;
use crate::wire::{CloseCode, Format};

/// One worker, as the control side sees it.
#[derive(Clone, Debug)]
pub struct WorkerDoor {
    /// Where finished handshakes go.
    pub handovers: mpsc::Sender<Handover>,
    /// Its open sessions.
    pub sessions: Arc<AtomicUsize>,
}

/// Why a handshake is refused before the upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// 400, with the reason.
    BadRequest(String),
    /// 401: the header's credential is bad.
    Unauthenticated(AuthError),
    /// 503: the hub has no room for another session.
    Full,
    /// 429 or 503: there is no room for another one of its address that has no credential.
    Turned(Turned),
}

/// The way in. Shared by everything on the control side.
#[derive(Debug)]
pub struct Door {
    workers: Vec<WorkerDoor>,
    sessions: Arc<AtomicUsize>,
    sessions_max: usize,
    /// Sessions that have not shown a credential yet.
    strangers: Arc<AtomicUsize>,
    strangers_max: usize,
    connections_max: u32,
    authenticator: Arc<Authenticator>,
    admissions: Admissions,
    meters: Arc<Meters>,
}

/// A handshake that is judged, and to be answered with 101.
#[derive(Debug)]
pub struct Admitted {
    entry: Entry,
    format: Format,
    url: Vec<Subscribe>,
    place: Place,
    presence: Arc<Presence>,
}

impl Door {
    /// The door to `workers`, for so many sessions in all, and so many without a credential.
    #[must_use]
    pub fn new(
        workers: Vec<WorkerDoor>,
        (sessions_max, strangers_max): (usize, usize),
        connections_max: u32,
        authenticator: Arc<Authenticator>,
        admissions: Admissions,
        meters: Arc<Meters>,
    ) -> Self {
        let (sessions, strangers) = (Arc::default(), Arc::default());
        Self {
            workers,
            sessions,
            sessions_max,
            strangers,
            strangers_max,
            connections_max,
            authenticator,
            admissions,
            meters,
        }
    }

    /// Open sessions of the whole hub.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Judges a handshake's credential and what its URL subscribes to; `presence` is the connection's
    /// among those of its address.
    ///
    /// # Errors
    /// [`Refused`] is to be answered before the upgrade.
    pub fn judge(&self, offer: &Offer, presence: Arc<Presence>) -> Result<Admitted, Refused> {
        let url = match &offer.subscription {
            Some(subscription) => url_subscriptions(&subscription.channels, &subscription.symbols)?,
            None => Vec::new(),
        };
        let now = time::wall();
        let (verdict, in_header) = match &offer.credential {
            Credential::None => (None, false),
            Credential::Header(HeaderKind::Bearer, token) => {
                (Some(self.authenticator.token(token.expose_secret(), now)), true)
            }
            Credential::Header(HeaderKind::ApiKey, key) => {
                (Some(self.authenticator.api_key(key.expose_secret(), now)), true)
            }
            Credential::Subprotocol(token) | Credential::Query(token) => {
                (Some(self.authenticator.token(token.expose_secret(), now)), false)
            }
        };
        let entry = match verdict {
            None => {
                let pending = presence.pending().map_err(Refused::Turned)?;
                Entry::Open(self.stranger(&presence)?, pending)
            }
            Some(Ok(principal)) => self.admit(principal),
            Some(Err(error)) => {
                self.meters.refused(error);
                if in_header {
                    return Err(Refused::Unauthenticated(error));
                }
                Entry::Refused(CloseCode::Unauthenticated, error.to_string())
            }
        };
        let place = Place::take(&self.sessions, self.sessions_max).ok_or(Refused::Full)?;
        Ok(Admitted { entry, format: offer.format(), url, place, presence })
    }

    /// A place among those without a credential.
    fn stranger(&self, presence: &Presence) -> Result<Place, Refused> {
        let share = presence.share_of(self.strangers_max);
        let refused = if share < self.strangers_max { Refused::Turned(Turned::Reserved) } else { Refused::Full };
        Place::take(&self.strangers, share).ok_or(refused)
    }

    fn admit(&self, principal: Principal) -> Entry {
        match self.admissions.admit(&principal, self.connections_max) {
            Some(admission) => Entry::Good(Arc::new(principal), admission),
            None => Entry::Refused(CloseCode::ConnectionLimit, "the subject has as many sessions as it may".to_owned()),
        }
    }

    /// Hands an upgraded socket to the worker with the fewest sessions; waits where its queue of
    /// handshakes is full.
    pub async fn hand_over(
        &self,
        admitted: Admitted,
        stream: std::net::TcpStream,
        early: Bytes,
        (name, remote): (String, Remote),
    ) {
        let least = self.workers.iter().min_by_key(|worker| worker.sessions.load(Ordering::Relaxed));
        let Some(worker) = least else { return };
        let Some(at_worker) = Place::take(&worker.sessions, usize::MAX) else { return };
        let Admitted { entry, format, url, place, presence } = admitted;
        let places: Places = (place, at_worker);
        // A worker that is gone drops the socket: the hub is stopping.
        let _ =
            worker.handovers.send(Handover { stream, early, name, remote, presence, format, entry, url, places }).await;
    }
}

fn url_subscriptions(channels: &[String], symbols: &[String]) -> Result<Vec<Subscribe>, Refused> {
    channels
        .iter()
        .map(|name| {
            let channel = Channel::parse(name).ok_or_else(|| {
                let names = Channel::ALL.map(Channel::as_str).join(", ");
                Refused::BadRequest(format!("\"channels\" may name {names}; the hub makes no other"))
            })?;
            Ok(Subscribe::new(channel, symbols.to_vec()))
        })
        .collect()
}

/// Judges credentials that come in band, on the control runtime.
#[derive(Debug)]
pub struct ControlVerifier {
    /// The control runtime.
    pub runtime: tokio::runtime::Handle,
    /// What judges.
    pub authenticator: Arc<Authenticator>,
    /// Where places are taken.
    pub admissions: Admissions,
    /// Sessions that one subject may have.
    pub connections_max: u32,
}

impl Verifier for ControlVerifier {
    fn verify(&self, verify: Verify) -> oneshot::Receiver<Verdict> {
        let (sender, receiver) = oneshot::channel();
        let authenticator = Arc::clone(&self.authenticator);
        let (admissions, connections_max) = (self.admissions.clone(), self.connections_max);
        self.runtime.spawn(async move {
            let verdict = match authenticator.token(verify.token.expose_secret(), time::wall()) {
                Err(error) => Verdict::Bad(error),
                Ok(principal) if verify.first => match admissions.admit(&principal, connections_max) {
                    Some(admission) => Verdict::Good(Arc::new(principal), Some(admission)),
                    None => Verdict::Full,
                },
                Ok(principal) => Verdict::Good(Arc::new(principal), None),
            };
            // A session that is gone needs no answer.
            let _ = sender.send(verdict);
        });
        receiver
    }
}
