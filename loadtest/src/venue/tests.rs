use std::{
    io::{BufRead, BufReader, Read, Write},
    time::Instant,
};

use super::*;
use crate::frame;

fn ask(venue: &Venue, request: &str) -> String {
    let mut stream = TcpStream::connect(venue.address()).unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A hub's line, with what it has read ahead.
fn connect(venue: &Venue, streams: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(venue.address()).unwrap();
    let head = format!("GET /stream?streams={streams} HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0);
    }
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    reader
}

fn next_text(line: &mut BufReader<TcpStream>) -> serde_json::Value {
    let mut bytes = Vec::new();
    loop {
        if let Some((frame, _)) = frame::parse(&bytes).unwrap() {
            return serde_json::from_slice(frame.payload).unwrap();
        }
        bytes.push(0);
        let last = bytes.len() - 1;
        line.read_exact(&mut bytes[last..]).unwrap();
    }
}

#[test]
fn defines_its_own_symbols_and_no_others() {
    let venue = Venue::start(3).unwrap();
    let known = ask(&venue, "GET /api/v3/exchangeInfo?symbols=%5B%22S0000USDT%22,%22S0002USDT%22%5D");
    assert!(
        known.starts_with("HTTP/1.1 200") && known.contains(r#""baseAsset":"S0002","quoteAsset":"USDT""#),
        "{known}"
    );
    assert!(ask(&venue, "GET /api/v3/exchangeInfo?symbols=%5B%22S0003USDT%22%5D").starts_with("HTTP/1.1 400"));
}

#[test]
fn events_go_to_who_asked_for_their_stream_with_their_number_in_a_value() {
    let venue = Venue::start(2).unwrap();
    let quote = |number| Event { kind: Kind::Quote, symbol: 1, number };
    assert!(venue.queue(quote(0)).is_err(), "nobody has asked");
    assert!(venue.wait_subscribed(Duration::ZERO).is_err());
    let mut quotes = connect(&venue, "s0000usdt@bookTicker/s0001usdt@bookTicker/s0001usdt@miniTicker");
    let mut trades = connect(&venue, "s0000usdt@trade");
    let command = br#"{"method":"SUBSCRIBE","params":["s0001usdt@trade"],"id":7}"#;
    let mut out = Vec::new();
    frame::append_client(&mut out, frame::TEXT, command, [1, 2, 3, 4]);
    trades.get_mut().write_all(&out).unwrap();
    assert_eq!(next_text(&mut trades)["id"], 7);
    venue.wait_subscribed(Duration::from_secs(10)).unwrap();
    venue.queue(quote(0)).unwrap();
    venue.queue(quote(123)).unwrap();
    venue.queue(Event { kind: Kind::Trade, symbol: 1, number: 5 }).unwrap();
    assert!(venue.flush().unwrap());
    let first = next_text(&mut quotes);
    let second = next_text(&mut quotes);
    let number = |value: &serde_json::Value| number_in(value.as_str().unwrap().as_bytes());
    assert_eq!((number(&first["data"]["B"]), number(&second["data"]["B"])), (Some(0), Some(123)));
    assert!(second["data"]["u"].as_u64() > first["data"]["u"].as_u64());
    assert_eq!(number(&next_text(&mut trades)["data"]["q"]), Some(5));
}

#[test]
fn a_hub_that_leaves_is_noticed_and_may_come_back() {
    let venue = Venue::start(1).unwrap();
    drop(connect(&venue, "s0000usdt@bookTicker/s0000usdt@trade"));
    let begun = crate::clock::instant();
    while venue.flush().is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        thread::yield_now();
    }
    let mut back = connect(&venue, "s0000usdt@bookTicker/s0000usdt@trade");
    venue.wait_subscribed(Duration::from_secs(10)).unwrap();
    assert!(venue.prime(Kind::Quote, 9).unwrap());
    assert_eq!(number_in(next_text(&mut back)["data"]["B"].as_str().unwrap().as_bytes()), Some(9));
}

#[test]
fn numbers_are_read_from_whole_values_only() {
    assert_eq!(number_in(hidden_size(42).to_string().as_bytes()), Some(42));
    for wrong in ["", "100000000042.0", "10000000004", "0100000000042", "099999999999", "10000000004x"] {
        assert_eq!(number_in(wrong.as_bytes()), None, "{wrong}");
    }
}

#[test]
fn a_plan_does_not_move_with_what_is_late() {
    let begin: Instant = crate::clock::instant();
    let pace = Pace::new(begin, Duration::from_millis(10));
    assert_eq!(pace.due(begin), 1, "the first is due at once");
    assert_eq!((pace.due(begin + Duration::from_millis(9)), pace.due(begin + Duration::from_millis(10))), (1, 2));
    assert_eq!(pace.planned(3), begin + Duration::from_millis(30));
    assert_eq!(pace.lateness(3, begin + Duration::from_millis(45)), Duration::from_millis(15));
    assert_eq!(pace.lateness(3, begin), Duration::ZERO);
}
