//! Tokens and API keys of a whole hub: what is taken back ends everywhere, and stays taken back.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use support::client::{Client, Got, PATIENCE, upgrade};
use tickhub::config::{Config, ServeFiles};
use tickhub::server::Hub;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PRICES: &str = "/api/v1/ws/prices";
const TOKEN: &str = "/api/v1/auth/token";
const REFRESH: &str = "/api/v1/auth/refresh";
const REVOKE: &str = "/api/v1/auth/revoke";

/// A directory with a configuration and a state, in which hubs come and go.
struct Place {
    directory: tempfile::TempDir,
}

struct Running {
    hub: Option<Hub>,
    http: String,
    /// A developer's, with role admin.
    admin: String,
}

impl Place {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let head = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nops_listen = \"127.0.0.1:0\"\nstate_dir = {:?}\nworker_threads = 2\n",
            directory.path().join("state")
        );
        std::fs::write(directory.path().join("hub.toml"), format!("{head}\n{text}")).unwrap();
        Self { directory }
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("hub.toml")
    }

    async fn start(&self) -> Running {
        let config = Config::load(Some(&self.config())).unwrap();
        let hub = tokio::task::spawn_blocking(move || Hub::start(&config)).await.unwrap().unwrap();
        let ready = hub.ready().clone();
        let http = ready.http.trim_start_matches("http://").to_owned();
        Running { hub: Some(hub), http, admin: ready.token }
    }

    /// The command line, with this configuration; what it prints.
    fn tickhub(&self, arguments: &[&str]) -> Result<String, String> {
        fn serve(_: Config, _: ServeFiles) -> anyhow::Result<ExitCode> {
            anyhow::bail!("not here")
        }
        let config = self.config();
        let last = ["--config", config.to_str().unwrap()];
        let all = ["tickhub"].iter().chain(arguments).chain(&last);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = tickhub::cli::run(all.map(Into::into), serve, &mut out, &mut err);
        let code = code.map_err(|error| format!("{error:#}"))?;
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS), "{arguments:?}");
        Ok(String::from_utf8(out).unwrap())
    }

    fn create(&self, id: &str) -> String {
        let key = self.tickhub(&["api-key", "create", "--id", id, "--owner", &format!("{id}-owner")]).unwrap();
        key.trim_end().to_owned()
    }
}

impl Running {
    async fn post(&self, path: &str, headers: &[&str], body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.http).await.unwrap();
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\nContent-Length: {length}\r\n\
             Content-Type: application/json\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
    }

    /// Exchanges a key, which the hub may not know of yet.
    async fn exchange(&self, key: &str) -> Value {
        let header = format!("X-API-Key: {key}");
        eventually(async || {
            let (status, pair) = self.post(TOKEN, &[&header], "").await;
            (status == 200).then_some(pair)
        })
        .await
    }

    async fn refresh(&self, token: &Value) -> (u16, Value) {
        self.post(REFRESH, &[], &json!({ "refresh_token": token }).to_string()).await
    }

    async fn revoke(&self, body: Value) {
        let (status, said) =
            self.post(REVOKE, &[&format!("Authorization: Bearer {}", self.admin)], &body.to_string()).await;
        assert_eq!(status, 200, "{said}");
    }

    /// The status of a handshake with a credential in a header.
    async fn handshake(&self, header: &str) -> u16 {
        upgrade(&self.http, PRICES, &[header]).await.0
    }

    async fn drain(&mut self) {
        let hub = self.hub.take().unwrap();
        tokio::task::spawn_blocking(move || hub.drain()).await.unwrap();
    }
}

/// Tries until it gives something.
async fn eventually<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let tries = async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    };
    tokio::time::timeout(PATIENCE, tries).await.expect("in time")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn jti(token: &Value) -> String {
    use base64::Engine as _;
    let claims = text(token).split('.').nth(1).unwrap();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap();
    serde_json::from_slice::<Value>(&claims).unwrap()["jti"].as_str().unwrap().to_owned()
}

const REVOKED: (u16, &str) = (4504, "revoked");

async fn assert_revoked(client: &mut Client) {
    let (code, reason) = client.closed().await;
    assert_eq!((code, reason.as_str()), REVOKED);
}

async fn assert_alive(client: &mut Client) {
    client.text(r#"{"op":"ping","id":99}"#).await;
    assert_eq!(client.answer(99).await["op"], "pong");
}

#[tokio::test]
async fn a_revoked_subjects_sessions_end_whatever_place_their_token_came_in() {
    let place = Place::new("");
    let hub = place.start().await;
    let pair = hub.exchange(&place.create("desk")).await;
    let other = hub.exchange(&place.create("other")).await;
    let token = text(&pair["access_token"]);
    let mut sessions = vec![
        Client::welcomed(&hub.http, token).await,
        Client::open(&hub.http, &format!("{PRICES}?token={token}"), &[]).await,
        Client::open(&hub.http, PRICES, &[&format!("Sec-WebSocket-Protocol: tickhub.v1.json, bearer.{token}")]).await,
        Client::open(&hub.http, PRICES, &[&format!("Sec-WebSocket-Protocol: tickhub.v1.bin, bearer.{token}")]).await,
        Client::open(&hub.http, PRICES, &[]).await,
    ];
    sessions[4].text(&json!({"op":"auth","id":1,"token":token}).to_string()).await;
    for session in &mut sessions[1..] {
        session.until("op", "welcome").await;
        session.text(r#"{"op":"subscribe","channel":"quote","symbols":["*"]}"#).await;
    }
    let mut bystander = Client::welcomed(&hub.http, text(&other["access_token"])).await;
    hub.revoke(json!({"sub": "desk-owner"})).await;
    assert_eq!(hub.handshake(&format!("Authorization: Bearer {token}")).await, 401, "at once");
    for session in &mut sessions {
        assert_revoked(session).await;
    }
    assert_alive(&mut bystander).await;
    assert_eq!(hub.refresh(&pair["refresh_token"]).await.0, 401);
    let counted = [
        "tickhub_sessions_closed_total{transport=\"websocket\",reason=\"revoked\"} 5",
        "tickhub_auth_refusals_total{reason=\"revoked\"} 1",
    ];
    let metrics = || hub.hub.as_ref().unwrap().registry().render();
    eventually(async || counted.iter().all(|line| metrics().contains(line)).then_some(())).await;
}

#[tokio::test]
async fn a_jti_ends_its_sessions_and_the_family_and_no_other() {
    let place = Place::new("");
    let hub = place.start().await;
    let key = place.create("desk");
    let (pair, other) = (hub.exchange(&key).await, hub.exchange(&key).await);
    let mut session = Client::welcomed(&hub.http, text(&pair["access_token"])).await;
    let mut bystander = Client::welcomed(&hub.http, text(&other["access_token"])).await;
    hub.revoke(json!({"jti": jti(&pair["access_token"])})).await;
    assert_revoked(&mut session).await;
    assert_alive(&mut bystander).await;
    assert_eq!(hub.refresh(&pair["refresh_token"]).await.0, 401);
    assert_eq!(hub.refresh(&other["refresh_token"]).await.0, 200);
}

#[tokio::test]
async fn a_refresh_token_that_comes_twice_ends_the_sessions_of_its_family() {
    let place = Place::new("");
    let hub = place.start().await;
    let key = place.create("desk");
    let (first, other) = (hub.exchange(&key).await, hub.exchange(&key).await);
    let mut of_first = Client::welcomed(&hub.http, text(&first["access_token"])).await;
    let (_, second) = hub.refresh(&first["refresh_token"]).await;
    let mut of_second = Client::welcomed(&hub.http, text(&second["access_token"])).await;
    let mut bystander = Client::welcomed(&hub.http, text(&other["access_token"])).await;
    assert_eq!(hub.refresh(&first["refresh_token"]).await.0, 401);
    assert_revoked(&mut of_first).await;
    assert_revoked(&mut of_second).await;
    assert_eq!(hub.refresh(&second["refresh_token"]).await.0, 401);
    assert_alive(&mut bystander).await;
}

#[tokio::test]
async fn a_running_hub_takes_notice_of_keys_that_are_made_and_disabled() {
    let place = Place::new("");
    let hub = place.start().await;
    let key = place.create("desk");
    let header = format!("X-API-Key: {key}");
    eventually(async || (hub.handshake(&header).await == 101).then_some(())).await;
    let mut by_key = Client::open(&hub.http, PRICES, &[&header]).await;
    by_key.until("op", "welcome").await;
    let pair = hub.exchange(&key).await;
    let mut by_token = Client::welcomed(&hub.http, text(&pair["access_token"])).await;
    place.tickhub(&["api-key", "disable", "desk"]).unwrap();
    assert_revoked(&mut by_key).await;
    assert_revoked(&mut by_token).await;
    assert_eq!(hub.handshake(&header).await, 401);
    assert_eq!(hub.post(TOKEN, &[&header], "").await.0, 401);
    assert_eq!(hub.refresh(&pair["refresh_token"]).await.0, 401);
}

#[tokio::test]
async fn a_key_of_the_configuration_can_be_disabled_by_its_id() {
    let key = tickhub::auth::new_api_key("file").unwrap();
    let block = format!("[[auth.api_keys]]\nid = \"file\"\nhash = \"{}\"\nowner = \"o\"\nrole = \"admin\"\n", key.hash);
    let secret = "[[auth.keys]]\nkid = \"k\"\nsecret = \"abcdefghijklmnopqrstuvwxyz012345\"\n";
    let place = Place::new(&format!("{secret}{block}"));
    let hub = place.start().await;
    let key = secrecy::ExposeSecret::expose_secret(&key.key).to_owned();
    let mut session = Client::open(&hub.http, PRICES, &[&format!("X-API-Key: {key}")]).await;
    session.until("op", "welcome").await;
    // A key of role admin may end itself.
    let (status, _) = hub.post(REVOKE, &[&format!("X-API-Key: {key}")], r#"{"api_key":"file"}"#).await;
    assert_eq!(status, 200);
    assert_revoked(&mut session).await;
    assert_eq!(hub.handshake(&format!("X-API-Key: {key}")).await, 401);
    let listed = place.tickhub(&["api-key", "list"]).unwrap();
    assert!(listed.lines().any(|line| line.starts_with("file  disabled") && line.contains("config")), "{listed}");
}

#[tokio::test]
async fn a_renewal_with_a_revoked_token_renews_nothing() {
    let place = Place::new("");
    let hub = place.start().await;
    let key = place.create("desk");
    let (held, revoked) = (hub.exchange(&key).await, hub.exchange(&key).await);
    let mut session = Client::welcomed(&hub.http, text(&held["access_token"])).await;
    hub.revoke(json!({"jti": jti(&revoked["access_token"])})).await;
    session.text(&json!({"op":"auth","id":1,"token":revoked["access_token"]}).to_string()).await;
    assert_eq!(session.answer(1).await["code"], "invalid_token");
    assert_alive(&mut session).await;
    // Renewed with a good one, it belongs to that one from then on.
    let (_, next) = hub.refresh(&held["refresh_token"]).await;
    session.text(&json!({"op":"auth","id":2,"token":next["access_token"]}).to_string()).await;
    assert_eq!(session.answer(2).await["op"], "ok");
    hub.revoke(json!({"jti": jti(&next["access_token"])})).await;
    assert_revoked(&mut session).await;
}

/// Whoever is on the way in while a revocation is on its way is out in the end.
#[tokio::test]
async fn nobody_slips_in_beside_a_revocation() {
    let place = Place::new("");
    let hub = place.start().await;
    for round in 0..5 {
        let pair = hub.exchange(&place.create(&format!("desk-{round}"))).await;
        let token = text(&pair["access_token"]).to_owned();
        let comers: Vec<_> = (0..40)
            .map(|n| {
                let (http, token) = (hub.http.clone(), token.clone());
                tokio::spawn(async move {
                    // Some show it in the header, some in band.
                    let header = format!("Authorization: Bearer {token}");
                    let headers: &[&str] = if n % 2 == 0 { &[&header] } else { &[] };
                    let (status, _, stream, buffer) = upgrade(&http, PRICES, headers).await;
                    if status != 101 {
                        assert_eq!(status, 401);
                        return;
                    }
                    let mut client = Client { stream, buffer };
                    if n % 2 == 1 {
                        client.text(&json!({"op":"auth","id":1,"token":token}).to_string()).await;
                    }
                    let code = loop {
                        match client.next().await {
                            Got::Close(code, _) => break code,
                            Got::Lost => panic!("lost without a close frame"),
                            _ => {}
                        }
                    };
                    assert!([4501, 4504].contains(&code), "{code}");
                })
            })
            .collect();
        hub.revoke(json!({"jti": jti(&pair["access_token"])})).await;
        for comer in comers {
            tokio::time::timeout(PATIENCE, comer).await.expect("everyone is out").unwrap();
        }
    }
}

#[tokio::test]
async fn what_was_taken_back_stays_so_over_a_restart() {
    let place = Place::new("");
    let mut hub = place.start().await;
    let key = place.create("desk");
    let (gone, kept, rotated) = (hub.exchange(&key).await, hub.exchange(&key).await, hub.exchange(&key).await);
    hub.revoke(json!({"jti": jti(&gone["access_token"])})).await;
    let (status, next) = hub.refresh(&rotated["refresh_token"]).await;
    assert_eq!(status, 200);
    hub.drain().await;
    drop(hub);
    let hub = place.start().await;
    let bearer = |pair: &Value| format!("Authorization: Bearer {}", text(&pair["access_token"]));
    assert_eq!(hub.handshake(&bearer(&gone)).await, 401, "from the first moment");
    for pair in [&kept, &rotated, &next] {
        assert_eq!(hub.handshake(&bearer(pair)).await, 101);
    }
    assert_eq!(hub.refresh(&gone["refresh_token"]).await.0, 401);
    assert_eq!(hub.refresh(&kept["refresh_token"]).await.0, 200);
    let mut session = Client::welcomed(&hub.http, text(&next["access_token"])).await;
    assert_eq!(hub.refresh(&rotated["refresh_token"]).await.0, 401, "used before the restart");
    assert_revoked(&mut session).await;
}

#[test]
fn a_damaged_state_stops_the_hub_and_is_named() {
    let place = Place::new("");
    place.create("desk");
    place.create("desk-2");
    let path = place.directory.path().join("state/state.log");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let config = Config::load(Some(&place.config())).unwrap();
    let error = format!("{:#}", Hub::start(&config).err().expect("refused"));
    assert!(error.contains("server.state_dir") && error.contains("state.log: damaged at byte 40"), "{error}");
    assert!(place.tickhub(&["api-key", "list"]).unwrap_err().contains("damaged at byte 40"));
}

#[test]
fn keys_are_listed_without_their_secrets() {
    let place = Place::new("");
    let key = place.create("desk");
    place
        .tickhub(&[
            "api-key",
            "create",
            "--id",
            "b",
            "--owner",
            "Büro 2",
            "--role",
            "analyst",
            "--expires",
            "2200-01-01",
        ])
        .unwrap();
    place.tickhub(&["api-key", "disable", "desk"]).unwrap();
    let listed = place.tickhub(&["api-key", "list"]).unwrap();
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    assert!(lines[1].starts_with("b     active    analyst  2200-01-01T00:00:00Z  ") && lines[1].ends_with("  Büro 2"));
    assert!(lines[2].starts_with("desk  disabled  viewer ") && lines[2].contains("  -  "), "{listed}");
    let json: Vec<Value> = place
        .tickhub(&["api-key", "list", "--json"])
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (&json[0]["id"], &json[0]["state"], &json[1]["state"]),
        (&json!("b"), &json!("active"), &json!("disabled"))
    );
    let secret = key.split_once('.').unwrap().1;
    assert!(!listed.contains(secret) && !json.iter().any(|key| key.to_string().contains("hmac")));

    let refused = |arguments: &[&str]| place.tickhub(arguments).unwrap_err();
    let create = ["api-key", "create", "--owner", "o", "--id"];
    assert!(refused(&[&create[..], &["desk"]].concat()).contains("already"), "a disabled id is not given again");
    assert!(refused(&[&create[..], &["x", "--role", "root"]].concat()).contains("is not a role"));
    assert!(refused(&[&create[..], &["x", "--expires", "2001-01-01"]].concat()).contains("ended already"));
    assert!(refused(&["api-key", "disable", "nobody"]).contains("there is no API key \"nobody\""));
}

/// Words of a line of shell, with `$NAME` replaced: quotes and escapes as far as the page needs them.
fn words(line: &str, variables: &HashMap<&str, String>) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (None, ' ') => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), c) if open == c => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().push(rest.next().unwrap()),
            (None | Some('"'), '$') => {
                let mut name = String::new();
                while let Some(c) = rest.next_if(|c| c.is_ascii_uppercase()) {
                    name.push(c);
                }
                word.get_or_insert_default().push_str(&variables[name.as_str()]);
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Every command of the page works as it stands there, in its order.
#[tokio::test]
async fn the_page_about_tokens_says_what_works() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tokens.md")).unwrap();
    let blocks = page.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let lines: Vec<&str> = blocks.flat_map(str::lines).collect();
    assert!(lines.len() >= 10 && lines.iter().any(|line| line.contains(REVOKE)), "{lines:?}");
    let place = Place::new("");
    let hub = place.start().await;
    let mut variables = HashMap::from([("ADMIN", hub.admin.clone())]);
    for line in lines {
        let words = words(line, &variables);
        let arguments: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        if words[0] == "tickhub" {
            let said = place.tickhub(&arguments).unwrap_or_else(|error| panic!("{line}: {error}"));
            if line.contains("create --id desk-1") {
                variables.insert("KEY", said.trim_end().to_owned());
                hub.exchange(&variables["KEY"]).await;
            }
            continue;
        }
        assert_eq!((words[0].as_str(), arguments[0], arguments[1]), ("curl", "-X", "POST"), "{line}");
        let of = |option: &str| -> Vec<&str> {
            arguments.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1]).collect()
        };
        let path = arguments.last().unwrap().strip_prefix("http://127.0.0.1:8080").unwrap();
        let (headers, body) = (of("-H"), of("-d").first().copied().unwrap_or_default());
        assert_eq!(!body.is_empty(), headers.contains(&"Content-Type: application/json"), "{line}");
        let headers: Vec<&str> = headers.into_iter().filter(|header| !header.starts_with("Content-Type")).collect();
        // Behind its subject's revocation a token of the same second is refused, as the page says.
        let (status, said) = hub.post(path, &headers, body).await;
        assert_eq!(status, 200, "{line}: {said}");
        if let Some(token) = said.get("refresh_token") {
            variables.insert("REFRESH", text(token).to_owned());
            variables.insert("JTI", jti(&said["access_token"]));
        }
    }
}
