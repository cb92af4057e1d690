//! What strangers cannot take.

use axum::extract::Request;
use axum::http::header::{CONNECTION, UPGRADE};

use super::*;
use crate::transport::Remote;

fn limits() -> ServeLimits {
    ServeLimits { connections_max: 2, header_bytes_max: 8192, headers_max: 8, ..ServeLimits::default() }
}

#[tokio::test]
async fn a_header_that_is_too_large_or_has_too_many_lines_is_refused() {
    let hub = Hub::start_with(limits()).await;
    let lines: Vec<String> = (0..7).map(|n| format!("X-{n}: y")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(hub.ask(PATH_OPENAPI, &lines).await.status, 200, "with Host these are eight");
    assert_eq!(hub.ask(PATH_OPENAPI, &[&lines[..], &["X-Y: z"]].concat()).await.status, 431);
    let answer = hub.ask(PATH_OPENAPI, &[&lines[..], &["X-Y: z"]].concat()).await;
    answer.error(431, "header_too_large");
    assert_eq!(answer.header("content-security-policy"), Some("default-src 'none'; frame-ancestors 'none'"));
    assert_eq!(hub.ask(PATH_OPENAPI, &[&format!("X: {}", "y".repeat(7000))]).await.status, 200);
    assert_eq!(hub.ask(PATH_OPENAPI, &[&format!("X: {}", "y".repeat(9000))]).await.status, 431);
    let mut client = hub.connect().await;
    client.write("no HTTP at all\r\n\r\n").await;
    client.answer().await.expect("an answer").error(400, "bad_request");
    assert!(client.answer().await.is_none(), "and the connection ends");
    assert_eq!(hub.ask(PATH_OPENAPI, &[]).await.status, 200, "no other connection notices");
    assert!(hub.metric("tickhub_http_refusals_total{listener=\"public\",reason=\"header_too_large\"} 3"));
    assert!(hub.metric("tickhub_http_refusals_total{listener=\"public\",reason=\"malformed\"} 1"));
}

#[tokio::test]
async fn a_slow_header_is_not_waited_for() {
    let limits = ServeLimits { header_timeout: Span::millis(100), ..limits() };
    let hub = Hub::start_with(limits).await;
    let mut silent = hub.connect().await;
    let mut half = hub.connect().await;
    half.write("GET / HTTP/1.1\r\nHost:").await;
    let mut kept = Vec::new();
    for client in [&mut silent, &mut half] {
        // Hyper may say 408 first; what counts is that the connection ends.
        tokio::time::timeout(PATIENCE, client.0.read_to_end(&mut kept)).await.expect("in time").expect("closed");
    }
    assert_eq!(hub.ask(PATH_OPENAPI, &[]).await.status, 200, "their places are free again");
    assert!(hub.metric("tickhub_http_refusals_total{listener=\"public\",reason=\"header_timeout\"} 2"));
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_cut_off() {
    let idle_timeout = Span::millis(300);
    let limits = ServeLimits { idle_timeout, header_timeout: Span::seconds(600), connections_max: 1, ..limits() };
    let hub = Hub::start_with(limits).await;
    let mut client = hub.connect().await;
    // Asks for more than the buffers of both sides hold, until nothing more is taken.
    let request = format!("GET {PATH_OPENAPI} HTTP/1.1\r\nHost: hub\r\n\r\n");
    let ended = tokio::time::timeout(PATIENCE, async { while client.0.write_all(request.as_bytes()).await.is_ok() {} });
    ended.await.expect("cut off");
    assert!(hub.metric("tickhub_http_refusals_total{listener=\"public\",reason=\"idle_timeout\"} 1"));
}

#[tokio::test]
async fn one_connection_too_many_is_turned_away_and_the_others_go_on() {
    let hub = Hub::start_with(limits()).await;
    let (mut first, mut second) = (hub.connect().await, hub.connect().await);
    for client in [&mut first, &mut second] {
        client.send(PATH_OPENAPI, &[]).await;
        assert_eq!(client.answer().await.expect("an answer").status, 200);
    }
    assert!(hub.metric("tickhub_connections{listener=\"public\"} 2"));
    assert!(hub.metric("tickhub_connections_max{listener=\"public\"} 2"));
    let mut third = hub.connect().await;
    let refused = third.answer().await.expect("an answer before any request");
    refused.error(503, "overloaded");
    assert_eq!((refused.header("retry-after"), refused.header("connection")), (Some("2"), Some("close")));
    assert!(third.answer().await.is_none());
    assert!(hub.metric("tickhub_http_refusals_total{listener=\"public\",reason=\"connections_max\"} 1"));

    first.send(PATH_OPENAPI, &["Connection: close"]).await;
    assert_eq!(first.answer().await.expect("still served").status, 200);
    assert!(first.answer().await.is_none());
    // The place is free a moment after the socket is closed.
    let again = async {
        while hub.ask(PATH_OPENAPI, &[]).await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("a free place");
}

#[tokio::test]
async fn the_stop_lets_answers_finish_and_idle_connections_go() {
    let mut hub = Hub::start().await;
    let (mut idle, mut half) = (hub.connect().await, hub.connect().await);
    idle.send(PATH_OPENAPI, &[]).await;
    assert_eq!(idle.answer().await.expect("an answer").status, 200);
    half.write(&format!("GET {PATH_OPENAPI} HTTP/1.1\r\n")).await;
    // Its beginning has been read once an answer on a later connection has come.
    assert_eq!(hub.ask(PATH_OPENAPI, &[]).await.status, 200);
    hub.stopper.take().expect("not stopped").stop();
    assert!(idle.answer().await.is_none(), "nothing is under way on it");
    half.write("Host: hub\r\n\r\n").await;
    let last = half.answer().await.expect("it had begun");
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    tokio::time::timeout(PATIENCE, &mut hub.serving).await.expect("in time").expect("no panic");
    assert!(TcpStream::connect(&hub.address).await.is_err());
}

#[tokio::test]
async fn the_stop_waits_no_longer_than_the_grace() {
    let mut hub = Hub::start_with(ServeLimits { grace: Span::millis(100), ..limits() }).await;
    let mut half = hub.connect().await;
    half.write("GET / HTTP/1.1\r\n").await;
    assert_eq!(hub.ask(PATH_OPENAPI, &[]).await.status, 200);
    hub.stopper.take().expect("not stopped").stop();
    tokio::time::timeout(PATIENCE, &mut hub.serving).await.expect("in time").expect("no panic");
}

/// Accepts any upgrade, and gives the naked socket to a task that says who asked.
async fn upgrade(mut request: Request) -> Response {
    let remote = *request.extensions().get::<Remote>().expect("of the listener");
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (mut stream, early) = socket_of(upgraded.await.expect("upgraded")).expect("of the listener");
        stream.write_all(format!("{} {remote}", early.len()).as_bytes()).await.expect("connected");
        stream.read_u8().await
    });
    (StatusCode::SWITCHING_PROTOCOLS, [(CONNECTION, "upgrade"), (UPGRADE, "test")]).into_response()
}

#[tokio::test]
async fn what_is_upgraded_is_given_away_and_counts_no_longer() {
    let (api, key) = api();
    let api = Arc::new(api);
    let router = public_router(Arc::clone(&api), Router::new().route(PATH_WEBSOCKET, get(upgrade)));
    let mut hub = Hub::serving(api, key, router, ServeLimits { connections_max: 1, ..limits() }).await;
    let mut client = hub.connect().await;
    client.send(PATH_WEBSOCKET, &["Connection: upgrade", "Upgrade: test"]).await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!((answer.status, answer.header("cache-control")), (101, None));
    assert!(answer.header("x-request-id").is_some());
    let greeting = format!("0 {}", client.0.local_addr().expect("connected"));
    let mut said = vec![0; greeting.len()];
    client.0.read_exact(&mut said).await.expect("greeted");
    assert_eq!(String::from_utf8_lossy(&said), greeting);

    // The one place is free, and the stop waits for nobody.
    assert_eq!(hub.ask(PATH_OPENAPI, &[]).await.status, 200);
    hub.stopper.take().expect("not stopped").stop();
    tokio::time::timeout(PATIENCE, &mut hub.serving).await.expect("in time").expect("no panic");
    client.write("x").await;
    assert_eq!(client.0.read(&mut [0]).await.expect("closed by its task"), 0);
}
