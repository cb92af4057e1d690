//! One authenticator in the place of another: what that means for those whom the first has let in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Authenticator, CredentialKind, Grant, Principal};

/// What becomes of a principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It stays as it is.
    Same,
    /// It has this in place of what it had.
    Changed(Arc<Principal>),
    /// It may not stay; why, for its owner.
    Ended(&'static str),
}

/// See the module. Keys that tokens are signed with are no part of it: a token that was good when
/// it came lets its session stay until it ends, so that keys can be rotated.
#[derive(Debug)]
pub struct Succession {
    before: Arc<Authenticator>,
    after: Arc<Authenticator>,
    /// Roles that are gone, or allow something else.
    roles: BTreeSet<String>,
    /// API keys that are gone, or say something else.
    api_keys: BTreeSet<String>,
}

impl Succession {
    /// `after` in the place of `before`.
    #[must_use]
    pub fn new(before: Arc<Authenticator>, after: Arc<Authenticator>) -> Self {
        let grant = |of: &Authenticator, name: &str| of.roles.get(name).map(|role| Arc::clone(&role.grant));
        let roles = before.roles.keys().filter(|name| grant(&before, name) != grant(&after, name)).cloned().collect();
        let other = |id: &&String| before.api_keys.get(*id) != after.api_keys.get(*id);
        let api_keys = before.api_keys.keys().filter(other).cloned().collect();
        Self { before, after, roles, api_keys }
    }

    /// Whether it is the same to everyone.
    #[must_use]
    pub fn changes_nothing(&self) -> bool {
        self.roles.is_empty() && self.api_keys.is_empty()
    }

    /// Whether it may be another thing to `held`: quickly, without working out what.
    #[must_use]
    pub fn affects(&self, held: &Principal) -> bool {
        let key = held.token_id.as_deref().filter(|_| held.credential == CredentialKind::ApiKey);
        self.roles.contains(&*held.role) || key.is_some_and(|id| self.api_keys.contains(id))
    }

    /// What becomes of `held`.
    #[must_use]
    pub fn standing(&self, held: &Principal) -> Standing {
        if !self.affects(held) {
            return Standing::Same;
        }
        let mut next = held.clone();
        if let (CredentialKind::ApiKey, Some(id)) = (held.credential, held.token_id.as_deref())
            && self.api_keys.contains(id)
        {
            let (Some(was), Some(is)) = (self.before.api_keys.get(id), self.after.api_keys.get(id)) else {
                return Standing::Ended("the API key is gone");
            };
            if is.disabled {
                return Standing::Ended("the API key is disabled");
            }
            if is.hash != was.hash || is.owner != was.owner {
                return Standing::Ended("the API key is another one now");
            }
            next.expires = is.expires;
            next.role = Arc::from(is.role.as_str());
        }
        let Some(role) = self.after.roles.get(&*next.role) else { return Standing::Ended("the role is gone") };
        match narrowed(&role.grant, held, &self.after.delays) {
            Some(grant) if grant.delay() != held.grant.delay() => {
                return Standing::Ended("the delay is another one now");
            }
            Some(grant) => next.grant = grant,
            None => return Standing::Ended("the token selects too much of the role's symbols"),
        }
        if next == *held { Standing::Same } else { Standing::Changed(Arc::new(next)) }
    }
}

/// What a role's grant and the principal's own claims both allow.
fn narrowed(role: &Arc<Grant>, held: &Principal, delays: &[Duration]) -> Option<Arc<Grant>> {
    match &held.narrowing {
        None => Some(Arc::clone(role)),
        Some(narrowing) => role.narrow(narrowing).ok()?.in_world(delays).map(Arc::new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{AuthConfig, NewApiKey, TokenRequest, new_api_key};
    use crate::model::{Channel, Depth, InstrumentId, UnixNanos};
    use secrecy::ExposeSecret as _;
    use std::time::Duration;

    const NOW: UnixNanos = UnixNanos(1_700_000_000_000_000_000);
    const KEY: &str =
        "[[keys]]\nkid = \"k1\"\nsecret = \"a-secret-of-more-than-thirty-two-bytes-for-tests\"\n[roles.desk]\n";

    fn authenticator(text: &str) -> Arc<Authenticator> {
        let config: AuthConfig = toml::from_str(text).expect("a section");
        Arc::new(Authenticator::new(&config, None).expect("no faults"))
    }

    fn token(judge: &Authenticator, symbols: &[&str]) -> Principal {
        let mut request = TokenRequest {
            subject: "ann".into(),
            role: "desk".into(),
            ttl: Duration::from_secs(60),
            narrowing: Default::default(),
        };
        if !symbols.is_empty() {
            let parse = |text: &&str| crate::model::Pattern::parse(text).expect("valid");
            request.narrowing.symbols = Some(symbols.iter().map(parse).collect());
        }
        judge.token(&judge.sign(&request, NOW).expect("signs"), NOW).expect("good")
    }

    fn changed(standing: Standing) -> Arc<Principal> {
        match standing {
            Standing::Changed(next) => next,
            other => panic!("{other:?}"),
        }
    }

    fn allows(principal: &Principal, id: &str) -> bool {
        principal.grant.allows(&InstrumentId::parse(id).expect("valid"))
    }

    #[test]
    fn a_principal_has_what_its_new_role_and_its_own_claims_both_allow() {
        let before = authenticator(&format!("{KEY}symbols = [\"SIM:A*\", \"SIM:B*\"]\n"));
        let (whole, narrow) = (token(&before, &[]), token(&before, &["SIM:A*", "X:*"]));
        let after =
            authenticator(&format!("{KEY}symbols = [\"SIM:A1\", \"SIM:C*\", \"X:1\"]\nchannels = [\"quote\"]\n"));
        let succession = Succession::new(Arc::clone(&before), after);
        assert!(!succession.changes_nothing());

        let next = changed(succession.standing(&whole));
        let seen = ["SIM:A1", "SIM:A2", "SIM:B1", "SIM:C1", "X:1"].map(|id| allows(&next, id));
        assert_eq!(seen, [true, false, false, true, true], "a larger role gives, a smaller one takes");
        assert!(next.grant.allows_channel(Channel::Quote) && !next.grant.allows_channel(Channel::Trade));
        let next = changed(succession.standing(&narrow));
        let seen = ["SIM:A1", "SIM:C1", "X:1"].map(|id| allows(&next, id));
        assert_eq!(seen, [true, false, true], "never more than the token itself allows");
        assert_eq!((next.expires, next.issued, &next.token_id), (narrow.expires, narrow.issued, &narrow.token_id));

        let back = Succession::new(succession.after, before);
        assert_eq!(*changed(back.standing(&next)), narrow, "what a smaller role had taken comes back");
    }

    #[test]
    fn who_has_another_role_is_not_concerned_and_whose_role_is_gone_must_go() {
        let before = authenticator(&format!("{KEY}symbols = [\"*\"]\n"));
        let after = authenticator(&KEY.replace("[roles.desk]\n", "[roles.viewer]\ndepth = 1\n"));
        let held = token(&before, &[]);
        let succession = Succession::new(Arc::clone(&before), after);
        assert_eq!(succession.standing(&held), Standing::Ended("the role is gone"));
        let viewer = Principal { role: "viewer".into(), ..held.clone() };
        assert_eq!(changed(succession.standing(&viewer)).grant.depth(), Depth::One);
        let analyst = Principal { role: "analyst".into(), ..held.clone() };
        assert!(!succession.affects(&analyst));
        assert_eq!(succession.standing(&analyst), Standing::Same);
        let same = Succession::new(Arc::clone(&before), before);
        assert!(same.changes_nothing() && !same.affects(&held));
    }

    #[test]
    fn a_rotated_signing_key_ends_nobody() {
        let before = authenticator(&format!("{KEY}symbols = [\"*\"]\n"));
        let after =
            authenticator(&format!("{KEY}symbols = [\"*\"]\n").replace("k1", "k2").replace("a-secret", "b-secret"));
        let held = token(&before, &[]);
        assert!(Succession::new(before, after).changes_nothing());
        assert_eq!(held.role, "desk".into());
    }

    fn keyed(key: &NewApiKey, more: &str) -> Arc<Authenticator> {
        let hash = &key.hash;
        authenticator(&format!("[[api_keys]]\nid = \"a\"\nhash = \"{hash}\"\nowner = \"ann\"\n{more}\n"))
    }

    #[test]
    fn an_api_key_that_is_gone_or_another_one_ends_its_sessions_and_a_changed_one_changes_them() {
        let key = new_api_key("a").expect("valid");
        let before = keyed(&key, "role = \"viewer\"");
        let held = before.api_key(key.key.expose_secret(), NOW).expect("good");
        let standing = |after| Succession::new(Arc::clone(&before), after).standing(&held);
        assert_eq!(standing(keyed(&key, "role = \"viewer\"")), Standing::Same);
        assert_eq!(
            standing(keyed(&key, "role = \"viewer\"\ndisabled = true")),
            Standing::Ended("the API key is disabled")
        );
        assert_eq!(standing(authenticator("")), Standing::Ended("the API key is gone"));
        let other = new_api_key("a").expect("valid");
        assert_eq!(standing(keyed(&other, "role = \"viewer\"")), Standing::Ended("the API key is another one now"));
        let next = changed(standing(keyed(&key, "role = \"admin\"\nexpires = \"2030-01-01\"")));
        assert!(next.is_admin() && next.grant.depth() == Depth::All && next.expires > held.expires);
    }
}
