//! How the hub is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::json;

use super::{Api, Problem, ReadinessState};
use crate::model::FeedState;
use crate::time::{mono, rfc3339};

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

#[derive(Serialize)]
struct Health {
    status: &'static str,
    readiness: &'static str,
    version: &'static str,
    uptime_seconds: u64,
    instruments: u32,
    feeds: Vec<FeedHealth>,
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
/// same members as its details; `degraded` where one of them is not live, or the audit trail cannot
/// be written.
pub(super) async fn health(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let states: Vec<FeedState> = api.store.feeds().map(|(_, feed)| feed.status().state).collect();
    let readiness = api.readiness.state();
    let audit = api.audit.is_on().then(|| if api.audit.is_failing() { "failing" } else { "ok" });
    let status = match overall(readiness, &states) {
        "ok" if audit == Some("failing") => "degraded",
        status => status,
    };
    let feeds = api.store.feeds().map(|(_, feed)| {
        let status = feed.status();
        let mut symbols_left_out = (api.left_out)(&feed.venue);
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
        instruments: api.store.len(),
        feeds: feeds.collect(),
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

fn overall(readiness: ReadinessState, feeds: &[FeedState]) -> &'static str {
    let down = feeds.iter().all(|state| *state == FeedState::Down);
    if readiness != ReadinessState::Ready || down {
        "down"
    } else if feeds.iter().all(|state| *state == FeedState::Live) {
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
        let of = |feeds: &[FeedState]| overall(ReadinessState::Ready, feeds);
        assert_eq!(of(&[Live, Live]), "ok");
        for one in [Stale, Recovering, Down] {
            assert_eq!(of(&[Live, one]), "degraded", "{one:?}");
        }
        assert_eq!((of(&[Stale]), of(&[Recovering, Down])), ("degraded", "degraded"));
        assert_eq!((of(&[Down, Down]), of(&[])), ("down", "down"));
        for readiness in [ReadinessState::Starting, ReadinessState::Draining] {
            assert_eq!(overall(readiness, &[Live]), "down");
        }
    }
}
