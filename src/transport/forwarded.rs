//! What HTTP proxies say of whom they speak for: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
//!
//! Each proxy adds the address that it saw at the end of the list; whatever stands before that,
//! the client may have written itself. So the list is read from its end, for as long as the one
//! who wrote an entry is trusted.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::network::Network;

/// Proxies in a row that are followed: more than any path has.
const HOPS_MAX: usize = 16;

/// The header that trusted proxies write. One only: a proxy that writes one of them passes the
/// other on as the client sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// None is believed.
    Off,
    /// `X-Forwarded-For`: addresses with commas between.
    #[default]
    XForwardedFor,
    /// `Forwarded`: elements with a `for` parameter.
    Forwarded,
}

impl ForwardedHeader {
    /// Its name, in lower case.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Off => None,
            Self::XForwardedFor => Some("x-forwarded-for"),
            Self::Forwarded => Some("forwarded"),
        }
    }
}

/// Who a request comes from, whose socket is `from`: the last address in the header's `lines` that
/// no trusted proxy has. It is `from` itself where that is not trusted; an entry that cannot be read
/// ends the search with the proxy that wrote it. The port is 0 where it is not said.
pub fn client_of<'a>(
    header: ForwardedHeader,
    lines: impl DoubleEndedIterator<Item = &'a [u8]>,
    trusted: &[Network],
    from: SocketAddr,
) -> SocketAddr {
    let is_trusted = |address: SocketAddr| trusted.iter().any(|network| network.contains(address.ip()));
    let mut client = from;
    let mut entries = lines.rev().flat_map(|line| from_the_end(line, header)).take(HOPS_MAX);
    while is_trusted(client) {
        let Some(next) = entries.next().and_then(|entry| address(header, entry)) else { break };
        client = next;
    }
    client
}

/// The entries of a line from its last to its first. Nothing in the earlier ones, which may be a
/// client's own, changes where a later one begins: not a byte that is no text, not a quote that does
/// not end.
fn from_the_end(line: &[u8], header: ForwardedHeader) -> impl Iterator<Item = &[u8]> {
    let quotes = header == ForwardedHeader::Forwarded;
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let mut quoted = false;
        for (at, byte) in line.iter().enumerate().rev() {
            match byte {
                b'"' if quotes && (at == 0 || line[at - 1] != b'\\') => quoted = !quoted,
                b',' if !quoted => {
                    rest = Some(&line[..at]);
                    return Some(&line[at + 1..]);
                }
                _ => {}
            }
        }
        rest = None;
        Some(line)
    })
}

fn address(header: ForwardedHeader, entry: &[u8]) -> Option<SocketAddr> {
    let entry = std::str::from_utf8(entry).ok()?.trim();
    match header {
        ForwardedHeader::Off => None,
        ForwardedHeader::XForwardedFor => node(entry),
        ForwardedHeader::Forwarded => {
            // No value of interest has a semicolon.
            let mut named = entry.split(';').filter_map(|pair| pair.split_once('='));
            let (_, value) = named.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
            let value = value.trim();
            node(value.strip_prefix('"').map_or(Some(value), |inner| inner.strip_suffix('"'))?)
        }
    }
}

/// An address with or without a port; IPv6 in brackets, or bare without a port.
fn node(text: &str) -> Option<SocketAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, 0));
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().ok().map(|ip| SocketAddr::new(ip.into(), 0));
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(header: ForwardedHeader, from: &str, lines: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().expect(text));
        let from = SocketAddr::new(from.parse().expect(from), 9);
        client_of(header, lines.iter().map(|line| line.as_bytes()), &trusted, from).to_string()
    }

    #[test]
    fn the_last_address_that_no_trusted_proxy_has_counts() {
        let of = |from, lines: &[&str]| client(ForwardedHeader::XForwardedFor, from, lines);
        assert_eq!(of("203.0.113.7", &["198.51.100.1"]), "203.0.113.7:9", "from anyone else nothing is believed");
        assert_eq!(of("10.0.0.1", &["198.51.100.1"]), "198.51.100.1:0");
        assert_eq!(of("10.0.0.1", &["1.1.1.1, 2.2.2.2 ,198.51.100.1"]), "198.51.100.1:0", "a client's own entries");
        assert_eq!(of("10.0.0.1", &["1.1.1.1", "198.51.100.1, 10.0.0.2"]), "198.51.100.1:0", "a second proxy");
        assert_eq!(of("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3:0", "everyone on the way is trusted");
        assert_eq!(of("10.0.0.1", &[]), "10.0.0.1:9");
        assert_eq!(of("fd00::1", &["[2001:db8::1]:4711"]), "[2001:db8::1]:4711");
        assert_eq!(of("10.0.0.1", &["2001:db8::1"]), "[2001:db8::1]:0");
        assert_eq!(of("10.0.0.1", &["198.51.100.1:4711"]), "198.51.100.1:4711");
    }

    #[test]
    fn what_cannot_be_read_is_not_guessed() {
        let of = |lines: &[&str]| client(ForwardedHeader::XForwardedFor, "10.0.0.1", lines);
        for bad in
            ["", "unknown", "198.51.100.1, nonsense", "198.51.100.1, ", "1.2.3", "198.51.100.1.", "\"198.51.100.1"]
        {
            assert_eq!(of(&[bad]), "10.0.0.1:9", "{bad}");
        }
        assert_eq!(of(&["198.51.100.1, ?, 10.0.0.2"]), "10.0.0.2:0", "as far as it is known");
        assert_eq!(of(&["198.51.100.1", "\"", "10.0.0.2"]), "10.0.0.2:0");
        assert_eq!(of(&["\", 198.51.100.1"]), "198.51.100.1:0", "a client's quote hides nothing");
        assert_eq!(client(ForwardedHeader::Off, "10.0.0.1", &["198.51.100.1"]), "10.0.0.1:9");
    }

    #[test]
    fn forwarded_is_read_as_its_standard_says() {
        let of = |lines: &[&str]| client(ForwardedHeader::Forwarded, "10.0.0.1", lines);
        assert_eq!(of(&["for=198.51.100.1"]), "198.51.100.1:0");
        assert_eq!(of(&["For=\"[2001:db8:cafe::17]:4711\""]), "[2001:db8:cafe::17]:4711");
        assert_eq!(of(&["for=1.1.1.1, proto=https;for=198.51.100.1;by=10.0.0.1"]), "198.51.100.1:0");
        assert_eq!(of(&["for=\"198.51.100.1\", for=10.0.0.2;host=\"a,b;for=9.9.9.9\""]), "198.51.100.1:0");
        assert_eq!(of(&["for=\"", "for=198.51.100.1"]), "198.51.100.1:0");
        assert_eq!(of(&["for=\", for=198.51.100.1"]), "198.51.100.1:0", "a client's quote hides nothing");
        for bad in ["for=unknown", "for=_hidden", "by=198.51.100.1", "198.51.100.1", "for=198.51.100.1\"", "for="] {
            assert_eq!(of(&[bad]), "10.0.0.1:9", "{bad}");
        }
    }

    proptest! {
        /// Whatever the client writes before it: the entry of the trusted proxy counts.
        #[test]
        fn a_client_cannot_choose_its_address(own in prop::collection::vec(any::<u8>(), 0..60), ip in any::<IpAddr>()) {
            let trusted = ["10.0.0.0/8".parse::<Network>().expect("a network")];
            prop_assume!(!trusted[0].contains(ip));
            let from = "10.0.0.1:1".parse().expect("an address");
            let quoted = if ip.is_ipv6() { format!("\"[{ip}]\"") } else { ip.to_string() };
            for (header, last) in [
                (ForwardedHeader::XForwardedFor, ip.to_string()),
                (ForwardedHeader::Forwarded, format!("proto=https;for={quoted}")),
            ] {
                let line = [&own[..], b", ", last.as_bytes()].concat();
                for lines in [vec![&line[..]], vec![&own[..], last.as_bytes()]] {
                    prop_assert_eq!(client_of(header, lines.into_iter(), &trusted, from).ip(), ip);
                }
            }
        }

        #[test]
        fn nothing_makes_it_panic(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4), from: SocketAddr) {
            let everyone = ["0.0.0.0/0", "::/0"].map(|text| text.parse().expect(text));
            for header in [ForwardedHeader::Off, ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
                let _ = client_of(header, lines.iter().map(Vec::as_slice), &everyone, from);
            }
        }
    }
}
