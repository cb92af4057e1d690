//! A channel against rustls' own client, over a socket that takes and gives as it likes.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::sync::Arc;

use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::channel::PIECE_BYTES_MAX;
use super::*;

/// A hub's certificate, with its key.
fn pair() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("signed").der().clone();
    (certificate, PrivateKeyDer::try_from(key.serialize_der()).expect("a key"))
}

/// Both ends of a connection whose handshake has not begun.
fn ends(version: &'static SupportedProtocolVersion) -> (Channel, ClientConnection) {
    let (certificate, key) = pair();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a root");
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a pair");
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let client = ClientConnection::new(Arc::new(client), name).expect("a client");
    (Channel::new(Arc::new(server)).expect("a channel"), client)
}

/// What the client has to send.
fn sent_by(client: &mut ClientConnection) -> Vec<u8> {
    let mut sent = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut sent).expect("into memory");
    }
    sent
}

/// Gives the client what was sent to it; what it reads of that.
fn received_by(client: &mut ClientConnection, mut bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).expect("from memory");
        client.process_new_packets().expect("what the channel sends is sound");
        let mut part = [0; 64 * 1024];
        while let Ok(read @ 1..) = client.reader().read(&mut part) {
            plain.extend_from_slice(&part[..read]);
        }
    }
    plain
}

fn flushed(channel: &mut Channel) -> Vec<u8> {
    let mut all = Vec::new();
    let whole = channel.flush(|bytes| {
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    });
    assert_eq!(whole.expect("it takes everything"), Flushed::Whole);
    all
}

/// Both ends after their handshake, every message of which came a few bytes at a time.
fn shaken(version: &'static SupportedProtocolVersion, step: usize) -> (Channel, ClientConnection) {
    let (mut channel, mut client) = ends(version);
    let mut opened = Vec::new();
    while channel.is_handshaking() || client.is_handshaking() {
        for part in sent_by(&mut client).chunks_mut(step) {
            channel.read(part, &mut opened).expect("a sound client");
        }
        assert_eq!(received_by(&mut client, &flushed(&mut channel)), b"");
    }
    received_by(&mut client, &flushed(&mut channel));
    assert_eq!(opened, b"");
    (channel, client)
}

/// A socket that takes so many bytes at each call, and nothing where that is none.
struct Socket {
    takes: Vec<usize>,
    calls: usize,
    wire: Vec<u8>,
}

impl Socket {
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let takes = self.takes[self.calls % self.takes.len()].min(bytes.len());
        self.calls += 1;
        if takes == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.wire.extend_from_slice(&bytes[..takes]);
        Ok(takes)
    }
}

/// Writes frames as an outbox does: what is not taken is offered again from there on, and nothing is
/// forgotten whose first byte is taken. After each write, `between` may use both ends.
fn write_all(
    channel: &mut Channel,
    frames: &[Vec<u8>],
    socket: &mut Socket,
    mut between: impl FnMut(&mut Channel, &mut Socket),
) {
    let (mut at, mut written, mut scratch) = (0, 0, Scratch::default());
    while at < frames.len() {
        let upto = frames.len().min(at + 5);
        let slices: Vec<IoSlice<'_>> = frames[at..upto]
            .iter()
            .enumerate()
            .map(|(index, frame)| IoSlice::new(&frame[if index == 0 { written } else { 0 }..]))
            .collect();
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        match channel.write(&slices, &mut scratch, |bytes| socket.send(bytes)) {
            Ok(taken) => {
                // As long as records wait, so does the end of a frame that is begun.
                assert_eq!(taken == offered, channel.pending() == 0, "{taken} of {offered}");
                assert!(channel.pending() <= PIECE_BYTES_MAX + 4096, "{}", channel.pending());
                let mut left = taken;
                while at < upto && left >= frames[at].len() - written {
                    left -= frames[at].len() - written;
                    (at, written) = (at + 1, 0);
                }
                written += left;
                assert!(channel.pending() == 0 || written > 0, "a frame that is begun stays at the head");
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        between(channel, socket);
    }
    assert_eq!(channel.pending(), 0, "what is written has reached the socket");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_socket_takes_the_client_gets_what_was_written(
        lengths in prop::collection::vec(prop_oneof![8 => 2usize..400, 1 => 60_000usize..140_000], 1..40),
        takes in prop::collection::vec(prop_oneof![Just(0usize), 1usize..30, 100usize..5000, Just(usize::MAX)], 1..12),
        old in any::<bool>(),
        asks in any::<bool>(),
    ) {
        prop_assume!(takes.iter().any(|takes| *takes > 0));
        let version = if old { &rustls::version::TLS12 } else { &rustls::version::TLS13 };
        let (mut channel, mut client) = shaken(version, 1000);
        let frames: Vec<Vec<u8>> =
            lengths.iter().enumerate().map(|(at, length)| (0..*length).map(|n| (n * 7 + at * 13) as u8).collect()).collect();
        let mut socket = Socket { takes, calls: 0, wire: Vec::new() };
        let (mut got, mut opened, mut turns) = (Vec::new(), Vec::new(), 0);
        write_all(&mut channel, &frames, &mut socket, |channel, socket| {
            turns += 1;
            got.extend(received_by(&mut client, &std::mem::take(&mut socket.wire)));
            // In between the client speaks, and renews its keys, in pieces.
            if asks && turns % 3 == 0 {
                if !old && turns < 60 {
                    client.refresh_traffic_keys().expect("after the handshake");
                }
                client.writer().write_all(b"ping").expect("into memory");
                for part in sent_by(&mut client).chunks_mut(11) {
                    channel.read(part, &mut opened).expect("a sound client");
                }
            }
        });
        got.extend(received_by(&mut client, &socket.wire));
        prop_assert!(got == frames.concat());
        prop_assert_eq!(opened, b"ping".repeat(if asks { turns / 3 } else { 0 }));
    }

    #[test]
    fn what_strangers_send_neither_panics_nor_piles_up(
        garbage in prop::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
        established in any::<bool>(),
        old in any::<bool>(),
        step in 1usize..40,
    ) {
        let version = if old { &rustls::version::TLS12 } else { &rustls::version::TLS13 };
        let (mut channel, mut client) = if established { shaken(version, 4096) } else { ends(version) };
        if established {
            client.writer().write_all(&[7; 500]).expect("into memory");
        }
        // What a sound client would send, with something else in the middle.
        let mut bytes = sent_by(&mut client);
        let at = at.index(bytes.len() + 1);
        bytes.splice(at..at, garbage);
        let (mut opened, mut scratch) = (Vec::new(), Scratch::default());
        for part in bytes.chunks_mut(step) {
            if channel.read(part, &mut opened).is_err() {
                break;
            }
            // A turn may write at any time, whatever half of a record has come.
            if established {
                let _ = channel.write(&[IoSlice::new(b"turn")], &mut scratch, |bytes| Ok(bytes.len()));
            }
        }
        prop_assert!(opened.len() <= 500 && channel.pending() < 1024);
    }
}

#[test]
fn an_idle_connection_holds_no_bytes() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (mut channel, mut client) = shaken(version, 3);
        let mut opened = Vec::new();
        client.writer().write_all(&[1; 40_000]).expect("into memory");
        for part in sent_by(&mut client).chunks_mut(999) {
            channel.read(part, &mut opened).expect("a sound client");
        }
        assert_eq!(opened.len(), 40_000);
        let mut socket = Socket { takes: vec![70, 0], calls: 0, wire: Vec::new() };
        write_all(&mut channel, &[vec![2; 3000]], &mut socket, |_, _| {});
        assert_eq!(received_by(&mut client, &socket.wire), [2; 3000]);
        assert_eq!(channel.held(), 0);
    }
}

#[test]
fn a_goodbye_is_told_from_an_end() {
    let (mut channel, mut client) = shaken(&rustls::version::TLS13, 4096);
    client.writer().write_all(b"last").expect("into memory");
    client.send_close_notify();
    let mut bytes = sent_by(&mut client);
    bytes.extend_from_slice(b"what comes behind it is ignored");
    let mut opened = Vec::new();
    channel.read(&mut bytes, &mut opened).expect("a sound client");
    assert!(channel.is_closed());
    assert_eq!(opened, b"last");
    // The other direction is still open, until it is closed as well.
    let mut socket = Socket { takes: vec![usize::MAX], calls: 0, wire: Vec::new() };
    write_all(&mut channel, &[b"answer".to_vec()], &mut socket, |_, _| {});
    channel.close();
    socket.wire.extend(flushed(&mut channel));
    assert_eq!(received_by(&mut client, &socket.wire), b"answer");
    let state = client.process_new_packets().expect("sound");
    assert!(state.peer_has_closed());
}

#[test]
fn a_message_without_end_is_refused() {
    let (mut channel, _) = ends(&rustls::version::TLS13);
    // The head of a ClientHello that claims 65,000 bytes, in records of 1,000.
    let mut refused = false;
    let mut opened = Vec::new();
    for record in 0..60 {
        let mut bytes = vec![22, 3, 1, 3, 232];
        bytes.extend(if record == 0 { [1, 0, 253, 232] } else { [0; 4] });
        bytes.resize(1005, 0);
        refused = channel.read(&mut bytes, &mut opened).is_err();
        assert!(channel.held() < 40 * 1024, "{}", channel.held());
        if refused {
            break;
        }
    }
    assert!(refused);
}
