//! Events, gaps, states and epochs as JSON text, written by hand: every byte of an event is copied
//! or printed once, and nothing is formatted or looked up.

use super::{Frame, Gap, Head, Payload, Scratch};
use crate::model::{BookLevel, Decimal, Depth, FeedState, Quote, StreamKind, Ticker, Trade, UnixNanos};

/// The end of every snapshot. It is the last member on every channel, so that a live event becomes
/// a snapshot without being read.
const SNAPSHOT_END: &[u8] = b",\"snap\":true}";

#[inline]
pub(super) fn event(scratch: &mut Scratch, head: &Head<'_>, payload: &Payload<'_>) -> Frame {
    scratch.text(|out| {
        match payload {
            Payload::Ticker(ticker) => {
                push_head(out, b"{\"ch\":\"ticker\",\"sym\":\"", head, None);
                push_ticker(out, ticker);
            }
            Payload::Quote(quote) => {
                push_head(out, b"{\"ch\":\"quote\",\"sym\":\"", head, None);
                push_quote(out, quote);
            }
            Payload::Trade(trade) => {
                push_head(out, b"{\"ch\":\"trade\",\"sym\":\"", head, None);
                push_trade(out, trade);
            }
            Payload::Book { depth, bids, asks } => {
                push_head(out, b"{\"ch\":\"book\",\"sym\":\"", head, Some(*depth));
                push_levels(out, b",\"bids\":[", bids);
                push_levels(out, b",\"asks\":[", asks);
            }
        }
        out.extend_from_slice(if head.snapshot { SNAPSHOT_END } else { b"}" });
    })
}

/// A gap in a book stream says its depth too: the numbers belong to the stream of that depth.
pub(super) fn gap(scratch: &mut Scratch, gap: &Gap<'_>) -> Frame {
    let Gap { id, kind, from, to, cause, lost, .. } = *gap;
    scratch.text(|out| {
        out.extend_from_slice(b"{\"op\":\"gap\",\"ch\":\"");
        out.extend_from_slice(kind.channel().as_str().as_bytes());
        out.extend_from_slice(b"\",\"sym\":\"");
        out.extend_from_slice(id.as_str().as_bytes());
        out.push(b'"');
        if let StreamKind::Book(depth) = kind {
            push_integer(out, b",\"depth\":", depth.wire());
        }
        push_integer(out, b",\"from\":", from);
        push_integer(out, b",\"to\":", to);
        out.extend_from_slice(b",\"cause\":\"");
        out.extend_from_slice(cause.as_str().as_bytes());
        out.push(b'"');
        if let Some(lost) = lost {
            push_integer(out, b",\"lost\":", lost);
        }
        out.push(b'}');
    })
}

pub(super) fn snapshot_of(scratch: &mut Scratch, live: &Frame) -> Frame {
    let payload = live.payload();
    // No string can end like this, for its closing quote would follow.
    if payload.ends_with(SNAPSHOT_END) {
        return live.clone();
    }
    scratch.text(|out| {
        out.extend_from_slice(payload.strip_suffix(b"}").unwrap_or(payload));
        out.extend_from_slice(SNAPSHOT_END);
    })
}

/// The state of a feed. `sym` is an id or `VENUE:*`; an empty `cause` is left out.
#[must_use]
pub fn status(sym: &str, state: FeedState, cause: &str, ts: UnixNanos) -> Frame {
    Scratch::new().text(|out| {
        push_member(out, b"{\"ch\":\"status\",\"sym\":", sym);
        push_member(out, b",\"state\":", state.as_str());
        if !cause.is_empty() {
            push_member(out, b",\"cause\":", cause);
        }
        push_time(out, b",\"ts\":\"", ts);
        out.push(b'}');
    })
}

/// The numbering of a feed starts anew. `sym` is an id or `VENUE:*`.
#[must_use]
pub fn epoch(sym: &str, epoch: &str) -> Frame {
    Scratch::new().text(|out| {
        push_member(out, b"{\"op\":\"epoch\",\"sym\":", sym);
        push_member(out, b",\"epoch\":", epoch);
        out.push(b'}');
    })
}

/// `start` goes up to the opening quote of the id. Ids need no escaping: their alphabet is narrow.
#[inline]
fn push_head(out: &mut Vec<u8>, start: &[u8], head: &Head<'_>, depth: Option<Depth>) {
    out.extend_from_slice(start);
    out.extend_from_slice(head.id.as_str().as_bytes());
    out.push(b'"');
    if let Some(depth) = depth {
        push_integer(out, b",\"depth\":", depth.wire());
    }
    push_integer(out, b",\"seq\":", head.seq);
    match head.ts {
        Some(ts) => push_time(out, b",\"ts\":\"", ts),
        None => out.extend_from_slice(b",\"ts\":null"),
    }
    if let Some(rx) = head.rx {
        push_time(out, b",\"rx\":\"", rx);
    }
}

#[inline]
fn push_ticker(out: &mut Vec<u8>, ticker: &Ticker) {
    push_pair(out, b",\"last\":\"", b"\",\"last_sz\":\"", ticker.last.as_ref());
    push_pair(out, b",\"bid\":\"", b"\",\"bid_sz\":\"", ticker.bid.as_ref());
    push_pair(out, b",\"ask\":\"", b"\",\"ask_sz\":\"", ticker.ask.as_ref());
    push_decimal(out, b",\"open\":\"", ticker.open);
    push_decimal(out, b",\"high\":\"", ticker.high);
    push_decimal(out, b",\"low\":\"", ticker.low);
    push_decimal(out, b",\"vol\":\"", ticker.volume);
}

#[inline]
fn push_quote(out: &mut Vec<u8>, quote: &Quote) {
    push_pair(out, b",\"bid\":\"", b"\",\"bid_sz\":\"", quote.bid.as_ref());
    push_pair(out, b",\"ask\":\"", b"\",\"ask_sz\":\"", quote.ask.as_ref());
}

#[inline]
fn push_trade(out: &mut Vec<u8>, trade: &Trade) {
    push_decimal(out, b",\"px\":\"", Some(trade.price));
    push_decimal(out, b",\"sz\":\"", Some(trade.size));
    out.extend_from_slice(b",\"side\":\"");
    out.extend_from_slice(trade.side.as_str().as_bytes());
    out.push(b'"');
    if !trade.id.is_empty() {
        out.extend_from_slice(b",\"tid\":\"");
        // A trade id is printable ASCII without quote or backslash.
        out.extend_from_slice(trade.id.as_bytes());
        out.push(b'"');
    }
}

#[inline]
fn push_levels(out: &mut Vec<u8>, start: &[u8], levels: &[BookLevel]) {
    out.extend_from_slice(start);
    for (index, level) in levels.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"[\"" } else { b",[\"" });
        level.price.write_to(out);
        out.extend_from_slice(b"\",\"");
        level.size.write_to(out);
        out.extend_from_slice(b"\"]");
    }
    out.push(b']');
}

#[inline]
fn push_pair(out: &mut Vec<u8>, price: &[u8], size: &[u8], level: Option<&BookLevel>) {
    if let Some(level) = level {
        out.extend_from_slice(price);
        level.price.write_to(out);
        out.extend_from_slice(size);
        level.size.write_to(out);
        out.push(b'"');
    }
}

#[inline]
fn push_decimal(out: &mut Vec<u8>, name: &[u8], value: Option<Decimal>) {
    if let Some(value) = value {
        out.extend_from_slice(name);
        value.write_to(out);
        out.push(b'"');
    }
}

/// `name` goes up to the opening quote of the value.
#[inline]
pub(super) fn push_time(out: &mut Vec<u8>, name: &[u8], at: UnixNanos) {
    push_integer(out, name, at.0);
    out.push(b'"');
}

#[inline]
pub(super) fn push_integer(out: &mut Vec<u8>, name: &[u8], value: impl itoa::Integer) {
    out.extend_from_slice(name);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// `name` goes up to the colon; `text` is quoted and escaped.
pub(super) fn push_member(out: &mut Vec<u8>, name: &[u8], text: &str) {
    out.extend_from_slice(name);
    push_string(out, text);
}

/// `text` as a JSON string. Control characters are written as `\u00xx`, so that a message stays
/// one line.
pub(super) fn push_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0x00..0x20 | 0x7f => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests;
