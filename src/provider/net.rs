//! Sockets to venues: WebSocket handshakes and small HTTP requests, each with a deadline and a bound.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{HeaderMap, RETRY_AFTER};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Error as WsError};

use super::ProviderError;
use crate::dial::{self, DialError};

pub(crate) use crate::dial::{Address, Stream};

/// What is read of a venue at once. The library fills it with zeros before each read, so that its
/// own default of 128 KiB costs more than the message that came.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// What is sent on one connection and not yet taken by the system: a few commands. The library's
/// own default is unbounded.
const WRITE_BUFFER_BYTES_MAX: usize = 256 * 1024;

/// Longest pause that a venue can ask for: a typing error there must not be a day here.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3 * 3600);

/// How to reach venues.
#[derive(Clone)]
pub(crate) struct Dialer(dial::Dialer);

impl From<DialError> for ProviderError {
    fn from(error: DialError) -> Self {
        Self::Connect { address: error.address, source: error.source }
    }
}

impl Dialer {
    /// With the public trust anchors. `timeout` bounds name, TCP, TLS and handshake together.
    pub(crate) fn new(timeout: Duration) -> Result<Self, ProviderError> {
        dial::Dialer::new(timeout).map(Self).map_err(ProviderError::Config)
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
            let stream = self.0.stream(address).await?;
            let shaken = tokio_tungstenite::client_async_with_config(address.url(path), stream, Some(config)).await;
            shaken.map(|(socket, _)| socket).map_err(|error| match error {
                WsError::Http(answer) => turned_down(answer.status().as_u16(), answer.headers()),
                other => dial::unreachable(address, other).into(),
            })
        };
        self.0.within(address, shake).await
    }

    /// Asks for `path`; the body may have `bytes_max`. The answer, whatever its status.
    ///
    /// # Errors
    /// `Connect` for all that is no answer.
    pub(crate) async fn get(&self, address: &Address, path: &str, bytes_max: usize) -> Result<Answer, ProviderError> {
        let answer = self.0.get(address, path, bytes_max).await?;
        let retry_after = retry_after(&answer.headers);
        Ok(Answer { status: answer.status, retry_after, body: answer.body })
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
