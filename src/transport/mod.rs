//! How subscribers reach the hub: one folder for each transport, and the worker that owns their
//! sockets.

mod audited;
mod connections;
mod desk;
mod door;
mod forwarded;
mod gate;
mod handover;
mod meters;
mod network;
mod orders;
mod proxy;
mod rejudge;
mod remote;
mod shedding;
mod socket;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod worker;
mod worlds;

pub mod tls;
pub mod websocket;

pub use connections::{Connection, ConnectionPlace, ConnectionState, Connections, ConnectionsOrder, ConnectionsQuery};
pub use door::{Admitted, ControlVerifier, Door, Refused, SharedTerms, Terms, WorkerDoor};
pub use forwarded::{ForwardedHeader, client_of};
pub use gate::{AddressLimits, Gate, Pending, Presence, Proxies, Turned};
pub use handover::{Entry, Handover, Moved, Place, Places, Verifier};
pub use meters::WorkerMeters;
pub use network::{Network, NetworkError};
pub use orders::{Ended, OrderBook, OrderNumber, Orders, Selector, Succeeded};
pub use proxy::{NoHeader, ProxyHeader, ProxyProtocol, Spoken, V1_BYTES_MAX, V2_BYTES_MAX, read_proxy_header};
pub use remote::{Group, Remote};
pub use stream::{Leaving, Stream};
pub use worker::{DrainConfig, WorkerParts, run};
pub use worlds::Worlds;
