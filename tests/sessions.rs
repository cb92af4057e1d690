//! Sessions of a whole hub over real sockets: ways in, ways out, and what stands between.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use serde_json::{Value, json};
use support::client::{Client, Got, upgrade};
use support::hub;
use tickhub::auth::{Authenticator, new_api_key};
use tickhub::config::Config;

const PRICES: &str = "/api/v1/ws/prices";
const SECRET: &str = "a secret that is long enough for HS256";

/// A configuration with a key of its own, and a way to sign with it.
fn keyed(more: &str) -> (String, Authenticator) {
    let text = format!("[[auth.keys]]\nkid = \"k1\"\nsecret = \"{SECRET}\"\n{more}");
    let config = Config::read(Some(("test.toml", &text)), std::iter::empty()).unwrap();
    (text, Authenticator::new(&config.auth, None).unwrap())
}

fn sign(authenticator: &Authenticator, subject: &str, ttl_seconds: u64, symbols: &[&str]) -> String {
    let mut request = tickhub::auth::DevelopmentKey::token_request();
    request.subject = subject.to_owned();
    request.role = "viewer".to_owned();
    request.ttl = std::time::Duration::from_secs(ttl_seconds);
    if !symbols.is_empty() {
        let patterns = symbols.iter().map(|s| tickhub::model::Pattern::parse(s).unwrap()).collect();
        request.narrowing.symbols = Some(patterns);
    }
    authenticator.sign(&request, tickhub::time::wall()).unwrap()
}

#[tokio::test]
async fn every_place_for_a_credential_lets_in() {
    let key = new_api_key("desk").unwrap();
    let api =
        format!("[[auth.api_keys]]\nid = \"desk\"\nhash = \"{}\"\nowner = \"desk-7\"\nrole = \"viewer\"\n", key.hash);
    let (text, authenticator) = keyed(&api);
    let hub = hub(&text).await;
    let token = sign(&authenticator, "ann", 60, &[]);
    let key = secrecy::ExposeSecret::expose_secret(&key.key).to_owned();
    let bearer = format!("Authorization: Bearer {token}");
    let api_key = format!("X-API-Key: {key}");
    let subprotocol = format!("Sec-WebSocket-Protocol: tickhub.v1.json, bearer.{token}");
    let query = format!("{PRICES}?token={token}");
    for (path, header) in
        [(PRICES, bearer.as_str()), (PRICES, &api_key), (PRICES, &subprotocol), (query.as_str(), "X-Nothing: 1")]
    {
        let mut client = Client::open(&hub.http, path, &[header]).await;
        let welcome = client.json().await;
        assert_eq!(welcome["op"], "welcome", "{header}");
        assert_eq!(welcome["limits"]["depth"], 10);
    }
    let mut client = Client::open(&hub.http, PRICES, &[]).await;
    client.text(r#"{"op":"ping","id":1}"#).await;
    assert_eq!(client.json().await["code"], "unauthenticated");
    client.text(&json!({"op":"auth","id":"a","token":token}).to_string()).await;
    let ok = client.json().await;
    assert_eq!((&ok["op"], &ok["id"]), (&json!("ok"), &json!("a")));
    assert_eq!(client.json().await["op"], "welcome");
    client.text(r#"{"op":"ping","id":2}"#).await;
    assert_eq!(client.json().await["op"], "pong");
}

#[tokio::test]
async fn commands_sent_right_behind_auth_wait_for_its_judgement() {
    let hub = hub("").await;
    let mut client = Client::open(&hub.http, PRICES, &[]).await;
    client.text(&json!({"op":"auth","id":1,"token":hub.token}).to_string()).await;
    client.text(r#"{"op":"ping","id":2}"#).await;
    let answers: Vec<Value> = vec![client.json().await, client.json().await, client.json().await];
    let ops: Vec<&Value> = answers.iter().map(|a| &a["op"]).collect();
    assert_eq!(ops, ["ok", "welcome", "pong"]);
}

#[tokio::test]
async fn a_bad_credential_is_refused_where_its_sender_can_see_it() {
    let hub = hub("").await;
    let (status, head, ..) = upgrade(&hub.http, PRICES, &["Authorization: Bearer nonsense"]).await;
    assert_eq!(status, 401, "{head}");
    assert!(head.to_ascii_lowercase().contains("content-type: application/json"), "{head}");
    let subprotocol = "Sec-WebSocket-Protocol: bearer.nonsense, tickhub.v1.json";
    for (path, headers) in [(PRICES.to_owned(), vec![subprotocol]), (format!("{PRICES}?token=nonsense"), vec![])] {
        let mut client = Client::open(&hub.http, &path, &headers).await;
        assert_eq!(client.closed().await.0, 4501);
    }
    let mut client = Client::open(&hub.http, PRICES, &[]).await;
    client.text(r#"{"op":"auth","id":1,"token":"nonsense"}"#).await;
    assert_eq!(client.json().await["code"], "invalid_token");
    assert_eq!(client.closed().await.0, 4501);
    assert!(hub.metrics().contains("tickhub_auth_refusals_total{reason=\"malformed\"} 4"), "{}", hub.metrics());
}

#[tokio::test]
async fn who_shows_no_credential_in_time_is_closed() {
    let hub = hub("[timeouts]\nauthentication = \"200ms\"\n").await;
    let mut client = Client::open(&hub.http, PRICES, &[]).await;
    assert_eq!(client.closed().await.0, 4503);
}

#[tokio::test]
async fn strangers_are_bounded_and_lock_out_nobody_who_has_a_credential() {
    let hub = hub("[limits]\nunauthenticated = 3\n").await;
    let mut strangers = Vec::new();
    for _ in 0..3 {
        strangers.push(Client::open(&hub.http, PRICES, &[]).await);
    }
    let (status, head, ..) = upgrade(&hub.http, PRICES, &[]).await;
    assert_eq!(status, 503, "{head}");
    assert!(head.to_ascii_lowercase().contains("retry-after:"), "{head}");
    let _known = Client::welcomed(&hub.http, &hub.token).await;
    strangers[0].text(&json!({"op":"auth","id":1,"token":hub.token}).to_string()).await;
    strangers[0].until("op", "welcome").await;
    let _next = Client::open(&hub.http, PRICES, &[]).await;
}

#[tokio::test]
async fn a_token_that_expires_ends_the_session_unless_it_is_renewed() {
    let (text, authenticator) = keyed("");
    let hub = hub(&text).await;
    let mut expiring = Client::welcomed(&hub.http, &sign(&authenticator, "ann", 2, &[])).await;
    let mut renewed = Client::welcomed(&hub.http, &sign(&authenticator, "bob", 2, &[])).await;
    let other = json!({"op":"auth","id":1,"token":sign(&authenticator, "eve", 60, &[])});
    renewed.text(&other.to_string()).await;
    assert_eq!(renewed.json().await["code"], "invalid_token", "another subject's token renews nothing");
    let own = json!({"op":"auth","id":2,"token":sign(&authenticator, "bob", 60, &[])});
    renewed.text(&own.to_string()).await;
    assert_eq!(renewed.json().await["op"], "ok");
    assert_eq!(expiring.closed().await, (4004, "the token has expired".to_owned()));
    renewed.text(r#"{"op":"ping","id":3}"#).await;
    assert_eq!(renewed.json().await["op"], "pong");
}

#[tokio::test]
async fn a_smaller_grant_takes_away_and_says_so() {
    let (text, authenticator) = keyed("");
    let hub = hub(&text).await;
    let mut client =
        Client::welcomed(&hub.http, &sign(&authenticator, "ann", 60, &["SIM:AAA-USD", "SIM:AAB-USD"])).await;
    client.text(r#"{"op":"subscribe","id":1,"channel":"quote","symbols":["*"]}"#).await;
    let subscribed = client.until("op", "subscribed").await;
    let symbols: Vec<&Value> = subscribed["accepted"].as_array().unwrap().iter().map(|a| &a["symbol"]).collect();
    assert_eq!(symbols, ["SIM:AAA-USD", "SIM:AAB-USD"], "a pattern expands only inside the grant");
    client.text(r#"{"op":"subscribe","id":2,"channel":"quote","symbols":["SIM:AAC-USD"]}"#).await;
    let refused = client.answer(2).await;
    assert_eq!(refused["rejected"][0]["code"], "not_entitled");
    let smaller = json!({"op":"auth","id":3,"token":sign(&authenticator, "ann", 60, &["SIM:AAB-USD"])});
    client.text(&smaller.to_string()).await;
    let gone = client.until("op", "unsubscribed").await;
    assert_eq!(gone["code"], "not_entitled");
    assert_eq!(gone["symbols"], json!(["SIM:AAA-USD"]));
    for _ in 0..5 {
        assert_eq!(client.until("ch", "quote").await["sym"], "SIM:AAB-USD");
    }
}

#[tokio::test]
async fn broken_frames_end_the_session_as_the_rfc_says() {
    let hub = hub("").await;
    let cases: [(u8, bool, Vec<u8>, u16); 6] = [
        (0x81, false, b"{}".to_vec(), 1002),
        (0xc1, true, b"{}".to_vec(), 1002),
        (0x83, true, b"{}".to_vec(), 1002),
        (0x82, true, b"{}".to_vec(), 1003),
        (0x81, true, vec![0xff, 0xfe], 1007),
        (0x81, true, vec![b' '; 70_000], 1009),
    ];
    for (first, masked, payload, code) in cases {
        let mut client = Client::welcomed(&hub.http, &hub.token).await;
        client.frame(first, masked, &payload).await;
        assert_eq!(client.closed().await.0, code, "first byte {first:#x}");
    }
}

#[tokio::test]
async fn a_command_in_fragments_with_a_ping_between_them_works() {
    let hub = hub("").await;
    let mut client = Client::welcomed(&hub.http, &hub.token).await;
    client.frame(0x01, true, br#"{"op":"pi"#).await;
    client.frame(0x89, true, b"are you there").await;
    client.frame(0x00, true, b"ng\",\"id\":").await;
    client.frame(0x80, true, b"7}").await;
    let pong = client.json().await;
    assert_eq!((&pong["op"], &pong["id"]), (&json!("pong"), &json!(7)));
}

#[tokio::test]
async fn ten_faulty_commands_or_ten_too_fast_end_the_session() {
    let hub = hub("[limits]\ncommands_per_second = 20\n").await;
    let mut client = Client::welcomed(&hub.http, &hub.token).await;
    for n in 0..10 {
        client.text(&format!(r#"{{"op":"fly","id":{n}}}"#)).await;
        assert_eq!(client.json().await["code"], "unknown_op");
    }
    assert_eq!(client.closed().await.0, 4500);
    let mut client = Client::welcomed(&hub.http, &hub.token).await;
    for _ in 0..60 {
        client.text(r#"{"op":"ping"}"#).await;
    }
    assert_eq!(client.closed().await.0, 4003);
}

#[tokio::test]
async fn who_shows_no_sign_of_life_is_closed() {
    let hub = hub("[timeouts]\nping = \"100ms\"\nidle = \"600ms\"\n").await;
    let mut silent = Client::welcomed(&hub.http, &hub.token).await;
    let mut pings = 0;
    let code = loop {
        match silent.next_frame().await {
            Got::Ping => pings += 1,
            Got::Close(code, _) => break code,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code, 4002);
    let mut alive = Client::welcomed(&hub.http, &hub.token).await;
    assert!(pings >= 3, "{pings} pings in six intervals");
    let answered = tokio::time::timeout(std::time::Duration::from_millis(1500), alive.next()).await;
    assert!(answered.is_err(), "who answers pings stays: {answered:?}");
}

#[tokio::test]
async fn who_reads_nothing_is_closed_and_nobody_else_notices() {
    let text = "[timeouts]\nwrite_stall = \"500ms\"\nclose = \"300ms\"\n[limits]\noutbox_events = 64\n\
                [[provider]]\nkind = \"sim\"\nevents_per_second = 20000\n";
    let hub = hub(text).await;
    let mut stuck = Client::welcomed(&hub.http, &hub.token).await;
    stuck.text(r#"{"op":"subscribe","channel":"quote","mode":"every","symbols":["*"]}"#).await;
    let mut healthy = Client::welcomed(&hub.http, &hub.token).await;
    healthy.text(r#"{"op":"subscribe","channel":"trade","symbols":["SIM:AAA-USD"]}"#).await;
    healthy.until("op", "subscribed").await;
    let mut last = healthy.until("ch", "trade").await["seq"].as_u64().unwrap();
    while !hub.metrics().contains("tickhub_sessions_closed_total{transport=\"websocket\",reason=\"slow_consumer\"} 1") {
        let trade = healthy.json().await;
        assert_eq!(trade["ch"], "trade", "no gap for the healthy: {trade}");
        let seq = trade["seq"].as_u64().unwrap();
        assert_eq!(seq, last + 1);
        last = seq;
    }
}

#[tokio::test]
async fn a_subject_has_as_many_sessions_as_its_role_allows() {
    let (text, authenticator) = keyed("[auth.roles.viewer]\nconnections = 2\n");
    let hub = hub(&text).await;
    let token = sign(&authenticator, "ann", 60, &[]);
    let first = Client::welcomed(&hub.http, &token).await;
    let _second = Client::welcomed(&hub.http, &token).await;
    let mut third = Client::open(&hub.http, PRICES, &[&format!("Authorization: Bearer {token}")]).await;
    assert_eq!(third.closed().await.0, 4006);
    let _other = Client::welcomed(&hub.http, &sign(&authenticator, "bob", 60, &[])).await;
    drop(first);
    // The place is free once the hub has seen the first one go.
    while hub.metrics().matches("reason=\"lost\"} 1").count() == 0 {
        tokio::task::yield_now().await;
    }
    let _again = Client::welcomed(&hub.http, &token).await;
}

#[tokio::test]
async fn a_url_subscribes_for_tools_that_cannot_send() {
    let hub = hub("").await;
    let path = format!("{PRICES}?symbols=SIM:AAA-USD,SIM:AAB-USD&channels=quote&token={}", hub.token);
    let mut client = Client::open(&hub.http, &path, &[]).await;
    assert_eq!(client.json().await["op"], "welcome");
    let subscribed = client.json().await;
    assert_eq!(subscribed["op"], "subscribed");
    assert_eq!(subscribed["accepted"].as_array().unwrap().len(), 2);
    assert!(subscribed.get("id").is_none());
    let quote = client.until("ch", "quote").await;
    assert!(quote["bid"].is_string() && quote["rx"].is_string(), "{quote}");
}

#[tokio::test]
async fn patterns_catch_instruments_that_appear_later() {
    let text = "[[provider]]\nkind = \"sim\"\ninstruments = 2\nlate_instruments = 3\nlate_after = \"1s\"\n";
    let hub = hub(text).await;
    let mut client = Client::welcomed(&hub.http, &hub.token).await;
    client.text(r#"{"op":"subscribe","id":1,"channel":"trade","symbols":["SIM:*"]}"#).await;
    let first = client.until("op", "subscribed").await;
    let mut known: Vec<String> = ids(&first);
    while known.len() < 5 {
        let message = client.json().await;
        if message["op"] == "subscribed" {
            assert!(message.get("id").is_none());
            assert_eq!(message["accepted"][0]["pattern"], "SIM:*");
            known.extend(ids(&message));
        } else if message["ch"] == "trade" {
            let id = message["sym"].as_str().unwrap().to_owned();
            assert!(known.contains(&id), "{id} before its announcement");
        }
    }
}

fn ids(subscribed: &Value) -> Vec<String> {
    subscribed["accepted"].as_array().unwrap().iter().map(|a| a["symbol"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn who_comes_back_goes_on_without_a_hole() {
    let hub = hub("[[provider]]\nkind = \"sim\"\ninstruments = 3\n").await;
    let mut client = Client::welcomed(&hub.http, &hub.token).await;
    client.text(r#"{"op":"subscribe","id":1,"channel":"trade","symbols":["SIM:AAA-USD"]}"#).await;
    let subscribed = client.until("op", "subscribed").await;
    let epoch = subscribed["epoch"].as_str().unwrap().to_owned();
    let mut last = 0;
    for _ in 0..5 {
        last = client.until("ch", "trade").await["seq"].as_u64().unwrap();
    }
    drop(client);
    let mut watcher = Client::welcomed(&hub.http, &hub.token).await;
    watcher.text(r#"{"op":"subscribe","channel":"trade","symbols":["SIM:AAA-USD"]}"#).await;
    while watcher.until("ch", "trade").await["seq"].as_u64().unwrap() < last + 5 {}
    let mut client = Client::welcomed(&hub.http, &hub.token).await;
    let resume = json!({"op":"subscribe","id":2,"channel":"trade","symbols":["SIM:AAA-USD"],
        "resume":{"epoch":epoch,"seq":{"SIM:AAA-USD":last}}});
    client.text(&resume.to_string()).await;
    client.until("op", "subscribed").await;
    for expected in last + 1..last + 20 {
        let trade = client.json().await;
        assert_eq!(trade["seq"], expected, "{trade}");
        assert!(trade.get("snap").is_none());
    }
}

#[tokio::test]
async fn a_drain_says_goodbye_to_everyone_and_ends() {
    let mut hub = hub("[timeouts]\ndrain = \"300ms\"\n").await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = Client::welcomed(&hub.http, &hub.token).await;
        client.text(r#"{"op":"subscribe","channel":"quote","symbols":["*"],"max_rate":1}"#).await;
        clients.push(client);
    }
    let watched = tokio::spawn(async move {
        for mut client in clients {
            let (code, reason) = client.closed().await;
            assert_eq!(code, 1001);
            let wait: u64 = reason.strip_prefix("retry_after_ms=").unwrap().parse().unwrap();
            assert!((1..=300).contains(&wait), "{reason}");
        }
    });
    hub.drain().await;
    watched.await.unwrap();
}
