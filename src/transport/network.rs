//! Networks of addresses, as settings name them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bits of IPv6 in front of an IPv4 address that is written as one.
const MAPPED_BITS: u8 = 96;

/// The addresses that share their first bits: `10.0.0.0/8`, `2001:db8::/32`, or one address alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// IPv4 as IPv6, like everywhere.
    first: Ipv6Addr,
    bits: u8,
}

/// A text names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// It is not of that form.
    #[error("is no network; write an address such as \"10.0.0.5\" or a prefix such as \"10.0.0.0/8\" or \"fd00::/8\"")]
    Malformed,
    /// The address has bits beyond the prefix: one of the two is a slip.
    #[error("has address bits beyond its prefix; write {0}, or the address without a prefix")]
    Beyond(Network),
}

impl Network {
    /// Whether `ip` is one of its addresses.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        // A short IPv6 prefix says nothing of IPv4.
        let same_kind = ip.to_ipv4_mapped().is_none() || self.bits >= MAPPED_BITS;
        same_kind && masked(ip, self.bits) == self.first
    }
}

fn masked(ip: Ipv6Addr, bits: u8) -> Ipv6Addr {
    Ipv6Addr::from_bits(ip.to_bits() & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0))
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let (ip, before) = match address.parse().map_err(|_| NetworkError::Malformed)? {
            IpAddr::V4(ip) => (ip.to_ipv6_mapped(), MAPPED_BITS),
            IpAddr::V6(ip) => (ip, 0),
        };
        let most = 128 - before;
        let bits = match bits {
            None => most,
            // `parse` alone would take a plus and leading zeros.
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0')) => {
                bits.parse().ok().filter(|bits| *bits <= most).ok_or(NetworkError::Malformed)?
            }
            Some(_) => return Err(NetworkError::Malformed),
        };
        let bits = before + bits;
        let network = Self { first: masked(ip, bits), bits };
        if network.first == ip { Ok(network) } else { Err(NetworkError::Beyond(network)) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mapped = self.first.to_ipv4_mapped().filter(|_| self.bits >= MAPPED_BITS);
        match (mapped, self.bits) {
            (Some(ip), 128) => write!(f, "{ip}"),
            (Some(ip), bits) => write!(f, "{ip}/{}", bits - MAPPED_BITS),
            (None, 128) => write!(f, "{}", self.first),
            (None, bits) => write!(f, "{}/{bits}", self.first),
        }
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contains(network: &str, ip: &str) -> bool {
        network.parse::<Network>().expect(network).contains(ip.parse().expect(ip))
    }

    #[test]
    fn knows_its_own() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("0.0.0.0/0", "203.0.113.7", "2001:db8::1"),
            ("::/0", "2001:db8::1", "203.0.113.7"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("::1", "::1", "::2"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::10.1.2.3"),
            ("192.168.4.128/25", "192.168.4.129", "192.168.4.127"),
        ] {
            assert!(contains(network, inside) && !contains(network, outside), "{network}");
            assert_eq!(network.parse::<Network>().expect(network).to_string(), network);
        }
    }

    #[test]
    fn refuses_what_is_none() {
        let bad = [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "a",
            "10.0.0.0/8/8",
            " ::1",
        ];
        for bad in bad {
            assert_eq!(bad.parse::<Network>(), Err(NetworkError::Malformed), "{bad}");
        }
        let said = "10.1.0.0/8".parse::<Network>().expect_err("bits beyond").to_string();
        assert!(said.contains("10.0.0.0/8"), "{said}");
    }

    proptest! {
        #[test]
        fn every_network_reads_back_and_has_its_first_address(ip: IpAddr, bits in 0u8..=128) {
            let bits = if ip.is_ipv4() { bits.min(32) } else { bits };
            let network = match format!("{ip}/{bits}").parse::<Network>() {
                Ok(network) | Err(NetworkError::Beyond(network)) => network,
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            };
            prop_assert!(network.contains(ip) || ip.to_canonical() != ip);
            prop_assert_eq!(network.to_string().parse(), Ok(network));
        }
    }
}
