//! `tickhub api-key`: makes, lists and disables API keys.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand};
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::token::NarrowingArgs;
use super::{ConfigArgs, faulty};
use crate::auth::{ApiKeyConfig, Authenticator, Deed, Denied, Done, IssuedKey, Narrowing, is_api_key_id, new_api_key};
use crate::config::Config;
use crate::model::UnixNanos;
use crate::settings::parse_utc;
use crate::state::{FileState, StateError, StateOptions};
use crate::time::{self, rfc3339};

const EXAMPLES: &str = "\
Examples:
  tickhub api-key create --id desk-1 --owner 'Trading desk' --role analyst --expires 2030-12-31
  tickhub api-key create --id screen --owner lobby --symbols 'SIM:*' --channels ticker --config tickhub.toml";

const NEW_EXAMPLE: &str = "\
Example:
  tickhub api-key new --id desk-1 --owner 'Trading desk' --role analyst --expires 2030-12-31";

/// Make, list and disable API keys.
///
/// `create`, `list` and `disable` work on the state directory (server.state_dir), also while a hub
/// is running on it, which takes notice within a second. `new` makes a key for the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum ApiKeyCommand {
    Create(CreateArgs),
    List(ListArgs),
    Disable(DisableArgs),
    New(NewArgs),
}

/// Make an API key in the state directory, and show it once.
///
/// Standard output gets the key alone. Options narrow what its role allows, and can never widen it.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    narrowing: NarrowingArgs,
    #[command(flatten)]
    config: ConfigArgs,
}

/// List the API keys of the state directory and of the configuration, without their secrets.
#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// One JSON object a line, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Disable an API key for good: it lets nobody in any more, and its sessions and tokens end.
///
/// One of the configuration is disabled by its id as well; take its block out when you can.
#[derive(Args, Debug)]
pub(super) struct DisableArgs {
    /// Its id.
    #[arg(value_parser = id)]
    id: String,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Make an API key for the configuration, show it once, and print the block that goes there.
///
/// Standard output gets the key alone; standard error the block for the configuration, which holds
/// only a salted hash.
#[derive(Args, Debug)]
#[command(after_help = NEW_EXAMPLE)]
pub(super) struct NewArgs {
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    config: ConfigArgs,
}

/// What every key has.
#[derive(Args, Debug)]
struct KeyArgs {
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
}

fn id(text: &str) -> Result<String, &'static str> {
    is_api_key_id(text).then(|| text.to_owned()).ok_or("must be 1 to 64 of letters, digits, _ and -")
}

fn expires(text: &str) -> Result<String, &'static str> {
    parse_utc(text).map(|_| text.to_owned()).ok_or("must be a time in UTC such as 2030-12-31 or 2030-12-31T23:59:59Z")
}

pub(super) fn run(command: &ApiKeyCommand, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<ExitCode> {
    match command {
        ApiKeyCommand::Create(args) => create(args, out, err)?,
        ApiKeyCommand::List(args) => list(args, out)?,
        ApiKeyCommand::Disable(args) => disable(args, err)?,
        ApiKeyCommand::New(args) => new(args, out, err)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn open(config: &Config) -> Result<FileState, StateError> {
    FileState::open(&config.server.state_dir, StateOptions::default())
}

/// One deed, carried out when this returns.
fn carry_out(state: &mut FileState, deed: &Deed, now: UnixNanos) -> anyhow::Result<Result<Done, Denied>> {
    state.carry_out([deed], now)?.pop().context("nothing came of it")
}

/// The key as the configuration would have it, judged as there: no key is made that the hub refuses.
fn judged(config: &mut Config, args: &KeyArgs, hash: &crate::auth::ApiKeyHash) -> anyhow::Result<ApiKeyConfig> {
    let taken = config.auth.api_keys.iter().any(|key| key.id == args.id);
    ensure!(!taken, "there is an API key {:?} already", args.id);
    let entry = ApiKeyConfig {
        id: args.id.clone(),
        hash: hash.to_string().into(),
        owner: args.owner.clone(),
        role: args.role.clone(),
        expires: args.expires.clone(),
        disabled: false,
    };
    config.auth.api_keys = vec![entry.clone()];
    let faults = config.auth.faults();
    if faults.is_empty() { Ok(entry) } else { Err(faulty(faults).into()) }
}

fn create(args: &CreateArgs, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<()> {
    let mut config = args.config.load()?;
    let made = new_api_key(&args.key.id).context("the system gave no random bytes")?;
    judged(&mut config, &args.key, &made.hash)?;
    let now = time::wall();
    let expires = args.key.expires.as_deref().and_then(parse_utc);
    ensure!(expires.is_none_or(|end| end > now), "the key would have ended already: choose a later --expires");
    let narrowing = args.narrowing.narrowing();
    warn_of_nothing(&config, &args.key.role, &narrowing, err)?;
    let key = IssuedKey {
        id: args.key.id.as_str().into(),
        hash: made.hash,
        owner: args.key.owner.as_str().into(),
        role: args.key.role.as_str().into(),
        narrowing: Arc::new(narrowing),
        expires,
        made: now,
    };
    match carry_out(&mut open(&config)?, &Deed::MakeKey(key), now)? {
        Err(Denied::KeyExists) => bail!("there is an API key {:?} already, or was lately", args.key.id),
        outcome => outcome?,
    };
    writeln!(err, "The key, shown this once:")?;
    writeln!(out, "{}", made.key.expose_secret())?;
    Ok(())
}

/// Refuses what no grant can hold, and warns of what allows nothing.
fn warn_of_nothing(config: &Config, role: &str, narrowing: &Narrowing, err: &mut dyn Write) -> anyhow::Result<()> {
    let authenticator = Authenticator::new(&config.auth, None).map_err(faulty)?;
    let Some((_, grant)) = authenticator.roles().find(|(name, _)| *name == role) else { return Ok(()) };
    let grant = grant.narrow(narrowing)?;
    if grant.symbols().is_empty() || grant.channels().iter().next().is_none() {
        writeln!(err, "warning: the role {role:?} allows nothing of these symbols and channels")?;
    }
    Ok(())
}

fn disable(args: &DisableArgs, err: &mut dyn Write) -> anyhow::Result<()> {
    let config = args.config.load()?;
    let mut state = open(&config)?;
    let configured = config.auth.api_keys.iter().any(|key| key.id == args.id);
    let before = state.ledger().off_since(&args.id);
    let deed = Deed::EndKey { id: args.id.as_str().into(), configured };
    match carry_out(&mut state, &deed, time::wall())? {
        Err(Denied::UnknownKey) => bail!("there is no API key {:?}; `tickhub api-key list` shows all", args.id),
        outcome => outcome?,
    };
    match before {
        Some(at) => writeln!(err, "{} has been disabled since {}", args.id, rfc3339(at))?,
        None => writeln!(err, "{} is disabled", args.id)?,
    }
    Ok(())
}

/// One key as it is listed.
struct Row {
    id: String,
    owner: String,
    role: String,
    made: Option<UnixNanos>,
    expires: Option<UnixNanos>,
    state: &'static str,
    from: &'static str,
}

fn rows(config: &Config, state: &FileState, now: UnixNanos) -> Vec<Row> {
    let state_of = |off: bool, expires: Option<UnixNanos>| match expires {
        _ if off => "disabled",
        Some(end) if end <= now => "expired",
        _ => "active",
    };
    let kept = state.ledger().keys().into_iter().map(|(key, off)| Row {
        id: key.id.to_string(),
        owner: key.owner.to_string(),
        role: key.role.to_string(),
        made: Some(key.made),
        expires: key.expires,
        state: state_of(off.is_some(), key.expires),
        from: "state",
    });
    let configured = config.auth.api_keys.iter().map(|key| {
        let expires = key.expires.as_deref().and_then(parse_utc);
        let off = key.disabled || state.ledger().off_since(&key.id).is_some();
        let (id, owner, role) = (key.id.clone(), key.owner.clone(), key.role.clone());
        Row { id, owner, role, made: None, expires, state: state_of(off, expires), from: "config" }
    });
    kept.chain(configured).collect()
}

fn list(args: &ListArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let config = args.config.load()?;
    let rows = rows(&config, &open(&config)?, time::wall());
    let day = |at: Option<UnixNanos>| at.map_or_else(|| "-".to_owned(), |at| rfc3339(at).replace(".000Z", "Z"));
    if args.json {
        for Row { id, owner, role, made, expires, state, from } in rows {
            let [made, expires] = [made, expires].map(|at| at.map(rfc3339));
            let line = json!({"id": id, "owner": owner, "role": role, "made": made, "expires": expires,
                "state": state, "from": from});
            writeln!(out, "{line}")?;
        }
        return Ok(());
    }
    let head = ["ID", "STATE", "ROLE", "EXPIRES", "MADE", "FROM", "OWNER"].map(str::to_owned);
    let line = |row: Row| {
        let (state, from) = (row.state.to_owned(), row.from.to_owned());
        [row.id, state, row.role, day(row.expires), day(row.made), from, row.owner]
    };
    let table: Vec<_> = std::iter::once(head).chain(rows.into_iter().map(line)).collect();
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    for row in &table {
        for (cell, width) in row.iter().zip(&widths) {
            write!(out, "{cell:width$}  ")?;
        }
        writeln!(out, "{}", row[6])?;
    }
    Ok(())
}

fn new(args: &NewArgs, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<()> {
    let mut config = args.config.load()?;
    let made = new_api_key(&args.key.id).context("the system gave no random bytes")?;
    let block = block(&judged(&mut config, &args.key, &made.hash)?);
    writeln!(err, "Add this to the configuration:\n\n{block}\nThe key itself, shown this once:")?;
    writeln!(out, "{}", made.key.expose_secret())?;
    Ok(())
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
