//! A bounded ring of the recent events of one stream, for `resume`.
//!
//! One writer appends records of words and overwrites the oldest; readers copy and then check
//! that what they copied was not overwritten meanwhile. Nobody waits for anybody.

use crate::sync::{AtomicU64, Ordering, fence};

/// Words before a record's data: length and tag, and the sequence.
const HEAD_WORDS: usize = 2;

/// See the module. Positions count words since the beginning and only grow.
#[derive(Debug)]
pub(super) struct Ring {
    words: Box<[AtomicU64]>,
    /// Where the oldest whole record begins. Moved before its words are overwritten.
    tail: AtomicU64,
    /// Behind the newest whole record.
    head: AtomicU64,
}

/// One record, copied out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) seq: u64,
    pub(super) tag: u8,
    pub(super) data: Vec<u64>,
}

impl Ring {
    /// A ring of `words` (a power of two).
    pub(super) fn new(words: usize) -> Self {
        debug_assert!(words.is_power_of_two());
        Self {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            tail: AtomicU64::new(0),
            head: AtomicU64::new(0),
        }
    }

    fn cell(&self, position: u64) -> &AtomicU64 {
        &self.words[(position as usize) & (self.words.len() - 1)]
    }

    /// Appends a record, dropping the oldest ones it needs the room of. A record larger than the
    /// ring empties it: nothing older may then be resumed from. Only the one writer may call it.
    pub(super) fn push(&self, seq: u64, tag: u8, data: &[u64]) {
        let need = (HEAD_WORDS + data.len()) as u64;
        let capacity = self.words.len() as u64;
        let head = self.head.load(Ordering::Relaxed);
        if need > capacity {
            self.tail.store(head, Ordering::Release);
            return;
        }
        let mut tail = self.tail.load(Ordering::Relaxed);
        if head + need - tail > capacity {
            while head + need - tail > capacity {
                tail += self.cell(tail).load(Ordering::Relaxed) >> 8;
            }
            self.tail.store(tail, Ordering::Relaxed);
            // A reader that sees an overwritten word sees the moved tail as well.
            fence(Ordering::Release);
        }
        self.cell(head).store(need << 8 | u64::from(tag), Ordering::Relaxed);
        self.cell(head + 1).store(seq, Ordering::Relaxed);
        for (i, word) in data.iter().enumerate() {
            self.cell(head + (HEAD_WORDS + i) as u64).store(*word, Ordering::Relaxed);
        }
        self.head.store(head + need, Ordering::Release);
    }

    /// Forgets everything. Only the one writer may call it.
    pub(super) fn clear(&self) {
        self.tail.store(self.head.load(Ordering::Relaxed), Ordering::Release);
    }

    /// The held records after `seq`, oldest first, at most `records_max`.
    pub(super) fn after(&self, seq: u64, records_max: usize, out: &mut Vec<Record>) {
        out.clear();
        // The tail first: read behind the head it could lie beyond it, and hide what is held.
        let mut position = self.tail.load(Ordering::Acquire);
        let head = self.head.load(Ordering::Acquire);
        while position < head && out.len() < records_max {
            let lead = self.cell(position).load(Ordering::Relaxed);
            let at = self.cell(position + 1).load(Ordering::Relaxed);
            let need = (lead >> 8).clamp(HEAD_WORDS as u64, self.words.len() as u64);
            let data: Vec<u64> = if at > seq {
                (HEAD_WORDS as u64..need).map(|i| self.cell(position + i).load(Ordering::Relaxed)).collect()
            } else {
                Vec::new()
            };
            fence(Ordering::Acquire);
            let tail = self.tail.load(Ordering::Relaxed);
            if tail > position {
                // Overtaken while copying: what was collected before this record is gone too.
                out.clear();
                position = tail;
                continue;
            }
            if at > seq {
                out.push(Record { seq: at, tag: (lead & 0xff) as u8, data });
            }
            position += need;
        }
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;

    #[test]
    fn loom_a_copied_record_is_whole() {
        loom::model(|| {
            let ring = Arc::new(Ring::new(8));
            ring.push(1, 0, &[1, 1]);
            ring.push(2, 0, &[2, 2]);
            let writer = {
                let ring = Arc::clone(&ring);
                loom::thread::spawn(move || ring.push(3, 0, &[3, 3]))
            };
            let mut out = Vec::new();
            ring.after(0, 8, &mut out);
            for record in &out {
                assert_eq!(record.data, [record.seq, record.seq]);
            }
            assert!(out.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
            writer.join().expect("writer");
        });
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seqs(ring: &Ring, after: u64) -> Vec<u64> {
        let mut out = Vec::new();
        ring.after(after, usize::MAX, &mut out);
        out.iter().map(|record| record.seq).collect()
    }

    #[test]
    fn holds_the_newest_and_forgets_on_command() {
        let ring = Ring::new(16);
        for seq in 1..=10 {
            ring.push(seq, 7, &[seq; 2]);
        }
        assert_eq!(seqs(&ring, 0), [7, 8, 9, 10]);
        assert_eq!(seqs(&ring, 8), [9, 10]);
        ring.clear();
        assert_eq!(seqs(&ring, 0), [] as [u64; 0]);
        ring.push(11, 7, &[11]);
        assert_eq!(seqs(&ring, 0), [11]);
        ring.push(12, 7, &[0; 64]);
        assert_eq!(seqs(&ring, 0), [] as [u64; 0], "a record too large leaves nothing older behind");
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_queue(sizes in proptest::collection::vec(0_usize..12, 1..200), after in 0_u64..200) {
            let ring = Ring::new(64);
            let mut model: Vec<(u64, usize)> = Vec::new();
            for (seq, size) in sizes.iter().enumerate() {
                let seq = seq as u64 + 1;
                ring.push(seq, 0, &vec![seq; *size]);
                model.push((seq, *size));
                while model.iter().map(|(_, size)| size + HEAD_WORDS).sum::<usize>() > 64 {
                    model.remove(0);
                }
            }
            let expected: Vec<u64> = model.iter().map(|(seq, _)| *seq).filter(|seq| *seq > after).collect();
            prop_assert_eq!(seqs(&ring, after), expected);
        }
    }

    #[test]
    fn under_real_threads_every_copy_is_whole_and_contiguous() {
        let ring = Ring::new(256);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut out = Vec::new();
                let mut last = 0;
                while last < 100_000 {
                    ring.after(last, 64, &mut out);
                    for record in &out {
                        assert!(record.data.iter().all(|word| *word == record.seq));
                        assert!(record.seq > last);
                        last = record.seq;
                    }
                    assert!(out.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
                }
            });
            for seq in 1..=100_000_u64 {
                ring.push(seq, 0, &[seq; 20][..(seq as usize % 20)]);
            }
        });
    }
}
