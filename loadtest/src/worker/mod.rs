//! One thread's loop: its share of the clients on one epoll instance, one read for each readable socket, the bytes
//! judged where they were read. No task, no timer and no buffer belongs to a client that has nothing to say.

mod deeds;
mod sockets;
mod steps;

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering, mpsc::SyncSender},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rustix::event::{
    Timespec,
    epoll::{self, CreateFlags, Event},
};

use crate::{
    client::Client,
    clock,
    connect::{self, Sources},
    discover::{Candidates, pick},
    measure::{self, Outcome, Shared, Step},
    options::Plan,
    pace::Schedule,
    scenario::PerClient,
    socket::Socket,
    tally::{Tally, stream},
};

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 512;
/// After so many sockets the plan is looked at again, so that a long turn does not make its commands late.
const EVENTS_BETWEEN_PLANS: usize = 32;
/// One read takes at most this; a socket that has more is readable again in the next turn, after the others.
const READ_BYTES: usize = 256 << 10;
/// Upgrades under way at once, all threads together: as many as a listen queue holds by default (`somaxconn`). More
/// would be dropped and tried again by the kernel a second later, which no server can help.
const CONNECTING_MAX: usize = 4_000;
/// How long a turn waits for something to happen.
const IDLE_WAIT: Duration = Duration::from_millis(10);
/// How often timeouts, slow readers and stragglers are looked after.
const CHORES_EVERY: Duration = Duration::from_millis(50);
/// How long the hub may take to answer a goodbye.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// Latencies of one live interval: the tick that asked for them, and the histogram.
pub type LiveFigures = (u32, Histogram<u32>);

/// One thread and its clients.
pub struct Worker {
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    thread: usize,
    live: SyncSender<LiveFigures>,
    epoll: OwnedFd,
    clients: Vec<Client>,
    /// Beside `clients`.
    sockets: Vec<Option<Socket>>,
    tally: Tally,
    sources: Sources,
    request: Vec<u8>,
    buffer: Vec<u8>,
    /// Instruments that each group's subscriptions choose from.
    candidates: Candidates,
    arrivals: Arrivals,
    churn: Option<Schedule>,
    step: Step,
    chores_at: Instant,
    tick: u32,
    /// Where the phase began: on the clock and on the thread's own.
    window: Option<(usize, Instant, Duration)>,
    /// Clients that have not come as far as others had, by place.
    stragglers: Option<Vec<usize>>,
    closing_since: Option<Instant>,
}

/// Who is to connect, and when.
struct Arrivals {
    schedule: Schedule,
    /// By place, in the order of the schedule.
    waiting: VecDeque<usize>,
    /// Who is still to be cut off, and how many of them a second come back then.
    cutting: Option<(VecDeque<usize>, u32)>,
    connecting: usize,
    connecting_max: usize,
    /// Until when there were too many under way, which is no fault of the generator.
    held_until: Instant,
}

impl Worker {
    /// The worker of `thread` with every client whose number leaves that remainder.
    ///
    /// # Errors
    /// The system gives no epoll instance.
    pub fn new(
        plan: Arc<Plan>,
        shared: Arc<Shared>,
        instruments: &[String],
        candidates: Candidates,
        thread: usize,
        live: SyncSender<LiveFigures>,
    ) -> io::Result<Self> {
        let scenario = &plan.scenario;
        let threads = scenario.threads;
        let tally = Tally::new(&plan, &shared, instruments, thread);
        let groups = scenario.group_of_clients();
        let client = |number: usize| {
            let group = usize::from(groups[number]);
            let mut streams = Vec::new();
            for (at, subscription) in scenario.groups[group].subscriptions.iter().enumerate() {
                if let PerClient::Count(count) = subscription.per_client {
                    let (of, kind) = (&candidates[group][at], tally.holdings[group].kind(at));
                    let seed = scenario.seed.wrapping_add((at as u64) << 32);
                    let picked = pick(seed, number, count, of.len());
                    streams.extend(picked.into_iter().map(|place| stream(kind, of[place as usize])));
                }
            }
            Client::new(number, group, &plan, streams)
        };
        let clients: Vec<Client> = (thread..scenario.clients).step_by(threads).map(client).collect();
        let now = clock::instant();
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            sockets: clients.iter().map(|_| None).collect(),
            tally,
            sources: Sources::new(&plan),
            request: connect::upgrade_request(&plan),
            buffer: vec![0; READ_BYTES],
            candidates,
            arrivals: Arrivals {
                schedule: Schedule::new(now, scenario.connect_rate, 0, thread, threads),
                waiting: (0..clients.len()).collect(),
                cutting: None,
                connecting: 0,
                connecting_max: (CONNECTING_MAX / threads).max(1),
                held_until: now,
            },
            churn: None,
            step: Step::Connect,
            chores_at: now,
            tick: 0,
            window: None,
            stragglers: None,
            closing_since: None,
            clients,
            plan,
            shared,
            thread,
            live,
        })
    }

    /// Runs until the end of [`Step::Close`].
    ///
    /// # Errors
    /// epoll itself fails.
    pub fn run(mut self) -> io::Result<Outcome> {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        // The plan begins with the thread, not with what had to be built before it.
        self.arrivals.schedule = self.connect_schedule(clock::instant());
        loop {
            self.follow_step();
            self.keep_to_plan();
            let wait = self.wait();
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let woken = clock::instant();
            for (at, event) in events.iter().enumerate() {
                if at % EVENTS_BETWEEN_PLANS == EVENTS_BETWEEN_PLANS - 1 {
                    self.keep_to_plan();
                }
                let (place, flags) = (event.data.u64() as usize, event.flags);
                self.on_event(place, flags);
            }
            let now = clock::instant();
            if now >= self.chores_at {
                self.chores_at = now + CHORES_EVERY;
                self.chores(now);
            }
            if let (Some((phase, ..)), false) = (self.window, events.is_empty()) {
                self.tally.outcome.phases[phase].turns.saturating_record((now - woken).as_nanos() as u64);
            }
            self.publish();
            if self.is_over(now) {
                return Ok(self.tally.outcome);
            }
        }
    }

    fn connect_schedule(&self, begun: Instant) -> Schedule {
        let scenario = &self.plan.scenario;
        Schedule::new(begun, scenario.connect_rate, self.clients.len() as u64, self.thread, scenario.threads)
    }

    /// Until the next planned thing, at most [`IDLE_WAIT`].
    fn wait(&self) -> Duration {
        if self.may_connect() && self.arrivals.cutting.is_some() {
            return Duration::ZERO;
        }
        let full = self.arrivals.connecting >= self.arrivals.connecting_max;
        let arrival = if full || !self.may_connect() { None } else { self.arrivals.schedule.planned() };
        let churn = self.churn.as_ref().and_then(Schedule::planned);
        let now = clock::instant();
        let next = [arrival, churn].into_iter().flatten().min();
        next.map_or(IDLE_WAIT, |next| next.saturating_duration_since(now).min(IDLE_WAIT))
    }

    fn publish(&mut self) {
        self.shared.published[self.thread].publish(&self.tally.totals);
        let tick = self.shared.tick.load(Ordering::Relaxed);
        if tick != self.tick {
            let figures = std::mem::replace(&mut self.tally.recent, measure::coarse_histogram());
            // Whoever shows live figures may be late; the result does not depend on it.
            let _ = self.live.try_send((tick, figures));
            self.tick = tick;
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.closing_since.is_some_and(|since| now - since > GOODBYE_MAX || self.sockets.iter().all(Option::is_none))
    }
}
