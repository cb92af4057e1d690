//! What is delivered, and the judge of each delivery.
//!
//! Every server publishes the same text: a quote as the hub writes it, the event's number hidden in the bid's size. The
//! first copy of an event is read whole, member by member; every other copy has to be equal to it byte for byte, which
//! is as strict and a hundred times cheaper. So each delivery is verified, and the client is not what saturates.

use std::fmt;

use crate::{
    scan::{self, Message, Scanner},
    venue,
};

/// Copies that are kept of one stream. Clients that are further behind than that are read whole, which is only slower.
const COPIES_MAX: usize = 4_096;
/// Copies that are kept in all.
const COPIES_TOTAL: usize = 16_384;
/// Receive time in the quotes that the harness makes itself: as many digits as a real one.
const RX_BASE: u64 = 1_700_000_000_000_000_000;
/// The digits of the symbol stand behind this.
const SYMBOL_AT: usize = b"{\"ch\":\"quote\",\"sym\":\"VENUE:S".len();

/// The text of event `number` of the stream `symbol` as the hub would write it.
pub fn quote(symbol: usize, number: u32) -> String {
    let (id, seq, rx) = (venue::instrument(symbol), u64::from(number) + 1, RX_BASE + u64::from(number));
    let (bid, ask, ask_size, size) = (venue::BID, venue::ASK, venue::ASK_SIZE, venue::hidden_size(number.into()));
    format!(
        "{{\"ch\":\"quote\",\"sym\":\"{id}\",\"seq\":{seq},\"ts\":null,\"rx\":\"{rx}\",\"bid\":\"{bid}\",\
         \"bid_sz\":\"{size}\",\"ask\":\"{ask}\",\"ask_sz\":\"{ask_size}\"}}"
    )
}

/// What is wrong with a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Numbers up to here are missing.
    Lost(u32),
    /// It has come before, or behind one that follows it.
    Repeated(u32),
    /// It is not what was sent; why.
    Altered(String),
    /// Nobody asked for it.
    Foreign(usize),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(count) => write!(f, "{count} updates were lost"),
            Self::Repeated(number) => write!(f, "update {number} came again, or too late"),
            Self::Altered(what) => write!(f, "an update was altered: {what}"),
            Self::Foreign(symbol) => write!(f, "an update of {}, which was not subscribed", venue::instrument(*symbol)),
        }
    }
}

/// A message that was read whole.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// An update.
    Update {
        /// Its stream.
        symbol: usize,
        /// Its number.
        number: u32,
        /// Whether it is a snapshot.
        snapshot: bool,
    },
    /// The server names numbers of a stream that will not come: so many.
    Gap {
        /// The stream.
        symbol: usize,
        /// Its last missing number.
        to: u32,
    },
    /// Anything else that the hub says.
    Other,
}

#[derive(Debug, Default)]
struct Copy {
    number: u32,
    text: Vec<u8>,
}

#[derive(Debug)]
struct Stream {
    /// The hub's `seq` less the number: the same for all updates.
    base: Option<u64>,
    copies: Vec<Copy>,
}

/// Knows each update that it has seen, and reads whole what it has not.
#[derive(Debug)]
pub struct Judge {
    streams: Vec<Stream>,
    scanner: Scanner,
}

/// The symbol that a quote names, by its place alone; whether it is one is seen when the text is compared.
#[inline]
pub fn symbol_in(text: &[u8]) -> Option<usize> {
    let digits = text.get(SYMBOL_AT..SYMBOL_AT + 4)?;
    digits.iter().all(u8::is_ascii_digit).then(|| digits.iter().fold(0, |n, digit| n * 10 + usize::from(digit - b'0')))
}

impl Judge {
    /// A judge of so many streams.
    pub fn new(symbols: usize) -> Self {
        let copies = (COPIES_TOTAL / symbols.max(1)).clamp(64, COPIES_MAX);
        let stream = || Stream { base: None, copies: (0..copies).map(|_| Copy::default()).collect() };
        Self { streams: (0..symbols).map(|_| stream()).collect(), scanner: Scanner::default() }
    }

    /// Whether `text` is update `number` of `symbol`, which is known already.
    #[inline]
    pub fn is_known(&self, symbol: usize, number: u32, text: &[u8]) -> bool {
        let Some(stream) = self.streams.get(symbol) else { return false };
        let copy = &stream.copies[number as usize % stream.copies.len()];
        copy.number == number && copy.text == text
    }

    /// Takes note of what was sent, where the server passes on bytes: nothing else may come.
    pub fn sent(&mut self, symbol: usize, number: u32, text: &[u8]) {
        self.keep(symbol, number, text);
    }

    fn keep(&mut self, symbol: usize, number: u32, text: &[u8]) {
        let stream = &mut self.streams[symbol];
        let count = stream.copies.len();
        let copy = &mut stream.copies[number as usize % count];
        if number >= copy.number {
            copy.number = number;
            copy.text.clear();
            copy.text.extend_from_slice(text);
        }
    }

    /// Reads a message whole.
    ///
    /// # Errors
    /// It is none, or not what was sent.
    pub fn read(&mut self, text: &[u8]) -> Result<Read, Fault> {
        let message = self.scanner.scan(text).map_err(Fault::Altered)?.message;
        let event = match message {
            Message::Event(event) => event,
            Message::Gap(gap) => {
                let symbol = self.symbol(&gap.symbol)?;
                let base = self.streams[symbol].base.unwrap_or(0);
                return Ok(Read::Gap { symbol, to: gap.to.saturating_sub(base).try_into().unwrap_or(u32::MAX) });
            }
            Message::Status | Message::Epoch(_) | Message::Answer(_) => return Ok(Read::Other),
        };
        let (symbol, snapshot) = (self.symbol(&event.symbol)?, event.snapshot);
        let number = number_of(text).ok_or_else(|| Fault::Altered("its values are others".to_owned()))?;
        let stream = &mut self.streams[symbol];
        // The first update says where the server's own numbers begin.
        let base = event.seq.checked_sub(number.into());
        stream.base = stream.base.or(base);
        if event.channel != "quote" || base.is_none() || base != stream.base {
            return Err(Fault::Altered(format!("number {number} came as seq {} of {}", event.seq, event.channel)));
        }
        if snapshot {
            return Ok(Read::Update { symbol, number, snapshot });
        }
        let copy = &stream.copies[number as usize % stream.copies.len()];
        if copy.number == number && !copy.text.is_empty() && copy.text != text {
            return Err(Fault::Altered(format!("number {number} came in two forms")));
        }
        self.keep(symbol, number, text);
        Ok(Read::Update { symbol, number, snapshot })
    }

    fn symbol(&self, id: &str) -> Result<usize, Fault> {
        let digits = id.strip_prefix("VENUE:S").and_then(|rest| rest.strip_suffix("-USDT"));
        let symbol = digits.and_then(|digits| digits.parse().ok());
        symbol.filter(|symbol| *symbol < self.streams.len()).ok_or_else(|| Fault::Altered(format!("symbol {id:?}")))
    }
}

/// The number in a quote whose other values are all as the venue sent them.
fn number_of(text: &[u8]) -> Option<u32> {
    let value: serde_json::Value = serde_json::from_slice(text).ok()?;
    let same = |name: &str, wanted: &str| value[name].as_str() == Some(wanted);
    scan::check_values(text).ok()?;
    if !(same("bid", venue::BID) && same("ask", venue::ASK) && same("ask_sz", venue::ASK_SIZE)) {
        return None;
    }
    venue::number_in(value["bid_sz"].as_str()?.as_bytes())?.try_into().ok()
}

/// What became of a delivery to one subscriber.
///
/// # Errors
/// It is not the one that had to come next.
pub fn follow(next: &mut u32, symbol: usize, number: u32) -> Result<(), Fault> {
    match *next {
        u32::MAX => Err(Fault::Foreign(symbol)),
        expected if number == expected => {
            *next += 1;
            Ok(())
        }
        expected if number < expected => Err(Fault::Repeated(number)),
        expected => {
            *next = number + 1;
            Err(Fault::Lost(number - expected))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(judge: &mut Judge, next: &mut u32, text: &str) -> Result<(), Fault> {
        let known = symbol_in(text.as_bytes()).is_some_and(|symbol| judge.is_known(symbol, *next, text.as_bytes()));
        let number = match judge.read(text.as_bytes())? {
            Read::Update { number, .. } => number,
            other => panic!("{other:?}"),
        };
        assert!(!known || number == *next, "what is known is what is expected");
        follow(next, 0, number)
    }

    #[test]
    fn what_is_lost_repeated_or_reordered_is_named() {
        let mut judge = Judge::new(1);
        let mut next = 1;
        for number in [1, 2] {
            assert_eq!(judged(&mut judge, &mut next, &quote(0, number)), Ok(()));
        }
        assert_eq!(judged(&mut judge, &mut next, &quote(0, 2)), Err(Fault::Repeated(2)));
        assert_eq!(judged(&mut judge, &mut next, &quote(0, 5)), Err(Fault::Lost(2)));
        assert_eq!(judged(&mut judge, &mut next, &quote(0, 4)), Err(Fault::Repeated(4)), "reordered");
        assert_eq!(judged(&mut judge, &mut next, &quote(0, 6)), Ok(()), "and it goes on");
        assert_eq!(follow(&mut u32::MAX.clone(), 3, 1), Err(Fault::Foreign(3)));
    }

    #[test]
    fn no_byte_of_an_update_may_differ() {
        let text = quote(0, 7);
        let mut judge = Judge::new(1);
        judge.sent(0, 7, text.as_bytes());
        assert!(judge.is_known(0, 7, text.as_bytes()));
        for at in 0..text.len() {
            let mut altered = text.clone().into_bytes();
            altered[at] = if altered[at] == b'1' { b'2' } else { b'1' };
            assert!(!judge.is_known(0, 7, &altered));
            let fault = judge.read(&altered).map(|read| match read {
                // Another number of the same stream is seen when the number is compared with the one expected, and
                // here `seq` and number have to change together.
                Read::Update { symbol: 0, number, .. } => assert_ne!(number, 7),
                other => panic!("byte {at}: {other:?}"),
            });
            assert!(matches!(fault, Err(Fault::Altered(_))), "byte {at}: {fault:?}");
        }
    }

    #[test]
    fn the_hubs_own_numbering_may_begin_anywhere_and_then_counts_like_the_venues() {
        let mut judge = Judge::new(1);
        let as_hub = |number: u32, seq: u32| {
            quote(0, number).replace(&format!("\"seq\":{}", number + 1), &format!("\"seq\":{seq}"))
        };
        let read = |judge: &mut Judge, text: &str| judge.read(text.as_bytes());
        assert!(read(&mut judge, &as_hub(0, 41)).is_ok());
        assert!(read(&mut judge, &as_hub(1, 42)).is_ok());
        assert!(matches!(read(&mut judge, &as_hub(2, 44)), Err(Fault::Altered(_))));
        let gap = r#"{"op":"gap","ch":"quote","sym":"VENUE:S0000-USDT","from":43,"to":45,"cause":"slow_consumer"}"#;
        assert_eq!(read(&mut judge, gap), Ok(Read::Gap { symbol: 0, to: 4 }));
    }
}
