//! A client: what it sent, what it holds by the rules of the protocol page, and the check of
//! every message that comes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use crate::action::{FEED_STATES, INSTRUMENTS, Subscribe, VENUES};
use crate::grants::{Allowed, GRANTS, is_malformed, is_pattern, long, matches};
use crate::message::{Message, frame};
use crate::stream::{Check, Due, Excuses, Options, Stream, ensure};
use crate::truth::{self, BOOK, DEPTHS, Window};

pub(crate) const CHANNELS: [&str; 5] = ["ticker", "quote", "trade", "book", "status"];
pub(crate) const BOOK_CHANNEL: usize = 3;
pub(crate) const STATUS: usize = 4;

pub(crate) fn channel_index(name: &str) -> Result<usize, String> {
    CHANNELS.iter().position(|channel| *channel == name).ok_or_else(|| format!("channel {name}"))
}

/// A change of a feed's state.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) state: usize,
    pub(crate) since: String,
}

/// What a client may look up while it checks.
pub(crate) struct Facts<'a> {
    /// By index into [`INSTRUMENTS`].
    pub(crate) instruments: &'a [truth::Instrument],
    /// Index into [`INSTRUMENTS`] by key.
    pub(crate) keys: &'a [usize],
    /// By venue.
    pub(crate) changes: &'a [Vec<Change>; 2],
    /// The client's worker lost something at some time.
    pub(crate) overflowed: bool,
    pub(crate) now: u64,
}

/// Where the hub was when it took a command, as far as can be known.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// How many instruments the worker knew at least, and how many there were.
    pub(crate) known: (usize, usize),
    /// Last numbers by key and kind: those that the worker had seen at least, and those published.
    pub(crate) last: (Rc<Vec<[u64; 7]>>, Rc<Vec<[u64; 7]>>),
    /// By venue that was there, the last change: the one that the worker had seen at least, and the
    /// last.
    pub(crate) changes: [Option<(usize, usize)>; 2],
}

impl Context {
    /// The number that the worker had seen of a stream at least.
    fn seen(&self, facts: &Facts<'_>, instrument: usize, kind: usize) -> u64 {
        let key = facts.keys.iter().position(|of| *of == instrument);
        key.and_then(|key| self.last.0.get(key)).map_or(0, |last| last[kind])
    }
}

/// What is listed for one instrument in a `resume`.
#[derive(Clone, Debug)]
pub(crate) struct ResumePoint {
    pub(crate) instrument: usize,
    pub(crate) seq: u64,
    pub(crate) right_epoch: bool,
    pub(crate) window: Option<Rc<Window>>,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Auth { grant: usize },
    BadAuth,
    Subscribe(Subscribe, Vec<ResumePoint>),
    Unsubscribe { channel: &'static str, symbols: Vec<&'static str> },
    Ping,
    Nonsense,
}

#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) id: u64,
    pub(crate) what: What,
    pub(crate) context: Context,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) channel: usize,
    pub(crate) symbol: &'static str,
    asked: Options,
    /// `None`: the grant leaves nothing of it now.
    options: Option<Options>,
    order: u64,
}

/// Which changes of a feed the client may have been told of last.
#[derive(Clone, Debug, PartialEq, Eq)]
enum View {
    Unconcerned,
    OneOf(BTreeSet<usize>),
}

#[derive(Default)]
pub(crate) struct Client {
    pub(crate) worker: usize,
    pub(crate) grant: usize,
    pub(crate) sent: VecDeque<Sent>,
    pub(crate) streams: BTreeMap<(usize, usize), Stream>,
    pub(crate) blocked: bool,
    /// It is about to be told to go: what it is owed comes at once.
    pub(crate) draining: bool,
    /// The code of the close frame that came.
    pub(crate) closed: Option<u16>,
    pub(crate) entries: Vec<Entry>,
    welcome_due: bool,
    order: u64,
    input: Vec<u8>,
    bad_answers: usize,
    views: [Option<View>; 2],
    /// Feeds whose state may come right behind the answer, and which changes it could be.
    initial: [Option<(usize, usize)>; 2],
    pub(crate) messages: u64,
}

/// What a `subscribe` must be answered with, before its symbols are looked at.
fn judge(command: &Subscribe, allowed: &Allowed) -> Result<Options, &'static str> {
    let channel = channel_index(command.channel).map_err(|_| "unknown_channel")?;
    let every = command.mode.unwrap_or(if channel < 2 { "latest" } else { "every" }) == "every";
    let can_latest = matches!(channel, 0 | 1 | BOOK_CHANNEL);
    let misplaced = (!every && !can_latest)
        || (command.max_rate.is_some() && (every || !can_latest))
        || (command.depth.is_some() && channel != BOOK_CHANNEL)
        || (command.snapshot.is_some() && channel == STATUS)
        || (command.overflow.is_some() && (!every || channel == STATUS))
        || (command.resume.is_some() && (!every || channel == STATUS));
    if misplaced {
        return Err("bad_message");
    }
    let depth = command.depth.map_or(1, |depth| DEPTHS.iter().position(|d| *d == depth).unwrap_or(0));
    let (snapshot, disconnect) = (command.snapshot, command.overflow == Some("disconnect"));
    let asked = Options { every, rate: command.max_rate, depth, snapshot, disconnect };
    clamp(&asked, channel, allowed).map(|_| asked).ok_or("not_entitled")
}

fn clamp(asked: &Options, channel: usize, allowed: &Allowed) -> Option<Options> {
    if !allowed.allows(CHANNELS[channel], asked.every) {
        return None;
    }
    let rate = if asked.every { None } else { [asked.rate, allowed.max_rate].into_iter().flatten().min() };
    Some(Options { rate, depth: asked.depth.min(allowed.depth), ..asked.clone() })
}

fn kind(channel: usize, options: &Options) -> usize {
    if channel == BOOK_CHANNEL { BOOK + options.depth } else { channel }
}

fn same_stream(channel: usize, a: &Options, b: &Options) -> bool {
    a.every == b.every && kind(channel, a) == kind(channel, b)
}

impl Client {
    pub(crate) fn new(worker: usize, grant: usize) -> Self {
        Self { worker, grant, welcome_due: true, ..Self::default() }
    }

    fn allowed(&self) -> &'static Allowed {
        &GRANTS[self.grant]
    }

    fn excuses(&self, facts: &Facts<'_>) -> Excuses {
        Excuses { blocked: self.blocked || self.draining, overflowed: facts.overflowed, now: facts.now }
    }

    /// Takes what came out of the socket.
    pub(crate) fn receive(&mut self, facts: &Facts<'_>, bytes: &[u8]) -> Check {
        self.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        while let Some((opcode, payload, taken)) = frame(&input[at..])? {
            ensure!(self.closed.is_none(), "a frame behind the close frame");
            match opcode {
                1 => {
                    let text = std::str::from_utf8(payload).map_err(|error| error.to_string())?;
                    self.on_text(facts, text).map_err(|broken| format!("{broken}\n    in {text}"))?;
                }
                8 => self.on_close(payload)?,
                9 | 10 => {}
                opcode => return Err(format!("opcode {opcode}")),
            }
            at += taken;
        }
        self.input = input[at..].to_vec();
        Ok(())
    }

    fn on_close(&mut self, payload: &[u8]) -> Check {
        let code = payload.first_chunk::<2>().map_or(0, |code| u16::from_be_bytes(*code));
        match code {
            1001 => {}
            4001 => ensure!(self.blocked, "closed as a slow consumer, and the socket took everything"),
            4500 => ensure!(self.bad_answers >= 10 || self.blocked, "closed for {} faulty commands", self.bad_answers),
            code => return Err(format!("closed with {code}")),
        }
        self.closed = Some(code);
        Ok(())
    }

    fn on_text(&mut self, facts: &Facts<'_>, text: &str) -> Check {
        let message: Message<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        self.messages += 1;
        if message.ch == Some("status") {
            return self.on_status(facts, &message);
        }
        // Behind a renewal's `ok`, what it takes away and adds is told first.
        if message.op.is_none() || message.id.is_some() {
            self.end_initial(facts)?;
        }
        match message.op {
            None | Some("gap") => self.on_data(facts, &message),
            Some("subscribed") if message.id.is_some() => self.on_subscribed(facts, &message),
            Some("subscribed") => self.on_announcement(facts, &message),
            Some("unsubscribed") if message.id.is_some() => self.on_unsubscribed(facts, &message),
            Some("unsubscribed") => self.on_withdrawn(&message),
            Some("error") => self.on_error(facts, &message),
            Some("pong") => {
                let sent = self.answered(&message)?;
                ensure!(matches!(sent.what, What::Ping), "a pong for {:?}", sent.what);
                Ok(())
            }
            Some("ok") => self.on_ok(facts, &message),
            Some("welcome") => {
                ensure!(self.welcome_due, "welcomed twice");
                self.welcome_due = false;
                Ok(())
            }
            op => Err(format!("op {op:?}")),
        }
    }

    fn answered(&mut self, message: &Message<'_>) -> Result<Sent, String> {
        let sent = self.sent.pop_front().ok_or("an answer to nothing")?;
        let expected = (!matches!(sent.what, What::Nonsense)).then_some(sent.id);
        ensure!(message.id == expected, "an answer to {:?}, the next is due to {sent:?}", message.id);
        Ok(sent)
    }

    /// The options in effect for an instrument: those of the exact entry, else of the longest
    /// matching pattern, among equals of the latest.
    fn effective(&self, channel: usize, id: &str) -> Option<(&Entry, &Options)> {
        let covers = |entry: &&Entry| {
            entry.channel == channel
                && entry.options.is_some()
                && matches(entry.symbol, id)
                && self.allowed().covers(id)
        };
        let rank = |entry: &&Entry| (!is_pattern(entry.symbol), long(entry.symbol).len(), entry.order);
        let entry = self.entries.iter().filter(covers).max_by_key(rank)?;
        entry.options.as_ref().map(|options| (entry, options))
    }

    /// The place of the entry for a symbol: a pattern is one however it is written.
    fn held(&self, channel: usize, symbol: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry.channel == channel && long(entry.symbol) == long(symbol))
    }

    fn on_data(&mut self, facts: &Facts<'_>, message: &Message<'_>) -> Check {
        let channel = channel_index(message.ch.ok_or("data without a channel")?)?;
        let id = message.sym.ok_or("data without a symbol")?;
        let instrument = INSTRUMENTS.iter().position(|(name, _)| *name == id).ok_or("an unknown symbol")?;
        ensure!(self.allowed().covers(id) || message.op == Some("gap"), "data of an instrument outside the grant");
        let excuses = self.excuses(facts);
        let stream = self.streams.get_mut(&(channel, instrument)).ok_or("data of what is not subscribed")?;
        let truth = &facts.instruments[instrument].streams[stream.kind];
        let result = match message.op {
            Some(_) => stream.on_gap(truth, message, excuses),
            None => stream.on_event(truth, message, excuses),
        };
        result.map_err(|broken| format!("{broken}\n    with {stream:?}"))
    }

    fn on_error(&mut self, facts: &Facts<'_>, message: &Message<'_>) -> Check {
        let sent = self.answered(message)?;
        let expected = match &sent.what {
            What::Subscribe(command, resume) => match self.judge_subscribe(facts, command, resume, &sent.context) {
                Err(code) => code,
                Ok(_) => return Err(format!("an error for {sent:?}")),
            },
            What::BadAuth => "invalid_token",
            What::Nonsense => "bad_message",
            what => return Err(format!("an error for {what:?}")),
        };
        ensure!(message.code == Some(expected), "code {:?} in place of {expected}", message.code);
        self.bad_answers += usize::from(expected == "bad_message");
        Ok(())
    }

    /// A renewal, or the first credential.
    fn on_ok(&mut self, facts: &Facts<'_>, message: &Message<'_>) -> Check {
        let sent = self.answered(message)?;
        let What::Auth { grant } = sent.what else { return Err(format!("an ok for {:?}", sent.what)) };
        let changed = grant != self.grant;
        self.grant = grant;
        if !changed {
            return Ok(());
        }
        let allowed = self.allowed();
        for entry in &mut self.entries {
            entry.options = clamp(&entry.asked, entry.channel, allowed);
        }
        self.entries
            .retain(|entry| is_pattern(entry.symbol) || (entry.options.is_some() && allowed.covers(entry.symbol)));
        self.look_at_effects(facts, None, Due::End, &sent.context)?;
        for feed in 0..VENUES.len() {
            let was = self.views[feed].clone();
            self.set_concern(feed);
            if was.as_ref().is_none_or(|view| *view == View::Unconcerned) && self.concerned(feed) {
                self.begin_initial(facts, feed, sent.context.changes[feed]);
            }
        }
        Ok(())
    }

    /// What a change of entries means for each stream that reaches the client. `end` is what must
    /// be told of those that do no longer.
    fn look_at_effects(&mut self, facts: &Facts<'_>, channel: Option<usize>, end: Due, context: &Context) -> Check {
        let mut gone = Vec::new();
        let mut changed = Vec::new();
        for ((of, instrument), stream) in &self.streams {
            if channel.is_some_and(|channel| channel != *of) {
                continue;
            }
            match self.effective(*of, INSTRUMENTS[*instrument].0).map(|(_, options)| options.clone()) {
                None => gone.push((*of, *instrument)),
                Some(options) if same_stream(*of, &options, &stream.options) => {
                    changed.push(((*of, *instrument), Some(options)));
                }
                Some(_) => changed.push(((*of, *instrument), None)),
            }
        }
        for (at, options) in changed {
            let stream = self.streams.get_mut(&at).expect("it was there");
            match options {
                Some(options) => stream.adopt(options),
                None => {
                    (stream.due, stream.due_seen) = (Due::Change, context.seen(facts, at.1, stream.kind));
                    // An unsubscribe tells of what is missing before its answer.
                    if end == Due::Nothing {
                        stream.check_end(stream.due_seen)?;
                    }
                }
            }
        }
        for at in gone {
            let stream = self.streams.get_mut(&at).expect("it was there");
            (stream.due, stream.due_seen) = (end, context.seen(facts, at.1, stream.kind));
            if end == Due::Nothing {
                stream.check_end(stream.due_seen)?;
                self.streams.remove(&at);
            }
        }
        Ok(())
    }

    fn on_withdrawn(&mut self, message: &Message<'_>) -> Check {
        ensure!(message.code == Some("not_entitled"), "withdrawn with code {:?}", message.code);
        let channel = channel_index(message.channel.ok_or("no channel")?)?;
        for symbol in message.symbols.as_ref().ok_or("no symbols")? {
            let instrument = INSTRUMENTS.iter().position(|(name, _)| name == symbol).ok_or("an unknown symbol")?;
            if channel == STATUS {
                continue;
            }
            let stream =
                self.streams.remove(&(channel, instrument)).ok_or("withdrawn, but it did not reach the client")?;
            ensure!(stream.due == Due::End, "withdrawn, but still entitled: {symbol}");
            stream.check_end(stream.due_seen)?;
        }
        Ok(())
    }

    fn on_unsubscribed(&mut self, facts: &Facts<'_>, message: &Message<'_>) -> Check {
        let sent = self.answered(message)?;
        let What::Unsubscribe { channel, symbols } = &sent.what else {
            return Err(format!("unsubscribed for {sent:?}"));
        };
        ensure!(message.channel == Some(channel), "channel {:?}", message.channel);
        let channel = channel_index(channel)?;
        let (mut removed, mut rejected, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for symbol in symbols.iter().filter(|symbol| seen.insert(**symbol)) {
            match self.held(channel, symbol) {
                Some(at) => {
                    self.entries.remove(at);
                    removed.push(*symbol);
                }
                None if is_malformed(symbol) => rejected.push((*symbol, "bad_symbol")),
                None => rejected.push((*symbol, "not_subscribed")),
            }
        }
        ensure!(message.symbols.as_ref() == Some(&removed), "unsubscribed in place of {removed:?}");
        let told: Vec<_> = message.rejected.iter().flatten().map(|fault| (fault.symbol, fault.code)).collect();
        ensure!(told == rejected, "rejected in place of {rejected:?}");
        self.look_at_effects(facts, Some(channel), Due::Nothing, &sent.context)?;
        for feed in 0..VENUES.len() {
            self.set_concern(feed);
        }
        Ok(())
    }

    /// A `subscribed` without `id`: a later instrument, or other options in effect.
    fn on_announcement(&mut self, facts: &Facts<'_>, message: &Message<'_>) -> Check {
        let channel = channel_index(message.channel.ok_or("no channel")?)?;
        for accepted in message.accepted.as_ref().ok_or("nothing accepted")? {
            let instrument = *facts.keys.get(accepted.iid as usize).ok_or("an unknown iid")?;
            let id = INSTRUMENTS[instrument].0;
            ensure!(id == accepted.symbol, "iid {} is {id}", accepted.iid);
            let (entry, options) = self.effective(channel, id).ok_or("announces what is not covered")?;
            let pattern = is_pattern(entry.symbol).then_some(entry.symbol);
            ensure!(accepted.pattern == pattern, "pattern in place of {pattern:?}");
            let options = options.clone();
            self.check_echo(message, channel, &options)?;
            if channel == STATUS {
                continue;
            }
            let kind = kind(channel, &options);
            let seq = accepted.seq.ok_or("no seq")?;
            let last = facts.instruments[instrument].streams[kind].last();
            ensure!(seq <= last, "announced with number {seq}, {last} are published");
            let old = self.streams.get(&(channel, instrument));
            ensure!(old.is_none_or(|stream| stream.due == Due::Change), "announced for no reason");
            old.map_or(Ok(()), |stream| stream.check_end(stream.due_seen))?;
            // A change that was not asked for always comes with a snapshot.
            let snapshot = old.is_some() || options.snapshot != Some(false);
            self.streams.insert((channel, instrument), Stream::new(options, kind, seq, snapshot));
            let epoch = accepted.epoch.or(message.epoch);
            let (venue, right) = VENUES[venue_of(id)];
            ensure!(epoch == Some(right), "epoch {epoch:?} for {venue}");
            self.concern_late_feed(facts, venue_of(id));
        }
        Ok(())
    }

    fn check_echo(&self, message: &Message<'_>, channel: usize, options: &Options) -> Check {
        let mode = if options.every { "every" } else { "latest" };
        ensure!(message.mode == Some(mode), "mode in place of {mode}");
        ensure!(message.max_rate == options.rate, "max_rate in place of {:?}", options.rate);
        let depth = (channel == BOOK_CHANNEL).then(|| DEPTHS[options.depth]);
        ensure!(message.depth == depth, "depth in place of {depth:?}");
        Ok(())
    }

    /// The options asked for, or the code of the error that must come.
    fn judge_subscribe(
        &self,
        facts: &Facts<'_>,
        command: &Subscribe,
        resume: &[ResumePoint],
        context: &Context,
    ) -> Result<Options, &'static str> {
        let asked = judge(command, self.allowed())?;
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

    fn on_subscribed(&mut self, facts: &Facts<'_>, message: &Message<'_>) -> Check {
        let sent = self.answered(message)?;
        let What::Subscribe(command, resume) = &sent.what else { return Err(format!("subscribed for {sent:?}")) };
        let asked = self
            .judge_subscribe(facts, command, resume, &sent.context)
            .map_err(|code| format!("subscribed in place of {code}"))?;
        let channel = channel_index(command.channel)?;
        ensure!(message.channel == Some(command.channel), "channel {:?}", message.channel);
        let options = clamp(&asked, channel, self.allowed()).ok_or("the model refused it before")?;
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
    fn put_entries(
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

    fn check_accepted(&self, facts: &Facts<'_>, message: &Message<'_>, context: &Context, put: &[&str]) -> Check {
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
    fn begin_streams(
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

    fn concerns(&self, symbol: &str, feed: usize) -> bool {
        self.allowed().concerns(symbol, VENUES[feed].0)
    }

    fn concerned(&self, feed: usize) -> bool {
        self.entries.iter().any(|entry| entry.options.is_some() && self.concerns(entry.symbol, feed))
    }

    fn set_concern(&mut self, feed: usize) {
        if !self.concerned(feed) {
            self.views[feed] = Some(View::Unconcerned);
            self.initial[feed] = None;
        }
    }

    fn begin_initial(&mut self, facts: &Facts<'_>, feed: usize, changes: Option<(usize, usize)>) {
        if changes.is_some() && !facts.changes[feed].is_empty() {
            self.initial[feed] = changes;
        }
    }

    /// A feed that was registered late: its state may be told with its first instrument.
    fn concern_late_feed(&mut self, facts: &Facts<'_>, feed: usize) {
        if self.views[feed].as_ref().is_none_or(|view| *view == View::Unconcerned) {
            self.begin_initial(facts, feed, Some((0, facts.changes[feed].len() - 1)));
        }
    }

    /// What comes next is no state: those that were not told are live.
    fn end_initial(&mut self, facts: &Facts<'_>) -> Check {
        for feed in 0..VENUES.len() {
            let Some((least, most)) = self.initial[feed].take() else { continue };
            let live = |change: &usize| facts.changes[feed][*change].state == 0;
            let mut candidates: BTreeSet<usize> = (least..=most).filter(live).collect();
            if let Some(View::OneOf(seen)) = &self.views[feed]
                && !facts.overflowed
            {
                candidates.retain(|change| seen.contains(change));
            }
            ensure!(!candidates.is_empty(), "the state of {} was not told behind the answer", VENUES[feed].0);
            self.views[feed] = Some(View::OneOf(candidates));
        }
        Ok(())
    }

    fn on_status(&mut self, facts: &Facts<'_>, message: &Message<'_>) -> Check {
        let symbol = message.sym.ok_or("no symbol")?;
        let named = |(venue, _): &(&str, &str)| symbol.strip_suffix(":*") == Some(venue);
        let feed = VENUES.iter().position(named).ok_or("a status of no venue")?;
        ensure!(self.concerned(feed), "a status of a feed that does not concern the session");
        let is =
            |change: &Change| message.ts == Some(&change.since) && message.state == Some(FEED_STATES[change.state]);
        let change = facts.changes[feed].iter().rposition(is).ok_or("a status that never was")?;
        let seen = self.views[feed].clone();
        if let Some((least, most)) = self.initial[feed].take() {
            let fits = match &seen {
                Some(View::OneOf(seen)) if !facts.overflowed => seen.contains(&change),
                Some(View::OneOf(seen)) => seen.iter().any(|seen| *seen <= change),
                _ => true,
            };
            if fits && (least..=most).contains(&change) && facts.changes[feed][change].state != 0 {
                self.views[feed] = Some(View::OneOf([change].into()));
                return Ok(());
            }
            self.initial[feed] = Some((least, most));
        }
        self.end_initial(facts)?;
        if let Some(View::OneOf(seen)) = &self.views[feed] {
            let next = change > 0 && seen.contains(&(change - 1));
            let skips = facts.overflowed && seen.iter().any(|seen| *seen < change);
            ensure!(next || skips, "change {change} of the feed after {seen:?}");
        }
        self.views[feed] = Some(View::OneOf([change].into()));
        Ok(())
    }

    /// Whether the client has the newest value of each `latest` stream, whatever its rate.
    pub(crate) fn check_newest(&self, facts: &Facts<'_>) -> Check {
        for ((channel, instrument), stream) in &self.streams {
            let truth = &facts.instruments[*instrument].streams[stream.kind];
            let has = stream.options.every || stream.is_book() || stream.next > truth.last_value;
            ensure!(has, "{} of {} is not the newest: {stream:?}", CHANNELS[*channel], INSTRUMENTS[*instrument].0);
        }
        Ok(())
    }

    /// Whether the client has everything of the streams that reach it.
    pub(crate) fn check_complete(&mut self, facts: &Facts<'_>, settled: bool) -> Check {
        for ((channel, instrument), stream) in &mut self.streams {
            let of = &facts.instruments[*instrument];
            stream.check_complete(of, settled, facts.now).map_err(|broken| {
                format!("{} of {}: {broken}\n    with {stream:?}", CHANNELS[*channel], INSTRUMENTS[*instrument].0)
            })?;
        }
        if !settled {
            return Ok(());
        }
        self.end_initial(facts)?;
        ensure!(self.sent.is_empty(), "never answered: {:?}", self.sent);
        ensure!(self.input.is_empty(), "half a frame is left");
        for channel in 0..STATUS {
            for instrument in facts.keys {
                let id = INSTRUMENTS[*instrument].0;
                let covered = self.effective(channel, id).is_some();
                let reaches = self.streams.contains_key(&(channel, *instrument));
                ensure!(covered == reaches, "{} of {id}: covered {covered}, reaches {reaches}", CHANNELS[channel]);
            }
        }
        for feed in 0..VENUES.len() {
            let last = facts.changes[feed].len().checked_sub(1);
            if let (Some(View::OneOf(seen)), Some(last)) = (&self.views[feed], last) {
                ensure!(seen.contains(&last), "{} is at change {last}, told was {seen:?}", VENUES[feed].0);
            }
        }
        Ok(())
    }
}

pub(crate) fn venue_of(id: &str) -> usize {
    VENUES.iter().position(|(venue, _)| id.split_once(':').is_some_and(|(of, _)| of == *venue)).unwrap_or(0)
}
