//! What venues send, live and in recordings.

use std::io::{Cursor, Read};

use tickhub::fanout::Event;
use tickhub::ingest::{Standalone, standalone};
use tickhub::model::{BookLevel, Received, StreamKind, UnixNanos};
use tickhub::provider::recording::{Line, Recording, Row, RowKind};
use tickhub::provider::{Decoder, Options, venue_kind};

/// Rows of one input that are read: more of them tell nothing new.
const STEPS_MAX: usize = 256;

/// A line is a step: its first byte says what, the rest is the message. `f` a frame, `d` and `r` a
/// REST body with and without an address, `i` definitions, `w` a symbol to watch, `x` a disconnect,
/// `b` a rewind. The first byte of all chooses between live and recorded.
pub(super) fn venue(data: &[u8]) {
    let Some((choice, steps)) = data.split_first() else { return };
    let options = if choice & 1 == 0 { Options::recorded() } else { Options::live() };
    let kind = venue_kind("binance_spot").expect("listed");
    let mut decoder = (kind.decoder)(options);
    let mut hub = standalone(kind.venue, &[StreamKind::Quote, StreamKind::Trade, StreamKind::Ticker]);
    let feed = hub.feed.clone();
    let mut last_request = None;
    for (at, step) in steps.split(|byte| *byte == b'\n').take(STEPS_MAX).enumerate() {
        let Some((what, message)) = step.split_first() else { continue };
        let received = Received { wall: Some(UnixNanos(at as i64 * 1_000_000)), mono: at as u64 };
        match what {
            b'f' => drop(decoder.on_frame(&feed, received, message)),
            b'd' => drop(decoder.on_rest(&feed, received, last_request.as_deref(), message)),
            b'r' => drop(decoder.on_rest(&feed, received, None, message)),
            b'i' => drop(decoder.on_instruments(message)),
            // A symbol to watch comes from the configuration, which is text.
            b'w' => drop(str::from_utf8(message).map(|symbol| decoder.watch(&feed, symbol))),
            b'x' => decoder.on_disconnect(&feed, received),
            b'b' => decoder.on_rewind(&feed, received),
            _ => continue,
        }
        while let Some(request) = decoder.poll_request() {
            assert!(request.path.starts_with('/') && !request.path.contains([' ', '\r', '\n']), "{}", request.path);
            last_request = Some(request.path);
        }
        published(&mut hub, message.len());
    }
    whole(decoder.as_ref(), data.len());
}

/// What was published is JSON, and not more of it than the message can have said.
fn published(hub: &mut Standalone, message_bytes: usize) {
    let mut events = 0;
    while let Some(event) = hub.pop() {
        events += 1;
        let frame = match event {
            Event::Update(update) => update.frame,
            Event::Gap { frame, .. } | Event::Feed { frame, .. } => frame,
            Event::Instrument(_) => continue,
        };
        let event: serde_json::Value = serde_json::from_slice(frame.payload()).expect("an event is JSON");
        assert!(event["ch"].is_string(), "{event}");
    }
    assert!(events <= 64 + message_bytes, "{events} events of {message_bytes} bytes");
}

/// Books are sorted and not crossed; what is kept of names is no more than was sent.
fn whole(decoder: &dyn Decoder, bytes: usize) {
    for book in decoder.books() {
        let Some((bids, asks)) = book.instrument.book_levels() else { continue };
        let falls = |pair: &[BookLevel]| pair[0].price > pair[1].price;
        assert!(bids.windows(2).all(falls), "bids are best first, each price once");
        assert!(asks.windows(2).all(|pair| pair[0].price < pair[1].price), "asks are best first");
        if let (Some(bid), Some(ask)) = (bids.first(), asks.first()) {
            assert!(bid.price < ask.price, "crossed");
        }
    }
    let kept: usize = decoder.left_out().iter().map(|(symbol, _)| symbol.len()).sum();
    assert!(kept <= bytes, "{kept} bytes of names from {bytes}");
    assert!(decoder.silent().len() <= decoder.streams().len());
}

/// Gives one byte at a time.
struct Slow(Cursor<Vec<u8>>);

impl Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let one = buffer.len().min(1);
        self.0.read(&mut buffer[..one])
    }
}

/// Recordings: the rows are the same however the file arrives. Only where compressed data is damaged
/// may what stands close before the damage be lost.
pub(super) fn rows(data: &[u8]) {
    let whole = lines(Recording::new(Cursor::new(data.to_vec())).expect("memory is readable"));
    if data.len() <= 4096 {
        let slow = lines(Recording::new(Slow(Cursor::new(data.to_vec()))).expect("memory is readable"));
        match whole.split_last() {
            Some((last, before)) if last == CUT => {
                assert!(slow.starts_with(before) && (slow.last() == Some(last) || slow.len() == STEPS_MAX));
            }
            _ => assert_eq!(slow, whole),
        }
    }
    let compressed = data.starts_with(&[0x1f, 0x8b]);
    assert!(compressed || whole.iter().map(Vec::len).sum::<usize>() <= data.len());
    for line in &whole {
        let Ok(row) = Row::parse(line) else { continue };
        assert!(row.kind != RowKind::Other || row.data.is_empty());
        assert!(row.data.len() <= line.len(), "unescaping makes nothing longer");
        assert!(row.url.is_none_or(|url| url.len() <= line.len() + "?symbol=".len()));
    }
}

/// What stands for damage; no line is empty.
const CUT: &[u8] = b"";

/// At most [`STEPS_MAX`] lines.
fn lines(mut recording: Recording) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    while lines.len() < STEPS_MAX {
        match recording.next_line().expect("memory is readable") {
            Line::Text(text) => {
                assert!(!text.contains(&b'\n') && !text.is_empty());
                lines.push(text.to_vec());
            }
            Line::Cut => lines.push(CUT.to_vec()),
            Line::TooLong => panic!("the input is shorter than any line that is too long"),
            Line::End => break,
        }
    }
    lines
}
