//! The state store is killed again and again, at any point: nothing that was acknowledged is
//! forgotten, and no used refresh token comes alive.
//!
//! A child of this very program carries out deeds and says each before and after it. `SIGKILL` comes
//! when it comes. `TICKHUB_STATE_KILLS` = how many times, in all.
#![allow(missing_docs)]

use std::collections::{HashMap, HashSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use tickhub::auth::{
    CredentialKind, Deed, Denied, Done, Fresh, Grant, IssuedKey, Narrowing, Presented, Principal, Revocations,
    TokensConfig, new_api_key,
};
use tickhub::model::UnixNanos;
use tickhub::state::{FileState, StateOptions};
use tickhub::time;

const KILLS: u64 = 1_000;
/// Kills of one directory: its state grows meanwhile, and is then looked through as a whole.
const KILLS_OF_ONE: u64 = 25;
const CHILD: &str = "TICKHUB_STATE_CHILD";
const SUBJECTS: u64 = 5;

/// xorshift64 (Marsaglia, 2003): equal seeds make equal runs, as far as the kernel allows.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn open(directory: &Path) -> FileState {
    // Small, so that it is written anew all the time.
    let options = StateOptions { rewrite_bytes: 2_000, ..StateOptions::default() };
    FileState::open(directory, options).expect("opens, whatever happened to it")
}

fn fresh() -> Fresh {
    Fresh::new().expect("random bytes")
}

fn rotate(token: &str) -> Deed {
    Deed::Rotate { presented: Presented::parse(token).expect("its form is right"), fresh: fresh() }
}

/// What the child does until it is killed; without its variable it is no child and does nothing.
#[test]
fn child() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (seed, directory) = told.split_once(' ').expect("a seed and a directory");
    let mut random = Random(seed.parse().expect("a number"));
    let mut state = open(Path::new(directory));
    let (mut tokens, mut keys): (Vec<(u64, String)>, Vec<String>) = Default::default();
    for n in 0.. {
        let subject = random.below(SUBJECTS);
        let place = random.below(1000) as usize;
        let (name, deed) = match random.below(12) {
            0 => {
                let id = format!("k-{seed}-{n}");
                (format!("key {id}"), Deed::MakeKey(key(&id)))
            }
            1 if !keys.is_empty() => {
                let id = keys.swap_remove(place % keys.len());
                (format!("off {id}"), Deed::EndKey { id: id.into(), configured: false })
            }
            2 => (format!("sub s{subject}"), Deed::RevokeSubject(format!("s{subject}").into())),
            3 => (format!("jti t-{seed}-{n}"), Deed::RevokeToken(format!("t-{seed}-{n}").into())),
            4..9 if !tokens.is_empty() => {
                let token = tokens[place % tokens.len()].1.clone();
                (format!("rotate {token}"), rotate(&token))
            }
            _ => {
                let (key, subject) = ("desk".into(), format!("s{subject}").into());
                (format!("begin {subject}"), Deed::Begin { key, subject, fresh: fresh() })
            }
        };
        say(&format!("try {name}"));
        let outcome = state.carry_out([&deed], time::wall()).expect("the disk works").pop().expect("an outcome");
        let issued = match outcome.expect("nothing of this is denied") {
            Done::Issued(issue) => format!(" {}", issue.refresh.expose_secret()),
            _ => String::new(),
        };
        say(&format!("ok {name}{issued}"));
        let words: Vec<&str> = name.split(' ').collect();
        match words[0] {
            "key" => keys.push(words[1].to_owned()),
            "sub" => tokens.retain(|(of, _)| *of != subject),
            "begin" => tokens.push((subject, issued.trim().to_owned())),
            "rotate" => {
                let at = place % tokens.len();
                tokens[at].1 = issued.trim().to_owned();
            }
            _ => {}
        }
    }
}

fn key(id: &str) -> IssuedKey {
    IssuedKey {
        id: id.into(),
        hash: new_api_key(id).expect("valid id").hash,
        owner: "ann".into(),
        role: "viewer".into(),
        narrowing: Arc::new(Narrowing::default()),
        expires: None,
        made: time::wall(),
    }
}

fn say(line: &str) {
    // Past the test harness, which holds back what is printed.
    let mut out = std::io::stdout().lock();
    writeln!(out, "@{line}").and_then(|()| out.flush()).expect("the parent listens");
}

/// What was acknowledged in one directory, and what may have been done without that.
#[derive(Default)]
struct Known {
    keys: HashSet<String>,
    off: HashSet<String>,
    jtis: HashSet<String>,
    subjects: HashSet<String>,
    used: HashSet<String>,
    /// Tokens that nobody has used, with their subject.
    alive: HashMap<String, String>,
    /// Those whose use or end was tried and never acknowledged.
    doubtful: HashSet<String>,
}

impl Known {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let subject_of = |alive: &HashMap<String, String>, token: &str| alive[token].clone();
        match words.as_slice() {
            ["try", "rotate", token] => {
                self.doubtful.insert((*token).to_owned());
            }
            ["try", "sub", subject] => {
                self.doubtful.extend(self.alive.iter().filter(|(_, of)| of == subject).map(|(token, _)| token.clone()));
            }
            ["ok", "key", id] => {
                self.keys.insert((*id).to_owned());
            }
            ["ok", "off", id] => {
                self.off.insert((*id).to_owned());
            }
            ["ok", "jti", id] => {
                self.jtis.insert((*id).to_owned());
            }
            ["ok", "sub", subject] => {
                self.subjects.insert((*subject).to_owned());
                // Their families are ended: no token of theirs may come alive, used or not.
                let ended: Vec<String> =
                    self.alive.iter().filter(|(_, of)| of == subject).map(|(token, _)| token.clone()).collect();
                for token in ended {
                    self.alive.remove(&token);
                    self.doubtful.remove(&token);
                    self.used.insert(token);
                }
            }
            ["ok", "begin", subject, token] => {
                self.alive.insert((*token).to_owned(), (*subject).to_owned());
            }
            ["ok", "rotate", old, new] => {
                let subject = subject_of(&self.alive, old);
                self.alive.remove(*old);
                self.doubtful.remove(*old);
                self.used.insert((*old).to_owned());
                self.alive.insert((*new).to_owned(), subject);
            }
            ["try", ..] => {}
            other => panic!("{other:?}"),
        }
    }

    /// Holds what is found against what is known.
    fn check(&self, state: &FileState) {
        let now = time::wall();
        let ledger = state.ledger();
        let keys: HashSet<String> = ledger.keys().iter().map(|(key, _)| key.id.to_string()).collect();
        assert!(self.keys.is_subset(&keys), "forgotten: {:?}", self.keys.difference(&keys));
        assert!(self.off.iter().all(|id| ledger.off_since(id).is_some()), "a disabled key is alive");
        let revocations = Revocations::default();
        revocations.publish(ledger.held());
        for jti in &self.jtis {
            assert!(revocations.refuses(&principal("nobody", jti)), "{jti} is forgotten");
        }
        for subject in &self.subjects {
            assert!(revocations.refuses(&principal(subject, "any")), "{subject} is forgotten");
        }
        let judge = |token: &str| ledger.decide(&rotate(token), &TokensConfig::default(), now).outcome.err();
        for token in &self.used {
            let denied = judge(token);
            assert!(matches!(denied, Some(Denied::Reused | Denied::Ended)), "a used token is {denied:?}");
        }
        for token in self.alive.keys().filter(|token| !self.doubtful.contains(*token)) {
            assert_eq!(judge(token), None, "a good token is lost");
        }
    }
}

fn principal(subject: &str, id: &str) -> Principal {
    Principal {
        subject: subject.into(),
        issuer: None,
        role: "viewer".into(),
        grant: Arc::new(Grant::everything()),
        narrowing: None,
        expires: None,
        issued: Some(UnixNanos(0)),
        token_id: Some(id.into()),
        credential: CredentialKind::Jwt,
    }
}

/// One child from its start to its death; how many lines it said.
fn kill_one(directory: &Path, seed: u64, random: &mut Random, known: &mut Known) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{seed} {}", directory.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    let (wanted, mut heard) = (random.below(60), 0);
    let mut line = Vec::new();
    let mut killed = false;
    loop {
        if heard >= wanted && !killed {
            std::thread::park_timeout(Duration::from_micros(random.below(1500)));
            child.kill().expect("is there");
            killed = true;
        }
        line.clear();
        // Behind the kill all is read that it has said before.
        if lines.read_until(b'\n', &mut line).expect("a pipe") == 0 {
            break;
        }
        // The last line may be cut: then nobody was told.
        let Some(text) = line.strip_suffix(b"\n") else { break };
        let text = std::str::from_utf8(text).expect("a text");
        if let Some(said) = text.split_once('@').map(|(_, said)| said) {
            known.hear(said);
            heard += 1;
        }
    }
    let output = child.wait_with_output().expect("ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(9), "seed {seed} ended by itself: {said}");
    heard
}

#[test]
fn nothing_acknowledged_is_forgotten_however_often_it_is_killed() {
    let kills: u64 = std::env::var("TICKHUB_STATE_KILLS").map_or(KILLS, |text| text.parse().expect("a number"));
    let lives = kills.div_ceil(KILLS_OF_ONE);
    let threads = 4;
    let heard: u64 = std::thread::scope(|scope| {
        let run = |thread| {
            let mut heard = 0;
            for life in (thread..lives).step_by(threads as usize) {
                let directory = tempfile::tempdir().expect("a directory");
                let mut known = Known::default();
                let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (life + 1));
                for n in 0..KILLS_OF_ONE {
                    let seed = (life + 1) * 1000 + n + 1;
                    heard += kill_one(directory.path(), seed, &mut random, &mut known);
                    known.check(&open(directory.path()));
                }
            }
            heard
        };
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        handles.into_iter().map(|handle| handle.join().expect("holds")).sum()
    });
    assert!(heard > kills, "the children did something: {heard} lines of {kills}");
}
