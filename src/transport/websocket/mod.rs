//! WebSocket (RFC 6455), the server's side of it.

mod frame;
mod handshake;
mod moving;
mod serve;

#[cfg(test)]
mod tests;

pub(super) use serve::{Opening, open};

pub use frame::{Commands, FRAGMENTS_MAX, FrameReader, Incoming, Profile, Violation};
pub use handshake::{
    Credential, HeaderKind, Offer, QUERY_BYTES_MAX, Refusal, SUBPROTOCOL_DEFAULT, SUBPROTOCOLS, URL_CHANNELS_MAX,
    UrlSubscription, excerpt, header_credential, judge_handshake, read_query,
};
