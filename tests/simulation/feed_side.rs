//! What the venues do, on the hub and on the plain model.

use tickhub::ingest::QuoteSource;
use tickhub::model::{
    AggressorSide, BookLevel, Decimal, FeedState, InstrumentDefinition, InstrumentId, InstrumentKey, Quote, Received,
    Stats, StreamId, StreamKind, Trade, TradeId, UnixNanos,
};

use crate::action::{Action, INSTRUMENTS, Level};
use crate::client::{BOOK_CHANNEL, Change, venue_of};
use crate::stream::{Check, Due, ensure};
use crate::truth::BOOK;
use crate::world::World;

fn decimal(hundredths: i64) -> Decimal {
    Decimal::new(hundredths, -2).expect("not absent")
}

fn level((price, size): Level) -> BookLevel {
    BookLevel { price: decimal(price), size: decimal(size) }
}

fn book_levels(levels: &[Level]) -> Vec<BookLevel> {
    levels.iter().copied().map(level).collect()
}

impl World {
    pub(crate) fn received(&self) -> Received {
        Received { wall: Some(UnixNanos(self.hub.wall())), mono: self.hub.now }
    }

    pub(crate) fn publish(&mut self, action: &Action) -> Check {
        let (received, rx) = (self.received(), self.hub.wall());
        let ts = Some(rx - 5_000_000);
        let at = |ts: Option<i64>| ts.map(UnixNanos);
        let index = match action {
            Action::Claim { instrument } => return self.claim(*instrument),
            Action::Release { instrument }
            | Action::Quote { instrument, .. }
            | Action::Trade { instrument, .. }
            | Action::Stats { instrument, .. }
            | Action::Lost { instrument, .. }
            | Action::BookSnapshot { instrument, .. }
            | Action::BookDelta { instrument, .. }
            | Action::BookLost { instrument, .. } => *instrument,
            other => return Err(format!("{other:?} is no publication")),
        };
        let used = if self.market.instruments[index].book_is_live() { self.used_depths(index) } else { [false; 4] };
        let Some(writer) = self.writers[index].as_mut() else { return Ok(()) };
        let plain = &mut self.market.instruments[index];
        match action {
            Action::Release { .. } => {
                plain.book_lost(None);
                self.writers[index] = None;
            }
            Action::Quote { bid, ask, ts: has_ts, .. } if !INSTRUMENTS[index].1 => {
                let ts = ts.filter(|_| *has_ts);
                plain.quote((*bid, *ask), ts, rx);
                writer.quote(received, &Quote { ts_event: at(ts), bid: bid.map(level), ask: ask.map(level) });
            }
            Action::Quote { .. } => {}
            Action::Trade { at: (price, size), side, id, .. } => {
                plain.trade((*price, *size), *side, *id, ts, rx);
                let id = if *id == 0 { TradeId::EMPTY } else { TradeId::from_u64(*id) };
                let side = [AggressorSide::Buy, AggressorSide::Sell, AggressorSide::Unknown][*side];
                let (price, size) = (decimal(*price), decimal(*size));
                writer.trade(received, &Trade { ts_event: at(ts), price, size, side, id });
            }
            Action::Stats { values, .. } => {
                plain.stats(*values, ts, rx);
                let [open, high, low, volume] = values.map(|value| value.map(decimal));
                writer.stats(received, &Stats { ts_event: at(ts), open, high, low, volume });
            }
            Action::Lost { kind, lost, .. } => {
                plain.lost(*kind, *lost);
                writer.lost(received, [StreamKind::Ticker, StreamKind::Quote, StreamKind::Trade][*kind], *lost);
            }
            Action::BookSnapshot { bids, asks, .. } => {
                let sane = plain.book(true, bids, asks, ts, rx);
                let result = writer.book_snapshot(received, at(ts), &book_levels(bids), &book_levels(asks));
                ensure!(result.is_ok() == sane, "a snapshot judged {result:?}");
            }
            Action::BookDelta { bids, asks, .. } if plain.book_is_live() => {
                let sane = plain.book(false, bids, asks, ts, rx);
                let result = writer.book_delta(received, at(ts), &book_levels(bids), &book_levels(asks));
                ensure!(result.is_ok() == sane, "a change judged {result:?}");
            }
            Action::BookDelta { bids, asks, .. } => {
                let result = writer.book_delta(received, at(ts), &book_levels(bids), &book_levels(asks));
                ensure!(result.is_err(), "a change without a snapshot was taken");
            }
            Action::BookLost { lost, .. } => {
                plain.book_lost(*lost);
                writer.book_lost(received, *lost);
            }
            _ => {}
        }
        self.check_numbers(index)?;
        let plain = &self.market.instruments[index];
        for (depth, _) in used.iter().enumerate().filter(|(_, used)| **used && !plain.book_is_live()) {
            let last = plain.streams[BOOK + depth].numbers.last();
            ensure!(last.is_some_and(|number| number.gap.is_some()), "a book of depth {depth} was lost without a gap");
        }
        Ok(())
    }

    /// The depths of an instrument's book that some client has, live and up to date.
    pub(crate) fn used_depths(&self, index: usize) -> [bool; 4] {
        std::array::from_fn(|depth| {
            let (last, kind) = (self.market.instruments[index].streams[BOOK + depth].last(), BOOK + depth);
            self.slots.iter().flatten().any(|slot| {
                let stream = slot.client.streams.get(&(BOOK_CHANNEL, index));
                let has = stream.is_some_and(|s| {
                    let told = s.due == Due::Nothing && !s.resumed;
                    told && s.kind == kind && s.window.is_some() && s.state_at == last
                });
                has && slot.client.sent.is_empty() && slot.session.closed().is_none()
            })
        })
    }

    /// The hub's numbers are those of the model; of books they are taken note of.
    pub(crate) fn check_numbers(&mut self, index: usize) -> Check {
        self.market.last = None;
        let Some(key) = self.market.keys.iter().position(|of| *of == index) else { return Ok(()) };
        let key = InstrumentKey(key as u32);
        let plain = &mut self.market.instruments[index];
        for kind in StreamKind::ALL {
            let seq = self.hub.store.sequence(StreamId { key, kind });
            if kind.index() >= BOOK {
                plain.note_book(kind.index() - BOOK, seq)?;
            } else {
                let last = plain.streams[kind.index()].last();
                ensure!(seq == last, "{kind:?} of {} is at {seq}, should be {last}", INSTRUMENTS[index].0);
            }
        }
        Ok(())
    }

    pub(crate) fn claim(&mut self, index: usize) -> Check {
        let id = INSTRUMENTS[index].0;
        let Some(feed) = &self.hub.feeds[venue_of(id)] else { return Ok(()) };
        if self.writers[index].is_some() {
            return Ok(());
        }
        let parsed = InstrumentId::parse(id).map_err(|error| error.to_string())?;
        let definition = InstrumentDefinition { id: parsed, raw_symbol: id.to_owned(), base: None, quote: None };
        let quotes = if INSTRUMENTS[index].1 { QuoteSource::Book } else { QuoteSource::Venue };
        let writer = feed.claim_with(definition, quotes).map_err(|error| error.to_string())?;
        self.market.instruments[index].claimed();
        if !self.market.keys.contains(&index) {
            ensure!(writer.key().index() == self.market.keys.len(), "key {:?}", writer.key());
            self.market.keys.push(index);
        }
        self.writers[index] = Some(writer);
        self.check_numbers(index)
    }

    pub(crate) fn set_feed_state(&mut self, feed: usize, state: usize) {
        let (wall, Some(of)) = (self.hub.wall(), &self.hub.feeds[feed]) else { return };
        of.set_state(FeedState::ALL[state], "as simulated", UnixNanos(wall));
        let changes = &mut self.market.changes[feed];
        if changes.last().is_none_or(|last| last.state != state) {
            changes.push(Change { state, since: wall.to_string() });
        }
    }

    pub(crate) fn serve_requests(&mut self, thread: usize) -> Check {
        if let Some(door) = self.hub.ingests.get(thread) {
            door.serve_requests();
        }
        (0..INSTRUMENTS.len()).try_for_each(|index| self.check_numbers(index))
    }
}
