//! Certificates, keys and lists from their files, put together into what rustls serves with.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ProducesTickets, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use super::config::{ClientAuth, TlsConfig, TlsVersion};
use crate::auth::not_after;
use crate::model::UnixNanos;
use crate::settings::Fault;
use crate::time::rfc3339;

/// Most bytes of one file: a wrong path must not fill the memory. Lists of revoked certificates
/// are the largest that there are.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The one protocol that is spoken above TLS: what becomes a WebSocket is HTTP/1.1.
const ALPN: &[u8] = b"http/1.1";

/// Tickets that a client is given after a handshake of TLS 1.3: one goes on from where it was, and
/// a client that opens several sessions at once handshakes anew.
const TICKETS: usize = 1;

/// What a listener serves with.
#[derive(Debug)]
pub struct Material {
    pub(super) config: Arc<ServerConfig>,
    pub(super) not_after: UnixNanos,
}

impl Material {
    /// What is wrong with the files of the section whose path is `path`; nothing where the section
    /// itself has faults, which say it.
    #[must_use]
    pub fn check(config: &TlsConfig, path: &str) -> Option<Fault> {
        let tickets: Arc<dyn ProducesTickets> = Arc::new(NoTickets);
        if config.faults(path).is_empty() { Self::read(config, path, &tickets).err() } else { None }
    }

    /// Reads the files of the section whose path is `path`.
    ///
    /// # Errors
    /// The first [`Fault`], with the key of the file that it is about.
    pub fn read(config: &TlsConfig, path: &str, tickets: &Arc<dyn ProducesTickets>) -> Result<Self, Fault> {
        let file = |key: &str, file: &Option<PathBuf>| match file {
            Some(file) => Ok((format!("{path}.{key}"), file.clone())),
            None => Err(Fault::hidden(format!("{path}.{key}"), "is missing")),
        };
        let (cert_key, cert_file) = file("cert_file", &config.cert_file)?;
        let chain = certificates(&cert_key, &cert_file)?;
        let not_after = chain.first().and_then(|own| not_after(own)).ok_or_else(|| {
            Fault::new(&cert_key, &cert_file, "begins with something that is not a certificate of X.509; write PEM")
        })?;
        let (key_key, key_file) = file("key_file", &config.key_file)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&key_key, &key_file)?).map_err(|_| {
            // What the library says could repeat a part of the key.
            Fault::new(&key_key, &key_file, "has no private key in PEM; write PKCS#8, SEC1 or PKCS#1, not encrypted")
        })?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions: &[&rustls::SupportedProtocolVersion] = match config.min_version {
            TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::V1_3 => &[&rustls::version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| Fault::hidden(path, error.to_string()))?;
        let builder = match verifier(config, path, &provider)? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut served = builder.with_single_cert(chain, key).map_err(|error| {
            let reason = format!("does not go with {}: {error}", cert_file.display());
            Fault::new(&key_key, &key_file, reason)
        })?;
        served.alpn_protocols = vec![ALPN.to_vec()];
        // A session that goes on from an earlier one shows no certificate again: with a list of
        // roots or of revoked ones that has changed meanwhile, it would still be let in.
        if config.client_auth == ClientAuth::Off {
            served.ticketer = Arc::clone(tickets);
            served.send_tls13_tickets = TICKETS;
        } else {
            served.send_tls13_tickets = 0;
        }
        Ok(Self { config: Arc::new(served), not_after })
    }

    /// A fault if the certificate has ended by `now`.
    pub(super) fn ended(&self, path: &str, config: &TlsConfig, now: UnixNanos) -> Option<Fault> {
        let reason = format!("ended at {}; put a newer one in its place", rfc3339(self.not_after));
        (self.not_after <= now).then(|| Fault::new(format!("{path}.cert_file"), &config.cert_file, reason))
    }
}

/// Where nothing is served.
#[derive(Debug)]
struct NoTickets;

impl ProducesTickets for NoTickets {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _plain: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _cipher: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

/// Judges clients' certificates, where they are asked for.
fn verifier(
    config: &TlsConfig,
    path: &str,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, Fault> {
    let Some(file) = config.client_ca_file.as_ref().filter(|_| config.client_auth != ClientAuth::Off) else {
        return Ok(None);
    };
    let key = format!("{path}.client_ca_file");
    let mut roots = RootCertStore::empty();
    for root in certificates(&key, file)? {
        roots
            .add(root)
            .map_err(|error| Fault::new(&key, file, format!("has a certificate that is no root: {error}")))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if let Some(file) = &config.crl_file {
        let key = format!("{path}.crl_file");
        let text = read(&key, file)?;
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
        let lists = lists.ok().filter(|lists| !lists.is_empty());
        let lists = lists.ok_or_else(|| Fault::new(&key, file, "has no list of revoked certificates in PEM"))?;
        // A root whose list is not here still counts; a list that has ended does not.
        builder = builder.with_crls(lists).allow_unknown_revocation_status().enforce_revocation_expiration();
    }
    if config.client_auth == ClientAuth::Optional {
        builder = builder.allow_unauthenticated();
    }
    let built = builder.build().map_err(|error| Fault::new(&key, file, format!("cannot be used: {error}")))?;
    Ok(Some(built))
}

fn certificates(key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let text = read(key, file)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    all.ok()
        .filter(|all| !all.is_empty())
        .ok_or_else(|| Fault::new(key, file, "has no certificates in PEM (-----BEGIN CERTIFICATE-----)"))
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, Fault> {
    let read = || {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map(|_| bytes)
    };
    let bytes = read().map_err(|error: std::io::Error| Fault::new(key, path, format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Fault::new(key, path, format!("has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// What tells a file from the one that was there before: also one that was renamed into its place,
/// or a link that points elsewhere now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look(Vec<Option<[i64; 7]>>);

impl Look {
    /// A look at all files of a section.
    pub(super) fn at(config: &TlsConfig) -> Self {
        let files = [&config.cert_file, &config.key_file, &config.client_ca_file, &config.crl_file];
        let look = |path: &PathBuf| {
            let seen = std::fs::metadata(path).ok()?;
            let [device, inode, size] = [seen.dev(), seen.ino(), seen.size()].map(u64::cast_signed);
            Some([device, inode, size, seen.mtime(), seen.mtime_nsec(), seen.ctime(), seen.ctime_nsec()])
        };
        Self(files.into_iter().flatten().map(look).collect())
    }
}
