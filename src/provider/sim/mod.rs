//! The simulated venue: a seeded market that needs no network, misbehaving on demand.
//!
//! What happens is decided by the seed alone (`market`), when it happens by an absolute
//! schedule (`schedule`); this file runs the two against the clock. `ts` is the planned time of
//! an event, so receive time minus `ts` hides no delay of the generator.

mod config;
mod faults;
mod market;
mod schedule;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::time::Instant;

pub use config::{Config, Fault, FaultKind, Rate};
pub use faults::SimControl;

use self::faults::{Faults, Happening};
use self::market::{Market, SimEvent, SimKind};
use self::schedule::Schedule;
use super::{Provider, ProviderError, Pulse};
use crate::ingest::{Feed, Instrument};
use crate::metrics::{self, Histogram};
use crate::model::{FeedState, InstrumentDefinition, InstrumentId, Received, StreamKind, UnixNanos};
use crate::shutdown::Stop;
use crate::time;

/// Events between two readings of the clock and two turns of the thread's other tasks: about
/// 50 µs of work.
const BATCH: u64 = 128;
/// Instruments claimed or snapshots made in one turn.
const CLAIMS_PER_TURN: usize = 256;
/// A sign of life at least this often, as a venue's own ping would be.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Time before an event that busy waiting begins: timers have a resolution of 1 ms, rounded up.
const SPIN: Duration = Duration::from_millis(2);

/// The simulated venue.
pub struct Sim {
    market: Market,
    schedule: Schedule,
    faults: Faults,
    instruments: Vec<Instrument>,
    /// Number of the next event.
    event: u64,
    /// What is lost on the way and not yet announced.
    losses: BTreeMap<(usize, StreamLost), u64>,
    pulse: Pulse,
    busy_wait: bool,
}

/// Whose events were lost on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum StreamLost {
    Quote,
    Trade,
    Book,
}

/// Where the schedule meets the clocks.
struct Pace {
    started: Instant,
    wall: UnixNanos,
    offset_ns: u64,
    lateness: Arc<Histogram>,
}

impl Pace {
    fn start(schedule: &Schedule, lateness: Arc<Histogram>) -> Self {
        Self { started: Instant::now(), wall: time::wall(), offset_ns: schedule.planned_ns(), lateness }
    }

    /// The planned time that is now.
    fn due_ns(&self) -> u64 {
        time::duration_ns(self.started.elapsed()) + self.offset_ns
    }

    fn ts(&self, planned_ns: u64) -> UnixNanos {
        UnixNanos(self.wall.0 + (planned_ns - self.offset_ns) as i64)
    }

    fn instant(&self, planned_ns: u64) -> Instant {
        self.started + Duration::from_nanos(planned_ns - self.offset_ns)
    }
}

impl Sim {
    /// A market that has not begun. `config` must have passed [`Config::check`].
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            market: Market::new(config),
            schedule: Schedule::new(config),
            faults: Faults::new(config),
            instruments: Vec::new(),
            event: 0,
            losses: BTreeMap::new(),
            pulse: Pulse::default(),
            busy_wait: config.busy_wait,
        }
    }

    /// A handle that makes it misbehave while it runs.
    #[must_use]
    pub fn control(&self) -> SimControl {
        self.faults.control()
    }

    async fn play(&mut self, feed: &Feed, mut stop: Stop) -> Result<(), ProviderError> {
        let beat = self.pulse.connection();
        self.pulse.settle(feed, FeedState::Recovering, "connected");
        self.restore_books(feed).await;
        self.list(feed).await?;
        self.announce_losses(time::received());
        self.pulse.settle(feed, FeedState::Live, "");
        let lateness = feed.registry().histogram(metrics::SIM_LATENESS, &[("venue", feed.venue())]);
        let mut pace = Pace::start(&self.schedule, lateness);
        while !stop.is_stopped() {
            while let Some(fault) = self.faults.due(self.event) {
                match self.misbehave(feed, fault).await? {
                    Happening::Nothing => {}
                    Happening::Silence(silence) => {
                        if stop.sleep(silence).await {
                            return Ok(());
                        }
                        // What would have come meanwhile never was.
                        pace = Pace::start(&self.schedule, Arc::clone(&pace.lateness));
                    }
                }
            }
            beat.beat();
            if self.batch(&pace) {
                feed.yield_now().await;
                continue;
            }
            let now = Instant::now();
            let mut next = pace.instant(self.schedule.planned_ns()).min(now + PING_EVERY);
            if self.busy_wait {
                if next < now + SPIN {
                    feed.yield_now().await;
                    continue;
                }
                next -= SPIN;
            }
            tokio::select! {
                () = stop.stopped() => {}
                () = self.faults.demanded() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
        Ok(())
    }

    /// Publishes what is due, up to a batch and up to the next fault; says whether there may be
    /// more at once.
    fn batch(&mut self, pace: &Pace) -> bool {
        let received = time::received();
        let paced = self.schedule.is_paced();
        let due_ns = pace.due_ns();
        let events = BATCH.min(self.faults.events_until(self.event));
        for _ in 0..events {
            let planned_ns = self.schedule.planned_ns();
            if paced && planned_ns > due_ns {
                return false;
            }
            let ts = if paced {
                pace.lateness.record(due_ns - planned_ns);
                pace.ts(planned_ns)
            } else {
                // There is no plan to be late for.
                received.wall.unwrap_or(pace.wall)
            };
            self.schedule.advance();
            self.event += 1;
            let event = self.market.next(ts);
            self.publish(received, &event);
        }
        true
    }

    #[inline]
    fn publish(&mut self, received: Received, event: &SimEvent) {
        if self.faults.drops_one() {
            self.lose(event);
            if !self.faults.is_dropping() {
                self.announce_losses(received);
            }
            return;
        }
        let instrument = &mut self.instruments[event.instrument];
        match &event.kind {
            SimKind::Quote(quote) => instrument.quote(received, quote),
            SimKind::Trade(trade) => instrument.trade(received, trade),
            SimKind::Book(change) => {
                // A book that is not live was crossed on demand; it waits for its snapshot.
                let applied = instrument.book_delta(received, Some(change.ts_event), change.bids(), change.asks());
                if applied.is_err() {
                    self.snapshot(received, event.instrument, Some(change.ts_event));
                }
            }
        }
    }

    fn snapshot(&mut self, received: Received, instrument: usize, ts: Option<UnixNanos>) {
        let (bids, asks) = self.market.book(instrument);
        // The market's books are valid by construction; ingest counts it if one is not.
        let _ = self.instruments[instrument].book_snapshot(received, ts, &bids, &asks);
    }

    /// Makes whole the books of an earlier run: the venue would send snapshots, so it does too.
    async fn restore_books(&mut self, feed: &Feed) {
        for instrument in 0..self.instruments.len() {
            if self.market.has_books() {
                self.snapshot(time::received(), instrument, None);
            }
            if instrument % CLAIMS_PER_TURN == CLAIMS_PER_TURN - 1 {
                feed.yield_now().await;
            }
        }
    }

    /// Claims every instrument of the market that is not yet claimed.
    async fn list(&mut self, feed: &Feed) -> Result<(), ProviderError> {
        while self.instruments.len() < self.market.len() {
            let index = self.instruments.len();
            let symbol = market::symbol(index);
            let id = InstrumentId::new(feed.venue(), &symbol).map_err(|e| ProviderError::Config(e.to_string()))?;
            let base = symbol.split('-').next().map(str::to_owned);
            let definition = InstrumentDefinition { id, base, quote: Some("USD".to_owned()), raw_symbol: symbol };
            let claimed = feed.claim(definition).map_err(|e| ProviderError::Config(e.to_string()))?;
            self.instruments.push(claimed);
            if self.market.has_books() {
                self.snapshot(time::received(), index, None);
            }
            if index % CLAIMS_PER_TURN == CLAIMS_PER_TURN - 1 {
                feed.yield_now().await;
            }
        }
        Ok(())
    }

    async fn misbehave(&mut self, feed: &Feed, fault: Fault) -> Result<Happening, ProviderError> {
        tracing::info!(venue = feed.venue(), ?fault, event = self.event, "misbehaving on demand");
        match fault.kind {
            FaultKind::Stale => return Ok(Happening::Silence(fault.lasts.duration())),
            FaultKind::Drop => self.faults.drop_next(fault.count),
            FaultKind::Cross => self.cross(fault.instrument as usize),
            FaultKind::Late => {
                self.market.list(fault.count.min(config::INSTRUMENTS_MAX - self.market.len() as u32));
                self.list(feed).await?;
            }
            FaultKind::Disconnect => {
                for _ in 0..fault.count {
                    let event = self.market.next(time::wall());
                    self.lose(&event);
                }
                let received = time::received();
                for (index, instrument) in self.instruments.iter_mut().enumerate() {
                    let lost = self.losses.remove(&(index, StreamLost::Book));
                    if instrument.book_is_live() {
                        instrument.book_lost(received, lost);
                    }
                }
                return Err(ProviderError::Closed { code: Some(1001), reason: "on demand".to_owned(), source: None });
            }
        }
        Ok(Happening::Nothing)
    }

    /// Hands in a change that crosses a book, and then what a venue sends when asked again.
    fn cross(&mut self, instrument: usize) {
        let received = time::received();
        let Some(crossed) = self.instruments.get_mut(instrument).filter(|i| i.book_is_live()) else { return };
        // The error is the point. The instrument's next book change brings the snapshot.
        let _ = crossed.book_delta(received, None, &[self.market.crossing_bid(instrument)], &[]);
    }

    fn lose(&mut self, event: &SimEvent) {
        let kind = match event.kind {
            SimKind::Quote(_) => StreamLost::Quote,
            SimKind::Trade(_) => StreamLost::Trade,
            SimKind::Book(_) => StreamLost::Book,
        };
        *self.losses.entry((event.instrument, kind)).or_default() += 1;
    }

    fn announce_losses(&mut self, received: Received) {
        for ((instrument, kind), events) in std::mem::take(&mut self.losses) {
            let writer = &mut self.instruments[instrument];
            match kind {
                StreamLost::Quote => writer.lost(received, StreamKind::Quote, Some(events)),
                StreamLost::Trade => writer.lost(received, StreamKind::Trade, Some(events)),
                StreamLost::Book => {
                    writer.book_lost(received, Some(events));
                    self.snapshot(received, instrument, None);
                }
            }
        }
    }
}

impl Provider for Sim {
    fn run<'a>(&'a mut self, feed: &'a Feed, stop: Stop) -> LocalBoxFuture<'a, Result<(), ProviderError>> {
        self.play(feed, stop).boxed_local()
    }

    fn pulse(&self) -> Option<Pulse> {
        Some(self.pulse.clone())
    }
}
