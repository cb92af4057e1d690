//! Tokens of the hub's own: an API key is exchanged for a short access token and a refresh token,
//! a refresh token for the next pair, and an administrator revokes.

mod body;
mod limit;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::{Problem, origin_of};
use crate::audit::{Audit, Event, Origin, Record, Who};
use crate::auth::{
    AuthError, Authority, Deed, Denied, Done, FamilyId, Fresh, Issue, KeyTerms, Presented, Principal, SignError,
    TokenRequest, TokensConfig,
};
use crate::metrics::{self, Registry};
use crate::model::UnixNanos;
use crate::state::{StateError, StateStore};
use crate::time::{duration_ns, mono, rfc3339, wall};
use crate::transport::Remote;
use crate::transport::websocket::{HeaderKind, header_credential};
use crate::wire::ErrorCode;

pub use limit::{Rate, Rates};

use body::{ExchangeBody, RefreshBody, Revoke, read};
use limit::Limits;

/// Where an API key is exchanged for tokens.
pub const PATH_AUTH_TOKEN: &str = "/api/v1/auth/token";
/// Where a refresh token is exchanged for the next pair.
pub const PATH_AUTH_REFRESH: &str = "/api/v1/auth/refresh";
/// Where an administrator revokes.
pub const PATH_AUTH_REVOKE: &str = "/api/v1/auth/revoke";

/// When one that finds the store busy may come again, in seconds.
const RETRY_AFTER_SECONDS: u32 = 2;

/// What these paths need.
pub struct TokenApi {
    authenticator: Arc<Authority>,
    state: Arc<dyn StateStore>,
    registry: Arc<Registry>,
    lifetimes: TokensConfig,
    limits: Limits,
    audit: Audit,
}

impl TokenApi {
    /// Tokens for the keys of `authenticator`, kept in `state`.
    #[must_use]
    pub fn new(
        authenticator: Arc<Authority>,
        state: Arc<dyn StateStore>,
        registry: Arc<Registry>,
        lifetimes: TokensConfig,
    ) -> Self {
        Self { authenticator, state, registry, lifetimes, limits: Limits::new(Rates::default()), audit: Audit::off() }
    }

    /// The same with other rates.
    #[must_use]
    pub fn with_rates(self, rates: Rates) -> Self {
        Self { limits: Limits::new(rates), ..self }
    }

    /// The same, with what is issued, refused and revoked recorded in `audit`.
    #[must_use]
    pub fn with_audit(self, audit: Audit) -> Self {
        Self { audit, ..self }
    }

    fn count(&self, operation: &'static str, outcome: &'static str) {
        let labels = [("operation", operation), ("outcome", outcome)];
        self.registry.counter(metrics::TOKEN_REQUESTS, &labels).increment(1);
    }
}

/// The routes of tokens.
pub fn token_router(api: Arc<TokenApi>) -> Router {
    let router = Router::new();
    let router = router.route(
        PATH_AUTH_TOKEN,
        post(async |State(api): State<Arc<TokenApi>>, request: Request| {
            let origin = origin_of(request.extensions());
            answer(&api, "token", &origin, exchange(&api, &origin, request).await)
        }),
    );
    let router = router.route(
        PATH_AUTH_REFRESH,
        post(async |State(api): State<Arc<TokenApi>>, request: Request| {
            let origin = origin_of(request.extensions());
            answer(&api, "refresh", &origin, refresh(&api, &origin, request).await)
        }),
    );
    let router = router.route(
        PATH_AUTH_REVOKE,
        post(async |State(api): State<Arc<TokenApi>>, request: Request| {
            let origin = origin_of(request.extensions());
            answer(&api, "revoke", &origin, revoke(&api, &origin, request).await)
        }),
    );
    router.with_state(api)
}

/// Why a request is not answered as its sender hoped: one word for metrics, and the answer.
struct Refused {
    outcome: &'static str,
    problem: Problem,
}

impl Refused {
    fn invalid(outcome: &'static str, message: impl Into<String>) -> Self {
        Self { outcome, problem: Problem::unauthorized(ErrorCode::InvalidToken.as_str(), message) }
    }

    fn limited(wait: Duration) -> Self {
        // Whole seconds, and never none.
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        let text = "more requests than you may send; slow down";
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::RateLimited.as_str(), text);
        Self { outcome: "limited", problem: problem.retry_after(seconds) }
    }

    fn failed(message: &'static str) -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self { outcome: "failed", problem: Problem::new(status, ErrorCode::Internal.as_str(), message) }
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self { outcome: "bad_request", problem }
    }
}

impl From<AuthError> for Refused {
    fn from(error: AuthError) -> Self {
        Self::invalid("refused", error.to_string())
    }
}

impl From<SignError> for Refused {
    fn from(error: SignError) -> Self {
        match error {
            SignError::NoKey => {
                let text = "the hub has no key to sign with: its operator must set one in auth.keys";
                let problem = Problem::new(StatusCode::NOT_IMPLEMENTED, "not_configured", text);
                Self { outcome: "not_configured", problem }
            }
            SignError::TooLong => Self::from(Problem::bad_request("the token would be longer than it may be")),
            _ => Self::failed("no token could be signed"),
        }
    }
}

impl From<StateError> for Refused {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Denied(Denied::Reused) => Self::invalid("reused", Denied::Reused.to_string()),
            StateError::Denied(Denied::UnknownKey) => {
                let problem = Problem::new(StatusCode::NOT_FOUND, "not_found", Denied::UnknownKey.to_string());
                Self { outcome: "refused", problem }
            }
            StateError::Denied(denied) if !error.is_busy() => Self::invalid("refused", denied.to_string()),
            // What is wrong with the disk is for the log, which has it, and for nobody outside.
            error => {
                let code = if error.is_busy() { "overloaded" } else { "unavailable" };
                let text = "the hub cannot keep this now; come back later";
                let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, text);
                Self { outcome: "unavailable", problem: problem.retry_after(RETRY_AFTER_SECONDS) }
            }
        }
    }
}

fn answer(api: &TokenApi, operation: &'static str, origin: &Origin, outcome: Result<Value, Refused>) -> Response {
    let mut response = match outcome {
        Ok(value) => {
            api.count(operation, "ok");
            Json(value).into_response()
        }
        Err(Refused { outcome, problem }) => {
            api.count(operation, outcome);
            let refused = Event::Refused { at: operation, reason: outcome, code: Some(problem.status().as_u16()) };
            api.audit.record(|| Record::of(refused).origin(origin));
            problem.into_response()
        }
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Before anything is read or judged.
fn limited_by_address(api: &TokenApi, request: &Request) -> Result<(), Refused> {
    let Some(remote) = request.extensions().get::<Remote>() else { return Ok(()) };
    api.limits.take_address(remote.client().ip(), mono()).map_err(Refused::limited)
}

/// `POST /auth/token`: the key comes in its header, or else in the body.
async fn exchange(api: &TokenApi, origin: &Origin, request: Request) -> Result<Value, Refused> {
    limited_by_address(api, &request)?;
    let in_header = match header_credential(request.headers()).map_err(Problem::from)? {
        Some((HeaderKind::ApiKey, key)) => Some(key),
        Some((HeaderKind::Bearer, _)) => {
            return Err(
                Problem::bad_request("send an API key, in X-API-Key or as api_key in the body, not a token").into()
            );
        }
        None => None,
    };
    let in_body = read::<ExchangeBody>(request, in_header.is_some()).await?.and_then(|body| body.api_key);
    let Some(key) = in_header.or(in_body) else {
        api.registry.counter(metrics::AUTH_REFUSED, &[("reason", "missing")]).increment(1);
        let text = "send an API key, in X-API-Key or as api_key in the body";
        let problem = Problem::unauthorized(ErrorCode::Unauthenticated.as_str(), text);
        return Err(Refused { outcome: "refused", problem });
    };
    let now = wall();
    let principal = counted(api, api.authenticator.api_key(key.expose_secret(), now))?;
    let id = principal.token_id.clone().unwrap_or_default();
    // Only who has the key is limited by it: a stranger cannot use up its owner's share.
    api.limits.take_key(&id, mono()).map_err(Refused::limited)?;
    let terms = api.authenticator.current().key_terms(&id, now)?;
    let fresh = Fresh::new().ok_or_else(|| Refused::failed("the system gave no random bytes"))?;
    // Tried first, so that nothing is kept for a key that no token can be signed for.
    api.authenticator.sign(&claims(&terms, api.lifetimes.access_lifetime.duration()), now)?;
    let deed = Deed::Begin { key: id, subject: Arc::clone(&terms.owner), fresh };
    issued(api, origin, deed, None, now).await
}

/// `POST /auth/refresh`.
async fn refresh(api: &TokenApi, origin: &Origin, request: Request) -> Result<Value, Refused> {
    limited_by_address(api, &request)?;
    let token = read::<RefreshBody>(request, false).await?.and_then(|body| body.refresh_token);
    let Some(token) = token else {
        return Err(Problem::bad_request("refresh_token is missing in the body").into());
    };
    let now = wall();
    let Some(presented) = Presented::parse(token.expose_secret()) else {
        return Err(Refused::from(StateError::Denied(Denied::Forged)));
    };
    let fresh = Fresh::new().ok_or_else(|| Refused::failed("the system gave no random bytes"))?;
    let family = presented.family();
    let issued = issued(api, origin, Deed::Rotate { presented, fresh }, Some(family), now).await;
    if let Err(Refused { outcome: "reused", .. }) = &issued {
        let event = || Event::RefreshReused { family: family.to_string().into() };
        api.audit.record(|| Record::of(event()).origin(origin));
    }
    if let Err(Refused { outcome: "key_gone", .. }) = &issued {
        // Its key is disabled, over, or no longer configured: so is what was issued for it.
        api.state.carry_out(Deed::EndFamily(family)).await?;
    }
    issued
}

/// Carries out `deed`, which issues tokens, and says what its client needs; `family` is the one that
/// goes on.
async fn issued(
    api: &TokenApi,
    origin: &Origin,
    deed: Deed,
    family: Option<FamilyId>,
    now: UnixNanos,
) -> Result<Value, Refused> {
    let Done::Issued(issue) = api.state.carry_out(deed).await? else {
        return Err(Refused::failed("nothing was issued"));
    };
    // The key as it is now: its role may have changed, and it may be disabled.
    let gone = |error: AuthError| Refused::invalid("key_gone", format!("the API key behind it is not good: {error}"));
    let terms = api.authenticator.current().key_terms(&issue.key, now).map_err(gone)?;
    if terms.owner != issue.subject {
        return Err(gone(AuthError::BadApiKey));
    }
    let ttl = access_ttl(&terms, &issue, now).ok_or_else(|| gone(AuthError::Expired))?;
    let token = api.authenticator.current().sign_as(&claims(&terms, ttl), &issue.token_id, now)?;
    record_issued(api, origin, (&terms, &issue), family, UnixNanos(now.0 + duration_ns(ttl) as i64));
    let refresh_until = terms.expires.map_or(issue.refresh_until, |end| end.min(issue.refresh_until));
    Ok(json!({
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": ttl.as_secs(),
        "refresh_token": issue.refresh.expose_secret(),
        "refresh_expires_in": refresh_until.0.saturating_sub(now.0) / 1_000_000_000,
    }))
}

fn record_issued(
    api: &TokenApi,
    origin: &Origin,
    (terms, issue): (&KeyTerms, &Issue),
    family: Option<FamilyId>,
    expires: UnixNanos,
) {
    api.audit.record(|| {
        let issued = issue.token_id.as_str().into();
        let event = match family {
            None => Event::TokenIssued { issued, expires },
            Some(family) => Event::TokenRefreshed { family: family.to_string().into(), issued, expires },
        };
        let (subject, role) = (Arc::clone(&terms.owner), Arc::clone(&terms.role));
        let credential = if family.is_some() { "refresh_token" } else { "api_key" };
        let who = Who { subject, issuer: None, role, credential, token_id: Some(Arc::clone(&issue.key)) };
        Record::of(event).by(who).origin(origin)
    });
}

/// How long the access token may last: not beyond its key. `None` = less than a second.
fn access_ttl(terms: &KeyTerms, issue: &Issue, now: UnixNanos) -> Option<Duration> {
    let until = terms.expires.map_or(issue.access_until, |end| end.min(issue.access_until));
    let seconds = until.0.saturating_sub(now.0) / 1_000_000_000;
    u64::try_from(seconds).ok().filter(|seconds| *seconds >= 1).map(Duration::from_secs)
}

fn claims(terms: &KeyTerms, ttl: Duration) -> TokenRequest {
    let (subject, role) = (terms.owner.to_string(), terms.role.to_string());
    TokenRequest { subject, role, ttl, narrowing: (*terms.narrowing).clone() }
}

/// `POST /auth/revoke`.
async fn revoke(api: &TokenApi, origin: &Origin, request: Request) -> Result<Value, Refused> {
    limited_by_address(api, &request)?;
    let Some((kind, credential)) = header_credential(request.headers()).map_err(Problem::from)? else {
        api.registry.counter(metrics::AUTH_REFUSED, &[("reason", "missing")]).increment(1);
        let text = "send an administrator's token in Authorization: Bearer, or key in X-API-Key";
        let problem = Problem::unauthorized(ErrorCode::Unauthenticated.as_str(), text);
        return Err(Refused { outcome: "refused", problem });
    };
    let caller = judge(api, kind, &credential)?;
    if !caller.is_admin() {
        let text = "this needs the role admin";
        let problem = Problem::new(StatusCode::FORBIDDEN, ErrorCode::NotEntitled.as_str(), text);
        return Err(Refused { outcome: "refused", problem });
    }
    let revoke = read::<Revoke>(request, false).await?;
    let Some(revoke) = revoke else { return Err(body::empty().into()) };
    let (name, what) = (revoke.name(), revoke.what()?);
    let deed = match &revoke {
        Revoke { sub: Some(_), .. } => Deed::RevokeSubject(Arc::clone(&what)),
        Revoke { jti: Some(_), .. } => Deed::RevokeToken(Arc::clone(&what)),
        _ => Deed::EndKey { configured: api.authenticator.current().configures_key(&what), id: Arc::clone(&what) },
    };
    let done = api.state.carry_out(deed).await?;
    tracing::info!(by = %caller.subject, kind = name, what = %what, "revoked");
    let event = || Event::Revoked { by: name, target: Arc::clone(&what) };
    api.audit.record(|| Record::of(event()).by(caller.who()).origin(origin));
    let kept_until = match done {
        Done::Revoked { kept_until } if kept_until.0 < i64::MAX => Some(rfc3339(kept_until)),
        _ => None,
    };
    Ok(json!({ "revoked": { name: &*what }, "kept_until": kept_until }))
}

fn judge(api: &TokenApi, kind: HeaderKind, text: &SecretString) -> Result<Principal, Refused> {
    let judged = match kind {
        HeaderKind::Bearer => api.authenticator.token(text.expose_secret(), wall()),
        HeaderKind::ApiKey => api.authenticator.api_key(text.expose_secret(), wall()),
    };
    counted(api, judged)
}

fn counted(api: &TokenApi, judged: Result<Principal, AuthError>) -> Result<Principal, Refused> {
    let counted = judged.inspect_err(|error| {
        api.registry.counter(metrics::AUTH_REFUSED, &[("reason", error.as_str())]).increment(1);
    });
    Ok(counted?)
}
