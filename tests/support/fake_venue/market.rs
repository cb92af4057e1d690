//! What happens at the fake venue: rows of a script, and the books that they make.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::Read;
use std::path::Path;

use serde_json::Value;
use tickhub::model::Decimal;

/// One message of one stream.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Its stream, e.g. `btcusdt@trade`.
    pub(crate) stream: String,
    /// The whole message, wrapper included.
    pub(crate) text: String,
}

/// Both sides of a book, from price to size.
pub(crate) type Sides = (BTreeMap<Decimal, Decimal>, BTreeMap<Decimal, Decimal>);

/// One symbol of the venue.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) trade_id: u64,
    pub(crate) update_id: u64,
    pub(crate) book: Sides,
    /// A recorded REST answer, served until the stream has come up to it.
    recorded: Option<(u64, String)>,
}

/// Where rows come from.
enum Script {
    /// Made up, without end.
    Walk { random: u64, symbols: Vec<String> },
    /// Played once.
    Recording(VecDeque<Row>),
}

/// The venue's own market, which goes on whoever is connected.
pub(crate) struct Market {
    script: Script,
    listings: HashMap<String, Listing>,
}

impl Market {
    /// A made-up market of `symbols`.
    pub(crate) fn walk(seed: u64, symbols: &[&str]) -> Self {
        let symbols: Vec<String> = symbols.iter().map(|s| (*s).to_owned()).collect();
        let listing = |(index, symbol): (usize, &String)| {
            let side = |from: i64| (from..from + 50).map(|ticks| (price(ticks), size(7))).collect();
            let first = 1_000 * (index as u64 + 1);
            let book = (side(9_950), side(10_001));
            (symbol.clone(), Listing { trade_id: first, update_id: first, book, recorded: None })
        };
        let listings = symbols.iter().enumerate().map(listing).collect();
        Self { script: Script::Walk { random: seed, symbols }, listings }
    }

    /// The market of a recording, where that is at hand.
    pub(crate) fn recording(file: &Path) -> Option<Self> {
        let packed = std::fs::read(file).ok()?;
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(&packed[..]).read_to_string(&mut text).ok()?;
        let mut market = Self { script: Script::Recording(VecDeque::new()), listings: HashMap::new() };
        let mut rows = VecDeque::new();
        for row in text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a row")) {
            let raw = row["raw"].as_str().expect("text");
            let body: Value = serde_json::from_str(raw).expect("JSON");
            if let Some(last) = body["lastUpdateId"].as_u64() {
                let listing = market.listings.entry("BTCUSDT".to_owned()).or_default();
                listing.book = (levels(&body["bids"]), levels(&body["asks"]));
                listing.recorded = Some((last, raw.to_owned()));
            } else if let Some(stream) = body["stream"].as_str() {
                rows.push_back(Row { stream: stream.to_owned(), text: raw.to_owned() });
            }
        }
        market.script = Script::Recording(rows);
        Some(market)
    }

    pub(crate) fn listing(&self, symbol: &str) -> Option<&Listing> {
        self.listings.get(symbol)
    }

    /// The next message; `None` at the end of a recording.
    pub(crate) fn next(&mut self) -> Option<Row> {
        match &mut self.script {
            Script::Recording(rows) => {
                let row = rows.pop_front()?;
                self.follow(&row);
                Some(row)
            }
            Script::Walk { random, symbols } => {
                let symbol = &symbols[draw(random) as usize % symbols.len()];
                let bits = draw(random);
                let listing = self.listings.get_mut(symbol).expect("listed");
                Some(listing.step(symbol, bits))
            }
        }
    }

    /// Keeps the book of a recording's symbol.
    fn follow(&mut self, row: &Row) {
        let body: Value = serde_json::from_str(&row.text).expect("JSON");
        let data = &body["data"];
        let Some(listing) = data["s"].as_str().and_then(|symbol| self.listings.get_mut(symbol)) else { return };
        match data["e"].as_str() {
            Some("trade") => listing.trade_id = data["t"].as_u64().expect("an id"),
            Some("depthUpdate") => {
                let last = data["u"].as_u64().expect("an id");
                listing.update_id = last;
                if listing.recorded.as_ref().is_some_and(|(snapshot, _)| last <= *snapshot) {
                    return;
                }
                listing.recorded = None;
                let (bids, asks) = &mut listing.book;
                for (side, changes) in [(bids, &data["b"]), (asks, &data["a"])] {
                    for (price, size) in levels(changes) {
                        if size.is_zero() {
                            side.remove(&price)
                        } else {
                            side.insert(price, size)
                        };
                    }
                }
            }
            _ => {}
        }
    }

    /// The REST answer for a symbol's book as it is now.
    pub(crate) fn depth(&self, symbol: &str) -> Option<String> {
        let listing = self.listings.get(symbol)?;
        if let Some((_, text)) = &listing.recorded {
            return Some(text.clone());
        }
        let level = |(price, size): (&Decimal, &Decimal)| format!("[\"{price}\",\"{size}\"]");
        let bids: Vec<String> = listing.book.0.iter().rev().map(level).collect();
        let asks: Vec<String> = listing.book.1.iter().map(level).collect();
        let (bids, asks) = (bids.join(","), asks.join(","));
        Some(format!("{{\"lastUpdateId\":{},\"bids\":[{bids}],\"asks\":[{asks}]}}", listing.update_id))
    }

    /// The REST answer for definitions; `None` if one of the symbols is unknown.
    pub(crate) fn definitions(&self, symbols: &[String]) -> Option<String> {
        let define = |symbol: &String| {
            self.listings.get(symbol)?;
            let (base, quote) = symbol.split_at(symbol.len() - 4);
            Some(format!("{{\"symbol\":\"{symbol}\",\"baseAsset\":\"{base}\",\"quoteAsset\":\"{quote}\"}}"))
        };
        let defined: Option<Vec<String>> = symbols.iter().map(define).collect();
        Some(format!("{{\"timezone\":\"UTC\",\"symbols\":[{}]}}", defined?.join(",")))
    }
}

impl Listing {
    fn step(&mut self, symbol: &str, bits: u64) -> Row {
        let lower = symbol.to_lowercase();
        let wrap = |stream: &str, data: String| {
            let stream = format!("{lower}@{stream}");
            let text = format!("{{\"stream\":\"{stream}\",\"data\":{data}}}");
            Row { stream, text }
        };
        let time = 1_700_000_000_000_u64 + self.update_id;
        let best = |side: Option<(&Decimal, &Decimal)>| side.map(|(p, s)| (*p, *s)).expect("never empty");
        let (bid, ask) = (best(self.book.0.last_key_value()), best(self.book.1.first_key_value()));
        match bits & 7 {
            0..=2 => {
                self.trade_id += 1;
                let (maker, px) = if bits & 8 == 0 { (true, bid.0) } else { (false, ask.0) };
                let id = self.trade_id;
                wrap(
                    "trade",
                    format!(
                        "{{\"e\":\"trade\",\"E\":{time},\"s\":\"{symbol}\",\"t\":{id},\"p\":\"{px}\",\"q\":\"0.50000000\",\"T\":{time},\"m\":{maker},\"M\":true}}"
                    ),
                )
            }
            3 | 4 => wrap(
                "bookTicker",
                format!(
                    "{{\"u\":{},\"s\":\"{symbol}\",\"b\":\"{}\",\"B\":\"{}\",\"a\":\"{}\",\"A\":\"{}\"}}",
                    self.update_id, bid.0, bid.1, ask.0, ask.1
                ),
            ),
            _ => {
                let first = self.update_id + 1;
                self.update_id += 1 + (bits >> 8 & 3);
                let offset = (bits >> 16 & 31) as i64;
                // The far half of a side is never taken away, so no side is ever empty.
                let new = size(if offset > 16 { 1 + (bits >> 24 & 15) as i64 } else { (bits >> 24 & 3) as i64 });
                let (bids, asks, side, ticks) = match bits & 8 {
                    0 => ("b", "a", &mut self.book.0, 9_999 - offset),
                    _ => ("a", "b", &mut self.book.1, 10_001 + offset),
                };
                if new.is_zero() {
                    side.remove(&price(ticks))
                } else {
                    side.insert(price(ticks), new)
                };
                let (last, px) = (self.update_id, price(ticks));
                wrap(
                    "depth@100ms",
                    format!(
                        "{{\"e\":\"depthUpdate\",\"E\":{time},\"s\":\"{symbol}\",\"U\":{first},\"u\":{last},\"{bids}\":[[\"{px}\",\"{new}\"]],\"{asks}\":[]}}"
                    ),
                )
            }
        }
    }
}

fn levels(json: &Value) -> BTreeMap<Decimal, Decimal> {
    let number = |text: &Value| text.as_str().and_then(|text| text.parse().ok()).expect("a number");
    json.as_array().expect("levels").iter().map(|level| (number(&level[0]), number(&level[1]))).collect()
}

fn price(ticks: i64) -> Decimal {
    Decimal::new(ticks * 1_000_000, -8).expect("a price")
}

fn size(lots: i64) -> Decimal {
    Decimal::new(lots * 100_000_000, -8).expect("a size")
}

/// A linear congruential generator: repeatable is all it has to be.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 24
}
