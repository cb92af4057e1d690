//! Binance spot, and Binance.US which speaks the same.

mod config;
mod connection;
mod decoder;
mod join;
mod live;
mod members;
mod pace;
mod parse;
mod rest;
mod symbol;

pub use config::{Config, Site, Trades};
pub use decoder::BinanceDecoder;
pub use live::Binance;

#[cfg(test)]
mod tests;
