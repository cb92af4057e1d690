use criterion::{BatchSize, Criterion, Throughput};
use tickhub::wire::command::Mode;

use crate::support::{BACKLOG, Null, RECEIVED, crowd, hub, quote, turn};

/// A worker's turn without its sockets.
pub(crate) fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("fan-out to a null sink, a delivery");
    for (sessions, updates) in [(1_000, 1), (1_000, BACKLOG), (10_000, 1), (10_000, BACKLOG)] {
        let mut hub = hub(1);
        let mut fanout = crowd(&hub.store, 0, sessions, Mode::Every);
        let (mut lane, mut sink, quote) = (hub.lanes.remove(0), Null::default(), quote());
        group.throughput(Throughput::Elements((sessions * updates) as u64));
        group.bench_function(format!("{sessions} sessions, {updates} at a time"), |b| {
            b.iter_batched(
                || (0..updates).for_each(|_| hub.instrument.quote(RECEIVED, &quote)),
                |()| turn(&mut fanout, &mut lane, &mut sink, usize::MAX),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}
