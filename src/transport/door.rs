//! The way in: judges a handshake on the control side and hands the socket to a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use secrecy::ExposeSecret;
use tokio::sync::{mpsc, oneshot, watch};

use super::gate::{Presence, Turned};
use super::handover::{Entry, Handover, Place, Places, Verifier};
use super::orders::OrderNumber;
use super::remote::Remote;
use super::stream::Leaving;
use super::websocket::{Credential, HeaderKind, Offer};
use super::worlds::Worlds;
use crate::audit::{Audit, Event, Origin, Record};
use crate::auth::{AuthError, Authority, Principal};
use crate::model::Channel;
use crate::session::{Admissions, Meters, SessionConfig, Verdict, Verify};
use crate::time;
use crate::wire::command::Subscribe;
use crate::wire::{CloseCode, Format};

/// How long a token that comes in band waits for its issuer's keys: below the timeout of the
/// authentication that it is part of.
const KEYS_WAIT: Duration = Duration::from_secs(2);

/// One worker, as the control side sees it.
#[derive(Clone, Debug)]
pub struct WorkerDoor {
    /// Where finished handshakes go.
    pub handovers: mpsc::Sender<Handover>,
    /// Its open sessions.
    pub sessions: Arc<AtomicUsize>,
}

/// On what terms new sessions are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Sessions of the whole hub.
    pub sessions_max: usize,
    /// Sessions that have not shown a credential yet.
    pub strangers_max: usize,
    /// Bounds and deadlines of each; a session keeps those that it was opened with.
    pub session: Arc<SessionConfig>,
}

/// The terms as they are now; a reload puts others in their place.
pub type SharedTerms = Arc<ArcSwap<Terms>>;

/// Why a handshake is refused before the upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// 400, with the reason.
    BadRequest(String),
    /// 401: the header's credential, or the client's certificate, is bad.
    Unauthenticated(AuthError),
    /// 503: the hub has no room for another session.
    Full,
    /// 429 or 503: there is no room for another one of its address that has no credential.
    Turned(Turned),
}

/// The way in. Shared by everything on the control side.
#[derive(Debug)]
pub struct Door {
    workers: Worlds,
    sessions: Arc<AtomicUsize>,
    /// Sessions that have not shown a credential yet.
    strangers: Arc<AtomicUsize>,
    terms: SharedTerms,
    authenticator: Arc<Authority>,
    admissions: Admissions,
    orders: OrderNumber,
    meters: Arc<Meters>,
    audit: Audit,
}

/// A handshake that is judged, and to be answered with 101.
#[derive(Debug)]
pub struct Admitted {
    entry: Entry,
    judged: u64,
    format: Format,
    url: Vec<Subscribe>,
    place: Place,
    origin: Origin,
    presence: Arc<Presence>,
}

impl Door {
    /// The door to `workers`, on these terms.
    #[must_use]
    pub fn new(
        workers: impl Into<Worlds>,
        terms: SharedTerms,
        authenticator: Arc<Authority>,
        admissions: Admissions,
        orders: OrderNumber,
        meters: Arc<Meters>,
    ) -> Self {
        let (sessions, strangers) = (Arc::default(), Arc::default());
        Self {
            workers: workers.into(),
            sessions,
            strangers,
            terms,
            authenticator,
            admissions,
            orders,
            meters,
            audit: Audit::off(),
        }
    }

    /// The same, with refusals recorded in `audit`.
    #[must_use]
    pub fn with_audit(self, audit: Audit) -> Self {
        Self { audit, ..self }
    }

    /// Open sessions of the whole hub.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Judges a handshake's credential and what its URL subscribes to; it came from `origin`, and
    /// `presence` is the connection's among those of its address.
    ///
    /// # Errors
    /// [`Refused`] is to be answered before the upgrade.
    pub fn judge(&self, offer: &Offer, origin: Origin, presence: Arc<Presence>) -> Result<Admitted, Refused> {
        let url = match &offer.subscription {
            Some(subscription) => url_subscriptions(&subscription.channels, &subscription.symbols)?,
            None => Vec::new(),
        };
        // First of all: an order that is given from here on finds the session at its worker.
        let judged = self.orders.last();
        let terms = self.terms.load();
        let now = time::wall();
        let (verdict, in_header) = match &offer.credential {
            // A certificate that stands for nobody is none: a credential may follow.
            Credential::None => {
                (offer.certificate.as_ref().and_then(|shown| self.authenticator.certificate(shown, now)), true)
            }
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
                let pending = presence.pending().map_err(Refused::Turned);
                let pending = pending.inspect_err(|refused| self.record_refused(refused, &origin))?;
                let place = self.stranger(&presence, terms.strangers_max);
                Entry::Open(place.inspect_err(|refused| self.record_refused(refused, &origin))?, pending)
            }
            Some(Ok(principal)) => self.admit(principal, &terms, &origin),
            Some(Err(error)) => {
                self.meters.refused(error);
                let code = if in_header { 401 } else { CloseCode::Unauthenticated.number() };
                self.audit.record(|| refusal(error.as_str(), code, &origin));
                if in_header {
                    return Err(Refused::Unauthenticated(error));
                }
                Entry::Refused(CloseCode::Unauthenticated, error.to_string())
            }
        };
        let place = Place::take(&self.sessions, terms.sessions_max).ok_or(Refused::Full);
        let place = place.inspect_err(|refused| self.record_refused(refused, &origin))?;
        Ok(Admitted { entry, judged, format: offer.format(), url, place, origin, presence })
    }

    /// A place among those without a credential.
    fn stranger(&self, presence: &Presence, most: usize) -> Result<Place, Refused> {
        let share = presence.share_of(most);
        let refused = if share < most { Refused::Turned(Turned::Reserved) } else { Refused::Full };
        Place::take(&self.strangers, share).ok_or(refused)
    }

    fn record_refused(&self, refused: &Refused, origin: &Origin) {
        let (reason, code) = match refused {
            Refused::Turned(turned) => (turned.reason(), if turned.is_own() { 429 } else { 503 }),
            _ => (CloseCode::Overloaded.as_str(), 503),
        };
        self.audit.record(|| refusal(reason, code, origin));
    }

    fn admit(&self, principal: Principal, terms: &Terms, origin: &Origin) -> Entry {
        if !self.workers.has(principal.grant.delay()) {
            let code = CloseCode::Forbidden;
            self.audit.record(|| refusal(code.as_str(), code.number(), origin).by(principal.who()));
            return Entry::Refused(code, "the hub has no world of the token's delay".to_owned());
        }
        match self.admissions.admit(&principal, terms.session.connections_max) {
            Some(admission) => Entry::Good(Arc::new(principal), admission),
            None => {
                let code = CloseCode::ConnectionLimit;
                self.audit.record(|| refusal(code.as_str(), code.number(), origin).by(principal.who()));
                Entry::Refused(code, "the subject has as many sessions as it may".to_owned())
            }
        }
    }

    /// Hands an upgraded socket to the worker with the fewest sessions, in the world that it
    /// belongs to or, as long as that is not known, the live one; waits where its queue of
    /// handshakes is full.
    pub async fn hand_over(&self, admitted: Admitted, connection: Leaving, (name, remote): (String, Remote)) {
        let delay = match &admitted.entry {
            Entry::Good(principal, _) => principal.grant.delay(),
            _ => Duration::ZERO,
        };
        let Some(worker) = self.workers.least(delay) else { return };
        let Some(at_worker) = Place::take(&worker.sessions, usize::MAX) else { return };
        let Admitted { entry, judged, format, url, place, origin, presence } = admitted;
        let places: Places = (place, at_worker);
        let handover = Handover { connection, name, origin, remote, presence, format, entry, judged, url, places };
        // A worker that is gone drops the socket: the hub is stopping.
        let _ = worker.handovers.send(handover).await;
    }
}

/// A handshake that is refused, as the audit trail has it.
fn refusal(reason: &'static str, code: u16, origin: &Origin) -> Record {
    Record::of(Event::Refused { at: "handshake", reason, code: Some(code) }).origin(origin)
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
    pub authenticator: Arc<Authority>,
    /// Where places are taken.
    pub admissions: Admissions,
    /// Sessions that one subject may have, among others.
    pub terms: SharedTerms,
    /// Changes whenever the keys of an issuer have been fetched.
    pub fetched: watch::Receiver<u64>,
}

/// Judges a token; one whose key is not known yet again, each time that keys have been fetched,
/// for a bounded time.
async fn patiently(
    authenticator: &Authority,
    token: &str,
    mut fetched: watch::Receiver<u64>,
) -> Result<Principal, AuthError> {
    fetched.mark_unchanged();
    let mut judged = authenticator.token(token, time::wall());
    let again = async {
        while judged.as_ref().is_err_and(|error| error.may_pass()) && fetched.changed().await.is_ok() {
            judged = authenticator.token(token, time::wall());
        }
    };
    let _ = tokio::time::timeout(KEYS_WAIT, again).await;
    judged
}

impl Verifier for ControlVerifier {
    fn verify(&self, verify: Verify) -> oneshot::Receiver<Verdict> {
        let (sender, receiver) = oneshot::channel();
        let authenticator = Arc::clone(&self.authenticator);
        let (admissions, connections_max) = (self.admissions.clone(), self.terms.load().session.connections_max);
        let fetched = self.fetched.clone();
        self.runtime.spawn(async move {
            let verdict = match patiently(&authenticator, verify.token.expose_secret(), fetched).await {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::signer::{Signer, jwks};
    use crate::auth::{AuthConfig, Authenticator, KeySet};

    /// A judge of an issuer without keys, and a token that is good once they are there.
    fn early() -> (Authority, Signer, String) {
        let issuer = serde_json::json!({
            "name": "id", "issuer": "i", "audience": "hub", "jwks_file": "none", "role": "viewer",
        });
        let issuers = vec![serde_json::from_value(issuer).expect("has the form")];
        let authenticator = Authenticator::new(&AuthConfig { issuers, ..AuthConfig::default() }, None);
        let (signer, now) = (Signer::ed25519("k"), time::wall().0 / 1_000_000_000);
        let claims = serde_json::json!({"iss": "i", "sub": "ann", "aud": "hub", "iat": now, "exp": now + 600});
        let token = signer.token(&claims);
        (Authority::new(authenticator.expect("no faults")), signer, token)
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_in_band_waits_for_its_issuers_keys() {
        let (authenticator, signer, token) = early();
        let fetched = watch::Sender::new(0u64);
        let judged = patiently(&authenticator, &token, fetched.subscribe());
        let coming = async {
            tokio::time::sleep(KEYS_WAIT / 4).await;
            fetched.send_replace(1);
            tokio::time::sleep(KEYS_WAIT / 4).await;
            let current = authenticator.current();
            let ring = current.rings().next().expect("an issuer");
            ring.replace(KeySet::parse(jwks([&signer]).as_bytes()).expect("a set"));
            fetched.send_replace(2);
        };
        let (judged, ()) = tokio::join!(judged, coming);
        assert_eq!(&*judged.expect("good once the keys are there").subject, "ann");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_in_band_waits_no_longer_than_it_may() {
        let (authenticator, _, token) = early();
        let fetched = watch::Sender::new(0u64);
        let began = tokio::time::Instant::now();
        assert_eq!(patiently(&authenticator, &token, fetched.subscribe()).await, Err(AuthError::NoKeysYet));
        assert_eq!(began.elapsed(), KEYS_WAIT);
        assert_eq!(patiently(&authenticator, "nonsense", fetched.subscribe()).await, Err(AuthError::Malformed));
        assert_eq!(began.elapsed(), KEYS_WAIT, "what no key helps is refused at once");
    }
}
