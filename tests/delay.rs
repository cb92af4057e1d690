//! Delayed data over real sockets: a short delay, and live subscribers beside the delayed ones.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use support::client::{Client, upgrade};
use support::{TestHub, hub};
use tickhub::auth::{Authenticator, TokenRequest};
use tickhub::config::Config;
use tickhub::time;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PRICES: &str = "/api/v1/ws/prices";
const SECRET: &str = "a secret that is long enough for HS256";
const DELAY_NS: i64 = 2_000_000_000;

/// A hub with a delayed role, and what signs its tokens.
async fn delayed_hub(provider: &str) -> (TestHub, Authenticator) {
    let text = format!(
        "[[auth.keys]]\nkid = \"k1\"\nsecret = \"{SECRET}\"\n[auth.roles.late]\nsymbols = [\"SIM:*\"]\ndelay = \"2s\"\n\
         [auth.roles.later]\nsymbols = [\"SIM:*\"]\ndelay = \"1h\"\n[delay]\nevents_per_second = 500\n\
         [[provider]]\nkind = \"sim\"\ninstruments = 3\nevents_per_second = 200\n{provider}"
    );
    let config = Config::read(Some(("test.toml", &text)), std::iter::empty()).unwrap();
    (hub(&text).await, Authenticator::new(&config.auth, None).unwrap())
}

fn token(authenticator: &Authenticator, role: &str) -> String {
    let request = TokenRequest { role: role.to_owned(), ..tickhub::auth::DevelopmentKey::token_request() };
    authenticator.sign(&request, time::wall()).unwrap()
}

fn subscribe(id: u64, channel: &str) -> String {
    json!({"op":"subscribe","id":id,"channel":channel,"symbols":["SIM:*"],"mode":"every"}).to_string()
}

/// Status and body of a request.
async fn get(hub: &TestHub, path: &str, token: &str) -> (u16, Value, String) {
    let mut stream = TcpStream::connect(&hub.http).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap(), head.to_ascii_lowercase())
}

/// An event's stream and number.
fn key(event: &Value) -> (String, String, u64) {
    let text = |name: &str| event[name].as_str().unwrap().to_owned();
    (text("ch"), text("sym"), event["seq"].as_u64().unwrap())
}

/// Events up to and with number `last` of each of `streams` streams; none is early by the wall clock.
async fn events(client: &mut Client, last: u64, streams: usize, delay: i64) -> BTreeMap<(String, String, u64), String> {
    let mut events = BTreeMap::new();
    let mut done = std::collections::BTreeSet::new();
    while done.len() < streams {
        let event = client.json().await;
        if event["op"] == "gap" {
            panic!("nothing is lost here: {event}");
        }
        if event["seq"].is_null() || event["snap"] == true {
            continue;
        }
        let received: i64 = event["rx"].as_str().unwrap().parse().unwrap();
        assert!(time::wall().0 - received >= delay, "{event} is early");
        let (channel, symbol, seq) = key(&event);
        if seq >= last {
            done.insert((channel.clone(), symbol.clone()));
        }
        events.insert((channel, symbol, seq), event.to_string());
    }
    events
}

#[tokio::test]
async fn two_subscribers_side_by_side_see_the_same_so_much_apart() {
    let (hub, authenticator) = delayed_hub("").await;
    let (live, late) = (token(&authenticator, "viewer"), token(&authenticator, "late"));
    let mut live = Client::welcomed(&hub.http, &live).await;
    let mut delayed = Client::open(&hub.http, PRICES, &[&format!("Authorization: Bearer {late}")]).await;
    assert_eq!(delayed.json().await["limits"]["delay_ms"], 2_000);
    for (id, channel) in (1..).zip(["quote", "trade", "ticker", "book"]) {
        live.text(&subscribe(id, channel)).await;
        delayed.text(&subscribe(id, channel)).await;
    }
    // Twelve streams: four channels of three instruments.
    let was = events(&mut live, 20, 12, 0).await;
    let is = events(&mut delayed, 20, 12, DELAY_NS).await;
    let both: Vec<_> = is.keys().filter(|key| was.contains_key(*key)).collect();
    assert!(both.len() > 200, "{} of {} and {}", both.len(), is.len(), was.len());
    for key in both {
        assert_eq!(is[key], was[key], "the same bytes under the same number");
    }
    // There is no hole in what the delayed one got.
    for stream in is.keys().map(|(channel, symbol, _)| (channel, symbol)).collect::<std::collections::BTreeSet<_>>() {
        let of = |(key, _): (&(String, String, u64), &String)| ((&key.0, &key.1) == stream).then_some(key.2);
        let numbers: Vec<u64> = is.iter().filter_map(of).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{stream:?} {numbers:?}");
    }
    assert!(hub.metrics().contains("tickhub_delay_dropped_total{delay=\"2s\",feed_thread=\"0\"} 0"));
}

#[tokio::test]
async fn who_authenticates_in_band_goes_to_the_delayed_world_before_anything_is_told() {
    let (hub, authenticator) = delayed_hub("").await;
    // One whose data is an hour away, and so empty, and who must not be told of a single instrument.
    let later = token(&authenticator, "later");
    let path = format!("{PRICES}?symbols=SIM:AAA-USD&channels=quote");
    let mut client = Client::open(&hub.http, &path, &[]).await;
    client.text(r#"{"op":"ping","id":1}"#).await;
    assert_eq!(client.json().await["code"], "unauthenticated");
    // All at once: what stands behind the credential moves with it.
    client.text(&json!({"op":"auth","id":2,"token":later}).to_string()).await;
    client.text(&subscribe(3, "trade")).await;
    client.text(&subscribe(4, "book")).await;
    client.text(r#"{"op":"ping","id":5}"#).await;
    let ok = client.json().await;
    assert_eq!((&ok["op"], &ok["id"]), (&json!("ok"), &json!(2)));
    let welcome = client.json().await;
    assert_eq!((&welcome["op"], &welcome["limits"]["delay_ms"]), (&json!("welcome"), &json!(3_600_000)));
    let by_url = client.json().await;
    assert_eq!(by_url["rejected"][0]["code"], "unknown_symbol", "{by_url}");
    for id in [3, 4] {
        let answer = client.json().await;
        assert_eq!((&answer["id"], &answer["accepted"], &answer["rejected"]), (&json!(id), &json!([]), &json!([])));
        let status = client.json().await;
        assert_eq!((&status["ch"], &status["state"]), (&json!("status"), &json!("down")), "{status}");
    }
    assert_eq!(client.json().await["op"], "pong");
    // The worker that it came from has forgotten it, and a worker of its own has it.
    let moved = "tickhub_sessions_closed_total{transport=\"websocket\",reason=\"moved\"} 1";
    assert!(hub.metrics().contains(moved), "{}", hub.metrics());
    // Meanwhile the live world goes on, and nothing of it comes here.
    let mut live = Client::welcomed(&hub.http, &token(&authenticator, "viewer")).await;
    live.text(&subscribe(1, "trade")).await;
    events(&mut live, 20, 3, 0).await;
    client.text(r#"{"op":"ping","id":6}"#).await;
    let next = client.json().await;
    assert_eq!((&next["op"], &next["id"]), (&json!("pong"), &json!(6)), "{next}");
}

#[tokio::test]
async fn a_message_that_is_cut_by_the_move_arrives_whole() {
    let (hub, authenticator) = delayed_hub("").await;
    let mut client = Client::open(&hub.http, PRICES, &[]).await;
    // A command behind the credential comes in two fragments, the first of them before the move.
    let auth = json!({"op":"auth","id":1,"token":token(&authenticator, "later")}).to_string();
    client.frame(0x81, true, auth.as_bytes()).await;
    client.frame(0x01, true, br#"{"op":"pi"#).await;
    assert_eq!(client.json().await["op"], "ok");
    assert_eq!(client.json().await["op"], "welcome");
    client.frame(0x80, true, br#"ng","id":9}"#).await;
    let pong = client.json().await;
    assert_eq!((&pong["op"], &pong["id"]), (&json!("pong"), &json!(9)));
}

#[tokio::test]
async fn a_renewal_cannot_change_the_delay() {
    let (hub, authenticator) = delayed_hub("").await;
    let (live, late, later) =
        (token(&authenticator, "viewer"), token(&authenticator, "late"), token(&authenticator, "later"));
    for (first, other) in [(&live, &late), (&late, &live), (&late, &later)] {
        let mut client = Client::welcomed(&hub.http, first).await;
        client.text(&json!({"op":"auth","id":1,"token":other}).to_string()).await;
        let refused = client.answer(1).await;
        assert_eq!((&refused["op"], &refused["code"]), (&json!("error"), &json!("invalid_token")));
        assert!(refused["message"].as_str().unwrap().contains("another delay"), "{refused}");
        // The session goes on as it was, and a token like its own renews it.
        client.text(&json!({"op":"auth","id":2,"token":first}).to_string()).await;
        assert_eq!(client.answer(2).await["op"], "ok");
    }
}

#[tokio::test]
async fn what_a_delayed_caller_asks_by_http_is_answered_from_then() {
    let (hub, authenticator) = delayed_hub("late_instruments = 1\nlate_after = \"1ms\"\n").await;
    let (live, later) = (token(&authenticator, "viewer"), token(&authenticator, "later"));
    let list = "/api/v1/instruments";
    let one = "/api/v1/instruments/SIM:AAA-USD";
    // Wait until live has a value of the instrument.
    for _ in 0..600 {
        if get(&hub, &format!("{one}/ticker"), &live).await.0 == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(get(&hub, &format!("{one}/ticker"), &live).await.0, 200);
    assert!(get(&hub, list, &live).await.1["instruments"].as_array().unwrap().len() >= 3);

    // An hour ago there was nothing: what exists now reads like what never will.
    assert_eq!(get(&hub, list, &later).await.1["instruments"], json!([]));
    for path in ["", "/ticker"] {
        let (status, there, head) = get(&hub, &format!("{one}{path}"), &later).await;
        let (other_status, never, other_head) =
            get(&hub, &format!("/api/v1/instruments/SIM:NO-SUCH{path}"), &later).await;
        assert_eq!((status, &there["error_code"]), (404, &json!("unknown_symbol")));
        assert_eq!((other_status, &never["error_code"]), (404, &json!("unknown_symbol")));
        assert!(!head.contains("etag") && !other_head.contains("etag"));
        assert_eq!(there["message"].as_str().unwrap().replace("AAA-USD", "NO-SUCH"), never["message"]);
    }
    let (status, health, _) = get(&hub, "/api/v1/health", &later).await;
    let health = if status == 200 { health } else { health["details"].clone() };
    assert_eq!((&health["instruments"], &health["feeds"][0]["state"]), (&json!(0), &json!("down")));
    assert_eq!(get(&hub, "/api/v1/health", &live).await.1["feeds"][0]["state"], "live");

    // Two seconds ago there was something; its number is never ahead of live's.
    let late = token(&authenticator, "late");
    let mut seen = None;
    for _ in 0..600 {
        let (status, ticker, head) = get(&hub, &format!("{one}/ticker"), &late).await;
        if status == 200 {
            seen = Some((ticker, head));
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (ticker, head) = seen.expect("a value, once the delay has passed");
    let received: i64 = ticker["rx"].as_str().unwrap().parse().unwrap();
    assert!(time::wall().0 - received >= DELAY_NS);
    let seq = ticker["seq"].as_u64().unwrap();
    assert!(head.contains(&format!(".{seq}\"")), "the tag is the delayed value's: {head}");
    let last = get(&hub, one, &live).await.1["seq"]["ticker"].as_u64().unwrap();
    assert!(seq < last, "{seq} is behind {last}");
}

#[tokio::test]
async fn a_claim_may_ask_for_more_delay_and_never_for_less() {
    let (hub, authenticator) = delayed_hub("").await;
    let with = |role: &str, delay: u64| {
        let mut request = TokenRequest { role: role.to_owned(), ..tickhub::auth::DevelopmentKey::token_request() };
        request.narrowing.delay = Some(Duration::from_secs(delay));
        authenticator.sign(&request, time::wall()).unwrap()
    };
    for (role, asked, milliseconds) in [("viewer", 1, 2_000), ("late", 0, 2_000), ("late", 3, 3_600_000)] {
        let bearer = format!("Authorization: Bearer {}", with(role, asked));
        let mut client = Client::open(&hub.http, PRICES, &[&bearer]).await;
        assert_eq!(client.json().await["limits"]["delay_ms"], milliseconds, "{role} {asked}");
    }
    let bearer = format!("Authorization: Bearer {}", with("viewer", 3_601));
    let (status, ..) = upgrade(&hub.http, PRICES, &[&bearer]).await;
    assert_eq!(status, 401, "there is no world of so much delay, and less is no answer");
}

#[tokio::test]
async fn a_drain_says_goodbye_to_the_delayed_too() {
    let (mut hub, authenticator) = delayed_hub("").await;
    let mut client = Client::welcomed(&hub.http, &token(&authenticator, "late")).await;
    client.text(r#"{"op":"ping","id":1}"#).await;
    assert_eq!(client.answer(1).await["op"], "pong");
    hub.drain().await;
    assert_eq!(client.closed().await.0, 1001);
}
