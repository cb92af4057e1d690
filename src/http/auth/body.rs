//! Bodies of these paths: one small JSON object, read strictly.

use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::auth::{SUBJECT_BYTES_MAX, TOKEN_ID_BYTES_MAX, is_api_key_id, is_name};
use crate::http::Problem;

/// Longest body: the longest subject, every character of it escaped, fits.
const BODY_BYTES_MAX: usize = 4096;
/// For a body to arrive: a client that trickles it only holds a place.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// `{"api_key":"…"}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExchangeBody {
    #[serde(default)]
    pub(super) api_key: Option<SecretString>,
}

/// `{"refresh_token":"…"}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RefreshBody {
    #[serde(default)]
    pub(super) refresh_token: Option<SecretString>,
}

/// One of `{"sub":"…"}`, `{"jti":"…"}` and `{"api_key":"<id>"}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoke {
    #[serde(default)]
    pub(super) sub: Option<String>,
    #[serde(default)]
    pub(super) jti: Option<String>,
    #[serde(default)]
    api_key: Option<String>,
}

pub(super) fn empty() -> Problem {
    Problem::bad_request("write one of sub, jti and api_key (its id) in the body")
}

impl Revoke {
    /// What kind of thing it names.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self { sub: Some(_), .. } => "sub",
            Self { jti: Some(_), .. } => "jti",
            _ => "api_key",
        }
    }

    /// The one thing that it names.
    ///
    /// # Errors
    /// 400 where it names none or several, or what cannot be the name of one.
    pub(super) fn what(&self) -> Result<Arc<str>, Problem> {
        let named: Vec<&String> = [&self.sub, &self.jti, &self.api_key].into_iter().flatten().collect();
        let [what] = named.as_slice() else { return Err(empty()) };
        let sane = match self.name() {
            "sub" => is_name(what, SUBJECT_BYTES_MAX),
            "jti" => is_name(what, TOKEN_ID_BYTES_MAX),
            // A whole key in place of its id would otherwise reach logs.
            _ => is_api_key_id(what),
        };
        let reason = match self.name() {
            "api_key" => "must be the id of a key, the part before the dot",
            _ => "must be 1 to 256 bytes without control characters",
        };
        if sane { Ok(what.as_str().into()) } else { Err(Problem::bad_request(format!("{} {reason}", self.name()))) }
    }
}

/// Reads a body of JSON; `None` where there is none, which is a fault unless `optional`.
///
/// # Errors
/// 400, 408, 413 and 415. None repeats anything of the body, which may be a secret.
pub(super) async fn read<T: DeserializeOwned>(request: Request, optional: bool) -> Result<Option<T>, Problem> {
    let (parts, body) = request.into_parts();
    let bytes = match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await {
        Err(_) => {
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "bad_request", "the body did not come in time"));
        }
        Ok(Err(_)) => {
            let text = format!("the body must come whole, and have at most {BODY_BYTES_MAX} bytes");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", text));
        }
        Ok(Ok(bytes)) => bytes,
    };
    if bytes.is_empty() && (optional || !parts.headers.contains_key(CONTENT_TYPE)) {
        return Ok(None);
    }
    if !is_json(&parts.headers) {
        let text = "the body must be JSON: send Content-Type: application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", text));
    }
    let fault = |error: serde_json::Error| {
        Problem::bad_request(format!(
            "the body is not what is due here (line {}, column {})",
            error.line(),
            error.column()
        ))
    };
    serde_json::from_slice(&bytes).map(Some).map_err(fault)
}

/// `application/json`, with parameters or without.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else { return false };
    let text = only.to_str().unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}
