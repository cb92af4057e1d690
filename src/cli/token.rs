//! `tickhub token`: signs a token.

use std::io::Write;
use std::num::NonZeroU32;
use std::process::ExitCode;

use clap::Args;

use super::{ConfigArgs, authenticator};
use crate::auth::{Narrowing, TokenRequest};
use crate::model::{Channel, Depth, Pattern};
use crate::settings::{Span, SpanError};
use crate::time;

/// Longest life of a token. It can be revoked, but nobody has to ask for it anew: what must last
/// longer is an API key.
const TTL_MAX: Span = Span::seconds(365 * 24 * 3600);

const EXAMPLES: &str = "\
Examples:
  tickhub token                                             a viewer's token for an hour
  tickhub token --role analyst --symbols 'SIM:*,BINANCE:BTC-*' --ttl 12h
  tickhub token --channels quote,trade --max-rate 10 --config tickhub.toml
  curl -H \"Authorization: Bearer $(tickhub token)\" http://127.0.0.1:8080/api/v1/instruments";

/// Sign a token and print it.
///
/// It is signed with the first key of auth.keys; where none is configured, with the development key
/// in server.state_dir. Options narrow what the role allows, and can never widen it.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct TokenArgs {
    /// Role: viewer, analyst, admin, or one of the configuration's.
    #[arg(long, default_value = "viewer")]
    role: String,
    /// Whose token it is.
    #[arg(long, default_value = "cli")]
    subject: String,
    /// How long it lasts: a whole number and ms, s, m, h or d, at most 365d.
    #[arg(long, default_value = "1h", value_parser = ttl)]
    ttl: Span,
    #[command(flatten)]
    narrowing: NarrowingArgs,
    #[command(flatten)]
    config: ConfigArgs,
}

/// What a token or a key shall have less than its role.
#[derive(Args, Debug)]
pub(super) struct NarrowingArgs {
    /// Only these instruments: VENUE:SYMBOL, VENUE:HEAD*, VENUE:* or *, with commas between.
    #[arg(long, value_delimiter = ',', value_parser = pattern, value_name = "PATTERNS")]
    symbols: Option<Vec<Pattern>>,
    /// Only these channels, with commas between.
    #[arg(long, value_delimiter = ',', value_parser = channel)]
    channels: Option<Vec<Channel>>,
    /// At most so many updates a second for one instrument; excludes mode `every` of ticker, quote
    /// and book.
    #[arg(long, value_name = "RATE")]
    max_rate: Option<NonZeroU32>,
    /// At most so many levels a side of a book: 1, 10, 50, or 0 for all.
    #[arg(long, value_parser = depth)]
    depth: Option<Depth>,
    /// At most so many connections at a time.
    #[arg(long, value_name = "COUNT")]
    connections: Option<u32>,
    /// At most so many entries of one session.
    #[arg(long, value_name = "COUNT")]
    subscriptions: Option<u32>,
    /// At least so much later than live: a whole number and ms, s, m, h or d. A role must have this
    /// delay, or a longer one.
    #[arg(long, value_name = "SPAN")]
    delay: Option<Span>,
}

impl NarrowingArgs {
    pub(super) fn narrowing(&self) -> Narrowing {
        Narrowing {
            symbols: self.symbols.clone(),
            channels: self.channels.as_ref().map(|channels| channels.iter().copied().collect()),
            max_rate: self.max_rate,
            depth: self.depth,
            connections: self.connections,
            subscriptions: self.subscriptions,
            delay: self.delay.map(Span::duration),
        }
    }
}

fn ttl(text: &str) -> Result<Span, String> {
    let span: Span = text.parse().map_err(|error: SpanError| error.to_string())?;
    let long = || format!("is more than {TTL_MAX}; for what must last, make an API key: tickhub api-key create");
    (span <= TTL_MAX).then_some(span).ok_or_else(long)
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text).map_err(|error| format!("{error}; write VENUE:SYMBOL, VENUE:HEAD*, VENUE:* or *"))
}

fn channel(name: &str) -> Result<Channel, String> {
    let known = || format!("known are {}", Channel::ALL.map(Channel::as_str).join(", "));
    Channel::parse(name).ok_or_else(known)
}

fn depth(text: &str) -> Result<Depth, String> {
    let depth = text.parse().ok().and_then(Depth::from_wire);
    depth.ok_or_else(|| "must be 1, 10, 50, or 0 for all levels".to_owned())
}

pub(super) fn run(args: &TokenArgs, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let authenticator = authenticator(&args.config.load()?)?;
    let narrowing = args.narrowing.narrowing();
    let (subject, role, ttl) = (args.subject.clone(), args.role.clone(), args.ttl.duration());
    let now = time::wall();
    let token = authenticator.sign(&TokenRequest { subject, role, ttl, narrowing }, now)?;
    let grant = authenticator.token(&token, now)?.grant;
    if grant.symbols().is_empty() || grant.channels().iter().next().is_none() {
        writeln!(err, "warning: the role {:?} allows nothing of these symbols and channels", args.role)?;
    }
    writeln!(out, "{token}")?;
    Ok(ExitCode::SUCCESS)
}
