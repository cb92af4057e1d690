//! The frame reader against two other implementations: what their clients write it reads as it was
//! meant, and what it reads of a damaged stream they read the same.

use std::io::{self, Read, Write};
use std::ops::ControlFlow;

use fastwebsockets::{FragmentCollector, OpCode, Payload, Role, WebSocket};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tickhub::transport::websocket::{FrameReader, Incoming, Violation};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode as TungsteniteOpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};
use tokio_tungstenite::tungstenite::protocol::{Role as TungsteniteRole, WebSocket as TungsteniteSocket};
use tokio_tungstenite::tungstenite::{Error, Message};

const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// A frame to write: whether it is final, its opcode, its payload.
type Plan = (bool, u8, Vec<u8>);

/// What a reader hands on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Text(String),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

fn ours(stream: &[u8], portions: &[usize]) -> (Vec<Seen>, Option<Violation>) {
    let mut reader = FrameReader::new(MESSAGE_BYTES_MAX);
    let (mut seen, mut rest) = (Vec::new(), stream);
    for portion in portions.iter().cycle() {
        let (now, later) = rest.split_at((*portion).min(rest.len()));
        rest = later;
        let taken = reader.read(&mut now.to_vec(), &mut |incoming| {
            seen.push(match incoming {
                Incoming::Text(text) => Seen::Text(text.to_owned()),
                Incoming::Binary(_) => panic!("binary messages are refused"),
                Incoming::Ping(payload) => Seen::Ping(payload.to_vec()),
                Incoming::Pong(payload) => Seen::Pong(payload.to_vec()),
                Incoming::Close { code, reason } => Seen::Close(code, reason.to_owned()),
            });
            ControlFlow::Continue(())
        });
        match taken {
            Ok(taken) => assert_eq!(taken, now.len()),
            Err(violation) => return (seen, Some(violation)),
        }
        if rest.is_empty() {
            break;
        }
    }
    (seen, None)
}

/// A socket whose peer has sent so much and says no more for now.
#[derive(Default)]
struct Wire {
    received: io::Cursor<Vec<u8>>,
    sent: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.received.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            bytes => Ok(bytes),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sent.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn written_by_tungstenite(frames: &[Plan]) -> Vec<u8> {
    let mut client = TungsteniteSocket::from_raw_socket(Wire::default(), TungsteniteRole::Client, None);
    for (fin, opcode, payload) in frames {
        let opcode = match opcode {
            0x0 => TungsteniteOpCode::Data(Data::Continue),
            0x1 => TungsteniteOpCode::Data(Data::Text),
            0x2 => TungsteniteOpCode::Data(Data::Binary),
            0x8 => TungsteniteOpCode::Control(Control::Close),
            0x9 => TungsteniteOpCode::Control(Control::Ping),
            _ => TungsteniteOpCode::Control(Control::Pong),
        };
        let header = FrameHeader { is_final: *fin, opcode, ..FrameHeader::default() };
        client.send(Message::Frame(Frame::from_payload(header, payload.clone().into()))).expect("a write to memory");
    }
    client.get_ref().sent.clone()
}

/// What tungstenite's server reads, and its error.
fn read_by_tungstenite(stream: &[u8]) -> (Vec<Seen>, Option<Error>) {
    let wire = Wire { received: io::Cursor::new(stream.to_vec()), sent: Vec::new() };
    let mut server = TungsteniteSocket::from_raw_socket(wire, TungsteniteRole::Server, None);
    let mut seen = Vec::new();
    loop {
        match server.read() {
            Ok(Message::Text(text)) => seen.push(Seen::Text(text.as_str().to_owned())),
            Ok(Message::Ping(payload)) => seen.push(Seen::Ping(payload.to_vec())),
            Ok(Message::Pong(payload)) => seen.push(Seen::Pong(payload.to_vec())),
            Ok(Message::Close(close)) => {
                let reason = close.as_ref().map_or(String::new(), |close| close.reason.as_str().to_owned());
                seen.push(Seen::Close(close.map(|close| close.code.into()), reason));
                return (seen, None);
            }
            // A binary message, made by damage to an opcode: we read nothing from there on.
            Ok(_) => return (seen, None),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return (seen, None),
            Err(error) => return (seen, Some(error)),
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

fn written_by_fastwebsockets(frames: &[Plan]) -> Vec<u8> {
    let wire = tokio::io::join(tokio::io::empty(), Vec::new());
    let mut client = WebSocket::after_handshake(wire, Role::Client);
    block_on(async {
        for (fin, opcode, payload) in frames {
            let opcode = OpCode::try_from(*opcode).expect("an opcode");
            let payload = Payload::Owned(payload.clone());
            client
                .write_frame(fastwebsockets::Frame::new(*fin, opcode, None, payload))
                .await
                .expect("a write to memory");
        }
    });
    client.into_inner().into_inner().1
}

/// What fastwebsockets' server reads of a stream that ends with a close.
fn read_by_fastwebsockets(stream: &[u8]) -> Vec<Seen> {
    let wire = tokio::io::join(io::Cursor::new(stream.to_vec()), tokio::io::sink());
    let mut server = WebSocket::after_handshake(wire, Role::Server);
    server.set_auto_close(false);
    server.set_auto_pong(false);
    let mut server = FragmentCollector::new(server);
    let mut seen = Vec::new();
    block_on(async {
        loop {
            let frame = server.read_frame().await.expect("a frame");
            let payload = frame.payload.to_vec();
            match frame.opcode {
                OpCode::Text => seen.push(Seen::Text(String::from_utf8(payload).expect("text"))),
                OpCode::Ping => seen.push(Seen::Ping(payload)),
                OpCode::Pong => seen.push(Seen::Pong(payload)),
                OpCode::Close => {
                    let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    let reason = payload.get(2..).unwrap_or_default().to_vec();
                    seen.push(Seen::Close(code, String::from_utf8(reason).expect("text")));
                    return seen;
                }
                other => panic!("{other:?} was never written"),
            }
        }
    })
}

fn any_control() -> impl Strategy<Value = Plan> {
    (select(vec![0x9_u8, 0xa]), vec(any::<u8>(), 0..=125)).prop_map(|(opcode, payload)| (true, opcode, payload))
}

/// A text in fragments, cut anywhere, also within characters, with control frames between them.
fn any_message() -> impl Strategy<Value = Vec<Plan>> {
    let text = prop_oneof![
        8 => ".{0,40}",
        4 => "[a-z🦀é]{100,200}",
        1 => (120..135_usize).prop_map(|bytes| "x".repeat(bytes)),
        1 => (65_500..65_600_usize).prop_map(|bytes| "y".repeat(bytes)),
    ];
    let cuts = prop_oneof![1 => Just(vec![]), 1 => vec(any::<Index>(), 0..6)];
    (text, cuts, vec(any_control(), 0..3)).prop_map(|(text, cuts, controls)| {
        let bytes = text.into_bytes();
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let (mut frames, mut controls, mut from) = (Vec::new(), controls.into_iter(), 0);
        for cut in cuts {
            frames.push((false, if frames.is_empty() { 0x1 } else { 0x0 }, bytes[from..cut].to_vec()));
            frames.extend(controls.next());
            from = cut;
        }
        frames.push((true, if frames.is_empty() { 0x1 } else { 0x0 }, bytes[from..].to_vec()));
        frames.extend(controls);
        frames
    })
}

fn any_conversation() -> impl Strategy<Value = Vec<Plan>> {
    let close = prop_oneof![
        Just(vec![]),
        (select(vec![1000_u16, 1001, 1008, 3000, 4001, 4999]), "[a-zé]{0,50}").prop_map(|(code, reason)| [
            &code.to_be_bytes(),
            reason.as_bytes()
        ]
        .concat()),
    ];
    (vec(any_message(), 0..8), close).prop_map(|(messages, close)| {
        let mut frames = messages.concat();
        frames.push((true, 0x8, close));
        frames
    })
}

/// What the frames mean, put together without any of the readers.
fn meaning(frames: &[Plan]) -> Vec<Seen> {
    let (mut seen, mut text) = (Vec::new(), Vec::new());
    for (fin, opcode, payload) in frames {
        match opcode {
            0x0 | 0x1 => {
                text.extend_from_slice(payload);
                if *fin {
                    seen.push(Seen::Text(String::from_utf8(std::mem::take(&mut text)).expect("text")));
                }
            }
            0x9 => seen.push(Seen::Ping(payload.clone())),
            0xa => seen.push(Seen::Pong(payload.clone())),
            _ => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                let reason = payload.get(2..).unwrap_or_default().to_vec();
                seen.push(Seen::Close(code, String::from_utf8(reason).expect("text")));
            }
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_other_clients_write_is_read_as_it_was_meant(
        frames in any_conversation(),
        portions in vec(prop_oneof![1..20_usize, 1000..100_000_usize], 1..8),
    ) {
        let meant = meaning(&frames);
        for stream in [written_by_tungstenite(&frames), written_by_fastwebsockets(&frames)] {
            prop_assert_eq!(ours(&stream, &[stream.len()]), (meant.clone(), None));
            prop_assert_eq!(ours(&stream, &portions), (meant.clone(), None));
            let (theirs, error) = read_by_tungstenite(&stream);
            prop_assert!(error.is_none(), "{:?}", error);
            prop_assert_eq!(&theirs, &meant);
            prop_assert_eq!(&read_by_fastwebsockets(&stream), &meant);
        }
    }

    #[test]
    fn of_a_damaged_stream_nothing_is_read_that_tungstenite_does_not_read(
        frames in any_conversation(),
        damage in vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let mut stream = written_by_tungstenite(&frames);
        for (at, byte) in damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let (seen, violation) = ours(&stream, &[7, 100, 30_000]);
        // Registered since RFC 6455, and unknown to tungstenite, which reads another code instead.
        prop_assume!(!seen.iter().any(|seen| matches!(seen, Seen::Close(Some(1014), _))));
        let (theirs, error) = read_by_tungstenite(&stream);
        match violation {
            Some(_) => prop_assert!(theirs.starts_with(&seen), "{:?} but they read {:?}", seen, theirs),
            None => {
                prop_assert_eq!(seen, theirs);
                prop_assert!(error.is_none(), "taken, but they say {:?}", error);
            }
        }
    }
}

#[test]
fn binary_messages_of_other_clients_are_refused_as_unsupported() {
    let frames = [(true, 0x1, b"text".to_vec()), (true, 0x2, b"binary".to_vec())];
    for stream in [written_by_tungstenite(&frames), written_by_fastwebsockets(&frames)] {
        let (seen, violation) = ours(&stream, &[stream.len()]);
        assert_eq!(seen, [Seen::Text("text".to_owned())]);
        assert_eq!(violation.map(|violation| violation.close), Some(1003));
    }
}
