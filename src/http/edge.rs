//! What every request passes on its way in and out: its id, the log, metrics, the error envelope,
//! security headers, and a net for panics.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;

use super::browsers::{Page, cors_headers, is_preflight, must_not_happen, security_headers};
use super::{Browsers, PATH_HEALTH, Problem};
use crate::metrics::{self, Registry};
use crate::time::{mono, wall};
use crate::transport::{Remote, Turned};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id that is taken from a client: any tracing system's fits.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// Bytes of an id that the hub makes.
const REQUEST_ID_BYTES: usize = 16;

/// The id of a request, an extension of it. Fit for a header, JSON and a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The client's own if it is sane, else a random one.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut given = headers.get_all(REQUEST_ID).iter();
        let sane = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        match (given.next().map(HeaderValue::as_bytes), given.next()) {
            (Some(id), None) if (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(|b| sane(*b)) => {
                Self(String::from_utf8_lossy(id).into())
            }
            _ => Self::random(),
        }
    }

    pub(super) fn random() -> Self {
        let mut bytes = [0; REQUEST_ID_BYTES];
        if getrandom::fill(&mut bytes).is_err() {
            // Nothing depends on it being unguessable: the clock tells requests apart as well.
            bytes[..8].copy_from_slice(&mono().to_be_bytes());
        }
        Self(format!("{:032x}", u128::from_be_bytes(bytes)).into())
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What the edge of a router knows.
pub(super) struct Edge {
    pub(super) registry: Arc<Registry>,
    /// Which pages may use it; `None` where none may read anything.
    pub(super) browsers: Option<Browsers>,
}

impl Edge {
    fn page(&self, request: &Request) -> Page {
        let client = request.extensions().get::<Remote>().map(|remote| remote.client().ip());
        self.browsers.as_ref().map_or(Page::None, |browsers| browsers.page(request.headers(), client))
    }

    /// An answer that needs no route: to one that is turned away, and to what a browser asks first.
    fn without_route(&self, request: &Request, page: &Page) -> Option<Response> {
        if let Some(turned) = request.extensions().get::<Turned>() {
            return Some(Problem::from(*turned).into_response());
        }
        let (method, headers) = (request.method(), request.headers());
        match page {
            Page::Foreign if must_not_happen(method, headers) => {
                let labels = [("listener", "public"), ("reason", "origin")];
                self.registry.counter(metrics::HTTP_REFUSED, &labels).increment(1);
                let message = "pages of this origin may not use the hub; see server.allowed_origins";
                Some(Problem::new(StatusCode::FORBIDDEN, "origin_not_allowed", message).into_response())
            }
            Page::Allowed(_) if is_preflight(method, headers) => Some(StatusCode::NO_CONTENT.into_response()),
            _ => None,
        }
    }
}

/// The middleware around every route and what is outside them.
pub(super) async fn edge(State(edge): State<Arc<Edge>>, mut request: Request, next: Next) -> Response {
    let began = mono();
    let id = RequestId::of(request.headers());
    request.extensions_mut().insert(id.clone());
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let path = path.as_ref().map_or("unmatched", MatchedPath::as_str);
    let (visitor, preflight) = (edge.page(&request), is_preflight(&method, request.headers()));
    let response = match edge.without_route(&request, &visitor) {
        Some(response) => response,
        None => match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR).into_response(),
        },
    };
    let mut response = finished(response, &id, edge.browsers.as_ref().is_some_and(Browsers::hsts));
    if edge.browsers.is_some() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        cors_headers(response.headers_mut(), &visitor, preflight);
    }
    let status = response.status();
    edge.registry.counter(metrics::HTTP_REQUESTS, &[("path", path), ("status", class(status))]).increment(1);
    log(&method, path, status, &id, mono() - began);
    response
}

/// The access log: by template, so that neither ids nor a token in a URL reach it.
fn log(method: &hyper::Method, path: &str, status: StatusCode, id: &RequestId, took_ns: u64) {
    let (method, status, request_id, took_us) = (name(method), status.as_u16(), id.as_str(), took_ns / 1000);
    if status == 500 {
        tracing::error!(method, path, status, request_id, took_us, "request failed");
    } else if path == PATH_HEALTH || !path.starts_with("/api/") {
        // Asked for every few seconds, or by whoever scans the net.
        tracing::debug!(method, path, status, request_id, took_us, "request");
    } else {
        tracing::info!(method, path, status, request_id, took_us, "request");
    }
}

/// A method's name; one that nobody knows may be anything that a client wrote, a credential too.
fn name(method: &hyper::Method) -> &str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];
    if known.contains(&method.as_str()) { method.as_str() } else { "other" }
}

/// The response with its envelope, if it is an error, and the headers that all have.
fn finished(mut response: Response, id: &RequestId, hsts: bool) -> Response {
    let problem = response.extensions_mut().remove::<Problem>();
    let status = response.status();
    let problem = problem.or_else(|| (status.as_u16() >= 400).then(|| Problem::of_status(status)));
    if let Some(problem) = problem {
        response = problem.write(response, id.as_str(), wall());
    }
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        headers.insert(REQUEST_ID, id);
    }
    if !switching {
        security_headers(headers, hsts);
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
    response
}

/// The class of a status: one of five labels, whatever handlers answer.
const fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    }
}
