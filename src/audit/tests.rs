//! Trails as they are written, cut off, rotated, deleted and judged: with a clock of their own.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::folder::HEAD;
use super::trail::Policy;
use super::*;
use crate::model::{Channel, Depth, Pattern};
use crate::settings::Span;

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400 * SECOND;
const NOW: UnixNanos = UnixNanos(1_763_747_575_123_456_789);

fn folder() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("audit");
    (dir, path)
}

fn policy() -> Policy {
    let days = |days: u64| Span::seconds(days * 86_400).duration();
    Policy { rotate_bytes: 1 << 30, rotate_every: days(1), keep: Some(days(3)), sync: SyncWhen::Second }
}

fn open(dir: &Path, now: UnixNanos) -> Trail {
    Trail::open(dir, Seal::new(None), policy(), now).expect("opens")
}

fn ended(n: u64) -> Record {
    Record::of(Event::Ended { code: Some(1000), reason: "normal", lasted_ms: n }).session("s")
}

fn add(trail: &mut Trail, records: u64, now: UnixNanos) {
    for n in 0..records {
        let record = ended(n);
        trail.push(record.event.name(), |text, seq| record.write(text, seq, now));
    }
    trail.commit().expect("writes");
}

fn judged(dir: &Path) -> Result<Report, VerifyError> {
    verify(dir, &Seal::new(None), None)
}

fn broken(dir: &Path) -> Broken {
    match judged(dir) {
        Err(VerifyError::Broken(broken)) => broken,
        other => panic!("{other:?}"),
    }
}

fn records(dir: &Path) -> Vec<Value> {
    let mut records = Vec::new();
    lines(dir, |line| {
        records.push(serde_json::from_str(line).expect("JSON"));
        true
    })
    .expect("reads");
    records
}

fn events(dir: &Path) -> Vec<String> {
    records(dir).iter().map(|record| record["event"].as_str().expect("a name").to_owned()).collect()
}

fn names(dir: &Path) -> Vec<String> {
    folder::files(dir).expect("lists").into_iter().map(|file| file.name).collect()
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("makes");
    for entry in fs::read_dir(from).expect("lists") {
        let entry = entry.expect("readable");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copies");
    }
}

#[test]
fn a_record_says_who_did_what_and_from_where() {
    let origin =
        Origin { remote: Some("[::ffff:192.0.2.7]:4711".parse().expect("an address")), request_id: Some("r-1".into()) };
    let who = Who {
        subject: "ann \u{202e}\n\"x\"".into(),
        issuer: Some("idp".into()),
        role: "viewer".into(),
        credential: "jwt",
        token_id: Some("t-1".into()),
    };
    let granted = Granted {
        patterns: Arc::from([Pattern::parse("SIM:*").expect("valid")]),
        channels: vec![Channel::Quote, Channel::Book],
        depth: Depth::Ten,
        max_rate: Some(5),
        connections: u32::MAX,
        subscriptions: 1000,
        commands_per_second: u32::MAX,
        expires: Some(NOW),
    };
    let record = Record::of(Event::Granted(Box::new(granted))).origin(&origin).by(who).session("s-1");
    let mut text = String::new();
    record.write(&mut text, 7, NOW);
    let expected = r#"{"seq":7,"at":"2025-11-21T17:52:55.123456789Z","event":"granted","remote":"192.0.2.7:4711","subject":"ann \u202e\u000a\"x\"","issuer":"idp","role":"viewer","credential":"jwt","token_id":"t-1","session":"s-1","request_id":"r-1","patterns":["SIM:*"],"channels":["quote","book"],"depth":10,"max_rate":5,"subscriptions":1000,"expires":"2025-11-21T17:52:55.123Z""#;
    assert_eq!(text, expected);
}

#[test]
fn a_trail_goes_on_across_restarts_and_files() {
    let (_dir, path) = folder();
    add(&mut open(&path, NOW), 3, NOW);
    let mut trail = open(&path, NOW);
    add(&mut trail, 2, NOW);
    assert!(!trail.is_full(UnixNanos(NOW.0 + DAY / 2)) && trail.is_full(UnixNanos(NOW.0 + DAY)));
    trail.rotate(UnixNanos(NOW.0 + DAY)).expect("rotates");
    add(&mut trail, 1, NOW);
    let report = judged(&path).expect("whole");
    assert_eq!((report.files, report.first.0.seq, report.last.0.seq), (2, 1, 8));
    assert_eq!((report.recovered, report.lost, report.deleted_before), (0, 0, None));
    assert_eq!(events(&path), ["file", "ended", "ended", "ended", "ended", "ended", "file", "ended"]);
    let files = names(&path);
    let second = &records(&path)[6];
    assert_eq!((&second["file"], &second["after_file"]), (&json!(files[1]), &json!(files[0])));
    assert_eq!(files, ["audit-000000000001-20251121T175255Z.jsonl", "audit-000000000007-20251122T175255Z.jsonl"]);
    use std::os::unix::fs::PermissionsExt as _;
    for file in files.iter().chain([&HEAD.to_owned()]) {
        assert_eq!(fs::metadata(path.join(file)).expect("there").permissions().mode() & 0o777, 0o600, "{file}");
    }
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o700);
}

/// The last file at every length that a crash could have left it with.
#[test]
fn a_trail_that_was_cut_anywhere_goes_on_and_says_so() {
    let (dir, path) = folder();
    let mut trail = open(&path, NOW);
    add(&mut trail, 2, NOW);
    trail.rotate(NOW).expect("rotates");
    add(&mut trail, 2, NOW);
    drop(trail);
    let last = names(&path).pop().expect("two");
    let whole = fs::read(path.join(&last)).expect("reads");
    let cut = dir.path().join("cut");
    for length in 0..=whole.len() {
        copy(&path, &cut);
        let file = OpenOptions::new().write(true).open(cut.join(&last)).expect("opens");
        file.set_len(length as u64).expect("cuts");
        if length < whole.len() {
            assert!(judged(&cut).is_err(), "head.json knows better, {length}");
        }
        add(&mut open(&cut, UnixNanos(NOW.0 + SECOND)), 1, NOW);
        let report = judged(&cut).unwrap_or_else(|error| panic!("{length}: {error}"));
        let recovered: Vec<_> = records(&cut).into_iter().filter(|record| record["event"] == "recovered").collect();
        assert_eq!((report.recovered, recovered.len()), if length < whole.len() { (1, 1) } else { (0, 0) }, "{length}");
        if let [recovered] = &recovered[..] {
            let kept = whole[..length].iter().filter(|byte| **byte == b'\n').count() as u64;
            let torn = whole[..length].iter().rev().take_while(|byte| **byte != b'\n').count();
            let reason = if torn > 0 { "torn" } else { "shortened" };
            assert_eq!((&recovered["reason"], &recovered["cut_bytes"]), (&json!(reason), &json!(torn)), "{length}");
            assert_eq!((&recovered["found"], &recovered["expected"]), (&json!(3 + kept), &json!(6)), "{length}");
        }
    }
}

/// A line behind the one that the head names is no fault: the hub may be writing it.
#[test]
fn what_is_being_written_is_no_fault() {
    let (_dir, path) = folder();
    add(&mut open(&path, NOW), 2, NOW);
    let last = path.join(&names(&path)[0]);
    let whole = fs::read(&last).expect("reads");
    let mut ahead = whole.clone();
    ahead.extend_from_slice(b"{\"seq\":4,\"at\":");
    fs::write(&last, &ahead).expect("writes");
    assert_eq!(judged(&path).expect("whole").unfinished, 14);
    // Whole records behind it neither: the head is written behind them.
    let head = fs::read(path.join(HEAD)).expect("reads");
    fs::write(&last, &whole).expect("writes");
    add(&mut open(&path, NOW), 2, NOW);
    fs::write(path.join(HEAD), head).expect("writes");
    assert_eq!(judged(&path).expect("whole").last.0.seq, 5);
}

#[test]
fn the_end_of_a_trail_that_is_another_is_told_at_the_next_start() {
    for (reason, harm) in [
        ("head_missing", (|dir: &Path| fs::remove_file(dir.join(HEAD))) as fn(&Path) -> std::io::Result<()>),
        ("head_damaged", |dir| fs::write(dir.join(HEAD), "{}\n")),
        ("changed", |dir| {
            let last = dir.join(&names(dir)[0]);
            let text = fs::read_to_string(&last)?;
            let (hashed, _) = chain::split(text.as_bytes()).expect("ends with a record");
            let other = String::from_utf8(hashed.to_vec()).expect("a text");
            let mut other = other.replace("\"lasted_ms\":1", "\"lasted_ms\":9");
            let from = other.rfind("{\"seq\"").expect("a line");
            Seal::new(None).close(&mut other, from);
            fs::write(last, other)
        }),
    ] {
        let (_dir, path) = folder();
        add(&mut open(&path, NOW), 2, NOW);
        harm(&path).expect("harms");
        assert!(matches!(judged(&path), Err(VerifyError::Broken(_))), "{reason}");
        add(&mut open(&path, NOW), 1, NOW);
        let found = records(&path).into_iter().find(|record| record["event"] == "recovered");
        assert_eq!(found.expect("recovered")["reason"], reason);
        assert_eq!(judged(&path).expect("it is a chain").recovered, 1);
    }
}

#[test]
fn what_is_no_trail_is_refused_and_left_as_it_is() {
    let (_dir, path) = folder();
    add(&mut open(&path, NOW), 2, NOW);
    let first = open(&path, NOW);
    let again = Trail::open(&path, Seal::new(None), policy(), NOW).err().expect("busy");
    assert!(matches!(again, TrailError::Busy(_)), "{again}");
    drop(first);
    let last = path.join(&names(&path)[0]);
    let mut damaged = fs::read(&last).expect("reads");
    damaged.extend_from_slice(b"no record\n");
    fs::write(&last, &damaged).expect("writes");
    let refused = Trail::open(&path, Seal::new(None), policy(), NOW).err().expect("damaged");
    assert!(matches!(refused, TrailError::Damaged(_)), "{refused}");
    assert_eq!(fs::read(&last).expect("reads"), damaged, "evidence");
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("set");
    let open = Trail::open(&path, Seal::new(None), policy(), NOW).err().expect("open");
    assert!(matches!(open, TrailError::Open(_)), "{open}");
}

#[test]
fn files_are_deleted_when_their_time_has_passed_and_what_remains_is_whole() {
    let (dir, path) = folder();
    let mut trail = open(&path, NOW);
    let (mut files, mut oldest) = (vec![names(&path).remove(0)], Vec::new());
    for day in 1..10 {
        let now = UnixNanos(NOW.0 + day * DAY);
        add(&mut trail, 2, now);
        trail.rotate(now).expect("rotates");
        files.extend(names(&path).pop());
        oldest = fs::read(path.join(&names(&path)[0])).expect("reads");
        while trail.delete_oldest(now).expect("deletes") {}
        let report = judged(&path).unwrap_or_else(|error| panic!("day {day}: {error}"));
        // Three days, the day that is being written, and the day that a file lasts.
        assert!(report.files <= 4, "{report:?}");
    }
    drop(trail);
    let report = judged(&path).expect("whole");
    assert_eq!(report.deleted_before.as_ref(), Some(&files[5]));
    assert_eq!(names(&path), files[6..]);
    // Killed behind the record of it, and before the file was gone.
    let other = dir.path().join("killed");
    copy(&path, &other);
    fs::write(other.join(&files[5]), &oldest).expect("puts it back");
    assert_eq!(judged(&other).expect("whole").files, 5);
    let now = UnixNanos(NOW.0 + 9 * DAY);
    let mut trail = open(&other, now);
    assert!(trail.delete_oldest(now).expect("deletes"));
    assert_eq!(judged(&other).expect("whole").files, 4);
    // The next one was not deleted by the hub.
    let other = dir.path().join("other");
    copy(&path, &other);
    fs::remove_file(other.join(&files[6])).expect("removes");
    let found = broken(&other);
    assert_eq!((&found.file, found.line), (&files[7], 1), "{found}");
    assert!(found.what.contains(&files[6]), "{found}");
}

#[test]
fn a_file_that_somebody_takes_away_is_missed() {
    let (_dir, path) = folder();
    let mut trail = open(&path, NOW);
    add(&mut trail, 2, NOW);
    let first = names(&path).remove(0);
    assert!(!trail.is_gone());
    fs::remove_file(path.join(&first)).expect("removes");
    assert!(trail.is_gone());
    trail.rotate(NOW).expect("rotates");
    add(&mut trail, 1, NOW);
    let found = broken(&path);
    assert!(found.what.contains("records 1 to 3 are missing") && found.what.contains(&first), "{found}");
}

#[test]
fn a_trail_that_was_emptied_does_not_begin_anew_in_silence() {
    let (_dir, path) = folder();
    add(&mut open(&path, NOW), 2, NOW);
    fs::remove_file(path.join(&names(&path)[0])).expect("removes");
    let found = broken(&path);
    assert!(found.what.contains("records 1 to 3 are missing"), "{found}");
    add(&mut open(&path, NOW), 1, NOW);
    assert_eq!(events(&path), ["file", "recovered", "ended"]);
    assert_eq!(records(&path)[0]["seq"], 4, "numbers go on");
    let found = broken(&path);
    assert!(found.what.contains("records 1 to 3 are missing"), "{found}");
}

#[test]
fn an_older_copy_of_the_whole_trail_is_found_out_by_who_kept_its_end() {
    let (dir, path) = folder();
    add(&mut open(&path, NOW), 2, NOW);
    let older = dir.path().join("older");
    copy(&path, &older);
    add(&mut open(&path, NOW), 2, NOW);
    let kept = judged(&path).expect("whole").last.0;
    assert!(verify(&path, &Seal::new(None), Some(kept)).is_ok());
    assert!(judged(&older).is_ok());
    let found = verify(&older, &Seal::new(None), Some(kept)).expect_err("older").to_string();
    assert!(found.contains("records 4 to 5 are missing here"), "{found}");
    add(&mut open(&older, NOW), 9, UnixNanos(NOW.0 + 1));
    let found = verify(&older, &Seal::new(None), Some(kept)).expect_err("another").to_string();
    assert!(found.contains("record 5 is another"), "{found}");
}

#[test]
fn without_the_key_nobody_makes_a_keyed_chain() {
    let (_dir, path) = folder();
    let key = || Seal::new(Some(b"a key that nobody knows, of 32 bytes"));
    let mut trail = Trail::open(&path, key(), policy(), NOW).expect("opens");
    add(&mut trail, 3, NOW);
    drop(trail);
    assert!(verify(&path, &key(), None).is_ok());
    assert!(matches!(judged(&path), Err(VerifyError::NeedsKey(_))));
    assert!(matches!(verify(&path, &Seal::new(Some(b"another")), None), Err(VerifyError::Broken(_))));
    // Made anew by the rules, as far as they can be followed without the key.
    let file = path.join(&names(&path)[0]);
    let text = fs::read_to_string(&file).expect("reads");
    for chain in ["hmac-sha256", "sha256"] {
        let (mut anew, mut prev) = (String::new(), Hash::NONE);
        for line in text.lines() {
            let line = line.replace("hmac-sha256", chain).replace("\"normal\"", "\"forged\"");
            let before = line.find(",\"prev\"").expect("a record");
            let from = anew.len();
            anew.push_str(&format!("{},\"prev\":\"{prev}\"", &line[..before]));
            prev = Seal::new(None).close(&mut anew, from);
        }
        fs::write(&file, &anew).expect("writes");
        let place = Place { seq: 4, hash: prev };
        fs::write(path.join(HEAD), folder::head_line(&Seal::new(None), place)).expect("writes");
        assert!(matches!(verify(&path, &key(), None), Err(VerifyError::Broken(_))), "{chain}");
    }
    assert!(judged(&path).is_ok(), "whoever does not ask for the key is deceived");
}

/// A writer that nobody runs but the test, and its queue.
fn writer(path: &Path, records_max: usize) -> (Arc<Shared>, Writer, Arc<Registry>) {
    let registry = Registry::new();
    let shared = Arc::new(Shared::new(records_max, &registry));
    let writer = Writer::new(Arc::clone(&shared), open(path, NOW), Meters::new(&registry));
    (shared, writer, registry)
}

#[test]
fn a_full_queue_loses_records_and_says_where() {
    let (_dir, path) = folder();
    let (shared, mut writer, registry) = writer(&path, 4);
    (0..10).for_each(|n| shared.offer(ended(n), NOW));
    assert!(writer.turn(0, NOW, false));
    (10..12).for_each(|n| shared.offer(ended(n), NOW));
    assert!(writer.turn(0, NOW, false));
    let told: Vec<_> = records(&path).iter().map(|r| r["lasted_ms"].as_u64().or_else(|| r["count"].as_u64())).collect();
    assert_eq!(told, [None, Some(0), Some(1), Some(2), Some(3), Some(6), Some(10), Some(11)]);
    let lost = &records(&path)[5];
    assert_eq!((&lost["event"], &lost["after"], &lost["before"]), (&json!("lost"), &json!(5), &json!(7)));
    // Told behind those that were queued before, though more come at once.
    (0..5).for_each(|n| shared.offer(ended(n), NOW));
    drop(shared.queue.pop());
    shared.offer(ended(5), NOW);
    assert!(writer.turn(0, NOW, false));
    assert_eq!(events(&path)[8..], ["ended", "ended", "ended", "lost", "ended"]);
    assert_eq!(judged(&path).expect("whole").lost, 7);
    let metrics = registry.render();
    for line in ["tickhub_audit_lost_total 7", "tickhub_audit_records_total{event=\"lost\"} 2"] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[test]
fn strangers_leave_half_of_the_queue_to_everyone_else() {
    let (_dir, path) = folder();
    let (shared, mut writer, _) = writer(&path, 8);
    for n in 0..100_u8 {
        let origin = Origin { remote: Some(std::net::SocketAddr::from(([10, 0, 0, n], 1))), request_id: None };
        let event = Event::Refused { at: "handshake", reason: "malformed", code: Some(401) };
        shared.offer(Record::of(event).origin(&origin), NOW);
    }
    (0..4).for_each(|n| shared.offer(ended(n), NOW));
    assert!(writer.turn(0, NOW, false));
    let events = events(&path);
    assert_eq!(events.iter().filter(|event| *event == "ended").count(), 4, "{events:?}");
    assert_eq!(events.iter().filter(|event| *event == "refused").count(), 4, "{events:?}");
    assert_eq!(judged(&path).expect("whole").lost, 96);
}

#[test]
fn refusals_that_repeat_are_told_together() {
    let (_dir, path) = folder();
    let (shared, mut writer, registry) = writer(&path, 1024);
    let origin = Origin { remote: Some("192.0.2.7:1".parse().expect("an address")), request_id: None };
    for n in 0..500 {
        let event = Event::Refused { at: "http", reason: "expired", code: Some(401) };
        shared.offer(Record::of(event).origin(&origin), UnixNanos(NOW.0 + n));
    }
    let mono = mono();
    assert!(writer.turn(mono, NOW, false));
    assert!(writer.turn(mono + 2 * SECOND as u64, NOW, false));
    let all = records(&path);
    assert_eq!(events(&path), ["file", "refused", "refused_again"]);
    assert_eq!((&all[1]["remote"], &all[2]["remote"]), (&json!("192.0.2.7:1"), &json!("192.0.2.7")));
    assert_eq!((&all[2]["count"], &all[2]["reason"]), (&json!(499), &json!("expired")));
    assert!(registry.render().contains("tickhub_audit_refusals_summed_total 499"));
}

#[test]
fn a_disk_that_takes_nothing_holds_up_nobody_and_loses_nothing_that_fits() {
    let (_dir, path) = folder();
    let (shared, mut writer, registry) = writer(&path, 8);
    let full = OpenOptions::new().write(true).open("/dev/full").expect("a disk that is full");
    let audit = Audit { shared: Some(Arc::clone(&shared)) };
    shared.offer(ended(0), NOW);
    assert!(writer.turn(0, NOW, false) && !audit.is_failing());
    let good = writer.trail.swap(full);
    (1..4).for_each(|n| shared.offer(ended(n), NOW));
    for _ in 0..3 {
        assert!(!writer.turn(0, NOW, false));
    }
    assert!(audit.is_failing());
    assert!(registry.render().contains("tickhub_audit_write_errors_total 3\n"), "{}", registry.render());
    assert!(registry.render().contains("tickhub_audit_failing 1\n"));
    (4..8).for_each(|n| shared.offer(ended(n), NOW));
    writer.trail.swap(good);
    assert!(writer.turn(0, NOW, false) && !audit.is_failing());
    let told: Vec<_> = records(&path).iter().filter_map(|record| record["lasted_ms"].as_u64()).collect();
    assert_eq!(told, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(judged(&path).expect("whole").lost, 0);
}

#[test]
fn a_trail_that_cannot_be_opened_is_a_fault_that_names_the_key() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("file");
    fs::write(&file, "short").expect("writes");
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
    let start =
        |config: &AuditConfig| Auditor::start(config, &Registry::new()).map(drop).expect_err("faulty").to_string();
    let said = start(&AuditConfig { dir: Some(file.join("audit")), ..AuditConfig::default() });
    assert!(said.starts_with("audit.dir = ") && said.contains("making the folder"), "{said}");
    let dir = Some(dir.path().join("audit"));
    let said = start(&AuditConfig { dir, key_file: Some(file), ..AuditConfig::default() });
    assert!(said.starts_with("audit.key_file = ") && said.contains("at least 32"), "{said}");
    let off = Auditor::start(&AuditConfig::default(), &Registry::new()).expect("nothing to do");
    off.audit().record(|| unreachable!("auditing is off"));
}

#[test]
fn every_fault_of_the_section_is_named() {
    let faulty = AuditConfig {
        dir: Some(PathBuf::new()),
        rotate_bytes: 1,
        rotate_every: Span::seconds(40 * 86_400),
        keep: Span::seconds(1),
        ..AuditConfig::default()
    };
    let keys: Vec<_> = faulty.faults().into_iter().map(|fault| fault.key).collect();
    assert_eq!(keys, ["audit.dir", "audit.rotate_bytes", "audit.rotate_every", "audit.keep"]);
    assert_eq!(AuditConfig::default().faults(), []);
    let for_ever = AuditConfig { keep: Span::default(), ..AuditConfig::default() };
    assert_eq!(for_ever.faults(), []);
}
