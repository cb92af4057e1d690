//! What the hub holds of keys and tokens beside the configuration: API keys that were made while it
//! runs, and what is revoked. One view of it is shared by everyone who judges.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::refresh::FamilyId;
use super::{AuthError, CredentialKind, IssuedKey, Principal};
use crate::model::UnixNanos;
use crate::time::duration_ns;

/// How long a revocation is kept. A token that was issued longer ago is refused, since nobody can
/// say any more whether it was revoked: so no revocation is ever forgotten while what it forbids
/// could be good. Longer than anything that the hub issues.
pub const REVOCATION_KEPT: Duration = Duration::from_secs(400 * 24 * 3600);

/// How much later than that it is forgotten: the longest leeway, and as much again.
const BEHIND_NS: i64 = 600 * 1_000_000_000;

/// When a revocation of `now` may be forgotten.
pub(super) fn kept_until(now: UnixNanos) -> UnixNanos {
    UnixNanos(now.0.saturating_add(kept_ns()).saturating_add(BEHIND_NS))
}

fn kept_ns() -> i64 {
    i64::try_from(duration_ns(REVOCATION_KEPT)).unwrap_or(i64::MAX)
}

/// The keys and revocations of one moment.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// Grows with each change.
    pub(super) version: u64,
    /// API keys by id.
    pub(super) keys: HashMap<Arc<str>, Arc<IssuedKey>>,
    /// Ids of API keys that are switched off, those of the configuration too.
    pub(super) off: HashSet<Arc<str>>,
    /// Subjects, with the time until which their tokens are revoked.
    pub(super) subjects: HashMap<Arc<str>, UnixNanos>,
    /// Each a `jti`.
    pub(super) tokens: HashSet<Arc<str>>,
    /// Families that were ended, while one of their access tokens could be good.
    pub(super) families: HashSet<FamilyId>,
}

impl Held {
    /// Whether a session of `principal` must end.
    fn refuses(&self, principal: &Principal) -> bool {
        let id = principal.token_id.as_ref();
        if principal.credential == CredentialKind::ApiKey {
            return id.is_some_and(|id| self.off.contains(id));
        }
        let of_subject = || {
            let until = self.subjects.get(&principal.subject);
            until.is_some_and(|until| principal.issued.is_some_and(|issued| issued <= *until))
        };
        let of_token = |id: &Arc<str>| {
            self.tokens.contains(id) || FamilyId::of_token_id(id).is_some_and(|family| self.families.contains(&family))
        };
        of_subject() || id.is_some_and(of_token)
    }
}

/// The view that is shared: the state store fills it, whoever judges reads it without waiting.
#[derive(Debug, Default)]
pub struct Revocations {
    held: ArcSwap<Held>,
}

impl Revocations {
    /// Shows `held` from now on.
    pub fn publish(&self, held: Held) {
        let version = self.version() + 1;
        self.held.store(Arc::new(Held { version, ..held }));
    }

    /// Grows whenever something may have been revoked.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.held.load().version
    }

    /// Whether a live session of `principal` must end.
    #[must_use]
    pub fn refuses(&self, principal: &Principal) -> bool {
        self.held.load().refuses(principal)
    }

    /// Judges a token whose signature and claims are good.
    ///
    /// # Errors
    /// [`AuthError::Revoked`], and [`AuthError::TooOld`] where it was issued before what is known.
    pub(super) fn judge(&self, principal: &Principal, now: UnixNanos) -> Result<(), AuthError> {
        let oldest = now.0.saturating_sub(kept_ns());
        if principal.issued.is_some_and(|issued| issued.0 < oldest) {
            return Err(AuthError::TooOld);
        }
        if self.refuses(principal) { Err(AuthError::Revoked) } else { Ok(()) }
    }

    /// The API key of an id.
    pub(super) fn key(&self, id: &str) -> Option<Arc<IssuedKey>> {
        self.held.load().keys.get(id).cloned()
    }

    /// Whether the API key of an id is switched off.
    pub(super) fn is_off(&self, id: &str) -> bool {
        self.held.load().off.contains(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Grant;

    const NOW: UnixNanos = UnixNanos(1_700_000_000_000_000_000);

    fn principal(credential: CredentialKind, id: &str, issued: Option<i64>) -> Principal {
        Principal {
            subject: "ann".into(),
            issuer: None,
            role: "viewer".into(),
            grant: Arc::new(Grant::everything()),
            narrowing: None,
            expires: None,
            issued: issued.map(UnixNanos),
            token_id: Some(id.into()),
            credential,
        }
    }

    fn judge(held: Held, principal: &Principal) -> Result<(), AuthError> {
        let revocations = Revocations::default();
        assert!(!revocations.refuses(principal));
        revocations.publish(held);
        revocations.judge(principal, NOW)
    }

    #[test]
    fn a_subject_is_revoked_up_to_a_moment_and_no_further() {
        let held = || Held { subjects: [("ann".into(), NOW)].into(), ..Held::default() };
        let token = |issued| principal(CredentialKind::Jwt, "t", Some(issued));
        assert_eq!(judge(held(), &token(NOW.0)), Err(AuthError::Revoked));
        assert_eq!(judge(held(), &token(NOW.0 + 1)), Ok(()));
        let other = Principal { subject: "bob".into(), ..token(NOW.0) };
        assert_eq!(judge(held(), &other), Ok(()));
        assert_eq!(judge(held(), &principal(CredentialKind::ApiKey, "k", None)), Ok(()), "a key is ended by its id");
    }

    #[test]
    fn a_jti_ends_its_token_and_a_family_all_of_its_own() {
        let family = "0123456789abcdef0123456789abcdef";
        let id = FamilyId::of_token_id(&format!("{family}-1")).expect("a family");
        let held = || Held {
            tokens: ["t-1".into()].into(),
            families: [id].into(),
            off: ["t-2".into()].into(),
            ..Held::default()
        };
        let token = |id: &str| judge(held(), &principal(CredentialKind::Jwt, id, Some(NOW.0)));
        assert_eq!(token("t-1"), Err(AuthError::Revoked));
        assert_eq!(token(&format!("{family}-7")), Err(AuthError::Revoked));
        assert_eq!((token("t-2"), token(family), token(&format!("{}-7", "f".repeat(32)))), (Ok(()), Ok(()), Ok(())));
    }

    #[test]
    fn an_api_key_is_ended_by_its_id_and_a_jti_like_it_is_not() {
        let held = || Held { off: ["desk".into()].into(), tokens: ["other".into()].into(), ..Held::default() };
        assert_eq!(judge(held(), &principal(CredentialKind::ApiKey, "desk", None)), Err(AuthError::Revoked));
        assert_eq!(judge(held(), &principal(CredentialKind::Jwt, "desk", Some(NOW.0))), Ok(()));
        assert_eq!(judge(held(), &principal(CredentialKind::ApiKey, "other", None)), Ok(()));
    }

    #[test]
    fn a_token_older_than_what_is_known_is_refused() {
        let token = |issued| judge(Held::default(), &principal(CredentialKind::Jwt, "t", Some(issued)));
        assert_eq!(token(NOW.0 - kept_ns()), Ok(()));
        assert_eq!(token(NOW.0 - kept_ns() - 1), Err(AuthError::TooOld));
        assert!(kept_until(NOW).0 > NOW.0 + kept_ns());
    }
}
