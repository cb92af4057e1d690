//! A reader of the binary form, by its section of the protocol page alone: records become the
//! texts that JSON clients get, so that both are judged by the same rules.

use std::fmt::Write as _;

use crate::message::text_of;
use crate::stream::ensure;

const KINDS: [&str; 8] = ["", "ticker", "quote", "trade", "book", "", "", "gap"];
const SIDES: [&str; 3] = ["unknown", "buy", "sell"];
const CAUSES: [&str; 4] = ["", "slow_consumer", "upstream", "hub"];
const SNAPSHOT: u8 = 1;
const CONTINUED: u8 = 4;

struct Record<'a>(&'a [u8]);

impl Record<'_> {
    fn field<const N: usize>(&self, at: usize) -> Result<[u8; N], String> {
        self.0.get(at..).and_then(|rest| rest.first_chunk().copied()).ok_or_else(|| format!("no {N} bytes at {at}"))
    }

    fn u8(&self, at: usize) -> Result<u8, String> {
        self.field::<1>(at).map(|bytes| bytes[0])
    }

    fn u16(&self, at: usize) -> Result<usize, String> {
        self.field(at).map(u16::from_le_bytes).map(usize::from)
    }

    fn u32(&self, at: usize) -> Result<u32, String> {
        self.field(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64, String> {
        self.field(at).map(u64::from_le_bytes)
    }

    fn i64(&self, at: usize) -> Result<Option<i64>, String> {
        Ok(Some(self.field(at).map(i64::from_le_bytes)?).filter(|value| *value != i64::MIN))
    }

    /// A value with two digits behind the point, as all that is published has.
    fn value(&self, at: usize, exponent_at: usize) -> Result<Option<String>, String> {
        let Some(mantissa) = self.i64(at)? else { return Ok(None) };
        let exponent = i32::from(self.u8(exponent_at)? as i8);
        let power = u32::try_from(exponent + 2).map_err(|_| format!("an exponent of {exponent}"))?;
        let hundredths = 10_i64.checked_pow(power).and_then(|factor| mantissa.checked_mul(factor));
        hundredths.map(|value| Some(text_of(value))).ok_or_else(|| format!("{mantissa}e{exponent}"))
    }

    fn levels(&self, from: usize, count: usize) -> Result<String, String> {
        let mut list = String::new();
        for at in (from..from + count * 16).step_by(16) {
            let price = self.value(at, 32)?.ok_or("a level without a price")?;
            let size = self.value(at + 8, 33)?.ok_or("a level without a size")?;
            let size = if size == "0.00" { "0" } else { &size };
            let _ = write!(list, "{}[\"{price}\",\"{size}\"]", if list.is_empty() { "" } else { "," });
        }
        Ok(list)
    }
}

/// The text of a message; `symbol` and `depth` say what an `iid` is, and which depth of its book
/// the client has.
pub(crate) fn text_of_message(
    message: &[u8],
    symbol: impl Fn(u32) -> Option<&'static str>,
    depth: impl Fn(u32) -> Option<u32>,
) -> Result<String, String> {
    let record = Record(message);
    let (length, kind, flags, iid) = (record.u16(0)?, record.u8(2)?, record.u8(3)?, record.u32(4)?);
    ensure!(length == message.len(), "a record of {length} bytes in a message of {}", message.len());
    ensure!(flags & !SNAPSHOT == 0 && flags & CONTINUED == 0, "flags {flags}");
    let sym = symbol(iid).ok_or("an unknown iid")?;
    let ch = *KINDS.get(usize::from(kind)).ok_or("an unknown kind")?;
    if ch == "gap" {
        return gap(&record, sym, iid, depth);
    }
    let ts = record.i64(16)?.map_or_else(|| "null".to_owned(), |ts| format!("\"{ts}\""));
    let rx = record.i64(24)?.ok_or("no rx")?;
    let mut text =
        format!("{{\"ch\":\"{ch}\",\"sym\":\"{sym}\",\"seq\":{},\"ts\":{ts},\"rx\":\"{rx}\"", record.u64(8)?);
    let (names, exponents, end): (&[&str], usize, usize) = match ch {
        "ticker" => (&["last", "last_sz", "bid", "bid_sz", "ask", "ask_sz", "open", "high", "low", "vol"], 112, 114),
        "quote" => (&["bid", "bid_sz", "ask", "ask_sz"], 64, 66),
        "trade" => (&["px", "sz"], 48, 52 + usize::from(record.u8(51)?)),
        _ => (&[], 32, 40 + 16 * (record.u16(36)? + record.u16(38)?)),
    };
    ensure!(length == end, "{length} bytes in place of {end}");
    for (index, name) in names.iter().enumerate() {
        let is_size = usize::from(name.ends_with("sz") || *name == "vol");
        if let Some(value) = record.value(32 + 8 * index, exponents + is_size)? {
            let _ = write!(text, ",\"{name}\":\"{value}\"");
        }
    }
    if ch == "trade" {
        let side = SIDES.get(usize::from(record.u8(50)?)).ok_or("an unknown side")?;
        let _ = write!(text, ",\"side\":\"{side}\"");
        if end > 52 {
            let tid = std::str::from_utf8(&message[52..]).map_err(|error| error.to_string())?;
            let _ = write!(text, ",\"tid\":\"{tid}\"");
        }
    }
    if ch == "book" {
        let (bids, asks) = (record.u16(36)?, record.u16(38)?);
        let (bids, asks) = (record.levels(40, bids)?, record.levels(40 + 16 * bids, asks)?);
        let _ = write!(text, ",\"depth\":{},\"bids\":[{bids}],\"asks\":[{asks}]", record.u16(34)?);
    }
    text.push_str(if flags & SNAPSHOT != 0 { ",\"snap\":true}" } else { "}" });
    Ok(text)
}

fn gap(record: &Record<'_>, sym: &str, iid: u32, depth: impl Fn(u32) -> Option<u32>) -> Result<String, String> {
    ensure!(record.0.len() == 38 && record.u32(10)? == 0, "{:?} is no gap", record.0);
    let ch = *KINDS.get(usize::from(record.u8(8)?)).ok_or("an unknown channel")?;
    let cause = *CAUSES.get(usize::from(record.u8(9)?)).ok_or("an unknown cause")?;
    let (from, to) = (record.u64(14)?, record.u64(22)?);
    let mut text = format!("{{\"op\":\"gap\",\"ch\":\"{ch}\",\"sym\":\"{sym}\"");
    if ch == "book" {
        let _ = write!(text, ",\"depth\":{}", depth(iid).ok_or("a gap of a book that is not subscribed")?);
    }
    let _ = write!(text, ",\"from\":{from},\"to\":{to},\"cause\":\"{cause}\"");
    let lost = record.u64(30)?;
    if lost != u64::MAX {
        let _ = write!(text, ",\"lost\":{lost}");
    }
    text.push('}');
    Ok(text)
}
