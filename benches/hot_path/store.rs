use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};

use criterion::Criterion;
use tickhub::model::StreamKind;
use tickhub::model::{InstrumentDefinition, InstrumentId, UnixNanos};
use tickhub::store::{Stamp, Store, Writer};

use crate::support::{RECEIVED, SYMBOL, quote};

fn writer(store: &std::sync::Arc<Store>) -> Writer {
    let feed = store.feed_of("SIM", "bench", UnixNanos(0)).expect("room");
    let id = InstrumentId::parse(SYMBOL).expect("an id");
    let definition = InstrumentDefinition { id, raw_symbol: "AAA".into(), base: None, quote: None };
    store.claim(definition, feed).expect("nobody has it").0
}

fn write(writer: &mut Writer, quote: &tickhub::model::Quote) {
    let stamp = Stamp { seq: writer.sequence(StreamKind::Quote) + 1, received: RECEIVED.wall };
    writer.quote(stamp, quote);
    writer.publish();
}

/// The latest value: written and read by one thread, and while others read or write it as fast as
/// they can. With fewer cores than threads the latter says little.
pub(crate) fn store(c: &mut Criterion) {
    let mut group = c.benchmark_group("store");
    let quote = quote();
    for ring_bytes in [0, 256 << 20] {
        let store = Store::new(ring_bytes);
        let mut writer = writer(&store);
        let resumable = if ring_bytes == 0 { "" } else { " and to its ring" };
        group.bench_function(format!("write{resumable}"), |b| b.iter(|| write(&mut writer, black_box(&quote))));
    }
    let store = Store::new(256 << 20);
    let mut writer = writer(&store);
    let key = writer.key();
    write(&mut writer, &quote);
    group.bench_function("read", |b| b.iter(|| store.quote(black_box(key))));
    group.bench_function("256 held events, for a resume", |b| {
        (0..256).for_each(|_| write(&mut writer, &quote));
        let stream = tickhub::model::StreamId { key, kind: StreamKind::Quote };
        b.iter(|| store.held_after(stream, writer.sequence(StreamKind::Quote) - 256, 256));
    });
    for readers in [1, 2] {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..readers {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        black_box(store.quote(key));
                    }
                });
            }
            group.bench_function(format!("write, {readers} reading"), |b| {
                b.iter(|| write(&mut writer, black_box(&quote)));
            });
            over.store(true, Ordering::Relaxed);
        });
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                write(&mut writer, &quote);
            }
        });
        group.bench_function("read, 1 writing", |b| b.iter(|| store.quote(black_box(key))));
        over.store(true, Ordering::Relaxed);
    });
}
