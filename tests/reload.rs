//! Another configuration for a running hub: what changes for those who are there, and that nothing
//! changes for the others.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use support::client::{Client, PATIENCE, request, upgrade};
use support::{TestHub, hub};
use tickhub::auth::{Authenticator, DevelopmentKey, new_api_key};
use tickhub::config::Config;

const PRICES: &str = "/api/v1/ws/prices";
const SECRET: &str = "a secret that is long enough for HS256";
const KEY: &str = "[[auth.keys]]\nkid = \"k1\"\nsecret = \"a secret that is long enough for HS256\"\n";

fn sign_with(config: &str, subject: &str, role: &str, symbols: &[&str]) -> String {
    let config = Config::read(Some(("test.toml", config)), std::iter::empty()).unwrap();
    let mut request = DevelopmentKey::token_request();
    (request.subject, request.role) = (subject.to_owned(), role.to_owned());
    if !symbols.is_empty() {
        let parse = |text: &&str| tickhub::model::Pattern::parse(text).unwrap();
        request.narrowing.symbols = Some(symbols.iter().map(parse).collect());
    }
    Authenticator::new(&config.auth, None).unwrap().sign(&request, tickhub::time::wall()).unwrap()
}

fn sign(role: &str) -> String {
    sign_with(&format!("{KEY}[auth.roles.desk]\nsymbols = [\"*\"]\n"), "ann", role, &[])
}

fn desk(symbols: &str) -> String {
    format!("{KEY}[auth.roles.desk]\nsymbols = {symbols}\n")
}

/// What must happen soon, with prices coming in all the while.
async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, happens).await.unwrap_or_else(|_| panic!("{what} does not come"))
}

async fn quotes(client: &mut Client, symbols: &str) -> Value {
    let command = format!(r#"{{"op":"subscribe","id":1,"channel":"quote","mode":"every","symbols":{symbols}}}"#);
    client.text(&command).await;
    client.answer(1).await
}

#[tokio::test]
async fn a_role_that_shrinks_takes_away_and_says_so_and_one_that_grows_gives_without_a_reconnect() {
    let mut hub = hub(&desk(r#"["SIM:AAA-USD", "SIM:AAB-USD"]"#)).await;
    let mut client = Client::welcomed(&hub.http, &sign("desk")).await;
    let narrow = sign_with(&desk(r#"["*"]"#), "bob", "desk", &["SIM:AAA-USD", "SIM:AAC-USD"]);
    let mut narrowed = Client::welcomed(&hub.http, &narrow).await;
    for client in [&mut client, &mut narrowed] {
        quotes(client, r#"["SIM:*"]"#).await;
    }
    let reloaded = hub.reload(&desk(r#"["SIM:AAB-USD"]"#)).await.unwrap();
    assert_eq!((reloaded.sessions.changed, reloaded.sessions.ended, reloaded.waiting.len()), (2, 0, 0));
    for client in [&mut client, &mut narrowed] {
        let gone = soon("the withdrawal", client.until("op", "unsubscribed")).await;
        assert_eq!((&gone["code"], &gone["symbols"]), (&json!("not_entitled"), &json!(["SIM:AAA-USD"])));
        assert!(gone.get("id").is_none(), "nobody asked: {gone}");
    }
    for _ in 0..5 {
        assert_eq!(client.until("ch", "quote").await["sym"], "SIM:AAB-USD");
    }
    let refused = quotes(&mut client, r#"["SIM:AAA-USD"]"#).await;
    assert_eq!(refused["rejected"][0]["code"], "not_entitled");

    let reloaded = hub.reload(&desk(r#"["SIM:AA*"]"#)).await.unwrap();
    assert_eq!(reloaded.sessions.changed, 2);
    let mut more = Vec::new();
    while more.len() < 2 {
        let given = soon("the announcement", narrowed.until("op", "subscribed")).await;
        for accepted in given["accepted"].as_array().unwrap() {
            assert_eq!(accepted["pattern"], "SIM:*");
            more.push(accepted["symbol"].as_str().unwrap().to_owned());
        }
    }
    more.sort_unstable();
    assert_eq!(more, ["SIM:AAA-USD", "SIM:AAC-USD"], "of a larger role, what its own claims allow");
    let new = async { while client.until("ch", "quote").await["sym"] != "SIM:AAD-USD" {} };
    soon("an instrument that it could not have before", new).await;
}

#[tokio::test]
async fn a_role_or_api_key_that_is_gone_ends_its_sessions() {
    let key = new_api_key("prog").unwrap();
    let api = |role: &str, more: &str| {
        let hash = &key.hash;
        format!("[[auth.api_keys]]\nid = \"prog\"\nhash = \"{hash}\"\nowner = \"prog\"\nrole = \"{role}\"\n{more}")
    };
    let mut hub = hub(&format!("{}{}", desk(r#"["*"]"#), api("viewer", ""))).await;
    let mut desk_session = Client::welcomed(&hub.http, &sign("desk")).await;
    let mut viewer = Client::welcomed(&hub.http, &sign("viewer")).await;
    let header = format!("X-API-Key: {}", key.key.expose_secret());
    let mut program = Client::open(&hub.http, PRICES, &[&header]).await;
    assert_eq!(program.json().await["limits"]["depth"], 10);

    let reloaded = hub.reload(&format!("{KEY}{}", api("analyst", ""))).await.unwrap();
    assert_eq!((reloaded.sessions.changed, reloaded.sessions.ended), (1, 1));
    assert_eq!(desk_session.closed().await, (4504, "the role is gone".to_owned()));
    assert_eq!(upgrade(&hub.http, PRICES, &[&format!("Authorization: Bearer {}", sign("desk"))]).await.0, 401);
    let whole = r#"{"op":"subscribe","id":1,"channel":"book","depth":0,"symbols":["SIM:AAA-USD"]}"#;
    program.text(whole).await;
    assert_eq!(program.answer(1).await["depth"], 0, "another role for the same key");

    let reloaded = hub.reload(&format!("{KEY}{}", api("analyst", "disabled = true\n"))).await.unwrap();
    assert_eq!((reloaded.sessions.changed, reloaded.sessions.ended), (0, 1));
    assert_eq!(program.closed().await, (4504, "the API key is disabled".to_owned()));
    viewer.text(r#"{"op":"ping","id":1}"#).await;
    assert_eq!(viewer.answer(1).await["op"], "pong", "it was no concern of this one");
}

#[tokio::test]
async fn keys_are_rotated_without_ending_a_session() {
    let other = KEY.replace("k1", "k2").replace("long enough", "quite long enough");
    let mut hub = hub(KEY).await;
    let mut old = Client::welcomed(&hub.http, &sign("viewer")).await;
    hub.reload(&format!("{KEY}{other}")).await.unwrap();
    let _both = Client::welcomed(&hub.http, &sign("viewer")).await;
    let new = sign_with(&other, "ann", "viewer", &[]);
    let _new = Client::welcomed(&hub.http, &new).await;
    hub.reload(&other).await.unwrap();
    let head = format!("Authorization: Bearer {}", sign("viewer"));
    assert_eq!(upgrade(&hub.http, PRICES, &[&head]).await.0, 401, "the old key is not believed any more");
    old.text(&json!({"op":"auth","id":1,"token":new}).to_string()).await;
    assert_eq!(old.answer(1).await["op"], "ok", "who came by it is here, and renews with the new one");
}

#[tokio::test]
async fn limits_hold_for_those_who_come_and_keys_that_need_a_restart_are_named() {
    let mut hub = hub(KEY).await;
    let limits = "[limits]\nsessions = 2\ncommands_per_second = 7\nanswer_bytes = 65536\n[timeouts]\ndrain = \"1s\"\n";
    let _first = Client::welcomed(&hub.http, &sign("viewer")).await;
    let reloaded = hub.reload(&format!("{KEY}{limits}")).await.unwrap();
    assert_eq!(reloaded.waiting, ["limits.answer_bytes", "timeouts.drain"]);
    let head = format!("Authorization: Bearer {}", sign("viewer"));
    let mut second = Client::open(&hub.http, PRICES, &[&head]).await;
    assert_eq!(second.json().await["limits"]["commands_per_second"], 7);
    assert_eq!(upgrade(&hub.http, PRICES, &[&head]).await.0, 503);
    let metrics = hub.metrics();
    for line in [
        "tickhub_config_reloads_total{outcome=\"partial\"} 1",
        "tickhub_config_waiting_keys 2",
        "tickhub_sessions_max 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
    }
    let again = hub.reload(&format!("{KEY}{limits}")).await.unwrap();
    assert_eq!(again.waiting, ["limits.answer_bytes", "timeouts.drain"], "they wait still");
}

#[tokio::test]
async fn what_does_not_fit_to_what_stays_is_refused_whole() {
    let mut hub = hub(&format!("{KEY}[limits]\noutboxes_bytes = 2097152\n")).await;
    let text = "[limits]\noutboxes_bytes = 1073741824\noutbox_bytes = 4194304\n[auth.roles.viewer]\ndepth = 1\n";
    let error = hub.reload(&format!("{KEY}{text}")).await.unwrap_err().to_string();
    assert!(error.contains("limits.outboxes_bytes = 2097152: must be from 4194304"), "{error}");
    let error = hub.reload("").await.unwrap_err().to_string();
    assert!(error.contains("development mode"), "{error}");
    let (_, welcome) = welcome(&hub).await;
    assert_eq!(welcome["limits"]["depth"], 10, "nothing of it holds");
    assert!(hub.metrics().contains("tickhub_config_reloads_total{outcome=\"failed\"} 2"));
}

async fn welcome(hub: &TestHub) -> (Client, Value) {
    let mut client = Client::open(&hub.http, PRICES, &[&format!("Authorization: Bearer {}", sign("viewer"))]).await;
    let welcome = client.json().await;
    (client, welcome)
}

/// Reads trades until `enough` says so; each has the next number, and nothing else comes.
async fn whole(mut client: Client, mut enough: tokio::sync::watch::Receiver<bool>) -> u64 {
    let (mut last, mut seen) = (None, 0);
    let mut after = 0;
    while after < 3 {
        let message = client.json().await;
        if message["ch"] == "trade" {
            let seq = message["seq"].as_u64().unwrap();
            assert!(last.is_none_or(|last| seq == last + 1), "{last:?} and then {message}");
            (last, seen) = (Some(seq), seen + 1);
            after += u64::from(*enough.borrow_and_update());
        } else {
            assert!(message["op"] == "subscribed" || message["snap"] == true, "{message}");
        }
    }
    seen
}

#[tokio::test]
async fn a_reload_loses_nothing_for_those_whom_it_does_not_concern() {
    let mut hub = hub(&desk(r#"["*"]"#)).await;
    let (done, enough) = tokio::sync::watch::channel(false);
    let mut readers = Vec::new();
    let mut concerned = Vec::new();
    for n in 0..200 {
        let role = if n % 10 == 0 { "desk" } else { "viewer" };
        let mut client = Client::welcomed(&hub.http, &sign(role)).await;
        let command = r#"{"op":"subscribe","channel":"trade","snapshot":false,"symbols":["SIM:AAA-USD"]}"#;
        client.text(command).await;
        if role == "desk" {
            concerned.push(client);
        } else {
            readers.push(tokio::spawn(whole(client, enough.clone())));
        }
    }
    for (round, symbols) in [r#"["SIM:AAB-USD"]"#, r#"["*"]"#, r#"["SIM:AAA-USD"]"#].iter().enumerate() {
        let reloaded = hub.reload(&desk(symbols)).await.unwrap();
        assert_eq!(
            (reloaded.sessions.changed, reloaded.sessions.ended, reloaded.sessions.silent),
            (20, 0, 0),
            "{round}"
        );
    }
    done.send(true).unwrap();
    for mut client in concerned {
        let gone = soon("the withdrawal", client.until("op", "unsubscribed")).await;
        assert_eq!(gone["symbols"], json!(["SIM:AAA-USD"]));
    }
    for reader in readers {
        assert!(reader.await.unwrap() >= 3);
    }
}

/// The program itself, and what it says on standard error.
struct Program {
    child: Child,
    said: std::sync::mpsc::Receiver<String>,
    http: String,
}

impl Program {
    fn start(folder: &Path, config: &Path) -> Self {
        let ready = folder.join("ready.json");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tickhub"));
        command.arg("serve").arg("--config").arg(config).arg("--ready-file").arg(&ready);
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, said) = std::sync::mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut program = Self { child, said, http: String::new() };
        program.until("ready");
        let ready: Value = serde_json::from_str(&std::fs::read_to_string(ready).unwrap()).unwrap();
        program.http = ready["http"].as_str().unwrap().trim_start_matches("http://").to_owned();
        program
    }

    /// Lines up to the one with this text.
    fn until(&self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.said.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {text:?} behind {lines:#?}"));
            lines.push(line);
            if lines.last().is_some_and(|line| line.contains(text)) {
                return lines;
            }
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Blocking waits stay off the test's own runtime thread.
async fn lines(program: &Program, text: &str) -> Vec<String> {
    tokio::task::block_in_place(|| program.until(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_reads_its_files_again_when_they_change_and_on_sighup() {
    let folder = tempfile::tempdir().unwrap();
    let (config, secret) = (folder.path().join("hub.toml"), folder.path().join("secret"));
    let text = |more: &str| {
        format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nops_listen = \"127.0.0.1:0\"\nstate_dir = {:?}\n\
             [[auth.keys]]\nkid = \"k1\"\nsecret_file = {secret:?}\n{more}",
            folder.path().join("state")
        )
    };
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::write(&config, text("")).unwrap();
    let program = Program::start(folder.path(), &config);
    let mut client = Client::welcomed(&program.http, &sign("viewer")).await;

    // Replaced, as editors do.
    std::fs::write(
        folder.path().join("draft"),
        text("[auth.roles.viewer]\ndepth = 1\n[log]\nlevel = \"warn,tickhub::server=info\"\n"),
    )
    .unwrap();
    std::fs::rename(folder.path().join("draft"), &config).unwrap();
    lines(&program, "the configuration is in use").await;
    client.text(r#"{"op":"subscribe","id":1,"channel":"book","depth":10,"symbols":["SIM:AAA-USD"]}"#).await;
    assert_eq!(client.answer(1).await["depth"], 1);

    std::fs::write(&config, text("[limits]\nsessions = 0\nsesions = 1\n")).unwrap();
    let said = lines(&program, "is not taken over").await.join("\n");
    for fault in ["limits.sessions = 0: must be from 1", "did you mean \\\"sessions\\\"?"] {
        let plain = fault.replace("\\\"", "\"");
        assert!(said.contains(fault) || said.contains(&plain), "{fault} is not in {said}");
    }
    assert!(!said.contains(SECRET));
    client.text(r#"{"op":"ping","id":2}"#).await;
    assert_eq!(client.answer(2).await["op"], "pong");

    std::fs::write(&config, text("[timeouts]\nheader = \"7s\"\n")).unwrap();
    program.signal(rustix::process::Signal::HUP);
    let said = lines(&program, "the configuration is in use").await.join("\n");
    assert!(said.contains("timeouts.header") && said.contains("takes a restart"), "{said}");

    // Another secret in the same file: the key is rotated.
    std::fs::write(&secret, SECRET.replace("long", "quite long")).unwrap();
    lines(&program, "the configuration is in use").await;
    let (status, _) = request(&program.http, "GET /api/v1/instruments", &sign("viewer")).await;
    assert_eq!(status, 401, "the old one is not believed any more");

    program.signal(rustix::process::Signal::TERM);
    assert_eq!(client.closed().await.0, 1001);
    lines(&program, "stopped").await;
}
