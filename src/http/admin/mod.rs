//! What administrators may do: see who is connected and how far behind, and end a session.

mod query;

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, RawQuery, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::credentials::{Caller, origin_of};
use super::{Api, Problem};
use crate::audit::{Event, Origin, Record};
use crate::auth::{CredentialKind, Principal};
use crate::time::rfc3339;
use crate::transport::websocket::read_query;
use crate::transport::{Connection, ConnectionState, ConnectionsQuery, Selector};
use crate::wire::{CloseCode, ErrorCode};

use query::{cursor_behind, list_query};

/// What the owner of a session that an administrator ends is told.
const ENDED: &str = "an administrator ended the session";

/// What an administrator is told to wait where a worker did not answer, in seconds.
const RETRY_AFTER_SECONDS: u32 = 5;

/// An administrator who asks; a handler that takes it is closed to everyone else.
pub(super) struct Admin(Principal, Origin);

impl FromRequestParts<Arc<Api>> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let Caller(principal) = Caller::from_request_parts(parts, api).await?;
        if principal.is_admin() {
            return Ok(Self(principal, origin_of(&parts.extensions)));
        }
        let message = "this path is for the role admin only";
        Err(Problem::new(StatusCode::FORBIDDEN, ErrorCode::NotEntitled.as_str(), message))
    }
}

/// One session; what is not known of it is absent.
#[derive(Serialize)]
struct Row<'a> {
    session: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<&'static str>,
    state: &'static str,
    transport: &'static str,
    format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<String>,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    subscriptions: usize,
    backlog: Backlog,
    lag_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_ms: Option<u64>,
}

/// What waits for a session.
#[derive(Serialize)]
struct Backlog {
    events: usize,
    bytes: usize,
    streams: usize,
}

#[derive(Serialize)]
struct List<'a> {
    connections: Vec<Row<'a>>,
    matched: usize,
    silent_workers: usize,
    next_cursor: Option<String>,
}

fn row(connection: &Connection) -> Row<'_> {
    let held = connection.principal.as_deref();
    Row {
        session: &connection.session,
        subject: held.map(|held| &*held.subject),
        role: held.map(|held| &*held.role),
        credential: held.map(|held| CredentialKind::as_str(held.credential)),
        state: ConnectionState::as_str(connection.state),
        transport: connection.transport,
        format: connection.format.as_str(),
        remote: connection.remote.map(|remote| remote.to_string()),
        since: rfc3339(connection.since),
        expires: held.and_then(|held| held.expires).map(rfc3339),
        subscriptions: connection.subscriptions,
        backlog: Backlog { events: connection.events, bytes: connection.bytes, streams: connection.streams_owed },
        lag_bytes: connection.lag_bytes,
        blocked_ms: connection.blocked_ns.map(|ns| ns / 1_000_000),
    }
}

/// `GET /admin/connections`.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Admin(admin, origin): Admin,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = list_query(query.as_deref().unwrap_or_default())?;
    let order = query.order;
    let filter = filter_of(&query);
    let found = api.orders.list(query).await;
    let event = || Event::AdminListed { filter: filter.into(), shown: found.rows.len() as u64 };
    api.audit.record(|| Record::of(event()).by(admin.who()).origin(&origin));
    let connections = found.rows.iter().map(row).collect();
    let next_cursor = found.next.as_ref().map(|place| cursor_behind(order, place));
    let (matched, silent_workers) = (found.matched, found.silent);
    Ok(Json(List { connections, matched, silent_workers, next_cursor }).into_response())
}

/// What a list was asked for, in the words of its query.
fn filter_of(query: &ConnectionsQuery) -> String {
    let state = query.state.map(ConnectionState::as_str);
    let asked = [("subject", query.subject.as_deref()), ("role", query.role.as_deref()), ("state", state)];
    let words: Vec<_> = asked.iter().filter_map(|(name, value)| Some(format!("{name}={}", (*value)?))).collect();
    words.join("&")
}

/// `DELETE /admin/connections/{session}`.
pub(super) async fn end(
    State(api): State<Arc<Api>>,
    Admin(admin, origin): Admin,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Problem> {
    let [] = read_query(query.as_deref().unwrap_or_default(), [])?;
    let absent = || Problem::new(StatusCode::NOT_FOUND, "not_found", "there is no such session");
    let Path(session) = path.map_err(|_| absent())?;
    if !query::is_session(&session) {
        return Err(absent());
    }
    let ended = api.orders.end(Selector::Session(session.as_str().into()), CloseCode::Revoked, ENDED).await;
    if ended.sessions > 0 {
        tracing::info!(admin = ?admin.subject, session, "an administrator ended a session");
        let (target, code) = (session.as_str().into(), CloseCode::Revoked.number());
        let event = || Event::AdminEnded { target, code, sessions: ended.sessions as u64 };
        api.audit.record(|| Record::of(event()).by(admin.who()).origin(&origin));
        return Ok(StatusCode::NO_CONTENT);
    }
    if ended.silent > 0 {
        let message = "a worker did not answer in time; the session may be there still";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message);
        return Err(problem.retry_after(RETRY_AFTER_SECONDS));
    }
    Err(absent())
}
