//! One finished WebSocket message, and the buffer that it is laid out in.

use std::fmt;

use bytes::Bytes;

/// Longest header of a server frame: opcode, length byte and a 64-bit length.
const HEADER_BYTES_MAX: usize = 10;
/// Longest payload of a control frame (RFC 6455, 5.5).
pub(super) const CONTROL_BYTES_MAX: usize = 125;
/// Holds any event but a deep book without growing.
const SCRATCH_BYTES: usize = 1024;
/// First header bit: this frame is the whole message.
const FIN: u8 = 0x80;

/// What a frame is (RFC 6455, 5.2).
#[derive(Clone, Copy)]
pub(super) enum Opcode {
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

/// One finished server-to-client WebSocket message: header and payload in one piece. Server
/// frames are not masked, so the same bytes go to every subscriber. Cloning shares them.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(Bytes);

impl Frame {
    /// A text message of `payload`.
    #[must_use]
    pub fn text(payload: &[u8]) -> Self {
        Scratch::for_bytes(payload.len()).frame(Opcode::Text, |out| out.extend_from_slice(payload))
    }

    /// A control frame; what exceeds 125 bytes is cut off.
    pub(super) fn control(opcode: Opcode, payload: &[u8]) -> Self {
        let payload = &payload[..payload.len().min(CONTROL_BYTES_MAX)];
        Scratch::for_bytes(payload.len()).frame(opcode, |out| out.extend_from_slice(payload))
    }

    /// Header and payload, as they go to the socket.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Bytes of header and payload together; at least 2.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // There is always a header.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is a text message.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.0.first().is_some_and(|first| *first == FIN | Opcode::Text as u8)
    }

    /// The payload without its header: the message on transports that frame it in their own way.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        let header = match self.0.get(1) {
            Some(127) => HEADER_BYTES_MAX,
            Some(126) => 4,
            _ => 2,
        };
        &self.0[header..]
    }

    /// Takes the header and payload.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Frame").field(&String::from_utf8_lossy(self.payload())).finish()
    }
}

/// A reusable buffer that messages are laid out in. It keeps the size of the largest one, so that
/// making a frame allocates only the frame.
#[derive(Debug)]
pub struct Scratch {
    buffer: Vec<u8>,
    unfit: u64,
}

impl Scratch {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::for_bytes(SCRATCH_BYTES)
    }

    fn for_bytes(payload: usize) -> Self {
        Self { buffer: Vec::with_capacity(HEADER_BYTES_MAX + payload), unfit: 0 }
    }

    /// A text message of what `write` appends.
    #[inline]
    pub(super) fn text(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Frame {
        self.frame(Opcode::Text, write)
    }

    /// A binary message of what `write` appends; `None` where it cannot.
    #[inline]
    pub(super) fn binary(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Option<Frame> {
        self.begin();
        write(&mut self.buffer)?;
        Some(self.finish(Opcode::Binary))
    }

    /// Counts an event that its format could not hold.
    pub(super) const fn count_unfit(&mut self) {
        self.unfit += 1;
    }

    /// Events since the last call that their format could not hold, and that are JSON text instead.
    pub const fn take_unfit(&mut self) -> u64 {
        std::mem::replace(&mut self.unfit, 0)
    }

    #[inline]
    fn frame(&mut self, opcode: Opcode, write: impl FnOnce(&mut Vec<u8>)) -> Frame {
        self.begin();
        write(&mut self.buffer);
        self.finish(opcode)
    }

    /// The payload is written behind room for the longest header; the right one then ends where
    /// the payload begins, so nothing is moved.
    #[inline]
    fn begin(&mut self) {
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; HEADER_BYTES_MAX]);
    }

    #[inline]
    fn finish(&mut self, opcode: Opcode) -> Frame {
        let payload = self.buffer.len() - HEADER_BYTES_MAX;
        let first = FIN | opcode as u8;
        let start = if payload <= CONTROL_BYTES_MAX {
            self.buffer[8..10].copy_from_slice(&[first, payload as u8]);
            8
        } else if let Ok(short) = u16::try_from(payload) {
            self.buffer[6..8].copy_from_slice(&[first, 126]);
            self.buffer[8..10].copy_from_slice(&short.to_be_bytes());
            6
        } else {
            self.buffer[..2].copy_from_slice(&[first, 127]);
            self.buffer[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
            0
        };
        Frame(shared(&self.buffer[start..]))
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Copies `bytes` into one allocation that holds its reference count too. A plain
/// `Bytes::copy_from_slice` makes a second one when it is first cloned, which every frame is;
/// beyond the last class that one is small beside the copy itself.
///
/// The classes fill blocks of 128 to 1,024 bytes, of which 8 are the count, 2 the length, and 8 are
/// left to the allocator's own word.
fn shared(bytes: &[u8]) -> Bytes {
    match bytes.len() {
        0..=110 => inline::<110>(bytes),
        111..=174 => inline::<174>(bytes),
        175..=238 => inline::<238>(bytes),
        239..=366 => inline::<366>(bytes),
        367..=494 => inline::<494>(bytes),
        495..=1006 => inline::<1006>(bytes),
        _ => Bytes::copy_from_slice(bytes),
    }
}

struct Inline<const N: usize> {
    len: u16,
    bytes: [u8; N],
}

impl<const N: usize> AsRef<[u8]> for Inline<N> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// `bytes` must be at most `N` long, and `N` fit a `u16`.
#[inline]
fn inline<const N: usize>(bytes: &[u8]) -> Bytes {
    let mut owner = Inline { len: bytes.len() as u16, bytes: [0; N] };
    owner.bytes[..bytes.len()].copy_from_slice(bytes);
    Bytes::from_owner(owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fits_the_payload_at_every_edge() {
        for (payload, header) in [
            (0, vec![0x81, 0]),
            (1, vec![0x81, 1]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (65_535, vec![0x81, 126, 0xff, 0xff]),
            (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let body = vec![b'x'; payload];
            let frame = Frame::text(&body);
            assert_eq!(&frame.bytes()[..header.len()], header, "{payload}");
            assert_eq!(frame.payload(), body, "{payload}");
            assert_eq!(frame.len(), header.len() + payload);
        }
    }

    #[test]
    fn every_size_class_keeps_every_byte() {
        for len in 0..1_100_usize {
            let body: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let frame = Frame::text(&body);
            let clone = frame.clone();
            drop(frame);
            assert_eq!(clone.payload(), body, "{len}");
        }
    }

    #[test]
    fn a_clone_shares_the_bytes() {
        for len in [10, 500, 5_000] {
            let frame = Frame::text(&vec![b'x'; len]);
            assert_eq!(frame.bytes().as_ptr(), frame.clone().bytes().as_ptr(), "{len}");
        }
    }

    #[test]
    fn a_scratch_leaves_nothing_of_the_message_before() {
        let mut scratch = Scratch::new();
        let long = scratch.text(|out| out.extend_from_slice(&[b'a'; 70_000]));
        let short = scratch.text(|out| out.extend_from_slice(b"{}"));
        assert_eq!(long.payload().len(), 70_000);
        assert_eq!(&short.bytes()[..], b"\x81\x02{}");
    }
}
