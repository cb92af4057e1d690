//! What a `subscribe` must be answered with, and what the answer begins.

use std::collections::BTreeSet;

use tickhub::fanout::OutboxLimits;

use crate::action::{INSTRUMENTS, Subscribe, VENUES};
use crate::client::{
    BOOK_CHANNEL, CHANNELS, Client, Context, Entry, Facts, ResumePoint, STATUS, Sent, What, channel_index, kind,
    same_stream, venue_of,
};
use crate::grants::{Allowed, is_malformed, is_pattern, matches};
use crate::ladder::clamp_ladder;
use crate::message::Message;
use crate::stream::{Check, Options, Stream, ensure};
use crate::truth::DEPTHS;

/// What a `subscribe` must be answered with, before its symbols are looked at.
fn judge(command: &Subscribe, allowed: &Allowed, hub: &OutboxLimits) -> Result<Options, &'static str> {
    let channel = channel_index(command.channel).map_err(|_| "unknown_channel")?;
    let every = command.mode.unwrap_or(if channel < 2 { "latest" } else { "every" }) == "every";
    let can_latest = matches!(channel, 0 | 1 | BOOK_CHANNEL);
    let misplaced = (!every && !can_latest)
        || (command.max_rate.is_some() && (every || !can_latest))
        || (command.depth.is_some() && channel != BOOK_CHANNEL)
        || (command.snapshot.is_some() && channel == STATUS)
        || (command.overflow.is_some() && (!every || channel == STATUS))
        || (command.backlog.is_some() && (!every || channel == STATUS))
        || (command.resume.is_some() && (!every || channel == STATUS));
    if misplaced {
        return Err("bad_message");
    }
    let depth = command.depth.map_or(1, |depth| DEPTHS.iter().position(|d| *d == depth).unwrap_or(0));
    let Subscribe { max_rate: rate, snapshot, overflow, backlog, .. } = *command;
    let asked = Options { every, rate, depth, snapshot, overflow, backlog };
    clamp(&asked, channel, allowed, hub).map(|_| asked).ok_or("not_entitled")
}

pub(crate) fn clamp(asked: &Options, channel: usize, allowed: &Allowed, hub: &OutboxLimits) -> Option<Options> {
    if !allowed.allows(CHANNELS[channel], asked.every) {
        return None;
    }
    let rate = if asked.every { None } else { [asked.rate, allowed.max_rate].into_iter().flatten().min() };
    let options = Options { rate, depth: asked.depth.min(allowed.depth), ..asked.clone() };
    Some(clamp_ladder(options, channel, allowed, hub))
}

impl Client {
    /// The options asked for, or the code of the error that must come.
    pub(crate) fn judge_subscribe(
        &self,
        facts: &Facts<'_>,
        command: &Subscribe,
        resume: &[ResumePoint],
        context: &Context,
    ) -> Result<Options, &'static str> {
        let asked = judge(command, self.allowed(), &self.rungs.hub)?;
        let channel = channel_index(command.channel).map_err(|_| "unknown_channel")?;
        let known = &facts.keys[..context.known.1];
        let reaches = |point: &ResumePoint| {
            known.contains(&point.instrument) && self.streams.contains_key(&(channel, point.instrument))
        };
        if resume.iter().any(reaches) {
            return Err("bad_message");
        }
        Ok(asked)
    }

    pub(crate) fn on_subscribed(&mut self, facts: &Facts<'_>, message: &Message<'_>) -> Check {
        let sent = self.answered(message)?;
        let What::Subscribe(command, resume) = &sent.what else { return Err(format!("subscribed for {sent:?}")) };
        let asked = self
            .judge_subscribe(facts, command, resume, &sent.context)
            .map_err(|code| format!("subscribed in place of {code}"))?;
        let channel = channel_index(command.channel)?;
        ensure!(message.channel == Some(command.channel), "channel {:?}", message.channel);
        let options = clamp(&asked, channel, self.allowed(), &self.rungs.hub).ok_or("the model refused it before")?;
        self.check_echo(message, channel, &options)?;
        let put = self.put_entries(facts, message, &sent, &asked, &options)?;
        self.check_accepted(facts, message, &sent.context, &put)?;
        if channel != STATUS {
            self.begin_streams(facts, message, channel, command, resume, &sent.context)?;
        }
        for feed in 0..VENUES.len() {
            let concerns = |symbol: &&'static str| self.concerns(symbol, feed);
            let concerned = put.iter().any(concerns);
            self.set_concern(feed);
            if concerned {
                self.begin_initial(facts, feed, sent.context.changes[feed]);
            }
        }
        Ok(())
    }

    /// Adds the entries that must be added, and checks what is rejected; the symbols added.
    pub(crate) fn put_entries(
        &mut self,
        facts: &Facts<'_>,
        message: &Message<'_>,
        sent: &Sent,
        asked: &Options,
        options: &Options,
    ) -> Result<Vec<&'static str>, String> {
        let What::Subscribe(command, _) = &sent.what else { return Err("not a subscribe".into()) };
        let channel = channel_index(command.channel)?;
        let told: Vec<_> = message.rejected.iter().flatten().map(|fault| (fault.symbol, fault.code)).collect();
        let (mut rejected, mut put, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for symbol in command.symbols.iter().copied().filter(|symbol| seen.insert(*symbol)) {
            let known_at = facts.keys.iter().position(|instrument| INSTRUMENTS[*instrument].0 == symbol);
            let fault = if is_malformed(symbol) {
                Some("bad_symbol")
            } else if !self.allowed().overlaps(symbol) {
                Some("not_entitled")
            } else if is_pattern(symbol) || known_at.is_some_and(|at| at < sent.context.known.0) {
                None
            } else if known_at.is_none_or(|at| at >= sent.context.known.1) {
                Some("unknown_symbol")
            } else {
                // The worker may have heard of it or not.
                told.contains(&(symbol, "unknown_symbol")).then_some("unknown_symbol")
            };
            let held = self.held(channel, symbol);
            let limit = self.allowed().subscriptions.unwrap_or(usize::MAX);
            let fault =
                fault.or_else(|| (held.is_none() && self.entries.len() >= limit).then_some("subscription_limit"));
            if let Some(fault) = fault {
                rejected.push((symbol, fault));
                continue;
            }
            if let Some(held) = held {
                self.entries.remove(held);
            }
            self.order += 1;
            let (asked, options) = (asked.clone(), Some(options.clone()));
            self.entries.push(Entry { channel, symbol, asked, options, order: self.order });
            put.push(symbol);
        }
        ensure!(told == rejected, "rejected in place of {rejected:?}");
        Ok(put)
    }

    pub(crate) fn check_accepted(
        &self,
        facts: &Facts<'_>,
        message: &Message<'_>,
        context: &Context,
        put: &[&str],
    ) -> Check {
        let accepted = message.accepted.as_ref().ok_or("no accepted")?;
        let mut listed = BTreeSet::new();
        for entry in accepted {
            let instrument = *facts.keys.get(entry.iid as usize).ok_or("an unknown iid")?;
            let id = INSTRUMENTS[instrument].0;
            ensure!(id == entry.symbol, "iid {} is {id}", entry.iid);
            ensure!(listed.insert(entry.iid as usize), "{id} is accepted twice");
            ensure!((entry.iid as usize) < context.known.1, "{id} did not exist yet");
            ensure!(self.allowed().covers(id), "{id} is outside the grant");
            ensure!(put.iter().any(|symbol| matches(symbol, id)), "{id} was not asked for");
            let pattern_fits = match entry.pattern {
                None => put.contains(&id),
                Some(pattern) => !put.contains(&id) && put.contains(&pattern) && matches(pattern, id),
            };
            ensure!(pattern_fits, "{id} by pattern {:?}", entry.pattern);
        }
        for (key, instrument) in facts.keys[..context.known.0].iter().enumerate() {
            let id = INSTRUMENTS[*instrument].0;
            let must = self.allowed().covers(id) && put.iter().any(|symbol| matches(symbol, id));
            ensure!(!must || listed.contains(&key), "{id} is missing");
        }
        Ok(())
    }

    /// What the answer means for each instrument that it lists.
    pub(crate) fn begin_streams(
        &mut self,
        facts: &Facts<'_>,
        message: &Message<'_>,
        channel: usize,
        command: &Subscribe,
        resume: &[ResumePoint],
        context: &Context,
    ) -> Check {
        for accepted in message.accepted.iter().flatten() {
            let key = accepted.iid as usize;
            let instrument = facts.keys[key];
            let id = INSTRUMENTS[instrument].0;
            let (_, options) = self.effective(channel, id).ok_or("accepted, but not covered")?;
            let options = options.clone();
            let kind = kind(channel, &options);
            let seq = accepted.seq.ok_or("no seq")?;
            let (least, most) = (context.last.0.get(key).map_or(0, |last| last[kind]), context.last.1[key][kind]);
            ensure!((least..=most).contains(&seq), "{id} accepted at {seq}, the hub was between {least} and {most}");
            let (epoch, right) = (accepted.epoch.or(message.epoch), VENUES[venue_of(id)].1);
            ensure!(epoch == Some(right), "epoch {epoch:?} in place of {right}");
            if let Some(stream) = self.streams.get_mut(&(channel, instrument))
                && same_stream(channel, &stream.options, &options)
            {
                if stream.options != options {
                    stream.adopt(options);
                }
                stream.adopt(stream.options.clone());
                // One that is still due anyway does for both.
                if command.snapshot == Some(true) {
                    stream.extra = true;
                    stream.extra_due |= facts.instruments[instrument].streams[kind].has_value(seq);
                }
                continue;
            }
            if let Some(old) = self.streams.get(&(channel, instrument)) {
                old.check_end(context.seen(facts, instrument, old.kind))?;
            }
            let point = resume.iter().find(|p| p.instrument == instrument && p.right_epoch && p.seq <= most);
            let stream = match point {
                Some(point) => Stream::resumed(options, kind, point.seq, point.window.as_deref().cloned()),
                None => Stream::new(options, kind, seq, command.snapshot != Some(false)),
            };
            self.streams.insert((channel, instrument), stream);
        }
        Ok(())
    }
}
