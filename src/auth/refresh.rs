//! Refresh tokens: families, rotation, and how a used one is known when it comes again.
//!
//! A token is `<family>-<generation>-<mark>.<secret>`. The secret has 256 random bits; of it only
//! the salted hash of the newest token is kept, so a family takes the same room however often it is
//! rotated. A used token is known by its mark, which only the hub can make for a family and a
//! generation: who presents a good mark of an earlier generation has a token that was used. Who
//! knows a family's id only, which stands in the `jti` of its access tokens, can end nothing.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::api_key::{ApiKeyHash, MARK_BYTES, SALT_BYTES, SECRET_BYTES};
use super::random;
use crate::model::UnixNanos;
use crate::settings::{Fault, Span};
use crate::time::duration_ns;

/// Longest refresh token, in bytes: family, generation, mark and secret with what is between them.
pub const REFRESH_TOKEN_BYTES_MAX: usize = 128;

/// How long a token is still known behind its end: the longest leeway, and as much again.
const BEHIND_NS: i64 = 600 * 1_000_000_000;

/// Longest life of what the hub issues. A revocation is kept longer.
const LIFETIME_MAX: Span = Span::seconds(365 * 24 * 3600);

/// The `[auth.tokens]` section: how long what the hub issues for an API key lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokensConfig {
    /// An access token.
    pub access_lifetime: Span,
    /// A refresh token that is not used.
    pub refresh_idle: Span,
    /// A chain of refresh tokens, each for the one before, from the API key on.
    pub refresh_lifetime: Span,
}

impl Default for TokensConfig {
    fn default() -> Self {
        Self {
            access_lifetime: Span::seconds(600),
            refresh_idle: Span::seconds(24 * 3600),
            refresh_lifetime: Span::seconds(30 * 24 * 3600),
        }
    }
}

impl TokensConfig {
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        let mut within = |key: &str, span: Span, least: Span, most: Span| {
            if span < least || span > most {
                let reason = format!("must be from {least} to {most}");
                faults.push(Fault::new(format!("auth.tokens.{key}"), span.to_string(), reason));
            }
        };
        within("access_lifetime", self.access_lifetime, Span::seconds(1), Span::seconds(24 * 3600));
        within("refresh_idle", self.refresh_idle, self.access_lifetime, LIFETIME_MAX);
        within("refresh_lifetime", self.refresh_lifetime, self.refresh_idle, LIFETIME_MAX);
    }
}

/// The name of a family: random, so that it cannot be guessed and is never used again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FamilyId([u8; 16]);

impl FamilyId {
    fn parse(text: &str) -> Option<Self> {
        hex(text).map(Self)
    }

    /// The family that a `jti` was issued from, if it has the form of one that was.
    #[must_use]
    pub fn of_token_id(token_id: &str) -> Option<Self> {
        let (family, generation) = token_id.split_once('-')?;
        (!generation.is_empty() && generation.bytes().all(|b| b.is_ascii_digit())).then_some(())?;
        Self::parse(family)
    }
}

impl fmt::Display for FamilyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for FamilyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FamilyId({self})")
    }
}

impl Serialize for FamilyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FamilyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("is not a family's id"))
    }
}

/// 16 bytes in lower-case hexadecimal, in no other form.
fn hex(text: &str) -> Option<[u8; 16]> {
    let sane = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    sane.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(u128::to_be_bytes)
}

/// What is random about a token that is to be made.
#[derive(Clone)]
pub struct Fresh {
    family: FamilyId,
    salt: [u8; SALT_BYTES],
    secret: [u8; SECRET_BYTES],
}

impl Fresh {
    /// From the system's generator; `None` where it has none.
    #[must_use]
    pub fn new() -> Option<Self> {
        Some(Self { family: FamilyId(random()?), salt: random()?, secret: random()? })
    }

    /// The family that begins with it.
    #[must_use]
    pub const fn family(&self) -> FamilyId {
        self.family
    }
}

impl fmt::Debug for Fresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fresh([redacted])")
    }
}

/// A refresh token as somebody presents it: its form is right, nothing more is known.
#[derive(Clone)]
pub struct Presented {
    family: FamilyId,
    generation: u32,
    mark: [u8; MARK_BYTES],
    text: SecretString,
}

impl Presented {
    /// Reads a token; `None` where it has not the form of one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() <= REFRESH_TOKEN_BYTES_MAX).then_some(())?;
        let (name, secret) = text.split_once('.')?;
        let mut parts = name.split('-');
        let family = FamilyId::parse(parts.next()?)?;
        let generation: u32 = parts.next()?.parse().ok()?;
        let mark = hex(parts.next()?)?;
        let whole = parts.next().is_none() && URL_SAFE_NO_PAD.decode(secret).ok()?.len() == SECRET_BYTES;
        // One token has one text: of another one for the same parts nobody could say which it is.
        let canonical = text.starts_with(&format!("{family}-{generation}-"));
        (whole && canonical).then(|| Self { family, generation, mark, text: text.into() })
    }

    /// The family that it names.
    #[must_use]
    pub const fn family(&self) -> FamilyId {
        self.family
    }
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented").field("family", &self.family).finish_non_exhaustive()
    }
}

/// What a presented token is to its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presentation {
    /// The newest one, and good.
    Newest,
    /// An earlier one: it was used, and somebody has a copy.
    Used,
    /// Nothing that the hub has issued.
    Forged,
    /// The newest one of a family that was ended.
    Ended,
    /// The newest one, too late.
    Expired,
}

/// A chain of refresh tokens, each for the one before, that began with an API key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    pub(super) id: FamilyId,
    /// The id of the API key that it began with.
    pub(super) key: Arc<str>,
    /// Whose its tokens are.
    pub(super) subject: Arc<str>,
    generation: u32,
    /// Of the newest token.
    hash: ApiKeyHash,
    /// When the newest token was issued.
    #[serde(with = "super::nanos")]
    pub(super) used: UnixNanos,
    /// The last moment of the newest token.
    #[serde(with = "super::nanos")]
    idle_until: UnixNanos,
    /// The last moment of the whole chain.
    #[serde(with = "super::nanos")]
    until: UnixNanos,
    /// The last moment of any access token that was issued from it.
    #[serde(with = "super::nanos")]
    access_until: UnixNanos,
    pub(super) ended: bool,
}

/// What was issued: all that its holder and the access token need.
#[derive(Debug)]
pub struct Issue {
    /// The API key that it began with.
    pub key: Arc<str>,
    /// Whose it is.
    pub subject: Arc<str>,
    /// The `jti` of the access token.
    pub token_id: String,
    /// The last moment that the access token may have.
    pub access_until: UnixNanos,
    /// The refresh token, shown once.
    pub refresh: SecretString,
    /// Its last moment, unless it is used.
    pub refresh_until: UnixNanos,
}

fn behind(now: UnixNanos, span: Span) -> UnixNanos {
    let nanos = i64::try_from(duration_ns(span.duration())).unwrap_or(i64::MAX);
    UnixNanos(now.0.saturating_add(nanos))
}

impl Family {
    /// A family with its first token.
    pub(super) fn begin(
        fresh: &Fresh,
        (key, subject): (&Arc<str>, &Arc<str>),
        lifetimes: &TokensConfig,
        now: UnixNanos,
    ) -> (Self, Issue) {
        let family = Self {
            id: fresh.family,
            key: Arc::clone(key),
            subject: Arc::clone(subject),
            generation: 0,
            hash: ApiKeyHash::of(fresh.salt, ""),
            used: now,
            idle_until: now,
            until: behind(now, lifetimes.refresh_lifetime),
            access_until: now,
            ended: false,
        };
        family.rotated(fresh, lifetimes, now)
    }

    /// The family with its next token in place of the newest.
    pub(super) fn rotated(&self, fresh: &Fresh, lifetimes: &TokensConfig, now: UnixNanos) -> (Self, Issue) {
        let generation = self.generation.saturating_add(1);
        let name = format!("{}-{generation}", self.id);
        let mark = u128::from_be_bytes(self.hash.mark(&name));
        let refresh = format!("{name}-{mark:032x}.{}", URL_SAFE_NO_PAD.encode(fresh.secret));
        let access_until = behind(now, lifetimes.access_lifetime);
        let family = Self {
            generation,
            hash: ApiKeyHash::of(self.hash.salt(), &refresh),
            used: now,
            idle_until: behind(now, lifetimes.refresh_idle).min(self.until),
            access_until: access_until.max(self.access_until),
            ..self.clone()
        };
        let issue = Issue {
            key: Arc::clone(&self.key),
            subject: Arc::clone(&self.subject),
            token_id: name,
            access_until,
            refresh: refresh.into(),
            refresh_until: family.idle_until,
        };
        (family, issue)
    }

    pub(super) fn ended(&self) -> Self {
        Self { ended: true, ..self.clone() }
    }

    /// What `presented`, which names this family, is to it.
    pub(super) fn judge(&self, presented: &Presented, now: UnixNanos) -> Presentation {
        let name = format!("{}-{}", self.id, presented.generation);
        let marked = aws_lc_rs::constant_time::verify_slices_are_equal(&self.hash.mark(&name), &presented.mark).is_ok();
        if !marked || !(1..=self.generation).contains(&presented.generation) {
            Presentation::Forged
        } else if presented.generation < self.generation {
            Presentation::Used
        } else if !self.hash.is_of(presented.text.expose_secret()) {
            Presentation::Forged
        } else if self.ended {
            Presentation::Ended
        } else if self.idle_until <= now {
            Presentation::Expired
        } else {
            Presentation::Newest
        }
    }

    /// When nothing that was issued from it can be good any more, so that it may be forgotten.
    pub(super) fn over(&self) -> UnixNanos {
        let last = if self.ended { self.access_until } else { self.access_until.max(self.idle_until) };
        UnixNanos(last.0.saturating_add(BEHIND_NS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixNanos = UnixNanos(1_700_000_000_000_000_000);

    fn begun() -> (Family, Issue) {
        let fresh = Fresh::new().expect("random bytes");
        Family::begin(&fresh, (&"desk".into(), &"ann".into()), &TokensConfig::default(), NOW)
    }

    fn presented(text: &str) -> Presented {
        Presented::parse(text).expect(text)
    }

    #[test]
    fn each_token_is_good_once_and_known_as_used_for_ever() {
        let (mut family, first) = begun();
        let mut used = vec![first.refresh];
        for _ in 0..20 {
            let newest = presented(used[used.len() - 1].expose_secret());
            assert_eq!(family.judge(&newest, NOW), Presentation::Newest);
            let (next, issue) = family.rotated(&Fresh::new().expect("random"), &TokensConfig::default(), NOW);
            family = next;
            assert!(
                used.iter().all(|token| family.judge(&presented(token.expose_secret()), NOW) == Presentation::Used)
            );
            used.push(issue.refresh);
        }
        let text = serde_json::to_string(&family).expect("serializes");
        assert_eq!(serde_json::from_str::<Family>(&text).expect("reads"), family);
        assert!(used.iter().all(|token| !text.contains(token.expose_secret().split_once('.').expect("a dot").1)));
        assert!(text.len() < 600, "however often it was rotated: {text}");
    }

    #[test]
    fn what_the_hub_never_issued_is_forged_and_ends_nothing() {
        let (family, first) = begun();
        let (family, second) = family.rotated(&Fresh::new().expect("random"), &TokensConfig::default(), NOW);
        let [first, second] = [&first.refresh, &second.refresh].map(|token| token.expose_secret().to_owned());
        let (name, secret) = second.split_once('.').expect("a dot");
        let id = family.id;
        let mark_of_first = first.split_once('.').expect("a dot").0.rsplit_once('-').expect("a mark").1;
        for forged in [
            // A known family and a guessed mark, of an earlier, the newest and a later generation.
            format!("{id}-1-{}.{secret}", "0".repeat(32)),
            format!("{id}-2-{}.{secret}", "0".repeat(32)),
            format!("{id}-3-{mark_of_first}.{secret}"),
            format!("{id}-0-{mark_of_first}.{secret}"),
            format!("{id}-2-{mark_of_first}.{secret}"),
            // The newest name with another secret.
            format!("{name}.{}", "A".repeat(43)),
        ] {
            assert_eq!(family.judge(&presented(&forged), NOW), Presentation::Forged, "{forged}");
        }
    }

    #[test]
    fn what_has_not_the_form_is_refused() {
        let good = begun().1.refresh.expose_secret().to_owned();
        assert!(Presented::parse(&good).is_some() && good.len() <= REFRESH_TOKEN_BYTES_MAX);
        for bad in [
            String::new(),
            ".".into(),
            good.to_uppercase(),
            good.replacen("-1-", "-01-", 1),
            good.replacen("-1-", "-+1-", 1),
            good.replacen("-1-", "--1-", 1),
            good.replacen("-1-", "-4294967296-", 1),
            good.replacen('.', "-x.", 1),
            format!("{good}="),
            format!(" {good}"),
            good[..good.len() - 1].to_owned(),
            "a".repeat(10_000),
        ] {
            assert!(Presented::parse(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_family_ends_by_idleness_and_by_its_age() {
        let lifetimes = TokensConfig {
            access_lifetime: Span::seconds(10),
            refresh_idle: Span::seconds(100),
            refresh_lifetime: Span::seconds(250),
        };
        let at = |seconds: i64| UnixNanos(NOW.0 + seconds * 1_000_000_000);
        let fresh = || Fresh::new().expect("random bytes");
        let (family, first) = Family::begin(&fresh(), (&"k".into(), &"s".into()), &lifetimes, NOW);
        let token = presented(first.refresh.expose_secret());
        assert_eq!(family.judge(&token, at(99)), Presentation::Newest);
        assert_eq!(family.judge(&token, at(100)), Presentation::Expired);
        let (family, _) = family.rotated(&fresh(), &lifetimes, at(99));
        let (family, last) = family.rotated(&fresh(), &lifetimes, at(198));
        assert_eq!((last.refresh_until, last.access_until), (at(250), at(208)), "not beyond the chain's own end");
        let token = presented(last.refresh.expose_secret());
        assert_eq!(family.judge(&token, at(249)), Presentation::Newest);
        assert_eq!(family.judge(&token, at(250)), Presentation::Expired);
        assert_eq!(family.ended().judge(&token, at(199)), Presentation::Ended);
        assert_eq!((family.over(), family.ended().over()), (at(850), at(808)));
    }

    #[test]
    fn only_a_jti_of_ours_names_a_family() {
        let (family, issue) = begun();
        assert_eq!(FamilyId::of_token_id(&issue.token_id), Some(family.id));
        for other in ["", "a", "550e8400-e29b-41d4-a716-446655440000", &format!("{}-x", family.id), &"f".repeat(32)] {
            assert_eq!(FamilyId::of_token_id(other), None, "{other}");
        }
    }

    #[test]
    fn nothing_of_a_token_shows_in_debug() {
        let (family, issue) = begun();
        let secret = issue.refresh.expose_secret().split_once('.').expect("a dot").1.to_owned();
        let shown = format!("{family:?} {issue:?} {:?} {:?}", presented(issue.refresh.expose_secret()), Fresh::new());
        assert!(!shown.contains(&secret) && shown.contains("redacted"), "{shown}");
    }

    #[test]
    fn lifetimes_that_contradict_each_other_are_faults() {
        let mut faults = Vec::new();
        TokensConfig::default().check(&mut faults);
        assert_eq!(faults, []);
        TokensConfig { refresh_idle: Span::seconds(1), refresh_lifetime: Span::seconds(9), ..TokensConfig::default() }
            .check(&mut faults);
        assert_eq!(faults[0].to_string(), "auth.tokens.refresh_idle = \"1s\": must be from 10m to 365d");
        TokensConfig { refresh_lifetime: Span::seconds(9), ..TokensConfig::default() }.check(&mut faults);
        assert_eq!(faults[1].key, "auth.tokens.refresh_lifetime");
    }
}
