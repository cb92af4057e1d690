//! The configuration: defaults, below a TOML file, below the environment.
//!
//! Each module that has settings defines its own section; here they are put together, read, and
//! every fault is told with its key, its place, and what to do. `config/tickhub.example.toml`
//! names every key; a test keeps it equal to the defaults here.

mod delay;
mod explain;
mod layers;
mod reload;
mod sections;

use std::ffi::OsString;
use std::fmt;
use std::io::Read as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use delay::DelayConfig;
pub use reload::{RELOADED, ServeFiles};
pub use sections::{LimitsConfig, LogConfig, LogFormat, ServerConfig, TimeoutsConfig};

use crate::audit::AuditConfig;
use crate::auth::{AuthConfig, check_listen};
use crate::identity;
use crate::provider::{ProviderConfig, supervisor};
use crate::session::SessionConfig;
use crate::settings::Fault;
use crate::transport::tls::{ClientAuth, Material};
use layers::Layers;

/// Longest configuration file, in bytes: keeps a wrong path from filling the memory.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The key of faults of a file that is no TOML.
const TOML: &str = "TOML";

/// All settings of a hub.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses, threads, the state directory.
    pub server: ServerConfig,
    /// How long the hub waits for others.
    pub timeouts: TimeoutsConfig,
    /// What sessions may take.
    pub limits: LimitsConfig,
    /// Who may connect.
    pub auth: AuthConfig,
    /// What delayed worlds take.
    pub delay: DelayConfig,
    /// The trail of who came and what they were given.
    pub audit: AuditConfig,
    /// Venues, each with its `kind` and the settings of that kind.
    pub provider: Vec<ProviderConfig>,
    /// How every provider is kept running.
    pub supervisor: supervisor::Config,
    /// What is written to standard error.
    pub log: LogConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: ServerConfig::default(),
            timeouts: TimeoutsConfig::default(),
            limits: LimitsConfig::default(),
            auth: AuthConfig::default(),
            delay: DelayConfig::default(),
            audit: AuditConfig::default(),
            provider: vec![ProviderConfig::Sim(Default::default())],
            supervisor: supervisor::Config::default(),
            log: LogConfig::default(),
        }
    }
}

/// A fault, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedFault {
    /// `file:line`, or the variable's name; `None` for what stands nowhere.
    pub place: Option<String>,
    /// What is wrong.
    pub fault: Fault,
}

impl From<Fault> for PlacedFault {
    fn from(fault: Fault) -> Self {
        Self { place: None, fault }
    }
}

impl fmt::Display for PlacedFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        self.fault.fmt(f)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read at all.
    #[error("{path}: cannot be read")]
    Unreadable {
        /// Its path, as it was given.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Everything that is wrong with it.
    #[error("{}", listed(.0))]
    Faulty(Vec<PlacedFault>),
}

/// The fault of a section that says `key: reason`, or only the reason where no one key is at fault.
fn key_fault(section: &str, reason: &str) -> Fault {
    match reason.split_once(": ") {
        Some((key, reason)) if !key.contains(' ') => Fault::hidden(format!("{section}.{key}"), reason),
        _ => Fault::hidden(section, reason),
    }
}

fn listed(faults: &[PlacedFault]) -> String {
    let head = if faults.len() == 1 { "one fault".to_owned() } else { format!("{} faults", faults.len()) };
    let lines: String = faults.iter().map(|fault| format!("\n  {fault}")).collect();
    format!("the configuration has {head}:{lines}")
}

/// A configuration file's text.
fn read_file(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let long = format!("longer than {FILE_BYTES_MAX} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, long));
    }
    Ok(text)
}

impl Config {
    /// Reads `file`, if there is one, with the process's environment above it.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault that was found.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_and(file, |_, _| {})
    }

    /// The same for a hub that is to serve with it: the files that providers need must be there.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault that was found.
    pub fn load_to_serve(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_and(file, Self::check_files)
    }

    fn load_and(file: Option<&Path>, check: fn(&Self, &mut Vec<Fault>)) -> Result<Self, ConfigError> {
        let environment = std::env::vars_os();
        let Some(path) = file else { return Self::read_and(None, environment, check) };
        let name = path.display().to_string();
        let text = read_file(path).map_err(|source| ConfigError::Unreadable { path: name.clone(), source })?;
        Self::read_and(Some((&name, &text)), environment, check)
    }

    /// Reads a file's name and text, with the variables of `environment` above it. Of the disk it
    /// reads only the files that `secret_file` names.
    ///
    /// # Errors
    /// [`ConfigError::Faulty`] with every fault that was found.
    pub fn read(
        file: Option<(&str, &str)>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        Self::read_and(file, environment, |_, _| {})
    }

    fn read_and(
        file: Option<(&str, &str)>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        check: fn(&Self, &mut Vec<Fault>),
    ) -> Result<Self, ConfigError> {
        let mut layers = Layers::default();
        if let Some((name, text)) = file {
            layers.file(name, text);
        }
        layers.environment(environment);
        let mut config = layers.config();
        let mut faults = Vec::new();
        config.auth.read_secret_files(&mut faults);
        config.check(&mut faults);
        check(&config, &mut faults);
        // With a key at fault, or a file that is no TOML, the hub only looks as if it had no keys.
        let doubtful = |fault: &Fault| fault.key.starts_with("auth") || fault.key == TOML;
        if !faults.iter().chain(layers.faults.iter().map(|placed| &placed.fault)).any(doubtful) {
            config.check_strangers(&mut faults);
        }
        let placed = |fault: Fault| {
            let key = layers.as_written(&fault.key).unwrap_or_else(|| fault.key.clone());
            PlacedFault { place: layers.place(&key), fault: Fault { key, ..fault } }
        };
        let faults: Vec<_> = faults.into_iter().map(placed).collect();
        let faults = [layers.faults, faults].concat();
        if faults.is_empty() { Ok(config) } else { Err(ConfigError::Faulty(faults)) }
    }

    /// Bounds and deadlines of each session.
    #[must_use]
    pub fn session(&self) -> SessionConfig {
        let (limits, timeouts) = (&self.limits, &self.timeouts);
        SessionConfig {
            message_bytes_max: limits.message_bytes,
            commands_per_second: limits.commands_per_second,
            subscriptions_max: limits.subscriptions,
            connections_max: limits.connections,
            principal: limits.per_principal.clone(),
            authentication_timeout: timeouts.authentication.duration(),
            ping_interval: timeouts.ping.duration(),
            idle_timeout: timeouts.idle.duration(),
            write_stall_timeout: timeouts.write_stall.duration(),
            catch_up_timeout: timeouts.catch_up.duration(),
            close_timeout: timeouts.close.duration(),
            outbox_events_max: limits.outbox_events,
            outbox_bytes_max: limits.outbox_bytes,
            answer_bytes_max: limits.answer_bytes,
        }
    }

    /// Everything that is wrong with it, once its secret files are read; files of providers are not
    /// looked at.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        self.check(&mut faults);
        if faults.is_empty() {
            self.check_strangers(&mut faults);
        }
        faults
    }

    fn check(&self, faults: &mut Vec<Fault>) {
        self.server.check(faults);
        self.timeouts.check(faults);
        self.limits.check(faults);
        self.log.check(faults);
        faults.extend(self.auth.faults());
        if !self.auth.certificates.is_empty() && self.server.tls.client_auth == ClientAuth::Off {
            let reason = "need server.tls.client_auth: without it no client is asked for a certificate";
            faults.push(Fault::hidden("auth.certificates", reason));
        }
        identity::check(&self.auth, faults);
        self.delay.check(&self.auth.delays(), self.server.feed_threads, faults);
        faults.extend(self.audit.faults());
        if let Err(reason) = self.supervisor.check() {
            faults.push(key_fault("supervisor", &reason));
        }
        for (index, provider) in self.provider.iter().enumerate() {
            if let Err(reason) = provider.check() {
                faults.push(key_fault(&format!("provider[{index}]"), &reason));
            }
            let earlier = self.provider[..index].iter().any(|other| other.venue() == provider.venue());
            if earlier {
                let reason = "is another provider's venue too; an instrument has one source";
                faults.push(Fault::new(format!("provider[{index}].venue"), provider.venue(), reason));
            }
        }
    }

    /// The files that listeners, providers and issuers are read from while the hub runs.
    fn check_files(&self, faults: &mut Vec<Fault>) {
        for (path, tls) in self.server.tls().into_iter().filter(|(_, tls)| tls.is_on()) {
            faults.extend(Material::check(tls, path));
        }
        identity::check_files(&self.auth, faults);
        faults.extend(self.audit.file_faults());
        for (index, provider) in self.provider.iter().enumerate() {
            if let Err(fault) = provider.check_files() {
                faults.push(Fault { key: format!("provider[{index}].{}", fault.key), ..fault });
            }
        }
    }

    /// In development mode every address must be loopback.
    fn check_strangers(&self, faults: &mut Vec<Fault>) {
        for (key, address) in [("server.listen", self.server.listen), ("server.ops_listen", self.server.ops_listen)] {
            if let Err(open) = check_listen(&self.auth, &[address]) {
                faults.push(Fault::new(key, address.to_string(), open.to_string()));
            }
        }
    }
}
