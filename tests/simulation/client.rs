//! A client: what it sent, what it holds by the rules of the protocol page, and the check of
//! every message that comes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use tickhub::wire::Format;

use crate::action::{INSTRUMENTS, Subscribe, VENUES};
use crate::answers::clamp;
use crate::binary::text_of_message;
use crate::grants::{Allowed, GRANTS, is_malformed, is_pattern, long, matches};
use crate::ladder::Rungs;
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
    pub(crate) fn seen(&self, facts: &Facts<'_>, instrument: usize, kind: usize) -> u64 {
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
    pub(crate) asked: Options,
    /// `None`: the grant leaves nothing of it now.
    pub(crate) options: Option<Options>,
    pub(crate) order: u64,
}

/// Which changes of a feed the client may have been told of last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Unconcerned,
    OneOf(BTreeSet<usize>),
}

pub(crate) struct Client {
    pub(crate) worker: usize,
    pub(crate) grant: usize,
    /// It gets events in the binary form.
    pub(crate) binary: bool,
    pub(crate) sent: VecDeque<Sent>,
    pub(crate) streams: BTreeMap<(usize, usize), Stream>,
    pub(crate) blocked: bool,
    /// It is about to be told to go: what it is owed comes at once.
    pub(crate) draining: bool,
    /// The code of the close frame that came.
    pub(crate) closed: Option<u16>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) welcome_due: bool,
    pub(crate) order: u64,
    pub(crate) input: Vec<u8>,
    pub(crate) bad_answers: usize,
    pub(crate) views: [Option<View>; 2],
    /// Feeds whose state may come right behind the answer, and which changes it could be.
    pub(crate) initial: [Option<(usize, usize)>; 2],
    pub(crate) messages: u64,
    pub(crate) slow_gaps: u64,
    pub(crate) rungs: Rungs,
}

pub(crate) fn kind(channel: usize, options: &Options) -> usize {
    if channel == BOOK_CHANNEL { BOOK + options.depth } else { channel }
}

pub(crate) fn same_stream(channel: usize, a: &Options, b: &Options) -> bool {
    a.every == b.every && kind(channel, a) == kind(channel, b)
}

impl Client {
    pub(crate) fn new(worker: usize, grant: usize, form: Format, rungs: Rungs) -> Self {
        Self {
            binary: form == Format::Binary,
            worker,
            grant,
            sent: VecDeque::new(),
            streams: BTreeMap::new(),
            blocked: false,
            draining: false,
            closed: None,
            entries: Vec::new(),
            welcome_due: true,
            order: 0,
            input: Vec::new(),
            bad_answers: 0,
            views: [None, None],
            initial: [None, None],
            messages: 0,
            slow_gaps: 0,
            rungs,
        }
    }

    pub(crate) fn allowed(&self) -> &'static Allowed {
        &GRANTS[self.grant]
    }

    pub(crate) fn excuses(&self, facts: &Facts<'_>) -> Excuses {
        Excuses {
            blocked: self.blocked || self.draining,
            overflowed: facts.overflowed,
            now: facts.now,
            rungs: self.rungs,
        }
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
                    let data =
                        text.starts_with("{\"op\":\"gap\"") || text.contains("\"seq\":") && text.starts_with("{\"ch\"");
                    ensure!(!(self.binary && data), "an event as text in a binary session: {text}");
                    self.on_text(facts, text).map_err(|broken| format!("{broken}\n    in {text}"))?;
                }
                2 => {
                    ensure!(self.binary, "a binary message in a session of text");
                    let text = self.text_of(facts, payload)?;
                    self.on_text(facts, &text).map_err(|broken| format!("{broken}\n    in {text}"))?;
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

    /// What a binary message says, as text.
    fn text_of(&self, facts: &Facts<'_>, message: &[u8]) -> Result<String, String> {
        let instrument = |iid: u32| facts.keys.get(iid as usize).copied();
        let depth = |iid| {
            let stream = self.streams.get(&(BOOK_CHANNEL, instrument(iid)?))?;
            Some(DEPTHS[stream.kind - BOOK])
        };
        let symbol = |iid| Some(INSTRUMENTS[instrument(iid)?].0);
        text_of_message(message, symbol, depth).map_err(|broken| format!("{broken} in {message:?}"))
    }

    pub(crate) fn on_close(&mut self, payload: &[u8]) -> Check {
        let code = payload.first_chunk::<2>().map_or(0, |code| u16::from_be_bytes(*code));
        match code {
            1001 => {}
            4001 | 4005 => {
                ensure!(self.blocked, "closed with {code}, and the socket took everything");
                self.rungs.check_close(code, &String::from_utf8_lossy(&payload[2..]))?;
            }
            4500 => ensure!(self.bad_answers >= 10 || self.blocked, "closed for {} faulty commands", self.bad_answers),
            code => return Err(format!("closed with {code}")),
        }
        self.closed = Some(code);
        Ok(())
    }

    pub(crate) fn on_text(&mut self, facts: &Facts<'_>, text: &str) -> Check {
        let message: Message<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        self.messages += 1;
        self.slow_gaps += u64::from(message.cause == Some("slow_consumer"));
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

    pub(crate) fn answered(&mut self, message: &Message<'_>) -> Result<Sent, String> {
        let sent = self.sent.pop_front().ok_or("an answer to nothing")?;
        let expected = (!matches!(sent.what, What::Nonsense)).then_some(sent.id);
        ensure!(message.id == expected, "an answer to {:?}, the next is due to {sent:?}", message.id);
        Ok(sent)
    }

    /// The options in effect for an instrument: those of the exact entry, else of the longest
    /// matching pattern, among equals of the latest.
    pub(crate) fn effective(&self, channel: usize, id: &str) -> Option<(&Entry, &Options)> {
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
    pub(crate) fn held(&self, channel: usize, symbol: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry.channel == channel && long(entry.symbol) == long(symbol))
    }

    pub(crate) fn on_data(&mut self, facts: &Facts<'_>, message: &Message<'_>) -> Check {
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

    pub(crate) fn on_error(&mut self, facts: &Facts<'_>, message: &Message<'_>) -> Check {
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
    pub(crate) fn on_ok(&mut self, facts: &Facts<'_>, message: &Message<'_>) -> Check {
        let sent = self.answered(message)?;
        let What::Auth { grant } = sent.what else { return Err(format!("an ok for {:?}", sent.what)) };
        let changed = grant != self.grant;
        self.grant = grant;
        if !changed {
            return Ok(());
        }
        let allowed = self.allowed();
        for entry in &mut self.entries {
            entry.options = clamp(&entry.asked, entry.channel, allowed, &self.rungs.hub);
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
    pub(crate) fn look_at_effects(
        &mut self,
        facts: &Facts<'_>,
        channel: Option<usize>,
        end: Due,
        context: &Context,
    ) -> Check {
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

    pub(crate) fn on_withdrawn(&mut self, message: &Message<'_>) -> Check {
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

    pub(crate) fn on_unsubscribed(&mut self, facts: &Facts<'_>, message: &Message<'_>) -> Check {
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
    pub(crate) fn on_announcement(&mut self, facts: &Facts<'_>, message: &Message<'_>) -> Check {
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

    pub(crate) fn check_echo(&self, message: &Message<'_>, channel: usize, options: &Options) -> Check {
        let mode = if options.every { "every" } else { "latest" };
        ensure!(message.mode == Some(mode), "mode in place of {mode}");
        ensure!(message.max_rate == options.rate, "max_rate in place of {:?}", options.rate);
        let depth = (channel == BOOK_CHANNEL).then(|| DEPTHS[options.depth]);
        ensure!(message.depth == depth, "depth in place of {depth:?}");
        ensure!(message.overflow == options.overflow, "overflow in place of {:?}", options.overflow);
        ensure!(message.backlog == options.backlog, "backlog in place of {:?}", options.backlog);
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
