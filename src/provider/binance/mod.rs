//! Binance spot, and Binance.US which speaks the same.

mod decoder;
mod join;
mod members;
mod parse;
mod symbol;

pub use decoder::BinanceDecoder;

#[cfg(test)]
mod tests;
