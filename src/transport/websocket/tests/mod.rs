//! Frames written by hand, and what the reader makes of them.

mod chunking;
mod credentials;
mod frames;
mod upgrade;
mod violations;

use std::ops::ControlFlow;

use super::{FrameReader, Incoming, Violation};

const MESSAGE_BYTES_MAX: usize = 64 * 1024;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const FIN: u8 = 0x80;

/// What was handed on, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Text(String),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Incoming<'_>> for Seen {
    fn from(incoming: Incoming<'_>) -> Self {
        match incoming {
            Incoming::Text(text) => Self::Text(text.to_owned()),
            Incoming::Binary(_) => panic!("binary messages are refused"),
            Incoming::Ping(payload) => Self::Ping(payload.to_vec()),
            Incoming::Pong(payload) => Self::Pong(payload.to_vec()),
            Incoming::Close { code, reason } => Self::Close(code, reason.to_owned()),
        }
    }
}

fn text(text: &str) -> Seen {
    Seen::Text(text.to_owned())
}

/// A frame as a client writes it, its length in the shortest form.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let form = match payload.len() {
        0..126 => 0,
        126..65_536 => 2,
        _ => 8,
    };
    frame_with(first, payload, payload.len() as u64, form, Some(MASK))
}

/// A frame that claims a length, written in 0, 2 or 8 further bytes.
fn frame_with(first: u8, payload: &[u8], length: u64, form: usize, mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match form {
        0 => bytes.push(masked | length as u8),
        2 => {
            bytes.push(masked | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(masked | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes.extend(mask.into_iter().flatten());
    let mask = mask.unwrap_or_default();
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    bytes
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// Reads the portions, one after the other, until the first violation.
fn read_portions<'a>(portions: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Seen>, Option<Violation>, FrameReader) {
    let mut reader = FrameReader::new(MESSAGE_BYTES_MAX);
    let mut seen = Vec::new();
    for portion in portions {
        let mut portion = portion.to_vec();
        let bytes = portion.len();
        let taken = reader.read(&mut portion, &mut |incoming| {
            seen.push(incoming.into());
            ControlFlow::Continue(())
        });
        match taken {
            Ok(taken) => assert_eq!(taken, bytes, "nobody said stop"),
            Err(violation) => return (seen, Some(violation), reader),
        }
    }
    (seen, None, reader)
}

fn read_whole(stream: &[u8]) -> (Vec<Seen>, Option<Violation>) {
    let (seen, violation, _) = read_portions([stream]);
    (seen, violation)
}

fn read_bytewise(stream: &[u8]) -> (Vec<Seen>, Option<Violation>) {
    let (seen, violation, _) = read_portions(stream.chunks(1));
    (seen, violation)
}
