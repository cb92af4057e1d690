//! What can be recorded: who did what, from where, and what came of it. Never a credential.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::line::Line;
use crate::model::{Channel, Depth, Pattern, UnixNanos};
use crate::time::{rfc3339, rfc3339_nanos};

/// Patterns of a grant that a record lists; a grant may hold four times as many, and their number is
/// recorded beside them. Bounds a line at some 20 KB.
const PATTERNS_MAX: usize = 256;

/// Keys of a configuration, and the like, that a record lists.
const NAMES_MAX: usize = 64;

/// Where somebody came from, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The address at the other end, after what proxies are believed.
    pub remote: Option<SocketAddr>,
    /// The id of the HTTP request, as the answer and the log have it.
    pub request_id: Option<Arc<str>>,
}

/// Who somebody is, once a credential was judged good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// The token's `sub`, or the API key's owner.
    pub subject: Arc<str>,
    /// The token's `iss`; absent for an API key.
    pub issuer: Option<Arc<str>>,
    /// The role.
    pub role: Arc<str>,
    /// The kind of credential, in one word.
    pub credential: &'static str,
    /// The token's `jti`, or the API key's id.
    pub token_id: Option<Arc<str>>,
}

/// What somebody may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Patterns of instruments.
    pub patterns: Arc<[Pattern]>,
    /// Channels.
    pub channels: Vec<Channel>,
    /// Levels a side of a book at most.
    pub depth: Depth,
    /// Updates a second for one instrument at most.
    pub max_rate: Option<u32>,
    /// Sessions of the subject at a time; [`u32::MAX`] = as many as the hub allows.
    pub connections: u32,
    /// Entries of a session; likewise.
    pub subscriptions: u32,
    /// Commands a second of a session; likewise.
    pub commands_per_second: u32,
    /// When it ends.
    pub expires: Option<UnixNanos>,
}

/// What happened. The texts in here never hold a credential, nor a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The hub listens.
    HubStarted {
        /// Its version.
        version: &'static str,
        /// The public address.
        listen: SocketAddr,
        /// The operations address.
        ops_listen: SocketAddr,
    },
    /// The hub ended as it should.
    HubStopped,
    /// The configuration that the hub starts with.
    ConfigLoaded {
        /// SHA-256 of it without its secrets, as JSON, in hexadecimal: equal means unchanged.
        digest: Arc<str>,
    },
    /// Another configuration is in effect.
    ConfigReloaded {
        /// As for [`Self::ConfigLoaded`].
        digest: Arc<str>,
        /// The keys that changed.
        changed: Vec<String>,
    },
    /// A configuration was refused; the old one stays.
    ConfigFailed {
        /// The keys at fault.
        keys: Vec<String>,
    },
    /// A session is open, and it is known whose.
    Connected {
        /// How it came.
        transport: &'static str,
        /// What its events come in.
        format: &'static str,
    },
    /// Somebody was not let in, or got no answer. Many of one address and reason become few records.
    Refused {
        /// Where: `handshake`, `in_band`, `renewal`, `http`, or another door.
        at: &'static str,
        /// Why, in one word.
        reason: &'static str,
        /// What they were answered: an HTTP status or a close code.
        code: Option<u16>,
    },
    /// What a session may have.
    Granted(Box<Granted>),
    /// What a session may have from now on.
    Renewed(Box<Granted>),
    /// What a smaller grant took away from a session.
    Withdrawn {
        /// Streams of instruments that ended, by channel and instrument.
        streams: u64,
    },
    /// A session is over.
    Ended {
        /// The close code; absent where the connection was lost.
        code: Option<u16>,
        /// Its name, or `lost`.
        reason: &'static str,
        /// How long it lasted, in ms.
        lasted_ms: u64,
    },
    /// Credentials were taken back.
    Revoked {
        /// By what: `sub`, `jti` or `api_key`.
        by: &'static str,
        /// Of that kind, which one.
        target: Arc<str>,
    },
    /// An API key was made.
    ApiKeyCreated {
        /// Its id, never its secret.
        key: Arc<str>,
        /// Its owner.
        owner: Arc<str>,
        /// Its role.
        key_role: Arc<str>,
        /// When it ends.
        expires: Option<UnixNanos>,
    },
    /// An API key was switched off.
    ApiKeyDisabled {
        /// Its id.
        key: Arc<str>,
    },
    /// A token was given for an API key.
    TokenIssued {
        /// The new token's `jti`.
        issued: Arc<str>,
        /// When it ends.
        expires: UnixNanos,
    },
    /// A refresh token was exchanged for the next.
    TokenRefreshed {
        /// The name of its family, which is no secret.
        family: Arc<str>,
        /// The new token's `jti`.
        issued: Arc<str>,
        /// When it ends.
        expires: UnixNanos,
    },
    /// A refresh token came a second time: its family is ended.
    RefreshReused {
        /// The name of the family.
        family: Arc<str>,
    },
    /// An admin looked at the sessions.
    AdminListed {
        /// What was asked for, in words of the hub.
        filter: Arc<str>,
        /// How many were shown.
        shown: u64,
    },
    /// An admin ended sessions.
    AdminEnded {
        /// Which ones were meant.
        target: Arc<str>,
        /// With which close code.
        code: u16,
        /// How many there were.
        sessions: u64,
    },
}

impl Event {
    /// Its name in the trail and in metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::HubStarted { .. } => "hub_started",
            Self::HubStopped => "hub_stopped",
            Self::ConfigLoaded { .. } => "config_loaded",
            Self::ConfigReloaded { .. } => "config_reloaded",
            Self::ConfigFailed { .. } => "config_failed",
            Self::Connected { .. } => "connected",
            Self::Refused { .. } => "refused",
            Self::Granted(_) => "granted",
            Self::Renewed(_) => "renewed",
            Self::Withdrawn { .. } => "withdrawn",
            Self::Ended { .. } => "ended",
            Self::Revoked { .. } => "revoked",
            Self::ApiKeyCreated { .. } => "api_key_created",
            Self::ApiKeyDisabled { .. } => "api_key_disabled",
            Self::TokenIssued { .. } => "token_issued",
            Self::TokenRefreshed { .. } => "token_refreshed",
            Self::RefreshReused { .. } => "refresh_reused",
            Self::AdminListed { .. } => "admin_listed",
            Self::AdminEnded { .. } => "admin_ended",
        }
    }

    fn members(&self, line: &mut Line<'_>) {
        let time = |at: &UnixNanos| rfc3339(*at);
        match self {
            Self::HubStarted { version, listen, ops_listen } => {
                line.text("version", version);
                line.text("listen", &listen.to_string());
                line.text("ops_listen", &ops_listen.to_string());
            }
            Self::HubStopped => {}
            Self::ConfigLoaded { digest } => line.text("digest", digest),
            Self::ConfigReloaded { digest, changed } => {
                line.text("digest", digest);
                line.texts("changed", changed.iter().take(NAMES_MAX).map(String::as_str));
            }
            Self::ConfigFailed { keys } => line.texts("keys", keys.iter().take(NAMES_MAX).map(String::as_str)),
            Self::Connected { transport, format } => {
                line.text("transport", transport);
                line.text("format", format);
            }
            Self::Refused { at, reason, code } => {
                line.text("door", at);
                line.text("reason", reason);
                line.optional_number("code", code.map(u64::from));
            }
            Self::Granted(granted) | Self::Renewed(granted) => granted.members(line),
            Self::Withdrawn { streams } => line.number("streams", *streams),
            Self::Ended { code, reason, lasted_ms } => {
                line.optional_number("code", code.map(u64::from));
                line.text("reason", reason);
                line.number("lasted_ms", *lasted_ms);
            }
            Self::Revoked { by, target } => {
                line.text("by", by);
                line.text("target", target);
            }
            Self::ApiKeyCreated { key, owner, key_role, expires } => {
                line.text("key", key);
                line.text("owner", owner);
                line.text("key_role", key_role);
                line.optional_text("expires", expires.as_ref().map(time).as_deref());
            }
            Self::ApiKeyDisabled { key } => line.text("key", key),
            Self::TokenIssued { issued, expires } => {
                line.text("issued", issued);
                line.text("expires", &time(expires));
            }
            Self::TokenRefreshed { family, issued, expires } => {
                line.text("family", family);
                line.text("issued", issued);
                line.text("expires", &time(expires));
            }
            Self::RefreshReused { family } => line.text("family", family),
            Self::AdminListed { filter, shown } => {
                line.text("filter", filter);
                line.number("shown", *shown);
            }
            Self::AdminEnded { target, code, sessions } => {
                line.text("target", target);
                line.number("code", u64::from(*code));
                line.number("sessions", *sessions);
            }
        }
    }
}

impl Granted {
    fn members(&self, line: &mut Line<'_>) {
        line.texts("patterns", self.patterns.iter().take(PATTERNS_MAX).map(Pattern::as_str));
        if self.patterns.len() > PATTERNS_MAX {
            line.number("patterns_in_all", self.patterns.len() as u64);
        }
        line.texts("channels", self.channels.iter().map(|channel| channel.as_str()));
        line.number("depth", u64::from(self.depth.wire()));
        line.optional_number("max_rate", self.max_rate.map(u64::from));
        let limits = [
            ("connections", self.connections),
            ("subscriptions", self.subscriptions),
            ("commands_per_second", self.commands_per_second),
        ];
        for (name, limit) in limits.into_iter().filter(|(_, limit)| *limit != u32::MAX) {
            line.number(name, u64::from(limit));
        }
        line.optional_text("expires", self.expires.map(rfc3339).as_deref());
    }
}

/// One thing that happened, and all that is known of who did it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub(super) event: Event,
    pub(super) remote: Option<SocketAddr>,
    who: Option<Who>,
    session: Option<Arc<str>>,
    request_id: Option<Arc<str>>,
}

impl Record {
    /// Of `event`; nothing is known yet of who it was.
    #[must_use]
    pub const fn of(event: Event) -> Self {
        Self { event, remote: None, who: None, session: None, request_id: None }
    }

    /// The same with where it came from.
    #[must_use]
    pub fn origin(mut self, origin: &Origin) -> Self {
        self.remote = origin.remote.map(canonical);
        self.request_id.clone_from(&origin.request_id);
        self
    }

    /// The same with who did it.
    #[must_use]
    pub fn by(mut self, who: Who) -> Self {
        self.who = Some(who);
        self
    }

    /// The same with the name of the session.
    #[must_use]
    pub fn session(mut self, name: &str) -> Self {
        self.session = Some(name.into());
        self
    }

    /// Appends it as number `seq` of a trail, without its end.
    pub(super) fn write(&self, text: &mut String, seq: u64, at: UnixNanos) {
        let mut line = Line::begin(text, seq);
        line.text("at", &rfc3339_nanos(at));
        line.text("event", self.event.name());
        line.optional_text("remote", self.remote.map(|remote| remote.to_string()).as_deref());
        if let Some(who) = &self.who {
            line.text("subject", &who.subject);
            line.optional_text("issuer", who.issuer.as_deref());
            line.text("role", &who.role);
            line.text("credential", who.credential);
            line.optional_text("token_id", who.token_id.as_deref());
        }
        line.optional_text("session", self.session.as_deref());
        line.optional_text("request_id", self.request_id.as_deref());
        self.event.members(&mut line);
    }
}

/// An IPv4 address that came as an IPv6 one, as itself.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::from((v4, address.port())),
        IpAddr::V6(_) => address,
    }
}
