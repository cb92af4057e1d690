//! What is to be run, as data: who connects, what each client holds, and what happens in which phase. Built from the
//! bare options or read from a file; what cannot be run is refused before anything is opened.

mod read;

use std::{collections::BTreeSet, fmt, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::read::from_toml;
use crate::verify::Rules;

/// Different (channel, depth) of one scenario: a stream's number has this many bits for them.
pub const KINDS_MAX: usize = 16;
/// Phases of one scenario: each keeps histograms in every thread.
pub const PHASES_MAX: usize = 64;
/// Clients of one run: what local ports and descriptors allow is far below.
pub const CLIENTS_MAX: usize = 1_000_000;
/// Planned things (connects, commands, events) a second: one each microsecond is more than any thread sends.
pub const RATE_MAX: u32 = 1_000_000;
/// A generator whose p99 comes later than this behind its plan has not offered the load that was asked for.
pub const LATENESS_P99_MAX: Duration = Duration::from_millis(20);
/// Fewer planned things than this are no load to speak of, and their 99th percentile is their worst.
pub const LATENESS_COUNT_MIN: u64 = 100;
/// A planned time has room for ten days.
const VENUE_LENGTH_MAX: Duration = Duration::from_hours(24);
/// The depth of a `book` that is subscribed to without one, as the protocol says.
const BOOK_DEPTH_DEFAULT: u32 = 10;

/// A run, from the first connection to the last goodbye.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Shown in every report.
    pub name: String,
    /// What it is for, in a sentence.
    pub about: String,
    /// Subscribers.
    pub clients: usize,
    /// Threads that they are spread over.
    pub threads: usize,
    /// Seed of every random choice.
    pub seed: u64,
    /// New connections a second, all threads together.
    pub connect_rate: u32,
    /// How long a subscriber may take from connecting to being subscribed.
    pub connect_timeout: Duration,
    /// How long all are subscribed before the hub's memory is read.
    pub settle: Duration,
    /// How long those that are behind may take to catch up at the end.
    pub tail: Duration,
    /// The form of every value is checked in one of so many events (0 = none).
    pub check_values: u32,
    /// Above this p99 lateness of the generator the run is invalid.
    pub lateness_p99_max: Duration,
    /// Where events come from.
    pub source: Source,
    /// Kinds of clients.
    pub groups: Vec<Group>,
    /// What happens, one after the other.
    pub phases: Vec<Phase>,
}

/// Where events come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// The hub's own feed; latency is measured from an event's `rx`.
    Hub,
    /// This process plays the venue; latency is measured from the planned time of sending.
    Venue(VenueSource),
}

/// The venue that this process plays.
#[derive(Debug, Clone, PartialEq)]
pub struct VenueSource {
    /// Instruments that it has.
    pub instruments: usize,
}

/// Clients that hold the same subscriptions.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Shown where a group is meant.
    pub name: String,
    /// Its part of all clients, over the sum of all parts.
    pub share: f64,
    /// What each of its clients holds.
    pub subscriptions: Vec<Subscription>,
}

/// What a client subscribes to on one channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    /// Channel.
    pub channel: String,
    /// Whether every update is wanted, or only the newest.
    pub mode: Mode,
    /// Ids, or patterns.
    pub symbols: Vec<String>,
    /// How many of them.
    pub per_client: PerClient,
    /// Updates a second for one instrument (`latest` only).
    pub max_rate: Option<u32>,
    /// Levels a side (`book` only).
    pub depth: Option<u32>,
    /// What the hub does when the client cannot keep up (`every` only).
    pub overflow: Option<Overflow>,
}

impl Subscription {
    /// The streams that it brings: the channel and, of `book`, the depth.
    pub fn kind(&self) -> Kind {
        let depth = (self.channel == "book").then(|| self.depth.unwrap_or(BOOK_DEPTH_DEFAULT));
        Kind { channel: self.channel.clone(), depth }
    }

    /// What every stream of it has to obey.
    pub fn rules(&self) -> Rules {
        Rules { every: self.mode == Mode::Every, book: self.channel == "book" }
    }
}

/// What streams of different instruments have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// Channel.
    pub channel: String,
    /// Levels a side, of `book`.
    pub depth: Option<u32>,
}

/// Which updates are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// All of them.
    Every,
    /// The newest.
    Latest,
}

impl Mode {
    /// As the protocol writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Every => "every",
            Self::Latest => "latest",
        }
    }
}

/// What becomes of a subscriber that cannot keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Overflow {
    /// It is told which numbers it lost.
    Gap,
    /// It is closed.
    Disconnect,
}

impl Overflow {
    /// As the protocol writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Disconnect => "disconnect",
        }
    }
}

/// How many instruments a client subscribes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PerClient {
    /// So many, picked at random.
    Count(usize),
    /// Whatever the patterns match.
    All,
}

/// A stretch of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// Shown in every report.
    pub name: String,
    /// How long.
    pub duration: Duration,
    /// Whether it counts; a warm-up does not.
    pub measure: bool,
    /// Share of the clients that hardly read while it lasts.
    pub slow: f64,
    /// Bytes a second that those read (0 = none).
    pub slow_bytes_per_s: u64,
    /// Clients that are cut off when it begins and come back.
    pub reconnect: Option<Reconnect>,
    /// Instruments exchanged a second over all clients: one `unsubscribe`, then one `subscribe`.
    pub churn_rate: u32,
    /// Events a second of the venue that this process plays.
    pub rate: u32,
    /// Events of it that come at once; 1 = evenly spread.
    pub burst: u32,
}

impl Phase {
    /// One in which nothing happens but the feed.
    pub fn plain(name: &str, duration: Duration) -> Self {
        Self {
            name: name.to_owned(),
            duration,
            measure: true,
            slow: 0.0,
            slow_bytes_per_s: 0,
            reconnect: None,
            churn_rate: 0,
            rate: 0,
            burst: 1,
        }
    }
}

/// A reconnect storm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reconnect {
    /// Share of all clients.
    pub share: f64,
    /// Handshakes a second at which they come back.
    pub rate: u32,
}

/// Something in a scenario that cannot be run, for the one who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Where it stands, as `phase.storm.reconnect_rate`.
    pub key: String,
    /// What stands there.
    pub value: String,
    /// Why that cannot be.
    pub reason: String,
    /// What to do.
    pub fix: String,
}

impl Wrong {
    /// With all its parts.
    pub fn new(key: impl Into<String>, value: impl fmt::Display, reason: &str, fix: &str) -> Self {
        Self { key: key.into(), value: value.to_string(), reason: reason.to_owned(), fix: fix.to_owned() }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}; {}", self.key, self.value, self.reason, self.fix)
    }
}

impl Scenario {
    /// The different streams of an instrument, in the order of their numbers.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds = Vec::new();
        for kind in self.subscriptions().map(Subscription::kind) {
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        kinds
    }

    /// All subscriptions of all groups.
    pub fn subscriptions(&self) -> impl Iterator<Item = &Subscription> {
        self.groups.iter().flat_map(|group| &group.subscriptions)
    }

    /// For each client the place of its group: at every number as close to the shares as can be.
    pub fn group_of_clients(&self) -> Vec<u16> {
        let sum: f64 = self.groups.iter().map(|group| group.share).sum();
        let mut given = vec![0.0_f64; self.groups.len()];
        let owed = |number: usize, at: usize, given: &[f64]| {
            (number + 1) as f64 * self.groups[at].share / sum.max(f64::MIN_POSITIVE) - given[at]
        };
        (0..self.clients)
            .map(|number| {
                let next = (0..self.groups.len())
                    .max_by(|a, b| owed(number, *a, &given).total_cmp(&owed(number, *b, &given)))
                    .unwrap_or(0);
                given[next] += 1.0;
                next as u16
            })
            .collect()
    }

    /// A place for each client by which shares are told, so that every thread has its part of each share.
    pub fn spread(&self, client: usize) -> usize {
        client % self.threads * self.clients.div_ceil(self.threads) + client / self.threads
    }

    /// The largest share of slow clients in any phase.
    pub fn slow_max(&self) -> f64 {
        self.phases.iter().map(|phase| phase.slow).fold(0.0, f64::max)
    }

    /// How long all phases take.
    pub fn length(&self) -> Duration {
        self.phases.iter().map(|phase| phase.duration).sum()
    }

    /// Everything in it that does not fit together.
    pub fn wrongs(&self) -> Vec<Wrong> {
        let mut wrongs = Vec::new();
        for group in &self.groups {
            let mut channels = BTreeSet::new();
            for subscription in &group.subscriptions {
                let key = format!("group.{}.subscribe.{}", group.name, subscription.channel);
                check_subscription(&key, subscription, &mut wrongs);
                if !channels.insert(&subscription.channel) {
                    let reason = "a client holds each channel once, with one mode and depth";
                    wrongs.push(Wrong::new(
                        key,
                        "twice",
                        reason,
                        "put both lists of symbols into one, or use two groups",
                    ));
                }
            }
        }
        if matches!(self.source, Source::Venue(_)) {
            for held in self.subscriptions().filter(|held| !matches!(held.channel.as_str(), "quote" | "trade")) {
                let reason = "the venue that this program plays has no such events";
                wrongs.push(Wrong::new(
                    "subscribe.channel",
                    &held.channel,
                    reason,
                    "use quote or trade, or the hub's feed",
                ));
            }
        }
        let kinds = self.kinds().len();
        if kinds > KINDS_MAX {
            let reason = format!("at most {KINDS_MAX} different channels and depths");
            wrongs.push(Wrong::new("subscribe", kinds, &reason, "use fewer"));
        }
        for phase in &self.phases {
            self.check_phase(phase, &mut wrongs);
        }
        if !self.phases.iter().any(|phase| phase.measure) {
            let reason = "no phase is measured";
            wrongs.push(Wrong::new("phase", self.phases.len(), reason, "leave `measure` out in one of them"));
        }
        let mut names = BTreeSet::new();
        for phase in self.phases.iter().filter(|phase| !names.insert(&phase.name)) {
            let reason = "two phases have this name";
            wrongs.push(Wrong::new("phase.name", &phase.name, reason, "name each differently"));
        }
        wrongs
    }

    fn check_phase(&self, phase: &Phase, wrongs: &mut Vec<Wrong>) {
        let key = |name: &str| format!("phase.{}.{name}", phase.name);
        if phase.duration.is_zero() {
            wrongs.push(Wrong::new(key("duration"), "0s", "a phase takes time", "give it some, as in \"10s\""));
        }
        let venue = matches!(self.source, Source::Venue(_));
        if phase.rate > 0 && !venue {
            let reason = "the hub's own feed cannot be steered from here";
            let fix =
                "set `source.kind = \"venue\"`, or leave it out and set the feed's rate in the hub's configuration";
            wrongs.push(Wrong::new(key("rate"), phase.rate, reason, fix));
        }
        let fits = self.length() < VENUE_LENGTH_MAX;
        if venue && !fits {
            let reason = "planned times are microseconds of twelve digits in each event";
            wrongs.push(Wrong::new(key("duration"), self.length().as_secs(), reason, "stay below a day in all"));
        }
        if phase.burst > 1 && phase.rate == 0 {
            let reason = "a burst needs a rate";
            wrongs.push(Wrong::new(key("burst"), phase.burst, reason, "set `rate`, the events a second on average"));
        }
        if venue && phase.rate == 0 && phase.measure {
            let reason = "nothing would be delivered";
            wrongs.push(Wrong::new(key("rate"), 0, reason, "set the events a second that the venue sends"));
        }
        let exchangeable = |subscription: &Subscription| match subscription.per_client {
            PerClient::Count(_) => true,
            PerClient::All => subscription.symbols.len() == 1,
        };
        if phase.churn_rate > 0 && !self.subscriptions().all(exchangeable) {
            let reason = "clients that hold several patterns have none to exchange one for";
            let fix = "set `symbols_per_client` to a number, or subscribe to one pattern";
            wrongs.push(Wrong::new(key("churn_rate"), phase.churn_rate, reason, fix));
        }
    }
}

fn check_subscription(key: &str, subscription: &Subscription, wrongs: &mut Vec<Wrong>) {
    let channel = subscription.channel.as_str();
    let mut wrong = |member: &str, value: String, reason: &str, fix: &str| {
        wrongs.push(Wrong::new(format!("{key}.{member}"), value, reason, fix));
    };
    match channel {
        "ticker" | "quote" | "trade" | "book" => {}
        bar if bar.starts_with("bar.") => {}
        "status" => wrong("channel", channel.to_owned(), "`status` has no numbers to verify", "take another channel"),
        _ => wrong("channel", channel.to_owned(), "the channel is unknown", "use ticker, quote, trade, book or bar.*"),
    }
    let always_every = channel == "trade" || channel.starts_with("bar.");
    let latest = subscription.mode == Mode::Latest;
    if always_every && latest {
        wrong("mode", "latest".to_owned(), "this channel has no `latest` mode", "use `every`");
    }
    if let Some(rate) = subscription.max_rate.filter(|_| !latest) {
        wrong("max_rate", rate.to_string(), "it belongs to `latest`", "leave it out, or set `mode = \"latest\"`");
    }
    if let Some(overflow) = subscription.overflow.filter(|_| latest) {
        wrong("overflow", overflow.name().to_owned(), "it belongs to `every`", "leave it out");
    }
    if let Some(depth) = subscription.depth.filter(|_| channel != "book") {
        wrong("depth", depth.to_string(), "it belongs to `book`", "leave it out");
    }
    let malformed: Vec<&str> =
        subscription.symbols.iter().map(String::as_str).filter(|symbol| !is_pattern(symbol)).collect();
    if !malformed.is_empty() || subscription.symbols.is_empty() {
        let value = crate::measure::shown(format!("[{}]", malformed.join(", ")).as_bytes());
        wrong("symbols", value, "symbols must be ids or patterns", "write VENUE:SYMBOL, VENUE:HEAD* or *");
    }
}

/// Whether the text could stand in a subscribe: this keeps quotes and escapes out of the commands.
fn is_pattern(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"._=^/+-:*".contains(&byte);
    !text.is_empty() && text.len() <= 64 && text.bytes().all(allowed)
}

/// Whether `pattern` (an id, `VENUE:HEAD*`, `*:…` or `*`) matches the instrument `id`.
pub fn matches(pattern: &str, id: &str) -> bool {
    let (venue, symbol) = match pattern {
        "*" => ("*", "*"),
        _ => pattern.split_once(':').unwrap_or((pattern, "")),
    };
    let Some((id_venue, id_symbol)) = id.split_once(':') else { return false };
    (venue == "*" || venue == id_venue)
        && match symbol.strip_suffix('*') {
            Some(head) => id_symbol.starts_with(head),
            None => symbol == id_symbol,
        }
}

/// Reads a length of time as people write it: `250ms`, `30s`, `1.5m`, `1h`.
///
/// # Errors
/// What it should look like.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let unit = match &text[digits..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        other => return Err(format!("{other:?} is no unit of time (ms, s, m, h)")),
    };
    let count: f64 = text[..digits].parse().map_err(|_| "a duration is a number and a unit, as in 30s".to_owned())?;
    Duration::try_from_secs_f64(count * unit).map_err(|error| error.to_string())
}

/// Reads a share as people write it: `1%` or `0.01`.
///
/// # Errors
/// What it should look like.
pub fn share(text: &str) -> Result<f64, String> {
    let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 0.01));
    let share = number.parse::<f64>().map_err(|_| "a share is written 1% or 0.01".to_owned())? * scale;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("a share is between 0 and 100 %".to_owned()) }
}

/// Whether `number` is among a share of all numbers, spread evenly.
pub fn is_in_share(number: usize, share: f64) -> bool {
    ((number + 1) as f64 * share + 1e-9).floor() > (number as f64 * share + 1e-9).floor()
}

#[cfg(test)]
mod tests;
