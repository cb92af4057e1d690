use proptest::prelude::*;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::*;
use crate::model::{Depth, Overflow};
use crate::wire::answer;

fn read(text: &str) -> Result<Request, Refusal> {
    parse(text.as_bytes(), &CommandLimits::default())
}

fn subscribe(text: &str) -> Subscribe {
    match read(text) {
        Ok(Request { command: Command::Subscribe(subscribe), .. }) => subscribe,
        other => panic!("{text}: {other:?}"),
    }
}

/// A `subscribe` to A:B with `options` behind the channel.
fn options(channel: &str, options: &str) -> Result<Request, Refusal> {
    read(&format!(r#"{{"op":"subscribe","id":2,"channel":"{channel}","symbols":["A:B"]{options}}}"#))
}

#[test]
fn reads_every_command_with_either_kind_of_id() {
    let auth = read(r#" {"token":"a.b.c","op":"auth","id":"x"} "#).expect("valid");
    assert_eq!(auth.id, Some(CommandId::Text("x".into())));
    assert!(matches!(&auth.command, Command::Auth { token } if token.expose_secret() == "a.b.c"));
    assert!(!format!("{auth:?}").contains("a.b.c"), "a token shows in no Debug");

    let ping = read(r#"{"op":"ping","id":-9223372036854775808}"#).expect("valid");
    assert_eq!(ping.id, Some(CommandId::Number(i64::MIN)));
    assert!(matches!(ping.command, Command::Ping));
    assert!(read(r#"{"op":"ping"}"#).expect("valid").id.is_none());

    let Ok(Request { command: Command::Unsubscribe(unsubscribe), .. }) =
        read(r#"{"op":"unsubscribe","channel":"book","symbols":["B:*","A:B","B:*"]}"#)
    else {
        panic!("valid")
    };
    assert_eq!(unsubscribe, Unsubscribe { channel: Channel::Book, symbols: vec!["B:*".into(), "A:B".into()] });
}

#[test]
fn the_channel_decides_the_defaults() {
    for (channel, mode) in [
        (Channel::Ticker, Mode::Latest),
        (Channel::Quote, Mode::Latest),
        (Channel::Book, Mode::Every),
        (Channel::Trade, Mode::Every),
        (Channel::Status, Mode::Every),
    ] {
        let text = format!(r#"{{"op":"subscribe","channel":"{}","symbols":["not judged here"]}}"#, channel.as_str());
        let expected = Subscribe {
            channel,
            symbols: vec!["not judged here".into()],
            mode,
            max_rate: None,
            depth: Depth::Ten,
            snapshot: None,
            overflow: None,
            backlog: None,
            resume: None,
        };
        assert_eq!(subscribe(&text), expected);
        assert_eq!(Subscribe::new(channel, expected.symbols.clone()), expected);
    }
}

#[test]
fn every_option_is_read() {
    let latest = subscribe(
        r#"{"op":"subscribe","channel":"book","symbols":["A:B"],"mode":"latest","max_rate":4294967295,"depth":0,"snapshot":false}"#,
    );
    assert_eq!((latest.mode, latest.max_rate), (Mode::Latest, Some(u32::MAX)));
    assert_eq!((latest.depth, latest.snapshot), (Depth::All, Some(false)));
    let every = subscribe(
        r#"{"op":"subscribe","channel":"ticker","symbols":["A:B"],"mode":"every","overflow":"disconnect","backlog":7,"snapshot":true,
            "resume":{"epoch":"e1","seq":{"A:B":18446744073709551615,"A:C":{"epoch":"e2","seq":0}}}}"#,
    );
    assert_eq!((every.mode, every.overflow, every.snapshot), (Mode::Every, Some(Overflow::Disconnect), Some(true)));
    assert_eq!(every.backlog, Some(7));
    let entry = |symbol: &str, epoch: &str, seq| ResumeEntry { symbol: symbol.into(), epoch: epoch.into(), seq };
    assert_eq!(every.resume.expect("given").entries, [entry("A:B", "e1", u64::MAX), entry("A:C", "e2", 0)]);
}

#[test]
fn options_are_taken_only_where_they_belong() {
    let all = ["ticker", "quote", "trade", "book", "status"];
    let resume = r#","resume":{"epoch":"e","seq":{"A:B":1}}"#;
    let table: [(&str, &[&str]); 15] = [
        (r#","mode":"every""#, &all),
        (r#","mode":"latest""#, &["ticker", "quote", "book"]),
        (r#","max_rate":1"#, &["ticker", "quote"]),
        (r#","mode":"latest","max_rate":1"#, &["ticker", "quote", "book"]),
        (r#","mode":"every","max_rate":1"#, &[]),
        (r#","depth":1"#, &["book"]),
        (r#","snapshot":true"#, &["ticker", "quote", "trade", "book"]),
        (r#","overflow":"gap""#, &["trade", "book"]),
        (r#","overflow":"gap","mode":"every""#, &["ticker", "quote", "trade", "book"]),
        (r#","overflow":"gap","mode":"latest""#, &[]),
        (r#","backlog":1"#, &["trade", "book"]),
        (r#","backlog":1,"mode":"every""#, &["ticker", "quote", "trade", "book"]),
        (r#","backlog":1,"mode":"latest""#, &[]),
        (resume, &["trade", "book"]),
        (&format!(r#"{resume},"mode":"every""#), &["ticker", "quote", "trade", "book"]),
    ];
    for (option, channels) in table {
        for channel in all {
            match options(channel, option) {
                Ok(_) => assert!(channels.contains(&channel), "{channel} took {option}"),
                Err(refusal) => {
                    assert!(!channels.contains(&channel), "{channel} refused {option}: {}", refusal.message);
                    assert_eq!((refusal.code, refusal.id), (ErrorCode::BadMessage, Some(CommandId::Number(2))));
                }
            }
        }
    }
}

#[test]
fn a_refusal_names_the_member_the_fault_and_the_way_out() {
    let table = [
        ("quote", r#","max_rate":0"#, r#""max_rate" must be a whole number from 1 to 4294967295, not 0"#),
        ("quote", r#","max_rate":"5""#, r#""max_rate" must be a whole number from 1 to 4294967295, not "5""#),
        ("quote", r#","max_rate":1.5"#, r#""max_rate" must be a whole number from 1 to 4294967295, not 1.5"#),
        ("quote", r#","max_rate":null"#, r#""max_rate" must be a whole number from 1 to 4294967295, not null"#),
        (
            "quote",
            r#","mode":"every","max_rate":5"#,
            r#""max_rate" belongs to mode "latest": leave it out, or send "mode":"latest""#,
        ),
        (
            "trade",
            r#","max_rate":5"#,
            r#""max_rate" belongs to channels with mode "latest", not to "trade": leave it out"#,
        ),
        ("trade", r#","mode":"latest""#, r#""mode" must be "every" on channel "trade", which is never conflated"#),
        ("quote", r#","mode":"last""#, r#""mode" must be "latest" or "every", not "last""#),
        ("quote", r#","depth":1"#, r#""depth" belongs to channel "book", not to "quote": leave it out"#),
        ("book", r#","depth":20"#, r#""depth" must be 10 (the default), 1, 50, or 0 for all, not 20"#),
        ("book", r#","snapshot":1"#, r#""snapshot" must be true or false, not 1"#),
        ("trade", r#","overflow":"drop""#, r#""overflow" must be "gap" or "disconnect", not "drop""#),
        (
            "quote",
            r#","overflow":"gap""#,
            r#""overflow" belongs to mode "every": leave it out, or send "mode":"every""#,
        ),
        ("trade", r#","backlog":0"#, r#""backlog" must be a whole number from 1 to 4294967295, not 0"#),
        ("quote", r#","backlog":5"#, r#""backlog" belongs to mode "every": leave it out, or send "mode":"every""#),
        ("status", r#","backlog":5"#, r#""backlog" belongs to numbered channels, not to "status": leave it out"#),
        ("status", r#","snapshot":true"#, r#""snapshot" belongs to channels with data, not to "status": leave it out"#),
        ("trade", r#","resume":[1]"#, r#""resume" must be {"epoch":"…","seq":{…}}, not an array"#),
        ("trade", r#","resume":{}"#, r#""resume.seq" is missing: it must be {"VENUE:SYMBOL":1234}"#),
        ("trade", r#","resume":{"seq":{},"x":1}"#, r#"unknown member "x": resume takes "epoch" and "seq""#),
        (
            "trade",
            r#","resume":{"seq":{"A:B":1}}"#,
            r#""resume.epoch" is missing: send it, or an epoch with every number"#,
        ),
        ("trade", r#","resume":{"epoch":7,"seq":{}}"#, r#""resume.epoch" must be an epoch that the hub sent, not 7"#),
        (
            "trade",
            r#","resume":{"epoch":"e","seq":{"A:B":-1}}"#,
            r#""resume.seq" must be a whole number from 0 to 18446744073709551615, or {"epoch":"…","seq":1234}, not -1 of "A:B""#,
        ),
        (
            "trade",
            r#","resume":{"epoch":"e","seq":{"A:B":1,"A:B":2}}"#,
            r#""resume.seq" has "A:B" twice: send it once"#,
        ),
        (
            "trade",
            r#","resume":{"seq":{"A:B":{"seq":1,"epoch":"e","at":2}}}"#,
            r#"unknown member "at": a value of resume.seq takes "epoch" and "seq""#,
        ),
        (
            "trade",
            r#","chanel":"x""#,
            r#"unknown member "chanel": subscribe takes "id", "channel", "symbols", "mode", "max_rate", "depth", "snapshot", "overflow", "backlog" and "resume""#,
        ),
        ("trade", r#","symb\u006fls":[]"#, r#"member "symbols" occurs twice: send it once"#),
        ("trade", r#","mode":"\ud800""#, r#""mode" must be "latest" or "every", not text with half a surrogate pair"#),
    ];
    for (channel, option, message) in table {
        let refusal = options(channel, option).expect_err(option);
        assert_eq!((refusal.code, refusal.message.as_str()), (ErrorCode::BadMessage, message));
        assert_eq!(refusal.id, Some(CommandId::Number(2)), "{option}");
    }
}

#[test]
fn the_id_is_found_wherever_the_text_allows() {
    let seven = Some(CommandId::Number(7));
    let long = format!(r#"{{"op":"ping","id":"{}"}}"#, "é".repeat(33));
    let many = format!(r#"{{"id":7,"op":"ping"{}}}"#, (0..40).map(|n| format!(r#","m{n}":0"#)).collect::<String>());
    let table: &[(&str, ErrorCode, &str, Option<CommandId>)] = &[
        (r#"{"op":"pong","id":7}"#, ErrorCode::UnknownOp, r#""pong""#, seven.clone()),
        (r#"{"op":"pong","x":1,"id":7}"#, ErrorCode::UnknownOp, r#""pong""#, seven.clone()),
        (
            r#"{"op":"ping","x":1,"id":7}"#,
            ErrorCode::BadMessage,
            r#"unknown member "x": ping takes "id" only"#,
            seven.clone(),
        ),
        (r#"{"op":"ping","id":7}}"#, ErrorCode::BadMessage, "trailing characters", seven.clone()),
        (r#"{"op":"ping","id":7"#, ErrorCode::BadMessage, "EOF while parsing an object", seven.clone()),
        (r#"{"id":7,"op":ping}"#, ErrorCode::BadMessage, "not valid JSON", seven.clone()),
        (r#"{"id":7,"id":8,"op":"ping"}"#, ErrorCode::BadMessage, r#"member "id" occurs twice"#, seven.clone()),
        (r#"{"id":7}"#, ErrorCode::BadMessage, r#""op" is missing"#, seven.clone()),
        (r#"{"id":7,"op":1}"#, ErrorCode::BadMessage, r#""op" must be "auth""#, seven.clone()),
        (&many, ErrorCode::BadMessage, r#"unknown member "m0""#, seven.clone()),
        (r#"{"op":"ping","id":null}"#, ErrorCode::BadMessage, r#""id" must be an integer"#, None),
        (r#"{"op":"ping","id":1.5}"#, ErrorCode::BadMessage, r#""id" must be an integer"#, None),
        (r#"{"op":"ping","id":9223372036854775808}"#, ErrorCode::BadMessage, r#""id" must be an integer"#, None),
        (r#"{"op":"ping","id":[1]}"#, ErrorCode::BadMessage, "not an array", None),
        (&long, ErrorCode::BadMessage, r#""id" must be an integer"#, None),
        (r#"[{"op":"ping","id":7}]"#, ErrorCode::BadMessage, "not a JSON object", None),
        (r#""ping""#, ErrorCode::BadMessage, "not a JSON object", None),
        ("", ErrorCode::BadMessage, "not a JSON object", None),
        ("{'id':7}", ErrorCode::BadMessage, "key must be a string", None),
        ("{}", ErrorCode::BadMessage, r#""op" is missing"#, None),
    ];
    for (text, code, part, id) in table {
        let refusal = read(text).expect_err(text);
        assert_eq!((&refusal.code, &refusal.id), (code, id), "{text}");
        assert!(refusal.message.contains(part), "{text}: {}", refusal.message);
    }
    let refusal = parse(b"{\"op\":\"\xff\"}", &CommandLimits::default()).expect_err("not UTF-8");
    assert_eq!((refusal.code, refusal.id), (ErrorCode::BadMessage, None));
}

#[test]
fn the_longest_id_is_echoed_as_it_came() {
    let id = "é".repeat(32);
    let refusal = read(&format!(r#"{{"op":"x","id":"{id}"}}"#)).expect_err("unknown op");
    let frame = answer::refused(&refusal);
    let value: Value = serde_json::from_slice(frame.payload()).expect("JSON");
    assert_eq!((&value["id"], &value["code"]), (&json!(id), &json!("unknown_op")));
}

#[test]
fn a_channel_that_the_hub_does_not_make_is_unknown() {
    for channel in ["bar.1m", "Quote", "", "quotes"] {
        for op in ["subscribe", "unsubscribe"] {
            let text = format!(r#"{{"op":"{op}","id":1,"channel":"{channel}","symbols":["A:B"]}}"#);
            let refusal = read(&text).expect_err(channel);
            assert_eq!((refusal.code, refusal.id), (ErrorCode::UnknownChannel, Some(CommandId::Number(1))));
            assert!(refusal.message.ends_with(&format!("the hub does not make {channel:?}")), "{}", refusal.message);
        }
    }
    for text in [r#"{"op":"subscribe","symbols":["A:B"]}"#, r#"{"op":"unsubscribe","channel":5,"symbols":["A:B"]}"#] {
        assert_eq!(read(text).expect_err(text).code, ErrorCode::BadMessage);
    }
}

#[test]
fn symbols_are_bounded_and_all_strings() {
    let limits = CommandLimits { symbols_max: 3, resume_max: 2 };
    let command = |symbols: &str| {
        let text = format!(r#"{{"op":"subscribe","channel":"trade","symbols":{symbols}}}"#);
        parse(text.as_bytes(), &limits).map_err(|refusal| refusal.message)
    };
    assert!(command(r#"["A:A","A:B","A:C"]"#).is_ok());
    for (symbols, part) in [
        (r#"["A:A","A:B","A:C","A:D"]"#, "must be an array of 1 to 3 strings"),
        (r#"["A:A",1]"#, "must be an array of 1 to 3 strings"),
        (r#"["A:A",["A:B"]]"#, "must be an array of 1 to 3 strings"),
        (r#""A:A""#, r#"not "A:A""#),
        ("{}", "not an object"),
        ("[]", "is empty"),
    ] {
        let message = command(symbols).expect_err(symbols);
        assert!(message.starts_with("\"symbols\" ") && message.contains(part), "{message}");
    }
    let resume = |entries: &str| {
        let text = format!(
            r#"{{"op":"subscribe","channel":"trade","symbols":["*"],"resume":{{"epoch":"e","seq":{{{entries}}}}}}}"#
        );
        parse(text.as_bytes(), &limits).map_err(|refusal| refusal.message)
    };
    assert!(resume("").is_ok());
    assert!(resume(r#""A:A":1,"A:B":2"#).is_ok());
    let message = resume(r#""A:A":1,"A:B":2,"A:C":3"#).expect_err("too many");
    assert_eq!(message, "\"resume.seq\" lists more than 2 instruments: list fewer");
}

#[test]
fn a_token_never_shows() {
    for token in [r#"["s3cret"]"#, r#"{"s3cret":1}"#, "53cre7", r#""""#, r#""s3cret","token":"s3cret""#, r#""s3cret"x"#]
    {
        let refusal = read(&format!(r#"{{"op":"auth","token":{token}}}"#)).expect_err(token);
        assert_eq!(refusal.code, ErrorCode::BadMessage);
        assert!(!refusal.message.contains("s3cret") && !refusal.message.contains("53cre7"), "{}", refusal.message);
    }
    assert!(read(r#"{"op":"auth"}"#).expect_err("no token").message.contains("\"token\" is missing"));
}

#[test]
fn what_a_client_wrote_is_shown_cut_and_escaped() {
    let refusal = read(&format!(r#"{{"op":"\u001b[31m\u202e{}"}}"#, "é".repeat(50_000))).expect_err("unknown op");
    assert!(refusal.message.chars().count() < 250, "{}", refusal.message.len());
    assert!(!refusal.message.contains(['\u{1b}', '\u{202e}']), "{}", refusal.message);
    let number = "9".repeat(50_000);
    let refusal = options("quote", &format!(r#","max_rate":{number}"#)).expect_err("too large");
    assert!(refusal.message.len() < 250);
}

#[test]
fn nesting_costs_no_stack() {
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let deep = format!("{}1{}", open.repeat(30_000), close.repeat(30_000));
        for member in ["id", "op", "symbols", "x"] {
            assert!(read(&format!(r#"{{"{member}":{deep}}}"#)).is_err());
        }
        assert!(options("trade", &format!(r#","resume":{{"seq":{{"A:B":{deep}}}}}"#)).is_err());
        assert!(read(&deep).is_err());
    }
}

/// JSON that looks much like a command, right and wrong.
fn command_like() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        prop::sample::select(vec![
            "op",
            "id",
            "token",
            "channel",
            "symbols",
            "mode",
            "max_rate",
            "depth",
            "snapshot",
            "overflow",
            "backlog",
            "resume",
            "epoch",
            "seq",
            "subscribe",
            "unsubscribe",
            "auth",
            "ping",
            "quote",
            "book",
            "trade",
            "latest",
            "every",
            "A:B",
            "*",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,5}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u64..60).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(word.clone(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Whatever was refused can be answered in one short line of JSON.
fn check(text: &[u8]) {
    if let Err(refusal) = parse(text, &CommandLimits::default()) {
        let frame = answer::refused(&refusal);
        let value: Value = serde_json::from_slice(frame.payload()).expect("JSON");
        assert_eq!(value["message"], refusal.message);
        assert!(frame.len() < 2_000 && !frame.payload().iter().any(u8::is_ascii_control));
    }
}

proptest! {
    #[test]
    fn never_panics_on_bytes(text in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&text);
    }

    #[test]
    fn never_panics_on_json(value in command_like()) {
        check(value.to_string().as_bytes());
    }

    #[test]
    fn never_panics_on_a_damaged_command(at in 0_usize..200, with in any::<u8>(), cut in 0_usize..250) {
        let mut text = br#"{"op":"subscribe","id":"a\u00e9","channel":"book","symbols":["SIM:*","A:B"],"mode":"every","depth":0,"snapshot":true,"overflow":"gap","backlog":9,"resume":{"epoch":"e","seq":{"A:B":1,"A:C":{"epoch":"f","seq":2}}}}"#.to_vec();
        assert!(parse(&text, &CommandLimits::default()).is_ok());
        let at = at.min(text.len() - 1);
        text[at] = with;
        text.truncate(cut);
        check(&text);
    }

    #[test]
    fn a_valid_subscribe_reads_back_equal(
        id: i64, symbols in prop::collection::hash_set("\\PC{0,60}", 1..20), depth in 0_usize..4,
        seqs in prop::collection::hash_map("[A-Z]:[A-Z]{1,4}", any::<u64>(), 0..10),
    ) {
        let symbols: Vec<String> = symbols.into_iter().collect();
        let depth = Depth::ALL[depth];
        let text = json!({"op": "subscribe", "id": id, "channel": "book", "symbols": symbols, "depth": depth.wire(),
                          "resume": {"epoch": "e", "seq": seqs}}).to_string();
        let request = read(&text).expect("valid");
        prop_assert_eq!(request.id, Some(CommandId::Number(id)));
        let Command::Subscribe(subscribe) = request.command else { panic!("a subscribe") };
        prop_assert_eq!((&subscribe.symbols, subscribe.depth), (&symbols, depth));
        let entries = subscribe.resume.expect("given").entries;
        let listed = entries.iter().map(|entry| (entry.symbol.clone(), entry.seq)).collect();
        prop_assert_eq!(seqs, listed);
    }
}
