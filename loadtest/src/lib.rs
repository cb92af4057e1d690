//! Load harness for tickhub: thousands of subscribers in one process, each of which verifies what it receives.
//!
//! It knows the wire protocol and nothing of the hub's code, so that a mistake there cannot hide here.

pub mod client;
pub mod clock;
pub mod compare;
pub mod connect;
pub mod diff;
pub mod discover;
pub mod frame;
pub mod html;
pub mod hub_process;
pub mod measure;
pub mod options;
pub mod pace;
pub mod progress;
pub mod random;
pub mod report;
pub mod run;
pub mod scan;
pub mod scenario;
pub mod socket;
pub mod source;
pub mod step;
pub mod tally;
pub mod target;
pub mod values;
pub mod venue;
pub mod verify;
pub mod worker;
