//! How subscribers reach the hub: one folder for each transport, and the worker that owns their
//! sockets.

mod audited;
mod door;
mod handover;
mod meters;
mod shedding;
mod socket;
mod stream;
mod worker;
mod worlds;

pub mod tls;
pub mod websocket;

pub use door::{Admitted, ControlVerifier, Door, Refused, WorkerDoor};
pub use handover::{Entry, Handover, Moved, Place, Places, Verifier};
pub use meters::WorkerMeters;
pub use stream::{Leaving, Stream};
pub use worker::{DrainConfig, WorkerParts, run};
pub use worlds::Worlds;
