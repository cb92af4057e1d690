//! What the audit trail is told of a session: who it is once that is known, and its end.

use crate::audit::{Audit, Event, Origin, Record};
use crate::session::{Outcome, Session};
use crate::time::Mono;
use crate::wire::{CloseCode, Format};

/// Where refusals of sessions happen, in the trail's words.
const IN_BAND: &str = "in_band";

/// One session's thread through the trail. There is none where auditing is off.
pub(super) struct Trace {
    audit: Audit,
    origin: Origin,
    format: Format,
    since: Mono,
    /// Its refusal is recorded already.
    refused: bool,
}

impl Trace {
    /// Of a session that is being opened at `now`; `refused` = the door has recorded its refusal.
    pub(super) fn new(audit: &Audit, origin: Origin, format: Format, refused: bool, now: Mono) -> Option<Box<Self>> {
        audit.is_on().then(|| Box::new(Self { audit: audit.clone(), origin, format, since: now, refused }))
    }

    /// Where the session came from: it goes on elsewhere.
    pub(super) fn into_origin(self) -> Origin {
        self.origin
    }

    fn record(&self, session: &Session, event: Event) {
        self.audit.record(|| {
            let record = Record::of(event).origin(&self.origin).session(session.name());
            match session.principal() {
                Some(principal) => record.by(principal.who()),
                None => record,
            }
        });
    }

    fn refuse(&mut self, session: &Session, reason: &'static str) {
        self.refused = true;
        let code = session.closed().map(CloseCode::number);
        self.record(session, Event::Refused { at: IN_BAND, reason, code });
    }

    fn enter(&self, session: &Session) {
        let Some(principal) = session.principal() else { return };
        self.record(session, Event::Connected { transport: "websocket", format: self.format.as_str() });
        self.record(session, Event::Granted(principal.granted()));
    }

    /// The session is open, and in if its handshake had a good credential.
    pub(super) fn opened(&mut self, session: &Session) {
        self.enter(session);
        if let Some(code) = session.closed().filter(|_| !self.refused) {
            self.refuse(session, code.as_str());
        }
    }

    /// A credential that came in band was judged.
    pub(super) fn judged(&mut self, session: &Session, outcome: Outcome) {
        match outcome {
            Outcome::Moot => {}
            Outcome::Entered => self.enter(session),
            Outcome::Refused(reason) => self.refuse(session, reason),
            Outcome::NotRenewed(reason) => {
                self.record(session, Event::Refused { at: "renewal", reason, code: None });
            }
            Outcome::Renewed { withdrawn } => {
                let Some(principal) = session.principal() else { return };
                self.record(session, Event::Renewed(principal.granted()));
                if withdrawn > 0 {
                    self.record(session, Event::Withdrawn { streams: withdrawn as u64 });
                }
            }
        }
    }

    /// The session is over. One that nobody was ever let into is a refusal: strangers must not be
    /// able to write a record for each connection.
    pub(super) fn ended(&mut self, session: &Session, reason: &'static str, now: Mono) {
        if session.principal().is_some() {
            let code = session.closed().map(CloseCode::number);
            let lasted_ms = now.saturating_sub(self.since) / 1_000_000;
            self.record(session, Event::Ended { code, reason, lasted_ms });
        } else if !self.refused {
            self.refuse(session, reason);
        }
    }
}
