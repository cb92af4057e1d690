//! Sessions that do not keep up, of a whole hub over real sockets: what becomes of them, and that
//! it is nothing to anybody else.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::client::{Client, Got};
use support::{TestHub, hub};
use tickhub::auth::Authenticator;
use tickhub::config::Config;

/// 50 instruments, more events than a socket that is not read holds for a tenth of a second.
const BUSY: &str = "[[provider]]\nkind = \"sim\"\nevents_per_second = 20000\n";
const ALL_QUOTES: &str = r#"{"op":"subscribe","id":1,"channel":"quote","mode":"every","symbols":["*"]}"#;

/// The sum of a metric over its labels that contain `label`.
fn sum(hub: &TestHub, name: &str, label: &str) -> f64 {
    let metrics = hub.metrics();
    let of = metrics.lines().filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(label));
    of.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// A client that checks that it misses nothing of one instrument's trades.
struct Healthy {
    client: Client,
    last: u64,
}

impl Healthy {
    async fn join(hub: &TestHub, token: &str) -> Self {
        let mut client = Client::welcomed(&hub.http, token).await;
        client.text(r#"{"op":"subscribe","id":1,"channel":"trade","symbols":["SIM:AAA-USD"]}"#).await;
        client.answer(1).await;
        let last = client.until("ch", "trade").await["seq"].as_u64().unwrap();
        Self { client, last }
    }

    /// Reads on until something holds, every trade of it.
    async fn until(&mut self, holds: impl Fn() -> bool) {
        let until = tokio::time::Instant::now() + support::client::PATIENCE;
        while !holds() {
            assert!(tokio::time::Instant::now() < until, "it never comes");
            let trade = self.client.json().await;
            assert_eq!((&trade["ch"], trade["seq"].as_u64()), (&json!("trade"), Some(self.last + 1)), "{trade}");
            self.last += 1;
        }
    }
}

async fn stuck(hub: &TestHub, token: &str, command: &str) -> Client {
    let mut client = Client::welcomed(&hub.http, token).await;
    client.text(command).await;
    client
}

#[tokio::test]
async fn a_used_up_budget_closes_those_who_never_read_and_nobody_else_notices() {
    let limits = "[limits]\noutboxes_bytes = 1048576\noutbox_events = 100000\n[timeouts]\nclose = \"20s\"\n";
    let hub = hub(&format!("{limits}{BUSY}")).await;
    let mut healthy = Healthy::join(&hub, &hub.token).await;
    let mut all = Vec::new();
    for _ in 0..6 {
        all.push(stuck(&hub, &hub.token, ALL_QUOTES).await);
    }
    // Each may have 1 MiB waiting, but not all of them together; in the end not even one.
    healthy.until(|| sum(&hub, "tickhub_slow_closes_total", "budget") >= 6.0).await;
    assert_eq!(sum(&hub, "tickhub_slow_closes_total", ""), 6.0, "{}", hub.metrics());
    assert!(sum(&hub, "tickhub_outbox_shed_bytes_total", "") >= 1_048_576.0);
    assert_eq!(sum(&hub, "tickhub_outbox_memory_bytes_max", ""), 1_048_576.0);
    healthy.until(|| sum(&hub, "tickhub_outbox_memory_bytes", "") < 1_000_000.0).await;
    // Who begins to read now gets what its socket had taken, every number, and then the word.
    for mut client in all {
        let (code, reason) = client.closed().await;
        assert_eq!(code, 4005, "{reason}");
    }
    let mut next = Healthy::join(&hub, &hub.token).await;
    let from = next.last;
    next.until(|| sum(&hub, "tickhub_sessions_closed_total", "overloaded") >= 6.0).await;
    assert!(next.last >= from);
}

#[tokio::test]
async fn who_takes_a_byte_now_and_then_is_closed_and_its_memory_given_back() {
    let hub = hub(&format!("[timeouts]\nwrite_stall = \"500ms\"\nclose = \"300ms\"\n{BUSY}")).await;
    let mut healthy = Healthy::join(&hub, &hub.token).await;
    let mut trickle = stuck(&hub, &hub.token, ALL_QUOTES).await;
    let reader = tokio::spawn(async move {
        while trickle.sip(1).await == 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    healthy.until(|| sum(&hub, "tickhub_slow_closes_total", "stall") == 1.0).await;
    healthy.until(|| sum(&hub, "tickhub_sessions_closed_total", "slow_consumer") == 1.0).await;
    healthy.until(|| sum(&hub, "tickhub_outbox_memory_bytes", "") == 0.0).await;
    reader.abort();
}

#[tokio::test]
async fn who_reads_too_slowly_is_told_exactly_what_it_missed() {
    let hub = hub(BUSY).await;
    let command = r#"{"op":"subscribe","id":1,"channel":"quote","mode":"every","symbols":["*"],"backlog":50}"#;
    let mut slow = Client::welcomed(&hub.http, &hub.token).await;
    slow.text(command).await;
    let answer = slow.answer(1).await;
    assert_eq!(answer["backlog"], 50);
    let mut next: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
    let mut missed = 0;
    // It reads nothing until something is missed, then a sip now and then, then at full speed.
    while sum(&hub, "tickhub_outbox_overflows_total", "gap") == 0.0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        slow.sip(8 * 1024).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..40_000 {
        let message = slow.json().await;
        if message["op"] == "subscribed" {
            // An instrument that the feed has brought since.
            continue;
        }
        let due = next.entry(message["sym"].as_str().unwrap().to_owned()).or_default();
        let (from, to) = if message["op"] == "gap" {
            assert_eq!(message["cause"], "slow_consumer", "{message}");
            missed += 1;
            (message["from"].as_u64().unwrap(), message["to"].as_u64().unwrap())
        } else {
            (message["seq"].as_u64().unwrap(), message["seq"].as_u64().unwrap())
        };
        assert!(*due == 0 || from == *due, "{message}, due was {due}");
        *due = to + 1;
        if missed > 50 {
            break;
        }
    }
    assert!(missed > 0, "it was told of nothing");
}

#[tokio::test]
async fn who_leaves_in_the_middle_is_forgotten_with_all_that_waited() {
    let hub = hub(BUSY).await;
    let mut healthy = Healthy::join(&hub, &hub.token).await;
    let mut half = stuck(&hub, &hub.token, ALL_QUOTES).await;
    let whole = stuck(&hub, &hub.token, ALL_QUOTES).await;
    healthy.until(|| sum(&hub, "tickhub_outbox_blocked_sessions", "") == 2.0).await;
    healthy.until(|| sum(&hub, "tickhub_outbox_memory_bytes", "") > 100_000.0).await;
    half.half_close().await;
    whole.reset();
    healthy.until(|| sum(&hub, "tickhub_sessions_closed_total", "lost") == 2.0).await;
    healthy.until(|| sum(&hub, "tickhub_outbox_memory_bytes", "") == 0.0).await;
}

const SECRET: &str = "a secret that is long enough for HS256";

fn roles(roles: &str) -> (String, Authenticator) {
    let text = format!("[[auth.keys]]\nkid = \"k1\"\nsecret = \"{SECRET}\"\n{roles}");
    let config = Config::read(Some(("test.toml", &text)), std::iter::empty()).unwrap();
    (text, Authenticator::new(&config.auth, None).unwrap())
}

fn sign(authenticator: &Authenticator, role: &str) -> String {
    let mut request = tickhub::auth::DevelopmentKey::token_request();
    (request.subject, request.role) = ("ann".to_owned(), role.to_owned());
    authenticator.sign(&request, tickhub::time::wall()).unwrap()
}

#[tokio::test]
async fn a_role_says_how_slow_its_sessions_may_be() {
    let (text, authenticator) = roles(
        "[auth.roles.viewer]\nbacklog_events = 100\noverflow = [\"disconnect\"]\n\
         [auth.roles.analyst]\nwrite_stall = \"300ms\"\noverflow = [\"gap\"]\n",
    );
    let hub = hub(&format!("{text}[timeouts]\nwrite_stall = \"10m\"\nping = \"5m\"\nidle = \"10m\"\n{BUSY}")).await;
    let [viewer, analyst, admin] = ["viewer", "analyst", "admin"].map(|role| sign(&authenticator, role));
    let mut healthy = Healthy::join(&hub, &admin).await;

    let mut client = Client::open(&hub.http, "/api/v1/ws/prices", &[&format!("Authorization: Bearer {viewer}")]).await;
    assert_eq!(client.json().await["limits"]["backlog"], 100);
    // More than it may is cut to what it may, and said.
    let greedy = r#"{"op":"subscribe","id":1,"channel":"trade","symbols":["SIM:*"],"overflow":"gap","backlog":5000}"#;
    client.text(greedy).await;
    let answer = client.answer(1).await;
    assert_eq!((&answer["overflow"], &answer["backlog"]), (&json!("disconnect"), &json!(100)));
    // Another role, another bound, from the next command on.
    client.text(&json!({"op":"auth","id":2,"token":analyst}).to_string()).await;
    assert_eq!(client.answer(2).await["op"], "ok");
    client.text(&greedy.replace("\"id\":1", "\"id\":3").replace("5000", "200")).await;
    let answer = client.answer(3).await;
    assert_eq!((&answer["overflow"], &answer["backlog"]), (&json!("gap"), &json!(200)));
    drop(client);

    let _stalled = stuck(&hub, &analyst, ALL_QUOTES).await;
    healthy.until(|| sum(&hub, "tickhub_slow_closes_total", "stall") == 1.0).await;
    let _full = stuck(&hub, &viewer, ALL_QUOTES).await;
    healthy.until(|| sum(&hub, "tickhub_slow_closes_total", "backlog") == 1.0).await;
    assert_eq!(sum(&hub, "tickhub_slow_closes_total", "stall"), 1.0);
    assert_eq!(sum(&hub, "tickhub_slow_closes_total", ""), 2.0);
}

#[tokio::test]
async fn a_backlog_belongs_to_every_and_is_at_least_one() {
    let hub = hub("").await;
    let mut client = Client::welcomed(&hub.http, &hub.token).await;
    for (id, options) in [
        (1, r#""channel":"quote","backlog":5"#),
        (2, r#""channel":"book","mode":"latest","backlog":5"#),
        (3, r#""channel":"trade","backlog":0"#),
        (4, r#""channel":"status","backlog":5"#),
    ] {
        client.text(&format!(r#"{{"op":"subscribe","id":{id},"symbols":["SIM:*"],{options}}}"#)).await;
        assert_eq!(client.answer(id).await["code"], "bad_message", "{options}");
    }
    // Nothing is said of what nobody asked for.
    client.text(r#"{"op":"subscribe","id":5,"channel":"trade","symbols":["SIM:AAA-USD"]}"#).await;
    let answer: Value = client.answer(5).await;
    assert!(answer.get("backlog").is_none() && answer.get("overflow").is_none(), "{answer}");
    assert!(matches!(client.next().await, Got::Json(_)));
}
