//! Whether all clients are sent the same: a hash of each event by stream and number, kept for a while in a table of
//! fixed size, so that every delivery is compared with what another client got and none costs memory.

use std::hash::Hasher;

use rustc_hash::FxHasher;

/// Numbers that the table holds: at 32 bytes each 2 MB, which stays near a core; of 200 busy streams it is the last
/// 300 events each, and a client that lags further behind is not compared.
const SLOTS: usize = 1 << 16;

/// What an event was compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// Nobody had it yet, or that is forgotten.
    First,
    /// Another client got the same.
    Equal,
    /// Another client got something else under the same number.
    Different,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    stream: u64,
    seq: u64,
    hash: u64,
}

/// The table.
#[derive(Debug)]
pub struct Values(Box<[Slot]>);

impl Default for Values {
    fn default() -> Self {
        Self(vec![Slot::default(); SLOTS].into_boxed_slice())
    }
}

impl Values {
    /// Compares with what is known of the number `seq` (from 1) of `stream`, and remembers it.
    #[inline]
    pub fn compare(&mut self, stream: u64, seq: u64, hash: u64) -> Compared {
        let place = (stream.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40).wrapping_add(seq) as usize % SLOTS;
        let slot = &mut self.0[place];
        if slot.seq == seq && slot.stream == stream {
            return if slot.hash == hash { Compared::Equal } else { Compared::Different };
        }
        *slot = Slot { stream, seq, hash };
        Compared::First
    }
}

/// A hash of an event's text but for its snapshot flag, which alone may differ between two clients.
#[inline]
pub fn hash(text: &[u8], snapshot: bool) -> u64 {
    const FLAG: &[u8] = b",\"snap\":true";
    let mut hasher = FxHasher::default();
    let flag = if snapshot { memchr::memmem::find(text, FLAG) } else { None };
    match flag {
        Some(at) if at + FLAG.len() + 1 == text.len() => {
            hasher.write(&text[..at]);
            hasher.write(b"}");
        }
        Some(at) => {
            let whole = [&text[..at], &text[at + FLAG.len()..text.len() - 1]].concat();
            hasher.write(&whole);
            hasher.write(b"}");
        }
        None => {
            hasher.write(&text[..text.len().saturating_sub(1)]);
            hasher.write(b"}");
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_number_must_be_the_same_value_and_others_are_free() {
        let mut values = Values::default();
        assert_eq!(values.compare(1, 5, 77), Compared::First);
        assert_eq!(values.compare(1, 5, 77), Compared::Equal);
        assert_eq!(values.compare(1, 5, 78), Compared::Different);
        assert_eq!(values.compare(2, 5, 78), Compared::First);
        assert_eq!(values.compare(1, 6, 78), Compared::First);
        assert_eq!(values.compare(1, 5, 77), Compared::Equal, "neighbours do not push each other out");
    }

    #[test]
    fn the_snapshot_flag_alone_makes_no_difference() {
        let live = br#"{"seq":1,"rx":"2","bid":"1"}"#;
        assert_eq!(hash(live, false), hash(br#"{"seq":1,"rx":"2","bid":"1","snap":true}"#, true));
        assert_eq!(hash(live, false), hash(br#"{"seq":1,"rx":"2","snap":true,"bid":"1"}"#, true));
        assert_ne!(hash(live, false), hash(br#"{"seq":1,"rx":"2","bid":"2"}"#, false));
        assert_ne!(hash(live, false), hash(br#"{"seq":1,"rx":"2","bid":"2","snap":true}"#, true));
    }
}
