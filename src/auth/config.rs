//! The `[auth]` section: keys, roles and API keys; issuers have a module of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::api_key::{ApiKeyHash, is_api_key_id};
use super::certificate::{CertificateConfig, Known};
use super::claims::{SUBJECT_BYTES_MAX, depth_within, is_name};
use super::issuer_config::{self, IssuerConfig};
use super::{Algorithm, ChannelSet, Grant, Narrowing, Patience, Policies, TokensConfig};
use crate::limits::DELAYS_MAX;
use crate::model::{Channel, Overflow, Pattern, UnixNanos};
use crate::settings::{Fault, Span, parse_utc};

/// Least bytes of a secret for HS256: the hash's own size (RFC 7518 3.2).
pub(super) const SECRET_BYTES_MIN: usize = 32;
/// Least different bytes in it: keeps out `aaaa…`, not what an attacker's dictionary holds.
const SECRET_DISTINCT_BYTES_MIN: usize = 8;
/// Most bytes of a file with a secret, so that a wrong path cannot fill the memory.
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;
/// Longest leeway: what is more than clocks differ by only keeps ended tokens alive.
pub(super) const LEEWAY_MAX: Span = Span::seconds(300);
/// Longest delay: what is older is history, which a store for it should tell.
const DELAY_MAX: Span = Span::seconds(24 * 3600);

/// Who may connect. Without keys and API keys the hub runs in development mode.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// The `iss` that tokens must carry.
    pub issuer: String,
    /// The `aud` that tokens must carry, alone or among others.
    pub audience: String,
    /// How far the issuer's clock may be off ours: for `exp`, `nbf` and `iat`.
    pub leeway: Span,
    /// The role of tokens that name none; without it they are refused.
    pub default_role: Option<String>,
    /// Keys that tokens are signed with. `tickhub token` signs with the first.
    pub keys: Vec<KeyConfig>,
    /// Who else signs tokens for this hub, with keys of their own.
    pub issuers: Vec<IssuerConfig>,
    /// Roles, by name. Those of `viewer`, `analyst` and `admin` change the built-in ones.
    pub roles: BTreeMap<String, RoleConfig>,
    /// API keys.
    pub api_keys: Vec<ApiKeyConfig>,
    /// Whom clients' certificates stand for.
    pub certificates: Vec<CertificateConfig>,
    /// How long what the hub issues for an API key lasts.
    pub tokens: TokensConfig,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            issuer: "tickhub".to_owned(),
            audience: "tickhub".to_owned(),
            leeway: Span::seconds(5),
            default_role: None,
            keys: Vec::new(),
            issuers: Vec::new(),
            roles: BTreeMap::new(),
            api_keys: Vec::new(),
            certificates: Vec::new(),
            tokens: TokensConfig::default(),
        }
    }
}

/// A key that tokens are signed with.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// Its name, the `kid` of a token's header.
    pub kid: String,
    /// Its algorithm.
    #[serde(default)]
    pub alg: Algorithm,
    /// The secret, its text byte for byte.
    #[serde(default, skip_serializing)]
    pub secret: Option<SecretString>,
    /// A file that holds the secret, byte for byte save for one newline at the end.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
}

/// What a role allows. What is not said is as in the built-in role of that name, or in `viewer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoleConfig {
    /// Patterns of instruments.
    pub symbols: Option<Vec<String>>,
    /// Channels.
    pub channels: Option<Vec<String>>,
    /// Updates a second for one instrument. A role that limits it may not ask for `every` of
    /// `ticker`, `quote` and `book`.
    pub max_rate: Option<u32>,
    /// Levels a side of a book: 1, 10, 50, or 0 for all.
    pub depth: Option<u32>,
    /// Connections of one subject at a time.
    pub connections: Option<u32>,
    /// Entries of one session; a pattern counts as one.
    pub subscriptions: Option<u32>,
    /// Commands a second of one session.
    pub commands_per_second: Option<u32>,
    /// Events in `every` mode that wait for one session, before its overflow policy.
    pub backlog_events: Option<usize>,
    /// Bytes of such events.
    pub backlog_bytes: Option<usize>,
    /// Overflow policies that may be asked for, the first being the default.
    pub overflow: Option<Vec<String>>,
    /// With something waiting that the client does not take (4001).
    pub write_stall: Option<Span>,
    /// For which snapshots and resumed events that wait do not count as a backlog.
    pub catch_up: Option<Span>,
    /// How much later than live everything is seen; 0 is live.
    pub delay: Option<Span>,
}

/// An API key, as `tickhub api-key new` writes it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyConfig {
    /// Its id, the part before the dot.
    pub id: String,
    /// The salted hash of it.
    #[serde(skip_serializing)]
    pub hash: SecretString,
    /// Whose it is: the subject of its sessions.
    pub owner: String,
    /// Its role.
    pub role: String,
    /// When it ends, RFC 3339 in UTC; never, if absent.
    #[serde(default)]
    pub expires: Option<String>,
    /// Switched off.
    #[serde(default)]
    pub disabled: bool,
}

/// The built-in roles: a person at a screen, a program that keeps whole books, and the same with
/// the admin paths.
const BUILT_IN: [&str; 3] = ["viewer", "analyst", "admin"];

impl RoleConfig {
    /// The built-in role of a name.
    ///
    /// None limits the rate, as that would refuse `every`, nor the connections, as many people may
    /// share a service's token. The hub's own limits hold for all of them.
    #[must_use]
    pub fn built_in(name: &str) -> Option<Self> {
        BUILT_IN.contains(&name).then_some(())?;
        let viewer = name == "viewer";
        Some(Self {
            symbols: Some(vec!["*".to_owned()]),
            channels: Some(Channel::ALL.map(|channel| channel.as_str().to_owned()).to_vec()),
            max_rate: None,
            depth: Some(if viewer { 10 } else { 0 }),
            connections: None,
            subscriptions: viewer.then_some(1_000),
            commands_per_second: None,
            backlog_events: None,
            backlog_bytes: None,
            overflow: Some(Overflow::ALL.map(|policy| policy.as_str().to_owned()).to_vec()),
            write_stall: None,
            catch_up: None,
            delay: None,
        })
    }

    fn or(self, other: Self) -> Self {
        Self {
            symbols: self.symbols.or(other.symbols),
            channels: self.channels.or(other.channels),
            max_rate: self.max_rate.or(other.max_rate),
            depth: self.depth.or(other.depth),
            connections: self.connections.or(other.connections),
            subscriptions: self.subscriptions.or(other.subscriptions),
            commands_per_second: self.commands_per_second.or(other.commands_per_second),
            backlog_events: self.backlog_events.or(other.backlog_events),
            backlog_bytes: self.backlog_bytes.or(other.backlog_bytes),
            overflow: self.overflow.or(other.overflow),
            write_stall: self.write_stall.or(other.write_stall),
            catch_up: self.catch_up.or(other.catch_up),
            delay: self.delay.or(other.delay),
        }
    }

    /// The grant, or every fault of it; `path` is where the role stands.
    fn grant(&self, path: &str, faults: &mut Vec<Fault>) -> Option<Grant> {
        let before = faults.len();
        let narrowing = Narrowing {
            symbols: self.symbols.as_ref().map(|texts| patterns(texts, path, faults)),
            channels: self.channels.as_ref().map(|names| channels(names, path, faults)),
            max_rate: self.max_rate.and_then(NonZeroU32::new),
            depth: self.depth.map(depth_within),
            connections: self.connections,
            subscriptions: self.subscriptions,
            delay: self.delay.map(Span::duration),
        };
        if let Some(delay) = self.delay.filter(|delay| *delay > DELAY_MAX) {
            faults.push(Fault::new(format!("{path}.delay"), delay.to_string(), format!("must be at most {DELAY_MAX}")));
        }
        let zero = "must be at least 1; leave it out for no limit";
        let counts =
            [("max_rate", self.max_rate), ("connections", self.connections), ("subscriptions", self.subscriptions)];
        for (name, _) in counts.iter().filter(|(_, count)| *count == Some(0)) {
            faults.push(Fault::new(format!("{path}.{name}"), 0, zero));
        }
        if self.commands_per_second == Some(0) {
            faults.push(Fault::new(format!("{path}.commands_per_second"), 0, "must be at least 1"));
        }
        if let Some(depth) = self.depth.filter(|depth| ![0, 1, 10, 50].contains(depth)) {
            faults.push(Fault::new(format!("{path}.depth"), depth, "must be 1, 10, 50, or 0 for all levels"));
        }
        let patience = self.patience(path, faults);
        let grant = Grant::everything().narrow(&narrowing);
        if let Err(error) = &grant {
            faults.push(Fault::hidden(format!("{path}.symbols"), error.to_string()));
        }
        let grant = grant.ok()?.limit_commands(self.commands_per_second.unwrap_or(super::NO_LIMIT));
        (faults.len() == before).then_some(grant.with_patience(patience))
    }

    fn patience(&self, path: &str, faults: &mut Vec<Fault>) -> Patience {
        let none = Patience::UNLIMITED;
        for (name, count) in [("backlog_events", self.backlog_events), ("backlog_bytes", self.backlog_bytes)] {
            if count == Some(0) {
                let reason = "must be at least 1; leave it out for the hub's own bound";
                faults.push(Fault::new(format!("{path}.{name}"), 0, reason));
            }
        }
        if self.write_stall.is_some_and(|span| span < Span::millis(1)) {
            faults.push(Fault::new(format!("{path}.write_stall"), "0s", "must be at least 1ms"));
        }
        let policies = self.overflow.as_ref().map(|names| overflow(names, path, faults));
        Patience {
            backlog_events: self.backlog_events.unwrap_or(none.backlog_events),
            backlog_bytes: self.backlog_bytes.unwrap_or(none.backlog_bytes),
            write_stall: self.write_stall.map_or(none.write_stall, Span::duration),
            catch_up: self.catch_up.map_or(none.catch_up, Span::duration),
            overflow: policies.unwrap_or(none.overflow),
        }
    }
}

fn patterns(texts: &[String], path: &str, faults: &mut Vec<Fault>) -> Vec<Pattern> {
    let mut read = |(index, text): (usize, &String)| match Pattern::parse(text) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let reason = format!("is not a pattern: {error}; write VENUE:SYMBOL, VENUE:HEAD*, VENUE:* or *");
            faults.push(Fault::new(format!("{path}.symbols[{index}]"), text, reason));
            None
        }
    };
    texts.iter().enumerate().filter_map(&mut read).collect()
}

fn channels(names: &[String], path: &str, faults: &mut Vec<Fault>) -> ChannelSet {
    let mut read = |(index, name): (usize, &String)| {
        let channel = Channel::parse(name);
        if channel.is_none() {
            let reason = format!("is not a channel; known are {}", Channel::ALL.map(Channel::as_str).join(", "));
            faults.push(Fault::new(format!("{path}.channels[{index}]"), name, reason));
        }
        channel
    };
    names.iter().enumerate().filter_map(&mut read).collect()
}

fn overflow(names: &[String], path: &str, faults: &mut Vec<Fault>) -> Policies {
    let known = "gap, disconnect";
    let mut read = |(index, name): (usize, &String)| {
        let policy = Overflow::parse(name);
        if policy.is_none() {
            let reason = format!("is not an overflow policy; known are {known}");
            faults.push(Fault::new(format!("{path}.overflow[{index}]"), name, reason));
        }
        policy
    };
    let policies: Vec<_> = names.iter().enumerate().filter_map(&mut read).collect();
    if names.is_empty() {
        faults.push(Fault::hidden(format!("{path}.overflow"), format!("is empty; write one or both of {known}")));
    }
    Policies::of(&policies).unwrap_or(Policies::ALL)
}

/// An API key that was read and checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ApiKey {
    pub(super) hash: ApiKeyHash,
    pub(super) owner: String,
    pub(super) role: String,
    pub(super) expires: Option<UnixNanos>,
    pub(super) disabled: bool,
}

impl AuthConfig {
    /// Whether the hub would run in development mode: no key, no API key, no certificate and no other issuer.
    #[must_use]
    pub fn is_development(&self) -> bool {
        self.keys.is_empty() && self.api_keys.is_empty() && self.certificates.is_empty() && self.issuers.is_empty()
    }

    /// Reads every `secret_file` into its `secret`. The only part that touches the disk.
    pub fn read_secret_files(&mut self, faults: &mut Vec<Fault>) {
        for (index, key) in self.keys.iter_mut().enumerate() {
            let Some(path) = &key.secret_file else { continue };
            let name = format!("auth.keys[{index}].secret_file");
            match read_secret(path) {
                _ if key.secret.is_some() => {
                    faults.push(Fault::new(name, path, "stands beside a secret; keep one of them"))
                }
                Ok(secret) => key.secret = Some(secret),
                Err(reason) => faults.push(Fault::new(name, path, reason)),
            }
        }
    }

    /// Everything that is wrong with the section, once its secret files are read.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (name, text) in [("issuer", &self.issuer), ("audience", &self.audience)] {
            if !is_name(text, SUBJECT_BYTES_MAX) {
                faults.push(Fault::new(
                    format!("auth.{name}"),
                    text,
                    "must be 1 to 256 bytes without control characters",
                ));
            }
        }
        if self.leeway > LEEWAY_MAX {
            faults.push(Fault::new("auth.leeway", self.leeway.to_string(), format!("must be at most {LEEWAY_MAX}")));
        }
        self.tokens.check(&mut faults);
        self.key_faults(&mut faults);
        let roles = self.roles(&mut faults);
        if let Some(role) = self.default_role.as_ref().filter(|role| !roles.contains_key(*role)) {
            faults.push(unknown_role("auth.default_role", role, &roles));
        }
        let delays = self.delays();
        if delays.len() > DELAYS_MAX {
            let listed: Vec<String> = delays.iter().map(|delay| Span(*delay).to_string()).collect();
            let reason = format!(
                "the roles have {} different delays ({}), and at most {DELAYS_MAX} are kept: each is a world of its \
                 own; let roles share one",
                delays.len(),
                listed.join(", "),
            );
            faults.push(Fault::hidden("auth.roles", reason));
        }
        self.api_keys(&roles, &mut faults);
        self.certificates(&roles, &mut faults);
        issuer_config::check(&self.issuers, &self.issuer, &roles, &mut faults);
        faults
    }

    /// The delays of the roles, each once, the shortest first: each is a world of its own.
    #[must_use]
    pub fn delays(&self) -> Vec<Duration> {
        let delays = self.roles.values().filter_map(|role| role.delay).map(Span::duration);
        delays.filter(|delay| !delay.is_zero()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn key_faults(&self, faults: &mut Vec<Fault>) {
        let mut seen = BTreeSet::new();
        for (index, key) in self.keys.iter().enumerate() {
            let path = format!("auth.keys[{index}]");
            if !is_name(&key.kid, SUBJECT_BYTES_MAX) {
                faults.push(Fault::new(
                    format!("{path}.kid"),
                    &key.kid,
                    "must be 1 to 256 bytes without control characters",
                ));
            }
            if !seen.insert(&key.kid) {
                faults.push(Fault::new(format!("{path}.kid"), &key.kid, "is another key's too; give each its own"));
            }
            if key.alg != Algorithm::HS256 {
                let reason =
                    "must be HS256, as the key is a secret; keys that others publish stand in [[auth.issuers]]";
                faults.push(Fault::new(format!("{path}.alg"), key.alg.as_str(), reason));
            }
            match (&key.secret, &key.secret_file) {
                (Some(secret), _) => {
                    if let Some(reason) = weakness(secret.expose_secret().as_bytes()) {
                        faults.push(Fault::hidden(format!("{path}.secret"), reason));
                    }
                }
                // A file that could not be read has its own fault.
                (None, Some(_)) => {}
                (None, None) => faults.push(Fault::hidden(path, "needs a secret or a secret_file")),
            }
        }
    }

    /// Every role, built-in ones included, with its grant.
    pub(super) fn roles(&self, faults: &mut Vec<Fault>) -> BTreeMap<String, Grant> {
        let built_in = BUILT_IN.into_iter().filter_map(|name| Some((name, RoleConfig::built_in(name)?)));
        let mut roles: BTreeMap<&str, RoleConfig> = built_in.collect();
        for (name, role) in &self.roles {
            let path = format!("auth.roles.{name}");
            if !is_name(name, SUBJECT_BYTES_MAX) {
                faults.push(Fault::hidden(&path, "the name must be 1 to 256 bytes without control characters"));
            }
            // A role that nobody else defines must say what it may see: there is no safe guess.
            if RoleConfig::built_in(name).is_none() && role.symbols.is_none() {
                faults.push(Fault::hidden(format!("{path}.symbols"), "is missing; write patterns such as [\"SIM:*\"]"));
            }
            let base = RoleConfig::built_in(name).or_else(|| RoleConfig::built_in("viewer")).unwrap_or_default();
            roles.insert(name, role.clone().or(base));
        }
        let named = |(name, role): (&str, RoleConfig)| {
            Some((name.to_owned(), role.grant(&format!("auth.roles.{name}"), faults)?))
        };
        roles.into_iter().filter_map(named).collect()
    }

    pub(super) fn api_keys(
        &self,
        roles: &BTreeMap<String, Grant>,
        faults: &mut Vec<Fault>,
    ) -> BTreeMap<String, ApiKey> {
        let mut keys = BTreeMap::new();
        for (index, key) in self.api_keys.iter().enumerate() {
            let path = format!("auth.api_keys[{index}]");
            if !is_api_key_id(&key.id) {
                faults.push(Fault::new(format!("{path}.id"), &key.id, "must be 1 to 64 of letters, digits, _ and -"));
            }
            if !is_name(&key.owner, SUBJECT_BYTES_MAX) {
                let reason = "must be 1 to 256 bytes without control characters";
                faults.push(Fault::new(format!("{path}.owner"), &key.owner, reason));
            }
            // A role that is there but faulty has its own fault.
            if !roles.contains_key(&key.role) && !self.roles.contains_key(&key.role) {
                faults.push(unknown_role(&format!("{path}.role"), &key.role, roles));
            }
            let expires = key.expires.as_ref().map(|text| (text, parse_utc(text)));
            if let Some((text, None)) = expires {
                let reason = "is not a time in UTC; write it as \"2030-12-31T00:00:00Z\"";
                faults.push(Fault::new(format!("{path}.expires"), text, reason));
            }
            let hash = match ApiKeyHash::parse(key.hash.expose_secret()) {
                Ok(hash) => hash,
                Err(error) => {
                    faults.push(Fault::hidden(format!("{path}.hash"), error.to_string()));
                    continue;
                }
            };
            let (owner, role) = (key.owner.clone(), key.role.clone());
            let read = ApiKey { hash, owner, role, expires: expires.and_then(|(_, at)| at), disabled: key.disabled };
            if keys.insert(key.id.clone(), read).is_some() {
                faults.push(Fault::new(format!("{path}.id"), &key.id, "is another key's too; give each its own"));
            }
        }
        keys
    }
}

impl AuthConfig {
    /// Whom certificates stand for, in their order.
    pub(super) fn certificates(&self, roles: &BTreeMap<String, Grant>, faults: &mut Vec<Fault>) -> Vec<Known> {
        let read = |(index, certificate): (usize, &CertificateConfig)| {
            let path = format!("auth.certificates[{index}]");
            // A role that is there but faulty has its own fault.
            if !roles.contains_key(&certificate.role) && !self.roles.contains_key(&certificate.role) {
                faults.push(unknown_role(&format!("{path}.role"), &certificate.role, roles));
            }
            certificate.known(&path, faults)
        };
        self.certificates.iter().enumerate().map(read).collect()
    }
}

pub(super) fn unknown_role(path: &str, role: &str, roles: &BTreeMap<String, Grant>) -> Fault {
    let known: Vec<_> = roles.keys().map(String::as_str).collect();
    Fault::new(path, role, format!("is not a role; known are {}", known.join(", ")))
}

/// Why a secret is too weak to sign with.
pub(super) fn weakness(secret: &[u8]) -> Option<String> {
    let distinct = secret.iter().collect::<BTreeSet<_>>().len();
    let make = "make one with `openssl rand -base64 48`";
    if secret.len() < SECRET_BYTES_MIN {
        let has = secret.len();
        return Some(format!("has {has} bytes, HS256 needs at least {SECRET_BYTES_MIN} random ones; {make}"));
    }
    (distinct < SECRET_DISTINCT_BYTES_MIN).then(|| format!("has only {distinct} different bytes; {make}"))
}

fn read_secret(path: &Path) -> Result<SecretString, String> {
    let read = || {
        let mut text = String::new();
        let file = std::fs::File::open(path)?;
        file.take(SECRET_FILE_BYTES_MAX + 1).read_to_string(&mut text).map(|_| text)
    };
    let text: String = read().map_err(|error: std::io::Error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > SECRET_FILE_BYTES_MAX {
        return Err(format!("has more than {SECRET_FILE_BYTES_MAX} bytes: it is no file with a secret"));
    }
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(SecretString::from(text.strip_suffix('\r').unwrap_or(text)))
}
