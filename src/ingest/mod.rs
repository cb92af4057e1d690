//! The only door from providers to the store: claim, stamp, number, store, encode, publish.
//!
//! Everything here belongs to one feed thread and is neither `Send` nor locked. A provider gets a
//! [`Feed`], claims its instruments on it, and tells each [`Instrument`] what the venue said.

mod delay;
mod instrument;
mod publisher;
mod reject;
mod standalone;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::fanout::{Event, LaneWriter, Requests};
use crate::limits::CAUSE_BYTES_MAX;
use crate::metrics::{self, Counter, Gauge, Registry};
use crate::model::{FeedState, InstrumentDefinition, InstrumentKey, Received, StreamKind, UnixNanos};
use crate::shutdown::Stop;
use crate::store::{FeedStatus, Store};
use crate::wire;

pub use crate::model::BookFault;
pub use delay::{Delayed, LineReader, LineWriter, delay_line};
pub use instrument::{Instrument, QuoteSource};
pub use reject::{Reject, sanitized};
pub use standalone::{Standalone, standalone};

pub use crate::store::ClaimError;

use delay::{CoreState, Taps};
use instrument::{Core, FeedCounters};
use publisher::Publisher;

/// How often a feed thread publishes its counts.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// At most one log line about rejects of one reason in this time.
const LOG_INTERVAL_NS: u64 = 10_000_000_000;

/// One feed thread's door. Cheap to clone; stays on its thread.
#[derive(Clone)]
pub struct Ingest {
    inner: Rc<Inner>,
}

struct Inner {
    publisher: Rc<Publisher>,
    registry: Arc<Registry>,
    requests: Requests,
    cores: RefCell<HashMap<InstrumentKey, Claimed>>,
    /// Whether what it is told was told before, to the live one.
    again: bool,
}

/// An instrument that was claimed at some time.
struct Claimed {
    core: std::rc::Weak<RefCell<Core>>,
    /// What its next writer must know of the last one's book.
    lost_depths: Rc<Cell<u8>>,
}

impl Ingest {
    /// The door of feed thread `thread`: what it publishes goes to `lanes`, one a worker; what
    /// workers ask of it comes through `requests`.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        registry: Arc<Registry>,
        thread: usize,
        lanes: Vec<LaneWriter>,
        requests: Requests,
    ) -> Self {
        let publisher = Publisher::new(store, lanes, &registry, thread);
        Self::of(publisher, registry, requests, false)
    }

    /// The same, and what providers tell it goes into `lines` too, one a delayed world.
    #[must_use]
    pub fn with_lines(
        store: Arc<Store>,
        registry: Arc<Registry>,
        thread: usize,
        lanes: Vec<LaneWriter>,
        requests: Requests,
        lines: Vec<LineWriter>,
    ) -> Self {
        Self::with_lines_at(store, registry, (thread, lanes), requests, (lines, crate::time::mono))
    }

    fn with_lines_at(
        store: Arc<Store>,
        registry: Arc<Registry>,
        (thread, lanes): (usize, Vec<LaneWriter>),
        requests: Requests,
        (lines, clock): (Vec<LineWriter>, fn() -> u64),
    ) -> Self {
        let mut publisher = Publisher::new(store, lanes, &registry, thread);
        if !lines.is_empty() {
            publisher.numbers_all = true;
            publisher.taps = Some(Taps::new(lines, clock));
        }
        Self::of(publisher, registry, requests, false)
    }

    /// The door of a delayed world's thread.
    fn delayed(
        store: Arc<Store>,
        registry: Arc<Registry>,
        thread: usize,
        lanes: Vec<LaneWriter>,
        requests: Requests,
    ) -> Self {
        let mut publisher = Publisher::new(store, lanes, &registry, thread);
        publisher.numbers_all = true;
        Self::of(publisher, registry, requests, true)
    }

    fn of(publisher: Publisher, registry: Arc<Registry>, requests: Requests, again: bool) -> Self {
        let (publisher, cores) = (Rc::new(publisher), RefCell::default());
        Self { inner: Rc::new(Inner { publisher, registry, requests, cores, again }) }
    }

    /// The mailbox of what workers ask.
    fn requests(&self) -> Requests {
        self.inner.requests.clone()
    }

    /// Makes the instruments of `live` up to `key` known here too, and tells workers of them.
    fn reveal(&self, live: &Store, key: InstrumentKey) {
        let publisher = &self.inner.publisher;
        for key in publisher.store.mirror(live, key).map(InstrumentKey) {
            publisher.broadcast(|| Event::Instrument(key));
        }
    }

    /// Brings delayed worlds up to date where something was dropped on its way to them, and there
    /// is room for it again.
    fn heal(&self) {
        let Inner { publisher, cores, .. } = &*self.inner;
        let Some(taps) = &publisher.taps else { return };
        taps.heal(&publisher.store, |key| {
            let cores = cores.borrow();
            let claimed = cores.get(&key);
            let core = claimed.and_then(|claimed| claimed.core.upgrade());
            let unclaimed = || {
                let lost = claimed.map_or(0, |claimed| claimed.lost_depths.get());
                CoreState::unclaimed(&publisher.store, key, lost)
            };
            core.as_ref().map_or_else(unclaimed, |core| core.borrow().state())
        });
    }

    /// Lets the thread's other work run. Before it what is published goes to the workers.
    async fn yield_now(&self) {
        self.inner.publisher.flush();
        tokio::task::yield_now().await;
    }

    /// The feed of `venue`, whose numbering's epoch is `epoch`; `None` where there are too many.
    #[must_use]
    pub fn feed(&self, venue: &str, epoch: &str, now: UnixNanos) -> Option<Feed> {
        let index = self.inner.publisher.store.feed_of(venue, epoch, now)?;
        let registry = &self.inner.registry;
        let event = |kind| registry.counter(metrics::EVENTS, &[("venue", venue), ("kind", kind)]);
        let faults: Vec<(BookFault, Counter)> =
            [BookFault::Crossed, BookFault::Impossible, BookFault::TooDeep, BookFault::NoSnapshot]
                .into_iter()
                .map(|f| (f, registry.counter(metrics::BOOK_FAULTS, &[("venue", venue), ("reason", f.as_str())])))
                .collect();
        let counters = Rc::new(FeedCounters {
            quotes: event("quote"),
            trades: event("trade"),
            stats: event("stats"),
            books: event("book"),
            gaps: registry.counter(metrics::UPSTREAM_GAPS, &[("venue", venue)]),
            book_fault: Box::new(move |fault| {
                if let Some((_, counter)) = faults.iter().find(|(f, _)| *f == fault) {
                    counter.increment(1);
                }
            }),
        });
        let states = FeedState::ALL
            .map(|state| registry.gauge(metrics::FEED_STATE, &[("venue", venue), ("state", state.as_str())]));
        let rejects = Reject::ALL
            .map(|reason| registry.counter(metrics::REJECTS, &[("venue", venue), ("reason", reason.as_str())]));
        let feed = Feed {
            inner: Rc::new(FeedInner {
                ingest: self.clone(),
                venue: venue.to_owned(),
                index,
                counters,
                states,
                rejects,
                reject_counts: std::array::from_fn(|_| Cell::new(0)),
                logged: std::array::from_fn(|_| Cell::new(0)),
            }),
        };
        feed.report_state(feed.state());
        Some(feed)
    }

    /// Answers what workers ask and publishes counts until the stop. Runs beside the providers
    /// on the feed thread.
    pub async fn serve(&self, mut stop: Stop) {
        let mut report = tokio::time::interval(REPORT_INTERVAL);
        report.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.serve_requests();
            tokio::select! {
                () = stop.stopped() => break,
                () = self.inner.requests.sent() => {}
                _ = report.tick() => {
                    self.heal();
                    self.inner.publisher.report();
                }
            }
        }
        self.inner.publisher.report();
    }

    /// Answers what workers have asked so far.
    pub fn serve_requests(&self) {
        while let Some(request) = self.inner.requests.take() {
            let core = self.inner.cores.borrow().get(&request.stream.key).and_then(|claimed| claimed.core.upgrade());
            if let (Some(core), StreamKind::Book(depth)) = (core, request.stream.kind) {
                core.borrow_mut().book_wanted(depth, request.worker, request.format);
            }
        }
    }
}

/// One provider's door: its venue, its state, its instruments. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    inner: Rc<FeedInner>,
}

struct FeedInner {
    ingest: Ingest,
    venue: String,
    index: u8,
    counters: Rc<FeedCounters>,
    states: [Gauge; 4],
    rejects: [Counter; Reject::ALL.len()],
    reject_counts: [Cell<u64>; Reject::ALL.len()],
    logged: [Cell<u64>; Reject::ALL.len()],
}

impl Feed {
    /// The venue that it publishes.
    #[must_use]
    pub fn venue(&self) -> &str {
        &self.inner.venue
    }

    /// Where the provider's own metrics are registered.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.inner.ingest.inner.registry
    }

    /// Lets the thread's other work run. Before it what is published goes to the workers, who are
    /// else woken when the thread sleeps: a provider that loops without sleeping yields by this.
    pub async fn yield_now(&self) {
        self.inner.ingest.yield_now().await;
    }

    /// The feed's state.
    #[must_use]
    pub fn state(&self) -> FeedState {
        self.stored().map_or(FeedState::Down, |feed| feed.status().state)
    }

    fn stored(&self) -> Option<&crate::store::Feed> {
        self.inner.ingest.inner.publisher.store.feed(self.inner.index)
    }

    /// Changes the feed's state and tells every subscriber of it; if it is that already, only the
    /// cause that health shows is renewed.
    /// `cause` is cut and sanitized.
    pub fn set_state(&self, state: FeedState, cause: &str, now: UnixNanos) {
        let Some(feed) = self.stored() else { return };
        let cause = sanitized(&cause.as_bytes()[..cause.len().min(CAUSE_BYTES_MAX)]);
        let now_is = feed.status();
        let changes = now_is.state != state || *now_is.cause != *cause;
        if changes && let Some(taps) = &self.inner.ingest.inner.publisher.taps {
            taps.state(self.inner.index, state, &cause, now);
        }
        if now_is.state == state {
            // No change to tell of, but health shows the newest cause: the first may be long over.
            if *now_is.cause != *cause {
                feed.set_status(FeedStatus { cause: cause.as_str().into(), ..now_is });
            }
            return;
        }
        if !self.inner.ingest.inner.again {
            tracing::info!(venue = self.venue(), state = state.as_str(), cause, "feed state");
        }
        let changes = now_is.changes + 1;
        feed.set_status(FeedStatus { state, cause: cause.as_str().into(), since: now, changes });
        self.report_state(state);
        let labels = [("venue", self.venue()), ("state", state.as_str())];
        self.registry().counter(metrics::FEED_CHANGES, &labels).increment(1);
        let frame = wire::json::status(&format!("{}:*", self.venue()), state, &cause, now);
        let index = self.inner.index;
        self.inner.ingest.inner.publisher.broadcast(|| Event::Feed {
            feed: index,
            changes,
            state,
            frame: frame.clone(),
        });
    }

    fn report_state(&self, state: FeedState) {
        for (gauge, of) in self.inner.states.iter().zip(FeedState::ALL) {
            gauge.set(f64::from(u8::from(of == state)));
        }
    }

    /// Says which of the venue's symbols are left out: they cannot be written as an id, or
    /// another has theirs. Health lists them.
    pub fn set_left_out(&self, symbols: &[String]) {
        let listed: Vec<String> = symbols.iter().map(|symbol| sanitized(symbol.as_bytes())).collect();
        if let Some(taps) = &self.inner.ingest.inner.publisher.taps {
            taps.left_out(self.inner.index, &listed);
        }
        if let Some(feed) = self.stored() {
            feed.set_left_out(listed);
        }
        let labels = [("venue", self.venue())];
        self.registry().gauge(metrics::FEED_SYMBOLS_SKIPPED, &labels).set(symbols.len() as f64);
    }

    /// Claims an instrument whose quotes come from the venue's own stream.
    ///
    /// # Errors
    /// [`ClaimError`] where another has it, or there is no room.
    pub fn claim(&self, definition: InstrumentDefinition) -> Result<Instrument, ClaimError> {
        self.claim_with(definition, QuoteSource::Venue)
    }

    /// Claims an instrument.
    ///
    /// # Errors
    /// [`ClaimError`] where another has it, or there is no room.
    pub fn claim_with(&self, definition: InstrumentDefinition, quotes: QuoteSource) -> Result<Instrument, ClaimError> {
        let ingest = &self.inner.ingest.inner;
        let id = definition.id.clone();
        let (writer, new) = ingest.publisher.store.claim(definition, self.inner.index)?;
        let key = writer.key();
        if new {
            ingest.publisher.broadcast(|| Event::Instrument(key));
        }
        if let Some(taps) = &ingest.publisher.taps {
            taps.of(key).claim(self.inner.index, quotes);
        }
        let mut cores = ingest.cores.borrow_mut();
        let lost_depths = cores.get(&key).map(|claimed| Rc::clone(&claimed.lost_depths)).unwrap_or_default();
        let (publisher, counters) = (Rc::clone(&ingest.publisher), Rc::clone(&self.inner.counters));
        let core = Core::new(id, writer, publisher, counters, quotes, Rc::clone(&lost_depths));
        let core = Rc::new(RefCell::new(core));
        cores.insert(key, Claimed { core: Rc::downgrade(&core), lost_depths });
        Ok(Instrument::new(core))
    }

    /// Counts an upstream message, or a part of one, as refused; says so in the log at most once
    /// a period and reason, with `text` cut and sanitized.
    pub fn reject(&self, reason: Reject, text: &[u8]) {
        let index = reason as usize;
        self.inner.rejects[index].increment(1);
        let count = self.inner.reject_counts[index].get() + 1;
        self.inner.reject_counts[index].set(count);
        let now = crate::time::mono().max(1);
        let last = self.inner.logged[index].get();
        if last == 0 || now.saturating_sub(last) >= LOG_INTERVAL_NS {
            self.inner.logged[index].set(now);
            let text = sanitized(text);
            tracing::warn!(venue = self.venue(), reason = reason.as_str(), count, text, "upstream message refused");
        }
    }

    /// How many were refused so far, by reason; those without any left out.
    #[must_use]
    pub fn rejects(&self) -> Vec<(Reject, u64)> {
        let counts = self.inner.reject_counts.iter().map(Cell::get);
        Reject::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect()
    }

    /// Answers what workers have asked of this feed's thread so far: for a provider whose batch
    /// is long.
    pub fn serve_requests(&self) {
        self.inner.ingest.serve_requests();
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if let Some(recorder) = self.recorder() {
            recorder.release();
        }
        // The connection that wrote it is gone: what its book was is no longer known.
        self.book_lost(Received { wall: None, mono: 0 }, None);
        self.leave_lost_depths();
    }
}
