//! The files of a trail: their names, the place where it ends, and reading from behind.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde::Deserialize;

use super::chain::{Hash, Seal, split};
use crate::model::UnixNanos;
use crate::settings::parse_utc;
use crate::time::rfc3339;

/// Longest line of a trail, in bytes: three times what the longest record can take.
pub(super) const LINE_BYTES_MAX: usize = 64 * 1024;

/// Name of the file that says where the trail ends. Who holds its lock is the one who writes.
pub(super) const HEAD: &str = "head.json";

/// Bytes that are read at a time from behind.
const BLOCK_BYTES: u64 = 64 * 1024;

/// A file of a trail, `audit-<number of its first record>-<when it was begun>.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileName {
    /// Number of its first record.
    pub(super) first: u64,
    /// When it was begun, in whole seconds: before all in it, behind all in the file before.
    pub(super) began: UnixNanos,
    pub(super) name: String,
}

impl FileName {
    pub(super) fn new(first: u64, now: UnixNanos) -> Self {
        let seconds = UnixNanos(now.0.div_euclid(1_000_000_000) * 1_000_000_000);
        let compact = rfc3339(seconds).replace(".000", "").replace(['-', ':'], "");
        Self { first, began: seconds, name: format!("audit-{first:012}-{compact}.jsonl") }
    }

    fn parse(name: &str) -> Option<Self> {
        let (first, time) = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?.split_once('-')?;
        let part = |from: usize, to: usize| time.get(from..to);
        let (date, clock) = ((part(0, 4)?, part(4, 6)?, part(6, 8)?), (part(9, 11)?, part(11, 13)?, part(13, 15)?));
        let began = parse_utc(&format!("{}-{}-{}T{}:{}:{}Z", date.0, date.1, date.2, clock.0, clock.1, clock.2))?;
        let read = Self::new(first.parse().ok()?, began);
        (read.name == name).then_some(read)
    }
}

/// The trail's files in their order. Whatever else lies in the folder is none of them.
pub(super) fn files(dir: &Path) -> io::Result<Vec<FileName>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        files.extend(entry?.file_name().to_str().and_then(FileName::parse));
    }
    files.sort_unstable_by_key(|file| file.first);
    Ok(files)
}

/// A record's place in its trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number, from 1.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
}

impl Place {
    /// Before the first record.
    pub const START: Self = Self { seq: 0, hash: Hash::NONE };
}

/// The line of [`HEAD`] for a trail that ends at `place`.
pub(super) fn head_line(seal: &Seal, place: Place) -> String {
    let mut text = format!("{{\"seq\":{},\"last\":\"{}\"", place.seq, place.hash);
    seal.close(&mut text, 0);
    text
}

/// Where [`HEAD`] says that the trail ends; `None` where it says nothing that was sealed so.
pub(super) fn read_head(seal: &Seal, line: &[u8]) -> Option<Place> {
    #[derive(Deserialize)]
    struct Head<'a> {
        seq: u64,
        last: &'a str,
    }
    let (hashed, hash) = split(line)?;
    let head: Head<'_> = serde_json::from_slice(line).ok()?;
    let place = Place { seq: head.seq, hash: Hash::parse(head.last.as_bytes())? };
    (seal.hash(hashed) == hash).then_some(place)
}

/// Where the line ends that is the last to end before `end`; 0 where there is none.
pub(super) fn line_end_before(file: &File, end: u64) -> io::Result<u64> {
    let mut until = end;
    let mut block = Vec::new();
    while until > 0 {
        let from = until.saturating_sub(BLOCK_BYTES);
        block.resize(usize::try_from(until - from).unwrap_or(0), 0);
        file.read_exact_at(&mut block, from)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(from + at as u64 + 1);
        }
        until = from;
    }
    Ok(0)
}

/// The bytes of a file from `from` up to `to`, if they are not more than a line may have.
pub(super) fn line_at(file: &File, from: u64, to: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(length) = usize::try_from(to - from).ok().filter(|length| *length <= LINE_BYTES_MAX) else {
        return Ok(None);
    };
    let mut line = vec![0; length];
    file.read_exact_at(&mut line, from)?;
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_number_and_read_back() {
        let at = UnixNanos(1_723_161_253_937_085_768);
        let name = FileName::new(42, at);
        assert_eq!(name.name, "audit-000000000042-20240808T235413Z.jsonl");
        assert_eq!(name.began, UnixNanos(1_723_161_253_000_000_000));
        assert_eq!(FileName::parse(&name.name), Some(name));
        let late = FileName::new(1_234_567_890_123, at);
        assert_eq!(FileName::parse(&late.name), Some(late), "more digits than it is padded to");
        for other in [
            "audit-42-20240808T235413Z.jsonl",
            "audit-000000000042-20240808T235413Z.jsonl.bak",
            "audit-000000000042-20240808T235413.jsonl",
            "audit-00000000004é-20240808T235413Z.jsonl",
            "audit-000000000042-20240808 235413Z.jsonl",
            "audit-.jsonl",
            "head.json",
            "",
        ] {
            assert_eq!(FileName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_end_is_said_and_sealed() {
        let (plain, keyed) = (Seal::new(None), Seal::new(Some(b"key")));
        let place = Place { seq: 7, hash: plain.hash(b"x") };
        let line = head_line(&keyed, place);
        assert_eq!(read_head(&keyed, line.as_bytes()), Some(place));
        assert_eq!(read_head(&plain, line.as_bytes()), None, "not without the key");
        assert_eq!(read_head(&keyed, line.replace("\"seq\":7", "\"seq\":6").as_bytes()), None);
        assert_eq!(read_head(&keyed, b""), None);
    }

    #[test]
    fn lines_are_found_from_behind() {
        use std::io::Write as _;
        let mut file = tempfile::tempfile().expect("a file");
        let long = "x".repeat(usize::try_from(BLOCK_BYTES).expect("fits") * 2);
        write!(file, "one\ntwo\n{long}").expect("writes");
        let end = 8 + long.len() as u64;
        assert_eq!(line_end_before(&file, end).expect("reads"), 8);
        assert_eq!(line_end_before(&file, 8).expect("reads"), 8);
        assert_eq!(line_end_before(&file, 7).expect("reads"), 4);
        assert_eq!(line_end_before(&file, 3).expect("reads"), 0);
        assert_eq!(line_at(&file, 4, 8).expect("reads"), Some(b"two\n".to_vec()));
        assert_eq!(line_at(&file, 8, end).expect("reads"), None);
    }
}
