//! How updates get into a server: the hub takes them from the venue that the harness plays, nats-server as its clients
//! publish, every other server from a TCP connection, each update with its length and symbol before it.

use std::{io, net::TcpStream};

use rustix::{io::Errno, net::SendFlags};

use crate::venue::{Event, Kind, Venue};

/// What a server says to a client whose subscriptions stand.
pub const READY: &[u8] = b"ready";
/// Longest update that a server takes.
const UPDATE_BYTES_MAX: usize = 1 << 16;
/// What may wait for a server that does not read: it is stuck by then.
const UNSENT_BYTES_MAX: usize = 256 << 20;

/// The way into a server.
#[derive(Debug)]
pub enum Feed {
    /// The hub's.
    Venue(Venue),
    /// With length and symbol.
    Framed(Line),
    /// In the words of NATS.
    Nats(Line),
}

/// A connection whose bytes wait here until the socket takes them.
#[derive(Debug)]
pub struct Line {
    stream: TcpStream,
    out: Vec<u8>,
    sent: usize,
}

impl Line {
    /// A line over `stream`.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, out: Vec::new(), sent: 0 }
    }

    /// Sends as much as the socket takes; whether that was all.
    fn flush(&mut self) -> io::Result<bool> {
        while self.sent < self.out.len() {
            match rustix::net::send(&self.stream, &self.out[self.sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(bytes) => self.sent += bytes,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(true)
    }
}

impl Feed {
    /// Puts update `number` of `symbol` behind what is to be sent. Its text is the hub's own business.
    ///
    /// # Errors
    /// The server does not read, or is gone.
    pub fn queue(&mut self, symbol: usize, number: u32, text: &str) -> anyhow::Result<()> {
        let line = match self {
            Self::Venue(venue) => return venue.queue(Event { kind: Kind::Quote, symbol, number: number.into() }),
            Self::Framed(line) => {
                line.out.extend_from_slice(&(text.len() as u32 + 2).to_le_bytes());
                line.out.extend_from_slice(&(symbol as u16).to_le_bytes());
                line.out.extend_from_slice(text.as_bytes());
                line
            }
            Self::Nats(line) => {
                line.out.extend_from_slice(format!("PUB s{symbol} {}\r\n{text}\r\n", text.len()).as_bytes());
                line
            }
        };
        anyhow::ensure!(line.out.len() < UNSENT_BYTES_MAX, "the server does not read its feed");
        Ok(())
    }

    /// Sends what is queued as far as the socket takes it; whether that was all.
    ///
    /// # Errors
    /// The server is gone.
    pub fn flush(&mut self) -> anyhow::Result<bool> {
        match self {
            Self::Venue(venue) => venue.flush(),
            Self::Framed(line) | Self::Nats(line) => Ok(line.flush()?),
        }
    }
}

/// The receiving end of [`Feed::Framed`].
#[derive(Debug, Default)]
pub struct Incoming {
    rest: Vec<u8>,
}

impl Incoming {
    /// The updates that are whole with these bytes: symbol and text.
    ///
    /// # Errors
    /// What comes is no feed.
    pub fn take(&mut self, bytes: &[u8]) -> io::Result<Vec<(usize, Vec<u8>)>> {
        self.rest.extend_from_slice(bytes);
        let (mut updates, mut at) = (Vec::new(), 0);
        while let Some(length) = self.rest[at..].first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            if !(2..UPDATE_BYTES_MAX).contains(&length) {
                return Err(io::Error::other("the feed has another form"));
            }
            let Some(update) = self.rest.get(at + 4..at + 4 + length) else { break };
            let symbol = u16::from_le_bytes([update[0], update[1]]).into();
            updates.push((symbol, update[2..].to_vec()));
            at += 4 + length;
        }
        self.rest.drain(..at);
        Ok(updates)
    }
}

/// The path by which a client asks for symbols: their numbers with dots between.
pub fn path_of(symbols: &[usize]) -> String {
    let numbers: Vec<String> = symbols.iter().map(usize::to_string).collect();
    format!("/?s={}", numbers.join("."))
}

/// What [`path_of`] says in a request's first line.
pub fn symbols_of_request(request: &[u8]) -> Vec<usize> {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let path = std::str::from_utf8(line).unwrap_or_default().split(' ').nth(1).unwrap_or_default();
    symbols_of_path(path)
}

/// What [`path_of`] says.
pub fn symbols_of_path(path: &str) -> Vec<usize> {
    let list = path.split_once("?s=").map_or("", |(_, list)| list);
    list.split('.').filter_map(|number| number.parse().ok()).filter(|symbol| *symbol <= usize::from(u16::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_are_whole_however_they_are_cut() {
        let mut bytes = Vec::new();
        for (symbol, text) in [(3_u16, "first"), (500, ""), (0, "third")] {
            bytes.extend_from_slice(&(text.len() as u32 + 2).to_le_bytes());
            bytes.extend_from_slice(&symbol.to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        let wanted = vec![(3, b"first".to_vec()), (500, vec![]), (0, b"third".to_vec())];
        for cut in 0..bytes.len() {
            let mut incoming = Incoming::default();
            let mut updates = incoming.take(&bytes[..cut]).unwrap();
            updates.extend(incoming.take(&bytes[cut..]).unwrap());
            assert_eq!(updates, wanted, "cut at {cut}");
        }
        assert!(Incoming::default().take(&[1, 0, 0, 0]).is_err(), "no symbol");
        assert!(Incoming::default().take(&[0, 0, 1, 0]).is_err(), "too long");
    }

    #[test]
    fn what_a_client_asks_for_is_read_from_its_request() {
        let request = format!("GET {} HTTP/1.1\r\nHost: x/?s=9\r\n\r\n", path_of(&[0, 17, 199]));
        assert_eq!(symbols_of_request(request.as_bytes()), [0, 17, 199]);
        assert!(symbols_of_request(b"GET / HTTP/1.1\r\n").is_empty());
    }
}
