//! The audit trail of a whole hub, and what becomes of a trail that somebody works over: judged by
//! the hub's own command, and by another program.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use support::client::{Client, PATIENCE, upgrade};
use support::{TestHub, hub};
use tickhub::audit::{AuditConfig, Auditor, Event, Origin, Record, Seal, VerifyError, lines, verify};
use tickhub::auth::{Authenticator, TokenRequest, new_api_key};
use tickhub::config::Config;
use tickhub::metrics::Registry;
use tickhub::time::{duration_ns, mono};

const PRICES: &str = "/api/v1/ws/prices";
const SECRET: &str = "a secret that is long enough for HS256";

/// Writes a trail of some records and files, as a hub does that is started so many times.
fn trail(dir: &Path, starts: u64, key_file: Option<PathBuf>) {
    // Three records fill a file.
    let config = AuditConfig { dir: Some(dir.to_owned()), rotate_bytes: 1000, key_file, ..AuditConfig::default() };
    for file in 0..starts {
        let auditor = Auditor::start(&config, &Registry::new()).unwrap();
        for n in 0..=file % 3 {
            let origin = Origin { remote: Some(([10, 0, 0, n as u8], 4000).into()), request_id: Some("r".into()) };
            let event = Event::Ended { code: Some(1000), reason: "normal", lasted_ms: n };
            auditor.audit().record(|| Record::of(event).origin(&origin).session("s"));
        }
        auditor.stop();
    }
}

/// A folder's files and their content.
type Files = BTreeMap<String, Vec<u8>>;

fn read(dir: &Path) -> Files {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

fn write(dir: &Path, files: &Files) {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir).unwrap();
    files.iter().for_each(|(name, content)| fs::write(dir.join(name), content).unwrap());
}

/// Content as lines with their newlines.
fn split(content: &[u8]) -> Vec<Vec<u8>> {
    content.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// A trail that was worked over, and where that is to be noticed: file and line.
struct Variant {
    what: String,
    files: Files,
    at: (String, usize),
}

/// Each line of each file removed, doubled, swapped with the next, moved to the front, cut short and
/// changed in `changes` places; each file removed; the head changed.
fn variants(files: &Files, changes: usize) -> Vec<Variant> {
    let names: Vec<&String> = files.keys().filter(|name| name.starts_with("audit-")).collect();
    let mut variants = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let all = split(&files[*name]);
        let next = names.get(index + 1);
        let mut add = |what: &str, lines: &[Vec<u8>], line: usize| {
            let mut files = files.clone();
            files.insert((*name).clone(), lines.concat());
            // What is missing at the end of a file is noticed at the beginning of the next.
            let at = match next {
                Some(next) if line > lines.len() => ((*next).clone(), 1),
                _ => ((*name).clone(), line),
            };
            variants.push(Variant { what: format!("{name}: {what} {line}"), files, at });
        };
        for line in 0..all.len() {
            let mut removed = all.clone();
            removed.remove(line);
            add("removed", &removed, line + 1);
            let mut doubled = all.clone();
            doubled.insert(line, all[line].clone());
            add("doubled", &doubled, line + 2);
            if line > 0 {
                let mut swapped = all.clone();
                swapped.swap(line - 1, line);
                add("swapped", &swapped, line);
                let mut moved = removed.clone();
                moved.insert(0, all[line].clone());
                add("moved to the front", &moved, 1);
            }
            for place in 0..changes {
                let byte = place * all[line].len() / changes;
                let mut changed = all.clone();
                changed[line][byte] ^= 1 << (place % 7);
                add("changed", &changed, line + 1);
            }
            for place in 1..changes {
                let mut short = all[..=line].to_vec();
                let length = all[line].len();
                short[line].truncate(place * length / changes);
                add("cut in", &short, line + 1);
            }
        }
        let mut without = files.clone();
        without.remove(*name);
        let before = index.checked_sub(1).map(|before| names[before]);
        let at = match (next, before) {
            (Some(next), _) => ((*next).clone(), 1),
            (None, Some(before)) => (before.clone(), split(&files[before]).len() + 1),
            (None, None) => ("head.json".to_owned(), 1),
        };
        variants.push(Variant { what: format!("{name} removed"), files: without, at });
    }
    let mut headless = files.clone();
    headless.remove("head.json");
    variants.push(Variant { what: "no head".to_owned(), files: headless, at: ("head.json".to_owned(), 1) });
    variants
}

fn judged(dir: &Path, seal: &Seal) -> Result<(u64, u64), (String, usize)> {
    match verify(dir, seal, None) {
        Ok(report) => Ok((report.first.0.seq, report.last.0.seq)),
        Err(VerifyError::Broken(broken)) => Err((broken.file, broken.line as usize)),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn every_change_of_a_trail_is_noticed_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, other) = (dir.path().join("audit"), dir.path().join("other"));
    trail(&whole, 9, None);
    let seal = Seal::new(None);
    let (first, last) = judged(&whole, &seal).unwrap();
    assert!(first == 1 && last > 15, "{first} to {last}");
    let files = read(&whole);
    let variants = variants(&files, 60);
    assert!(variants.len() > 2000, "{}", variants.len());
    write(&other, &files);
    for variant in &variants {
        // Only what differs is written: there are thousands.
        for (name, content) in &files {
            match variant.files.get(name) {
                Some(changed) if changed != content => fs::write(other.join(name), changed).unwrap(),
                Some(_) => {}
                None => fs::remove_file(other.join(name)).unwrap(),
            }
        }
        assert_eq!(judged(&other, &seal), Err(variant.at.clone()), "{}", variant.what);
        for (name, content) in files.iter().filter(|(name, content)| variant.files.get(*name) != Some(content)) {
            fs::write(other.join(name), content).unwrap();
        }
    }
    assert_eq!(judged(&other, &seal), Ok((first, last)));
}

/// What `tests/audit/verify.py` says of each folder.
fn said_by_python(arguments: &[&str], folders: &[PathBuf]) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/audit/verify.py");
    let output = Command::new("python3").arg(script).args(arguments).args(folders).output().expect("python3 is there");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn another_program_agrees_about_every_trail() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    fs::write(&key, "a key for the chain that has at least 32 bytes\n").unwrap();
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    for key_file in [None, Some(key)] {
        let whole = dir.path().join(if key_file.is_some() { "keyed" } else { "plain" });
        trail(&whole, 4, key_file.clone());
        let config = AuditConfig { key_file: key_file.clone(), ..AuditConfig::default() };
        let seal = config.seal().unwrap();
        let mut folders = vec![whole.clone()];
        let mut expected = vec![judged(&whole, &seal)];
        for (index, variant) in variants(&read(&whole), 6).into_iter().enumerate() {
            let folder = whole.with_extension(index.to_string());
            write(&folder, &variant.files);
            expected.push(judged(&folder, &seal));
            folders.push(folder);
        }
        assert!(expected[0].is_ok() && expected[1..].iter().all(Result::is_err));
        let arguments = key_file.as_ref().map(|key| ["--key-file", key.to_str().unwrap()]);
        let said = said_by_python(arguments.as_ref().map_or(&[], |arguments| &arguments[..]), &folders);
        let expected: Vec<String> = expected
            .iter()
            .map(|judged| match judged {
                Ok((first, last)) => format!("ok {first} {last}"),
                Err((file, line)) => format!("{file}:{line}"),
            })
            .collect();
        assert_eq!(said.len(), expected.len());
        for ((said, expected), folder) in said.iter().zip(&expected).zip(&folders) {
            let place = if said.starts_with("ok") { said.as_str() } else { said.split(' ').next().unwrap() };
            assert_eq!(place, expected, "{said}, {}", folder.display());
        }
    }
}

#[test]
fn the_command_says_ok_or_where_it_is_broken() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("audit");
    trail(&whole, 4, None);
    let tickhub = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tickhub")).arg("audit").args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let path = whole.to_str().unwrap();
    let (code, out, _) = tickhub(&["verify", path]);
    assert!(code == 0 && out.contains(": ok\n") && out.contains(" 1 to "), "{out}");
    let last = out.lines().find_map(|line| line.trim().strip_prefix("last")).unwrap().trim().to_owned();
    assert_eq!(tickhub(&["verify", path, "--holds", &last]).0, 0);
    let other = format!("{}:{}", last.split_once(':').unwrap().0, "0".repeat(64));
    let (code, out, _) = tickhub(&["verify", path, "--holds", &other]);
    assert!(code == 1 && out.contains("is another than an earlier run says"), "{out}");
    let (code, out, _) = tickhub(&["show", path, "--event", "ended", "--remote", "10.0.0.1"]);
    assert_eq!((code, out.lines().count()), (0, 2), "{out}");
    assert_eq!(tickhub(&["show", path, "--since", "2999"]), (0, String::new(), String::new()));
    let file = read(&whole).into_keys().nth(1).unwrap();
    let content = fs::read_to_string(whole.join(&file)).unwrap();
    fs::write(whole.join(&file), content.replacen("\"trail\":1", "\"trail\":2", 1)).unwrap();
    let (code, out, _) = tickhub(&["verify", path]);
    assert!(code == 1 && out.contains(&format!("{file}:1: ")), "{out}");
    let (code, _, err) = tickhub(&["verify", dir.path().join("none").to_str().unwrap()]);
    assert!(code == 1 && err.contains("there is no audit trail"), "{err}");
}

/// A hub with a trail of its own, a key to sign with, and an API key.
struct Audited {
    hub: TestHub,
    dir: PathBuf,
    judge: Authenticator,
    api_key: String,
    _folder: tempfile::TempDir,
}

async fn audited(more: &str) -> Audited {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("audit");
    let key = new_api_key("desk-1").unwrap();
    let text = format!(
        "[audit]\ndir = {dir:?}\n[[auth.keys]]\nkid = \"k1\"\nsecret = \"{SECRET}\"\n[[auth.api_keys]]\n\
         id = \"desk-1\"\nhash = \"{}\"\nowner = \"desk\"\nrole = \"analyst\"\n{more}",
        key.hash
    );
    let config = Config::read(Some(("test.toml", &text)), std::iter::empty()).unwrap();
    let judge = Authenticator::new(&config.auth, None).unwrap();
    let api_key = secrecy::ExposeSecret::expose_secret(&key.key).to_owned();
    Audited { hub: hub(&text).await, dir, judge, api_key, _folder: folder }
}

impl Audited {
    fn sign(&self, subject: &str, symbols: &[&str]) -> String {
        let patterns = symbols.iter().map(|text| tickhub::model::Pattern::parse(text).unwrap()).collect();
        let narrowing = tickhub::auth::Narrowing { symbols: Some(patterns), ..Default::default() };
        let ttl = Duration::from_secs(60);
        let request = TokenRequest { subject: subject.to_owned(), role: "viewer".to_owned(), ttl, narrowing };
        self.judge.sign(&request, tickhub::time::wall()).unwrap()
    }

    /// Waits until the metrics have a line.
    async fn counted(&self, line: &str) {
        let waited = async {
            while !self.hub.metrics().lines().any(|rendered| rendered == line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("{line}: {}", self.hub.metrics()));
    }

    /// The records of a hub that has ended; its trail is whole.
    async fn end(mut self) -> Vec<Value> {
        self.hub.drain().await;
        verify(&self.dir, &Seal::new(None), None).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(said_by_python(&[], std::slice::from_ref(&self.dir)).len(), 1);
        records(&self.dir)
    }
}

fn records(dir: &Path) -> Vec<Value> {
    let mut records = Vec::new();
    lines(dir, |line| {
        records.push(serde_json::from_str(line).unwrap());
        true
    })
    .unwrap();
    records
}

fn of<'r>(records: &'r [Value], event: &str) -> Vec<&'r Value> {
    records.iter().filter(|record| record["event"] == event).collect()
}

#[tokio::test]
async fn a_session_is_told_from_its_beginning_to_its_end() {
    let audited = audited("").await;
    let (all, few) = (audited.sign("ann", &["SIM:*"]), audited.sign("ann", &["SIM:AAA-USD"]));
    let headers = [format!("Authorization: Bearer {all}"), "X-Request-Id: my-request".to_owned()];
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let mut client = Client::open(&audited.hub.http, PRICES, &headers).await;
    let session = client.until("op", "welcome").await["session"].as_str().unwrap().to_owned();
    client
        .text(r#"{"op":"subscribe","id":1,"channel":"quote","symbols":["SIM:AAA-USD","SIM:AAB-USD","SIM:AAC-USD"]}"#)
        .await;
    client.answer(1).await;
    client.text(&json!({"op":"auth","id":2,"token":few}).to_string()).await;
    client.answer(2).await;
    client.until("op", "unsubscribed").await;
    client.text(r#"{"op":"auth","id":3,"token":"nonsense"}"#).await;
    client.answer(3).await;
    client.frame(0x88, true, &1000_u16.to_be_bytes()).await;
    client.closed().await;
    // By its API key in a header, and lost without a word.
    let header = format!("X-API-Key: {}", audited.api_key);
    let mut other = Client::open(&audited.hub.http, PRICES, &[&header]).await;
    other.until("op", "welcome").await;
    other.reset();
    audited.counted("tickhub_sessions_closed_total{transport=\"websocket\",reason=\"lost\"} 1").await;

    let records = audited.end().await;
    let events: Vec<&str> = records.iter().map(|record| record["event"].as_str().unwrap()).collect();
    assert_eq!(events[..3], ["file", "config_loaded", "hub_started"]);
    assert_eq!(events.last(), Some(&"hub_stopped"));
    let own: Vec<&Value> = records.iter().filter(|record| record["session"] == json!(session)).collect();
    let events: Vec<&str> = own.iter().map(|record| record["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["connected", "granted", "renewed", "withdrawn", "refused", "ended"]);
    for record in &own {
        assert_eq!((&record["subject"], &record["role"]), (&json!("ann"), &json!("viewer")), "{record}");
        assert_eq!((&record["credential"], &record["request_id"]), (&json!("jwt"), &json!("my-request")));
        assert!(record["remote"].as_str().unwrap().starts_with("127.0.0.1:"), "{record}");
        assert!(record["token_id"].is_string(), "{record}");
    }
    assert_eq!((&own[0]["transport"], &own[0]["format"]), (&json!("websocket"), &json!("json")));
    assert_eq!((&own[1]["patterns"], &own[1]["depth"]), (&json!(["SIM:*"]), &json!(10)));
    assert_eq!(own[2]["patterns"], json!(["SIM:AAA-USD"]));
    assert_eq!(own[3]["streams"], 2);
    assert_eq!((&own[4]["door"], &own[4]["reason"]), (&json!("renewal"), &json!("malformed")));
    assert_eq!((&own[5]["code"], &own[5]["reason"]), (&json!(1000), &json!("normal")));
    let desk: Vec<&Value> = records.iter().filter(|record| record["token_id"] == "desk-1").collect();
    assert_eq!(desk.len(), 3, "{desk:?}");
    assert_eq!((&desk[2]["event"], &desk[2]["subject"]), (&json!("ended"), &json!("desk")));
    assert_eq!((&desk[2]["reason"], &desk[2]["credential"]), (&json!("lost"), &json!("api_key")));
}

#[tokio::test]
async fn who_is_not_let_in_is_told_with_the_door_and_the_reason() {
    let audited = audited("[auth.roles.viewer]\nconnections = 1\n").await;
    let address = audited.hub.http.clone();
    assert_eq!(upgrade(&address, PRICES, &["Authorization: Bearer nonsense"]).await.0, 401);
    let query = format!("{PRICES}?token=a.b.c");
    assert_eq!(Client::open(&address, &query, &[]).await.closed().await.0, 4501);
    let mut client = Client::open(&address, PRICES, &[]).await;
    client.text(r#"{"op":"auth","id":1,"token":"nonsense"}"#).await;
    assert_eq!(client.closed().await.0, 4501);
    let bearer = format!("Authorization: Bearer {}", audited.sign("bob", &["SIM:*"]));
    let mut first = Client::open(&address, PRICES, &[&bearer]).await;
    first.until("op", "welcome").await;
    assert_eq!(Client::open(&address, PRICES, &[&bearer]).await.closed().await.0, 4006);
    let nothing = format!("Authorization: Bearer {}", audited.sign("eve", &[]));
    assert_eq!(Client::open(&address, PRICES, &[&nothing]).await.closed().await.0, 4502);
    let (status, ..) = upgrade(&address, "/api/v1/instruments", &[]).await;
    assert_eq!(status, 401);
    let (status, ..) = upgrade(&address, "/api/v1/instruments", &["X-API-Key: desk-1.guess"]).await;
    assert_eq!(status, 401);

    let records = audited.end().await;
    let expected = [
        ("handshake/connection_limit", 1, 4006),
        // The second one, in the query, is told together with the first if it came soon enough.
        ("handshake/malformed", 2, 401),
        ("http/bad_api_key", 1, 401),
        ("http/missing", 1, 401),
        ("in_band/forbidden", 1, 4502),
        ("in_band/malformed", 1, 4501),
    ];
    assert_eq!(refusals(&records), expected.map(|(what, count, code)| (what.to_owned(), (count, code))).into());
    let connected: Vec<_> = of(&records, "connected").iter().map(|record| record["subject"].clone()).collect();
    assert_eq!(connected, ["bob"], "nobody else was in");
    assert_eq!(of(&records, "ended").len(), 1);
}

/// How many refusals there were of each door and reason, told singly or together; the first one's code.
fn refusals(records: &[Value]) -> BTreeMap<String, (u64, u64)> {
    let mut refusals = BTreeMap::new();
    for record in of(records, "refused").into_iter().chain(of(records, "refused_again")) {
        assert!(record["remote"].as_str().unwrap().starts_with("127.0.0.1"), "{record}");
        let what = format!("{}/{}", record["door"].as_str().unwrap(), record["reason"].as_str().unwrap());
        let code = record["code"].as_u64().unwrap_or(0);
        refusals.entry(what).or_insert((0, code)).0 += record["count"].as_u64().unwrap_or(1);
    }
    refusals
}

#[tokio::test]
async fn strangers_who_show_nothing_are_refusals_and_no_sessions() {
    let audited = audited("[timeouts]\nauthentication = \"200ms\"\n").await;
    for _ in 0..20 {
        assert_eq!(Client::open(&audited.hub.http, PRICES, &[]).await.closed().await.0, 4503);
    }
    let records = audited.end().await;
    assert_eq!(refusals(&records), [("in_band/auth_timeout".to_owned(), (20, 4503))].into());
    assert_eq!(of(&records, "connected").len() + of(&records, "ended").len(), 0);
}

#[tokio::test]
async fn a_hub_without_a_trail_records_nothing_and_health_does_not_speak_of_it() {
    let hub = hub("").await;
    assert!(get(&hub.http, "/api/v1/health").await.get("audit").is_none());
    assert!(!hub.metrics().contains("tickhub_audit_records_total{"));
    let audited = audited("").await;
    assert_eq!(get(&audited.hub.http, "/api/v1/health").await["audit"], "ok");
    audited.counted("tickhub_audit_records_total{event=\"hub_started\"} 1").await;
    assert!(audited.hub.metrics().contains("tickhub_audit_queue_records_max 16384"));
}

/// The JSON that a path answers, whatever its status.
async fn get(address: &str, path: &str) -> Value {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let value: Value = serde_json::from_str(body).unwrap();
    if value["details"]["status"].is_string() { value["details"].clone() } else { value }
}

/// Many threads at once: what they recorded is there, or is counted as lost where it is missing.
#[test]
fn what_many_record_at_once_is_there_or_counted() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("audit");
    let config = AuditConfig { dir: Some(dir.clone()), rotate_bytes: 300_000, ..AuditConfig::default() };
    let registry = Registry::new();
    let auditor = Auditor::start(&config, &registry).unwrap();
    let (threads, each) = (4, 20_000_u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let audit = auditor.audit();
            scope.spawn(move || {
                let name: Arc<str> = format!("thread-{thread}").into();
                for n in 0..each {
                    let event = Event::Ended { code: None, reason: "lost", lasted_ms: n };
                    audit.record(|| Record::of(event).session(&name));
                }
            });
        }
    });
    let until = mono() + duration_ns(PATIENCE);
    while !registry.render().contains("tickhub_audit_queue_records 0\n") && mono() < until {
        std::thread::yield_now();
    }
    auditor.stop();
    let report = verify(&dir, &Seal::new(None), None).unwrap();
    let records = records(&dir);
    let ended = of(&records, "ended");
    assert_eq!(ended.len() as u64 + report.lost, threads * each);
    for thread in 0..threads {
        let own = ended.iter().filter(|record| record["session"] == format!("thread-{thread}"));
        let numbers: Vec<u64> = own.map(|record| record["lasted_ms"].as_u64().unwrap()).collect();
        assert!(numbers.is_sorted(), "in the order in which each recorded them");
    }
    assert!(registry.render().contains(&format!("tickhub_audit_lost_total {}", report.lost)));
}
