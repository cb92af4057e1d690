//! The floor: the cheapest way known to bring an update to many sockets, a bare `send()` for each in the order of
//! their creation. It checks nothing, keeps nothing and promises nothing; what a server does beyond it is measured in
//! multiples of it.
//!
//! What it reads at once it joins, and sends with one `send()` a client, so it does the writes that a server that
//! coalesces has to do.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsFd,
};

use rustix::event::epoll::{self, EventData, EventFlags};

use super::feed::{self, Incoming};
use crate::{connect::head_end, frame};

/// Updates that are joined at most.
const JOINED_MAX: usize = 32;
/// Longest request of a client.
const REQUEST_BYTES_MAX: usize = 16 << 10;
const LISTENER: u64 = u64::MAX;
const FEED: u64 = u64::MAX - 1;
const EVENTS: usize = 1_024;
const READ_BYTES: usize = 256 << 10;

/// The answer to every upgrade: the clients all send the sample nonce of RFC 6455.
const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// What a client has besides its socket; touched only when the socket was full or a handshake is on.
#[derive(Default)]
struct Client {
    request: Vec<u8>,
    unsent: Vec<u8>,
    is_live: bool,
}

struct Floor {
    epoll: std::os::fd::OwnedFd,
    sockets: Vec<TcpStream>,
    clients: Vec<Client>,
    /// Whether something waits for the socket of a client.
    blocked: Vec<bool>,
    /// Clients by symbol, in the order of their creation.
    interest: Vec<Vec<usize>>,
    /// What this turn has for each client, where symbols differ.
    turn: Vec<Vec<u8>>,
}

/// Serves until the feed ends.
///
/// # Errors
/// As the system says.
pub fn serve() -> io::Result<()> {
    let listener = super::server::listen()?;
    let feed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    super::server::announce("floor", &listener, &feed)?;
    let (feed, _) = feed.accept()?;
    feed.set_nonblocking(true)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    epoll::add(&epoll, &feed, EventData::new_u64(FEED), EventFlags::IN)?;
    let mut floor = Floor {
        epoll,
        sockets: Vec::new(),
        clients: Vec::new(),
        blocked: Vec::new(),
        interest: Vec::new(),
        turn: Vec::new(),
    };
    floor.run(&listener, &feed)
}

impl Floor {
    fn run(&mut self, listener: &TcpListener, mut feed: &TcpStream) -> io::Result<()> {
        let mut incoming = Incoming::default();
        let mut buffer = vec![0; READ_BYTES];
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(listener)?,
                    FEED => match feed.read(&mut buffer) {
                        Ok(0) => return Ok(()),
                        Ok(bytes) => self.publish(&mut incoming, &buffer[..bytes])?,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    },
                    client => self.hear(client as usize)?,
                }
            }
        }
    }

    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            let flags = EventFlags::IN | EventFlags::ET;
            epoll::add(&self.epoll, &socket, EventData::new_u64(self.sockets.len() as u64), flags)?;
            self.sockets.push(socket);
            self.clients.push(Client::default());
            self.blocked.push(false);
            self.turn.push(Vec::new());
        }
    }

    /// A handshake goes on, or a socket takes something again.
    fn hear(&mut self, at: usize) -> io::Result<()> {
        let client = &mut self.clients[at];
        if client.is_live {
            if self.blocked[at] {
                let unsent = std::mem::take(&mut client.unsent);
                self.blocked[at] = false;
                self.send(at, &unsent);
            }
            return Ok(());
        }
        let mut buffer = [0; 4_096];
        loop {
            match (&self.sockets[at]).read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(bytes) => client.request.extend_from_slice(&buffer[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A client that is gone gets nothing.
                Err(_) => return Ok(()),
            }
        }
        if head_end(&client.request).is_none() {
            return if client.request.len() > REQUEST_BYTES_MAX {
                Err(io::Error::other("a request without end"))
            } else {
                Ok(())
            };
        }
        let symbols = feed::symbols_of_request(&client.request);
        client.request = Vec::new();
        client.is_live = true;
        for symbol in symbols {
            let wanted = self.interest.len().max(symbol + 1);
            self.interest.resize(wanted, Vec::new());
            self.interest[symbol].push(at);
        }
        let data = EventData::new_u64(at as u64);
        epoll::modify(&self.epoll, self.sockets[at].as_fd(), data, EventFlags::OUT | EventFlags::ET)?;
        let mut answer = UPGRADED.as_bytes().to_vec();
        frame::append_server(&mut answer, frame::TEXT, feed::READY);
        self.send(at, &answer);
        Ok(())
    }

    fn publish(&mut self, incoming: &mut Incoming, bytes: &[u8]) -> io::Result<()> {
        let updates = incoming.take(bytes)?;
        for updates in updates.chunks(JOINED_MAX) {
            let Some((symbol, _)) = updates.first() else { continue };
            if updates.iter().all(|(other, _)| other == symbol) {
                let mut joined = Vec::new();
                updates.iter().for_each(|(_, text)| frame::append_server(&mut joined, frame::TEXT, text));
                for at in 0..self.interest.get(*symbol).map_or(0, Vec::len) {
                    self.send(self.interest[*symbol][at], &joined);
                }
            } else {
                self.publish_mixed(updates);
            }
        }
        Ok(())
    }

    /// Updates of several symbols: each touched client gets what it asked for, with one `send()`.
    fn publish_mixed(&mut self, updates: &[(usize, Vec<u8>)]) {
        let mut touched = Vec::new();
        let mut framed = Vec::new();
        for (symbol, text) in updates {
            framed.clear();
            frame::append_server(&mut framed, frame::TEXT, text);
            for at in self.interest.get(*symbol).into_iter().flatten() {
                if self.turn[*at].is_empty() {
                    touched.push(*at);
                }
                self.turn[*at].extend_from_slice(&framed);
            }
        }
        touched.sort_unstable();
        for at in touched {
            let mut bytes = std::mem::take(&mut self.turn[at]);
            self.send(at, &bytes);
            bytes.clear();
            self.turn[at] = bytes;
        }
    }

    #[inline]
    fn send(&mut self, at: usize, bytes: &[u8]) {
        if self.blocked[at] {
            self.clients[at].unsent.extend_from_slice(bytes);
            return;
        }
        match (&self.sockets[at]).write(bytes) {
            Ok(sent) if sent == bytes.len() => {}
            Ok(sent) => self.block(at, &bytes[sent..]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.block(at, bytes),
            // A client that is gone gets nothing.
            Err(_) => {}
        }
    }

    fn block(&mut self, at: usize, rest: &[u8]) {
        self.blocked[at] = true;
        self.clients[at].unsent = rest.to_vec();
    }
}
