//! How subscribers reach the hub: one folder for each transport, and the worker that owns their
//! sockets.

mod door;
mod forwarded;
mod gate;
mod handover;
mod meters;
mod network;
mod proxy;
mod remote;
mod shedding;
mod worker;

pub mod websocket;

pub use door::{Admitted, ControlVerifier, Door, Refused, WorkerDoor};
pub use forwarded::{ForwardedHeader, client_of};
pub use gate::{AddressLimits, Gate, Pending, Presence, Proxies, Turned};
pub use handover::{Entry, Handover, Place, Places, Verifier};
pub use meters::WorkerMeters;
pub use network::{Network, NetworkError};
pub use proxy::{NoHeader, ProxyHeader, ProxyProtocol, Spoken, V1_BYTES_MAX, V2_BYTES_MAX, read_proxy_header};
pub use remote::{Group, Remote};
pub use worker::{DrainConfig, WorkerParts, run};
