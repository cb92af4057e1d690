//! sim
pub mod config;
pub mod market;
pub mod schedule;
