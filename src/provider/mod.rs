//! provider
pub mod backoff;
mod random;
pub mod sim;
