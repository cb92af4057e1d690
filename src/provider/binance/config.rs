//! Settings of the Binance connection.

use serde::{Deserialize, Serialize};

use crate::provider::net::Address;
use crate::settings::Span;

/// Most symbols of one connection: more than the venue lists.
const SYMBOLS_MAX: usize = 5_000;
/// Longest symbol that the venue lists has 17 bytes.
const SYMBOL_BYTES_MAX: usize = 32;
/// What the venue allows on one socket.
const STREAMS_MAX: u32 = 1_024;

/// Settings of the Binance connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of the venue: the part of every instrument id before the colon.
    pub venue: String,
    /// Which of the two exchanges that speak this protocol: `com` (Binance) or `us`
    /// (Binance.US). They split undefined symbols differently.
    pub site: Site,
    /// Symbols as the venue writes them, in capitals: `["BTCUSDT", "ETHUSDT"]`. There is no `*`:
    /// thousands of books are more than one hub should take by accident.
    pub symbols: Vec<String>,
    /// Where the streams are: `wss://` or, for tests, `ws://`.
    pub ws_url: String,
    /// Where snapshots and symbol definitions are: `https://` or, for tests, `http://`.
    pub rest_url: String,
    /// Which stream trades come from: `trade` (each execution) or `agg_trade` (those of one taker
    /// order at one price as one).
    pub trades: Trades,
    /// Whether books are built: they take most of the traffic.
    pub books: bool,
    /// Levels a side of a book's snapshot, 1 to 5000. A level outside of it that never changes is
    /// never sent, so that less than 1000 makes books that are wrong without any sign of it; more
    /// than 1000 costs five times the venue's request allowance.
    pub snapshot_levels: u32,
    /// Snapshots asked for in a minute, 1 to 6000. 1000 levels weigh 50, the venue allows 6000 a
    /// minute and address, and 20 may be asked for at once: 90 stays below that.
    pub snapshots_per_minute: u32,
    /// Streams on one socket, 1 to 1024 (the venue's own limit). More streams take more sockets.
    pub streams_per_connection: u32,
    /// Commands sent a second on one socket, 1 to 5 (where the venue cuts the connection).
    pub commands_per_second: u32,
    /// How long a connection or a REST request may take.
    pub connect_timeout: Span,
    /// How long the venue may take to confirm a subscription.
    pub subscribe_timeout: Span,
    /// Largest message taken from a socket, in bytes: the largest seen had 60 kB.
    pub message_bytes_max: usize,
    /// Largest REST answer taken, in bytes: 5000 levels a side are below 1 MB, definitions of 100
    /// symbols below 1 MB.
    pub rest_bytes_max: usize,
    /// When connections are replaced: before the venue cuts them after 24 hours.
    pub replace_after: Span,
    /// Up to how much earlier, drawn at random, so that hubs do not replace in step.
    pub replace_jitter: Span,
    /// Silence of a stream since its connection began after which it is reported: the
    /// venue accepts misspelt streams and never sends anything on them.
    pub silent_after: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            venue: "BINANCE".to_owned(),
            site: Site::Com,
            symbols: vec!["BTCUSDT".to_owned(), "ETHUSDT".to_owned()],
            ws_url: "wss://stream.binance.com:9443".to_owned(),
            rest_url: "https://api.binance.com".to_owned(),
            trades: Trades::Trade,
            books: true,
            snapshot_levels: 1_000,
            snapshots_per_minute: 90,
            streams_per_connection: STREAMS_MAX,
            commands_per_second: 4,
            connect_timeout: Span::seconds(10),
            subscribe_timeout: Span::seconds(10),
            message_bytes_max: 4 * 1024 * 1024,
            rest_bytes_max: 16 * 1024 * 1024,
            replace_after: Span::seconds(23 * 3_600),
            replace_jitter: Span::seconds(3_600),
            silent_after: Span::seconds(120),
        }
    }
}

/// An exchange that speaks this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Site {
    /// Binance.
    Com,
    /// Binance.US.
    Us,
}

/// Where trades come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trades {
    /// Each execution.
    Trade,
    /// Executions of one taker order at one price as one.
    AggTrade,
}

impl Config {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// A sentence that names the key and what it may be.
    pub fn check(&self) -> Result<(), String> {
        crate::model::check_venue(&self.venue).map_err(|e| format!("venue: {e}"))?;
        self.check_symbols()?;
        Address::parse(&self.ws_url, true).map_err(|e| format!("ws_url: {e}"))?;
        Address::parse(&self.rest_url, false).map_err(|e| format!("rest_url: {e}"))?;
        let within = |key: &str, value: u64, low: u64, high: u64| {
            let inside = (low..=high).contains(&value);
            if inside { Ok(()) } else { Err(format!("{key}: must be {low} to {high}, is {value}")) }
        };
        within("snapshot_levels", self.snapshot_levels.into(), 1, 5_000)?;
        within("snapshots_per_minute", self.snapshots_per_minute.into(), 1, 6_000)?;
        within("streams_per_connection", self.streams_per_connection.into(), 1, STREAMS_MAX.into())?;
        within("commands_per_second", self.commands_per_second.into(), 1, 5)?;
        within("message_bytes_max", self.message_bytes_max as u64, 65_536, 1 << 30)?;
        within("rest_bytes_max", self.rest_bytes_max as u64, 65_536, 1 << 30)?;
        let spans = [
            ("connect_timeout", self.connect_timeout, Span::seconds(600)),
            ("subscribe_timeout", self.subscribe_timeout, Span::seconds(600)),
            ("silent_after", self.silent_after, Span::seconds(86_400)),
            ("replace_after", self.replace_after, Span::seconds(86_400)),
        ];
        for (key, span, most) in spans {
            if !(Span::millis(1)..=most).contains(&span) {
                return Err(format!("{key}: must be 1ms to {most}, is {span}"));
            }
        }
        if self.replace_jitter > self.replace_after {
            return Err("replace_jitter: must be at most replace_after".to_owned());
        }
        Ok(())
    }

    fn check_symbols(&self) -> Result<(), String> {
        if self.symbols.is_empty() || self.symbols.len() > SYMBOLS_MAX {
            return Err(format!("symbols: must be 1 to {SYMBOLS_MAX}, are {}", self.symbols.len()));
        }
        let mut seen = std::collections::HashSet::new();
        for symbol in &self.symbols {
            let sane = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit();
            if !(1..=SYMBOL_BYTES_MAX).contains(&symbol.len()) || !symbol.bytes().all(sane) {
                return Err(format!("symbols: {symbol:?} must be written in A-Z 0-9, as in \"BTCUSDT\""));
            }
            if !seen.insert(symbol) {
                return Err(format!("symbols: {symbol:?} is there twice"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_key_that_is_wrong() {
        let check = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check().expect_err("must be refused")
        };
        assert_eq!(Config::default().check(), Ok(()));
        for bad in ["*", "btcusdt", "BTC-USDT", ""] {
            let config = Config { symbols: vec![bad.to_owned()], ..Config::default() };
            assert!(config.check().expect_err(bad).starts_with("symbols: "));
        }
        assert!(check(|c| c.symbols.clear()).starts_with("symbols:"));
        assert!(check(|c| c.symbols.push("BTCUSDT".to_owned())).contains("twice"));
        assert!(check(|c| c.ws_url = "https://a".to_owned()).starts_with("ws_url: must be ws://"));
        assert!(check(|c| c.rest_url = "a".to_owned()).starts_with("rest_url: must be http://"));
        assert!(check(|c| c.streams_per_connection = 1_025).starts_with("streams_per_connection:"));
        assert!(check(|c| c.replace_jitter = Span::seconds(86_401)).starts_with("replace_jitter:"));
    }

    #[test]
    fn refuses_keys_that_it_does_not_know() {
        assert!(serde_json::from_str::<Config>(r#"{"symbol":["BTCUSDT"]}"#).is_err());
        assert_eq!(serde_json::from_str::<Config>("{}").expect("all defaults"), Config::default());
    }
}
