//! What comes out of a socket: WebSocket frames of a server, and the messages in them. Strict:
//! what the protocol does not name is a fault.

use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // Members that are only there to be known.
pub(crate) struct Message<'a> {
    #[serde(borrow)]
    pub(crate) op: Option<&'a str>,
    pub(crate) id: Option<u64>,
    pub(crate) ch: Option<&'a str>,
    pub(crate) sym: Option<&'a str>,
    pub(crate) depth: Option<u32>,
    pub(crate) seq: Option<u64>,
    #[serde(default)]
    pub(crate) ts: Option<&'a str>,
    pub(crate) rx: Option<&'a str>,
    #[serde(default)]
    pub(crate) snap: bool,
    pub(crate) bid: Option<&'a str>,
    pub(crate) bid_sz: Option<&'a str>,
    pub(crate) ask: Option<&'a str>,
    pub(crate) ask_sz: Option<&'a str>,
    pub(crate) last: Option<&'a str>,
    pub(crate) last_sz: Option<&'a str>,
    pub(crate) open: Option<&'a str>,
    pub(crate) high: Option<&'a str>,
    pub(crate) low: Option<&'a str>,
    pub(crate) vol: Option<&'a str>,
    pub(crate) px: Option<&'a str>,
    pub(crate) sz: Option<&'a str>,
    pub(crate) side: Option<&'a str>,
    pub(crate) tid: Option<&'a str>,
    pub(crate) bids: Option<Vec<(&'a str, &'a str)>>,
    pub(crate) asks: Option<Vec<(&'a str, &'a str)>>,
    pub(crate) state: Option<&'a str>,
    pub(crate) cause: Option<&'a str>,
    pub(crate) from: Option<u64>,
    pub(crate) to: Option<u64>,
    pub(crate) lost: Option<u64>,
    // Answers.
    pub(crate) channel: Option<&'a str>,
    pub(crate) mode: Option<&'a str>,
    pub(crate) max_rate: Option<u32>,
    pub(crate) overflow: Option<&'a str>,
    pub(crate) backlog: Option<u32>,
    pub(crate) epoch: Option<&'a str>,
    pub(crate) accepted: Option<Vec<Accepted<'a>>>,
    pub(crate) rejected: Option<Vec<Rejected<'a>>>,
    #[serde(default)]
    pub(crate) more: bool,
    pub(crate) symbols: Option<Vec<&'a str>>,
    pub(crate) code: Option<&'a str>,
    #[serde(borrow)]
    pub(crate) message: Option<std::borrow::Cow<'a, str>>,
    pub(crate) session: Option<&'a str>,
    pub(crate) server: Option<&'a str>,
    pub(crate) token_expires: Option<&'a str>,
    pub(crate) limits: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Accepted<'a> {
    pub(crate) symbol: &'a str,
    pub(crate) iid: u32,
    pub(crate) seq: Option<u64>,
    pub(crate) epoch: Option<&'a str>,
    pub(crate) pattern: Option<&'a str>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(crate) struct Rejected<'a> {
    pub(crate) symbol: &'a str,
    pub(crate) code: &'a str,
    #[serde(borrow)]
    pub(crate) message: std::borrow::Cow<'a, str>,
}

/// A frame and how many bytes it took; `None` while it is incomplete.
pub(crate) fn frame(bytes: &[u8]) -> Result<Option<(u8, &[u8], usize)>, String> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & 0x80 == 0 || first & 0x70 != 0 || second & 0x80 != 0 {
        return Err(format!("not a whole unmasked frame: {first:02x} {second:02x}"));
    }
    let (length, header) = match second {
        126 => match rest.first_chunk::<2>() {
            Some(length) => (usize::from(u16::from_be_bytes(*length)), 4),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(length) => (u64::from_be_bytes(*length) as usize, 10),
            None => return Ok(None),
        },
        length => (usize::from(*length), 2),
    };
    Ok(bytes.get(header..header + length).map(|payload| (first & 0xf, payload, header + length)))
}

/// Hundredths from their text: exactly two digits behind the point.
pub(crate) fn hundredths(text: &str) -> Result<i64, String> {
    let parsed = text.split_once('.').filter(|(_, cents)| cents.len() == 2).and_then(|(whole, cents)| {
        let (whole, cents): (i64, i64) = (whole.parse().ok()?, cents.parse().ok()?);
        Some(whole * 100 + cents)
    });
    parsed.ok_or_else(|| format!("{text:?} is not what was published"))
}

pub(crate) fn text_of(hundredths: i64) -> String {
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}
