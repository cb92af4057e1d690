//! What a client writes to its WebSocket.

use std::ops::ControlFlow;

use tickhub::transport::websocket::{FrameReader, Incoming, Profile, Violation};

/// Small, so that the bound is met.
const MESSAGE_BYTES_MAX: usize = 300;
/// What a reader may hold beside the message.
const HEAD_BYTES_MAX: usize = 200;

/// Binary messages too, and few fragments, so that this bound is met as well.
struct Wide;

impl Profile for Wide {
    const BINARY: bool = true;
    const FRAGMENTS_MAX: u32 = 8;
}

/// What is handed on: its kind, its bytes, and the code of a close.
type Seen = (char, Vec<u8>, Option<u16>);

/// The first byte chooses the portions; the rest is the stream.
pub(super) fn frames(data: &[u8]) {
    let Some((choice, stream)) = data.split_first() else { return };
    judge(FrameReader::new, stream, *choice);
    judge(FrameReader::<Wide>::with_profile, stream, *choice);
}

/// However the stream is cut, and wherever the reader is told to wait, the same is read.
fn judge<P: Profile>(reader: fn(usize) -> FrameReader<P>, stream: &[u8], choice: u8) {
    let whole = read(reader(MESSAGE_BYTES_MAX), stream, &[stream.len().max(1)], false);
    let portions = [1 + usize::from(choice & 0x0f), 1 + usize::from(choice >> 4), 7];
    assert_eq!(read(reader(MESSAGE_BYTES_MAX), stream, &[1], false), whole, "byte by byte");
    assert_eq!(read(reader(MESSAGE_BYTES_MAX), stream, &portions, false), whole, "in portions");
    assert_eq!(read(reader(MESSAGE_BYTES_MAX), stream, &portions, true), whole, "with breaks");
    if let Some(violation) = whole.1 {
        assert!([1002, 1003, 1007, 1009].contains(&violation.close), "{violation}");
        assert!(violation.reason.len() <= 123, "the reason must fit a close frame");
    }
}

fn read<P: Profile>(
    mut reader: FrameReader<P>,
    stream: &[u8],
    portions: &[usize],
    breaks: bool,
) -> (Vec<Seen>, Option<Violation>) {
    let (mut seen, mut at) = (Vec::new(), 0);
    for portion in portions.iter().cycle() {
        if at == stream.len() {
            break;
        }
        let mut input = stream[at..stream.len().min(at + portion)].to_vec();
        let taken = reader.read(&mut input, &mut |incoming| {
            seen.push(owned(incoming));
            if breaks { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(reader.held_bytes() <= MESSAGE_BYTES_MAX + HEAD_BYTES_MAX, "holds {} bytes", reader.held_bytes());
        match taken {
            Ok(taken) => {
                assert!(taken > 0 && (breaks || taken == input.len()), "stands still");
                assert_eq!(input[taken..], stream[at + taken..at + input.len()], "touched what it did not take");
                at += taken;
            }
            Err(violation) => return (seen, Some(violation)),
        }
    }
    (seen, None)
}

fn owned(incoming: Incoming<'_>) -> Seen {
    let (kind, bytes, code) = match incoming {
        Incoming::Text(text) => ('t', text.as_bytes(), None),
        Incoming::Binary(bytes) => ('b', bytes, None),
        Incoming::Ping(payload) => ('i', payload, None),
        Incoming::Pong(payload) => ('o', payload, None),
        Incoming::Close { code, reason } => ('c', reason.as_bytes(), code),
    };
    let bytes_max = if ['t', 'b'].contains(&kind) { MESSAGE_BYTES_MAX } else { 125 };
    assert!(bytes.len() <= bytes_max, "{} bytes of {kind}", bytes.len());
    (kind, bytes.to_vec(), code)
}
