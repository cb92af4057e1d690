//! The `[server.tls]` section: what a listener shows, and whom it lets in.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::settings::Fault;

/// Most handshakes at a time that can be set: each may hold some 40 KiB.
const HANDSHAKES_MAX: usize = 100_000;

/// TLS of one listener; off without a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The hub's certificate and those between it and a root, PEM, its own first.
    pub cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub key_file: Option<PathBuf>,
    /// The least version.
    pub min_version: TlsVersion,
    /// Whether clients show a certificate.
    pub client_auth: ClientAuth,
    /// The roots of theirs, PEM.
    pub client_ca_file: Option<PathBuf>,
    /// Lists of certificates that no longer count, PEM.
    pub crl_file: Option<PathBuf>,
    /// Handshakes under way at a time; one beyond is closed at once.
    pub handshakes_max: usize,
}

/// A version of TLS; older ones are not spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum TlsVersion {
    /// RFC 5246, with ephemeral keys and authenticated encryption only.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    V1_3,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// They are not asked for one.
    #[default]
    Off,
    /// They may; one that is shown must be good.
    Optional,
    /// They must.
    Required,
}

impl ClientAuth {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            cert_file: None,
            key_file: None,
            min_version: TlsVersion::default(),
            client_auth: ClientAuth::default(),
            client_ca_file: None,
            crl_file: None,
            handshakes_max: 512,
        }
    }
}

impl TlsConfig {
    /// Whether the listener speaks TLS.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.cert_file.is_some()
    }

    /// What is wrong with the section whose path is `path`. Files are not looked at.
    #[must_use]
    pub fn faults(&self, path: &str) -> Vec<Fault> {
        let mut faults = Vec::new();
        let at = |key: &str| format!("{path}.{key}");
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => {
                faults.push(Fault::hidden(at("key_file"), "is missing; name the file with the certificate's key"));
            }
            (None, Some(key)) => {
                let reason = format!("stands without {path}.cert_file; name the file with its certificate");
                faults.push(Fault::new(at("key_file"), key, reason));
            }
            _ => {}
        }
        let wants = self.client_auth != ClientAuth::Off;
        if wants && !self.is_on() {
            let reason = format!("needs TLS; set {path}.cert_file and {path}.key_file");
            faults.push(Fault::new(at("client_auth"), self.client_auth.as_str(), reason));
        }
        match &self.client_ca_file {
            None if wants => {
                let reason = "is missing; name the file with the roots that clients' certificates come from";
                faults.push(Fault::hidden(at("client_ca_file"), reason));
            }
            Some(file) if !wants => {
                let reason = format!("is not used; set {path}.client_auth to \"optional\" or \"required\"");
                faults.push(Fault::new(at("client_ca_file"), file, reason));
            }
            _ => {}
        }
        if let Some(file) = self.crl_file.as_ref().filter(|_| !wants) {
            let reason = format!("is not used; set {path}.client_auth to \"optional\" or \"required\"");
            faults.push(Fault::new(at("crl_file"), file, reason));
        }
        if !(1..=HANDSHAKES_MAX).contains(&self.handshakes_max) {
            let reason = format!("must be from 1 to {HANDSHAKES_MAX}");
            faults.push(Fault::new(at("handshakes_max"), self.handshakes_max, reason));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_together_is_named_with_the_fix() {
        let path = |name: &str| Some(PathBuf::from(name));
        let off = TlsConfig::default();
        assert_eq!(off.faults("server.tls"), []);
        let on = TlsConfig { cert_file: path("c"), key_file: path("k"), ..off.clone() };
        assert_eq!(on.faults("server.tls"), []);
        let asks = TlsConfig { client_auth: ClientAuth::Optional, client_ca_file: path("ca"), ..on.clone() };
        assert_eq!(TlsConfig { crl_file: path("crl"), ..asks.clone() }.faults("server.tls"), []);
        for (wrong, key) in [
            (TlsConfig { key_file: None, ..on.clone() }, "key_file"),
            (TlsConfig { cert_file: None, ..on.clone() }, "key_file"),
            (TlsConfig { client_ca_file: None, ..asks.clone() }, "client_ca_file"),
            (TlsConfig { client_auth: ClientAuth::Off, ..asks.clone() }, "client_ca_file"),
            (TlsConfig { cert_file: None, key_file: None, ..asks }, "client_auth"),
            (TlsConfig { crl_file: path("crl"), ..on.clone() }, "crl_file"),
            (TlsConfig { handshakes_max: 0, ..on }, "handshakes_max"),
        ] {
            let keys: Vec<_> = wrong.faults("server.tls").into_iter().map(|fault| fault.key).collect();
            assert_eq!(keys, [format!("server.tls.{key}")], "{wrong:?}");
        }
    }
}
