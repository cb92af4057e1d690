//! The only file that chooses between the standard atomics and loom's.

#[cfg(all(test, feature = "loom"))]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

#[cfg(all(test, feature = "loom"))]
pub(crate) use self::stand_in::{Consumer, Notify, Producer, ring};

#[cfg(not(all(test, feature = "loom")))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

#[cfg(not(all(test, feature = "loom")))]
pub(crate) use rtrb::{Consumer, Producer};

#[cfg(not(all(test, feature = "loom")))]
pub(crate) use tokio::sync::Notify;

/// A ring for `items_max`, with one end for each of two threads.
#[cfg(not(all(test, feature = "loom")))]
pub(crate) fn ring<T>(items_max: usize) -> (Producer<T>, Consumer<T>) {
    rtrb::RingBuffer::new(items_max)
}

/// rtrb and tokio are not built on loom's atomics, so loom cannot look into them. These stand for
/// them: the same promises, made with the same orderings. What loom then shows is that the lane
/// and its wake-up are right on top of those promises; that rtrb and tokio keep them is for their
/// own tests.
#[cfg(all(test, feature = "loom"))]
mod stand_in {
    use super::{AtomicU64, Ordering};
    use loom::sync::Arc;

    struct Ring<T> {
        /// The values lie outside of loom: no ordering but that of `head` and `tail` is seen.
        slots: Box<[std::sync::Mutex<Option<T>>]>,
        head: AtomicU64,
        tail: AtomicU64,
    }

    pub(crate) struct Producer<T>(Arc<Ring<T>>);

    pub(crate) struct Consumer<T>(Arc<Ring<T>>);

    pub(crate) fn ring<T>(items_max: usize) -> (Producer<T>, Consumer<T>) {
        let slots = (0..items_max).map(|_| std::sync::Mutex::new(None)).collect();
        let ring = Arc::new(Ring { slots, head: AtomicU64::new(0), tail: AtomicU64::new(0) });
        (Producer(Arc::clone(&ring)), Consumer(ring))
    }

    impl<T> Ring<T> {
        fn slot(&self, position: u64) -> std::sync::MutexGuard<'_, Option<T>> {
            self.slots[position as usize % self.slots.len()].lock().expect("loom runs one thread at a time")
        }
    }

    impl<T> Producer<T> {
        pub(crate) fn slots(&self) -> usize {
            let tail = self.0.tail.load(Ordering::Relaxed);
            self.0.slots.len() - (tail - self.0.head.load(Ordering::Acquire)) as usize
        }

        pub(crate) fn push(&mut self, value: T) -> Result<(), T> {
            if self.slots() == 0 {
                return Err(value);
            }
            let tail = self.0.tail.load(Ordering::Relaxed);
            *self.0.slot(tail) = Some(value);
            self.0.tail.store(tail + 1, Ordering::Release);
            Ok(())
        }
    }

    impl<T> Consumer<T> {
        pub(crate) fn is_empty(&self) -> bool {
            self.0.head.load(Ordering::Relaxed) == self.0.tail.load(Ordering::Acquire)
        }

        pub(crate) fn pop(&mut self) -> Result<T, ()> {
            if self.is_empty() {
                return Err(());
            }
            let head = self.0.head.load(Ordering::Relaxed);
            let value = self.0.slot(head).take().ok_or(());
            self.0.head.store(head + 1, Ordering::Release);
            value
        }
    }

    /// A permit at most, taken by the one who waits. A wait that nobody ends is a deadlock, which
    /// loom reports.
    #[derive(Debug, Default)]
    pub(crate) struct Notify(loom::sync::Notify);

    impl Notify {
        pub(crate) fn notify_one(&self) {
            self.0.notify();
        }

        /// Blocks in its first poll. May return for no reason, once.
        pub(crate) async fn notified(&self) {
            self.0.wait();
        }
    }
}
