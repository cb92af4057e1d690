//! What RFC 6455 lets no client do.

use super::super::FRAGMENTS_MAX;
use super::*;

/// Reads a good message and then `bytes`, whose last byte is the one that breaks a rule.
#[track_caller]
fn assert_refused(story: &str, bytes: &[u8], code: u16) {
    let stream = [&frame(FIN | TEXT, b"before"), bytes].concat();
    for (portions, (seen, violation)) in [("whole", read_whole(&stream)), ("bytewise", read_bytewise(&stream))] {
        assert_eq!(seen, [text("before")], "{story}, {portions}");
        let violation = violation.unwrap_or_else(|| panic!("{story}, {portions}: taken"));
        assert_eq!(violation.close, code, "{story}, {portions}: {violation}");
        assert!(violation.reason.len() <= 123, "{story}: the reason must fit a close frame");
    }
    let (_, early) = read_bytewise(&stream[..stream.len() - 1]);
    assert_eq!(early, None, "{story}: refused before the byte that shows it");
}

/// The beginning of a text that claims a length in eight bytes, up to where its mask would be.
fn claim(length: u64) -> Vec<u8> {
    [&[FIN | TEXT, 0x80 | 127][..], &length.to_be_bytes()].concat()
}

#[test]
fn frames_that_are_not_masked() {
    for first in [FIN | TEXT, TEXT, FIN | PING, FIN | PONG, FIN | CLOSE] {
        assert_refused("unmasked", &[first, 0], 1002);
        assert_refused("unmasked with payload", &[first, 5], 1002);
    }
}

#[test]
fn reserved_bits() {
    for bits in [0x40, 0x20, 0x10, 0x70, 0x60] {
        for opcode in [TEXT, BINARY, CLOSE, PING, PONG] {
            assert_refused("reserved bits", &[FIN | bits | opcode, 0x80], 1002);
        }
        let continued = [frame(TEXT, b"a"), vec![FIN | bits | CONTINUATION, 0x80]].concat();
        assert_refused("reserved bits in a continuation", &continued, 1002);
    }
}

#[test]
fn reserved_opcodes() {
    for opcode in (0x3..=0x7).chain(0xb..=0xf) {
        assert_refused("reserved opcode", &[FIN | opcode, 0x80], 1002);
        assert_refused("reserved opcode, not final", &[opcode, 0x80], 1002);
        assert_refused("within a message", &[frame(TEXT, b"a"), vec![FIN | opcode, 0x80]].concat(), 1002);
    }
}

#[test]
fn control_frames_that_are_fragmented_or_long() {
    for opcode in [CLOSE, PING, PONG] {
        assert_refused("fragmented", &[opcode, 0x80], 1002);
        assert_refused("126 bytes", &[FIN | opcode, 0x80 | 126], 1002);
        assert_refused("64-bit length", &[FIN | opcode, 0x80 | 127], 1002);
    }
}

#[test]
fn fragments_out_of_place() {
    assert_refused("continuation of nothing", &[CONTINUATION, 0x80], 1002);
    assert_refused("final continuation of nothing", &[FIN | CONTINUATION, 0x80], 1002);
    let ended = [frame(TEXT, b"a"), frame(FIN | CONTINUATION, b"b")].concat();
    let (seen, violation) = read_whole(&[ended, frame(FIN | CONTINUATION, b"c")].concat());
    assert_eq!((seen, violation.map(|violation| violation.close)), (vec![text("ab")], Some(1002)));
    for opcode in [TEXT, BINARY] {
        assert_refused("new message in a message", &[frame(TEXT, b"a"), vec![FIN | opcode, 0x80]].concat(), 1002);
        assert_refused("new fragments in a message", &[frame(TEXT, b"a"), vec![opcode, 0x80]].concat(), 1002);
    }
}

#[test]
fn lengths_that_are_not_in_their_shortest_form() {
    for length in [0_u16, 1, 125] {
        assert_refused("two bytes", &[&[FIN | TEXT, 0x80 | 126][..], &length.to_be_bytes()].concat(), 1002);
    }
    for length in [0_u64, 125, 126, 65_535] {
        assert_refused("eight bytes", &claim(length), 1002);
    }
}

#[test]
fn lengths_beyond_all_bounds() {
    assert_refused("the highest bit", &claim(1 << 63), 1002);
    assert_refused("all bits", &claim(u64::MAX), 1002);
    assert_refused("as long as can be", &claim(u64::MAX >> 1), 1009);
    assert_refused("more than 32 bits, whose low ones are few", &claim((1 << 32) + 5), 1009);
}

#[test]
fn messages_beyond_the_bound_are_refused_at_their_header() {
    assert_refused("one frame", &claim(MESSAGE_BYTES_MAX as u64 + 1), 1009);

    let full = frame(TEXT, &[b'x'; MESSAGE_BYTES_MAX]);
    assert_refused("one byte more", &[full, vec![FIN | CONTINUATION, 0x80 | 1]].concat(), 1009);

    let half = frame(TEXT, &[b'x'; MESSAGE_BYTES_MAX / 2]);
    let rest = (MESSAGE_BYTES_MAX / 2 + 1) as u16;
    let header = [&[CONTINUATION, 0x80 | 126][..], &rest.to_be_bytes()].concat();
    assert_refused("a long continuation", &[half, header].concat(), 1009);
}

#[test]
fn the_bound_may_be_anything() {
    for (bytes_max, bytes, fits) in
        [(0, 0, true), (0, 1, false), (5, 5, true), (5, 6, false), (usize::MAX, 70_000, true)]
    {
        let taken = FrameReader::new(bytes_max)
            .read(&mut frame(FIN | TEXT, &vec![b'x'; bytes]), &mut |_| ControlFlow::Continue(()));
        assert_eq!(taken.is_ok(), fits, "{bytes} bytes where {bytes_max} are allowed");
    }
}

#[test]
fn a_flood_of_fragments() {
    for payload in [&b""[..], b"x"] {
        let mut stream = frame(TEXT, payload);
        (1..FRAGMENTS_MAX).for_each(|_| stream.extend(frame(CONTINUATION, payload)));
        stream.extend([CONTINUATION, if payload.is_empty() { 0x80 } else { 0x81 }]);
        assert_refused("one fragment too many", &stream, 1009);
    }
}

#[test]
fn binary_messages_are_not_commands() {
    assert_refused("binary", &[FIN | BINARY, 0x80 | 5], 1003);
    assert_refused("binary in fragments", &[BINARY, 0x80 | 127], 1003);
}

#[test]
fn text_that_is_not_utf_8_is_refused_at_the_first_wrong_byte() {
    // What comes before, and the byte that shows it: a lone continuation, an overlong form, a
    // surrogate, a value above the last, a sequence broken off, and bytes that are never used.
    let cases: [&[u8]; 10] = [
        b"\x80",
        b"Hello \xc0",
        b"\xe0\x80",
        b"\xed\xa0",
        b"\xf4\x90",
        b"\xf0\x80",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\x41\xce\x41",
        b"\xf0\x9f\xa6\x41",
        b"\xf5",
        b"\xff",
    ];
    for bad in cases {
        let story = format!("{bad:x?}");
        // The frame goes on behind the bad byte, in all of these ways, and nobody waits for it.
        let claimed = frame_with(FIN | TEXT, bad, bad.len() as u64 + 50, 0, Some(MASK));
        assert_refused(&story, &claimed, 1007);
        let claimed = frame_with(TEXT, bad, bad.len() as u64 + 50, 0, Some(MASK));
        assert_refused(&format!("{story} in a fragment"), &claimed, 1007);
        for cut in 0..bad.len() {
            let first = frame(TEXT, &bad[..cut]);
            let second = frame_with(CONTINUATION, &bad[cut..], 60, 0, Some(MASK));
            assert_refused(&format!("{story} cut at {cut}"), &[first, second].concat(), 1007);
        }
    }
}

#[test]
fn text_that_ends_within_a_character() {
    assert_refused("in one frame", &frame(FIN | TEXT, b"\xf0\x9f\xa6"), 1007);
    let stream = [frame(TEXT, b"\xf0\x9f"), frame(FIN | CONTINUATION, b"\xa6")].concat();
    assert_refused("in fragments", &stream, 1007);
    let header = frame(FIN | CONTINUATION, b"");
    assert_refused("closed by an empty one", &[frame(TEXT, b"\xce"), header].concat(), 1007);
}

#[test]
fn close_frames_that_say_nothing_sensible() {
    assert_refused("one byte", &frame(FIN | CLOSE, b"\x03"), 1002);
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        assert_refused(&format!("code {code}"), &close(code, b""), 1002);
        assert_refused(&format!("code {code} with a reason"), &close(code, b"why"), 1002);
    }
    assert_refused("reason", &close(1000, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xed\xa0"), 1007);
    assert_refused("reason cut", &close(1000, b"\xce"), 1007);
}

#[test]
fn nothing_is_handed_on_after_a_violation() {
    let mut reader = FrameReader::new(MESSAGE_BYTES_MAX);
    let mut stream = [frame(TEXT, b"held"), vec![FIN | PING, 0]].concat();
    assert!(reader.read(&mut stream, &mut |_| panic!("nothing is complete")).is_err());
    assert_eq!(reader.held_bytes(), 0);
    let mut more = frame(FIN | TEXT, b"more");
    assert_eq!(reader.read(&mut more, &mut |_| panic!("handed on")), Ok(10));
}
