//! Binance messages to events: symbols, trade continuity, and the books' joins.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::join::{DiffHead, Held, Snapshot, Step, Verdict};
use super::parse::{self, Fault, Levels, Message};
use super::symbol::{Asked, Claimed, Stream, Symbol, TradeFlow};
use crate::ingest::{Feed, Instrument, Reject};
use crate::model::{BookLevel, Received, StreamKind};
use crate::provider::decoder::{BookState, Decoder, Heard, Options, RestRequest, WatchError};
use crate::provider::json::JsonRoom;
use crate::provider::symbology::{Authority, Symbology};

/// Most symbols that one feed tells apart, those that it must refuse among them: twenty times
/// what the venue lists.
const SYMBOLS_MAX: usize = 65_536;

/// Turns what Binance spot sends into events. See [`Decoder`] for what drives it.
///
/// Trades come from whichever of `trade` and `aggTrade` a symbol shows first; the other is
/// counted as unused. A jump in their ids is an upstream loss. An id that is not above those
/// before is published all the same, since the venue said it, but for one case: after a
/// disconnect, ids up to the last one from before it are repeats and dropped.
pub struct BinanceDecoder {
    room: JsonRoom,
    levels: Levels,
    market: Market,
}

/// All but the parser's buffers, so that messages may borrow from those.
struct Market {
    options: Options,
    symbology: Symbology,
    symbols: Vec<Symbol>,
    by_name: FxHashMap<Box<str>, usize>,
    /// Symbols that wait for a snapshot which nobody has been asked for. At most one entry each.
    requests: VecDeque<usize>,
}

impl BinanceDecoder {
    /// A decoder that knows no symbols yet.
    #[must_use]
    pub fn new(symbology: Symbology, options: Options) -> Self {
        let market = Market {
            options,
            symbology,
            symbols: Vec::new(),
            by_name: FxHashMap::default(),
            requests: VecDeque::new(),
        };
        Self { room: JsonRoom::default(), levels: Levels::default(), market }
    }

    fn on_batch(&mut self, feed: &Feed, received: Received, frame: &[u8]) -> Heard {
        let Ok(messages) = parse::batch(frame) else { return refuse(feed, Fault::Malformed, frame) };
        let mut heard = Heard::Unused;
        for text in messages {
            let text = text.get().as_bytes();
            // A batch in a batch is no message of this venue, and must not be recursed into.
            heard = match parse::message(text, &mut self.room, &mut self.levels) {
                Ok(Message::Batch) => refuse(feed, Fault::Malformed, text),
                message => self.market.on_message(feed, received, text, message, &self.levels),
            };
        }
        heard
    }

    fn learn(&mut self, feed: &Feed, body: &[u8]) -> Heard {
        match self.define(Authority::Venue, body) {
            Ok(_) => Heard::Data,
            Err(fault) => refuse(feed, fault, body),
        }
    }

    fn define(&mut self, authority: Authority, body: &[u8]) -> Result<usize, Fault> {
        let symbology = &mut self.market.symbology;
        parse::exchange_info(body, &mut self.room, |symbol, base, quote| {
            symbology.define(authority, symbol, base, quote);
        })
    }
}

impl Decoder for BinanceDecoder {
    fn on_frame(&mut self, feed: &Feed, received: Received, frame: &[u8]) -> Heard {
        match parse::message(frame, &mut self.room, &mut self.levels) {
            Ok(Message::Batch) => self.on_batch(feed, received, frame),
            // Some recorders do not mark what came by REST.
            Ok(Message::ExchangeInfo) => self.learn(feed, frame),
            message => self.market.on_message(feed, received, frame, message, &self.levels),
        }
    }

    fn on_rest(&mut self, feed: &Feed, received: Received, url: Option<&str>, body: &[u8]) -> Heard {
        let last = match parse::message(body, &mut self.room, &mut self.levels) {
            Ok(Message::Depth { last }) => Ok(Some(last)),
            Ok(Message::ExchangeInfo) => Ok(None),
            Ok(Message::Refused { id, code }) => {
                feed.reject(Reject::VenueError, body);
                self.market.failed(url);
                return Heard::Refused { id, code };
            }
            Ok(_) => Err(Fault::Unknown),
            Err(fault) => Err(fault),
        };
        match last {
            Ok(Some(last)) => self.market.on_snapshot(feed, received, url, last, &self.levels, body),
            Ok(None) => self.learn(feed, body),
            Err(fault) => {
                self.market.failed(url);
                refuse(feed, fault, body)
            }
        }
    }

    fn on_rest_failed(&mut self, url: &str) {
        self.market.failed(Some(url));
    }

    fn on_disconnect(&mut self, _: &Feed, received: Received) {
        for symbol in &mut self.market.symbols {
            symbol.trades.disconnected();
            symbol.heard = 0;
        }
        self.market.lose_books(received, "disconnected");
    }

    fn on_rewind(&mut self, _: &Feed, received: Received) {
        for symbol in &mut self.market.symbols {
            symbol.trades.rewound();
        }
        self.market.lose_books(received, "the recording starts again");
    }

    fn on_instruments(&mut self, body: &[u8]) -> usize {
        self.define(Authority::Operator, body).unwrap_or(0)
    }

    fn watch(&mut self, feed: &Feed, raw_symbol: &str) -> Result<(), WatchError> {
        self.market.watch(feed, raw_symbol)
    }

    fn streams(&self) -> Vec<String> {
        self.market.streams(|_, _| true)
    }

    fn silent(&self) -> Vec<String> {
        self.market.streams(|symbol, stream| symbol.heard & stream.bit() == 0)
    }

    fn poll_request(&mut self) -> Option<RestRequest> {
        self.market.poll_request()
    }

    fn books(&self) -> Vec<BookState<'_>> {
        let mut states = Vec::new();
        for symbol in self.market.symbols.iter().filter(|symbol| symbol.has_book) {
            if let Claimed::Yes(instrument) = &symbol.claimed {
                let broken = symbol.join.is_waiting().then(|| symbol.join.cause());
                states.push(BookState { instrument, broken });
            }
        }
        states
    }

    fn left_out(&self) -> Vec<(String, String)> {
        let refused = self.market.symbols.iter().filter_map(|symbol| match &symbol.claimed {
            Claimed::Refused(cause) => Some((symbol.name.to_string(), cause.clone())),
            _ => None,
        });
        refused.collect()
    }
}

impl Market {
    fn on_message(
        &mut self,
        feed: &Feed,
        received: Received,
        text: &[u8],
        message: Result<Message<'_>, Fault>,
        levels: &Levels,
    ) -> Heard {
        match message {
            Ok(Message::Quote { symbol, quote }) => self.with(feed, &symbol, Stream::Quote, text, |_, instrument| {
                instrument.quote(received, &quote);
                Ok(())
            }),
            Ok(Message::Trade { symbol, stream, id, trade }) => {
                self.with(feed, &symbol, Stream::Trade, text, |trades, instrument| {
                    if let Some(lost) = trades.judge(stream, id)? {
                        instrument.lost(received, StreamKind::Trade, Some(lost));
                    }
                    instrument.trade(received, &trade);
                    Ok(())
                })
            }
            Ok(Message::Diff { symbol, first, last, ts }) => {
                self.on_diff(feed, &symbol, DiffHead { first, last, ts, received }, levels, text)
            }
            Ok(Message::Stats { symbol, stats }) => self.with(feed, &symbol, Stream::Stats, text, |_, instrument| {
                instrument.stats(received, &stats);
                Ok(())
            }),
            Ok(Message::Depth { .. } | Message::ExchangeInfo | Message::Batch) => unused(feed, text),
            Ok(Message::Unused { symbol }) => {
                if let Some(symbol) = symbol {
                    self.slot(&symbol);
                }
                unused(feed, text)
            }
            Ok(Message::Ack { id }) => Heard::Ack(id),
            Ok(Message::Refused { id, code }) => {
                feed.reject(Reject::VenueError, text);
                Heard::Refused { id, code }
            }
            Err(fault) => refuse(feed, fault, text),
        }
    }

    fn on_diff(&mut self, feed: &Feed, name: &str, head: DiffHead, levels: &Levels, text: &[u8]) -> Heard {
        let Some(index) = self.claimed(feed, name, Stream::Depth, text) else { return Heard::Rejected };
        if !self.options.books {
            return unused(feed, text);
        }
        let symbol = &mut self.symbols[index];
        symbol.has_book = true;
        let gap = apply(feed, symbol, head, &levels.bids, &levels.asks, text);
        if gap && let Some(ahead) = symbol.join.take_ahead() {
            let Snapshot { last, received, bids, asks } = ahead;
            adopt(feed, symbol, last, received, &bids, &asks);
        }
        self.ask(index);
        Heard::Data
    }

    fn on_snapshot(
        &mut self,
        feed: &Feed,
        received: Received,
        url: Option<&str>,
        last: u64,
        levels: &Levels,
        body: &[u8],
    ) -> Heard {
        let name = match (url.and_then(symbol_of), &self.symbols[..]) {
            (Some(name), _) => name,
            (None, [only]) => only.name.to_string(),
            (None, _) => {
                feed.reject(Reject::UnknownSymbol, body);
                return Heard::Rejected;
            }
        };
        let Some(index) = self.claimed(feed, &name, Stream::Rest, body) else { return Heard::Rejected };
        if !self.options.books {
            return unused(feed, body);
        }
        let symbol = &mut self.symbols[index];
        symbol.has_book = true;
        if symbol.asked == Asked::Sent {
            symbol.asked = Asked::No;
        }
        match symbol.join.snapshot(last, received, levels) {
            Verdict::Adopt => adopt(feed, symbol, last, received, &levels.bids, &levels.asks),
            Verdict::Ahead => {}
            Verdict::Stale => feed.reject(Reject::OutOfOrder, body),
            Verdict::Unneeded => return unused(feed, body),
        }
        self.ask(index);
        Heard::Data
    }

    /// Has `publish` do its work with a symbol's trades and instrument, or counts why not.
    #[inline]
    fn with(
        &mut self,
        feed: &Feed,
        name: &str,
        stream: Stream,
        text: &[u8],
        publish: impl FnOnce(&mut TradeFlow, &mut Instrument) -> Result<(), Reject>,
    ) -> Heard {
        let Some(index) = self.claimed(feed, name, stream, text) else { return Heard::Rejected };
        let Symbol { trades, claimed, .. } = &mut self.symbols[index];
        let Claimed::Yes(instrument) = claimed else { return Heard::Rejected };
        match publish(trades, instrument) {
            Ok(()) => Heard::Data,
            Err(reason) => {
                feed.reject(reason, text);
                Heard::Unused
            }
        }
    }

    /// The place of a symbol that is an instrument; anything else is counted.
    #[inline]
    fn claimed(&mut self, feed: &Feed, name: &str, stream: Stream, text: &[u8]) -> Option<usize> {
        let Some(index) = self.slot(name) else {
            feed.reject(Reject::UnknownSymbol, text);
            return None;
        };
        let symbol = &mut self.symbols[index];
        symbol.claim(feed, &self.symbology);
        if !matches!(symbol.claimed, Claimed::Yes(_)) {
            feed.reject(Reject::Symbol, text);
            return None;
        }
        symbol.heard |= stream.bit();
        Some(index)
    }

    /// The place of a symbol, made where symbols are discovered; `None` for a stranger.
    #[inline]
    fn slot(&mut self, name: &str) -> Option<usize> {
        match self.by_name.get(name) {
            Some(index) => Some(*index),
            None if self.options.discover => self.add(name),
            None => None,
        }
    }

    fn add(&mut self, name: &str) -> Option<usize> {
        let index = self.symbols.len();
        if index >= SYMBOLS_MAX {
            return None;
        }
        self.symbols.push(Symbol::new(name));
        self.by_name.insert(name.into(), index);
        Some(index)
    }

    fn watch(&mut self, feed: &Feed, name: &str) -> Result<(), WatchError> {
        let refused = |cause: &str| WatchError { symbol: name.to_owned(), cause: cause.to_owned() };
        let known = self.by_name.get(name).copied();
        let index = known.or_else(|| self.add(name)).ok_or_else(|| refused("too many symbols"))?;
        let symbol = &mut self.symbols[index];
        symbol.claim(feed, &self.symbology);
        if let Claimed::Refused(cause) = &symbol.claimed {
            return Err(refused(cause));
        }
        symbol.watched = true;
        symbol.has_book = self.options.books;
        self.ask(index);
        Ok(())
    }

    fn streams(&self, wanted: impl Fn(&Symbol, Stream) -> bool) -> Vec<String> {
        let mut names = Vec::new();
        for symbol in self.symbols.iter().filter(|symbol| symbol.watched) {
            for (stream, name) in Stream::SUBSCRIBED {
                if (stream != Stream::Depth || self.options.books) && wanted(symbol, stream) {
                    names.push(format!("{}@{name}", symbol.name.to_lowercase()));
                }
            }
        }
        names
    }

    fn lose_books(&mut self, received: Received, cause: &'static str) {
        for index in 0..self.symbols.len() {
            let symbol = &mut self.symbols[index];
            symbol.join.reset(cause);
            if symbol.asked == Asked::Sent {
                symbol.asked = Asked::No;
            }
            if let Claimed::Yes(instrument) = &mut symbol.claimed {
                instrument.book_lost(received, None);
            }
            self.ask(index);
        }
    }

    /// Queues the request for a snapshot, where one is needed and not under way.
    fn ask(&mut self, index: usize) {
        let symbol = &mut self.symbols[index];
        if self.options.books && symbol.has_book && symbol.join.is_waiting() && symbol.asked == Asked::No {
            symbol.asked = Asked::Queued;
            self.requests.push_back(index);
        }
    }

    fn failed(&mut self, url: Option<&str>) {
        let name = url.and_then(symbol_of);
        if let Some(index) = name.and_then(|name| self.by_name.get(name.as_str()).copied()) {
            if self.symbols[index].asked == Asked::Sent {
                self.symbols[index].asked = Asked::No;
            }
            self.ask(index);
        }
    }

    fn poll_request(&mut self) -> Option<RestRequest> {
        while let Some(index) = self.requests.pop_front() {
            let symbol = &mut self.symbols[index];
            if symbol.join.is_waiting() {
                symbol.asked = Asked::Sent;
                let levels = self.options.snapshot_levels;
                return Some(RestRequest { path: format!("/api/v3/depth?symbol={}&limit={levels}", symbol.name) });
            }
            symbol.asked = Asked::No;
        }
        None
    }
}

/// Puts a diff on a symbol's book, holds it, or counts it; says whether it showed a gap.
fn apply(
    feed: &Feed,
    symbol: &mut Symbol,
    head: DiffHead,
    bids: &[BookLevel],
    asks: &[BookLevel],
    text: &[u8],
) -> bool {
    let Claimed::Yes(instrument) = &mut symbol.claimed else { return false };
    match symbol.join.diff(head, bids, asks) {
        Step::Apply => {
            if let Err(fault) = instrument.book_delta(head.received, head.ts, bids, asks) {
                feed.reject(Reject::Impossible, text);
                symbol.join.reset(fault.as_str());
            }
        }
        Step::Hold { overflow: false } | Step::Covered => {}
        Step::Hold { overflow: true } => feed.reject(Reject::Overflow, text),
        Step::Duplicate => feed.reject(Reject::Duplicate, text),
        Step::Gap { lost } => {
            instrument.book_lost(head.received, lost);
            return true;
        }
    }
    false
}

/// Makes a snapshot the book, and puts the diffs that were held for it on top. They are
/// published with their own times, not the snapshot's.
fn adopt(feed: &Feed, symbol: &mut Symbol, last: u64, received: Received, bids: &[BookLevel], asks: &[BookLevel]) {
    let Claimed::Yes(instrument) = &mut symbol.claimed else { return };
    let held = symbol.join.take_held(last);
    if let Err(fault) = instrument.book_snapshot(received, None, bids, asks) {
        feed.reject(Reject::Impossible, fault.as_str().as_bytes());
        symbol.join.reset(fault.as_str());
        return;
    }
    for Held { head, bids, asks } in held {
        apply(feed, symbol, head, &bids, &asks, b"");
    }
}

/// The symbol that a REST address names.
fn symbol_of(url: &str) -> Option<String> {
    let (_, query) = url.split_once('?')?;
    let query = query.split('#').next().unwrap_or(query);
    let mut members = query.split('&').filter_map(|member| member.split_once('='));
    let (_, symbol) = members.find(|(name, symbol)| *name == "symbol" && !symbol.is_empty())?;
    Some(symbol.to_uppercase())
}

fn unused(feed: &Feed, text: &[u8]) -> Heard {
    feed.reject(Reject::Unused, text);
    Heard::Unused
}

fn refuse(feed: &Feed, fault: Fault, text: &[u8]) -> Heard {
    let reason = match fault {
        Fault::Malformed => Reject::Malformed,
        Fault::Unknown => Reject::UnknownMessage,
        Fault::Number => Reject::Number,
        Fault::Impossible => Reject::Impossible,
    };
    feed.reject(reason, text);
    Heard::Rejected
}
