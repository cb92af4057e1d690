//! What one thread knows while it runs: what it counts, and what its clients share.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use hdrhistogram::Histogram;
use rustc_hash::FxHashMap;

use crate::{
    measure::{self, Count, FAULTS_DESCRIBED_MAX, Outcome, Shared, Totals},
    options::Plan,
    random::Random,
    scan::Scanner,
    scenario::{Group, Kind, Scenario},
    source::Origin,
    values::{self, Compared, Values},
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

    /// The same without remembering it.
    pub fn find(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// The name of `number`.
    pub fn name(&self, number: u32) -> &str {
        self.names.get(number as usize).map_or("?", |name| name)
    }
}

/// How many bits of a stream's number tell the instrument; the rest tell the kind.
const SYMBOL_BITS: u32 = 24;

/// The number of a stream: its kind and its instrument.
#[inline]
pub fn stream(kind: usize, symbol: u32) -> u32 {
    (kind as u32) << SYMBOL_BITS | (symbol & ((1 << SYMBOL_BITS) - 1))
}

/// The kind of a stream.
#[inline]
pub fn kind_of(stream: u32) -> usize {
    (stream >> SYMBOL_BITS) as usize
}

/// The instrument of a stream.
#[inline]
pub fn symbol_of(stream: u32) -> u32 {
    stream & ((1 << SYMBOL_BITS) - 1)
}

/// What the clients of one group hold, by kind.
#[derive(Debug, Clone, Default)]
pub struct Holding {
    /// By kind: the place of the subscription within the group, and its rules.
    by_kind: Vec<Option<(usize, Rules)>>,
}

impl Holding {
    /// Of each group of the scenario.
    pub fn of(scenario: &Scenario) -> Vec<Self> {
        let kinds = scenario.kinds();
        let holding = |group: &Group| {
            let find = |kind: &Kind| {
                let at = group.subscriptions.iter().position(|subscription| subscription.kind() == *kind)?;
                Some((at, group.subscriptions[at].rules()))
            };
            Self { by_kind: kinds.iter().map(find).collect() }
        };
        scenario.groups.iter().map(holding).collect()
    }

    /// The rules of a kind, if the group holds it.
    #[inline]
    pub fn rules(&self, kind: usize) -> Option<Rules> {
        self.by_kind.get(kind).copied().flatten().map(|(_, rules)| rules)
    }

    /// The subscription that brings a kind.
    pub fn subscription(&self, kind: usize) -> Option<usize> {
        self.by_kind.get(kind).copied().flatten().map(|(at, _)| at)
    }

    /// The kind that a subscription of the group brings.
    pub fn kind(&self, subscription: usize) -> usize {
        let is_it = |held: &Option<(usize, Rules)>| held.is_some_and(|(at, _)| at == subscription);
        self.by_kind.iter().position(is_it).unwrap_or(0)
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
    /// Kinds of streams.
    pub kinds: Vec<Kind>,
    /// By group.
    pub holdings: Vec<Holding>,
    /// The epoch of each instrument, as last told.
    pub epochs: FxHashMap<u32, Arc<str>>,
    /// The same when clients were last cut off: what they resume by.
    pub epochs_at_cut: FxHashMap<u32, Arc<str>>,
    /// Numbers that resumed clients were told to be published, by stream: they have to come as far at least.
    pub owed: FxHashMap<u32, u64>,
    /// Masks for client frames, and what is left to chance.
    pub random: Random,
    /// The phase of the scenario under way, if it is measured.
    pub measured: Option<usize>,
    /// The venue's clock, where this process plays it.
    pub origin: Option<Origin>,
    values: Values,
    shared: Option<Arc<Shared>>,
    check_values: u32,
    until_check: u32,
}

impl Tally {
    /// For the thread `thread`, with the instruments known so far.
    pub fn new(plan: &Plan, shared: &Arc<Shared>, instruments: &[String], thread: usize) -> Self {
        let scenario = &plan.scenario;
        let mut symbols = Symbols::default();
        for name in instruments {
            symbols.intern(name);
        }
        Self {
            totals: Totals::default(),
            outcome: Outcome::new(scenario.phases.len()),
            recent: measure::coarse_histogram(),
            symbols,
            scanner: Scanner::default(),
            kinds: scenario.kinds(),
            holdings: Holding::of(scenario),
            epochs: FxHashMap::default(),
            epochs_at_cut: FxHashMap::default(),
            owed: FxHashMap::default(),
            random: Random::new(scenario.seed.wrapping_add(thread as u64)),
            measured: None,
            origin: plan.origin,
            values: Values::default(),
            shared: (scenario.threads > 1).then(|| shared.clone()),
            check_values: scenario.check_values,
            until_check: scenario.check_values,
        }
    }

    /// The kind of stream that a message is about.
    #[inline]
    pub fn kind(&self, channel: &str, depth: Option<u32>) -> Option<usize> {
        self.kinds.iter().position(|kind| kind.channel == channel && kind.depth == depth)
    }

    /// Compares an event with what other clients got under its number; `form` keeps apart what need not be equal.
    ///
    /// # Errors
    /// It is another value.
    #[inline]
    pub fn compare(&mut self, stream: u32, form: u64, seq: u64, hash: u64) -> Result<(), Fault> {
        let key = u64::from(stream) << 2 | form;
        let mut compared = self.values.compare(key, seq, hash);
        if compared == Compared::First
            && let Some(shared) = &self.shared
        {
            // Threads number instruments that appear late as they meet them, so they agree on names only.
            let name = self.symbols.name(symbol_of(stream));
            let key = values::hash(name.as_bytes(), false) << 8 | (kind_of(stream) as u64) << 2 | form;
            compared = shared.values.lock().unwrap_or_else(PoisonError::into_inner).compare(key, seq, hash);
        }
        match compared {
            Compared::First => Ok(()),
            Compared::Equal => {
                self.totals[Count::ValuesCompared] += 1;
                Ok(())
            }
            Compared::Different => Err(Fault::Unequal { seq }),
        }
    }

    /// Adds to a counter.
    #[inline]
    pub fn add(&mut self, count: Count, number: u64) {
        self.totals[count] += number;
    }

    /// Takes the time of one verified live event of a healthy client, from its `rx` or from when it was planned.
    #[inline]
    pub fn time(&mut self, begin: u64, now: u64) {
        if begin > now {
            self.totals[Count::ClockAhead] += 1;
        }
        let latency = now.saturating_sub(begin);
        if let Some(phase) = self.measured {
            self.outcome.phases[phase].latency.saturating_record(latency);
        }
        self.recent.saturating_record(latency);
    }

    /// Takes the time of one command that was planned for `planned` and is answered now.
    pub fn answered(&mut self, planned: Instant) {
        self.totals[Count::CommandsAnswered] += 1;
        if let Some(phase) = self.measured {
            let took = crate::clock::instant().saturating_duration_since(planned);
            self.outcome.phases[phase].commands.saturating_record(took.as_nanos() as u64);
        }
    }

    /// Notes how late something that was planned for `planned` is begun.
    pub fn late(&mut self, planned: Instant, now: Instant) {
        let late = now.saturating_duration_since(planned).as_nanos() as u64;
        match self.measured {
            Some(phase) => self.outcome.phases[phase].late.saturating_record(late),
            None => self.outcome.late.saturating_record(late),
        }
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
