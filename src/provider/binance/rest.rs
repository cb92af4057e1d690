//! What is asked over HTTP: symbol definitions at the start, book snapshots as the decoder wants
//! them, at the pace that the venue allows.

use std::time::Duration;

use tokio::time::Instant;

use super::config::Config;
use super::connection::Session;
use super::pace::Pace;
use crate::ingest::{Feed, sanitized};
use crate::metrics::{self, Counter};
use crate::provider::net::{Address, Dialer};
use crate::provider::{Backoff, BackoffLimits, Decoder, Heard, ProviderError, RestRequest};
use crate::time;

/// Snapshots asked for at once before the pace sets in.
const SNAPSHOTS_AT_ONCE: u32 = 20;
/// Symbols in one request for definitions: the address stays below 2 kB.
const DEFINITIONS_PER_REQUEST: usize = 100;
/// Pause after a rate limit that names none: the venue counts by the minute.
const LIMITED_PAUSE: Duration = Duration::from_secs(60);
/// When a request that the venue turned down for itself is made again.
const PARKED: Duration = Duration::from_secs(60);
/// Waits after failures that concern every request.
const BACKOFF: BackoffLimits = BackoffLimits {
    first: Duration::from_millis(500),
    longest: Duration::from_secs(30),
    failures_max: u32::MAX,
    open: Duration::from_secs(60),
    healthy: Duration::MAX,
};

/// Outcomes of a request: the labels of its metric.
const OUTCOMES: [&str; 4] = ["ok", "refused", "limited", "failed"];

/// The REST side of a connection.
pub(super) struct Rest {
    address: Address,
    dialer: Dialer,
    bytes_max: usize,
    pace: Pace,
    /// What the venue asked for when it last limited the rate: no request leaves before.
    not_before: Instant,
    seed: u64,
    outcomes: [Counter; OUTCOMES.len()],
}

impl Rest {
    pub(super) fn new(config: &Config, dialer: Dialer, feed: &Feed, seed: u64) -> Result<Self, ProviderError> {
        let address = Address::parse(&config.rest_url, false).map_err(ProviderError::Config)?;
        let outcome = |outcome| {
            let labels = [("venue", feed.venue()), ("outcome", outcome)];
            feed.registry().counter(metrics::FEED_REST_REQUESTS, &labels)
        };
        let now = Instant::now();
        Ok(Self {
            address,
            dialer,
            bytes_max: config.rest_bytes_max,
            pace: Pace::new(now, config.snapshots_per_minute, SNAPSHOTS_AT_ONCE),
            not_before: now,
            seed,
            outcomes: OUTCOMES.map(outcome),
        })
    }

    async fn get(&mut self, path: &str) -> Result<bytes::Bytes, ProviderError> {
        tokio::time::sleep_until(self.not_before).await;
        let answer = self.dialer.get(&self.address, path, self.bytes_max).await.and_then(|answer| answer.success());
        let outcome = match &answer {
            Ok(_) => 0,
            Err(ProviderError::Refused { status: 400..=499 }) => 1,
            Err(ProviderError::RateLimited { .. }) => 2,
            Err(_) => 3,
        };
        self.outcomes[outcome].increment(1);
        if let Err(ProviderError::RateLimited { retry_after, .. }) = &answer {
            self.not_before = Instant::now() + retry_after.unwrap_or(LIMITED_PAUSE);
        }
        answer
    }

    /// Tells the decoder what the venue's symbols stand for; returns those that the venue does
    /// not know. Where definitions are not to be had, symbols are split by their quote asset.
    ///
    /// # Errors
    /// A rate limit: anything else would only make it longer.
    pub(super) async fn define(
        &mut self,
        feed: &Feed,
        decoder: &mut dyn Decoder,
        symbols: &[String],
    ) -> Result<Vec<String>, ProviderError> {
        let mut unknown = Vec::new();
        let mut requests: Vec<&[String]> = symbols.chunks(DEFINITIONS_PER_REQUEST).collect();
        while let Some(chunk) = requests.pop() {
            let path = definitions_path(chunk);
            match self.get(&path).await {
                Ok(body) => {
                    decoder.on_rest(feed, time::received(), Some(&path), &body);
                }
                Err(error @ ProviderError::RateLimited { .. }) => return Err(error),
                // One unknown symbol spoils the whole answer: halve until it stands alone.
                Err(ProviderError::Refused { status: 400 }) => match chunk {
                    [one] => unknown.push(one.clone()),
                    many => requests.extend(many.chunks(many.len().div_ceil(2))),
                },
                Err(error) => {
                    tracing::warn!(venue = feed.venue(), cause = error.cause(), "symbol definitions are not to be had");
                    return Ok(unknown);
                }
            }
        }
        Ok(unknown)
    }

    /// Fetches the snapshots that the session's decoder wants, for as long as it is polled.
    pub(super) async fn serve(&mut self, session: &Session<'_>) {
        let mut backoff = Backoff::new(BACKOFF, self.seed);
        let mut parked: Vec<(Instant, RestRequest)> = Vec::new();
        loop {
            let now = Instant::now();
            parked.retain(|(until, request)| {
                let over = *until <= now;
                if over {
                    session.with_decoder(|decoder| decoder.on_rest_failed(&request.path));
                }
                !over
            });
            let Some(request) = session.next_request() else {
                let next = parked.iter().map(|(until, _)| *until).min();
                tokio::select! {
                    () = session.requested() => {}
                    () = tokio::time::sleep_until(next.unwrap_or(now)), if next.is_some() => {}
                }
                continue;
            };
            while let Some(wait) = self.pace.take(Instant::now()) {
                tokio::time::sleep(wait).await;
            }
            match self.get(&request.path).await {
                Ok(body) if session.answer(&request, &body) != Heard::Rejected => {
                    backoff.after_success();
                }
                Ok(body) => {
                    // The decoder wants it again already.
                    let text = sanitized(&body);
                    self.pause(session, backoff.after_failure(Duration::ZERO, None).wait, &text).await;
                }
                Err(ProviderError::Refused { status: 400..=499 }) => parked.push((Instant::now() + PARKED, request)),
                Err(error) => {
                    session.with_decoder(|decoder| decoder.on_rest_failed(&request.path));
                    let wait = backoff.after_failure(Duration::ZERO, error.retry_after()).wait;
                    self.pause(session, wait, &error.cause()).await;
                }
            }
        }
    }

    async fn pause(&self, session: &Session<'_>, wait: Duration, cause: &str) {
        tracing::warn!(venue = session.feed.venue(), cause, wait_ms = wait.as_millis(), "no snapshots for now");
        tokio::time::sleep(wait).await;
    }
}

/// `?symbols=["A","B"]`, percent-encoded; symbols are checked to be letters and digits.
fn definitions_path(symbols: &[String]) -> String {
    format!("/api/v3/exchangeInfo?symbols=%5B%22{}%22%5D", symbols.join("%22,%22"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_for_definitions_as_the_venue_wants_it() {
        let path = definitions_path(&["BTCUSDT".to_owned(), "ETHUSDT".to_owned()]);
        assert_eq!(path, "/api/v3/exchangeInfo?symbols=%5B%22BTCUSDT%22,%22ETHUSDT%22%5D");
    }
}
