use std::hint::black_box;

use criterion::Criterion;
use tickhub::wire::command::Mode;

use crate::support::{RECEIVED, crowd, hub, quote};

/// Number, store, encode, publish: an event at the ingest door.
pub(crate) fn ingest(c: &mut Criterion) {
    let quote = quote();
    let mut unwanted = hub(1);
    c.bench_function("ingest/quote, nobody wants it", |b| {
        b.iter(|| unwanted.instrument.quote(RECEIVED, black_box(&quote)));
    });
    let mut wanted = hub(1);
    let _worker = crowd(&wanted.store, 0, 1, Mode::Every);
    c.bench_function("ingest/quote, encoded for a worker", |b| {
        b.iter(|| {
            wanted.instrument.quote(RECEIVED, black_box(&quote));
            wanted.lanes[0].pop()
        });
    });
}
