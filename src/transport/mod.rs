//! How subscribers reach the hub: one folder for each transport, and the worker that owns their
//! sockets.

mod connections;
mod desk;
mod door;
mod handover;
mod meters;
mod orders;
mod shedding;
#[cfg(test)]
mod tests;
mod worker;

pub mod websocket;

pub use connections::{Connection, ConnectionPlace, ConnectionState, Connections, ConnectionsOrder, ConnectionsQuery};
pub use door::{Admitted, ControlVerifier, Door, Refused, SharedTerms, Terms, WorkerDoor};
pub use handover::{Entry, Handover, Place, Places, Verifier};
pub use meters::WorkerMeters;
pub use orders::{Ended, OrderBook, OrderNumber, Orders, Selector, Succeeded};
pub use worker::{DrainConfig, WorkerParts, run};
