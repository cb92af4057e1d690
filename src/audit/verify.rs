//! Judging a trail: whether every record is there, in its place, and as it was written.

use std::borrow::Cow;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::chain::{Hash, Seal, split};
use super::folder::{FileName, HEAD, LINE_BYTES_MAX, Place, files, read_head};
use super::note::FORMAT;

/// Times that a trail is read anew because a file was deleted meanwhile, as its time had passed.
const TRIES: usize = 3;

/// What a trail holds that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its files.
    pub files: usize,
    /// Its first record, and when that was.
    pub first: (Place, String),
    /// Its last one.
    pub last: (Place, String),
    /// The file before the first, if the hub has deleted it, as its time had passed.
    pub deleted_before: Option<String>,
    /// Records that found the queue full: the trail says where.
    pub lost: u64,
    /// Times that the end of the trail was not as it was left when a hub started.
    pub recovered: u64,
    /// Bytes of a line that is being written, or that a crash left behind.
    pub unfinished: u64,
}

/// The first thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The file.
    pub file: String,
    /// The line in it, from 1.
    pub line: u64,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// Why a trail is not found good.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It was changed.
    #[error("{0}")]
    Broken(Broken),
    /// There is none.
    #[error("{0}: there is no audit trail")]
    Absent(PathBuf),
    /// It cannot be judged without its key.
    #[error("{0}: is chained with a key; name its file with --key-file")]
    NeedsKey(String),
    /// A file cannot be read.
    #[error("{path}: cannot be read")]
    Io {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Judges the trail in `dir`. It may be written meanwhile. With `holds`, it must have that record.
///
/// # Errors
/// [`VerifyError::Broken`] names the first record that is missing, changed or out of place.
pub fn verify(dir: &Path, seal: &Seal, holds: Option<Place>) -> Result<Report, VerifyError> {
    let mut tries = 1;
    loop {
        match verify_once(dir, seal, holds) {
            Err(VerifyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound && tries < TRIES => {
                tries += 1
            }
            judged => return judged,
        }
    }
}

fn verify_once(dir: &Path, seal: &Seal, holds: Option<Place>) -> Result<Report, VerifyError> {
    let unreadable = |path: PathBuf| move |source| VerifyError::Io { path, source };
    // Before the files: what it names has been written by then.
    let head = match fs::read(dir.join(HEAD)) {
        Ok(line) => Some(line),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(unreadable(dir.join(HEAD))(error)),
    };
    let files = match files(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(VerifyError::Absent(dir.to_owned())),
        listed => listed.map_err(unreadable(dir.to_owned()))?,
    };
    let head = match (head, files.is_empty()) {
        (None, true) => return Err(VerifyError::Absent(dir.to_owned())),
        (Some(line), true) if line.is_empty() => return Err(VerifyError::Absent(dir.to_owned())),
        (head, _) => head,
    };
    let mut judge = Judge::new(seal, head.as_deref().and_then(|line| read_head(seal, line)), holds);
    for (index, file) in files.iter().enumerate() {
        let path = dir.join(&file.name);
        let opened = File::open(&path).map_err(unreadable(path.clone()))?;
        judge.file(file, opened, index + 1 == files.len()).map_err(|error| match error {
            Fault::Io(source) => VerifyError::Io { path, source },
            Fault::NeedsKey => VerifyError::NeedsKey(file.name.clone()),
            Fault::Broken(broken) => VerifyError::Broken(broken),
        })?;
    }
    judge.end(head.is_some()).map_err(VerifyError::Broken)
}

/// What is read of a record.
#[derive(Deserialize)]
struct Seen<'a> {
    seq: u64,
    #[serde(borrow)]
    at: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    prev: Cow<'a, str>,
    #[serde(borrow)]
    file: Option<Cow<'a, str>>,
    #[serde(borrow)]
    after_file: Option<Cow<'a, str>>,
    #[serde(borrow)]
    chain: Option<Cow<'a, str>>,
    trail: Option<u64>,
    through: Option<u64>,
    count: Option<u64>,
}

enum Fault {
    Io(io::Error),
    NeedsKey,
    Broken(Broken),
}

/// The state of a trail that is read from its beginning.
struct Judge<'a> {
    seal: &'a Seal,
    head: Option<Place>,
    /// What must be met, and what it is called.
    landmarks: Vec<(Place, &'static str)>,
    file: String,
    line: u64,
    /// Lines of the file before.
    files: usize,
    first: Option<(Place, String)>,
    last: (Place, String),
    /// The file before the first, and its last record: the hub must have recorded that it deleted it.
    missing_before: Option<(String, u64)>,
    first_file: String,
    deletion_found: bool,
    lost: u64,
    recovered: u64,
    unfinished: u64,
}

impl<'a> Judge<'a> {
    fn new(seal: &'a Seal, head: Option<Place>, holds: Option<Place>) -> Self {
        let mut landmarks: Vec<_> = head.into_iter().map(|place| (place, "head.json")).collect();
        landmarks.extend(holds.map(|place| (place, "an earlier run")));
        Self {
            seal,
            head,
            landmarks,
            file: String::new(),
            line: 0,
            files: 0,
            first: None,
            last: (Place::START, String::new()),
            missing_before: None,
            first_file: String::new(),
            deletion_found: false,
            lost: 0,
            recovered: 0,
            unfinished: 0,
        }
    }

    fn broken(&self, what: impl Into<String>) -> Broken {
        Broken { file: self.file.clone(), line: self.line, what: what.into() }
    }

    fn file(&mut self, name: &FileName, file: File, is_last: bool) -> Result<(), Fault> {
        self.file.clone_from(&name.name);
        self.line = 0;
        self.files += 1;
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut bounded = (&mut reader).take(LINE_BYTES_MAX as u64);
            if bounded.read_until(b'\n', &mut line).map_err(Fault::Io)? == 0 {
                return Ok(());
            }
            self.line += 1;
            let reached = self.head.is_some_and(|head| self.last.0.seq >= head.seq);
            if is_last && reached && !line.ends_with(b"\n") {
                let rest = io::copy(&mut reader, &mut io::sink()).map_err(Fault::Io)?;
                self.unfinished = line.len() as u64 + rest;
                return Ok(());
            }
            self.record(&line)?;
        }
    }

    fn record(&mut self, line: &[u8]) -> Result<(), Fault> {
        let not_one = |judge: &Self| Fault::Broken(judge.broken("is not a whole record"));
        let (hashed, hash) = split(line).ok_or_else(|| not_one(self))?;
        let seen: Seen<'_> = serde_json::from_slice(line).map_err(|_| not_one(self))?;
        if self.line == 1 {
            self.first_line(&seen)?;
        }
        if self.seal.hash(hashed) != hash {
            return Err(Fault::Broken(self.broken(format!("was changed: record {} has not its hash", seen.seq))));
        }
        self.place(&seen)?;
        let place = Place { seq: seen.seq, hash };
        if let Some((_, name)) = self.landmarks.iter().find(|(mark, _)| mark.seq == place.seq && mark.hash != hash) {
            let what = format!("record {} is another than {name} says: the trail was written anew", place.seq);
            return Err(Fault::Broken(self.broken(what)));
        }
        match &*seen.event {
            "lost" => self.lost += seen.count.unwrap_or(0),
            "recovered" => self.recovered += 1,
            "deleted" => {
                let named = seen.file.as_deref().zip(seen.through);
                let wanted = self.missing_before.as_ref().map(|(file, through)| (file.as_str(), *through));
                self.deletion_found |= wanted.is_some() && wanted == named;
            }
            _ => {}
        }
        self.last = (place, seen.at.into_owned());
        if self.first.is_none() {
            self.first = Some(self.last.clone());
        }
        Ok(())
    }

    /// The first line of a file says what file it is, and how it is chained.
    fn first_line(&mut self, seen: &Seen<'_>) -> Result<(), Fault> {
        let ours = self.seal.as_str();
        match seen.chain.as_deref() {
            Some(chain) if chain == ours => {}
            Some("hmac-sha256") => return Err(Fault::NeedsKey),
            _ => return Err(Fault::Broken(self.broken(format!("is not chained by {ours}")))),
        }
        if seen.event != "file" || seen.file.as_deref() != Some(self.file.as_str()) || seen.trail != Some(FORMAT) {
            return Err(Fault::Broken(self.broken("is not the first line of this file")));
        }
        if self.files == 1 {
            self.first_file.clone_from(&self.file);
            if let Some(before) = seen.seq.checked_sub(1).filter(|before| *before > 0) {
                let hash = Hash::parse(seen.prev.as_bytes()).unwrap_or(Hash::NONE);
                self.last.0 = Place { seq: before, hash };
                self.missing_before = Some((seen.after_file.as_deref().unwrap_or("a file").to_owned(), before));
            }
        }
        Ok(())
    }

    /// Whether a record stands behind the one before it.
    fn place(&self, seen: &Seen<'_>) -> Result<(), Fault> {
        let (due, last) = (self.last.0.seq + 1, &self.last.0);
        let what = if seen.seq > due {
            format!("{} missing before this line, or it is out of place", records(due, seen.seq - 1))
        } else if seen.seq < due {
            format!("record {} is out of place: record {due} is due here", seen.seq)
        } else if seen.prev != last.hash.to_string() {
            format!("record {} does not follow the record before it", seen.seq)
        } else {
            return Ok(());
        };
        Err(Fault::Broken(self.broken(what)))
    }

    fn end(mut self, has_head: bool) -> Result<Report, Broken> {
        self.line += 1;
        if self.head.is_none() {
            let what = if has_head { "was changed: it has not its hash" } else { "is missing" };
            let what = format!("{what}; where the trail ends cannot be told");
            return Err(Broken { file: HEAD.to_owned(), line: 1, what });
        }
        let last = self.last.0.seq;
        if let Some((mark, name)) = self.landmarks.iter().find(|(mark, _)| mark.seq > last) {
            let what = format!("{} missing here, as {name} says", records(last + 1, mark.seq));
            let file = if self.files == 0 { HEAD.to_owned() } else { self.file };
            return Err(Broken { file, line: self.line, what });
        }
        let Some(first) = self.first.clone() else { return Err(self.broken("there is no record")) };
        if let Some((mark, name)) = self.landmarks.iter().find(|(mark, _)| mark.seq < first.0.seq) {
            let what = format!("record {} of {name} is no longer there", mark.seq);
            return Err(Broken { file: self.first_file, line: 1, what });
        }
        if let Some((file, through)) = self.missing_before.as_ref().filter(|_| !self.deletion_found) {
            let what = format!("{} missing before this line: {file} was not deleted by the hub", records(1, *through));
            return Err(Broken { file: self.first_file, line: 1, what });
        }
        Ok(Report {
            files: self.files,
            first,
            last: self.last,
            deleted_before: self.missing_before.map(|(file, _)| file),
            lost: self.lost,
            recovered: self.recovered,
            unfinished: self.unfinished,
        })
    }
}

fn records(from: u64, to: u64) -> String {
    if from == to { format!("record {from} is") } else { format!("records {from} to {to} are") }
}

/// Gives each whole line of the trail in `dir`, in order, to `each`, until it says no.
///
/// # Errors
/// [`VerifyError`] where there is no trail, or it cannot be read.
pub fn lines(dir: &Path, mut each: impl FnMut(&str) -> bool) -> Result<(), VerifyError> {
    let unreadable = |path: PathBuf| move |source| VerifyError::Io { path, source };
    let files = files(dir).map_err(unreadable(dir.to_owned()))?;
    if files.is_empty() {
        return Err(VerifyError::Absent(dir.to_owned()));
    }
    for file in files {
        let path = dir.join(file.name);
        let mut reader = BufReader::new(File::open(&path).map_err(unreadable(path.clone()))?);
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut bounded = (&mut reader).take(LINE_BYTES_MAX as u64);
            let read = bounded.read_until(b'\n', &mut line).map_err(unreadable(path.clone()))?;
            let Some(text) = std::str::from_utf8(&line).ok().and_then(|text| text.strip_suffix('\n')) else { break };
            if read == 0 || !each(text) {
                return Ok(());
            }
        }
    }
    Ok(())
}
