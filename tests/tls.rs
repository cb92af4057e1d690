//! A whole hub that speaks TLS, over real sockets: every story that plain sockets tell, and those
//! that only TLS can.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::{Value, json};
use support::client::{Client, Got, PATIENCE, upgrade_over};
use support::pki::{self, Authority, VERSIONS};
use support::{TestHub, hub};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const PRICES: &str = "/api/v1/ws/prices";
/// Some trades of each instrument every second.
const LIVELY: &str = "[[provider]]\nkind = \"sim\"\nevents_per_second = 5000\n";
/// 50 instruments, more events than a socket that is not read holds for a tenth of a second.
const BUSY: &str = "[[provider]]\nkind = \"sim\"\nevents_per_second = 20000\n";
const ALL_QUOTES: &str = r#"{"op":"subscribe","id":1,"channel":"quote","mode":"every","symbols":["*"]}"#;

/// A hub that speaks TLS, and whoever signed for it.
struct Secured {
    hub: TestHub,
    authority: Authority,
    folder: tempfile::TempDir,
}

/// The sections for a listener with the files in `folder`.
fn section(name: &str, folder: &Path, more: &str) -> String {
    let file = |end: &str| folder.join(end);
    format!("[server.{name}]\ncert_file = {:?}\nkey_file = {:?}\n{more}\n", file("hub.crt"), file("hub.key"))
}

async fn secured(tls: &str, more: &str) -> Secured {
    let (authority, folder) = (Authority::new("tests"), tempfile::tempdir().unwrap());
    authority.server().write(&folder.path().join("hub"));
    let source = if more.contains(BUSY) { "" } else { LIVELY };
    let sections = [section("tls", folder.path(), tls), section("ops_tls", folder.path(), "")].concat();
    let text = format!("{sections}{more}{source}");
    Secured { hub: hub(&text).await, authority, folder }
}

impl Secured {
    fn config(&self) -> Arc<ClientConfig> {
        Arc::new(self.authority.client(&VERSIONS, None))
    }

    async fn connect(&self, config: &Arc<ClientConfig>) -> TlsStream<TcpStream> {
        pki::connect(&self.hub.http, config).await.unwrap()
    }

    async fn welcomed(&self, config: &Arc<ClientConfig>) -> Client<TlsStream<TcpStream>> {
        let stream = self.connect(config).await;
        let header = format!("Authorization: Bearer {}", self.hub.token);
        let mut client = Client::over(stream, &self.hub.http, PRICES, &[&header]).await;
        assert_eq!(client.json().await["op"], "welcome");
        client
    }

    /// The sum of a metric over its series that have all of `labels`.
    fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let metrics = self.hub.metrics();
        let of = metrics.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        let of = of.filter(|line| labels.iter().all(|label| line.contains(label)));
        of.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let until = tokio::time::Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(tokio::time::Instant::now() < until, "{what} never comes:\n{}", self.hub.metrics());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A client that checks that it misses nothing of one instrument's trades.
struct Healthy {
    client: Client<TlsStream<TcpStream>>,
    last: u64,
}

impl Healthy {
    async fn join(hub: &Secured, config: &Arc<ClientConfig>) -> Self {
        let mut client = hub.welcomed(config).await;
        client.text(r#"{"op":"subscribe","id":1,"channel":"trade","symbols":["SIM:AAA-USD"]}"#).await;
        client.answer(1).await;
        let last = client.until("ch", "trade").await["seq"].as_u64().unwrap();
        Self { client, last }
    }

    async fn next(&mut self) {
        let trade = self.client.json().await;
        assert_eq!((&trade["ch"], trade["seq"].as_u64()), (&json!("trade"), Some(self.last + 1)), "{trade}");
        self.last += 1;
    }

    /// Reads on until something holds, every trade of it.
    async fn until(&mut self, holds: impl Fn() -> bool) {
        let until = tokio::time::Instant::now() + PATIENCE;
        while !holds() {
            assert!(tokio::time::Instant::now() < until, "it never comes");
            self.next().await;
        }
    }
}

/// One request in plain HTTP over a connection; all of the answer.
async fn get(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is cut instead of ended is no answer.
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time").unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn both_versions_speak_http_and_web_sockets() {
    let hub = secured("", "").await;
    let ready = hub.hub.hub.as_ref().unwrap().ready().clone();
    assert!(ready.http.starts_with("https://") && ready.ws.starts_with("wss://"), "{} {}", ready.http, ready.ws);
    for (version, name) in [(&rustls::version::TLS12, "1.2"), (&rustls::version::TLS13, "1.3")] {
        let mut config = hub.authority.client(&[version], None);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let config = Arc::new(config);
        let stream = hub.connect(&config).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let health = get(stream, "/api/v1/health").await;
        let body: Value = serde_json::from_str(health.rsplit("\r\n\r\n").next().unwrap()).unwrap();
        assert_eq!(body["certificates"][0]["state"], "good", "{health}");
        let mut healthy = Healthy::join(&hub, &config).await;
        for _ in 0..20 {
            healthy.next().await;
        }
        let labels = ["listener=\"public\"", &format!("version=\"{name}\"")];
        assert_eq!(hub.sum("tickhub_tls_handshakes_total", &labels), 2.0);
    }
    let at = ready.ops.strip_prefix("https://").expect("operations too");
    let metrics = get(pki::connect(at, &hub.config()).await.unwrap(), "/metrics").await;
    assert!(metrics.contains("tickhub_tls_certificate_not_after_seconds{listener=\"public\"} 72"), "{metrics}");
}

#[tokio::test]
async fn a_client_comes_back_by_ticket_unless_it_must_show_a_certificate() {
    let hub = secured("", "").await;
    let config = hub.config();
    hub.welcomed(&config).await;
    let again = hub.welcomed(&config).await.stream().get_ref().1.handshake_kind();
    assert_eq!(again, Some(rustls::HandshakeKind::Resumed));
    assert_eq!(hub.sum("tickhub_tls_handshakes_total", &["resumed=\"yes\""]), 1.0);

    let clients = Authority::new("clients");
    let hub = mutual("optional", &clients, "").await;
    let config = Arc::new(hub.authority.client(&VERSIONS, Some(&clients.sign("ann", |_| {}))));
    for _ in 0..2 {
        hub.welcomed(&config).await;
    }
    assert_eq!(hub.sum("tickhub_tls_handshakes_total", &["resumed=\"yes\""]), 0.0);
}

#[tokio::test]
async fn a_hub_for_new_clients_only_refuses_the_older_version_and_other_protocols() {
    let hub = secured("min_version = \"1.3\"", "").await;
    let old = Arc::new(hub.authority.client(&[&rustls::version::TLS12], None));
    assert!(pki::connect(&hub.hub.http, &old).await.is_err());
    let mut other = hub.authority.client(&VERSIONS, None);
    other.alpn_protocols = vec![b"h2".to_vec()];
    assert!(pki::connect(&hub.hub.http, &Arc::new(other)).await.is_err());
    hub.until("both refusals", |hub| hub.sum("tickhub_tls_refusals_total", &["reason=\"incompatible\""]) == 2.0).await;
    // Who does not trust the hub says so.
    let stranger = Arc::new(Authority::new("somebody else").client(&VERSIONS, None));
    assert!(pki::connect(&hub.hub.http, &stranger).await.is_err());
    hub.until("the alert", |hub| hub.sum("tickhub_tls_refusals_total", &["reason=\"alert\""]) == 1.0).await;
    hub.welcomed(&hub.config()).await;
}

#[tokio::test]
async fn plain_text_is_answered_in_plain_text_and_counted() {
    let hub = secured("", "").await;
    let answer = get(TcpStream::connect(&hub.hub.http).await.unwrap(), "/api/v1/health").await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.contains("this port speaks TLS"), "{answer}");
    hub.until("the count", |hub| hub.sum("tickhub_tls_refusals_total", &["reason=\"plain_text\""]) == 1.0).await;
}

#[tokio::test]
async fn a_handshake_that_stalls_ends_and_only_so_many_are_under_way() {
    let hub = secured("handshakes_max = 3", "[timeouts]\nhandshake = \"1s\"\n").await;
    let mut stalled = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(&hub.hub.http).await.unwrap();
        // The head of a record, and nothing more.
        stream.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        stalled.push(stream);
    }
    hub.until("three handshakes", |hub| hub.sum("tickhub_tls_handshakes_open", &["public"]) == 3.0).await;
    assert!(pki::connect(&hub.hub.http, &hub.config()).await.is_err());
    hub.until("a refusal", |hub| hub.sum("tickhub_tls_refusals_total", &["handshakes_max"]) == 1.0).await;
    for mut stream in stalled {
        let ended = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 16])).await.expect("it is ended");
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
    assert_eq!(hub.sum("tickhub_tls_refusals_total", &["reason=\"timeout\""]), 3.0);
    hub.until("room", |hub| hub.sum("tickhub_tls_handshakes_open", &["public"]) == 0.0).await;
    hub.welcomed(&hub.config()).await;
}

#[tokio::test]
async fn large_messages_come_in_many_records_and_keys_are_renewed_in_between() {
    let hub = secured("", "").await;
    let mut client = hub.welcomed(&hub.config()).await;
    let symbols: Vec<String> = (0..1000).map(|n| format!("SIM:{n:0>40}")).collect();
    for id in 1..6 {
        let command = json!({"op": "subscribe", "id": id, "channel": "quote", "symbols": symbols}).to_string();
        assert!(command.len() > 40_000);
        client.text(&command).await;
        client.stream().get_mut().1.refresh_traffic_keys().unwrap();
        let mut rejected = 0;
        loop {
            let answer = client.answer(id).await;
            rejected += answer["rejected"].as_array().unwrap().len();
            if answer.get("more").is_none() {
                break;
            }
        }
        assert_eq!(rejected, 1000);
    }
    client.text(r#"{"op":"ping","id":7}"#).await;
    assert_eq!(client.answer(7).await["op"], "pong");
}

#[tokio::test]
async fn who_reads_nothing_over_tls_is_closed_and_nobody_else_notices() {
    let limits = "[limits]\noutboxes_bytes = 1048576\noutbox_events = 100000\n[timeouts]\nclose = \"20s\"\n";
    let hub = secured("", &format!("{limits}{BUSY}")).await;
    let config = hub.config();
    let mut healthy = Healthy::join(&hub, &config).await;
    let mut all = Vec::new();
    for _ in 0..4 {
        let mut client = hub.welcomed(&config).await;
        client.text(ALL_QUOTES).await;
        all.push(client);
    }
    healthy.until(|| hub.sum("tickhub_tls_pending_bytes", &[]) > 0.0).await;
    healthy.until(|| hub.sum("tickhub_slow_closes_total", &["budget"]) >= 4.0).await;
    // Who begins to read now gets what was encrypted, every byte of it sound, then the word.
    for mut client in all {
        let (code, reason) = client.closed().await;
        assert_eq!(code, 4005, "{reason}");
        // And the goodbye of TLS behind it.
        assert_eq!(client.sip(1).await, 0);
    }
    healthy.until(|| hub.sum("tickhub_sessions_closed_total", &["overloaded"]) >= 4.0).await;
    healthy.until(|| hub.sum("tickhub_tls_pending_bytes", &[]) == 0.0).await;
    assert_eq!(hub.sum("tickhub_tls_broken_total", &[]), 0.0, "{}", hub.hub.metrics());
}

#[tokio::test]
async fn who_takes_nothing_over_tls_for_too_long_is_closed_and_its_memory_given_back() {
    let hub = secured("", &format!("[timeouts]\nwrite_stall = \"500ms\"\nclose = \"300ms\"\n{BUSY}")).await;
    let config = hub.config();
    let mut healthy = Healthy::join(&hub, &config).await;
    let mut stuck = hub.welcomed(&config).await;
    stuck.text(ALL_QUOTES).await;
    healthy.until(|| hub.sum("tickhub_slow_closes_total", &["stall"]) == 1.0).await;
    healthy.until(|| hub.sum("tickhub_sessions_closed_total", &["slow_consumer"]) == 1.0).await;
    healthy.until(|| hub.sum("tickhub_outbox_memory_bytes", &[]) == 0.0).await;
    healthy.until(|| hub.sum("tickhub_tls_pending_bytes", &[]) == 0.0).await;
}

#[tokio::test]
async fn who_reads_too_slowly_over_tls_is_told_exactly_what_it_missed() {
    let hub = secured("", BUSY).await;
    let mut slow = hub.welcomed(&hub.config()).await;
    slow.text(&ALL_QUOTES.replace("\"mode\"", "\"backlog\":50,\"mode\"")).await;
    let accepted = slow.answer(1).await["accepted"].as_array().unwrap().clone();
    let name = |entry: &Value| (entry["symbol"].as_str().unwrap().to_owned(), 0);
    let mut next: std::collections::BTreeMap<String, u64> = accepted.iter().map(name).collect();
    hub.until("a gap", |hub| hub.sum("tickhub_outbox_overflows_total", &["policy=\"gap\""]) > 0.0).await;
    for _ in 0..20 {
        slow.sip(8 * 1024).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut missed = 0;
    for _ in 0..40_000 {
        let message = slow.json().await;
        // Instruments that appeared since are announced without one.
        let Some(symbol) = message["sym"].as_str() else { continue };
        let due = next.entry(symbol.to_owned()).or_insert(0);
        let gap = message["op"] == "gap";
        let [from, to] = if gap { ["from", "to"] } else { ["seq", "seq"] }.map(|name| message[name].as_u64().unwrap());
        assert!(*due == 0 || from == *due, "{message}, due was {due}");
        *due = to + 1;
        missed += u32::from(gap);
        if missed > 50 {
            break;
        }
    }
    assert!(missed > 0, "it was told of nothing");
}

#[tokio::test]
async fn who_comes_back_over_tls_goes_on_without_a_hole() {
    let hub = secured("", "").await;
    let config = hub.config();
    let mut first = hub.welcomed(&config).await;
    first.text(r#"{"op":"subscribe","id":1,"channel":"trade","symbols":["SIM:AAA-USD"]}"#).await;
    let epoch = first.answer(1).await["epoch"].clone();
    let last = first.until("ch", "trade").await["seq"].as_u64().unwrap();
    drop(first);
    let mut second = hub.welcomed(&config).await;
    let resume = json!({"epoch": epoch, "seq": {"SIM:AAA-USD": last}});
    let command = json!({"op":"subscribe","id":1,"channel":"trade","symbols":["SIM:AAA-USD"],"resume":resume});
    second.text(&command.to_string()).await;
    second.answer(1).await;
    for expected in last + 1..last + 20 {
        assert_eq!(second.until("ch", "trade").await["seq"].as_u64(), Some(expected));
    }
}

#[tokio::test]
async fn a_drain_says_goodbye_in_both_languages() {
    let mut hub = secured("", "[timeouts]\ndrain = \"200ms\"\n").await;
    let config = hub.config();
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(Healthy::join(&hub, &config).await.client);
    }
    let listening = tokio::spawn(async move {
        for client in &mut clients {
            let (code, reason) = client.closed().await;
            assert_eq!(code, 1001, "{reason}");
            // An end without the goodbye of TLS would be an error here.
            assert_eq!(client.stream().read(&mut [0; 64]).await.unwrap(), 0);
        }
    });
    hub.hub.drain().await;
    listening.await.unwrap();
}

#[tokio::test]
async fn what_is_cut_off_or_garbled_is_a_lost_connection_and_counted() {
    let hub = secured("", "").await;
    let config = hub.config();
    for (name, garbled) in [("truncated", false), ("bad_record", true)] {
        let mut client = hub.welcomed(&config).await;
        client.text(r#"{"op":"ping","id":1}"#).await;
        assert_eq!(client.answer(1).await["op"], "pong");
        let socket = client.stream().get_mut().0;
        if garbled {
            // A record of the right form that no key has made.
            let mut record = vec![23, 3, 3, 0, 40];
            record.resize(45, 7);
            socket.write_all(&record).await.unwrap();
        } else {
            socket.shutdown().await.unwrap();
        }
        let reason = format!("reason=\"{name}\"");
        hub.until(name, |hub| hub.sum("tickhub_tls_broken_total", &[&reason]) == 1.0).await;
        drop(client);
    }
    hub.until("both", |hub| hub.sum("tickhub_sessions_closed_total", &["lost"]) == 2.0).await;
    // A goodbye of TLS alone loses the session as well, but nothing is broken.
    let mut polite = hub.welcomed(&config).await;
    polite.half_close().await;
    hub.until("the third", |hub| hub.sum("tickhub_sessions_closed_total", &["lost"]) == 3.0).await;
    assert_eq!(hub.sum("tickhub_tls_broken_total", &[]), 2.0);
}

/// The serial number that the hub shows now.
async fn shown(hub: &Secured) -> Vec<u8> {
    let config = Arc::new(hub.authority.client(&VERSIONS, None));
    let stream = hub.connect(&config).await;
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_new_certificate_is_shown_and_nobody_is_disconnected() {
    let hub = secured("", "").await;
    let config = hub.config();
    let mut healthy = Healthy::join(&hub, &config).await;
    let path = hub.folder.path().join("hub");
    for round in 1..=2 {
        let new = hub.authority.server();
        if round == 1 {
            new.write(&path);
        } else {
            // As an orchestrator does it: files behind a link that is pointed elsewhere.
            let files = hub.folder.path().join("second");
            std::fs::create_dir(&files).unwrap();
            new.write(&files.join("hub"));
            for end in ["crt", "key"] {
                let link = hub.folder.path().join("link");
                std::os::unix::fs::symlink(files.join("hub").with_extension(end), &link).unwrap();
                std::fs::rename(link, path.with_extension(end)).unwrap();
            }
        }
        let listeners = 2.0;
        let reloaded = || hub.sum("tickhub_tls_reloads_total", &["result=\"ok\""]) == f64::from(round) * listeners;
        healthy.until(reloaded).await;
        assert_eq!(shown(&hub).await, new.der.to_vec());
        healthy.next().await;
    }
    assert_eq!(hub.sum("tickhub_sessions_closed_total", &[]), 0.0);
    assert_eq!(hub.sum("tickhub_tls_reloads_total", &["result=\"failed\""]), 0.0);
}

#[tokio::test]
async fn a_pair_that_does_not_fit_keeps_the_one_before() {
    let hub = secured("", "").await;
    let before = shown(&hub).await;
    let path = hub.folder.path().join("hub");
    let ended = hub.authority.sign("tickhub", |params| params.not_after = rcgen::date_time_ymd(2021, 1, 1));
    let foreign = hub.authority.server().key_pem;
    let wrongs: [(&str, &dyn Fn()); 4] = [
        ("another key", &|| std::fs::write(path.with_extension("key"), &foreign).unwrap()),
        ("no certificate", &|| std::fs::write(path.with_extension("crt"), "nothing").unwrap()),
        ("an end in the past", &|| {
            ended.write(&path);
        }),
        ("no file", &|| std::fs::remove_file(path.with_extension("crt")).unwrap()),
    ];
    for (at, (what, wrong)) in wrongs.iter().enumerate() {
        wrong();
        let failed = |hub: &Secured| hub.sum("tickhub_tls_reloads_total", &["public", "failed"]) == (at + 1) as f64;
        hub.until(what, failed).await;
        assert_eq!(shown(&hub).await, before, "{what}");
    }
    // One that fits is taken even so.
    let good = hub.authority.server();
    good.write(&path);
    hub.until("the good one", |hub| hub.sum("tickhub_tls_reloads_total", &["public", "ok"]) == 1.0).await;
    assert_eq!(shown(&hub).await, good.der.to_vec());
}

/// A hub that asks for certificates of `clients`.
async fn mutual(auth: &str, clients: &Authority, more: &str) -> Secured {
    let folder = tempfile::tempdir().unwrap();
    let (roots, list) = (folder.path().join("clients.crt"), folder.path().join("clients.crl"));
    clients.write(&roots);
    std::fs::write(&list, clients.revoke(666)).unwrap();
    let tls = format!("client_auth = {auth:?}\nclient_ca_file = {roots:?}\ncrl_file = {list:?}");
    secured(&tls, more).await
}

/// What a session over this connection is told first, with these headers.
async fn first(hub: &Secured, config: ClientConfig, headers: &[&str]) -> Result<Value, String> {
    let refused = |error: std::io::Error| error.to_string();
    let stream = pki::connect(&hub.hub.http, &Arc::new(config)).await.map_err(refused)?;
    let mut client = Client::over(stream, &hub.hub.http, PRICES, headers).await;
    match client.next().await {
        Got::Json(value) => Ok(value),
        other => Err(format!("{other:?}")),
    }
}

#[tokio::test]
async fn only_good_certificates_are_let_in() {
    let clients = Authority::new("clients");
    let hub = mutual("required", &clients, "").await;
    let client = |pair| hub.authority.client(&[&rustls::version::TLS12], pair);
    let ended = clients.sign("ann", |params| params.not_after = rcgen::date_time_ymd(2021, 1, 1));
    let early = clients.sign("ann", |params| params.not_before = rcgen::date_time_ymd(2199, 1, 1));
    let revoked = clients.sign("ann", |params| params.serial_number = Some(666_u64.into()));
    let foreign = Authority::new("clients").sign("ann", |_| {});
    let cases = [
        (None, "no_certificate", 1.0),
        (Some(&ended), "expired", 1.0),
        (Some(&early), "expired", 2.0),
        (Some(&revoked), "revoked", 1.0),
        // Of the same name, but another key.
        (Some(&foreign), "bad_certificate", 1.0),
    ];
    for (pair, reason, times) in cases {
        let said = first(&hub, client(pair), &[]).await;
        assert!(said.is_err(), "{reason}: {said:?}");
        let label = format!("reason=\"{reason}\"");
        hub.until(reason, |hub| hub.sum("tickhub_tls_refusals_total", &["public", &label]) == times).await;
    }
    let stranger = Authority::new("others").sign("ann", |_| {});
    assert!(first(&hub, client(Some(&stranger)), &[]).await.is_err());
    hub.until("it", |hub| hub.sum("tickhub_tls_refusals_total", &["unknown_issuer"]) == 1.0).await;
    let bearer = format!("Authorization: Bearer {}", hub.hub.token);
    let good = clients.sign("ann", |_| {});
    assert_eq!(first(&hub, client(Some(&good)), &[&bearer]).await.unwrap()["op"], "welcome");
}

#[tokio::test]
async fn a_certificate_stands_for_whom_the_configuration_says() {
    let clients = Authority::new("clients");
    let people = "[[auth.keys]]\nkid = \"k\"\nsecret = \"abcdefghijklmnopqrstuvwxyz012345\"\n\
           [[auth.certificates]]\nsubject = \"ann\"\nowner = \"Ann\"\nrole = \"viewer\"\n\
           [[auth.certificates]]\nsan = \"uri:spiffe://desk/7\"\nowner = \"desk\"\nrole = \"analyst\"\n\
           [auth.roles.viewer]\nsubscriptions = 7\n[auth.roles.analyst]\nsubscriptions = 77\n";
    let hub = mutual("optional", &clients, people).await;
    let client = |pair| hub.authority.client(&VERSIONS, pair);
    let ann = clients.sign("ann", |_| {});
    let uri = |params: &mut rcgen::CertificateParams| {
        params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://desk/7".try_into().unwrap())];
    };
    let desk = clients.sign("whoever", uri);
    let nobody = clients.sign("Ann", |_| {});
    let limit = |said: Result<Value, String>| said.unwrap()["limits"]["subscriptions"].clone();
    assert_eq!(limit(first(&hub, client(Some(&ann)), &[]).await), 7);
    assert_eq!(limit(first(&hub, client(Some(&desk)), &[]).await), 77);

    // A credential that is shown counts, and a bad one is not made good by a certificate.
    let config = tickhub::config::Config::read(Some(("t", people)), []);
    let faults = config.unwrap_err().to_string();
    assert!(faults.contains("auth.certificates") && faults.contains("client_auth"), "{faults}");
    let stream = pki::connect(&hub.hub.http, &Arc::new(client(Some(&ann)))).await.unwrap();
    let (status, head, ..) = upgrade_over(stream, &hub.hub.http, PRICES, &["X-API-Key: no.good"]).await;
    assert_eq!(status, 401, "{head}");

    // One that stands for nobody is none, and so is none: a command may follow.
    for pair in [Some(&nobody), None] {
        let stream = pki::connect(&hub.hub.http, &Arc::new(client(pair))).await.unwrap();
        let mut session = Client::over(stream, &hub.hub.http, PRICES, &[]).await;
        session.text(r#"{"op":"subscribe","id":1,"channel":"trade","symbols":["*"]}"#).await;
        assert_eq!(session.answer(1).await["code"], "unauthenticated");
    }
    for (pair, status) in [(Some(&ann), "200"), (Some(&nobody), "401"), (None, "401")] {
        let stream = pki::connect(&hub.hub.http, &Arc::new(client(pair))).await.unwrap();
        let answer = get(stream, "/api/v1/instruments").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}
