//! What the sections of the configuration are written in: spans of time, and faults that say what to do.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::UnixNanos;
use crate::time::rfc3339;

/// A span of time as people write it: a whole number and a unit, `250ms`, `5s`, `15m`, `1h` or `7d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

/// Units from the largest, with their milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// A text is not a span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a span of time; write a whole number and ms, s, m, h or d, such as \"5s\"")]
pub struct SpanError;

impl Span {
    /// A span of whole milliseconds.
    #[must_use]
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// A span of whole seconds.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The same as [`Duration`].
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let (_, millis) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or(SpanError)?;
        let number: u64 = number.parse().map_err(|_| SpanError)?;
        number.checked_mul(millis).map(Self::millis).ok_or(SpanError)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        // The largest unit that divides it; zero is "0s".
        let fits = |unit: u64| millis % unit == 0 && (millis != 0 || unit == 1000);
        let (name, unit) = UNITS.into_iter().find(|(_, unit)| fits(*unit)).unwrap_or(("ms", 1));
        write!(f, "{}{name}", millis / unit)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a span of time such as \"5s\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// The time that `text` names in UTC: `2030-12-31T23:59:59Z`, or `2030-12-31` for its midnight.
#[must_use]
pub fn parse_utc(text: &str) -> Option<UnixNanos> {
    let full = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let number = |from: usize, to: usize| full.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    // Days of a calendar whose years begin in March: then the leap day is the last of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = days + (153 * month + 2) / 5 + day - 719_469;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    let at = UnixNanos(seconds.checked_mul(1_000_000_000)?);
    // Written back it must be the same text: refuses the 30th of February and every other form.
    (rfc3339(at).replace(".000Z", "Z") == full).then_some(at)
}

/// One thing wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the key: `auth.keys[0].secret`.
    pub key: String,
    /// The value as it may be shown, never a secret; `None` where there is none.
    pub value: Option<String>,
    /// What is wrong with it, and what to do.
    pub reason: String,
}

impl Fault {
    /// A fault of a key whose value can be shown.
    pub fn new(key: impl Into<String>, value: impl fmt::Debug, reason: impl Into<String>) -> Self {
        Self { key: key.into(), value: Some(shown(&format!("{value:?}"))), reason: reason.into() }
    }

    /// A fault of a key that is missing, or whose value must not be shown.
    pub fn hidden(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { key: key.into(), value: None, reason: reason.into() }
    }
}

/// Longest value that a fault repeats, in characters: enough to recognize it.
const SHOWN_CHARS_MAX: usize = 80;

fn shown(value: &str) -> String {
    if value.chars().count() <= SHOWN_CHARS_MAX {
        return value.to_owned();
    }
    value.chars().take(SHOWN_CHARS_MAX).chain(['…']).collect()
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} = {value}: {}", self.key, self.reason),
            None => write!(f, "{}: {}", self.key, self.reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_spans_and_refuses_what_is_not_one() {
        for (text, millis) in [("0s", 0), ("250ms", 250), ("5s", 5000), ("15m", 900_000), ("1h", 3_600_000)] {
            assert_eq!(text.parse(), Ok(Span::millis(millis)), "{text}");
            assert_eq!(Span::millis(millis).to_string(), text);
        }
        assert_eq!("7d".parse(), Ok(Span::seconds(7 * 86_400)));
        for bad in ["", "5", "s", "5 s", "-5s", "+5s", "1.5s", "5S", "5sec", "18446744073709551615d", "٥s"] {
            assert_eq!(bad.parse::<Span>(), Err(SpanError), "{bad}");
        }
    }

    #[test]
    fn reads_times_in_utc_and_refuses_what_is_not_one() {
        assert_eq!(parse_utc("1970-01-01"), Some(UnixNanos(0)));
        assert_eq!(parse_utc("2024-08-08T23:54:13Z"), Some(UnixNanos(1_723_161_253_000_000_000)));
        assert_eq!(parse_utc("2000-02-29"), Some(UnixNanos(951_782_400_000_000_000)));
        for bad in ["", "2001-02-29", "2024-13-01", "2024-01-01T24:00:00Z", "2024-01-01T00:00:00+01:00", "2024-1-1"] {
            assert_eq!(parse_utc(bad), None, "{bad}");
        }
        for bad in ["9999-01-01", "2024-01-01T00:00:00", "2024-01-01 00:00:00Z", "+024-01-01", "2024-01-0é"] {
            assert_eq!(parse_utc(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_fault_names_key_value_and_reason() {
        assert_eq!(Fault::new("a.b", 7, "is odd").to_string(), "a.b = 7: is odd");
        assert_eq!(Fault::hidden("a.b", "is missing").to_string(), "a.b: is missing");
        assert!(Fault::new("a", "x".repeat(500), "").to_string().len() < 100);
    }

    proptest! {
        #[test]
        fn every_span_reads_back(millis in 0u64..=u64::MAX) {
            prop_assert_eq!(Span::millis(millis).to_string().parse(), Ok(Span::millis(millis)));
        }

        #[test]
        fn every_time_reads_back(seconds in 0i64..9_000_000_000) {
            let at = UnixNanos(seconds * 1_000_000_000);
            prop_assert_eq!(parse_utc(&rfc3339(at).replace(".000", "")), Some(at));
        }
    }
}
