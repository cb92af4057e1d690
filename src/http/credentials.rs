//! Who asks.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::Extensions;
use axum::http::request::Parts;
use secrecy::{ExposeSecret as _, SecretString};

use super::{Api, Problem, RequestId};
use crate::audit::{Event, Origin, Record};
use crate::auth::{AuthError, ClientCertificate, Principal};
use crate::metrics;
use crate::time::wall;
use crate::transport::Remote;
use crate::transport::websocket::{HeaderKind, header_credential};
use crate::wire::ErrorCode;

impl Api {
    /// Judges a credential that came in a header, and counts it where it is refused.
    ///
    /// # Errors
    /// [`AuthError`] says why.
    pub fn judge(&self, kind: HeaderKind, text: &SecretString) -> Result<Principal, AuthError> {
        let judged = match kind {
            HeaderKind::Bearer => self.authenticator.token(text.expose_secret(), wall()),
            HeaderKind::ApiKey => self.authenticator.api_key(text.expose_secret(), wall()),
        };
        judged.inspect_err(|error| self.count_refused(error.as_str()))
    }

    fn count_refused(&self, reason: &str) {
        self.registry.counter(metrics::AUTH_REFUSED, &[("reason", reason)]).increment(1);
    }

    fn record_refused(&self, reason: &'static str, parts: &Parts) {
        let event = || Event::Refused { at: "http", reason, code: Some(401) };
        self.audit.record(|| Record::of(event()).origin(&origin_of(&parts.extensions)));
    }
}

/// Where a request came from, for the audit trail.
pub(super) fn origin_of(extensions: &Extensions) -> Origin {
    Origin {
        remote: extensions.get::<Remote>().map(Remote::client),
        request_id: extensions.get::<RequestId>().map(|id| id.as_str().into()),
    }
}

/// The one who asks; a handler that takes it is closed to everyone else.
pub(super) struct Caller(pub(super) Principal);

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let refused = |error: AuthError| {
            api.record_refused(error.as_str(), parts);
            Problem::invalid_token(error)
        };
        let Some((kind, text)) = header_credential(&parts.headers)? else {
            let shown = parts.extensions.get::<Arc<ClientCertificate>>();
            if let Some(judged) = shown.and_then(|shown| api.authenticator.certificate(shown, wall())) {
                let judged = judged.inspect_err(|error| api.count_refused(error.as_str()));
                return judged.map(Self).map_err(refused);
            }
            api.count_refused("missing");
            api.record_refused("missing", parts);
            let message = "send a token in Authorization: Bearer, or a key in X-API-Key";
            return Err(Problem::unauthorized(ErrorCode::Unauthenticated.as_str(), message));
        };
        api.judge(kind, &text).map(Self).map_err(refused)
    }
}
