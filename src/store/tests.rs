use super::*;
use crate::model::{Decimal, TradeId};

fn definition(id: &str) -> InstrumentDefinition {
    InstrumentDefinition { id: InstrumentId::parse(id).expect(id), raw_symbol: id.into(), base: None, quote: None }
}

fn store() -> (Arc<Store>, u8) {
    let store = Store::new(1 << 20);
    let feed = store.feed_of("SIM", "e1", UnixNanos(0)).expect("room");
    (store, feed)
}

fn quote(bid: i64) -> Quote {
    let level = |price| Some(BookLevel { price: Decimal::from(price), size: Decimal::from(1) });
    Quote { ts_event: None, bid: level(bid), ask: level(bid + 1) }
}

fn stamp(seq: u64) -> Stamp {
    Stamp { seq, received: Some(UnixNanos(5)) }
}

#[test]
fn an_instrument_has_one_writer_at_a_time() {
    let (store, feed) = store();
    let (writer, new) = store.claim(definition("SIM:A"), feed).expect("free");
    assert!(new);
    assert_eq!(store.claim(definition("SIM:A"), feed).err(), Some(ClaimError::Taken));
    let other = store.feed_of("OTHER", "e1", UnixNanos(0)).expect("room");
    assert_eq!(store.claim(definition("SIM:A"), other).err(), Some(ClaimError::OtherFeed));
    drop(writer);
    let (writer, new) = store.claim(definition("SIM:A"), feed).expect("free again");
    assert!(!new, "keys are never reused");
    assert_eq!(writer.key(), InstrumentKey(0));
    assert_eq!(store.len(), 1);
}

#[test]
fn the_latest_value_is_read_back_with_its_number() {
    let (store, feed) = store();
    let (mut writer, _) = store.claim(definition("SIM:A"), feed).expect("free");
    let key = writer.key();
    assert_eq!(store.quote(key), None);
    writer.quote(stamp(1), &quote(10));
    writer.quote(stamp(2), &quote(20));
    assert_eq!(store.quote(key), Some((stamp(2), quote(20))));
    let stream = StreamId { key, kind: StreamKind::Quote };
    assert_eq!(store.sequence(stream), 2);
    let held = store.held_after(stream, 0, 10);
    assert_eq!(held, [Held::Quote(stamp(1), quote(10)), Held::Quote(stamp(2), quote(20))]);
}

#[test]
fn a_gap_takes_a_number_and_the_snapshot_carries_it() {
    let (store, feed) = store();
    let (mut writer, _) = store.claim(definition("SIM:A"), feed).expect("free");
    let key = writer.key();
    let trade = Trade {
        ts_event: Some(UnixNanos(1)),
        price: Decimal::from(7),
        size: Decimal::from(1),
        side: crate::model::AggressorSide::Sell,
        id: TradeId::from_u64(42),
    };
    writer.trade(stamp(1), &trade);
    writer.gap(StreamKind::Trade, stamp(2), Some(7));
    assert_eq!(store.trade(key), Some((stamp(2), trade)));
    let held = store.held_after(StreamId { key, kind: StreamKind::Trade }, 1, 10);
    assert_eq!(held, [Held::Gap { seq: 2, lost: Some(7) }]);
}

#[test]
fn a_book_that_comes_into_use_again_has_no_history() {
    let (store, feed) = store();
    let (mut writer, _) = store.claim(definition("SIM:A"), feed).expect("free");
    let kind = StreamKind::Book(crate::model::Depth::Ten);
    let stream = StreamId { key: writer.key(), kind };
    let bids = [BookLevel { price: Decimal::from(1), size: Decimal::from(2) }];
    let change = BookChange { received: None, ts_event: None, bids: &bids, asks: &[] };
    writer.begin_book(kind, 1);
    writer.book(kind, 2, &change);
    assert_eq!(store.held_after(stream, 1, 10).len(), 1);
    writer.begin_book(kind, 3);
    assert_eq!(store.held_after(stream, 1, 10), []);
    assert_eq!(store.sequence(stream), 3);
}

#[test]
fn the_rings_of_all_streams_stay_within_one_budget() {
    let store = Store::new(64 * 1024);
    let feed = store.feed_of("SIM", "e1", UnixNanos(0)).expect("room");
    let mut writers = Vec::new();
    for number in 0..100 {
        let (mut writer, _) = store.claim(definition(&format!("SIM:I{number}")), feed).expect("room");
        writer.quote(stamp(1), &quote(1));
        writers.push(writer);
    }
    let used = store.ring_use();
    assert_eq!(used.bytes_used, used.bytes_max);
    assert_eq!(used.refused, 100 - 64);
    assert_eq!(store.held_after(StreamId { key: InstrumentKey(99), kind: StreamKind::Quote }, 0, 10), []);
    assert!(store.quote(InstrumentKey(99)).is_some(), "without a ring the value is still there");
}

/// The oracle: every value that a reader can see was written, whole, and numbers never go back,
/// while a writer writes as fast as it can.
#[test]
fn readers_under_load_see_only_what_was_written_and_never_go_back() {
    let (store, feed) = store();
    let (mut writer, _) = store.claim(definition("SIM:A"), feed).expect("free");
    let key = writer.key();
    const LAST: u64 = 100_000;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while last < LAST {
                    let Some((stamp, seen)) = store.quote(key) else { continue };
                    assert_eq!(seen, quote(stamp.seq as i64));
                    assert!(stamp.seq >= last);
                    last = stamp.seq;
                }
            });
        }
        scope.spawn(|| {
            let stream = StreamId { key, kind: StreamKind::Quote };
            let mut last = 0;
            while last < LAST {
                for held in store.held_after(stream, last, 100) {
                    assert_eq!(held, Held::Quote(stamp(held.seq()), quote(held.seq() as i64)));
                    assert!(held.seq() > last);
                    last = held.seq();
                }
            }
        });
        for seq in 1..=LAST {
            writer.quote(stamp(seq), &quote(seq as i64));
        }
    });
}
