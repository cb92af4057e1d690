//! A seqlock over atomic words: the latest value of one stream.
//!
//! The words are atomics, so a read that races with a write is defined behavior and is thrown
//! away by the version check. The writer never waits; a reader waits only for a write in progress.

use crate::sync::{AtomicU64, Ordering, fence};

/// The latest `N` words that one writer has published, padded so that neighbors do not share
/// cache lines (two lines are fetched together on x86).
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Slot<const N: usize> {
    /// Even when stable, odd while a write is under way; 0 = never written.
    version: AtomicU64,
    words: [AtomicU64; N],
}

impl<const N: usize> Slot<N> {
    pub(super) fn new() -> Self {
        Self { version: AtomicU64::new(0), words: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Publishes `words`. Only the one writer of the instrument may call it.
    #[inline]
    pub(super) fn write(&self, words: &[u64; N]) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        // Orders the odd version before every word: a reader that sees a new word sees it odd.
        fence(Ordering::Release);
        for (cell, word) in self.words.iter().zip(words) {
            cell.store(*word, Ordering::Relaxed);
        }
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The latest words, whole; `None` before the first write.
    #[inline]
    pub(super) fn read(&self) -> Option<[u64; N]> {
        loop {
            let before = self.version.load(Ordering::Acquire);
            if before == 0 {
                return None;
            }
            if before.is_multiple_of(2) {
                let words = std::array::from_fn(|i| self.words[i].load(Ordering::Relaxed));
                // Orders the words before the second look at the version.
                fence(Ordering::Acquire);
                if self.version.load(Ordering::Relaxed) == before {
                    return Some(words);
                }
            }
            pause();
        }
    }
}

#[cfg(not(all(test, feature = "loom")))]
fn pause() {
    std::hint::spin_loop();
}

#[cfg(all(test, feature = "loom"))]
fn pause() {
    loom::thread::yield_now();
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;

    #[test]
    fn loom_a_torn_or_older_value_is_never_read() {
        loom::model(|| {
            let slot = Arc::new(Slot::<2>::new());
            let writer = {
                let slot = Arc::clone(&slot);
                loom::thread::spawn(move || {
                    slot.write(&[1, 1]);
                    slot.write(&[2, 2]);
                })
            };
            let mut last = 0;
            for _ in 0..2 {
                if let Some([a, b]) = slot.read() {
                    assert_eq!(a, b, "torn");
                    assert!(a >= last, "older");
                    last = a;
                }
            }
            writer.join().expect("writer");
            assert_eq!(slot.read(), Some([2, 2]));
        });
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn under_real_threads_every_value_is_whole_and_none_goes_back() {
        let slot = Slot::<9>::new();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = 0;
                    while last < 200_000 {
                        let Some(words) = slot.read() else { continue };
                        assert!(words.iter().enumerate().all(|(i, w)| *w == words[0] + i as u64), "torn: {words:?}");
                        assert!(words[0] >= last, "older");
                        last = words[0];
                    }
                });
            }
            for value in 1..=200_000 {
                slot.write(&std::array::from_fn(|i| value + i as u64));
            }
        });
    }

    #[test]
    fn an_unwritten_slot_has_no_value() {
        assert_eq!(Slot::<3>::new().read(), None);
    }
}
