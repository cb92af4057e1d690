//! Kills the one who writes an audit trail, at random points, again and again: what was there before
//! is there still, and the trail goes on whole. A program of its own, as it is its own victim too.
//!
//! `TICKHUB_AUDIT_KILLS=5000 cargo test --test audit_crash` does it for longer.
#![allow(missing_docs, clippy::print_stdout)]

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tickhub::audit::{AuditConfig, Auditor, Event, Place, Record, Seal, SyncWhen, VerifyError, verify};
use tickhub::metrics::Registry;
use tickhub::time::{mono, wall};

/// Kills where nothing else is said.
const KILLS: u64 = 120;

/// Kills of one trail, so that judging it stays quick.
const KILLS_OF_A_TRAIL: u64 = 12;

fn config(dir: &Path) -> AuditConfig {
    // Files of some hundred records: a kill between two files is likely.
    AuditConfig { dir: Some(dir.to_owned()), rotate_bytes: 20_000, sync: SyncWhen::Never, ..AuditConfig::default() }
}

/// xorshift64 (Marsaglia, 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// The victim: records for ever. A byte on standard output says that it has begun.
fn write(dir: &Path) {
    let auditor = Auditor::start(&config(dir), &Registry::new()).expect("opens");
    let _ = std::io::stdout().write_all(b"!").and_then(|()| std::io::stdout().flush());
    let mut random = Random(mono() | 1);
    loop {
        for _ in 0..random.below(20) {
            let changed = vec!["limits.sessions".to_owned(); random.below(60) as usize];
            let event = Event::ConfigReloaded { digest: "d".repeat(64).into(), changed };
            auditor.audit().record(|| Record::of(event));
        }
        std::thread::park_timeout(Duration::from_micros(random.below(800)));
    }
}

/// Starts a victim and kills it: while it opens the trail, or while it writes.
fn kill(dir: &Path, random: &mut Random) {
    let program = std::env::current_exe().expect("has a path");
    let mut child = Command::new(program).arg("write").arg(dir).stdout(Stdio::piped()).spawn().expect("starts");
    if random.below(4) > 0 {
        let mut begun = [0];
        child.stdout.take().expect("piped").read_exact(&mut begun).expect("begins");
        std::thread::park_timeout(Duration::from_micros(random.below(15_000)));
    } else {
        std::thread::park_timeout(Duration::from_micros(random.below(6_000)));
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("ends");
}

fn torment(seed: u64, kills: u64) {
    let mut random = Random(seed | 1);
    let seal = Seal::new(None);
    let (mut records, mut recovered, mut unfinished) = (0, 0, 0_u64);
    for _ in 0..kills.div_ceil(KILLS_OF_A_TRAIL) {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("audit");
        let mut held: Option<Place> = None;
        for _ in 0..KILLS_OF_A_TRAIL {
            kill(&dir, &mut random);
            match verify(&dir, &seal, held) {
                Ok(report) => unfinished += u64::from(report.unfinished > 0),
                // Killed before it wrote for the first time where the trail ends.
                Err(VerifyError::Absent(_)) if held.is_none() => {}
                Err(VerifyError::Broken(broken)) if held.is_none() && broken.file == "head.json" => {}
                Err(error) => panic!("seed {seed}, left behind: {error}"),
            }
            Auditor::start(&config(&dir), &Registry::new())
                .unwrap_or_else(|fault| panic!("seed {seed}: {fault}"))
                .stop();
            let report = verify(&dir, &seal, held).unwrap_or_else(|error| panic!("seed {seed}, gone on: {error}"));
            assert_eq!(report.first.0.seq, 1, "seed {seed}");
            held = Some(report.last.0);
            (records, recovered) = (records + report.last.0.seq, recovered + report.recovered);
        }
    }
    assert!(records > kills, "seed {seed}: {records} records");
    println!("audit_crash: {kills} kills, {recovered} recoveries, {unfinished} unfinished lines: ok");
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("write") => write(Path::new(&arguments[2])),
        // What test runners ask of each program.
        Some("--list") => {}
        _ => {
            let kills = std::env::var("TICKHUB_AUDIT_KILLS").ok().and_then(|kills| kills.parse().ok());
            torment(wall().0.unsigned_abs(), kills.unwrap_or(KILLS));
        }
    }
}
