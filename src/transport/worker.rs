//! One worker's sessions and sockets on its own thread: turns, reads, deadlines.
//!
//! Everything here is single-threaded. A turn is one synchronous piece: drain the lanes, deliver,
//! one gathered write for each touched session. A session's own task only waits for its socket
//! to become readable, or writable where it was full.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::audited::Trace;
use super::desk::Desk;
use super::door::SharedTerms;
use super::gate::{Pending, Presence};
use super::handover::{Handover, Place, Places, Verifier};
use super::meters::WorkerMeters;
use super::orders::{Order, OrderBook, OrderNumber};
use super::rejudge::Rejudge;
use super::remote::Remote;
use super::shedding::Shedding;
use super::socket::{self, Socket};
use super::table::Table;
use super::tls::Scratch;
use super::websocket;
use super::worlds::Worlds;
use crate::audit::{Audit, Origin};
use crate::auth::Revocations;
use crate::fanout::{Fanout, LaneReader, SessionId, Sink, Wake};
use crate::model::UnixNanos;
use crate::session::{Meters, Now, Session, SessionConfig};
use crate::shutdown::Stop;
use crate::time;
use crate::wire::{CloseCode, Format};

/// Events of one turn at the most: behind them reads and timers get theirs.
const TURN_EVENTS_MAX: usize = 4096;

/// How often deadlines are looked at: none of them is shorter than a second by default.
const SWEEP_INTERVAL: Duration = Duration::from_millis(50);

/// How often the worker counts what it holds, in sweeps: that walk touches every session.
const HOLDINGS_SWEEPS: u32 = 20;

/// One read buffer for all sockets of a worker.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// How a drain is spread.
#[derive(Clone, Copy, Debug)]
pub struct DrainConfig {
    /// The time over which sessions are told to go.
    pub spread: Duration,
    /// When the last of them may come back; each is told a random part of it.
    pub retry_after: Duration,
}

/// What a worker is made of.
pub struct WorkerParts {
    /// Its sessions' subscriptions and outboxes.
    pub fanout: Fanout,
    /// One lane from each feed thread.
    pub lanes: Vec<LaneReader>,
    /// How feed threads wake it.
    pub wake: Arc<Wake>,
    /// Finished handshakes.
    pub handovers: mpsc::Receiver<Handover>,
    /// What the control side wants of its sessions.
    pub orders: OrderBook,
    /// On what terms it opens sessions.
    pub terms: SharedTerms,
    /// What sessions count.
    pub meters: Arc<Meters>,
    /// What it counts itself.
    pub worker_meters: WorkerMeters,
    /// Where credentials are judged.
    pub verifier: Arc<dyn Verifier>,
    /// How much later than live its sessions see everything.
    pub delay: Duration,
    /// Where those belong who see it at another time.
    pub worlds: Worlds,
    /// What is revoked: sessions of it end.
    pub revocations: Arc<Revocations>,
    /// How it drains.
    pub drain: DrainConfig,
    /// Where it records who came and went.
    pub audit: Audit,
}

/// One live session.
pub(super) struct Live {
    pub(super) session: Session,
    /// The socket is to be reset: its close frame did not get through in time.
    pub(super) expired: bool,
    /// The number of the last order when its credential was judged.
    pub(super) judged: u64,
    pub(super) since: UnixNanos,
    /// Its place among those who have not shown a credential yet.
    pub(super) stranger: Option<(Place, Pending)>,
    /// Who is at the other end.
    pub(super) remote: Remote,
    /// Its connection among those of its address.
    pub(super) presence: Arc<Presence>,
    /// None where auditing is off.
    pub(super) trace: Option<Box<Trace>>,
    places: Places,
}

/// Where a session came from that goes on elsewhere.
pub(super) struct From {
    pub(super) origin: Origin,
    pub(super) remote: Remote,
    pub(super) presence: Arc<Presence>,
}

/// What a worker's tasks share.
pub(super) struct State {
    pub(super) fanout: Fanout,
    pub(super) sockets: Sockets,
    pub(super) read_buffer: Vec<u8>,
    /// Plaintext of what was read, where TLS is spoken.
    pub(super) opened: Vec<u8>,
    pub(super) desk: Desk,
    lanes: Vec<LaneReader>,
    pub(super) meters: WorkerMeters,
    shedding: Shedding,
}

/// Live sessions by their index on the worker.
pub(super) struct Sockets {
    pub(super) live: Vec<Option<Live>>,
    /// Their sockets, apart.
    table: Table,
    /// When each session's next deadline is; `u64::MAX` where there is none.
    due: Vec<u64>,
    now: u64,
    /// Where TLS gathers and encrypts; empty without.
    scratch: Scratch,
}

impl Sink for Sockets {
    fn write(&mut self, session: SessionId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let (result, offered) = match (self.table.plain(session), self.table.get(session)) {
            (Some(plain), _) => socket::write_plain(plain, slices),
            (None, Some(socket)) => socket.write(slices, &mut self.scratch),
            (None, None) => return Err(io::ErrorKind::NotConnected.into()),
        };
        if !matches!(result, Ok(taken) if taken == offered) {
            self.not_whole(session, &result);
        }
        result
    }

    fn held(&self, session: SessionId) -> usize {
        self.table.get(session).map_or(0, |socket| socket.pending())
    }
}

impl Sockets {
    /// A write that did not take everything: the session's task looks after it.
    #[cold]
    fn not_whole(&mut self, session: SessionId, result: &io::Result<usize>) {
        let Some(socket) = self.table.get(session) else { return };
        let Some(Some(live)) = self.live.get(session as usize) else { return };
        match result {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.note_full(),
            Err(_) => socket.failed.set(true),
        }
        socket.nudge.notify_one();
        let due = &mut self.due[session as usize];
        *due = (*due).min(self.now.saturating_add(live.session.write_stall_ns()));
    }

    /// Bytes that were taken, and that sockets have not.
    fn pending(&self) -> usize {
        self.table.iter().map(|socket| socket.pending()).sum()
    }

    /// Has the session's task look at it again.
    pub(super) fn nudge(&self, session: SessionId) {
        if let Some(socket) = self.table.get(session) {
            socket.nudge.notify_one();
        }
    }
}

/// A worker, as its tasks see it.
pub(super) struct Worker {
    pub(super) state: RefCell<State>,
    pub(super) terms: SharedTerms,
    pub(super) session_meters: Arc<Meters>,
    pub(super) verifier: Arc<dyn Verifier>,
    pub(super) delay: Duration,
    pub(super) worlds: Worlds,
    audit: Audit,
    pub(super) orders: OrderNumber,
    pub(super) revocations: Arc<Revocations>,
}

pub(super) fn now() -> Now {
    Now { mono: time::mono(), wall: time::wall() }
}

/// What reaches a worker from outside, and how it ends.
pub(super) struct Ends {
    wake: Arc<Wake>,
    handovers: mpsc::Receiver<Handover>,
    orders: mpsc::Receiver<Order>,
    drain: DrainConfig,
}

impl Worker {
    pub(super) fn assemble(parts: WorkerParts) -> (Rc<Self>, Ends) {
        let WorkerParts { fanout, lanes, wake, handovers, orders, meters, worker_meters, .. } = parts;
        let OrderBook { orders, number } = orders;
        let state = State {
            fanout,
            sockets: Sockets {
                live: Vec::new(),
                table: Table::default(),
                due: Vec::new(),
                now: 0,
                scratch: Scratch::default(),
            },
            read_buffer: vec![0; READ_BYTES],
            opened: Vec::new(),
            desk: Desk::default(),
            lanes,
            meters: worker_meters,
            shedding: Shedding::default(),
        };
        let worker = Self {
            state: RefCell::new(state),
            terms: parts.terms,
            session_meters: meters,
            verifier: parts.verifier,
            delay: parts.delay,
            worlds: parts.worlds,
            audit: parts.audit,
            orders: number,
            revocations: parts.revocations,
        };
        (Rc::new(worker), Ends { wake, handovers, orders, drain: parts.drain })
    }

    /// Opens a session for a handover; its index.
    pub(super) fn open(
        &self,
        socket: Rc<Socket>,
        config: Arc<SessionConfig>,
        handover: websocket::Opening,
    ) -> SessionId {
        let state = &mut *self.state.borrow_mut();
        let now = now();
        let session = match handover.moved {
            Some((session, verdict)) => session.go_on(&mut state.fanout, handover.format, verdict, now),
            None => Session::open(
                &mut state.fanout,
                (&handover.name, handover.format),
                config,
                Arc::clone(&self.session_meters),
                handover.credential,
                handover.url,
                now,
            ),
        };
        let (id, entered) = (session.id(), session.principal().is_some());
        let (judged, since) = (handover.judged, now.wall);
        let index = id as usize;
        if state.sockets.live.len() <= index {
            state.sockets.live.resize_with(index + 1, || None);
            state.sockets.due.resize(index + 1, u64::MAX);
        }
        state.sockets.due[index] = session.due(&state.fanout);
        state.sockets.table.put(id, socket);
        let websocket::Opening { origin, format, stranger, remote, presence, places, refused, .. } = handover;
        let mut trace = Trace::new(&self.audit, origin, format, refused.is_some(), now.mono);
        if let Some(trace) = &mut trace {
            trace.opened(&session);
        }
        let expired = false;
        state.sockets.live[index] =
            Some(Live { session, expired, judged, since, stranger, remote, presence, trace, places });
        if let Some((code, reason)) = refused {
            state.end(id, code, &reason, now);
        } else if entered {
            state.arrived(id, judged, now);
        }
        state.meters.opened();
        state.write(id, now.mono);
        id
    }

    /// One turn; whether there is more to do at once.
    fn turn(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        state.turn() || !state.desk.is_free()
    }

    /// A piece of the order that is being carried out, or of the next: a turn comes between.
    fn work(&self, orders: &mut mpsc::Receiver<Order>) {
        let state = &mut *self.state.borrow_mut();
        if state.desk.is_free()
            && let Ok(order) = orders.try_recv()
        {
            state.begin(order);
        }
        state.work();
    }

    /// Forgets a session.
    pub(super) fn close(&self, id: SessionId, reason: &'static str) {
        let state = &mut *self.state.borrow_mut();
        if let Some(Live { session, remote, trace, .. }) = state.forget(id) {
            tracing::debug!(session = session.name(), %remote, reason, "session ended");
            if let Some(mut trace) = trace {
                trace.ended(&session, reason, time::mono());
            }
        }
        state.meters.closed(reason);
    }

    /// Forgets a session that goes on elsewhere: what it is there, and its places.
    pub(super) fn give_up(&self, id: SessionId) -> Option<(Session, Format, From, Places)> {
        let state = &mut *self.state.borrow_mut();
        let format = state.fanout.format(id)?;
        let Live { session, trace, places, remote, presence, .. } = state.forget(id)?;
        state.meters.closed("moved");
        let origin = trace.map_or_else(Origin::default, |trace| trace.into_origin());
        Some((session, format, From { origin, remote, presence }, places))
    }
}

impl State {
    fn forget(&mut self, id: SessionId) -> Option<Live> {
        let live = self.sockets.live[id as usize].take();
        self.sockets.table.remove(id);
        self.sockets.due[id as usize] = u64::MAX;
        self.fanout.close(id);
        live
    }

    /// Writes what a session is owed, and looks at its deadlines anew.
    pub(super) fn write(&mut self, id: SessionId, mono: u64) {
        self.sockets.now = mono;
        self.fanout.write(id, mono, &mut self.sockets);
        if let Some(Some(live)) = self.sockets.live.get(id as usize) {
            self.sockets.due[id as usize] = live.session.due(&self.fanout);
        }
    }

    /// Counts bytes that came from a session; `false` = they are too many, and it ends.
    pub(super) fn takes_bytes(&mut self, id: SessionId, bytes: usize) -> bool {
        let now = now();
        let Some(Some(live)) = self.sockets.live.get_mut(id as usize) else { return false };
        let by_address = live.presence.sent(bytes, now.mono);
        live.session.on_bytes(&mut self.fanout, bytes, by_address, now)
    }

    pub(super) fn end(&mut self, id: SessionId, code: CloseCode, reason: &str, now: Now) {
        if let Some(Some(live)) = self.sockets.live.get_mut(id as usize) {
            live.session.end_flushed(&mut self.fanout, code, reason, now);
            self.sockets.nudge(id);
        }
    }

    /// The same, and what waits for the session is dropped.
    pub(super) fn end_at_once(&mut self, id: SessionId, code: CloseCode, reason: &str, now: Now) {
        if let Some(Some(live)) = self.sockets.live.get_mut(id as usize) {
            live.session.end(&mut self.fanout, code, reason, now);
            self.sockets.nudge(id);
        }
    }

    /// One turn; whether there is more to do at once.
    fn turn(&mut self) -> bool {
        let mut events = 0;
        let mut resync = false;
        for lane in &mut self.lanes {
            while events < TURN_EVENTS_MAX {
                let Some(event) = lane.pop() else {
                    resync |= lane.take_overflow();
                    break;
                };
                self.fanout.on_event(event);
                events += 1;
            }
        }
        if resync {
            self.fanout.resync();
        }
        let now = time::mono();
        let due = self.fanout.next_due().is_some_and(|due| due <= now);
        if events > 0 || resync || due || self.fanout.has_work() {
            self.sockets.now = now;
            self.fanout.end_turn(now, &mut self.sockets);
            self.fanout.close_turn(time::mono());
            self.nudge_ended();
        }
        events >= TURN_EVENTS_MAX || self.fanout.has_work()
    }

    fn nudge_ended(&mut self) {
        for session in self.fanout.take_ended() {
            self.sockets.nudge(session);
        }
    }

    fn idle(&self) -> bool {
        self.lanes.iter().all(LaneReader::is_empty)
    }

    /// Does what is due for each session.
    fn sweep(&mut self) {
        let now = now();
        for index in 0..self.sockets.due.len() {
            if self.sockets.due[index] > now.mono {
                continue;
            }
            let Some(Some(live)) = self.sockets.live.get_mut(index) else {
                self.sockets.due[index] = u64::MAX;
                continue;
            };
            if live.session.on_time(&mut self.fanout, now) {
                self.write(index as SessionId, now.mono);
            } else {
                live.expired = true;
                self.sockets.due[index] = u64::MAX;
            }
            if let Some(Some(live)) = self.sockets.live.get(index)
                && (live.expired || live.session.closed().is_some())
            {
                self.sockets.nudge(index as SessionId);
            }
        }
        self.fanout.keep_budget(now.mono);
        self.nudge_ended();
        self.shedding.look(&mut self.fanout, now.mono);
        self.meters.publish(&self.fanout.take_counts());
        self.meters.held(self.fanout.held_bytes());
    }

    /// Tells the sessions below `until` to come back later; how many are left.
    fn drain(&mut self, until: usize, retry: &mut impl FnMut() -> u64) -> usize {
        let now = now();
        for index in 0..until.min(self.sockets.live.len()) {
            let Some(Some(live)) = self.sockets.live.get_mut(index) else { continue };
            if live.session.closed().is_none() {
                self.fanout.release(index as SessionId);
                self.sockets.now = now.mono;
                self.fanout.write(index as SessionId, now.mono, &mut self.sockets);
                let reason = format!("retry_after_ms={}", retry());
                self.end(index as SessionId, CloseCode::Drain, &reason, now);
                self.write(index as SessionId, now.mono);
            }
        }
        self.sockets.live.iter().flatten().count()
    }
}

fn serve(worker: &Rc<Worker>, handover: Handover) {
    if let Some(session) = websocket::open(worker, handover) {
        tokio::task::spawn_local(session);
    }
}

/// Runs a worker on this thread until the stop, then drains it. `draining` comes when sessions
/// are to be told to go; `stop` when the worker must end.
pub async fn run(parts: WorkerParts, mut draining: Stop, mut stop: Stop) {
    let (worker, Ends { wake, mut handovers, mut orders, drain }) = Worker::assemble(parts);
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let rejudge = Rejudge::new(Arc::clone(&worker.revocations));
    let mut sweeps = Sweeps { next: 0, count: 0, rejudge, drain, drain_since: None };
    while !stop.is_stopped() {
        if worker.turn() {
            // Reads and timers get theirs.
            tokio::task::yield_now().await;
        } else {
            wake.prepare_sleep();
            if worker.state.borrow().idle() {
                let due = worker.state.borrow().fanout.next_due();
                tokio::select! {
                    () = wake.woken() => {}
                    () = sleep_until(due) => {}
                    _ = sweep.tick() => {}
                    Some(handover) = handovers.recv() => serve(&worker, handover),
                    Some(order) = orders.recv() => worker.state.borrow_mut().begin(order),
                    () = draining.stopped(), if sweeps.drain_since.is_none() => {}
                    () = stop.stopped() => {}
                }
            }
            wake.awake();
        }
        while let Ok(handover) = handovers.try_recv() {
            serve(&worker, handover);
        }
        worker.work(&mut orders);
        if sweeps.drain_since.is_none() && draining.is_stopped() {
            sweeps.drain_since = Some(time::mono());
        }
        if time::mono() >= sweeps.next && !sweeps.run(&mut worker.state.borrow_mut()) {
            break;
        }
    }
    let state = &mut *worker.state.borrow_mut();
    state.meters.publish(&state.fanout.take_counts());
}

/// What is done every [`SWEEP_INTERVAL`].
struct Sweeps {
    next: u64,
    count: u32,
    rejudge: Rejudge,
    drain: DrainConfig,
    drain_since: Option<u64>,
}

impl Sweeps {
    /// `false` = the worker is drained.
    fn run(&mut self, state: &mut State) -> bool {
        self.next = time::mono() + time::duration_ns(SWEEP_INTERVAL);
        self.rejudge.step(state);
        state.sweep();
        self.count = self.count.wrapping_add(1);
        if self.count.is_multiple_of(HOLDINGS_SWEEPS) {
            state.meters.hold(&state.fanout.holdings());
            state.meters.tls_pending(state.sockets.pending());
        }
        let Some(since) = self.drain_since else { return true };
        let until = drained_until(since, self.drain, state.sockets.live.len());
        state.drain(until, &mut retry_after(self.drain)) > 0
    }
}

/// How many of `sessions` are to have been told by now.
fn drained_until(since: u64, drain: DrainConfig, sessions: usize) -> usize {
    let elapsed = u128::from(time::mono().saturating_sub(since));
    let spread = drain.spread.as_nanos().max(1);
    if elapsed >= spread { usize::MAX } else { (sessions as u128 * elapsed / spread) as usize + 1 }
}

/// Random parts of the time after which a drained session may come back.
fn retry_after(drain: DrainConfig) -> impl FnMut() -> u64 {
    let max = u64::try_from(drain.retry_after.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut state = time::mono() | 1;
    move || {
        // xorshift64 (Marsaglia, 2003): spreads clients, guards nothing.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        1 + state % max
    }
}

async fn sleep_until(due: Option<u64>) {
    match due {
        Some(due) => tokio::time::sleep(Duration::from_nanos(due.saturating_sub(time::mono()))).await,
        None => std::future::pending().await,
    }
}
