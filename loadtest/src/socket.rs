//! A subscriber's connection, plain or with TLS, as the worker reads and writes it.

use std::{
    fmt, fs,
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::Arc,
};

use anyhow::Context;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

/// Ciphertext that is read at once.
const WIRE_BYTES: usize = 32 << 10;

/// How to speak TLS with the hub.
#[derive(Clone)]
pub struct Tls {
    /// What is trusted and offered.
    pub config: Arc<ClientConfig>,
    /// Whose certificate the hub must have.
    pub name: ServerName<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// For the host of a URL. `ca` is whom to trust; `None` trusts everybody. Nothing is resumed: every subscriber is
    /// a client of its own.
    ///
    /// # Errors
    /// The file has no certificates, or the host cannot be in one.
    pub fn new(host: &str, ca: Option<&Path>) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let mut config = match ca {
            None => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))).with_no_client_auth()
            }
            Some(path) => {
                let text = fs::read(path).with_context(|| format!("the certificates {}", path.display()))?;
                let mut roots = RootCertStore::empty();
                for root in CertificateDer::pem_slice_iter(&text) {
                    roots.add(root?)?;
                }
                anyhow::ensure!(!roots.is_empty(), "{} has no certificates", path.display());
                builder.with_root_certificates(roots).with_no_client_auth()
            }
        };
        config.resumption = Resumption::disabled();
        let bare = host.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(address, _)| address);
        let bare = bare.unwrap_or_else(|| host.split(':').next().unwrap_or(host)).to_owned();
        let name = ServerName::try_from(bare).with_context(|| format!("{host} cannot be in a certificate"))?;
        Ok(Self { config: Arc::new(config), name })
    }
}

/// Takes every certificate: what is measured is what TLS costs, not whom to trust.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// One connection, non-blocking.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Socket {
    /// A connection that is being opened.
    ///
    /// # Errors
    /// As rustls says.
    pub fn new(stream: TcpStream, tls: Option<&Tls>) -> io::Result<Self> {
        let begin = |tls: &Tls| ClientConnection::new(Arc::clone(&tls.config), tls.name.clone()).map(Box::new);
        let tls = tls.map(begin).transpose().map_err(io::Error::other)?;
        Ok(Self { stream, tls })
    }

    /// What failed since it was last asked.
    ///
    /// # Errors
    /// As the system says.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.stream.take_error()
    }

    /// Reads what there is; `WouldBlock` where that is nothing yet. With less room than 64 KiB, more may be there that
    /// the socket does not know of.
    ///
    /// # Errors
    /// As the system says; `InvalidData` where the hub broke TLS.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.stream.read(into) };
        let mut filled = opened(tls, into);
        if filled == into.len() {
            return Ok(filled);
        }
        let mut wire = [0; WIRE_BYTES];
        let most = (into.len() - filled).min(WIRE_BYTES);
        let read = match self.stream.read(&mut wire[..most]) {
            Ok(read) => read,
            Err(_) if filled > 0 => return Ok(filled),
            Err(error) => return Err(error),
        };
        let mut rest = &wire[..read];
        while !rest.is_empty() && tls.read_tls(&mut rest)? > 0 {
            let sound = tls.process_new_packets();
            sound.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            filled += opened(tls, &mut into[filled..]);
        }
        self.flush()?;
        if filled == 0 && read > 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(filled) }
    }

    /// Writes as much as fits.
    ///
    /// # Errors
    /// As the system says.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.flush()? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let Some(tls) = &mut self.tls else { return self.stream.write(bytes) };
        let written = tls.writer().write(bytes)?;
        self.flush()?;
        Ok(written)
    }

    /// Sends what TLS has to say; whether that is everything.
    ///
    /// # Errors
    /// As the system says.
    pub fn flush(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        while tls.wants_write() {
            match tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Moves plaintext that is there; how much.
fn opened(tls: &mut ClientConnection, into: &mut [u8]) -> usize {
    let mut filled = 0;
    // An end is told from nothing by the socket's own.
    while let Ok(read @ 1..) = tls.reader().read(&mut into[filled..]) {
        filled += read;
    }
    filled
}
