//! Handshakes on the control side, with what the files say now.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::server::ProducesTickets;
use rustls::{CertificateError, Error, ProtocolVersion, ServerConfig};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::channel::{Channel, Flushed};
use super::config::TlsConfig;
use super::files::{Look, Material};
use crate::auth::ClientCertificate;
use crate::metrics::{self, Counter, Gauge, Registry};
use crate::model::UnixNanos;
use crate::settings::Fault;
use crate::shutdown::Stop;
use crate::time::{rfc3339, wall};
use crate::transport::Stream;

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Before its end, a certificate is warned of for this long: certificates of 90 days are renewed
/// 30 days before, so that something is wrong by then.
const WARN_NS: i64 = 14 * 24 * 3600 * 1_000_000_000;

/// How often it is warned of.
const WARN_EVERY_NS: i64 = 3600 * 1_000_000_000;

/// What is read of a handshake at once: a client's first message fits.
const READ_BYTES: usize = 4096;

/// The first byte of everything that TLS sends first (RFC 8446, 5.1: a handshake's record).
const HANDSHAKE_RECORD: u8 = 22;

/// Why a connection was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It does not speak TLS.
    PlainText,
    /// As many handshakes as may be are under way.
    Full,
    /// It took too long.
    Timeout,
    /// It went away.
    Lost,
    /// The client must show a certificate, and has none.
    NoCertificate,
    /// Its certificate comes from somebody else.
    UnknownIssuer,
    /// Its certificate has ended, or not begun.
    Expired,
    /// Its certificate was revoked.
    Revoked,
    /// Its certificate is bad in another way.
    BadCertificate,
    /// No version, cipher or protocol in common.
    Incompatible,
    /// The client said so: it trusts nobody whom the hub could be, for one.
    Alert,
    /// It broke the protocol.
    Malformed,
}

impl Refused {
    const ALL: [Self; 12] = [
        Self::PlainText,
        Self::Full,
        Self::Timeout,
        Self::Lost,
        Self::NoCertificate,
        Self::UnknownIssuer,
        Self::Expired,
        Self::Revoked,
        Self::BadCertificate,
        Self::Incompatible,
        Self::Alert,
        Self::Malformed,
    ];

    /// One word for it, for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PlainText => "plain_text",
            Self::Full => "handshakes_max",
            Self::Timeout => "timeout",
            Self::Lost => "lost",
            Self::NoCertificate => "no_certificate",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::BadCertificate => "bad_certificate",
            Self::Incompatible => "incompatible",
            Self::Alert => "alert",
            Self::Malformed => "malformed",
        }
    }

    fn of(error: &Error) -> Self {
        match error {
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(reason) => match reason {
                CertificateError::UnknownIssuer => Self::UnknownIssuer,
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::Expired,
                CertificateError::Revoked => Self::Revoked,
                _ => Self::BadCertificate,
            },
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Self::Incompatible,
            Error::AlertReceived(_) => Self::Alert,
            _ => Self::Malformed,
        }
    }
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Accepted {
    /// What is read and written from here on.
    pub stream: Stream,
    /// The client's certificate, which was verified.
    pub certificate: Option<Arc<ClientCertificate>>,
}

struct Meters {
    done: [[Counter; 2]; 2],
    refused: [Counter; Refused::ALL.len()],
    under_way: Gauge,
    reloaded: [Counter; 2],
    not_after: Gauge,
}

/// One listener's way into TLS.
pub struct Acceptor {
    config: TlsConfig,
    path: &'static str,
    name: &'static str,
    timeout: Duration,
    current: ArcSwap<Material>,
    tickets: Arc<dyn ProducesTickets>,
    places: Semaphore,
    meters: Meters,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How long a certificate still lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// Long enough.
    Good,
    /// It ends within two weeks.
    Ending,
    /// It has ended: no client that looks will connect.
    Ended,
}

impl Lasting {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Ending => "ending",
            Self::Ended => "ended",
        }
    }

    /// How long what ends at `not_after` lasts, at `now`.
    #[must_use]
    pub const fn of(not_after: UnixNanos, now: UnixNanos) -> Self {
        if not_after.0 <= now.0 {
            Self::Ended
        } else if not_after.0 - now.0 < WARN_NS {
            Self::Ending
        } else {
            Self::Good
        }
    }
}

impl Acceptor {
    /// For the listener `name`, whose section's path is `path`. `timeout` is for a handshake.
    ///
    /// # Errors
    /// The first [`Fault`] of its files.
    pub fn new(
        config: TlsConfig,
        (path, name): (&'static str, &'static str),
        timeout: Duration,
        registry: &Registry,
    ) -> Result<Arc<Self>, Fault> {
        let tickets = rustls::crypto::aws_lc_rs::Ticketer::new()
            .map_err(|error| Fault::hidden(path, format!("no key for tickets: {error}")))?;
        let material = Material::read(&config, path, &tickets)?;
        let done = |version| {
            ["no", "yes"].map(|resumed| {
                let labels = [("listener", name), ("version", version), ("resumed", resumed)];
                registry.counter(metrics::TLS_HANDSHAKES, &labels)
            })
        };
        let refused =
            |reason| registry.counter(metrics::TLS_REFUSED, &[("listener", name), ("reason", Refused::as_str(reason))]);
        let reloaded = |result| registry.counter(metrics::TLS_RELOADS, &[("listener", name), ("result", result)]);
        let by = [("listener", name)];
        registry.gauge(metrics::TLS_HANDSHAKES_MAX, &by).set(config.handshakes_max as f64);
        let meters = Meters {
            done: ["1.2", "1.3"].map(done),
            refused: Refused::ALL.map(refused),
            under_way: registry.gauge(metrics::TLS_HANDSHAKES_OPEN, &by),
            reloaded: ["failed", "ok"].map(reloaded),
            not_after: registry.gauge(metrics::TLS_NOT_AFTER, &by),
        };
        let places = Semaphore::new(config.handshakes_max);
        let current = ArcSwap::from_pointee(material);
        let acceptor = Self { config, path, name, timeout, current, tickets, places, meters };
        acceptor.show_end();
        Ok(Arc::new(acceptor))
    }

    /// The listener's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// When the certificate that is in use ends.
    #[must_use]
    pub fn not_after(&self) -> UnixNanos {
        self.current.load().not_after
    }

    /// Does the handshake on a connection.
    ///
    /// # Errors
    /// [`Refused`], which is counted; with the stream where the client can still be told in plain
    /// text.
    pub async fn accept(&self, stream: TcpStream) -> Result<Accepted, (Refused, Option<TcpStream>)> {
        let done = self.handshake(&stream).await;
        let counted = |refused: Refused| {
            self.meters.refused[refused as usize].increment(1);
            refused
        };
        match done {
            Ok((channel, opened)) => {
                let version = usize::from(channel.version() == Some(ProtocolVersion::TLSv1_3));
                self.meters.done[version][usize::from(channel.is_resumed())].increment(1);
                let certificate = channel.peer_certificate().map(|der| ClientCertificate::read(der));
                let certificate = match certificate {
                    Some(None) => return Err((counted(Refused::BadCertificate), None)),
                    Some(Some(certificate)) => Some(Arc::new(certificate)),
                    None => None,
                };
                Ok(Accepted { stream: Stream::secured(stream, channel, opened), certificate })
            }
            Err(Refused::PlainText) => Err((counted(Refused::PlainText), Some(stream))),
            Err(refused) => Err((counted(refused), None)),
        }
    }

    async fn handshake(&self, stream: &TcpStream) -> Result<(Channel, Vec<u8>), Refused> {
        let Ok(_place) = self.places.try_acquire() else { return Err(Refused::Full) };
        self.meters.under_way.increment(1.0);
        let _ends = Ends(&self.meters.under_way);
        let config = Arc::clone(&self.current.load().config);
        tokio::time::timeout(self.timeout, handshake(config, stream)).await.unwrap_or(Err(Refused::Timeout))
    }

    /// Looks at the files until the stop, and takes what has changed once it is whole.
    pub async fn watch(self: Arc<Self>, mut stop: Stop) {
        let mut used = Look::at(&self.config);
        let (mut seen, mut tried, mut warned) = (used.clone(), used.clone(), i64::MIN);
        while !stop.sleep(LOOK_INTERVAL).await {
            warned = self.warn(warned, wall());
            let (of, before) = (Arc::clone(&self), seen.clone());
            // Disks may be slow, and handshakes must go on.
            let look = tokio::task::spawn_blocking(move || Look::at(&of.config)).await;
            let Ok(look) = look else { continue };
            seen = look.clone();
            // A pair is written one file after the other: it is taken once nothing moves any more.
            if look != before || look == used || look == tried {
                continue;
            }
            tried = look.clone();
            let of = Arc::clone(&self);
            if tokio::task::spawn_blocking(move || of.reload()).await.unwrap_or(false) {
                used = look;
            }
        }
    }

    /// Reads the files anew; connections that are open stay as they are. Whether they are used from
    /// now on: what is wrong with them is logged and counted, and those before are kept.
    pub fn reload(&self) -> bool {
        let read = Material::read(&self.config, self.path, &self.tickets);
        let read = read.and_then(|new| match new.ended(self.path, &self.config, wall()) {
            Some(fault) => Err(fault),
            None => Ok(new),
        });
        let good = read.is_ok();
        self.meters.reloaded[usize::from(good)].increment(1);
        match read {
            Ok(new) => {
                self.current.store(Arc::new(new));
                self.show_end();
                tracing::info!(listener = self.name, not_after = rfc3339(self.not_after()), "certificate reloaded");
            }
            Err(fault) => {
                tracing::error!(listener = self.name, %fault, "certificate not reloaded; the one before is kept");
            }
        }
        good
    }

    fn show_end(&self) {
        self.meters.not_after.set((self.not_after().0 / 1_000_000_000) as f64);
    }

    /// Warns of an end that is near; when it last did.
    fn warn(&self, warned: i64, now: UnixNanos) -> i64 {
        let not_after = self.not_after();
        let lasting = Lasting::of(not_after, now);
        if lasting == Lasting::Good || now.0.saturating_sub(warned) < WARN_EVERY_NS {
            return warned;
        }
        let at = rfc3339(not_after);
        tracing::warn!(listener = self.name, not_after = at, "the certificate is {}: renew it", lasting.as_str());
        now.0
    }
}

/// Takes a handshake off the gauge when it ends, however it does.
struct Ends<'a>(&'a Gauge);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// The connection, and what the client sent behind its handshake.
async fn handshake(config: Arc<ServerConfig>, stream: &TcpStream) -> Result<(Channel, Vec<u8>), Refused> {
    let mut channel = Channel::new(config).map_err(|error| Refused::of(&error))?;
    let (mut buffer, mut opened, mut first) = (vec![0; READ_BYTES], Vec::new(), true);
    loop {
        while channel.flush(|bytes| stream.try_write(bytes)).map_err(|_| Refused::Lost)? != Flushed::Whole {
            stream.writable().await.map_err(|_| Refused::Lost)?;
        }
        if !channel.is_handshaking() {
            return Ok((channel, opened));
        }
        stream.readable().await.map_err(|_| Refused::Lost)?;
        let read = match stream.try_read(&mut buffer) {
            Ok(0) => return Err(Refused::Lost),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(Refused::Lost),
        };
        if std::mem::take(&mut first) && buffer[0] != HANDSHAKE_RECORD {
            return Err(Refused::PlainText);
        }
        if let Err(error) = channel.read(&mut buffer[..read], &mut opened) {
            // What is wrong is said as far as the socket takes it.
            let _ = channel.flush(|bytes| stream.try_write(bytes));
            return Err(Refused::of(&error));
        }
    }
}
