//! A subscriber's socket on its worker: plain, or with TLS above it. What comes next, such as a
//! stream of QUIC, is another variant here.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd};
use std::time::Duration;

use bytes::Bytes;
use rustix::net::SendFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::stream::Leaving;
use super::tls::{Channel, Flushed, Scratch};

/// Bytes that the kernel may hold unsent for one socket. What waits longer waits in the outbox,
/// where it can still be conflated.
const NOTSENT_LOWAT_BYTES: u32 = 16 * 1024;

/// A socket, shared between its session's task and the worker's turns.
pub(super) struct Socket {
    carrier: Carrier,
    /// Wakes the task: the socket is full, or the session ended.
    pub(super) nudge: Notify,
    pub(super) failed: Cell<bool>,
}

/// What carries a session's bytes.
enum Carrier {
    Plain(TcpStream),
    Tls(TcpStream, Box<RefCell<Channel>>),
}

/// What a read came to.
pub(super) enum Read<'a> {
    /// These bytes.
    Bytes(&'a mut [u8]),
    /// Nothing for now.
    Nothing,
    /// Nothing ever again.
    End,
    /// Nothing ever again: the peer broke the protocol of the carrier, as this says.
    Broken(&'static str),
}

impl Socket {
    /// Takes over a connection on this thread's runtime, and what came behind its handshake.
    pub(super) fn new(leaving: Leaving) -> io::Result<(Self, Vec<u8>)> {
        let Leaving { socket, channel, early } = leaving;
        let stream = TcpStream::from_std(socket)?;
        prepare(&stream);
        let carrier = match channel {
            None => Carrier::Plain(stream),
            Some(channel) => Carrier::Tls(stream, Box::new(RefCell::new(*channel))),
        };
        // A copy: what came early is a part of the handshake's whole buffer.
        Ok((Self { carrier, nudge: Notify::new(), failed: Cell::new(false) }, early.to_vec()))
    }

    /// Takes it off this thread's runtime, for another worker; `early` was read of it already.
    ///
    /// # Errors
    /// As the system says.
    pub(super) fn leave(self, early: Bytes) -> io::Result<Leaving> {
        let (stream, channel) = match self.carrier {
            Carrier::Plain(stream) => (stream, None),
            Carrier::Tls(stream, channel) => (stream, Some(Box::new(channel.into_inner()))),
        };
        Ok(Leaving { socket: stream.into_std()?, channel, early })
    }

    /// The number of its descriptor, if nothing is above it: good for as long as the socket is there.
    pub(super) fn plain_descriptor(&self) -> Option<RawFd> {
        match &self.carrier {
            Carrier::Plain(stream) => Some(stream.as_raw_fd()),
            Carrier::Tls(..) => None,
        }
    }

    const fn stream(&self) -> &TcpStream {
        match &self.carrier {
            Carrier::Plain(stream) | Carrier::Tls(stream, _) => stream,
        }
    }

    /// Waits until there is something to read.
    pub(super) fn readable(&self) -> impl Future<Output = io::Result<()>> + '_ {
        self.stream().readable()
    }

    /// Waits until there is room to write.
    pub(super) fn writable(&self) -> impl Future<Output = io::Result<()>> + '_ {
        self.stream().writable()
    }

    /// Writes as [`crate::fanout::Sink::write`] says; and how much that was offered.
    #[inline]
    pub(super) fn write(&self, slices: &[IoSlice<'_>], scratch: &mut Scratch) -> (io::Result<usize>, usize) {
        match &self.carrier {
            Carrier::Plain(stream) => write_plain(stream.as_fd(), slices),
            Carrier::Tls(stream, channel) => {
                let written = channel.borrow_mut().write(slices, scratch, |bytes| send(stream, bytes));
                (written, offered(slices))
            }
        }
    }

    /// Reads into `buffer`; plaintext of TLS lies in `opened` afterwards.
    pub(super) fn read<'a>(&self, buffer: &'a mut [u8], opened: &'a mut Vec<u8>) -> Read<'a> {
        let bytes = match self.stream().try_read(buffer) {
            Ok(0) => return self.ended(),
            Ok(bytes) => &mut buffer[..bytes],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.is_closed() => return Read::Nothing,
            Err(_) => return Read::End,
        };
        let Carrier::Tls(stream, channel) = &self.carrier else { return Read::Bytes(bytes) };
        let channel = &mut *channel.borrow_mut();
        opened.clear();
        let read = channel.read(bytes, opened);
        // Answers and alerts go as far as the socket takes them; the rest goes before what follows.
        let flushed = channel.flush(|bytes| send(stream, bytes));
        match (read, flushed) {
            (Err(error), _) => Read::Broken(reason(&error)),
            (Ok(()), Err(_)) => Read::End,
            (Ok(()), Ok(_)) if !opened.is_empty() => Read::Bytes(opened),
            (Ok(()), Ok(_)) if channel.is_closed() => Read::End,
            (Ok(()), Ok(_)) => Read::Nothing,
        }
    }

    /// Whether the peer has said, above the socket, that nothing more comes.
    fn is_closed(&self) -> bool {
        matches!(&self.carrier, Carrier::Tls(_, channel) if channel.borrow().is_closed())
    }

    /// The socket has ended. Of TLS that says nothing: anybody on the way could have done it.
    fn ended(&self) -> Read<'static> {
        match &self.carrier {
            Carrier::Tls(..) if !self.is_closed() => Read::Broken("truncated"),
            _ => Read::End,
        }
    }

    /// Reads away what has come; `false` once nothing more will.
    pub(super) fn discard(&self, buffer: &mut [u8]) -> bool {
        match self.stream().try_read(buffer) {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// The runtime did not see that the socket is full: it must not take it for writable still.
    pub(super) fn note_full(&self) {
        let full = || Err::<(), _>(io::Error::from(io::ErrorKind::WouldBlock));
        let _ = self.stream().try_io(Interest::WRITABLE, full);
    }

    /// Bytes that were taken, and that the socket has not.
    pub(super) fn pending(&self) -> usize {
        match &self.carrier {
            Carrier::Plain(_) => 0,
            Carrier::Tls(_, channel) => channel.borrow().pending(),
        }
    }

    /// Sends what was taken, as far as the socket takes it.
    pub(super) fn flush(&self) {
        let Carrier::Tls(stream, channel) = &self.carrier else { return };
        match channel.borrow_mut().flush(|bytes| send(stream, bytes)) {
            Ok(Flushed::Whole) => {}
            Ok(Flushed::Partly | Flushed::Blocked) => self.note_full(),
            Err(_) => self.failed.set(true),
        }
    }

    /// Says that nothing more comes, behind everything that was taken.
    pub(super) async fn finish(&self) {
        if let Carrier::Tls(_, channel) = &self.carrier {
            channel.borrow_mut().close();
            self.flush();
            while self.pending() > 0 && !self.failed.get() && self.writable().await.is_ok() {
                self.flush();
            }
        }
        let _ = socket2::SockRef::from(self.stream()).shutdown(Shutdown::Write);
    }

    /// Has it reset when it is dropped.
    pub(super) fn reset(&self) {
        let _ = socket2::SockRef::from(self.stream()).set_linger(Some(Duration::ZERO));
    }
}

/// Writes to a plain socket as [`crate::fanout::Sink::write`] says; and how much that was offered.
///
/// Past the runtime's bookkeeping: a session that is not known to be full nearly always has room,
/// and whether it has would have to be fetched from elsewhere. Past libc too, whose `send` looks for
/// a cancelled thread.
#[inline]
pub(super) fn write_plain(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> (io::Result<usize>, usize) {
    match slices {
        [one] => (rustix::net::send(socket, one, SendFlags::NOSIGNAL).map_err(io::Error::from), one.len()),
        many => (rustix::io::writev(socket, many).map_err(io::Error::from), offered(many)),
    }
}

fn offered(slices: &[IoSlice<'_>]) -> usize {
    slices.iter().map(|slice| slice.len()).sum()
}

fn send(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    rustix::net::send(stream, bytes, SendFlags::NOSIGNAL).map_err(io::Error::from)
}

/// Socket options. A socket that refuses one works without it.
fn prepare(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES);
}

/// Why a connection broke, in one word.
const fn reason(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::DecryptError => "bad_record",
        rustls::Error::AlertReceived(_) => "alert",
        _ => "protocol",
    }
}
