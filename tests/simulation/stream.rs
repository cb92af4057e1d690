//! One stream as it reaches one client: what may come next.

use std::rc::Rc;

use crate::ladder::Rungs;
use crate::message::{Message, hundredths};
use crate::truth::{self, BOOK, DEPTHS, Window, content};

/// A rule of the protocol that was broken, in words.
pub(crate) type Check = Result<(), String>;

macro_rules! ensure {
    ($holds:expr, $($broken:tt)*) => {
        if !$holds {
            return Err(format!($($broken)*));
        }
    };
}
pub(crate) use ensure;

/// Options as they are in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) every: bool,
    pub(crate) rate: Option<u32>,
    /// Index into [`DEPTHS`].
    pub(crate) depth: usize,
    pub(crate) snapshot: Option<bool>,
    pub(crate) overflow: Option<&'static str>,
    pub(crate) backlog: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing has come yet.
    Start {
        accepted: u64,
        snapshot: bool,
    },
    Live,
}

/// What was announced to happen to the stream, and must be told before more of it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// A `subscribed` without `id`.
    Change,
    /// An `unsubscribed` without `id`.
    End,
}

/// What the client knows of the hub's situation that excuses some gaps.
#[derive(Clone, Copy)]
pub(crate) struct Excuses {
    /// The client's socket was full at some time.
    pub(crate) blocked: bool,
    /// The worker's lane overflowed at some time.
    pub(crate) overflowed: bool,
    pub(crate) now: u64,
    pub(crate) rungs: Rungs,
}

#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) options: Options,
    /// Index of its kind.
    pub(crate) kind: usize,
    pub(crate) phase: Phase,
    /// `every`: the number that must come next; `latest`: the smallest that may.
    pub(crate) next: u64,
    /// A book's gap was told: its snapshot must come, under this number.
    pub(crate) pending: Option<u64>,
    /// A snapshot was asked for in the middle of the stream.
    pub(crate) extra: bool,
    /// There was a value, so that it must come.
    pub(crate) extra_due: bool,
    /// Resumed: its first gap may be one of what the hub no longer holds.
    pub(crate) resumed: bool,
    pub(crate) due: Due,
    /// What must have come when that is told.
    pub(crate) due_seen: u64,
    pub(crate) window: Option<Window>,
    /// The number that `window` is the state of.
    pub(crate) state_at: u64,
    last_update: Option<u64>,
    owed_since: Option<u64>,
}

fn levels(list: Option<&Vec<(&str, &str)>>) -> Result<Vec<(i64, i64)>, String> {
    let list = list.ok_or("a book without a side")?;
    let size = |text| if text == "0" { Ok(0) } else { hundredths(text) };
    list.iter().map(|(price, text)| Ok((hundredths(price)?, size(text)?))).collect()
}

/// Applies changed levels to one side; `sign` orders it best first.
fn apply(side: &mut Vec<(i64, i64)>, changes: &[(i64, i64)], sign: i64) -> Check {
    for (price, size) in changes {
        match side.binary_search_by_key(&(price * sign), |(p, _)| p * sign) {
            Ok(at) if *size == 0 => drop(side.remove(at)),
            Ok(at) => side[at].1 = *size,
            Err(_) if *size == 0 => return Err(format!("removes the level {price}, which is not there")),
            Err(at) => side.insert(at, (*price, *size)),
        }
    }
    Ok(())
}

impl Stream {
    pub(crate) fn new(options: Options, kind: usize, accepted: u64, snapshot: bool) -> Self {
        Self {
            options,
            kind,
            phase: Phase::Start { accepted, snapshot },
            next: accepted + 1,
            pending: None,
            extra: false,
            extra_due: false,
            resumed: false,
            due: Due::Nothing,
            due_seen: 0,
            window: None,
            state_at: 0,
            last_update: None,
            owed_since: None,
        }
    }

    /// A stream that goes on after `seq`, of which the client has the state.
    pub(crate) fn resumed(options: Options, kind: usize, seq: u64, window: Option<Window>) -> Self {
        let mut stream = Self::new(options, kind, seq, false);
        (stream.phase, stream.resumed, stream.window, stream.state_at) = (Phase::Live, true, window, seq);
        stream
    }

    /// The same stream goes on by other options.
    pub(crate) fn adopt(&mut self, options: Options) {
        self.options = options;
        (self.last_update, self.owed_since) = (None, None);
    }

    pub(crate) const fn is_book(&self) -> bool {
        self.kind >= BOOK
    }

    pub(crate) fn on_event(&mut self, truth: &truth::Stream, message: &Message<'_>, excuses: Excuses) -> Check {
        ensure!(self.due == Due::Nothing, "data before it was told what becomes of the stream");
        let seq = message.seq.ok_or("an event without a number")?;
        let number = truth.number(seq).ok_or_else(|| format!("number {seq} was not published"))?;
        if self.is_book() {
            ensure!(message.depth == Some(DEPTHS[self.kind - BOOK]), "a book of depth {:?}", message.depth);
        }
        self.check_content(number, seq, message)?;
        let update = if self.options.every {
            self.on_every(truth, seq, message.snap)?;
            false
        } else {
            self.on_latest(truth, seq, message.snap)?
        };
        self.check_rate(update, excuses)?;
        self.phase = Phase::Live;
        self.next = seq + 1;
        self.resumed = false;
        self.owed_since = None;
        Ok(())
    }

    fn check_content(&mut self, number: &truth::Number, seq: u64, message: &Message<'_>) -> Check {
        if !message.snap {
            ensure!(number.gap.is_none(), "an event under the number of a gap");
        }
        if !self.is_book() {
            let content = content(self.kind, message);
            let published = number.value.as_deref();
            ensure!(published == Some(content.as_str()), "carries {content}, published was {published:?}");
            return Ok(());
        }
        let told = Window { bids: levels(message.bids.as_ref())?, asks: levels(message.asks.as_ref())? };
        if message.snap {
            ensure!(number.window.as_deref() == Some(&told), "window {told:?}, was {:?}", number.window);
            (self.window, self.state_at) = (Some(told), seq);
            return Ok(());
        }
        ensure!(self.options.every, "a change of a book in mode latest");
        let times = format!("{}|{}", message.ts.unwrap_or("-"), message.rx.unwrap_or("-"));
        ensure!(number.times.as_deref() == Some(&times), "at {times}, was at {:?}", number.times);
        if let Some(window) = &mut self.window {
            apply(&mut window.bids, &told.bids, -1)?;
            apply(&mut window.asks, &told.asks, 1)?;
            ensure!(number.window.as_deref() == Some(window), "makes {window:?}, was {:?}", number.window);
            self.state_at = seq;
        }
        Ok(())
    }

    fn on_every(&mut self, truth: &truth::Stream, seq: u64, snap: bool) -> Check {
        let begins_again = self.is_book() && truth.number(seq).is_some_and(|number| number.gap.is_some());
        match self.phase {
            Phase::Start { accepted, snapshot: true } if snap => {
                ensure!(seq >= accepted, "snapshot {seq} is older than the {accepted} of the answer");
                self.end_extra();
            }
            Phase::Start { accepted, snapshot: true } => {
                ensure!(!self.is_book() && !truth.has_value(accepted), "live event {seq} before the snapshot");
                ensure!(seq == self.next, "first live event {seq} after accepted {accepted}");
            }
            _ if snap && self.pending == Some(seq) => {
                self.pending = None;
                self.end_extra();
            }
            _ if snap && self.extra && seq + 1 == self.next => self.end_extra(),
            _ if snap && begins_again && seq + 1 == self.next => {}
            _ => {
                ensure!(self.pending.is_none(), "no snapshot {:?} behind the gap, but {seq}", self.pending);
                ensure!(!snap || self.is_book(), "snapshot {seq} that was not asked for");
                ensure!(!(snap && self.resumed), "a resume across a pause begins with {seq} and without its gap");
                ensure!(seq == self.next, "number {seq} in place of {}", self.next);
            }
        }
        Ok(())
    }

    const fn end_extra(&mut self) {
        (self.extra, self.extra_due) = (false, false);
    }

    /// Says whether it is an update, as opposed to a snapshot.
    fn on_latest(&mut self, truth: &truth::Stream, seq: u64, snap: bool) -> Result<bool, String> {
        ensure!(snap || !self.is_book(), "a change of a book in mode latest");
        let update = match self.phase {
            Phase::Start { accepted, snapshot: true } => {
                ensure!(snap || !truth.has_value(accepted), "live event {seq} before the snapshot");
                ensure!(seq >= accepted, "first event {seq} is older than the {accepted} of the answer");
                self.end_extra();
                !snap
            }
            Phase::Start { accepted, .. } => {
                // The protocol promises nothing here but order: the last published value may come.
                ensure!(seq >= accepted, "first event {seq}, accepted was {accepted}");
                let update = !(snap && self.extra);
                if !update {
                    self.end_extra();
                }
                update
            }
            Phase::Live if snap && self.extra => {
                ensure!(seq + 1 >= self.next, "snapshot {seq} after {}", self.next - 1);
                self.end_extra();
                false
            }
            Phase::Live => {
                ensure!(seq >= self.next, "{seq} after {}", self.next - 1);
                true
            }
        };
        Ok(update)
    }

    /// Updates of one instrument are at least the interval of `max_rate` apart.
    fn check_rate(&mut self, update: bool, excuses: Excuses) -> Check {
        let Some(rate) = self.options.rate else { return Ok(()) };
        if !update || excuses.blocked {
            self.last_update = None;
            return Ok(());
        }
        let interval = interval(rate);
        if let Some(last) = self.last_update {
            let after = excuses.now - last;
            ensure!(after >= interval, "an update {after} ns after the last, {interval} is the least");
        }
        self.last_update = Some(excuses.now);
        Ok(())
    }

    pub(crate) fn on_gap(&mut self, truth: &truth::Stream, message: &Message<'_>, excuses: Excuses) -> Check {
        ensure!(self.options.every, "a gap in mode latest");
        let (Some(from), Some(to)) = (message.from, message.to) else { return Err("a gap without numbers".into()) };
        if self.is_book() {
            ensure!(message.depth == Some(DEPTHS[self.kind - BOOK]), "a gap of depth {:?}", message.depth);
        }
        if let Phase::Start { accepted, snapshot: true } = self.phase {
            ensure!(!self.is_book() && !truth.has_value(accepted), "a gap before the snapshot");
        }
        ensure!(from == self.next, "a gap from {from} in place of {}", self.next);
        ensure!(from <= to && to <= truth.last(), "a gap from {from} to {to}, {} are published", truth.last());
        match message.cause {
            Some("upstream") => {
                ensure!(from == to, "an upstream loss with numbers {from} to {to}");
                let gap = truth.number(from).and_then(|number| number.gap);
                ensure!(gap == Some(message.lost), "an upstream loss of {:?}, was {gap:?}", message.lost);
            }
            Some("slow_consumer") => {
                ensure!(excuses.blocked, "slow_consumer, and the socket took everything");
                // One behind a snapshot that was asked for while the socket was full stands for what it skips.
                if !self.extra {
                    excuses.rungs.check_gap()?;
                }
            }
            Some("hub") => {
                // A snapshot asked for while a book's window is on its way stands for what it skips.
                let skipped = self.is_book() && self.extra;
                ensure!(excuses.overflowed || self.resumed || skipped, "a gap of the hub without a reason");
            }
            cause => return Err(format!("a gap of cause {cause:?}")),
        }
        self.next = to + 1;
        self.phase = Phase::Live;
        self.resumed = false;
        if self.is_book() {
            (self.pending, self.window) = (Some(to), None);
        }
        Ok(())
    }

    /// The stream ends here: what the worker had seen when it took the command, up to `seen`, must
    /// have come or been named by a gap.
    pub(crate) fn check_end(&self, seen: u64) -> Check {
        let began = !matches!(self.phase, Phase::Start { snapshot: true, .. });
        ensure!(
            !self.options.every || !began || self.next > seen,
            "ends at {}, and {seen} was published before\n    with {self:?}",
            self.next - 1
        );
        Ok(())
    }

    /// Whether the client has everything. `settled` = nothing is on its way, for a book either.
    pub(crate) fn check_complete(&mut self, of: &truth::Instrument, settled: bool, now: u64) -> Check {
        let truth = &of.streams[self.kind];
        if self.is_book() && !(settled && of.book_is_live()) {
            return Ok(());
        }
        if settled {
            ensure!(self.due == Due::Nothing, "{:?} was never told", self.due);
            ensure!(!self.extra_due, "the snapshot that was asked for never came");
        }
        if let Phase::Start { snapshot: true, .. } = self.phase {
            ensure!(!truth.has_value(truth.last()), "the first snapshot never came");
        }
        if self.options.every {
            ensure!(self.next == truth.last() + 1, "has up to {}, published are {}", self.next - 1, truth.last());
            ensure!(self.pending.is_none(), "the snapshot {:?} behind the gap never came", self.pending);
            if let (Some(window), true) = (&self.window, self.is_book()) {
                let now = of.window(self.kind - BOOK);
                ensure!(now.as_ref() == Some(window), "the book is {window:?}, should be {now:?}");
            }
            return Ok(());
        }
        let newest = if self.is_book() { truth.last() } else { truth.last_value };
        if self.next > newest {
            self.owed_since = None;
            return Ok(());
        }
        let (has, limit) = (self.next - 1, self.options.rate.map(interval));
        let since = *self.owed_since.get_or_insert(now);
        let late = limit.is_none_or(|interval| now - since >= interval);
        ensure!(!late, "has {has}, the newest is {newest} for {} ns, interval {limit:?}", now - since);
        Ok(())
    }

    /// The number to resume from: of a book, that of the state that the client has.
    pub(crate) fn resume_from(&self) -> Option<(u64, Option<Rc<Window>>)> {
        if !self.options.every || matches!(self.phase, Phase::Start { .. }) {
            return None;
        }
        if self.is_book() {
            let window = self.window.clone()?;
            return Some((self.state_at, Some(Rc::new(window))));
        }
        Some((self.next - 1, None))
    }
}

fn interval(rate: u32) -> u64 {
    1_000_000_000 / u64::from(rate)
}
