use std::hint::black_box;

use criterion::Criterion;
use tickhub::model::{Depth, InstrumentId, InstrumentKey};
use tickhub::wire::{Format, Head, Payload, Scratch};

use crate::support::{RECEIVED, SYMBOL, book, quote, ticker, trade};

/// Each kind of event in each format.
pub(crate) fn encode(c: &mut Criterion) {
    let id = InstrumentId::parse(SYMBOL).expect("an id");
    let head =
        Head { id: &id, key: InstrumentKey(7), seq: 123_456, ts: RECEIVED.wall, rx: RECEIVED.wall, snapshot: false };
    let (quote, trade, ticker, (bids, asks)) = (quote(), trade(), ticker(), book(10));
    let payloads = [
        ("quote", Payload::Quote(&quote)),
        ("trade", Payload::Trade(&trade)),
        ("ticker", Payload::Ticker(&ticker)),
        ("book, 10 levels a side", Payload::Book { depth: Depth::Ten, bids: &bids, asks: &asks }),
    ];
    for format in Format::ALL {
        let mut group = c.benchmark_group(format!("encode/{}", format.as_str()));
        let mut scratch = Scratch::new();
        for (name, payload) in &payloads {
            group.bench_function(*name, |b| b.iter(|| format.encode(&mut scratch, black_box(&head), payload)));
        }
        let live = format.encode(&mut scratch, &head, &payloads[0].1);
        group.bench_function("a live quote as a snapshot", |b| {
            b.iter(|| format.snapshot_of(&mut scratch, black_box(&live)));
        });
    }
}
