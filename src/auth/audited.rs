//! What the audit trail says of a principal. Nothing of its credential but the kind and the id.

use super::{Grant, Principal};
use crate::audit::{Granted, Who};
use crate::model::UnixNanos;

impl Principal {
    /// Who it is.
    #[must_use]
    pub fn who(&self) -> Who {
        Who {
            subject: self.subject.clone(),
            issuer: self.issuer.clone(),
            role: self.role.clone(),
            credential: self.credential.as_str(),
            token_id: self.token_id.clone(),
        }
    }

    /// What it may have, and until when.
    #[must_use]
    pub fn granted(&self) -> Box<Granted> {
        Box::new(granted(&self.grant, self.expires))
    }
}

fn granted(grant: &Grant, expires: Option<UnixNanos>) -> Granted {
    Granted {
        patterns: grant.symbols_shared(),
        channels: grant.channels().iter().collect(),
        depth: grant.depth(),
        max_rate: grant.max_rate(),
        connections: grant.connections(),
        subscriptions: grant.subscriptions(),
        commands_per_second: grant.commands_per_second(),
        expires,
    }
}
