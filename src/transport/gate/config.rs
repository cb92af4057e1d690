//! What addresses may take, and which proxies are believed, as settings.

use serde::{Deserialize, Serialize};

use crate::settings::Fault;
use crate::transport::{ForwardedHeader, Network, ProxyProtocol};

/// Shortest prefix that IPv6 addresses may be counted by: a /16 is a part of the world.
const PREFIX_V6_MIN: u8 = 16;
/// Least bytes a second that can be set: a longest read takes as many at once.
const BYTES_PER_SECOND_MIN: u32 = 64 * 1024;
/// Most that any of the numbers can be.
const MOST: u32 = 1_000_000_000;

/// What one address may take; the section `limits.per_address`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AddressLimits {
    /// Addresses that nothing of this is for.
    pub exempt: Vec<Network>,
    /// Bits by which IPv6 addresses are counted as one.
    pub ipv6_prefix: u8,
    /// Connections a second; a further request on one counts as another.
    pub handshakes_per_second: u32,
    /// As many at once after a pause.
    pub handshakes_burst: u32,
    /// Connections at the same time that have not shown a credential.
    pub unauthenticated: u32,
    /// Connections at the same time, sessions among them.
    pub connections: u32,
    /// Bytes a second that its sessions send, with a second's worth at once.
    pub bytes_per_second: u32,
}

impl Default for AddressLimits {
    fn default() -> Self {
        let exempt = ["127.0.0.0/8", "::1"].into_iter().filter_map(|text| text.parse().ok()).collect();
        Self {
            exempt,
            ipv6_prefix: 64,
            handshakes_per_second: 500,
            handshakes_burst: 5_000,
            unauthenticated: 256,
            connections: 20_000,
            bytes_per_second: 16 * 1024 * 1024,
        }
    }
}

impl AddressLimits {
    /// What is wrong with it; `path` is where it stands.
    pub fn check(&self, path: &str, faults: &mut Vec<Fault>) {
        let mut within = |key: &str, value: u32, least: u32, most: u32| {
            if !(least..=most).contains(&value) {
                faults.push(Fault::new(format!("{path}.{key}"), value, format!("must be from {least} to {most}")));
            }
        };
        within("ipv6_prefix", self.ipv6_prefix.into(), PREFIX_V6_MIN.into(), 128);
        within("handshakes_per_second", self.handshakes_per_second, 1, MOST);
        within("handshakes_burst", self.handshakes_burst, 1, MOST);
        within("unauthenticated", self.unauthenticated, 1, MOST);
        within("connections", self.connections, 1, MOST);
        within("bytes_per_second", self.bytes_per_second, BYTES_PER_SECOND_MIN, MOST);
    }
}

/// Which proxies are believed, and what they say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Their addresses; from all others nothing is believed.
    pub trusted: Vec<Network>,
    /// What they begin a connection with.
    pub protocol: ProxyProtocol,
    /// Which header of theirs names the client.
    pub header: ForwardedHeader,
}
