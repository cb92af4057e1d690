//! The delayed side: what was recorded, told to an ingest of its own once it is due.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::LineReader;
use super::record::{Cursor, HEAD_WORDS, Kind, len_of};
use super::state::CoreState;
use crate::fanout::{LaneWriter, Requests};
use crate::ingest::{Feed, Ingest, Instrument, QuoteSource};
use crate::metrics::Registry;
use crate::model::{BookLevel, FeedState, InstrumentKey, Received, Stats, StreamKind, Ticker};
use crate::shutdown::Stop;
use crate::store::Store;
use crate::sync::Ordering;
use crate::time;

/// Records that are told before requests of workers get their turn.
const BATCH_RECORDS: usize = 1024;

/// How long the thread sleeps at most: nothing wakes it for a record, so that recording costs the
/// feed thread no syscall, but none is due before its delay has passed.
const SLEEP_MAX: Duration = Duration::from_millis(50);

/// How often it publishes its counts.
const REPORT_INTERVAL_NS: u64 = 100_000_000;

/// One feed thread's share of a delayed world. Stays on its thread.
pub struct Delayed {
    ingest: Ingest,
    /// Where definitions and feeds are looked up: both stay as they are once they are there.
    live: Arc<Store>,
    line: LineReader,
    /// The record that is being told.
    record: Vec<u64>,
    feeds: Vec<Option<Feed>>,
    instruments: FxHashMap<u32, Instrument>,
    bids: Vec<BookLevel>,
    asks: Vec<BookLevel>,
    told: u64,
    /// How long behind its time a record was told, at most since it was last published; ns.
    late_most: u64,
    reported: u64,
}

impl Delayed {
    /// Tells what `line` brings to `store`, and publishes it to `lanes`, one a worker of that world;
    /// what they ask comes through `requests`. `live` is the store of what is recorded.
    #[must_use]
    pub fn new(
        live: Arc<Store>,
        store: Arc<Store>,
        thread: usize,
        lanes: Vec<LaneWriter>,
        requests: Requests,
        line: LineReader,
    ) -> Self {
        // What ingest counts was counted when it was live.
        let uncounted = Registry::new();
        let ingest = Ingest::delayed(store, uncounted, thread, lanes, requests);
        Self {
            ingest,
            live,
            line,
            record: Vec::new(),
            feeds: Vec::new(),
            instruments: FxHashMap::default(),
            bids: Vec::new(),
            asks: Vec::new(),
            told: 0,
            late_most: 0,
            reported: 0,
        }
    }

    /// Tells what is due until the stop, and answers what workers ask.
    pub async fn serve(mut self, mut stop: Stop) {
        let requests = self.ingest.requests();
        while !stop.is_stopped() {
            let now = time::mono();
            let next = self.tell_due(now, BATCH_RECORDS);
            self.ingest.serve_requests();
            if now.saturating_sub(self.reported) >= REPORT_INTERVAL_NS {
                self.report(now);
            }
            let now = time::mono();
            if next.is_some_and(|due| due <= now) {
                self.ingest.yield_now().await;
                continue;
            }
            let delay = Duration::from_nanos(self.line.delay_ns);
            let sleep = next.map_or(delay, |due| Duration::from_nanos(due - now)).min(SLEEP_MAX);
            tokio::select! {
                () = stop.stopped() => break,
                () = requests.sent() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Tells what is due at `now`, at most `records_max` of it; when the next is due, if there is
    /// one. Monotonic ns.
    pub fn tell_due(&mut self, now: u64, records_max: usize) -> Option<u64> {
        for _ in 0..records_max {
            let due = self.due()?;
            if due > now {
                return Some(due);
            }
            self.late_most = self.late_most.max(now - due);
            self.take()?;
            let told = self.tell(now);
            debug_assert!(told.is_some(), "a record that cannot be read");
            self.told += 1;
        }
        self.due()
    }

    /// When the oldest record is due.
    fn due(&mut self) -> Option<u64> {
        self.oldest().map(|at| at.saturating_add(self.line.delay_ns))
    }

    /// When the oldest record was made.
    fn oldest(&mut self) -> Option<u64> {
        // Records come whole or not at all.
        let head = self.line.words.read_chunk(2).ok()?;
        let (first, second) = head.as_slices();
        first.iter().chain(second).nth(1).copied()
    }

    /// Takes the oldest record out of the line.
    fn take(&mut self) -> Option<()> {
        let first = *self.line.words.peek().ok()?;
        let words = self.line.words.read_chunk(len_of(first).max(HEAD_WORDS)).ok()?;
        let (head, tail) = words.as_slices();
        self.record.clear();
        self.record.extend_from_slice(head);
        self.record.extend_from_slice(tail);
        words.commit_all();
        Some(())
    }

    /// Tells one record; `None` where it is none.
    fn tell(&mut self, mono: u64) -> Option<()> {
        let record = std::mem::take(&mut self.record);
        let told = self.tell_record(&record, mono);
        self.record = record;
        told
    }

    fn tell_record(&mut self, record: &[u64], mono: u64) -> Option<()> {
        let (kind, about, mut cursor) = Cursor::open(record)?;
        match kind {
            Kind::State | Kind::LeftOut => self.tell_feed(kind, u8::try_from(about).ok()?, &mut cursor),
            Kind::Claim => {
                let (feed, quotes) = (u8::try_from(cursor.word()?).ok()?, cursor.word()?);
                self.claim(about, feed, if quotes == 0 { QuoteSource::Venue } else { QuoteSource::Book })
            }
            Kind::Release => {
                self.instruments.remove(&about);
                Some(())
            }
            Kind::Resync => self.resync(about, &CoreState::read(&mut cursor)?, mono),
            _ => self.tell_instrument(kind, about, &mut cursor, mono),
        }
    }

    fn tell_feed(&mut self, kind: Kind, index: u8, cursor: &mut Cursor<'_>) -> Option<()> {
        let feed = self.feed(index)?;
        if kind == Kind::State {
            let state = *FeedState::ALL.get(usize::try_from(cursor.word()?).ok()?)?;
            let since = cursor.time()??;
            feed.set_state(state, &cursor.text()?, since);
        } else {
            let symbols: Option<Vec<String>> = (0..cursor.word()?).map(|_| cursor.text()).collect();
            feed.set_left_out(&symbols?);
        }
        Some(())
    }

    fn tell_instrument(&mut self, kind: Kind, key: u32, cursor: &mut Cursor<'_>, mono: u64) -> Option<()> {
        let Self { instruments, bids, asks, .. } = self;
        let instrument = instruments.get_mut(&key)?;
        let received = Received { wall: cursor.time()?, mono };
        match kind {
            Kind::Quote => instrument.quote(received, &cursor.value()?),
            Kind::Trade => instrument.trade(received, &cursor.value_head()?),
            Kind::Stats => {
                let Ticker { ts_event, open, high, low, volume, .. } = cursor.value()?;
                instrument.stats(received, &Stats { ts_event, open, high, low, volume });
            }
            Kind::Lost => {
                let kind = *StreamKind::ALL.get(usize::try_from(cursor.word()?).ok()?)?;
                instrument.lost(received, kind, cursor.count()?);
            }
            // What was no book when it was live is none now, with the same consequences.
            Kind::BookSnapshot => {
                let ts_event = cursor.time()?;
                cursor.levels(bids, asks)?;
                let _ = instrument.book_snapshot(received, ts_event, bids, asks);
            }
            Kind::BookDelta => {
                let ts_event = cursor.time()?;
                cursor.levels(bids, asks)?;
                let _ = instrument.book_delta(received, ts_event, bids, asks);
            }
            Kind::BookLost => instrument.book_lost(received, cursor.count()?),
            Kind::State | Kind::LeftOut | Kind::Claim | Kind::Release | Kind::Resync => return None,
        }
        Some(())
    }

    /// The feed of an index, made known together with those before it.
    fn feed(&mut self, index: u8) -> Option<&Feed> {
        let at = usize::from(index);
        for (known, feed) in self.live.feeds().take(at + 1) {
            if usize::from(known) >= self.feeds.len() {
                self.feeds.push(self.ingest.feed(&feed.venue, &feed.epoch, feed.first().since));
            }
        }
        self.feeds.get(at)?.as_ref()
    }

    fn claim(&mut self, key: u32, feed: u8, quotes: QuoteSource) -> Option<()> {
        self.feed(feed)?;
        self.ingest.reveal(&self.live, InstrumentKey(key));
        let definition = self.live.definition(InstrumentKey(key))?.clone();
        let instrument = self.feed(feed)?.claim_with(definition, quotes).ok()?;
        self.instruments.insert(key, instrument);
        Some(())
    }

    /// Goes on from what was known of an instrument when there was room for it again.
    fn resync(&mut self, key: u32, state: &CoreState, mono: u64) -> Option<()> {
        if !self.instruments.contains_key(&key) {
            let feed = self.live.feed_index(InstrumentKey(key))?;
            self.claim(key, feed, QuoteSource::Venue)?;
        }
        self.instruments.get(&key)?.adopt(state, mono);
        if !state.claimed {
            self.instruments.remove(&key);
        }
        Some(())
    }

    /// Answers what workers have asked so far.
    #[cfg(test)]
    pub(super) fn serve_requests(&self) {
        self.ingest.serve_requests();
    }

    /// What is known of an instrument.
    #[cfg(test)]
    pub(super) fn instrument(&self, key: InstrumentKey) -> Option<CoreState> {
        self.instruments.get(&key.0).map(Instrument::state)
    }

    /// How many are claimed.
    #[cfg(test)]
    pub(super) fn instruments(&self) -> usize {
        self.instruments.len()
    }

    fn report(&mut self, now: u64) {
        self.reported = now;
        let held = self.line.words.slots() * size_of::<u64>();
        let age = self.oldest().map_or(0, |at| now.saturating_sub(at));
        let late = std::mem::take(&mut self.late_most);
        let meters = &self.line.meters;
        let recorded = meters.recorded.load(Ordering::Relaxed);
        meters.records.set(recorded.saturating_sub(self.told) as f64);
        meters.bytes.set(held as f64);
        meters.age.set(age as f64 / 1e9);
        meters.lag.set(late as f64 / 1e9);
    }
}
