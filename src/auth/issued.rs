//! API keys that were made while the hub runs, as the state store keeps them.

use std::num::NonZeroU32;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::api_key::ApiKeyHash;
use super::{ChannelSet, Narrowing};
use crate::model::{Channel, Depth, Pattern, UnixNanos};
use crate::settings::Span;

/// An API key of the state store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IssuedKey {
    /// The part before the dot.
    pub id: Arc<str>,
    /// The salted hash of the whole key.
    pub hash: ApiKeyHash,
    /// Whose it is: the subject of its sessions and tokens.
    pub owner: Arc<str>,
    /// Its role.
    pub role: Arc<str>,
    /// What it has less than its role.
    #[serde(with = "narrowing", default)]
    pub narrowing: Arc<Narrowing>,
    /// When it ends; never, if absent.
    #[serde(with = "super::nanos::optional", default)]
    pub expires: Option<UnixNanos>,
    /// When it was made.
    #[serde(with = "super::nanos")]
    pub made: UnixNanos,
}

/// A narrowing in words, as tokens write it.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Words {
    #[serde(skip_serializing_if = "Option::is_none")]
    symbols: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_rate: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    depth: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<Span>,
}

impl From<&Narrowing> for Words {
    fn from(narrowing: &Narrowing) -> Self {
        let patterns = |all: &Vec<Pattern>| all.iter().map(|pattern| pattern.as_str().to_owned()).collect();
        let names = |set: ChannelSet| set.iter().map(|channel| channel.as_str().to_owned()).collect();
        Self {
            symbols: narrowing.symbols.as_ref().map(patterns),
            channels: narrowing.channels.map(names),
            max_rate: narrowing.max_rate,
            depth: narrowing.depth.map(Depth::wire),
            connections: narrowing.connections,
            subscriptions: narrowing.subscriptions,
            delay: narrowing.delay.map(Span),
        }
    }
}

impl Words {
    /// What cannot be read is refused: to leave it out would widen the key.
    fn read(self) -> Result<Narrowing, String> {
        let pattern = |text: String| Pattern::parse(&text).map_err(|error| format!("{text:?}: {error}"));
        let channel = |name: String| Channel::parse(&name).ok_or_else(|| format!("{name:?} is not a channel"));
        let depth = |levels: u32| Depth::from_wire(levels.into()).ok_or_else(|| format!("{levels} is not a depth"));
        Ok(Narrowing {
            symbols: self.symbols.map(|all| all.into_iter().map(pattern).collect()).transpose()?,
            channels: self.channels.map(|all| all.into_iter().map(channel).collect()).transpose()?,
            max_rate: self.max_rate,
            depth: self.depth.map(depth).transpose()?,
            connections: self.connections,
            subscriptions: self.subscriptions,
            delay: self.delay.map(Span::duration),
        })
    }
}

mod narrowing {
    use std::sync::Arc;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::{Narrowing, Words};

    pub(super) fn serialize<S: Serializer>(narrowing: &Arc<Narrowing>, serializer: S) -> Result<S::Ok, S::Error> {
        Words::from(&**narrowing).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Narrowing>, D::Error> {
        Words::deserialize(deserializer)?.read().map(Arc::new).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::new_api_key;

    #[test]
    fn a_key_reads_back_as_it_was_written() {
        let made = new_api_key("desk").expect("valid id");
        let narrowing = Narrowing {
            symbols: Some(vec![Pattern::parse("SIM:A*").expect("valid")]),
            channels: Some([Channel::Quote].into_iter().collect()),
            max_rate: NonZeroU32::new(5),
            depth: Some(Depth::All),
            connections: Some(2),
            subscriptions: Some(3),
            delay: Some(std::time::Duration::from_secs(900)),
        };
        for narrowing in [narrowing, Narrowing::default()] {
            let key = IssuedKey {
                id: "desk".into(),
                hash: made.hash.clone(),
                owner: "A \"desk\"".into(),
                role: "viewer".into(),
                narrowing: Arc::new(narrowing),
                expires: Some(UnixNanos(7)),
                made: UnixNanos(1),
            };
            let text = serde_json::to_string(&key).expect("serializes");
            assert_eq!(serde_json::from_str::<IssuedKey>(&text).expect("reads"), key, "{text}");
        }
    }

    #[test]
    fn a_narrowing_that_cannot_be_read_is_refused_and_never_left_out() {
        for bad in [r#"{"symbols":["btc"]}"#, r#"{"channels":["orders"]}"#, r#"{"depth":7}"#, r#"{"later":1}"#] {
            let words: Result<Words, _> = serde_json::from_str(bad);
            assert!(words.map_err(|error| error.to_string()).and_then(Words::read).is_err(), "{bad}");
        }
    }
}
