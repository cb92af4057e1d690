//! The live connection: definitions first, then session after session.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::BinanceDecoder;
use super::config::{Config, Site};
use super::connection::{self, Session, Socket};
use super::rest::Rest;
use crate::ingest::Feed;
use crate::model::FeedState;
use crate::provider::net::Dialer;
use crate::provider::random::Random;
use crate::provider::{
    Decoder, Options, Provider, ProviderError, Pulse, SUFFIXES_BINANCE, SUFFIXES_BINANCE_US, Symbology,
};
use crate::shutdown::Stop;
use crate::time;

/// When a replacement that failed is tried again; until then the old sockets go on.
const REPLACE_AGAIN: Duration = Duration::from_secs(60);

/// Binance, live.
pub struct Binance {
    config: Config,
    decoder: BinanceDecoder,
    /// What is subscribed to; empty until the symbols have been looked up.
    streams: Vec<String>,
    /// Made on the first run, and kept: its pace, and what the venue forbids, outlive a reconnect.
    rest: Option<Rest>,
    pulse: Pulse,
    random: Random,
}

/// How a session ended without a failure.
enum Handover {
    To(Vec<Socket>),
    Stop,
}

impl Binance {
    /// A connection that has not begun. `config` must have passed [`Config::check`].
    #[must_use]
    pub fn new(config: Config) -> Self {
        let suffixes = match config.site {
            Site::Com => SUFFIXES_BINANCE,
            Site::Us => SUFFIXES_BINANCE_US,
        };
        let options = Options { books: config.books, snapshot_levels: config.snapshot_levels, ..Options::live() };
        let decoder = BinanceDecoder::new(Symbology::new(suffixes), options);
        // Jitter has to differ between processes, so the clock will do as a seed.
        let random = Random::new(time::wall().0 as u64);
        Self { config, decoder, streams: Vec::new(), rest: None, pulse: Pulse::default(), random }
    }

    async fn sessions(&mut self, feed: &Feed, mut stop: Stop) -> Result<(), ProviderError> {
        let Self { config, decoder, streams, rest, pulse, random } = self;
        let dialer = Dialer::new(config.connect_timeout.duration())?;
        let rest = match rest {
            Some(rest) => rest,
            none => none.insert(Rest::new(config, dialer.clone(), feed, random.next())?),
        };
        let opening = async {
            if streams.is_empty() {
                *streams = watch(feed, config, decoder, rest).await?;
            }
            connection::open(config, &dialer, streams).await
        };
        let mut sockets = tokio::select! {
            opened = opening => opened?,
            () = stop.stopped() => return Ok(()),
        };
        loop {
            pulse.settle(feed, FeedState::Recovering, "connected");
            let replace_after = replace_after(config, random);
            let session = Session::new(feed, config, pulse, decoder);
            let handover = tokio::select! {
                ended = session.run(sockets, rest) => match ended? {},
                next = replacement(config, &dialer, streams, feed, replace_after) => Handover::To(next),
                () = stop.stopped() => Handover::Stop,
            };
            // The new sockets stand; what the old ones had begun ends here.
            drop(session);
            match handover {
                Handover::To(next) => sockets = next,
                Handover::Stop => return Ok(()),
            }
        }
    }
}

/// Looks the symbols up and claims them; the streams to subscribe to.
async fn watch(
    feed: &Feed,
    config: &Config,
    decoder: &mut BinanceDecoder,
    rest: &mut Rest,
) -> Result<Vec<String>, ProviderError> {
    let unknown = rest.define(feed, decoder, &config.symbols).await?;
    let mut left_out = Vec::new();
    let mut leave_out = |symbol: &str, cause: &str| {
        left_out.push(symbol.to_owned());
        tracing::warn!(venue = feed.venue(), symbol, cause, "symbol is left out");
    };
    for symbol in &config.symbols {
        if unknown.contains(symbol) {
            leave_out(symbol, "the venue does not know it");
        } else if let Err(error) = decoder.watch(feed, symbol) {
            leave_out(symbol, &error.cause);
        }
    }
    feed.set_left_out(&left_out);
    let streams = connection::streams_of(config, decoder);
    if streams.is_empty() {
        return Err(ProviderError::Config("symbols: none of them can be subscribed to".to_owned()));
    }
    Ok(streams)
}

fn replace_after(config: &Config, random: &mut Random) -> Duration {
    let jitter = random.below(time::duration_ns(config.replace_jitter.duration()) + 1);
    config.replace_after.duration().saturating_sub(Duration::from_nanos(jitter))
}

/// New sockets for the streams, once it is time; tried again until they stand.
async fn replacement(
    config: &Config,
    dialer: &Dialer,
    streams: &[String],
    feed: &Feed,
    after: Duration,
) -> Vec<Socket> {
    tokio::time::sleep(after).await;
    loop {
        match connection::open(config, dialer, streams).await {
            Ok(sockets) => {
                tracing::info!(venue = feed.venue(), "connections are replaced as planned");
                return sockets;
            }
            Err(error) => {
                tracing::warn!(venue = feed.venue(), cause = error.cause(), "connections cannot be replaced yet");
                tokio::time::sleep(REPLACE_AGAIN).await;
            }
        }
    }
}

impl Provider for Binance {
    fn run<'a>(&'a mut self, feed: &'a Feed, stop: Stop) -> LocalBoxFuture<'a, Result<(), ProviderError>> {
        self.sessions(feed, stop).boxed_local()
    }

    fn pulse(&self) -> Option<Pulse> {
        Some(self.pulse.clone())
    }
}
