use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use tickhub::model::Decimal;
use tickhub::provider::{Heard, Options, VENUES};

use crate::support::{RECEIVED, hub, recorded};

/// Decoding a venue's recorded messages, as far as the store: nobody wants what they say.
pub(crate) fn parse(c: &mut Criterion) {
    c.bench_function("parse/decimal", |b| b.iter(|| Decimal::parse(black_box(b"61837.63000000"))));
    for (name, messages) in recorded() {
        let mut group = c.benchmark_group("parse/venue, a message");
        let kind = VENUES.iter().find(|kind| kind.name == name).expect("it is of the list");
        group.throughput(Throughput::Elements(messages.len() as u64));
        let bytes: usize = messages.iter().map(|message| message.bytes.len()).sum();
        group.bench_function(format!("{name}, {} bytes a message", bytes / messages.len()), |b| {
            // A decoder that has not heard them: it refuses what it has had.
            let fresh = || (hub(0), (kind.decoder)(Options::recorded()));
            b.iter_batched_ref(
                fresh,
                |(hub, decoder)| {
                    for message in &messages {
                        let heard = if message.rest {
                            decoder.on_rest(&hub.feed, RECEIVED, message.url.as_deref(), &message.bytes)
                        } else {
                            decoder.on_frame(&hub.feed, RECEIVED, &message.bytes)
                        };
                        assert_ne!(black_box(heard), Heard::Rejected);
                    }
                },
                BatchSize::PerIteration,
            );
        });
    }
}
