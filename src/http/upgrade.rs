//! The WebSocket endpoint: judges the handshake, answers 101, and hands the socket over.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::any;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::transport::websocket::{Refusal, judge_handshake};
use crate::transport::{Admitted, Door, Refused};

/// What a client that finds the hub full is told to wait, in seconds.
const RETRY_AFTER_SECONDS: u32 = 5;

struct Upgrade {
    door: Arc<Door>,
    timeout: Duration,
}

/// The route of the WebSocket endpoint. `timeout` = from the answer to the hand-over.
pub fn upgrade_router(door: Arc<Door>, timeout: Duration) -> Router {
    Router::new().route("/api/v1/ws/prices", any(prices)).with_state(Arc::new(Upgrade { door, timeout }))
}

async fn prices(State(upgrade): State<Arc<Upgrade>>, mut request: Request) -> Response {
    let id = super::request_id(&request);
    let offer = match judge_handshake(&request) {
        Ok(offer) => offer,
        Err(refusal) => return refused_handshake(&refusal, &id),
    };
    let admitted = match upgrade.door.judge(&offer) {
        Ok(admitted) => admitted,
        Err(refused) => return refused_entry(&refused, &id),
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(hand_over(upgrade, upgraded, admitted, id));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    offer.write_headers(response.headers_mut());
    response
}

async fn hand_over(upgrade: Arc<Upgrade>, upgraded: OnUpgrade, admitted: Admitted, name: String) {
    // A client that is gone before the answer is sent leaves nothing behind.
    let Ok(Ok(upgraded)) = tokio::time::timeout(upgrade.timeout, upgraded).await else { return };
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        tracing::error!("the listener's sockets are not plain TCP: a session cannot be handed over");
        return;
    };
    if let Ok(stream) = parts.io.into_inner().into_std() {
        upgrade.door.hand_over(admitted, stream, parts.read_buf, name).await;
    }
}

fn refused_handshake(refusal: &Refusal, id: &str) -> Response {
    let code = match refusal {
        Refusal::BadRequest(_) => "bad_request",
        Refusal::UpgradeRequired(_) => "upgrade_required",
    };
    let mut response = super::refusal(refusal.status(), code, &refusal.to_string(), id, None);
    refusal.write_headers(response.headers_mut());
    response
}

fn refused_entry(refused: &Refused, id: &str) -> Response {
    match refused {
        Refused::BadRequest(reason) => super::refusal(StatusCode::BAD_REQUEST, "bad_request", reason, id, None),
        Refused::Unauthenticated(error) => {
            super::refusal(StatusCode::UNAUTHORIZED, "unauthenticated", &error.to_string(), id, None)
        }
        Refused::Full => {
            let text = "the hub has as many sessions as it can; come back later";
            super::refusal(StatusCode::SERVICE_UNAVAILABLE, "overloaded", text, id, Some(RETRY_AFTER_SECONDS))
        }
    }
}
