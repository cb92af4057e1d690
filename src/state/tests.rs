//! What is kept is found again, whatever becomes of the file's end; what is damaged is said to be.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use super::*;
use crate::audit::Audit;
use crate::auth::{
    CredentialKind, Denied, Fresh, Grant, IssuedKey, Ledger, Narrowing, Presented, Principal, Revocations, new_api_key,
};
use crate::metrics::Registry;
use crate::model::UnixNanos;

const NOW: UnixNanos = UnixNanos(1_700_000_000_000_000_000);
/// Far beyond what any step takes, so that a test that would hang fails instead.
const PATIENCE: Duration = Duration::from_secs(30);

fn open(directory: &Path) -> Result<FileState, StateError> {
    FileState::open(directory, StateOptions::default())
}

fn fresh() -> Fresh {
    Fresh::new().expect("random bytes")
}

fn key(id: &str) -> IssuedKey {
    IssuedKey {
        id: id.into(),
        hash: new_api_key(id).expect("valid id").hash,
        owner: "ann".into(),
        role: "viewer".into(),
        narrowing: Arc::new(Narrowing::default()),
        expires: None,
        made: NOW,
    }
}

/// One deed, which must be done.
fn done(state: &mut FileState, deed: &Deed) -> Done {
    state.carry_out([deed], NOW).expect("writes").pop().expect("an outcome").expect("not denied")
}

fn begin(state: &mut FileState) -> String {
    match done(state, &Deed::Begin { key: "desk".into(), subject: "ann".into(), fresh: fresh() }) {
        Done::Issued(issue) => issue.refresh.expose_secret().to_owned(),
        other => panic!("{other:?}"),
    }
}

fn rotate(token: &str) -> Deed {
    Deed::Rotate { presented: Presented::parse(token).expect("its form is right"), fresh: fresh() }
}

fn outcome(state: &mut FileState, deed: &Deed) -> Result<Done, Denied> {
    state.carry_out([deed], NOW).expect("writes").pop().expect("an outcome")
}

/// A state with something of each kind, and its directory.
fn some() -> (TempDir, FileState, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut state = open(&directory.path().join("deep/state")).expect("made");
    done(&mut state, &Deed::MakeKey(key("desk")));
    done(&mut state, &Deed::EndKey { id: "of-the-configuration".into(), configured: true });
    done(&mut state, &Deed::RevokeSubject("eve".into()));
    done(&mut state, &Deed::RevokeToken("t-1".into()));
    let token = begin(&mut state);
    (directory, state, token)
}

fn place(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("deep/state")
}

#[test]
fn what_was_acknowledged_is_found_again_by_its_owner_only() {
    let (directory, state, _) = some();
    let place = place(&directory);
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&place), mode(&state.path()), mode(&place.join("state.lock"))), (0o700, 0o600, 0o600));
    assert_eq!(open(&place).expect("opens").ledger(), state.ledger());
    let names: Vec<_> = fs::read_dir(&place).expect("reads").map(|entry| entry.expect("reads").file_name()).collect();
    assert_eq!(names.len(), 2, "no draft stays behind: {names:?}");
}

#[test]
fn a_commit_that_is_cut_anywhere_is_as_if_it_had_never_been() {
    let (directory, mut state, token) = some();
    let place = place(&directory);
    let (path, before, ledger) = (state.path(), fs::read(state.path()).expect("reads"), state.ledger().clone());
    let deeds = [rotate(&token), Deed::RevokeSubject("bob".into()), Deed::MakeKey(key("second"))];
    let outcomes = state.carry_out(&deeds, NOW).expect("writes");
    assert!(outcomes.iter().all(Result::is_ok));
    let after = fs::read(&path).expect("reads");
    assert_eq!(after[..before.len()], before, "nothing that is written is touched again");
    for cut in before.len()..=after.len() {
        for (name, torn) in [
            ("cut", after[..cut].to_vec()),
            ("zeros behind", [&after[..cut], &vec![0; after.len() - cut]].concat()),
            ("zeros before", [&before, &vec![0; cut - before.len()], &after[cut..]].concat()),
            ("garbage behind", [&after[..cut], &[0x5a; 700]].concat()),
        ] {
            // Each opening syncs: all of it is for the cut, a sample for the rest.
            if name != "cut" && cut % 5 != 0 && cut != after.len() {
                continue;
            }
            let whole = torn.starts_with(&after);
            fs::write(&path, &torn).expect("writes");
            let mut again = open(&place).unwrap_or_else(|error| panic!("{name} at {cut}: {error}"));
            assert_eq!(again.ledger() == state.ledger(), whole, "{name} at {cut}");
            assert_eq!(*again.ledger() == ledger, !whole, "all of it or nothing: {name} at {cut}");
            // What is cut off is gone for good: the next commit stands in its place.
            if cut % 97 == 0 {
                done(&mut again, &Deed::RevokeToken("next".into()));
                assert_eq!(open(&place).expect("opens").ledger(), again.ledger(), "{name} at {cut}");
            }
        }
    }
}

#[test]
fn damage_before_the_end_is_refused_with_its_place_and_nothing_is_written_over_it() {
    let (directory, mut state, _) = some();
    let place = place(&directory);
    let (path, whole) = (state.path(), fs::read(state.path()).expect("reads"));
    let ends: Vec<usize> = (0..5)
        .scan(40, |at, _| {
            *at += 12 + u32::from_le_bytes(whole[*at..*at + 4].try_into().expect("four")) as usize;
            Some(*at)
        })
        .collect();
    assert_eq!(ends.last(), Some(&whole.len()), "five commits");
    for at in 0..ends[3] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x04;
        fs::write(&path, &damaged).expect("writes");
        let error = open(&place).err().unwrap_or_else(|| panic!("byte {at} is silently skipped"));
        let begins = if at < 40 { 0 } else { ends.iter().rfind(|end| **end <= at).copied().unwrap_or(40) };
        let said = error.to_string();
        assert!(said.starts_with(&format!("{}: damaged at byte {begins}: ", path.display())), "{at}: {said}");
        assert_eq!(fs::read(&path).expect("reads"), damaged, "left for whoever looks into it");
    }
    fs::write(&path, &whole).expect("writes");
    done(&mut state, &Deed::RevokeToken("x".into()));
    assert_eq!(open(&place).expect("opens").ledger(), state.ledger());
}

#[test]
fn what_was_rewritten_cannot_be_torn() {
    let (directory, mut state, _) = some();
    let place = place(&directory);
    rewrite_often(&mut state);
    let whole = fs::read(state.path()).expect("reads");
    for cut in 0..whole.len() {
        fs::write(state.path(), &whole[..cut]).expect("writes");
        assert!(matches!(open(&place), Err(StateError::Damaged { .. })), "cut at {cut}");
    }
}

/// Opens it anew so that the next commit rewrites it, and has it do so.
fn rewrite_often(state: &mut FileState) {
    let options = StateOptions { rewrite_bytes: 1, ..StateOptions::default() };
    let directory = state.path().parent().expect("a directory").to_owned();
    *state = FileState::open(&directory, options).expect("opens");
    done(state, &Deed::RevokeToken("last".into()));
}

#[test]
fn writing_it_anew_keeps_all_that_counts_and_others_notice() {
    let (directory, mut state, mut token) = some();
    let place = place(&directory);
    let mut other = open(&place).expect("opens");
    let options = StateOptions { rewrite_bytes: 8192, ..StateOptions::default() };
    let mut own = FileState::open(&place, options).expect("opens");
    let mut longest = 0;
    for _ in 0..200 {
        let Done::Issued(issue) = done(&mut own, &rotate(&token)) else { panic!("issues") };
        token = issue.refresh.expose_secret().to_owned();
        longest = longest.max(own.bytes());
    }
    assert!(longest < 10_000, "{longest} bytes for one family and a few revocations");
    other.refresh().expect("reads");
    assert_eq!(other.ledger(), own.ledger());
    done(&mut state, &Deed::RevokeToken("by-the-first".into()));
    own.refresh().expect("reads");
    assert_eq!(own.ledger(), state.ledger());
    assert_eq!(open(&place).expect("opens").ledger(), state.ledger());
}

#[test]
fn a_rewrite_that_was_cut_anywhere_changes_nothing() {
    let (directory, mut state, _) = some();
    let place = place(&directory);
    let draft = place.join("state.log.new");
    let whole = fs::read(state.path()).expect("reads");
    let ledger = state.ledger().clone();
    for cut in (0..whole.len()).step_by(7) {
        fs::write(&draft, &whole[..cut]).expect("writes");
        assert_eq!(*open(&place).expect("opens").ledger(), ledger);
    }
    rewrite_often(&mut state);
    assert!(!draft.exists());
}

#[test]
fn several_have_it_open_and_each_judges_on_what_all_have_written() {
    let (directory, mut one, token) = some();
    let mut two = open(&place(&directory)).expect("opens");
    assert!(outcome(&mut one, &rotate(&token)).is_ok());
    assert_eq!(outcome(&mut two, &rotate(&token)).err(), Some(Denied::Reused), "used at the other's");
    done(&mut two, &Deed::MakeKey(key("new")));
    assert_eq!(outcome(&mut one, &Deed::MakeKey(key("new"))).err(), Some(Denied::KeyExists));
    done(&mut one, &Deed::EndKey { id: "new".into(), configured: false });
    let begin = Deed::Begin { key: "new".into(), subject: "ann".into(), fresh: fresh() };
    assert_eq!(outcome(&mut two, &begin).err(), Some(Denied::KeyOff));
    one.refresh().expect("reads");
    assert_eq!(one.ledger(), two.ledger());
}

#[test]
fn threads_that_write_at_once_lose_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let place = directory.path();
            scope.spawn(move || {
                let mut state = FileState::open(place, StateOptions { rewrite_bytes: 600, ..StateOptions::default() });
                let state = state.as_mut().expect("opens");
                (0..15).for_each(|n| {
                    done(state, &Deed::RevokeToken(format!("{thread}-{n}").into()));
                });
            });
        }
    });
    let state = open(directory.path()).expect("opens");
    assert_eq!(state.ledger().counts().map(|(_, count, _)| count), [0, 0, 45]);
}

#[test]
fn many_large_changes_at_once_are_all_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut state = open(directory.path()).expect("made");
    let symbols = |n: usize| {
        (0..1024).map(move |m| crate::model::Pattern::parse(&format!("V{n}:SYMBOL-OF-A-LONG-NAME-{m}")).expect("valid"))
    };
    let keys: Vec<Deed> = (0..40)
        .map(|n| {
            let narrowing = Narrowing { symbols: Some(symbols(n).collect()), ..Narrowing::default() };
            Deed::MakeKey(IssuedKey { narrowing: Arc::new(narrowing), ..key(&format!("k{n}")) })
        })
        .collect();
    assert!(state.carry_out(&keys, NOW).expect("writes").iter().all(Result::is_ok));
    assert!(state.bytes() > 1024 * 1024);
    let again = open(directory.path()).expect("opens");
    assert_eq!((again.ledger(), again.ledger().keys().len()), (state.ledger(), 40));
}

#[test]
fn a_file_that_others_may_read_or_put_there_is_refused() {
    let (directory, state, _) = some();
    let (place, path) = (place(&directory), state.path());
    let refused = || open(&place).expect_err("refused");
    for mode in [0o644, 0o640, 0o602] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        assert!(matches!(refused(), StateError::Open(_)), "{mode:o}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
    let elsewhere = directory.path().join("elsewhere");
    fs::rename(&path, &elsewhere).expect("renames");
    symlink(&elsewhere, &path).expect("links");
    assert!(matches!(refused(), StateError::NotRegular(_)));
    fs::remove_file(&path).expect("removes");
    fs::rename(&elsewhere, &path).expect("renames");
    fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).expect("set");
    assert!(matches!(refused(), StateError::OpenDirectory(_)));
    fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).expect("set");
    assert!(open(&place).is_ok());
}

#[test]
fn a_file_that_vanishes_or_is_put_back_is_noticed() {
    let (directory, mut state, _) = some();
    let (place, path) = (place(&directory), state.path());
    let backup = fs::read(&path).expect("reads");
    let before = state.ledger().clone();
    done(&mut state, &Deed::RevokeToken("later".into()));
    fs::remove_file(&path).expect("removes");
    done(&mut state, &Deed::RevokeToken("latest".into()));
    assert_eq!(open(&place).expect("opens").ledger(), state.ledger(), "all that is known is written again");
    // A backup, put in place as a whole.
    let restored = place.join("restored");
    fs::write(&restored, &backup).expect("writes");
    fs::set_permissions(&restored, fs::Permissions::from_mode(0o600)).expect("set");
    fs::rename(&restored, &path).expect("renames");
    state.refresh().expect("reads");
    assert_eq!(*state.ledger(), before);
    // While something else stands there nothing is acknowledged.
    fs::remove_file(&path).expect("removes");
    fs::create_dir(&path).expect("makes");
    assert!(state.carry_out([&Deed::RevokeToken("never".into())], NOW).is_err());
    fs::remove_dir(&path).expect("removes");
    assert_eq!(*open(&place).expect("made").ledger(), Ledger::default());
}

fn jwt(id: &str) -> Principal {
    Principal {
        subject: "ann".into(),
        issuer: None,
        role: "viewer".into(),
        grant: Arc::new(Grant::everything()),
        narrowing: None,
        expires: None,
        issued: Some(NOW),
        token_id: Some(id.into()),
        credential: CredentialKind::Jwt,
    }
}

async fn until(mut so: impl FnMut() -> bool) {
    let waited = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect("in time");
}

#[tokio::test]
async fn everyone_who_judges_knows_before_it_is_acknowledged_and_other_processes_soon() {
    let directory = tempfile::tempdir().expect("a directory");
    let registry = Registry::new();
    let start = |revocations: &Arc<Revocations>| {
        let state = open(directory.path()).expect("opens");
        FileStore::start(state, Arc::clone(revocations), Audit::off(), StateMeters::new(&registry)).expect("a thread")
    };
    let views: [Arc<Revocations>; 2] = Default::default();
    let [one, _two] = [start(&views[0]), start(&views[1])];
    for n in 0..20 {
        let id = format!("t-{n}");
        one.carry_out(Deed::RevokeToken(id.as_str().into())).await.expect("done");
        assert!(views[0].refuses(&jwt(&id)));
    }
    until(|| views[1].refuses(&jwt("t-19"))).await;
    // The command line, which has no thread of its own.
    done(&mut open(directory.path()).expect("opens"), &Deed::RevokeToken("by-hand".into()));
    for view in &views {
        until(|| view.refuses(&jwt("by-hand"))).await;
    }
    let many = (0..300).map(|n| one.carry_out(Deed::RevokeToken(format!("m-{n}").into())));
    for outcome in futures_util::future::join_all(many).await {
        outcome.expect("done");
    }
    assert!((0..300).all(|n| views[0].refuses(&jwt(&format!("m-{n}")))));
    let rendered = registry.render();
    assert!(rendered.contains("tickhub_state_entries_max{kind=\"revocation\"} 100000"), "{rendered}");
}

#[tokio::test]
async fn a_store_that_cannot_write_acknowledges_nothing_and_works_again_once_it_can() {
    let directory = tempfile::tempdir().expect("a directory");
    let registry = Registry::new();
    let revocations: Arc<Revocations> = Arc::default();
    let state = open(directory.path()).expect("opens");
    let path = state.path();
    let store =
        FileStore::start(state, Arc::clone(&revocations), Audit::off(), StateMeters::new(&registry)).expect("a thread");
    store.carry_out(Deed::RevokeToken("before".into())).await.expect("done");
    let aside = directory.path().join("aside");
    fs::rename(&path, &aside).expect("renames");
    fs::create_dir(&path).expect("makes");
    store.carry_out(Deed::RevokeToken("meanwhile".into())).await.expect_err("not kept");
    assert!(revocations.refuses(&jwt("before")) && !revocations.refuses(&jwt("meanwhile")));
    fs::remove_dir(&path).expect("removes");
    fs::rename(&aside, &path).expect("renames");
    store.carry_out(Deed::RevokeToken("after".into())).await.expect("done");
    assert!(revocations.refuses(&jwt("before")) && revocations.refuses(&jwt("after")));
    assert!(registry.render().contains("tickhub_state_commits_total{outcome=\"failed\"} 1"));
}
