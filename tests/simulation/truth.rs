//! What was published: a plain model of the venues, kept beside the hub and never read from it,
//! but for the numbers of book streams, which depend on who wants them.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::action::{INSTRUMENTS, Level};
use crate::message::{Message, text_of};

pub(crate) const TICKER: usize = 0;
pub(crate) const QUOTE: usize = 1;
pub(crate) const TRADE: usize = 2;
/// The first of the four book streams, from the smallest depth to the deepest.
pub(crate) const BOOK: usize = 3;
pub(crate) const DEPTHS: [u32; 4] = [1, 10, 50, 0];
pub(crate) const SIDES: [&str; 3] = ["buy", "sell", "unknown"];

/// A book's window, best first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) bids: Vec<Level>,
    pub(crate) asks: Vec<Level>,
}

/// One number of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Number {
    /// An upstream loss took it, of so many events.
    pub(crate) gap: Option<Option<u64>>,
    /// The stream's value under it: its own, or the last one's where it is a gap.
    pub(crate) value: Option<Rc<str>>,
    /// Of a book: its window under the number; under a gap's, the one it began again with.
    pub(crate) window: Option<Rc<Window>>,
    /// Of a book: the times of the change.
    pub(crate) times: Option<Rc<str>>,
}

#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) numbers: Vec<Number>,
    /// The last number that was not a gap.
    pub(crate) last_value: u64,
}

impl Stream {
    pub(crate) fn number(&self, seq: u64) -> Option<&Number> {
        self.numbers.get((seq as usize).checked_sub(1)?)
    }

    pub(crate) fn last(&self) -> u64 {
        self.numbers.len() as u64
    }

    /// Whether a newcomer could be told a value under `seq`.
    pub(crate) fn has_value(&self, seq: u64) -> bool {
        self.number(seq).is_some_and(|number| number.value.is_some())
    }

    fn value(&mut self, value: String) {
        self.numbers.push(Number { gap: None, value: Some(value.into()), window: None, times: None });
        self.last_value = self.last();
    }

    fn gap(&mut self, lost: Option<u64>) {
        let value = self.numbers.last().and_then(|number| number.value.clone());
        self.numbers.push(Number { gap: Some(lost), value, window: None, times: None });
    }
}

type Side = BTreeMap<i64, i64>;
type Top = (Option<Level>, Option<Level>);

#[derive(Clone, Default, PartialEq, Eq)]
struct Ticker {
    last: Option<Level>,
    top: Top,
    stats: [Option<i64>; 4],
}

/// One instrument, as its venue and the hub's rules for numbering have it.
#[derive(Default)]
pub(crate) struct Instrument {
    /// Its place in [`INSTRUMENTS`].
    pub(crate) index: usize,
    pub(crate) streams: [Stream; 7],
    ticker: Ticker,
    top: Top,
    book: Option<(Side, Side)>,
    book_lost: Option<u64>,
    book_times: Option<Rc<str>>,
}

fn times(ts: Option<i64>, rx: i64) -> String {
    ts.map_or_else(|| format!("-|{rx}"), |ts| format!("{ts}|{rx}"))
}

fn pair(level: Option<Level>) -> String {
    level.map_or_else(|| "-|-".to_owned(), |(price, size)| format!("{}|{}", text_of(price), text_of(size)))
}

impl Instrument {
    pub(crate) fn new(index: usize) -> Self {
        Self { index, ..Self::default() }
    }

    /// A new writer begins with what its connection says: nothing yet.
    pub(crate) fn claimed(&mut self) {
        (self.ticker, self.top, self.book) = (Ticker::default(), (None, None), None);
    }

    pub(crate) fn quote(&mut self, top: Top, ts: Option<i64>, rx: i64) {
        self.top = top;
        self.streams[QUOTE].value(format!("{}|{}|{}", times(ts, rx), pair(top.0), pair(top.1)));
        self.ticker(Ticker { top, ..self.ticker.clone() }, ts, rx);
    }

    pub(crate) fn trade(&mut self, at: Level, side: usize, id: u64, ts: Option<i64>, rx: i64) {
        let id = if id == 0 { "-".to_owned() } else { id.to_string() };
        self.streams[TRADE].value(format!("{}|{}|{}|{id}", times(ts, rx), pair(Some(at)), SIDES[side]));
        self.ticker(Ticker { last: Some(at), ..self.ticker.clone() }, ts, rx);
    }

    pub(crate) fn stats(&mut self, stats: [Option<i64>; 4], ts: Option<i64>, rx: i64) {
        self.ticker(Ticker { stats, ..self.ticker.clone() }, ts, rx);
    }

    fn ticker(&mut self, ticker: Ticker, ts: Option<i64>, rx: i64) {
        if ticker == self.ticker {
            return;
        }
        let stats = ticker.stats.map(|value| value.map_or_else(|| "-".to_owned(), text_of)).join("|");
        let Ticker { last, top, .. } = ticker;
        let text = format!("{}|{}|{}|{}|{stats}", times(ts, rx), pair(last), pair(top.0), pair(top.1));
        self.streams[TICKER].value(text);
        self.ticker = ticker;
    }

    pub(crate) fn lost(&mut self, kind: usize, lost: Option<u64>) {
        self.streams[kind].gap(lost);
    }

    /// Whether there is a book now.
    pub(crate) fn book_is_live(&self) -> bool {
        self.book.is_some()
    }

    /// A snapshot where `whole`, else a change; says whether the result is a book.
    pub(crate) fn book(&mut self, whole: bool, bids: &[Level], asks: &[Level], ts: Option<i64>, rx: i64) -> bool {
        let mut book = if whole { Default::default() } else { self.book.take().unwrap_or_default() };
        for (side, changes) in [(&mut book.0, bids), (&mut book.1, asks)] {
            for (price, size) in changes {
                if *size == 0 {
                    side.remove(price);
                } else {
                    side.insert(*price, *size);
                }
            }
        }
        let crossed =
            matches!((book.0.last_key_value(), book.1.first_key_value()), (Some((b, _)), Some((a, _))) if b >= a);
        if crossed {
            self.book_lost(None);
            return false;
        }
        let top = |level: Option<(&i64, &i64)>| level.map(|(price, size)| (*price, *size));
        let now = (top(book.0.last_key_value()), top(book.1.first_key_value()));
        self.book = Some(book);
        self.book_times = Some(times(ts, rx).into());
        if INSTRUMENTS[self.index].1 && now != self.top {
            self.quote(now, ts, rx);
        }
        true
    }

    pub(crate) fn book_lost(&mut self, lost: Option<u64>) {
        self.book = None;
        self.book_lost = lost;
    }

    /// The window of a depth as it is now.
    pub(crate) fn window(&self, depth: usize) -> Option<Window> {
        let (bids, asks) = self.book.as_ref()?;
        let levels = if DEPTHS[depth] == 0 { usize::MAX } else { DEPTHS[depth] as usize };
        let level = |(price, size): (&i64, &i64)| (*price, *size);
        let bids = bids.iter().rev().take(levels).map(level).collect();
        Some(Window { bids, asks: asks.iter().take(levels).map(level).collect() })
    }

    /// Takes note of the hub's number of a book stream after each action of the feed side.
    pub(crate) fn note_book(&mut self, depth: usize, seq: u64) -> Result<(), String> {
        let window = self.window(depth).map(Rc::new);
        let stream = &mut self.streams[BOOK + depth];
        let last = stream.last();
        if seq == last + 1 {
            let gap = window.is_none().then_some(self.book_lost);
            if gap.is_none() {
                stream.last_value = seq;
            }
            let value = window.as_ref().map(|_| Rc::from(""));
            stream.numbers.push(Number { gap, value, window, times: self.book_times.clone() });
        } else if seq != last {
            return Err(format!("book numbering went from {last} to {seq}"));
        } else if let Some(number) = stream.numbers.last_mut()
            && number.gap.is_some()
            && number.window.is_none()
        {
            number.value = window.as_ref().map(|_| Rc::from(""));
            number.window = window;
        }
        Ok(())
    }
}

/// An event's content as it is compared with what was published.
pub(crate) fn content(kind: usize, message: &Message<'_>) -> String {
    let or = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let head = format!("{}|{}", or(message.ts), or(message.rx));
    let rest: Vec<String> = match kind {
        QUOTE => [message.bid, message.bid_sz, message.ask, message.ask_sz].map(or).to_vec(),
        TRADE => [message.px, message.sz, message.side, message.tid].map(or).to_vec(),
        _ => {
            let Message { last, last_sz, bid, bid_sz, ask, ask_sz, open, high, low, vol, .. } = message;
            [*last, *last_sz, *bid, *bid_sz, *ask, *ask_sz, *open, *high, *low, *vol].map(or).to_vec()
        }
    };
    format!("{head}|{}", rest.join("|"))
}
