//! Every credential that was ever shown to a hub is looked for in everything that the hub wrote and
//! answered: logs in both forms and at the most talkative level, metrics, audit trail, ready file,
//! errors.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use support::client::{Client, Got, PATIENCE, upgrade};
use support::secrets::Secrets;
use tickhub::auth::{Authenticator, TokenRequest, new_api_key};
use tickhub::config::Config;
use tickhub::time::{duration_ns, mono};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PRICES: &str = "/api/v1/ws/prices";

/// The program itself, as it is started by people, and all that it was told.
struct Process {
    child: Running,
    folder: tempfile::TempDir,
    ready: Value,
    judge: Authenticator,
    api_key: String,
    secrets: Secrets,
    /// What it answered to those who showed a credential, good or bad.
    answers: Vec<u8>,
}

/// Ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let until = mono() + duration_ns(PATIENCE);
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(mono() < until, "it came in time");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

impl Process {
    fn start(format: &str, level: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut secrets = Secrets::default();
        let signing = [1, 2].map(|n| URL_SAFE_NO_PAD.encode(format!("signing secret number {n} of {format}")));
        fs::write(path("secret"), &signing[1]).unwrap();
        let chain_key = URL_SAFE_NO_PAD.encode(format!("the key of the trail's chain, {format}"));
        fs::write(path("audit.key"), format!("{chain_key}\n")).unwrap();
        fs::set_permissions(path("audit.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        secrets.add("the trail's key", &chain_key);
        let key = new_api_key("desk-1").unwrap();
        let api_key = secrecy::ExposeSecret::expose_secret(&key.key).to_owned();
        secrets.add("the first signing secret", &signing[0]);
        secrets.add("the second signing secret", &signing[1]);
        secrets.add_api_key("the API key", &api_key);
        secrets.add("the API key's hash", key.hash.to_string().rsplit('$').next().unwrap());
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nops_listen = \"127.0.0.1:0\"\nstate_dir = {:?}\n\
             [log]\nformat = \"{format}\"\nlevel = \"{level}\"\n[audit]\ndir = {:?}\nkey_file = {:?}\n\
             [[auth.keys]]\nkid = \"k1\"\nsecret = \"{}\"\n[[auth.keys]]\nkid = \"k2\"\nsecret_file = {:?}\n\
             [[auth.api_keys]]\nid = \"desk-1\"\nhash = \"{}\"\nowner = \"desk\"\nrole = \"analyst\"\n",
            path("state"),
            path("audit"),
            path("audit.key"),
            signing[0],
            path("secret"),
            key.hash
        );
        fs::write(path("hub.toml"), &text).unwrap();
        let config = Config::read(Some(("hub.toml", &text)), std::iter::empty()).unwrap();
        let judge = Authenticator::new(&config.auth, None).unwrap();
        let file = |name: &str| Stdio::from(fs::File::create(path(name)).unwrap());
        let child = Command::new(env!("CARGO_BIN_EXE_tickhub"))
            .args(["serve", "--config", path("hub.toml").to_str().unwrap()])
            .args(["--ready-file", path("ready.json").to_str().unwrap()])
            .env("RUST_BACKTRACE", "full")
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap();
        let child = Running(child);
        let ready = wait(|| serde_json::from_slice(&fs::read(path("ready.json")).ok()?).ok());
        Self { child, folder, ready, judge, api_key, secrets, answers: Vec::new() }
    }

    fn address(&self, of: &str) -> String {
        self.ready[of].as_str().unwrap().trim_start_matches("http://").to_owned()
    }

    fn sign(&mut self, subject: &str, ttl: u64, issued: i64) -> String {
        let request = TokenRequest {
            subject: subject.to_owned(),
            role: "viewer".to_owned(),
            ttl: Duration::from_secs(ttl),
            narrowing: Default::default(),
        };
        let at = tickhub::model::UnixNanos(tickhub::time::wall().0 + issued * 1_000_000_000);
        let token = self.judge.sign(&request, at).unwrap();
        self.secrets.add_token(&format!("the token of {subject}"), &token);
        token
    }

    /// One handshake with these headers, and what came of it.
    async fn handshake(&mut self, path: &str, headers: &[&str]) -> (u16, Option<Got>) {
        let address = self.address("http");
        let (status, head, mut stream, mut rest) = upgrade(&address, path, headers).await;
        self.answers.extend_from_slice(head.as_bytes());
        if status == 101 {
            let mut client = Client::open(&address, path, headers).await;
            let got = client.next().await;
            self.answers.extend_from_slice(format!("{got:?}\n").as_bytes());
            return (status, Some(got));
        }
        let length = head
            .to_ascii_lowercase()
            .split("content-length: ")
            .nth(1)
            .map_or(0, |rest| rest.split("\r\n").next().and_then(|length| length.parse().ok()).unwrap_or(0));
        while rest.len() < length && stream.read_buf(&mut rest).await.unwrap_or(0) > 0 {}
        self.answers.extend_from_slice(&rest);
        (status, None)
    }

    /// One request in full, as it is; the status and everything that was answered.
    async fn ask(&mut self, request: &str) -> u16 {
        let mut stream = TcpStream::connect(self.address("http")).await.unwrap();
        // A hub that has refused enough reads no further.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer in time");
        let _ = read;
        self.answers.extend_from_slice(&answer);
        String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    async fn get(&mut self, path: &str, header: &str) -> u16 {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n{header}\r\n\r\n")).await
    }

    async fn metrics(&self) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address("ops")).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    }

    /// Ends it as an operator does, once the metrics are taken.
    async fn end(mut self) -> Written {
        let metrics = self.metrics().await;
        let ready_file = fs::read(self.folder.path().join("ready.json")).unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.0.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.0.wait().unwrap();
        assert!(status.success(), "{status}");
        Written {
            folder: self.folder,
            metrics,
            ready_file,
            ready: self.ready,
            secrets: self.secrets,
            answers: self.answers,
        }
    }
}

/// What is left of it.
struct Written {
    folder: tempfile::TempDir,
    metrics: Vec<u8>,
    ready_file: Vec<u8>,
    ready: Value,
    secrets: Secrets,
    answers: Vec<u8>,
}

impl Written {
    fn search(mut self) {
        // The file holds a token of its own for whoever started the hub, and no other.
        self.secrets.assert_none_in("the ready file", &self.ready_file);
        self.secrets.add_token("the ready file's token", self.ready["token"].as_str().unwrap());
        let log = fs::read(self.folder.path().join("stderr")).unwrap();
        assert!(log.len() > 1000, "it logs: {}", String::from_utf8_lossy(&log));
        self.secrets.assert_none_in("the log", &log);
        self.secrets.assert_none_in("standard output", &fs::read(self.folder.path().join("stdout")).unwrap());
        assert!(
            String::from_utf8_lossy(&self.metrics).contains("tickhub_auth_refusals_total{reason=\"bad_signature\"}")
        );
        self.secrets.assert_none_in("the metrics", &self.metrics);
        assert!(self.answers.len() > 1000, "it answers");
        self.secrets.assert_none_in("an answer", &self.answers);
        let trail: Vec<u8> = trail(&self.folder.path().join("audit"));
        let text = String::from_utf8_lossy(&trail);
        for event in ["connected", "granted", "renewed", "refused", "ended", "hub_stopped"] {
            assert!(text.contains(&format!("\"event\":\"{event}\"")), "{event}: {text}");
        }
        self.secrets.assert_none_in("the audit trail", &trail);
    }
}

fn trail(dir: &Path) -> Vec<u8> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().flat_map(|file| fs::read(file).unwrap()).collect()
}

/// The same with its signature's first character another.
fn forged(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { "B" } else { "A" };
    format!("{signed}.{first}{}", &signature[1..])
}

/// Every place for a credential, with a good one.
async fn good_ones(hub: &mut Process) {
    for (subject, place) in [("ann", "header"), ("ben", "subprotocol"), ("cyd", "query"), ("dan", "in band")] {
        let token = hub.sign(subject, 60, 0);
        let (path, header) = match place {
            "header" => (PRICES.to_owned(), format!("Authorization: Bearer {token}")),
            "subprotocol" => (PRICES.to_owned(), format!("Sec-WebSocket-Protocol: tickhub.v1.json, bearer.{token}")),
            "query" => (format!("{PRICES}?token={token}&symbols=SIM:AAA-USD"), "X-Nothing: 1".to_owned()),
            _ => (PRICES.to_owned(), "X-Nothing: 1".to_owned()),
        };
        if place == "in band" {
            let mut client = Client::open(&hub.address("http"), &path, &[&header]).await;
            client.text(&json!({"op":"auth","id":1,"token":token}).to_string()).await;
            client.until("op", "welcome").await;
            let renewal = hub.sign(subject, 90, 0);
            client.text(&json!({"op":"auth","id":2,"token":renewal}).to_string()).await;
            assert_eq!(client.answer(2).await["op"], "ok");
            let other = hub.sign("somebody else", 60, 0);
            client.text(&json!({"op":"auth","id":3,"token":other}).to_string()).await;
            hub.answers.extend(client.answer(3).await.to_string().into_bytes());
            continue;
        }
        let (status, got) = hub.handshake(&path, &[&header]).await;
        assert!(status == 101 && matches!(&got, Some(Got::Json(welcome)) if welcome["op"] == "welcome"), "{place}");
        assert_eq!(hub.get("/api/v1/instruments", &format!("Authorization: Bearer {token}")).await, 200);
    }
    let key = format!("X-API-Key: {}", hub.api_key);
    assert_eq!(hub.handshake(PRICES, &[&key]).await.0, 101);
    assert_eq!(hub.get("/api/v1/instruments", &key).await, 200);
    let token = hub.ready["token"].as_str().unwrap().to_owned();
    assert_eq!(hub.handshake(PRICES, &[&format!("Authorization: Bearer {token}")]).await.0, 101);
}

/// Every place, with everything that can be wrong with one.
async fn bad_ones(hub: &mut Process) {
    let good = hub.sign("eve", 60, 0);
    let (signed, signature) = good.rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let oversized = format!("{}.{}", "oversized-credential".repeat(500), signature);
    hub.secrets.add("the oversized one", &oversized);
    let key = hub.api_key.clone();
    let wrong_key = format!("desk-1.{}", URL_SAFE_NO_PAD.encode([7; 32]));
    hub.secrets.add_api_key("a wrong key", &wrong_key);
    let bad = [
        forged(&good),
        hub.sign("too late", 60, -3600),
        hub.sign("too early", 60, 3600),
        signed,
        format!("{good}.{signature}"),
        format!("{}%", &good[..good.len() - 1]),
        key.clone(),
        format!("{good}, {good}"),
        format!("bearer.{good}"),
        wrong_key,
        oversized,
    ];
    for bad in &bad {
        let places = [
            (PRICES.to_owned(), format!("Authorization: Bearer {bad}")),
            (PRICES.to_owned(), format!("Authorization: Basic {bad}")),
            (PRICES.to_owned(), format!("X-API-Key: {bad}")),
            (PRICES.to_owned(), format!("Sec-WebSocket-Protocol: tickhub.v1.json, bearer.{bad}")),
            (PRICES.to_owned(), format!("Sec-WebSocket-Protocol: {bad}")),
            (PRICES.to_owned(), format!("Cookie: token={bad}")),
            (format!("{PRICES}?token={}", bad.replace(' ', "%20")), "X-Nothing: 1".to_owned()),
            (format!("{PRICES}?tokn={}", bad.replace(' ', "%20")), "X-Nothing: 1".to_owned()),
        ];
        for (path, header) in &places {
            // Open to whoever shows nothing: it says nothing, so there is nothing to wait for.
            if !header.starts_with("Cookie") && !header.starts_with("Authorization: Basic") {
                hub.handshake(path, &[header]).await;
            }
            hub.get("/api/v1/instruments", header).await;
        }
        let path = bad.replace(' ', "%20");
        hub.get(&format!("/api/v1/{path}"), "X-Nothing: 1").await;
        hub.get(&format!("/api/v1/instruments?token={path}"), "X-Nothing: 1").await;
        let mut client = Client::open(&hub.address("http"), PRICES, &[]).await;
        client.text(&json!({"op":"auth","id":1,"token":bad}).to_string()).await;
        hub.answers.extend(format!("{:?}", client.next().await).into_bytes());
    }
    // Requests that are none, with a credential in them.
    for request in [
        format!(
            "GET {PRICES} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {good}\r\nAuthorization: Bearer {good}\r\nConnection: close\r\n\r\n"
        ),
        format!("GET {PRICES} HTTP/1.1\r\nHost: hub\r\nAuthorization Bearer {good}\r\n\r\n"),
        format!("GET {PRICES}?token={good} HTTP/9.9\r\nHost: hub\r\n\r\n"),
        format!("{good} / HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n"),
        format!(
            "PUT /api/v1/instruments HTTP/1.1\r\nHost: hub\r\nX-API-Key: {key}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        ),
    ] {
        hub.ask(&request).await;
    }
    // Commands that are none.
    let mut client = Client::open(&hub.address("http"), PRICES, &[]).await;
    for text in [
        json!({"op":"auth","id":1,"tokens":good}).to_string(),
        json!({"op":"auth","id":1,"token":[good]}).to_string(),
        format!("{{\"op\":\"auth\",\"id\":1,\"token\":\"{good}"),
    ] {
        client.text(&text).await;
        assert!(matches!(client.next().await, Got::Json(error) if error["op"] == "error"));
    }
}

async fn story(format: &str, level: &str) {
    let mut hub = Process::start(format, level);
    good_ones(&mut hub).await;
    bad_ones(&mut hub).await;
    hub.end().await.search();
}

#[tokio::test]
async fn whatever_way_they_came_in_no_secret_is_found_anywhere() {
    story("json", "trace").await;
}

#[tokio::test]
async fn nor_in_a_log_for_people() {
    story("text", "trace").await;
}

/// The search finds what it is for.
#[test]
fn the_search_has_teeth() {
    let mut secrets = Secrets::default();
    secrets.add("password", "correct horse/battery+staple");
    secrets.add_token("token", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJlLWJ5dGVz");
    for (text, form) in [
        ("a=correct horse/battery+staple;", "plain"),
        ("… horse/battery…", "plain"),
        ("correct%20horse%2Fbattery%2Bstaple", "percent"),
        ("%63%6f%72%72%65%63%74%20", "percent"),
        ("636F727265637420686F727365", "hex"),
        ("Y29ycmVjdCBob3JzZS9iYXR0ZXJ5", "base64"),
        ("elpats+yrettab", "backwards"),
    ] {
        let found = secrets.found(text.as_bytes());
        assert!(found.iter().any(|found| found.starts_with(&format!("password ({form}"))), "{text}: {found:?}");
    }
    for skipped in ["", "x", "xy"] {
        use base64::engine::general_purpose::STANDARD;
        let inside = STANDARD.encode(format!("{skipped}user:correct horse/battery+staple"));
        assert!(!secrets.found(inside.as_bytes()).is_empty(), "{inside}");
    }
    assert_eq!(secrets.found(b"one\ntoken c2lnbmF0dXJlLWJ5"), ["token (plain), line 2"]);
    assert_eq!(secrets.found(b"a correct battery eyJhbGciOiJIUzI1NiJ9 horse staple"), [""; 0]);
}
