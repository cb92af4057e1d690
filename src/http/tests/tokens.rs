//! Exchange, refresh and revoke, over a store that keeps everything in memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::document::{assert_fits, document};
use super::*;
use crate::auth::{Authority, Change, Deed, IssuedKey, Ledger, Revocations, TokensConfig};
use crate::state::{Carried, StateError, StateStore};
use crate::transport::Orders;

/// Another kind of store: what the file keeps, in memory, or a disk that does not work.
#[derive(Default)]
struct MemoryStore {
    ledger: Mutex<Ledger>,
    revocations: Arc<Revocations>,
    broken: AtomicBool,
}

impl StateStore for MemoryStore {
    fn carry_out(&self, deed: Deed) -> Carried<'_> {
        Box::pin(async move {
            if self.broken.load(Ordering::Relaxed) {
                return Err(StateError::Gone);
            }
            let mut ledger = self.ledger.lock().expect("no panic");
            let decision = ledger.decide(&deed, &TokensConfig::default(), wall());
            for change in decision.changes {
                ledger.apply(change);
            }
            self.revocations.publish(ledger.held());
            Ok(decision.outcome?)
        })
    }
}

struct TokenHub {
    hub: Hub,
    store: Arc<MemoryStore>,
    /// API keys of the roles admin and viewer.
    admin: String,
    desk: String,
}

async fn token_hub(signing: bool, rates: Rates) -> TokenHub {
    let [admin, desk] = ["admin", "desk"].map(|id| new_api_key(id).expect("random bytes"));
    let key = |id: &str, role: &str, hash: String| ApiKeyConfig {
        id: id.into(),
        hash: hash.into(),
        owner: format!("{id}-owner"),
        role: role.into(),
        expires: None,
        disabled: false,
    };
    let signer = KeyConfig {
        kid: "one".into(),
        alg: Algorithm::HS256,
        secret: Some("a-secret-of-more-than-thirty-two-bytes-for-tests".into()),
        secret_file: None,
    };
    let config = AuthConfig {
        keys: if signing { vec![signer] } else { Vec::new() },
        api_keys: vec![key("admin", "admin", admin.hash.to_string()), key("desk", "viewer", desk.hash.to_string())],
        ..AuthConfig::default()
    };
    let store = Arc::new(MemoryStore::default());
    let authenticator = Authenticator::new(&config, None).expect("no faults");
    let authenticator = Authority::new(authenticator.with_revocations(Arc::clone(&store.revocations)));
    let authenticator = Arc::new(authenticator);
    let registry = Registry::new();
    let readiness = Arc::new(Readiness::default());
    let (orders, _) = Orders::new(0, &registry);
    let api = Api::new(Store::new(0), Arc::clone(&authenticator), Arc::clone(&registry), readiness, orders);
    let api = Arc::new(api);
    let state: Arc<dyn StateStore> = Arc::clone(&store) as _;
    let tokens = TokenApi::new(authenticator, state, registry, TokensConfig::default()).with_rates(rates);
    let router = public_router(Arc::clone(&api), token_router(Arc::new(tokens)));
    let [admin, desk] = [admin, desk].map(|new| new.key.expose_secret().to_owned());
    let hub = Hub::serving(api, desk.clone(), router, ServeLimits::default()).await;
    TokenHub { hub, store, admin, desk }
}

async fn started() -> TokenHub {
    token_hub(true, Rates::default()).await
}

impl TokenHub {
    /// A POST with a body of JSON.
    async fn post(&self, path: &str, headers: &[&str], body: &str) -> Answer {
        self.post_as(path, &[headers, &["Content-Type: application/json"]].concat(), body).await
    }

    async fn post_as(&self, path: &str, headers: &[&str], body: &str) -> Answer {
        let mut client = self.hub.connect().await;
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let length = body.len();
        client
            .write(&format!("POST {path} HTTP/1.1\r\nHost: hub\r\nContent-Length: {length}\r\n{headers}\r\n{body}"))
            .await;
        client.answer().await.expect("an answer")
    }

    /// The pair for the desk's key.
    async fn exchange(&self) -> Value {
        let answer = self.post(PATH_AUTH_TOKEN, &[&format!("X-API-Key: {}", self.desk)], "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    async fn refresh(&self, token: &Value) -> Answer {
        self.post(PATH_AUTH_REFRESH, &[], &json!({ "refresh_token": token }).to_string()).await
    }

    async fn revoke(&self, body: &Value) -> Answer {
        self.post(PATH_AUTH_REVOKE, &[&format!("X-API-Key: {}", self.admin)], &body.to_string()).await
    }

    /// Whether an access token lets in.
    async fn lets_in(&self, token: &Value) -> bool {
        match self.hub.get_as(token.as_str().expect("a text"), PATH_INSTRUMENTS).await.status {
            200 => true,
            401 => false,
            other => panic!("{other}"),
        }
    }
}

fn claims(token: &Value) -> Value {
    use base64::Engine as _;
    let part = token.as_str().and_then(|token| token.split('.').nth(1)).expect("three parts");
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).expect("base64url");
    serde_json::from_slice(&bytes).expect("JSON")
}

#[tokio::test]
async fn a_key_is_exchanged_in_its_header_or_in_the_body() {
    let hub = started().await;
    let in_body = hub.post(PATH_AUTH_TOKEN, &[], &json!({ "api_key": hub.desk }).to_string()).await;
    let in_header = hub.post_as(PATH_AUTH_TOKEN, &[&format!("X-API-Key: {}", hub.desk)], "").await;
    for answer in [in_body, in_header] {
        assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{answer:?}");
        let pair = answer.json();
        assert_eq!((&pair["token_type"], &pair["expires_in"]), (&json!("Bearer"), &json!(600)));
        assert!(hub.lets_in(&pair["access_token"]).await);
        let claims = claims(&pair["access_token"]);
        assert_eq!((&claims["sub"], &claims["role"]), (&json!("desk-owner"), &json!("viewer")));
        assert_eq!(claims["exp"].as_i64().expect("a time") - claims["iat"].as_i64().expect("a time"), 600);
        assert!(claims["jti"].as_str().is_some_and(|id| id.len() > 32));
    }
    assert!(hub.hub.metric("tickhub_token_requests_total{operation=\"token\",outcome=\"ok\"} 2"));
}

#[tokio::test]
async fn the_narrowing_and_the_end_of_a_key_go_with_its_tokens() {
    let hub = started().await;
    let new = new_api_key("narrow").expect("random bytes");
    let narrowing = Narrowing { symbols: Some(vec![Pattern::parse("SIM:A*").expect("valid")]), ..Narrowing::default() };
    let key = IssuedKey {
        id: "narrow".into(),
        hash: new.hash,
        owner: "ann".into(),
        role: "analyst".into(),
        narrowing: Arc::new(narrowing),
        expires: Some(UnixNanos(wall().0 + 100_000_000_000)),
        made: wall(),
    };
    hub.store.carry_out(Deed::MakeKey(key)).await.expect("room");
    let key = new.key.expose_secret().to_owned();
    let pair = hub.post(PATH_AUTH_TOKEN, &[&format!("X-API-Key: {key}")], "").await.json();
    let narrowed = claims(&pair["access_token"]);
    assert_eq!((&narrowed["symbols"], &narrowed["role"]), (&json!(["SIM:A*"]), &json!("analyst")));
    assert!(pair["expires_in"].as_u64().is_some_and(|seconds| (90..=100).contains(&seconds)), "{pair}");
    assert!(pair["refresh_expires_in"].as_u64().is_some_and(|seconds| seconds <= 100), "{pair}");
    let next = hub.refresh(&pair["refresh_token"]).await.json();
    assert_eq!(claims(&next["access_token"])["symbols"], json!(["SIM:A*"]));
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_a_used_one_ends_the_family() {
    let hub = started().await;
    let first = hub.exchange().await;
    let other = hub.exchange().await;
    let answer = hub.refresh(&first["refresh_token"]).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    let second = answer.json();
    assert_ne!(second["refresh_token"], first["refresh_token"]);
    assert!(hub.lets_in(&first["access_token"]).await && hub.lets_in(&second["access_token"]).await);

    let reused = hub.refresh(&first["refresh_token"]).await;
    let said = reused.error(401, "invalid_token");
    assert!(said["message"].as_str().is_some_and(|text| text.contains("used before")), "{said}");
    assert_eq!(reused.header("cache-control"), Some("no-store"));
    hub.refresh(&second["refresh_token"]).await.error(401, "invalid_token");
    for pair in [&first, &second] {
        assert!(!hub.lets_in(&pair["access_token"]).await, "all that was issued is revoked");
    }
    assert!(hub.lets_in(&other["access_token"]).await, "another exchange of the same key is another family");
    assert_eq!(hub.refresh(&other["refresh_token"]).await.status, 200);
    assert!(hub.hub.metric("tickhub_token_requests_total{operation=\"refresh\",outcome=\"reused\"} 1"));
}

#[tokio::test]
async fn a_family_whose_key_is_another_now_is_ended() {
    let hub = started().await;
    let new = new_api_key("desk-2").expect("random bytes");
    let key = IssuedKey {
        id: "desk-2".into(),
        hash: new.hash,
        owner: "ann".into(),
        role: "viewer".into(),
        narrowing: Arc::default(),
        expires: None,
        made: wall(),
    };
    hub.store.carry_out(Deed::MakeKey(key.clone())).await.expect("room");
    let header = format!("X-API-Key: {}", new.key.expose_secret());
    let first = hub.post(PATH_AUTH_TOKEN, &[&header], "").await.json();
    // As where the configuration gives the id to somebody else.
    let mut ledger = hub.store.ledger.lock().expect("no panic").clone();
    ledger.apply(Change::KeyMade(IssuedKey { owner: "bob".into(), ..key }));
    hub.store.revocations.publish(ledger.held());
    *hub.store.ledger.lock().expect("no panic") = ledger;
    assert!(hub.lets_in(&first["access_token"]).await);
    let refused = hub.refresh(&first["refresh_token"]).await;
    refused.error(401, "invalid_token");
    assert!(!refused.text().contains("bob"));
    assert!(!hub.lets_in(&first["access_token"]).await, "and what was issued before is revoked");
    assert!(hub.hub.metric("tickhub_token_requests_total{operation=\"refresh\",outcome=\"key_gone\"} 1"));
}

#[tokio::test]
async fn forged_refresh_tokens_end_nothing() {
    let hub = started().await;
    let pair = hub.exchange().await;
    let good = pair["refresh_token"].as_str().expect("a text");
    let (name, secret) = good.split_once('.').expect("a dot");
    let family = claims(&pair["access_token"])["jti"].as_str().expect("a text").to_owned();
    for forged in [
        format!("{name}.{}", "A".repeat(43)),
        format!("{family}-{}.{secret}", "0".repeat(32)),
        format!("{}.{secret}", name.replacen('1', "2", 1)),
        "x".repeat(3000),
        String::new(),
        hub.desk.clone(),
    ] {
        hub.refresh(&json!(forged)).await.error(401, "invalid_token");
    }
    assert_eq!(hub.refresh(&json!(good)).await.status, 200, "the real one is as good as before");
}

#[tokio::test]
async fn an_administrator_revokes_by_subject_token_and_key() {
    let hub = started().await;
    let by_subject = hub.exchange().await;
    let answer = hub.revoke(&json!({"sub": "desk-owner"})).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    let said = answer.json();
    assert_eq!(said["revoked"], json!({"sub": "desk-owner"}));
    assert!(said["kept_until"].is_string());
    assert!(!hub.lets_in(&by_subject["access_token"]).await);
    hub.refresh(&by_subject["refresh_token"]).await.error(401, "invalid_token");

    // A token of the same second counts as issued before: the next one is waited for.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let by_token = loop {
        let pair = hub.exchange().await;
        if hub.lets_in(&pair["access_token"]).await {
            break pair;
        }
        assert!(tokio::time::Instant::now() < deadline, "no token is good any more");
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    let id = &claims(&by_token["access_token"])["jti"];
    assert_eq!(hub.revoke(&json!({ "jti": id })).await.status, 200);
    assert!(!hub.lets_in(&by_token["access_token"]).await);
    hub.refresh(&by_token["refresh_token"]).await.error(401, "invalid_token");

    let by_key = hub.exchange().await;
    let said = hub.revoke(&json!({"api_key": "desk"})).await.json();
    assert_eq!((&said["revoked"], &said["kept_until"]), (&json!({"api_key": "desk"}), &Value::Null));
    assert!(!hub.lets_in(&by_key["access_token"]).await);
    hub.hub.get(PATH_INSTRUMENTS).await.error(401, "invalid_token");
    hub.post(PATH_AUTH_TOKEN, &[&format!("X-API-Key: {}", hub.desk)], "").await.error(401, "invalid_token");
    hub.refresh(&by_key["refresh_token"]).await.error(401, "invalid_token");
    hub.revoke(&json!({"api_key": "nobody"})).await.error(404, "not_found");
    assert_eq!(hub.revoke(&json!({"api_key": "desk"})).await.status, 200, "once more changes nothing");
}

#[tokio::test]
async fn only_an_administrator_revokes() {
    let hub = started().await;
    let body = json!({"sub": "admin-owner"}).to_string();
    hub.post(PATH_AUTH_REVOKE, &[], &body).await.error(401, "unauthenticated");
    hub.post(PATH_AUTH_REVOKE, &["Authorization: Bearer x.y.z"], &body).await.error(401, "invalid_token");
    hub.post(PATH_AUTH_REVOKE, &[&format!("X-API-Key: {}", hub.desk)], &body).await.error(403, "not_entitled");
    let token = hub.exchange().await["access_token"].as_str().expect("a text").to_owned();
    hub.post(PATH_AUTH_REVOKE, &[&format!("Authorization: Bearer {token}")], &body).await.error(403, "not_entitled");
    assert_eq!(hub.store.ledger.lock().expect("no panic").counts()[2].1, 0, "nothing was revoked");
    assert_eq!(hub.post(PATH_AUTH_REVOKE, &[&format!("X-API-Key: {}", hub.admin)], &body).await.status, 200);
}

#[tokio::test]
async fn bodies_are_read_strictly_and_never_repeated() {
    let hub = started().await;
    let admin = format!("X-API-Key: {}", hub.admin);
    let secret = "hunter2-hunter2";
    let bad = |path: &'static str, body: String| (path, body);
    let long = "s".repeat(257);
    for (path, body) in [
        bad(PATH_AUTH_REFRESH, String::new()),
        bad(PATH_AUTH_REFRESH, "{".into()),
        bad(PATH_AUTH_REFRESH, "{}".into()),
        bad(PATH_AUTH_REFRESH, "[]".into()),
        bad(PATH_AUTH_REFRESH, json!({ "refresh_token": 7 }).to_string()),
        bad(PATH_AUTH_REFRESH, json!({ "refresh_token": secret, "scope": "all" }).to_string()),
        bad(PATH_AUTH_REFRESH, format!("{{\"refresh_token\":\"{secret}\",\"refresh_token\":\"b\"}}")),
        bad(PATH_AUTH_REFRESH, format!("{{\"refresh_token\":\"{secret}\"}} x")),
        bad(PATH_AUTH_TOKEN, json!({ secret: "x" }).to_string()),
        bad(PATH_AUTH_REVOKE, "{}".into()),
        bad(PATH_AUTH_REVOKE, String::new()),
        bad(PATH_AUTH_REVOKE, json!({ "sub": "a", "jti": "b" }).to_string()),
        bad(PATH_AUTH_REVOKE, json!({ "sub": "" }).to_string()),
        bad(PATH_AUTH_REVOKE, json!({ "sub": "a\nb" }).to_string()),
        bad(PATH_AUTH_REVOKE, json!({ "sub": long }).to_string()),
        bad(PATH_AUTH_REVOKE, json!({ "jti": long }).to_string()),
        bad(PATH_AUTH_REVOKE, json!({ "api_key": format!("desk.{secret}") }).to_string()),
        bad(PATH_AUTH_REVOKE, json!({ "sub": null }).to_string()),
    ] {
        let answer = hub.post(path, &[&admin], &body).await;
        answer.error(400, "bad_request");
        assert!(!answer.text().contains("hunter2"), "{}", answer.text());
    }
    let body = json!({ "refresh_token": "x" }).to_string();
    for other in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
        let header = format!("Content-Type: {other}");
        hub.post_as(PATH_AUTH_REFRESH, &[&header], &body).await.error(415, "unsupported_media_type");
    }
    hub.post_as(PATH_AUTH_REFRESH, &["Content-Type: application/JSON; charset=utf-8"], &body)
        .await
        .error(401, "invalid_token");
    hub.post(PATH_AUTH_REFRESH, &[], &format!("{{\"refresh_token\":\"{}\"}}", "x".repeat(4096)))
        .await
        .error(413, "payload_too_large");
    hub.post(PATH_AUTH_TOKEN, &["Authorization: Bearer a.b.c"], "").await.error(400, "bad_request");
    hub.post(PATH_AUTH_TOKEN, &[], "{}").await.error(401, "unauthenticated");
    hub.hub.get(PATH_AUTH_TOKEN).await.error(405, "method_not_allowed");
}

#[tokio::test]
async fn requests_are_limited_by_address_and_exchanges_by_key() {
    let slow = |burst| Rate { burst, per_second: 1 };
    let hub = token_hub(true, Rates { address: slow(1000), key: slow(3) }).await;
    for _ in 0..3 {
        hub.exchange().await;
    }
    let desk = format!("X-API-Key: {}", hub.desk);
    let limited = hub.post(PATH_AUTH_TOKEN, &[&desk], "").await;
    limited.error(429, "rate_limited");
    assert!(limited.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok_and(|n| n >= 1)));
    let admin = hub.post(PATH_AUTH_TOKEN, &[&format!("X-API-Key: {}", hub.admin)], "").await;
    assert_eq!(admin.status, 200, "each key has its own share");

    let hub = token_hub(true, Rates { address: slow(5), key: slow(1000) }).await;
    let wrong = format!("X-API-Key: desk.{}", "A".repeat(43));
    let mut answers = Vec::new();
    for _ in 0..40 {
        answers.push(hub.post(PATH_AUTH_TOKEN, &[&wrong], "").await.status);
    }
    assert_eq!(answers[..5], [401; 5]);
    assert!(answers.contains(&429), "{answers:?}");
    assert!(hub.hub.api.registry.render().contains("operation=\"token\",outcome=\"limited\""));
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_acknowledged() {
    let hub = started().await;
    let pair = hub.exchange().await;
    hub.store.broken.store(true, Ordering::Relaxed);
    let desk = format!("X-API-Key: {}", hub.desk);
    for answer in [
        hub.post(PATH_AUTH_TOKEN, &[&desk], "").await,
        hub.refresh(&pair["refresh_token"]).await,
        hub.revoke(&json!({"sub": "ann"})).await,
    ] {
        answer.error(503, "unavailable");
        assert!(answer.header("retry-after").is_some() && !answer.text().contains("access_token"));
    }
    let hub = token_hub(false, Rates::default()).await;
    let desk = format!("X-API-Key: {}", hub.desk);
    hub.post(PATH_AUTH_TOKEN, &[&desk], "").await.error(501, "not_configured");
    assert_eq!(hub.store.ledger.lock().expect("no panic").counts()[1].1, 0, "no family without a token");
}

#[tokio::test]
async fn answers_of_tokens_are_as_the_document_describes_them() {
    let hub = started().await;
    let document = document();
    let pair = hub.exchange().await;
    let fits = |path: &str, answer: &Answer| {
        let described = &document["paths"][path]["post"]["responses"][answer.status.to_string()];
        assert_fits(&document, &described["content"]["application/json"]["schema"], &answer.json(), path);
    };
    fits(PATH_AUTH_TOKEN, &hub.post(PATH_AUTH_TOKEN, &[&format!("X-API-Key: {}", hub.desk)], "").await);
    fits(PATH_AUTH_TOKEN, &hub.post(PATH_AUTH_TOKEN, &[], "").await);
    fits(PATH_AUTH_REFRESH, &hub.refresh(&pair["refresh_token"]).await);
    fits(PATH_AUTH_REFRESH, &hub.refresh(&pair["refresh_token"]).await);
    fits(PATH_AUTH_REVOKE, &hub.revoke(&json!({"sub": "x"})).await);
    fits(PATH_AUTH_REVOKE, &hub.revoke(&json!({"api_key": "desk"})).await);
    fits(PATH_AUTH_REVOKE, &hub.revoke(&json!({"api_key": "none"})).await);
}
