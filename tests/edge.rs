//! The hub's edge over real sockets: who is let in, as whom, and how many of them. Clients have
//! addresses of their own: all of 127.0.0.0/8 is this machine.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use support::client::{Client, Got, PATIENCE, upgrade_on};
use support::{TestHub, hub};
use tickhub::auth::Authenticator;
use tickhub::config::Config;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

const PRICES: &str = "/api/v1/ws/prices";
const SECRET: &str = "a secret that is long enough for HS256";

/// A connection from an address of this machine.
async fn from(hub: &TestHub, ip: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
    socket.connect(hub.http.parse().unwrap()).await.unwrap()
}

/// Everything that comes until the other side ends.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A reset ends it as well.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut text)).await.expect("in time");
    String::from_utf8_lossy(&text).into_owned()
}

/// The answer to what is sent on a connection of its own, which is not used again.
async fn ask(hub: &TestHub, ip: &str, sent: &str) -> String {
    let mut stream = from(hub, ip).await;
    let _ = stream.write_all(sent.as_bytes()).await;
    rest(&mut stream).await
}

/// The same until there is an answer: one that is turned away before it has asked may find its
/// connection reset, and what it was told lost.
async fn answered(hub: &TestHub, ip: &str, sent: &str) -> String {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = ask(hub, ip, sent).await;
        if !answer.is_empty() {
            return answer;
        }
        assert!(tokio::time::Instant::now() < end, "every answer is lost");
    }
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n{headers}\r\n")
}

#[track_caller]
fn refused(answer: &str, status: u16, code: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    let envelope: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
    assert_eq!(envelope["error_code"], code, "{answer}");
    let head = head.to_ascii_lowercase();
    assert!(head.contains(&format!("x-request-id: {}", envelope["request_id"].as_str().unwrap())), "{answer}");
    assert!(head.contains("x-content-type-options: nosniff"), "{answer}");
    assert_eq!(head.contains("retry-after: "), [429, 503].contains(&status), "{answer}");
}

fn metric(hub: &TestHub, line: &str) -> f64 {
    let metrics = hub.metrics();
    metrics.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok()).unwrap_or(0.0)
}

fn turned(hub: &TestHub, reason: &str) -> f64 {
    metric(hub, &format!("tickhub_http_refusals_total{{listener=\"public\",reason=\"{reason}\"}}"))
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "it never comes: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// A configuration with a key of its own, and a way to sign with it.
fn keyed(more: &str) -> (String, Authenticator) {
    let text = format!("[[auth.keys]]\nkid = \"k1\"\nsecret = \"{SECRET}\"\n{more}");
    let config = Config::read(Some(("test.toml", &text)), std::iter::empty()).unwrap();
    (text, Authenticator::new(&config.auth, None).unwrap())
}

fn sign(authenticator: &Authenticator, subject: &str) -> String {
    let mut request = tickhub::auth::DevelopmentKey::token_request();
    request.subject = subject.to_owned();
    request.ttl = std::time::Duration::from_secs(600);
    authenticator.sign(&request, tickhub::time::wall()).unwrap()
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_no_other_notices() {
    let hub = hub("[limits.per_address]\nexempt = []\nconnections = 3\n").await;
    let bearer = format!("Authorization: Bearer {}", hub.token);
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let (status, head, stream, early) = upgrade_on(from(&hub, "127.0.0.2").await, PRICES, &[&bearer]).await;
        assert_eq!(status, 101, "{head}");
        sessions.push((stream, early));
    }
    refused(&answered(&hub, "127.0.0.2", &get("/api/v1/openapi.json", "")).await, 429, "rate_limited");
    assert!(turned(&hub, "address_connections") >= 1.0);
    assert!(ask(&hub, "127.0.0.3", &get("/api/v1/openapi.json", "")).await.starts_with("HTTP/1.1 200"));
    sessions.pop();
    // Its place is free once the hub has seen that it is gone.
    let end = tokio::time::Instant::now() + PATIENCE;
    while !ask(&hub, "127.0.0.2", &get("/api/v1/openapi.json", "")).await.starts_with("HTTP/1.1 200") {
        assert!(tokio::time::Instant::now() < end, "the place is never free");
    }
}

#[tokio::test]
async fn an_address_makes_so_many_connections_and_requests_a_second() {
    let text = "[limits.per_address]\nexempt = []\nhandshakes_per_second = 1\nhandshakes_burst = 5\n";
    let hub = hub(text).await;
    let mut last = String::new();
    for _ in 0..100 {
        last = answered(&hub, "127.0.0.2", &get("/api/v1/openapi.json", "")).await;
        if !last.starts_with("HTTP/1.1 200") {
            break;
        }
    }
    refused(&last, 429, "rate_limited");
    assert!(turned(&hub, "address_handshakes") >= 1.0);
    // On one connection it is no different, and the connection lives.
    let mut stream = from(&hub, "127.0.0.3").await;
    let request = "GET /api/v1/openapi.json HTTP/1.1\r\nHost: hub\r\n\r\n";
    for _ in 0..60 {
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    stream.write_all(get("/api/v1/openapi.json", "").as_bytes()).await.unwrap();
    let answers = rest(&mut stream).await;
    assert!(answers.contains("HTTP/1.1 200") && answers.contains("HTTP/1.1 429"), "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 61);
}

#[tokio::test]
async fn the_hub_takes_so_many_connections_a_second() {
    let hub = hub("[limits]\nhandshakes_per_second = 2\n").await;
    let mut last = String::new();
    for _ in 0..200 {
        last = answered(&hub, "127.0.0.1", &get("/api/v1/openapi.json", "")).await;
        if !last.starts_with("HTTP/1.1 200") {
            break;
        }
    }
    refused(&last, 503, "overloaded");
    assert!(turned(&hub, "handshakes_max") >= 1.0);
}

/// Half-open and silent sockets by the hundred, with no deadline to help: whoever has few gets in.
#[tokio::test]
async fn honest_clients_get_in_while_strangers_hold_all_they_can() {
    let text = "[timeouts]\nheader = \"1h\"\nauthentication = \"1h\"\nhandshake = \"1h\"\n\
                [limits]\nunauthenticated = 40\n[limits.per_address]\nexempt = []\nunauthenticated = 25\n";
    let hub = hub(text).await;
    let mut held = Vec::new();
    for ip in ["127.0.0.2", "127.0.0.3"] {
        for n in 0..100 {
            let mut stream = from(&hub, ip).await;
            // Some say nothing, some begin a request that never ends.
            if n % 2 == 0 {
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost:").await;
            }
            held.push(stream);
        }
    }
    let open = || metric(&hub, "tickhub_connections{listener=\"public\"}");
    let turned_away = || {
        ["address_unauthenticated", "reserved", "connections_max"]
            .iter()
            .map(|reason| turned(&hub, reason))
            .sum::<f64>()
    };
    until("all are judged", || open() + turned_away() >= 200.0).await;
    // The first has as many as an address may; the second a few more, and then what is left is kept.
    assert_eq!((open(), turned(&hub, "address_unauthenticated"), turned(&hub, "reserved")), (32.0, 75.0, 93.0));

    let bearer = format!("Authorization: Bearer {}", hub.token);
    let mut sessions = Vec::new();
    for n in 0..50 {
        let ip = format!("127.0.1.{n}");
        assert!(ask(&hub, &ip, &get("/api/v1/openapi.json", "")).await.starts_with("HTTP/1.1 200"));
        let (status, head, stream, early) = upgrade_on(from(&hub, &ip).await, PRICES, &[&bearer]).await;
        assert_eq!(status, 101, "{head}");
        sessions.push(Client::of(stream, early));
    }
    for session in &mut sessions {
        assert_eq!(session.json().await["op"], "welcome");
        session.text(r#"{"op":"ping","id":1}"#).await;
        assert_eq!(session.json().await["op"], "pong");
    }
    // Those who show their credential in band are strangers until then.
    let (status, _, stream, early) = upgrade_on(from(&hub, "127.0.2.1").await, PRICES, &[]).await;
    assert_eq!(status, 101);
    let mut late = Client::of(stream, early);
    late.text(&json!({"op":"auth","id":1,"token":hub.token}).to_string()).await;
    late.until("op", "welcome").await;
    assert!(open() >= 32.0, "the strangers still hold theirs");
}

/// Strangers with as many addresses as there are places: the one that has waited longest gives way.
#[tokio::test]
async fn strangers_of_many_addresses_do_not_keep_a_client_out_for_long() {
    let text = "[timeouts]\nheader = \"1h\"\n[limits]\nunauthenticated = 16\n[limits.per_address]\nexempt = []\n";
    let hub = hub(text).await;
    let mut held = Vec::new();
    for n in 0..16 {
        let mut stream = from(&hub, &format!("127.0.3.{n}")).await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
        held.push(stream);
    }
    until("all places are held", || metric(&hub, "tickhub_connections{listener=\"public\"}") == 16.0).await;
    let end = tokio::time::Instant::now() + PATIENCE;
    let mut answer = String::new();
    while !answer.starts_with("HTTP/1.1 200") {
        assert!(tokio::time::Instant::now() < end, "nobody gives way: {answer}");
        answer = ask(&hub, "127.0.0.9", &get("/api/v1/openapi.json", "")).await;
    }
    until("it is counted", || turned(&hub, "displaced") >= 1.0).await;
    let mut oldest = held.remove(0);
    assert_eq!(rest(&mut oldest).await, "");
}

#[tokio::test]
async fn sessions_without_a_credential_are_counted_by_address_until_they_show_one() {
    let text = "[timeouts]\nauthentication = \"1h\"\n[limits.per_address]\nexempt = []\nunauthenticated = 4\n";
    let hub = hub(text).await;
    let mut strangers = Vec::new();
    for _ in 0..3 {
        let (status, head, stream, early) = upgrade_on(from(&hub, "127.0.0.2").await, PRICES, &[]).await;
        assert_eq!(status, 101, "{head}");
        strangers.push(Client::of(stream, early));
        until("the connection is a session", || metric(&hub, "tickhub_connections{listener=\"public\"}") == 0.0).await;
    }
    // The fourth place is the connection's that asks: there is none for its session.
    let (status, head, ..) = upgrade_on(from(&hub, "127.0.0.2").await, PRICES, &[]).await;
    assert_eq!(status, 429, "{head}");
    strangers[0].text(&json!({"op":"auth","id":1,"token":hub.token}).to_string()).await;
    strangers[0].until("op", "welcome").await;
    until("the connection is gone", || metric(&hub, "tickhub_connections{listener=\"public\"}") == 0.0).await;
    let (status, head, ..) = upgrade_on(from(&hub, "127.0.0.2").await, PRICES, &[]).await;
    assert_eq!(status, 101, "{head}");
}

#[tokio::test]
async fn only_a_trusted_proxy_says_who_is_there() {
    let text = "trusted_proxies = [\"127.0.0.5\"]\nproxy_protocol = \"any\"\n\
                [limits.per_address]\nexempt = []\nconnections = 2\n";
    let hub = hub(text).await;
    let bearer = format!("Authorization: Bearer {}", hub.token);
    let header = |client: &str| format!("PROXY TCP4 {client} 10.0.0.1 4711 80\r\n");
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let mut stream = from(&hub, "127.0.0.5").await;
        stream.write_all(header("203.0.113.7").as_bytes()).await.unwrap();
        let (status, head, stream, early) = upgrade_on(stream, PRICES, &[&bearer]).await;
        assert_eq!(status, 101, "{head}");
        sessions.push((stream, early));
    }
    let health = get("/api/v1/openapi.json", "");
    let full = answered(&hub, "127.0.0.5", &(header("203.0.113.7") + &health)).await;
    refused(&full, 429, "rate_limited");
    let other = ask(&hub, "127.0.0.5", &(header("203.0.113.8") + &health)).await;
    assert!(other.starts_with("HTTP/1.1 200"), "{other}");
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\x0a\0\0\x01\x12\x67\0\x50";
    let mut stream = from(&hub, "127.0.0.5").await;
    // In pieces, as a network would.
    for piece in [&binary[..3], &binary[3..14], &binary[14..20], &binary[20..], health.as_bytes()] {
        stream.write_all(piece).await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let itself = ask(&hub, "127.0.0.5", &("PROXY UNKNOWN\r\n".to_owned() + &health)).await;
    assert!(itself.starts_with("HTTP/1.1 200"), "its own checks are never bounded: {itself}");

    // Without the header that is due it is closed; from anyone else the header is no HTTP.
    assert_eq!(ask(&hub, "127.0.0.5", &health).await, "");
    assert_eq!(turned(&hub, "proxy_header"), 1.0);
    refused(&ask(&hub, "127.0.0.6", &(header("203.0.113.9") + &health)).await, 400, "bad_request");
    assert!(ask(&hub, "127.0.0.6", &health).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_proxy_that_never_says_who_is_there_is_not_waited_for() {
    let text = "trusted_proxies = [\"127.0.0.5\"]\nproxy_protocol = \"v1\"\n[timeouts]\nheader = \"100ms\"\n";
    let hub = hub(text).await;
    let mut stream = from(&hub, "127.0.0.5").await;
    stream.write_all(b"PROXY TCP4 ").await.unwrap();
    assert_eq!(rest(&mut stream).await, "");
    assert_eq!(turned(&hub, "proxy_timeout"), 1.0);
}

#[tokio::test]
async fn a_header_of_proxies_counts_from_its_end_and_from_proxies_only() {
    let text = "trusted_proxies = [\"127.0.0.5\"]\n[limits.per_address]\nexempt = []\nconnections = 2\n";
    let hub = hub(text).await;
    let bearer = format!("Authorization: Bearer {}", hub.token);
    let as_client = async |ip: &str, list: &str| {
        let forwarded = format!("X-Forwarded-For: {list}");
        upgrade_on(from(&hub, ip).await, PRICES, &[&bearer, &forwarded]).await
    };
    let mut sessions = Vec::new();
    for list in ["203.0.113.7", "198.51.100.1, 203.0.113.7"] {
        let (status, head, stream, _) = as_client("127.0.0.5", list).await;
        assert_eq!(status, 101, "{head}");
        sessions.push(stream);
    }
    for list in ["203.0.113.7", "203.0.113.99, 203.0.113.7", "\", 203.0.113.7", "203.0.113.99,203.0.113.7, 127.0.0.5"] {
        let (status, head, ..) = as_client("127.0.0.5", list).await;
        assert_eq!(status, 429, "{list}: {head}");
    }
    assert_eq!(as_client("127.0.0.5", "203.0.113.8").await.0, 101);
    // Who is no proxy is who it is, whatever it says.
    for n in 0..2 {
        let (status, head, stream, _) = as_client("127.0.0.6", &format!("203.0.113.{n}")).await;
        assert_eq!(status, 101, "{head}");
        sessions.push(stream);
    }
    let third = get("/api/v1/openapi.json", "X-Forwarded-For: 203.0.113.50\r\n");
    refused(&answered(&hub, "127.0.0.6", &third).await, 429, "rate_limited");
}

#[tokio::test]
async fn a_foreign_page_opens_nothing_and_reads_nothing() {
    let hub = hub("allowed_origins = [\"self\", \"localhost\", \"https://app.example.com\"]\n").await;
    let bearer = format!("Authorization: Bearer {}", hub.token);
    let own = format!("http://{}", hub.http);
    for (origin, status) in [
        ("https://evil.example", 403),
        ("null", 403),
        ("https://app.example.com.evil.example", 403),
        ("https://app.example.com", 101),
        ("http://localhost:5173", 101),
        (own.as_str(), 101),
    ] {
        let stream = TcpStream::connect(&hub.http).await.unwrap();
        let (got, head, ..) = upgrade_on(stream, PRICES, &[&bearer, &format!("Origin: {origin}")]).await;
        assert_eq!(got, status, "{origin}: {head}");
    }
    assert_eq!(turned(&hub, "origin"), 3.0);
    let with = |origin: &str| get("/api/v1/openapi.json", &format!("Origin: {origin}\r\n"));
    let allowed = ask(&hub, "127.0.0.1", &with("https://app.example.com")).await.to_ascii_lowercase();
    assert!(allowed.contains("access-control-allow-origin: https://app.example.com\r\n"), "{allowed}");
    assert!(allowed.contains("vary: origin") && !allowed.contains("allow-credentials"), "{allowed}");
    let foreign = ask(&hub, "127.0.0.1", &with("https://evil.example")).await.to_ascii_lowercase();
    assert!(foreign.starts_with("http/1.1 200") && !foreign.contains("access-control-allow"), "{foreign}");
    let preflight = |origin: &str| {
        get("/api/v1/instruments", &format!("Origin: {origin}\r\nAccess-Control-Request-Method: GET\r\n"))
            .replacen("GET", "OPTIONS", 1)
    };
    let asked = ask(&hub, "127.0.0.1", &preflight("https://app.example.com")).await.to_ascii_lowercase();
    assert!(
        asked.starts_with("http/1.1 204") && asked.contains("access-control-allow-headers: authorization"),
        "{asked}"
    );
    refused(&ask(&hub, "127.0.0.1", &preflight("https://evil.example")).await, 403, "origin_not_allowed");
    let post = with("https://evil.example").replacen("GET", "POST", 1);
    refused(&ask(&hub, "127.0.0.1", &post).await, 403, "origin_not_allowed");
}

#[tokio::test]
async fn the_sessions_of_a_subject_share_its_commands() {
    let (text, authenticator) = keyed("[limits.per_principal]\ncommands_per_second = 2\n");
    let hub = hub(&text).await;
    let (ann, bob) = (sign(&authenticator, "ann"), sign(&authenticator, "bob"));
    let mut sessions = [Client::welcomed(&hub.http, &ann).await, Client::welcomed(&hub.http, &ann).await];
    for session in &mut sessions {
        for id in 0..8 {
            session.text(&format!("{{\"op\":\"ping\",\"id\":{id}}}")).await;
        }
    }
    let mut limited = 0;
    for session in &mut sessions {
        for _ in 0..8 {
            limited += usize::from(session.json().await["code"] == "rate_limited");
        }
    }
    assert!(limited > 0, "16 commands in less than 7 s");
    let by_principal = "tickhub_rate_limited_total{limit=\"commands\",by=\"principal\"}";
    assert_eq!(metric(&hub, by_principal), limited as f64);
    let mut other = Client::welcomed(&hub.http, &bob).await;
    other.text(r#"{"op":"ping","id":1}"#).await;
    assert_eq!(other.json().await["op"], "pong");
}

#[tokio::test]
async fn the_sessions_of_a_subject_share_its_entries() {
    let (text, authenticator) = keyed("[limits.per_principal]\nsubscriptions = 3\n");
    let hub = hub(&text).await;
    let ann = sign(&authenticator, "ann");
    let mut one = Client::welcomed(&hub.http, &ann).await;
    let mut two = Client::welcomed(&hub.http, &ann).await;
    let subscribe = |id: u64, symbols: &[&str]| json!({"op":"subscribe","id":id,"channel":"status","symbols":symbols});
    one.text(&subscribe(1, &["SIM:AAA-USD", "SIM:AAB-USD"]).to_string()).await;
    assert_eq!(one.answer(1).await["accepted"].as_array().unwrap().len(), 2);
    two.text(&subscribe(1, &["SIM:AAA-USD", "SIM:AAB-USD"]).to_string()).await;
    let answer = two.answer(1).await;
    assert_eq!(answer["accepted"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!(answer["rejected"][0]["code"], "subscription_limit", "{answer}");
    assert_eq!(metric(&hub, "tickhub_rate_limited_total{limit=\"subscriptions\",by=\"principal\"}"), 1.0);
    one.text(r#"{"op":"unsubscribe","id":2,"channel":"status","symbols":["SIM:AAA-USD"]}"#).await;
    one.answer(2).await;
    two.text(&subscribe(2, &["SIM:AAB-USD"]).to_string()).await;
    assert_eq!(two.answer(2).await["accepted"].as_array().unwrap().len(), 1, "a place was given back");
    drop(one);
    let end = tokio::time::Instant::now() + PATIENCE;
    for id in 3.. {
        two.text(&subscribe(id, &["SIM:AAC-USD"]).to_string()).await;
        if two.answer(id).await["accepted"].as_array().is_some_and(|all| all.len() == 1) {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "who is gone gives nothing back");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn who_sends_too_many_bytes_is_closed() {
    let (text, authenticator) = keyed("[limits.per_principal]\nbytes_per_second = 65536\n");
    let hub_of_principal = hub(&text).await;
    let hub_of_address = hub("[limits.per_address]\nexempt = []\nbytes_per_second = 65536\n").await;
    let token = sign(&authenticator, "ann");
    for (hub, token, by) in
        [(&hub_of_principal, &token, "principal"), (&hub_of_address, &hub_of_address.token, "address")]
    {
        let mut client = Client::welcomed(&hub.http, token).await;
        for _ in 0..8 {
            client.text(&"x".repeat(60_000)).await;
        }
        let ended = loop {
            match client.next().await {
                Got::Json(_) => {}
                other => break other,
            }
        };
        // With that much unread behind it the close frame may be lost.
        assert!([Got::Lost, Got::Close(4003, "too many bytes".to_owned())].contains(&ended), "{ended:?}");
        let line = format!("tickhub_rate_limited_total{{limit=\"bytes\",by=\"{by}\"}}");
        until("it is counted", || metric(hub, &line) == 1.0).await;
    }
}

#[tokio::test]
async fn a_flood_of_pings_ends_the_session_that_sends_it() {
    let hub = hub("[limits]\ncommands_per_second = 20\n").await;
    let mut healthy = Client::welcomed(&hub.http, &hub.token).await;
    let mut client = Client::welcomed(&hub.http, &hub.token).await;
    for _ in 0..200 {
        client.frame(0x89, true, b"").await;
    }
    let ended = loop {
        match client.next().await {
            Got::Json(_) => {}
            other => break other,
        }
    };
    assert!([Got::Lost, Got::Close(4003, "too many commands".to_owned())].contains(&ended), "{ended:?}");
    healthy.text(r#"{"op":"ping","id":1}"#).await;
    assert_eq!(healthy.answer(1).await["op"], "pong");
}
