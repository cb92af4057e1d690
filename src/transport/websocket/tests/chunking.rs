//! Whatever bytes come, in whatever portions: the same is read, and nothing breaks.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

const STREAM_MESSAGE_BYTES_MAX: usize = 300;

/// Mostly what a client may send, with every rule broken now and then.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop_oneof![
        12 => select(vec![TEXT, CONTINUATION, CONTINUATION, PING, PONG]),
        1 => Just(CLOSE),
        1 => 0..16_u8,
    ];
    let reserved = prop_oneof![30 => Just(0_u8), 1 => (1..8_u8).prop_map(|bits| bits << 4)];
    let payload = prop_oneof![
        10 => "[a-zé🦀]{0,12}".prop_map(String::into_bytes),
        2 => ".{20,60}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..140),
        1 => Just(b"\x03\xe8bye".to_vec()),
        1 => Just(b"\xf0\x9f".to_vec()),
        1 => Just(b"\xa6\x80".to_vec()),
    ];
    let mask = prop_oneof![30 => any::<[u8; 4]>().prop_map(Some), 1 => Just(None)];
    let form = prop_oneof![20 => Just(None), 1 => select(vec![2, 8]).prop_map(Some)];
    (any::<bool>(), reserved, opcode, payload, mask, form).prop_map(|(fin, reserved, opcode, payload, mask, form)| {
        // Control frames are final, but for a few, so that the stream gets beyond the first.
        let fin = if fin || (opcode >= CLOSE && payload.len() != 3) { FIN } else { 0 };
        let form = form.unwrap_or(if payload.len() < 126 { 0 } else { 2 });
        frame_with(fin | reserved | opcode, &payload, payload.len() as u64, form, mask)
    })
}

fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let frames = vec(any_frame(), 1..30).prop_map(|frames| frames.concat());
    let damage = prop_oneof![3 => Just(vec![]), 1 => vec((any::<Index>(), any::<u8>()), 1..3)];
    let damaged =
        (frames, damage, any::<Index>(), prop::bool::weighted(0.3)).prop_map(|(mut stream, damage, cut, cuts)| {
            for (at, byte) in damage {
                let at = at.index(stream.len());
                stream[at] = byte;
            }
            if cuts {
                stream.truncate(cut.index(stream.len()));
            }
            stream
        });
    prop_oneof![9 => damaged, 1 => vec(any::<u8>(), 0..200)]
}

/// Reads in portions of these lengths, again and again, breaking where `breaks` says so.
fn read_in(stream: &[u8], portions: &[usize], breaks: &[bool]) -> (Vec<Seen>, Option<Violation>) {
    let mut reader = FrameReader::new(STREAM_MESSAGE_BYTES_MAX);
    let (mut seen, mut at) = (Vec::new(), 0);
    for portion in portions.iter().cycle() {
        let end = (at + portion).min(stream.len());
        let mut input = stream[at..end].to_vec();
        let taken = reader.read(&mut input, &mut |incoming| {
            seen.push(Seen::from(incoming));
            match breaks.get(seen.len() % (breaks.len() + 1)) {
                Some(true) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        assert!(reader.held_bytes() <= STREAM_MESSAGE_BYTES_MAX + 200, "holds {} bytes", reader.held_bytes());
        match taken {
            Ok(taken) => {
                assert_eq!(input[taken..], stream[at + taken..end], "what was not taken is untouched");
                at += taken;
            }
            Err(violation) => return (seen, Some(violation)),
        }
        if at == stream.len() {
            break;
        }
    }
    (seen, None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn portions_and_breaks_change_nothing(stream in any_stream(), portions in vec(1..40_usize, 1..10), breaks in vec(any::<bool>(), 0..5)) {
        let whole = read_in(&stream, &[stream.len().max(1)], &[]);
        prop_assert_eq!(&read_in(&stream, &[1], &[]), &whole, "byte by byte");
        prop_assert_eq!(&read_in(&stream, &portions, &[]), &whole);
        prop_assert_eq!(&read_in(&stream, &portions, &breaks), &whole, "with breaks");
        if let Some(violation) = whole.1 {
            prop_assert!([1002, 1003, 1007, 1009].contains(&violation.close));
        }
    }

    #[test]
    fn a_longer_stream_only_adds_to_what_was_read(stream in any_stream(), cut in any::<Index>()) {
        let (all, _) = read_in(&stream, &[stream.len().max(1)], &[]);
        let cut = cut.index(stream.len() + 1);
        let (some, violation) = read_in(&stream[..cut], &[cut.max(1)], &[]);
        prop_assert_eq!(&some[..], &all[..some.len()]);
        if violation.is_some() {
            prop_assert_eq!(some.len(), all.len());
        }
    }
}
