use std::collections::BTreeMap;

use super::Config;
use super::*;

const TS: UnixNanos = UnixNanos(1_700_000_000_000_000_000);

/// A book kept from the events alone, as a subscriber would.
#[derive(Default)]
struct Replica {
    bids: BTreeMap<Decimal, Decimal>,
    asks: BTreeMap<Decimal, Decimal>,
}

impl Replica {
    fn of(market: &Market, instrument: usize) -> Self {
        let (bids, asks) = market.book(instrument);
        let side = |levels: [BookLevel; LEVELS]| levels.iter().map(|level| (level.price, level.size)).collect();
        Self { bids: side(bids), asks: side(asks) }
    }

    fn apply(&mut self, change: &BookChange) {
        for (side, levels) in [(&mut self.bids, change.bids()), (&mut self.asks, change.asks())] {
            for level in levels {
                let had =
                    if level.size.is_zero() { side.remove(&level.price) } else { side.insert(level.price, level.size) };
                assert!(had.is_some() || !level.size.is_zero(), "a level that was never there is removed: {level:?}");
            }
        }
    }

    fn top(&self) -> (BookLevel, BookLevel) {
        let level = |(price, size): (&Decimal, &Decimal)| BookLevel { price: *price, size: *size };
        (level(self.bids.last_key_value().expect("bids")), level(self.asks.first_key_value().expect("asks")))
    }
}

fn config(instruments: u32, seed: u64) -> Config {
    Config { instruments, seed, ..Config::default() }
}

#[test]
fn books_stay_whole_and_uncrossed_and_every_quote_is_their_top() {
    let mut market = Market::new(&config(7, 3));
    let mut replicas: Vec<_> = (0..7).map(|i| Replica::of(&market, i)).collect();
    let mut quotes = 0;
    for _ in 0..200_000 {
        let SimEvent { instrument, kind } = market.next(TS);
        let replica = &mut replicas[instrument];
        match kind {
            SimKind::Book(change) => replica.apply(&change),
            SimKind::Quote(quote) => {
                quotes += 1;
                let (bid, ask) = replica.top();
                assert_eq!((quote.bid, quote.ask), (Some(bid), Some(ask)));
            }
            SimKind::Trade(trade) => {
                let (bid, ask) = replica.top();
                let top = if trade.side == AggressorSide::Buy { ask } else { bid };
                assert!(trade.price == top.price && trade.size <= top.size && !trade.size.is_zero());
            }
        }
        let (bid, ask) = replica.top();
        assert!(bid.price < ask.price && !bid.price.is_negative());
        assert_eq!((replica.bids.len(), replica.asks.len()), (LEVELS, LEVELS));
    }
    assert!(quotes > 70_000);
}

#[test]
fn equal_seeds_make_equal_events_and_others_do_not() {
    let run = |seed, ts| {
        let mut market = Market::new(&config(50, seed));
        (0..5_000).map(|_| market.next(ts)).collect::<Vec<_>>()
    };
    let bare = |events: Vec<SimEvent>| -> Vec<_> {
        let ts = Some(UnixNanos(0));
        let strip = |event: SimEvent| match event.kind {
            SimKind::Quote(quote) => (event.instrument, SimKind::Quote(Quote { ts_event: ts, ..quote })),
            SimKind::Trade(trade) => (event.instrument, SimKind::Trade(Trade { ts_event: ts, ..trade })),
            SimKind::Book(change) => (event.instrument, SimKind::Book(BookChange { ts_event: UnixNanos(0), ..change })),
        };
        events.into_iter().map(strip).collect()
    };
    assert_eq!(run(1, TS), run(1, TS));
    assert_eq!(bare(run(1, TS)), bare(run(1, UnixNanos(0))), "the clock changes the times alone");
    assert_ne!(run(1, TS), run(2, TS));
}

#[test]
fn keeps_the_mix_that_was_asked_for() {
    let mix = |quote_share, trade_share, book_share| {
        let mut market = Market::new(&Config { quote_share, trade_share, book_share, ..config(50, 5) });
        let mut counts = [0_u32; 3];
        for _ in 0..100_000 {
            counts[match market.next(TS).kind {
                SimKind::Quote(_) => 0,
                SimKind::Trade(_) => 1,
                SimKind::Book(_) => 2,
            }] += 1;
        }
        counts
    };
    let near = |counts: [u32; 3], wanted: [u32; 3]| {
        assert!(counts.iter().zip(wanted).all(|(count, wanted)| count.abs_diff(wanted) < 1_000), "{counts:?}");
    };
    near(mix(40, 10, 50), [40_000, 10_000, 50_000]);
    near(mix(1, 0, 3), [25_000, 0, 75_000]);
    assert_eq!(mix(1, 0, 0), [100_000, 0, 0]);
    assert_eq!(mix(0, 1, 0), [0, 100_000, 0]);
    near(mix(0, 1, 1), [0, 50_000, 50_000]);
    assert_eq!(mix(3, 0, 3), [50_000, 0, 50_000]);
}

#[test]
fn prices_walk_together_and_stay_near_their_anchors() {
    let mut market = Market::new(&config(4, 11));
    let mut last: Vec<i64> = market.listings.iter().map(|l| l.bid).collect();
    let (mut products, mut squares, mut moved) = (0.0, [0.0; 4], 0);
    for _ in 0..3_000 {
        for _ in 0..1_000 {
            market.next(TS);
        }
        let steps: Vec<f64> = market.listings.iter().zip(&last).map(|(l, last)| (l.bid - last) as f64).collect();
        products += steps[0] * steps[1] + steps[2] * steps[3];
        for (square, step) in squares.iter_mut().zip(&steps) {
            *square += step * step;
        }
        moved += steps.iter().filter(|step| **step != 0.0).count();
        last = market.listings.iter().map(|l| l.bid).collect();
    }
    let scale = (squares[0] * squares[1]).sqrt() + (squares[2] * squares[3]).sqrt();
    assert!(products / scale > 0.2, "correlation {}", products / scale);
    assert!(moved > 9_000, "prices move: {moved}");
    for listing in &market.listings {
        assert!((listing.bid - listing.anchor).abs() < listing.anchor / 2, "{listing:?}");
    }
}

#[test]
fn instruments_that_come_late_change_no_earlier_price() {
    let mut grown = Market::new(&config(3, 8));
    grown.list(2);
    let whole = Market::new(&config(5, 8));
    for instrument in 0..5 {
        assert_eq!(grown.quote(instrument, TS), whole.quote(instrument, TS));
    }
    let reached = (0..1_000).map(|_| grown.next(TS).instrument).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(reached.len(), 5);
}

#[test]
fn names_are_predictable_and_never_repeat() {
    assert_eq!([0, 1, 25, 26, 17_575].map(symbol), ["AAA-USD", "AAB-USD", "AAZ-USD", "ABA-USD", "ZZZ-USD"]);
    assert_eq!([17_576, 17_577, 99_999].map(symbol), ["AAAA-USD", "AAAB-USD", "ERYD-USD"]);
    let names: std::collections::HashSet<_> = (0..100_000).map(symbol).collect();
    assert_eq!(names.len(), 100_000);
}
