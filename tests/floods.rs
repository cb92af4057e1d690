//! What a flood of commands costs a worker, counted in looks at instruments: the same on every
//! machine.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use serde_json::{Value, json};
use tickhub::auth::{Authenticator, DevelopmentKey, Principal};
use tickhub::config::Config;
use tickhub::fanout::{Fanout, OutboxLimits, SessionId, Sink};
use tickhub::limits::{COMMAND_LOOKS_MAX, LOOKS_PER_COMMAND};
use tickhub::metrics::Registry;
use tickhub::model::{InstrumentDefinition, InstrumentId, UnixNanos};
use tickhub::session::{Admissions, Meters, Now, Session, SessionConfig};
use tickhub::store::{Store, Writer};
use tickhub::wire::{CloseCode, Format};

const SECOND: u64 = 1_000_000_000;
const COMMANDS_PER_SECOND: u32 = 100;

/// A worker that knows so many instruments, and one session on it.
struct World {
    fanout: Fanout,
    session: Session,
    answers: Answers,
    now: Now,
    _writers: Vec<Writer>,
}

/// A socket that takes everything; its text messages.
#[derive(Default)]
struct Answers(Vec<u8>);

impl Sink for Answers {
    fn write(&mut self, _: SessionId, slices: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
        slices.iter().for_each(|slice| self.0.extend_from_slice(slice));
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }
}

impl Answers {
    fn take(&mut self) -> Vec<Value> {
        let (bytes, mut at, mut messages) = (std::mem::take(&mut self.0), 0, Vec::new());
        while at < bytes.len() {
            let (head, length) = match bytes[at + 1] {
                126 => (4, usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]))),
                127 => (10, u64::from_be_bytes(bytes[at + 2..at + 10].try_into().unwrap()) as usize),
                length => (2, usize::from(length)),
            };
            let payload = &bytes[at + head..at + head + length];
            if bytes[at] == 0x81 {
                messages.push(serde_json::from_slice(payload).unwrap());
            }
            at += head + length;
        }
        messages
    }
}

fn principal() -> Arc<Principal> {
    let text = "[[auth.keys]]\nkid = \"k1\"\nsecret = \"a secret that is long enough for HS256\"\n";
    let config = Config::read(Some(("test.toml", text)), std::iter::empty()).unwrap();
    let authenticator = Authenticator::new(&config.auth, None).unwrap();
    let now = tickhub::time::wall();
    let token = authenticator.sign(&DevelopmentKey::token_request(), now).unwrap();
    Arc::new(authenticator.token(&token, now).unwrap())
}

impl World {
    fn of(instruments: usize) -> Self {
        let store = Store::new(0);
        let feed = store.feed_of("SIM", "e", UnixNanos(0)).unwrap();
        let define = |n: usize| InstrumentDefinition {
            id: InstrumentId::parse(&format!("SIM:A{n}")).unwrap(),
            raw_symbol: format!("a{n}"),
            base: None,
            quote: None,
        };
        let writers = (0..instruments).map(|n| store.claim(define(n), feed).unwrap().0).collect();
        let outbox = OutboxLimits { events_max: 1024, bytes_max: 1 << 20, control_bytes_max: 1 << 30 };
        let mut fanout = Fanout::new(0, store, outbox, Vec::new(), None);
        let config = SessionConfig { commands_per_second: COMMANDS_PER_SECOND, ..SessionConfig::default() };
        let meters = Arc::new(Meters::new(&Registry::new()));
        let principal = principal();
        let admission = Admissions::default().admit(&principal, 1).unwrap();
        let now = Now { mono: SECOND, wall: tickhub::time::wall() };
        let credential = Some((principal, admission));
        let named = ("s", Format::ALL[0]);
        let session = Session::open(&mut fanout, named, Arc::new(config), meters, credential, Vec::new(), now);
        Self { fanout, session, answers: Answers::default(), now, _writers: writers }
    }

    /// The last answer that the session gets for a command.
    fn send(&mut self, command: &Value) -> Value {
        self.session.on_text(&mut self.fanout, &command.to_string(), self.now);
        self.fanout.write(self.session.id(), self.now.mono, &mut self.answers);
        self.answers.take().into_iter().rfind(|message| message["op"].is_string()).unwrap_or_default()
    }

    fn looks(&mut self) -> u64 {
        self.fanout.take_counts().looks
    }
}

/// A command over patterns that nothing else matches.
fn patterns(op: &str, patterns: std::ops::Range<usize>) -> Value {
    let symbols: Vec<String> = patterns.map(|n| format!("SIM:Z{n}*")).collect();
    json!({"op":op,"id":1,"channel":"trade","symbols":symbols})
}

#[test]
fn a_flood_of_patterns_costs_a_bounded_number_of_looks() {
    let mut world = World::of(5_000);
    for _ in 0..9 {
        for op in ["subscribe", "unsubscribe"] {
            world.send(&patterns(op, 0..100));
        }
    }
    let burst = u64::from(COMMANDS_PER_SECOND) * LOOKS_PER_COMMAND;
    let flood = world.looks();
    assert!(flood <= burst + COMMAND_LOOKS_MAX, "{flood} looks in one turn");
    assert_eq!(world.session.closed(), Some(CloseCode::RateLimited), "who goes on like that is closed");
}

#[test]
fn a_renewed_allowance_lets_the_same_command_in_again() {
    let mut world = World::of(5_000);
    assert_eq!(world.send(&patterns("subscribe", 0..100))["op"], "subscribed", "it is taken all the same");
    assert_eq!(world.send(&patterns("unsubscribe", 0..100))["code"], "rate_limited");
    world.now.mono += 3600 * SECOND;
    assert_eq!(world.send(&patterns("unsubscribe", 0..100))["op"], "unsubscribed");
}

#[test]
fn one_command_takes_no_more_looks_than_its_bound_and_says_what_it_left_out() {
    let mut world = World::of(20_000);
    let answer = world.send(&patterns("subscribe", 0..100));
    let left_out = answer["rejected"].as_array().unwrap();
    assert!(!left_out.is_empty() && left_out.iter().all(|entry| entry["code"] == "rate_limited"), "{answer}");
    let looks = world.looks();
    assert!((COMMAND_LOOKS_MAX / 2..=COMMAND_LOOKS_MAX).contains(&looks), "{looks}");
    // Alone and later, each of them is taken.
    world.now.mono += 3600 * SECOND;
    assert_eq!(world.send(&patterns("subscribe", 99..100))["rejected"], json!([]));
}

#[test]
fn what_people_subscribe_to_costs_nothing_extra() {
    let mut world = World::of(1_000);
    let all = json!({"op":"subscribe","id":1,"channel":"trade","symbols":["*"]});
    assert_eq!(world.send(&all)["accepted"].as_array().unwrap().len(), 250, "the last part of four");
    let ids: Vec<String> = (0..1_000).map(|n| format!("SIM:A{n}")).collect();
    world.send(&json!({"op":"subscribe","id":2,"channel":"quote","symbols":ids}));
    let pongs = (0..COMMANDS_PER_SECOND - 2).filter(|_| world.send(&json!({"op":"ping"}))["op"] == "pong").count();
    assert_eq!(pongs, 98, "two commands are taken out of the hundred");
}
