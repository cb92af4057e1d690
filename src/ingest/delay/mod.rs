//! The delayed world: a second store that is written what the first was, a fixed time later.
//!
//! What a provider tells its [`Feed`](super::Feed) is recorded, as it is told, into a bounded ring
//! of words, and told to a second ingest once the delay has passed. Numbers are made from what is
//! told and nothing else, so both worlds have the same. Where the ring is full, what concerns an
//! instrument is dropped until there is room for all that is known of it: its numbers go on from
//! there, and those between are a gap of cause `hub`.

mod record;
mod replica;
mod state;
mod tap;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};

use crate::metrics::{self, Counter, Gauge, Registry};
use crate::settings::Span;
use crate::sync::AtomicU64;
use crate::time::duration_ns;

use record::Scratch;
pub use replica::Delayed;
pub(super) use state::CoreState;
pub(super) use tap::{Recorder, Taps};

/// What a line's ends count.
#[derive(Clone)]
struct Meters {
    /// Records that were put into the ring, as last published by its writer.
    recorded: Arc<AtomicU64>,
    records: Gauge,
    bytes: Gauge,
    age: Gauge,
    lag: Gauge,
    dropped: Counter,
    resyncs: Counter,
}

impl Meters {
    fn new(registry: &Registry, delay: Duration, thread: usize) -> Self {
        let (delay, thread) = (Span(delay).to_string(), thread.to_string());
        let labels = [("delay", delay.as_str()), ("feed_thread", thread.as_str())];
        Self {
            recorded: Arc::new(AtomicU64::new(0)),
            records: registry.gauge(metrics::DELAY_RECORDS, &labels),
            bytes: registry.gauge(metrics::DELAY_BYTES, &labels),
            age: registry.gauge(metrics::DELAY_AGE, &labels),
            lag: registry.gauge(metrics::DELAY_LAG, &labels),
            dropped: registry.counter(metrics::DELAY_DROPPED, &labels),
            resyncs: registry.counter(metrics::DELAY_RESYNCS, &labels),
        }
    }
}

/// The feed thread's end of a delay line.
pub struct LineWriter {
    words: Producer<u64>,
    words_max: usize,
    meters: Meters,
}

/// The other end.
pub struct LineReader {
    words: Consumer<u64>,
    delay_ns: u64,
    meters: Meters,
}

/// The line of feed thread `thread` into the world of `delay`, which holds at most `bytes_max`.
/// Its memory is reserved now, and taken as it fills for the first time.
#[must_use]
pub fn delay_line(bytes_max: usize, delay: Duration, thread: usize, registry: &Registry) -> (LineWriter, LineReader) {
    let words_max = (bytes_max / size_of::<u64>()).max(1);
    let (producer, consumer) = RingBuffer::new(words_max);
    let meters = Meters::new(registry, delay, thread);
    let (name, thread) = (Span(delay).to_string(), thread.to_string());
    let labels = [("delay", name.as_str()), ("feed_thread", thread.as_str())];
    registry.gauge(metrics::DELAY_BYTES_MAX, &labels).set((words_max * size_of::<u64>()) as f64);
    (
        LineWriter { words: producer, words_max, meters: meters.clone() },
        LineReader { words: consumer, delay_ns: duration_ns(delay), meters },
    )
}
