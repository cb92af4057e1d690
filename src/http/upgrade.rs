//! The WebSocket endpoint: judges the handshake, answers 101, and hands the socket over.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::any;
use hyper::upgrade::OnUpgrade;

use super::{Problem, origin_of, socket_of};
use crate::transport::websocket::{Refusal, judge_handshake};
use crate::transport::{Admitted, Door, Presence, Refused, Remote};

/// What a client that finds the hub full is told to wait, in seconds.
const RETRY_AFTER_SECONDS: u32 = 5;

struct Upgrade {
    door: Arc<Door>,
    timeout: Duration,
}

/// The route of the WebSocket endpoint. `timeout` = from the answer to the hand-over.
pub fn upgrade_router(door: Arc<Door>, timeout: Duration) -> Router {
    Router::new().route(super::PATH_WEBSOCKET, any(prices)).with_state(Arc::new(Upgrade { door, timeout }))
}

async fn prices(
    State(upgrade): State<Arc<Upgrade>>,
    Extension(remote): Extension<Remote>,
    Extension(presence): Extension<Arc<Presence>>,
    mut request: Request,
) -> Result<Response, Problem> {
    let offer = judge_handshake(&request).map_err(|refusal| not_offered(&refusal))?;
    let origin = origin_of(request.extensions());
    let admitted = upgrade.door.judge(&offer, origin, presence).map_err(|refused| not_admitted(&refused))?;
    let name = session_name()?;
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(hand_over(upgrade, upgraded, admitted, (name, remote)));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    offer.write_headers(response.headers_mut());
    Ok(response)
}

async fn hand_over(upgrade: Arc<Upgrade>, upgraded: OnUpgrade, admitted: Admitted, named: (String, Remote)) {
    // A client that is gone before the answer is sent leaves nothing behind.
    let Ok(Ok(upgraded)) = tokio::time::timeout(upgrade.timeout, upgraded).await else { return };
    let Some((stream, early)) = socket_of(upgraded) else {
        tracing::error!("the listener's connections are of another kind: a session cannot be handed over");
        return;
    };
    if let Ok(connection) = stream.leave(early) {
        upgrade.door.hand_over(admitted, connection, named).await;
    }
}

/// A name that no other session has, and that cannot be guessed.
fn session_name() -> Result<String, Problem> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "no random bytes"))?;
    Ok(format!("{:032x}", u128::from_le_bytes(bytes)))
}

fn not_offered(refusal: &Refusal) -> Problem {
    let code = match refusal {
        Refusal::BadRequest(_) => "bad_request",
        Refusal::UpgradeRequired(_) => "upgrade_required",
    };
    let mut headers = HeaderMap::new();
    refusal.write_headers(&mut headers);
    let problem = Problem::new(refusal.status(), code, refusal.to_string());
    headers.into_iter().fold(problem, |problem, (name, value)| match name {
        Some(name) => problem.header(name, value),
        None => problem,
    })
}

fn not_admitted(refused: &Refused) -> Problem {
    match refused {
        Refused::BadRequest(reason) => Problem::bad_request(reason.as_str()),
        Refused::Unauthenticated(error) => Problem::invalid_token(*error),
        Refused::Turned(turned) => Problem::from(*turned),
        Refused::Full => {
            let text = "the hub has as many sessions as it can; come back later";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", text).retry_after(RETRY_AFTER_SECONDS)
        }
    }
}
