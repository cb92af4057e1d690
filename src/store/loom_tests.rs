use crate::sync::{AtomicU64, Ordering, fence};
use loom::sync::Arc;

/// The hand-over between a writer and a worker that begins to be interested: either the writer
/// sees the interest (and publishes), or the worker's read sees the value.
#[test]
fn loom_interest_and_value_never_miss_each_other() {
    loom::model(|| {
        let value = Arc::new(AtomicU64::new(0));
        let interest = Arc::new(AtomicU64::new(0));
        let writer = {
            let (value, interest) = (Arc::clone(&value), Arc::clone(&interest));
            loom::thread::spawn(move || {
                value.store(1, Ordering::Release);
                fence(Ordering::SeqCst);
                interest.load(Ordering::Relaxed)
            })
        };
        interest.fetch_or(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let read = value.load(Ordering::Acquire);
        let published = writer.join().expect("writer");
        assert!(read == 1 || published == 1, "the event is neither in the lane nor in the value");
    });
}

/// The same where another format is wanted already: each has a word of its own, and the one fence
/// of the writer stands before the loads of both.
#[test]
fn loom_a_format_that_is_wanted_later_misses_nothing_either() {
    loom::model(|| {
        let value = Arc::new(AtomicU64::new(0));
        let interest = Arc::new([AtomicU64::new(1), AtomicU64::new(0)]);
        let writer = {
            let (value, interest) = (Arc::clone(&value), Arc::clone(&interest));
            loom::thread::spawn(move || {
                value.store(1, Ordering::Release);
                fence(Ordering::SeqCst);
                [interest[0].load(Ordering::Relaxed), interest[1].load(Ordering::Relaxed)]
            })
        };
        interest[1].fetch_or(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let read = value.load(Ordering::Acquire);
        let published = writer.join().expect("writer");
        assert_eq!(published[0], 1, "what was wanted before is published");
        assert!(read == 1 || published[1] == 1, "the event is neither in the lane nor in the value");
    });
}
