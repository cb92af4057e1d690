//! Which claim of an issuer's tokens means what, and which role they give.

use super::claims::RoleClaim;
use super::issuer_config::{ClaimsConfig, IssuerConfig};
use super::members::ClaimPath;
use super::{AuthConfig, AuthError};

/// How the tokens of one issuer are read.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) subject: ClaimPath,
    /// What stands before each subject.
    pub(super) subject_prefix: String,
    /// `None` where every token has the one role of the configuration.
    pub(super) role_path: Option<ClaimPath>,
    /// Whether the role may be a list, of which at most one counts.
    pub(super) roles_may_be_many: bool,
    /// Values of the role's claim, each with its role; the first that a token has counts.
    role_of: Vec<(String, String)>,
    /// The role of tokens that name none.
    default_role: Option<String>,
    pub(super) symbols: ClaimPath,
    pub(super) channels: ClaimPath,
    pub(super) max_rate: ClaimPath,
    pub(super) depth: ClaimPath,
    pub(super) connections: ClaimPath,
    pub(super) subscriptions: ClaimPath,
    pub(super) delay: ClaimPath,
}

impl Mapping {
    /// That of tokens that the hub signs itself, or others with its secrets.
    pub(super) fn own(config: &AuthConfig) -> Self {
        let default_role = config.default_role.clone();
        Self { default_role, roles_may_be_many: false, ..Self::of_claims(&ClaimsConfig::default()) }
    }

    /// That of an issuer whose configuration has no fault.
    pub(super) fn of(config: &IssuerConfig) -> Self {
        let mapping = Self::of_claims(&config.claims);
        let pair = |pair: &super::RoleOfConfig| (pair.value.clone(), pair.role.clone());
        Self {
            subject_prefix: config.subject_prefix.clone().unwrap_or_default(),
            role_path: mapping.role_path.filter(|_| config.role.is_none()),
            role_of: config.roles.iter().map(pair).collect(),
            default_role: config.role.clone().or_else(|| config.default_role.clone()),
            ..mapping
        }
    }

    fn of_claims(claims: &ClaimsConfig) -> Self {
        let path = |text: &Option<String>, name| {
            // A path that is none is a fault of the configuration.
            text.as_deref().and_then(ClaimPath::parse).unwrap_or_else(|| ClaimPath::top(name))
        };
        Self {
            subject: path(&claims.subject, "sub"),
            subject_prefix: String::new(),
            role_path: Some(path(&claims.role, "role")),
            roles_may_be_many: true,
            role_of: Vec::new(),
            default_role: None,
            symbols: path(&claims.symbols, "symbols"),
            channels: path(&claims.channels, "channels"),
            max_rate: path(&claims.max_rate, "max_rate"),
            depth: path(&claims.depth, "depth"),
            connections: path(&claims.connections, "connections"),
            subscriptions: path(&claims.subscriptions, "subscriptions"),
            delay: path(&claims.delay, "delay"),
        }
    }

    /// The name of the role that a claim gives, of which `exists` knows those that there are.
    ///
    /// Where the configuration lists values, only they count, and the first of them that the token
    /// has. Else a token names the role itself; of a list of names those count that are roles,
    /// and there must not be two, as nobody has said which of them is meant.
    ///
    /// # Errors
    /// `UnknownRole`, or `MissingClaim` and `BadClaim` of the role.
    pub(super) fn role(&self, claim: Option<&RoleClaim>, exists: impl Fn(&str) -> bool) -> Result<String, AuthError> {
        let names = match claim {
            None => return self.default_role.clone().ok_or(AuthError::MissingClaim("role")),
            Some(RoleClaim::One(name)) => std::slice::from_ref(name),
            Some(RoleClaim::Many(names)) => names.as_slice(),
        };
        if !self.role_of.is_empty() {
            let found = self.role_of.iter().find(|(value, _)| names.contains(value));
            let role = found.map(|(_, role)| role).or(self.default_role.as_ref());
            return role.cloned().ok_or(AuthError::UnknownRole);
        }
        if let Some(RoleClaim::One(name)) = claim {
            // One that is wrong is not an absent one.
            return if exists(name) { Ok(name.clone()) } else { Err(AuthError::UnknownRole) };
        }
        let mut roles: Vec<&String> = names.iter().filter(|name| exists(name)).collect();
        roles.dedup();
        match roles.as_slice() {
            [] => self.default_role.clone().ok_or(AuthError::UnknownRole),
            [role] => Ok((*role).clone()),
            _ => Err(AuthError::BadClaim("role")),
        }
    }
}
