//! The one list of providers.

use serde::{Deserialize, Serialize};

use super::{Provider, ProviderError, binance, replay, sim};
use crate::settings::Fault;

/// Which venue, and its settings. A new venue is one more line here and in the two functions
/// below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ProviderConfig {
    /// A simulated market.
    Sim(sim::Config),
    /// Binance spot, or Binance.US.
    Binance(binance::Config),
    /// A recording, played.
    Replay(replay::Config),
}

impl ProviderConfig {
    /// The venue its instruments belong to.
    #[must_use]
    pub fn venue(&self) -> &str {
        match self {
            Self::Sim(config) => &config.venue,
            Self::Binance(config) => &config.venue,
            Self::Replay(config) => config.publishes(),
        }
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// A sentence that names the key and what it may be.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Sim(config) => config.check(),
            Self::Binance(config) => config.check(),
            Self::Replay(config) => config.check(),
        }
    }

    /// Checks that the files are there which the provider reads while it runs.
    ///
    /// # Errors
    /// A [`Fault`] of one of its keys.
    pub fn check_files(&self) -> Result<(), Fault> {
        match self {
            Self::Sim(_) | Self::Binance(_) => Ok(()),
            Self::Replay(config) => config.check_file(),
        }
    }
}

/// Makes the provider.
///
/// # Errors
/// [`ProviderError::Config`] where [`ProviderConfig::check`] fails.
pub fn build(config: &ProviderConfig) -> Result<Box<dyn Provider>, ProviderError> {
    config.check().map_err(ProviderError::Config)?;
    Ok(match config {
        ProviderConfig::Sim(config) => Box::new(sim::Sim::new(config)),
        ProviderConfig::Binance(config) => Box::new(binance::Binance::new(config.clone())),
        ProviderConfig::Replay(config) => Box::new(replay::Replay::new(config)?),
    })
}
