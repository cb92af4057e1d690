//! The `[[auth.issuers]]` tables: who else signs tokens for this hub, and how they are read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::claims::{SUBJECT_BYTES_MAX, is_name};
use super::config::{LEEWAY_MAX, unknown_role};
use super::members::{ClaimPath, PATH_EXPECTED};
use super::{Algorithm, Grant};
use crate::settings::{Fault, Span};

/// Most issuers: each has a task, and a label in metrics.
const ISSUERS_MAX: usize = 16;
/// Longest name of an issuer, in bytes: it is a label of metrics.
const NAME_BYTES_MAX: usize = 32;
/// Longest prefix of subjects, in bytes: most of a subject is the issuer's own.
const PREFIX_BYTES_MAX: usize = 64;
/// How often keys are fetched, at the least and at the most.
const REFRESH: std::ops::RangeInclusive<Span> = Span::seconds(1)..=Span::seconds(86_400);
/// The pause between fetches that tokens ask for.
const REFRESH_PAUSE: std::ops::RangeInclusive<Span> = Span::seconds(1)..=Span::seconds(3_600);
/// How long a fetch may take.
const TIMEOUT: std::ops::RangeInclusive<Span> = Span::millis(100)..=Span::seconds(60);

/// What is said of a name that is none.
const NAMED: &str = "must be 1 to 256 bytes without control characters";

/// One issuer of tokens beside the hub itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// What the hub calls it: in metrics, health and logs.
    pub name: String,
    /// The `iss` of its tokens.
    pub issuer: String,
    /// Of these `aud` its tokens must carry one.
    pub audience: Audience,
    /// Where its keys are: an address of https, or of http on this machine.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// A file with its keys, in place of an address.
    #[serde(default)]
    pub jwks_file: Option<PathBuf>,
    /// Certificates in PEM form, by which alone the address is trusted.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Algorithms of its keys.
    #[serde(default = "algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// How far its clock may be off ours; `auth.leeway`, if absent.
    #[serde(default)]
    pub leeway: Option<Span>,
    /// How often its keys are fetched.
    #[serde(default = "refresh")]
    pub refresh: Span,
    /// The pause between fetches that tokens with an unknown key ask for.
    #[serde(default = "refresh_pause")]
    pub refresh_pause: Span,
    /// How long a fetch may take.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// The role of all its tokens, whatever they say.
    #[serde(default)]
    pub role: Option<String>,
    /// The role of tokens that name none.
    #[serde(default)]
    pub default_role: Option<String>,
    /// What stands before each subject.
    #[serde(default)]
    pub subject_prefix: Option<String>,
    /// Where claims stand in its tokens.
    #[serde(default)]
    pub claims: ClaimsConfig,
    /// Values of the role's claim, each with its role; the first that a token has counts.
    #[serde(default)]
    pub roles: Vec<RoleOfConfig>,
}

/// Where claims stand in an issuer's tokens: names with dots between, or a JSON pointer. Absent
/// is the hub's own name for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClaimsConfig {
    /// Whose token it is.
    pub subject: Option<String>,
    /// Its role: a name, or a list of them.
    pub role: Option<String>,
    /// A list of patterns.
    pub symbols: Option<String>,
    /// A list of channels.
    pub channels: Option<String>,
    /// Updates a second for one instrument.
    pub max_rate: Option<String>,
    /// Levels a side of a book.
    pub depth: Option<String>,
    /// Connections at a time.
    pub connections: Option<String>,
    /// Entries of one session.
    pub subscriptions: Option<String>,
    /// How much later than live everything is seen at least.
    pub delay: Option<String>,
}

/// A value of the role's claim, and the role that it means.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RoleOfConfig {
    /// As it stands in tokens, such as the name of a group.
    pub value: String,
    /// A role of this hub.
    pub role: String,
}

/// One or more names; in TOML a text or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Audience(pub Vec<String>);

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;
        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Audience;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or a list of them such as [\"a\", \"b\"]")
            }

            fn visit_str<E>(self, one: &str) -> Result<Audience, E> {
                Ok(Audience(vec![one.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Audience, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                Ok(Audience(names))
            }
        }
        deserializer.deserialize_any(OneOrMore)
    }
}

fn algorithms() -> Vec<Algorithm> {
    Algorithm::PUBLIC.to_vec()
}

const fn refresh() -> Span {
    Span::seconds(600)
}

const fn refresh_pause() -> Span {
    Span::seconds(30)
}

const fn timeout() -> Span {
    Span::seconds(5)
}

/// Everything that is wrong with the issuers; `own` is the hub's own `iss`.
pub(super) fn check(issuers: &[IssuerConfig], own: &str, roles: &BTreeMap<String, Grant>, faults: &mut Vec<Fault>) {
    if issuers.len() > ISSUERS_MAX {
        faults.push(Fault::hidden("auth.issuers", format!("are {}, the most are {ISSUERS_MAX}", issuers.len())));
    }
    let (mut names, mut issued) = (BTreeSet::new(), BTreeSet::new());
    for (index, issuer) in issuers.iter().enumerate() {
        let path = format!("auth.issuers[{index}]");
        if !names.insert(&issuer.name) {
            faults.push(Fault::new(format!("{path}.name"), &issuer.name, "is another issuer's too; give each its own"));
        }
        if issuer.issuer == own {
            let reason = "is auth.issuer, the hub's own; give the hub another, or this issuer's keys could sign for it";
            faults.push(Fault::new(format!("{path}.issuer"), &issuer.issuer, reason));
        } else if !issued.insert(&issuer.issuer) {
            let reason = "is another's too; an issuer has one table, with all of its keys";
            faults.push(Fault::new(format!("{path}.issuer"), &issuer.issuer, reason));
        }
        let fault =
            |key: &str, value: &dyn fmt::Debug, reason: &str| Fault::new(format!("{path}.{key}"), value, reason);
        issuer.check_itself(&fault, faults);
        issuer.check_keys(&path, &fault, faults);
        issuer.check_roles(&path, roles, &fault, faults);
    }
}

/// Makes a fault of a key, its value and the reason.
type Tell<'a> = &'a dyn Fn(&str, &dyn fmt::Debug, &str) -> Fault;

impl IssuerConfig {
    fn check_itself(&self, tell: Tell<'_>, faults: &mut Vec<Fault>) {
        let sane = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        if !(1..=NAME_BYTES_MAX).contains(&self.name.len()) || !self.name.bytes().all(sane) {
            faults.push(tell("name", &self.name, "must be 1 to 32 of lower case letters, digits, _ and -"));
        }
        if !is_name(&self.issuer, SUBJECT_BYTES_MAX) {
            faults.push(tell("issuer", &self.issuer, NAMED));
        }
        let audience = &self.audience.0;
        if audience.is_empty() || !audience.iter().all(|one| is_name(one, SUBJECT_BYTES_MAX)) {
            faults.push(tell("audience", audience, "must be one or more texts of 1 to 256 bytes"));
        }
        if let Some(leeway) = self.leeway.filter(|leeway| *leeway > LEEWAY_MAX) {
            faults.push(tell("leeway", &leeway.to_string(), &format!("must be at most {LEEWAY_MAX}")));
        }
        if let Some(prefix) = self.subject_prefix.as_ref().filter(|prefix| !is_name(prefix, PREFIX_BYTES_MAX)) {
            let reason = "must be 1 to 64 bytes without control characters; leave it out for none";
            faults.push(tell("subject_prefix", prefix, reason));
        }
        let spans = [
            ("refresh", self.refresh, REFRESH),
            ("refresh_pause", self.refresh_pause, REFRESH_PAUSE),
            ("timeout", self.timeout, TIMEOUT),
        ];
        for (key, span, range) in spans {
            if !range.contains(&span) {
                let reason = format!("must be from {} to {}", range.start(), range.end());
                faults.push(tell(key, &span.to_string(), &reason));
            }
        }
    }

    fn check_keys(&self, path: &str, tell: Tell<'_>, faults: &mut Vec<Fault>) {
        match (&self.jwks_url, &self.jwks_file) {
            (None, None) => faults.push(Fault::hidden(path, "needs a jwks_url or a jwks_file")),
            (Some(_), Some(file)) => {
                faults.push(tell("jwks_file", file, "stands beside a jwks_url; keep one of them"));
            }
            (None, Some(_)) | (Some(_), None) => {}
        }
        if let (Some(file), None) = (&self.ca_file, &self.jwks_url) {
            faults.push(tell("ca_file", file, "is for a jwks_url, and there is none; remove it"));
        }
        let fit = |algorithm: &Algorithm| Algorithm::PUBLIC.contains(algorithm);
        if self.algorithms.is_empty() || !self.algorithms.iter().all(fit) {
            let reason = "must be one or more of RS256, ES256, EdDSA: what is published is no secret to sign with";
            faults.push(tell("algorithms", &self.algorithms, reason));
        }
    }

    fn check_roles(&self, path: &str, roles: &BTreeMap<String, Grant>, tell: Tell<'_>, faults: &mut Vec<Fault>) {
        for (key, role) in [("role", &self.role), ("default_role", &self.default_role)] {
            if let Some(role) = role.as_ref().filter(|role| !roles.contains_key(*role)) {
                faults.push(unknown_role(&format!("{path}.{key}"), role, roles));
            }
        }
        let others = self.default_role.is_some() || !self.roles.is_empty() || self.claims.role.is_some();
        if let Some(role) = self.role.as_ref().filter(|_| others) {
            let reason = "is for every token, so default_role, roles and claims.role mean nothing; keep it or them";
            faults.push(tell("role", role, reason));
        }
        let mut seen = BTreeSet::new();
        for (index, pair) in self.roles.iter().enumerate() {
            if !is_name(&pair.value, SUBJECT_BYTES_MAX) {
                faults.push(tell(&format!("roles[{index}].value"), &pair.value, NAMED));
            }
            if !seen.insert(&pair.value) {
                let reason = "stands there twice; only the first would count";
                faults.push(tell(&format!("roles[{index}].value"), &pair.value, reason));
            }
            if !roles.contains_key(&pair.role) {
                faults.push(unknown_role(&format!("{path}.roles[{index}].role"), &pair.role, roles));
            }
        }
        for (name, text) in self.claims.named() {
            if let Some(text) = text.as_ref().filter(|text| ClaimPath::parse(text).is_none()) {
                faults.push(tell(&format!("claims.{name}"), text, PATH_EXPECTED));
            }
        }
    }

    /// Whether `other` has the same keys from the same place, so that what is known of them holds.
    pub(super) fn has_keys_of(&self, other: &Self) -> bool {
        let place = |config: &Self| {
            let urls = (config.jwks_url.clone(), config.jwks_file.clone(), config.ca_file.clone());
            let times = (config.refresh, config.refresh_pause, config.timeout);
            (config.name.clone(), config.issuer.clone(), urls, times)
        };
        place(self) == place(other)
    }
}

impl ClaimsConfig {
    fn named(&self) -> [(&'static str, &Option<String>); 9] {
        [
            ("subject", &self.subject),
            ("role", &self.role),
            ("symbols", &self.symbols),
            ("channels", &self.channels),
            ("max_rate", &self.max_rate),
            ("depth", &self.depth),
            ("connections", &self.connections),
            ("subscriptions", &self.subscriptions),
            ("delay", &self.delay),
        ]
    }
}
