//! Settings of the simulated venue.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::settings::Span;

/// Most instruments of one simulated venue.
pub(super) const INSTRUMENTS_MAX: u32 = 100_000;
/// Most planned events a second.
pub(super) const RATE_MAX: u32 = 1_000_000;
/// Most faults in one schedule: it is read by people.
pub(super) const FAULTS_MAX: usize = 1_000;
/// Longest burst: what a sweep through a whole book may cause.
pub(super) const BURST_EVENTS_MAX: u32 = 10_000;

/// Settings of the simulated venue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of the venue: the part of every instrument id before the colon.
    pub venue: String,
    /// Seed of everything random. Equal seeds make equal events in equal order.
    pub seed: u64,
    /// How many instruments exist from the start, 1 to 100000: `AAA-USD`, `AAB-USD`, … `ZZZ-USD`,
    /// then `AAAA-USD`, `AAAB-USD`, … 50 fill a screen.
    pub instruments: u32,
    /// Events a second over all instruments, 1 to 1000000, or `"max"` for as fast as it can. An
    /// event is one quote, one trade or one book change of one instrument.
    pub events_per_second: Rate,
    /// Weight of quotes among the events. At most `book_share` unless that is 0, because every
    /// quote that moves comes with the book change that moved it.
    pub quote_share: u32,
    /// Weight of trades among the events.
    pub trade_share: u32,
    /// Weight of book changes among the events; 0 makes no books.
    pub book_share: u32,
    /// Percentage of the events that come in bursts, all of a burst planned for the same instant,
    /// 0 to 90. The mean rate stays.
    pub burst_percent: u32,
    /// Longest burst in events, 2 to 10000.
    pub burst_events: u32,
    /// Whether the last 2 ms before an event are waited for by spinning. Timers have a resolution
    /// of 1 ms, so that without it events are up to that late, and say so; with it the thread of
    /// the feed is always busy.
    pub busy_wait: bool,
    /// Instruments that appear after the start, to be seen by those who subscribed to a pattern.
    pub late_instruments: u32,
    /// When they appear, in planned time after the start.
    pub late_after: Span,
    /// Misbehaviour on schedule, for tests of everything behind it.
    pub faults: Vec<Fault>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            venue: "SIM".to_owned(),
            seed: 1,
            instruments: 50,
            events_per_second: Rate::PerSecond(500),
            quote_share: 40,
            trade_share: 10,
            book_share: 50,
            burst_percent: 20,
            burst_events: 32,
            busy_wait: false,
            late_instruments: 0,
            late_after: Span::seconds(1),
            faults: Vec::new(),
        }
    }
}

/// One misbehaviour, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What happens.
    pub kind: FaultKind,
    /// Before which event, counted from 0.
    #[serde(default)]
    pub at_event: u64,
    /// After how much planned time (at `"max"`: of a million events a second). The later of the
    /// two counts.
    #[serde(default)]
    pub after: Span,
    /// `stale`: how long.
    #[serde(default)]
    pub lasts: Span,
    /// `drop`: how many events; `late`: how many instruments.
    #[serde(default)]
    pub count: u32,
    /// `cross`: whose book, counted from 0.
    #[serde(default)]
    pub instrument: u32,
}

/// Kinds of misbehaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Nothing comes for a while, with the connection open.
    Stale,
    /// The next events are lost on the way, and the loss is noticed behind them.
    Drop,
    /// A book change arrives that crosses the book.
    Cross,
    /// The connection ends.
    Disconnect,
    /// New instruments appear.
    Late,
}

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// So many events a second, on an absolute schedule.
    PerSecond(u32),
    /// As fast as it can.
    Max,
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::PerSecond(rate) => serializer.serialize_u32(*rate),
            Self::Max => serializer.serialize_str("max"),
        }
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Rate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of events a second or \"max\"")
            }

            fn visit_u64<E: de::Error>(self, rate: u64) -> Result<Rate, E> {
                u32::try_from(rate).map(Rate::PerSecond).map_err(|_| E::custom("rate is too high"))
            }

            fn visit_i64<E: de::Error>(self, rate: i64) -> Result<Rate, E> {
                u32::try_from(rate).map(Rate::PerSecond).map_err(|_| E::custom("rate is out of range"))
            }

            // A number in an environment variable arrives as text.
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Rate, E> {
                match text {
                    "max" => Ok(Rate::Max),
                    _ => text
                        .parse()
                        .map(Rate::PerSecond)
                        .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Config {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// A sentence that names the key and what it may be.
    pub fn check(&self) -> Result<(), String> {
        crate::model::check_venue(&self.venue).map_err(|e| format!("venue: {e}"))?;
        let within = |key: &str, value: u64, range: std::ops::RangeInclusive<u64>| {
            let (low, high) = (range.start(), range.end());
            if range.contains(&value) { Ok(()) } else { Err(format!("{key}: must be {low} to {high}, is {value}")) }
        };
        within("instruments", self.instruments.into(), 1..=INSTRUMENTS_MAX.into())?;
        within("late_instruments", self.late_instruments.into(), 0..=u64::from(INSTRUMENTS_MAX - self.instruments))?;
        if let Rate::PerSecond(rate) = self.events_per_second {
            within("events_per_second", rate.into(), 1..=RATE_MAX.into())?;
        }
        let shares = [self.quote_share, self.trade_share, self.book_share].map(u64::from);
        within("quote_share + trade_share + book_share", shares.iter().sum(), 1..=u32::MAX.into())?;
        if self.book_share > 0 && self.quote_share > self.book_share {
            return Err("quote_share: must not be above book_share, unless that is 0".to_owned());
        }
        within("burst_percent", self.burst_percent.into(), 0..=90)?;
        within("burst_events", self.burst_events.into(), 2..=BURST_EVENTS_MAX.into())?;
        within("faults", self.faults.len() as u64, 0..=FAULTS_MAX as u64)?;
        for fault in &self.faults {
            within("faults.instrument", fault.instrument.into(), 0..=u64::from(self.instruments - 1))?;
            within("faults.count", fault.count.into(), 0..=INSTRUMENTS_MAX.into())?;
        }
        Ok(())
    }

    /// The schedule of faults in order, late instruments among them, each with its event number.
    pub(crate) fn schedule(&self) -> Vec<(u64, Fault)> {
        let late = Fault {
            kind: FaultKind::Late,
            at_event: 0,
            after: self.late_after,
            lasts: Span::default(),
            count: self.late_instruments,
            instrument: 0,
        };
        let rate = match self.events_per_second {
            Rate::PerSecond(rate) => u64::from(rate),
            Rate::Max => u64::from(RATE_MAX),
        };
        let number = |fault: &Fault| {
            let after = fault.after.duration().as_nanos() * u128::from(rate) / 1_000_000_000;
            fault.at_event.max(u64::try_from(after).unwrap_or(u64::MAX))
        };
        let faults = self.faults.iter().chain((self.late_instruments > 0).then_some(&late));
        let mut schedule: Vec<_> = faults.map(|fault| (number(fault), *fault)).collect();
        schedule.sort_by_key(|(number, _)| *number);
        schedule
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_rate_as_number_text_or_max() {
        let rate = |text: &str| serde_json::from_str::<Rate>(text);
        assert_eq!(rate("500").expect("number"), Rate::PerSecond(500));
        assert_eq!(rate("\"750\"").expect("text"), Rate::PerSecond(750));
        assert_eq!(rate("\"max\"").expect("max"), Rate::Max);
        for bad in ["-1", "4294967296", "\"fast\"", "true", "1.5"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_the_key_that_is_wrong() {
        let check = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check().expect_err("must be refused")
        };
        assert_eq!(Config::default().check(), Ok(()));
        assert!(check(|c| c.instruments = 0).starts_with("instruments:"));
        assert!(check(|c| c.instruments = 100_001).starts_with("instruments:"));
        assert!(check(|c| c.late_instruments = 100_000).starts_with("late_instruments:"));
        assert!(check(|c| c.events_per_second = Rate::PerSecond(0)).starts_with("events_per_second:"));
        assert!(check(|c| c.quote_share = 51).starts_with("quote_share:"));
        assert!(check(|c| c.venue = "sim".to_owned()).starts_with("venue:"));
        assert!(check(|c| (c.quote_share, c.trade_share, c.book_share) = (0, 0, 0)).contains("share"));
    }

    #[test]
    fn refuses_keys_that_it_does_not_know() {
        assert!(serde_json::from_str::<Config>(r#"{"instrument":3}"#).is_err());
        assert_eq!(serde_json::from_str::<Config>("{}").expect("all defaults"), Config::default());
    }

    #[test]
    fn puts_faults_in_order_of_their_events() {
        let config = Config { late_instruments: 2, late_after: Span::seconds(3), ..Config::default() };
        let fault = |kind, at_event, after| {
            let (after, lasts) = (Span::seconds(after), Span::default());
            Fault { kind, at_event, after, lasts, count: 1, instrument: 0 }
        };
        let faults = vec![fault(FaultKind::Cross, 2_000, 0), fault(FaultKind::Drop, 10, 1)];
        let order = Config { faults, ..config }.schedule();
        let order: Vec<_> = order.into_iter().map(|(at, fault)| (at, fault.kind)).collect();
        assert_eq!(order, [(500, FaultKind::Drop), (1_500, FaultKind::Late), (2_000, FaultKind::Cross)]);
    }
}
