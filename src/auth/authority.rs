//! The authenticator that judges now. A reload puts another one in its place; whoever judges asks
//! here each time and keeps none.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{AuthError, Authenticator, ClientCertificate, Principal, SignError, TokenRequest};
use crate::model::UnixNanos;

/// See the module.
#[derive(Debug)]
pub struct Authority {
    current: ArcSwap<Authenticator>,
}

impl Authority {
    /// One that judges by `authenticator` until it is replaced.
    #[must_use]
    pub fn new(authenticator: Authenticator) -> Self {
        Self { current: ArcSwap::from_pointee(authenticator) }
    }

    /// Who judges now.
    #[must_use]
    pub fn current(&self) -> Arc<Authenticator> {
        self.current.load_full()
    }

    /// Has `authenticator` judge from here on; gives the one that did.
    pub fn replace(&self, authenticator: Arc<Authenticator>) -> Arc<Authenticator> {
        self.current.swap(authenticator)
    }

    /// Judges a token.
    ///
    /// # Errors
    /// [`AuthError`] says why it is refused.
    pub fn token(&self, token: &str, now: UnixNanos) -> Result<Principal, AuthError> {
        self.current.load().token(token, now)
    }

    /// Judges an API key.
    ///
    /// # Errors
    /// [`AuthError`] says why it is refused.
    pub fn api_key(&self, key: &str, now: UnixNanos) -> Result<Principal, AuthError> {
        self.current.load().api_key(key, now)
    }

    /// Whom a client's certificate stands for; `None` = nobody.
    ///
    /// # Errors
    /// [`AuthError`] says why it is refused.
    #[must_use]
    pub fn certificate(&self, certificate: &ClientCertificate, now: UnixNanos) -> Option<Result<Principal, AuthError>> {
        self.current.load().certificate(certificate, now)
    }

    /// Signs a token.
    ///
    /// # Errors
    /// [`SignError`] where there is no key, or where the hub would refuse the token.
    pub fn sign(&self, request: &TokenRequest, now: UnixNanos) -> Result<String, SignError> {
        self.current.load().sign(request, now)
    }
}
