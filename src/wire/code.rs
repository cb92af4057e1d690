//! The codes of the contract: why a command is refused, why a session ends, and the control
//! frames of a WebSocket.

use std::fmt;

use super::frame::{CONTROL_BYTES_MAX, Frame, Opcode};

/// Why a command, or one symbol of it, is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorCode {
    /// Not a command, or one with a fault in a member.
    BadMessage,
    /// Neither an instrument id nor a pattern.
    BadSymbol,
    /// There is no such command.
    UnknownOp,
    /// The hub does not make this channel.
    UnknownChannel,
    /// Inside the grant, but no such instrument.
    UnknownSymbol,
    /// Outside the grant, whether it exists or not.
    NotEntitled,
    /// The session holds no such entry.
    NotSubscribed,
    /// The session holds as many entries as it may.
    SubscriptionLimit,
    /// Commands came faster than the session may send them.
    RateLimited,
    /// A command before the authentication.
    Unauthenticated,
    /// The token is malformed, expired, revoked, or not for this hub.
    InvalidToken,
    /// The hub failed; the command may be repeated.
    Internal,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 12] = [
        Self::BadMessage,
        Self::BadSymbol,
        Self::UnknownOp,
        Self::UnknownChannel,
        Self::UnknownSymbol,
        Self::NotEntitled,
        Self::NotSubscribed,
        Self::SubscriptionLimit,
        Self::RateLimited,
        Self::Unauthenticated,
        Self::InvalidToken,
        Self::Internal,
    ];

    /// Its name on the wire and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadMessage => "bad_message",
            Self::BadSymbol => "bad_symbol",
            Self::UnknownOp => "unknown_op",
            Self::UnknownChannel => "unknown_channel",
            Self::UnknownSymbol => "unknown_symbol",
            Self::NotEntitled => "not_entitled",
            Self::NotSubscribed => "not_subscribed",
            Self::SubscriptionLimit => "subscription_limit",
            Self::RateLimited => "rate_limited",
            Self::Unauthenticated => "unauthenticated",
            Self::InvalidToken => "invalid_token",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a session ends. The number is the WebSocket close code and the QUIC application error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum CloseCode {
    /// The client closed, and the hub agrees.
    Normal = 1000,
    /// The hub goes away; the reason says `retry_after_ms=N`.
    Drain = 1001,
    /// The client broke the WebSocket protocol.
    ProtocolError = 1002,
    /// A kind of message that the hub does not take.
    UnsupportedData = 1003,
    /// Text that is not UTF-8.
    InvalidText = 1007,
    /// A message longer than the session may send.
    TooBig = 1009,
    /// The hub failed.
    InternalError = 1011,
    /// The client did not take what it asked for in time.
    SlowConsumer = 4001,
    /// The client showed no sign of life.
    HeartbeatTimeout = 4002,
    /// The client went on sending commands faster than it may.
    RateLimited = 4003,
    /// The token expired and was not renewed.
    TokenExpired = 4004,
    /// The hub has no room for the session now.
    Overloaded = 4005,
    /// The subject has as many sessions as it may.
    ConnectionLimit = 4006,
    /// Too many faulty commands.
    BadMessage = 4500,
    /// The credential is bad.
    Unauthenticated = 4501,
    /// The credential is good, but not for this.
    Forbidden = 4502,
    /// No credential came in time.
    AuthTimeout = 4503,
    /// The credential was revoked.
    Revoked = 4504,
}

impl CloseCode {
    /// Every code.
    pub const ALL: [Self; 18] = [
        Self::Normal,
        Self::Drain,
        Self::ProtocolError,
        Self::UnsupportedData,
        Self::InvalidText,
        Self::TooBig,
        Self::InternalError,
        Self::SlowConsumer,
        Self::HeartbeatTimeout,
        Self::RateLimited,
        Self::TokenExpired,
        Self::Overloaded,
        Self::ConnectionLimit,
        Self::BadMessage,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::AuthTimeout,
        Self::Revoked,
    ];

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The code of a number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }

    /// Its name in metrics, and the reason in the close frame where there is nothing else to say.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Drain => "drain",
            Self::ProtocolError => "protocol_error",
            Self::UnsupportedData => "unsupported_data",
            Self::InvalidText => "invalid_text",
            Self::TooBig => "too_big",
            Self::InternalError => "internal_error",
            Self::SlowConsumer => "slow_consumer",
            Self::HeartbeatTimeout => "heartbeat_timeout",
            Self::RateLimited => "rate_limited",
            Self::TokenExpired => "token_expired",
            Self::Overloaded => "overloaded",
            Self::ConnectionLimit => "connection_limit",
            Self::BadMessage => "bad_message",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::AuthTimeout => "auth_timeout",
            Self::Revoked => "revoked",
        }
    }

    /// Whether the client should come back as it is, with jittered backoff. After `Normal` it
    /// left by its own will.
    #[must_use]
    pub const fn may_reconnect(self) -> bool {
        matches!(self.number(), 1001 | 1011 | 4000..=4499)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A close frame. A reason longer than the 123 bytes that fit is cut between two characters.
#[must_use]
pub fn close_frame(code: CloseCode, reason: &str) -> Frame {
    let reason = &reason[..reason.floor_char_boundary(CONTROL_BYTES_MAX - 2)];
    Frame::control(Opcode::Close, &[&code.number().to_be_bytes(), reason.as_bytes()].concat())
}

/// A ping frame. What exceeds 125 bytes is cut off.
#[must_use]
pub fn ping_frame(payload: &[u8]) -> Frame {
    Frame::control(Opcode::Ping, payload)
}

/// A pong frame. What exceeds 125 bytes is cut off: no ping that arrives can be longer.
#[must_use]
pub fn pong_frame(payload: &[u8]) -> Frame {
    Frame::control(Opcode::Pong, payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_and_names_are_those_of_the_contract() {
        let table: Vec<_> = CloseCode::ALL.iter().map(|c| (c.number(), c.as_str(), c.may_reconnect())).collect();
        let expected = [
            (1000, "normal", false),
            (1001, "drain", true),
            (1002, "protocol_error", false),
            (1003, "unsupported_data", false),
            (1007, "invalid_text", false),
            (1009, "too_big", false),
            (1011, "internal_error", true),
            (4001, "slow_consumer", true),
            (4002, "heartbeat_timeout", true),
            (4003, "rate_limited", true),
            (4004, "token_expired", true),
            (4005, "overloaded", true),
            (4006, "connection_limit", true),
            (4500, "bad_message", false),
            (4501, "unauthenticated", false),
            (4502, "forbidden", false),
            (4503, "auth_timeout", false),
            (4504, "revoked", false),
        ];
        assert_eq!(table, expected);
        for code in CloseCode::ALL {
            assert_eq!(CloseCode::from_number(code.number()), Some(code));
        }
        assert_eq!(CloseCode::from_number(4000), None);
        let errors: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        let words = "bad_message bad_symbol unknown_op unknown_channel unknown_symbol not_entitled not_subscribed \
                     subscription_limit rate_limited unauthenticated invalid_token internal";
        assert_eq!(errors.join(" "), words);
        assert_eq!(errors.iter().collect::<HashSet<_>>().len(), errors.len());
    }

    #[test]
    fn control_frames_are_exact_and_never_too_long() {
        assert_eq!(
            &close_frame(CloseCode::SlowConsumer, "slow_consumer").bytes()[..],
            b"\x88\x0f\x0f\xa1slow_consumer"
        );
        assert_eq!(&close_frame(CloseCode::Drain, "").bytes()[..], b"\x88\x02\x03\xe9");
        assert_eq!(&ping_frame(b"").bytes()[..], b"\x89\x00");
        assert_eq!(&pong_frame(b"abc").bytes()[..], b"\x8a\x03abc");
        assert_eq!(pong_frame(&[7; 300]).bytes()[..2], [0x8a, 125]);
        // 61 characters of two bytes fit 123 bytes; half of the next one must not be sent.
        let cut = close_frame(CloseCode::Revoked, &"é".repeat(100));
        assert_eq!(cut.payload().len(), 2 + 122);
        assert!(std::str::from_utf8(&cut.payload()[2..]).is_ok());
    }
}
