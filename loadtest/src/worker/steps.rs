//! The steps of the run as one thread takes them, and the judgment at the end: who was left behind, and with what.

use std::sync::{PoisonError, atomic::Ordering};

use rustc_hash::FxHashMap;
use rustix::event::epoll::EventFlags;

use super::Worker;
use crate::{
    client::Stage,
    clock,
    measure::{Reached, Step},
    tally::{kind_of, symbol_of},
    verify::Fault,
};

impl Worker {
    pub(super) fn follow_step(&mut self) {
        let step = self.shared.step();
        if step == self.step {
            return;
        }
        let before = std::mem::replace(&mut self.step, step);
        self.shared.entered.fetch_add(1, Ordering::AcqRel);
        let now = clock::instant();
        if let Some((phase, begun, cpu)) = self.window.take() {
            let outcome = &mut self.tally.outcome.phases[phase];
            outcome.length = now - begun;
            outcome.cpu = clock::thread_cpu().saturating_sub(cpu);
            outcome.busiest = outcome.cpu.as_secs_f64() / outcome.length.as_secs_f64().max(1e-9);
        }
        self.tally.measured = None;
        match step {
            Step::Connect => {}
            Step::Settle => {
                self.tally.outcome.streams = self.clients.iter().map(|client| client.streams.len() as u64).sum();
            }
            Step::Run(phase) => {
                let at = usize::from(phase);
                let plan = self.plan.clone();
                let phase = &plan.scenario.phases[at];
                self.tally.measured = phase.measure.then_some(at);
                self.window = Some((at, now, clock::thread_cpu()));
                self.begin_phase(phase, now);
            }
            Step::Return => {
                // Those whom a short phase left connected: who is to come back is counted from here on.
                while self.arrivals.cutting.is_some() {
                    self.cut_off_some();
                }
                self.churn = None;
                self.let_all_read();
            }
            Step::Frontier => {
                self.churn = None;
                self.let_all_read();
                self.say_how_far();
                self.shared.done.fetch_add(1, Ordering::AcqRel);
            }
            Step::Tail => {
                self.stragglers =
                    Some((0..self.clients.len()).filter(|place| self.clients[*place].is_live()).collect());
            }
            Step::Close => self.say_goodbye(before),
        }
    }

    fn let_all_read(&mut self) {
        for place in 0..self.clients.len() {
            if self.clients[place].slow && self.clients[place].is_live() {
                self.watch(place, EventFlags::IN);
            }
        }
    }

    /// Adds the last numbers of this thread's clients to what is known of all.
    fn say_how_far(&self) {
        let mut reached: FxHashMap<u32, Reached> = FxHashMap::default();
        for client in self.clients.iter().filter(|client| client.is_live()) {
            for (stream, seq, by_event) in client.streams.progress() {
                reached.entry(stream).or_default().add(Reached { any: seq, event: if by_event { seq } else { 0 } });
            }
        }
        for (stream, seq) in &self.tally.owed {
            reached.entry(*stream).or_default().add(Reached { any: *seq, event: 0 });
        }
        let mut shared = self.shared.frontier.lock().unwrap_or_else(PoisonError::into_inner);
        for (stream, mine) in reached {
            let name = self.tally.symbols.name(symbol_of(stream));
            shared.entry((kind_of(stream) as u8, name.into())).or_default().add(mine);
        }
    }

    /// How far any client has come, by stream.
    fn frontier(&self) -> FxHashMap<u32, Reached> {
        let shared = self.shared.frontier.lock().unwrap_or_else(PoisonError::into_inner);
        let mut frontier = FxHashMap::default();
        for ((kind, name), reached) in shared.iter() {
            let known = self.tally.symbols.find(name);
            frontier.extend(known.map(|symbol| (crate::tally::stream(usize::from(*kind), symbol), *reached)));
        }
        frontier
    }

    /// Who is still behind what others had at the frontier; says so once none is.
    pub(super) fn look_for_stragglers(&mut self) {
        let Some(mut stragglers) = self.stragglers.take() else { return };
        let frontier = self.frontier();
        stragglers.retain(|place| {
            let client = &self.clients[*place];
            client.is_live()
                && !client.behind(&self.tally, |stream, every| how_far(&frontier, stream, every)).is_empty()
        });
        if stragglers.is_empty() {
            self.shared.done.fetch_add(1, Ordering::AcqRel);
        } else {
            self.stragglers = Some(stragglers);
        }
    }

    /// Whoever is behind now was left behind, and all must hold the same; then everyone says goodbye.
    fn say_goodbye(&mut self, before: Step) {
        if before == Step::Tail {
            let frontier = self.frontier();
            let mut faults: Vec<(usize, u32, Fault)> = Vec::new();
            for place in self.stragglers.take().unwrap_or_default() {
                let client = &self.clients[place];
                if client.is_live() {
                    let behind = client.behind(&self.tally, |stream, every| how_far(&frontier, stream, every));
                    faults.extend(behind.into_iter().map(|(stream, fault)| (client.number, stream, fault)));
                }
            }
            faults.extend(self.compare_last_values());
            for (client, stream, fault) in faults {
                let name = self.tally.symbols.name(symbol_of(stream)).to_owned();
                self.tally.fault(client, &name, &fault);
            }
        }
        self.closing_since = Some(clock::instant());
        self.let_all_read();
        for place in 0..self.clients.len() {
            if self.clients[place].is_live() {
                self.clients[place].close(&mut self.tally);
                self.flush(place);
            } else {
                (self.clients[place].stage, self.clients[place].started) = (Stage::Gone, None);
                self.sockets[place] = None;
            }
        }
    }

    /// Clients that have come to the same number must hold the same value of it.
    fn compare_last_values(&self) -> Vec<(usize, u32, Fault)> {
        let mut held: FxHashMap<(u32, bool, u64), u32> = FxHashMap::default();
        let mut faults = Vec::new();
        for client in self.clients.iter().filter(|client| client.is_live()) {
            let holding = &self.tally.holdings[client.group];
            for (stream, seq, hash) in client.streams.last_values() {
                let every = holding.rules(kind_of(stream)).unwrap_or_default().every;
                if *held.entry((stream, every, seq)).or_insert(hash) != hash {
                    faults.push((client.number, stream, Fault::LastValue { seq }));
                }
            }
        }
        if self.plan.scenario.threads > 1 {
            let mut shared = self.shared.last_values.lock().unwrap_or_else(PoisonError::into_inner);
            for ((stream, every, seq), hash) in held {
                let name = self.tally.symbols.name(symbol_of(stream));
                let key = (kind_of(stream) as u8, every, seq, Box::<str>::from(name));
                if *shared.entry(key).or_insert(hash) != hash {
                    let holds = |client: &&crate::client::Client| {
                        client.streams.last_values().any(|held| held == (stream, seq, hash))
                    };
                    let number = self.clients.iter().find(holds).map_or(0, |client| client.number);
                    faults.push((number, stream, Fault::LastValue { seq }));
                }
            }
        }
        faults
    }
}

/// In `every` all numbers count; in `latest` those of events, as the number of a loss upstream is not sent there.
fn how_far(frontier: &FxHashMap<u32, Reached>, stream: u32, every: bool) -> u64 {
    frontier.get(&stream).map_or(0, |reached| if every { reached.any } else { reached.event })
}
