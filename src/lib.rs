//! tickhub: a low-latency real-time market data streaming hub.
//!
//! Data goes one way. A provider parses what a venue sends and hands it to ingest, the
//! only door to the store of latest values; there each event is numbered, encoded once and
//! published to the lanes of the fanout workers, which own their subscribers.

pub mod audit;
pub mod auth;
pub mod cli;
pub mod config;
mod dial;
pub mod fanout;
pub mod http;
pub mod identity;
pub mod ingest;
pub mod limits;
pub mod metrics;
pub mod model;
pub mod provider;
pub mod rate;
pub mod server;
pub mod session;
pub mod settings;
pub mod shutdown;
pub mod state;
pub mod store;
pub mod time;
pub mod transport;
pub mod wire;

mod sync;
