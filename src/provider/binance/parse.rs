//! What Binance writes: bytes to typed messages. Pure, and allocates nothing for the usual ones.
//!
//! One pass over a message collects the members that any of its kinds has, whatever their order;
//! the kind is decided afterwards. A member that stands twice counts as its last, as in most JSON
//! readers, and unknown members are passed over.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::members::{Data, FrameSeed, Members, Value};
use crate::model::{AggressorSide, BookLevel, Decimal, Quote, Stats, Trade, TradeId, UnixNanos};
use crate::provider::json::{self, JsonRoom};

/// Longest symbol that is looked at, in bytes.
const SYMBOL_BYTES_MAX: usize = 64;

/// From this number on a time is in microseconds, which Binance sends where the URL asks for it:
/// as milliseconds it would lie beyond the year 5000.
const MICROS_FROM: i64 = 100_000_000_000_000;

/// Why a message cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Not JSON, or without a member that its kind has.
    Malformed,
    /// A kind that is not known.
    Unknown,
    /// A number that is none, or does not fit.
    Number,
    /// A price or size that cannot be: a price of zero, a bid above the ask.
    Impossible,
}

/// Which of the two trade streams a trade came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TradeStream {
    /// `trade`: one message for each trade.
    Single,
    /// `aggTrade`: one for all that an order took at one price.
    Aggregate,
}

/// A message. Book levels lie in the [`Levels`] that the parser was given.
#[derive(Debug, PartialEq)]
pub(super) enum Message<'a> {
    /// An execution, or several at one price.
    Trade { symbol: Cow<'a, str>, stream: TradeStream, id: u64, trade: Trade },
    /// Best bid and offer.
    Quote { symbol: Cow<'a, str>, quote: Quote },
    /// Changed levels between two update ids, both included.
    Diff { symbol: Cow<'a, str>, first: u64, last: u64, ts: Option<UnixNanos> },
    /// Statistics of the last 24 hours.
    Stats { symbol: Cow<'a, str>, stats: Stats },
    /// A whole book without its symbol: the REST answer, or the partial book stream.
    Depth { last: u64 },
    /// The list of symbols, for [`exchange_info`].
    ExchangeInfo,
    /// An array of messages, which only the all-market streams send, for [`batch`].
    Batch,
    /// A known kind that the hub has no use for.
    Unused { symbol: Option<Cow<'a, str>> },
    /// A command was taken.
    Ack { id: Option<u64> },
    /// A command or request was refused.
    Refused { id: Option<u64>, code: i64 },
}

/// Levels of the message last parsed.
#[derive(Debug, Default)]
pub(super) struct Levels {
    pub(super) bids: Vec<BookLevel>,
    pub(super) asks: Vec<BookLevel>,
    /// What is wrong with one of them, if anything.
    pub(super) fault: Option<Fault>,
}

/// Reads a WebSocket message or a REST body.
pub(super) fn message<'a>(text: &'a [u8], room: &'a mut JsonRoom, levels: &mut Levels) -> Result<Message<'a>, Fault> {
    levels.bids.clear();
    levels.asks.clear();
    levels.fault = None;
    let frame = json::read(text, room, FrameSeed { levels: &mut *levels }).map_err(|_| Fault::Malformed)?;
    match frame {
        Data::Object(members) => classify(members, levels),
        Data::Array => Ok(Message::Batch),
    }
}

/// The messages of a [`Message::Batch`], wrapped or not.
pub(super) fn batch(text: &[u8]) -> Result<Vec<&RawValue>, Fault> {
    #[derive(Deserialize)]
    struct Wrapped<'a> {
        #[serde(borrow)]
        data: Vec<&'a RawValue>,
    }
    let bare = serde_json::from_slice::<Vec<&RawValue>>(text);
    bare.or_else(|_| serde_json::from_slice::<Wrapped<'_>>(text).map(|it| it.data)).map_err(|_| Fault::Malformed)
}

/// Hands each symbol of an exchangeInfo body to `each`, with its base and quote; says how many
/// there were. An entry that lacks one of the three is passed over.
pub(super) fn exchange_info(
    text: &[u8],
    room: &mut JsonRoom,
    mut each: impl FnMut(&str, &str, &str),
) -> Result<usize, Fault> {
    #[derive(Deserialize)]
    struct Info<'a> {
        #[serde(borrow)]
        symbols: Vec<Symbol<'a>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Symbol<'a> {
        #[serde(borrow, default)]
        symbol: Cow<'a, str>,
        #[serde(borrow, default)]
        base_asset: Cow<'a, str>,
        #[serde(borrow, default)]
        quote_asset: Cow<'a, str>,
    }
    let info = json::read(text, room, std::marker::PhantomData::<Info<'_>>).map_err(|_| Fault::Malformed)?;
    let whole =
        info.symbols.iter().filter(|it| ![&it.symbol, &it.base_asset, &it.quote_asset].iter().any(|m| m.is_empty()));
    Ok(whole.map(|it| each(&it.symbol, &it.base_asset, &it.quote_asset)).count())
}

fn classify<'a>(members: Members<'a>, levels: &Levels) -> Result<Message<'a>, Fault> {
    let kind = match &members.event {
        Value::Text(kind) => Some(&**kind),
        Value::Absent => None,
        _ => return Err(Fault::Malformed),
    };
    match kind {
        Some("trade") => trade(members, TradeStream::Single),
        Some("aggTrade") => trade(members, TradeStream::Aggregate),
        Some("depthUpdate") => diff(members, levels),
        Some("bookTicker") => quote(members),
        Some("24hrTicker" | "24hrMiniTicker") => stats(members),
        Some("kline" | "avgPrice" | "1hTicker" | "4hTicker" | "1dTicker" | "serverShutdown") => {
            Ok(Message::Unused { symbol: symbol(members.symbol).ok() })
        }
        Some(_) => Err(Fault::Unknown),
        None => unnamed(members, levels),
    }
}

/// What has no `e`: bookTicker among the streams, and everything that is not a stream.
fn unnamed<'a>(members: Members<'a>, levels: &Levels) -> Result<Message<'a>, Fault> {
    if matches!(members.b, Value::Text(_)) && matches!(members.a, Value::Text(_)) {
        return quote(members);
    }
    if !members.last_update.is_absent() {
        if !matches!((&members.bids, &members.asks), (Value::Levels, Value::Levels)) {
            return Err(Fault::Malformed);
        }
        if let Some(fault) = levels.fault {
            return Err(fault);
        }
        return Ok(Message::Depth { last: members.last_update.unsigned()? });
    }
    if matches!(members.symbols, Value::Other) {
        return Ok(Message::ExchangeInfo);
    }
    let id = members.id.unsigned().ok();
    if let Some(code) = members.error.or_else(|| members.code.signed()) {
        return Ok(Message::Refused { id, code });
    }
    if !members.result.is_absent() {
        return Ok(Message::Ack { id });
    }
    Err(Fault::Unknown)
}

fn trade(members: Members<'_>, stream: TradeStream) -> Result<Message<'_>, Fault> {
    let symbol = symbol(members.symbol)?;
    let id = match stream {
        TradeStream::Single => members.t.unsigned()?,
        TradeStream::Aggregate => members.a.unsigned()?,
    };
    let side = match members.buyer_is_maker {
        Value::Bool(true) => AggressorSide::Sell,
        Value::Bool(false) => AggressorSide::Buy,
        _ => return Err(Fault::Malformed),
    };
    let (price, size) = (positive(&members.p)?, positive(&members.q)?);
    let ts_event = match time(&members.trade_time)? {
        None => time(&members.event_time)?,
        time => time,
    };
    Ok(Message::Trade { symbol, stream, id, trade: Trade { ts_event, price, size, side, id: TradeId::from_u64(id) } })
}

fn quote(members: Members<'_>) -> Result<Message<'_>, Fault> {
    let symbol = symbol(members.symbol)?;
    let bid = top(&members.b, &members.bid_size)?;
    let ask = top(&members.a, &members.ask_size)?;
    if let (Some(bid), Some(ask)) = (bid, ask)
        && bid.price > ask.price
    {
        return Err(Fault::Impossible);
    }
    Ok(Message::Quote { symbol, quote: Quote { ts_event: time(&members.event_time)?, bid, ask } })
}

fn diff<'a>(members: Members<'a>, levels: &Levels) -> Result<Message<'a>, Fault> {
    let symbol = symbol(members.symbol)?;
    let (first, last) = (members.first_update.unsigned()?, members.last_in_diff.unsigned()?);
    if !matches!((&members.b, &members.a), (Value::Levels, Value::Levels)) {
        return Err(Fault::Malformed);
    }
    // `u64::MAX` has no successor for the next message to begin with.
    if first > last || last == u64::MAX {
        return Err(Fault::Impossible);
    }
    if let Some(fault) = levels.fault {
        return Err(fault);
    }
    Ok(Message::Diff { symbol, first, last, ts: time(&members.event_time)? })
}

fn stats(members: Members<'_>) -> Result<Message<'_>, Fault> {
    let symbol = symbol(members.symbol)?;
    let stats = Stats {
        ts_event: time(&members.event_time)?,
        open: Some(not_negative(&members.open)?),
        high: Some(not_negative(&members.high)?),
        low: Some(not_negative(&members.low)?),
        volume: Some(not_negative(&members.volume)?),
    };
    Ok(Message::Stats { symbol, stats })
}

fn symbol(value: Value<'_>) -> Result<Cow<'_, str>, Fault> {
    match value {
        Value::Text(symbol) if (1..=SYMBOL_BYTES_MAX).contains(&symbol.len()) => Ok(symbol),
        _ => Err(Fault::Malformed),
    }
}

fn not_negative(value: &Value<'_>) -> Result<Decimal, Fault> {
    let Value::Text(text) = value else { return Err(Fault::Malformed) };
    let number = Decimal::parse(text.as_bytes()).map_err(|_| Fault::Number)?;
    if number.is_negative() { Err(Fault::Impossible) } else { Ok(number) }
}

fn positive(value: &Value<'_>) -> Result<Decimal, Fault> {
    let number = not_negative(value)?;
    if number.is_zero() { Err(Fault::Impossible) } else { Ok(number) }
}

/// One side of a bookTicker. The venue writes an empty side as zero at zero.
fn top(price: &Value<'_>, size: &Value<'_>) -> Result<Option<BookLevel>, Fault> {
    let (price, size) = (not_negative(price)?, not_negative(size)?);
    match (price.is_zero(), size.is_zero()) {
        (true, true) => Ok(None),
        (true, false) => Err(Fault::Impossible),
        (false, _) => Ok(Some(BookLevel { price, size })),
    }
}

fn time(value: &Value<'_>) -> Result<Option<UnixNanos>, Fault> {
    if value.is_absent() {
        return Ok(None);
    }
    let number = value.signed().ok_or(Fault::Malformed)?;
    let nanos = number.checked_mul(if number >= MICROS_FROM { 1_000 } else { 1_000_000 });
    nanos.map(|nanos| Some(UnixNanos(nanos))).ok_or(Fault::Number)
}
