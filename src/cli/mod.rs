//! The command line. Standard output carries what was asked for and nothing else; everything
//! beside it goes to standard error.

mod api_key;
mod audit;
mod check_config;
pub mod normalize;
#[cfg(test)]
mod tests;
mod token;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::auth::{Authenticator, DevelopmentKey};
use crate::config::{Config, ConfigError, ServeFiles};
use crate::settings::Fault;

/// Exit code where arguments or configuration are at fault: trying again is useless until they are
/// changed.
const FAULTY: u8 = 2;

/// Runs a hub until it has drained. It gets the configuration and where that stands, to read it
/// again, and if asked for, the file that shall say when it is ready and where.
pub type Serve = fn(Config, ServeFiles) -> anyhow::Result<ExitCode>;

const EXAMPLES: &str = "\
Examples:
  tickhub                                        a hub with a simulated market on 127.0.0.1:8080
  tickhub --config tickhub.toml                  a hub as configured
  tickhub check-config tickhub.toml              what is wrong with a configuration
  tickhub token --role viewer --symbols 'SIM:*'  a token for it
  tickhub api-key create --id desk --owner ann   an API key, which a running hub takes at once
  tickhub normalize --venue binance_spot rows.gz recorded messages as the hub would publish them

Settings can be given in the environment too, as TICKHUB__SECTION__KEY=value.";

/// A low-latency real-time market data hub: venues in, WebSocket subscribers out.
///
/// Without a command it serves.
#[derive(Debug, Parser)]
#[command(name = "tickhub", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the hub (the same as no command).
    Serve(ServeArgs),
    Token(token::TokenArgs),
    CheckConfig(check_config::CheckConfigArgs),
    Normalize(normalize::NormalizeArgs),
    #[command(subcommand)]
    ApiKey(api_key::ApiKeyCommand),
    #[command(subcommand)]
    Audit(audit::AuditCommand),
}

#[derive(Args, Debug)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// When ready, write a JSON object with the hub's addresses and a token to this file, readable
    /// by its owner only.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

/// Where the configuration is.
#[derive(Args, Debug)]
struct ConfigArgs {
    /// TOML file with the settings; without it the defaults hold.
    #[arg(long, short, value_name = "FILE", env = "TICKHUB_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.config.as_deref())
    }

    fn load_to_serve(&self) -> Result<Config, ConfigError> {
        Config::load_to_serve(self.config.as_deref())
    }
}

/// Runs the process's own arguments.
#[must_use]
pub fn main(serve: Serve) -> ExitCode {
    let (out, err) = (&mut io::stdout(), &mut io::stderr());
    run(std::env::args_os(), serve, out, err).unwrap_or_else(|error| {
        // There is nowhere left to say that standard error is gone.
        let _ = writeln!(err, "error: {error:#}");
        if error.is::<ConfigError>() { ExitCode::from(FAULTY) } else { ExitCode::FAILURE }
    })
}

/// Runs `arguments`, the program's name first.
///
/// # Errors
/// What the command could not do; a [`ConfigError`] where the configuration is at fault.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    serve: Serve,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    let line = match CommandLine::try_parse_from(arguments) {
        Ok(line) => line,
        // Help and version are what was asked for; anything else is a fault. It prints itself,
        // in colors where there is a terminal.
        Err(said) => {
            said.print()?;
            return Ok(if said.use_stderr() { ExitCode::from(FAULTY) } else { ExitCode::SUCCESS });
        }
    };
    match line.command.unwrap_or(Command::Serve(line.serve)) {
        Command::Serve(args) => {
            let config = args.config.load_to_serve()?;
            serve(config, ServeFiles { config: args.config.config, ready: args.ready_file })
        }
        Command::Token(args) => token::run(&args, out, err),
        Command::CheckConfig(args) => check_config::run(&args, out),
        Command::Normalize(args) => Ok(normalize::run(&args, out, err).into()),
        Command::ApiKey(command) => api_key::run(&command, out, err),
        Command::Audit(command) => audit::run(&command, out),
    }
}

/// The authenticator of a configuration, with the development key where it has none.
fn authenticator(config: &Config) -> anyhow::Result<Authenticator> {
    let open = || DevelopmentKey::open(&config.server.state_dir);
    let development = config.auth.is_development().then(open).transpose()?;
    Ok(Authenticator::new(&config.auth, development.as_ref()).map_err(faulty)?)
}

fn faulty(faults: Vec<Fault>) -> ConfigError {
    ConfigError::Faulty(faults.into_iter().map(Into::into).collect())
}
