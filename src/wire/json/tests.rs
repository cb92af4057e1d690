use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::{AggressorSide, GapCause, InstrumentId, InstrumentKey, TradeId};
use crate::wire::Format;

fn dec(text: &str) -> Decimal {
    Decimal::parse(text.as_bytes()).expect(text)
}

fn level(price: &str, size: &str) -> BookLevel {
    BookLevel { price: dec(price), size: dec(size) }
}

fn id() -> InstrumentId {
    InstrumentId::parse("SIM:AAA-USD").expect("valid")
}

fn text(frame: &Frame) -> &str {
    std::str::from_utf8(frame.payload()).expect("JSON is UTF-8")
}

/// Encodes the event live and as a snapshot, and holds `snapshot_of` to the same bytes.
fn encode(seq: u64, times: (Option<i64>, Option<i64>), payload: &Payload<'_>) -> String {
    let mut scratch = Scratch::new();
    let id = id();
    let (ts, rx) = (times.0.map(UnixNanos), times.1.map(UnixNanos));
    let mut head = Head { id: &id, key: InstrumentKey(7), seq, ts, rx, snapshot: false };
    let live = Format::Json.encode(&mut scratch, &head, payload);
    head.snapshot = true;
    let snapshot = Format::Json.encode(&mut scratch, &head, payload);
    assert_eq!(Format::Json.snapshot_of(&mut scratch, &live), snapshot);
    let again = Format::Json.snapshot_of(&mut scratch, &snapshot);
    assert_eq!(again.bytes().as_ptr(), snapshot.bytes().as_ptr(), "a snapshot is shared, not copied");
    let expected = format!("{},\"snap\":true}}", text(&live).strip_suffix('}').expect("object"));
    assert_eq!(text(&snapshot), expected);
    text(&live).to_owned()
}

const TIMES: (Option<i64>, Option<i64>) = (Some(1_700_000_000_000_000_001), Some(1_700_000_000_000_000_002));

#[test]
fn a_ticker_says_what_is_known() {
    let full = Ticker {
        ts_event: None,
        last: Some(level("1.50", "2")),
        bid: Some(level("1.49", "10")),
        ask: Some(level("1.51", "0.00005100")),
        open: Some(dec("1.0")),
        high: Some(dec("2")),
        low: Some(dec("0.9")),
        volume: Some(dec("1e15")),
    };
    assert_eq!(
        encode(9, TIMES, &Payload::Ticker(&full)),
        r#"{"ch":"ticker","sym":"SIM:AAA-USD","seq":9,"ts":"1700000000000000001","rx":"1700000000000000002","last":"1.50","last_sz":"2","bid":"1.49","bid_sz":"10","ask":"1.51","ask_sz":"0.00005100","open":"1.0","high":"2","low":"0.9","vol":"1000000000000000"}"#
    );
    assert_eq!(
        encode(1, (None, None), &Payload::Ticker(&Ticker::default())),
        r#"{"ch":"ticker","sym":"SIM:AAA-USD","seq":1,"ts":null}"#
    );
}

#[test]
fn a_quote_leaves_out_an_empty_side() {
    let mut quote = Quote { ts_event: None, bid: Some(level("-1.5", "1")), ask: Some(level("2", "3")) };
    assert_eq!(
        encode(1, (Some(-5), Some(0)), &Payload::Quote(&quote)),
        r#"{"ch":"quote","sym":"SIM:AAA-USD","seq":1,"ts":"-5","rx":"0","bid":"-1.5","bid_sz":"1","ask":"2","ask_sz":"3"}"#
    );
    quote.bid = None;
    assert_eq!(
        encode(u64::MAX, (None, Some(7)), &Payload::Quote(&quote)),
        r#"{"ch":"quote","sym":"SIM:AAA-USD","seq":18446744073709551615,"ts":null,"rx":"7","ask":"2","ask_sz":"3"}"#
    );
}

#[test]
fn a_trade_says_who_took_and_which_one_it_was() {
    let mut trade = Trade {
        ts_event: None,
        price: dec("10.0"),
        size: dec("3"),
        side: AggressorSide::Buy,
        id: TradeId::new(b"a-1").expect("fits"),
    };
    assert_eq!(
        encode(2, TIMES, &Payload::Trade(&trade)),
        r#"{"ch":"trade","sym":"SIM:AAA-USD","seq":2,"ts":"1700000000000000001","rx":"1700000000000000002","px":"10.0","sz":"3","side":"buy","tid":"a-1"}"#
    );
    trade.id = TradeId::EMPTY;
    trade.side = AggressorSide::Unknown;
    assert_eq!(
        encode(2, (None, None), &Payload::Trade(&trade)),
        r#"{"ch":"trade","sym":"SIM:AAA-USD","seq":2,"ts":null,"px":"10.0","sz":"3","side":"unknown"}"#
    );
}

#[test]
fn a_book_lists_its_levels() {
    let bids = [level("1.1", "2"), level("1.0", "0")];
    assert_eq!(
        encode(3, (Some(1), Some(2)), &Payload::Book { depth: Depth::Ten, bids: &bids, asks: &[] }),
        r#"{"ch":"book","sym":"SIM:AAA-USD","depth":10,"seq":3,"ts":"1","rx":"2","bids":[["1.1","2"],["1.0","0"]],"asks":[]}"#
    );
    assert_eq!(
        encode(3, (None, None), &Payload::Book { depth: Depth::All, bids: &[], asks: &bids[..1] }),
        r#"{"ch":"book","sym":"SIM:AAA-USD","depth":0,"seq":3,"ts":null,"bids":[],"asks":[["1.1","2"]]}"#
    );
}

#[test]
fn a_gap_names_the_numbers_and_for_a_book_the_depth() {
    let mut scratch = Scratch::new();
    let mut gap = |kind, from, to, cause, lost| {
        let frame =
            Format::Json.gap(&mut scratch, &Gap { id: &id(), key: InstrumentKey(7), kind, from, to, cause, lost });
        text(&frame).to_owned()
    };
    assert_eq!(
        gap(StreamKind::Trade, 120, 131, GapCause::SlowConsumer, None),
        r#"{"op":"gap","ch":"trade","sym":"SIM:AAA-USD","from":120,"to":131,"cause":"slow_consumer"}"#
    );
    assert_eq!(
        gap(StreamKind::Quote, 120, 120, GapCause::Upstream, Some(7)),
        r#"{"op":"gap","ch":"quote","sym":"SIM:AAA-USD","from":120,"to":120,"cause":"upstream","lost":7}"#
    );
    assert_eq!(
        gap(StreamKind::Book(Depth::Fifty), 1, 2, GapCause::Hub, None),
        r#"{"op":"gap","ch":"book","sym":"SIM:AAA-USD","depth":50,"from":1,"to":2,"cause":"hub"}"#
    );
}

#[test]
fn states_and_epochs_escape_what_others_wrote() {
    assert_eq!(
        text(&status("BINANCE:*", FeedState::Recovering, "reset by \"peer\"\n\\\u{7f}é", UnixNanos(5))),
        r#"{"ch":"status","sym":"BINANCE:*","state":"recovering","cause":"reset by \"peer\"\u000a\\\u007fé","ts":"5"}"#
    );
    assert_eq!(
        text(&status("SIM:AAA-USD", FeedState::Live, "", UnixNanos(5))),
        r#"{"ch":"status","sym":"SIM:AAA-USD","state":"live","ts":"5"}"#
    );
    assert_eq!(text(&epoch("SIM:*", "e1")), r#"{"op":"epoch","sym":"SIM:*","epoch":"e1"}"#);
}

#[test]
fn a_trade_id_cannot_be_taken_for_the_mark_of_a_snapshot() {
    let id = TradeId::new(b",snap:true}").expect("printable");
    let trade = Trade { ts_event: None, price: dec("1"), size: dec("1"), side: AggressorSide::Sell, id };
    let live = encode(1, (None, None), &Payload::Trade(&trade));
    assert!(live.ends_with(r#""tid":",snap:true}"}"#), "{live}");
}

fn decimals() -> impl Strategy<Value = Decimal> {
    (any::<i64>(), any::<i8>()).prop_filter_map("absent", |(mantissa, exponent)| Decimal::new(mantissa, exponent))
}

fn levels() -> impl Strategy<Value = BookLevel> {
    (decimals(), decimals()).prop_map(|(price, size)| BookLevel { price, size })
}

/// What is read back must be exactly `members` beside the head; `null` stands for an absent one.
fn check(live: &str, channel: &str, seq: u64, times: (Option<i64>, Option<i64>), members: Value) {
    let mut expected = json!({"ch": channel, "sym": "SIM:AAA-USD", "seq": seq});
    let object = expected.as_object_mut().expect("object");
    let members = members.as_object().expect("object").clone();
    object.extend(members.into_iter().filter(|(_, value)| !value.is_null()));
    object.insert("ts".into(), json!(times.0.map(|ts| ts.to_string())));
    if let Some(rx) = times.1 {
        object.insert("rx".into(), json!(rx.to_string()));
    }
    assert_eq!(serde_json::from_str::<Value>(live).expect("JSON"), expected);
}

fn price(level: Option<BookLevel>) -> Option<String> {
    level.map(|level| level.price.to_string())
}

fn size(level: Option<BookLevel>) -> Option<String> {
    level.map(|level| level.size.to_string())
}

fn rows(levels: &[BookLevel]) -> Vec<[String; 2]> {
    levels.iter().map(|level| [level.price.to_string(), level.size.to_string()]).collect()
}

proptest! {
    #[test]
    fn tickers_and_quotes_read_back_equal(
        seq: u64, times: (Option<i64>, Option<i64>), sides in proptest::array::uniform3(proptest::option::of(levels())),
        stats in proptest::array::uniform4(proptest::option::of(decimals())),
    ) {
        let [last, bid, ask] = sides;
        let [open, high, low, volume] = stats;
        let ticker = Ticker { ts_event: None, last, bid, ask, open, high, low, volume };
        let text = |value: Option<Decimal>| value.map(|v| v.to_string());
        check(&encode(seq, times, &Payload::Ticker(&ticker)), "ticker", seq, times, json!({
            "last": price(last), "last_sz": size(last), "bid": price(bid), "bid_sz": size(bid),
            "ask": price(ask), "ask_sz": size(ask),
            "open": text(open), "high": text(high), "low": text(low), "vol": text(volume),
        }));
        let quote = Quote { ts_event: None, bid, ask };
        check(&encode(seq, times, &Payload::Quote(&quote)), "quote", seq, times, json!({
            "bid": price(bid), "bid_sz": size(bid), "ask": price(ask), "ask_sz": size(ask),
        }));
    }

    #[test]
    fn trades_read_back_equal(seq: u64, times: (Option<i64>, Option<i64>), at in levels(),
                              which in 0_usize..3, tid in "[ -~]{0,63}") {
        let side = [AggressorSide::Buy, AggressorSide::Sell, AggressorSide::Unknown][which];
        let id = TradeId::new(tid.as_bytes()).unwrap_or_default();
        let trade = Trade { ts_event: None, price: at.price, size: at.size, side, id };
        let tid = (!id.is_empty()).then(|| String::from_utf8_lossy(id.as_bytes()).into_owned());
        check(&encode(seq, times, &Payload::Trade(&trade)), "trade", seq, times, json!({
            "px": at.price.to_string(), "sz": at.size.to_string(), "side": side.as_str(), "tid": tid,
        }));
    }

    #[test]
    fn books_read_back_equal(seq: u64, times: (Option<i64>, Option<i64>), which in 0_usize..4,
                             bids in proptest::collection::vec(levels(), 0..60),
                             asks in proptest::collection::vec(levels(), 0..60)) {
        let depth = Depth::ALL[which];
        let book = Payload::Book { depth, bids: &bids, asks: &asks };
        check(&encode(seq, times, &book), "book", seq, times, json!({
            "depth": depth.wire(), "bids": rows(&bids), "asks": rows(&asks),
        }));
    }

    #[test]
    fn any_text_reads_back_equal(cause in "\\PC*|[\\x00-\\x7f]*") {
        let frame = status("SIM:*", FeedState::Down, &cause, UnixNanos(1));
        let value: Value = serde_json::from_slice(frame.payload()).expect("JSON");
        prop_assert_eq!(value.get("cause").and_then(Value::as_str).unwrap_or_default(), cause);
    }
}
