//! Cutting what is to be encrypted into pieces: whole slices together, or parts of a large one.

use std::io::IoSlice;

use super::channel::PIECE_BYTES_MAX;

/// The pieces of some slices, in order.
pub(super) struct Pieces<'a> {
    slices: &'a [IoSlice<'a>],
    /// Bytes of the first slice that are done with.
    skip: usize,
}

impl<'a> Pieces<'a> {
    /// The pieces behind the first `skip` bytes, which lie in the first slice.
    pub(super) fn new(slices: &'a [IoSlice<'a>], skip: usize) -> Self {
        Self { slices, skip }
    }

    /// The next piece: up to [`PIECE_BYTES_MAX`], and never the beginning of a slice without its
    /// end unless the slice is larger than that. Small slices are copied together into `gathered`.
    pub(super) fn next<'b>(&mut self, gathered: &'b mut Vec<u8>) -> Option<&'b [u8]>
    where
        'a: 'b,
    {
        while let [first, rest @ ..] = self.slices
            && first.len() <= self.skip
        {
            (self.slices, self.skip) = (rest, 0);
        }
        let [first, rest @ ..] = self.slices else { return None };
        let first: &'a [u8] = &first[self.skip..];
        if first.len() > PIECE_BYTES_MAX {
            self.skip += PIECE_BYTES_MAX;
            return Some(&first[..PIECE_BYTES_MAX]);
        }
        (self.slices, self.skip) = (rest, 0);
        if rest.first().is_none_or(|next| first.len() + next.len() > PIECE_BYTES_MAX) {
            return Some(first);
        }
        gathered.clear();
        gathered.extend_from_slice(first);
        while let [next, rest @ ..] = self.slices
            && gathered.len() + next.len() <= PIECE_BYTES_MAX
        {
            gathered.extend_from_slice(next);
            self.slices = rest;
        }
        Some(gathered)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_is_lost_doubled_or_begun_without_its_end(
            lengths in prop::collection::vec(prop_oneof![2usize..300, 60_000usize..70_000, 130_000usize..200_000], 1..12),
            skipped in any::<bool>(),
        ) {
            let mut counter = 0u32;
            let mut filled = |length: &usize| (0..*length).map(|_| { counter += 1; (counter % 251) as u8 }).collect();
            let frames: Vec<Vec<u8>> = lengths.iter().map(&mut filled).collect();
            let slices: Vec<IoSlice<'_>> = frames.iter().map(|frame| IoSlice::new(frame)).collect();
            let skip = usize::from(skipped);
            let (mut pieces, mut gathered, mut all) = (Pieces::new(&slices, skip), Vec::new(), Vec::new());
            let starts: Vec<usize> = lengths.iter().scan(0, |at, length| { *at += length; Some(*at - length) }).collect();
            while let Some(piece) = pieces.next(&mut gathered) {
                prop_assert!(!piece.is_empty() && piece.len() <= PIECE_BYTES_MAX);
                all.extend_from_slice(piece);
                // The byte that is not said to be taken is never the first of a frame.
                prop_assert!(!starts.contains(&(skip + all.len() - 1)));
            }
            let whole: Vec<u8> = frames.concat().split_off(skip);
            prop_assert!(all == whole);
        }
    }
}
