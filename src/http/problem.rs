//! The error envelope.

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::auth::AuthError;
use crate::model::UnixNanos;
use crate::time::rfc3339;
use crate::transport::websocket::Refusal;
use crate::wire::ErrorCode;

/// After which the keys of a token's issuer, if they can be had, are there; in seconds.
const KEYS_SECONDS: u32 = 1;

/// An answer that is an error. Handlers return it, the WebSocket's upgrade too; the edge of the
/// router adds the request's id and the time, and writes the envelope.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
    details: Map<String, Value>,
    headers: Box<HeaderMap>,
}

impl Problem {
    /// An error; `code` is for programs, `message` for people. Neither may repeat a secret.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), details: Map::new(), headers: Box::default() }
    }

    /// 400, code `bad_request`.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// 401; `code` is `unauthenticated` where there is no credential, else `invalid_token`.
    #[must_use]
    pub fn unauthorized(code: &'static str, message: impl Into<String>) -> Self {
        let challenge = if code == "invalid_token" {
            r#"Bearer realm="tickhub", error="invalid_token""#
        } else {
            r#"Bearer realm="tickhub""#
        };
        Self::new(StatusCode::UNAUTHORIZED, code, message).header(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
    }

    /// 401 for a credential that is refused; where another try may help, with a `Retry-After`.
    pub(super) fn invalid_token(error: AuthError) -> Self {
        let problem = Self::unauthorized(ErrorCode::InvalidToken.as_str(), error.to_string());
        if error.may_pass() { problem.retry_after(KEYS_SECONDS) } else { problem }
    }

    /// What an answer of `status` without a body of ours means.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let (code, message) = match status {
            StatusCode::NOT_FOUND => ("not_found", "there is nothing at this path"),
            StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", "this path does not take this method"),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                ("header_too_large", "the request's line and headers are longer than the hub takes")
            }
            StatusCode::PAYLOAD_TOO_LARGE => ("payload_too_large", "the body is too large"),
            status if status.is_server_error() => ("internal", "the hub failed; the request may be repeated"),
            _ => ("bad_request", "the request cannot be read"),
        };
        Self::new(status, code, message)
    }

    /// The same with a member of `details`.
    #[must_use]
    pub fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// The same with the members of `details`, an object, as its details.
    #[must_use]
    pub(super) fn details(mut self, details: Value) -> Self {
        if let Value::Object(details) = details {
            self.details = details;
        }
        self
    }

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The same with `Retry-After`.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        self.header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// The status.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.code
    }

    /// The headers that its answer has beside those of all.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The envelope's text.
    #[must_use]
    pub fn envelope(&self, request_id: &str, now: UnixNanos) -> String {
        json!({
            "error_code": self.code,
            "message": self.message,
            "details": self.details,
            "timestamp": rfc3339(now),
            "request_id": request_id,
        })
        .to_string()
    }

    /// Puts the envelope into `response`, in place of whatever body is there.
    pub(super) fn write(self, response: Response, request_id: &str, now: UnixNanos) -> Response {
        let envelope = self.envelope(request_id, now);
        let (mut parts, _) = response.into_parts();
        parts.status = self.status;
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.extend(*self.headers);
        parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Response::from_parts(parts, Body::from(envelope))
    }
}

impl IntoResponse for Problem {
    /// Without the envelope, which the edge of the router writes.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::BadRequest(_) => "bad_request",
            Refusal::UpgradeRequired(_) => "upgrade_required",
        };
        let mut problem = Self::new(refusal.status(), code, refusal.to_string());
        refusal.write_headers(&mut problem.headers);
        problem
    }
}
