//! `tickhub api-key new`: makes an API key.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};
use secrecy::ExposeSecret as _;

use super::{ConfigArgs, faulty};
use crate::auth::{ApiKeyConfig, is_api_key_id, new_api_key};
use crate::settings::parse_utc;

const EXAMPLE: &str = "\
Example:
  tickhub api-key new --id desk-1 --owner 'Trading desk' --role analyst --expires 2030-12-31";

/// Make API keys.
#[derive(Debug, Subcommand)]
pub(super) enum ApiKeyCommand {
    New(NewArgs),
}

/// Make an API key, show it once, and print what the configuration needs of it.
///
/// Standard output gets the key alone; standard error the block for the configuration, which holds
/// only a salted hash.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(super) struct NewArgs {
    /// Its id: 1 to 64 of letters, digits, _ and -.
    #[arg(long, value_parser = id)]
    id: String,
    /// Whose it is: the subject of its sessions.
    #[arg(long)]
    owner: String,
    /// Role: viewer, analyst, admin, or one of the configuration's.
    #[arg(long, default_value = "viewer")]
    role: String,
    /// When it ends, in UTC: 2030-12-31 or 2030-12-31T23:59:59Z. Never, if not given.
    #[arg(long, value_name = "TIME", value_parser = expires)]
    expires: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

fn id(text: &str) -> Result<String, &'static str> {
    is_api_key_id(text).then(|| text.to_owned()).ok_or("must be 1 to 64 of letters, digits, _ and -")
}

fn expires(text: &str) -> Result<String, &'static str> {
    parse_utc(text).map(|_| text.to_owned()).ok_or("must be a time in UTC such as 2030-12-31 or 2030-12-31T23:59:59Z")
}

pub(super) fn run(command: &ApiKeyCommand, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let ApiKeyCommand::New(args) = command;
    let mut config = args.config.load()?;
    let taken = config.auth.api_keys.iter().any(|key| key.id == args.id);
    ensure!(!taken, "there is an API key {:?} already", args.id);
    let made = new_api_key(&args.id).context("the system gave no random bytes")?;
    let entry = ApiKeyConfig {
        id: args.id.clone(),
        hash: made.hash.to_string().into(),
        owner: args.owner.clone(),
        role: args.role.clone(),
        expires: args.expires.clone(),
        disabled: false,
    };
    let block = block(&entry);
    // Judged as the configuration would: no key is made that the hub refuses.
    config.auth.api_keys = vec![entry];
    let faults = config.auth.faults();
    if !faults.is_empty() {
        return Err(faulty(faults).into());
    }
    writeln!(err, "Add this to the configuration:\n\n{block}\nThe key itself, shown this once:")?;
    writeln!(out, "{}", made.key.expose_secret())?;
    Ok(ExitCode::SUCCESS)
}

fn block(entry: &ApiKeyConfig) -> String {
    // JSON's texts are TOML's too, save for characters that no member here may have.
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let mut lines = vec![
        "[[auth.api_keys]]".to_owned(),
        format!("id = {}", text(&entry.id)),
        format!("hash = {}", text(entry.hash.expose_secret())),
        format!("owner = {}", text(&entry.owner)),
        format!("role = {}", text(&entry.role)),
    ];
    lines.extend(entry.expires.as_ref().map(|expires| format!("expires = {}", text(expires))));
    lines.join("\n") + "\n"
}
