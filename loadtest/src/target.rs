//! The server that is tried: its addresses, taken apart once.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, bail};

/// A server's WebSocket and REST endpoints.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where subscribers connect.
    pub address: SocketAddr,
    /// Whether they speak TLS.
    pub tls: bool,
    /// `Host` of the upgrade.
    pub host: String,
    /// Path and query of the upgrade.
    pub path: String,
    /// Where REST is; with TLS where the WebSocket has it.
    pub http_address: SocketAddr,
    /// `Host` of REST.
    pub http_host: String,
}

impl Target {
    /// Takes apart `ws://host:port/path` (or `wss`) and, where REST is elsewhere, `http://host:port` (or `https`).
    ///
    /// # Errors
    /// The URL is of another kind, or its host is unknown.
    pub fn resolve(ws: &str, http: Option<&str>) -> anyhow::Result<Self> {
        let tls = ws.starts_with("wss://");
        let (ws_scheme, http_scheme, port) = if tls { ("wss", "https", 443) } else { ("ws", "http", 80) };
        let (host, path) = split(ws, ws_scheme)?;
        let address = look_up(&host, port)?;
        let (http_address, http_host) = match http {
            Some(http) => {
                let (host, _) = split(http, http_scheme)?;
                (look_up(&host, port)?, host)
            }
            None => (address, host.clone()),
        };
        Ok(Self { address, tls, host, path, http_address, http_host })
    }
}

fn split(url: &str, scheme: &str) -> anyhow::Result<(String, String)> {
    let Some(rest) = url.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")) else {
        bail!("{url:?} is not a {scheme}:// URL");
    };
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    let sound = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if host.is_empty() || host.contains('@') || !sound(rest) {
        bail!("{url:?} is malformed");
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok((host.to_owned(), path))
}

fn look_up(host: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let with_port = if host.rsplit(']').next().is_some_and(|tail| tail.contains(':')) {
        host.to_owned()
    } else {
        format!("{host}:{port}")
    };
    let mut found = with_port.to_socket_addrs().with_context(|| format!("the host {host}"))?;
    found.next().with_context(|| format!("the host {host} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let target = Target::resolve("ws://127.0.0.1:8080/api/v1/ws/prices?x=1", Some("http://127.0.0.1:81")).unwrap();
        assert_eq!((target.address.port(), target.http_address.port()), (8080, 81));
        assert_eq!((target.host.as_str(), target.path.as_str()), ("127.0.0.1:8080", "/api/v1/ws/prices?x=1"));
        assert_eq!(Target::resolve("ws://[::1]", None).unwrap().address.port(), 80);
        let target = Target::resolve("wss://127.0.0.1/x", Some("https://127.0.0.1:81")).unwrap();
        assert_eq!((target.tls, target.address.port(), target.http_address.port()), (true, 443, 81));
        assert!(Target::resolve("wss://127.0.0.1", Some("http://127.0.0.1")).is_err(), "half of it with TLS");
        for wrong in ["wsss://a", "http://a", "ws://", "ws://a b/", "ws://user@127.0.0.1"] {
            assert!(Target::resolve(wrong, None).is_err(), "{wrong}");
        }
    }
}
