//! The command line: bare options make the simplest scenario, `run` takes one from a file.

use std::{net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context, bail, ensure};
use clap::{Args, Parser, Subcommand};
use serde::Deserialize;

use crate::{
    compare::{CompareOptions, PeerCommand},
    scenario::{
        self, Group, LATENESS_P99_MAX, Mode, Overflow, PerClient, Phase, Scenario, Source, Subscription, duration,
        share,
    },
    socket::Tls,
    source::Origin,
    target::Target,
};

/// Drives a tickhub with thousands of WebSocket subscribers that verify every delivery while they time it.
///
/// The exit code is 0 for a clean run, 1 if a guarantee was broken or not every client could subscribe, 2 if the run
/// could not begin, 3 if the harness itself could not keep to its plan.
#[derive(Debug, Clone, Parser)]
#[command(name = "loadtest", version, args_override_self = true, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; without it, the bare options are run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The simplest scenario: one warm-up and one measured phase.
    #[command(flatten)]
    pub options: Options,
}

/// What else the tool can do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Run a scenario file
    Run(RunOptions),
    /// Compare two results
    Diff(DiffOptions),
    /// Show a result again
    Show(ShowOptions),
    /// Measures the hub beside peers: same load, same client, alternating, on this machine
    Compare(CompareOptions),
    /// A server of the harness itself
    #[command(hide = true)]
    Peer {
        /// Which one.
        #[command(subcommand)]
        peer: PeerCommand,
    },
}

/// Options of `run`.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub struct RunOptions {
    /// The scenario, a TOML file
    pub scenario: PathBuf,
    /// Change a key of the scenario, as `clients=500` or `phase.storm.duration=5s` (`phase.*` = all phases)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Only read the scenario and say what is wrong with it
    #[arg(long)]
    pub check: bool,
    /// Whom to try, and what to write.
    #[command(flatten)]
    pub access: Access,
}

/// Options of `diff`.
#[derive(Debug, Clone, Args)]
pub struct DiffOptions {
    /// The result to compare with
    pub before: PathBuf,
    /// The result that is compared
    pub after: PathBuf,
    /// Write the comparison as one HTML file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Options of `show`.
#[derive(Debug, Clone, Args)]
pub struct ShowOptions {
    /// A result that `--json` has written
    pub result: PathBuf,
    /// Write it as one HTML file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Whom to try, and what to write: the same for every scenario.
#[derive(Debug, Clone, Args)]
pub struct Access {
    /// Where subscribers connect, as `ws://host:port/api/v1/ws/prices` or `wss://…`
    #[arg(long)]
    pub url: Option<String>,
    /// Whom to trust for `wss://`: a file of certificates
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Trust everybody for `wss://`
    #[arg(long, conflicts_with = "ca")]
    pub insecure: bool,
    /// Token for every client (sent as `Authorization: Bearer`)
    #[arg(long, env = "TICKHUB_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Take url and token from the file that the hub writes when it is ready
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// The hub's program, where the scenario's source is a venue; by default the one beside this program
    #[arg(long, value_name = "PROGRAM")]
    pub hub: Option<PathBuf>,
    /// Process of the hub, for its CPU per delivery and memory per session
    #[arg(long)]
    pub pid: Option<u32>,
    /// Local addresses to connect from; on loopback as many as are needed are taken by default
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub source_addresses: Vec<IpAddr>,
    /// Write the result as one JSON object
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the result as one HTML file that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// The bare options.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Whom to try, and what to write.
    #[command(flatten)]
    pub access: Access,
    /// Number of subscribers
    #[arg(long, default_value_t = 100)]
    pub clients: usize,
    /// Instruments of each subscriber, picked at random; `all` subscribes to the patterns themselves
    #[arg(long, value_name = "K|all", default_value = "1")]
    pub symbols_per_client: PerClient,
    /// Instrument ids to choose from, or patterns to choose by from what the hub lists
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "*")]
    pub symbols: Vec<String>,
    /// Channel to subscribe to
    #[arg(long, default_value = "quote")]
    pub channel: String,
    /// Whether every update is wanted, or only the newest
    #[arg(long, value_enum, default_value_t = Mode::Every)]
    pub mode: Mode,
    /// Updates a second for one instrument (`latest` only)
    #[arg(long)]
    pub max_rate: Option<u32>,
    /// Levels a side (`book` only): 1, 10, 50, or 0 for all
    #[arg(long)]
    pub depth: Option<u32>,
    /// What the hub does when a subscriber cannot keep up (`every` only)
    #[arg(long, value_enum)]
    pub overflow: Option<Overflow>,
    /// How long to measure
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub duration: Duration,
    /// How long to let it run before measuring
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub warmup: Duration,
    /// How long all are subscribed before the hub's memory is read
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub settle: Duration,
    /// How long those that are behind may take to catch up at the end
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub tail: Duration,
    /// How late the harness may be behind its plan, at p99, before the run counts as `invalid` [default: 20ms]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub lateness_p99_max: Option<Duration>,
    /// Share of subscribers that hardly read, as `1%` or `0.01`
    #[arg(long, default_value = "0%", value_parser = share)]
    pub slow: f64,
    /// Bytes a second that a slow subscriber reads, or `never`
    #[arg(long, value_name = "BYTES|never", default_value = "never")]
    pub slow_rate: SlowRate,
    /// Threads that the subscribers are spread over
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// New connections a second, all threads together
    #[arg(long, default_value_t = 4_000)]
    pub connect_rate: u32,
    /// How long a subscriber may take from connecting to being subscribed
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub connect_timeout: Duration,
    /// Seed of every random choice
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Check the form of every value in one of so many messages (1 = all, 0 = none)
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub check_values: u32,
}

impl FromStr for PerClient {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "all" {
            return Ok(Self::All);
        }
        let count: usize = text.parse().context("a number or `all` is needed")?;
        ensure!(count > 0, "at least one instrument is needed");
        Ok(Self::Count(count))
    }
}

/// How fast a slow subscriber reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowRate {
    /// 0 = not at all.
    pub bytes_per_s: u64,
}

impl FromStr for SlowRate {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes_per_s = if text == "never" { 0 } else { text.parse().context("a number or `never` is needed")? };
        Ok(Self { bytes_per_s })
    }
}

/// A run that can begin.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What is to happen.
    pub scenario: Scenario,
    /// Whom to connect to.
    pub target: Target,
    /// How TLS is spoken with it, if it is.
    pub tls: Option<Tls>,
    /// Sent by every client.
    pub token: String,
    /// Process of the hub.
    pub pid: Option<u32>,
    /// Local addresses to connect from.
    pub source_addresses: Vec<IpAddr>,
    /// When the venue's clock began, where this process plays it.
    pub origin: Option<Origin>,
}

/// What the hub writes when it is ready.
#[derive(Deserialize)]
struct ReadyFile {
    http: String,
    ws: String,
    token: Option<String>,
}

impl Access {
    /// Whom `scenario` is to be run against; reads the ready file.
    ///
    /// # Errors
    /// What is missing or cannot be read.
    pub fn plan(self, scenario: Scenario) -> anyhow::Result<Plan> {
        let ready = match &self.ready_file {
            Some(path) => {
                let text = std::fs::read(path).with_context(|| format!("the ready file {}", path.display()))?;
                let ready = serde_json::from_slice(&text);
                Some(ready.with_context(|| format!("the ready file {}", path.display()))?)
            }
            None => None,
        };
        let (ready_ws, ready_http, ready_token) = match ready {
            Some(ReadyFile { http, ws, token }) => (Some(ws), Some(http), token),
            None => (None, None, None),
        };
        let url = self.url.clone().or(ready_ws).context("--url or --ready-file is needed")?;
        let http = if self.url.is_none() { ready_http } else { None };
        let token = self.token.or(ready_token).context("--token is needed")?;
        ensure!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()), "the token is malformed");
        let target = Target::resolve(&url, http.as_deref())?;
        ensure!(!target.tls || self.insecure || self.ca.is_some(), "{url} needs --ca FILE, or --insecure");
        let tls = target.tls.then(|| Tls::new(&target.host, self.ca.as_deref())).transpose()?;
        let origin = matches!(scenario.source, Source::Venue(_)).then(Origin::now);
        Ok(Plan { scenario, target, tls, token, pid: self.pid, source_addresses: self.source_addresses, origin })
    }
}

impl RunOptions {
    /// Reads the scenario.
    ///
    /// # Errors
    /// All that is wrong with it, with the file's name.
    pub fn scenario(&self) -> anyhow::Result<Scenario> {
        let name = self.scenario.display();
        let text = std::fs::read_to_string(&self.scenario).with_context(|| format!("the scenario {name}"))?;
        scenario::from_toml(&text, &self.overrides).map_err(|wrong| anyhow::anyhow!("{name}:\n{wrong:#}"))
    }
}

impl Options {
    /// The scenario that the bare options stand for.
    ///
    /// # Errors
    /// What does not fit together, for the one who typed it.
    pub fn scenario(&self) -> anyhow::Result<Scenario> {
        ensure!(self.clients > 0, "--clients must be at least 1");
        ensure!((1..=256).contains(&self.threads), "--threads must be between 1 and 256");
        ensure!(self.connect_rate > 0, "--connect-rate must be at least 1");
        let slow = Phase {
            slow: self.slow,
            slow_bytes_per_s: self.slow_rate.bytes_per_s,
            ..Phase::plain("measured", self.duration)
        };
        let warmup = Phase { measure: false, name: "warm-up".to_owned(), duration: self.warmup, ..slow.clone() };
        let scenario = Scenario {
            name: "options".to_owned(),
            about: String::new(),
            clients: self.clients,
            threads: self.threads,
            seed: self.seed,
            connect_rate: self.connect_rate,
            connect_timeout: self.connect_timeout,
            settle: self.settle,
            tail: self.tail,
            check_values: self.check_values,
            lateness_p99_max: self.lateness_p99_max.unwrap_or(LATENESS_P99_MAX),
            source: Source::Hub,
            groups: vec![Group {
                name: "all".to_owned(),
                share: 1.0,
                subscriptions: vec![Subscription {
                    channel: self.channel.clone(),
                    mode: self.mode,
                    symbols: self.symbols.clone(),
                    per_client: self.symbols_per_client,
                    max_rate: self.max_rate,
                    depth: self.depth,
                    overflow: self.overflow,
                }],
            }],
            phases: if self.warmup.is_zero() { vec![slow] } else { vec![warmup, slow] },
        };
        if let [first, ..] = scenario.wrongs().as_slice() {
            bail!("{first}");
        }
        Ok(scenario)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> anyhow::Result<Plan> {
        let all = ["loadtest", "--url", "ws://127.0.0.1:1/api/v1/ws/prices", "--token", "t"];
        let options = Cli::try_parse_from(all.iter().chain(arguments))?.options;
        let scenario = options.scenario()?;
        options.access.plan(scenario)
    }

    #[test]
    fn options_that_do_not_fit_together_are_refused_with_a_reason() {
        assert!(plan(&[]).is_ok());
        for (wrong, reason) in [
            (vec!["--channel", "trade", "--mode", "latest"], "no `latest` mode"),
            (vec!["--max-rate", "5"], "belongs to `latest`"),
            (vec!["--mode", "latest", "--overflow", "gap"], "belongs to `every`"),
            (vec!["--depth", "10"], "belongs to `book`"),
            (vec!["--channel", "status"], "no numbers"),
            (vec!["--channel", "qoute"], "unknown"),
            (vec!["--clients", "0"], "at least 1"),
            (vec!["--symbols", "SIM:\"}"], "ids or patterns"),
            (vec!["--symbols-per-client", "0"], "at least one"),
        ] {
            let error = plan(&wrong).unwrap_err();
            assert!(format!("{error:#}").contains(reason), "{wrong:?}: {error:#}");
        }
    }

    #[test]
    fn the_ready_file_gives_url_and_token() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = r#"{"http":"http://127.0.0.1:7","ws":"ws://127.0.0.1:7/api/v1/ws/prices","ops":"http://127.0.0.1:8","token":"abc"}"#;
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().to_str().unwrap();
        let options = Cli::try_parse_from(["loadtest", "--ready-file", path]).unwrap().options;
        let scenario = options.scenario().unwrap();
        let plan = options.access.plan(scenario.clone()).unwrap();
        assert_eq!((plan.target.address.port(), plan.token.as_str()), (7, "abc"));
        let bare = Cli::try_parse_from(["loadtest", "--token", "t"]).unwrap().options;
        assert!(bare.access.plan(scenario).is_err(), "neither url nor ready file");
    }
}
