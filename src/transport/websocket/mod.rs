//! WebSocket (RFC 6455), the server's side of it.

mod frame;

#[cfg(test)]
mod tests;

pub use frame::{FRAGMENTS_MAX, FrameReader, Incoming, Violation};
