//! What must hold whatever a peer sends: one function for each parser that reads from one. The
//! coverage-guided fuzzer (`fuzz/`) and the replay of the corpus on stable (`tests/fuzz_corpus.rs`)
//! call the same functions.

mod frames;
mod handshake;
mod jwks;
mod proxies;
mod settings;
mod tokens;
mod venue;

use tickhub::wire::answer;
use tickhub::wire::command::{Command, CommandLimits, parse};

/// A parser, and all that must hold of it. It panics where something does not.
pub(crate) type Target = fn(&[u8]);

/// Every target, by the name of its folder in `fuzz/corpus` and of its program.
pub(crate) const TARGETS: &[(&str, Target)] = &[
    ("frames", frames::frames),
    ("commands", commands),
    ("handshake", handshake::handshake),
    ("proxies", proxies::proxies),
    ("venue", venue::venue),
    ("rows", venue::rows),
    ("tokens", tokens::tokens),
    ("jwks", jwks::jwks),
    ("settings", settings::settings),
];

/// Runs the target of a name.
#[allow(dead_code)] // The replay takes them from the list.
pub(crate) fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of that name");
    target(data);
}

/// Longest answer to a command that is refused: an id of 64 bytes and a text of the client of 64
/// characters, both escaped, and what is wrong with them.
const REFUSAL_BYTES_MAX: usize = 2048;

/// Commands: what is taken is JSON within the limits; what is refused is answered in short and
/// printable words.
fn commands(data: &[u8]) {
    let limits = CommandLimits { symbols_max: 4, resume_max: 4 };
    match parse(data, &limits) {
        Ok(request) => {
            serde_json::from_slice::<serde_json::Value>(data).expect("what is taken is JSON");
            let symbols = match &request.command {
                Command::Subscribe(subscribe) => &subscribe.symbols,
                Command::Unsubscribe(unsubscribe) => &unsubscribe.symbols,
                Command::Auth { .. } | Command::Ping => return,
            };
            assert!((1..=limits.symbols_max).contains(&symbols.len()), "{symbols:?}");
            let mut once = symbols.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), symbols.len(), "each symbol once");
            if let Command::Subscribe(subscribe) = &request.command {
                let resumed = subscribe.resume.as_ref().map_or(0, |resume| resume.entries.len());
                assert!(resumed <= limits.resume_max, "{resumed} entries");
                assert_ne!(subscribe.max_rate, Some(0));
            }
        }
        Err(refusal) => {
            let frame = answer::refused(&refusal);
            assert!(frame.payload().iter().all(|byte| *byte >= 0x20), "a raw control character");
            assert!(frame.len() <= REFUSAL_BYTES_MAX, "{} bytes", frame.len());
            let answer: serde_json::Value = serde_json::from_slice(frame.payload()).expect("an answer is JSON");
            assert_eq!(answer["op"], "error");
            assert!(!refusal.message.chars().any(char::is_control), "{:?}", refusal.message);
        }
    }
}
