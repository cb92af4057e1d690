//! What one thread knows while it runs: what it counts, and what its clients share.

use hdrhistogram::Histogram;
use rustc_hash::FxHashMap;

use crate::{
    measure::{self, Count, FAULTS_DESCRIBED_MAX, Outcome, Phase, Totals},
    options::{Mode, Plan},
    random::Random,
    scan::Scanner,
    verify::{Fault, Rules},
};

/// Dense numbers for instrument ids.
#[derive(Debug, Default)]
pub struct Symbols {
    numbers: FxHashMap<Box<str>, u32>,
    names: Vec<Box<str>>,
    last: u32,
}

impl Symbols {
    /// The number of `name`, new if need be.
    pub fn intern(&mut self, name: &str) -> u32 {
        if let Some(number) = self.number(name) {
            return number;
        }
        let number = self.names.len() as u32;
        self.numbers.insert(name.into(), number);
        self.names.push(name.into());
        number
    }

    /// The number of `name`, if it has one. An update goes to many clients in turn, so the last answer is tried first.
    #[inline]
    pub fn number(&mut self, name: &str) -> Option<u32> {
        if self.names.get(self.last as usize).is_some_and(|last| **last == *name) {
            return Some(self.last);
        }
        let number = *self.numbers.get(name)?;
        self.last = number;
        Some(number)
    }

    /// The name of `number`.
    pub fn name(&self, number: u32) -> &str {
        self.names.get(number as usize).map_or("?", |name| name)
    }

    /// All names, by number.
    pub fn names(&self) -> impl Iterator<Item = (u32, &str)> {
        self.names.iter().enumerate().map(|(number, name)| (number as u32, &**name))
    }
}

/// Counters, histograms and shared tools of one thread.
#[derive(Debug)]
pub struct Tally {
    /// Counters since the beginning.
    pub totals: Totals,
    /// What is handed back.
    pub outcome: Outcome,
    /// Latencies since the last live figures.
    pub recent: Histogram<u32>,
    /// Instruments seen so far.
    pub symbols: Symbols,
    /// Reads messages.
    pub scanner: Scanner,
    /// What every stream has to obey.
    pub rules: Rules,
    /// The channel that was subscribed to.
    pub channel: String,
    /// The mode that was asked for.
    pub mode: Mode,
    /// Masks for client frames.
    pub random: Random,
    /// Where the run is.
    pub phase: Phase,
    check_values: u32,
    until_check: u32,
}

impl Tally {
    /// For the thread `thread`, with the instruments known so far.
    pub fn new(plan: &Plan, instruments: &[String], thread: usize) -> Self {
        let options = &plan.options;
        let mut symbols = Symbols::default();
        for name in instruments {
            symbols.intern(name);
        }
        Self {
            totals: Totals::default(),
            outcome: Outcome::default(),
            recent: measure::coarse_histogram(),
            symbols,
            scanner: Scanner::default(),
            rules: Rules { every: options.mode == Mode::Every, book: options.channel == "book" },
            channel: options.channel.clone(),
            mode: options.mode,
            random: Random::new(options.seed.wrapping_add(thread as u64)),
            phase: Phase::Connect,
            check_values: options.check_values,
            until_check: options.check_values,
        }
    }

    /// Adds to a counter.
    #[inline]
    pub fn add(&mut self, count: Count, number: u64) {
        self.totals[count] += number;
    }

    /// Takes the time of one verified live event of a healthy client.
    #[inline]
    pub fn time(&mut self, rx: u64, now: u64) {
        if rx > now {
            self.totals[Count::ClockAhead] += 1;
        }
        let latency = now.saturating_sub(rx);
        if self.phase == Phase::Measure {
            self.outcome.latency.saturating_record(latency);
        }
        self.recent.saturating_record(latency);
    }

    /// Whether this event's values are to be checked whole.
    #[inline]
    pub fn check_is_due(&mut self) -> bool {
        if self.check_values == 0 {
            return false;
        }
        self.until_check -= 1;
        if self.until_check > 0 {
            return false;
        }
        self.until_check = self.check_values;
        self.totals[Count::ValuesChecked] += 1;
        true
    }

    /// Notes that a stream's guarantee was broken.
    pub fn fault(&mut self, client: usize, symbol: &str, fault: &Fault) {
        let name = fault.name();
        self.violation(name, || format!("client {client}, {}: {fault}", measure::shown(symbol.as_bytes())));
    }

    /// Notes that the protocol was broken, described only while there is room.
    pub fn violation(&mut self, name: &str, describe: impl FnOnce() -> String) {
        self.totals[Count::Violations] += 1;
        self.outcome.faults_by_name.count(name);
        if self.outcome.faults.len() < FAULTS_DESCRIBED_MAX {
            self.outcome.faults.push(format!("{name}: {}", describe()));
        }
    }

    /// A mask for the next client frame.
    pub fn mask(&mut self) -> [u8; 4] {
        (self.random.bits() as u32).to_be_bytes()
    }
}
