//! A venue for the hub to take its data from: Binance spot's wire form, played by the harness, which so decides when
//! each event happens and knows what every subscriber has to get.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use std::time::Duration;
//! use loadtest::venue::{Event, Kind, Venue};
//!
//! let venue = Venue::start(200)?;                     // symbols 0..200, on a free port of 127.0.0.1
//! let config = venue.provider_toml();                 // the hub's [[provider]] block
//! // … start a hub with it …
//! venue.wait_subscribed(Duration::from_secs(10))?;    // all streams are asked for
//! venue.queue(Event { kind: Kind::Quote, symbol: 7, number: 0 })?;
//! venue.flush()?;                                     // one write for all that was queued
//! # Ok(())
//! # }
//! ```
//!
//! The event's `number` is hidden in a value that the hub passes on digit by digit: `bid_sz` of a quote, `sz` of a
//! trade ([`hidden_size`], [`number_in`]). Where each stream's numbers are counted up by one, a subscriber can see
//! that it got every one of them once and in order, and find the time at which it was to be sent. For that,
//! [`Pace`] is the plan of an open loop: planned times that no delay of sender or receiver moves.
//!
//! Nothing here waits for the hub: [`Venue::flush`] hands over what the socket takes and keeps the rest.

mod line;
mod pace;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use anyhow::{Context, bail, ensure};

use line::Line;
pub use pace::Pace;

/// The venue's name, the part of an instrument id before the colon.
pub const VENUE: &str = "VENUE";
/// Added to an event's number, so that the value has the same digits from the first event to the last.
const NUMBER_BASE: u64 = 100_000_000_000;
/// Digits of the value that hides a number.
pub const NUMBER_DIGITS: usize = 12;
/// Four digits name a symbol; the hub takes no more than 5,000 anyhow.
pub const SYMBOLS_MAX: usize = 5_000;
/// What may wait for a hub that does not read: it is stuck by then, and the harness should not grow with it.
const UNSENT_BYTES_MAX: usize = 256 << 20;

/// Which stream an event is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `bookTicker`; the hub's `quote` (and `ticker`).
    Quote = 0,
    /// `trade`; the hub's `trade`.
    Trade = 1,
}

/// Something that happens at the venue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Its stream.
    pub kind: Kind,
    /// Its symbol, counted from 0.
    pub symbol: usize,
    /// Hidden in its value.
    pub number: u64,
}

/// The instrument id under which the hub publishes the symbol.
pub fn instrument(symbol: usize) -> String {
    format!("{VENUE}:S{symbol:04}-USDT")
}

/// The value that hides `number`, as sent and as published.
pub fn hidden_size(number: u64) -> u64 {
    NUMBER_BASE + number
}

/// The number that the digits of a size hide; `None` if they hide none.
pub fn number_in(size: &[u8]) -> Option<u64> {
    if size.len() != NUMBER_DIGITS || !size.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = size.iter().fold(0, |value: u64, digit| value * 10 + u64::from(digit - b'0'));
    value.checked_sub(NUMBER_BASE)
}

/// The bid of every quote.
pub const BID: &str = "100.00";
/// The ask of every quote.
pub const ASK: &str = "100.01";
/// The ask's size in every quote.
pub const ASK_SIZE: &str = "1.00";

fn raw_symbol(symbol: usize) -> String {
    format!("S{symbol:04}USDT")
}

/// The symbol's number behind the venue's own name, lower or upper case.
fn symbol_of(raw: &str, symbols: usize) -> Option<usize> {
    let digits = raw.strip_prefix(['S', 's'])?.get(..4)?;
    let whole = raw.get(5..).is_some_and(|quote| quote.eq_ignore_ascii_case("usdt"));
    digits.parse().ok().filter(|symbol| whole && *symbol < symbols)
}

/// Lines to the hub, and which of them carries which stream.
#[derive(Debug, Default)]
struct State {
    /// One that has ended leaves its place empty.
    lines: Vec<Option<Line>>,
    /// Index of the line by symbol and [`Kind`].
    routes: Vec<[Option<usize>; 2]>,
    /// Update ids and trade ids of the symbols: they only grow.
    ids: Vec<u64>,
    /// Why the last line ended, until the hub comes back.
    fault: Option<String>,
    closed: bool,
}

impl State {
    /// The streams of a line that has ended have none, until they are asked for again.
    fn remove(&mut self, line: usize, fault: &io::Error) {
        self.lines[line] = None;
        self.routes.iter_mut().flatten().filter(|route| **route == Some(line)).for_each(|route| *route = None);
        self.fault = Some(fault.to_string());
    }
}

#[derive(Debug)]
struct Shared {
    symbols: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it is held")
    }
}

/// A running venue. Its threads sleep unless the hub connects, asks or pings.
#[derive(Debug)]
pub struct Venue {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Venue {
    /// Opens a venue of so many symbols on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// Too many symbols, no port or no thread.
    pub fn start(symbols: usize) -> anyhow::Result<Self> {
        ensure!((1..=SYMBOLS_MAX).contains(&symbols), "the venue has 1 to {SYMBOLS_MAX} symbols, not {symbols}");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port for the venue")?;
        let address = listener.local_addr()?;
        let state = State { routes: vec![[None; 2]; symbols], ids: vec![0; symbols], ..State::default() };
        let shared = Arc::new(Shared { symbols, state: Mutex::new(state), changed: Condvar::new() });
        let mine = shared.clone();
        thread::Builder::new().name("venue".to_owned()).spawn(move || accept(&listener, &mine))?;
        Ok(Self { address, shared })
    }

    /// Where it listens, for WebSocket and REST.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The hub's `[[provider]]` block for this venue.
    pub fn provider_toml(&self) -> String {
        let symbols: Vec<String> = (0..self.shared.symbols).map(|symbol| format!("{:?}", raw_symbol(symbol))).collect();
        format!(
            "[[provider]]\nkind = \"binance\"\nvenue = \"{VENUE}\"\nws_url = \"ws://{0}\"\nrest_url = \"http://{0}\"\n\
             books = false\nsymbols = [{1}]\n",
            self.address,
            symbols.join(", ")
        )
    }

    /// Waits until the quotes and trades of all symbols are asked for.
    ///
    /// # Errors
    /// They are not within `longest`.
    pub fn wait_subscribed(&self, longest: Duration) -> anyhow::Result<()> {
        let open = |state: &mut State| state.routes.iter().flatten().any(Option::is_none);
        let waited = self.shared.changed.wait_timeout_while(self.shared.state(), longest, open);
        let (_state, result) = waited.expect("nothing panics while it is held");
        ensure!(!result.timed_out(), "the hub did not subscribe at the venue within {longest:?}");
        Ok(())
    }

    /// Puts an event behind what is to be sent.
    ///
    /// # Errors
    /// Nobody has asked for its stream, or the hub has not read for too long.
    pub fn queue(&self, event: Event) -> anyhow::Result<()> {
        let state = &mut *self.shared.state();
        let raw = raw_symbol(event.symbol);
        let line = state.routes.get(event.symbol).and_then(|kinds| kinds[event.kind as usize]);
        let Some(line) = line.and_then(|line| state.lines[line].as_mut()) else {
            bail!("nobody is subscribed to {:?} of {raw}", event.kind);
        };
        ensure!(line.unsent() < UNSENT_BYTES_MAX, "the hub does not read what the venue sends");
        state.ids[event.symbol] += 1;
        line.push_text(message(&raw, event, state.ids[event.symbol]).as_bytes());
        Ok(())
    }

    /// Sends what is queued as far as the sockets take it: one write a line. Returns whether that was all.
    ///
    /// # Errors
    /// The hub has gone away.
    pub fn flush(&self) -> anyhow::Result<bool> {
        let state = &mut *self.shared.state();
        if let Some(fault) = &state.fault {
            bail!("the hub left the venue: {fault}");
        }
        let mut all = true;
        for line in state.lines.iter_mut().flatten() {
            all &= line.flush().context("the line from venue to hub")?;
        }
        Ok(all)
    }

    /// Sends one event of each symbol at once, all numbered `number`: what a venue says first.
    ///
    /// # Errors
    /// As [`Self::queue`] and [`Self::flush`].
    pub fn prime(&self, kind: Kind, number: u64) -> anyhow::Result<bool> {
        (0..self.shared.symbols).try_for_each(|symbol| self.queue(Event { kind, symbol, number }))?;
        self.flush()
    }
}

impl Drop for Venue {
    fn drop(&mut self) {
        let state = &mut *self.shared.state();
        state.closed = true;
        state.lines.iter().flatten().for_each(Line::close);
        // Wakes the accepting thread, which then sees the end. Where that fails it ends with the process.
        let _ = TcpStream::connect(self.address);
    }
}

/// The venue's own words for an event.
fn message(raw: &str, event: Event, id: u64) -> String {
    let (stream, size) = (raw.to_ascii_lowercase(), hidden_size(event.number));
    match event.kind {
        Kind::Quote => format!(
            "{{\"stream\":\"{stream}@bookTicker\",\"data\":{{\"u\":{id},\"s\":\"{raw}\",\"b\":\"{BID}\",\"B\":\"{size}\",\
             \"a\":\"{ASK}\",\"A\":\"{ASK_SIZE}\"}}}}"
        ),
        Kind::Trade => {
            let time = 1_700_000_000_000 + id;
            format!(
                "{{\"stream\":\"{stream}@trade\",\"data\":{{\"e\":\"trade\",\"E\":{time},\"s\":\"{raw}\",\"t\":{id},\
                 \"p\":\"{BID}\",\"q\":\"{size}\",\"T\":{time},\"m\":true,\"M\":true}}}}"
            )
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.state().closed {
            return;
        }
        let Ok((stream, _)) = accepted else { continue };
        let shared = shared.clone();
        // Who asked and went away, or asked wrongly, is no fault of the venue; a line that ends says so itself.
        let serve = move || drop(line::serve(stream, &shared));
        // Without a thread the hub sees a connection that ends, and comes again.
        let _ = thread::Builder::new().name("venue-line".to_owned()).spawn(serve);
    }
}

/// The definitions of the symbols that a REST path asks for; `None` if the path is another, or one is unknown.
fn definitions(path: &str, symbols: usize) -> Option<String> {
    let list = path.strip_prefix("/api/v3/exchangeInfo?symbols=")?;
    let list = list.replace("%5B", "[").replace("%5D", "]").replace("%22", "\"");
    let names: Vec<String> = serde_json::from_str(&list).ok()?;
    let define = |name: &String| {
        symbol_of(name, symbols)?;
        Some(format!("{{\"symbol\":\"{name}\",\"baseAsset\":\"{}\",\"quoteAsset\":\"USDT\"}}", &name[..5]))
    };
    let defined: Option<Vec<String>> = names.iter().map(define).collect();
    Some(format!("{{\"timezone\":\"UTC\",\"symbols\":[{}]}}", defined?.join(",")))
}

/// The stream's symbol and kind; `Err` for one that this venue has not, `Ok(None)` for one that it never speaks on.
fn stream_of(stream: &str, symbols: usize) -> io::Result<Option<(usize, Kind)>> {
    let known = stream.split_once('@').and_then(|(raw, kind)| Some((symbol_of(raw, symbols)?, kind)));
    let (symbol, kind) = known.ok_or_else(|| io::Error::other(format!("the venue has no stream {stream}")))?;
    Ok(match kind {
        "bookTicker" => Some((symbol, Kind::Quote)),
        "trade" => Some((symbol, Kind::Trade)),
        _ => None,
    })
}
