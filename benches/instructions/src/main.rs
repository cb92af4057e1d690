//! Runs one piece of the hot path, over and over, for `scripts/instructions` to count under
//! valgrind. `instructions list` names the pieces, `instructions <piece>` runs one.
//!
//! A package of its own, so that it is built from the very dependencies that the hub is built
//! from, without those of the tests.
#![allow(clippy::print_stdout)]

#[path = "../../support/mod.rs"]
mod support;

use std::hint::black_box;
use std::ops::ControlFlow;
use std::process::ExitCode;

use support::{BACKLOG, Null, RECEIVED, crowd, hub, quote, session, ticker, trade, turn};
use tickhub::fanout::Event;
use tickhub::model::InstrumentId;
use tickhub::provider::{Options, VENUES};
use tickhub::transport::websocket::{FrameReader, Incoming};
use tickhub::wire::command::{CommandLimits, Mode, parse};
use tickhub::wire::{Format, Head, Payload, Scratch};

/// How often a piece is run before counting, so that everything that is kept has its size.
const WARM_UP: usize = 16;
/// How often it is counted.
const ROUNDS: usize = 16;
const SESSIONS: usize = 1_000;

/// What is counted is what happens in here: the script tells valgrind this name.
#[inline(never)]
fn tickhub_measured(piece: &mut dyn FnMut()) {
    piece();
}

fn run(mut piece: impl FnMut()) {
    (0..WARM_UP).for_each(|_| piece());
    (0..ROUNDS).for_each(|_| tickhub_measured(&mut piece));
}

/// A piece and what prepares it. One round is what its name says, once.
type Piece = (&'static str, fn());

const PIECES: &[Piece] = &[
    ("parse_quote", || parse_message(QUOTE)),
    ("parse_trade", || parse_message(TRADE)),
    ("encode_quote", || encode(Format::Json, &Payload::Quote(&quote()))),
    ("encode_trade", || encode(Format::Json, &Payload::Trade(&trade()))),
    ("encode_ticker", || encode(Format::Json, &Payload::Ticker(&ticker()))),
    ("encode_book_10", || encode_book(Format::Json)),
    ("encode_quote_binary", || encode(Format::Binary, &Payload::Quote(&quote()))),
    ("encode_trade_binary", || encode(Format::Binary, &Payload::Trade(&trade()))),
    ("encode_ticker_binary", || encode(Format::Binary, &Payload::Ticker(&ticker()))),
    ("encode_book_10_binary", || encode_book(Format::Binary)),
    ("store_read", store_read),
    ("ingest_unwanted", ingest_unwanted),
    ("ingest_to_lane", ingest_to_lane),
    ("lane_push_pop", lane_push_pop),
    ("fan_out_1000", || fan_out(1, Mode::Every)),
    ("fan_out_1000_32_in_a_turn", || fan_out(BACKLOG, Mode::Every)),
    ("fan_out_1000_latest", || fan_out(1, Mode::Latest)),
    ("client_frame", client_frame),
    ("command_subscribe", command_subscribe),
    ("resume_32", resume),
];

const QUOTE: &str = r#"{"stream":"btcusdt@bookTicker","data":{"u":50093239212,"s":"BTCUSDT","b":"61837.63000000","B":"3.78826000","a":"61837.64000000","A":"1.54698000"}}"#;
const TRADE: &str = r#"{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161255343,"s":"BTCUSDT","t":3735683259,"p":"61837.63000000","q":"0.02000000","T":1723161255342,"m":true,"M":true}}"#;
const SUBSCRIBE: &[u8] = br#"{"op":"subscribe","id":1,"channel":"quote","symbols":["BINANCE:BTC-USDT","BINANCE:ETH-USDT","SIM:*"],"mode":"every"}"#;

/// A message of a venue, as far as the store; nobody wants what it says.
fn parse_message(text: &'static str) {
    let hub = hub(0);
    let mut decoder = (VENUES[0].decoder)(Options::recorded());
    run(|| {
        black_box(decoder.on_frame(&hub.feed, RECEIVED, text.as_bytes()));
    });
}

fn encode(format: Format, payload: &Payload<'_>) {
    let id = InstrumentId::parse(support::SYMBOL).expect("an id");
    let head = Head {
        id: &id,
        key: tickhub::model::InstrumentKey(7),
        seq: 123_456,
        ts: RECEIVED.wall,
        rx: RECEIVED.wall,
        snapshot: false,
    };
    let mut scratch = Scratch::new();
    run(|| drop(black_box(format.encode(&mut scratch, black_box(&head), black_box(payload)))));
}

fn encode_book(format: Format) {
    let (bids, asks) = support::book(10);
    encode(format, &Payload::Book { depth: tickhub::model::Depth::Ten, bids: &bids, asks: &asks });
}

fn store_read() {
    let mut hub = hub(0);
    hub.instrument.quote(RECEIVED, &quote());
    let key = hub.instrument.key();
    run(|| {
        black_box(hub.store.quote(black_box(key)));
    });
}

fn ingest_unwanted() {
    let mut hub = hub(1);
    let quote = quote();
    run(|| hub.instrument.quote(RECEIVED, black_box(&quote)));
}

/// Number, store, encode, publish; and the worker's end takes it.
fn ingest_to_lane() {
    let mut hub = hub(1);
    let _worker = crowd(&hub.store, 0, 1, Mode::Every);
    let quote = quote();
    run(|| {
        hub.instrument.quote(RECEIVED, black_box(&quote));
        drop(black_box(hub.lanes[0].pop()));
    });
}

fn lane_push_pop() {
    let (mut writer, mut reader) =
        tickhub::fanout::lane(64, std::sync::Arc::default(), tickhub::metrics::Counter::noop());
    run(|| {
        writer.push(black_box(Event::Instrument(tickhub::model::InstrumentKey(7))));
        drop(black_box(reader.pop()));
    });
}

/// `updates` in one turn to [`SESSIONS`] sessions, each written to once.
fn fan_out(updates: usize, mode: Mode) {
    let mut hub = hub(1);
    let mut fanout = crowd(&hub.store, 0, SESSIONS, mode);
    let (mut lane, mut sink, quote) = (hub.lanes.remove(0), Null::default(), quote());
    let mut round = |count: bool| {
        (0..updates).for_each(|_| hub.instrument.quote(RECEIVED, &quote));
        let mut piece = || {
            turn(&mut fanout, &mut lane, &mut sink, usize::MAX);
        };
        if count { tickhub_measured(&mut piece) } else { piece() }
    };
    (0..WARM_UP).for_each(|_| round(false));
    (0..ROUNDS).for_each(|_| round(true));
    assert_eq!(sink.writes, ((WARM_UP + ROUNDS) * SESSIONS) as u64);
}

/// A masked text frame of a client's, from bytes to text.
fn client_frame() {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![0x81, 0x80 | SUBSCRIBE.len() as u8];
    frame.extend(mask);
    frame.extend(SUBSCRIBE.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    assert!(SUBSCRIBE.len() < 126, "one byte of length");
    let mut reader = FrameReader::new(1 << 16);
    let mut buffer = frame.clone();
    run(|| {
        buffer.copy_from_slice(&frame);
        let taken = reader.read(&mut buffer, &mut |incoming| {
            assert!(matches!(incoming, Incoming::Text(_)));
            ControlFlow::Continue(())
        });
        assert_eq!(taken, Ok(frame.len()));
    });
}

fn command_subscribe() {
    let limits = CommandLimits::default();
    run(|| drop(black_box(parse(black_box(SUBSCRIBE), &limits)).expect("a command")));
}

/// A session comes back and is given the 32 quotes that it missed.
fn resume() {
    let mut hub = hub(1);
    let mut fanout = crowd(&hub.store, 0, 1, Mode::Every);
    let (mut lane, mut sink, quote) = (hub.lanes.remove(0), Null::default(), quote());
    (0..256).for_each(|_| hub.instrument.quote(RECEIVED, &quote));
    turn(&mut fanout, &mut lane, &mut sink, usize::MAX);
    fanout.take_counts();
    run(|| {
        let session = session(&mut fanout, Mode::Every, Some(256 - BACKLOG as u64));
        fanout.write(session, 1, &mut sink);
        fanout.close(session);
    });
    assert_eq!(fanout.take_counts().deliveries[Format::Json.index()], ((WARM_UP + ROUNDS) * BACKLOG) as u64);
}

fn main() -> ExitCode {
    let asked = std::env::args().nth(1).unwrap_or_default();
    if asked == "list" {
        println!("rounds {ROUNDS}");
        PIECES.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    match PIECES.iter().find(|(name, _)| *name == asked) {
        Some((_, piece)) => {
            piece();
            ExitCode::SUCCESS
        }
        None => {
            println!("`instructions list` names what there is");
            ExitCode::from(2)
        }
    }
}
