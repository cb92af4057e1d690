//! What is served.

use std::num::NonZeroU32;

use serde_json::json;

use super::*;
use crate::auth::ChannelSet;
use crate::model::{BookLevel, Channel, Depth, StreamKind, Ticker};
use crate::store::Stamp;

fn ticker_of(price: &str) -> Ticker {
    let price = crate::model::Decimal::parse(price.as_bytes()).expect("a number");
    let last = Some(BookLevel { price, size: price });
    Ticker { ts_event: Some(UnixNanos(5)), last, ..Ticker::default() }
}

const fn stamp(seq: u64) -> Stamp {
    Stamp { seq, received: Some(UnixNanos(7)) }
}

#[tokio::test]
async fn health_tells_everyone_how_feeds_are() {
    let hub = Hub::start().await;
    hub.ask(PATH_HEALTH, &[]).await.error(503, "down");
    let _writers = hub.add("SIM", &["A-USD", "B-USD"], FeedState::Live);
    let answer = hub.ask(PATH_HEALTH, &[]).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    let health = answer.json();
    assert_eq!((&health["status"], &health["instruments"]), (&json!("ok"), &json!(2)));
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    let feed = &health["feeds"][0];
    assert_eq!((&feed["venue"], &feed["state"], &feed["cause"]), (&json!("SIM"), &json!("live"), &json!("a test")));
    assert_eq!(feed["since"], "1970-01-01T00:00:00.000Z");
    assert_eq!(feed["symbols_left_out"]["count"], 101);
    assert_eq!(feed["symbols_left_out"]["symbols"].as_array().map(Vec::len), Some(100));

    let _more = hub.add("OTHER", &[], FeedState::Down);
    let answer = hub.ask(PATH_HEALTH, &[]).await;
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("degraded")));
    hub.api.readiness.advance(ReadinessState::Draining);
    let draining = hub.ask(PATH_HEALTH, &[]).await.error(503, "down");
    assert_eq!(draining["message"], "the hub is down: draining");
    assert_eq!((&draining["details"]["status"], &draining["details"]["instruments"]), (&json!("down"), &json!(2)));
}

#[tokio::test]
async fn a_trail_that_cannot_be_written_degrades_health() {
    let (api, key) = api();
    let api = Arc::new(api.with_audit(Audit::failing()));
    api.readiness.advance(ReadinessState::Ready);
    let hub = Hub::serving(Arc::clone(&api), key, public_router(api, extra()), ServeLimits::default()).await;
    let _writers = hub.add("SIM", &["A-USD"], FeedState::Live);
    let health = hub.ask(PATH_HEALTH, &[]).await.json();
    assert_eq!((&health["status"], &health["audit"]), (&json!("degraded"), &json!("failing")));
}

/// All ids over all pages, and how many pages there were.
async fn all_pages(hub: &Hub, token: &str, query: &str) -> (Vec<String>, usize) {
    let (mut ids, mut pages, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let page = hub.get_as(token, &format!("{PATH_INSTRUMENTS}?{query}{cursor}")).await.json();
        pages += 1;
        let entries = page["instruments"].as_array().expect("a list");
        ids.extend(entries.iter().map(|entry| entry["id"].as_str().expect("an id").to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (ids, pages),
        }
    }
}

#[tokio::test]
async fn pages_give_every_instrument_that_is_granted_once_and_in_order() {
    let hub = Hub::start().await;
    let symbols: Vec<String> = (0..230).map(|n| format!("S{}-USD", (n * 7919) % 1000)).collect();
    let symbols: Vec<&str> = symbols.iter().map(String::as_str).collect();
    let _sim = hub.add("SIM", &symbols, FeedState::Live);
    let _other = hub.add("OTHER", &["S1-USD", "T/1+2"], FeedState::Stale);
    let token = hub.token_for(&["SIM:S*", "OTHER:T*"]);

    let mut expected: Vec<String> = symbols.iter().map(|symbol| format!("SIM:{symbol}")).collect();
    expected.push("OTHER:T/1+2".into());
    expected.sort();
    assert_eq!(all_pages(&hub, &token, "").await, (expected.clone(), 3));
    assert_eq!(all_pages(&hub, &token, "limit=231").await, (expected.clone(), 1));
    assert_eq!(all_pages(&hub, &token, "limit=230").await.1, 2);
    assert_eq!(all_pages(&hub, &token, "venue=SIM&limit=1000").await.0, expected[1..]);
    assert_eq!(all_pages(&hub, &token, "prefix=T/1%2B&limit=1").await.0, expected[..1]);
    let heads: Vec<_> = expected.iter().filter(|id| id.starts_with("SIM:S9")).cloned().collect();
    assert_eq!(all_pages(&hub, &token, "prefix=S9&limit=3").await.0, heads);
    assert_eq!(all_pages(&hub, &token, "venue=OTHER&prefix=S").await, (vec![], 1));
    assert_eq!(all_pages(&hub, &token, "venue=NONE").await, (vec![], 1));

    let _later = hub.add("SIM", &["A-USD"], FeedState::Live);
    assert_eq!(all_pages(&hub, &hub.token(Narrowing::default()), "limit=1000").await.0.len(), 233);
}

#[tokio::test]
async fn an_entry_says_what_is_known() {
    let hub = Hub::start().await;
    let _writers = hub.add("SIM", &["A-USD", "BARE"], FeedState::Recovering);
    let page = hub.get(PATH_INSTRUMENTS).await.json();
    let known = json!({"id": "SIM:A-USD", "iid": 0, "venue": "SIM", "symbol": "A-USD", "raw_symbol": "a-usd",
                       "base": "A", "quote": "USD", "state": "recovering"});
    let bare = json!({"id": "SIM:BARE", "iid": 1, "venue": "SIM", "symbol": "BARE", "raw_symbol": "bare",
                      "state": "recovering"});
    assert_eq!(page, json!({"instruments": [known, bare], "next_cursor": null}));
}

#[tokio::test]
async fn an_instrument_shows_the_numbers_of_what_is_granted() {
    let hub = Hub::start().await;
    let mut writers = hub.add("SIM", &["A/B+C"], FeedState::Live);
    writers[0].ticker(stamp(3), &ticker_of("1.50"));
    writers[0].begin_book(StreamKind::Book(Depth::Ten), 9);
    let path = format!("{PATH_INSTRUMENTS}/SIM:A%2FB%2BC");
    let detail = hub.get(&path).await.json();
    assert_eq!(
        (&detail["id"], &detail["epoch"], &detail["state"]),
        (&json!("SIM:A/B+C"), &json!("e1"), &json!("live"))
    );
    assert_eq!((&detail["cause"], &detail["since"]), (&json!("a test"), &json!("1970-01-01T00:00:00.000Z")));
    let book = json!({"1": 0, "10": 9, "50": 0, "0": 0});
    assert_eq!(detail["seq"], json!({"ticker": 3, "quote": 0, "trade": 0, "book": book}));

    let channels: ChannelSet = [Channel::Book, Channel::Trade].into_iter().collect();
    let narrow = Narrowing { channels: Some(channels), depth: Some(Depth::Ten), ..Narrowing::default() };
    let token = hub.token(narrow);
    let detail = hub.get_as(&token, &path).await.json();
    assert_eq!(detail["seq"], json!({"trade": 0, "book": {"1": 0, "10": 9}}));
    hub.get_as(&token, &format!("{path}/ticker")).await.error(403, "not_entitled");
}

#[tokio::test]
async fn a_ticker_is_what_the_wire_says_and_is_sent_only_when_new() {
    let hub = Hub::start().await;
    let mut writers = hub.add("SIM", &["A-USD"], FeedState::Live);
    let path = format!("{PATH_INSTRUMENTS}/SIM:A-USD/ticker");
    hub.get(&path).await.error(404, "no_value");

    writers[0].ticker(stamp(3), &ticker_of("1.50"));
    let first = hub.get(&path).await;
    let wire =
        r#"{"ch":"ticker","sym":"SIM:A-USD","seq":3,"ts":"5","rx":"7","last":"1.50","last_sz":"1.50","snap":true}"#;
    assert_eq!((first.status, first.text()), (200, wire));
    assert_eq!(first.header("content-type"), Some("application/json"));
    assert_eq!(first.header("cache-control"), Some("private, no-cache"));
    let tag = first.header("etag").expect("a tag").to_owned();

    let key = format!("X-API-Key: {}", hub.key);
    for same in [tag.clone(), format!("W/{tag}"), format!("\"a,b\" , {tag}"), "*".to_owned()] {
        let answer = hub.ask(&path, &[&key, &format!("If-None-Match: {same}")]).await;
        assert_eq!((answer.status, answer.header("etag")), (304, Some(tag.as_str())), "{same}");
        assert_eq!(answer.header("cache-control"), Some("private, no-cache"));
    }
    let two = ["If-None-Match: \"x\"", &format!("If-None-Match: {tag}"), &key];
    assert_eq!(hub.ask(&path, &two).await.status, 304);

    writers[0].ticker(stamp(4), &ticker_of("1.50"));
    let second = hub.ask(&path, &[&key, &format!("If-None-Match: {tag}")]).await;
    assert_eq!(second.status, 200);
    assert_ne!(second.header("etag"), Some(tag.as_str()));
    assert!(second.text().contains("\"seq\":4"));
}

#[tokio::test]
async fn a_limited_rate_does_not_close_rest() {
    let hub = Hub::start().await;
    let _writers = hub.add("SIM", &["A-USD"], FeedState::Live);
    let token = hub.token(Narrowing { max_rate: NonZeroU32::new(1), ..Narrowing::default() });
    assert_eq!(hub.get_as(&token, PATH_INSTRUMENTS).await.status, 200);
}

#[tokio::test]
async fn a_head_has_the_headers_of_its_get_and_no_body() {
    let hub = Hub::start().await;
    let mut client = hub.connect().await;
    client.send(&format!("HEAD {PATH_OPENAPI}"), &["Connection: close"]).await;
    let mut answer = String::new();
    client.0.read_to_string(&mut answer).await.expect("closed");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(answer.contains(&format!("content-length: {}\r\n", openapi::DOCUMENT.len())), "{answer}");
}

#[tokio::test]
async fn operators_see_metrics_and_readiness() {
    let hub = Hub::start_ops().await;
    assert_eq!(hub.ask("/livez", &[]).await.status, 200);
    assert_eq!(hub.ask("/readyz", &[]).await.error(503, "not_ready")["message"], "starting");
    hub.api.readiness.advance(ReadinessState::Ready);
    assert_eq!(hub.ask("/readyz", &[]).await.status, 200);
    hub.api.readiness.advance(ReadinessState::Draining);
    assert_eq!(hub.ask("/readyz", &[]).await.error(503, "not_ready")["message"], "draining");
    assert_eq!(hub.ask("/livez", &[]).await.status, 200, "a drain is no reason to be killed");
    let metrics = hub.ask("/metrics", &[]).await;
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(
        metrics.text().contains("tickhub_http_requests_total{path=\"/livez\",status=\"2xx\"} 2"),
        "{}",
        metrics.text()
    );
    hub.ask(PATH_INSTRUMENTS, &[]).await.error(404, "not_found");
}
