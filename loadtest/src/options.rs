//! The command line, checked: what cannot be run is refused before anything is opened.

use std::{net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context, bail, ensure};
use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::target::Target;

/// Drives a tickhub with thousands of WebSocket subscribers that verify every delivery while they time it.
///
/// The exit code is 0 for a clean run, 1 if a guarantee was broken or not every client could subscribe, 2 if the run
/// could not begin.
#[derive(Debug, Clone, Parser)]
#[command(name = "loadtest", version, args_override_self = true)]
pub struct Options {
    /// Where subscribers connect, as `ws://host:port/api/v1/ws/prices`
    #[arg(long, required_unless_present = "ready_file")]
    pub url: Option<String>,
    /// Token for every client (sent as `Authorization: Bearer`)
    #[arg(long, env = "TICKHUB_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Take url and token from the file that the hub writes when it is ready
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
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
    /// Local addresses to connect from; on loopback as many as are needed are taken by default
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub source_addresses: Vec<IpAddr>,
    /// Seed of every random choice
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Check the form of every value in one of so many messages (1 = all, 0 = none)
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub check_values: u32,
    /// Process of the hub, for its CPU per delivery and memory per session
    #[arg(long)]
    pub pid: Option<u32>,
    /// Write the result as one JSON object
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Which updates are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// All of them.
    Every,
    /// The newest.
    Latest,
}

impl Mode {
    /// As the protocol writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Every => "every",
            Self::Latest => "latest",
        }
    }
}

/// What becomes of a subscriber that cannot keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Overflow {
    /// It is told which numbers it lost.
    Gap,
    /// It is closed.
    Disconnect,
}

impl Overflow {
    /// As the protocol writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Disconnect => "disconnect",
        }
    }
}

/// How many instruments a client subscribes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PerClient {
    /// So many, picked at random.
    Count(usize),
    /// Whatever the patterns match.
    All,
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
    /// What was asked for.
    pub options: Options,
    /// Whom to connect to.
    pub target: Target,
    /// Sent by every client.
    pub token: String,
}

/// What the hub writes when it is ready.
#[derive(Deserialize)]
struct ReadyFile {
    http: String,
    ws: String,
    token: Option<String>,
}

impl Options {
    /// Checks what the parser cannot, and reads the ready file.
    ///
    /// # Errors
    /// What does not fit together, for the one who typed it.
    pub fn plan(mut self) -> anyhow::Result<Plan> {
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
        let token = self.token.take().or(ready_token).context("--token is needed")?;
        ensure!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()), "the token is malformed");
        self.check()?;
        Ok(Plan { target: Target::resolve(&url, http.as_deref())?, token, options: self })
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.clients > 0, "--clients must be at least 1");
        ensure!((1..=256).contains(&self.threads), "--threads must be between 1 and 256");
        ensure!(self.connect_rate > 0, "--connect-rate must be at least 1");
        ensure!(!self.duration.is_zero(), "--duration must not be zero");
        ensure!(self.symbols.iter().all(|symbol| is_pattern(symbol)), "--symbols must be ids or patterns");
        let always_every = self.channel == "trade" || self.channel.starts_with("bar.");
        match self.channel.as_str() {
            "ticker" | "quote" | "trade" | "book" => {}
            bar if bar.starts_with("bar.") => {}
            "status" => bail!("`status` has no numbers to verify"),
            other => bail!("the channel {other:?} is unknown"),
        }
        let latest = self.mode == Mode::Latest;
        ensure!(!(always_every && latest), "{} has no `latest` mode", self.channel);
        ensure!(self.max_rate.is_none() || latest, "--max-rate belongs to `latest`");
        ensure!(self.overflow.is_none() || !latest, "--overflow belongs to `every`");
        ensure!(self.depth.is_none() || self.channel == "book", "--depth belongs to `book`");
        Ok(())
    }
}

/// Whether the text could stand in a subscribe: this keeps quotes and escapes out of the commands.
fn is_pattern(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"._=^/+-:*".contains(&byte);
    !text.is_empty() && text.len() <= 64 && text.bytes().all(allowed)
}

/// Whether `pattern` (an id, `VENUE:HEAD*`, `*:…` or `*`) matches the instrument `id`.
pub fn matches(pattern: &str, id: &str) -> bool {
    let (venue, symbol) = match pattern {
        "*" => ("*", "*"),
        _ => pattern.split_once(':').unwrap_or((pattern, "")),
    };
    let Some((id_venue, id_symbol)) = id.split_once(':') else { return false };
    (venue == "*" || venue == id_venue)
        && match symbol.strip_suffix('*') {
            Some(head) => id_symbol.starts_with(head),
            None => symbol == id_symbol,
        }
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let unit = match &text[digits..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        other => return Err(format!("{other:?} is no unit of time (ms, s, m, h)")),
    };
    let count: f64 = text[..digits].parse().map_err(|_| "a duration is a number and a unit, as in 30s".to_owned())?;
    Duration::try_from_secs_f64(count * unit).map_err(|error| error.to_string())
}

fn share(text: &str) -> Result<f64, String> {
    let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 0.01));
    let share = number.parse::<f64>().map_err(|_| "a share is written 1% or 0.01".to_owned())? * scale;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("a share is between 0 and 100 %".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> anyhow::Result<Plan> {
        let all = ["loadtest", "--url", "ws://127.0.0.1:1/api/v1/ws/prices", "--token", "t"];
        Options::try_parse_from(all.iter().chain(arguments))?.plan()
    }

    #[test]
    fn durations_and_shares_are_read_as_people_write_them() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("5x").is_err() && duration("").is_err() && duration("-1s").is_err());
        assert_eq!((share("1%"), share("0.25")), (Ok(0.01), Ok(0.25)));
        assert!(share("101%").is_err() && share("x").is_err() && share("nan").is_err());
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
        let plan = Options::try_parse_from(["loadtest", "--ready-file", path]).unwrap().plan().unwrap();
        assert_eq!((plan.target.address.port(), plan.token.as_str()), (7, "abc"));
        assert!(Options::try_parse_from(["loadtest"]).is_err(), "neither url nor ready file");
    }

    #[test]
    fn patterns_match_as_the_protocol_says() {
        for pattern in ["*", "*:*", "SIM:*", "SIM:AA*", "SIM:AAA-USD", "*:AAA-USD"] {
            assert!(matches(pattern, "SIM:AAA-USD"), "{pattern}");
        }
        for pattern in ["SIM:AAA", "BINANCE:*", "SIM:B*", "SIM"] {
            assert!(!matches(pattern, "SIM:AAA-USD"), "{pattern}");
        }
    }
}
