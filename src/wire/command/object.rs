//! A JSON object read strictly, member by member, without trusting its size or depth.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Longest text of a client that is shown back to it, in characters.
const ECHO_CHARS_MAX: usize = 64;

/// The members of one object, in the order of the text. Values are checked to be JSON, but not
/// looked into: nesting costs nothing, however deep.
pub(super) struct Object<'a> {
    members: Vec<(String, &'a RawValue)>,
    excess: bool,
}

impl<'a> Object<'a> {
    /// Reads `text`, keeping the first `members_max` members. Beside a fault the object holds what
    /// was read before it, so that an `id` can still be found.
    pub(super) fn read(text: &'a str, members_max: usize) -> (Self, Result<(), String>) {
        let mut object = Self { members: Vec::new(), excess: false };
        if !text.trim_ascii_start().starts_with('{') {
            return (object, Err("not a JSON object: send one object a message".to_owned()));
        }
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let result = Collect { object: &mut object, members_max }
            .deserialize(&mut deserializer)
            .and_then(|()| deserializer.end())
            // Once it is known to be an object, only syntax can be wrong, and the words for that
            // quote nothing of the text.
            .map_err(|error| format!("not valid JSON: {error}"));
        (object, result)
    }

    /// The name of a member that occurs twice.
    pub(super) fn duplicate(&self) -> Option<&str> {
        let mut seen = HashSet::with_capacity(self.members.len());
        self.members.iter().map(|(name, _)| name.as_str()).find(|name| !seen.insert(*name))
    }

    /// Whether there were more members than are kept.
    pub(super) const fn excess(&self) -> bool {
        self.excess
    }

    /// Removes a member.
    pub(super) fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let index = self.members.iter().position(|(member, _)| member == name)?;
        Some(self.members.remove(index).1)
    }

    /// The members that nobody took.
    pub(super) fn into_members(self) -> Vec<(String, &'a RawValue)> {
        self.members
    }

    /// The name of the first member that nobody took.
    pub(super) fn left_over(&self) -> Option<&str> {
        self.members.first().map(|(name, _)| name.as_str())
    }
}

struct Collect<'o, 'a> {
    object: &'o mut Object<'a>,
    members_max: usize,
}

impl<'de> DeserializeSeed<'de> for Collect<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Collect<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if self.object.members.len() == self.members_max {
                self.object.excess = true;
                map.next_value::<IgnoredAny>()?;
            } else {
                let value = map.next_value()?;
                self.object.members.push((name, value));
            }
        }
        Ok(())
    }
}

/// The strings of an array of at most `max`; `None` where it is anything else.
pub(super) fn strings(raw: &RawValue, max: usize) -> Option<Vec<String>> {
    serde_json::Deserializer::from_str(raw.get()).deserialize_seq(Strings { max }).ok()
}

struct Strings {
    max: usize,
}

impl<'de> Visitor<'de> for Strings {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of strings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<String>, A::Error> {
        let mut strings = Vec::new();
        while let Some(text) = seq.next_element::<String>()? {
            if strings.len() == self.max {
                return Err(serde::de::Error::custom("too many"));
            }
            strings.push(text);
        }
        Ok(strings)
    }
}

pub(super) fn string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

pub(super) fn unsigned(raw: &RawValue) -> Option<u64> {
    serde_json::from_str(raw.get()).ok()
}

pub(super) fn boolean(raw: &RawValue) -> Option<bool> {
    serde_json::from_str(raw.get()).ok()
}

/// `member` is there, but not what it must be. `must` completes "must be …".
pub(super) fn wrong(member: &str, must: &str, raw: &RawValue) -> String {
    let text = raw.get();
    let found = match text.as_bytes().first() {
        Some(b'{') => "an object".to_owned(),
        Some(b'[') => "an array".to_owned(),
        Some(b'"') => string(raw).map_or_else(|| "text with half a surrogate pair".to_owned(), |text| quoted(&text)),
        _ => cut(text).to_owned(),
    };
    format!("\"{member}\" must be {must}, not {found}")
}

/// Text of the client in quotes, cut, and with everything escaped that does not print.
pub(super) fn quoted(text: &str) -> String {
    let shown = cut(text);
    if shown.len() == text.len() { format!("{shown:?}") } else { format!("{shown:?}…") }
}

fn cut(text: &str) -> &str {
    text.char_indices().nth(ECHO_CHARS_MAX).map_or(text, |(end, _)| &text[..end])
}
