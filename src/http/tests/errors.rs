//! How requests are refused.

use super::*;

#[tokio::test]
async fn every_refusal_has_the_envelope() {
    let hub = Hub::start().await;
    hub.get("/").await.error(404, "not_found");
    hub.get("/api/v1/instruments/").await.error(404, "not_found");
    let answer = hub.get(&format!("POST {PATH_HEALTH}")).await;
    answer.error(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("GET,HEAD"));
    hub.get("/panics").await.error(500, "internal");
    hub.get("/fails").await.error(502, "internal");
    let busy = hub.get("/busy").await;
    assert_eq!(busy.error(429, "rate_limited")["message"], "too many");
    assert_eq!(busy.header("retry-after"), Some("7"));
    // The panic ended nothing but its request.
    assert_eq!(hub.get(PATH_OPENAPI).await.status, 200);
}

#[tokio::test]
async fn queries_are_refused_by_the_name_of_what_is_wrong() {
    let hub = Hub::start().await;
    for (query, named) in [
        ("venu=SIM", "venu"),
        ("token=a.b.c", "token"),
        ("limit=5&limit=6", "limit"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=%2B5", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=", "limit"),
        ("venue=sim", "venue"),
        ("venue=", "venue"),
        ("venue=*", "venue"),
        ("prefix=btc", "prefix"),
        ("prefix=SIM:A", "prefix"),
        ("prefix=*", "prefix"),
        ("prefix=%zz", "prefix"),
        ("cursor=*", "cursor"),
        ("cursor=", "cursor"),
        ("cursor=bm8", "cursor"),
        ("cursor=_w", "cursor"),
    ] {
        let envelope = hub.get(&format!("{PATH_INSTRUMENTS}?{query}")).await.error(400, "bad_request");
        assert!(envelope["message"].as_str().is_some_and(|message| message.contains(named)), "{query}: {envelope}");
    }
    hub.get(&format!("{PATH_INSTRUMENTS}/SIM:A?x=1")).await.error(400, "bad_request");
    let long = "A".repeat(20_000);
    hub.get(&format!("{PATH_INSTRUMENTS}?prefix={long}")).await.error(400, "bad_request");
}

#[tokio::test]
async fn entitlement_is_judged_before_existence() {
    let hub = Hub::start().await;
    let _sim = hub.add("SIM", &["A-USD"], FeedState::Live);
    let _other = hub.add("OTHER", &["A-USD"], FeedState::Live);
    let token = hub.token_for(&["SIM:*"]);
    for end in ["", "/ticker"] {
        let path = |id: &str| format!("{PATH_INSTRUMENTS}/{id}{end}");
        hub.get_as(&token, &path("OTHER:A-USD")).await.error(403, "not_entitled");
        hub.get_as(&token, &path("OTHER:NONE")).await.error(403, "not_entitled");
        hub.get_as(&token, &path("SIM:NONE")).await.error(404, "unknown_symbol");
        for bad in ["sim:a", "SIM", "SIM:*", "SIM:A%00", "SIM:%ff", "%zz", "SIM:A%0d%0aX"] {
            hub.get_as(&token, &path(bad)).await.error(400, "bad_symbol");
        }
        hub.ask(&path("bad"), &[]).await.error(401, "unauthenticated");
    }
}

#[tokio::test]
async fn credentials_come_in_headers_and_the_first_counts() {
    let hub = Hub::start().await;
    let (token, key) = (hub.token(Narrowing::default()), hub.key.clone());
    let bearer = format!("Authorization: Bearer {token}");
    let key = format!("X-API-Key: {key}");
    let refused = async |headers: &[&str], code: &str, challenge: &str| {
        let answer = hub.ask(PATH_INSTRUMENTS, headers).await;
        answer.error(401, code);
        assert_eq!(answer.header("www-authenticate"), Some(challenge), "{headers:?}");
    };
    let (none, invalid) = (r#"Bearer realm="tickhub""#, r#"Bearer realm="tickhub", error="invalid_token""#);
    for good in [&[bearer.as_str()][..], &[&key], &[&bearer, "X-API-Key: bad"], &["Authorization: Basic eDp5", &key]] {
        assert_eq!(hub.ask(PATH_INSTRUMENTS, good).await.status, 200, "{good:?}");
    }
    refused(&[], "unauthenticated", none).await;
    refused(&["Authorization: Basic eDp5"], "unauthenticated", none).await;
    refused(&["Authorization: Bearer bad", &key], "invalid_token", invalid).await;
    refused(&["Authorization: Bearer"], "invalid_token", invalid).await;
    refused(&["X-API-Key: ann.wrong"], "invalid_token", invalid).await;
    hub.ask(PATH_INSTRUMENTS, &[&bearer, &bearer]).await.error(400, "bad_request");
    let in_url = hub.ask(&format!("{PATH_INSTRUMENTS}?token={token}"), &[]).await;
    in_url.error(401, "unauthenticated");
    assert!(hub.metric("tickhub_auth_refusals_total{reason=\"missing\"} 3"), "{}", hub.api.registry.render());
    assert!(hub.metric("tickhub_auth_refusals_total{reason=\"bad_api_key\"} 1"), "{}", hub.api.registry.render());
}

#[tokio::test]
async fn a_request_id_is_taken_if_sane_and_made_otherwise() {
    let hub = Hub::start().await;
    let longest = "a".repeat(64);
    for sane in ["a", "Trace-1._x", &longest] {
        let answer = hub.ask(PATH_HEALTH, &[&format!("X-Request-Id: {sane}")]).await;
        assert_eq!(answer.header("x-request-id"), Some(sane));
        let refused = hub.ask("/none", &[&format!("X-Request-Id: {sane}")]).await;
        assert_eq!(refused.error(404, "not_found")["request_id"], *sane);
    }
    let too_long = "a".repeat(65);
    let mut made = std::collections::HashSet::new();
    for bad in ["", "a b", "a\"b", "é", &too_long, "a\r\nX-Request-Id: b"] {
        let answer = hub.ask(PATH_HEALTH, &[&format!("X-Request-Id: {bad}")]).await;
        let id = answer.header("x-request-id").expect("an id").to_owned();
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        made.insert(id);
    }
    assert_eq!(made.len(), 6);
}

#[tokio::test]
async fn every_answer_has_its_headers_and_is_counted_by_template() {
    let hub = Hub::start().await;
    let _writers = hub.add("SIM", &["A-USD"], FeedState::Live);
    let secret = format!("{PATH_INSTRUMENTS}/SIM:A-USD");
    for target in [PATH_HEALTH, PATH_INSTRUMENTS, &secret, PATH_OPENAPI, "/SIM:none", "/panics"] {
        let answer = hub.get(target).await;
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{target}");
        assert!(answer.header("cache-control").is_some() && answer.header("x-request-id").is_some(), "{target}");
        assert!(answer.header("access-control-allow-origin").is_none());
    }
    for (path, status) in [(PATH_INSTRUMENT, "2xx"), ("unmatched", "4xx"), ("/panics", "5xx")] {
        let line = format!("tickhub_http_requests_total{{path=\"{path}\",status=\"{status}\"}} 1");
        assert!(hub.metric(&line), "{line} in {}", hub.api.registry.render());
    }
    assert!(!hub.api.registry.render().contains("SIM:"));
}
