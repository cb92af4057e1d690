//! What a caller sees of the market: the live store, or one that is later by the caller's delay.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;

use super::instruments::Catalog;
use super::{Api, Problem};
use crate::auth::Grant;
use crate::store::Store;

/// One store, and what is kept of it to answer with.
pub(super) struct World {
    pub(super) delay: Duration,
    pub(super) store: Arc<Store>,
    pub(super) catalog: Catalog,
}

impl World {
    pub(super) fn new(delay: Duration, store: Arc<Store>) -> Self {
        Self { delay, store, catalog: Catalog::default() }
    }
}

impl Api {
    /// The world that `grant` belongs to.
    ///
    /// # Errors
    /// 503 where the hub has none of that delay: another would be a leak, or a lie.
    pub(super) fn world(&self, grant: &Grant) -> Result<&World, Problem> {
        let delay = grant.delay();
        self.worlds.iter().find(|world| world.delay == delay).ok_or_else(|| {
            let message = "the hub has no world of the credential's delay";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message)
        })
    }
}
