//! What honest clients send, and what it costs to hold.

use super::super::FRAGMENTS_MAX;
use super::*;

#[track_caller]
fn assert_reads(stream: &[u8], expected: &[Seen]) {
    assert_eq!(read_whole(stream), (expected.to_vec(), None));
    let (seen, violation, reader) = read_portions(stream.chunks(1));
    assert_eq!((seen, violation), (expected.to_vec(), None), "byte by byte");
    assert_eq!(reader.held_bytes(), 0, "nothing is kept once everything is complete");
}

#[test]
fn the_examples_of_the_rfc_are_read() {
    // RFC 6455, 5.7: a masked text, and the unmasked ones with the same mask put on.
    assert_reads(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &[text("Hello")]);
    assert_reads(b"\x89\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &[Seen::Ping(b"Hello".to_vec())]);
    assert_reads(b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &[Seen::Pong(b"Hello".to_vec())]);
    assert_reads(b"\x01\x83\x37\xfa\x21\x3d\x7f\x9f\x4d\x80\x82\x37\xfa\x21\x3d\x5b\x95", &[text("Hello")]);
}

#[test]
fn texts_of_every_form_of_length_are_read() {
    for bytes in [0, 1, 7, 8, 9, 125, 126, 127, 128, 1000, 65_535, 65_536] {
        let message = "0123456789abcdef".repeat(bytes / 16 + 1)[..bytes].to_owned();
        assert_reads(&frame(FIN | TEXT, message.as_bytes()), &[Seen::Text(message)]);
    }
}

#[test]
fn several_frames_in_one_read_come_in_order() {
    let stream = [frame(FIN | TEXT, b"a"), frame(FIN | PING, b"b"), frame(FIN | TEXT, b"c")].concat();
    assert_reads(&stream, &[text("a"), Seen::Ping(b"b".to_vec()), text("c")]);
}

#[test]
fn pings_and_pongs_may_carry_up_to_125_bytes() {
    for bytes in [0, 1, 124, 125] {
        let payload: Vec<u8> = (0..bytes).map(|at| 0xff - at).collect();
        assert_reads(&frame(FIN | PING, &payload), &[Seen::Ping(payload.clone())]);
        assert_reads(&frame(FIN | PONG, &payload), &[Seen::Pong(payload.clone())]);
    }
}

#[test]
fn control_frames_come_between_fragments_and_before_the_message() {
    let stream = [
        frame(TEXT, b"fragment1"),
        frame(FIN | PING, b"x"),
        frame(CONTINUATION, b""),
        frame(FIN | PONG, &[0xff; 125]),
        frame(FIN | CONTINUATION, b"fragment2"),
        frame(FIN | TEXT, b"next"),
    ];
    let expected = [Seen::Ping(b"x".to_vec()), Seen::Pong(vec![0xff; 125]), text("fragment1fragment2"), text("next")];
    assert_reads(&stream.concat(), &expected);
}

#[test]
fn a_message_may_come_in_single_bytes_and_in_empty_fragments() {
    let message = "κόσμε 🦀";
    let mut stream = frame(TEXT, b"");
    for byte in message.as_bytes() {
        stream.extend(frame(CONTINUATION, &[*byte]));
        stream.extend(frame(CONTINUATION, b""));
    }
    stream.extend(frame(FIN | CONTINUATION, b""));
    assert_reads(&stream, &[text(message)]);
}

#[test]
fn every_mask_is_removed_whatever_the_portions() {
    let message = "a text long enough for words and a tail";
    for mask in [[0; 4], [1, 2, 3, 4], [0xff; 4], [0, 0xff, 0x80, 0x7f]] {
        let stream = frame_with(FIN | TEXT, message.as_bytes(), message.len() as u64, 0, Some(mask));
        for portion in 1..=stream.len() {
            let (seen, violation, _) = read_portions(stream.chunks(portion));
            assert_eq!((seen, violation), (vec![text(message)], None), "portions of {portion}");
        }
    }
}

#[test]
fn a_close_is_read_with_every_code_that_may_be_sent() {
    assert_reads(&frame(FIN | CLOSE, b""), &[Seen::Close(None, String::new())]);
    for code in (1000..=1003).chain(1007..=1014).chain([3000, 3999, 4000, 4501, 4999]) {
        assert_reads(&close(code, b""), &[Seen::Close(Some(code), String::new())]);
    }
    let reason = "é".repeat(61) + "!";
    assert_reads(&close(1000, reason.as_bytes()), &[Seen::Close(Some(1000), reason.clone())]);
}

#[test]
fn nothing_is_handed_on_after_a_close() {
    let stream = [close(1000, b"bye"), frame(FIN | PING, b"x"), frame(FIN | BINARY, b"\xff"), vec![0xff; 9]].concat();
    assert_reads(&stream, &[Seen::Close(Some(1000), "bye".to_owned())]);
}

#[test]
fn a_close_within_a_fragmented_message_ends_it() {
    let stream = [frame(TEXT, b"never "), close(1001, b""), frame(FIN | CONTINUATION, b"complete")].concat();
    assert_reads(&stream, &[Seen::Close(Some(1001), String::new())]);
}

#[test]
fn a_break_leaves_the_rest_untouched() {
    let (first, second) = (frame(FIN | TEXT, b"auth"), frame(FIN | TEXT, b"subscribe"));
    let mut stream = [first.clone(), second.clone()].concat();
    let mut reader = FrameReader::new(MESSAGE_BYTES_MAX);
    let mut seen = Vec::new();

    let mut on = |incoming: Incoming<'_>| {
        seen.push(Seen::from(incoming));
        ControlFlow::Break(())
    };
    assert_eq!(reader.read(&mut stream, &mut on), Ok(first.len()));
    assert_eq!(stream[first.len()..], second, "still masked");
    assert_eq!(reader.read(&mut stream[first.len()..], &mut on), Ok(second.len()));
    assert_eq!(seen, [text("auth"), text("subscribe")]);
}

#[test]
fn an_idle_reader_is_a_few_words_and_holds_nothing() {
    assert!(size_of::<FrameReader>() <= 32, "{} bytes", size_of::<FrameReader>());
    let mut reader = FrameReader::new(MESSAGE_BYTES_MAX);
    assert_eq!(reader.held_bytes(), 0);
    let taken = reader.read(&mut frame(FIN | TEXT, &[b'x'; 5000]), &mut |_| ControlFlow::Continue(()));
    assert_eq!((taken, reader.held_bytes()), (Ok(5008), 0));
}

#[test]
fn a_claimed_length_reserves_nothing() {
    let stream = frame(FIN | TEXT, &[b'x'; MESSAGE_BYTES_MAX]);
    let (seen, violation, reader) = read_portions([&stream[..14]]);
    assert_eq!((seen, violation), (vec![], None));
    assert!(reader.held_bytes() < 100, "{} bytes for a header", reader.held_bytes());

    let (_, _, reader) = read_portions([&stream[..24]]);
    assert!(reader.held_bytes() < 512, "{} bytes for ten", reader.held_bytes());
}

#[test]
fn what_is_held_never_exceeds_the_bound_of_a_message() {
    let mut stream = frame(TEXT, &[b'x'; MESSAGE_BYTES_MAX - 1]);
    stream.extend(frame(CONTINUATION, b"x"));
    stream.extend(&frame(FIN | PING, &[0; 125])[..130]);
    let mut held_most = 0;
    for portion in [1, 1000, 4096, stream.len()] {
        let (seen, violation, reader) = read_portions(stream.chunks(portion));
        assert_eq!((seen, violation), (vec![], None));
        held_most = held_most.max(reader.held_bytes());
    }
    assert!((MESSAGE_BYTES_MAX..=MESSAGE_BYTES_MAX + 200).contains(&held_most), "{held_most} bytes");
}

#[test]
fn as_many_fragments_as_allowed_make_a_message() {
    let mut stream = frame(TEXT, b"a");
    (2..FRAGMENTS_MAX).for_each(|_| stream.extend(frame(CONTINUATION, b"b")));
    stream.extend(frame(FIN | CONTINUATION, b"c"));
    // And the count begins anew with the next message.
    let stream = stream.repeat(2);
    let message = format!("a{}c", "b".repeat(FRAGMENTS_MAX as usize - 2));
    assert_reads(&stream, &[Seen::Text(message.clone()), Seen::Text(message)]);
}
