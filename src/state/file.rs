//! The state in a file: what the log says, and deeds on top of it. Blocks; for threads that may.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StateError;
use super::frame::PAYLOAD_BYTES_MAX;
use super::log::{Log, Place};
use crate::auth::{Change, Decision, Deed, Denied, Done, Held, IssuedKey, Ledger, TokensConfig};
use crate::model::UnixNanos;

/// Bytes from which on changes begin another frame. The largest single change, a key narrowed to
/// as many patterns as a grant may have, fits behind it.
const PAYLOAD_BYTES: usize = 256 * 1024;
const _: () = assert!(PAYLOAD_BYTES * 2 < PAYLOAD_BYTES_MAX);

/// How a file is kept.
#[derive(Clone, Copy, Debug)]
pub struct StateOptions {
    /// How long what is issued lasts.
    pub lifetimes: TokensConfig,
    /// Bytes from which on the log is written anew, where less than half of it counts.
    pub rewrite_bytes: u64,
}

impl Default for StateOptions {
    fn default() -> Self {
        Self { lifetimes: TokensConfig::default(), rewrite_bytes: 1024 * 1024 }
    }
}

/// The state of one directory. Any number of processes may have it open.
#[derive(Debug)]
pub struct FileState {
    place: Arc<Place>,
    options: StateOptions,
    /// `None` = what is known may not be what is written: it is to be read again.
    log: Option<Log>,
    /// The disk has failed: what is in the file may not be on the disk.
    doubtful: bool,
    /// The length at which the log is written anew.
    rewrite_at: u64,
    ledger: Ledger,
    /// [`Ledger::held`] has changed since it was last taken.
    changed: bool,
    /// What others have done to keys, for whoever keeps a trail of it.
    news: Vec<KeyNews>,
}

/// What another process has done to an API key.
#[derive(Debug)]
pub(super) enum KeyNews {
    /// Made it.
    Made(IssuedKey),
    /// Switched it off.
    Off(Arc<str>),
}

/// News that wait to be taken: more keys than people make between two looks.
const NEWS_MAX: usize = 1024;

impl KeyNews {
    fn of(change: &Change) -> Option<Self> {
        match change {
            Change::KeyMade(key) => Some(Self::Made(key.clone())),
            Change::KeyOff { id, .. } => Some(Self::Off(Arc::clone(id))),
            _ => None,
        }
    }
}

impl FileState {
    /// Opens the state in `directory`, or makes an empty one.
    ///
    /// # Errors
    /// [`StateError`], also where what is there is damaged.
    pub fn open(directory: &Path, options: StateOptions) -> Result<Self, StateError> {
        let place = Place::prepare(directory)?;
        let rewrite_at = options.rewrite_bytes;
        let ledger = Ledger::default();
        let mut state =
            Self { place, options, log: None, doubtful: false, rewrite_at, ledger, changed: true, news: Vec::new() };
        state.refresh()?;
        Ok(state)
    }

    /// What it says.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.place.path.clone()
    }

    /// Bytes of the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.log.as_ref().map_or(0, |log| log.end)
    }

    /// What everyone who judges must know, if it has changed since it was last taken.
    pub fn take_held(&mut self) -> Option<Held> {
        std::mem::take(&mut self.changed).then(|| self.ledger.held())
    }

    /// What others have done to keys since this was last asked.
    pub(super) fn take_news(&mut self) -> Vec<KeyNews> {
        std::mem::take(&mut self.news)
    }

    /// Takes in what others have written.
    ///
    /// # Errors
    /// [`StateError`] where the file cannot be read, or is damaged.
    pub fn refresh(&mut self) -> Result<(), StateError> {
        let current = match &self.log {
            Some(log) if !self.doubtful => self.place.length(log)? == Some(log.end),
            _ => false,
        };
        if current {
            return Ok(());
        }
        let place = Arc::clone(&self.place);
        let _held = place.hold()?;
        self.catch_up()
    }

    /// Forgets what has no effect any more.
    pub fn prune(&mut self, now: UnixNanos) {
        self.changed |= self.ledger.prune(now);
    }

    /// Carries out `deeds` in their order, all with one sync or a few; the outcome of each. When this
    /// returns they are on the disk.
    ///
    /// # Errors
    /// [`StateError`] where the file cannot be read or written: each may have been done or not.
    pub fn carry_out<'a>(
        &mut self,
        deeds: impl IntoIterator<Item = &'a Deed>,
        now: UnixNanos,
    ) -> Result<Vec<Result<Done, Denied>>, StateError> {
        let place = Arc::clone(&self.place);
        let _held = place.hold()?;
        self.catch_up()?;
        let (mut outcomes, mut payload) = (Vec::new(), Vec::new());
        for deed in deeds {
            let Decision { changes, outcome } = self.ledger.decide(deed, &self.options.lifetimes, now);
            for change in changes {
                write_change(&change, &mut payload);
                self.changed |= self.ledger.apply(change);
            }
            if payload.len() >= PAYLOAD_BYTES {
                self.commit(std::mem::take(&mut payload))?;
            }
            outcomes.push(outcome);
        }
        self.commit(payload)?;
        if self.bytes() >= self.rewrite_at {
            self.rewrite(now);
        }
        Ok(outcomes)
    }

    fn commit(&mut self, mut payload: Vec<u8>) -> Result<(), StateError> {
        if payload.is_empty() {
            return Ok(());
        }
        payload.push(b']');
        let Some(log) = &mut self.log else { return Err(StateError::Gone) };
        self.place.append(log, &payload).inspect_err(|_| {
            // What is in memory is ahead of the file, and what is in the file may not be on the disk.
            // Both are put right by reading it again; until then nobody is shown it.
            self.log = None;
            self.doubtful = true;
            self.changed = false;
        })
    }

    /// With the lock held: what others have written, and the file as it should be.
    fn catch_up(&mut self) -> Result<(), StateError> {
        let known = self.log.as_ref().map(|log| self.place.length(log).map(|length| (length, log.end))).transpose()?;
        match known {
            Some((Some(length), end)) if length == end => {}
            Some((Some(length), end)) if length > end => self.read_on()?,
            // Never opened, in doubt, replaced by a newer one or by a backup.
            _ => self.read_anew()?,
        }
        if self.doubtful || self.log.is_none() {
            self.write_anew()?;
            self.doubtful = false;
        }
        Ok(())
    }

    fn read_on(&mut self) -> Result<(), StateError> {
        let Some(mut log) = self.log.take() else { return Ok(()) };
        let (ledger, changed, news) = (&mut self.ledger, &mut self.changed, &mut self.news);
        self.place.read_on(&mut log, |payload| {
            let changes: Vec<Change> = serde_json::from_slice(payload).map_err(|error| unreadable(&error))?;
            for change in changes {
                news.extend(KeyNews::of(&change).filter(|_| news.len() < NEWS_MAX));
                *changed |= ledger.apply(change);
            }
            Ok(())
        })?;
        self.log = Some(log);
        Ok(())
    }

    /// A file that has vanished leaves what is known of it as it is.
    fn read_anew(&mut self) -> Result<(), StateError> {
        self.log = self.place.open()?;
        if self.log.is_some() {
            self.ledger = Ledger::default();
            self.changed = true;
            self.read_on()?;
        }
        Ok(())
    }

    fn write_anew(&mut self) -> Result<(), StateError> {
        self.log = None;
        let mut changes = self.ledger.changes().peekable();
        let payloads = std::iter::from_fn(|| {
            changes.peek()?;
            let mut payload = Vec::new();
            while payload.len() < PAYLOAD_BYTES
                && let Some(change) = changes.next()
            {
                write_change(&change, &mut payload);
            }
            payload.push(b']');
            Some(payload)
        });
        let log = self.place.write_anew(payloads)?;
        self.rewrite_at = self.options.rewrite_bytes.max(2 * log.first_part);
        self.log = Some(log);
        Ok(())
    }

    /// Writes the log without what is outdated. Where that fails the old one is still good: it is
    /// read again, and tried once more when it has grown.
    fn rewrite(&mut self, now: UnixNanos) {
        let bytes = self.bytes();
        self.prune(now);
        if let Err(error) = self.write_anew() {
            tracing::warn!(path = %self.place.path.display(), %error, "cannot write the state anew");
            self.rewrite_at = bytes + self.options.rewrite_bytes;
        }
    }
}

fn write_change(change: &Change, payload: &mut Vec<u8>) {
    payload.push(if payload.is_empty() { b'[' } else { b',' });
    // Only a map whose keys are no texts, or a failing writer, could fail here: there are none.
    let _ = serde_json::to_writer(payload, change);
}

/// What a good frame holds that is no change: a newer version wrote it.
fn unreadable(error: &serde_json::Error) -> String {
    // The position only: the text around it may be a hash.
    format!("this version cannot read it (column {}); a newer one may have written it", error.column())
}
