//! Who is at the other end of a connection.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Who is at the other end: the socket's address and the client's, which differ only behind a proxy
/// that is trusted. Small, since every session keeps one; IPv4 is kept as IPv6 (RFC 4291, 2.5.5.2),
/// so that one host is one value however it connects.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Remote {
    client: Address,
    socket: Address,
}

/// An address and a port without the padding, flow and scope of [`SocketAddr`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Address {
    ip: Ipv6Addr,
    port: u16,
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self { ip, port: address.port() }
    }
}

impl From<Address> for SocketAddr {
    fn from(address: Address) -> Self {
        Self::new(address.ip.to_canonical(), address.port)
    }
}

impl Remote {
    /// Nobody is in between.
    #[must_use]
    pub fn direct(socket: SocketAddr) -> Self {
        let socket = Address::from(socket);
        Self { client: socket, socket }
    }

    /// The same socket, for a client that its trusted proxy names. Port 0 = not known.
    #[must_use]
    pub fn for_client(self, client: SocketAddr) -> Self {
        Self { client: client.into(), ..self }
    }

    /// The client's address; port 0 where its proxy did not say. IPv4 as IPv4.
    #[must_use]
    pub fn client(&self) -> SocketAddr {
        self.client.into()
    }

    /// The proxy's address, where there is one between; else `None`.
    #[must_use]
    pub fn proxy(&self) -> Option<SocketAddr> {
        (self.client != self.socket).then(|| self.socket.into())
    }

    /// Whom the client is counted with: an IPv4 address alone, IPv6 addresses by their first
    /// `prefix_v6` bits, since whoever has one has a whole network of them.
    #[must_use]
    pub fn group(&self, prefix_v6: u8) -> Group {
        let bits = self.client.ip.to_bits();
        let kept = match self.client.ip.to_ipv4_mapped() {
            Some(_) => u128::MAX,
            None => u128::MAX.checked_shl(128 - u32::from(prefix_v6.min(128))).unwrap_or(0),
        };
        Group(bits & kept)
    }
}

/// Addresses that are counted as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Group(u128);

impl fmt::Display for Remote {
    /// The client's address, and its proxy's where there is one: `203.0.113.7:4711 via 10.0.0.1:80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client().fmt(f)?;
        match self.proxy() {
            Some(proxy) => write!(f, " via {proxy}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect(text)
    }

    #[test]
    fn a_session_can_afford_to_keep_one() {
        assert_eq!(size_of::<Remote>(), 36);
        assert_eq!(size_of::<Option<Remote>>() - size_of::<Remote>(), 2);
    }

    #[test]
    fn a_direct_connection_has_no_proxy_and_one_behind_it_has_both() {
        let direct = Remote::direct(at("203.0.113.7:4711"));
        assert_eq!((direct.client(), direct.proxy()), (at("203.0.113.7:4711"), None));
        assert_eq!(direct.to_string(), "203.0.113.7:4711");
        let behind = Remote::direct(at("[::ffff:10.0.0.1]:80")).for_client(at("[2001:db8::1]:0"));
        assert_eq!((behind.client(), behind.proxy()), (at("[2001:db8::1]:0"), Some(at("10.0.0.1:80"))));
        assert_eq!(format!("{behind:?}"), "[2001:db8::1]:0 via 10.0.0.1:80");
    }

    #[test]
    fn one_host_is_one_group_and_an_ipv6_network_is_one_too() {
        let group = |text: &str, prefix| Remote::direct(at(text)).group(prefix);
        assert_eq!(group("203.0.113.7:1", 64), group("[::ffff:203.0.113.7]:2", 64));
        assert_ne!(group("203.0.113.7:1", 0), group("203.0.113.8:1", 0), "IPv4 is never grouped");
        assert_eq!(group("[2001:db8:0:1::1]:1", 64), group("[2001:db8:0:1:ffff::2]:9", 64));
        assert_ne!(group("[2001:db8:0:1::1]:1", 64), group("[2001:db8:0:2::1]:1", 64));
        assert_eq!(group("[2001:db8:0:1::1]:1", 48), group("[2001:db8:0:2::1]:1", 48));
        assert_ne!(group("[2001:db8::1]:1", 128), group("[2001:db8::2]:1", 128));
    }

    proptest! {
        #[test]
        fn an_address_is_kept_as_it_is(ip: IpAddr, port: u16, other: IpAddr) {
            let (socket, client) = (SocketAddr::new(ip, port), SocketAddr::new(other, 0));
            let remote = Remote::direct(socket).for_client(client);
            prop_assert_eq!(remote.client(), SocketAddr::new(other.to_canonical(), 0));
            if remote.client() != SocketAddr::new(ip.to_canonical(), port) {
                prop_assert_eq!(remote.proxy(), Some(SocketAddr::new(ip.to_canonical(), port)));
            }
        }

        #[test]
        fn a_longer_prefix_never_joins_what_a_shorter_one_parts(one: Ipv6Addr, other: Ipv6Addr, short in 0u8..=128, more in 0u8..=128) {
            let long = short.saturating_add(more).min(128);
            let group = |ip: Ipv6Addr, prefix| Remote::direct(SocketAddr::new(ip.into(), 1)).group(prefix);
            if group(one, long) == group(other, long) {
                prop_assert_eq!(group(one, short), group(other, short));
            }
        }
    }
}
