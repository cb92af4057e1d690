//! How the hub is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::json;

use super::world::World;
use super::{Api, Problem, ReadinessState};
use crate::auth::Grant;
use crate::model::FeedState;
use crate::time::{mono, rfc3339};
use crate::transport::websocket::header_credential;

/// Symbols that health lists of one venue: enough to see what kind they are.
const LEFT_OUT_LISTED_MAX: usize = 100;

/// Symbols of a venue that cannot be written as an instrument id, and so are not published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// How many there are.
    pub count: u64,
    /// Some of them; health lists at most a hundred.
    pub symbols: Vec<String>,
}

/// The certificate that a listener shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateHealth {
    /// The listener's name.
    pub listener: &'static str,
    /// `good`, `ending` or `ended`.
    pub state: &'static str,
    /// When it ends.
    pub not_after: String,
    /// Whether it is good.
    #[serde(skip)]
    pub good: bool,
}

/// How the keys of an issuer of tokens are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IssuerHealth {
    /// Its name in the configuration.
    pub name: String,
    /// `current`, `stale` or `missing`.
    pub state: &'static str,
    /// How many tokens can be verified with.
    pub keys: usize,
    /// How long ago they were fetched; absent where they never were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_age_seconds: Option<u64>,
    /// Whether the last fetch was good.
    #[serde(skip)]
    pub is_current: bool,
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    readiness: &'static str,
    version: &'static str,
    uptime_seconds: u64,
    instruments: u32,
    feeds: Vec<FeedHealth>,
    certificates: Vec<CertificateHealth>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    issuers: Vec<IssuerHealth>,
    /// Absent where there is no audit trail.
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<&'static str>,
}

#[derive(Serialize)]
struct FeedHealth {
    venue: String,
    state: &'static str,
    cause: String,
    since: String,
    symbols_left_out: LeftOut,
}

/// `down` while the hub is not ready or has no feed that could deliver, which is an error with the
/// same members as its details; `degraded` where one of them is not live, the keys of an issuer could
/// not be fetched, a listener's certificate ends soon, or the audit trail cannot be
/// written.
///
/// Asks for no credential; who shows one that is delayed is told of the feeds as of then.
pub(super) async fn health(State(api): State<Arc<Api>>, headers: HeaderMap) -> Result<Response, Problem> {
    let store = &world_of(&api, &headers)?.store;
    let states: Vec<FeedState> = store.feeds().map(|(_, feed)| feed.status().state).collect();
    let readiness = api.readiness.state();
    let (certificates, issuers) = ((api.certificates)(), (api.issuers)());
    let good = !api.audit.is_failing()
        && certificates.iter().all(|certificate| certificate.good)
        && issuers.iter().all(|issuer| issuer.is_current);
    let audit = api.audit.is_on().then(|| if api.audit.is_failing() { "failing" } else { "ok" });
    let status = overall(readiness, &states, good);
    let feeds = store.feeds().map(|(_, feed)| {
        let status = feed.status();
        let mut symbols_left_out = match &api.left_out {
            Some(of_venue) => of_venue(&feed.venue),
            None => {
                let symbols = feed.left_out();
                LeftOut { count: symbols.len() as u64, symbols }
            }
        };
        symbols_left_out.symbols.truncate(LEFT_OUT_LISTED_MAX);
        FeedHealth {
            venue: feed.venue.to_string(),
            state: status.state.as_str(),
            cause: status.cause.to_string(),
            since: rfc3339(status.since),
            symbols_left_out,
        }
    });
    let health = Health {
        status,
        readiness: readiness.as_str(),
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: mono().saturating_sub(api.started) / 1_000_000_000,
        instruments: store.len(),
        feeds: feeds.collect(),
        certificates,
        issuers,
        audit,
    };
    if status != "down" {
        return Ok(Json(health).into_response());
    }
    let reason = match readiness {
        ReadinessState::Ready => "no feed delivers",
        starting_or_draining => starting_or_draining.as_str(),
    };
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "down", format!("the hub is down: {reason}"));
    Err(problem.details(json!(health)))
}

/// The live world, but for a credential that is good and delayed.
fn world_of<'a>(api: &'a Api, headers: &HeaderMap) -> Result<&'a World, Problem> {
    let shown = header_credential(headers).ok().flatten();
    match shown.and_then(|(kind, text)| api.judge(kind, &text).ok()) {
        Some(principal) => api.world(&principal.grant),
        None => api.world(&Grant::everything()),
    }
}

fn overall(readiness: ReadinessState, feeds: &[FeedState], others_good: bool) -> &'static str {
    let down = feeds.iter().all(|state| *state == FeedState::Down);
    if readiness != ReadinessState::Ready || down {
        "down"
    } else if others_good && feeds.iter().all(|state| *state == FeedState::Live) {
        "ok"
    } else {
        "degraded"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts_but_one_feed_is_enough_to_be_up() {
        use FeedState::{Down, Live, Recovering, Stale};
        let of = |feeds: &[FeedState]| overall(ReadinessState::Ready, feeds, true);
        assert_eq!(of(&[Live, Live]), "ok");
        for one in [Stale, Recovering, Down] {
            assert_eq!(of(&[Live, one]), "degraded", "{one:?}");
        }
        assert_eq!((of(&[Stale]), of(&[Recovering, Down])), ("degraded", "degraded"));
        assert_eq!((of(&[Down, Down]), of(&[])), ("down", "down"));
        for readiness in [ReadinessState::Starting, ReadinessState::Draining] {
            assert_eq!(overall(readiness, &[Live], true), "down");
        }
        assert_eq!(overall(ReadinessState::Ready, &[Live], false), "degraded", "keys that are old are no outage");
    }
}
