//! A connection on the control side, plain or secured: what HTTP is spoken over.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::tls::{Channel, Flushed};

/// What is read of a secured socket at once.
const READ_BYTES: usize = 4096;

/// A connection.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    secured: Option<Box<Secured>>,
}

/// The state of TLS, and the plaintext that nobody has read yet.
#[derive(Debug)]
struct Secured {
    channel: Channel,
    opened: Vec<u8>,
    read: usize,
    closing: bool,
}

/// A connection that leaves the control side.
#[derive(Debug)]
pub struct Leaving {
    /// Its socket, non-blocking.
    pub socket: std::net::TcpStream,
    /// The state of TLS, where it is spoken.
    pub(super) channel: Option<Box<Channel>>,
    /// What came behind the handshake.
    pub early: Bytes,
}

impl Stream {
    /// A connection as it is.
    #[must_use]
    pub const fn plain(socket: TcpStream) -> Self {
        Self { socket, secured: None }
    }

    pub(super) fn secured(socket: TcpStream, channel: Channel, opened: Vec<u8>) -> Self {
        Self { socket, secured: Some(Box::new(Secured { channel, opened, read: 0, closing: false })) }
    }

    /// Takes it off this runtime; `early` was read of it already.
    ///
    /// # Errors
    /// As the system says.
    pub fn leave(self, early: Bytes) -> io::Result<Leaving> {
        let socket = self.socket.into_std()?;
        let Some(secured) = self.secured else { return Ok(Leaving { socket, channel: None, early }) };
        let Secured { channel, opened, read, .. } = *secured;
        let early = if read < opened.len() {
            let mut whole = BytesMut::from(&early[..]);
            whole.extend_from_slice(&opened[read..]);
            whole.freeze()
        } else {
            early
        };
        Ok(Leaving { socket, channel: Some(Box::new(channel)), early })
    }
}

impl Secured {
    /// Sends what waits; ready once nothing does.
    fn poll_flush(&mut self, socket: &mut TcpStream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.channel.flush(|bytes| match Pin::new(&mut *socket).poll_write(context, bytes) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        })?;
        if flushed == Flushed::Whole { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_read(
        &mut self,
        socket: &mut TcpStream,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.read < self.opened.len() {
                let rest = &self.opened[self.read..];
                let length = rest.len().min(into.remaining());
                into.put_slice(&rest[..length]);
                self.read += length;
                return Poll::Ready(Ok(()));
            }
            (self.opened, self.read) = (Vec::new(), 0);
            if self.channel.is_closed() {
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [0; READ_BYTES];
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut *socket).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                // Without a goodbye it may have been cut off by somebody else.
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let read = self.channel.read(buffer.filled_mut(), &mut self.opened);
            // What does not go out now goes before the next write.
            let _ = self.poll_flush(socket, context)?;
            read.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { socket, secured } = &mut *self;
        match secured {
            None => Pin::new(socket).poll_read(context, into),
            Some(secured) => secured.poll_read(socket, context, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { socket, secured } = &mut *self;
        match secured {
            None => Pin::new(socket).poll_write(context, bytes),
            Some(secured) => {
                // One piece waits at the most.
                ready!(secured.poll_flush(socket, context))?;
                let taken = secured.channel.queue(bytes)?;
                let _ = secured.poll_flush(socket, context)?;
                Poll::Ready(Ok(taken))
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.secured.is_none() {
            return Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        }
        let first = slices.iter().find(|slice| !slice.is_empty());
        self.poll_write(context, first.map_or(&[][..], |slice| slice))
    }

    fn is_write_vectored(&self) -> bool {
        self.secured.is_none()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, secured } = &mut *self;
        if let Some(secured) = secured {
            ready!(secured.poll_flush(socket, context))?;
        }
        Pin::new(socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, secured } = &mut *self;
        if let Some(secured) = secured {
            if !std::mem::replace(&mut secured.closing, true) {
                secured.channel.close();
            }
            ready!(secured.poll_flush(socket, context))?;
        }
        Pin::new(socket).poll_shutdown(context)
    }
}
