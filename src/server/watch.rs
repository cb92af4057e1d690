//! Whether the configuration's files have changed.
//!
//! Their metadata is looked at every second, which costs a few microseconds and works where
//! notifications do not: on network file systems, for a file that an editor replaces by renaming,
//! and for the links by which Kubernetes swaps a whole folder.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::Config;

/// Between two looks. A change counts once two looks in a row see the same: then whoever writes has
/// most likely finished.
const INTERVAL: Duration = Duration::from_secs(1);

/// What tells one content of a file from another without reading it; links are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    file: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Print {
    /// `None` where there is no file now.
    fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self {
            file: (found.dev(), found.ino()),
            bytes: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

type Prints = BTreeMap<PathBuf, Option<Print>>;

fn prints(files: &BTreeSet<PathBuf>) -> Prints {
    files.iter().map(|path| (path.clone(), Print::of(path))).collect()
}

/// See the module.
pub(super) struct Watch {
    file: Option<PathBuf>,
    /// The configuration's file, and those that it names.
    files: BTreeSet<PathBuf>,
    /// As they were when they were last read.
    read: Prints,
    /// As they are since, where they differ.
    other: Option<Prints>,
}

impl Watch {
    /// Watches from now on: to be made before the files are read, or at once behind that.
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        let mut watch = Self { file, files: BTreeSet::new(), read: Prints::new(), other: None };
        watch.take(named(watch.file.as_deref()));
        watch
    }

    /// Takes the files as they are now, the names among them too: they are about to be read.
    pub(super) async fn look(&mut self) {
        let file = self.file.clone();
        let named = tokio::task::spawn_blocking(move || named(file.as_deref())).await;
        self.take(named.ok().flatten());
    }

    fn take(&mut self, named: Option<BTreeSet<PathBuf>>) {
        // Of a file that cannot be read the names that it had are kept.
        if let Some(named) = named {
            self.files = named;
        }
        self.files.extend(self.file.clone());
        self.read = prints(&self.files);
        self.other = None;
    }

    /// Returns once they have changed. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let files = self.files.clone();
            // A file system that hangs must not keep the process from hearing a signal.
            let Ok(now) = tokio::task::spawn_blocking(move || prints(&files)).await else { continue };
            if self.see(now) {
                return;
            }
        }
    }

    /// Whether the files differ from those that were read, and did so in the look before.
    fn see(&mut self, now: Prints) -> bool {
        if now == self.read {
            self.other = None;
            return false;
        }
        let settled = self.other.as_ref() == Some(&now);
        self.other = Some(now);
        settled
    }
}

/// The files that the configuration names; `None` where it cannot be read.
fn named(file: Option<&Path>) -> Option<BTreeSet<PathBuf>> {
    Config::files(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// Whether two looks see a change.
    fn differs(watch: &mut Watch) -> bool {
        let first = watch.see(prints(&watch.files));
        assert!(!first, "a change that was seen once may be half of one");
        watch.see(prints(&watch.files))
    }

    fn taken(watch: &mut Watch) {
        watch.take(named(watch.file.as_deref()));
        assert!(!differs(watch), "what was read is no news");
    }

    #[test]
    fn sees_a_file_that_is_written_replaced_removed_and_put_back() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("hub.toml");
        fs::write(&path, "").expect("writes");
        let mut watch = Watch::new(Some(path.clone()));
        taken(&mut watch);
        fs::write(&path, "[log]\n").expect("writes");
        assert!(differs(&mut watch), "written");
        taken(&mut watch);
        fs::write(folder.path().join("draft"), "[log]\n").expect("writes");
        fs::rename(folder.path().join("draft"), &path).expect("renames");
        assert!(differs(&mut watch), "replaced by one of the same size");
        taken(&mut watch);
        fs::remove_file(&path).expect("removes");
        assert!(differs(&mut watch), "removed");
        taken(&mut watch);
        fs::write(&path, "[log]\n").expect("writes");
        assert!(differs(&mut watch), "put back");
    }

    #[test]
    fn sees_a_folder_that_is_swapped_behind_a_link_and_a_secret_beside_the_file() {
        let folder = tempfile::tempdir().expect("a directory");
        let at = |name: &str| folder.path().join(name);
        let secret = at("secret");
        let text = format!("[[auth.keys]]\nkid = \"a\"\nsecret_file = {secret:?}\n");
        for version in ["v1", "v2"] {
            fs::create_dir(at(version)).expect("makes");
            fs::write(at(version).join("hub.toml"), &text).expect("writes");
        }
        symlink("v1", at("data")).expect("links");
        symlink("data/hub.toml", at("hub.toml")).expect("links");
        let mut watch = Watch::new(Some(at("hub.toml")));
        taken(&mut watch);
        symlink("v2", at("data.new")).expect("links");
        fs::rename(at("data.new"), at("data")).expect("renames");
        assert!(differs(&mut watch), "another folder behind the same link");
        taken(&mut watch);
        fs::write(&secret, "x").expect("writes");
        assert!(differs(&mut watch), "a secret that was not there before");
        taken(&mut watch);
        fs::write(&secret, "xy").expect("writes");
        assert!(differs(&mut watch), "and is another now");
    }

    #[test]
    fn what_goes_on_changing_is_waited_for() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("hub.toml");
        fs::write(&path, "").expect("writes");
        let mut watch = Watch::new(Some(path.clone()));
        for size in 1..5 {
            fs::write(&path, "#".repeat(size)).expect("writes");
            assert!(!watch.see(prints(&watch.files)));
        }
        assert!(watch.see(prints(&watch.files)));
    }
}
