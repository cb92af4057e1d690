//! The file itself: opening, locking, appending, and writing it anew.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::StateError;
use super::frame::{self, FileId, HEAD_BYTES, Tail};
use crate::time;

/// The log in the state directory.
const FILE_NAME: &str = "state.log";
/// What it is locked by: a file of its own, since the log is replaced by another.
const LOCK_NAME: &str = "state.lock";
/// The log that is to take the place of the one before.
const DRAFT_NAME: &str = "state.log.new";
/// Largest log that is read: beyond what all that may be kept takes, twice.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// For the lock. Who holds it writes a file and syncs it; a process that dies gives it back.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// Where the files are.
#[derive(Debug)]
pub(super) struct Place {
    directory: PathBuf,
    pub(super) path: PathBuf,
    lock: File,
    lock_path: PathBuf,
}

/// The lock, given back when dropped.
pub(super) struct Held(Arc<Place>);

impl Drop for Held {
    fn drop(&mut self) {
        // Closing the file would do it as well; nothing else can be done about an error.
        let _ = self.0.lock.unlock();
    }
}

fn failed(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> StateError {
    move |source| StateError::Io { doing, path: path.to_owned(), source }
}

impl Place {
    /// The directory, made if it is not there, and its lock.
    pub(super) fn prepare(directory: &Path) -> Result<Arc<Self>, StateError> {
        if !directory.exists() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.map_err(failed("making the state directory", directory))?;
        }
        let found = fs::metadata(directory).map_err(failed("looking at the state directory", directory))?;
        if found.mode() & 0o002 != 0 {
            return Err(StateError::OpenDirectory(directory.to_owned()));
        }
        let lock_path = directory.join(LOCK_NAME);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(&lock_path).map_err(failed("making the lock file", &lock_path))?;
        let path = directory.join(FILE_NAME);
        Ok(Arc::new(Self { directory: directory.to_owned(), path, lock, lock_path }))
    }

    /// Waits for the lock, for a bounded time.
    pub(super) fn hold(self: &Arc<Self>) -> Result<Held, StateError> {
        let until = time::mono() + time::duration_ns(LOCK_WAIT);
        loop {
            match self.lock.try_lock() {
                Ok(()) => return Ok(Held(Arc::clone(self))),
                Err(TryLockError::WouldBlock) if time::mono() < until => std::thread::park_timeout(LOCK_PAUSE),
                Err(TryLockError::WouldBlock) => return Err(StateError::Locked(self.lock_path.clone())),
                Err(TryLockError::Error(error)) => return Err(failed("locking", &self.lock_path)(error)),
            }
        }
    }

    fn sync_directory(&self) -> Result<(), StateError> {
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(failed("syncing the state directory", &self.directory))
    }

    /// Writes a log of these payloads and puts it in the place of the one that is there. Whoever
    /// dies meanwhile leaves the old one, whole, or the new one, whole.
    pub(super) fn write_anew(&self, payloads: impl Iterator<Item = Vec<u8>>) -> Result<Log, StateError> {
        let draft = self.directory.join(DRAFT_NAME);
        let io = failed("writing the state anew", &draft);
        let mut id: FileId = [0; 16];
        getrandom::fill(&mut id).map_err(|error| io(io::Error::other(error.to_string())))?;
        let mut bytes = vec![0; HEAD_BYTES];
        payloads.for_each(|payload| frame::write(&id, bytes.len() as u64, &payload, &mut bytes));
        let end = bytes.len() as u64;
        bytes[..HEAD_BYTES].copy_from_slice(&frame::head(&id, end));
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create_new(true).mode(0o600).open(&draft).map_err(&io)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(&io)?;
        let inode = file.metadata().map_err(&io)?;
        fs::rename(&draft, &self.path).map_err(failed("putting the new state in place", &self.path))?;
        self.sync_directory()?;
        Ok(Log { file, id, first_part: end, end, inode: (inode.dev(), inode.ino()) })
    }

    /// Opens the log that is there; `None` = there is none. Nothing of it is read but its head.
    pub(super) fn open(&self) -> Result<Option<Log>, StateError> {
        let io = failed("opening the state", &self.path);
        match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
            Ok(found) if !found.is_file() => return Err(StateError::NotRegular(self.path.clone())),
            Ok(_) => {}
        }
        let file = OpenOptions::new().read(true).write(true).open(&self.path).map_err(&io)?;
        // Asked of the open file: the name may mean another by now.
        let found = file.metadata().map_err(&io)?;
        if !found.is_file() {
            return Err(StateError::NotRegular(self.path.clone()));
        }
        if found.mode() & 0o077 != 0 {
            return Err(StateError::Open(self.path.clone()));
        }
        let mut head = Vec::with_capacity(HEAD_BYTES);
        (&file).take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(&io)?;
        let Some((id, first_part)) = frame::read_head(&head) else {
            return Err(self.damaged(0, "it does not begin as a state log does".to_owned()));
        };
        Ok(Some(Log { file, id, first_part, end: HEAD_BYTES as u64, inode: (found.dev(), found.ino()) }))
    }

    /// Whether `log` is still the file of that name, and how long that is.
    pub(super) fn length(&self, log: &Log) -> Result<Option<u64>, StateError> {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == log.inode => Ok(Some(found.len())),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("looking at the state", &self.path)(error)),
        }
    }

    /// Gives what others have appended to `log` to `take`, and cuts off a torn end: the lock is held,
    /// so nobody is writing it.
    pub(super) fn read_on(
        &self,
        log: &mut Log,
        mut take: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), StateError> {
        let io = failed("reading the state", &self.path);
        let mut bytes = Vec::new();
        (&log.file).seek(SeekFrom::Start(log.end)).map_err(&io)?;
        (&log.file).take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(&io)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(io(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {FILE_BYTES_MAX} bytes"))));
        }
        let here = (log.end, bytes.as_slice());
        let read = frame::read_all(&log.id, here, log.first_part, |offset, payload| {
            take(payload).map_err(|reason| (offset, reason))
        });
        let (end, tail) = read.map_err(|(offset, reason)| self.damaged(offset, reason))?;
        match tail {
            Tail::Clean => {}
            Tail::Damaged => {
                return Err(self.damaged(end, "what was written there is not there any more".to_owned()));
            }
            Tail::Torn => {
                let torn = log.end + bytes.len() as u64 - end;
                tracing::warn!(path = %self.path.display(), offset = end, bytes = torn, "cut off a torn end of the state");
                let cut = log.file.set_len(end).and_then(|()| log.file.sync_all());
                cut.map_err(failed("cutting off a torn end", &self.path))?;
            }
        }
        log.end = end;
        Ok(())
    }

    /// Appends a commit. When this returns it is on the disk.
    pub(super) fn append(&self, log: &mut Log, payload: &[u8]) -> Result<(), StateError> {
        let mut bytes = Vec::with_capacity(frame::FRAME_HEAD_BYTES + payload.len());
        frame::write(&log.id, log.end, payload, &mut bytes);
        let written = log.file.write_all_at(&bytes, log.end).and_then(|()| log.file.sync_data());
        if let Err(error) = written {
            // Nobody is told of it, so it should not be there. If this fails too it is cut off later.
            let _ = log.file.set_len(log.end);
            return Err(failed("writing the state", &self.path)(error));
        }
        log.end += bytes.len() as u64;
        Ok(())
    }

    fn damaged(&self, offset: u64, reason: String) -> StateError {
        StateError::Damaged { path: self.path.clone(), offset, reason }
    }
}

/// An open log.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    id: FileId,
    pub(super) first_part: u64,
    /// Up to where it is known.
    pub(super) end: u64,
    /// Device and inode: tells whether the name still means it.
    inode: (u64, u64),
}
