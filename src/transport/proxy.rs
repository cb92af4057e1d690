//! The PROXY protocol, versions 1 and 2: what a load balancer says first of whom it speaks for.
//!
//! Pure: bytes in, a header out. It is read from proxies that are trusted only, and even those are
//! held to the grammar of <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>: what cannot
//! be read is refused, never guessed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Longest header of version 1, its end of line included (section 2.1).
pub const V1_BYTES_MAX: usize = 107;
/// Longest header of version 2: the addresses take at most 216 bytes, the rest is for what balancers
/// add (names, certificates' subjects), of which nothing is used here.
pub const V2_BYTES_MAX: usize = 4096;

const V1_BEGIN: &[u8] = b"PROXY ";
const V2_BEGIN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Behind the signature: version and command, family, length of the rest.
const V2_HEAD_BYTES: usize = 16;
const V2_INET_BYTES: usize = 12;
const V2_INET6_BYTES: usize = 36;
const V2_UNIX_BYTES: usize = 216;

/// Which versions trusted proxies speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// None: they speak HTTP at once.
    #[default]
    Off,
    /// Version 1, a line of text.
    V1,
    /// Version 2, binary.
    V2,
    /// Either; one of them has to come.
    Any,
}

impl ProxyProtocol {
    /// Its name in settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Any => "any",
        }
    }
}

/// Whom a proxy speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// For a client at this address.
    For(SocketAddr),
    /// For itself (a health check), or for someone whose address it does not know.
    ForItself,
}

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Whom it is about.
    pub spoken: Spoken,
    /// Its length in bytes; what follows is the client's.
    pub bytes: usize,
}

/// What came is no header that may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoHeader(&'static str);

/// Reads the header at the beginning of `input`. `None` = it is not whole yet.
///
/// # Errors
/// [`NoHeader`] as soon as it is certain that it never will be.
pub fn read_proxy_header(input: &[u8], accepted: ProxyProtocol) -> Result<Option<ProxyHeader>, NoHeader> {
    let begins = |with: &[u8]| input.iter().zip(with).all(|(a, b)| a == b);
    match accepted {
        ProxyProtocol::V1 | ProxyProtocol::Any if begins(V1_BEGIN) => read_v1(input),
        ProxyProtocol::V2 | ProxyProtocol::Any if begins(V2_BEGIN) => read_v2(input),
        _ => Err(NoHeader("it does not begin as one")),
    }
}

fn read_v1(input: &[u8]) -> Result<Option<ProxyHeader>, NoHeader> {
    let within = &input[..input.len().min(V1_BYTES_MAX)];
    let Some(end) = within.windows(2).position(|pair| pair == b"\r\n") else {
        return if input.len() < V1_BYTES_MAX { Ok(None) } else { Err(NoHeader("its line is too long")) };
    };
    let bytes = end + 2;
    let line = within[..end].strip_prefix(V1_BEGIN).ok_or(NoHeader("it does not begin as one"))?;
    let line = std::str::from_utf8(line).map_err(|_| NoHeader("it is no text"))?;
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(Some(ProxyHeader { spoken: Spoken::ForItself, bytes }));
    }
    let words: Vec<&str> = line.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = words[..] else {
        return Err(NoHeader("it has not five words"));
    };
    let ip = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (Some(source), Some(_)) = (ip(source), ip(destination)) else {
        return Err(NoHeader("an address is none of its family"));
    };
    let (Some(port), Some(_)) = (port(source_port), port(destination_port)) else {
        return Err(NoHeader("a port is none"));
    };
    Ok(Some(ProxyHeader { spoken: Spoken::For(SocketAddr::new(source, port)), bytes }))
}

/// Digits without a sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn read_v2(input: &[u8]) -> Result<Option<ProxyHeader>, NoHeader> {
    let Some((head, rest)) = input.split_first_chunk::<V2_HEAD_BYTES>() else { return Ok(None) };
    let [.., command, family, high, low] = *head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if command >> 4 != 2 {
        return Err(NoHeader("its version is unknown"));
    }
    if length > V2_BYTES_MAX - V2_HEAD_BYTES {
        return Err(NoHeader("it is too long"));
    }
    let local = match command & 0xf {
        0 => true,
        1 => false,
        _ => return Err(NoHeader("its command is unknown")),
    };
    // Of LOCAL, family and addresses are to be ignored (section 2.2).
    let least = match family {
        _ if local => 0,
        0x00 => 0,
        0x11 => V2_INET_BYTES,
        0x21 => V2_INET6_BYTES,
        0x31 => V2_UNIX_BYTES,
        _ => return Err(NoHeader("its family is no stream's")),
    };
    if length < least {
        return Err(NoHeader("its addresses are cut off"));
    }
    let bytes = V2_HEAD_BYTES + length;
    let Some(addresses) = rest.get(..length) else { return Ok(None) };
    let spoken = match (local, family) {
        (false, 0x11) => client_of::<4>(addresses, 8),
        (false, 0x21) => client_of::<16>(addresses, 32),
        _ => Some(Spoken::ForItself),
    };
    // Its length was looked at above.
    let spoken = spoken.ok_or(NoHeader("its addresses are cut off"))?;
    Ok(Some(ProxyHeader { spoken, bytes }))
}

/// The source, which comes first; its port stands behind both addresses.
fn client_of<const N: usize>(addresses: &[u8], port_at: usize) -> Option<Spoken>
where
    IpAddr: From<[u8; N]>,
{
    let ip = IpAddr::from(*addresses.first_chunk::<N>()?);
    let port = u16::from_be_bytes(*addresses.get(port_at..)?.first_chunk::<2>()?);
    Some(Spoken::For(SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(input: &[u8]) -> Result<Option<ProxyHeader>, NoHeader> {
        read_proxy_header(input, ProxyProtocol::Any)
    }

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        [V2_BEGIN, &[command, family], &(addresses.len() as u16).to_be_bytes(), addresses].concat()
    }

    fn spoken(input: &[u8]) -> Spoken {
        let header = read(input).expect("readable").expect("whole");
        assert_eq!(header.bytes, input.len());
        header.spoken
    }

    #[test]
    fn the_examples_of_the_specification() {
        let line = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
        assert_eq!(spoken(line), Spoken::For("255.255.255.255:65535".parse().expect("an address")));
        let longest = b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert_eq!(
            spoken(longest),
            Spoken::For("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().expect("an address"))
        );
        assert_eq!(spoken(b"PROXY UNKNOWN\r\n"), Spoken::ForItself);
        let unknown = b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
        assert_eq!(spoken(unknown), Spoken::ForItself);
    }

    #[test]
    fn version_2_says_who_and_skips_the_rest() {
        let inet = [203, 0, 113, 7, 10, 0, 0, 1, 0x12, 0x67, 0, 80];
        let client = Spoken::For("203.0.113.7:4711".parse().expect("an address"));
        assert_eq!(spoken(&v2(0x21, 0x11, &inet)), client);
        let with_values = [&inet[..], &[0x04, 0, 2, 0, 0, 0x20, 0xff, 0xff]].concat();
        assert_eq!(spoken(&v2(0x21, 0x11, &with_values)), client, "values behind it are not looked at");
        let mut inet6 = [0; 36];
        inet6[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().expect("an address").octets());
        inet6[32..34].copy_from_slice(&4711u16.to_be_bytes());
        assert_eq!(spoken(&v2(0x21, 0x21, &inet6)), Spoken::For("[2001:db8::7]:4711".parse().expect("an address")));
        for itself in [
            v2(0x20, 0, &[]),
            v2(0x20, 0x11, &inet),
            v2(0x20, 0xff, b"x"),
            v2(0x21, 0, b"abc"),
            v2(0x21, 0x31, &[7; 216]),
        ] {
            assert_eq!(spoken(&itself), Spoken::ForItself);
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_once() {
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
            b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY \xff\r\n",
            b"PROXY \r\n",
            b"PROXZ",
            b"proxy TCP4",
            b"\r\n\r\n\0\r\nQUIX",
            &v2(0x11, 0x11, &[0; 12]),
            &v2(0x22, 0x11, &[0; 12]),
            &v2(0x21, 0x12, &[0; 12]),
            &v2(0x21, 0x11, &[0; 11]),
            &v2(0x21, 0x21, &[0; 35]),
            &v2(0x21, 0x31, &[0; 215]),
        ] {
            assert!(read(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn nobody_makes_it_wait_for_more_than_its_bounds() {
        let endless = [b"PROXY UNKNOWN ", &[b'x'; V1_BYTES_MAX][..]].concat();
        assert_eq!(read(&endless[..V1_BYTES_MAX - 1]), Ok(None));
        assert!(read(&endless[..V1_BYTES_MAX]).is_err());
        let longest = v2(0x20, 0, &[0; V2_BYTES_MAX - V2_HEAD_BYTES]);
        assert!(read(&longest).is_ok_and(|header| header.is_some()));
        let mut longer = longest;
        longer[15] += 1;
        assert!(read(&longer[..V2_HEAD_BYTES]).is_err(), "its length says it before it has come");
    }

    #[test]
    fn only_the_versions_that_are_asked_for_count() {
        let (one, two) = (b"PROXY UNKNOWN\r\n", v2(0x20, 0, &[]));
        let taken = |accepted, input: &[u8]| read_proxy_header(input, accepted).is_ok();
        assert!(taken(ProxyProtocol::V1, one) && !taken(ProxyProtocol::V1, &two));
        assert!(!taken(ProxyProtocol::V2, one) && taken(ProxyProtocol::V2, &two));
        assert!(!taken(ProxyProtocol::Off, one) && !taken(ProxyProtocol::Off, &two) && !taken(ProxyProtocol::Off, b""));
    }

    proptest! {
        #[test]
        fn every_client_is_read_however_it_is_cut(client: SocketAddr, to: SocketAddr, more: [u8; 9]) {
            let v1 = match (client.ip(), to.ip()) {
                (IpAddr::V4(a), IpAddr::V4(b)) => format!("PROXY TCP4 {a} {b} {} {}\r\n", client.port(), to.port()),
                (IpAddr::V6(a), IpAddr::V6(b)) => format!("PROXY TCP6 {a} {b} {} {}\r\n", client.port(), to.port()),
                _ => return Ok(()),
            };
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let family = if client.is_ipv4() { 0x11 } else { 0x21 };
            let ports = [client.port().to_be_bytes(), to.port().to_be_bytes()].concat();
            let v2 = v2(0x21, family, &[octets(client.ip()), octets(to.ip()), ports].concat());
            let bare = SocketAddr::new(client.ip(), client.port());
            for header in [v1.into_bytes(), v2] {
                for cut in 0..header.len() {
                    prop_assert_eq!(read(&header[..cut]), Ok(None), "cut at {}", cut);
                }
                let whole = Ok(Some(ProxyHeader { spoken: Spoken::For(bare), bytes: header.len() }));
                prop_assert_eq!(read(&header), whole);
                prop_assert_eq!(read(&[&header[..], &more].concat()), whole, "what follows is the client's");
            }
        }
    }
}
