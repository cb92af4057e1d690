//! One thread's loop: its share of the clients on one epoll instance, one read for each readable socket, the bytes
//! judged where they were read. No task, no timer and no buffer belongs to a client that has nothing to say.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    os::fd::OwnedFd,
    sync::{Arc, PoisonError, atomic::Ordering, mpsc::SyncSender},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rustix::event::{
    Timespec,
    epoll::{self, CreateFlags, Event, EventData, EventFlags},
};

use crate::{
    client::{Client, End, Stage},
    clock,
    connect::{self, Sources},
    discover::pick,
    measure::{self, Close, Count, Outcome, Phase, Shared},
    options::{PerClient, Plan},
    tally::Tally,
};

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 512;
/// One read takes at most this; a socket that has more is readable again in the next turn, after the others.
const READ_BYTES: usize = 256 << 10;
/// Upgrades under way at once, so that a storm waits here and not in the hub's accept queue.
const CONNECTING_MAX: usize = 512;
/// How long a turn waits for something to happen.
const IDLE_WAIT: Duration = Duration::from_millis(10);
/// The same while there are clients to be started.
const PACING_WAIT: Duration = Duration::from_millis(1);
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
    sockets: Vec<Option<TcpStream>>,
    tally: Tally,
    sources: Sources,
    request: Vec<u8>,
    buffer: Vec<u8>,
    pace: Pace,
    chores_at: Instant,
    tick: u32,
    /// Where the measured window began: on the clock and on the thread's own.
    window: Option<(Instant, Duration)>,
    /// Clients that have not come as far as others had, by place.
    stragglers: Option<Vec<usize>>,
    closing_since: Option<Instant>,
}

/// When the next client may be started.
struct Pace {
    begun: Instant,
    per_second: f64,
    /// The first client that has not been started.
    next: usize,
    connecting: usize,
    connecting_max: usize,
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
        thread: usize,
        live: SyncSender<LiveFigures>,
    ) -> io::Result<Self> {
        let options = &plan.options;
        let threads = options.threads;
        let mine = (thread..options.clients).step_by(threads);
        let clients: Vec<Client> = mine
            .map(|number| {
                let symbols = match options.symbols_per_client {
                    PerClient::Count(count) => pick(options.seed, number, count, instruments.len()),
                    PerClient::All => Vec::new(),
                };
                Client::new(number, is_slow(number, options.slow), symbols)
            })
            .collect();
        let now = clock::instant();
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            sockets: clients.iter().map(|_| None).collect(),
            clients,
            tally: Tally::new(&plan, instruments, thread),
            sources: Sources::new(&plan),
            request: connect::upgrade_request(&plan),
            buffer: vec![0; READ_BYTES],
            pace: Pace {
                begun: now,
                per_second: f64::from(options.connect_rate) / threads as f64,
                next: 0,
                connecting: 0,
                connecting_max: (CONNECTING_MAX / threads).max(1),
            },
            chores_at: now,
            tick: 0,
            window: None,
            stragglers: None,
            closing_since: None,
            plan,
            shared,
            thread,
            live,
        })
    }

    /// Runs until the end of [`Phase::Close`].
    ///
    /// # Errors
    /// epoll itself fails.
    pub fn run(mut self) -> io::Result<Outcome> {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        loop {
            self.follow_phase();
            let starting = self.start_clients();
            let wait = if starting { PACING_WAIT } else { IDLE_WAIT };
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let woken = clock::instant();
            for event in &events {
                let (place, flags) = (event.data.u64() as usize, event.flags);
                self.on_event(place, flags);
            }
            let now = clock::instant();
            if now >= self.chores_at {
                self.chores_at = now + CHORES_EVERY;
                self.chores(now);
            }
            if self.window.is_some() && !events.is_empty() {
                self.tally.outcome.turns.saturating_record((now - woken).as_nanos() as u64);
            }
            self.publish();
            if self.is_over(now) {
                return Ok(self.tally.outcome);
            }
        }
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

    /// Begins to connect as many clients as the pace allows; `true` while some are left.
    fn start_clients(&mut self) -> bool {
        if self.pace.next == self.clients.len() || self.tally.phase != Phase::Connect {
            return false;
        }
        let now = clock::instant();
        let due = (now - self.pace.begun).as_secs_f64() * self.pace.per_second + 1.0;
        while self.pace.next < self.clients.len().min(due as usize) && self.pace.connecting < self.pace.connecting_max {
            let place = self.pace.next;
            self.pace.next += 1;
            self.pace.connecting += 1;
            let client = &mut self.clients[place];
            client.started = Some(now);
            client.stage = Stage::Connecting;
            let socket = self.sources.connect(client.number, self.plan.target.address, client.slow);
            let added = socket.and_then(|socket| {
                let flags = EventFlags::OUT;
                epoll::add(&self.epoll, &socket, EventData::new_u64(place as u64), flags)?;
                Ok(socket)
            });
            match added {
                Ok(socket) => self.sockets[place] = Some(socket),
                Err(error) => self.end(place, End::Failed(format!("connect: {}", error.kind()))),
            }
        }
        self.pace.next < self.clients.len()
    }

    fn on_event(&mut self, place: usize, flags: EventFlags) {
        let Some(socket) = &self.sockets[place] else { return };
        if self.clients[place].stage == Stage::Connecting {
            match socket.take_error() {
                Ok(None) => {
                    self.clients[place].stage = Stage::Upgrading;
                    self.clients[place].out.extend_from_slice(&self.request);
                    self.watch(place, EventFlags::IN);
                    self.flush(place);
                }
                Ok(Some(error)) | Err(error) => {
                    self.end(place, End::Failed(format!("connect: {}", error.kind())));
                }
            }
            return;
        }
        if flags.contains(EventFlags::OUT) {
            self.flush(place);
        }
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) && self.is_crawling(place) {
            // The hub has given up on it: what the kernel still holds, a close frame perhaps, is read at once.
            while self.sockets[place].is_some() {
                self.read(place, READ_BYTES);
            }
        } else if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.read(place, READ_BYTES);
        }
    }

    /// One read of at most `limit` bytes, judged.
    fn read(&mut self, place: usize, limit: usize) {
        let (client, Some(mut socket)) = (&mut self.clients[place], self.sockets[place].as_ref()) else { return };
        let held = client.pending.len();
        if self.buffer.len() < held + READ_BYTES {
            self.buffer.resize(held + READ_BYTES, 0);
        }
        self.buffer[..held].copy_from_slice(&client.pending);
        let read = socket.read(&mut self.buffer[held..held + limit]);
        let end = match read {
            Ok(0) => Some(End::Lost("end of stream".to_owned())),
            Ok(bytes) => {
                let now = clock::wall_ns();
                let (counted, slow) = (bytes as u64, client.slow);
                self.tally.add(if slow { Count::SlowBytes } else { Count::Bytes }, counted);
                self.tally.add(Count::Reads, u64::from(!slow));
                client.take(&self.buffer[..held + bytes], now, &self.plan, &mut self.tally).err()
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => None,
            Err(error) => Some(End::Lost(error.kind().to_string())),
        };
        if !self.clients[place].out.is_empty() {
            self.flush(place);
        }
        if let Some(end) = end {
            self.end(place, end);
        } else if self.clients[place].is_live() && self.clients[place].started.take().is_some() {
            self.pace.connecting -= 1;
            self.tally.outcome.streams += self.clients[place].streams.len() as u64;
        }
    }

    /// Writes what is to be written; what the socket does not take waits for it.
    fn flush(&mut self, place: usize) {
        let (client, Some(mut socket)) = (&mut self.clients[place], self.sockets[place].as_ref()) else { return };
        let mut blocked = false;
        while !client.out.is_empty() && !blocked {
            match socket.write(&client.out) {
                Ok(written) => drop(client.out.drain(..written)),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => blocked = true,
                    // Reading will say what happened.
                    _ => client.out.clear(),
                },
            }
        }
        if !blocked {
            client.out = Vec::new();
        }
        if std::mem::replace(&mut client.blocked, blocked) != blocked {
            let reading = if self.is_crawling(place) { EventFlags::empty() } else { EventFlags::IN };
            self.watch(place, if blocked { reading | EventFlags::OUT } else { reading });
        }
    }

    fn watch(&mut self, place: usize, flags: EventFlags) {
        let Some(socket) = &self.sockets[place] else { return };
        if let Err(error) = epoll::modify(&self.epoll, socket, EventData::new_u64(place as u64), flags) {
            self.end(place, End::Lost(error.to_string()));
        }
    }

    fn is_crawling(&self, place: usize) -> bool {
        let client = &self.clients[place];
        client.slow && client.is_live() && matches!(self.tally.phase, Phase::Warmup | Phase::Measure)
    }

    /// A connection is over, for good or bad.
    fn end(&mut self, place: usize, end: End) {
        let client = &mut self.clients[place];
        let stage = std::mem::replace(&mut client.stage, Stage::Gone);
        // Closing the socket takes it off epoll.
        self.sockets[place] = None;
        (client.pending, client.out) = (Vec::new(), Vec::new());
        if client.started.take().is_some() {
            self.pace.connecting -= 1;
        }
        match stage {
            Stage::Closing | Stage::Gone | Stage::Waiting => {}
            Stage::Live => {
                let code = if let End::Closed(code) = end { Some(code) } else { None };
                self.tally.add(Count::Closed, 1);
                *self.tally.outcome.closes.entry(Close { slow: client.slow, code }).or_default() += 1;
            }
            Stage::Connecting | Stage::Upgrading | Stage::Welcoming | Stage::Subscribing => {
                self.tally.add(Count::Failed, 1);
                let reason = match end {
                    End::Failed(reason) => reason,
                    End::Closed(code) => format!("closed with {code} while subscribing"),
                    End::Lost(reason) => format!("lost while subscribing: {reason}"),
                };
                self.tally.outcome.failures.count(&reason);
            }
        }
    }

    fn chores(&mut self, now: Instant) {
        match self.tally.phase {
            Phase::Connect => self.time_out(now),
            Phase::Warmup | Phase::Measure if self.plan.options.slow_rate.bytes_per_s > 0 => self.crawl(),
            Phase::Tail => self.look_for_stragglers(),
            _ => {}
        }
    }

    fn time_out(&mut self, now: Instant) {
        let timeout = self.plan.options.connect_timeout;
        for place in 0..self.pace.next {
            let client = &self.clients[place];
            let late = client.started.is_some_and(|started| now - started > timeout);
            if late && !matches!(client.stage, Stage::Live | Stage::Gone) {
                let reason = format!("no answer for {} s ({:?})", timeout.as_secs(), client.stage);
                self.end(place, End::Failed(reason));
            }
        }
    }

    /// Slow clients take their share of this interval.
    fn crawl(&mut self) {
        let rate = self.plan.options.slow_rate.bytes_per_s;
        let per_interval = rate as f64 * CHORES_EVERY.as_secs_f64();
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

    fn follow_phase(&mut self) {
        let phase = self.shared.phase();
        if phase == self.tally.phase {
            return;
        }
        let before = std::mem::replace(&mut self.tally.phase, phase);
        if let Some((begun, cpu)) = self.window.take() {
            self.tally.outcome.window = clock::instant() - begun;
            self.tally.outcome.cpu = clock::thread_cpu().saturating_sub(cpu);
            let length = self.tally.outcome.window.as_secs_f64().max(1e-9);
            self.tally.outcome.busiest = self.tally.outcome.cpu.as_secs_f64() / length;
        }
        match phase {
            Phase::Connect | Phase::Settle => {}
            Phase::Warmup => self.rewatch_slow(EventFlags::empty()),
            Phase::Measure => self.window = Some((clock::instant(), clock::thread_cpu())),
            Phase::Frontier => {
                self.rewatch_slow(EventFlags::IN);
                self.say_how_far();
                self.shared.done.fetch_add(1, Ordering::AcqRel);
            }
            Phase::Tail => {
                self.stragglers =
                    Some((0..self.clients.len()).filter(|place| self.clients[*place].is_live()).collect());
            }
            Phase::Close => self.say_goodbye(before),
        }
    }

    fn rewatch_slow(&mut self, flags: EventFlags) {
        for place in 0..self.clients.len() {
            if self.clients[place].slow && self.clients[place].is_live() {
                self.watch(place, flags);
            }
        }
    }

    /// Adds the last numbers of this thread's clients to what is known of all.
    fn say_how_far(&self) {
        let mut frontier = vec![0_u64; self.tally.symbols.names().count()];
        for client in self.clients.iter().filter(|client| client.is_live()) {
            for (symbol, seq) in client.streams.progress() {
                frontier[symbol as usize] = frontier[symbol as usize].max(seq);
            }
        }
        let mut shared = self.shared.frontier.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, name) in self.tally.symbols.names() {
            let known = shared.entry(name.into()).or_default();
            *known = (*known).max(frontier[number as usize]);
        }
    }

    /// Who is still behind what others had at the frontier; says so once none is.
    fn look_for_stragglers(&mut self) {
        let Some(mut stragglers) = self.stragglers.take() else { return };
        let frontier = self.frontier();
        stragglers.retain(|place| {
            let client = &self.clients[*place];
            let at = |symbol: u32| frontier.get(symbol as usize).copied().unwrap_or(0);
            client.is_live() && !client.streams.behind(self.tally.rules, at).is_empty()
        });
        if stragglers.is_empty() {
            self.shared.done.fetch_add(1, Ordering::AcqRel);
        } else {
            self.stragglers = Some(stragglers);
        }
    }

    fn frontier(&self) -> Vec<u64> {
        let shared = self.shared.frontier.lock().unwrap_or_else(PoisonError::into_inner);
        self.tally.symbols.names().map(|(_, name)| shared.get(name).copied().unwrap_or(0)).collect()
    }

    /// Whoever is behind now was left behind; then everyone says goodbye.
    fn say_goodbye(&mut self, before: Phase) {
        if before == Phase::Tail {
            let frontier = self.frontier();
            for place in self.stragglers.take().unwrap_or_default() {
                let at = |symbol: u32| frontier.get(symbol as usize).copied().unwrap_or(0);
                let client = &self.clients[place];
                let faults = if client.is_live() { client.streams.behind(self.tally.rules, at) } else { Vec::new() };
                for (symbol, fault) in faults {
                    let (number, name) = (client.number, self.tally.symbols.name(symbol).to_owned());
                    self.tally.fault(number, &name, &fault);
                }
            }
        }
        self.closing_since = Some(clock::instant());
        self.rewatch_slow(EventFlags::IN);
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

    fn is_over(&self, now: Instant) -> bool {
        self.closing_since.is_some_and(|since| now - since > GOODBYE_MAX || self.sockets.iter().all(Option::is_none))
    }
}

/// Spreads a share of slow clients evenly over the numbers.
fn is_slow(number: usize, share: f64) -> bool {
    ((number + 1) as f64 * share + 1e-9).floor() > (number as f64 * share + 1e-9).floor()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slow_share_is_met_and_spread() {
        assert_eq!((0..1_000).filter(|number| is_slow(*number, 0.01)).count(), 10);
        assert_eq!((0..100).filter(|number| is_slow(*number, 0.01)).count(), 1);
        assert_eq!((0..1_000).filter(|number| is_slow(*number, 0.0)).count(), 0);
        assert_eq!((0..1_000).filter(|number| is_slow(*number, 1.0)).count(), 1_000);
        assert_eq!((0..500).filter(|number| is_slow(*number, 0.1)).count(), 50);
    }
}
