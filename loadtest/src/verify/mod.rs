//! What one client must receive, as a state machine without I/O: the numbers of each of its streams.
//!
//! A stream costs 16 bytes, because tens of thousands of clients hold many of them each.

use std::fmt;

/// What kind of streams a client holds; the same for all its streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    /// `every` (no hole without a gap) or `latest` (only growing numbers).
    pub every: bool,
    /// Whether the channel is `book`, whose gaps are followed by a snapshot and whose `latest` is all snapshots.
    pub book: bool,
}

/// What a sound event was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The state sent first, or anew after a gap.
    Snapshot,
    /// A live event; in `latest`, how many numbers it passes over.
    Live {
        /// Numbers conflated into this event.
        conflated: u64,
    },
}

/// How a server broke a guarantee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Data of an instrument that no answer has named.
    NotSubscribed {
        /// The number it carried.
        seq: u64,
    },
    /// Numbers are missing and no gap names them.
    Hole {
        /// The number that had to come.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// A number that is not greater than the last one.
    Repeat {
        /// The last number.
        last: u64,
        /// The number that came.
        got: u64,
    },
    /// A live event though a value was there to be sent as snapshot first.
    SnapshotMissing {
        /// The number in `accepted`.
        accepted: u64,
        /// The number that came.
        got: u64,
    },
    /// A snapshot older than what the answer said was published.
    SnapshotBehind {
        /// The number in `accepted`, or of the gap that it follows.
        accepted: u64,
        /// The number that came.
        got: u64,
    },
    /// A snapshot in the middle of live events.
    SnapshotUnasked {
        /// The last number.
        last: u64,
        /// The number that came.
        got: u64,
    },
    /// A book's gap must be followed by a snapshot of the gap's last number.
    BookSnapshot {
        /// The gap's `to`.
        gap_to: u64,
        /// The number that came.
        got: u64,
        /// Whether what came was a snapshot at all.
        snapshot: bool,
    },
    /// A gap that does not begin with the next number, or ends before it begins.
    GapMismatch {
        /// The next number.
        expected: u64,
        /// The gap's `from`.
        from: u64,
        /// The gap's `to`.
        to: u64,
    },
    /// A gap in `latest` mode, which has none.
    GapInLatest {
        /// The gap's `from`.
        from: u64,
        /// The gap's `to`.
        to: u64,
    },
    /// A later number was sent, as other clients or the venue know, and this client had long enough to get it.
    LeftBehind {
        /// The last number that this client has.
        last: u64,
        /// The number that it should have.
        others: u64,
    },
    /// A stream that was to go on after a number of the same epoch, which the server says it never gave.
    ResumeAhead {
        /// The last number that the client has.
        last: u64,
        /// The number in `accepted`.
        accepted: u64,
    },
    /// Another client got something else under the same number.
    Unequal {
        /// The number.
        seq: u64,
    },
    /// At the end this client holds another value of the last number than the others.
    LastValue {
        /// The number.
        seq: u64,
    },
    /// A value was there, and no snapshot has come to the end of the run.
    SnapshotNever {
        /// The number in `accepted`.
        accepted: u64,
    },
}

impl Fault {
    /// A short name, the same for all numbers.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotSubscribed { .. } => "not_subscribed",
            Self::Hole { .. } => "hole",
            Self::Repeat { .. } => "repeat",
            Self::SnapshotMissing { .. } => "snapshot_missing",
            Self::SnapshotBehind { .. } => "snapshot_behind",
            Self::SnapshotUnasked { .. } => "snapshot_unasked",
            Self::BookSnapshot { .. } => "book_snapshot",
            Self::GapMismatch { .. } => "gap_mismatch",
            Self::GapInLatest { .. } => "gap_in_latest",
            Self::LeftBehind { .. } => "left_behind",
            Self::ResumeAhead { .. } => "resume_ahead",
            Self::Unequal { .. } => "unequal",
            Self::LastValue { .. } => "last_value",
            Self::SnapshotNever { .. } => "snapshot_never",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotSubscribed { seq } => write!(f, "seq {seq} of a stream that no `subscribed` has named"),
            Self::Hole { expected, got } => {
                write!(f, "seq {got} where {expected} had to come, and no gap names the rest")
            }
            Self::Repeat { last, got } => write!(f, "seq {got} after {last}"),
            Self::SnapshotMissing { accepted, got } => {
                write!(f, "live seq {got} with no snapshot before it, though {accepted} was published")
            }
            Self::SnapshotBehind { accepted, got } => write!(f, "snapshot {got}, though {accepted} was published"),
            Self::SnapshotUnasked { last, got } => {
                write!(f, "snapshot {got} in the middle of live events, after {last}")
            }
            Self::BookSnapshot { gap_to, got, snapshot } => {
                let kind = if snapshot { "snapshot" } else { "live seq" };
                write!(f, "{kind} {got} after a book gap, where snapshot {gap_to} had to come")
            }
            Self::GapMismatch { expected, from, to } => write!(f, "gap {from}..{to} where {expected} had to come"),
            Self::GapInLatest { from, to } => write!(f, "gap {from}..{to} in `latest` mode"),
            Self::LeftBehind { last, others } => write!(f, "stopped at seq {last}, though {others} was sent"),
            Self::ResumeAhead { last, accepted } => {
                write!(f, "resumed after {last}, but only {accepted} was published, in the same epoch")
            }
            Self::Unequal { seq } => write!(f, "seq {seq} has another value than another client got"),
            Self::LastValue { seq } => write!(f, "the last value, seq {seq}, is another one than other clients hold"),
            Self::SnapshotNever { accepted } => write!(f, "nothing ever came, though {accepted} was published"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Asked for; no answer yet.
    Asked,
    /// Answered, and nothing was published: live may begin without a snapshot.
    Empty,
    /// Answered, and the number says a value is there: its snapshot comes first.
    Fresh,
    /// In the middle of live events.
    Live,
    /// A book after a gap: its snapshot comes next.
    Torn,
    /// Asked for again, to go on after the number; no answer yet.
    Resuming,
}

/// A phase and the number it is about, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stream(u64);

const SEQ_BITS: u32 = 61;
const SEQ_MASK: u64 = (1 << SEQ_BITS) - 1;

impl Stream {
    fn new(phase: Phase, seq: u64) -> Self {
        Self((phase as u64) << SEQ_BITS | (seq & SEQ_MASK))
    }

    fn answered(seq: u64) -> Self {
        Self::new(if seq == 0 { Phase::Empty } else { Phase::Fresh }, seq)
    }

    fn phase(self) -> Phase {
        match self.0 >> SEQ_BITS {
            0 => Phase::Asked,
            1 => Phase::Empty,
            2 => Phase::Fresh,
            3 => Phase::Live,
            4 => Phase::Torn,
            _ => Phase::Resuming,
        }
    }

    fn seq(self) -> u64 {
        self.0 & SEQ_MASK
    }
}

/// All streams of one client, by dense symbol number.
#[derive(Debug, Default)]
pub struct Streams {
    /// Sorted, beside `states`.
    symbols: Vec<u32>,
    states: Vec<Stream>,
    /// Beside `states`: the lower half of the hash of the last event.
    hashes: Vec<u32>,
}

/// How a stream begins that a `subscribed` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// From its snapshot.
    Anew,
    /// Where it had ended.
    Resumed,
    /// It was known already.
    Known,
}

impl Streams {
    /// Remembers that a subscription to `symbol` was sent.
    pub fn ask(&mut self, symbol: u32) {
        if let Err(at) = self.symbols.binary_search(&symbol) {
            self.symbols.insert(at, symbol);
            self.states.insert(at, Stream::new(Phase::Asked, 0));
            self.hashes.insert(at, 0);
        }
    }

    /// A `subscribed` names `symbol` with the number last published. A stream that is already known goes on: saying
    /// it again changes nothing. One that was to be resumed goes on too, if the epoch is the `same` as before.
    ///
    /// # Errors
    /// The server has forgotten what it gave.
    pub fn accept(&mut self, symbol: u32, seq: u64, same: bool) -> Result<Begin, Fault> {
        self.ask(symbol);
        let Ok(at) = self.symbols.binary_search(&symbol) else { return Ok(Begin::Known) };
        let last = self.states[at].seq();
        match self.states[at].phase() {
            Phase::Resuming if same && seq >= last => {
                self.states[at] = Stream::new(Phase::Live, last);
                Ok(Begin::Resumed)
            }
            Phase::Asked | Phase::Resuming => {
                let ahead = same && self.states[at].phase() == Phase::Resuming;
                self.states[at] = Stream::answered(seq);
                if ahead { Err(Fault::ResumeAhead { last, accepted: seq }) } else { Ok(Begin::Anew) }
            }
            _ => Ok(Begin::Known),
        }
    }

    /// The connection is gone. A stream that `may_resume` waits to go on where it is, if it is anywhere; a book in the
    /// middle of a loss has nothing to go on from, and begins anew like the rest.
    pub fn cut(&mut self, may_resume: impl Fn(u32) -> bool) {
        for (symbol, state) in self.symbols.iter().zip(&mut self.states) {
            let resumes = state.phase() == Phase::Live && may_resume(*symbol);
            *state = if resumes { Stream::new(Phase::Resuming, state.seq()) } else { Stream::new(Phase::Asked, 0) };
        }
    }

    /// Gives up to resume `symbol`: it begins anew.
    pub fn begin_anew(&mut self, symbol: u32) {
        if let Ok(at) = self.symbols.binary_search(&symbol) {
            self.states[at] = Stream::new(Phase::Asked, 0);
        }
    }

    /// The number after which `symbol` is to go on, if it is to.
    pub fn resumes_after(&self, symbol: u32) -> Option<u64> {
        let state = self.states[self.position(symbol)?];
        (state.phase() == Phase::Resuming).then(|| state.seq())
    }

    /// The streams held, whatever their state.
    pub fn symbols(&self) -> &[u32] {
        &self.symbols
    }

    /// The server says that `symbol` has ended or was refused. Returns whether it was held.
    pub fn remove(&mut self, symbol: u32) -> bool {
        let found = self.symbols.binary_search(&symbol);
        if let Ok(at) = found {
            self.symbols.remove(at);
            self.states.remove(at);
            self.hashes.remove(at);
        }
        found.is_ok()
    }

    /// Numbering of `symbol` starts anew.
    pub fn restart(&mut self, symbol: u32) {
        if let Some(at) = self.position(symbol)
            && !matches!(self.states[at].phase(), Phase::Asked | Phase::Resuming)
        {
            self.states[at] = Stream::answered(0);
        }
    }

    /// How many streams are held.
    pub fn len(&self) -> usize {
        self.symbols.len()
    }

    /// Whether no stream is held.
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// Streams that were asked for and never answered.
    pub fn unanswered(&self) -> usize {
        self.states.iter().filter(|state| matches!(state.phase(), Phase::Asked | Phase::Resuming)).count()
    }

    /// Remembers what the last live event of `symbol` held; 0 = what came last was none.
    #[inline]
    pub fn hold(&mut self, symbol: u32, hash: u64) {
        if let Some(at) = self.position(symbol) {
            self.hashes[at] = hash as u32;
        }
    }

    /// Every stream that ends in a live event: its number and the hash.
    pub fn last_values(&self) -> impl Iterator<Item = (u32, u64, u32)> {
        let heard = |((symbol, state), hash): ((&u32, &Stream), &u32)| {
            (state.phase() == Phase::Live && *hash != 0).then(|| (*symbol, state.seq(), *hash))
        };
        self.symbols.iter().zip(&self.states).zip(&self.hashes).filter_map(heard)
    }

    /// Every stream that has received something: its last number, and whether a live event brought it.
    pub fn progress(&self) -> impl Iterator<Item = (u32, u64, bool)> {
        let heard = |((symbol, state), hash): ((&u32, &Stream), &u32)| {
            matches!(state.phase(), Phase::Live | Phase::Torn).then(|| (*symbol, state.seq(), *hash != 0))
        };
        self.symbols.iter().zip(&self.states).zip(&self.hashes).filter_map(heard)
    }

    /// Where a stream stands against the last number that any client has seen by then (0 = none): the fault that it
    /// is, unless it has caught up.
    pub fn behind(&self, rules: impl Fn(u32) -> Rules, frontier: impl Fn(u32) -> u64) -> Vec<(u32, Fault)> {
        let judge = |(symbol, state): (&u32, &Stream)| {
            let (others, last, rules) = (frontier(*symbol), state.seq(), rules(*symbol));
            let fault = match state.phase() {
                Phase::Asked | Phase::Resuming => return None,
                // A book that is not in step with its venue has no snapshot to give.
                Phase::Fresh if !rules.book => Fault::SnapshotNever { accepted: last },
                _ if last < others => Fault::LeftBehind { last, others },
                _ => return None,
            };
            Some((*symbol, fault))
        };
        self.symbols.iter().zip(&self.states).filter_map(judge).collect()
    }

    /// A client's symbols are few, or all there are; the latter stand at their own number.
    #[inline]
    fn position(&self, symbol: u32) -> Option<usize> {
        match self.symbols.get(symbol as usize) {
            Some(same) if *same == symbol => Some(symbol as usize),
            _ => self.symbols.binary_search(&symbol).ok(),
        }
    }

    /// Judges an event. After a fault the stream goes on from the number that came, so that one loss is one fault.
    ///
    /// # Errors
    /// The guarantee that it breaks.
    #[inline]
    pub fn event(&mut self, rules: Rules, symbol: u32, seq: u64, snapshot: bool) -> Result<Verdict, Fault> {
        let Some(at) = self.position(symbol) else { return Err(Fault::NotSubscribed { seq }) };
        let state = self.states[at];
        if state.phase() == Phase::Live && !snapshot && seq == state.seq() + 1 {
            self.states[at] = Stream::new(Phase::Live, seq);
            return Ok(Verdict::Live { conflated: 0 });
        }
        let verdict = judge(state, rules, seq, snapshot);
        let keep = match verdict {
            Err(Fault::NotSubscribed { .. }) => return verdict,
            Err(Fault::Repeat { last, .. }) => last,
            _ => seq,
        };
        self.states[at] = Stream::new(Phase::Live, keep);
        verdict
    }

    /// Judges a gap notice; `Ok` is how many numbers it names.
    ///
    /// # Errors
    /// The guarantee that it breaks.
    pub fn gap(&mut self, rules: Rules, symbol: u32, from: u64, to: u64) -> Result<u64, Fault> {
        let Some(at) = self.position(symbol) else { return Err(Fault::NotSubscribed { seq: from }) };
        let state = self.states[at];
        let expected = state.seq() + 1;
        if matches!(state.phase(), Phase::Asked | Phase::Resuming) {
            return Err(Fault::NotSubscribed { seq: from });
        }
        if !rules.every {
            return Err(Fault::GapInLatest { from, to });
        }
        let sound = from == expected && to >= from && to <= SEQ_MASK;
        let next = match state.phase() {
            // The snapshot is still owed, and covers the gap.
            Phase::Fresh => Phase::Fresh,
            _ if rules.book => Phase::Torn,
            _ => Phase::Live,
        };
        // What is held is older than the number that the stream stands at now.
        self.hashes[at] = 0;
        self.states[at] = Stream::new(next, to.min(SEQ_MASK).max(state.seq()));
        if sound { Ok(to - from + 1) } else { Err(Fault::GapMismatch { expected, from, to }) }
    }
}

/// Every case but the commonest one.
fn judge(state: Stream, rules: Rules, seq: u64, snapshot: bool) -> Result<Verdict, Fault> {
    let last = state.seq();
    match state.phase() {
        Phase::Asked | Phase::Resuming => Err(Fault::NotSubscribed { seq }),
        Phase::Empty | Phase::Fresh if snapshot => {
            if seq >= last.max(1) {
                Ok(Verdict::Snapshot)
            } else {
                Err(Fault::SnapshotBehind { accepted: last, got: seq })
            }
        }
        Phase::Fresh => Err(Fault::SnapshotMissing { accepted: last, got: seq }),
        Phase::Torn if snapshot && seq == last => Ok(Verdict::Snapshot),
        Phase::Torn => Err(Fault::BookSnapshot { gap_to: last, got: seq, snapshot }),
        Phase::Live if snapshot && (rules.every || !rules.book) => Err(Fault::SnapshotUnasked { last, got: seq }),
        Phase::Empty | Phase::Live => {
            if seq <= last {
                Err(Fault::Repeat { last, got: seq })
            } else if rules.every && seq != last + 1 {
                Err(Fault::Hole { expected: last + 1, got: seq })
            } else {
                Ok(Verdict::Live { conflated: seq - last - 1 })
            }
        }
    }
}

#[cfg(test)]
mod tests;
