//! One fetch of an issuer's keys, from its address or its file.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::config::CA_BYTES_MAX;
use crate::auth::{IssuerConfig, JWKS_BYTES_MAX, JwksError};
use crate::dial::{Address, DialError, Dialer, TrustError};
use crate::limits::LOG_TEXT_BYTES_MAX;

/// Why there are no keys this time. The texts may be logged: they repeat nothing of an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// No whole answer in time, or one that is too long.
    #[error("{}", with_causes(.0))]
    Unreachable(#[from] DialError),
    /// The answer is not 200.
    #[error("{address} answered {status}; redirects are not followed")]
    Refused {
        /// Host and port.
        address: String,
        /// The status.
        status: u16,
    },
    /// The answer, or the file, is no set of keys.
    #[error("what was fetched {0}")]
    Invalid(#[from] JwksError),
    /// The certificates to trust are of no use.
    #[error("ca_file {0}")]
    Untrusted(#[from] TrustError),
    /// A file cannot be read.
    #[error("{path} cannot be read: {source}")]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration names no place, or no good one.
    #[error("jwks_url {0}")]
    Nowhere(String),
}

impl FetchError {
    /// One word for it, for metrics.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Refused { .. } => "refused",
            Self::Invalid(_) => "invalid",
            Self::Untrusted(_) | Self::Unreadable { .. } | Self::Nowhere(_) => "unreadable",
        }
    }
}

/// An error with those that it came from, cut and without control characters: some of them repeat
/// what the other side has sent.
fn with_causes(error: &DialError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.chars().filter(|c| !c.is_control()).take(LOG_TEXT_BYTES_MAX).collect()
}

/// Where keys are to be had.
#[derive(Debug)]
pub(super) struct Place {
    address: Address,
    target: String,
}

impl Place {
    /// Reads an address of https, or of http on this machine: what comes in the open could be
    /// anyone's keys.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let (address, target) = Address::parse_with_target(url)?;
        if !address.is_encrypted() && !address.is_loopback() {
            return Err("must be https://…; http is taken on a loopback address only".to_owned());
        }
        Ok(Self { address, target })
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.address.is_encrypted()
    }
}

/// The text of an issuer's keys, at most [`JWKS_BYTES_MAX`].
pub(super) async fn fetch(config: &IssuerConfig) -> Result<Bytes, FetchError> {
    if let Some(path) = &config.jwks_file {
        return read(path.clone(), JWKS_BYTES_MAX).await.map(Bytes::from);
    }
    let timeout = config.timeout.duration();
    let place = Place::parse(config.jwks_url.as_deref().unwrap_or_default()).map_err(FetchError::Nowhere)?;
    let dialer = match &config.ca_file {
        // Read each time: an authority's certificate is renewed while the hub runs.
        Some(path) => Dialer::trusting_only(&read(path.clone(), CA_BYTES_MAX).await?, timeout)?,
        None => Dialer::new(timeout).map_err(FetchError::Nowhere)?,
    };
    let answer = dialer.get(&place.address, &place.target, JWKS_BYTES_MAX).await?;
    match answer.status {
        200 => Ok(answer.body),
        status => Err(FetchError::Refused { address: place.address.to_string(), status }),
    }
}

async fn read(path: PathBuf, bytes_max: usize) -> Result<Vec<u8>, FetchError> {
    let name = path.clone();
    let reading = tokio::task::spawn_blocking(move || read_file(&path, bytes_max));
    let text = reading.await.unwrap_or_else(|_| Err(io::Error::other("the reading ended early")));
    text.map_err(|source| FetchError::Unreadable { path: name, source })
}

/// A file of at most so many bytes.
pub(super) fn read_file(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let most = bytes_max as u64 + 1;
    std::fs::File::open(path)?.take(most).read_to_end(&mut text)?;
    if text.len() > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {bytes_max} bytes")));
    }
    Ok(text)
}
