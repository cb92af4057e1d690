//! The HTTP interface: REST for subscribers, and the operations listener.
//!
//! Which sites' pages may use it is a setting. A credential comes in a header only, since a URL
//! stands in logs and histories; only a WebSocket may have one in its query.

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

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::StatusCode;

use crate::auth::Authenticator;
use crate::metrics::Registry;
use crate::store::Store;
use crate::time::{Mono, mono};

pub use browsers::{AllowedOrigin, Browsers, OriginError};
pub use edge::RequestId;
pub use health::LeftOut;
pub use problem::Problem;
pub use readiness::{Readiness, ReadinessState};
pub use serve::{ServeLimits, serve, socket_of};
pub use upgrade::upgrade_router;

use edge::Edge;
use instruments::Catalog;

/// Where subscribers find the hub's health; open to everyone.
pub const PATH_HEALTH: &str = "/api/v1/health";
/// The list of instruments.
pub const PATH_INSTRUMENTS: &str = "/api/v1/instruments";
/// One instrument.
pub const PATH_INSTRUMENT: &str = "/api/v1/instruments/{id}";
/// The latest value of one instrument.
pub const PATH_TICKER: &str = "/api/v1/instruments/{id}/ticker";
/// The description of all this; open to everyone.
pub const PATH_OPENAPI: &str = "/api/v1/openapi.json";
/// Where a WebSocket is asked for; its handler belongs to the transport.
pub const PATH_WEBSOCKET: &str = "/api/v1/ws/prices";

/// What the HTTP interface is about.
pub struct Api {
    store: Arc<Store>,
    authenticator: Arc<Authenticator>,
    registry: Arc<Registry>,
    readiness: Arc<Readiness>,
    catalog: Catalog,
    browsers: Browsers,
    left_out: Box<dyn Fn(&str) -> LeftOut + Send + Sync>,
    started: Mono,
}

impl Api {
    /// The interface to `store`; its uptime begins now.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        authenticator: Arc<Authenticator>,
        registry: Arc<Registry>,
        readiness: Arc<Readiness>,
    ) -> Self {
        let by_venue = Arc::clone(&store);
        let left_out = Box::new(move |venue: &str| {
            let symbols = by_venue.feeds().find(|(_, feed)| &*feed.venue == venue).map(|(_, feed)| feed.left_out());
            let symbols = symbols.unwrap_or_default();
            LeftOut { count: symbols.len() as u64, symbols }
        });
        let (catalog, browsers) = (Catalog::default(), Browsers::default());
        Self { store, authenticator, registry, readiness, catalog, browsers, left_out, started: mono() }
    }

    /// Lets these pages use it, in place of those that may by default.
    #[must_use]
    pub fn with_browsers(self, browsers: Browsers) -> Self {
        Self { browsers, ..self }
    }

    /// Takes what health lists as left out of a venue from `of_venue`.
    #[must_use]
    pub fn with_left_out(self, of_venue: impl Fn(&str) -> LeftOut + Send + Sync + 'static) -> Self {
        Self { left_out: Box::new(of_venue), ..self }
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
