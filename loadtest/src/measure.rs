//! What is counted and timed: counters that each thread publishes as it goes, histograms that it keeps to itself
//! until the end, and the step that all threads are in.

use std::{
    collections::BTreeMap,
    ops::{AddAssign, Index, IndexMut, Sub},
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use rustc_hash::FxHashMap;

pub use crate::step::Step;
use crate::values::Values;

/// Latencies above this are recorded as this.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// How many faults a thread describes in full; the rest are only counted.
pub const FAULTS_DESCRIBED_MAX: usize = 20;
/// How many different texts a tally of reasons holds; the rest share one entry.
const REASONS_MAX: usize = 50;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Count { $($(#[$doc])* $name,)* }

        const COUNTS: usize = [$(Count::$name),*].len();
    };
}

counts! {
    /// Connections whose upgrade was answered.
    Upgraded,
    /// Clients that hold all their subscriptions.
    Ready,
    /// Clients that never got there.
    Failed,
    /// Clients that were subscribed and lost their connection before the end.
    Closed,
    /// Verified live events of clients that read as fast as they can.
    Deliveries,
    /// Bytes read by those clients.
    Bytes,
    /// Reads of those clients.
    Reads,
    /// Verified snapshots.
    Snapshots,
    /// Status messages.
    Statuses,
    /// Epoch messages.
    Epochs,
    /// Numbers passed over in `latest` mode.
    Conflated,
    /// Gap notices.
    Gaps,
    /// Numbers that gap notices named.
    GapNumbers,
    /// Broken guarantees.
    Violations,
    /// Events that were not in the documented member order and took the slow path.
    SlowPath,
    /// Events whose values were all checked.
    ValuesChecked,
    /// Events whose `rx` lies in the future.
    ClockAhead,
    /// Verified live events of slow clients.
    SlowDeliveries,
    /// Bytes read by slow clients.
    SlowBytes,
    /// Gap notices to slow clients.
    SlowGaps,
    /// Numbers that those named.
    SlowGapNumbers,
    /// Events whose value another client had got too, and which were found to be equal.
    ValuesCompared,
    /// Clients that were cut off by plan.
    Cut,
    /// Clients that came back and hold all their subscriptions again.
    Back,
    /// Clients that were cut off and did not get back.
    NotBack,
    /// Streams that went on where they had ended.
    Resumed,
    /// Streams that had to begin anew with a snapshot.
    Renewed,
    /// Commands sent by plan.
    Commands,
    /// Answers to those.
    CommandsAnswered,
}

/// One number for each [`Count`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals([u64; COUNTS]);

impl Default for Totals {
    fn default() -> Self {
        Self([0; COUNTS])
    }
}

impl Index<Count> for Totals {
    type Output = u64;

    fn index(&self, count: Count) -> &u64 {
        &self.0[count as usize]
    }
}

impl IndexMut<Count> for Totals {
    fn index_mut(&mut self, count: Count) -> &mut u64 {
        &mut self.0[count as usize]
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, other)| *mine += other);
    }
}

impl Sub for Totals {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at].saturating_sub(earlier.0[at])))
    }
}

/// One thread's totals, readable by others while it runs. On lines of its own, as it is written every turn.
#[derive(Debug)]
#[repr(align(128))]
pub struct Published([AtomicU64; COUNTS]);

impl Default for Published {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Published {
    /// Makes `totals` visible. Counters are independent of each other, so no order is needed.
    pub fn publish(&self, totals: &Totals) {
        for (cell, value) in self.0.iter().zip(totals.0) {
            cell.store(value, Ordering::Relaxed);
        }
    }

    /// The totals last published.
    pub fn read(&self) -> Totals {
        Totals(std::array::from_fn(|at| self.0[at].load(Ordering::Relaxed)))
    }
}

/// What a last value is of: kind, mode `every`, number, instrument.
pub type LastOf = (u8, bool, u64, Box<str>);

/// How far clients have come in a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reached {
    /// The last number, whatever brought it.
    pub any: u64,
    /// The last number that a live event brought.
    pub event: u64,
}

impl Reached {
    /// Takes in how far others have come.
    pub fn add(&mut self, other: Self) {
        (self.any, self.event) = (self.any.max(other.any), self.event.max(other.event));
    }
}

/// What all threads share.
#[derive(Debug)]
pub struct Shared {
    step: AtomicU32,
    /// Counts up whenever live figures are wanted.
    pub tick: AtomicU32,
    /// Threads that have done what the phase asks of them.
    pub done: AtomicUsize,
    /// Threads that have seen the step.
    pub entered: AtomicUsize,
    /// By thread.
    pub published: Vec<Published>,
    /// The last number of each stream that any client has, as of [`Step::Frontier`]: by kind and instrument.
    pub frontier: Mutex<FxHashMap<(u8, Box<str>), Reached>>,
    /// The hash of the last value that clients of different threads hold.
    pub last_values: Mutex<FxHashMap<LastOf, u32>>,
    /// What clients of different threads were sent.
    pub values: Mutex<Values>,
}

impl Shared {
    /// For so many threads, at the beginning.
    pub fn new(threads: usize) -> Self {
        let published = (0..threads).map(|_| Published::default()).collect();
        Self {
            step: AtomicU32::new(Step::Connect.code()),
            tick: AtomicU32::new(0),
            done: AtomicUsize::new(0),
            entered: AtomicUsize::new(0),
            published,
            frontier: Mutex::default(),
            last_values: Mutex::default(),
            values: Mutex::default(),
        }
    }

    /// Where the run is.
    #[inline]
    pub fn step(&self) -> Step {
        Step::of(self.step.load(Ordering::Acquire))
    }

    /// Moves on; what was written before is seen by every thread that sees the new step.
    pub fn enter(&self, step: Step) {
        self.done.store(0, Ordering::Release);
        self.entered.store(0, Ordering::Release);
        self.step.store(step.code(), Ordering::Release);
    }

    /// The sum over all threads.
    pub fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        self.published.iter().for_each(|published| sum += published.read());
        sum
    }
}

/// A histogram of nanoseconds, 3 digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, LATENCY_NS_MAX, 3).expect("the bounds are constants that fit")
}

/// A smaller one for figures of one second, 2 digits.
pub fn coarse_histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1_000, LATENCY_NS_MAX, 2).expect("the bounds are constants that fit")
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Close {
    /// Whether the client was a slow one.
    pub slow: bool,
    /// The close frame's code; `None` = lost without a close frame.
    pub code: Option<u16>,
}

/// How often something was said, by its text; bounded whatever a server says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reasons(BTreeMap<String, u64>);

impl Reasons {
    /// Counts one.
    pub fn count(&mut self, reason: &str) {
        self.add(reason, 1);
    }

    /// Counts several.
    pub fn add(&mut self, reason: &str, times: u64) {
        let known = self.0.len() < REASONS_MAX || self.0.contains_key(reason);
        let reason = if known { reason } else { "other" };
        match self.0.get_mut(reason) {
            Some(count) => *count += times,
            None => drop(self.0.insert(reason.to_owned(), times)),
        }
    }

    /// All of them, by text.
    pub fn by_text(&self) -> &BTreeMap<String, u64> {
        &self.0
    }
}

/// What a thread measured in one phase.
#[derive(Debug)]
pub struct PhaseOutcome {
    /// Receive to client, live events of clients that are neither slow nor coming back.
    pub latency: Histogram<u64>,
    /// Lengths of the loop's turns: how long an event may have waited in this process.
    pub turns: Histogram<u64>,
    /// From the planned time of a command to its answer.
    pub commands: Histogram<u64>,
    /// From the planned time of a handshake to all subscriptions, of clients that came back.
    pub back: Histogram<u64>,
    /// How far behind its plan the generator was.
    pub late: Histogram<u64>,
    /// CPU time of the thread.
    pub cpu: Duration,
    /// The share of the phase that the busiest thread was running.
    pub busiest: f64,
    /// Its length as the thread saw it.
    pub length: Duration,
}

impl Default for PhaseOutcome {
    fn default() -> Self {
        Self {
            latency: histogram(),
            turns: histogram(),
            commands: histogram(),
            back: histogram(),
            late: histogram(),
            cpu: Duration::ZERO,
            busiest: 0.0,
            length: Duration::ZERO,
        }
    }
}

impl PhaseOutcome {
    /// Takes in the same of another thread, or of another phase.
    pub fn merge(&mut self, other: &Self) {
        let histograms = [
            (&mut self.latency, &other.latency),
            (&mut self.turns, &other.turns),
            (&mut self.commands, &other.commands),
            (&mut self.back, &other.back),
            (&mut self.late, &other.late),
        ];
        for (mine, other) in histograms {
            mine.add(other).expect("all histograms have the same bounds");
        }
        self.cpu += other.cpu;
        self.busiest = self.busiest.max(other.busiest);
        self.length = self.length.max(other.length);
    }
}

/// What a thread hands back at the end.
#[derive(Debug)]
pub struct Outcome {
    /// By phase of the scenario.
    pub phases: Vec<PhaseOutcome>,
    /// Planned time of the connect to upgraded.
    pub upgrade: Histogram<u64>,
    /// Planned time of the connect to subscribed.
    pub ready: Histogram<u64>,
    /// How far behind its plan the generator was with the first connects.
    pub late: Histogram<u64>,
    /// The first faults, described.
    pub faults: Vec<String>,
    /// Faults by name.
    pub faults_by_name: Reasons,
    /// Why clients never got subscribed, or not again.
    pub failures: Reasons,
    /// How connections ended before the end of the run.
    pub closes: BTreeMap<Close, u64>,
    /// Gap notices by cause.
    pub gaps: Reasons,
    /// Symbols refused by the hub, by code.
    pub rejected: Reasons,
    /// Streams held by all clients when all were ready.
    pub streams: u64,
}

impl Outcome {
    /// Of a scenario with so many phases.
    pub fn new(phases: usize) -> Self {
        Self {
            phases: (0..phases).map(|_| PhaseOutcome::default()).collect(),
            upgrade: histogram(),
            ready: histogram(),
            late: histogram(),
            faults: Vec::new(),
            faults_by_name: Reasons::default(),
            failures: Reasons::default(),
            closes: BTreeMap::new(),
            gaps: Reasons::default(),
            rejected: Reasons::default(),
            streams: 0,
        }
    }

    /// Takes another thread's outcome in.
    pub fn merge(&mut self, other: Self) {
        for (mine, other) in self.phases.iter_mut().zip(&other.phases) {
            mine.merge(other);
        }
        let histograms =
            [(&mut self.upgrade, &other.upgrade), (&mut self.ready, &other.ready), (&mut self.late, &other.late)];
        for (mine, other) in histograms {
            mine.add(other).expect("all histograms have the same bounds");
        }
        self.faults.extend(other.faults);
        self.faults.truncate(FAULTS_DESCRIBED_MAX);
        let reasons = [
            (&mut self.faults_by_name, &other.faults_by_name),
            (&mut self.failures, &other.failures),
            (&mut self.gaps, &other.gaps),
            (&mut self.rejected, &other.rejected),
        ];
        for (mine, other) in reasons {
            other.by_text().iter().for_each(|(text, times)| mine.add(text, *times));
        }
        for (close, times) in other.closes {
            *self.closes.entry(close).or_default() += times;
        }
        self.streams += other.streams;
    }
}

/// Text from a server, cut and made harmless for a terminal.
pub fn shown(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 160;
    let cut = &bytes[..bytes.len().min(SHOWN_MAX)];
    let mut text: String = String::from_utf8_lossy(cut).chars().map(|c| if c.is_control() { '.' } else { c }).collect();
    if cut.len() < bytes.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_summed_over_threads_and_subtracted_over_time() {
        let shared = Shared::new(2);
        let mut totals = Totals::default();
        totals[Count::Deliveries] = 5;
        shared.published[0].publish(&totals);
        totals[Count::Bytes] = 7;
        shared.published[1].publish(&totals);
        let sum = shared.totals();
        assert_eq!((sum[Count::Deliveries], sum[Count::Bytes]), (10, 7));
        assert_eq!((sum - totals)[Count::Deliveries], 5);
    }

    #[test]
    fn every_step_is_read_as_it_was_entered() {
        let shared = Shared::new(1);
        assert_eq!(shared.step(), Step::Connect);
        let runs = [Step::Run(0), Step::Run(255)];
        let others = [Step::Settle, Step::Return, Step::Frontier, Step::Tail, Step::Close];
        for step in runs.into_iter().chain(others) {
            shared.enter(step);
            assert_eq!(shared.step(), step);
        }
    }

    #[test]
    fn what_a_server_says_can_neither_fill_memory_nor_steer_a_terminal() {
        let mut reasons = Reasons::default();
        (0..10_000).for_each(|at| reasons.count(&format!("reason {at}")));
        assert_eq!(reasons.by_text().len(), REASONS_MAX + 1);
        assert_eq!(reasons.by_text().values().sum::<u64>(), 10_000);
        assert_eq!(shown(b"a\x1b[2Jb"), "a.[2Jb");
        assert!(shown(&[b'x'; 10_000]).chars().count() < 200);
    }

    #[test]
    fn outcomes_of_threads_merge_into_one() {
        let mut one = Outcome::new(1);
        one.phases[0].latency.saturating_record(5_000);
        one.closes.insert(Close { slow: true, code: Some(4001) }, 2);
        let mut other = Outcome::new(1);
        other.phases[0].latency.saturating_record(900_000_000_000);
        other.closes.insert(Close { slow: true, code: Some(4001) }, 3);
        one.merge(other);
        assert_eq!((one.phases[0].latency.len(), one.closes[&Close { slow: true, code: Some(4001) }]), (2, 5));
        assert!(one.phases[0].latency.max() >= LATENCY_NS_MAX);
    }
}
