//! The `subscribe` command: its options, what they default to, and where they belong.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::object::{Object, boolean, quoted, string, unsigned, wrong};
use super::{CommandLimits, Fault, bad, finish, symbols};
use crate::model::{Channel, Depth, Overflow};
use crate::wire::ErrorCode;

/// Longest epoch that is taken; those that the hub makes are shorter.
const EPOCH_BYTES_MAX: usize = 64;
/// Members of the small objects inside a resume that are looked at.
const RESUME_MEMBERS_MAX: usize = 4;

/// How updates that a session cannot take at once are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The newest value, older ones conflated.
    Latest,
    /// Every event, in order.
    Every,
}

impl Mode {
    /// The word for it on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::Every => "every",
        }
    }

    /// What a subscription to `channel` has where it does not say.
    #[must_use]
    pub const fn default_of(channel: Channel) -> Self {
        match channel {
            Channel::Ticker | Channel::Quote => Self::Latest,
            Channel::Book | Channel::Trade | Channel::Status => Self::Every,
        }
    }

    /// Whether `channel` has it.
    #[must_use]
    pub const fn belongs_to(self, channel: Channel) -> bool {
        match self {
            Self::Every => true,
            Self::Latest => matches!(channel, Channel::Ticker | Channel::Quote | Channel::Book),
        }
    }
}

/// A `subscribe`, its options resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// The channel.
    pub channel: Channel,
    /// Ids and patterns as they were written, each once; not yet judged.
    pub symbols: Vec<String>,
    /// One that the channel has.
    pub mode: Mode,
    /// Updates a second for one instrument, at least 1; only with [`Mode::Latest`].
    pub max_rate: Option<u32>,
    /// Of a book; the default on other channels, where it means nothing.
    pub depth: Depth,
    /// Whether the current state comes first; `None` where it was not said, which means yes for
    /// what does not reach the session yet, and no for what does.
    pub snapshot: Option<bool>,
    /// Only with [`Mode::Every`], never on `status`; `None` where it was not said.
    pub overflow: Option<Overflow>,
    /// Events that may wait for the session before the overflow policy applies, at least 1; only
    /// with [`Mode::Every`], never on `status`.
    pub backlog: Option<u32>,
    /// Only with [`Mode::Every`], never on `status`.
    pub resume: Option<Resume>,
}

impl Subscribe {
    /// With the default of every option, as a subscription by URL has them.
    #[must_use]
    pub fn new(channel: Channel, symbols: Vec<String>) -> Self {
        Self {
            channel,
            symbols,
            mode: Mode::default_of(channel),
            max_rate: None,
            depth: Depth::Ten,
            snapshot: None,
            overflow: None,
            backlog: None,
            resume: None,
        }
    }
}

/// Where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// In the order of the text, each symbol once.
    pub entries: Vec<ResumeEntry>,
}

/// The last event of one instrument that the client has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeEntry {
    /// The instrument as it was written; not yet judged.
    pub symbol: String,
    /// The epoch that the number belongs to.
    pub epoch: Arc<str>,
    /// The number; 0 before the first event.
    pub seq: u64,
}

pub(super) fn read(mut object: Object<'_>, limits: &CommandLimits) -> Result<Subscribe, Fault> {
    let symbols = symbols(&mut object, limits);
    let channel = object.take("channel");
    let [mode, max_rate, depth, snapshot, overflow, backlog, resume] =
        ["mode", "max_rate", "depth", "snapshot", "overflow", "backlog", "resume"].map(|name| object.take(name));
    let takes = "\"id\", \"channel\", \"symbols\", \"mode\", \"max_rate\", \"depth\", \"snapshot\", \"overflow\", \
                 \"backlog\" and \"resume\"";
    finish(&object, "subscribe", takes)?;
    let mut subscribe = Subscribe::new(self::channel(channel)?, symbols?);
    let channel = subscribe.channel;
    if let Some(raw) = mode {
        subscribe.mode = self::mode(raw, channel)?;
    }
    if let Some(raw) = max_rate {
        latest_only(&subscribe)?;
        subscribe.max_rate = Some(count("max_rate", raw)?);
    }
    if let Some(raw) = depth {
        let must = "10 (the default), 1, 50, or 0 for all";
        belongs("depth", channel == Channel::Book, "channel \"book\"", channel)?;
        subscribe.depth = unsigned(raw).and_then(Depth::from_wire).ok_or_else(|| bad(wrong("depth", must, raw)))?;
    }
    if let Some(raw) = snapshot {
        belongs("snapshot", channel != Channel::Status, "channels with data", channel)?;
        subscribe.snapshot = Some(boolean(raw).ok_or_else(|| bad(wrong("snapshot", "true or false", raw)))?);
    }
    if let Some(raw) = overflow {
        every_only("overflow", &subscribe)?;
        subscribe.overflow = Some(self::overflow(raw)?);
    }
    if let Some(raw) = backlog {
        every_only("backlog", &subscribe)?;
        subscribe.backlog = Some(count("backlog", raw)?);
    }
    if let Some(raw) = resume {
        every_only("resume", &subscribe)?;
        subscribe.resume = Some(self::resume(raw, limits)?);
    }
    Ok(subscribe)
}

pub(super) fn channel(raw: Option<&RawValue>) -> Result<Channel, Fault> {
    let names = || Channel::ALL.map(|channel| format!("\"{}\"", channel.as_str())).join(", ");
    let raw = raw.ok_or_else(|| bad(format!("\"channel\" is missing: it must be one of {}", names())))?;
    let name = string(raw).ok_or_else(|| bad(wrong("channel", &format!("one of {}", names()), raw)))?;
    Channel::parse(&name).ok_or_else(|| {
        let message = format!("\"channel\" must be one of {}: the hub does not make {}", names(), quoted(&name));
        (ErrorCode::UnknownChannel, message)
    })
}

fn mode(raw: &RawValue, channel: Channel) -> Result<Mode, Fault> {
    let mode = match string(raw).as_deref() {
        Some("latest") => Mode::Latest,
        Some("every") => Mode::Every,
        _ => return Err(bad(wrong("mode", "\"latest\" or \"every\"", raw))),
    };
    if !mode.belongs_to(channel) {
        let channel = channel.as_str();
        return Err(bad(format!("\"mode\" must be \"every\" on channel \"{channel}\", which is never conflated")));
    }
    Ok(mode)
}

fn count(member: &str, raw: &RawValue) -> Result<u32, Fault> {
    unsigned(raw)
        .and_then(|count| u32::try_from(count).ok())
        .filter(|count| *count >= 1)
        .ok_or_else(|| bad(wrong(member, "a whole number from 1 to 4294967295", raw)))
}

fn overflow(raw: &RawValue) -> Result<Overflow, Fault> {
    let policy = string(raw).and_then(|text| Overflow::parse(&text));
    policy.ok_or_else(|| bad(wrong("overflow", "\"gap\" or \"disconnect\"", raw)))
}

fn belongs(option: &str, does: bool, whose: &str, channel: Channel) -> Result<(), Fault> {
    if does {
        return Ok(());
    }
    Err(bad(format!("\"{option}\" belongs to {whose}, not to \"{}\": leave it out", channel.as_str())))
}

fn latest_only(subscribe: &Subscribe) -> Result<(), Fault> {
    let channel = subscribe.channel;
    belongs("max_rate", Mode::Latest.belongs_to(channel), "channels with mode \"latest\"", channel)?;
    if subscribe.mode == Mode::Latest {
        return Ok(());
    }
    Err(bad("\"max_rate\" belongs to mode \"latest\": leave it out, or send \"mode\":\"latest\""))
}

fn every_only(option: &str, subscribe: &Subscribe) -> Result<(), Fault> {
    belongs(option, subscribe.channel != Channel::Status, "numbered channels", subscribe.channel)?;
    if subscribe.mode == Mode::Every {
        return Ok(());
    }
    Err(bad(format!("\"{option}\" belongs to mode \"every\": leave it out, or send \"mode\":\"every\"")))
}

fn resume(raw: &RawValue, limits: &CommandLimits) -> Result<Resume, Fault> {
    let mut object = inner(raw, "resume", "{\"epoch\":\"…\",\"seq\":{…}}", RESUME_MEMBERS_MAX)?;
    let common = object.take("epoch").map(|raw| epoch("resume.epoch", raw)).transpose()?;
    let seq = object.take("seq").ok_or_else(|| bad("\"resume.seq\" is missing: it must be {\"VENUE:SYMBOL\":1234}"))?;
    finish(&object, "resume", "\"epoch\" and \"seq\"")?;
    let listed = inner(seq, "resume.seq", "{\"VENUE:SYMBOL\":1234}", limits.resume_max)?;
    if listed.excess() {
        return Err(bad(format!("\"resume.seq\" lists more than {} instruments: list fewer", limits.resume_max)));
    }
    let mut entries = Vec::new();
    for (symbol, raw) in listed.into_members() {
        let (epoch, seq) = place(&symbol, raw, common.as_ref())?;
        entries.push(ResumeEntry { symbol, epoch, seq });
    }
    Ok(Resume { entries })
}

/// One value of `resume.seq`: a number of the common epoch, or an object with its own.
fn place(symbol: &str, raw: &RawValue, common: Option<&Arc<str>>) -> Result<(Arc<str>, u64), Fault> {
    const MUST: &str = "a whole number from 0 to 18446744073709551615, or {\"epoch\":\"…\",\"seq\":1234}";
    let refuse = || bad(format!("{} of {}", wrong("resume.seq", MUST, raw), quoted(symbol)));
    if !raw.get().starts_with('{') {
        let seq = unsigned(raw).ok_or_else(refuse)?;
        let missing = || bad("\"resume.epoch\" is missing: send it, or an epoch with every number");
        return common.map(|epoch| (epoch.clone(), seq)).ok_or_else(missing);
    }
    let mut object = inner(raw, "resume.seq", MUST, RESUME_MEMBERS_MAX)?;
    let own = object.take("epoch").map(|raw| epoch("resume.seq.epoch", raw)).transpose()?;
    let seq = object.take("seq").and_then(unsigned);
    finish(&object, "a value of resume.seq", "\"epoch\" and \"seq\"")?;
    own.zip(seq).ok_or_else(refuse)
}

fn epoch(member: &str, raw: &RawValue) -> Result<Arc<str>, Fault> {
    string(raw)
        .filter(|epoch| epoch.len() <= EPOCH_BYTES_MAX)
        .map(Arc::from)
        .ok_or_else(|| bad(wrong(member, "an epoch that the hub sent", raw)))
}

/// An object inside a command, without a member that occurs twice.
fn inner<'a>(raw: &'a RawValue, member: &str, must: &str, members_max: usize) -> Result<Object<'a>, Fault> {
    let (object, read) = Object::read(raw.get(), members_max);
    read.map_err(|_| bad(wrong(member, must, raw)))?;
    if let Some(name) = object.duplicate() {
        return Err(bad(format!("\"{member}\" has {} twice: send it once", quoted(name))));
    }
    Ok(object)
}
