//! A trail in its folder: adding records, going on after a crash, rotating, deleting what is too old.
//! `now` is an argument.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::chain::{Seal, split};
use super::config::SyncWhen;
use super::folder::{FileName, HEAD, LINE_BYTES_MAX, Place, files, head_line, line_at, line_end_before, read_head};
use super::note::Note;
use crate::model::UnixNanos;
use crate::time::duration_ns;

/// When files end, how long they stay, and when they are on the disk for certain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    pub(super) rotate_bytes: u64,
    pub(super) rotate_every: std::time::Duration,
    /// `None` = for ever.
    pub(super) keep: Option<std::time::Duration>,
    pub(super) sync: SyncWhen,
}

/// Why a trail cannot be written. The texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum TrailError {
    /// A file or the folder could not be made, read or written.
    #[error("{path}: {doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another hub has it open.
    #[error("{0}: another hub writes its audit trail there; give each hub a folder of its own")]
    Busy(PathBuf),
    /// Anyone may write in it.
    #[error("{0}: anyone may write in this folder; take that right away, or set audit.dir to another")]
    Open(PathBuf),
    /// Its last line is no record, so there is nothing to go on from.
    #[error("{0}: its last line is no record; move the folder elsewhere and look into it, a new trail is begun")]
    Damaged(PathBuf),
}

/// What was written since it was last asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) bytes: u64,
    pub(super) events: Vec<&'static str>,
}

/// The one who writes a trail.
pub(super) struct Trail {
    dir: PathBuf,
    seal: Seal,
    policy: Policy,
    /// The last one is written to.
    files: Vec<FileName>,
    file: File,
    /// Bytes of it that are whole records.
    length: u64,
    /// It may have more than that: a write failed half way.
    ragged: bool,
    unsynced: bool,
    head: File,
    /// The last record that was written.
    last: Place,
    /// Lines that are not written yet, the place behind them, and what they are.
    batch: String,
    end: Place,
    events: Vec<&'static str>,
    done: Done,
}

impl Trail {
    /// Goes on with the trail in `dir`, or begins one. What was found at its end that should not be
    /// so becomes the first record, which is not written yet.
    ///
    /// # Errors
    /// [`TrailError`] where that cannot be.
    pub(super) fn open(dir: &Path, seal: Seal, policy: Policy, now: UnixNanos) -> Result<Self, TrailError> {
        make_folder(dir)?;
        let io = |doing| move |source| TrailError::Io { doing, path: dir.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let head = options.open(dir.join(HEAD)).map_err(io("opening head.json in it"))?;
        match head.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(TrailError::Busy(dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(io("locking head.json in it")(error)),
        }
        let mut said = Vec::new();
        (&head).take(LINE_BYTES_MAX as u64).read_to_end(&mut said).map_err(io("reading head.json in it"))?;
        let expected = read_head(&seal, &said);
        let mut files = files(dir).map_err(io("listing it"))?;
        let found = last_record(dir, &mut files)?;
        let file = match files.last() {
            Some(last) => open_file(dir, &last.name, false),
            // Nothing is written to it: the first file is made right away.
            None => head.try_clone(),
        };
        let file = file.map_err(io("opening the last file in it"))?;
        let last = found.place.unwrap_or_else(|| expected.unwrap_or(Place::START));
        let length =
            if files.is_empty() { 0 } else { file.metadata().map_err(io("looking at the last file in it"))?.len() };
        let mut trail = Self {
            dir: dir.to_owned(),
            policy,
            file,
            length,
            ragged: false,
            unsynced: false,
            head,
            last,
            batch: String::new(),
            end: last,
            events: Vec::new(),
            done: Done::default(),
            files,
            seal,
        };
        let fresh = trail.files.is_empty() && expected.is_none() && said.is_empty();
        if trail.files.is_empty() || found.chain.as_deref() != Some(trail.seal.as_str()) {
            trail.rotate(now).map_err(io("beginning a file in it"))?;
        }
        if !fresh {
            trail.note_recovery(&found, expected, said.is_empty(), now);
        }
        Ok(trail)
    }

    /// Records how the end differs from how it was left, if it does.
    fn note_recovery(&mut self, found: &Found, expected: Option<Place>, no_head: bool, now: UnixNanos) {
        let at = found.place.unwrap_or(Place::START);
        let reason = match expected {
            _ if found.cut_bytes > 0 => "torn",
            None if no_head => "head_missing",
            None => "head_damaged",
            Some(head) if head.seq > at.seq => "shortened",
            Some(head) if head.seq == at.seq && head.hash != at.hash => "changed",
            Some(_) => return,
        };
        let expected = expected.map(|head| head.seq);
        let note = Note::Recovered { file: &found.file, reason, cut_bytes: found.cut_bytes, expected, found: at.seq };
        self.push(note.name(), |text, seq| note.write(text, seq, now));
    }

    /// Adds a record to what is to be written; `write` gets its number.
    pub(super) fn push(&mut self, event: &'static str, write: impl FnOnce(&mut String, u64)) {
        let (from, seq) = (self.batch.len(), self.end.seq + 1);
        write(&mut self.batch, seq);
        let _ = write!(self.batch, ",\"prev\":\"{}\"", self.end.hash);
        self.end = Place { seq, hash: self.seal.close(&mut self.batch, from) };
        self.events.push(event);
    }

    pub(super) fn note(&mut self, note: &Note<'_>, now: UnixNanos) {
        self.push(note.name(), |text, seq| note.write(text, seq, now));
    }

    /// Bytes that are to be written.
    pub(super) fn waiting(&self) -> usize {
        self.batch.len()
    }

    /// Writes what was added. After an error it is still there, and may be tried again.
    pub(super) fn commit(&mut self) -> io::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        if self.ragged {
            self.file.set_len(self.length)?;
            self.ragged = false;
        }
        if let Err(error) = (&self.file).write_all(self.batch.as_bytes()) {
            self.ragged = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        let bytes = self.batch.len() as u64;
        self.length += bytes;
        self.last = self.end;
        self.batch.clear();
        self.unsynced = true;
        self.done.bytes += bytes;
        self.done.events.append(&mut self.events);
        // Behind the records: what it names is there.
        let line = head_line(&self.seal, self.last);
        self.head.write_all_at(line.as_bytes(), 0)?;
        self.head.set_len(line.len() as u64)?;
        if self.policy.sync == SyncWhen::Record { self.sync() } else { Ok(()) }
    }

    /// Has what was written on the disk for certain.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.unsynced && self.policy.sync != SyncWhen::Never {
            self.file.sync_data()?;
        }
        self.unsynced = false;
        Ok(())
    }

    /// Whether the file that is written has its size or age.
    pub(super) fn is_full(&self, now: UnixNanos) -> bool {
        let Some(current) = self.files.last() else { return true };
        let age = u64::try_from(now.0.saturating_sub(current.began.0)).unwrap_or(0);
        self.length >= self.policy.rotate_bytes || age >= duration_ns(self.policy.rotate_every)
    }

    /// Whether the file that is written is no longer in the folder.
    pub(super) fn is_gone(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.nlink() == 0)
    }

    /// Begins another file. Nothing may wait to be written.
    pub(super) fn rotate(&mut self, now: UnixNanos) -> io::Result<()> {
        self.sync()?;
        let name = FileName::new(self.last.seq + 1, now);
        let file = open_file(&self.dir, &name.name, true)?;
        let before = (std::mem::replace(&mut self.file, file), std::mem::take(&mut self.length));
        let after = self.files.last().map(|file| file.name.clone());
        self.note(&Note::File { file: &name.name, chain: self.seal.as_str(), after: after.as_deref() }, now);
        let written = self.commit();
        if self.last != self.end {
            // The one before stays: what was made is taken back.
            (self.file, self.length) = before;
            self.ragged = false;
            self.batch.clear();
            self.events.clear();
            self.end = self.last;
            let _ = fs::remove_file(self.dir.join(&name.name));
            return written;
        }
        self.files.push(name);
        if self.policy.sync != SyncWhen::Never {
            self.file.sync_all()?;
            File::open(&self.dir)?.sync_all()?;
        }
        written
    }

    /// Deletes the oldest file if its time has passed, and says so first; whether it did. Nothing
    /// may wait to be written.
    pub(super) fn delete_oldest(&mut self, now: UnixNanos) -> io::Result<bool> {
        let (Some(keep), [oldest, next, ..]) = (self.policy.keep, self.files.as_slice()) else { return Ok(false) };
        let age = u64::try_from(now.0.saturating_sub(next.began.0)).unwrap_or(0);
        if age < duration_ns(keep) {
            return Ok(false);
        }
        let (file, through) = (oldest.name.clone(), next.first - 1);
        self.note(&Note::Deleted { file: &file, through }, now);
        self.commit()?;
        match fs::remove_file(self.dir.join(&file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => {
                self.files.remove(0);
                Ok(true)
            }
        }
    }

    /// What was written since the last call.
    pub(super) fn take_done(&mut self) -> Done {
        std::mem::take(&mut self.done)
    }

    /// Has another file written to in place of the trail's own; gives that back.
    #[cfg(test)]
    pub(super) fn swap(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }
}

fn make_folder(dir: &Path) -> Result<(), TrailError> {
    let io = |doing| move |source| TrailError::Io { doing, path: dir.to_owned(), source };
    if !dir.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("making the folder"))?;
    }
    let mode = fs::metadata(dir).map_err(io("looking at the folder"))?.permissions().mode();
    if mode & 0o002 != 0 { Err(TrailError::Open(dir.to_owned())) } else { Ok(()) }
}

fn open_file(dir: &Path, name: &str, new: bool) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create_new(new).mode(0o600).open(dir.join(name))
}

/// What the end of a trail was found to be.
#[derive(Debug, Default)]
struct Found {
    /// The last whole record; `None` where there is none.
    place: Option<Place>,
    /// The file that it is in, or was looked for in.
    file: String,
    /// How that file's hashes are made.
    chain: Option<String>,
    /// Bytes behind the last whole line, which are cut off.
    cut_bytes: u64,
}

/// Cuts an unfinished line off the last file, and finds the last record. A file without one, left
/// behind by a crash right after it was made, is removed.
fn last_record(dir: &Path, files: &mut Vec<FileName>) -> Result<Found, TrailError> {
    let mut found = Found::default();
    while let Some(last) = files.last() {
        let path = dir.join(&last.name);
        let io = |doing| {
            let path = path.clone();
            move |source| TrailError::Io { doing, path, source }
        };
        let file = open_file(dir, &last.name, false).map_err(io("opening it"))?;
        let length = file.metadata().map_err(io("looking at it"))?.len();
        let whole = line_end_before(&file, length).map_err(io("reading it"))?;
        found.cut_bytes += length - whole;
        found.file.clone_from(&last.name);
        if whole == 0 {
            fs::remove_file(&path).map_err(io("removing it"))?;
            files.pop();
            continue;
        }
        if whole < length {
            file.set_len(whole).map_err(io("cutting an unfinished line off it"))?;
        }
        let from = line_end_before(&file, whole - 1).map_err(io("reading it"))?;
        let line = line_at(&file, from, whole).map_err(io("reading it"))?;
        let seen =
            line.as_deref().and_then(|line| Some((split(line)?.1, serde_json::from_slice::<Seen>(line).ok()?.seq)));
        let Some((hash, seq)) = seen else { return Err(TrailError::Damaged(path)) };
        found.place = Some(Place { seq, hash });
        found.chain = chain_of(&file).map_err(io("reading it"))?;
        break;
    }
    Ok(found)
}

#[derive(Deserialize)]
struct Seen {
    seq: u64,
}

/// How a file's hashes are made, as its first line says.
fn chain_of(file: &File) -> io::Result<Option<String>> {
    #[derive(Deserialize)]
    struct First {
        chain: String,
    }
    let mut head = vec![0; LINE_BYTES_MAX];
    let read = file.read_at(&mut head, 0)?;
    let line = head[..read].split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(serde_json::from_slice::<First>(line).ok().map(|first| first.chain))
}
