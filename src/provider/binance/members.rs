//! The members of all message kinds, collected in one pass.
//!
//! Binance names its members with single letters that mean different things in different
//! messages (`a` is an ask price, an id, or a list of levels), so each is kept as what it is
//! until the kind is known.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::parse::{Fault, Levels};
use crate::model::{BookLevel, Decimal};

/// A member's value, as far as any kind of message needs it.
#[derive(Debug, Default)]
pub(super) enum Value<'a> {
    #[default]
    Absent,
    Text(Cow<'a, str>),
    Unsigned(u64),
    Negative(i64),
    Bool(bool),
    /// A list of levels, which went to the [`Levels`].
    Levels,
    /// Something that no kind has there.
    Other,
}

impl Value<'_> {
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    pub(super) fn unsigned(&self) -> Result<u64, Fault> {
        if let Self::Unsigned(number) = self { Ok(*number) } else { Err(Fault::Malformed) }
    }

    pub(super) fn signed(&self) -> Option<i64> {
        match self {
            Self::Unsigned(number) => i64::try_from(*number).ok(),
            Self::Negative(number) => Some(*number),
            _ => None,
        }
    }
}

/// Members by what they mean where that is one thing, else by their letter.
#[derive(Debug, Default)]
pub(super) struct Members<'a> {
    pub(super) event: Value<'a>,
    pub(super) event_time: Value<'a>,
    pub(super) trade_time: Value<'a>,
    pub(super) symbol: Value<'a>,
    pub(super) a: Value<'a>,
    pub(super) b: Value<'a>,
    pub(super) p: Value<'a>,
    pub(super) q: Value<'a>,
    pub(super) t: Value<'a>,
    pub(super) ask_size: Value<'a>,
    pub(super) bid_size: Value<'a>,
    pub(super) buyer_is_maker: Value<'a>,
    pub(super) first_update: Value<'a>,
    pub(super) last_in_diff: Value<'a>,
    pub(super) open: Value<'a>,
    pub(super) high: Value<'a>,
    pub(super) low: Value<'a>,
    pub(super) volume: Value<'a>,
    pub(super) last_update: Value<'a>,
    pub(super) bids: Value<'a>,
    pub(super) asks: Value<'a>,
    pub(super) symbols: Value<'a>,
    pub(super) result: Value<'a>,
    pub(super) id: Value<'a>,
    pub(super) code: Value<'a>,
    /// The code inside an `error` object.
    pub(super) error: Option<i64>,
}

/// What a message holds, its wrapper `{"stream":…,"data":…}` taken off.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // A box would be an allocation for each message.
pub(super) enum Data<'a> {
    Object(Members<'a>),
    Array,
}

/// Reads a whole message, wrapped or not.
pub(super) struct FrameSeed<'s> {
    pub(super) levels: &'s mut Levels,
}

impl<'de> DeserializeSeed<'de> for FrameSeed<'_> {
    type Value = Data<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(FrameVisitor { levels: self.levels, wrapper: true })
    }
}

/// The value of `data`: a message that cannot be wrapped again.
struct DataSeed<'s> {
    levels: &'s mut Levels,
}

impl<'de> DeserializeSeed<'de> for DataSeed<'_> {
    type Value = Data<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(FrameVisitor { levels: self.levels, wrapper: false })
    }
}

struct FrameVisitor<'s> {
    levels: &'s mut Levels,
    wrapper: bool,
}

impl<'de> Visitor<'de> for FrameVisitor<'_> {
    type Value = Data<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array of them")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Data::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Members::default();
        let mut data = None;
        while let Some(key) = map.next_key_seed(KeySeed)? {
            match key {
                Key::Data if self.wrapper => {
                    data = Some(map.next_value_seed(DataSeed { levels: self.levels })?);
                }
                Key::Error => {
                    #[derive(Deserialize)]
                    struct Refusal {
                        code: i64,
                    }
                    members.error = Some(map.next_value::<Refusal>()?.code);
                }
                Key::Data | Key::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
                Key::Member { slot, levels } => {
                    // Levels beside a wrapper's `data` are not the message's.
                    let levels = if data.is_some() { None } else { self.levels.side(levels) };
                    *slot(&mut members) = map.next_value_seed(ValueSeed { levels })?;
                }
            }
        }
        Ok(data.unwrap_or(Data::Object(members)))
    }
}

/// Where a member goes.
enum Key {
    Data,
    Error,
    Unknown,
    Member { slot: for<'m, 'a> fn(&'m mut Members<'a>) -> &'m mut Value<'a>, levels: Side },
}

/// Which side a member's levels belong to, where it may be a list of levels.
#[derive(Clone, Copy)]
enum Side {
    None,
    Bids,
    Asks,
}

struct LevelsOut<'s> {
    out: &'s mut Vec<BookLevel>,
    fault: &'s mut Option<Fault>,
}

impl Levels {
    fn side(&mut self, side: Side) -> Option<LevelsOut<'_>> {
        let out = match side {
            Side::None => return None,
            Side::Bids => &mut self.bids,
            Side::Asks => &mut self.asks,
        };
        Some(LevelsOut { out, fault: &mut self.fault })
    }
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Key, E> {
        macro_rules! member {
            ($field:ident) => {
                Key::Member { slot: |members| &mut members.$field, levels: Side::None }
            };
            ($field:ident, $side:ident) => {
                Key::Member { slot: |members| &mut members.$field, levels: Side::$side }
            };
        }
        Ok(match name {
            "e" => member!(event),
            "E" => member!(event_time),
            "T" => member!(trade_time),
            "s" => member!(symbol),
            "a" => member!(a, Asks),
            "b" => member!(b, Bids),
            "p" => member!(p),
            "q" => member!(q),
            "t" => member!(t),
            "A" => member!(ask_size),
            "B" => member!(bid_size),
            "m" => member!(buyer_is_maker),
            "U" => member!(first_update),
            "u" => member!(last_in_diff),
            "o" => member!(open),
            "h" => member!(high),
            "l" => member!(low),
            "v" => member!(volume),
            "data" => Key::Data,
            "lastUpdateId" => member!(last_update),
            "bids" => member!(bids, Bids),
            "asks" => member!(asks, Asks),
            "symbols" => member!(symbols),
            "result" => member!(result),
            "id" => member!(id),
            "code" => member!(code),
            "error" => Key::Error,
            _ => Key::Unknown,
        })
    }
}

struct ValueSeed<'s> {
    levels: Option<LevelsOut<'s>>,
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value<'de>, E> {
        Ok(Value::Unsigned(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value<'de>, E> {
        Ok(u64::try_from(number).map_or(Value::Negative(number), Value::Unsigned))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value<'de>, A::Error> {
        let Some(LevelsOut { out, fault }) = self.levels else {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Value::Other);
        };
        out.clear();
        while let Some(level) = seq.next_element_seed(LevelSeed)? {
            match level {
                Ok(level) => out.push(level),
                Err(wrong) => *fault = Some(wrong),
            }
        }
        Ok(Value::Levels)
    }
}

/// One level `["price","size",…]`, or why these are no numbers that a book can hold.
struct LevelSeed;

impl<'de> DeserializeSeed<'de> for LevelSeed {
    type Value = Result<BookLevel, Fault>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for LevelSeed {
    type Value = Result<BookLevel, Fault>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a price and a size")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let price = seq.next_element_seed(NumberSeed)?.ok_or_else(|| A::Error::custom("no price"))?;
        let size = seq.next_element_seed(NumberSeed)?.ok_or_else(|| A::Error::custom("no size"))?;
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        let Some((price, size)) = price.zip(size) else { return Ok(Err(Fault::Number)) };
        if price.is_negative() || price.is_zero() || size.is_negative() {
            return Ok(Err(Fault::Impossible));
        }
        Ok(Ok(BookLevel { price, size }))
    }
}

struct NumberSeed;

impl<'de> DeserializeSeed<'de> for NumberSeed {
    type Value = Option<Decimal>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NumberSeed {
    type Value = Option<Decimal>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number in a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Decimal::parse(text.as_bytes()).ok())
    }
}
