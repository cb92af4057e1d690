//! An issuer's key endpoint that behaves as badly as it is told to.
#![allow(dead_code, unreachable_pub)] // Each test uses a part of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// What it does with a request.
#[derive(Clone, Debug)]
pub enum Behavior {
    /// Answers 200 with this.
    Keys(String),
    /// Answers with a status.
    Status(u16),
    /// Sends the one who asks to another place.
    Redirect(String),
    /// Takes the request and says nothing.
    Stall,
    /// Answers 200, and then a byte every now and then.
    Trickle,
    /// A body that never ends.
    Endless,
    /// A head that never ends.
    EndlessHead,
    /// Closes in the middle of the body.
    Cut,
    /// What is no HTTP.
    Noise,
}

/// A running endpoint.
pub struct Endpoint {
    pub url: String,
    behavior: Arc<Mutex<Behavior>>,
    requests: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Endpoint {
    pub async fn start(behavior: Behavior) -> Self {
        Self::serve(behavior, None).await
    }

    /// Over TLS, with the certificate for `localhost`.
    pub async fn start_encrypted(behavior: Behavior) -> Self {
        let chain = CertificateDer::pem_slice_iter(include_bytes!("../fixtures/tls/localhost.pem"));
        let chain: Vec<_> = chain.map(|certificate| certificate.expect("a certificate")).collect();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("../fixtures/tls/localhost.key")).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("supported")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a chain and its key");
        Self::serve(behavior, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn serve(behavior: Behavior, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (behavior, requests) = (Arc::new(Mutex::new(behavior)), Arc::new(AtomicUsize::new(0)));
        let url = if tls.is_some() {
            format!("https://localhost:{port}/jwks")
        } else {
            format!("http://127.0.0.1:{port}/jwks")
        };
        let (told, counted) = (Arc::clone(&behavior), Arc::clone(&requests));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (told, counted, tls) = (Arc::clone(&told), Arc::clone(&counted), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => answer(stream, &told, &counted).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                answer(stream, &told, &counted).await;
                            }
                        }
                    }
                });
            }
        });
        Self { url, behavior, requests, serving }
    }

    pub fn becomes(&self, behavior: Behavior) {
        *self.behavior.lock().expect("nobody panicked") = behavior;
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, told: &Mutex<Behavior>, counted: &AtomicUsize) {
    let mut request = Vec::new();
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        match stream.read_buf(&mut request).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    let behavior = told.lock().expect("nobody panicked").clone();
    counted.fetch_add(1, Ordering::SeqCst);
    let head = |length: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    // Whoever asked may have had enough.
    let _ = match behavior {
        Behavior::Keys(keys) => stream.write_all(format!("{}{keys}", head(keys.len())).as_bytes()).await,
        Behavior::Status(status) => {
            stream.write_all(format!("HTTP/1.1 {status} Told So\r\nContent-Length: 0\r\n\r\n").as_bytes()).await
        }
        Behavior::Redirect(url) => {
            let text = format!("HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(text.as_bytes()).await
        }
        Behavior::Stall => std::future::pending().await,
        Behavior::Trickle => {
            let mut sent = stream.write_all(head(100_000).as_bytes()).await;
            while sent.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                sent = stream.write_all(b" ").await;
            }
            sent
        }
        Behavior::Endless => {
            let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"keys\":[").await;
            while sent.is_ok() {
                sent = stream.write_all(&[b' '; 4096]).await;
            }
            sent
        }
        Behavior::EndlessHead => {
            let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\nX-Long: ").await;
            while sent.is_ok() {
                sent = stream.write_all(&[b'x'; 4096]).await;
            }
            sent
        }
        Behavior::Cut => stream.write_all(format!("{}{{\"keys\"", head(500)).as_bytes()).await,
        Behavior::Noise => stream.write_all(b"\x16\x03\x01 not HTTP at all\r\n\r\n").await,
    };
    let _ = stream.shutdown().await;
}
