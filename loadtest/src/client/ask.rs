//! What a client asks for, and the answers: subscriptions, resumes, exchanges.

use std::{borrow::Cow, time::Instant};

use serde_json::{Value, json};

use super::{Client, End, Stage};
use crate::{
    frame,
    measure::{Count, shown},
    options::Plan,
    scan::{Accepted, Answer},
    scenario::{PerClient, Subscription, matches},
    tally::{Tally, kind_of, stream, symbol_of},
    verify::Begin,
};

/// Commands stay below this unless the hub allows less, so that one fits any sensible limit.
const COMMAND_BYTES_MAX: usize = 3 << 10;
/// What a command holds beside its symbols.
const COMMAND_BYTES_SPARE: usize = 300;
/// What a hub takes that does not say how much it takes.
const MESSAGE_BYTES_DEFAULT: usize = 64 << 10;
/// The protocol's bound for a `resume`.
const RESUMED_MAX: usize = 4_096;
/// Bytes of a resumed instrument beside its id: quotes, colon, comma and a number of 19 digits.
const RESUMED_BYTES: usize = 24;

/// An `unsubscribe` and a `subscribe` behind it, both sent by plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exchange {
    /// When they were planned.
    planned: Instant,
    /// The `id` of the first; that of the second is the next.
    first: u32,
}

impl Client {
    pub(super) fn answer(&mut self, answer: Answer, plan: &Plan, tally: &mut Tally) -> Result<(), End> {
        match answer.op.as_str() {
            "welcome" if self.stage == Stage::Welcoming => {
                self.message_bytes_max = answer.limits.message_bytes.unwrap_or(MESSAGE_BYTES_DEFAULT);
                self.stage = Stage::Subscribing;
                self.ask(plan, tally);
                Ok(())
            }
            "subscribed" => self.subscribed(&answer, plan, tally),
            "unsubscribed" => {
                self.unsubscribed(&answer, tally);
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

    fn unsubscribed(&mut self, answer: &Answer, tally: &mut Tally) {
        let kinds: Vec<usize> = (0..tally.kinds.len())
            .filter(|kind| answer.channel.as_deref() == Some(tally.kinds[*kind].channel.as_str()))
            .collect();
        for entry in &answer.symbols {
            let met: Vec<u32> = if entry.contains('*') {
                let held = self.streams.symbols().iter().copied();
                held.filter(|stream| matches(entry, tally.symbols.name(symbol_of(*stream)))).collect()
            } else {
                let number = tally.symbols.number(entry);
                number.iter().flat_map(|number| kinds.iter().map(|kind| stream(*kind, *number))).collect()
            };
            for stream in met.into_iter().filter(|stream| kinds.contains(&kind_of(*stream))) {
                self.streams.remove(stream);
            }
        }
        match self.exchange {
            Some(exchange) if answer.id == Some(exchange.first.into()) => tally.answered(exchange.planned),
            _ => tally.outcome.rejected.add(&coded(answer), answer.symbols.len() as u64),
        }
    }

    fn subscribed(&mut self, answer: &Answer, plan: &Plan, tally: &mut Tally) -> Result<(), End> {
        let group = &plan.scenario.groups[self.group];
        let asked =
            group.subscriptions.iter().position(|held| answer.channel.as_deref() == Some(held.channel.as_str()));
        let Some(asked) = asked else {
            tally.violation("answer", || format!("client {}: `subscribed` to another channel", self.number));
            return Ok(());
        };
        let (subscription, kind) = (&group.subscriptions[asked], tally.holdings[self.group].kind(asked));
        if answer.mode.as_deref().is_some_and(|mode| mode != subscription.mode.name()) {
            tally.violation("answer", || format!("client {}: `subscribed` in another mode", self.number));
        }
        if let (Some(depth), Some(wanted)) = (answer.depth, tally.kinds[kind].depth)
            && depth != wanted
        {
            return Err(End::Failed(format!("the hub lowers the depth to {depth}: ask for that")));
        }
        self.answered = true;
        for accepted in &answer.accepted {
            self.accepted(kind, accepted, answer, tally);
        }
        for rejected in &answer.rejected {
            if let Some(number) = tally.symbols.number(&rejected.symbol) {
                self.streams.remove(stream(kind, number));
            }
            tally.outcome.rejected.count(&shown(rejected.code.as_bytes()));
        }
        if answer.more || answer.id.is_none() {
            return Ok(());
        }
        if self.stage == Stage::Live {
            self.exchanged(answer, tally);
        } else if self.stage == Stage::Subscribing {
            self.asked_and_answered(answer, plan, tally);
        }
        Ok(())
    }

    fn accepted(&mut self, kind: usize, accepted: &Accepted, answer: &Answer, tally: &mut Tally) {
        let number = tally.symbols.intern(&accepted.symbol);
        let stream = stream(kind, number);
        let epoch = accepted.epoch.as_ref().or(answer.epoch.as_ref());
        let same = tally.epochs_at_cut.get(&number) == epoch;
        match self.streams.accept(stream, accepted.seq, same) {
            Ok(Begin::Resumed) => {
                tally.add(Count::Resumed, 1);
                let owed = tally.owed.entry(stream).or_default();
                *owed = (*owed).max(accepted.seq);
            }
            Ok(Begin::Anew) if self.cut => tally.add(Count::Renewed, 1),
            Ok(Begin::Anew | Begin::Known) => {}
            Err(fault) => tally.fault(self.number, &accepted.symbol, &fault),
        }
        if let Some(epoch) = epoch
            && tally.epochs.get(&number) != Some(epoch)
        {
            tally.epochs.insert(number, epoch.clone());
        }
    }

    /// The second half of an exchange.
    fn exchanged(&mut self, answer: &Answer, tally: &mut Tally) {
        match self.exchange.take() {
            Some(exchange) if answer.id == Some((exchange.first + 1).into()) => {
                tally.answered(exchange.planned);
                self.check_all_answered(tally);
            }
            other => {
                self.exchange = other;
                tally.violation("answer", || format!("client {}: an answer to no command of its own", self.number));
            }
        }
    }

    fn check_all_answered(&self, tally: &mut Tally) {
        if self.streams.unanswered() > 0 {
            let what = || format!("client {}: symbols neither accepted nor rejected", self.number);
            tally.violation("answer", what);
        }
    }

    fn asked_and_answered(&mut self, answer: &Answer, plan: &Plan, tally: &mut Tally) {
        if answer.id != Some(self.command.into()) {
            tally.violation("answer", || format!("client {}: an answer to no command of its own", self.number));
        }
        if !self.unasked.is_empty() || self.patterns_unasked != 0 {
            self.ask(plan, tally);
            return;
        }
        self.check_all_answered(tally);
        self.stage = Stage::Live;
        let took = self.started.map(|started| crate::clock::instant().saturating_duration_since(started).as_nanos());
        if std::mem::take(&mut self.cut) {
            tally.add(Count::Back, 1);
            if let (Some(took), Some(phase)) = (took, tally.measured) {
                tally.outcome.phases[phase].back.saturating_record(took as u64);
            }
        } else {
            tally.add(Count::Ready, 1);
            tally.outcome.ready.saturating_record(took.unwrap_or(0) as u64);
        }
    }

    /// Sends the next subscribe: the patterns of one subscription, or as many symbols as fit.
    fn ask(&mut self, plan: &Plan, tally: &mut Tally) {
        let group = &plan.scenario.groups[self.group];
        let lowest = self.patterns_unasked.trailing_zeros() as usize;
        if let Some(subscription) = group.subscriptions.get(lowest) {
            self.patterns_unasked &= !(1 << lowest);
            let kind = tally.holdings[self.group].kind(lowest);
            let held: Vec<u32> =
                self.streams.symbols().iter().copied().filter(|stream| kind_of(*stream) == kind).collect();
            let names: Vec<Cow<'_, str>> =
                subscription.symbols.iter().map(|name| Cow::Borrowed(name.as_str())).collect();
            let bytes: usize = names.iter().map(|name| name.len() + 3).sum();
            let mut room = self.message_bytes_max.saturating_sub(COMMAND_BYTES_SPARE + bytes);
            let mut resume = Vec::new();
            for stream in held {
                let name = tally.symbols.name(symbol_of(stream)).len();
                if self.streams.resumes_after(stream).is_none() {
                    // A stream that cannot go on is announced by its pattern, as new.
                    continue;
                }
                if resume.len() < RESUMED_MAX && room > name + RESUMED_BYTES {
                    room -= name + RESUMED_BYTES;
                    resume.push(stream);
                } else {
                    self.streams.begin_anew(stream);
                }
            }
            let command = self.subscribe(subscription, &names, &resume, tally);
            self.send(&command, tally);
            return;
        }
        let Some(kind) = self.unasked.last().map(|stream| kind_of(*stream)) else { return };
        let Some(at) = tally.holdings[self.group].subscription(kind) else { return };
        let mut room = COMMAND_BYTES_MAX.min(self.message_bytes_max).saturating_sub(COMMAND_BYTES_SPARE);
        let (mut names, mut resume) = (Vec::new(), Vec::new());
        while let Some(stream) = self.unasked.last().copied().filter(|stream| kind_of(*stream) == kind) {
            let name = tally.symbols.name(symbol_of(stream));
            let resumes = self.streams.resumes_after(stream).is_some();
            let bytes = name.len() + 3 + if resumes { name.len() + RESUMED_BYTES } else { 0 };
            if !names.is_empty() && bytes > room {
                break;
            }
            room = room.saturating_sub(bytes);
            names.push(Cow::Owned(name.to_owned()));
            resume.extend(resumes.then_some(stream));
            self.streams.ask(stream);
            self.unasked.pop();
        }
        let command = self.subscribe(&group.subscriptions[at], &names, &resume, tally);
        self.send(&command, tally);
    }

    /// A subscribe that goes on with the streams in `resume`.
    fn subscribe(
        &mut self,
        subscription: &Subscription,
        names: &[Cow<'_, str>],
        resume: &[u32],
        tally: &Tally,
    ) -> Value {
        self.command += 1;
        let mut command = json!({
            "op": "subscribe", "id": self.command, "channel": subscription.channel, "symbols": names,
            "mode": subscription.mode.name(),
        });
        if let Some(rate) = subscription.max_rate {
            command["max_rate"] = rate.into();
        }
        if let Some(depth) = subscription.depth {
            command["depth"] = depth.into();
        }
        if let Some(overflow) = subscription.overflow {
            command["overflow"] = overflow.name().into();
        }
        let epoch_of = |stream: &u32| tally.epochs_at_cut.get(&symbol_of(*stream));
        if let Some(epoch) = resume.iter().find_map(epoch_of) {
            let entry = |stream: &u32| {
                let (own, seq) = (epoch_of(stream)?, self.streams.resumes_after(*stream)?);
                let value = if own == epoch { json!(seq) } else { json!({"epoch": **own, "seq": seq}) };
                Some((tally.symbols.name(symbol_of(*stream)).to_owned(), value))
            };
            let after: serde_json::Map<String, Value> = resume.iter().filter_map(entry).collect();
            command["resume"] = json!({"epoch": **epoch, "seq": after});
        }
        command
    }

    fn send(&mut self, command: &Value, tally: &mut Tally) {
        let mask = tally.mask();
        frame::append_client(&mut self.out, frame::TEXT, command.to_string().as_bytes(), mask);
    }

    /// Whether an exchange can be sent now: nothing else is under way.
    pub fn may_exchange(&self) -> bool {
        self.stage == Stage::Live && self.exchange.is_none() && !self.streams.is_empty()
    }

    /// Gives up one entry and takes another, both at once; `candidates` are the instruments of each subscription.
    /// `false` where the client has none to give.
    pub fn exchange(&mut self, planned: Instant, candidates: &[Vec<u32>], plan: &Plan, tally: &mut Tally) -> bool {
        let held = self.streams.symbols();
        let old = held[tally.random.below(held.len() as u64) as usize];
        let kind = kind_of(old);
        let Some(at) = tally.holdings[self.group].subscription(kind) else { return false };
        let subscription = &plan.scenario.groups[self.group].subscriptions[at];
        let (leaves, comes) = match subscription.per_client {
            PerClient::All => (subscription.symbols[0].clone(), subscription.symbols[0].clone()),
            PerClient::Count(_) => {
                let of = &candidates[at];
                let drawn = of[tally.random.below(of.len() as u64) as usize];
                let new = stream(kind, drawn);
                // One that is held already would change nothing: the same one leaves and comes again.
                let new = if self.streams.symbols().contains(&new) { old } else { new };
                let name = |stream: u32| tally.symbols.name(symbol_of(stream)).to_owned();
                let names = (name(old), name(new));
                self.streams.ask(new);
                names
            }
        };
        self.command += 1;
        self.exchange = Some(Exchange { planned, first: self.command });
        let leave = json!({
            "op": "unsubscribe", "id": self.command, "channel": subscription.channel, "symbols": [leaves],
        });
        self.send(&leave, tally);
        let come = self.subscribe(subscription, &[Cow::Owned(comes)], &[], tally);
        self.send(&come, tally);
        tally.add(Count::Commands, 2);
        true
    }

    /// The connection is cut by plan; the client will come back and go on where it was, where that can be.
    pub fn cut_off(&mut self, plan: &Plan, tally: &mut Tally) {
        let holding = &tally.holdings[self.group];
        self.streams.cut(|stream| holding.rules(kind_of(stream)).is_some_and(|rules| rules.every));
        let group = &plan.scenario.groups[self.group];
        self.patterns_unasked = patterns_of(&group.subscriptions);
        let by_name = |stream: &u32| {
            let at = holding.subscription(kind_of(*stream));
            at.is_some_and(|at| self.patterns_unasked & (1 << at) == 0)
        };
        self.unasked = self.streams.symbols().iter().copied().filter(by_name).collect();
        // What is held by a pattern and cannot go on is announced anew with it.
        let is_new = |stream: &u32| !by_name(stream) && self.streams.resumes_after(*stream).is_none();
        let anew: Vec<u32> = self.streams.symbols().iter().copied().filter(is_new).collect();
        for stream in anew {
            self.streams.remove(stream);
        }
        (self.stage, self.cut, self.exchange) = (Stage::Waiting, true, None);
        (self.out, self.pending, self.blocked, self.fragments) = (Vec::new(), Vec::new(), false, Vec::new());
        (self.in_fragments, self.answered, self.command) = (false, false, 0);
    }
}

/// The subscriptions that are asked for by pattern, as bits.
pub(super) fn patterns_of(subscriptions: &[Subscription]) -> u32 {
    let is_all = |(_, subscription): &(usize, &Subscription)| subscription.per_client == PerClient::All;
    subscriptions.iter().enumerate().filter(is_all).fold(0, |bits, (at, _)| bits | 1 << at)
}

fn coded(answer: &Answer) -> String {
    answer.code.as_deref().map_or_else(|| "no code".to_owned(), |code| shown(code.as_bytes()))
}
