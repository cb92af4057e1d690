//! One subscriber: from the upgrade's answer through its subscriptions to the verified stream. Bytes and the time
//! come in, bytes go out into a buffer; the socket is the worker's business.

mod ask;

use std::time::Instant;

use self::ask::Exchange;
use crate::{
    connect,
    frame::{self, Frame},
    measure::{Count, shown},
    options::Plan,
    scan::{self, Event, Gap, Message},
    scenario::matches,
    tally::{Tally, stream, symbol_of},
    values,
    verify::{Fault, Streams, Verdict},
};

/// Buffers above this are given back once they are empty.
const KEPT_BYTES_MAX: usize = 4 << 10;

/// How far a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Not begun.
    Waiting,
    /// The connection is being opened.
    Connecting,
    /// The upgrade was sent.
    Upgrading,
    /// The hub has not said welcome yet.
    Welcoming,
    /// Subscriptions are being asked for.
    Subscribing,
    /// All is asked and answered.
    Live,
    /// Goodbye was said.
    Closing,
    /// Over.
    Gone,
}

/// Why a connection is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The client cannot get subscribed, for this reason.
    Failed(String),
    /// The hub closed with this code (1005 = a close frame without one).
    Closed(u16),
    /// The connection broke, or what came over it did.
    Lost(String),
}

/// One subscriber.
#[derive(Debug)]
pub struct Client {
    /// Its number among all clients of the run.
    pub number: usize,
    /// The place of its group in the scenario.
    pub group: usize,
    /// Whether it hardly reads in the present phase.
    pub slow: bool,
    /// Whether its latencies are left out in the present phase, as it was slow or away.
    pub untimed: bool,
    /// Whether it was cut off by plan and is not back yet.
    pub cut: bool,
    /// How far it is.
    pub stage: Stage,
    /// When it was planned to connect.
    pub started: Option<Instant>,
    /// When it is too late for it to get subscribed.
    pub deadline: Option<Instant>,
    /// Bytes that the socket has not taken yet.
    pub out: Vec<u8>,
    /// Whether the socket took less than it was given.
    pub blocked: bool,
    /// Bytes of a frame that is not whole yet; the worker puts them before what it reads next.
    pub pending: Vec<u8>,
    /// The numbers of its streams.
    pub streams: Streams,
    fragments: Vec<u8>,
    in_fragments: bool,
    /// Streams still to be asked for by name.
    unasked: Vec<u32>,
    /// Subscriptions still to be asked for by pattern, as bits.
    patterns_unasked: u32,
    exchange: Option<Exchange>,
    command: u32,
    /// Whether any `subscribed` has come.
    answered: bool,
    message_bytes_max: usize,
}

impl Client {
    /// A client of a group that is to hold `streams`, and what its group asks for by pattern.
    pub fn new(number: usize, group: usize, plan: &Plan, streams: Vec<u32>) -> Self {
        Self {
            number,
            group,
            slow: false,
            untimed: false,
            cut: false,
            stage: Stage::Waiting,
            started: None,
            deadline: None,
            out: Vec::new(),
            blocked: false,
            pending: Vec::new(),
            streams: Streams::default(),
            fragments: Vec::new(),
            in_fragments: false,
            unasked: streams,
            patterns_unasked: ask::patterns_of(&plan.scenario.groups[group].subscriptions),
            exchange: None,
            command: 0,
            answered: false,
            message_bytes_max: 0,
        }
    }

    /// Whether it holds its subscriptions, or did.
    pub fn is_live(&self) -> bool {
        self.stage == Stage::Live
    }

    /// Takes what came: `bytes` begin with what `pending` held.
    ///
    /// # Errors
    /// The connection is over.
    pub fn take(&mut self, bytes: &[u8], now: u64, plan: &Plan, tally: &mut Tally) -> Result<(), End> {
        let mut rest = bytes;
        if self.stage == Stage::Upgrading {
            let Some(end) = connect::head_end(rest) else {
                return match rest.len() {
                    0..connect::HEAD_BYTES_MAX => self.keep(rest),
                    _ => Err(End::Failed("the answer to the upgrade has no end".to_owned())),
                };
            };
            connect::check_upgrade(&rest[..end]).map_err(End::Failed)?;
            tally.add(Count::Upgraded, 1);
            if let (Some(started), false) = (self.started, self.cut) {
                let took = crate::clock::instant().saturating_duration_since(started);
                tally.outcome.upgrade.saturating_record(took.as_nanos() as u64);
            }
            self.stage = Stage::Welcoming;
            rest = &rest[end..];
        }
        while !rest.is_empty() {
            match frame::parse(rest) {
                Ok(Some((frame, used))) => {
                    rest = &rest[used..];
                    self.frame(frame, now, plan, tally)?;
                }
                Ok(None) => break,
                Err(fault) => {
                    tally.violation("frame", || format!("client {}: {fault}", self.number));
                    return Err(End::Lost(fault.to_string()));
                }
            }
        }
        self.keep(rest)
    }

    fn keep(&mut self, rest: &[u8]) -> Result<(), End> {
        if rest.is_empty() && self.pending.capacity() > KEPT_BYTES_MAX {
            self.pending = Vec::new();
        }
        self.pending.clear();
        self.pending.extend_from_slice(rest);
        Ok(())
    }

    fn frame(&mut self, frame: Frame<'_>, now: u64, plan: &Plan, tally: &mut Tally) -> Result<(), End> {
        match frame.opcode {
            frame::TEXT if frame.fin && !self.in_fragments => self.text(frame.payload, now, plan, tally),
            frame::PING => {
                let mask = tally.mask();
                frame::append_client(&mut self.out, frame::PONG, frame.payload, mask);
                Ok(())
            }
            frame::PONG => Ok(()),
            frame::CLOSE => {
                let code = frame.payload.first_chunk::<2>().map_or(1005, |code| u16::from_be_bytes(*code));
                if self.stage != Stage::Closing {
                    let echo = &frame.payload[..frame.payload.len().min(2)];
                    let mask = tally.mask();
                    frame::append_client(&mut self.out, frame::CLOSE, echo, mask);
                }
                Err(End::Closed(code))
            }
            // The binary form would be read here, into the same `Event` and `Gap`, by a scanner of its own.
            frame::BINARY => {
                tally.violation("binary", || format!("client {}: a binary message in the JSON form", self.number));
                Err(End::Lost("a binary message".to_owned()))
            }
            _ => self.fragment(frame, now, plan, tally),
        }
    }

    /// A message in several frames: nothing that a hub has to do, but what it may.
    fn fragment(&mut self, frame: Frame<'_>, now: u64, plan: &Plan, tally: &mut Tally) -> Result<(), End> {
        let continues = frame.opcode == frame::CONTINUATION;
        let bytes = self.fragments.len() + frame.payload.len();
        if continues != self.in_fragments || bytes > frame::MESSAGE_BYTES_MAX {
            tally.violation("frame", || format!("client {}: fragments out of order or without end", self.number));
            return Err(End::Lost("fragments".to_owned()));
        }
        self.in_fragments = !frame.fin;
        self.fragments.extend_from_slice(frame.payload);
        if frame.fin {
            let whole = std::mem::take(&mut self.fragments);
            self.text(&whole, now, plan, tally)?;
        }
        Ok(())
    }

    #[inline]
    fn text(&mut self, text: &[u8], now: u64, plan: &Plan, tally: &mut Tally) -> Result<(), End> {
        match tally.scanner.scan(text) {
            Ok(scanned) => match scanned.message {
                Message::Event(event) => {
                    if !scanned.fast {
                        tally.add(Count::SlowPath, 1);
                    }
                    self.event(&event, text, now, tally);
                }
                Message::Gap(gap) => self.gap(&gap, tally),
                Message::Status => self.status(tally),
                Message::Epoch(pattern) => self.epoch(&pattern, tally),
                Message::Answer(answer) => return self.answer(*answer, plan, tally),
            },
            Err(reason) => {
                tally.violation("message", || format!("client {}: {reason}: {}", self.number, shown(text)));
            }
        }
        Ok(())
    }

    #[inline]
    fn event(&mut self, event: &Event<'_>, text: &[u8], now: u64, tally: &mut Tally) {
        let mut sound = true;
        if tally.check_is_due()
            && let Err(reason) = scan::check_values(text)
        {
            tally.violation("value", || format!("client {}: {reason}: {}", self.number, shown(text)));
            sound = false;
        }
        let begin = match tally.origin {
            Some(origin) => {
                let planned = origin.planned_ns(text);
                if planned.is_none() {
                    let what = || format!("client {}: a value that the venue never sent: {}", self.number, shown(text));
                    tally.violation("value_not_sent", what);
                    sound = false;
                }
                planned
            }
            None => event.rx,
        };
        let kind = tally.kind(&event.channel, event.depth);
        let held = kind.and_then(|kind| tally.holdings[self.group].rules(kind).map(|rules| (kind, rules)));
        let Some((kind, rules)) = held else {
            let what = || format!("client {}: an event of {}", self.number, shown(event.channel.as_bytes()));
            return tally.violation("not_subscribed", what);
        };
        let stream = tally.symbols.number(&event.symbol).map_or(u32::MAX, |number| stream(kind, number));
        let deliveries = if self.slow { Count::SlowDeliveries } else { Count::Deliveries };
        let verdict = self.streams.event(rules, stream, event.seq, event.snapshot);
        if verdict.is_ok() {
            let hash = values::hash(text, event.snapshot);
            // A book's snapshot and its change are different texts under one number.
            let form = if rules.book { 1 + u64::from(event.snapshot) } else { 0 };
            if let Err(fault) = tally.compare(stream, form, event.seq, hash) {
                tally.fault(self.number, &event.symbol, &fault);
                sound = false;
            }
            let is_last_value = !event.snapshot || (rules.book && !rules.every);
            self.streams.hold(stream, if is_last_value { hash } else { 0 });
        }
        match verdict {
            // Its number stands, or the next one would seem to be wrong too; a delivery it is not.
            Ok(_) if !sound => {}
            Ok(Verdict::Live { conflated }) => {
                tally.add(deliveries, 1);
                tally.add(Count::Conflated, conflated);
                if let (Some(begin), false) = (begin, self.untimed) {
                    tally.time(begin, now);
                }
            }
            Ok(Verdict::Snapshot) => tally.add(Count::Snapshots, 1),
            Err(fault) => tally.fault(self.number, &event.symbol, &fault),
        }
    }

    fn gap(&mut self, gap: &Gap, tally: &mut Tally) {
        let kind = tally.kind(&gap.channel, gap.depth);
        let held = kind.and_then(|kind| tally.holdings[self.group].rules(kind).map(|rules| (kind, rules)));
        let Some((kind, rules)) = held else {
            let what = || format!("client {}: a gap of {}", self.number, shown(gap.channel.as_bytes()));
            return tally.violation("not_subscribed", what);
        };
        if !matches!(gap.cause.as_str(), "slow_consumer" | "upstream" | "hub") {
            let what = || format!("client {}: the gap's cause {}", self.number, shown(gap.cause.as_bytes()));
            tally.violation("gap_cause", what);
        }
        let stream = tally.symbols.number(&gap.symbol).map_or(u32::MAX, |number| stream(kind, number));
        match self.streams.gap(rules, stream, gap.from, gap.to) {
            Ok(numbers) => {
                let (gaps, named) =
                    if self.slow { (Count::SlowGaps, Count::SlowGapNumbers) } else { (Count::Gaps, Count::GapNumbers) };
                tally.add(gaps, 1);
                tally.add(named, numbers);
                tally.outcome.gaps.count(&shown(gap.cause.as_bytes()));
            }
            Err(fault) => tally.fault(self.number, &gap.symbol, &fault),
        }
    }

    /// The faults of a stream that has not come as far as others, or holds another last value.
    pub fn behind(&self, tally: &Tally, frontier: impl Fn(u32, bool) -> u64) -> Vec<(u32, Fault)> {
        let holding = &tally.holdings[self.group];
        let rules = |stream: u32| holding.rules(crate::tally::kind_of(stream)).unwrap_or_default();
        self.streams.behind(rules, |stream| frontier(stream, rules(stream).every))
    }

    fn status(&self, tally: &mut Tally) {
        tally.add(Count::Statuses, 1);
        if !self.answered {
            tally.violation("not_subscribed", || format!("client {}: a status before any `subscribed`", self.number));
        }
    }

    fn epoch(&mut self, pattern: &str, tally: &mut Tally) {
        tally.add(Count::Epochs, 1);
        let held: Vec<u32> = self.streams.symbols().to_vec();
        for stream in held.into_iter().filter(|stream| matches(pattern, tally.symbols.name(symbol_of(*stream)))) {
            self.streams.restart(stream);
        }
    }

    /// Says goodbye.
    pub fn close(&mut self, tally: &mut Tally) {
        self.stage = Stage::Closing;
        let mask = tally.mask();
        frame::append_client(&mut self.out, frame::CLOSE, &1000_u16.to_be_bytes(), mask);
    }
}
