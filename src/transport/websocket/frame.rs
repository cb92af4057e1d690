//! Reading what a client sends, frame by frame, as strictly as RFC 6455 asks of a server.
//!
//! A worker owns tens of thousands of connections and reads all of them into one buffer. So a
//! reader keeps no buffer of its own: what arrives whole is unmasked in place and handed on from
//! there, and only what is incomplete when the input ends is copied, for as long as it is so.

use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::str;

/// Frames that one message may consist of. Client libraries split by kilobytes, so this is far
/// above honest use, even of a client that sends an access token in single bytes; and it ends a
/// flood of empty frames, which no bound on bytes would notice.
pub const FRAGMENTS_MAX: u32 = 1024;

/// What a protocol on top of RFC 6455 takes of what that allows.
pub trait Profile {
    /// Whether messages may be binary. Where not, they are refused at their header and never held.
    const BINARY: bool;
    /// Frames that one message may consist of.
    const FRAGMENTS_MAX: u32;
}

/// What subscribers send: commands, which are text.
#[derive(Debug)]
pub struct Commands;

impl Profile for Commands {
    const BINARY: bool = false;
    const FRAGMENTS_MAX: u32 = FRAGMENTS_MAX;
}

/// The longest payload of a control frame (RFC 6455, 5.5).
const CONTROL_PAYLOAD_BYTES_MAX: u8 = 125;
/// The longest frame that is kept whole until it is complete: a control frame, with its header of
/// two bytes and its mask of four. No header of a data frame is longer.
const HEAD_BYTES_MAX: usize = 2 + 4 + CONTROL_PAYLOAD_BYTES_MAX as usize;
/// The first piece of memory for an incomplete message: most commands fit.
const MESSAGE_BYTES_FIRST: usize = 256;

const FIN: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;

/// Something complete that a client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A whole text message, whatever number of frames it came in.
    Text(&'a str),
    /// A whole binary message, where the [`Profile`] has them.
    Binary(&'a [u8]),
    /// A ping; at most 125 bytes, to be sent back in a pong.
    Ping(&'a [u8]),
    /// A pong; at most 125 bytes.
    Pong(&'a [u8]),
    /// The closing handshake. Nothing comes after it.
    Close {
        /// Why, where the client says; a code that RFC 6455 lets a client send.
        code: Option<u16>,
        /// More of it, or empty; at most 123 bytes.
        reason: &'a str,
    },
}

/// What a client did that ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} ({close})")]
pub struct Violation {
    /// The code to close with: 1002, 1003, 1007 or 1009.
    pub close: u16,
    /// For the close frame and the log; fits a close frame.
    pub reason: &'static str,
}

const fn protocol_error(reason: &'static str) -> Violation {
    Violation { close: 1002, reason }
}

const BINARY: Violation = Violation { close: 1003, reason: "binary message: commands are JSON text" };
const BAD_TEXT: Violation = Violation { close: 1007, reason: "text is not UTF-8" };
const TOO_LONG: Violation = Violation { close: 1009, reason: "message is too long" };
const TOO_MANY_FRAGMENTS: Violation = Violation { close: 1009, reason: "message has too many fragments" };

/// Reads the frames of one client. Idle, it holds no memory but its own few bytes.
#[derive(Debug)]
pub struct FrameReader<P: Profile = Commands> {
    /// The message that has begun and is not complete.
    message: Option<Box<Message>>,
    /// The bytes of a frame whose header, or whose control payload, is incomplete.
    head: Option<Box<Head>>,
    stage: Stage,
    message_bytes_max: u32,
    profile: PhantomData<P>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Between frames, or within `head`.
    Header,
    /// Within the payload of a data frame, with so many bytes to come.
    Payload { fin: bool, mask: [u8; 4], bytes_left: u32 },
    /// Closed or violated: whatever still comes means nothing.
    Ended,
}

impl FrameReader {
    /// A reader of commands at the start of a connection, for messages of at most so many bytes.
    #[must_use]
    pub fn new(message_bytes_max: usize) -> Self {
        Self::with_profile(message_bytes_max)
    }
}

impl<P: Profile> FrameReader<P> {
    /// A reader at the start of a connection, for messages of at most so many bytes.
    #[must_use]
    pub fn with_profile(message_bytes_max: usize) -> Self {
        let message_bytes_max = u32::try_from(message_bytes_max).unwrap_or(u32::MAX);
        Self { message: None, head: None, stage: Stage::Header, message_bytes_max, profile: PhantomData }
    }

    /// Takes the bytes that follow the last ones taken, in any portions, unmasks them in place,
    /// and calls `on` for what they complete, in order.
    ///
    /// Returns how many bytes were taken: all, unless `on` breaks; then the bytes behind what it
    /// was just given are untouched and have to be passed again, before any others. After a close
    /// frame everything is taken and nothing is handed on, and the same after a violation.
    ///
    /// # Errors
    /// [`Violation`] at the first byte that shows it. A binary message is one too (1003) where the
    /// profile has none.
    pub fn read(
        &mut self,
        input: &mut [u8],
        on: &mut dyn FnMut(Incoming<'_>) -> ControlFlow<()>,
    ) -> Result<usize, Violation> {
        let mut taken = 0;
        while taken < input.len() {
            let rest = &mut input[taken..];
            let step = match self.stage {
                Stage::Ended => return Ok(input.len()),
                Stage::Payload { fin, mask, bytes_left } => self.take_payload(fin, mask, bytes_left, rest, on),
                Stage::Header if self.head.is_some() => self.complete_head(rest, on),
                Stage::Header => self.take_frame(rest, on),
            };
            let (bytes, flow) = step.inspect_err(|_| self.end())?;
            taken += bytes;
            if flow.is_break() {
                break;
            }
        }
        Ok(taken)
    }

    /// Bytes on the heap for what is incomplete: at most the bound on a message plus some 200.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let message = self.message.as_ref().map_or(0, |message| size_of::<Message>() + message.bytes.capacity());
        message + self.head.as_ref().map_or(0, |_| size_of::<Head>())
    }

    fn end(&mut self) {
        *self = Self { stage: Stage::Ended, ..Self::with_profile(0) };
    }

    /// One frame from its first byte, or as much of it as there is.
    fn take_frame(&mut self, input: &mut [u8], on: &mut On<'_>) -> Step {
        let Some(header) = self.judge_header(input)? else { return Ok(self.keep_head(input)) };
        let (_, body) = input.split_at_mut(header.bytes);
        let payload_bytes = header.payload_bytes as usize;
        if header.opcode.is_control() {
            let Some(payload) = body.get_mut(..payload_bytes) else { return Ok(self.keep_head(input)) };
            unmask(payload, header.mask);
            let flow = self.deliver_control(header.opcode, payload, on)?;
            return Ok((header.bytes + payload_bytes, flow));
        }
        if header.fin && self.message.is_none() && payload_bytes <= body.len() {
            let payload = &mut body[..payload_bytes];
            unmask(payload, header.mask);
            return Ok((header.bytes + payload_bytes, on(complete(header.opcode == Opcode::Binary, payload)?)));
        }
        let (taken, flow) = self.begin_payload(&header, body, on)?;
        Ok((header.bytes + taken, flow))
    }

    /// Keeps the beginning of a frame that is a header at most, or a control frame.
    fn keep_head(&mut self, input: &[u8]) -> (usize, ControlFlow<()>) {
        let mut head = Box::new(Head { bytes: [0; HEAD_BYTES_MAX], len: 0 });
        input.iter().for_each(|byte| head.push(*byte));
        self.head = Some(head);
        (input.len(), ControlFlow::Continue(()))
    }

    /// Goes on with a frame whose beginning was kept.
    fn complete_head(&mut self, input: &mut [u8], on: &mut On<'_>) -> Step {
        let Some(mut head) = self.head.take() else { return self.take_frame(input, on) };
        let mut taken = 0;
        loop {
            if let Some(header) = self.judge_header(head.filled())? {
                if !header.opcode.is_control() {
                    let rest = &mut input[taken..];
                    let (more, flow) = self.begin_payload(&header, rest, on)?;
                    return Ok((taken + more, flow));
                }
                let payload = &mut head.filled()[header.bytes..];
                if payload.len() == header.payload_bytes as usize {
                    unmask(payload, header.mask);
                    return Ok((taken, self.deliver_control(header.opcode, payload, on)?));
                }
            }
            let Some(byte) = input.get(taken) else { break };
            head.push(*byte);
            taken += 1;
        }
        self.head = Some(head);
        Ok((taken, ControlFlow::Continue(())))
    }

    /// The payload of a data frame, from its first byte.
    fn begin_payload(&mut self, header: &Header, input: &mut [u8], on: &mut On<'_>) -> Step {
        let message = self.message.get_or_insert_default();
        message.fragments += 1;
        message.binary |= header.opcode == Opcode::Binary;
        self.take_payload(header.fin, header.mask, header.payload_bytes, input, on)
    }

    /// Takes what there is of a data frame's payload into the message.
    fn take_payload(
        &mut self,
        fin: bool,
        mut mask: [u8; 4],
        bytes_left: u32,
        input: &mut [u8],
        on: &mut On<'_>,
    ) -> Step {
        let taken = input.len().min(bytes_left as usize);
        let payload = &mut input[..taken];
        unmask(payload, mask);
        let mut message = self.message.take().unwrap_or_default();
        message.push(payload, self.message_bytes_max as usize)?;
        // `taken` is at most `bytes_left`, so it fits.
        let bytes_left = bytes_left - taken as u32;
        if bytes_left > 0 {
            mask.rotate_left(taken % 4);
            self.stage = Stage::Payload { fin, mask, bytes_left };
        } else {
            self.stage = Stage::Header;
            if fin {
                return Ok((taken, on(complete(message.binary, &message.bytes)?)));
            }
        }
        self.message = Some(message);
        Ok((taken, ControlFlow::Continue(())))
    }

    fn deliver_control(
        &mut self,
        opcode: Opcode,
        payload: &[u8],
        on: &mut On<'_>,
    ) -> Result<ControlFlow<()>, Violation> {
        match opcode {
            Opcode::Ping => Ok(on(Incoming::Ping(payload))),
            Opcode::Close => {
                let close = judge_close(payload)?;
                self.end();
                Ok(on(close))
            }
            _ => Ok(on(Incoming::Pong(payload))),
        }
    }

    /// Reads a frame's header; `None` while it is incomplete. What is wrong is said as soon as the
    /// bytes show it, and is said again for any longer input.
    fn judge_header(&self, input: &[u8]) -> Result<Option<Header>, Violation> {
        let &[first, second, ref rest @ ..] = input else { return Ok(None) };
        if first & RESERVED_BITS != 0 {
            return Err(protocol_error("reserved bits are set and no extension was agreed"));
        }
        let fin = first & FIN != 0;
        let opcode = Opcode::of(first & OPCODE).ok_or(protocol_error("reserved opcode"))?;
        if second & MASKED == 0 {
            return Err(protocol_error("frame of a client is not masked"));
        }
        let short_length = second & !MASKED;
        self.judge_place(opcode, fin, short_length)?;

        let Some((payload_bytes, rest)) = payload_length(short_length, rest)? else { return Ok(None) };
        let held = self.message.as_ref().map_or(0, |message| message.bytes.len() as u64);
        if !opcode.is_control() && payload_bytes > u64::from(self.message_bytes_max) - held {
            return Err(TOO_LONG);
        }
        let Some(mask) = rest.first_chunk() else { return Ok(None) };
        // At most the bound of a message, which is a `u32`, or of a control frame.
        let payload_bytes = payload_bytes as u32;
        Ok(Some(Header { fin, opcode, mask: *mask, payload_bytes, bytes: input.len() - rest.len() + mask.len() }))
    }

    /// Whether a frame of this kind may come now.
    fn judge_place(&self, opcode: Opcode, fin: bool, short_length: u8) -> Result<(), Violation> {
        match (opcode, &self.message) {
            (Opcode::Continuation, None) => Err(protocol_error("continuation of no message")),
            (Opcode::Continuation, Some(message)) if message.fragments >= P::FRAGMENTS_MAX => Err(TOO_MANY_FRAGMENTS),
            (Opcode::Text | Opcode::Binary, Some(_)) => Err(protocol_error("new message within a fragmented one")),
            (Opcode::Binary, None) if !P::BINARY => Err(BINARY),
            _ if !opcode.is_control() => Ok(()),
            _ if !fin => Err(protocol_error("control frame is fragmented")),
            _ if short_length > CONTROL_PAYLOAD_BYTES_MAX => Err(protocol_error("control frame is too long")),
            _ => Ok(()),
        }
    }
}

type On<'a> = dyn FnMut(Incoming<'_>) -> ControlFlow<()> + 'a;
/// How many bytes were taken, and whether to go on.
type Step = Result<(usize, ControlFlow<()>), Violation>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    const fn of(bits: u8) -> Option<Self> {
        match bits {
            0x0 => Some(Self::Continuation),
            0x1 => Some(Self::Text),
            0x2 => Some(Self::Binary),
            0x8 => Some(Self::Close),
            0x9 => Some(Self::Ping),
            0xa => Some(Self::Pong),
            _ => None,
        }
    }

    const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

struct Header {
    fin: bool,
    opcode: Opcode,
    mask: [u8; 4],
    payload_bytes: u32,
    /// Of the header itself.
    bytes: usize,
}

/// The length of the payload and the bytes behind it; `None` while it is incomplete.
fn payload_length(short_length: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, Violation> {
    let (length, shortest, rest) = match short_length {
        126 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), 126, rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from_be_bytes(*length), 1 << 16, rest),
            None => return Ok(None),
        },
        _ => (u64::from(short_length), 0, rest),
    };
    if length < shortest {
        return Err(protocol_error("length is not in its shortest form"));
    }
    if length >> 63 != 0 {
        return Err(protocol_error("length has its highest bit set"));
    }
    Ok(Some((length, rest)))
}

/// A whole message.
fn complete(binary: bool, payload: &[u8]) -> Result<Incoming<'_>, Violation> {
    if binary {
        return Ok(Incoming::Binary(payload));
    }
    str::from_utf8(payload).map(Incoming::Text).map_err(|_| BAD_TEXT)
}

/// Reads the payload of a close frame.
fn judge_close(payload: &[u8]) -> Result<Incoming<'_>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok(Incoming::Close { code: None, reason: "" }),
            _ => Err(protocol_error("close frame of one byte")),
        };
    };
    let code = u16::from_be_bytes(*code);
    // RFC 6455, 7.4, and the codes registered since: 1004 has no meaning; 1005, 1006 and 1015
    // must not be sent.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(protocol_error("close code that must not be sent"));
    }
    let reason = str::from_utf8(reason).map_err(|_| BAD_TEXT)?;
    Ok(Incoming::Close { code: Some(code), reason })
}

/// A message that has begun: its payload so far, unmasked.
#[derive(Debug, Default)]
struct Message {
    bytes: Vec<u8>,
    /// So many bytes from the start are whole characters.
    checked: usize,
    fragments: u32,
    binary: bool,
}

impl Message {
    /// Adds what arrived. The header saw to it that the message stays within `bytes_max`.
    fn push(&mut self, arrived: &[u8], bytes_max: usize) -> Result<(), Violation> {
        let needed = self.bytes.len() + arrived.len();
        if needed > self.bytes.capacity() {
            // Memory follows what arrived, not what a header claims, and never exceeds the bound.
            let capacity = needed.max(self.bytes.capacity() * 2).max(MESSAGE_BYTES_FIRST).min(bytes_max.max(needed));
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(arrived);
        if self.binary {
            return Ok(());
        }
        match str::from_utf8(&self.bytes[self.checked..]) {
            Ok(_) => self.checked = self.bytes.len(),
            // A character that was cut; its rest may still come.
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(BAD_TEXT),
        }
        Ok(())
    }
}

/// The first bytes of a frame, still masked.
#[derive(Debug)]
struct Head {
    bytes: [u8; HEAD_BYTES_MAX],
    len: u8,
}

impl Head {
    /// Adds a byte. It is only called while the frame is incomplete, so there is room.
    fn push(&mut self, byte: u8) {
        self.bytes[usize::from(self.len)] = byte;
        self.len += 1;
    }

    fn filled(&mut self) -> &mut [u8] {
        &mut self.bytes[..usize::from(self.len)]
    }
}

/// Removes the mask, eight bytes at a time.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = payload.as_chunks_mut();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}
