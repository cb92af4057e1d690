//! Judges credentials, and signs tokens.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, EncodingKey};
use secrecy::ExposeSecret as _;

use super::api_key::{ApiKeyHash, id_of};
use super::claims::{Claims, Header, Parts, SUBJECT_BYTES_MAX, is_name};
use super::config::ApiKey;
use super::revocation::Revocations;
use super::{Algorithm, AuthConfig, AuthError, DevelopmentKey, Grant, Narrowing, SignError, random};
use crate::model::{Channel, Depth, Pattern, UnixNanos};
use crate::settings::Fault;
use crate::time::duration_ns;

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
}

impl CredentialKind {
    /// One word for it, for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::ApiKey => "api_key",
        }
    }
}

/// Who a session belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Whose it is: the token's `sub`, the API key's owner.
    pub subject: Arc<str>,
    /// The role's name.
    pub role: Arc<str>,
    /// What it may have.
    pub grant: Arc<Grant>,
    /// When the session must end unless it is renewed; `None` for an API key without an end. It
    /// is the token's `exp`, or the end of the leeway where the token came only within that.
    pub expires: Option<UnixNanos>,
    /// When the token was issued; `None` for an API key.
    pub issued: Option<UnixNanos>,
    /// The token's `jti`, or the API key's id.
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

/// A key that tokens are signed with, bound to its one algorithm.
struct Key {
    id: String,
    algorithm: Algorithm,
    verifying: DecodingKey,
    signing: EncodingKey,
}

impl Key {
    fn hmac(id: &str, algorithm: Algorithm, secret: &[u8]) -> Self {
        let (verifying, signing) = (DecodingKey::from_secret(secret), EncodingKey::from_secret(secret));
        Self { id: id.to_owned(), algorithm, verifying, signing }
    }
}

impl Algorithm {
    const fn of_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::HS256 => jsonwebtoken::Algorithm::HS256,
        }
    }
}

struct Role {
    name: Arc<str>,
    grant: Arc<Grant>,
}

/// Judges credentials by one configuration. Immutable: a changed configuration makes another one.
pub struct Authenticator {
    issuer: String,
    audience: String,
    leeway_ns: i64,
    default_role: Option<String>,
    /// Tokens are signed with the first.
    keys: Vec<Key>,
    roles: BTreeMap<String, Role>,
    api_keys: BTreeMap<String, ApiKey>,
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
    /// mode, used only where the configuration has none.
    ///
    /// # Errors
    /// Every [`Fault`] of the section.
    pub fn new(config: &AuthConfig, development: Option<&DevelopmentKey>) -> Result<Self, Vec<Fault>> {
        let faults = config.faults();
        if !faults.is_empty() {
            return Err(faults);
        }
        let configured = config
            .keys
            .iter()
            .filter_map(|key| Some(Key::hmac(&key.kid, key.alg, key.secret.as_ref()?.expose_secret().as_bytes())));
        let mut keys: Vec<_> = configured.collect();
        if config.is_development() {
            keys.extend(development.map(|key| Key::hmac(DevelopmentKey::ID, Algorithm::HS256, key.secret())));
        }
        // There are no faults, as was just checked.
        let grants = config.roles(&mut Vec::new());
        let api_keys = config.api_keys(&grants, &mut Vec::new());
        let role = |(name, grant): (String, Grant)| {
            let role = Role { name: Arc::from(name.as_str()), grant: Arc::new(grant) };
            (name, role)
        };
        Ok(Self {
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            leeway_ns: nanos(config.leeway.duration()),
            default_role: config.default_role.clone(),
            keys,
            roles: grants.into_iter().map(role).collect(),
            api_keys,
            revocations: Arc::default(),
        })
    }

    /// The same with these revocations and further API keys.
    #[must_use]
    pub fn with_revocations(self, revocations: Arc<Revocations>) -> Self {
        Self { revocations, ..self }
    }

    /// Judges a token. A token without `kid` is accepted where there is only one key.
    ///
    /// # Errors
    /// [`AuthError`] says why it is refused.
    pub fn token(&self, token: &str, now: UnixNanos) -> Result<Principal, AuthError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::TooLong);
        }
        let parts = Parts::split(token)?;
        let key = self.key(&parts.header()?)?;
        let (signed, algorithm) = (parts.signed.as_bytes(), key.algorithm.of_library());
        match jsonwebtoken::crypto::verify(parts.signature, signed, &key.verifying, algorithm) {
            Ok(true) => {
                let principal = self.principal(parts.claims()?, now)?;
                self.revocations.judge(&principal, now).map(|()| principal)
            }
            Ok(false) | Err(_) => Err(AuthError::BadSignature),
        }
    }

    /// The key that a header names; its algorithm is the key's own, never the header's choice.
    fn key(&self, header: &Header) -> Result<&Key, AuthError> {
        let key = match (&header.key_id, self.keys.as_slice()) {
            (Some(id), keys) => keys.iter().find(|key| key.id == *id).ok_or(AuthError::UnknownKey)?,
            (None, [only]) => only,
            (None, []) => return Err(AuthError::UnknownKey),
            (None, _) => return Err(AuthError::MissingKeyId),
        };
        if header.algorithm == key.algorithm.as_str() { Ok(key) } else { Err(AuthError::WrongAlgorithm) }
    }

    fn principal(&self, claims: Claims, now: UnixNanos) -> Result<Principal, AuthError> {
        let last_moment = UnixNanos(claims.expires.0.saturating_add(self.leeway_ns));
        if last_moment <= now {
            return Err(AuthError::Expired);
        }
        let soonest = UnixNanos(now.0.saturating_add(self.leeway_ns));
        if claims.issued > soonest || claims.not_before.is_some_and(|at| at > soonest) {
            return Err(AuthError::NotYetValid);
        }
        if claims.issuer != self.issuer {
            return Err(AuthError::WrongIssuer);
        }
        if !claims.audience.contains(&self.audience) {
            return Err(AuthError::WrongAudience);
        }
        let role = claims.role.as_ref().or(self.default_role.as_ref()).ok_or(AuthError::MissingClaim("role"))?;
        let role = self.roles.get(role).ok_or(AuthError::UnknownRole)?;
        let grant = if claims.narrowing == Narrowing::default() {
            Arc::clone(&role.grant)
        } else {
            Arc::new(role.grant.narrow(&claims.narrowing).map_err(|_| AuthError::BadClaim("symbols"))?)
        };
        Ok(Principal {
            subject: claims.subject,
            role: Arc::clone(&role.name),
            grant,
            expires: Some(if claims.expires > now { claims.expires } else { last_moment }),
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
            Arc::new(role.grant.narrow(&terms.narrowing).map_err(|_| AuthError::BadClaim("symbols"))?)
        };
        Ok(Principal {
            subject: terms.owner,
            role: Arc::clone(&role.name),
            grant,
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
        let key = self.keys.first().ok_or(SignError::NoKey)?;
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
        let header = serde_json::json!({ "alg": key.algorithm.as_str(), "typ": "JWT", "kid": key.id });
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key.signing, key.algorithm.of_library());
        let token = format!("{signed}.{}", signature.map_err(|_| SignError::Signing)?);
        if token.len() > TOKEN_BYTES_MAX { Err(SignError::TooLong) } else { Ok(token) }
    }

    fn claims(&self, request: &TokenRequest, token_id: &str, now: UnixNanos) -> serde_json::Value {
        let issued = now.0.div_euclid(1_000_000_000);
        let seconds = i64::try_from(request.ttl.as_secs()).unwrap_or(i64::MAX);
        let mut claims = serde_json::json!({
            "sub": request.subject,
            "iss": self.issuer,
            "aud": self.audience,
            "iat": issued,
            "exp": issued.saturating_add(seconds),
            "jti": token_id,
            "role": request.role,
        });
        let narrowing = &request.narrowing;
        let symbols = narrowing.symbols.as_ref().map(|all| all.iter().map(Pattern::as_str).collect::<Vec<_>>().into());
        let channels = narrowing.channels.map(|set| set.iter().map(Channel::as_str).collect::<Vec<_>>().into());
        let optional: [(&str, Option<serde_json::Value>); 6] = [
            ("symbols", symbols),
            ("channels", channels),
            ("max_rate", narrowing.max_rate.map(|rate| rate.get().into())),
            ("depth", narrowing.depth.map(Depth::wire).map(Into::into)),
            ("connections", narrowing.connections.map(Into::into)),
            ("subscriptions", narrowing.subscriptions.map(Into::into)),
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

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration_ns(duration)).unwrap_or(i64::MAX)
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (keys, api_keys) = (self.keys.len(), self.api_keys.len());
        f.debug_struct("Authenticator").field("keys", &keys).field("api_keys", &api_keys).finish_non_exhaustive()
    }
}
