//! Who asks.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use secrecy::{ExposeSecret as _, SecretString};

use super::{Api, Problem};
use crate::auth::{AuthError, ClientCertificate, Principal};
use crate::metrics;
use crate::time::wall;
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
}

/// The one who asks; a handler that takes it is closed to everyone else.
pub(super) struct Caller(pub(super) Principal);

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let Some((kind, text)) = header_credential(&parts.headers)? else {
            let shown = parts.extensions.get::<Arc<ClientCertificate>>();
            if let Some(judged) = shown.and_then(|shown| api.authenticator.certificate(shown, wall())) {
                let judged = judged.inspect_err(|error| api.count_refused(error.as_str()));
                return judged.map(Self).map_err(Problem::invalid_token);
            }
            api.count_refused("missing");
            let message = "send a token in Authorization: Bearer, or a key in X-API-Key";
            return Err(Problem::unauthorized(ErrorCode::Unauthenticated.as_str(), message));
        };
        api.judge(kind, &text).map(Self).map_err(Problem::invalid_token)
    }
}
