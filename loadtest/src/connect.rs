//! Opening connections: local addresses, the descriptor limit, and the upgrade request with its answer.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
};

use anyhow::ensure;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

use crate::options::Plan;

/// A local address has some 28,000 ports to one destination; well below that, finding a free one stays cheap.
const CLIENTS_PER_ADDRESS: usize = 10_000;
/// Descriptors that are not subscribers: terminal, files, epoll, REST.
const DESCRIPTORS_SPARE: u64 = 64;
/// A slow client is to be felt by the hub, not by the kernel, so its socket holds little.
const SLOW_RECEIVE_BYTES: usize = 16 << 10;
/// An answer to the upgrade that is longer is refused.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// The sample nonce of RFC 6455 and the answer to it. The nonce keeps caches from answering, which one host does not
/// have, so all clients may use the same and none has to hash.
const NONCE: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const NONCE_ANSWER: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const SUBPROTOCOL: &str = "tickhub.v1.json";

/// Raises the limit of open descriptors as far as `clients` need and the system lets.
///
/// # Errors
/// It is too low, with what to do.
pub fn raise_descriptor_limit(clients: usize) -> anyhow::Result<()> {
    let needed = clients as u64 + DESCRIPTORS_SPARE;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let enough = maximum.is_none_or(|maximum| maximum >= needed);
    let wanted = if enough { maximum } else { Some(needed) };
    // Beyond the hard limit only a privileged process gets, so that failing is no news by itself.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: wanted.or(Some(needed)), maximum: wanted });
    ensure!(
        raised.is_ok(),
        "{clients} clients need {needed} open files, but the hard limit is {}: raise it (`ulimit -Hn`, or \
         LimitNOFILE= of the service) or ask for fewer clients",
        maximum.unwrap_or(u64::MAX)
    );
    Ok(())
}

/// Where clients connect from: `None` = wherever the system likes.
#[derive(Debug, Clone)]
pub struct Sources(Vec<Option<IpAddr>>);

impl Sources {
    /// What was asked for; else, on IPv4 loopback, as many addresses as the clients need.
    pub fn new(plan: &Plan) -> Self {
        if !plan.source_addresses.is_empty() {
            return Self(plan.source_addresses.iter().copied().map(Some).collect());
        }
        match plan.target.address {
            SocketAddr::V4(address) if address.ip().is_loopback() => {
                let wanted = plan.scenario.clients.div_ceil(CLIENTS_PER_ADDRESS).min(250);
                // Ports of a run that has just ended may still be held; the next run comes from elsewhere.
                let block = (std::process::id() % 250) as u8;
                let address = |at: usize| IpAddr::V4(Ipv4Addr::new(127, 0, block, 2 + at as u8));
                Self((0..wanted).map(|at| Some(address(at))).collect())
            }
            _ => Self(vec![None]),
        }
    }

    /// Begins to connect, for the client with the number `client`. A taken port is tried again from the next address.
    ///
    /// # Errors
    /// As the system says.
    pub fn connect(&self, client: usize, to: SocketAddr, slow: bool) -> io::Result<TcpStream> {
        let mut failure = None;
        for attempt in 0..self.0.len().max(2) {
            match open(self.0[(client + attempt) % self.0.len()], to, slow) {
                Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) => {
                    failure = Some(error);
                }
                other => return other,
            }
        }
        Err(failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
    }
}

fn open(from: Option<IpAddr>, to: SocketAddr, slow: bool) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if slow {
        socket.set_recv_buffer_size(SLOW_RECEIVE_BYTES)?;
    }
    if let Some(from) = from {
        // Every connection goes to one destination, so a port taken here for good costs nothing that it would not
        // cost anyhow.
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

/// The upgrade request, the same for every client.
pub fn upgrade_request(plan: &Plan) -> Vec<u8> {
    let (target, token) = (&plan.target, &plan.token);
    format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {NONCE}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\nAuthorization: Bearer {token}\r\n\r\n",
        target.path, target.host
    )
    .into_bytes()
}

/// Where the head of an HTTP answer ends, its blank line included; `None` while it is not whole.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// Checks the head of the answer to [`upgrade_request`].
///
/// # Errors
/// Why the connection is not a WebSocket of the protocol.
pub fn check_upgrade(head: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(head).map_err(|_| "the answer to the upgrade is not text".to_owned())?;
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("101") {
        return Err(format!("the upgrade was answered {}", crate::measure::shown(status.as_bytes())));
    }
    let header = |name: &str| {
        let of_name = |line: &&str| line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name));
        text.split("\r\n").find(of_name).and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
    };
    if header("sec-websocket-accept") != Some(NONCE_ANSWER) {
        return Err("the upgrade's Sec-WebSocket-Accept is wrong".to_owned());
    }
    if header("sec-websocket-protocol") != Some(SUBPROTOCOL) {
        return Err(format!("the upgrade did not agree to {SUBPROTOCOL}"));
    }
    if header("sec-websocket-extensions").is_some() {
        return Err("the upgrade agreed to an extension that was not offered".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_and_right_answer_is_an_upgrade() {
        let right = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                     sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: tickhub.v1.json\r\n\r\n";
        assert_eq!(head_end(right.as_bytes()), Some(right.len()));
        assert_eq!(head_end(&right.as_bytes()[..right.len() - 1]), None);
        assert_eq!(check_upgrade(right.as_bytes()), Ok(()));
        for (from, to, reason) in [
            ("101 Switching Protocols", "401 Unauthorized", "401"),
            ("xOo=", "xOp=", "Accept"),
            ("tickhub.v1.json", "other", "did not agree"),
            ("upgrade: websocket", "sec-websocket-extensions: permessage-deflate", "extension"),
        ] {
            let error = check_upgrade(right.replace(from, to).as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
