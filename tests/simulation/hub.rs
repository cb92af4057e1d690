//! The hub under test without its edges: feeds, lanes, workers and sessions, driven by hand as the
//! feed threads and the worker's loop drive them.

use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tickhub::fanout::{Budget, Fanout, LaneReader, OutboxLimits, Requests, SessionId, Sink, Wake, lane};
use tickhub::ingest::{Feed, Ingest};
use tickhub::metrics::Registry;
use tickhub::model::UnixNanos;
use tickhub::session::{Meters, Now, Session, SessionConfig};
use tickhub::store::Store;
use tickhub::wire::Format;

use crate::action::VENUES;

/// Where the virtual wall clock begins.
const WALL: i64 = 1_700_000_000_000_000_000;

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) lane_events: usize,
    pub(crate) requests: usize,
    pub(crate) outbox: OutboxLimits,
    pub(crate) ring_bytes: usize,
    /// Feed threads: one for both venues, or one each.
    pub(crate) threads: usize,
    /// The second venue's feed is registered late.
    pub(crate) late_feed: bool,
    pub(crate) clients: usize,
    /// Memory of what waits for all sessions.
    pub(crate) budget: Option<usize>,
}

/// A socket without a network.
#[derive(Default)]
pub(crate) struct Socket {
    /// Bytes that it takes now; `None` = all.
    pub(crate) room: Option<usize>,
    /// What it took and nobody has looked at yet.
    pub(crate) taken: Vec<u8>,
    /// It was full at some time.
    pub(crate) was_full: bool,
    /// What it has encrypted, if it speaks TLS, and what it owes for that: its last byte.
    pending: Vec<u8>,
    owed: bool,
}

impl Socket {
    /// As much as there is room for.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let taken = self.room.unwrap_or(usize::MAX).min(bytes.len());
        self.was_full |= taken < bytes.len();
        self.taken.extend_from_slice(&bytes[..taken]);
        self.room = self.room.map(|room| room - taken);
        taken
    }

    /// Everything, but for the last byte, which is not taken before all has gone out.
    fn take_whole(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut went = self.let_out();
        if !self.pending.is_empty() {
            return (went > 0).then_some(0);
        }
        let owed = usize::from(std::mem::take(&mut self.owed));
        self.pending.extend_from_slice(&bytes[owed..]);
        went = self.let_out();
        self.owed = went < bytes.len() - owed;
        Some(bytes.len() - usize::from(self.owed))
    }

    fn let_out(&mut self) -> usize {
        let pending = std::mem::take(&mut self.pending);
        let went = self.take(&pending);
        self.pending = pending[went..].to_vec();
        went
    }
}

#[derive(Default)]
pub(crate) struct Sockets(pub(crate) Vec<Option<Socket>>);

impl Sink for Sockets {
    fn write(&mut self, session: SessionId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(Some(socket)) = self.0.get_mut(session as usize) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        // Every second session speaks TLS.
        let taken = match session % 2 {
            0 => Some(socket.take(&bytes)).filter(|taken| *taken > 0 || bytes.is_empty()),
            _ => socket.take_whole(&bytes),
        };
        taken.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }
}

pub(crate) struct Worker {
    pub(crate) fanout: Fanout,
    pub(crate) lanes: Vec<LaneReader>,
    pub(crate) sockets: Sockets,
    dropped: Arc<AtomicU64>,
    /// How many instruments it knows at least.
    pub(crate) known: usize,
    /// The numbers that it has seen at least, by key and kind.
    pub(crate) seen: Rc<Vec<[u64; 7]>>,
    /// The changes of each feed that it has seen at least.
    pub(crate) changes: [usize; 2],
}

impl Worker {
    /// Whether its lane ever lost an event.
    pub(crate) fn overflowed(&self) -> bool {
        self.dropped.load(Ordering::Relaxed) > 0
    }

    /// One turn, as the worker's loop takes it; whether every lane is empty behind it.
    pub(crate) fn turn(&mut self, events_max: usize, now: u64) -> bool {
        let (mut events, mut resync) = (0, false);
        for lane in &mut self.lanes {
            while events < events_max {
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
        let due = self.fanout.next_due().is_some_and(|due| due <= now);
        if events > 0 || resync || due || self.fanout.has_work() {
            self.fanout.end_turn(now, &mut self.sockets);
            self.fanout.close_turn(now);
            self.fanout.take_ended();
        }
        self.fanout.keep_budget(now);
        self.lanes.iter().all(LaneReader::is_empty)
    }

    pub(crate) fn write(&mut self, session: SessionId, now: u64) {
        self.fanout.write(session, now, &mut self.sockets);
    }
}

pub(crate) struct Hub {
    pub(crate) store: Arc<Store>,
    /// One door a feed thread.
    pub(crate) ingests: Vec<Ingest>,
    pub(crate) feeds: [Option<Feed>; 2],
    pub(crate) workers: Vec<Worker>,
    pub(crate) budget: Option<Arc<Budget>>,
    pub(crate) config: Arc<SessionConfig>,
    pub(crate) meters: Arc<Meters>,
    /// The virtual monotonic clock.
    pub(crate) now: u64,
}

impl Hub {
    pub(crate) fn new(sizes: &Sizes) -> Self {
        let store = Store::new(sizes.ring_bytes);
        let registry = Registry::new();
        let mailboxes: Vec<Requests> = (0..sizes.threads).map(|_| Requests::new(sizes.requests)).collect();
        let mut writers: Vec<Vec<_>> = (0..sizes.threads).map(|_| Vec::new()).collect();
        let budget = sizes.budget.map(|bytes| Budget::new(bytes, 2));
        let workers = (0..2)
            .map(|index| {
                let (wake, dropped) = (Arc::new(Wake::default()), Arc::new(AtomicU64::new(0)));
                let lanes = writers.iter_mut().map(|writers| {
                    let counter = metrics::Counter::from_arc(Arc::clone(&dropped));
                    let (writer, reader) = lane(sizes.lane_events, Arc::clone(&wake), counter);
                    writers.push(writer);
                    reader
                });
                let lanes = lanes.collect();
                let requests = (0..VENUES.len()).map(|feed| mailboxes[feed % sizes.threads].clone()).collect();
                let mut fanout = Fanout::new(index, Arc::clone(&store), sizes.outbox, requests, None);
                if let Some(budget) = &budget {
                    fanout.share(Arc::clone(budget));
                }
                let (sockets, seen) = (Sockets::default(), Rc::new(Vec::new()));
                Worker { fanout, lanes, sockets, dropped, known: 0, seen, changes: [0; 2] }
            })
            .collect();
        let door = |(thread, writers)| {
            Ingest::new(Arc::clone(&store), Arc::clone(&registry), thread, writers, mailboxes[thread].clone())
        };
        let config = SessionConfig {
            commands_per_second: 1_000_000,
            outbox_events_max: sizes.outbox.events_max,
            outbox_bytes_max: sizes.outbox.bytes_max,
            ..SessionConfig::default()
        };
        Self {
            ingests: writers.into_iter().enumerate().map(door).collect(),
            feeds: [None, None],
            workers,
            config: Arc::new(config),
            meters: Arc::new(Meters::new(&registry)),
            now: 1_000_000_000,
            budget,
            store,
        }
    }

    pub(crate) fn register_feed(&mut self, feed: usize) {
        let (venue, epoch) = VENUES[feed];
        let door = &self.ingests[feed % self.ingests.len()];
        self.feeds[feed] = door.feed(venue, epoch, UnixNanos(self.wall()));
    }

    pub(crate) fn wall(&self) -> i64 {
        WALL + self.now as i64
    }

    pub(crate) fn clocks(&self) -> Now {
        Now { mono: self.now, wall: UnixNanos(self.wall()) }
    }

    /// Opens a session on a worker, with a socket that takes everything.
    pub(crate) fn open(&mut self, worker: usize, name: &str, format: Format) -> Session {
        let now = self.clocks();
        let worker = &mut self.workers[worker];
        let (config, meters) = (Arc::clone(&self.config), Arc::clone(&self.meters));
        let session = Session::open(&mut worker.fanout, (name, format), config, meters, None, Vec::new(), now);
        let index = session.id() as usize;
        let sockets = &mut worker.sockets.0;
        if sockets.len() <= index {
            sockets.resize_with(index + 1, || None);
        }
        sockets[index] = Some(Socket::default());
        session
    }

    /// Forgets a session and its socket.
    pub(crate) fn close(&mut self, worker: usize, session: SessionId) {
        self.workers[worker].sockets.0[session as usize] = None;
        self.workers[worker].fanout.close(session);
    }
}
