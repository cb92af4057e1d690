//! The bytes of the log: a head, then frames end to end. Pure.
//!
//! Head, 40 bytes: `tickhub1`, the file's random id (16), where its first part ends (`u64`), and a
//! checksum of these (8). Frame: length of the payload (`u32`), checksum (8), payload. Integers are
//! little-endian; a checksum is the first 8 bytes of SHA-256, for a frame over the file's id, its
//! own offset, its length and its payload, so that a frame is good in its place only.
//!
//! The first part is what a file was made with: it was synced before the file had its name, so
//! nothing in it can be torn. Behind it each frame is one commit: synced, and acknowledged, before
//! the next begins. So a frame that is not good is the torn end of a commit that nobody was told of
//! where nothing good follows, and damage where something does.

use aws_lc_rs::digest::{Context, SHA256};

/// Bytes of the head.
pub(super) const HEAD_BYTES: usize = 40;
/// Bytes of a frame before its payload.
pub(super) const FRAME_HEAD_BYTES: usize = 12;
/// Most bytes of a payload: several of the largest changes.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

const MAGIC: &[u8; 8] = b"tickhub1";

/// A file's random name for itself.
pub(super) type FileId = [u8; 16];

fn checksum(parts: &[&[u8]]) -> [u8; 8] {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut sum = [0; 8];
    sum.copy_from_slice(&context.finish().as_ref()[..8]);
    sum
}

/// The head of a file whose first part ends at `first_part`.
pub(super) fn head(id: &FileId, first_part: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..24].copy_from_slice(id);
    head[24..32].copy_from_slice(&first_part.to_le_bytes());
    let sum = checksum(&[&head[..32]]);
    head[32..].copy_from_slice(&sum);
    head
}

/// Reads a head: the file's id, and where its first part ends.
pub(super) fn read_head(bytes: &[u8]) -> Option<(FileId, u64)> {
    let head = bytes.get(..HEAD_BYTES)?;
    let good = head[..8] == MAGIC[..] && head[32..] == checksum(&[&head[..32]]);
    good.then(|| Some((head[8..24].try_into().ok()?, u64::from_le_bytes(head[24..32].try_into().ok()?)))).flatten()
}

/// Appends the frame of `payload`, which will stand at `offset` of the file, to `bytes`.
pub(super) fn write(id: &FileId, offset: u64, payload: &[u8], bytes: &mut Vec<u8>) {
    let length = (payload.len() as u32).to_le_bytes();
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&checksum(&[id, &offset.to_le_bytes(), &length, payload]));
    bytes.extend_from_slice(payload);
}

/// The payload of the frame at the begin of `bytes`, which stand at `offset` of the file.
fn read<'a>(id: &FileId, offset: u64, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(FRAME_HEAD_BYTES)?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    let payload = rest.get(..length).filter(|_| (1..=PAYLOAD_BYTES_MAX).contains(&length))?;
    (head[4..] == checksum(&[id, &offset.to_le_bytes(), &head[..4], payload])).then_some(payload)
}

/// What stands behind the last good frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing.
    Clean,
    /// The begin of a commit that was never acknowledged.
    Torn,
    /// Something that was good once.
    Damaged,
}

/// Gives each payload of `bytes`, which stand at `offset` of the file, with its own offset to
/// `take`; where the good ones end, and what is behind.
///
/// # Errors
/// What `take` says of a payload that it cannot read.
pub(super) fn read_all<E>(
    id: &FileId,
    (offset, bytes): (u64, &[u8]),
    first_part: u64,
    mut take: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(u64, Tail), E> {
    let mut at = 0;
    while at < bytes.len() {
        let here = offset + at as u64;
        let Some(payload) = read(id, here, &bytes[at..]) else {
            let damaged = here < first_part || follows(id, offset, bytes, at + 1);
            return Ok((here, if damaged { Tail::Damaged } else { Tail::Torn }));
        };
        take(here, payload)?;
        at += FRAME_HEAD_BYTES + payload.len();
    }
    let end = offset + at as u64;
    Ok((end, if end < first_part { Tail::Damaged } else { Tail::Clean }))
}

/// Whether any frame from `from` on is good.
fn follows(id: &FileId, offset: u64, bytes: &[u8], from: usize) -> bool {
    (from..bytes.len()).any(|at| read(id, offset + at as u64, &bytes[at..]).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: FileId = [7; 16];

    fn log(payloads: &[&[u8]]) -> (Vec<u8>, Vec<u64>) {
        let (mut bytes, mut offsets) = (Vec::new(), Vec::new());
        for payload in payloads {
            offsets.push(HEAD_BYTES as u64 + bytes.len() as u64);
            write(&ID, HEAD_BYTES as u64 + bytes.len() as u64, payload, &mut bytes);
        }
        (bytes, offsets)
    }

    fn read_back(bytes: &[u8], first_part: u64) -> (Vec<Vec<u8>>, u64, Tail) {
        let mut payloads = Vec::new();
        let (end, tail) = read_all::<()>(&ID, (HEAD_BYTES as u64, bytes), first_part, |_, payload| {
            payloads.push(payload.to_vec());
            Ok(())
        })
        .expect("takes all");
        (payloads, end, tail)
    }

    #[test]
    fn a_log_that_is_cut_anywhere_has_all_before_the_cut_and_a_torn_end() {
        let (bytes, offsets) = log(&[b"one", b"second", &[0x20; 300]]);
        for cut in 0..=bytes.len() {
            let whole = offsets.iter().skip(1).filter(|at| **at <= (HEAD_BYTES + cut) as u64).count();
            let whole = if cut == bytes.len() { 3 } else { whole };
            let (payloads, end, tail) = read_back(&bytes[..cut], 0);
            assert_eq!(payloads.len(), whole, "cut at {cut}");
            let clean = end == (HEAD_BYTES + cut) as u64;
            assert_eq!(tail, if clean { Tail::Clean } else { Tail::Torn }, "cut at {cut}");
            // The room may have been taken already, with nothing in it.
            let zeros = [&bytes[..cut], &[0; 500]].concat();
            let (payloads, _, tail) = read_back(&zeros, 0);
            assert_eq!((payloads.len(), tail), (whole, Tail::Torn), "zeros behind {cut}");
        }
    }

    #[test]
    fn a_byte_that_changes_before_something_good_is_damage_and_said_where() {
        let (bytes, offsets) = log(&[b"one", b"second", b"the third"]);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let frame = offsets.iter().rposition(|offset| *offset <= (HEAD_BYTES + at) as u64).expect("a frame");
            let (payloads, end, tail) = read_back(&changed, 0);
            assert_eq!((payloads.len(), end), (frame, offsets[frame]), "byte {at}");
            assert_eq!(tail, if frame == 2 { Tail::Torn } else { Tail::Damaged }, "byte {at}");
            // Of the first part nothing can be torn.
            let (_, _, tail) = read_back(&changed, HEAD_BYTES as u64 + bytes.len() as u64);
            assert_eq!(tail, Tail::Damaged, "byte {at}");
        }
        let (_, _, tail) =
            read_back(&bytes[..offsets[2] as usize - HEAD_BYTES], HEAD_BYTES as u64 + bytes.len() as u64);
        assert_eq!(tail, Tail::Damaged, "a first part that ends too early");
    }

    #[test]
    fn a_frame_is_good_in_its_place_and_file_only() {
        let (bytes, _) = log(&[b"one", b"one"]);
        let half = bytes.len() / 2;
        let swapped = [&bytes[half..], &bytes[..half]].concat();
        assert_eq!(read_back(&swapped, 0).2, Tail::Torn);
        let of_another = |id: FileId| read_all::<()>(&id, (HEAD_BYTES as u64, &bytes), 0, |_, _| Ok(())).expect("ok");
        assert_eq!(of_another([8; 16]), (HEAD_BYTES as u64, Tail::Torn));
        assert_eq!(of_another(ID).1, Tail::Clean);
    }

    #[test]
    fn a_head_reads_back_and_any_change_of_it_shows() {
        let good = head(&ID, 99);
        assert_eq!(read_head(&good), Some((ID, 99)));
        for at in 0..HEAD_BYTES {
            let mut bad = good;
            bad[at] ^= 0x10;
            assert_eq!(read_head(&bad), None, "{at}");
        }
        assert_eq!(read_head(&good[..39]), None);
    }
}
