//! The records of the binary form. rkyv archives each as a packed little-endian struct without
//! pointers, so that the archived bytes are the wire bytes. Their offsets are public: the table
//! stands in the protocol page, and a test holds it to these structs.

use rkyv::rancor::{Infallible, Strategy};
use rkyv::{Archive, Serialize};

/// A value that is not there: an unknown time, an absent price or size.
pub(super) const ABSENT: i64 = i64::MIN;
/// A number of lost events that is not known.
pub(super) const LOST_UNKNOWN: u64 = u64::MAX;

/// The record is a snapshot.
pub(super) const SNAPSHOT: u8 = 1;
/// Another record of the same event follows. (Bit 1 is of bars, which there are none of.)
pub(super) const CONTINUED: u8 = 4;

/// Place of the length and the flags in every record.
pub(super) const LENGTH_AT: usize = 0;
pub(super) const FLAGS_AT: usize = 3;

/// Levels of one record: with more its length would not fit.
pub(super) const RECORD_LEVELS_MAX: usize = 2_000;
/// Longest trade id that a record carries.
pub(super) const RECORD_TRADE_ID_BYTES_MAX: usize = 48;

/// What a record is.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Kind {
    Ticker = 1,
    Quote = 2,
    Trade = 3,
    Book = 4,
    Gap = 7,
}

/// A ticker, whole.
#[derive(Archive, Serialize)]
pub(super) struct TickerRecord {
    pub(super) length: u16,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) iid: u32,
    pub(super) seq: u64,
    pub(super) ts: i64,
    pub(super) rx: i64,
    pub(super) last: i64,
    pub(super) last_sz: i64,
    pub(super) bid: i64,
    pub(super) bid_sz: i64,
    pub(super) ask: i64,
    pub(super) ask_sz: i64,
    pub(super) open: i64,
    pub(super) high: i64,
    pub(super) low: i64,
    pub(super) vol: i64,
    pub(super) price_exponent: i8,
    pub(super) size_exponent: i8,
}

/// A quote, whole.
#[derive(Archive, Serialize)]
pub(super) struct QuoteRecord {
    pub(super) length: u16,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) iid: u32,
    pub(super) seq: u64,
    pub(super) ts: i64,
    pub(super) rx: i64,
    pub(super) bid: i64,
    pub(super) bid_sz: i64,
    pub(super) ask: i64,
    pub(super) ask_sz: i64,
    pub(super) price_exponent: i8,
    pub(super) size_exponent: i8,
}

/// A trade up to its id, whose bytes follow.
#[derive(Archive, Serialize)]
pub(super) struct TradeRecord {
    pub(super) length: u16,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) iid: u32,
    pub(super) seq: u64,
    pub(super) ts: i64,
    pub(super) rx: i64,
    pub(super) px: i64,
    pub(super) sz: i64,
    pub(super) price_exponent: i8,
    pub(super) size_exponent: i8,
    pub(super) side: u8,
    pub(super) tid_length: u8,
}

/// A book up to its levels, which follow: bids, then asks.
#[derive(Archive, Serialize)]
pub(super) struct BookRecord {
    pub(super) length: u16,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) iid: u32,
    pub(super) seq: u64,
    pub(super) ts: i64,
    pub(super) rx: i64,
    pub(super) price_exponent: i8,
    pub(super) size_exponent: i8,
    pub(super) depth: u16,
    pub(super) bids: u16,
    pub(super) asks: u16,
}

/// One level of a book.
#[derive(Archive, Serialize)]
pub(super) struct LevelRecord {
    pub(super) px: i64,
    pub(super) sz: i64,
}

/// A gap, whole.
#[derive(Archive, Serialize)]
pub(super) struct GapRecord {
    pub(super) length: u16,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) iid: u32,
    pub(super) channel: u8,
    pub(super) cause: u8,
    pub(super) interval: u32,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) lost: u64,
}

/// Appends the archived bytes of a record: nothing before them, for nothing of it needs alignment,
/// and nothing behind, for nothing of it is a pointer.
#[inline]
pub(super) fn append(out: &mut Vec<u8>, record: &impl Serialize<Strategy<Vec<u8>, Infallible>>) {
    match rkyv::api::serialize_using::<_, Infallible>(record, out) {
        Ok(_) => {}
        Err(never) => match never {},
    }
}

/// Writes the length of the record that begins at `start` and ends here; no record is longer than
/// one of [`RECORD_LEVELS_MAX`] levels.
#[inline]
pub(super) fn finish(out: &mut [u8], start: usize) {
    let length = (out.len() - start) as u16;
    out[start + LENGTH_AT..][..2].copy_from_slice(&length.to_le_bytes());
}

const _: () = assert!(size_of::<ArchivedBookRecord>() + RECORD_LEVELS_MAX * size_of::<ArchivedLevelRecord>() < 1 << 16);
