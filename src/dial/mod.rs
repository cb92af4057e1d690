//! Ways out: TCP and TLS connections to named hosts, and small HTTP requests over them, each with
//! a deadline and a bound.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Uri;
use hyper::header::{HOST, HeaderMap, USER_AGENT};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::MaybeTlsStream;

/// A socket, encrypted or not.
pub(crate) type Stream = MaybeTlsStream<TcpStream>;

/// The cause of an error, kept whole.
pub(crate) type Source = Box<dyn Error + Send + Sync>;

/// Longest head of an answer: the library's own bound is 400 KiB for each connection.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A host could not be reached, or what came was no whole answer in time.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach {address}")]
pub(crate) struct DialError {
    /// Host and port, without anything secret.
    pub(crate) address: String,
    /// What the system, TLS or HTTP said.
    #[source]
    pub(crate) source: Source,
}

/// Why certificates are not good to trust in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    /// Not PEM, or none in it.
    #[error("has no certificate in PEM form")]
    NoCertificate,
    /// One of them cannot be a trust anchor.
    #[error("has a certificate that nothing can be trusted by: {0}")]
    Unfit(String),
}

/// Where someone listens: scheme, host, port, and a path in front of all others.
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
        let (address, uri) = Self::read(text, websocket)?;
        if uri.query().is_some() {
            return Err(expected(websocket));
        }
        Ok(Self { prefix: uri.path().trim_end_matches('/').to_owned(), ..address })
    }

    /// Reads `http://` or `https://` with what is to be asked for there: the path as it stands,
    /// with what is behind a `?`.
    ///
    /// # Errors
    /// A sentence that says what is expected.
    pub(crate) fn parse_with_target(text: &str) -> Result<(Self, String), String> {
        let (address, uri) = Self::read(text, false)?;
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        Ok((address, target.to_owned()))
    }

    fn read(text: &str, websocket: bool) -> Result<(Self, Uri), String> {
        let uri: Uri = text.parse().map_err(|_| expected(websocket))?;
        let scheme = schemes(websocket).into_iter().find(|(scheme, _)| uri.scheme_str() == Some(scheme));
        let ((scheme, port), authority) = scheme.zip(uri.authority()).ok_or_else(|| expected(websocket))?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(expected(websocket));
        }
        let (host, port) = (authority.host().to_owned(), authority.port_u16().unwrap_or(port));
        Ok((Self { scheme, host, port, prefix: String::new() }, uri))
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self.scheme, "wss" | "https")
    }

    /// Whether only this machine can be meant.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.bare_host();
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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

const fn schemes(websocket: bool) -> [(&'static str, u16); 2] {
    if websocket { [("ws", 80), ("wss", 443)] } else { [("http", 80), ("https", 443)] }
}

fn expected(websocket: bool) -> String {
    let [(plain, _), (encrypted, _)] = schemes(websocket);
    format!("must be {plain}://HOST[:PORT] or {encrypted}://HOST[:PORT]")
}

/// How to reach others: the trust anchors, and how long everything may take.
#[derive(Clone)]
pub(crate) struct Dialer {
    tls: TlsConnector,
    timeout: Duration,
}

impl Dialer {
    /// With the public trust anchors. `timeout` bounds a whole exchange: name, TCP, TLS, answer.
    ///
    /// # Errors
    /// What the TLS library does not support.
    pub(crate) fn new(timeout: Duration) -> Result<Self, String> {
        Self::trusting(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(), timeout)
    }

    /// With the certificates of a PEM text as the only trust anchors.
    ///
    /// # Errors
    /// [`TrustError`] where one of them is of no use, or there is none.
    pub(crate) fn trusting_only(pem: &[u8], timeout: Duration) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|_| TrustError::NoCertificate)?;
            roots.add(certificate).map_err(|error| TrustError::Unfit(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(TrustError::NoCertificate);
        }
        Self::trusting(roots, timeout).map_err(TrustError::Unfit)
    }

    fn trusting(roots: RootCertStore, timeout: Duration) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), timeout })
    }

    /// Bounds `work` with `address`.
    pub(crate) async fn within<T, E: From<DialError>>(
        &self,
        address: &Address,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        match tokio::time::timeout(self.timeout, work).await {
            Ok(done) => done,
            Err(_) => Err(unreachable(address, io::Error::from(io::ErrorKind::TimedOut)).into()),
        }
    }

    /// A connection to `address`; the caller bounds its time.
    pub(crate) async fn stream(&self, address: &Address) -> Result<Stream, DialError> {
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

    /// Asks for `path`; the body may have `bytes_max`. The answer, whatever its status: it is
    /// never gone after to another place.
    ///
    /// # Errors
    /// [`DialError`] for all that is no whole answer in time.
    pub(crate) async fn get(&self, address: &Address, path: &str, bytes_max: usize) -> Result<Answer, DialError> {
        self.within(address, async {
            let stream = TokioIo::new(self.stream(address).await?);
            let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
                .max_buf_size(HEAD_BYTES_MAX)
                .handshake(stream)
                .await
                .map_err(|e| unreachable(address, e))?;
            let request = hyper::Request::get(format!("{}{path}", address.prefix))
                .header(HOST, address.to_string())
                .header(USER_AGENT, concat!("tickhub/", env!("CARGO_PKG_VERSION")))
                .body(Empty::<Bytes>::new())
                .map_err(|e| unreachable(address, e))?;
            let exchange = async {
                let answer = sender.send_request(request).await.map_err(|e| unreachable(address, e))?;
                let (head, body) = answer.into_parts();
                let body = Limited::new(body, bytes_max).collect().await.map_err(|e| unreachable(address, e))?;
                Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
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
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What `source` means for `address`.
pub(crate) fn unreachable(address: &Address, source: impl Into<Source>) -> DialError {
    DialError { address: address.to_string(), source: source.into() }
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
        let (address, target) = Address::parse_with_target("https://id.example/keys/?app=7").expect("an address");
        assert_eq!(address.url(&target), "https://id.example:443/keys/?app=7");
        assert_eq!(Address::parse_with_target("http://a").expect("an address").1, "/");
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (text, loopback) in [
            ("http://127.0.0.1:80", true),
            ("http://127.9.9.9", true),
            ("http://[::1]:8080/keys", true),
            ("http://localhost", true),
            ("http://localhost.example", false),
            ("http://127.0.0.1.example", false),
            ("http://10.0.0.1", false),
            ("http://[::ffff:10.0.0.1]", false),
        ] {
            assert_eq!(Address::parse(text, false).expect(text).is_loopback(), loopback, "{text}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_not_trusted() {
        for bad in ["", "text", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
            let error = Dialer::trusting_only(bad.as_bytes(), Duration::from_secs(1)).err().expect(bad);
            assert!(matches!(error, TrustError::NoCertificate), "{bad}: {error}");
        }
        let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(Dialer::trusting_only(empty.as_bytes(), Duration::from_secs(1)).is_err());
    }
}
