use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};
use std::sync::LazyLock;

use proptest::prelude::*;
use rkyv::rancor::Error;
use serde_json::{Map, Value, json};

use super::record::*;
use super::*;
use crate::model::{GapCause, InstrumentId, InstrumentKey, TradeId};
use crate::wire::Format;

const PAGE: &str = include_str!("../../../docs/protocol.md");

const TIMES: (Option<UnixNanos>, Option<UnixNanos>) =
    (Some(UnixNanos(1_700_000_000_000_000_001)), Some(UnixNanos(1_700_000_000_000_000_002)));

fn dec(text: &str) -> Decimal {
    Decimal::parse(text.as_bytes()).expect(text)
}

fn level(price: &str, size: &str) -> BookLevel {
    BookLevel { price: dec(price), size: dec(size) }
}

fn id() -> InstrumentId {
    InstrumentId::parse("SIM:AAA-USD").expect("valid")
}

fn head(id: &InstrumentId, snapshot: bool) -> Head<'_> {
    Head { id, key: InstrumentKey(70_007), seq: 1 << 40, ts: TIMES.0, rx: TIMES.1, snapshot }
}

/// A record on the protocol page: length, and by name offset and type of each field.
struct Layout {
    length: usize,
    fields: BTreeMap<&'static str, (usize, &'static str)>,
}

/// The table of the page, each record with the fields of every record.
static LAYOUTS: LazyLock<BTreeMap<&str, Layout>> = LazyLock::new(|| {
    let (_, section) = PAGE.split_once("\n## 6. ").expect("its section");
    let (_, table) = section.split_once("\n| --- | --- | --- |\n").expect("a table");
    let mut layouts: BTreeMap<&str, Layout> = table.lines().take_while(|line| line.starts_with('|')).map(row).collect();
    let every = layouts.remove("every").expect("what every record has");
    for (_, layout) in layouts.iter_mut().filter(|(name, _)| **name != "level") {
        layout.fields.extend(&every.fields);
    }
    layouts
});

fn row(line: &'static str) -> (&'static str, Layout) {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    let field = |text: &'static str| {
        let [offset, kind, name] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
        (name, (offset.parse().expect("an offset"), kind))
    };
    let fields = cells[2].split('`').skip(1).step_by(2).map(field).collect();
    let length = cells[3].split([' ', ',']).next().and_then(|n| n.parse().ok()).expect("a length");
    (cells[1].split('`').nth(1).expect("a name"), Layout { length, fields })
}

fn layout(record: &str) -> &'static Layout {
    LAYOUTS.get(record).expect(record)
}

impl Layout {
    fn read(&self, record: &[u8], name: &str) -> i128 {
        let (at, kind) = *self.fields.get(name).expect(name);
        match kind {
            "u8" => record[at].into(),
            "i8" => i128::from(record[at] as i8),
            "u16" => u16::from_le_bytes(record[at..at + 2].try_into().expect("two")).into(),
            "u32" => u32::from_le_bytes(record[at..at + 4].try_into().expect("four")).into(),
            "u64" => u64::from_le_bytes(record[at..at + 8].try_into().expect("eight")).into(),
            "i64" => i64::from_le_bytes(record[at..at + 8].try_into().expect("eight")).into(),
            _ => panic!("{kind}"),
        }
    }
}

macro_rules! assert_published {
    ($name:literal, $record:ty: $($field:ident $kind:ident),*) => {{
        let published = layout($name);
        let mut end = 0;
        let own = [$((stringify!($field), (offset_of!($record, $field), stringify!($kind)))),*];
        for (field, (offset, kind)) in own {
            assert_eq!(offset, end, "{}.{field} is behind padding", $name);
            end = offset + kind[1..].parse::<usize>().expect("bits") / 8;
            assert_eq!(published.fields.get(field), Some(&(offset, kind)), "{}.{field}", $name);
        }
        assert_eq!(end, size_of::<$record>());
        assert_eq!(end, published.length, "the length of {}", $name);
        assert_eq!(published.fields.len(), own.len(), "{}: the page names other fields", $name);
    }};
}

#[test]
fn the_published_offsets_are_those_of_the_records() {
    assert_published!("ticker", ArchivedTickerRecord: length u16, kind u8, flags u8, iid u32, seq u64, ts i64, rx i64,
        last i64, last_sz i64, bid i64, bid_sz i64, ask i64, ask_sz i64, open i64, high i64, low i64, vol i64,
        price_exponent i8, size_exponent i8);
    assert_published!("quote", ArchivedQuoteRecord: length u16, kind u8, flags u8, iid u32, seq u64, ts i64, rx i64,
        bid i64, bid_sz i64, ask i64, ask_sz i64, price_exponent i8, size_exponent i8);
    assert_published!("trade", ArchivedTradeRecord: length u16, kind u8, flags u8, iid u32, seq u64, ts i64, rx i64,
        px i64, sz i64, price_exponent i8, size_exponent i8, side u8, tid_length u8);
    assert_published!("book", ArchivedBookRecord: length u16, kind u8, flags u8, iid u32, seq u64, ts i64, rx i64,
        price_exponent i8, size_exponent i8, depth u16, bids u16, asks u16);
    assert_published!("level", ArchivedLevelRecord: px i64, sz i64);
    assert_published!("gap", ArchivedGapRecord: length u16, kind u8, flags u8, iid u32, channel u8, cause u8,
        interval u32, from u64, to u64, lost u64);
}

/// A value's text, from what a record says of it.
fn text(mantissa: i128, exponent: i128) -> Option<Value> {
    let value = Decimal::new(i64::try_from(mantissa).expect("an i64"), i8::try_from(exponent).expect("an i8"));
    value.map(|value| value.to_string().into())
}

/// Reads a message by the protocol page alone, into the members that JSON has. The flags of all
/// but the last record of an event are checked here.
fn read(message: &[u8]) -> Value {
    const KINDS: [&str; 8] = ["", "ticker", "quote", "trade", "book", "bar", "", "gap"];
    let (mut rest, mut event) = (message, Map::new());
    loop {
        let length = usize::from(u16::from_le_bytes([rest[0], rest[1]]));
        let (record, behind) = rest.split_at(length);
        let kind = KINDS[usize::from(record[2])];
        assert_eq!(behind.is_empty(), record[3] & 4 == 0, "continued, if more follows");
        if kind == "gap" {
            return read_gap(record);
        }
        read_record(kind, record, &mut event);
        rest = behind;
        if rest.is_empty() {
            return event.into();
        }
    }
}

fn read_gap(record: &[u8]) -> Value {
    let layout = layout("gap");
    assert_eq!(record.len(), layout.length);
    let of = |name| u64::try_from(layout.read(record, name)).expect("unsigned");
    json!({"iid": of("iid"), "channel": of("channel"), "cause": of("cause"), "interval": of("interval"),
        "from": of("from"), "to": of("to"), "lost": of("lost"), "flags": of("flags")})
}

fn read_record(kind: &str, record: &[u8], event: &mut Map<String, Value>) {
    let layout = layout(kind);
    let of = |name| layout.read(record, name);
    let exponents = [of("price_exponent"), of("size_exponent")];
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            event.insert(name.to_owned(), value);
        }
    };
    let absent = i128::from(i64::MIN);
    let time = |name| Some(of(name)).filter(|at| *at != absent).map(|at| Value::from(at.to_string()));
    set("ch", Some(kind.into()));
    set("iid", Some((of("iid") as u64).into()));
    set("seq", Some((of("seq") as u64).into()));
    set("ts", Some(time("ts").unwrap_or_default()));
    set("rx", time("rx"));
    set("snap", (record[3] & 1 == 1).then_some(true.into()));
    let mut mantissas: [Vec<i128>; 2] = Default::default();
    for (index, names) in
        [["last", "bid", "ask", "open", "high", "low", "px"].as_slice(), &["last_sz", "bid_sz", "ask_sz", "vol", "sz"]]
            .iter()
            .enumerate()
    {
        for name in names.iter().filter(|name| layout.fields.contains_key(*name)) {
            mantissas[index].push(of(name));
            set(name, text(of(name), exponents[index]));
        }
    }
    match kind {
        "trade" => {
            let tid = &record[layout.length..];
            assert_eq!(tid.len() as i128, of("tid_length"));
            set("side", Some(["unknown", "buy", "sell"][of("side") as usize].into()));
            set("tid", (!tid.is_empty()).then(|| String::from_utf8_lossy(tid).into()));
        }
        "book" => {
            set("depth", Some((of("depth") as u64).into()));
            read_levels(layout, record, exponents, event, &mut mantissas);
        }
        _ => assert_eq!(record.len(), layout.length),
    }
    for (exponent, mantissas) in exponents.iter().zip(mantissas) {
        let some: Vec<i128> = mantissas.into_iter().filter(|m| *m != 0 && *m != absent).collect();
        let whole = !some.is_empty() && some.iter().all(|m| m % 10 == 0);
        assert!(!whole || *exponent == 127, "an exponent of {exponent} is smaller than needed for {some:?}");
        assert!(!some.is_empty() || *exponent == 0, "an exponent of {exponent} for nothing");
    }
}

fn read_levels(
    layout: &Layout,
    record: &[u8],
    exponents: [i128; 2],
    event: &mut Map<String, Value>,
    mantissas: &mut [Vec<i128>; 2],
) {
    let of = self::layout("level");
    let mut levels = record[layout.length..].chunks_exact(of.length);
    for side in ["bids", "asks"] {
        let list = event.entry(side).or_insert_with(|| json!([])).as_array_mut().expect("a list");
        for level in levels.by_ref().take(layout.read(record, side) as usize) {
            let (px, sz) = (of.read(level, "px"), of.read(level, "sz"));
            mantissas[0].push(px);
            mantissas[1].push(sz);
            list.push(json!([text(px, exponents[0]), text(sz, exponents[1])]));
        }
    }
    assert_eq!((levels.next(), levels.remainder().len()), (None, 0), "what the counts say");
}

/// Whether two events say the same: decimals by value, all else as it is.
fn assert_equal_values(binary: &Value, json: &Value) {
    const DECIMALS: [&str; 12] =
        ["last", "last_sz", "bid", "bid_sz", "ask", "ask_sz", "open", "high", "low", "vol", "px", "sz"];
    let decimal = |value: &Value| value.as_str().map(dec);
    let levels = |value: &Value| -> Vec<(Option<Decimal>, Option<Decimal>)> {
        value.as_array().expect("levels").iter().map(|level| (decimal(&level[0]), decimal(&level[1]))).collect()
    };
    for (name, value) in json.as_object().expect("an object") {
        let told = &binary[name];
        match name.as_str() {
            "sym" => assert_eq!(binary["iid"], 70_007),
            "bids" | "asks" => assert_eq!(levels(told), levels(value), "{name}"),
            name if DECIMALS.contains(&name) => assert_eq!(decimal(told), decimal(value), "{name}"),
            name => assert_eq!(told, value, "{name}"),
        }
    }
    let members = json.as_object().map(Map::len);
    assert_eq!(binary.as_object().map(Map::len), members, "{binary} has other members than {json}");
}

/// Whether values under one exponent fit an i64, found by trying every exponent.
fn fit(values: &[Decimal]) -> bool {
    let mantissa = |value: &Decimal, exponent: i32| -> Option<i128> {
        let shift = i32::from(value.exponent()) - exponent;
        let power = 10_i128.checked_pow(shift.unsigned_abs());
        let held = i128::from(value.mantissa());
        match (held, shift) {
            (0, _) => Some(0),
            (_, 0..) => held.checked_mul(power?).filter(|m| i64::try_from(*m).is_ok()),
            _ => power.filter(|power| held % power == 0).map(|power| held / power),
        }
    };
    (-128..=127).any(|exponent| values.iter().all(|value| mantissa(value, exponent).is_some()))
}

/// Encodes an event in both formats, live and as a snapshot, and compares.
fn check(seq: u64, times: (Option<UnixNanos>, Option<UnixNanos>), payload: &Payload<'_>, fits: bool) {
    let (mut scratch, id) = (Scratch::new(), id());
    for snapshot in [false, true] {
        let head = Head { seq, ts: times.0, rx: times.1, ..head(&id, snapshot) };
        let text = Format::Json.encode(&mut scratch, &head, payload);
        let frame = Format::Binary.encode(&mut scratch, &head, payload);
        assert_eq!((frame.is_text(), scratch.take_unfit()), (!fits, u64::from(!fits)));
        if fits {
            assert_eq!(frame.bytes()[0], 0x82, "a whole binary message");
            assert_equal_values(&read(frame.payload()), &serde_json::from_slice(text.payload()).expect("JSON"));
        } else {
            assert_eq!(frame, text);
        }
        let marked = Format::Binary.snapshot_of(&mut scratch, &frame);
        let head = Head { snapshot: true, ..head };
        assert_eq!(marked, Format::Binary.encode(&mut scratch, &head, payload));
        scratch.take_unfit();
        assert_eq!(snapshot, marked.bytes().as_ptr() == frame.bytes().as_ptr(), "a snapshot is shared, not copied");
    }
}

#[test]
fn a_quote_is_what_the_page_says_byte_for_byte() {
    let quote = Quote { ts_event: None, bid: Some(level("61837.63000000", "0.500")), ask: Some(level("61838", "12")) };
    let id = id();
    let frame = Format::Binary.encode(&mut Scratch::new(), &head(&id, true), &Payload::Quote(&quote));
    let mut expected = vec![66, 0, 2, 1];
    expected.extend(70_007_u32.to_le_bytes());
    expected.extend((1_u64 << 40).to_le_bytes());
    for value in [1_700_000_000_000_000_001, 1_700_000_000_000_000_002, 6_183_763, 5, 6_183_800, 120_i64] {
        expected.extend(value.to_le_bytes());
    }
    expected.extend([-2_i8 as u8, -1_i8 as u8]);
    assert_eq!(frame.payload(), expected);
    let archived = rkyv::access::<ArchivedQuoteRecord, Error>(frame.payload()).expect("an archive as it is");
    assert_eq!((archived.iid.to_native(), archived.ask_sz.to_native()), (70_007, 120));
}

#[test]
fn a_trade_of_which_the_id_is_too_long_is_text() {
    for (length, fits) in [(0, true), (1, true), (48, true), (49, false), (63, false)] {
        let id = TradeId::new(&vec![b'7'; length]).expect("sane");
        for side in [AggressorSide::Buy, AggressorSide::Sell, AggressorSide::Unknown] {
            let trade = Trade { ts_event: None, price: dec("1.50"), size: dec("2"), side, id };
            check(9, TIMES, &Payload::Trade(&trade), fits);
        }
    }
}

#[test]
fn values_too_far_apart_for_one_exponent_are_text() {
    let (large, small) = ("9000000000000000001", "0.01");
    for (bid, fits) in [(level("1", small), true), (level(large, "1"), true), (level(small, small), false)] {
        let quote = Quote { ts_event: None, bid: Some(bid), ask: Some(level(large, "2.50")) };
        check(9, TIMES, &Payload::Quote(&quote), fits);
    }
    let book = [level(small, "1"), level(large, "1")];
    check(9, TIMES, &Payload::Book { depth: Depth::Ten, bids: &book, asks: &[] }, false);
    check(9, TIMES, &Payload::Book { depth: Depth::Ten, bids: &book[..1], asks: &[] }, true);
}

#[test]
fn a_deep_book_is_split_over_records_of_one_message() {
    let bids: Vec<BookLevel> = (1..=2_500_i64).map(|n| BookLevel { price: n.into(), size: dec("0.5") }).collect();
    let asks: Vec<BookLevel> = (1..=3_000_i64).map(|n| BookLevel { price: n.into(), size: n.into() }).collect();
    for (bids, asks, expected) in [
        (&bids[..], &asks[..], vec![(2_000, 0), (500, 1_500), (0, 1_500)]),
        (&bids[..2_000], &[], vec![(2_000, 0)]),
        (&bids[..1_000], &asks[..1_000], vec![(1_000, 1_000)]),
        (&bids[..1_000], &asks[..1_001], vec![(1_000, 1_000), (0, 1)]),
        (&[], &[], vec![(0, 0)]),
    ] {
        let payload = Payload::Book { depth: Depth::All, bids, asks };
        check(9, TIMES, &payload, true);
        let (id, layout) = (id(), layout("book"));
        let frame = Format::Binary.encode(&mut Scratch::new(), &head(&id, false), &payload);
        let (mut rest, mut counts) = (frame.payload(), Vec::new());
        while !rest.is_empty() {
            let (record, behind) = rest.split_at(layout.read(rest, "length") as usize);
            assert_eq!((layout.read(record, "seq"), layout.read(record, "iid")), (1 << 40, 70_007));
            counts.push((layout.read(record, "bids"), layout.read(record, "asks")));
            rest = behind;
        }
        assert_eq!(counts, expected);
    }
}

#[test]
fn a_gap_names_the_numbers() {
    let (mut scratch, id) = (Scratch::new(), id());
    let mut gap = |kind, cause, lost| {
        let gap = Gap { id: &id, key: InstrumentKey(70_007), kind, from: 120, to: 1 << 40, cause, lost };
        read(Format::Binary.gap(&mut scratch, &gap).payload())
    };
    let (to, unknown) = (1_u64 << 40, u64::MAX);
    assert_eq!(
        gap(StreamKind::Trade, GapCause::SlowConsumer, None),
        json!({"iid":70_007,"channel":3,"cause":1,"interval":0,"from":120,"to":to,"lost":unknown,"flags":0})
    );
    assert_eq!(
        gap(StreamKind::Book(Depth::Fifty), GapCause::Upstream, Some(7)),
        json!({"iid":70_007,"channel":4,"cause":2,"interval":0,"from":120,"to":to,"lost":7,"flags":0})
    );
    let hub = gap(StreamKind::Ticker, GapCause::Hub, Some(0));
    assert_eq!((&hub["channel"], &hub["cause"], &hub["lost"]), (&json!(1), &json!(3), &json!(0)));
}

fn decimal() -> impl Strategy<Value = Decimal> {
    let usual = (-1_000_000_000_000_i64..1_000_000_000_000, -12_i8..3);
    let padded = (-1_000_i64..1_000, 0_u32..16, -18_i8..=0).prop_map(|(m, zeros, e)| (m * 10_i64.pow(zeros), e));
    prop_oneof![8 => usual, 4 => padded, 1 => (any::<i64>(), any::<i8>())]
        .prop_filter_map("not absent", |(m, e)| Decimal::new(m, e))
}

fn levels() -> impl Strategy<Value = BookLevel> {
    (decimal(), decimal()).prop_map(|(price, size)| BookLevel { price, size })
}

fn maybe_level() -> impl Strategy<Value = Option<BookLevel>> {
    proptest::option::weighted(0.8, levels())
}

fn time_of() -> impl Strategy<Value = Option<UnixNanos>> {
    proptest::option::of((i64::MIN + 1..=i64::MAX).prop_map(UnixNanos))
}

proptest! {
    #[test]
    fn values_are_those_of_json_whatever_they_are(
        seq in any::<u64>(), ts in time_of(), rx in time_of(),
        last in maybe_level(), bid in maybe_level(), ask in maybe_level(),
        four in proptest::collection::vec(proptest::option::of(decimal()), 4),
        at in levels(), side in 0..3_usize, tid in "[a-zA-Z0-9-]{0,48}",
        bids in proptest::collection::vec(levels(), 0..8), asks in proptest::collection::vec(levels(), 0..8),
        depth in 0..4_usize,
    ) {
        let times = (ts, rx);
        let of = |levels: &[Option<BookLevel>], more: &[Option<Decimal>], part: fn(&BookLevel) -> Decimal| -> Vec<Decimal> {
            levels.iter().flatten().map(part).chain(more.iter().copied().flatten()).collect()
        };
        let both = |levels: &[Option<BookLevel>], prices: &[Option<Decimal>], sizes: &[Option<Decimal>]| {
            fit(&of(levels, prices, |level| level.price)) && fit(&of(levels, sizes, |level| level.size))
        };
        let quote = Quote { ts_event: None, bid, ask };
        check(seq, times, &Payload::Quote(&quote), both(&[bid, ask], &[], &[]));
        let ticker = Ticker { ts_event: None, last, bid, ask, open: four[0], high: four[1], low: four[2], volume: four[3] };
        check(seq, times, &Payload::Ticker(&ticker), both(&[last, bid, ask], &four[..3], &four[3..]));
        let side = [AggressorSide::Buy, AggressorSide::Sell, AggressorSide::Unknown][side];
        let id = TradeId::new(tid.as_bytes()).expect("sane");
        let trade = Trade { ts_event: None, price: at.price, size: at.size, side, id };
        check(seq, times, &Payload::Trade(&trade), true);
        let all: Vec<Option<BookLevel>> = bids.iter().chain(&asks).copied().map(Some).collect();
        let payload = Payload::Book { depth: Depth::ALL[depth], bids: &bids, asks: &asks };
        check(seq, times, &payload, both(&all, &[], &[]));
    }
}
