//! One TLS connection without its socket: bytes in, bytes out.
//!
//! rustls' unbuffered interface keeps nothing of what passes through: an idle session has no
//! buffers. What is held here is the ciphertext of a record that is not whole yet, and that which
//! the socket has not taken.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{Error, HandshakeKind, ProtocolVersion, ServerConfig};

use super::pieces::Pieces;

/// Plaintext that is encrypted before the socket is tried again: four records of the largest size.
/// With what it needs around it, the most ciphertext that ever waits for one socket.
pub(in crate::transport) const PIECE_BYTES_MAX: usize = 64 * 1024;

/// Plaintext of one record (RFC 8446, 5.1).
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// More than any version adds to a record: header, nonce, tag, content type.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// More than alerts and a key update of ours that go before a piece.
const QUEUED_BYTES_MAX: usize = 1024;

/// Ciphertext of a record that is not whole: the largest is 16 KiB and 2 KiB more (RFC 5246,
/// 6.2.3). A handshake message that claims to be longer ends here too.
const PARTIAL_BYTES_MAX: usize = RECORD_BYTES_MAX + 2048 + 5;

/// The same before the handshake is done: a client's chain of certificates has many records.
const HANDSHAKE_BYTES_MAX: usize = 32 * 1024;

/// One connection.
pub(in crate::transport) struct Channel {
    connection: UnbufferedServerConnection,
    /// What came of a record that is not whole yet.
    partial: Vec<u8>,
    /// Ciphertext that the socket has not taken, and how much of it it has.
    pending: Vec<u8>,
    sent: usize,
    /// The last byte of plaintext that was encrypted is not said to be taken while its record waits.
    owed: bool,
    /// The peer has said that nothing more comes.
    closed: bool,
    /// The peer broke the protocol: rustls must not be asked anything more.
    broken: bool,
}

/// What a try to send what waits came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Flushed {
    /// Nothing waits any more.
    Whole,
    /// The socket took a part.
    Partly,
    /// It took nothing.
    Blocked,
}

/// What rustls had to say of what came.
enum Step {
    More,
    Done,
    Closed,
}

/// Room for what one thread writes to all its connections.
#[derive(Debug, Default)]
pub(in crate::transport) struct Scratch {
    /// Gathered plaintext, and its records.
    gathered: Vec<u8>,
    sealed: Vec<u8>,
}

impl Channel {
    /// A connection whose handshake has not begun.
    ///
    /// # Errors
    /// As rustls says: the configuration cannot be used.
    pub(in crate::transport) fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Self {
            connection,
            partial: Vec::new(),
            pending: Vec::new(),
            sent: 0,
            owed: false,
            closed: false,
            broken: false,
        })
    }

    /// Whether the handshake is still under way.
    #[must_use]
    pub(in crate::transport) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether the peer has said that nothing more comes.
    #[must_use]
    pub(in crate::transport) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Bytes of ciphertext that wait for the socket.
    #[must_use]
    pub(in crate::transport) fn pending(&self) -> usize {
        self.pending.len() - self.sent
    }

    /// Bytes that are held of what passes through.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.partial.capacity() + self.pending.capacity()
    }

    /// The version that was agreed on.
    #[must_use]
    pub(in crate::transport) fn version(&self) -> Option<ProtocolVersion> {
        self.connection.protocol_version()
    }

    /// Whether the handshake went on from an earlier one.
    #[must_use]
    pub(in crate::transport) fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The peer's own certificate, which was verified in the handshake.
    #[must_use]
    pub(in crate::transport) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.connection.peer_certificates()?.first()
    }

    /// Takes what came from the socket, which is overwritten; appends its plaintext to `opened`.
    /// What has to be answered waits to be flushed.
    ///
    /// # Errors
    /// The peer broke the protocol, and the connection is over. An alert waits to be flushed.
    pub(in crate::transport) fn read(&mut self, input: &mut [u8], opened: &mut Vec<u8>) -> Result<(), Error> {
        if self.broken {
            return Err(Error::General("the connection is over".to_owned()));
        }
        let read = self.take(input, opened);
        self.broken = read.is_err();
        read
    }

    fn take(&mut self, input: &mut [u8], opened: &mut Vec<u8>) -> Result<(), Error> {
        if self.partial.is_empty() {
            let used = self.open(input, opened)?;
            self.partial.extend_from_slice(&input[used..]);
        } else {
            let mut whole = std::mem::take(&mut self.partial);
            whole.extend_from_slice(input);
            let used = self.open(&mut whole, opened)?;
            // An idle connection holds nothing.
            self.partial.extend_from_slice(&whole[used..]);
        }
        let most = if self.is_handshaking() { HANDSHAKE_BYTES_MAX } else { PARTIAL_BYTES_MAX };
        if self.partial.len() > most { Err(Error::PeerSentOversizedRecord) } else { Ok(()) }
    }

    /// How many bytes of `input` are done with.
    fn open(&mut self, input: &mut [u8], opened: &mut Vec<u8>) -> Result<usize, Error> {
        let mut used = 0;
        loop {
            let (discard, step) = {
                let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(&mut input[used..]);
                let step = match state {
                    Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                        let mut failed = None;
                        while let Some(record) = traffic.next_record() {
                            match record {
                                Ok(record) => {
                                    discard += record.discard;
                                    opened.extend_from_slice(record.payload);
                                }
                                Err(error) => failed = Some(error),
                            }
                        }
                        failed.map_or(Ok(Step::More), Err)
                    }
                    Ok(ConnectionState::EncodeTlsData(mut data)) => {
                        queue(&mut data, &mut self.pending);
                        Ok(Step::More)
                    }
                    Ok(ConnectionState::TransmitTlsData(data)) => {
                        data.done();
                        Ok(Step::More)
                    }
                    Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Closed),
                    // Early data is off, so that there is none to read.
                    Ok(_) => Ok(Step::Done),
                    Err(error) => Err(error),
                };
                (discard, step)
            };
            used += discard;
            match step {
                Ok(Step::More) => {}
                Ok(Step::Done) => return Ok(used),
                Ok(Step::Closed) => {
                    // What comes behind it is to be ignored (RFC 8446, 6.1).
                    self.closed = true;
                    return Ok(input.len());
                }
                Err(error) => {
                    self.queue_alert();
                    return Err(error);
                }
            }
        }
    }

    /// What the connection says of its failure.
    fn queue_alert(&mut self) {
        while self.connection.wants_write() {
            match self.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => queue(&mut data, &mut self.pending),
                Ok(ConnectionState::ReadTraffic(mut traffic)) => while traffic.next_record().is_some() {},
                _ => return,
            }
        }
    }

    /// Encrypts `slices` and gives the records to `send`, which says how many bytes it took.
    ///
    /// The answer is how many bytes count as taken. While records wait for the socket, that is one
    /// less than were encrypted: the last byte of a frame whose first is taken. So its frame, which
    /// is never forgotten then, stays at the head of what the caller keeps, the session counts as
    /// blocked, and a frame that is written has reached the socket. Whoever calls again must begin
    /// with that byte, which is not encrypted twice.
    ///
    /// # Errors
    /// `WouldBlock` where the socket takes nothing; anything else ends the connection.
    pub(in crate::transport) fn write(
        &mut self,
        slices: &[IoSlice<'_>],
        scratch: &mut Scratch,
        mut send: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        match self.flush(&mut send)? {
            Flushed::Whole => {}
            Flushed::Partly => return Ok(0),
            Flushed::Blocked => return Err(io::ErrorKind::WouldBlock.into()),
        }
        let mut taken = usize::from(std::mem::take(&mut self.owed));
        let mut pieces = Pieces::new(slices, taken);
        let Scratch { gathered, sealed } = scratch;
        while let Some(piece) = pieces.next(gathered) {
            let length = self.seal(piece, sealed)?;
            taken += piece.len();
            let records = &sealed[..length];
            let sent = send_all(records, &mut send)?;
            if sent < records.len() {
                self.pending.extend_from_slice(&records[sent..]);
                self.owed = true;
                return Ok(taken - 1);
            }
        }
        Ok(taken)
    }

    /// Encrypts up to [`PIECE_BYTES_MAX`] to wait for the socket; how many bytes.
    ///
    /// # Errors
    /// The connection can encrypt nothing more.
    pub(in crate::transport) fn queue(&mut self, plain: &[u8]) -> io::Result<usize> {
        let piece = &plain[..plain.len().min(PIECE_BYTES_MAX)];
        let mut sealed = Vec::new();
        let length = self.seal(piece, &mut sealed)?;
        self.pending.extend_from_slice(&sealed[..length]);
        Ok(piece.len())
    }

    /// Encrypts a piece into `sealed`; the length of its records.
    fn seal(&mut self, piece: &[u8], sealed: &mut Vec<u8>) -> io::Result<usize> {
        if self.broken {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let records = piece.len().div_ceil(RECORD_BYTES_MAX);
        let room = piece.len() + records * RECORD_OVERHEAD_BYTES + QUEUED_BYTES_MAX;
        if sealed.len() < room {
            sealed.resize(room, 0);
        }
        let mut at = 0;
        loop {
            let (discard, done) = {
                // What is not whole must be shown again: rustls remembers places in it.
                let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut self.partial);
                let done = match state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
                    ConnectionState::WriteTraffic(mut traffic) => {
                        at += traffic.encrypt(piece, &mut sealed[at..]).map_err(io::Error::other)?;
                        true
                    }
                    ConnectionState::EncodeTlsData(mut data) => {
                        at += data.encode(&mut sealed[at..]).map_err(io::Error::other)?;
                        false
                    }
                    ConnectionState::TransmitTlsData(data) => {
                        data.done();
                        false
                    }
                    ConnectionState::PeerClosed => {
                        self.closed = true;
                        false
                    }
                    _ => return Err(io::ErrorKind::NotConnected.into()),
                };
                (discard, done)
            };
            self.partial.drain(..discard);
            if done {
                return Ok(at);
            }
        }
    }

    /// Gives `send` what waits for the socket.
    ///
    /// # Errors
    /// As the socket says, but for `WouldBlock`.
    pub(in crate::transport) fn flush(
        &mut self,
        mut send: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<Flushed> {
        if self.pending.is_empty() {
            return Ok(Flushed::Whole);
        }
        let sent = send_all(&self.pending[self.sent..], &mut send)?;
        self.sent += sent;
        if self.sent < self.pending.len() {
            return Ok(if sent > 0 { Flushed::Partly } else { Flushed::Blocked });
        }
        // An idle connection holds nothing.
        (self.pending, self.sent) = (Vec::new(), 0);
        Ok(Flushed::Whole)
    }

    /// Says that nothing more comes from here. It waits to be flushed.
    pub(in crate::transport) fn close(&mut self) {
        let mut alert = [0; QUEUED_BYTES_MAX];
        if self.broken {
            return;
        }
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) =
            self.connection.process_tls_records(&mut self.partial).state
            && let Ok(length) = traffic.queue_close_notify(&mut alert)
        {
            self.pending.extend_from_slice(&alert[..length]);
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, pending) = (self.version(), self.pending());
        f.debug_struct("Channel").field("version", &version).field("pending", &pending).finish_non_exhaustive()
    }
}

/// Appends a record of the handshake, or an alert.
fn queue<Data>(data: &mut EncodeTlsData<'_, Data>, pending: &mut Vec<u8>) {
    let at = pending.len();
    // The first try says how much room it needs.
    if let Err(EncodeError::InsufficientSize(needs)) = data.encode(&mut []) {
        pending.resize(at + needs.required_size, 0);
        let length = data.encode(&mut pending[at..]).unwrap_or(0);
        pending.truncate(at + length);
    }
}

/// How much of `bytes` was taken until `send` would block.
fn send_all(bytes: &[u8], send: &mut impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match send(&bytes[sent..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => sent += taken,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
