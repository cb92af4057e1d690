//! Recorded upstream data: rows of NDJSON, plain or gzip.
//!
//! A row is what one socket or request received: `{"ts_ns":…,"dir":"in","raw":"<the text>"}`,
//! with `raw_b64` in place of `raw` for binary, `kind` for what is no WebSocket message, and
//! `url` where it matters. Rows come from files that may be cut or damaged: what can be read is
//! read, the rest is counted by whoever asks for the rows, and only a file that the system will
//! not read is an error.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::model::UnixNanos;

/// Longest row that is read, in bytes. The longest that any venue is known to fill is a list of
/// its instruments, of some ten million.
const ROW_BYTES_MAX: usize = 64 << 20;

/// Room that is kept from row to row.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// How much is read at once.
const READ_BYTES: usize = 256 << 10;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// What a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// A message that came from the venue's WebSocket.
    Frame,
    /// The body of an answer to a REST request.
    Rest,
    /// What the client sent, or something about the connection: nothing to decode.
    Other,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// When it was received, where the recorder noted it.
    pub received: Option<UnixNanos>,
    /// What it holds.
    pub kind: RowKind,
    /// Where a REST body came from. A row that names its symbol instead gets an address with it.
    pub url: Option<Cow<'a, str>>,
    /// Which connection it came on, where there were several.
    pub conn: Option<Cow<'a, str>>,
    /// The message; empty for [`RowKind::Other`].
    pub data: Cow<'a, [u8]>,
}

/// A row that is none: no JSON object, or without what every row has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a recorded row")]
pub struct BadRow;

impl<'a> Row<'a> {
    /// Reads one row.
    ///
    /// # Errors
    /// [`BadRow`]: skip it and go on.
    pub fn parse(line: &'a [u8]) -> Result<Self, BadRow> {
        #[derive(Deserialize)]
        struct Members<'a> {
            #[serde(borrow, default)]
            ts_ns: Option<&'a RawValue>,
            #[serde(borrow, default)]
            dir: Option<Cow<'a, str>>,
            #[serde(borrow, default)]
            kind: Option<Cow<'a, str>>,
            #[serde(borrow, default)]
            url: Option<Cow<'a, str>>,
            #[serde(borrow, default)]
            symbol: Option<Cow<'a, str>>,
            #[serde(borrow, default)]
            conn: Option<Cow<'a, str>>,
            #[serde(borrow, default)]
            raw: Option<Cow<'a, str>>,
            #[serde(borrow, default)]
            raw_b64: Option<Cow<'a, str>>,
        }
        let members: Members<'a> = serde_json::from_slice(line).map_err(|_| BadRow)?;
        let received = members.ts_ns.map_or(Ok(None), |text| timestamp(text.get()))?;
        let kind = match (members.dir.as_deref(), members.kind.as_deref()) {
            (None | Some("in"), None) => RowKind::Frame,
            (None | Some("in"), Some("http" | "rest_snapshot")) => RowKind::Rest,
            _ => RowKind::Other,
        };
        let data = match (kind, members.raw, members.raw_b64) {
            (RowKind::Other, ..) => Cow::Borrowed(&b""[..]),
            (_, Some(Cow::Borrowed(text)), _) => Cow::Borrowed(text.as_bytes()),
            (_, Some(Cow::Owned(text)), _) => Cow::Owned(text.into_bytes()),
            (_, None, Some(text)) => Cow::Owned(STANDARD.decode(text.as_bytes()).map_err(|_| BadRow)?),
            (_, None, None) => return Err(BadRow),
        };
        let url = members.url.or_else(|| members.symbol.map(|symbol| Cow::Owned(format!("?symbol={symbol}"))));
        Ok(Self { received, kind, url, conn: members.conn, data })
    }
}

/// Any integer is a time; one that does not fit is as good as none.
fn timestamp(text: &str) -> Result<Option<UnixNanos>, BadRow> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    match text.parse::<i64>() {
        Ok(time) => Ok(Some(UnixNanos(time))),
        Err(_) if text == "null" || digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(None),
        Err(_) => Err(BadRow),
    }
}

/// The next thing that a recording holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line that is not blank, without its end.
    Text(&'a [u8]),
    /// A line of more bytes than any row has; it was skipped.
    TooLong,
    /// The compressed data ends early or is damaged here: there is nothing behind it. What was
    /// unpacked together with the damage, a piece of one read at most, is lost with it.
    Cut,
    /// The end.
    End,
}

/// The lines of a recording, read as they are asked for.
pub struct Recording {
    input: Box<dyn BufRead>,
    compressed: bool,
    ended: bool,
    line: Vec<u8>,
}

impl Recording {
    /// Opens a file.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::new(File::open(path)?)
    }

    /// Reads `input`, which is taken for gzip where it begins like it.
    ///
    /// # Errors
    /// What the system says of its first bytes.
    pub fn new(input: impl Read + 'static) -> io::Result<Self> {
        let (input, compressed) = open_either(input)?;
        Ok(Self { input, compressed, ended: false, line: Vec::new() })
    }

    /// The next line that is not blank.
    ///
    /// # Errors
    /// What the system says while reading. Damaged compression is no such error, but
    /// [`Line::Cut`].
    pub fn next_line(&mut self) -> io::Result<Line<'_>> {
        loop {
            if self.ended {
                return Ok(Line::End);
            }
            self.line.clear();
            self.line.shrink_to(KEPT_BYTES_MAX);
            match self.fill_line() {
                Ok(true) => return Ok(Line::TooLong),
                Ok(false) if self.line.iter().all(u8::is_ascii_whitespace) => {}
                Ok(false) => return Ok(Line::Text(&self.line)),
                Err(error) if self.compressed && is_damage(error.kind()) => {
                    self.ended = true;
                    return Ok(Line::Cut);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes everything up to the end of the line; says whether that was too long to keep.
    fn fill_line(&mut self) -> io::Result<bool> {
        let mut too_long = false;
        loop {
            let part = match self.input.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                part => part?,
            };
            if part.is_empty() {
                self.ended = true;
                return Ok(too_long);
            }
            let end = part.iter().position(|byte| *byte == b'\n');
            let text = &part[..end.unwrap_or(part.len())];
            too_long |= self.line.len() + text.len() > ROW_BYTES_MAX;
            if too_long {
                self.line.clear();
            } else {
                self.line.extend_from_slice(text);
            }
            let used = end.map_or(part.len(), |end| end + 1);
            self.input.consume(used);
            if end.is_some() {
                return Ok(too_long);
            }
        }
    }
}

/// The text of `input`, unpacked where it begins like gzip.
///
/// # Errors
/// What the system says of its first bytes.
pub fn unpacked(input: impl Read + 'static) -> io::Result<Box<dyn BufRead>> {
    Ok(open_either(input)?.0)
}

fn open_either(input: impl Read + 'static) -> io::Result<(Box<dyn BufRead>, bool)> {
    let mut input = BufReader::with_capacity(READ_BYTES, input);
    let mut start = Vec::with_capacity(GZIP_MAGIC.len());
    input.by_ref().take(GZIP_MAGIC.len() as u64).read_to_end(&mut start)?;
    let compressed = start == GZIP_MAGIC;
    let whole = BufReader::with_capacity(READ_BYTES, io::Cursor::new(start).chain(input));
    if compressed {
        Ok((Box::new(BufReader::with_capacity(READ_BYTES, MultiGzDecoder::new(whole))), true))
    } else {
        Ok((Box::new(whole), false))
    }
}

/// What the decompressor says of data that is cut or damaged, as opposed to a file that cannot
/// be read.
fn is_damage(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn lines(input: Vec<u8>) -> Vec<String> {
        let mut recording = Recording::new(io::Cursor::new(input)).expect("readable");
        let mut lines = Vec::new();
        loop {
            match recording.next_line().expect("readable") {
                Line::Text(text) => lines.push(String::from_utf8_lossy(text).into_owned()),
                Line::End => return lines,
                other => lines.push(format!("{other:?}")),
            }
        }
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn reads_plain_and_compressed_alike() {
        let text = b"one\n\r\n  \ntwo\r\nthree".to_vec();
        let expected = ["one", "two\r", "three"];
        assert_eq!(lines(text.clone()), expected);
        assert_eq!(lines(gzip(&text)), expected);
        assert_eq!(lines(Vec::new()), [""; 0]);
        assert_eq!(lines(b"x".to_vec()), ["x"]);
    }

    #[test]
    fn reads_every_member_of_a_compressed_file() {
        let members = [gzip(b"one\ntw"), gzip(b"o\n"), gzip(b"three\n")].concat();
        assert_eq!(lines(members), ["one", "two", "three"]);
    }

    #[test]
    fn damaged_compression_gives_what_lies_before_the_damage() {
        let text: String = (0..20_000).map(|n| format!("row {n} {}\n", n * 7_919 % 10_007)).collect();
        let whole = gzip(text.as_bytes());
        let cut = lines(whole[..whole.len() / 2].to_vec());
        assert_eq!(cut.last().map(String::as_str), Some("Cut"));
        assert!(cut.len() > 1_000, "{}", cut.len());
        assert!(text.starts_with(&format!("{}\n", cut[..cut.len() - 1].join("\n"))));

        let behind = [whole.clone(), b"garbage".to_vec()].concat();
        let read = lines(behind);
        assert_eq!((read.len(), read.last().map(String::as_str)), (20_001, Some("Cut")));
        assert_eq!(lines(GZIP_MAGIC.to_vec()), ["Cut"]);
    }

    #[test]
    fn a_line_without_end_is_skipped_without_being_held() {
        struct Endless {
            left: usize,
        }
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let take = buffer.len().min(self.left);
                buffer[..take].fill(b'x');
                self.left -= take;
                Ok(take)
            }
        }
        let input = Endless { left: ROW_BYTES_MAX + 1 }.chain(io::Cursor::new(b"\nnext\n".to_vec()));
        let mut recording = Recording::new(input).expect("readable");
        assert_eq!(recording.next_line().expect("readable"), Line::TooLong);
        assert_eq!(recording.next_line().expect("readable"), Line::Text(b"next"));
        assert_eq!(recording.next_line().expect("readable"), Line::End);
    }

    #[test]
    fn a_file_that_fails_while_it_is_read_is_an_error() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from(ErrorKind::PermissionDenied))
            }
        }
        assert!(Recording::new(Failing).is_err());
        let mut recording = Recording::new(io::Cursor::new(b"{}".to_vec()).chain(Failing)).expect("two bytes");
        assert!(recording.next_line().is_err());
    }

    #[test]
    fn rows_say_what_they_are() {
        let row = |text: &'static str| Row::parse(text.as_bytes());
        let it = row(r#"{"ts_ns":17,"dir":"in","raw":"{\"a\":1}","more":[]}"#).expect("a row");
        assert_eq!((it.received, it.kind, &*it.data), (Some(UnixNanos(17)), RowKind::Frame, &b"{\"a\":1}"[..]));
        let it = row(r#"{"raw_b64":"AP8="}"#).expect("a row");
        assert_eq!((it.received, it.kind, &*it.data), (None, RowKind::Frame, &[0, 255][..]));
        let it = row(r#"{"dir":"in","kind":"http","url":"https://x/y","conn":"h","raw":"{}"}"#).expect("a row");
        assert_eq!((it.kind, it.url.as_deref(), it.conn.as_deref()), (RowKind::Rest, Some("https://x/y"), Some("h")));
        let it = row(r#"{"kind":"rest_snapshot","symbol":"AB","raw":"{}"}"#).expect("a row");
        assert_eq!((it.kind, it.url.as_deref()), (RowKind::Rest, Some("?symbol=AB")));
        for other in
            [r#"{"dir":"out","raw":"x"}"#, r#"{"dir":"out","kind":"connect","url":"wss://x"}"#, r#"{"kind":"ws_ping"}"#]
        {
            assert_eq!(row(other).expect("a row").kind, RowKind::Other, "{other}");
        }
    }

    #[test]
    fn any_integer_is_a_time() {
        for (text, time) in [
            ("0", Some(0)),
            ("-5", Some(-5)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("null", None),
        ] {
            let line = format!(r#"{{"ts_ns":{text},"raw":""}}"#);
            assert_eq!(Row::parse(line.as_bytes()).expect("a row").received, time.map(UnixNanos), "{text}");
        }
    }

    #[test]
    fn what_is_no_row_is_refused() {
        for bad in [
            "",
            "null",
            "[]",
            "{}",
            "garbage",
            r#"{"raw":1}"#,
            r#"{"raw":"x"#,
            r#"{"raw":"x"} y"#,
            r#"{"raw":"\ud800"}"#,
            r#"{"raw_b64":"?"}"#,
            r#"{"ts_ns":1.5,"raw":"x"}"#,
            r#"{"ts_ns":"1","raw":"x"}"#,
            "{\"raw\":\"\u{1}\"}",
        ] {
            assert_eq!(Row::parse(bad.as_bytes()), Err(BadRow), "{bad}");
        }
        assert_eq!(Row::parse(b"{\"raw\":\"\xff\"}"), Err(BadRow));
    }
}
