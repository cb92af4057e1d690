//! NATS as a subscriber reads it: a stream of lines and payloads inside of WebSocket messages.

use std::time::Instant;

use anyhow::{bail, ensure};

use super::crowd::Crowd;
use crate::frame;

/// Longest line that is waited for: INFO has some hundred bytes.
const LINE_BYTES_MAX: usize = 64 << 10;

/// What stands at the begin of a stream.
#[derive(Debug, PartialEq, Eq)]
enum Word<'a> {
    Update(&'a [u8]),
    Ping,
    Pong,
    Other,
}

/// Takes one WebSocket message for the client `at`.
pub(super) fn take(crowd: &mut Crowd, at: usize, payload: &[u8], now: Option<Instant>) -> anyhow::Result<()> {
    let mut kept = std::mem::take(crowd.inner(at));
    let joined = !kept.is_empty();
    if joined {
        kept.extend_from_slice(payload);
    }
    let mut rest: &[u8] = if joined { &kept } else { payload };
    while let Some((word, used)) = next(rest)? {
        rest = &rest[used..];
        match word {
            Word::Update(text) => crowd.update(at, text, now),
            Word::Ping => {
                let mut pong = Vec::new();
                frame::append_client(&mut pong, frame::BINARY, b"PONG\r\n", [1, 2, 3, 4]);
                crowd.answer(at, &pong)?;
            }
            // The answer to what was sent behind the subscriptions.
            Word::Pong if !crowd.is_live(at) => crowd.set_live(at),
            Word::Pong | Word::Other => {}
        }
    }
    *crowd.inner(at) = rest.to_vec();
    Ok(())
}

/// The next word with the bytes it takes; `None` where it is not whole.
fn next(bytes: &[u8]) -> anyhow::Result<Option<(Word<'_>, usize)>> {
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        ensure!(bytes.len() < LINE_BYTES_MAX, "a line of NATS without end");
        return Ok(None);
    };
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    let after = end + 1;
    if line.starts_with(b"MSG ") {
        let digits = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
        let Some(length) = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<usize>().ok()) else {
            bail!("NATS said {}", crate::measure::shown(line));
        };
        let whole = after + length + 2;
        return Ok((bytes.len() >= whole).then(|| (Word::Update(&bytes[after..after + length]), whole)));
    }
    ensure!(!line.starts_with(b"-ERR"), "NATS said {}", crate::measure::shown(line));
    let word = match line {
        b"PING" => Word::Ping,
        b"PONG" => Word::Pong,
        _ => Word::Other,
    };
    Ok(Some((word, after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_once_they_are_whole() {
        let bytes = b"MSG s0 0 5\r\nhello\r\nPING\r\n";
        for cut in 0..19 {
            assert_eq!(next(&bytes[..cut]).unwrap(), None, "cut at {cut}");
        }
        assert_eq!(next(bytes).unwrap(), Some((Word::Update(b"hello"), 19)));
        assert_eq!(next(&bytes[19..]).unwrap(), Some((Word::Ping, 6)));
        assert_eq!(next(b"INFO {}\r\n").unwrap(), Some((Word::Other, 9)));
        assert!(next(b"-ERR 'slow'\r\n").is_err());
        assert!(next(b"MSG s0 0 x\r\n").is_err());
    }
}
