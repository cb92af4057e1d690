//! The HTTP interface: REST for subscribers, and the operations listener.
//!
//! Which sites' pages may use it is a setting. A credential comes in a header only, since a URL
//! stands in logs and histories; only a WebSocket may have one in its query.

mod admin;
mod auth;
mod browsers;
mod credentials;
mod edge;
mod health;
mod instruments;
mod openapi;
mod problem;
mod readiness;
mod serve;
#[cfg(test)]
mod tests;
mod upgrade;
mod world;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use hyper::StatusCode;

use crate::audit::Audit;
use crate::auth::Authority;
use crate::metrics::Registry;
use crate::store::Store;
use crate::time::{Mono, mono};
use crate::transport::Orders;

pub use self::auth::{PATH_AUTH_REFRESH, PATH_AUTH_REVOKE, PATH_AUTH_TOKEN, Rate, Rates, TokenApi, token_router};
pub use browsers::{AllowedOrigin, Browsers, OriginError};
pub use edge::RequestId;
pub use health::{CertificateHealth, IssuerHealth, LeftOut};
pub use problem::Problem;
pub use readiness::{Readiness, ReadinessState};
pub use serve::{Listener, ServeLimits, serve, socket_of};
pub use upgrade::upgrade_router;

use credentials::origin_of;
use edge::Edge;
use world::World;

/// Where subscribers find the hub's health; open to everyone.
pub const PATH_HEALTH: &str = "/api/v1/health";
/// The list of instruments.
pub const PATH_INSTRUMENTS: &str = "/api/v1/instruments";
/// One instrument.
pub const PATH_INSTRUMENT: &str = "/api/v1/instruments/{id}";
/// The latest value of one instrument.
pub const PATH_TICKER: &str = "/api/v1/instruments/{id}/ticker";
/// Who is connected; for administrators.
pub const PATH_CONNECTIONS: &str = "/api/v1/admin/connections";
/// One who is connected; for administrators.
pub const PATH_CONNECTION: &str = "/api/v1/admin/connections/{session}";
/// The description of all this; open to everyone.
pub const PATH_OPENAPI: &str = "/api/v1/openapi.json";
/// Where a WebSocket is asked for; its handler belongs to the transport.
pub const PATH_WEBSOCKET: &str = "/api/v1/ws/prices";

/// What is left out of a venue.
type LeftOutOf = Box<dyn Fn(&str) -> LeftOut + Send + Sync>;

/// What the HTTP interface is about.
pub struct Api {
    /// The live one first.
    worlds: Vec<World>,
    authenticator: Arc<Authority>,
    registry: Arc<Registry>,
    readiness: Arc<Readiness>,
    orders: Orders,
    left_out: Option<LeftOutOf>,
    certificates: Box<dyn Fn() -> Vec<CertificateHealth> + Send + Sync>,
    issuers: Box<dyn Fn() -> Vec<IssuerHealth> + Send + Sync>,
    audit: Audit,
    browsers: Browsers,
    started: Mono,
}

impl Api {
    /// The interface to `store`; its uptime begins now.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        authenticator: Arc<Authority>,
        registry: Arc<Registry>,
        readiness: Arc<Readiness>,
        orders: Orders,
    ) -> Self {
        let certificates = Box::new(Vec::<CertificateHealth>::new);
        let issuers = Box::new(Vec::<IssuerHealth>::new);
        let worlds = vec![World::new(Duration::ZERO, store)];
        Self {
            worlds,
            authenticator,
            registry,
            readiness,
            orders,
            left_out: None,
            certificates,
            issuers,
            audit: Audit::off(),
            browsers: Browsers::default(),
            started: mono(),
        }
    }

    /// Takes what health lists of the listeners' certificates from `now`.
    #[must_use]
    pub fn with_certificates(self, now: impl Fn() -> Vec<CertificateHealth> + Send + Sync + 'static) -> Self {
        Self { certificates: Box::new(now), ..self }
    }

    /// The same, with what callers see who are delayed.
    #[must_use]
    pub fn with_delayed(mut self, stores: impl IntoIterator<Item = (Duration, Arc<Store>)>) -> Self {
        self.worlds.extend(stores.into_iter().map(|(delay, store)| World::new(delay, store)));
        self
    }

    /// The same, with refusals recorded in `audit`, and health that says how that is.
    #[must_use]
    pub fn with_audit(self, audit: Audit) -> Self {
        Self { audit, ..self }
    }

    /// Lets these pages use it, in place of those that may by default.
    #[must_use]
    pub fn with_browsers(self, browsers: Browsers) -> Self {
        Self { browsers, ..self }
    }

    /// Takes what health lists as left out of a venue from `of_venue`.
    #[must_use]
    pub fn with_left_out(self, of_venue: impl Fn(&str) -> LeftOut + Send + Sync + 'static) -> Self {
        Self { left_out: Some(Box::new(of_venue)), ..self }
    }

    /// Takes what health says of the issuers of tokens from `issuers`.
    #[must_use]
    pub fn with_issuers(self, issuers: impl Fn() -> Vec<IssuerHealth> + Send + Sync + 'static) -> Self {
        Self { issuers: Box::new(issuers), ..self }
    }
}

/// What subscribers reach. `extra` are further routes, such as [`PATH_WEBSOCKET`]; request ids,
/// the error envelope, metrics and security headers apply to them too.
pub fn public_router(api: Arc<Api>, extra: Router) -> Router {
    let router = Router::new()
        .route(PATH_HEALTH, get(health::health))
        .route(PATH_INSTRUMENTS, get(instruments::list))
        .route(PATH_INSTRUMENT, get(instruments::one))
        .route(PATH_TICKER, get(instruments::ticker))
        .route(PATH_CONNECTIONS, get(admin::list))
        .route(PATH_CONNECTION, delete(admin::end))
        .route(PATH_OPENAPI, get(openapi::openapi))
        .with_state(Arc::clone(&api))
        .merge(extra);
    let edge = Edge { registry: Arc::clone(&api.registry), browsers: Some(api.browsers.clone()) };
    router.layer(from_fn_with_state(Arc::new(edge), edge::edge))
}

/// What operators reach: `/metrics`, `/livez` and `/readyz`.
pub fn ops_router(api: Arc<Api>) -> Router {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(Arc::clone(&api));
    let edge = Edge { registry: Arc::clone(&api.registry), browsers: None };
    router.layer(from_fn_with_state(Arc::new(edge), edge::edge))
}

async fn metrics(State(api): State<Arc<Api>>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], api.registry.render()).into_response()
}

async fn readyz(State(api): State<Arc<Api>>) -> Result<&'static str, Problem> {
    match api.readiness.state() {
        ReadinessState::Ready => Ok("ready\n"),
        state => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", state.as_str())),
    }
}
