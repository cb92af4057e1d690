//! RFC 6455 case by case, over real sockets, in the numbers that the Autobahn test suite gives its
//! cases: groups 1 to 7 and 10. `scripts/autobahn` runs the suite itself; these always run.
//!
//! Every case is sent in three ways: in one write, a write for each frame, and a write for each
//! byte. The suite has some of these as cases of their own.

#[path = "support/echo.rs"]
mod echo;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// For what is due at once; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Above this a byte a write tells nothing new and takes long: the suite's own portion instead.
const BYTEWISE_BYTES_MAX: usize = 4096;
const PORTION_BYTES: usize = 997;
const MASK: [u8; 4] = [0xa1, 0x02, 0xf3, 0x44];

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// What the server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16),
}

/// What is sent, and all that must come back, to the end of the connection.
struct Case {
    number: String,
    frames: Vec<Vec<u8>>,
    answers: Vec<Got>,
}

/// A case whose client closes when all is sent, and is answered.
fn fine(number: &str, frames: &[Vec<u8>], answers: &[Got]) -> Case {
    let frames = [frames, &[close(&1000_u16.to_be_bytes())]].concat();
    ends(number, &frames, answers, 1000)
}

/// A case that ends with this close of the server, without more from the client.
fn ends(number: &str, frames: &[Vec<u8>], answers: &[Got], code: u16) -> Case {
    let answers = [answers, &[Got::Close(code)]].concat();
    Case { number: number.to_owned(), frames: frames.to_vec(), answers }
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    claim(first, payload, payload.len())
}

/// The beginning of a frame of `bytes`, as far as `payload` goes.
fn claim(first: u8, payload: &[u8], bytes: usize) -> Vec<u8> {
    let mut frame = vec![first];
    match bytes {
        0..126 => frame.push(0x80 | bytes as u8),
        126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((bytes as u16).to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend((bytes as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

fn text(payload: &[u8]) -> Vec<u8> {
    frame(FIN | TEXT, payload)
}

fn ping(payload: &[u8]) -> Vec<u8> {
    frame(FIN | PING, payload)
}

fn close(payload: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, payload)
}

/// A text in fragments.
fn fragments(parts: &[&[u8]]) -> Vec<Vec<u8>> {
    let last = parts.len() - 1;
    let part = |(at, part): (usize, &&[u8])| {
        let first = if at == 0 { TEXT } else { CONTINUATION } | if at == last { FIN } else { 0 };
        frame(first, part)
    };
    parts.iter().enumerate().map(part).collect()
}

fn bytewise(payload: &[u8]) -> Vec<Vec<u8>> {
    fragments(&payload.chunks(1).collect::<Vec<_>>())
}

/// An echo server on a thread of its own, for as long as the test runs.
fn echo_server() -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            tell.send(listener.local_addr().expect("bound")).expect("somebody waits");
            echo::serve(listener).await;
        });
    });
    told.recv().expect("it listens")
}

struct Client {
    stream: TcpStream,
}

impl Client {
    fn connect(server: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(server).expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            head.extend(byte);
        }
        let head = String::from_utf8(head).expect("a head is ASCII").to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        // RFC 6455, 1.3 has this pair of keys.
        assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
        Self { stream }
    }

    /// Sends, in portions. A server that has failed the connection need not take the rest.
    fn send(&self, portions: Vec<Vec<u8>>) -> std::thread::JoinHandle<()> {
        let mut stream = self.stream.try_clone().expect("a second handle");
        std::thread::spawn(move || {
            let _ = portions.iter().try_for_each(|portion| stream.write_all(portion));
        })
    }

    /// The next frame; `None` where the connection ended. Any fault of the server's framing fails.
    fn frame(&mut self) -> Option<Got> {
        let mut head = [0; 2];
        match self.stream.read(&mut head[..1]) {
            Ok(0) => return None,
            Ok(_) => self.stream.read_exact(&mut head[1..]).expect("the rest of a header"),
            Err(error) => panic!("neither a frame nor an end: {error}"),
        }
        assert_eq!(head[1] & 0x80, 0, "a server does not mask");
        let bytes = match head[1] {
            126 => u64::from(u16::from_be_bytes(self.exactly())),
            127 => u64::from_be_bytes(self.exactly()),
            bytes => u64::from(bytes),
        };
        let mut payload = vec![0; usize::try_from(bytes).expect("small")];
        self.stream.read_exact(&mut payload).expect("a payload");
        Some(match head[0] {
            0x81 => Got::Text(payload),
            0x82 => Got::Binary(payload),
            0x8a => Got::Pong(payload),
            0x88 => Got::Close(u16::from_be_bytes(*payload.first_chunk().expect("a code"))),
            other => panic!("a frame that begins with {other:#x}"),
        })
    }

    fn exactly<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).expect("a length");
        bytes
    }
}

/// Runs each case, in each of the three ways.
#[track_caller]
fn run(cases: &[Case]) {
    let server = echo_server();
    for case in cases {
        let whole = case.frames.concat();
        let portion = if whole.len() > BYTEWISE_BYTES_MAX { PORTION_BYTES } else { 1 };
        let bytewise = whole.chunks(portion).map(<[u8]>::to_vec).collect();
        for (way, portions) in [("whole", vec![whole]), ("by frames", case.frames.clone()), ("by bytes", bytewise)] {
            let mut client = Client::connect(server);
            let sending = client.send(portions);
            let got: Vec<Got> = std::iter::from_fn(|| client.frame()).collect();
            assert!(got == case.answers, "case {} {way}: got {got:.300?}, not {:.300?}", case.number, case.answers);
            let _ = client.stream.shutdown(Shutdown::Both);
            sending.join().expect("no panic");
        }
    }
}

#[test]
fn group_1_messages_of_every_form_of_length() {
    let mut cases = Vec::new();
    for (number, bytes) in [(1, 0), (2, 125), (3, 126), (4, 127), (5, 128), (6, 65_535), (7, 65_536)] {
        // 1.1.8 and 1.2.8 are the last ones again, in portions of 997 bytes.
        let letters = vec![b'*'; bytes];
        cases.push(fine(&format!("1.1.{number}"), &[text(&letters)], &[Got::Text(letters)]));
        let binary = vec![0xfe; bytes];
        cases.push(fine(&format!("1.2.{number}"), &[frame(FIN | BINARY, &binary)], &[Got::Binary(binary)]));
    }
    run(&cases);
}

#[test]
fn group_2_pings_and_pongs() {
    let long = vec![0xfe_u8; 125];
    let numbered = |n: u8| format!("payload-{n}").into_bytes();
    let pings: Vec<_> = (0..10).map(|n| ping(&numbered(n))).collect();
    let pongs: Vec<_> = (0..10).map(|n| Got::Pong(numbered(n))).collect();
    let binary = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff";
    run(&[
        fine("2.1", &[ping(b"")], &[Got::Pong(vec![])]),
        fine("2.2", &[ping(b"Hello, world!")], &[Got::Pong(b"Hello, world!".to_vec())]),
        fine("2.3", &[ping(binary)], &[Got::Pong(binary.to_vec())]),
        // 2.6 is this byte by byte.
        fine("2.4", &[ping(&long)], &[Got::Pong(long.clone())]),
        ends("2.5", &[ping(&[0xfe; 126])], &[], 1002),
        fine("2.7", &[frame(FIN | PONG, b"")], &[]),
        fine("2.8", &[frame(FIN | PONG, b"unasked")], &[]),
        fine("2.9", &[frame(FIN | PONG, b"unasked"), ping(b"asked")], &[Got::Pong(b"asked".to_vec())]),
        // 2.11 is this byte by byte.
        fine("2.10", &pings, &pongs),
    ]);
}

#[test]
fn group_3_reserved_bits() {
    let hello = b"Hello, world!";
    let echoed = [Got::Text(hello.to_vec())];
    let second = |bits: u8| vec![text(hello), frame(FIN | bits << 4 | TEXT, hello), ping(b"")];
    run(&[
        ends("3.1", &[frame(FIN | 1 << 4 | TEXT, hello)], &[], 1002),
        ends("3.2", &second(2), &echoed, 1002),
        ends("3.3", &second(3), &echoed, 1002),
        ends("3.4", &second(4), &echoed, 1002),
        ends("3.5", &[frame(FIN | 5 << 4 | BINARY, b"\x00\xff\xfe")], &[], 1002),
        ends("3.6", &[frame(FIN | 6 << 4 | PING, hello)], &[], 1002),
        ends("3.7", &[frame(FIN | 7 << 4 | CLOSE, b"")], &[], 1002),
    ]);
}

#[test]
fn group_4_reserved_opcodes() {
    let hello = b"Hello, world!";
    let mut cases = Vec::new();
    for (group, opcodes) in [(1, 0x3..=0x7_u8), (2, 0xb..=0xf)] {
        for (at, opcode) in opcodes.enumerate() {
            let payload: &[u8] = if [0, 2].contains(&at) { b"" } else { b"reserved" };
            let number = format!("4.{group}.{}", at + 1);
            let bad = frame(FIN | opcode, payload);
            cases.push(match at {
                0 | 1 => ends(&number, &[bad], &[], 1002),
                _ => ends(&number, &[text(hello), bad, ping(b"")], &[Got::Text(hello.to_vec())], 1002),
            });
        }
    }
    run(&cases);
}

#[test]
fn group_5_fragments() {
    let both = || fragments(&[b"fragment1", b"fragment2"]);
    let message = Got::Text(b"fragment1fragment2".to_vec());
    let (lone_last, lone) = (frame(FIN | CONTINUATION, b"lone"), frame(CONTINUATION, b"lone"));
    let control = |opcode| vec![frame(opcode, b"fragment1"), frame(FIN | CONTINUATION, b"fragment2")];
    let with_ping = [both().remove(0), ping(b"between"), both().remove(1)];
    let five = fragments(&[b"fragment1", b"fragment2", b"fragment3", b"fragment4", b"fragment5"]);
    let [one, two, three, four, last] = five.try_into().expect("five");
    run(&[
        ends("5.1", &control(PING), &[], 1002),
        ends("5.2", &control(PONG), &[], 1002),
        // 5.4, 5.5, 5.7, 5.8, 5.10, 5.11, 5.13, 5.14 and 5.20 are those before them in other ways.
        fine("5.3", &both(), std::slice::from_ref(&message)),
        fine("5.6", &with_ping, &[Got::Pong(b"between".to_vec()), message.clone()]),
        ends("5.9", &[lone_last.clone(), text(b"Hello")], &[], 1002),
        ends("5.12", &[lone.clone(), text(b"Hello")], &[], 1002),
        ends("5.15", &[both(), vec![lone.clone(), text(b"Hello")]].concat(), &[message], 1002),
        ends("5.16", &[vec![lone.clone()], both(), vec![lone], both()].concat(), &[], 1002),
        ends("5.17", &[vec![lone_last.clone()], both(), vec![lone_last], both()].concat(), &[], 1002),
        ends("5.18", &[frame(TEXT, b"fragment1"), text(b"fragment2")], &[], 1002),
        fine(
            "5.19",
            &[one, two, ping(b"first"), three, four, ping(b"second"), last],
            &[
                Got::Pong(b"first".to_vec()),
                Got::Pong(b"second".to_vec()),
                Got::Text(b"fragment1fragment2fragment3fragment4fragment5".to_vec()),
            ],
        ),
    ]);
}

/// 5.19 again, by a client that waits: a ping within a message is answered before the message ends.
#[test]
fn case_5_19_a_ping_does_not_wait_for_the_message_around_it() {
    let mut client = Client::connect(echo_server());
    let [first, second] = fragments(&[b"fragment1", b"fragment2"]).try_into().expect("two");
    client.stream.write_all(&[first, ping(b"now")].concat()).expect("sent");
    assert_eq!(client.frame(), Some(Got::Pong(b"now".to_vec())));
    client.stream.write_all(&second).expect("sent");
    assert_eq!(client.frame(), Some(Got::Text(b"fragment1fragment2".to_vec())));
}

const KOSME: &[u8] = "κόσμε".as_bytes();

#[test]
fn group_6_texts_in_fragments() {
    let hello = "Hello-µ@ßöäüàá-UTF-8!!".as_bytes();
    let bad = [KOSME, b"\xed\xa0\x80edited"].concat();
    let parts = "Hello-µ@ßöä".len();
    run(&[
        fine("6.1.1", &[text(b"")], &[Got::Text(vec![])]),
        fine("6.1.2", &fragments(&[b"", b"", b""]), &[Got::Text(vec![])]),
        fine("6.1.3", &fragments(&[b"", b"middle", b""]), &[Got::Text(b"middle".to_vec())]),
        fine("6.2.1", &[text(hello)], &[Got::Text(hello.to_vec())]),
        fine("6.2.2", &fragments(&[&hello[..parts], &hello[parts..]]), &[Got::Text(hello.to_vec())]),
        fine("6.2.3", &bytewise(hello), &[Got::Text(hello.to_vec())]),
        fine("6.2.4", &bytewise(KOSME), &[Got::Text(KOSME.to_vec())]),
        ends("6.3.1", &[text(&bad)], &[], 1007),
        ends("6.3.2", &bytewise(&bad), &[], 1007),
    ]);
}

/// The client sends no byte beyond the one that makes the text wrong, and the close must come.
#[test]
fn group_6_4_a_wrong_text_is_refused_at_its_first_wrong_byte() {
    let (good, more) = (KOSME, 20);
    let started = [good, b"\xf4"].concat();
    let all = good.len() + more;
    run(&[
        ends("6.4.1", &[frame(TEXT, good), frame(CONTINUATION, b"\xf4\x90\x80\x80")], &[], 1007),
        ends("6.4.2", &[frame(TEXT, &started), frame(CONTINUATION, b"\x90")], &[], 1007),
        ends("6.4.3", &[claim(FIN | TEXT, &[good, b"\xf4\x90\x80\x80"].concat(), all)], &[], 1007),
        ends("6.4.4", &[claim(FIN | TEXT, &[&started[..], b"\x90"].concat(), all)], &[], 1007),
    ]);
}

/// Each text in one frame. Group 6.`at` has them numbered from 1, as they stand here.
fn texts(at: u32, texts: &[(bool, &[u8])]) -> Vec<Case> {
    let case = |(n, (valid, payload)): (usize, &(bool, &[u8]))| {
        let number = format!("6.{at}.{}", n + 1);
        if *valid {
            fine(&number, &[text(payload)], &[Got::Text(payload.to_vec())])
        } else {
            ends(&number, &[text(payload)], &[], 1007)
        }
    };
    texts.iter().enumerate().map(case).collect()
}

fn all(valid: bool, texts: &[&'static [u8]]) -> Vec<(bool, &'static [u8])> {
    texts.iter().map(|text| (valid, *text)).collect()
}

#[test]
fn group_6_5_to_6_11_texts_at_the_edges_of_utf_8() {
    let hello: [&[u8]; 5] =
        [b"hello$world", "hello¢world".as_bytes(), "hello€world".as_bytes(), "hello𤭢world".as_bytes(), KOSME];
    let prefixes: Vec<_> = (1..=KOSME.len()).map(|to| (str::from_utf8(&KOSME[..to]).is_ok(), &KOSME[..to])).collect();
    assert_eq!(prefixes.iter().filter(|(valid, _)| *valid).count(), 5, "one for each letter");
    run(&[
        texts(5, &all(true, &hello)),
        texts(6, &prefixes),
        texts(7, &all(true, &[b"\x00", b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80"])),
        texts(8, &all(false, &[b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"])),
        texts(9, &all(true, &[b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"])),
        texts(10, &all(false, &[b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"])),
        texts(11, &all(true, &[b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd", b"\xf4\x8f\xbf\xbf"])),
        vec![ends("6.11.5", &[text(b"\xf4\x90\x80\x80")], &[], 1007)],
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>());
}

#[test]
fn group_6_12_to_6_16_bytes_out_of_place() {
    let continuations: Vec<u8> = (0x80..0xbf).collect();
    let lone: [&[u8]; 7] = [
        b"\x80",
        b"\xbf",
        b"\x80\xbf",
        b"\x80\xbf\x80",
        b"\x80\xbf\x80\xbf",
        b"\x80\xbf\x80\xbf\x80",
        b"\x80\xbf\x80\xbf\x80\xbf",
    ];
    let broken: [&[u8]; 10] = [
        b"\xc0",
        b"\xe0\x80",
        b"\xf0\x80\x80",
        b"\xf8\x80\x80\x80",
        b"\xfc\x80\x80\x80\x80",
        b"\xdf",
        b"\xef\xbf",
        b"\xf7\xbf\xbf",
        b"\xfb\xbf\xbf\xbf",
        b"\xfd\xbf\xbf\xbf\xbf",
    ];
    let starts = [0xc0..0xdf_u8, 0xe0..0xef, 0xf0..0xf7, 0xf8..0xfb, 0xfc..0xfd];
    let starts: Vec<Vec<u8>> =
        starts.into_iter().map(|range| range.flat_map(|start| [start, b' ']).collect()).collect();
    let starts: Vec<(bool, &[u8])> = starts.iter().map(|text| (false, &text[..])).collect();
    let twelve: Vec<_> = [all(false, &lone), vec![(false, &continuations[..])]].concat();
    run(&[
        texts(12, &twelve),
        texts(13, &starts),
        texts(14, &all(false, &broken)),
        texts(15, &[(false, &broken.concat()[..])]),
        texts(16, &all(false, &[b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"])),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>());
}

#[test]
fn group_6_17_to_6_19_overlong_forms() {
    let ascii: [&[u8]; 5] =
        [b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x80\x80\x80\xaf", b"\xfc\x80\x80\x80\x80\xaf"];
    let most: [&[u8]; 5] =
        [b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf8\x87\xbf\xbf\xbf", b"\xfc\x83\xbf\xbf\xbf\xbf"];
    let zero: [&[u8]; 5] =
        [b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xf8\x80\x80\x80\x80", b"\xfc\x80\x80\x80\x80\x80"];
    let groups = [(17, ascii), (18, most), (19, zero)];
    run(&groups.iter().flat_map(|(at, group)| texts(*at, &all(false, group))).collect::<Vec<_>>());
}

#[test]
fn group_6_20_and_6_21_surrogates() {
    let single: [&[u8]; 7] = [
        b"\xed\xa0\x80",
        b"\xed\xad\xbf",
        b"\xed\xae\x80",
        b"\xed\xaf\xbf",
        b"\xed\xb0\x80",
        b"\xed\xbe\x80",
        b"\xed\xbf\xbf",
    ];
    let high = [single[0], single[1], single[2], single[3]];
    let pairs: Vec<Vec<u8>> =
        high.iter().flat_map(|high| [single[4], single[6]].map(|low| [high, low].concat())).collect();
    let pairs: Vec<(bool, &[u8])> = pairs.iter().map(|pair| (false, &pair[..])).collect();
    run(&[texts(20, &all(false, &single)), texts(21, &pairs)].into_iter().flatten().collect::<Vec<_>>());
}

#[test]
fn group_6_22_and_6_23_characters_that_are_none_are_text_all_the_same() {
    let last_two = (0..=0x10_u32).flat_map(|plane| [plane << 16 | 0xfffe, plane << 16 | 0xffff]);
    let special = 0xfff9..=0xffff_u32;
    let encode = |code| char::from_u32(code).expect("no surrogate").to_string().into_bytes();
    let (last_two, special): (Vec<_>, Vec<_>) = (last_two.map(encode).collect(), special.map(encode).collect());
    let valid = |texts: &[Vec<u8>], at| {
        let list: Vec<(bool, &[u8])> = texts.iter().map(|text| (true, &text[..])).collect();
        self::texts(at, &list)
    };
    assert_eq!((last_two.len(), special.len()), (34, 7));
    run(&[valid(&last_two, 22), valid(&special, 23)].into_iter().flatten().collect::<Vec<_>>());
}

#[test]
fn group_7_1_nothing_counts_behind_a_close() {
    let ok = close(&1000_u16.to_be_bytes());
    let [first, second] = fragments(&[b"fragment1", b"fragment2"]).try_into().expect("two");
    let long = vec![b'B'; 256 * 1024];
    run(&[
        ends("7.1.1", &[text(b"Hello"), ok.clone()], &[Got::Text(b"Hello".to_vec())], 1000),
        ends("7.1.2", &[ok.clone(), ok.clone()], &[], 1000),
        ends("7.1.3", &[ok.clone(), ping(b"")], &[], 1000),
        ends("7.1.4", &[ok.clone(), text(b"Hello")], &[], 1000),
        ends("7.1.5", &[first, ok.clone(), second], &[], 1000),
        ends("7.1.6", &[text(&long), ok, ping(b"")], &[Got::Text(long)], 1000),
    ]);
}

#[test]
fn group_7_3_and_7_5_what_a_close_may_carry() {
    let with = |code: u16, reason: &[u8]| close(&[&code.to_be_bytes(), reason].concat());
    run(&[
        ends("7.3.1", &[close(b"")], &[], 1000),
        ends("7.3.2", &[close(b"a")], &[], 1002),
        ends("7.3.3", &[with(1000, b"")], &[], 1000),
        ends("7.3.4", &[with(1000, b"Hello")], &[], 1000),
        ends("7.3.5", &[with(1000, &[b'*'; 123])], &[], 1000),
        ends("7.3.6", &[with(1000, &[b'*'; 124])], &[], 1002),
        ends("7.5.1", &[with(1000, &[KOSME, b"\xed\xa0\x80edited"].concat())], &[], 1007),
    ]);
}

#[test]
fn group_7_7_to_7_13_codes_of_a_close() {
    let valid = [1000_u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
    let invalid = [0_u16, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999];
    let mut cases = Vec::new();
    let mut add = |group: u32, codes: &[Vec<u8>], answer| {
        let numbered = codes.iter().enumerate();
        cases.extend(numbered.map(|(at, code)| ends(&format!("7.{group}.{}", at + 1), &[close(code)], &[], answer)));
    };
    add(7, &valid.map(|code| code.to_be_bytes().to_vec()), 1000);
    add(9, &invalid.map(|code| code.to_be_bytes().to_vec()), 1002);
    add(13, &[5000_u16, 65_535].map(|code| code.to_be_bytes().to_vec()), 1002);
    run(&cases);
}

#[test]
fn group_10_a_text_in_many_fragments() {
    let message = vec![b'*'; 65_536];
    let parts: Vec<&[u8]> = message.chunks(1300).collect();
    run(&[fine("10.1.1", &fragments(&parts), &[Got::Text(message.clone())])]);
}
