//! The Binance connection under its supervisor, against a venue that misbehaves on order.

#[path = "support/fake_venue/mod.rs"]
mod fake_venue;

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::time::Duration;

use fake_venue::{FakeVenue, Market, Order, RestFault, Sides};
use serde_json::Value;
use tickhub::fanout::Event;
use tickhub::ingest::{Standalone, standalone};
use tickhub::model::{Decimal, Depth, StreamKind};
use tickhub::provider::supervisor::{self, Ending, supervise};
use tickhub::provider::{ProviderConfig, binance, build};
use tickhub::settings::Span;
use tickhub::shutdown::{Stopper, stop_signal};
use tokio::time::Instant;

const KINDS: [StreamKind; 3] = [StreamKind::Quote, StreamKind::Trade, StreamKind::Book(Depth::All)];

/// No test takes longer; what is waited for has then not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A subscriber of everything, beside the supervised connection that it hears from.
struct Hub {
    hub: Standalone,
    running: Pin<Box<dyn Future<Output = Ending>>>,
    ended: Option<Ending>,
    _stopper: Stopper,
    states: Vec<String>,
    books: HashMap<String, Sides>,
    gaps: Vec<Value>,
    snapshots: usize,
    trades: HashMap<String, Vec<u64>>,
    quotes: HashMap<String, Value>,
}

fn supervision() -> supervisor::Config {
    supervisor::Config {
        backoff_first: Span::millis(20),
        backoff_max: Span::millis(200),
        stale_after: Span::millis(400),
        reconnect_after: Span::millis(900),
        ..supervisor::Config::default()
    }
}

fn config(venue: &FakeVenue, symbols: &[&str]) -> binance::Config {
    binance::Config {
        symbols: symbols.iter().map(|s| (*s).to_owned()).collect(),
        ws_url: venue.ws_url(),
        rest_url: venue.rest_url(),
        snapshots_per_minute: 6_000,
        ..binance::Config::default()
    }
}

impl Hub {
    fn start(config: binance::Config) -> Self {
        let hub = standalone("BINANCE", &KINDS);
        let (stopper, stop) = stop_signal();
        let feed = hub.feed.clone();
        let running = async move {
            let config = ProviderConfig::Binance(config);
            supervise(|| build(&config), feed, &supervision(), 1, stop).await
        };
        Self {
            hub,
            running: Box::pin(running),
            ended: None,
            _stopper: stopper,
            states: Vec::new(),
            books: HashMap::new(),
            gaps: Vec::new(),
            snapshots: 0,
            trades: HashMap::new(),
            quotes: HashMap::new(),
        }
    }

    /// Lets everything run until `done`.
    async fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let started = Instant::now();
        while !done(self) {
            assert!(started.elapsed() < PATIENCE, "waited for {what}; states {:?}, gaps {:?}", self.states, self.gaps);
            tokio::select! {
                ending = &mut self.running, if self.ended.is_none() => self.ended = Some(ending),
                () = tokio::time::sleep(Duration::from_millis(2)) => {}
            }
            self.hear();
        }
    }

    /// Stops the market and waits until the venue has been heard to the end.
    async fn settle(&mut self, venue: &FakeVenue, symbols: &[&str]) {
        for symbol in symbols {
            // What happens behind a trade that was heard now is heard too.
            let id = id_of(symbol);
            let before = self.trades.get(&id).map_or(0, Vec::len);
            self.until("one more trade", |hub| hub.trades.get(&id).is_some_and(|ids| ids.len() > before)).await;
        }
        venue.run_market(false);
        self.catch_up(venue, symbols).await;
    }

    /// Waits until the hub knows what the venue knows, whose market stands still.
    async fn catch_up(&mut self, venue: &FakeVenue, symbols: &[&str]) {
        for symbol in symbols {
            let (book, last_trade, _) = venue.book(symbol);
            let id = id_of(symbol);
            self.until(&format!("the book of {symbol}"), |hub| hub.books.get(&id) == Some(&book)).await;
            self.until(&format!("the last trade of {symbol}"), |hub| hub.trades[&id].last() == Some(&last_trade)).await;
        }
    }

    fn hear(&mut self) {
        while let Some(event) = self.hub.pop() {
            let frame = match event {
                Event::Update(update) => update.frame,
                Event::Gap { frame, .. } | Event::Feed { frame, .. } => frame,
                Event::Instrument(_) => continue,
            };
            let event: Value = serde_json::from_slice(frame.payload()).expect("JSON");
            let text = |member: &str| event[member].as_str().unwrap_or_default().to_owned();
            if event["op"] == "gap" {
                if event["ch"] == "book" {
                    self.books.remove(&text("sym"));
                }
                self.gaps.push(event);
                continue;
            }
            match event["ch"].as_str() {
                Some("status") => self.states.push(text("state")),
                Some("trade") => {
                    self.trades.entry(text("sym")).or_default().push(text("tid").parse().expect("an id"));
                }
                Some("quote") => {
                    self.quotes.insert(text("sym"), event);
                }
                Some("book") => self.book(&event),
                _ => {}
            }
        }
    }

    fn book(&mut self, event: &Value) {
        let id = event["sym"].as_str().expect("a symbol").to_owned();
        if event["snap"] == true {
            self.snapshots += 1;
            self.books.insert(id.clone(), Sides::default());
        }
        let (bids, asks) = self.books.get_mut(&id).expect("a change follows a snapshot");
        for (side, changes) in [(bids, &event["bids"]), (asks, &event["asks"])] {
            apply(side, changes);
        }
    }

    fn gaps_of(&self, channel: &str) -> Vec<&Value> {
        self.gaps.iter().filter(|gap| gap["ch"] == channel).collect()
    }

    fn state(&self) -> &str {
        self.states.last().map_or("", String::as_str)
    }

    fn times(&self, state: &str) -> usize {
        self.states.iter().filter(|seen| *seen == state).count()
    }

    fn cause(&self) -> String {
        self.hub.store.feeds().next().expect("one feed").1.status().cause.to_string()
    }

    fn has_metric(&self, line: &str) -> bool {
        self.hub.feed.registry().render().lines().any(|l| l == line)
    }

    /// Every trade of a symbol came once and in order, but for those that gaps name.
    fn assert_trades_accounted_for(&self, symbol: &str) {
        let id = id_of(symbol);
        let ids = &self.trades[&id];
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "once and in order");
        let missing: u64 = ids.windows(2).map(|pair| pair[1] - pair[0] - 1).sum();
        let named = self.gaps_of("trade").into_iter().filter(|gap| gap["sym"] == id.as_str());
        assert_eq!(missing, named.map(|gap| gap["lost"].as_u64().expect("counted")).sum::<u64>());
    }
}

fn id_of(symbol: &str) -> String {
    let (base, quote) = symbol.split_at(symbol.len() - 4);
    format!("BINANCE:{base}-{quote}")
}

fn apply(side: &mut BTreeMap<Decimal, Decimal>, changes: &Value) {
    for level in changes.as_array().expect("levels") {
        let number = |index: usize| level[index].as_str().and_then(|t| t.parse::<Decimal>().ok()).expect("a number");
        let (price, size) = (number(0), number(1));
        if size.is_zero() {
            side.remove(&price)
        } else {
            side.insert(price, size)
        };
    }
}

#[tokio::test]
async fn joins_books_and_carries_every_trade_and_quote() {
    let symbols = ["BTCUSDT", "ETHUSDT", "ADAUSDT"];
    let venue = FakeVenue::open(Market::walk(1, &symbols), 3).await;
    let mut hub = Hub::start(config(&venue, &symbols));
    hub.until("live", |hub| hub.state() == "live").await;
    hub.until("a thousand trades", |hub| hub.trades.values().map(Vec::len).sum::<usize>() > 1_000).await;
    hub.settle(&venue, &symbols).await;
    assert_eq!(hub.states, ["recovering", "live"]);
    assert_eq!(hub.gaps, Vec::<Value>::new());
    assert_eq!(hub.snapshots, 3, "one join each");
    for symbol in symbols {
        hub.assert_trades_accounted_for(symbol);
        let quote = &hub.quotes[&id_of(symbol)];
        assert!(quote["bid"].is_string() && quote["ts"].is_null(), "bookTicker has no time: {quote}");
    }
    let seen = venue.seen();
    assert_eq!(seen.connections.len(), 1);
    for stream in ["btcusdt@trade", "ethusdt@bookTicker", "adausdt@depth@100ms"] {
        assert!(seen.connections[0].contains(stream), "{}", seen.connections[0]);
    }
}

#[tokio::test]
async fn answers_pings_with_their_own_payload() {
    let venue = FakeVenue::open(Market::walk(2, &["BTCUSDT"]), 1).await;
    let mut hub = Hub::start(config(&venue, &["BTCUSDT"]));
    hub.until("pongs", |_| venue.seen().pongs.len() > 3).await;
    let seen = venue.seen();
    assert_eq!(seen.pongs, seen.pings[..seen.pongs.len()]);
}

#[tokio::test]
async fn comes_back_after_every_kind_of_lost_connection() {
    for order in [Order::Close(1001), Order::Reset, Order::BadFrame] {
        let venue = FakeVenue::open(Market::walk(3, &["BTCUSDT", "ETHUSDT"]), 2).await;
        let mut hub = Hub::start(config(&venue, &["BTCUSDT", "ETHUSDT"]));
        hub.until("live", |hub| hub.state() == "live").await;
        venue.order(order.clone());
        hub.until("live again", |hub| hub.times("live") == 2).await;
        hub.settle(&venue, &["BTCUSDT", "ETHUSDT"]).await;
        assert_eq!(hub.states, ["recovering", "live", "down", "recovering", "live"], "{order:?}");
        assert_eq!(hub.gaps_of("book").len(), 2, "the books were lost, and said to be");
        hub.assert_trades_accounted_for("BTCUSDT");
        hub.assert_trades_accounted_for("ETHUSDT");
        assert!(hub.has_metric("tickhub_feed_reconnects_total{venue=\"BINANCE\"} 1"));
    }
}

#[tokio::test]
async fn a_stalled_connection_is_stale_then_made_anew() {
    let venue = FakeVenue::open(Market::walk(4, &["BTCUSDT"]), 1).await;
    let mut hub = Hub::start(config(&venue, &["BTCUSDT"]));
    hub.until("live", |hub| hub.state() == "live").await;
    venue.order(Order::Stall);
    hub.until("live again", |hub| hub.times("live") == 2).await;
    hub.settle(&venue, &["BTCUSDT"]).await;
    assert_eq!(hub.states, ["recovering", "live", "stale", "down", "recovering", "live"]);
    assert!(hub.has_metric("tickhub_feed_errors_total{venue=\"BINANCE\",class=\"stale\"} 1"));
    hub.assert_trades_accounted_for("BTCUSDT");
}

#[tokio::test]
async fn lost_messages_are_gaps_and_the_book_is_fetched_anew() {
    let venue = FakeVenue::open(Market::walk(5, &["BTCUSDT"]), 1).await;
    let mut hub = Hub::start(config(&venue, &["BTCUSDT"]));
    hub.until("live", |hub| hub.state() == "live").await;
    venue.order(Order::Skip("@depth@100ms", 3));
    hub.until("the book's gap and its end", |hub| hub.gaps_of("book").len() == 1 && hub.snapshots == 2).await;
    venue.order(Order::Skip("@trade", 5));
    hub.until("the trades' gap", |hub| !hub.gaps_of("trade").is_empty()).await;
    hub.settle(&venue, &["BTCUSDT"]).await;
    assert_eq!(hub.states, ["recovering", "live"], "the connection itself is well");
    assert_eq!(hub.gaps_of("trade")[0]["lost"], 5);
    assert_eq!(hub.gaps_of("book")[0]["cause"], "upstream");
    hub.assert_trades_accounted_for("BTCUSDT");
}

#[tokio::test]
async fn messages_out_of_order_and_corrupt_ones_break_nothing_but_the_book() {
    let venue = FakeVenue::open(Market::walk(6, &["BTCUSDT"]), 1).await;
    let mut hub = Hub::start(config(&venue, &["BTCUSDT"]));
    hub.until("live", |hub| hub.state() == "live").await;
    venue.order(Order::Reorder("@depth@100ms"));
    hub.until("the resync", |hub| hub.gaps_of("book").len() == 1 && hub.snapshots == 2).await;
    for garbage in ["{\"stream\":\"btcusdt@depth@100ms\",\"data\":{\"e\":\"depthUpd", "\u{1}\u{2}null", "[]", "{}", ""]
    {
        venue.order(Order::Corrupt("@depth@100ms", garbage));
        let snapshots = hub.snapshots;
        hub.until("the resync", |hub| hub.snapshots > snapshots).await;
    }
    hub.settle(&venue, &["BTCUSDT"]).await;
    assert_eq!(hub.states, ["recovering", "live"]);
    hub.assert_trades_accounted_for("BTCUSDT");
    assert!(hub.hub.feed.rejects().iter().map(|(_, count)| count).sum::<u64>() >= 4);
}

#[tokio::test]
async fn bytes_that_trickle_are_whole_messages_all_the_same() {
    let venue = FakeVenue::open(Market::walk(7, &["BTCUSDT"]), 1).await;
    let mut hub = Hub::start(config(&venue, &["BTCUSDT"]));
    hub.until("live", |hub| hub.state() == "live").await;
    venue.order(Order::Trickle(50));
    let before = hub.trades[&id_of("BTCUSDT")].len();
    hub.until("more trades", |hub| hub.trades[&id_of("BTCUSDT")].len() > before + 60).await;
    hub.settle(&venue, &["BTCUSDT"]).await;
    assert_eq!((hub.states.len(), hub.gaps.len()), (2, 0));
}

#[tokio::test]
async fn snapshots_are_asked_for_again_but_never_before_the_venue_allows_it() {
    let venue = FakeVenue::open(Market::walk(8, &["BTCUSDT"]), 1).await;
    venue.rest_fault("/api/v3/depth", RestFault::Status(429, Some(1)));
    let mut hub = Hub::start(config(&venue, &["BTCUSDT"]));
    hub.until("live", |hub| hub.state() == "live").await;
    let asked: Vec<Instant> =
        venue.seen().requests.iter().filter(|(_, path)| path.contains("depth")).map(|(at, _)| *at).collect();
    assert_eq!(asked.len(), 2);
    assert!(asked[1] - asked[0] >= Duration::from_secs(1), "{:?}", asked[1] - asked[0]);
    assert!(hub.has_metric("tickhub_feed_rest_requests_total{venue=\"BINANCE\",outcome=\"limited\"} 1"));
    hub.settle(&venue, &["BTCUSDT"]).await;
}

#[tokio::test]
async fn a_rate_limit_outlives_the_connection() {
    let venue = FakeVenue::open(Market::walk(17, &["BTCUSDT"]), 1).await;
    venue.rest_fault("/api/v3/depth", RestFault::Status(418, Some(2)));
    let mut hub = Hub::start(config(&venue, &["BTCUSDT"]));
    hub.until("the refusal", |_| venue.seen().requests.iter().any(|(_, path)| path.contains("depth"))).await;
    hub.until("connected", |hub| hub.state() == "recovering").await;
    venue.order(Order::Reset);
    hub.until("live", |hub| hub.state() == "live").await;
    let seen = venue.seen();
    let asked: Vec<Instant> =
        seen.requests.iter().filter(|(_, path)| path.contains("depth")).map(|(at, _)| *at).collect();
    assert_eq!((seen.connections.len(), asked.len()), (2, 2));
    assert!(asked[1] - asked[0] >= Duration::from_secs(2), "{:?}", asked[1] - asked[0]);
}

#[tokio::test]
async fn bad_snapshots_are_survived() {
    for fault in [
        RestFault::Status(500, None),
        RestFault::Garbage("<html>"),
        RestFault::Garbage("{\"lastUpdateId\":1,\"bids\":[[\"x\",\"1\"]],\"asks\":[]}"),
        RestFault::Garbage("{\"lastUpdateId\":18446744073709551615,\"bids\":[],\"asks\":[]}"),
        RestFault::Slow(Duration::from_millis(300)),
        RestFault::Slow(Duration::from_secs(5)),
    ] {
        let venue = FakeVenue::open(Market::walk(9, &["BTCUSDT"]), 1).await;
        venue.rest_fault("/api/v3/depth", fault.clone());
        let mut hub =
            Hub::start(binance::Config { connect_timeout: Span::millis(1_000), ..config(&venue, &["BTCUSDT"]) });
        hub.until(&format!("live after {fault:?}"), |hub| hub.state() == "live").await;
        hub.settle(&venue, &["BTCUSDT"]).await;
        assert_eq!(hub.states, ["recovering", "live"], "{fault:?}");
        assert_eq!(hub.gaps_of("trade").len(), 0, "quotes and trades do not wait for a book");
    }
}

#[tokio::test]
async fn a_stream_that_never_speaks_is_named() {
    let venue = FakeVenue::open(Market::walk(10, &["BTCUSDT"]), 1).await;
    venue.mute("btcusdt@bookTicker");
    let mut hub = Hub::start(binance::Config { silent_after: Span::millis(300), ..config(&venue, &["BTCUSDT"]) });
    hub.until("the name", |hub| hub.cause().contains("btcusdt@bookTicker")).await;
    assert_eq!(hub.state(), "live", "the others flow");
    // The fake venue has no miniTicker, which is as silent.
    assert!(hub.has_metric("tickhub_feed_streams_silent{venue=\"BINANCE\"} 2"));
    assert!(!hub.cause().contains("btcusdt@trade"));
    venue.unmute();
    hub.until("its recovery", |hub| hub.has_metric("tickhub_feed_streams_silent{venue=\"BINANCE\"} 1")).await;
    hub.until("the cause without it", |hub| !hub.cause().contains("bookTicker")).await;
}

#[tokio::test]
async fn connected_without_any_data_is_not_live() {
    let venue = FakeVenue::open(Market::walk(11, &["BTCUSDT"]), 1).await;
    venue.run_market(false);
    let mut hub = Hub::start(binance::Config { silent_after: Span::millis(300), ..config(&venue, &["BTCUSDT"]) });
    hub.until("stale", |hub| hub.state() == "stale").await;
    assert!(hub.cause().contains("no data since connect"), "{}", hub.cause());
    assert!(!venue.seen().pongs.is_empty(), "pings alone were answered");
    venue.run_market(true);
    hub.until("live", |hub| hub.state() == "live").await;
    assert_eq!(hub.states, ["recovering", "stale", "live"]);
}

#[tokio::test]
async fn unknown_symbols_are_left_out_and_counted() {
    let venue = FakeVenue::open(Market::walk(12, &["BTCUSDT", "ETHUSDT"]), 1).await;
    let mut hub = Hub::start(config(&venue, &["BTCUSDT", "BTCUSDTT", "NOSUCHUSDT", "ETHUSDT"]));
    hub.until("live", |hub| hub.state() == "live").await;
    assert!(hub.has_metric("tickhub_feed_symbols_skipped{venue=\"BINANCE\"} 2"));
    assert!(!venue.seen().connections[0].contains("nosuch"));
    hub.settle(&venue, &["BTCUSDT", "ETHUSDT"]).await;

    let mut none = Hub::start(config(&venue, &["NOSUCHUSDT"]));
    none.until("the end", |hub| hub.ended.is_some()).await;
    assert!(matches!(none.ended, Some(Ending::Failed(_))), "{:?}", none.ended);
    assert!(none.cause().starts_with("configuration: symbols"), "{}", none.cause());
}

#[tokio::test]
async fn definitions_that_are_not_to_be_had_are_done_without() {
    let venue = FakeVenue::open(Market::walk(13, &["BTCUSDT"]), 1).await;
    venue.rest_fault("/api/v3/exchangeInfo", RestFault::Status(503, None));
    let mut hub = Hub::start(config(&venue, &["BTCUSDT"]));
    hub.until("live", |hub| hub.state() == "live").await;
    hub.settle(&venue, &["BTCUSDT"]).await;

    let venue = FakeVenue::open(Market::walk(13, &["BTCUSDT"]), 1).await;
    venue.rest_fault("/api/v3/exchangeInfo", RestFault::Status(418, Some(1)));
    let started = Instant::now();
    let mut hub = Hub::start(config(&venue, &["BTCUSDT"]));
    hub.until("live", |hub| hub.state() == "live").await;
    assert!(started.elapsed() >= Duration::from_secs(1), "a ban is waited for");
}

#[tokio::test]
async fn many_streams_take_several_sockets_and_the_rest_goes_by_command() {
    let names: Vec<String> = (0..120).map(|index| format!("A{index:03}USDT")).collect();
    let symbols: Vec<&str> = names.iter().map(String::as_str).collect();
    let venue = FakeVenue::open(Market::walk(14, &symbols), 5).await;
    let config = binance::Config {
        streams_per_connection: 300,
        commands_per_second: 5,
        books: false,
        ..config(&venue, &symbols)
    };
    let mut hub = Hub::start(config);
    hub.until("live", |hub| hub.state() == "live").await;
    hub.until("every symbol", |hub| hub.trades.len() == 120 && hub.quotes.len() == 120).await;
    let seen = venue.seen();
    // Three streams each without books: 360.
    assert_eq!(seen.connections.len(), 2);
    let by_url: usize = seen.connections.iter().map(|path| path.split('/').count() - 1).sum();
    let params = |command: &String| {
        let command: Value = serde_json::from_str(command).expect("JSON");
        command["params"].as_array().map_or(0, Vec::len)
    };
    let by_command: usize = seen.commands.iter().map(params).sum();
    assert_eq!(by_url + by_command, 360);
    assert!(by_command > 0);
    assert_eq!(hub.gaps, Vec::<Value>::new());
}

#[tokio::test]
async fn connections_are_replaced_before_the_venue_cuts_them() {
    let venue = FakeVenue::open(Market::walk(15, &["BTCUSDT"]), 2).await;
    let config = binance::Config {
        replace_after: Span::millis(600),
        replace_jitter: Span::default(),
        ..config(&venue, &["BTCUSDT"])
    };
    let mut hub = Hub::start(config);
    hub.until("two replacements", |hub| hub.times("live") == 3).await;
    hub.settle(&venue, &["BTCUSDT"]).await;
    assert_eq!(hub.times("down"), 0, "the next socket stands before the last one goes: {:?}", hub.states);
    assert!(hub.has_metric("tickhub_feed_reconnects_total{venue=\"BINANCE\"} 0"));
    hub.assert_trades_accounted_for("BTCUSDT");
    let open = venue.seen();
    hub.until("one open socket", |_| venue.seen().open <= 2).await;
    assert!(open.connections.len() >= 3);
}

#[tokio::test]
async fn a_handshake_that_is_turned_down_is_tried_again_when_allowed() {
    let venue = FakeVenue::open(Market::walk(16, &["BTCUSDT"]), 1).await;
    venue.handshake_fault(429, Some(1));
    venue.handshake_fault(403, None);
    let started = Instant::now();
    let mut hub = Hub::start(config(&venue, &["BTCUSDT"]));
    hub.until("live", |hub| hub.state() == "live").await;
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert!(hub.has_metric("tickhub_feed_errors_total{venue=\"BINANCE\",class=\"rate_limited\"} 1"));
    assert!(hub.has_metric("tickhub_feed_errors_total{venue=\"BINANCE\",class=\"refused\"} 1"));
}

/// Real messages, where they are at hand: six minutes of one symbol in seconds.
#[allow(clippy::print_stderr)] // A test that is skipped says so.
#[tokio::test]
async fn a_recorded_stretch_of_a_real_venue_arrives_whole() {
    let folder = std::env::var_os("TICKHUB_CAPTURES")
        .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/captures").into(), std::path::PathBuf::from);
    let Some(market) = Market::recording(&folder.join("binance_spot/btcusdt_20240808.ndjson.gz")) else {
        eprintln!("skipped: there are no recordings at {}", folder.display());
        return;
    };
    let venue = FakeVenue::open(market, 10).await;
    let mut hub = Hub::start(config(&venue, &["BTCUSDT"]));
    hub.until("live", |hub| hub.state() == "live").await;
    let mut last = 0;
    hub.until("the end of the recording", |_| {
        let sent = venue.sent();
        let ended = sent == last && sent > 41_000;
        last = sent;
        ended
    })
    .await;
    hub.catch_up(&venue, &["BTCUSDT"]).await;
    assert_eq!(hub.states, ["recovering", "live"]);
    assert_eq!(hub.gaps, Vec::<Value>::new());
    hub.assert_trades_accounted_for("BTCUSDT");
}
