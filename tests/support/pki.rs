//! An authority for tests: certificates for the hub and for its clients, and connections with them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

/// A certificate with its key.
pub struct Pair {
    pub der: CertificateDer<'static>,
    pub key: Vec<u8>,
    pub pem: String,
    pub key_pem: String,
}

impl Pair {
    /// Writes it beside `path`, each file renamed into its place; the files.
    pub fn write(&self, path: &Path) -> (PathBuf, PathBuf) {
        let (cert, key) = (path.with_extension("crt"), path.with_extension("key"));
        for (at, text) in [(&key, &self.key_pem), (&cert, &self.pem)] {
            let new = at.with_extension("new");
            fs::write(&new, text).expect("written");
            fs::rename(new, at).expect("renamed");
        }
        (cert, key)
    }
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let signed = params.self_signed(&key).expect("signed");
        Self { der: signed.der().clone(), pem: signed.pem(), issuer: Issuer::new(params, key) }
    }

    /// Writes its own certificate.
    pub fn write(&self, path: &Path) {
        fs::write(path, &self.pem).expect("written");
    }

    /// A certificate for the hub on this machine.
    pub fn server(&self) -> Pair {
        self.sign("tickhub", |params| {
            params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        })
    }

    /// One for a client of this name, changed by `change`.
    pub fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2200, 1, 1);
        change(&mut params);
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        Pair { der: signed.der().clone(), key: key.serialize_der(), pem: signed.pem(), key_pem: key.serialize_pem() }
    }

    /// A list that revokes the certificate with this serial number.
    pub fn revoke(&self, serial: u64) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(2200, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("signed").pem().expect("PEM")
    }

    /// What a client connects with that trusts this authority, and shows `pair` if it is asked.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion], pair: Option<&Pair>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
        let builder = builder.with_root_certificates(roots);
        match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::try_from(pair.key.clone()).expect("a key");
                builder.with_client_auth_cert(vec![pair.der.clone()], key).expect("a pair")
            }
        }
    }
}

/// Both versions, as a client would offer them.
pub const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// Connects with TLS.
pub async fn connect(address: &str, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}
