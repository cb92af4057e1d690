//! The corpus of the fuzzer, and seeded mutations of it, on stable: see `fuzz/README.md`. Every
//! input that was once at fault is in the corpus.

#[path = "support/fuzz/mod.rs"]
mod fuzz;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fuzz::TARGETS;

/// Mutations of each input. More of them is the fuzzer's business, which sees what they reach.
const MUTATIONS: u64 = 600;
/// The whole corpus.
const CORPUS_BYTES_MAX: usize = 300_000;
/// Mutations do not grow beyond it.
const INPUT_BYTES_MAX: usize = 16 * 1024;
/// Bytes that parsers treat apart.
const EDGES: [u8; 20] = *b"\x00\x01\x7e\x7f\x80\xff\n\r\t \"\\{}[]:,.-";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// The inputs of a target, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder().join(target)).expect("every target has a corpus");
    let mut inputs: Vec<_> = entries
        .map(|entry| entry.expect("readable"))
        .map(|entry| (entry.file_name().into_string().expect("a text"), std::fs::read(entry.path()).expect("readable")))
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{target}: the corpus is empty");
    inputs
}

/// SplitMix64: all that is needed of chance is here, and it is the same everywhere.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, or 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let from = self.below(length + 1);
        from..from + self.below((length - from).min(64) + 1)
    }
}

/// Some changes to an input, with pieces of another one.
fn mutate(input: &[u8], other: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len());
        let range = chance.range(bytes.len());
        match chance.below(8) {
            0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << chance.below(8),
            2 if !bytes.is_empty() => bytes[at] = EDGES[chance.below(EDGES.len())],
            3 => drop(bytes.drain(range)),
            4 => {
                let copy = bytes[range].to_vec();
                bytes.splice(at..at, copy);
            }
            5 => {
                let piece = other[chance.range(other.len())].to_vec();
                bytes.splice(range, piece);
            }
            6 => bytes.truncate(at + 1),
            _ => {
                let edges: Vec<u8> = (0..=chance.below(4)).map(|_| EDGES[chance.below(EDGES.len())]).collect();
                bytes.splice(at..at, edges);
            }
        }
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

/// Runs `target` on every input and its mutations; a failure shows the input that does it.
#[track_caller]
fn replay(name: &str) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let inputs = corpus(name);
    let check = |origin: &str, input: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
            panic!("{name}: {origin} fails, put it into the corpus: {:?}", String::from_utf8_lossy(input));
        }
    };
    for (at, (origin, input)) in inputs.iter().enumerate() {
        check(origin, input);
        for round in 0..MUTATIONS {
            let mut chance = Chance((at as u64) << 32 | round);
            let other = &inputs[chance.below(inputs.len())].1;
            check(&format!("mutation {round} of {origin}"), &mutate(input, other, &mut chance));
        }
    }
}

#[test]
fn client_frames() {
    replay("frames");
}

#[test]
fn client_commands() {
    replay("commands");
}

#[test]
fn requests_for_a_web_socket() {
    replay("handshake");
}

#[test]
fn proxies() {
    replay("proxies");
}

#[test]
fn messages_of_venues() {
    replay("venue");
}

#[test]
fn recorded_rows() {
    replay("rows");
}

#[test]
fn credentials() {
    replay("tokens");
}

#[test]
fn keys_of_issuers() {
    replay("jwks");
}

#[test]
fn configurations() {
    replay("settings");
}

/// What is told about the targets is one list: the corpus, the programs and these tests.
#[test]
fn every_target_has_a_corpus_and_a_program() {
    let named = |path: PathBuf, end: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(path).expect("readable").map(|entry| entry.expect("readable").file_name());
        entries.map(|name| name.to_string_lossy().trim_end_matches(end).to_owned()).collect()
    };
    let known: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(named(folder(), ""), known);
    assert_eq!(named(folder().join("../fuzz_targets"), ".rs"), known);
    let own = include_str!("fuzz_corpus.rs");
    assert!(known.iter().all(|name| own.contains(&format!("replay(\"{name}\")"))));
    let bytes: usize = known.iter().flat_map(|name| corpus(name)).map(|(_, input)| input.len()).sum();
    assert!(bytes <= CORPUS_BYTES_MAX, "{bytes} bytes");
}

#[test]
fn mutations_are_the_same_every_time_and_change_something() {
    let input = b"{\"op\":\"ping\",\"id\":1}";
    let made = |seed| mutate(input, b"other", &mut Chance(seed));
    let all: Vec<_> = (0..100).map(made).collect();
    assert_eq!(all, (0..100).map(made).collect::<Vec<_>>());
    assert!(all.iter().collect::<BTreeSet<_>>().len() > 80, "they differ");
}
