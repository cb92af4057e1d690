//! A worker's sockets by session, and beside them the descriptors of the plain ones, side by side:
//! a turn that writes to all of them fetches four bytes of each, and not the socket.

use std::os::fd::{BorrowedFd, RawFd};
use std::rc::Rc;

use super::socket::Socket;
use crate::fanout::SessionId;

/// Stands where no plain socket is: none, or one with TLS above it.
const NONE: RawFd = -1;

/// See the module.
#[derive(Default)]
pub(super) struct Table {
    sockets: Vec<Option<Rc<Socket>>>,
    /// Beside `sockets`, and of them: see [`Self::plain`].
    descriptors: Vec<RawFd>,
}

impl Table {
    /// Keeps a session's socket, in place of the one that was there.
    pub(super) fn put(&mut self, session: SessionId, socket: Rc<Socket>) {
        let index = session as usize;
        if self.sockets.len() <= index {
            self.sockets.resize_with(index + 1, || None);
            self.descriptors.resize(index + 1, NONE);
        }
        self.descriptors[index] = socket.plain_descriptor().unwrap_or(NONE);
        self.sockets[index] = Some(socket);
    }

    /// Forgets a session's socket.
    pub(super) fn remove(&mut self, session: SessionId) {
        let index = session as usize;
        if index < self.sockets.len() {
            self.descriptors[index] = NONE;
            self.sockets[index] = None;
        }
    }

    /// A session's socket.
    #[inline]
    pub(super) fn get(&self, session: SessionId) -> Option<&Rc<Socket>> {
        self.sockets.get(session as usize)?.as_ref()
    }

    /// The descriptor of a session's socket, if nothing is above it.
    #[inline]
    #[allow(unsafe_code)] // Measured: docs/performance.md.
    pub(super) fn plain(&self, session: SessionId) -> Option<BorrowedFd<'_>> {
        let descriptor = *self.descriptors.get(session as usize)?;
        // SAFETY: a number other than `NONE` is that of the stream in `sockets` at the same index: `put`
        // and `remove` change both, and nothing else does. The stream stays open for as long as it is
        // there, as a `Socket` gives it away by value only, which takes the last `Rc`; and what is
        // borrowed here keeps the table, with that `Rc`, from being changed.
        (descriptor != NONE).then(|| unsafe { BorrowedFd::borrow_raw(descriptor) })
    }

    /// All sockets.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<Socket>> {
        self.sockets.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsRawFd as _;

    use bytes::Bytes;
    use rustix::net::SendFlags;

    use super::*;
    use crate::transport::Leaving;

    fn connected() -> (Rc<Socket>, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let theirs = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("listens");
        let ours = listener.accept().expect("connected").0;
        ours.set_nonblocking(true).expect("a socket");
        let leaving = Leaving { socket: ours, channel: None, early: Bytes::new() };
        (Rc::new(Socket::new(leaving).expect("a socket").0), theirs)
    }

    #[tokio::test]
    async fn a_descriptor_is_lent_for_as_long_as_its_socket_is_there() {
        let ((first, mut at_first), (second, mut at_second)) = (connected(), connected());
        let numbers = [&first, &second].map(|socket| socket.plain_descriptor().expect("plain"));
        let mut table = Table::default();
        assert!(table.plain(3).is_none() && table.get(3).is_none(), "nobody was ever there");
        table.put(3, Rc::clone(&first));
        table.put(1, Rc::clone(&second));
        assert_eq!([3, 1].map(|id| table.plain(id).expect("plain").as_raw_fd()), numbers);
        assert!([0, 2, 4].iter().all(|id| table.plain(*id).is_none()));
        for (id, peer, byte) in [(3, &mut at_first, b'a'), (1, &mut at_second, b'b')] {
            let sent = rustix::net::send(table.plain(id).expect("plain"), &[byte], SendFlags::NOSIGNAL);
            assert_eq!(sent, Ok(1));
            let mut got = [0];
            peer.read_exact(&mut got).expect("sent");
            assert_eq!(got[0], byte, "to whom it belongs");
        }
        table.remove(3);
        assert!(table.plain(3).is_none() && table.get(3).is_none());
        assert_eq!(table.plain(1).expect("still there").as_raw_fd(), numbers[1]);
        // Another socket, perhaps of the same number, in the place of one that is gone.
        drop(first);
        let (third, mut at_third) = connected();
        table.put(3, third);
        rustix::net::send(table.plain(3).expect("plain"), b"c", SendFlags::NOSIGNAL).expect("open");
        let mut got = [0];
        at_third.read_exact(&mut got).expect("sent");
        assert_eq!((got[0], table.iter().count()), (b'c', 2));
        table.remove(9);
    }
}
