//! The sockets of one session: subscribe, read, keep alive, and notice what stays silent.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use futures_util::future::try_join_all;
use futures_util::{SinkExt, StreamExt};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::config::{Config, Trades};
use super::rest::Rest;
use crate::ingest::Feed;
use crate::metrics;
use crate::model::{FeedState, Received};
use crate::provider::net::{self, Address, Dialer};
use crate::provider::{Decoder, Heard, ProviderError, Pulse, RestRequest};
use crate::time;

/// Longest list of streams in an address; the others are subscribed by command. Proxies and
/// servers commonly take 8 kB of request line.
const URL_STREAMS_BYTES_MAX: usize = 4_096;
/// Streams in one command: the venue takes messages of some kB.
const STREAMS_PER_COMMAND: usize = 100;
/// How often the session's state is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a command may wait for the socket to take it.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Silent streams that one warning names.
const SILENT_NAMED_MAX: usize = 10;

/// A socket that stands, with the streams that are yet to be subscribed by command.
pub(super) struct Socket {
    stream: WebSocketStream<net::Stream>,
    commands: VecDeque<String>,
}

/// Opens as many sockets as the streams need.
///
/// # Errors
/// The first socket that cannot be opened.
pub(super) async fn open(config: &Config, dialer: &Dialer, streams: &[String]) -> Result<Vec<Socket>, ProviderError> {
    let address = Address::parse(&config.ws_url, true).map_err(ProviderError::Config)?;
    let mut sockets = Vec::new();
    // One after the other: the venue counts connection attempts.
    for streams in streams.chunks(config.streams_per_connection as usize) {
        let (by_url, by_command) = split(streams);
        let path = format!("/stream?streams={}", by_url.join("/"));
        let stream = dialer.websocket(&address, &path, config.message_bytes_max).await?;
        sockets.push(Socket { stream, commands: commands(by_command) });
    }
    Ok(sockets)
}

/// The streams that fit into an address, and the others.
fn split(streams: &[String]) -> (&[String], &[String]) {
    let mut bytes = 0;
    let fits = |stream: &&String| {
        bytes += stream.len() + 1;
        bytes <= URL_STREAMS_BYTES_MAX
    };
    streams.split_at(streams.iter().take_while(fits).count())
}

/// Subscribe commands for `streams`, their ids counted from 1.
fn commands(streams: &[String]) -> VecDeque<String> {
    let command = |(index, streams): (usize, &[String])| {
        let command = serde_json::json!({"method": "SUBSCRIBE", "params": streams, "id": index + 1});
        command.to_string()
    };
    streams.chunks(STREAMS_PER_COMMAND).enumerate().map(command).collect()
}

/// The streams to subscribe to: the decoder's, with the trades of the setting.
pub(super) fn streams_of(config: &Config, decoder: &dyn Decoder) -> Vec<String> {
    with_trades(config.trades, decoder.streams())
}

fn with_trades(trades: Trades, streams: Vec<String>) -> Vec<String> {
    let rename = |stream: String| match stream.strip_suffix("@trade") {
        Some(symbol) if trades == Trades::AggTrade => format!("{symbol}@aggTrade"),
        _ => stream,
    };
    streams.into_iter().map(rename).collect()
}

/// All sockets from one connect to the next disconnect, around the one decoder.
pub(super) struct Session<'a> {
    pub(super) feed: &'a Feed,
    config: &'a Config,
    pulse: &'a Pulse,
    decoder: RefCell<&'a mut dyn Decoder>,
    wanted: Notify,
    /// Whether a snapshot that the decoder wants has not been answered yet.
    asking: Cell<bool>,
    /// Which connections have sent data.
    heard: RefCell<Vec<bool>>,
}

impl Drop for Session<'_> {
    /// However it ends, also by being dropped in the middle: the books are lost.
    fn drop(&mut self) {
        // A decoder that panicked is thrown away, and its books with it; to touch it here could
        // panic again, which would end the process.
        if std::thread::panicking() {
            return;
        }
        self.decoder.get_mut().on_disconnect(self.feed, time::received());
    }
}

impl<'a> Session<'a> {
    pub(super) fn new(feed: &'a Feed, config: &'a Config, pulse: &'a Pulse, decoder: &'a mut dyn Decoder) -> Self {
        Self {
            feed,
            config,
            pulse,
            decoder: RefCell::new(decoder),
            wanted: Notify::new(),
            asking: Cell::new(true),
            heard: RefCell::default(),
        }
    }

    /// Reads all sockets and fetches what the decoder wants, until one of them ends.
    ///
    /// # Errors
    /// Always: why it ended.
    pub(super) async fn run(&self, sockets: Vec<Socket>, rest: &mut Rest) -> Result<Infallible, ProviderError> {
        self.heard.borrow_mut().resize(sockets.len(), false);
        let reading = sockets.into_iter().enumerate().map(|(index, socket)| self.read(index, socket));
        let never = async {
            tokio::join!(rest.serve(self), self.look());
            Ok(())
        };
        let (_, ()) = tokio::try_join!(try_join_all(reading), never)?;
        // Each of the three runs until an error or for ever.
        Err(ProviderError::Protocol("nothing to read".to_owned()))
    }

    async fn read(&self, index: usize, socket: Socket) -> Result<Infallible, ProviderError> {
        let Socket { mut stream, mut commands } = socket;
        let beat = self.pulse.connection();
        let mut subscribing = Subscribing::default();
        let mut pace = tokio::time::interval(Duration::from_secs(1) / self.config.commands_per_second);
        loop {
            let quiet = commands.is_empty() && !subscribing.is_waiting();
            let message = if quiet {
                // All is subscribed: no timer has to be looked at for each message.
                stream.next().await
            } else {
                tokio::select! {
                    message = stream.next() => message,
                    _ = pace.tick(), if !commands.is_empty() => {
                        let command = commands.pop_front().unwrap_or_default();
                        subscribing.sent(Instant::now() + self.config.subscribe_timeout.duration());
                        send(&mut stream, command).await?;
                        continue;
                    }
                    () = subscribing.overdue(), if subscribing.is_waiting() => {
                        return Err(ProviderError::Protocol("subscription was not confirmed".to_owned()));
                    }
                }
            };
            let received = time::received();
            beat.beat();
            match self.message(received, message)? {
                Heard::Data if !self.heard.borrow()[index] => self.heard.borrow_mut()[index] = true,
                Heard::Data | Heard::Unused | Heard::Rejected => {}
                answer => subscribing.answered(answer)?,
            }
        }
    }

    /// What became of one message; an error where the connection has ended.
    fn message(&self, received: Received, message: Option<Result<Message, WsError>>) -> Result<Heard, ProviderError> {
        match message {
            Some(Ok(Message::Text(text))) => Ok(self.frame(received, text.as_bytes())),
            Some(Ok(Message::Binary(bytes))) => Ok(self.frame(received, &bytes)),
            // The library answers pings with their own payload when it is read next.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(Heard::Unused),
            Some(Ok(Message::Close(close))) => {
                let (code, reason) = close.map(|c| (c.code.into(), c.reason.to_string())).unzip();
                Err(ProviderError::Closed { code, reason: reason.unwrap_or_default(), source: None })
            }
            Some(Err(error)) => Err(net::broken(error)),
            None => Err(net::broken(WsError::ConnectionClosed)),
        }
    }

    fn frame(&self, received: Received, frame: &[u8]) -> Heard {
        let decoder = &mut **self.decoder.borrow_mut();
        let heard = decoder.on_frame(self.feed, received, frame);
        if !self.asking.get() {
            // A gap may have made it want a snapshot; whoever is asking already sees that.
            self.wanted.notify_one();
        }
        heard
    }

    pub(super) fn with_decoder<T>(&self, work: impl FnOnce(&mut dyn Decoder) -> T) -> T {
        work(&mut **self.decoder.borrow_mut())
    }

    /// The next snapshot that is wanted.
    pub(super) fn next_request(&self) -> Option<RestRequest> {
        let request = self.with_decoder(|decoder| decoder.poll_request());
        self.asking.set(request.is_some());
        request
    }

    /// Returns when there may be a request.
    pub(super) async fn requested(&self) {
        self.wanted.notified().await;
    }

    pub(super) fn answer(&self, request: &RestRequest, body: &[u8]) -> Heard {
        let received = time::received();
        self.with_decoder(|decoder| decoder.on_rest(self.feed, received, Some(&request.path), body))
    }

    /// Says when the feed is complete, and what stays silent.
    async fn look(&self) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        let mut report_at = Instant::now() + self.config.silent_after.duration();
        let silent_streams = self.feed.registry().gauge(metrics::FEED_STREAMS_SILENT, &[("venue", self.feed.venue())]);
        silent_streams.set(0.0);
        let mut reported: Vec<String> = Vec::new();
        let mut live = false;
        loop {
            let now = tick.tick().await;
            let unheard = self.heard.borrow().iter().position(|heard| !heard);
            if !live && unheard.is_none() && !self.asking.get() {
                live = true;
                self.pulse.settle(self.feed, FeedState::Live, &named_silent(&reported));
            }
            if now < report_at {
                continue;
            }
            report_at = now + self.config.silent_after.duration();
            let silent = with_trades(self.config.trades, self.with_decoder(|decoder| decoder.silent()));
            silent_streams.set(silent.len() as f64);
            if silent.iter().any(|stream| !reported.contains(stream)) {
                tracing::warn!(venue = self.feed.venue(), "{}", named_silent(&silent));
            }
            reported = silent;
            match unheard {
                // Pings alone: the connection is alive and what it is for is not.
                Some(index) => {
                    live = false;
                    self.pulse.settle(
                        self.feed,
                        FeedState::Stale,
                        &format!("connection {index}: no data since connect"),
                    );
                }
                None if live => self.pulse.settle(self.feed, FeedState::Live, &named_silent(&reported)),
                None => {}
            }
        }
    }
}

/// Sends a command, for as long as the venue's side may take it.
async fn send(stream: &mut WebSocketStream<net::Stream>, command: String) -> Result<(), ProviderError> {
    let sent = tokio::time::timeout(SEND_TIMEOUT, stream.send(Message::text(command))).await;
    sent.map_err(|_| ProviderError::Stale(SEND_TIMEOUT))?.map_err(net::broken)
}

/// Names streams that have said nothing, as many as fit.
fn named_silent(streams: &[String]) -> String {
    if streams.is_empty() {
        return String::new();
    }
    let named = streams.iter().take(SILENT_NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    format!("{} streams silent since connect: {named}", streams.len())
}

/// Commands that the venue has not confirmed yet.
#[derive(Debug, Default)]
struct Subscribing {
    deadlines: VecDeque<Instant>,
}

impl Subscribing {
    fn sent(&mut self, deadline: Instant) {
        self.deadlines.push_back(deadline);
    }

    /// The venue answers commands in order.
    fn answered(&mut self, heard: Heard) -> Result<(), ProviderError> {
        match heard {
            Heard::Refused { code, .. } => {
                Err(ProviderError::Protocol(format!("subscription refused with code {code}")))
            }
            _ => {
                self.deadlines.pop_front();
                Ok(())
            }
        }
    }

    fn is_waiting(&self) -> bool {
        !self.deadlines.is_empty()
    }

    /// Returns when the oldest command should have been confirmed; never while none waits.
    async fn overdue(&self) {
        match self.deadlines.front() {
            Some(deadline) => tokio::time::sleep_until(*deadline).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("sym{index:04}usdt@bookTicker")).collect()
    }

    #[test]
    fn subscribes_by_address_as_far_as_it_goes_and_by_command_beyond() {
        let few = streams(30);
        assert_eq!(split(&few), (&few[..], &[][..]));
        let many = streams(1_024);
        let (by_url, by_command) = split(&many);
        assert!(by_url.join("/").len() <= URL_STREAMS_BYTES_MAX && !by_url.is_empty());
        assert_eq!([by_url, by_command].concat(), many);
        let commands = commands(by_command);
        let mut subscribed = Vec::new();
        for (index, command) in commands.iter().enumerate() {
            let command: serde_json::Value = serde_json::from_str(command).expect("JSON");
            assert_eq!((&command["method"], &command["id"]), (&"SUBSCRIBE".into(), &(index + 1).into()));
            let params = command["params"].as_array().expect("streams").clone();
            assert!(params.len() <= STREAMS_PER_COMMAND);
            subscribed.extend(params.into_iter().map(|stream| stream.as_str().expect("text").to_owned()));
        }
        assert_eq!(subscribed, by_command);
    }

    #[test]
    fn takes_trades_from_the_stream_of_the_setting() {
        let streams = || vec!["btcusdt@trade".to_owned(), "btcusdt@bookTicker".to_owned()];
        assert_eq!(with_trades(Trades::Trade, streams()), streams());
        assert_eq!(with_trades(Trades::AggTrade, streams())[0], "btcusdt@aggTrade");
    }

    #[test]
    fn names_silent_streams_but_not_a_thousand_of_them() {
        assert_eq!(named_silent(&[]), "");
        assert_eq!(named_silent(&streams(1)), "1 streams silent since connect: sym0000usdt@bookTicker");
        let many = named_silent(&streams(500));
        assert!(many.starts_with("500 streams") && !many.contains("sym0010"));
    }
}
