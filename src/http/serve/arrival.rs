//! The first moments of a connection: whose it is, and whether it may come in.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::transport::{Gate, NoHeader, ProxyProtocol, Remote, Spoken, V2_BYTES_MAX, read_proxy_header};

/// Why the header of a trusted proxy did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unannounced {
    /// What came is none.
    Garbage(NoHeader),
    /// It was not whole in time.
    Late,
    /// The connection ended before.
    Gone,
}

/// Whether a connection has to begin with a PROXY header. One that comes from anywhere else is not
/// believed: it is an unreadable request then.
pub(super) fn is_announced(gate: &Gate, remote: &Remote) -> bool {
    gate.proxies().protocol != ProxyProtocol::Off && gate.trusts(remote)
}

/// Reads the header, not a byte more, and gives the client that it names.
///
/// # Errors
/// [`Unannounced`]; the connection is to be closed without an answer, since nobody is known to be
/// there who would read it.
pub(super) async fn announced(
    stream: &mut TcpStream,
    remote: Remote,
    protocol: ProxyProtocol,
    timeout: Duration,
) -> Result<Remote, Unannounced> {
    match tokio::time::timeout(timeout, read(stream, protocol)).await {
        Err(_) => Err(Unannounced::Late),
        Ok(Err(why)) => Err(why),
        Ok(Ok(Spoken::For(client))) => Ok(remote.for_client(client)),
        Ok(Ok(Spoken::ForItself)) => Ok(remote),
    }
}

async fn read(stream: &mut TcpStream, protocol: ProxyProtocol) -> Result<Spoken, Unannounced> {
    let mut held: Vec<u8> = Vec::new();
    loop {
        // Looked at first, then taken: what follows the header belongs to others.
        let taken = held.len();
        held.resize(V2_BYTES_MAX, 0);
        let seen = stream.peek(&mut held[taken..]).await.map_err(|_| Unannounced::Gone)?;
        if seen == 0 {
            return Err(Unannounced::Gone);
        }
        held.truncate(taken + seen);
        let header = read_proxy_header(&held, protocol).map_err(Unannounced::Garbage)?;
        let bytes = header.map_or(held.len(), |header| header.bytes);
        stream.read_exact(&mut held[taken..bytes]).await.map_err(|_| Unannounced::Gone)?;
        if let Some(header) = header {
            return Ok(header.spoken);
        }
    }
}
