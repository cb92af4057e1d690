//! How subscribers reach the hub: one folder for each transport, and the worker that owns their
//! sockets.

mod door;
mod handover;
mod meters;
mod remote;
mod shedding;
mod worker;

pub mod websocket;

pub use door::{Admitted, ControlVerifier, Door, Refused, WorkerDoor};
pub use handover::{Entry, Handover, Place, Places, Verifier};
pub use meters::WorkerMeters;
pub use remote::{Group, Remote};
pub use worker::{DrainConfig, WorkerParts, run};
