//! Carries out actions on the hub and on the plain model beside it, and lets every client check
//! what it gets.

use std::collections::BTreeMap;
use std::rc::Rc;

use tickhub::ingest::Instrument;
use tickhub::session::Session;

use crate::action::{Action, INSTRUMENTS, Take};
use crate::client::{Change, Client, Facts, What};
use crate::hub::{Hub, Sizes};
use crate::stream::{Check, ensure};
use crate::truth::{self, Window};

/// Turns after which everything must have arrived, whatever the sizes are.
const SETTLE_ROUNDS_MAX: usize = 200;

/// What a client had of a stream when its session ended: kind, number, and a book's state.
pub(crate) type Had = BTreeMap<(usize, usize), (usize, u64, Option<Rc<Window>>)>;

pub(crate) struct Slot {
    pub(crate) session: Session,
    pub(crate) client: Client,
    /// The session ended itself when its deadlines were looked at.
    pub(crate) stalled: bool,
}

/// The plain model of what the feed side did.
pub(crate) struct Market {
    /// By index into [`INSTRUMENTS`].
    pub(crate) instruments: Vec<truth::Instrument>,
    pub(crate) keys: Vec<usize>,
    pub(crate) changes: [Vec<Change>; 2],
    pub(crate) last: Option<Rc<Vec<[u64; 7]>>>,
}

impl Market {
    pub(crate) fn last(&mut self) -> Rc<Vec<[u64; 7]>> {
        let (keys, instruments) = (&self.keys, &self.instruments);
        let numbers = |key: &usize| std::array::from_fn(|kind| instruments[*key].streams[kind].last());
        Rc::clone(self.last.get_or_insert_with(|| Rc::new(keys.iter().map(numbers).collect())))
    }

    pub(crate) fn facts(&self, overflowed: bool, now: u64) -> Facts<'_> {
        Facts { instruments: &self.instruments, keys: &self.keys, changes: &self.changes, overflowed, now }
    }
}

pub(crate) struct World {
    pub(crate) sizes: Sizes,
    pub(crate) hub: Hub,
    pub(crate) writers: Vec<Option<Instrument>>,
    pub(crate) market: Market,
    pub(crate) slots: Vec<Option<Slot>>,
    pub(crate) had: Vec<Had>,
    pub(crate) next_id: u64,
    /// Events that one turn of a worker took at most.
    pub(crate) turn_events_max: usize,
    pub(crate) tally: Tally,
}

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) messages: u64,
    /// Gaps of cause `slow_consumer`.
    pub(crate) gaps: u64,
    /// Sessions closed for a full outbox, for a stalled socket, for the budget.
    pub(crate) disconnects: u64,
    pub(crate) stalls: u64,
    pub(crate) shed: u64,
    /// Turns in which more waited than a bound because it was asked for.
    pub(crate) graces: u64,
}

impl Tally {
    pub(crate) const fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.gaps += other.gaps;
        self.disconnects += other.disconnects;
        self.stalls += other.stalls;
        self.shed += other.shed;
        self.graces += other.graces;
    }
}

impl World {
    pub(crate) fn new(sizes: Sizes) -> Self {
        let mut world = Self {
            hub: Hub::new(&sizes),
            writers: INSTRUMENTS.iter().map(|_| None).collect(),
            market: Market {
                instruments: (0..INSTRUMENTS.len()).map(truth::Instrument::new).collect(),
                keys: Vec::new(),
                changes: [Vec::new(), Vec::new()],
                last: None,
            },
            slots: (0..sizes.clients).map(|_| None).collect(),
            had: (0..sizes.clients).map(|_| Had::new()).collect(),
            next_id: 1,
            turn_events_max: 0,
            tally: Tally::default(),
            sizes,
        };
        world.register_feed(0);
        if !sizes.late_feed {
            world.register_feed(1);
        }
        world
    }

    pub(crate) fn register_feed(&mut self, feed: usize) {
        self.hub.register_feed(feed);
        self.market.changes[feed].push(Change { state: 3, since: self.hub.wall().to_string() });
    }

    /// Carries out one action and checks everything that follows from it at once.
    pub(crate) fn step(&mut self, action: &Action) -> Check {
        self.hub.now += 1_000;
        match action {
            Action::Turn { worker, events } => {
                if self.turn(*worker, *events)? {
                    self.check_open(*worker, false)?;
                }
            }
            Action::Advance { micros } => self.advance(*micros)?,
            Action::ServeRequests { thread } => self.serve_requests(*thread)?,
            Action::LateFeed => {
                if self.market.changes[1].is_empty() {
                    self.register_feed(1);
                }
            }
            Action::FeedState { feed, state } => self.set_feed_state(*feed, *state),
            Action::Settle => self.settle()?,
            Action::Drain { worker } => self.drain(*worker)?,
            Action::Connect { client, worker, grant } => self.connect(*client, *worker, *grant)?,
            Action::Disconnect { client } => self.disconnect(*client),
            Action::Socket { client, take } => self.set_socket(*client, *take),
            Action::Renew { client, grant } => self.renew(*client, Ok(*grant))?,
            Action::BadRenew { client, other_subject } => self.renew(*client, Err(*other_subject))?,
            Action::Subscribe { client, command } => self.subscribe(*client, command),
            Action::Unsubscribe { client, channel, symbols } => {
                let id = self.next_id;
                let list = symbols.iter().map(|symbol| format!("\"{symbol}\"")).collect::<Vec<_>>().join(",");
                let text =
                    format!("{{\"op\":\"unsubscribe\",\"id\":{id},\"channel\":\"{channel}\",\"symbols\":[{list}]}}");
                self.command(*client, What::Unsubscribe { channel, symbols: symbols.clone() }, &text);
            }
            Action::Ping { client } => {
                let text = format!("{{\"op\":\"ping\",\"id\":{}}}", self.next_id);
                self.command(*client, What::Ping, &text);
            }
            Action::Nonsense { client, text } => {
                self.command(*client, What::Nonsense, text);
            }
            publication => self.publish(publication)?,
        }
        self.look_at_sockets()?;
        self.check_bounds()
    }

    /// One turn; whether the worker has nothing left to do.
    pub(crate) fn turn(&mut self, worker: usize, events: usize) -> Result<bool, String> {
        let (last, known, now) = (self.market.last(), self.market.keys.len(), self.hub.now);
        let waiting = self.waiting(worker);
        self.hub.workers[worker].fanout.take_shed();
        let empty = self.hub.workers[worker].turn(events, now);
        self.check_backlogs(worker, &waiting)?;
        self.check_budget(worker)?;
        let worker = &mut self.hub.workers[worker];
        self.turn_events_max = self.turn_events_max.max(events.min(worker.lanes.len() * self.sizes.lane_events));
        if empty {
            (worker.seen, worker.known) = (last, known);
            worker.changes = std::array::from_fn(|feed| self.market.changes[feed].len().saturating_sub(1));
        }
        let idle = empty && !worker.fanout.has_work();
        self.look_at_sockets()?;
        Ok(idle)
    }

    /// Every client whose socket takes everything has everything.
    pub(crate) fn check_open(&mut self, worker: usize, settled: bool) -> Check {
        let at = &self.hub.workers[worker];
        let facts = self.market.facts(at.overflowed(), self.hub.now);
        for (name, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot.as_mut().filter(|slot| slot.client.worker == worker) else { continue };
            let id = slot.session.id();
            let open = at.sockets.0[id as usize].as_ref().is_some_and(|socket| socket.room.is_none());
            if open && slot.session.closed().is_none() && !at.fanout.is_blocked(id) {
                ensure!(at.fanout.backlog(id) == (0, 0), "client {name}: a backlog for an open socket");
                let check = slot.client.check_complete(&facts, settled);
                check.map_err(|broken| format!("client {name} behind a whole turn: {broken}"))?;
            }
        }
        Ok(())
    }

    pub(crate) fn advance(&mut self, micros: u64) -> Check {
        self.hub.now += micros * 1_000;
        let now = self.hub.clocks();
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots[index].as_mut() else { continue };
            slot.session.on_sign_of_life(now);
            let worker = &mut self.hub.workers[slot.client.worker];
            if slot.session.due(&worker.fanout) > now.mono {
                continue;
            }
            let id = slot.session.id();
            let before = slot.session.closed().is_some() || worker.fanout.is_closing(id);
            let goes_on = slot.session.on_time(&mut worker.fanout, now);
            if !before && slot.session.closed() == Some(tickhub::wire::CloseCode::SlowConsumer) {
                slot.stalled = true;
                self.tally.stalls += 1;
            }
            if goes_on {
                worker.write(id, now.mono);
            } else if let Some(socket) = &mut worker.sockets.0[id as usize] {
                // The close frame did not get through in time: the socket is reset.
                socket.room = Some(0);
                worker.fanout.close(id);
                worker.sockets.0[id as usize] = None;
                continue;
            }
            self.check_stall(index)?;
        }
        for worker in &mut self.hub.workers {
            worker.fanout.keep_budget(now.mono);
        }
        Ok(())
    }

    pub(crate) fn settle(&mut self) -> Check {
        for client in 0..self.slots.len() {
            self.set_socket(client, Take::Open);
        }
        self.look_at_sockets()?;
        let mut quiet = 0;
        for _ in 0..SETTLE_ROUNDS_MAX {
            let before = self.tally.messages;
            for thread in 0..self.hub.ingests.len() {
                self.serve_requests(thread)?;
            }
            let mut idle = true;
            for worker in 0..self.hub.workers.len() {
                idle &= self.turn(worker, usize::MAX)?;
            }
            // Longer than the longest interval of a limited rate.
            self.advance(1_100_000)?;
            self.look_at_sockets()?;
            quiet = if idle && self.tally.messages == before { quiet + 1 } else { 0 };
            if quiet == 3 {
                return (0..self.hub.workers.len()).try_for_each(|worker| self.check_open(worker, true));
            }
        }
        Err("it never comes to rest".to_owned())
    }

    pub(crate) fn drain(&mut self, worker: usize) -> Check {
        self.turn(worker, usize::MAX)?;
        let now = self.hub.clocks();
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots[index].as_mut().filter(|slot| slot.client.worker == worker) else { continue };
            let id = slot.session.id();
            if slot.session.closed().is_some() {
                continue;
            }
            let of = &mut self.hub.workers[worker];
            slot.client.draining = true;
            of.fanout.release(id);
            of.write(id, now.mono);
            let blocked = of.fanout.is_blocked(id);
            self.look_at_sockets()?;
            let of = &mut self.hub.workers[worker];
            let facts = self.market.facts(of.overflowed(), now.mono);
            let Some(slot) = self.slots[index].as_mut() else { continue };
            if !blocked {
                let check = slot.client.check_newest(&facts);
                check.map_err(|broken| format!("client {index} before a drain's close: {broken}"))?;
            }
            let code = tickhub::wire::CloseCode::Drain;
            slot.session.end_flushed(&mut of.fanout, code, "retry_after_ms=1", now);
            of.write(id, now.mono);
            self.look_at_sockets()?;
        }
        Ok(())
    }

    /// Gives each client what its socket took, and buries the sessions that are over.
    pub(crate) fn look_at_sockets(&mut self) -> Check {
        let now = self.hub.clocks();
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots[index].as_mut() else { continue };
            let (at, id) = (slot.client.worker, slot.session.id());
            let worker = &mut self.hub.workers[at];
            let overflowed = worker.overflowed();
            if worker.fanout.is_closing(id) && slot.session.closed().is_none() {
                slot.session.on_time(&mut worker.fanout, now);
                worker.write(id, now.mono);
            }
            let taken = worker.sockets.0[id as usize].as_mut().map(|socket| {
                slot.client.blocked |= socket.was_full;
                if !socket.taken.is_empty() {
                    slot.client.rungs.took_at = now.mono;
                }
                std::mem::take(&mut socket.taken)
            });
            let facts = self.market.facts(overflowed, now.mono);
            let before = slot.client.messages;
            let check = slot.client.receive(&facts, &taken.clone().unwrap_or_default());
            check.map_err(|broken| format!("client {index}: {broken}"))?;
            self.tally.messages += slot.client.messages - before;
            self.tally.gaps += std::mem::take(&mut slot.client.slow_gaps);
            let over = slot.session.closed().is_some() && worker.fanout.is_ended(id);
            if (over || taken.is_none())
                && let Some(slot) = self.slots[index].take()
            {
                ensure!(taken.is_none() || slot.client.closed.is_some(), "client {index}: ended without a close frame");
                self.remember(index, &slot.client);
                if taken.is_some() {
                    self.hub.close(at, id);
                }
            }
        }
        Ok(())
    }

    /// What waits for a socket is bounded.
    pub(crate) fn check_bounds(&self) -> Check {
        let limits = &self.sizes.outbox;
        // What catching up may add at once is bounded by bytes: forty a message at least.
        let events_max = limits.events_max + self.turn_events_max + 2 * 256 * 1024 / 40;
        for (index, slot) in self.slots.iter().enumerate() {
            let Some(slot) = slot else { continue };
            let worker = &self.hub.workers[slot.client.worker];
            let (events, bytes) = worker.fanout.backlog(slot.session.id());
            ensure!(events <= events_max, "client {index}: {events} events wait");
            let bytes_max = limits.bytes_max + self.turn_events_max * 2_048 + 512 * 1024;
            ensure!(bytes <= bytes_max + limits.control_bytes_max * 4, "client {index}: {bytes} bytes wait");
        }
        self.check_held()
    }

    /// The end of a run: all is settled, then everyone leaves, and nothing may be left of them.
    pub(crate) fn finish(&mut self) -> Check {
        self.step(&Action::Settle)?;
        for client in 0..self.slots.len() {
            self.disconnect(client);
        }
        for (index, worker) in self.hub.workers.iter_mut().enumerate() {
            self.tally.disconnects += worker.fanout.take_counts().overflow_closes;
            let left = worker.fanout.holdings();
            ensure!(left == tickhub::fanout::Holdings::default(), "worker {index} still holds {left:?}");
            let held = worker.fanout.held_bytes();
            ensure!(held == 0, "worker {index} still counts {held} bytes");
        }
        Ok(())
    }
}
