//! `tickhub check-config`: reads a configuration as the hub would, and says what it makes of it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::auth::AuthConfig;
use crate::config::Config;

/// Check a configuration, with the environment's TICKHUB__ variables above it.
///
/// Exit code 0 where a hub would start with it, 2 where something is wrong: each fault is told with
/// its place and what to do.
#[derive(Args, Debug)]
pub(super) struct CheckConfigArgs {
    /// The TOML file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(args: &CheckConfigArgs, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let config = Config::load_to_serve(Some(&args.file))?;
    let venues: Vec<_> = config.provider.iter().map(|provider| provider.venue()).collect();
    let venues = if venues.is_empty() { "none: there is nothing to serve".to_owned() } else { venues.join(", ") };
    writeln!(out, "{}: ok", args.file.display())?;
    let [s, ops_s] = config.server.tls().map(|(_, tls)| if tls.is_on() { "s" } else { "" });
    writeln!(out, "  prices       http{s}://{0}, ws{s}://{0}/api/v1/ws/prices", config.server.listen)?;
    writeln!(out, "  operations   http{ops_s}://{}", config.server.ops_listen)?;
    writeln!(out, "  credentials  {}", credentials(&config.auth))?;
    writeln!(out, "  venues       {venues}")?;
    Ok(ExitCode::SUCCESS)
}

fn credentials(auth: &AuthConfig) -> String {
    if auth.is_development() {
        return "development mode: a key of its own, loopback only".to_owned();
    }
    let kids: Vec<_> = auth.keys.iter().map(|key| key.kid.as_str()).collect();
    let keys = if kids.is_empty() { "no keys for tokens".to_owned() } else { format!("keys {}", kids.join(", ")) };
    let names: Vec<_> = auth.issuers.iter().map(|issuer| issuer.name.as_str()).collect();
    let issuers = if names.is_empty() { String::new() } else { format!("; issuers {}", names.join(", ")) };
    format!("{keys}; API keys: {}; certificates: {}{issuers}", auth.api_keys.len(), auth.certificates.len())
}
