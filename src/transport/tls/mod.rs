//! TLS 1.2 and 1.3 by rustls: handshakes on the control side, certificates that change while it
//! runs, and the connection that goes to a worker with its socket.
//!
//! Records are encrypted here and not in the kernel. With kTLS, `send` would take plaintext as on a
//! plain socket, and an idle session would keep no keys in this process; but keys of TLS 1.3 are
//! renewed in the kernel from Linux 6.13 on only, and a client may ask for that at any time.

mod acceptor;
mod channel;
mod config;
mod files;
mod pieces;
#[cfg(test)]
mod tests;

pub(super) use channel::{Channel, Flushed, Scratch};

pub use acceptor::{Accepted, Acceptor, Lasting, Refused};
pub use config::{ClientAuth, TlsConfig, TlsVersion};
pub use files::Material;
