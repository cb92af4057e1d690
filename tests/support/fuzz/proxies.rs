//! What a proxy says of whom it speaks for, and what a client may have put in front of it.

use std::net::SocketAddr;

use tickhub::transport::{ForwardedHeader, Network, ProxyProtocol, V2_BYTES_MAX, client_of, read_proxy_header};

/// The first byte says what follows: a PROXY header of version 1, 2 or any (`a`), or lines of
/// `X-Forwarded-For` (`x`) or `Forwarded` (any other).
pub(super) fn proxies(data: &[u8]) {
    let Some((kind, input)) = data.split_first() else { return };
    match kind {
        b'1' => header(input, ProxyProtocol::V1),
        b'2' => header(input, ProxyProtocol::V2),
        b'a' => header(input, ProxyProtocol::Any),
        b'x' => forwarded(input, ForwardedHeader::XForwardedFor),
        _ => forwarded(input, ForwardedHeader::Forwarded),
    }
}

fn header(input: &[u8], accepted: ProxyProtocol) {
    let judged = read_proxy_header(input, accepted);
    match judged {
        Ok(Some(header)) => {
            assert!(header.bytes <= input.len().min(V2_BYTES_MAX), "{header:?}");
            assert_eq!(read_proxy_header(&input[..header.bytes], accepted), judged, "nothing behind it counts");
            for cut in 0..header.bytes.min(200) {
                assert_eq!(read_proxy_header(&input[..cut], accepted), Ok(None), "cut at {cut}");
            }
            assert_eq!(read_proxy_header(input, ProxyProtocol::Any), judged);
            assert!(read_proxy_header(input, ProxyProtocol::Off).is_err());
        }
        Ok(None) => assert!(input.len() < V2_BYTES_MAX, "it would be waited for without end"),
        Err(_) => {
            let more = [input, b"\r\n1"].concat();
            assert!(read_proxy_header(&more, accepted).is_err(), "what is none does not become one");
        }
    }
}

fn forwarded(input: &[u8], header: ForwardedHeader) {
    let trusted: [Network; 2] = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().expect(text));
    let lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    let proxy: SocketAddr = "10.0.0.1:80".parse().expect("an address");
    let stranger: SocketAddr = "203.0.113.7:80".parse().expect("an address");
    assert_eq!(client_of(header, lines.iter().copied(), &trusted, stranger), stranger, "it is not believed");
    let _ = client_of(header, lines.iter().copied(), &trusted, proxy);
    // Whatever stands there already: what the proxy adds itself is what counts.
    let own = if header == ForwardedHeader::Forwarded { "for=198.51.100.1" } else { "198.51.100.1" };
    let last = [lines.last().copied().unwrap_or_default(), b", ", own.as_bytes()].concat();
    for lines in [[&lines[..lines.len() - 1], &[&last[..]]].concat(), [&lines[..], &[own.as_bytes()]].concat()] {
        let client = client_of(header, lines.iter().copied(), &trusted, proxy);
        assert_eq!(client.ip().to_string(), "198.51.100.1", "of {lines:?}");
    }
}
