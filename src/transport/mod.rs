//! How subscribers reach the hub: one folder for each transport, and the worker that owns their
//! sockets.

mod audited;
mod connections;
mod desk;
mod door;
mod handover;
mod meters;
mod orders;
mod rejudge;
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
pub use handover::{Entry, Handover, Moved, Place, Places, Verifier};
pub use meters::WorkerMeters;
pub use orders::{Ended, OrderBook, OrderNumber, Orders, Selector, Succeeded};
pub use stream::{Leaving, Stream};
pub use worker::{DrainConfig, WorkerParts, run};
pub use worlds::Worlds;
