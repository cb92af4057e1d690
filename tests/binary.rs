//! Sessions in the binary form over real sockets, read by the published decoders in Python and
//! JavaScript, beside sessions of JSON.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use support::client::{Client, Got};
use support::{TestHub, hub};
use tickhub::model::Decimal;

const PRICES: &str = "/api/v1/ws/prices";
const QUIET: &str = "[[provider]]\nkind = \"sim\"\ninstruments = 3\n";
const CHANNELS: [&str; 4] = ["ticker", "quote", "trade", "book"];

/// A decoder in another language.
struct Decoder {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Decoder {
    fn start(program: &str, script: &str) -> Self {
        let script = format!("{}/tests/decoders/{script}", env!("CARGO_MANIFEST_DIR"));
        let command = Command::new(program).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = command.unwrap_or_else(|error| panic!("{program} must be installed: {error}"));
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    fn python() -> Self {
        Self::start("python3", "print.py")
    }

    fn javascript() -> Self {
        Self::start("node", "print.mjs")
    }

    fn decode(&mut self, message: &[u8]) -> Vec<Value> {
        let hex: String = message.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(self.input, "{hex}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?} for {hex}"))
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A session in the binary form: texts as they come, records as the decoder reads them, with the
/// symbol that the answers gave their `iid`.
struct Binary {
    client: Client,
    decoder: Decoder,
    symbols: HashMap<u64, Value>,
    /// The last message of records.
    message: Vec<u8>,
}

impl Binary {
    async fn open(hub: &TestHub) -> Self {
        let authorization = format!("Authorization: Bearer {}", hub.token);
        let offer = "Sec-WebSocket-Protocol: tickhub.v1.bin";
        let mut client = Client::open(&hub.http, PRICES, &[&authorization, offer]).await;
        assert_eq!(client.json().await["op"], "welcome", "answers stay text");
        Self { client, decoder: Decoder::python(), symbols: HashMap::new(), message: Vec::new() }
    }

    async fn next(&mut self) -> Value {
        match self.client.next().await {
            Got::Json(message) => {
                for accepted in message["accepted"].as_array().into_iter().flatten() {
                    self.symbols.insert(accepted["iid"].as_u64().unwrap(), accepted["symbol"].clone());
                }
                assert!(message["seq"].is_null() && message["op"] != "gap", "an event as text: {message}");
                message
            }
            Got::Binary(message) => {
                let mut events = self.decoder.decode(&message);
                assert_eq!(events.len(), 1, "one event a message");
                let mut event = events.remove(0);
                let iid = event["iid"].as_u64().unwrap();
                event["sym"] = self.symbols.get(&iid).expect("records come behind their answer").clone();
                self.message = message;
                event
            }
            other => panic!("{other:?}"),
        }
    }

    async fn until(&mut self, member: &str, value: &str) -> Value {
        loop {
            let message = self.next().await;
            if message[member] == value {
                return message;
            }
        }
    }

    async fn subscribe(&mut self, command: Value) -> Value {
        self.client.text(&command.to_string()).await;
        self.until("op", "subscribed").await
    }
}

/// Whether an event of a binary session says the same as one of JSON: decimals by their value.
fn assert_equal_values(binary: &Value, json: &Value) {
    fn equal(name: &str, a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(name, a, b)),
            (Value::String(a), Value::String(b)) if !["ch", "op", "sym", "side", "tid", "cause"].contains(&name) => {
                a.parse::<Decimal>().unwrap() == b.parse::<Decimal>().unwrap()
            }
            _ => a == b,
        }
    }
    let mut members: Vec<&String> = binary.as_object().unwrap().keys().filter(|name| *name != "iid").collect();
    members.sort();
    let mut expected: Vec<&String> = json.as_object().unwrap().keys().collect();
    expected.retain(|name| *name != "depth" || binary["op"].is_null());
    expected.sort();
    assert_eq!(members, expected, "{binary} and {json}");
    for name in members {
        assert!(equal(name, &binary[name], &json[name]), "{name}: {binary} and {json}");
    }
}

type Events = BTreeMap<(String, String, u64), Value>;

fn keep(events: &mut Events, event: Value) {
    if event["seq"].is_u64() && event["snap"].is_null() {
        let key = |name: &str| event[name].as_str().unwrap().to_owned();
        events.insert((key("ch"), key("sym"), event["seq"].as_u64().unwrap()), event);
    }
}

#[tokio::test]
async fn both_forms_say_the_same_under_the_same_number() {
    let hub = hub(QUIET).await;
    let mut text = Client::welcomed(&hub.http, &hub.token).await;
    let mut binary = Binary::open(&hub).await;
    let mut javascript = Decoder::javascript();
    for channel in CHANNELS {
        let command = json!({"op":"subscribe","id":1,"channel":channel,"mode":"every","symbols":["*"]});
        text.text(&command.to_string()).await;
        binary.subscribe(command).await;
    }
    let (mut texts, mut records) = (Events::new(), Events::new());
    let enough = |records: &Events, texts: &Events| {
        let both = |channel: &str| records.keys().filter(|k| k.0 == channel && texts.contains_key(*k)).count();
        CHANNELS.iter().all(|channel| both(channel) >= 40)
    };
    while !enough(&records, &texts) {
        let event = binary.next().await;
        if event["iid"].is_u64() {
            let mut told = javascript.decode(&binary.message).remove(0);
            told["sym"] = event["sym"].clone();
            assert_eq!(told.as_object_mut().unwrap().remove("iid"), Some(event["iid"].clone()));
            let mut read = event.clone();
            read.as_object_mut().unwrap().remove("iid");
            assert_equal_values(&told, &read);
        }
        keep(&mut records, event);
        keep(&mut texts, text.json().await);
    }
    let mut compared = 0;
    for (key, record) in &records {
        if let Some(json) = texts.get(key) {
            assert_equal_values(record, json);
            compared += 1;
        }
    }
    assert!(compared >= 160, "{compared}");
    assert!(hub.metrics().contains("tickhub_binary_unfit_total 0"), "all of it fits");
}

#[tokio::test]
async fn a_stream_begins_with_a_snapshot_and_has_no_hole() {
    let hub = hub(QUIET).await;
    // A value to begin with.
    let mut watcher = Client::welcomed(&hub.http, &hub.token).await;
    watcher.text(r#"{"op":"subscribe","channel":"trade","symbols":["SIM:AAA-USD"]}"#).await;
    watcher.until("ch", "trade").await;
    for channel in CHANNELS {
        let mut binary = Binary::open(&hub).await;
        let command = json!({"op":"subscribe","id":1,"channel":channel,"mode":"every","symbols":["SIM:AAA-USD"]});
        let accepted = binary.subscribe(command).await["accepted"][0]["seq"].as_u64().unwrap();
        let first = binary.next().await;
        let number = first["seq"].as_u64().unwrap();
        assert!(first["snap"] == true && number >= accepted, "{first} after {accepted}");
        for next in number + 1..number + 11 {
            let event = binary.next().await;
            assert_eq!((&event["ch"], &event["seq"], &event["snap"]), (&json!(channel), &json!(next), &Value::Null));
        }
        let command = json!({"op":"unsubscribe","id":2,"channel":channel,"symbols":["SIM:AAA-USD"]});
        binary.client.text(&command.to_string()).await;
        binary.until("op", "unsubscribed").await;
        binary.client.text(r#"{"op":"ping","id":3}"#).await;
        assert_eq!(binary.next().await["op"], "pong", "nothing follows the answer");
    }
}

#[tokio::test]
async fn latest_books_are_whole_windows() {
    let hub = hub(QUIET).await;
    let (mut binary, mut text) = (Binary::open(&hub).await, Client::welcomed(&hub.http, &hub.token).await);
    let command = json!({"op":"subscribe","id":1,"channel":"book","mode":"latest","depth":1,"symbols":["SIM:AAA-USD"]});
    text.text(&command.to_string()).await;
    binary.subscribe(command).await;
    let (mut texts, mut compared, mut last) = (HashMap::new(), 0, 0);
    while compared < 20 {
        let window = text.until("ch", "book").await;
        texts.insert(window["seq"].as_u64().unwrap(), window);
        let window = binary.next().await;
        let seq = window["seq"].as_u64().unwrap();
        assert!(window["snap"] == true && seq > last && window["depth"] == 1, "{window} after {last}");
        last = seq;
        if let Some(json) = texts.get(&seq) {
            assert_equal_values(&window, json);
            compared += 1;
        }
    }
}

#[tokio::test]
async fn who_comes_back_in_another_form_goes_on_without_a_hole() {
    let hub = hub(QUIET).await;
    let mut watcher = Client::welcomed(&hub.http, &hub.token).await;
    let subscribe = r#"{"op":"subscribe","id":1,"channel":"trade","symbols":["SIM:AAA-USD"]}"#;
    watcher.text(subscribe).await;
    let epoch = watcher.until("op", "subscribed").await["epoch"].clone();
    let (mut texts, mut first) = (Events::new(), None);
    while texts.len() < 10 {
        let trade = watcher.until("ch", "trade").await;
        first = first.or_else(|| trade["seq"].as_u64());
        keep(&mut texts, trade);
    }
    let first = first.unwrap();
    let mut binary = Binary::open(&hub).await;
    let resume = json!({"epoch":epoch,"seq":{"SIM:AAA-USD":first}});
    let command = json!({"op":"subscribe","id":2,"channel":"trade","symbols":["SIM:AAA-USD"],"resume":resume});
    binary.subscribe(command).await;
    for expected in first + 1..first + 20 {
        let trade = binary.next().await;
        assert_eq!((&trade["seq"], &trade["snap"]), (&json!(expected), &Value::Null), "{trade}");
        let held = ("trade".to_owned(), "SIM:AAA-USD".to_owned(), expected);
        if let Some(json) = texts.get(&held) {
            assert_equal_values(&trade, json);
        }
    }
}

#[tokio::test]
async fn an_upstream_loss_is_a_gap_record() {
    let faults: Vec<String> =
        (1..40).map(|n| format!("{{ kind = \"drop\", at_event = {}, count = 7 }}", n * 400)).collect();
    let text = format!("{QUIET}faults = [{}]\n", faults.join(", "));
    let hub = hub(&text).await;
    let (mut binary, mut text) = (Binary::open(&hub).await, Client::welcomed(&hub.http, &hub.token).await);
    for channel in ["quote", "trade"] {
        let command = json!({"op":"subscribe","id":1,"channel":channel,"mode":"every","symbols":["*"]});
        text.text(&command.to_string()).await;
        binary.subscribe(command).await;
    }
    let mut gaps = HashMap::new();
    let key = |gap: &Value| (gap["ch"].to_string(), gap["sym"].to_string(), gap["from"].to_string());
    let told = loop {
        let gap = text.until("op", "gap").await;
        gaps.insert(key(&gap), gap);
        let gap = binary.until("op", "gap").await;
        if let Some(told) = gaps.get(&key(&gap)) {
            assert_equal_values(&gap, told);
            break gap;
        }
    };
    assert_eq!((&told["cause"], &told["from"]), (&json!("upstream"), &told["to"]));
    assert!(told["lost"].is_u64(), "{told}");
}

#[tokio::test]
async fn nothing_is_encoded_in_a_form_that_nobody_wants() {
    let hub = hub(QUIET).await;
    let encoded = |form: &str| {
        let name = format!("tickhub_ingest_encoded_total{{format=\"{form}\"}} ");
        let metrics = hub.metrics();
        metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse::<u64>().unwrap()
    };
    let mut text = Client::welcomed(&hub.http, &hub.token).await;
    text.text(r#"{"op":"subscribe","channel":"quote","mode":"every","symbols":["*"]}"#).await;
    while encoded("json") < 50 {
        text.json().await;
    }
    assert_eq!(encoded("binary"), 0);
    let mut binary = Binary::open(&hub).await;
    binary.subscribe(json!({"op":"subscribe","channel":"quote","mode":"every","symbols":["SIM:AAA-USD"]})).await;
    drop(text);
    // Once the session of text is gone, texts are no longer made: this would not end otherwise.
    let mut texts = 0;
    while encoded("json") != std::mem::replace(&mut texts, encoded("json")) || encoded("binary") < 100 {
        let from = binary.until("ch", "quote").await["seq"].as_u64().unwrap();
        while binary.until("ch", "quote").await["seq"].as_u64().unwrap() < from + 30 {}
    }
    assert!(hub.metrics().contains("tickhub_deliveries_total{transport=\"websocket\",format=\"binary\"}"));
}
