//! Why a provider stopped, by who must act and whether to try again.

use std::error::Error;
use std::fmt::Write;
use std::time::Duration;

use crate::ingest::sanitized;

/// The cause of an error, kept whole.
pub type Source = Box<dyn Error + Send + Sync>;

/// Why a provider stopped.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The venue could not be reached. Time heals it.
    #[error("cannot reach {address}")]
    Connect {
        /// Host and port, without anything secret.
        address: String,
        /// What the system, TLS or the handshake said.
        #[source]
        source: Source,
    },
    /// The connection ended. To be expected now and then.
    #[error("connection closed{}", Closing(.code, .reason))]
    Closed {
        /// WebSocket close code, where the venue sent one.
        code: Option<u16>,
        /// What the venue gave as reason.
        reason: String,
        /// What the system said, where the connection broke.
        #[source]
        source: Option<Source>,
    },
    /// The connection is open and nothing has come for this long.
    #[error("no sign of life for {} s", .0.as_secs())]
    Stale(Duration),
    /// The venue sent what its rules forbid; a new connection starts afresh.
    #[error("venue broke the protocol: {0}")]
    Protocol(String),
    /// The venue turned the request down. It may change its mind; an operator should look.
    #[error("venue refused with HTTP {status}")]
    Refused {
        /// HTTP status.
        status: u16,
    },
    /// The venue asks for a pause. Coming back earlier lengthens it.
    #[error("venue limits the rate (HTTP {status})")]
    RateLimited {
        /// HTTP status, 418 or 429.
        status: u16,
        /// How long it asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// The settings are wrong: only the operator can change that, so it is not tried again.
    #[error("configuration: {0}")]
    Config(String),
    /// A bug in the provider: it is started afresh.
    #[error("provider panicked: {0}")]
    Panicked(String),
}

struct Closing<'a>(&'a Option<u16>, &'a str);

impl std::fmt::Display for Closing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(code) = self.0 {
            write!(f, " with code {code}")?;
        }
        if self.1.is_empty() { Ok(()) } else { write!(f, " ({})", self.1) }
    }
}

impl ProviderError {
    /// Every class, for metrics that exist before the first error.
    pub const CLASSES: [&'static str; 8] =
        ["connect", "closed", "stale", "protocol", "refused", "rate_limited", "config", "panicked"];

    /// Its class: the label in metrics.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Closed { .. } => "closed",
            Self::Stale(_) => "stale",
            Self::Protocol(_) => "protocol",
            Self::Refused { .. } => "refused",
            Self::RateLimited { .. } => "rate_limited",
            Self::Config(_) => "config",
            Self::Panicked(_) => "panicked",
        }
    }

    /// Whether no further attempt can succeed.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        matches!(self, Self::Config(_))
    }

    /// How long the venue asked to be left alone.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The error and its sources in one line, printable and of bounded length: venues put what
    /// they like into close reasons.
    #[must_use]
    pub fn cause(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {error}");
            source = error.source();
        }
        sanitized(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LOG_TEXT_BYTES_MAX;

    #[test]
    fn tells_the_whole_cause_in_one_printable_line() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = ProviderError::Connect { address: "venue:443".to_owned(), source: refused.into() };
        assert_eq!(error.cause(), "cannot reach venue:443: connection refused");

        let reason = format!("bye\r\n\u{1b}[31m{}", "x".repeat(500));
        let error = ProviderError::Closed { code: Some(1008), reason, source: None };
        let cause = error.cause();
        assert!(cause.starts_with("connection closed with code 1008 (bye???[31mxxx"), "{cause}");
        assert!(cause.len() <= LOG_TEXT_BYTES_MAX + 3 && cause.ends_with("..."), "{cause}");
        let error = ProviderError::Closed { code: None, reason: String::new(), source: None };
        assert_eq!(error.cause(), "connection closed");
    }

    #[test]
    fn says_who_must_act() {
        assert!(ProviderError::Config("x".to_owned()).is_permanent());
        let limited = ProviderError::RateLimited { status: 429, retry_after: Some(Duration::from_secs(7)) };
        assert_eq!((limited.is_permanent(), limited.retry_after()), (false, Some(Duration::from_secs(7))));
        assert!(ProviderError::CLASSES.contains(&limited.class()));
    }
}
