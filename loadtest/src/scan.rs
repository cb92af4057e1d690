//! Takes from a message what verification and timing need, and nothing else.
//!
//! Events come in one member order from a hub that follows the protocol page, so that order has a path of its own
//! which neither allocates nor parses a value that is not needed. Everything else (another order, white space,
//! answers, gaps) goes through `serde_json`; [`Scanned::fast`] tells which path it was, so that a run whose figures
//! suffer from the slow one can say so.

use std::{borrow::Cow, sync::Arc};

use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::Value;

/// What one message says.
#[derive(Debug, PartialEq)]
pub enum Message<'a> {
    /// A numbered event of a stream.
    Event(Event<'a>),
    /// Numbers that will not come.
    Gap(Gap),
    /// A feed's state.
    Status,
    /// Numbering starts anew for the instruments that match the pattern.
    Epoch(String),
    /// An answer or announcement of the control plane.
    Answer(Box<Answer>),
}

/// A numbered event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event<'a> {
    /// `ch`
    pub channel: Cow<'a, str>,
    /// `sym`
    pub symbol: Cow<'a, str>,
    /// `seq`
    pub seq: u64,
    /// `rx`, nanoseconds since the Unix epoch.
    pub rx: Option<u64>,
    /// `snap`
    pub snapshot: bool,
    /// `depth`, of `book`.
    pub depth: Option<u32>,
}

/// A gap notice.
#[derive(Debug, Clone, PartialEq)]
pub struct Gap {
    /// `ch`
    pub channel: String,
    /// `sym`
    pub symbol: String,
    /// First number that will not come.
    pub from: u64,
    /// Last number that will not come.
    pub to: u64,
    /// `cause`
    pub cause: String,
    /// `depth`, of `book`.
    pub depth: Option<u32>,
}

/// The members of any answer that a client of this tool acts on.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// Which answer it is.
    pub op: String,
    /// The `id` of the command, absent in announcements.
    pub id: Option<Value>,
    /// `channel` of `subscribed` and `unsubscribed`.
    pub channel: Option<String>,
    /// The mode in effect.
    pub mode: Option<String>,
    /// The depth in effect, of `book`.
    pub depth: Option<u32>,
    /// The epoch of the streams that name none of their own.
    pub epoch: Option<Arc<str>>,
    /// Whether the next answer goes on with this one.
    pub more: bool,
    /// Streams that begin.
    pub accepted: Vec<Accepted>,
    /// Entries that were refused.
    pub rejected: Vec<Rejected>,
    /// Entries or streams that end (`unsubscribed`).
    pub symbols: Vec<String>,
    /// Error code.
    pub code: Option<String>,
    /// Text for people.
    pub message: Option<String>,
    /// What `welcome` allows.
    pub limits: Limits,
}

/// The part of `welcome`'s limits that shapes commands.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Longest command in bytes.
    pub message_bytes: Option<usize>,
}

/// A stream that begins.
#[derive(Debug, PartialEq, Deserialize)]
pub struct Accepted {
    /// Instrument id.
    pub symbol: String,
    /// The number last published.
    pub seq: u64,
    /// Its epoch, where it is another than the answer's.
    #[serde(default)]
    pub epoch: Option<Arc<str>>,
}

/// An entry that was refused.
#[derive(Debug, PartialEq, Deserialize)]
pub struct Rejected {
    /// Instrument id or pattern, as it was asked for.
    pub symbol: String,
    /// Why.
    pub code: String,
}

/// A message and the path that it took.
#[derive(Debug, PartialEq)]
pub struct Scanned<'a> {
    /// The message.
    pub message: Message<'a>,
    /// Whether the documented member order was met.
    pub fast: bool,
}

/// Finds the snapshot flag. Held by its user because building the searcher costs more than a search.
#[derive(Debug)]
pub struct Scanner {
    snapshot_key: Finder<'static>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { snapshot_key: Finder::new("\"snap\"") }
    }
}

impl Scanner {
    /// Reads one text message.
    ///
    /// # Errors
    /// What is wrong with it, where it is not a message of the protocol.
    #[inline]
    pub fn scan<'a>(&self, text: &'a [u8]) -> Result<Scanned<'a>, String> {
        match self.documented_order(text) {
            Some(event) => Ok(Scanned { message: Message::Event(event), fast: true }),
            None => any_order(text).map(|message| Scanned { message, fast: false }),
        }
    }

    /// `{"ch":…,"sym":…[,"depth":…],"seq":…,"ts":…,"rx":……}` without white space or escapes up to there, the snapshot
    /// flag next or last; `None` for everything else. The rest is searched for that flag and not looked at otherwise.
    #[inline]
    fn documented_order<'a>(&self, text: &'a [u8]) -> Option<Event<'a>> {
        let rest = text.strip_prefix(b"{\"ch\":\"")?;
        let (channel, rest) = plain_string(rest)?;
        let (symbol, mut rest) = plain_string(rest.strip_prefix(b",\"sym\":\"")?)?;
        let mut depth = None;
        if let Some(digits) = rest.strip_prefix(b",\"depth\":") {
            let (levels, behind) = number(digits)?;
            (depth, rest) = (Some(u32::try_from(levels).ok()?), behind);
        }
        let (seq, rest) = number(rest.strip_prefix(b",\"seq\":")?)?;
        let rest = rest.strip_prefix(b",\"ts\":")?;
        let rest = match rest.strip_prefix(b"\"") {
            Some(digits) => number(digits)?.1.strip_prefix(b"\"")?,
            None => rest.strip_prefix(b"null")?,
        };
        let (rx, rest) = number(rest.strip_prefix(b",\"rx\":\"")?)?;
        let rest = rest.strip_prefix(b"\"")?;
        if !matches!(rest.first(), Some(b',' | b'}')) || rest.last() != Some(&b'}') {
            return None;
        }
        // Quotes within strings are escaped, so the key cannot be part of one; but it may have another value, or
        // stand in an object of its own, unless it is the first or the last member.
        let snapshot = match self.snapshot_key.find(rest) {
            None => false,
            Some(1) if rest.starts_with(b",\"snap\":true,") => true,
            Some(at) if rest[at - 1..] == *b",\"snap\":true}" => true,
            Some(_) => return None,
        };
        Some(Event {
            channel: Cow::Borrowed(channel),
            symbol: Cow::Borrowed(symbol),
            seq,
            rx: Some(rx),
            snapshot,
            depth,
        })
    }
}

/// The text before the next quote, and what follows that quote. Only plain ASCII, so nothing is escaped.
#[inline]
fn plain_string(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\'))?;
    let rest = bytes[end..].strip_prefix(b"\"")?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, rest))
}

/// An unsigned number in JSON's form (no leading zero) that fits, and what follows it.
#[inline]
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let digits = bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len());
    if digits == 0 || digits > 19 || (digits > 1 && bytes[0] == b'0') {
        return None;
    }
    // 19 digits are at most 9,999,999,999,999,999,999, which fits.
    let value = bytes[..digits].iter().fold(0, |value: u64, byte| value * 10 + u64::from(byte - b'0'));
    Some((value, &bytes[digits..]))
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    op: Option<Cow<'a, str>>,
    #[serde(borrow)]
    ch: Option<Cow<'a, str>>,
    #[serde(borrow)]
    sym: Option<Cow<'a, str>>,
    seq: Option<u64>,
    #[serde(borrow)]
    rx: Option<Cow<'a, str>>,
    #[serde(default)]
    snap: bool,
    from: Option<u64>,
    to: Option<u64>,
    cause: Option<String>,
    depth: Option<u32>,
}

/// Reads a message of any member order by `serde_json`.
///
/// # Errors
/// What is wrong with it.
pub fn any_order(text: &[u8]) -> Result<Message<'_>, String> {
    let wire: Wire<'_> = serde_json::from_slice(text).map_err(|error| format!("not a message: {error}"))?;
    match (wire.op.as_deref(), wire.ch) {
        (Some("gap"), Some(channel)) => match (wire.sym, wire.from, wire.to, wire.cause) {
            (Some(symbol), Some(from), Some(to), Some(cause)) => Ok(Message::Gap(Gap {
                channel: channel.into_owned(),
                symbol: symbol.into_owned(),
                from,
                to,
                cause,
                depth: wire.depth,
            })),
            _ => Err("a gap without sym, from, to or cause".to_owned()),
        },
        (Some("epoch"), _) => {
            wire.sym.map(|sym| Message::Epoch(sym.into_owned())).ok_or_else(|| "an epoch without sym".to_owned())
        }
        (Some(_), _) => serde_json::from_slice(text)
            .map(|answer| Message::Answer(Box::new(answer)))
            .map_err(|error| format!("an answer of unknown form: {error}")),
        (None, Some(channel)) if channel == "status" => Ok(Message::Status),
        (None, Some(channel)) => {
            let (Some(symbol), Some(seq)) = (wire.sym, wire.seq) else {
                return Err("an event without sym or seq".to_owned());
            };
            let rx = match wire.rx {
                Some(digits) => Some(digits.parse().map_err(|_| "rx is not a number of nanoseconds".to_owned())?),
                None => None,
            };
            Ok(Message::Event(Event { channel, symbol, seq, rx, snapshot: wire.snap, depth: wire.depth }))
        }
        (None, None) => Err("a message with neither op nor ch".to_owned()),
    }
}

/// Members of an event that are prices, sizes or quantities.
const DECIMALS: [&str; 17] = [
    "last", "last_sz", "bid", "bid_sz", "ask", "ask_sz", "open", "high", "low", "vol", "px", "sz", "o", "h", "l", "c",
    "v",
];

/// Reads an event whole and checks the form of every value: decimals as strings in plain notation, times as strings
/// of nanoseconds. Too costly for every delivery, so it is done for a share of them.
///
/// # Errors
/// The first value of wrong form.
pub fn check_values(text: &[u8]) -> Result<(), String> {
    let value: Value = serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
    let members = value.as_object().ok_or("not an object")?;
    for (name, value) in members {
        let sound = match name.as_str() {
            "ts" => value.is_null() || value.as_str().is_some_and(is_nanoseconds),
            "rx" => value.as_str().is_some_and(is_nanoseconds),
            "seq" => value.as_u64().is_some_and(|seq| seq > 0),
            "side" => matches!(value.as_str(), Some("buy" | "sell" | "unknown")),
            "bids" | "asks" => value.as_array().is_some_and(|levels| levels.iter().all(is_level)),
            name if DECIMALS.contains(&name) => value.as_str().is_some_and(is_decimal),
            _ => true,
        };
        if !sound {
            return Err(format!("member {name} has the value {value}"));
        }
    }
    Ok(())
}

fn is_level(level: &Value) -> bool {
    level
        .as_array()
        .is_some_and(|pair| pair.len() == 2 && pair.iter().all(|number| number.as_str().is_some_and(is_decimal)))
}

fn is_nanoseconds(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_decimal(text: &str) -> bool {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').map_or((unsigned, None), |(whole, rest)| (whole, Some(rest)));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    all_digits(whole) && fraction.is_none_or(all_digits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;

    fn event(text: &str) -> (Event<'static>, bool) {
        let scanned = Scanner::default().scan(text.as_bytes()).unwrap();
        let Message::Event(event) = scanned.message else { panic!("not an event: {text}") };
        let owned = Event {
            channel: Cow::Owned(event.channel.into_owned()),
            symbol: Cow::Owned(event.symbol.into_owned()),
            ..event
        };
        (owned, scanned.fast)
    }

    #[test]
    fn the_protocol_pages_events_take_the_fast_path() {
        for text in [
            r#"{"ch":"quote","sym":"SIM:AAA-USD","seq":7,"ts":"1","rx":"22","bid":"1.0","bid_sz":"2","ask":"1.1","ask_sz":"3"}"#,
            r#"{"ch":"trade","sym":"SIM:AAA-USD","seq":7,"ts":null,"rx":"22","px":"1","sz":"2","side":"buy","tid":"t-1"}"#,
            r#"{"ch":"book","sym":"SIM:AAA-USD","depth":10,"seq":7,"ts":"1","rx":"22","bids":[["1","2"]],"asks":[]}"#,
            r#"{"ch":"bar.1m","sym":"SIM:AAA-USD","seq":7,"ts":"1","rx":"22"}"#,
        ] {
            let (event, fast) = event(text);
            assert!(fast, "{text}");
            assert_eq!((&*event.symbol, event.seq, event.rx, event.snapshot), ("SIM:AAA-USD", 7, Some(22), false));
        }
    }

    #[test]
    fn a_snapshot_is_seen_wherever_its_flag_stands() {
        let (near, fast) = event(r#"{"ch":"quote","sym":"S:A","seq":7,"ts":"1","rx":"22","snap":true,"bid":"1"}"#);
        assert!(fast && near.snapshot);
        let (far, fast) = event(r#"{"ch":"quote","sym":"S:A","seq":7,"ts":"1","rx":"22","bid":"1","snap":true}"#);
        assert!(fast && far.snapshot);
        let (amid, fast) =
            event(r#"{"ch":"quote","sym":"S:A","seq":7,"ts":"1","rx":"22","bid":"1","snap":true,"x":"1"}"#);
        assert!(!fast && amid.snapshot);
        let (nested, fast) = event(r#"{"ch":"quote","sym":"S:A","seq":7,"ts":"1","rx":"22","x":{"y":1,"snap":true}}"#);
        assert!(!fast && !nested.snapshot);
        let (denied, _) = event(r#"{"ch":"quote","sym":"S:A","seq":7,"ts":"1","rx":"22","snap":false,"bid":"1"}"#);
        assert!(!denied.snapshot);
    }

    #[test]
    fn gaps_status_epochs_and_answers_are_told_apart() {
        let gap = br#"{"op":"gap","ch":"trade","sym":"S:A","from":120,"to":131,"cause":"slow_consumer"}"#;
        let expected = Gap {
            channel: "trade".into(),
            symbol: "S:A".into(),
            from: 120,
            to: 131,
            cause: "slow_consumer".into(),
            depth: None,
        };
        assert_eq!(any_order(gap), Ok(Message::Gap(expected)));
        let status = br#"{"ch":"status","sym":"SIM:*","state":"stale","cause":"silence","ts":"5"}"#;
        assert_eq!(any_order(status), Ok(Message::Status));
        let epoch = br#"{"op":"epoch","sym":"SIM:*","epoch":"e2"}"#;
        assert_eq!(any_order(epoch), Ok(Message::Epoch("SIM:*".into())));
        let answer = br#"{"op":"subscribed","id":2,"channel":"quote","mode":"every","epoch":"e","accepted":[{"symbol":"S:A","iid":7,"seq":41}],"rejected":[{"symbol":"X:Y","code":"not_entitled","message":"no"}],"more":true}"#;
        let Ok(Message::Answer(answer)) = any_order(answer) else { panic!("not an answer") };
        assert_eq!((answer.op.as_str(), answer.more, answer.id), ("subscribed", true, Some(json!(2))));
        assert_eq!(answer.accepted, [Accepted { symbol: "S:A".into(), seq: 41, epoch: None }]);
        assert_eq!(answer.rejected, [Rejected { symbol: "X:Y".into(), code: "not_entitled".into() }]);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let scanner = Scanner::default();
        for text in [
            "",
            "{",
            "null",
            "[]",
            "{}",
            r#"{"ch":"quote"}"#,
            r#"{"ch":"quote","sym":"S:A","seq":-1}"#,
            r#"{"ch":"quote","sym":"S:A","seq":01,"ts":null,"rx":"1"}"#,
            r#"{"ch":"quote","sym":"S:A","seq":1,"ts":null,"rx":"x"}"#,
            r#"{"ch":"quote","sym":"S:A","seq":1,"ts":null,"rx":"1""#,
            r#"{"op":"gap","ch":"quote","sym":"S:A","from":1}"#,
        ] {
            assert!(scanner.scan(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_value_of_wrong_form_is_found_by_the_whole_check() {
        let sound = r#"{"ch":"book","sym":"S:A","seq":1,"ts":null,"rx":"1","bids":[["1.50","0"]],"asks":[],"new":{}}"#;
        assert_eq!(check_values(sound.as_bytes()), Ok(()));
        for broken in [
            r#"{"ch":"quote","bid":"1e5"}"#,
            r#"{"ch":"quote","bid":1.5}"#,
            r#"{"ch":"quote","bid":"1."}"#,
            r#"{"ch":"quote","bid":""}"#,
            r#"{"ch":"quote","rx":"-1"}"#,
            r#"{"ch":"trade","side":"none"}"#,
            r#"{"ch":"book","bids":[["1"]]}"#,
            r#"{"ch":"quote","seq":0}"#,
            r#"{"ch":"quote""#,
        ] {
            assert!(check_values(broken.as_bytes()).is_err(), "{broken}");
        }
    }

    /// One event as a list of members, in any order and with any of the optional ones.
    fn members() -> impl Strategy<Value = Vec<(String, Value)>> {
        let string = prop_oneof!["[A-Z0-9:._/-]{1,20}", "\\PC{0,12}", "[\"\\\\a\n]{0,6}"];
        let count = prop_oneof![0..100u64, any::<u64>()];
        let ts = prop_oneof![Just(Value::Null), any::<u64>().prop_map(|ns| json!(ns.to_string()))];
        let parts = (string.clone(), string.clone(), count.clone(), ts, proptest::option::of(any::<u64>()));
        let extras = (proptest::option::of(any::<bool>()), proptest::option::of(0..100u8), string, any::<bool>());
        (parts, extras).prop_flat_map(|((ch, sym, seq, ts, rx), (snap, depth, tid, shuffled))| {
            let mut members = vec![("ch".to_owned(), json!(ch)), ("sym".into(), json!(sym))];
            members.extend(depth.map(|depth| ("depth".into(), json!(depth))));
            members.extend([("seq".into(), json!(seq)), ("ts".into(), ts)]);
            members.extend(rx.map(|rx| ("rx".into(), json!(rx.to_string()))));
            members.extend(snap.map(|snap| ("snap".into(), json!(snap))));
            members.extend([("tid".into(), json!(tid)), ("bids".into(), json!([["1.5", "2"]]))]);
            if shuffled { Just(members).prop_shuffle().boxed() } else { Just(members).boxed() }
        })
    }

    fn written(members: &[(String, Value)], pad: &str) -> String {
        let members: Vec<String> =
            members.iter().map(|(name, value)| format!("{pad}\"{name}\"{pad}:{value}")).collect();
        format!("{{{}{pad}}}", members.join(","))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn both_paths_say_what_serde_json_says(members in members(), pad in prop_oneof![Just(""), Just(" ")]) {
            let text = written(&members, pad);
            let object: Map<String, Value> = serde_json::from_str(&text).unwrap();
            let scanned = Scanner::default().scan(text.as_bytes()).unwrap();
            match scanned.message {
                Message::Event(event) => {
                    prop_assert_eq!(&*event.channel, object["ch"].as_str().unwrap());
                    prop_assert_eq!(&*event.symbol, object["sym"].as_str().unwrap());
                    prop_assert_eq!(Some(event.seq), object["seq"].as_u64());
                    prop_assert_eq!(event.rx.map(|rx| json!(rx.to_string())), object.get("rx").cloned());
                    prop_assert_eq!(event.depth.map(|depth| json!(depth)), object.get("depth").cloned());
                    prop_assert_eq!(event.snapshot, object.get("snap") == Some(&json!(true)));
                }
                Message::Status => prop_assert_eq!(&object["ch"], "status"),
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn nothing_that_a_server_sends_makes_it_panic(members in members(), cut in 0..400usize, flip in any::<(usize, u8)>()) {
            let mut bytes = written(&members, "").into_bytes();
            let at = flip.0 % bytes.len();
            bytes[at] = flip.1;
            bytes.truncate(cut.max(1));
            let _ = Scanner::default().scan(&bytes);
            let _ = check_values(&bytes);
            let _ = crate::frame::parse(&bytes);
        }
    }
}
