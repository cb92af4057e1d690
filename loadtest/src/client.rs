//! One subscriber: from the upgrade's answer through its subscriptions to the verified stream. Bytes and the time
//! come in, bytes go out into a buffer; the socket is the worker's business.

use std::{borrow::Cow, time::Instant};

use crate::{
    connect,
    frame::{self, Frame},
    measure::{Count, shown},
    options::{Plan, matches},
    scan::{self, Answer, Event, Gap, Message},
    tally::Tally,
    verify::{Streams, Verdict},
};

/// Commands stay below this unless the hub allows less, so that one fits any sensible limit.
const COMMAND_BYTES_MAX: usize = 3 << 10;
/// What a command holds beside its symbols.
const COMMAND_BYTES_SPARE: usize = 200;
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
    /// Whether it hardly reads.
    pub slow: bool,
    /// How far it is.
    pub stage: Stage,
    /// When it began to connect.
    pub started: Option<Instant>,
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
    /// Symbols still to be asked for.
    unasked: Vec<u32>,
    command: u32,
    /// Whether any `subscribed` has come.
    answered: bool,
    command_bytes_max: usize,
}

impl Client {
    /// A client that is to hold `symbols`; with none, the plan's patterns.
    pub fn new(number: usize, slow: bool, symbols: Vec<u32>) -> Self {
        Self {
            number,
            slow,
            stage: Stage::Waiting,
            started: None,
            out: Vec::new(),
            blocked: false,
            pending: Vec::new(),
            streams: Streams::default(),
            fragments: Vec::new(),
            in_fragments: false,
            unasked: symbols,
            command: 0,
            answered: false,
            command_bytes_max: COMMAND_BYTES_MAX,
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
            if let Some(started) = self.started {
                tally
                    .outcome
                    .upgrade
                    .saturating_record(crate::clock::instant().duration_since(started).as_nanos() as u64);
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
        if event.channel != tally.channel {
            let what = || format!("client {}: an event of {}", self.number, shown(event.channel.as_bytes()));
            tally.violation("not_subscribed", what);
            return;
        }
        let number = tally.symbols.number(&event.symbol).unwrap_or(u32::MAX);
        let (deliveries, rules) = (if self.slow { Count::SlowDeliveries } else { Count::Deliveries }, tally.rules);
        match self.streams.event(rules, number, event.seq, event.snapshot) {
            // Its number stands, or the next one would seem to be wrong too; a delivery it is not.
            Ok(_) if !sound => {}
            Ok(Verdict::Live { conflated }) => {
                tally.add(deliveries, 1);
                tally.add(Count::Conflated, conflated);
                if let (Some(rx), false) = (event.rx, self.slow) {
                    tally.time(rx, now);
                }
            }
            Ok(Verdict::Snapshot) => tally.add(Count::Snapshots, 1),
            Err(fault) => tally.fault(self.number, &event.symbol, &fault),
        }
    }

    fn gap(&mut self, gap: &Gap, tally: &mut Tally) {
        let number = tally.symbols.number(&gap.symbol).unwrap_or(u32::MAX);
        if gap.channel != tally.channel {
            let what = || format!("client {}: a gap of {}", self.number, shown(gap.channel.as_bytes()));
            return tally.violation("not_subscribed", what);
        }
        if !matches!(gap.cause.as_str(), "slow_consumer" | "upstream" | "hub") {
            let what = || format!("client {}: the gap's cause {}", self.number, shown(gap.cause.as_bytes()));
            tally.violation("gap_cause", what);
        }
        match self.streams.gap(tally.rules, number, gap.from, gap.to) {
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

    fn status(&self, tally: &mut Tally) {
        tally.add(Count::Statuses, 1);
        if !self.answered {
            tally.violation("not_subscribed", || format!("client {}: a status before any `subscribed`", self.number));
        }
    }

    fn epoch(&mut self, pattern: &str, tally: &mut Tally) {
        tally.add(Count::Epochs, 1);
        for (number, name) in tally.symbols.names() {
            if matches(pattern, name) {
                self.streams.restart(number);
            }
        }
    }

    fn answer(&mut self, answer: Answer, plan: &Plan, tally: &mut Tally) -> Result<(), End> {
        match answer.op.as_str() {
            "welcome" if self.stage == Stage::Welcoming => {
                if let Some(bytes) = answer.limits.message_bytes {
                    self.command_bytes_max = bytes.min(COMMAND_BYTES_MAX);
                }
                self.stage = Stage::Subscribing;
                self.ask(plan, tally);
                Ok(())
            }
            "subscribed" => self.subscribed(&answer, plan, tally),
            "unsubscribed" => {
                for symbol in &answer.symbols {
                    if let Some(number) = tally.symbols.number(symbol) {
                        self.streams.remove(number);
                    }
                }
                tally.outcome.rejected.add(&coded(&answer), answer.symbols.len() as u64);
                Ok(())
            }
            "error" => {
                let reason = format!("{}: {}", coded(&answer), shown(answer.message.unwrap_or_default().as_bytes()));
                match self.stage {
                    Stage::Live | Stage::Closing => {
                        tally.violation("error", || format!("client {}: an error unasked for: {reason}", self.number));
                        Ok(())
                    }
                    _ => Err(End::Failed(reason)),
                }
            }
            _ => Ok(()),
        }
    }

    fn subscribed(&mut self, answer: &Answer, plan: &Plan, tally: &mut Tally) -> Result<(), End> {
        if answer.channel.as_deref() != Some(tally.channel.as_str())
            || answer.mode.as_deref().is_some_and(|mode| mode != tally.mode.name())
        {
            tally.violation("answer", || format!("client {}: `subscribed` to another channel or mode", self.number));
        }
        self.answered = true;
        for accepted in &answer.accepted {
            let number = tally.symbols.intern(&accepted.symbol);
            self.streams.accept(number, accepted.seq);
        }
        for rejected in &answer.rejected {
            if let Some(number) = tally.symbols.number(&rejected.symbol) {
                self.streams.remove(number);
            }
            tally.outcome.rejected.count(&shown(rejected.code.as_bytes()));
        }
        if self.stage != Stage::Subscribing || answer.more || answer.id.is_none() {
            return Ok(());
        }
        if answer.id != Some(self.command.into()) {
            tally.violation("answer", || format!("client {}: an answer to no command of its own", self.number));
        }
        if self.streams.unanswered() > 0 {
            let what = || format!("client {}: symbols neither accepted nor rejected", self.number);
            tally.violation("answer", what);
        }
        if !self.unasked.is_empty() {
            self.ask(plan, tally);
            return Ok(());
        }
        self.stage = Stage::Live;
        tally.add(Count::Ready, 1);
        if let Some(started) = self.started {
            tally.outcome.ready.saturating_record(crate::clock::instant().duration_since(started).as_nanos() as u64);
        }
        Ok(())
    }

    /// Sends the next subscribe: as many symbols as fit, or the patterns.
    fn ask(&mut self, plan: &Plan, tally: &mut Tally) {
        let options = &plan.options;
        let mut names: Vec<Cow<'_, str>> = Vec::new();
        let mut room = self.command_bytes_max.saturating_sub(COMMAND_BYTES_SPARE);
        while let Some(number) = self.unasked.last().copied() {
            let name = tally.symbols.name(number);
            if !names.is_empty() && name.len() + 3 > room {
                break;
            }
            room = room.saturating_sub(name.len() + 3);
            names.push(Cow::Owned(name.to_owned()));
            self.streams.ask(number);
            self.unasked.pop();
        }
        if names.is_empty() {
            names.extend(options.symbols.iter().map(|pattern| Cow::Borrowed(pattern.as_str())));
        }
        self.command += 1;
        let mut command = serde_json::json!({
            "op": "subscribe", "id": self.command, "channel": options.channel, "symbols": names,
            "mode": options.mode.name(),
        });
        if let Some(rate) = options.max_rate {
            command["max_rate"] = rate.into();
        }
        if let Some(depth) = options.depth {
            command["depth"] = depth.into();
        }
        if let Some(overflow) = options.overflow {
            command["overflow"] = overflow.name().into();
        }
        let mask = tally.mask();
        frame::append_client(&mut self.out, frame::TEXT, command.to_string().as_bytes(), mask);
    }

    /// Says goodbye.
    pub fn close(&mut self, tally: &mut Tally) {
        self.stage = Stage::Closing;
        let mask = tally.mask();
        frame::append_client(&mut self.out, frame::CLOSE, &1000_u16.to_be_bytes(), mask);
    }
}

fn coded(answer: &Answer) -> String {
    answer.code.as_deref().map_or_else(|| "no code".to_owned(), |code| shown(code.as_bytes()))
}
