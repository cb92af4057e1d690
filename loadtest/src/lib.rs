//! Load harness for tickhub: thousands of subscribers in one process, each of which verifies what it receives.
//!
//! It knows the wire protocol and nothing of the hub's code, so that a mistake there cannot hide here.

pub mod clock;
pub mod discover;
pub mod frame;
pub mod hub_process;
pub mod measure;
pub mod options;
pub mod random;
pub mod scan;
pub mod target;
pub mod verify;
