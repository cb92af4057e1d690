//! Judges credentials, and signs tokens.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use secrecy::ExposeSecret as _;

use super::api_key::{ApiKeyHash, id_of};
use super::certificate::Known;
use super::claims::{Claims, Parts, SUBJECT_BYTES_MAX, is_name};
use super::config::ApiKey;
use super::issuer::Issuer;
use super::key::VerifyingKey;
use super::members::Members;
use super::revocation::Revocations;
use super::ring::KeyRing;
use super::{Algorithm, AuthConfig, AuthError, DevelopmentKey, Grant, Narrowing, SignError, random};
use crate::model::{Channel, Depth, Pattern, UnixNanos};
use crate::settings::{Fault, Span};

/// Longest token, in bytes: room for some hundred symbols, and what a stranger can have parsed.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Bytes of a token's random id.
const TOKEN_ID_BYTES: usize = 16;

/// What kind of credential a session came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CredentialKind {
    /// A signed token.
    Jwt,
    /// A static key.
    ApiKey,
    /// A client's certificate.
    Certificate,
}

impl CredentialKind {
    /// One word for it, for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::ApiKey => "api_key",
            Self::Certificate => "certificate",
        }
    }
}

/// Who a session belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Whose it is: the token's `sub`, the API key's or certificate's owner.
    pub subject: Arc<str>,
    /// The `iss` of who vouches for it; `None` for the hub itself. The same subject of two issuers
    /// is two subjects.
    pub issuer: Option<Arc<str>>,
    /// The role's name.
    pub role: Arc<str>,
    /// What it may have.
    pub grant: Arc<Grant>,
    /// What the token's own claims leave of its role; `None` = all of it.
    pub narrowing: Option<Arc<Narrowing>>,
    /// When the session must end unless it is renewed; `None` for an API key without an end. It
    /// is the token's `exp`, or the end of the leeway where the token came only within that; of a
    /// certificate it is the end.
    pub expires: Option<UnixNanos>,
    /// When the token was issued; `None` for an API key or a certificate.
    pub issued: Option<UnixNanos>,
    /// The token's `jti`, the API key's id, or the certificate's fingerprint.
    pub token_id: Option<Arc<str>>,
    /// What it came with.
    pub credential: CredentialKind,
}

impl Principal {
    /// Whether the admin paths are open to it.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        &*self.role == "admin"
    }

    /// Whose it is, apart from the same name of another issuer.
    #[must_use]
    pub fn account(&self) -> Account {
        Account { issuer: self.issuer.clone(), subject: Arc::clone(&self.subject) }
    }
}

/// A subject and who vouches for it: what is counted, limited and revoked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Account {
    /// The issuer's `iss`; `None` for the hub itself.
    pub issuer: Option<Arc<str>>,
    /// The subject.
    pub subject: Arc<str>,
}

/// What a token to be signed shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// Its `sub`.
    pub subject: String,
    /// Its `role`.
    pub role: String,
    /// How long it lasts from now, at least one second.
    pub ttl: Duration,
    /// Its narrowing claims.
    pub narrowing: Narrowing,
}

/// The key that the hub signs with.
struct SigningKey {
    id: String,
    algorithm: Algorithm,
    key: EncodingKey,
}

pub(super) struct Role {
    pub(super) name: Arc<str>,
    pub(super) grant: Arc<Grant>,
}

/// Judges credentials by one configuration. Immutable, save for the keys that issuers publish: a
/// changed configuration makes another one.
pub struct Authenticator {
    own: Issuer,
    others: Vec<Issuer>,
    signing: Option<SigningKey>,
    pub(super) roles: BTreeMap<String, Role>,
    /// The delays that there are worlds of.
    pub(super) delays: Vec<Duration>,
    pub(super) api_keys: BTreeMap<String, ApiKey>,
    pub(super) certificates: Vec<Known>,
    revocations: Arc<Revocations>,
}

/// What an API key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTerms {
    /// Whose it is.
    pub owner: Arc<str>,
    /// Its role.
    pub role: Arc<str>,
    /// What it has less than its role.
    pub narrowing: Arc<Narrowing>,
    /// When it ends.
    pub expires: Option<UnixNanos>,
}

impl Authenticator {
    /// From a configuration whose secret files are read; `development` is the key of development
    /// mode, used only where the configuration has none. The keys of other issuers are not known
    /// yet: whoever fetches them puts them into [`Self::rings`].
    ///
    /// # Errors
    /// Every [`Fault`] of the section.
    pub fn new(config: &AuthConfig, development: Option<&DevelopmentKey>) -> Result<Self, Vec<Fault>> {
        let faults = config.faults();
        if !faults.is_empty() {
            return Err(faults);
        }
        let configured = config.keys.iter().filter_map(|key| Some((key.kid.as_str(), key.secret.as_ref()?)));
        let mut secrets: Vec<(&str, &[u8])> =
            configured.map(|(id, secret)| (id, secret.expose_secret().as_bytes())).collect();
        if config.is_development() {
            secrets.extend(development.map(|key| (DevelopmentKey::ID, key.secret())));
        }
        let signing = secrets.first().map(|(id, secret)| SigningKey {
            id: (*id).to_owned(),
            algorithm: Algorithm::HS256,
            key: EncodingKey::from_secret(secret),
        });
        let keys = secrets.iter().map(|(id, secret)| VerifyingKey::secret(id, secret)).collect();
        // There are no faults, as was just checked.
        let grants = config.roles(&mut Vec::new());
        let api_keys = config.api_keys(&grants, &mut Vec::new());
        let certificates = config.certificates(&grants, &mut Vec::new());
        let role = |(name, grant): (String, Grant)| {
            let role = Role { name: Arc::from(name.as_str()), grant: Arc::new(grant) };
            (name, role)
        };
        Ok(Self {
            own: Issuer::own(config, keys),
            others: config.issuers.iter().map(|issuer| Issuer::other(issuer, config)).collect(),
            signing,
            roles: grants.into_iter().map(role).collect(),
            delays: config.delays(),
            api_keys,
            certificates,
            revocations: Arc::default(),
        })
    }

    /// Goes on with the published keys that `before` has, of issuers whose keys are still to be had
    /// from the same place: a new configuration refuses nobody until they are fetched anew. And with
    /// what was revoked and issued.
    #[must_use]
    pub fn with_keys_of(mut self, before: &Self) -> Self {
        self.revocations = Arc::clone(&before.revocations);
        for issuer in &mut self.others {
            let same = |ring: &&Arc<KeyRing>| issuer.ring().is_some_and(|own| own.config().has_keys_of(ring.config()));
            let known = before.rings().find(same).map(Arc::clone);
            if let Some(ring) = known {
                issuer.adopt(&ring);
            }
        }
        self
    }

    /// The same with these revocations and further API keys.
    #[must_use]
    pub fn with_revocations(self, revocations: Arc<Revocations>) -> Self {
        Self { revocations, ..self }
    }

    /// The published keys of each issuer other than the hub itself.
    pub fn rings(&self) -> impl Iterator<Item = &Arc<KeyRing>> {
        self.others.iter().filter_map(Issuer::ring)
    }

    /// Judges a token. Its `iss`, of which nothing is known yet, says whose keys to try; with them
    /// alone it is then verified. A token without `kid` is accepted where there is only one key.
    ///
    /// # Errors
    /// [`AuthError`] says why it is refused.
    pub fn token(&self, token: &str, now: UnixNanos) -> Result<Principal, AuthError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::TooLong);
        }
        let parts = Parts::split(token)?;
        let (header, members) = (parts.header()?, parts.claims()?);
        let issuer = self.issuer_of(&members)?;
        issuer.verify(&header, &parts)?;
        let principal = self.principal(issuer, Claims::read(&members, &issuer.mapping)?, now)?;
        self.revocations.judge(&principal, now).map(|()| principal)
    }

    fn issuer_of(&self, members: &Members) -> Result<&Issuer, AuthError> {
        let iss = members.member("iss").ok_or(AuthError::MissingClaim("iss"))?;
        let iss = iss.as_str().ok_or(AuthError::BadClaim("iss"))?;
        let mut all = std::iter::once(&self.own).chain(&self.others);
        all.find(|issuer| &*issuer.iss == iss).ok_or(AuthError::WrongIssuer)
    }

    fn principal(&self, issuer: &Issuer, claims: Claims, now: UnixNanos) -> Result<Principal, AuthError> {
        let expires = issuer.end(&claims, now)?;
        let role = issuer.mapping.role(claims.role.as_ref(), |name| self.roles.contains_key(name))?;
        let role = self.roles.get(&role).ok_or(AuthError::UnknownRole)?;
        let narrowing = (claims.narrowing != Narrowing::default()).then(|| Arc::new(claims.narrowing));
        let grant = match &narrowing {
            None => Arc::clone(&role.grant),
            Some(narrowing) => {
                let grant = role.grant.narrow(narrowing).map_err(|_| AuthError::BadClaim("symbols"))?;
                Arc::new(grant.in_world(&self.delays).ok_or(AuthError::BadClaim("delay"))?)
            }
        };
        Ok(Principal {
            subject: claims.subject,
            issuer: issuer.realm().cloned(),
            role: Arc::clone(&role.name),
            grant,
            narrowing,
            expires: Some(expires),
            issued: Some(claims.issued),
            token_id: claims.token_id,
            credential: CredentialKind::Jwt,
        })
    }

    /// Judges an API key.
    ///
    /// # Errors
    /// [`AuthError`] says why it is refused; an unknown id and a wrong secret look the same.
    pub fn api_key(&self, key: &str, now: UnixNanos) -> Result<Principal, AuthError> {
        if key.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::TooLong);
        }
        let id = id_of(key)?;
        let (hash, terms) = self.known_key(id).unzip();
        // Always made, so that an unknown id takes as long as a wrong secret.
        let good = hash.as_ref().unwrap_or(&ApiKeyHash::NOBODY).is_of(key);
        let terms = self.alive(id, terms.filter(|_| good).ok_or(AuthError::BadApiKey)?, now)?;
        let role = self.roles.get(&*terms.role).ok_or(AuthError::UnknownRole)?;
        let grant = if *terms.narrowing == Narrowing::default() {
            Arc::clone(&role.grant)
        } else {
            let grant = role.grant.narrow(&terms.narrowing).map_err(|_| AuthError::BadClaim("symbols"))?;
            Arc::new(grant.in_world(&self.delays).ok_or(AuthError::BadClaim("delay"))?)
        };
        Ok(Principal {
            subject: terms.owner,
            issuer: None,
            role: Arc::clone(&role.name),
            grant,
            narrowing: (*terms.narrowing != Narrowing::default()).then_some(terms.narrowing),
            expires: terms.expires,
            issued: None,
            token_id: Some(Arc::from(id)),
            credential: CredentialKind::ApiKey,
        })
    }

    /// What the API key of an id stands for.
    ///
    /// # Errors
    /// [`AuthError`] where there is none, it is switched off or has ended.
    pub fn key_terms(&self, id: &str, now: UnixNanos) -> Result<KeyTerms, AuthError> {
        let (_, terms) = self.known_key(id).ok_or(AuthError::BadApiKey)?;
        self.alive(id, terms, now)
    }

    /// Whether the configuration has an API key of this id.
    #[must_use]
    pub fn configures_key(&self, id: &str) -> bool {
        self.api_keys.contains_key(id)
    }

    /// The API key of an id: the configuration's, or one that was made since.
    fn known_key(&self, id: &str) -> Option<(ApiKeyHash, KeyTerms)> {
        if let Some(key) = self.api_keys.get(id) {
            let (owner, role) = (key.owner.as_str().into(), key.role.as_str().into());
            let terms = KeyTerms { owner, role, narrowing: Arc::default(), expires: key.expires };
            return Some((key.hash.clone(), terms));
        }
        let key = self.revocations.key(id)?;
        let (owner, role, narrowing) = (Arc::clone(&key.owner), Arc::clone(&key.role), Arc::clone(&key.narrowing));
        Some((key.hash.clone(), KeyTerms { owner, role, narrowing, expires: key.expires }))
    }

    fn alive(&self, id: &str, terms: KeyTerms, now: UnixNanos) -> Result<KeyTerms, AuthError> {
        if self.revocations.is_off(id) || self.api_keys.get(id).is_some_and(|key| key.disabled) {
            return Err(AuthError::DisabledKey);
        }
        if terms.expires.is_some_and(|end| end <= now) { Err(AuthError::Expired) } else { Ok(terms) }
    }

    /// Signs a token with the first key.
    ///
    /// # Errors
    /// [`SignError`] where there is no key, or where the hub would refuse the token.
    pub fn sign(&self, request: &TokenRequest, now: UnixNanos) -> Result<String, SignError> {
        let token_id = random::<TOKEN_ID_BYTES>().ok_or(SignError::Random)?;
        self.sign_as(request, &URL_SAFE_NO_PAD.encode(token_id), now)
    }

    /// Signs a token whose `jti` is `token_id`.
    ///
    /// # Errors
    /// [`SignError`] where there is no key, or where the hub would refuse the token.
    pub fn sign_as(&self, request: &TokenRequest, token_id: &str, now: UnixNanos) -> Result<String, SignError> {
        let signing = self.signing.as_ref().ok_or(SignError::NoKey)?;
        if !self.roles.contains_key(&request.role) {
            let known: Vec<_> = self.roles.keys().map(String::as_str).collect();
            return Err(SignError::UnknownRole(request.role.clone(), known.join(", ")));
        }
        if !is_name(&request.subject, SUBJECT_BYTES_MAX) {
            return Err(SignError::Subject);
        }
        if request.ttl < Duration::from_secs(1) {
            return Err(SignError::Ttl);
        }
        let claims = self.claims(request, token_id, now);
        let header = serde_json::json!({ "alg": signing.algorithm.as_str(), "typ": "JWT", "kid": signing.id });
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let algorithm = signing.algorithm.of_library();
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &signing.key, algorithm);
        let token = format!("{signed}.{}", signature.map_err(|_| SignError::Signing)?);
        if token.len() > TOKEN_BYTES_MAX { Err(SignError::TooLong) } else { Ok(token) }
    }

    fn claims(&self, request: &TokenRequest, token_id: &str, now: UnixNanos) -> serde_json::Value {
        let issued = now.0.div_euclid(1_000_000_000);
        let seconds = i64::try_from(request.ttl.as_secs()).unwrap_or(i64::MAX);
        let mut claims = serde_json::json!({
            "sub": request.subject,
            "iss": &*self.own.iss,
            "aud": self.own.audience(),
            "iat": issued,
            "exp": issued.saturating_add(seconds),
            "jti": token_id,
            "role": request.role,
        });
        let narrowing = &request.narrowing;
        let symbols = narrowing.symbols.as_ref().map(|all| all.iter().map(Pattern::as_str).collect::<Vec<_>>().into());
        let channels = narrowing.channels.map(|set| set.iter().map(Channel::as_str).collect::<Vec<_>>().into());
        let optional: [(&str, Option<serde_json::Value>); 7] = [
            ("symbols", symbols),
            ("channels", channels),
            ("max_rate", narrowing.max_rate.map(|rate| rate.get().into())),
            ("depth", narrowing.depth.map(Depth::wire).map(Into::into)),
            ("connections", narrowing.connections.map(Into::into)),
            ("subscriptions", narrowing.subscriptions.map(Into::into)),
            ("delay", narrowing.delay.map(|delay| Span(delay).to_string().into())),
        ];
        for (name, value) in optional.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            claims[name] = value;
        }
        claims
    }

    /// The configured roles' names and grants, built-in ones included.
    pub fn roles(&self) -> impl Iterator<Item = (&str, &Grant)> {
        self.roles.iter().map(|(name, role)| (name.as_str(), &*role.grant))
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (issuers, api_keys) = (1 + self.others.len(), self.api_keys.len());
        f.debug_struct("Authenticator").field("issuers", &issuers).field("api_keys", &api_keys).finish_non_exhaustive()
    }
}
