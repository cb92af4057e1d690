//! What an administrator sees of live sessions, and how sessions are ended, over real sockets.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::Value;
use support::client::{Client, PATIENCE, request};
use support::{TestHub, hub};
use tickhub::auth::{AuthConfig, Authenticator, DevelopmentKey, new_api_key};
use tickhub::config::Config;
use tickhub::transport::Selector;
use tickhub::wire::CloseCode;

const PRICES: &str = "/api/v1/ws/prices";
const LIST: &str = "GET /api/v1/admin/connections";
const KEY: &str = "[[auth.keys]]\nkid = \"k1\"\nsecret = \"a secret that is long enough for HS256\"\n";

fn signer() -> Authenticator {
    let config = Config::read(Some(("test.toml", KEY)), std::iter::empty()).unwrap();
    let auth: AuthConfig = config.auth;
    Authenticator::new(&auth, None).unwrap()
}

fn sign(subject: &str, role: &str) -> String {
    let mut request = DevelopmentKey::token_request();
    (request.subject, request.role) = (subject.to_owned(), role.to_owned());
    signer().sign(&request, tickhub::time::wall()).unwrap()
}

/// A session of this subject, and its name.
async fn session(hub: &TestHub, token: &str) -> (Client, String) {
    let mut client = Client::open(&hub.http, PRICES, &[&format!("Authorization: Bearer {token}")]).await;
    let welcome = client.json().await;
    (client, welcome["session"].as_str().unwrap().to_owned())
}

async fn list(hub: &TestHub, query: &str) -> Value {
    let (status, found) = request(&hub.http, &format!("{LIST}{query}"), &sign("root", "admin")).await;
    assert_eq!(status, 200, "{found}");
    assert_eq!(found["silent_workers"], 0, "{found}");
    found
}

fn names(found: &Value) -> Vec<&str> {
    found["connections"].as_array().unwrap().iter().map(|row| row["session"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_list_says_who_is_connected_and_how_far_behind() {
    let slow = "[limits]\noutbox_events = 200000\noutbox_bytes = 67108864\n[[provider]]\nkind = \"sim\"\n\
                events_per_second = 20000\n";
    let hub = hub(&format!("{KEY}{slow}")).await;
    let (_quiet, quiet) = session(&hub, &sign("ann", "viewer")).await;
    let (_root, root) = session(&hub, &sign("root", "admin")).await;
    let _stranger = Client::open(&hub.http, PRICES, &[]).await;
    let headers = [format!("Authorization: Bearer {}", sign("ann", "viewer"))];
    let binary = [headers[0].as_str(), "Sec-WebSocket-Protocol: tickhub.v1.bin"];
    let mut behind = Client::open(&hub.http, PRICES, &binary).await;
    let welcome = behind.json().await;
    let name = welcome["session"].as_str().unwrap();
    behind.text(r#"{"op":"subscribe","channel":"quote","mode":"every","symbols":["*"]}"#).await;
    behind.text(r#"{"op":"subscribe","channel":"trade","symbols":["SIM:AAA-USD"]}"#).await;

    // It reads nothing from here on.
    let row = tokio::time::timeout(PATIENCE, async {
        loop {
            let found = list(&hub, "?state=slow").await;
            if let Some(row) = found["connections"].as_array().unwrap().first().filter(|row| row["lag_bytes"] != 0) {
                return row.clone();
            }
        }
    });
    let row = row.await.expect("its socket fills up");
    assert_eq!(row["session"], name);
    assert_eq!((&row["subject"], &row["role"], &row["credential"]), (&"ann".into(), &"viewer".into(), &"jwt".into()));
    assert_eq!((&row["transport"], &row["format"]), (&"websocket".into(), &"binary".into()));
    assert_eq!(row["subscriptions"], 2);
    assert!(row["backlog"]["bytes"].as_u64().unwrap() > 0 && row["blocked_ms"].is_u64(), "{row}");
    assert!(row["remote"].as_str().unwrap().starts_with("127.0.0.1:"), "{row}");

    let all = list(&hub, "").await;
    assert_eq!(all["matched"], 4);
    assert_eq!(names(&all)[0], name, "who is furthest behind comes first: {all}");
    let waiting = list(&hub, "?state=waiting").await;
    assert_eq!(waiting["matched"], 1);
    let stranger = &waiting["connections"][0];
    assert!(stranger.get("subject").is_none() && stranger.get("role").is_none(), "{stranger}");
    let anns: BTreeSet<_> = names(&list(&hub, "?subject=ann").await).into_iter().map(str::to_owned).collect();
    assert_eq!(anns, [quiet, name.to_owned()].into());
    assert_eq!(names(&list(&hub, "?role=admin").await), [root.as_str()]);
    assert_eq!(list(&hub, "?subject=nobody").await["connections"], Value::Array(Vec::new()));
    described(&row, &["credential", "remote", "blocked_ms", "expires"]);
    described(stranger, &[]);
}

/// A row has the members of the description, and those that it requires.
#[track_caller]
fn described(row: &Value, optional: &[&str]) {
    let document: Value = serde_json::from_str(include_str!("../src/http/openapi.json")).unwrap();
    let schema = &document["components"]["schemas"]["Connection"];
    for name in row.as_object().unwrap().keys() {
        assert!(schema["properties"].get(name).is_some(), "{name} is not described");
    }
    let required = schema["required"].as_array().unwrap().iter().filter_map(Value::as_str);
    for name in required.chain(optional.iter().copied()) {
        assert!(row.get(name).is_some(), "{name} is missing in {row}");
    }
}

#[tokio::test]
async fn pages_by_name_have_everyone_once() {
    let hub = hub(KEY).await;
    let mut sessions = Vec::new();
    for _ in 0..7 {
        sessions.push(session(&hub, &sign("ann", "viewer")).await);
    }
    let mut expected: Vec<_> = sessions.iter().map(|(_, name)| name.clone()).collect();
    expected.sort_unstable();
    let mut seen: Vec<String> = Vec::new();
    let mut cursor = String::new();
    let pages = loop {
        let page = list(&hub, &format!("?sort=session&limit=3{cursor}")).await;
        assert_eq!(page["matched"], 7);
        seen.extend(names(&page).into_iter().map(str::to_owned));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break seen.len().div_ceil(3),
        }
    };
    assert_eq!((seen, pages), (expected, 3));
    let (status, refused) = request(&hub.http, &format!("{LIST}?sort=lag{cursor}"), &sign("root", "admin")).await;
    assert_eq!((status, &refused["details"]["parameter"]), (400, &"cursor".into()), "another order's cursor");
}

#[tokio::test]
async fn an_administrator_ends_a_session_and_nobody_else_may() {
    let hub = hub(KEY).await;
    let (mut victim, name) = session(&hub, &sign("ann", "viewer")).await;
    let (mut bystander, _) = session(&hub, &sign("ann", "viewer")).await;
    let end = format!("DELETE /api/v1/admin/connections/{name}");
    for role in ["viewer", "analyst"] {
        for line in [LIST, &end] {
            let (status, refused) = request(&hub.http, line, &sign("ann", role)).await;
            assert_eq!((status, &refused["error_code"]), (403, &"not_entitled".into()), "{line}");
        }
    }
    assert_eq!(request(&hub.http, &end, "nonsense").await.0, 401);
    let root = sign("root", "admin");
    for absent in [&"0".repeat(32), "x", "..%2F", "%00", &"a".repeat(500)] {
        let (status, body) = request(&hub.http, &format!("DELETE /api/v1/admin/connections/{absent}"), &root).await;
        assert_eq!((status, &body["error_code"]), (404, &"not_found".into()), "{absent}");
    }
    assert_eq!(request(&hub.http, &end, &root).await.0, 204);
    assert_eq!(victim.closed().await, (4504, "an administrator ended the session".to_owned()));
    bystander.text(r#"{"op":"ping","id":1}"#).await;
    assert_eq!(bystander.answer(1).await["op"], "pong");
    assert_eq!(request(&hub.http, &end, &root).await.0, 404, "who is ending already is there no more");
    let counted = "tickhub_sessions_closed_total{transport=\"websocket\",reason=\"revoked\"} 1";
    drop(victim);
    let gone = async {
        while !hub.metrics().contains(counted) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("its close is counted");
}

#[tokio::test]
async fn a_revocation_ends_every_session_that_it_means_and_no_other() {
    let key = new_api_key("desk").unwrap();
    let api =
        format!("[[auth.api_keys]]\nid = \"desk\"\nhash = \"{}\"\nowner = \"ann\"\nrole = \"analyst\"\n", key.hash);
    let hub = hub(&format!("{KEY}{api}")).await;
    let orders = hub.hub.as_ref().unwrap().orders().clone();
    let end = async |selector| orders.end(selector, CloseCode::Revoked, "revoked").await;
    let mut anns = Vec::new();
    for _ in 0..20 {
        anns.push(session(&hub, &sign("ann", "viewer")).await.0);
    }
    let (mut bob, _) = session(&hub, &sign("bob", "viewer")).await;
    let header = format!("X-API-Key: {}", key.key.expose_secret());
    let mut program = Client::open(&hub.http, PRICES, &[&header]).await;
    assert_eq!(program.json().await["op"], "welcome");

    let issued_until = Some(tickhub::time::wall());
    let ended = end(Selector::Subject { subject: "ann".into(), issued_until }).await;
    assert_eq!((ended.sessions, ended.silent), (20, 0), "tokens of the subject, on every worker");
    for mut ann in anns {
        assert_eq!(ann.closed().await, (4504, "revoked".to_owned()));
    }
    assert_eq!(end(Selector::ApiKey("bob".into())).await.sessions, 0);
    assert_eq!(end(Selector::ApiKey("desk".into())).await.sessions, 1);
    assert_eq!(program.closed().await.0, 4504);
    let token = sign("eve", "viewer");
    let id = signer().token(&token, tickhub::time::wall()).unwrap().token_id.unwrap();
    let (mut eve, _) = session(&hub, &token).await;
    let (mut other, _) = session(&hub, &sign("eve", "viewer")).await;
    assert_eq!(end(Selector::TokenId((&*id).into())).await.sessions, 1);
    assert_eq!(eve.closed().await.0, 4504);
    for still_here in [&mut bob, &mut other] {
        still_here.text(r#"{"op":"ping","id":1}"#).await;
        assert_eq!(still_here.answer(1).await["op"], "pong");
    }
    assert_eq!(end(Selector::Role("viewer".into())).await.sessions, 2);
    assert_eq!((bob.closed().await.0, other.closed().await.0), (4504, 4504));
}

/// A session that takes nothing off its socket holds up no order, and is gone with the close
/// timeout.
#[tokio::test]
async fn a_session_that_reads_nothing_is_ended_too() {
    let text = "[timeouts]\nclose = \"300ms\"\n[limits]\noutbox_events = 200000\noutbox_bytes = 67108864\n\
                [[provider]]\nkind = \"sim\"\nevents_per_second = 20000\n";
    let hub = hub(&format!("{KEY}{text}")).await;
    let (mut stuck, name) = session(&hub, &sign("ann", "viewer")).await;
    stuck.text(r#"{"op":"subscribe","channel":"quote","mode":"every","symbols":["*"]}"#).await;
    let full = async { while list(&hub, "?state=slow").await["matched"] != 1 {} };
    tokio::time::timeout(PATIENCE, full).await.expect("its socket fills up");
    let end = format!("DELETE /api/v1/admin/connections/{name}");
    assert_eq!(request(&hub.http, &end, &sign("root", "admin")).await.0, 204);
    let gone = async {
        while list(&hub, "").await["matched"] != 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("reset behind its full socket");
}
