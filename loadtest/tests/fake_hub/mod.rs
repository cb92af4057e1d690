//! A small hub written from the protocol page alone: it keeps every guarantee, or breaks one on order.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    runtime::Runtime,
    time::{Instant, interval},
};

/// What the hub does to its first subscriber; all others are always served well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Nothing,
    /// One number never comes.
    Lose,
    /// One number comes twice.
    Repeat,
    /// Two numbers change places.
    Reorder,
    /// One message is no JSON.
    Corrupt,
    /// One price is in exponent notation.
    CorruptValue,
    /// Live events begin with no snapshot.
    NoSnapshot,
    /// The snapshot is older than the number in the answer.
    OldSnapshot,
    /// An event overtakes the answer.
    BeforeAnswer,
    /// An instrument that nobody asked for.
    Foreign,
    /// Three numbers are lost and the gap names them.
    HonestGap,
    /// Three numbers are lost and the gap names two.
    WrongGap,
    /// From some number on, nothing comes.
    LoseTail,
    /// A binary message.
    Binary,
    /// A masked frame.
    Masked,
    /// Closed with 4005.
    Close,
    /// The connection ends without a close frame.
    Drop,
    /// Every frame arrives in pieces, one message in fragments, and pings in between.
    Trickle,
    /// Every third number only, as `latest` may.
    Conflate,
    /// A symbol is refused.
    Reject,
    /// The upgrade is refused.
    Refuse,
    /// One value is another than everyone else gets.
    AlterValue,
    /// The feed ends, and the last value is another than everyone else got.
    WrongLastValue,
    /// The first stream that is resumed misses a number.
    HoleAfterResume,
    /// The first that resumes is told that less was published than it has.
    ForgetAtResume,
    /// What was unsubscribed goes on.
    DeafToUnsubscribe,
    /// The first that was cut off is not let in again.
    KeepOut,
}

pub(crate) struct FakeHub {
    pub(crate) address: SocketAddr,
    _runtime: Runtime,
}

struct State {
    deed: Deed,
    begun: Instant,
    /// The wall clock at the same moment.
    begun_ns: u64,
    connections: AtomicUsize,
    resumes: AtomicUsize,
}

/// The numbers grow by one in this time, on every stream alike.
const STEP: Duration = Duration::from_millis(2);
const FIRST: u64 = 5;
/// After 600 ms.
const LAST_OF_ENDING_FEED: u64 = FIRST + 300;
pub(crate) const TOKEN: &str = "fake-token";
const INSTRUMENTS: [&str; 5] = ["SIM:AAA-USD", "SIM:AAB-USD", "SIM:AAC-USD", "SIM:AAD-USD", "OTHER:X"];

impl FakeHub {
    pub(crate) fn start(deed: Deed) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let _context = runtime.enter();
        let state = Arc::new(State {
            deed,
            begun: Instant::now(),
            begun_ns: loadtest::clock::wall_ns(),
            connections: AtomicUsize::new(0),
            resumes: AtomicUsize::new(0),
        });
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, state.clone()));
            }
        });
        Self { address, _runtime: runtime }
    }
}

impl State {
    fn seq(&self) -> u64 {
        let seq = FIRST + (self.begun.elapsed().as_nanos() / STEP.as_nanos()) as u64;
        if self.deed == Deed::WrongLastValue { seq.min(LAST_OF_ENDING_FEED) } else { seq }
    }

    /// An event is the same for everyone who gets it.
    fn event(&self, sym: &str, seq: u64, snap: bool) -> String {
        let rx = self.begun_ns + (seq.saturating_sub(FIRST)) * STEP.as_nanos() as u64;
        let snap = if snap { r#","snap":true"# } else { "" };
        format!(
            r#"{{"ch":"quote","sym":"{sym}","seq":{seq},"ts":"{rx}","rx":"{rx}"{snap},"bid":"1.50","bid_sz":"2","ask":"1.51","ask_sz":"3"}}"#
        )
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).ok()?;
        if head.starts_with("GET /api/v1/ws/prices ") {
            return subscriber(stream, &head, &state).await;
        }
        let answer = list(&head);
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

/// Pages of two.
fn list(head: &str) -> String {
    if !head.contains(&format!("Bearer {TOKEN}")) {
        return "HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}".to_owned();
    }
    let from = head.split("cursor=").nth(1).map_or(0, |rest| rest[..1].parse().unwrap());
    let page: Vec<Value> = INSTRUMENTS.iter().skip(from).take(2).map(|id| json!({"id": id, "iid": 1})).collect();
    let next = (from + 2 < INSTRUMENTS.len()).then(|| (from + 2).to_string());
    let body = json!({"instruments": page, "next_cursor": next}).to_string();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..=125 => out.push(length as u8),
        length => {
            out.push(126);
            out.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out
}

async fn say(stream: &mut TcpStream, message: &Value) -> Option<()> {
    stream.write_all(&frame(1, message.to_string().as_bytes())).await.ok()
}

/// The next text message of a client, which must be masked.
async fn command(stream: &mut (impl AsyncRead + Unpin)) -> Option<Value> {
    loop {
        let (first, second) = (stream.read_u8().await.ok()?, stream.read_u8().await.ok()?);
        assert_eq!(second & 0x80, 0x80, "a client frame must be masked");
        let length = match second & 0x7F {
            126 => stream.read_u16().await.ok()?.into(),
            127 => stream.read_u64().await.ok()?,
            short => short.into(),
        };
        let mut rest = vec![0; 4 + length as usize];
        stream.read_exact(&mut rest).await.ok()?;
        let payload: Vec<u8> = rest[4..].iter().enumerate().map(|(at, byte)| byte ^ rest[at % 4]).collect();
        match first {
            0x81 => return serde_json::from_slice(&payload).ok(),
            0x88 => return None,
            _ => {}
        }
    }
}

async fn subscriber(mut stream: TcpStream, head: &str, state: &State) -> Option<()> {
    let first = state.connections.fetch_add(1, Ordering::SeqCst) == 0;
    let deed = if first { state.deed } else { Deed::Nothing };
    stream.set_nodelay(true).ok()?;
    if deed == Deed::Refuse || !head.contains(&format!("Authorization: Bearer {TOKEN}\r\n")) {
        return stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await.ok();
    }
    assert!(head.contains("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), "the answer below fits one key only");
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: tickhub.v1.json\r\n\r\n";
    stream.write_all(answer.as_bytes()).await.ok()?;
    say(&mut stream, &json!({"op": "welcome", "session": "s", "limits": {"message_bytes": 4096}})).await?;
    let asked = command(&mut stream).await?;
    let resumes = asked["resume"]["seq"].is_object() && state.resumes.fetch_add(1, Ordering::SeqCst) == 0;
    let deed = if resumes { state.deed } else { deed };
    if resumes && deed == Deed::KeepOut {
        return None;
    }
    if resumes && deed == Deed::HoleAfterResume {
        // There is a hole only where something was missed.
        tokio::time::sleep(STEP * 4).await;
    }
    let mut last = state.seq();
    let (mut from, mut to) = stream.into_split();
    let mut symbols = subscribed(&mut to, &asked, last, deed, state).await?;
    let deed_at = last + 40;
    let (commands, mut coming) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Some(command) = command(&mut from).await {
            if commands.send(command).await.is_err() {
                break;
            }
        }
    });
    let mut steps = interval(STEP);
    loop {
        tokio::select! {
            command = coming.recv() => match command {
                None => break,
                Some(command) if command["op"] == "unsubscribe" => {
                    let left: Vec<String> = serde_json::from_value(command["symbols"].clone()).ok()?;
                    if deed != Deed::DeafToUnsubscribe {
                        symbols.retain(|sym| !left.contains(sym));
                    }
                    let answer = json!({"op": "unsubscribed", "id": command["id"], "channel": "quote", "symbols": left, "rejected": []});
                    to.write_all(&frame(1, answer.to_string().as_bytes())).await.ok()?;
                }
                Some(command) => {
                    for sym in subscribed(&mut to, &command, last, Deed::Nothing, state).await? {
                        if !symbols.contains(&sym) {
                            symbols.push(sym);
                        }
                    }
                }
            },
            _ = steps.tick() => while last < state.seq() {
                last += 1;
                let due = if last == deed_at || is_lasting(deed) { deed } else { Deed::Nothing };
                last = publish(&mut to, &symbols, last, deed_at, due, state).await?;
            },
        }
    }
    to.write_all(&frame(8, &1000_u16.to_be_bytes())).await.ok()
}

/// Answers a subscribe and sends what comes first: snapshots, or what was missed. Returns what is held from now on.
async fn subscribed(
    to: &mut OwnedWriteHalf,
    asked: &Value,
    last: u64,
    deed: Deed,
    state: &State,
) -> Option<Vec<String>> {
    let mut symbols: Vec<String> = serde_json::from_value(asked["symbols"].clone()).ok()?;
    if symbols == ["SIM:*"] {
        symbols = INSTRUMENTS[..4].iter().map(|id| (*id).to_owned()).collect();
    }
    let mut text = Vec::new();
    if deed == Deed::BeforeAnswer {
        text.extend(frame(1, state.event(&symbols[0], 4, false).as_bytes()));
    }
    let rejected = if deed == Deed::Reject { symbols.pop() } else { None };
    let published = if deed == Deed::ForgetAtResume && asked["resume"].is_object() { 1 } else { last };
    let accepted: Vec<Value> = symbols.iter().map(|sym| json!({"symbol": sym, "iid": 1, "seq": published})).collect();
    let rejected: Vec<Value> =
        rejected.iter().map(|sym| json!({"symbol": sym, "code": "not_entitled", "message": "no"})).collect();
    let answer = json!({"op": "subscribed", "id": asked["id"], "channel": "quote", "mode": asked["mode"], "epoch": "e",
        "accepted": accepted, "rejected": rejected});
    text.extend(frame(1, answer.to_string().as_bytes()));
    let status = json!({"ch": "status", "sym": "SIM:*", "state": "stale", "cause": "test", "ts": "1"});
    text.extend(frame(1, status.to_string().as_bytes()));
    let mut hole = deed == Deed::HoleAfterResume;
    for sym in &symbols {
        match asked["resume"]["seq"][sym].as_u64() {
            Some(_) if deed == Deed::ForgetAtResume => text.extend(frame(1, state.event(sym, last, true).as_bytes())),
            Some(seq) => {
                let first = seq + 1 + u64::from(std::mem::take(&mut hole));
                (first..=last).for_each(|seq| text.extend(frame(1, state.event(sym, seq, false).as_bytes())));
            }
            None if deed == Deed::NoSnapshot => {}
            None => {
                let seq = if deed == Deed::OldSnapshot { last - 1 } else { last };
                text.extend(frame(1, state.event(sym, seq, true).as_bytes()));
            }
        }
    }
    to.write_all(&text).await.ok()?;
    Some(symbols)
}

fn is_lasting(deed: Deed) -> bool {
    matches!(deed, Deed::Trickle | Deed::Conflate | Deed::LoseTail | Deed::WrongLastValue)
}

/// Sends the number `seq` on every stream, or what the deed makes of it; returns the last number dealt with.
async fn publish(
    stream: &mut OwnedWriteHalf,
    symbols: &[String],
    seq: u64,
    deed_at: u64,
    deed: Deed,
    state: &State,
) -> Option<u64> {
    let event = |sym: &str, seq: u64, snap: bool| state.event(sym, seq, snap);
    let (mut text, mut last) = (Vec::new(), seq);
    for sym in symbols {
        let one = |seq: u64| frame(1, event(sym, seq, false).as_bytes());
        match deed {
            Deed::Lose => {}
            Deed::Repeat => text.extend([one(seq), one(seq)].concat()),
            Deed::Reorder => {
                text.extend([one(seq + 1), one(seq)].concat());
                last = seq + 1;
            }
            Deed::HonestGap | Deed::WrongGap => {
                let to = if deed == Deed::HonestGap { seq + 2 } else { seq + 1 };
                let gap =
                    json!({"op": "gap", "ch": "quote", "sym": sym, "from": seq, "to": to, "cause": "slow_consumer"});
                text.extend(frame(1, gap.to_string().as_bytes()));
                last = seq + 2;
            }
            Deed::LoseTail if seq >= deed_at => {}
            Deed::Conflate if !seq.is_multiple_of(3) => {}
            Deed::Corrupt => text.extend(frame(1, event(sym, seq, false).trim_end_matches('}').as_bytes())),
            Deed::CorruptValue => {
                text.extend(frame(1, event(sym, seq, false).replace("\"1.50\"", "\"15e-1\"").as_bytes()));
            }
            Deed::AlterValue => text.extend(frame(1, event(sym, seq, false).replace("1.50", "1.49").as_bytes())),
            Deed::WrongLastValue if seq == LAST_OF_ENDING_FEED => {
                text.extend(frame(1, event(sym, seq, false).replace("1.50", "1.49").as_bytes()));
            }
            Deed::Foreign => text.extend([frame(1, event("OTHER:X", seq, false).as_bytes()), one(seq)].concat()),
            Deed::Binary => text.extend(frame(2, event(sym, seq, false).as_bytes())),
            Deed::Masked => text.extend([0x81, 0x80, 0, 0, 0, 0]),
            Deed::Close => text.extend(frame(8, &4005_u16.to_be_bytes())),
            Deed::Drop => return None,
            Deed::Trickle if seq.is_multiple_of(2) => {
                let whole = event(sym, seq, false);
                let (head, tail) = whole.as_bytes().split_at(30);
                let mut pieces = [frame(1, head), frame(9, b"ping"), frame(0, tail)];
                pieces[0][0] = 0x01;
                text.extend(pieces.concat());
            }
            _ => text.extend(one(seq)),
        }
    }
    if deed == Deed::Trickle {
        for piece in text.chunks(7) {
            stream.write_all(piece).await.ok()?;
            tokio::task::yield_now().await;
        }
    } else {
        stream.write_all(&text).await.ok()?;
    }
    Some(last)
}
