//! The one writer of an instrument: numbers, stores, encodes and publishes what it is told.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::delay::{CoreState, Recorder};
use super::publisher::{Publisher, Stage};
use crate::fanout::{BookUpdate, Event, Standing, Update};
use crate::metrics::Counter;
use crate::model::{
    Book, BookFault, BookLevel, BookSide, Depth, GapCause, InstrumentId, InstrumentKey, Quote, Received, Stats,
    StreamId, StreamKind, Ticker, Trade, UnixNanos, Window,
};
use crate::store::{BookChange, Interest, Stamp, Writer};
use crate::wire::{Format, Frame, Gap, Head, Payload};

/// Where an instrument's quotes come from; never from both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QuoteSource {
    /// The venue's own stream of best bid and offer.
    #[default]
    Venue,
    /// The top of the validated book.
    Book,
}

/// What is counted for a feed; shared by its instruments.
pub(super) struct FeedCounters {
    pub(super) quotes: Counter,
    pub(super) trades: Counter,
    pub(super) stats: Counter,
    pub(super) books: Counter,
    pub(super) gaps: Counter,
    pub(super) book_fault: Box<dyn Fn(BookFault)>,
}

/// When a book changed.
#[derive(Clone, Copy)]
pub(super) struct Change {
    pub(super) ts_event: Option<UnixNanos>,
    pub(super) received: Received,
}

/// The state of one book stream of an instrument.
pub(super) enum DepthState {
    /// Nobody wants it, or nobody has been served yet.
    Idle,
    /// Numbered; the window that its subscribers have, and the change that made it: a book may
    /// change below it.
    Live { window: Window, changed: Change },
    /// A gap was published; the next snapshot goes out under its number.
    Lost,
}

/// The writer behind an [`Instrument`], also reached by the requests of workers.
pub(super) struct Core {
    id: InstrumentId,
    pub(super) writer: Writer,
    pub(super) publisher: Rc<Publisher>,
    counters: Rc<FeedCounters>,
    pub(super) quotes: QuoteSource,
    pub(super) ticker: Ticker,
    pub(super) quote: Quote,
    pub(super) book: Option<Book>,
    pub(super) changed: Change,
    pub(super) depths: [DepthState; 4],
    /// One bit for each depth whose gap was published, for the next writer of the instrument: its
    /// first book goes out under the gap's number.
    lost_depths: Rc<Cell<u8>>,
    changes: (Vec<BookLevel>, Vec<BookLevel>),
}

/// The one writer of an instrument. Not `Clone`; dropping it ends the instrument's book and lets
/// another connection claim the instrument again.
pub struct Instrument {
    core: Rc<RefCell<Core>>,
}

impl Instrument {
    pub(super) fn new(core: Rc<RefCell<Core>>) -> Self {
        Self { core }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> InstrumentId {
        self.core.borrow().id.clone()
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> InstrumentKey {
        self.core.borrow().writer.key()
    }

    /// A quote: one `quote` event, and a `ticker` event if bid or ask are other than before.
    #[inline]
    pub fn quote(&mut self, received: Received, quote: &Quote) {
        let core = &mut *self.core.borrow_mut();
        core.counters.quotes.increment(1);
        if let Some(recorder) = core.recorder() {
            recorder.quote(received, quote);
        }
        core.quote(received, quote);
    }

    /// An execution: one `trade` event, and a `ticker` event.
    #[inline]
    pub fn trade(&mut self, received: Received, trade: &Trade) {
        let core = &mut *self.core.borrow_mut();
        if let Some(recorder) = core.recorder() {
            recorder.trade(received, trade);
        }
        core.trade(received, trade);
    }

    /// What the venue states of the day: a `ticker` event if it is other than before.
    pub fn stats(&mut self, received: Received, stats: &Stats) {
        let core = &mut *self.core.borrow_mut();
        core.counters.stats.increment(1);
        if let Some(recorder) = core.recorder() {
            recorder.stats(received, stats);
        }
        let Stats { ts_event, open, high, low, volume } = *stats;
        let ticker = Ticker { open, high, low, volume, ..core.ticker };
        core.ticker(received, Ticker { ts_event, ..ticker });
    }

    /// The venue's stream of `kind` (not a book) lost `lost` events: takes one number.
    pub fn lost(&mut self, received: Received, kind: StreamKind, lost: Option<u64>) {
        let core = &mut *self.core.borrow_mut();
        if let Some(recorder) = core.recorder() {
            recorder.lost(received, kind, lost);
        }
        core.lost(received, kind, lost);
    }

    /// A whole book: the first, or the one after a loss.
    ///
    /// # Errors
    /// [`BookFault`] where it cannot be a book; it is then lost.
    pub fn book_snapshot(
        &mut self,
        received: Received,
        ts_event: Option<UnixNanos>,
        bids: &[BookLevel],
        asks: &[BookLevel],
    ) -> Result<(), BookFault> {
        let core = &mut *self.core.borrow_mut();
        core.counters.books.increment(1);
        if let Some(recorder) = core.recorder() {
            recorder.book_snapshot(received, ts_event, (bids, asks));
        }
        let result = Book::from_snapshot(bids, asks).map(|book| core.book = Some(book));
        core.book_judged(result, received, ts_event)
    }

    /// Changed levels; size zero removes.
    ///
    /// # Errors
    /// [`BookFault`] where the result cannot be a book, which is then lost, or where there is no
    /// snapshot yet.
    pub fn book_delta(
        &mut self,
        received: Received,
        ts_event: Option<UnixNanos>,
        bids: &[BookLevel],
        asks: &[BookLevel],
    ) -> Result<(), BookFault> {
        let core = &mut *self.core.borrow_mut();
        core.counters.books.increment(1);
        if core.book.is_some()
            && let Some(recorder) = core.recorder()
        {
            recorder.book_delta(received, ts_event, (bids, asks));
        }
        let Some(book) = &mut core.book else { return Err(BookFault::NoSnapshot) };
        let result = book.apply(bids, asks);
        core.book_judged(result, received, ts_event)
    }

    /// The book is no longer known: cleared, a gap for those who have it, and nothing more until
    /// the next [`Self::book_snapshot`]. `lost` = how many of the venue's changes, where known.
    pub fn book_lost(&mut self, received: Received, lost: Option<u64>) {
        let core = &mut *self.core.borrow_mut();
        if let Some(recorder) = core.recorder() {
            recorder.book_lost(received, lost);
        }
        core.book_lost(received, lost);
    }

    /// All that is known of it.
    #[cfg(test)]
    pub(super) fn state(&self) -> CoreState {
        self.core.borrow().state()
    }

    /// Goes on from `state`, in place of calls that were dropped.
    pub(super) fn adopt(&self, state: &CoreState, mono: u64) {
        self.core.borrow_mut().adopt(state, mono);
    }

    /// Whether there is a valid book.
    #[must_use]
    pub fn book_is_live(&self) -> bool {
        self.core.borrow().book.is_some()
    }

    /// The levels of the book, best first; `None` where there is no valid one.
    #[must_use]
    pub fn book_levels(&self) -> Option<(Vec<BookLevel>, Vec<BookLevel>)> {
        let core = self.core.borrow();
        let side = |side| core.book.as_ref().map(|book| book.window(side, Depth::All).copied().collect());
        Some((side(BookSide::Bid)?, side(BookSide::Ask)?))
    }
}

impl Core {
    pub(super) fn new(
        id: InstrumentId,
        writer: Writer,
        publisher: Rc<Publisher>,
        counters: Rc<FeedCounters>,
        quotes: QuoteSource,
        lost_depths: Rc<Cell<u8>>,
    ) -> Self {
        let lost = lost_depths.get();
        Self {
            id,
            writer,
            publisher,
            counters,
            quotes,
            ticker: Ticker::default(),
            quote: Quote::default(),
            book: None,
            changed: Change { ts_event: None, received: Received { wall: None, mono: 0 } },
            depths: Depth::ALL.map(|depth| match lost >> depth as u8 & 1 {
                1 => DepthState::Lost,
                _ => DepthState::Idle,
            }),
            lost_depths,
            changes: (Vec::new(), Vec::new()),
        }
    }

    /// Where the instrument's calls are recorded, if there is a delayed world.
    #[inline]
    pub(super) fn recorder(&self) -> Option<Recorder<'_>> {
        Some(self.publisher.taps.as_ref()?.of(self.writer.key()))
    }

    fn stream(&self, kind: StreamKind) -> StreamId {
        StreamId { key: self.writer.key(), kind }
    }

    #[inline]
    fn quote(&mut self, received: Received, quote: &Quote) {
        let stamp = Stamp { seq: self.writer.sequence(StreamKind::Quote) + 1, received: received.wall };
        self.writer.quote(stamp, quote);
        self.quote = *quote;
        self.publish(StreamKind::Quote, received, stamp.seq, quote.ts_event, &Payload::Quote(quote));
        let Quote { ts_event, bid, ask } = *quote;
        self.ticker(received, Ticker { ts_event, bid, ask, ..self.ticker });
    }

    #[inline]
    fn trade(&mut self, received: Received, trade: &Trade) {
        self.counters.trades.increment(1);
        let stamp = Stamp { seq: self.writer.sequence(StreamKind::Trade) + 1, received: received.wall };
        self.writer.trade(stamp, trade);
        self.publish(StreamKind::Trade, received, stamp.seq, trade.ts_event, &Payload::Trade(trade));
        let last = Some(BookLevel { price: trade.price, size: trade.size });
        self.ticker(received, Ticker { ts_event: trade.ts_event, last, ..self.ticker });
    }

    /// Publishes the merged state if any member but the time is other than before.
    #[inline]
    fn ticker(&mut self, received: Received, ticker: Ticker) {
        if (Ticker { ts_event: self.ticker.ts_event, ..ticker }) == self.ticker {
            return;
        }
        self.ticker = ticker;
        let stamp = Stamp { seq: self.writer.sequence(StreamKind::Ticker) + 1, received: received.wall };
        self.writer.ticker(stamp, &ticker);
        self.publish(StreamKind::Ticker, received, stamp.seq, ticker.ts_event, &Payload::Ticker(&ticker));
    }

    /// Sends a numbered event that is in the store already to those who want it.
    #[inline]
    fn publish(&self, kind: StreamKind, received: Received, seq: u64, ts: Option<UnixNanos>, payload: &Payload<'_>) {
        self.writer.publish();
        let interest = self.writer.interest(kind);
        let queued = self.publisher.stage(Stage::Stored, received, ts);
        if interest.is_none() {
            return;
        }
        let head = self.head(seq, ts, received, false);
        let encode = |format| self.publisher.encode(format, &head, payload);
        let stream = self.stream(kind);
        self.publisher.send(interest, queued, encode, |format, frame, queued| {
            Event::Update(Update {
                stream,
                seq,
                standing: Standing::Numbered,
                format,
                frame: frame.clone(),
                book: None,
                received: received.mono,
                queued,
            })
        });
    }

    fn head(&self, seq: u64, ts: Option<UnixNanos>, received: Received, snapshot: bool) -> Head<'_> {
        Head { id: &self.id, key: self.writer.key(), seq, ts, rx: received.wall, snapshot }
    }

    fn lost(&mut self, received: Received, kind: StreamKind, lost: Option<u64>) {
        self.counters.gaps.increment(1);
        let seq = self.writer.sequence(kind) + 1;
        self.writer.gap(kind, Stamp { seq, received: received.wall }, lost);
        self.writer.publish();
        let interest = self.writer.interest(kind);
        self.send_gap(kind, interest, seq, lost);
    }

    /// The value that the store has under the number just published, encoded as a snapshot.
    fn stored_snapshot(&self, format: Format, kind: StreamKind) -> Option<Frame> {
        let (store, key) = (&self.publisher.store, self.writer.key());
        let encode = |stamp: Stamp, ts, payload: &Payload<'_>| {
            let head = Head { id: &self.id, key, seq: stamp.seq, ts, rx: stamp.received, snapshot: true };
            self.publisher.encode(format, &head, payload)
        };
        match kind {
            StreamKind::Quote => store.quote(key).map(|(s, v)| encode(s, v.ts_event, &Payload::Quote(&v))),
            StreamKind::Trade => store.trade(key).map(|(s, v)| encode(s, v.ts_event, &Payload::Trade(&v))),
            StreamKind::Ticker => store.ticker(key).map(|(s, v)| encode(s, v.ts_event, &Payload::Ticker(&v))),
            StreamKind::Book(_) => None,
        }
    }

    fn send_gap(&self, kind: StreamKind, interest: Interest, seq: u64, lost: Option<u64>) {
        let stream = self.stream(kind);
        let cause = GapCause::Upstream;
        let gap = Gap { id: &self.id, key: stream.key, kind, from: seq, to: seq, cause, lost };
        let encode = |format| (self.publisher.gap(format, &gap), self.stored_snapshot(format, kind));
        self.publisher.send(interest, 0, encode, |format, (frame, snapshot), _| Event::Gap {
            stream,
            seq,
            format,
            frame: frame.clone(),
            snapshot: snapshot.clone(),
        });
    }

    /// A book that holds moves its windows on; one that cannot be a book is lost.
    fn book_judged(
        &mut self,
        result: Result<(), BookFault>,
        received: Received,
        ts_event: Option<UnixNanos>,
    ) -> Result<(), BookFault> {
        match result {
            Ok(()) => self.book_changed(received, ts_event),
            Err(fault) => {
                (self.counters.book_fault)(fault);
                self.book_lost(received, None);
            }
        }
        result
    }

    /// The book has a new state: every window in use moves on.
    fn book_changed(&mut self, received: Received, ts_event: Option<UnixNanos>) {
        self.changed = Change { ts_event, received };
        let queued = self.publisher.stage(Stage::Stored, received, ts_event);
        self.writer.publish();
        for depth in Depth::ALL {
            self.advance_depth(depth, queued);
        }
        if self.quotes == QuoteSource::Book {
            self.quote_from_book(received, ts_event);
        }
    }

    fn quote_from_book(&mut self, received: Received, ts_event: Option<UnixNanos>) {
        let Some(book) = &self.book else { return };
        let quote = Quote { ts_event, bid: book.best_bid(), ask: book.best_ask() };
        if (quote.bid, quote.ask) != (self.quote.bid, self.quote.ask) {
            self.quote(received, &quote);
        }
    }

    fn advance_depth(&mut self, depth: Depth, queued: u64) {
        let kind = StreamKind::Book(depth);
        let interest = self.writer.interest(kind);
        let Some(book) = &self.book else { return };
        let state = &mut self.depths[depth as usize];
        if interest.is_none() && !self.publisher.numbers_all {
            *state = DepthState::Idle;
            return;
        }
        match state {
            DepthState::Live { window, changed } => {
                let (bids, asks) = &mut self.changes;
                bids.clear();
                asks.clear();
                window.advance(book, depth, bids, asks);
                if bids.is_empty() && asks.is_empty() {
                    return;
                }
                *changed = self.changed;
                let seq = self.writer.sequence(kind) + 1;
                let Change { ts_event, received } = self.changed;
                let change = BookChange { received: received.wall, ts_event, bids, asks };
                self.writer.book(kind, seq, &change);
                self.writer.publish();
                let interest = self.writer.interest(kind);
                self.send_book(depth, interest, queued, (seq, Standing::Numbered, false), self.changed);
            }
            DepthState::Idle => self.begin_depth(depth, interest, queued),
            DepthState::Lost => {
                let window = Window::of(book, depth);
                self.changes = (window.bids().to_vec(), window.asks().to_vec());
                *state = DepthState::Live { window, changed: self.changed };
                self.send_book(
                    depth,
                    interest,
                    queued,
                    (self.writer.sequence(kind), Standing::Resync, true),
                    self.changed,
                );
            }
        }
    }

    /// A book stream comes into use: the full window takes a number.
    fn begin_depth(&mut self, depth: Depth, interest: Interest, queued: u64) {
        let kind = StreamKind::Book(depth);
        let Some(book) = &self.book else { return };
        let window = Window::of(book, depth);
        self.changes = (window.bids().to_vec(), window.asks().to_vec());
        self.depths[depth as usize] = DepthState::Live { window, changed: self.changed };
        let seq = self.writer.sequence(kind) + 1;
        self.writer.begin_book(kind, seq);
        self.send_book(depth, interest, queued, (seq, Standing::Numbered, true), self.changed);
    }

    /// Sends `self.changes` as an event of the book stream; `full` = they are all there is.
    fn send_book(
        &self,
        depth: Depth,
        interest: Interest,
        queued: u64,
        (seq, standing, full): (u64, Standing, bool),
        Change { ts_event, received }: Change,
    ) {
        if interest.is_none() {
            return;
        }
        let (bids, asks) = &self.changes;
        let head = self.head(seq, ts_event, received, full);
        let encode = |format| self.publisher.encode(format, &head, &Payload::Book { depth, bids, asks });
        let update = Arc::new(BookUpdate {
            full,
            ts_event,
            received: received.wall,
            levels: bids.iter().chain(asks).copied().collect(),
            bids: bids.len(),
        });
        let stream = self.stream(StreamKind::Book(depth));
        let received = received.mono;
        self.publisher.send(interest, queued, encode, |format, frame, queued| {
            Event::Update(Update {
                stream,
                seq,
                standing,
                format,
                frame: frame.clone(),
                book: Some(Arc::clone(&update)),
                received,
                queued,
            })
        });
    }

    pub(super) fn book_lost(&mut self, received: Received, lost: Option<u64>) {
        let known = self.book.take().is_some();
        self.counters.gaps.increment(u64::from(known));
        self.writer.publish();
        for depth in Depth::ALL {
            let kind = StreamKind::Book(depth);
            let interest = self.writer.interest(kind);
            let last = self.writer.sequence(kind);
            let state = &mut self.depths[depth as usize];
            // Who resumed over a pause may believe in a window that its first answer has not
            // replaced yet.
            let believed = known && last > 0 && matches!(state, DepthState::Idle);
            if interest.is_none() && !self.publisher.numbers_all {
                *state = DepthState::Idle;
            } else if believed || matches!(state, DepthState::Live { .. }) {
                *state = DepthState::Lost;
                let seq = last + 1;
                self.writer.gap(kind, Stamp { seq, received: received.wall }, lost);
                self.writer.publish();
                self.send_gap(kind, self.writer.interest(kind), seq, lost);
            }
        }
    }

    /// The writer goes: what its successor must know stays.
    pub(super) fn leave_lost_depths(&self) {
        let lost = Depth::ALL.into_iter().filter(|depth| matches!(self.depths[*depth as usize], DepthState::Lost));
        self.lost_depths.set(lost.fold(0, |bits, depth| bits | 1 << depth as u8));
    }

    /// A worker has begun to want a book stream in a format: it gets the window, in order with the
    /// changes.
    pub(super) fn book_wanted(&mut self, depth: Depth, worker: usize, format: Format) {
        let kind = StreamKind::Book(depth);
        self.writer.publish();
        let interest = self.writer.interest(kind);
        match &self.depths[depth as usize] {
            DepthState::Idle if !interest.is_none() => self.begin_depth(depth, interest, 0),
            DepthState::Live { window, changed } => {
                let changed = *changed;
                self.changes = (window.bids().to_vec(), window.asks().to_vec());
                let seq = self.writer.sequence(kind);
                let wanted = Interest::of(worker, format.index());
                self.send_book(depth, wanted, 0, (seq, Standing::State, true), changed);
            }
            DepthState::Idle | DepthState::Lost => {}
        }
    }
}
