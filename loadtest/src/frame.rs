//! WebSocket frames as a client sees them (RFC 6455 section 5): server frames are read in place, client frames are
//! masked and appended to a buffer.

use std::fmt;

/// A message larger than this is taken for a fault of the server, so that nothing it sends can exhaust the client.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Control frames carry at most this much (RFC 6455 section 5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// Opcode of a continuation frame.
pub const CONTINUATION: u8 = 0x0;
/// Opcode of a text message.
pub const TEXT: u8 = 0x1;
/// Opcode of a binary message.
pub const BINARY: u8 = 0x2;
/// Opcode of a close frame.
pub const CLOSE: u8 = 0x8;
/// Opcode of a ping.
pub const PING: u8 = 0x9;
/// Opcode of a pong.
pub const PONG: u8 = 0xA;

/// One frame, its payload still in the buffer that it was read into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Whether the frame ends its message.
    pub fin: bool,
    /// One of the opcodes of this module.
    pub opcode: u8,
    /// The payload, never masked.
    pub payload: &'a [u8],
}

/// Why bytes are not a frame that a server may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameFault {
    /// A reserved bit is set though no extension was agreed on.
    ReservedBits,
    /// A server must not mask.
    Masked,
    /// An opcode that RFC 6455 does not define.
    Opcode(u8),
    /// A control frame that is fragmented or longer than 125 bytes.
    Control,
    /// A length not written in the fewest bytes.
    LengthForm,
    /// More than [`MESSAGE_BYTES_MAX`] bytes, as announced.
    TooLarge(u64),
}

impl fmt::Display for FrameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedBits => f.write_str("a frame has a reserved bit set"),
            Self::Masked => f.write_str("a server frame is masked"),
            Self::Opcode(opcode) => write!(f, "a frame has the unknown opcode {opcode:#x}"),
            Self::Control => f.write_str("a control frame is fragmented or too long"),
            Self::LengthForm => f.write_str("a frame's length is not in its shortest form"),
            Self::TooLarge(bytes) => write!(f, "a message of {bytes} bytes"),
        }
    }
}

impl std::error::Error for FrameFault {}

/// Reads the frame that begins `bytes`, with the number of bytes it takes; `None` where more bytes are needed.
///
/// # Errors
/// The bytes break RFC 6455; the connection cannot be followed any further.
#[inline]
pub fn parse(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, FrameFault> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let (fin, opcode) = (first & 0x80 != 0, first & 0x0F);
    if first & 0x70 != 0 {
        return Err(FrameFault::ReservedBits);
    }
    if second & 0x80 != 0 {
        return Err(FrameFault::Masked);
    }
    let (length, header) = match second & 0x7F {
        126 => match rest {
            [a, b, ..] => (u64::from(u16::from_be_bytes([*a, *b])), 4),
            _ => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(eight) => (u64::from_be_bytes(*eight), 10),
            None => return Ok(None),
        },
        short => (u64::from(short), 2),
    };
    match opcode {
        CONTINUATION | TEXT | BINARY => {}
        CLOSE | PING | PONG if fin && length <= CONTROL_BYTES_MAX as u64 => {}
        CLOSE | PING | PONG => return Err(FrameFault::Control),
        other => return Err(FrameFault::Opcode(other)),
    }
    if (header == 4 && length < 126) || (header == 10 && length <= u64::from(u16::MAX)) {
        return Err(FrameFault::LengthForm);
    }
    if length > MESSAGE_BYTES_MAX as u64 {
        return Err(FrameFault::TooLarge(length));
    }
    let end = header + length as usize;
    Ok(bytes.get(header..end).map(|payload| (Frame { fin, opcode, payload }, end)))
}

/// Appends one whole client frame, masked with `mask`, to `out`.
pub fn append_client(out: &mut Vec<u8>, opcode: u8, payload: &[u8], mask: [u8; 4]) {
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xFFFF => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// Appends one whole server frame to `out`: what the harness sends where it plays a server.
pub fn append_server(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..=125 => out.push(length as u8),
        length @ 126..=0xFFFF => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(head: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        append_server(&mut out, head & 0x0F, payload);
        out
    }

    #[test]
    fn a_frame_of_any_length_form_is_read_only_once_it_is_whole() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let payload = vec![b'x'; length];
            let mut bytes = server_frame(0x81, &payload);
            for cut in [0, 1, 2, 3, 9, bytes.len() - 1].into_iter().filter(|cut| *cut < bytes.len()) {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "length {length}, cut at {cut}");
            }
            let whole = bytes.len();
            bytes.extend_from_slice(b"next");
            let (frame, used) = parse(&bytes).unwrap().unwrap();
            assert_eq!((frame.fin, frame.opcode, frame.payload.len(), used), (true, TEXT, length, whole));
        }
    }

    #[test]
    fn what_a_server_must_not_send_is_named() {
        assert_eq!(parse(&[0xC1, 0]), Err(FrameFault::ReservedBits));
        assert_eq!(parse(&[0x81, 0x80]), Err(FrameFault::Masked));
        assert_eq!(parse(&[0x83, 0]), Err(FrameFault::Opcode(3)));
        assert_eq!(parse(&[0x09, 0]), Err(FrameFault::Control));
        assert_eq!(parse(&[0x89, 126, 0, 126]), Err(FrameFault::Control));
        assert_eq!(parse(&[0x81, 126, 0, 5]), Err(FrameFault::LengthForm));
        assert_eq!(parse(&[0x81, 127, 0, 0, 0, 0, 0, 0, 1, 0]), Err(FrameFault::LengthForm));
        assert_eq!(parse(&[0x81, 127, 1, 0, 0, 0, 0, 0, 0, 0]), Err(FrameFault::TooLarge(1 << 56)));
    }

    #[test]
    fn a_client_frame_unmasks_to_what_was_put_in() {
        for length in [0usize, 5, 125, 126, 65_536] {
            let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let mut out = Vec::new();
            append_client(&mut out, TEXT, &payload, [1, 2, 3, 4]);
            let header = out.len() - length - 4;
            assert_eq!(out[0], 0x81);
            assert_eq!(out[1] & 0x80, 0x80, "masked");
            let unmasked: Vec<u8> =
                out[header + 4..].iter().enumerate().map(|(i, byte)| byte ^ out[header + i % 4]).collect();
            assert_eq!(unmasked, payload);
        }
    }
}
