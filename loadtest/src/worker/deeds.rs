//! What one thread does by plan: connects, cuts off, exchanges, lets some clients crawl.

use std::{collections::VecDeque, time::Instant};

use rustix::event::epoll::{self, EventData, EventFlags};

use super::{CHORES_EVERY, READ_BYTES, Worker};
use crate::{
    client::{End, Stage},
    clock,
    measure::{Count, Step},
    pace::Schedule,
    scenario::{Phase, is_in_share},
    socket::Socket,
};

/// Sockets that are closed between two looks at the others: the kernel takes some 20 µs for each, and what the others
/// were sent meanwhile would be late by as much.
const CUTS_AT_ONCE: usize = 16;

impl Worker {
    /// Does what is due: connects and exchanges. Each is late by as much as this comes after its planned time.
    pub(super) fn keep_to_plan(&mut self) {
        if self.may_connect() {
            self.cut_off_some();
            self.start_clients();
        }
        let Some(mut churn) = self.churn.take() else { return };
        let now = clock::instant();
        while let Some(planned) = churn.planned().filter(|planned| *planned <= now) {
            if !self.exchange(planned) {
                // Everyone is waiting for an answer; the plan goes on, and this one's time with it.
                break;
            }
            self.tally.late(planned, now);
            churn.take(now);
        }
        self.churn = Some(churn);
    }

    pub(super) fn may_connect(&self) -> bool {
        matches!(self.step, Step::Connect | Step::Run(_) | Step::Return)
    }

    /// Begins to connect those whose time has come.
    fn start_clients(&mut self) {
        let mut now = clock::instant();
        while let Some(place) = self.arrivals.waiting.front().copied() {
            if self.arrivals.connecting >= self.arrivals.connecting_max {
                self.arrivals.held_until = now;
                return;
            }
            let Some(planned) = self.arrivals.schedule.take(now) else { return };
            self.arrivals.waiting.pop_front();
            self.tally.late(planned.max(self.arrivals.held_until), now);
            self.start_client(place, planned, now);
            now = clock::instant();
        }
    }

    fn start_client(&mut self, place: usize, planned: Instant, now: Instant) {
        self.arrivals.connecting += 1;
        let client = &mut self.clients[place];
        client.started = Some(planned);
        client.deadline = Some(now + self.plan.scenario.connect_timeout);
        client.stage = Stage::Connecting;
        let small = is_in_share(self.plan.scenario.spread(client.number), self.plan.scenario.slow_max());
        let socket = self.sources.connect(client.number, self.plan.target.address, small);
        let tls = self.plan.tls.as_ref();
        let added = socket.and_then(|stream| Socket::new(stream, tls)).and_then(|socket| {
            epoll::add(&self.epoll, &socket, EventData::new_u64(place as u64), EventFlags::OUT)?;
            Ok(socket)
        });
        match added {
            Ok(socket) => self.sockets[place] = Some(socket),
            Err(error) => self.end(place, End::Failed(format!("connect: {}", error.kind()))),
        }
    }

    /// One client exchanges an instrument; `false` where none can.
    fn exchange(&mut self, planned: Instant) -> bool {
        /// So many are asked whether they can, before it is left for later.
        const TRIES: usize = 64;
        if self.clients.is_empty() {
            return false;
        }
        let first = self.tally.random.below(self.clients.len() as u64) as usize;
        for at in 0..TRIES.min(self.clients.len()) {
            let place = (first + at) % self.clients.len();
            let client = &mut self.clients[place];
            if client.slow || !client.may_exchange() {
                continue;
            }
            let of = &self.candidates[client.group];
            if client.exchange(planned, of, &self.plan, &mut self.tally) {
                self.flush(place);
                return true;
            }
        }
        false
    }

    /// A phase begins: who is slow in it, who is cut off, what is exchanged.
    pub(super) fn begin_phase(&mut self, phase: &Phase, now: Instant) {
        let (threads, thread) = (self.plan.scenario.threads, self.thread);
        let mut cut = VecDeque::new();
        for place in 0..self.clients.len() {
            let client = &mut self.clients[place];
            let spread = self.plan.scenario.spread(client.number);
            let slow = is_in_share(spread, phase.slow);
            let was_slow = std::mem::replace(&mut client.slow, slow);
            // What waits for who was slow or away is late by plan, and would be taken for the hub's latency.
            client.untimed = slow || was_slow || !client.is_live();
            if slow != was_slow && client.is_live() {
                self.watch(place, if slow { EventFlags::empty() } else { EventFlags::IN });
            }
            let leaves = phase.reconnect.is_some_and(|storm| is_in_share(spread, storm.share));
            if leaves && !slow && self.clients[place].is_live() {
                self.clients[place].untimed = true;
                cut.push_back(place);
            }
        }
        if let Some(storm) = phase.reconnect {
            self.tally.epochs_at_cut = self.tally.epochs.clone();
            self.arrivals.cutting = Some((cut, storm.rate));
        }
        self.churn = (phase.churn_rate > 0).then(|| {
            let all = (f64::from(phase.churn_rate) * phase.duration.as_secs_f64()) as u64;
            Schedule::new(now, phase.churn_rate, all.div_ceil(threads as u64), thread, threads)
        });
    }

    /// Cuts off some of those who are to lose their connection, and lets them come back once all are gone.
    pub(super) fn cut_off_some(&mut self) {
        let Some((mut cut, rate)) = self.arrivals.cutting.take() else { return };
        for place in cut.drain(..cut.len().min(CUTS_AT_ONCE)) {
            if self.clients[place].is_live() {
                // Without a goodbye, as when a network goes away.
                self.sockets[place] = None;
                self.clients[place].cut_off(&self.plan, &mut self.tally);
                self.tally.add(Count::Cut, 1);
                self.arrivals.waiting.push_back(place);
            }
        }
        if cut.is_empty() {
            let count = self.arrivals.waiting.len() as u64;
            let (threads, thread) = (self.plan.scenario.threads, self.thread);
            // Cutting them off takes a moment, which is no part of the plan.
            self.arrivals.schedule = Schedule::new(clock::instant(), rate, count, thread, threads);
        } else {
            self.arrivals.cutting = Some((cut, rate));
        }
    }

    pub(super) fn chores(&mut self, now: Instant) {
        if self.may_connect() {
            self.time_out(now);
        }
        match self.step {
            Step::Run(phase) => self.crawl(self.plan.scenario.phases[usize::from(phase)].slow_bytes_per_s),
            Step::Tail => self.look_for_stragglers(),
            _ => {}
        }
    }

    fn time_out(&mut self, now: Instant) {
        if self.arrivals.connecting == 0 {
            return;
        }
        for place in 0..self.clients.len() {
            let client = &self.clients[place];
            let late = client.started.is_some() && client.deadline.is_some_and(|deadline| now > deadline);
            if late && !matches!(client.stage, Stage::Live | Stage::Gone) {
                let timeout = self.plan.scenario.connect_timeout.as_secs();
                let reason = format!("no answer for {timeout} s ({:?})", client.stage);
                self.end(place, End::Failed(reason));
            }
        }
    }

    /// Slow clients take their share of this interval.
    fn crawl(&mut self, bytes_per_s: u64) {
        if bytes_per_s == 0 {
            return;
        }
        let per_interval = bytes_per_s as f64 * CHORES_EVERY.as_secs_f64();
        for place in 0..self.clients.len() {
            if !self.is_crawling(place) {
                continue;
            }
            // A rate below one byte an interval is met by chance.
            let fraction = (per_interval.fract() * 1e9) as u64;
            let extra = self.tally.random.below(1_000_000_000) < fraction;
            let allowance = per_interval as usize + usize::from(extra);
            if allowance > 0 {
                self.read(place, allowance.min(READ_BYTES));
            }
        }
    }
}
