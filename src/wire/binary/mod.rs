//! Events and gaps as packed little-endian records, for those who would rather not parse text.
//! Values are equal to those of JSON; the digits that a venue wrote are not kept.
//!
//! An event that no record can hold is JSON text instead, and counted by its [`Scratch`].

mod record;
mod scale;

use super::{Frame, Gap, Head, Payload, Scratch, json};
use crate::model::{AggressorSide, BookLevel, Decimal, Depth, Quote, StreamKind, Ticker, Trade, UnixNanos};

use record::{
    ABSENT, BookRecord, CONTINUED, FLAGS_AT, GapRecord, Kind, LENGTH_AT, LOST_UNKNOWN, LevelRecord, QuoteRecord,
    RECORD_LEVELS_MAX, RECORD_TRADE_ID_BYTES_MAX, SNAPSHOT, TickerRecord, TradeRecord, append, finish,
};
use scale::Scale;

pub(super) fn event(scratch: &mut Scratch, head: &Head<'_>, payload: &Payload<'_>) -> Frame {
    let frame = scratch.binary(|out| match payload {
        Payload::Ticker(ticker) => push_ticker(out, head, ticker),
        Payload::Quote(quote) => push_quote(out, head, quote),
        Payload::Trade(trade) => push_trade(out, head, trade),
        Payload::Book { depth, bids, asks } => push_book(out, head, *depth, bids, asks),
    });
    frame.unwrap_or_else(|| {
        scratch.count_unfit();
        json::event(scratch, head, payload)
    })
}

/// Of a book it does not say the depth: a session has one of an instrument at a time.
pub(super) fn gap(scratch: &mut Scratch, gap: &Gap<'_>) -> Frame {
    let frame = scratch.binary(|out| {
        let record = GapRecord {
            length: 0,
            kind: Kind::Gap as u8,
            flags: 0,
            iid: gap.key.0,
            channel: kind_of(gap.kind) as u8,
            cause: gap.cause as u8,
            interval: 0,
            from: gap.from,
            to: gap.to,
            lost: gap.lost.unwrap_or(LOST_UNKNOWN),
        };
        push(out, &record);
        Some(())
    });
    // Every gap fits.
    frame.unwrap_or_else(|| json::gap(scratch, gap))
}

/// The same records, each with the bit of a snapshot.
pub(super) fn snapshot_of(scratch: &mut Scratch, live: &Frame) -> Frame {
    if live.is_text() {
        return json::snapshot_of(scratch, live);
    }
    let payload = live.payload();
    if payload.get(FLAGS_AT).is_some_and(|flags| flags & SNAPSHOT != 0) {
        return live.clone();
    }
    let marked = scratch.binary(|out| {
        let mut rest = payload;
        while let Some(length) = rest.get(LENGTH_AT..LENGTH_AT + 2) {
            let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
            let (record, behind) = rest.split_at_checked(length).filter(|_| length > FLAGS_AT)?;
            let start = out.len();
            out.extend_from_slice(record);
            out[start + FLAGS_AT] |= SNAPSHOT;
            rest = behind;
        }
        Some(())
    });
    // What is no event is left as it is.
    marked.unwrap_or_else(|| live.clone())
}

const fn kind_of(kind: StreamKind) -> Kind {
    match kind {
        StreamKind::Ticker => Kind::Ticker,
        StreamKind::Quote => Kind::Quote,
        StreamKind::Trade => Kind::Trade,
        StreamKind::Book(_) => Kind::Book,
    }
}

const fn flags(head: &Head<'_>) -> u8 {
    if head.snapshot { SNAPSHOT } else { 0 }
}

fn time(at: Option<UnixNanos>) -> i64 {
    at.map_or(ABSENT, |at| at.0)
}

fn price(level: Option<BookLevel>) -> Option<Decimal> {
    level.map(|level| level.price)
}

fn size(level: Option<BookLevel>) -> Option<Decimal> {
    level.map(|level| level.size)
}

/// Appends a record that has nothing behind its fixed part.
#[inline]
fn push(out: &mut Vec<u8>, record: &impl rkyv::Serialize<rkyv::rancor::Strategy<Vec<u8>, rkyv::rancor::Infallible>>) {
    let start = out.len();
    append(out, record);
    finish(out, start);
}

fn push_ticker(out: &mut Vec<u8>, head: &Head<'_>, ticker: &Ticker) -> Option<()> {
    let Ticker { last, bid, ask, open, high, low, volume, .. } = *ticker;
    let prices = Scale::of([price(last), price(bid), price(ask), open, high, low].into_iter().flatten());
    let sizes = Scale::of([size(last), size(bid), size(ask), volume].into_iter().flatten());
    let record = TickerRecord {
        length: 0,
        kind: Kind::Ticker as u8,
        flags: flags(head),
        iid: head.key.0,
        seq: head.seq,
        ts: time(head.ts),
        rx: time(head.rx),
        last: prices.optional(price(last))?,
        last_sz: sizes.optional(size(last))?,
        bid: prices.optional(price(bid))?,
        bid_sz: sizes.optional(size(bid))?,
        ask: prices.optional(price(ask))?,
        ask_sz: sizes.optional(size(ask))?,
        open: prices.optional(open)?,
        high: prices.optional(high)?,
        low: prices.optional(low)?,
        vol: sizes.optional(volume)?,
        price_exponent: prices.exponent(),
        size_exponent: sizes.exponent(),
    };
    push(out, &record);
    Some(())
}

fn push_quote(out: &mut Vec<u8>, head: &Head<'_>, quote: &Quote) -> Option<()> {
    let Quote { bid, ask, .. } = *quote;
    let prices = Scale::of([price(bid), price(ask)].into_iter().flatten());
    let sizes = Scale::of([size(bid), size(ask)].into_iter().flatten());
    let record = QuoteRecord {
        length: 0,
        kind: Kind::Quote as u8,
        flags: flags(head),
        iid: head.key.0,
        seq: head.seq,
        ts: time(head.ts),
        rx: time(head.rx),
        bid: prices.optional(price(bid))?,
        bid_sz: sizes.optional(size(bid))?,
        ask: prices.optional(price(ask))?,
        ask_sz: sizes.optional(size(ask))?,
        price_exponent: prices.exponent(),
        size_exponent: sizes.exponent(),
    };
    push(out, &record);
    Some(())
}

fn push_trade(out: &mut Vec<u8>, head: &Head<'_>, trade: &Trade) -> Option<()> {
    let id = trade.id.as_bytes();
    if id.len() > RECORD_TRADE_ID_BYTES_MAX {
        return None;
    }
    let prices = Scale::of(std::iter::once(trade.price));
    let sizes = Scale::of(std::iter::once(trade.size));
    let record = TradeRecord {
        length: 0,
        kind: Kind::Trade as u8,
        flags: flags(head),
        iid: head.key.0,
        seq: head.seq,
        ts: time(head.ts),
        rx: time(head.rx),
        px: prices.mantissa(trade.price)?,
        sz: sizes.mantissa(trade.size)?,
        price_exponent: prices.exponent(),
        size_exponent: sizes.exponent(),
        side: match trade.side {
            AggressorSide::Unknown => 0,
            AggressorSide::Buy => 1,
            AggressorSide::Sell => 2,
        },
        tid_length: id.len() as u8,
    };
    let start = out.len();
    append(out, &record);
    out.extend_from_slice(id);
    finish(out, start);
    Some(())
}

/// One record, or as many as its levels need: each has its own exponents.
fn push_book(
    out: &mut Vec<u8>,
    head: &Head<'_>,
    depth: Depth,
    mut bids: &[BookLevel],
    mut asks: &[BookLevel],
) -> Option<()> {
    loop {
        let (some_bids, more_bids) = bids.split_at(bids.len().min(RECORD_LEVELS_MAX));
        let (some_asks, more_asks) = asks.split_at(asks.len().min(RECORD_LEVELS_MAX - some_bids.len()));
        (bids, asks) = (more_bids, more_asks);
        let last = bids.is_empty() && asks.is_empty();
        let levels = || some_bids.iter().chain(some_asks);
        let prices = Scale::of(levels().map(|level| level.price));
        let sizes = Scale::of(levels().map(|level| level.size));
        let record = BookRecord {
            length: 0,
            kind: Kind::Book as u8,
            flags: flags(head) | if last { 0 } else { CONTINUED },
            iid: head.key.0,
            seq: head.seq,
            ts: time(head.ts),
            rx: time(head.rx),
            price_exponent: prices.exponent(),
            size_exponent: sizes.exponent(),
            depth: depth.wire() as u16,
            bids: some_bids.len() as u16,
            asks: some_asks.len() as u16,
        };
        let start = out.len();
        append(out, &record);
        for level in levels() {
            append(out, &LevelRecord { px: prices.mantissa(level.price)?, sz: sizes.mantissa(level.size)? });
        }
        finish(out, start);
        if last {
            return Some(());
        }
    }
}

#[cfg(test)]
mod tests;
