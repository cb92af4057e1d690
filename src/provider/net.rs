//! Sockets to venues: TCP, TLS, WebSocket handshakes and small HTTP requests, each with a deadline
//! and a bound.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Uri;
use hyper::header::{HOST, HeaderMap, RETRY_AFTER, USER_AGENT};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Error as WsError};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{ProviderError, Source};

/// A socket, encrypted or not.
pub(crate) type Stream = MaybeTlsStream<TcpStream>;

/// What is read of a venue at once. The library fills it with zeros before each read, so that its
/// own default of 128 KiB costs more than the message that came.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// What is sent on one connection and not yet taken by the system: a few commands. The library's
/// own default is unbounded.
const WRITE_BUFFER_BYTES_MAX: usize = 256 * 1024;

/// Longest pause that a venue can ask for: a typing error there must not be a day here.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3 * 3600);

/// Where a venue listens: scheme, host, port, and a path in front of all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    scheme: &'static str,
    host: String,
    port: u16,
    prefix: String,
}

impl Address {
    /// Reads `ws://`, `wss://` (if `websocket`), else `http://`, `https://`, with an optional
    /// port and path.
    ///
    /// # Errors
    /// A sentence that says what is expected.
    pub(crate) fn parse(text: &str, websocket: bool) -> Result<Self, String> {
        let schemes = if websocket { [("ws", 80), ("wss", 443)] } else { [("http", 80), ("https", 443)] };
        let expected = || format!("must be {}://HOST[:PORT] or {}://HOST[:PORT]", schemes[0].0, schemes[1].0);
        let uri: Uri = text.parse().map_err(|_| expected())?;
        let scheme = schemes.into_iter().find(|(scheme, _)| uri.scheme_str() == Some(scheme));
        let ((scheme, port), authority) = scheme.zip(uri.authority()).ok_or_else(expected)?;
        if authority.host().is_empty() || authority.as_str().contains('@') || uri.query().is_some() {
            return Err(expected());
        }
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { scheme, host: authority.host().to_owned(), port: authority.port_u16().unwrap_or(port), prefix })
    }

    fn is_encrypted(&self) -> bool {
        matches!(self.scheme, "wss" | "https")
    }

    /// The host without the brackets of an IPv6 address.
    fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Whole address of `path`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}:{}{}{path}", self.scheme, self.host, self.port, self.prefix)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// How to reach venues: the trust anchors, and how long a connection may take to stand.
#[derive(Clone)]
pub(crate) struct Dialer {
    tls: TlsConnector,
    timeout: Duration,
}

impl Dialer {
    /// With the public trust anchors. `timeout` bounds name, TCP, TLS and handshake together.
    pub(crate) fn new(timeout: Duration) -> Result<Self, ProviderError> {
        let roots: rustls::RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| ProviderError::Config(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), timeout })
    }

    async fn within<T>(
        &self,
        address: &Address,
        work: impl Future<Output = Result<T, ProviderError>>,
    ) -> Result<T, ProviderError> {
        match tokio::time::timeout(self.timeout, work).await {
            Ok(done) => done,
            Err(_) => Err(unreachable(address, io::Error::from(io::ErrorKind::TimedOut))),
        }
    }

    async fn stream(&self, address: &Address) -> Result<Stream, ProviderError> {
        let tcp = TcpStream::connect((address.bare_host(), address.port)).await.map_err(|e| unreachable(address, e))?;
        // Commands are small and wanted at once.
        tcp.set_nodelay(true).map_err(|e| unreachable(address, e))?;
        if !address.is_encrypted() {
            return Ok(MaybeTlsStream::Plain(tcp));
        }
        let name = ServerName::try_from(address.bare_host().to_owned()).map_err(|e| unreachable(address, e))?;
        let tls = self.tls.connect(name, tcp).await.map_err(|e| unreachable(address, e))?;
        Ok(MaybeTlsStream::Rustls(tls))
    }

    /// A WebSocket at `path`, which takes messages of at most `message_bytes_max`.
    ///
    /// # Errors
    /// `Connect`, or `Refused` and `RateLimited` where the venue answers with an HTTP status.
    pub(crate) async fn websocket(
        &self,
        address: &Address,
        path: &str,
        message_bytes_max: usize,
    ) -> Result<WebSocketStream<Stream>, ProviderError> {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max))
            .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX);
        let shake = async {
            let stream = self.stream(address).await?;
            let shaken = tokio_tungstenite::client_async_with_config(address.url(path), stream, Some(config)).await;
            shaken.map(|(socket, _)| socket).map_err(|error| match error {
                WsError::Http(answer) => turned_down(answer.status().as_u16(), answer.headers()),
                other => unreachable(address, other),
            })
        };
        self.within(address, shake).await
    }

    /// Asks for `path`; the body may have `bytes_max`. The answer, whatever its status.
    ///
    /// # Errors
    /// `Connect` for all that is no answer.
    pub(crate) async fn get(&self, address: &Address, path: &str, bytes_max: usize) -> Result<Answer, ProviderError> {
        self.within(address, async {
            let stream = TokioIo::new(self.stream(address).await?);
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(stream).await.map_err(|e| unreachable(address, e))?;
            let request = hyper::Request::get(format!("{}{path}", address.prefix))
                .header(HOST, address.to_string())
                .header(USER_AGENT, concat!("tickhub/", env!("CARGO_PKG_VERSION")))
                .body(Empty::<Bytes>::new())
                .map_err(|e| unreachable(address, e))?;
            let exchange = async {
                let answer = sender.send_request(request).await.map_err(|e| unreachable(address, e))?;
                let (head, body) = answer.into_parts();
                let body = Limited::new(body, bytes_max).collect().await;
                let body = body.map_err(|source| ProviderError::Connect { address: address.to_string(), source })?;
                let retry_after = retry_after(&head.headers);
                Ok(Answer { status: head.status.as_u16(), retry_after, body: body.to_bytes() })
            };
            tokio::pin!(exchange);
            tokio::select! {
                answer = &mut exchange => return answer,
                // It ends when the body has been handed over, which the exchange then still has
                // to take; its error reaches the exchange as well.
                _ = connection => {}
            }
            exchange.await
        })
        .await
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body of a success.
    ///
    /// # Errors
    /// `RateLimited` or `Refused` for every other status.
    pub(crate) fn success(self) -> Result<Bytes, ProviderError> {
        match self.status {
            200..=299 => Ok(self.body),
            status => Err(refusal(status, self.retry_after)),
        }
    }
}

fn unreachable(address: &Address, source: impl Into<Source>) -> ProviderError {
    ProviderError::Connect { address: address.to_string(), source: source.into() }
}

fn turned_down(status: u16, headers: &HeaderMap) -> ProviderError {
    refusal(status, retry_after(headers))
}

const fn refusal(status: u16, retry_after: Option<Duration>) -> ProviderError {
    match status {
        // 418 is what Binance answers to those who went on after 429.
        418 | 429 => ProviderError::RateLimited { status, retry_after },
        _ => ProviderError::Refused { status },
    }
}

/// The seconds of `Retry-After`; its other form, a date, is not in use with venues.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// What a broken WebSocket means.
pub(crate) fn broken(error: WsError) -> ProviderError {
    match error {
        WsError::ConnectionClosed | WsError::AlreadyClosed => {
            ProviderError::Closed { code: None, reason: String::new(), source: None }
        }
        WsError::Io(_) | WsError::Tls(_) => {
            ProviderError::Closed { code: None, reason: String::new(), source: Some(error.into()) }
        }
        WsError::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => {
            ProviderError::Closed { code: None, reason: "without a closing handshake".to_owned(), source: None }
        }
        other => ProviderError::Protocol(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses_and_says_what_is_expected() {
        let address = Address::parse("wss://stream.example:9443/base/", true).expect("an address");
        assert_eq!(address.to_string(), "stream.example:9443");
        assert_eq!(address.url("/ws"), "wss://stream.example:9443/base/ws");
        assert_eq!(Address::parse("http://[::1]:80", false).expect("an address").bare_host(), "::1");
        assert_eq!(Address::parse("https://a", false).expect("an address").port, 443);
        for bad in ["", "a.b", "https://a", "wss://", "wss://user:secret@a", "wss://a/?token=1", "wss://a b"] {
            let error = Address::parse(bad, true).expect_err(bad);
            assert_eq!(error, "must be ws://HOST[:PORT] or wss://HOST[:PORT]");
        }
    }

    #[test]
    fn tells_limits_from_refusals_and_bounds_the_pause() {
        let mut headers = HeaderMap::new();
        assert!(matches!(turned_down(403, &headers), ProviderError::Refused { status: 403 }));
        assert_eq!(turned_down(429, &headers).retry_after(), None);
        headers.insert(RETRY_AFTER, "17".parse().expect("a value"));
        assert_eq!(turned_down(418, &headers).retry_after(), Some(Duration::from_secs(17)));
        headers.insert(RETRY_AFTER, "99999999999".parse().expect("a value"));
        assert_eq!(turned_down(429, &headers).retry_after(), Some(RETRY_AFTER_MAX));
    }
}
