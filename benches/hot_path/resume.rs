use criterion::{Criterion, Throughput};
use tickhub::wire::command::Mode;

use crate::support::{Null, RECEIVED, crowd, hub, quote, session, turn};

/// A session that comes back and is given what it missed, from the ring to its socket.
pub(crate) fn resume(c: &mut Criterion) {
    let mut group = c.benchmark_group("resume");
    let mut hub = hub(1);
    let mut fanout = crowd(&hub.store, 0, 1, Mode::Every);
    let (mut lane, mut sink, quote) = (hub.lanes.remove(0), Null::default(), quote());
    let published = 256;
    (0..published).for_each(|_| hub.instrument.quote(RECEIVED, &quote));
    turn(&mut fanout, &mut lane, &mut sink, usize::MAX);
    for missed in [0, 32, 200] {
        group.throughput(Throughput::Elements(missed.max(1)));
        group.bench_function(format!("open, catch up with {missed}, close"), |b| {
            fanout.take_counts();
            let mut times = 0;
            b.iter(|| {
                let session = session(&mut fanout, Mode::Every, Some(published - missed));
                fanout.write(session, 1, &mut sink);
                fanout.close(session);
                times += 1;
            });
            assert_eq!(fanout.take_counts().deliveries.iter().sum::<u64>(), times * missed, "every one, and no gap");
        });
    }
}
