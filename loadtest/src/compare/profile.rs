//! The loads, each the same for every server.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    cpu::Account,
    crowd::{Crowd, Timing},
    payload,
    server::Server,
};
use crate::{clock, random::Random, venue::Pace};

/// Updates at once in `backlog`.
const BACKLOG: usize = 32;
/// Deliveries a second in `p99`.
const P99_RATE: f64 = 30_000.0;
/// Deliveries a second in `mixed`: well below what one core brings out one by one, so that updates do not meet.
const MIXED_RATE: f64 = 100_000.0;
/// Symbols in `mixed`.
pub const MIXED_SYMBOLS: usize = 200;
/// Symbols of one client in `mixed`.
pub const MIXED_HELD: usize = 20;
/// How long a server may bring nothing while something is owed.
const STALL_MAX: Duration = Duration::from_secs(10);
/// How long a tail may take, whatever comes.
const TAIL_MAX: Duration = Duration::from_secs(20);
/// Deliveries that a server may be behind before an overload is called off: beyond, some would take all memory.
const BEHIND_MAX: u64 = 4_000_000;
/// Share of a profile's length that runs before measuring.
const WARMUP: f64 = 0.2;
/// Seed of what the clients of `mixed` hold and which symbols move.
const SEED: u64 = 1;

/// A load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Memory of a session that has subscribed to one quote and gets nothing.
    #[value(name = "idle_bytes")]
    IdleBytes,
    /// One update at a time: the next when all clients have it.
    Single,
    /// 32 updates at once: the next 32 when all clients have them.
    Backlog,
    /// 30,000 deliveries a second at planned times: latency.
    P99,
    /// 200 symbols, 20 random ones a client, one update after another.
    Mixed,
    /// 1,000,000 deliveries a second: the way to `overload`.
    #[value(skip)]
    #[serde(rename = "overload_1m")]
    Overload1m,
    /// 1,000,000 deliveries a second (`overload_1m`), then 3,000,000.
    Overload,
}

impl Profile {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::IdleBytes => "idle_bytes",
            Self::Single => "single",
            Self::Backlog => "backlog",
            Self::P99 => "p99",
            Self::Mixed => "mixed",
            Self::Overload => "overload",
            Self::Overload1m => "overload_1m",
        }
    }

    /// What its figure, and so its ratio, is of.
    pub fn figure(self) -> &'static str {
        match self {
            Self::IdleBytes => "bytes a session",
            Self::Single | Self::Backlog | Self::Mixed => "server ns a delivery",
            Self::P99 | Self::Overload | Self::Overload1m => "p99 ms",
        }
    }

    /// How long it is measured where closed loops take `seconds`. Where updates are few and each goes to all, a
    /// percentile needs more of them.
    pub fn seconds(self, seconds: f64) -> f64 {
        match self {
            Self::IdleBytes => 0.0,
            Self::P99 => seconds * 2.0,
            _ => seconds,
        }
    }
}

/// One profile of one server once.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sample {
    /// What ratios are of: see [`Profile::figure`]; absent where it did not come about.
    pub figure: Option<f64>,
    /// Updates sent.
    pub events: u64,
    /// Deliveries that the updates make: each to every client that holds its symbol.
    pub owed: u64,
    /// Those that came, each of them verified.
    pub deliveries: u64,
    /// Whether every client got every update.
    pub whole: bool,
    /// Seconds from the first update to the last delivery.
    pub seconds: f64,
    /// CPU of the server for one delivery, in nanoseconds.
    pub server_ns: f64,
    /// CPU of the server, as a share of the time.
    pub server_busy: f64,
    /// Time that the client spent on reading, for one delivery, in nanoseconds.
    pub client_ns: f64,
    /// Time that the client spent on reading, as a share of the time.
    pub client_busy: f64,
    /// Latency from the planned times in milliseconds; open loops only.
    pub latency: Option<Latency>,
    /// What should never happen.
    pub violations: u64,
    /// Why there is no figure, or none to rely on.
    pub notes: Vec<String>,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// Median.
    pub p50_ms: f64,
    /// 99 % are at most this.
    pub p99_ms: f64,
    /// 99.9 % are at most this.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// 99 % of the updates were handed over at most this late.
    pub generator_p99_ms: f64,
}

/// A server with its clients.
pub struct Side {
    server: Server,
    crowd: Crowd,
    /// Clients by symbol.
    holders: Vec<u64>,
    /// Number of the next update, by symbol.
    next: Vec<u32>,
    random: Random,
    /// Deliveries that are owed in all.
    owed: u64,
    account: Account,
}

/// The symbols that client `client` holds.
pub fn held(client: usize, symbols: usize) -> Vec<usize> {
    if symbols == 1 {
        return vec![0];
    }
    let mut random = Random::new(SEED ^ ((client as u64 + 1) << 20));
    let mut all: Vec<usize> = (0..symbols).collect();
    for at in 0..MIXED_HELD.min(symbols) {
        all.swap(at, at + random.below((symbols - at) as u64) as usize);
    }
    all.truncate(MIXED_HELD);
    all
}

impl Side {
    /// Connects all clients, at full speed.
    ///
    /// # Errors
    /// One of them cannot be subscribed.
    pub fn connect(server: Server, clients: usize, symbols: usize, spins: bool) -> anyhow::Result<Self> {
        let mut holders = vec![0; symbols];
        let holds = |client| {
            let held = held(client, symbols);
            held.iter().for_each(|symbol| holders[*symbol] += 1);
            held
        };
        let crowd = Crowd::connect((server.address, &server.dialect), clients, symbols, spins, holds)?;
        let (next, random, account) = (vec![1; symbols], Random::new(SEED), Account::of(server.pid())?);
        Ok(Self { server, crowd, holders, next, random, owed: 0, account })
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Runs a profile for so many seconds.
    ///
    /// # Errors
    /// The server fell away, or lost a client.
    pub fn run(&mut self, profile: Profile, seconds: f64) -> anyhow::Result<Sample> {
        ensure!(self.settle()?, "the server is still behind from the load before");
        let clients = self.crowd_size().max(1);
        let sample = match profile {
            Profile::IdleBytes => bail!("memory is read where the clients connect"),
            Profile::Single => self.closed(1, seconds),
            Profile::Backlog => self.closed(BACKLOG, seconds),
            Profile::P99 => self.open(P99_RATE / clients as f64, seconds),
            Profile::Overload1m => self.open(1e6 / clients as f64, seconds),
            Profile::Overload => self.open(3e6 / clients as f64, seconds),
            Profile::Mixed => {
                let mean = self.holders.iter().sum::<u64>() as f64 / self.holders.len() as f64;
                self.open(MIXED_RATE / mean, seconds)
            }
        };
        let mut sample = sample?;
        sample.figure = match profile {
            _ if !sample.whole || sample.violations > 0 => None,
            Profile::Single | Profile::Backlog | Profile::Mixed => Some(sample.server_ns),
            _ => sample.latency.map(|latency| latency.p99_ms),
        };
        self.note(profile, &mut sample);
        Ok(sample)
    }

    fn note(&self, profile: Profile, sample: &mut Sample) {
        let open = matches!(profile, Profile::P99 | Profile::Overload | Profile::Overload1m);
        if open && sample.client_busy > 0.9 {
            sample.notes.push(format!("the client was saturated ({:.0} %)", sample.client_busy * 100.0));
        }
        if let Some(latency) = sample.latency.filter(|_| open)
            && latency.generator_p99_ms > 0.05 * latency.p99_ms
        {
            sample.notes.push(format!("the generator was {:.2} ms late (p99)", latency.generator_p99_ms));
        }
        if sample.violations > 0 {
            let first = self.crowd.totals.described.first().map_or("", String::as_str);
            sample.notes.push(format!("{} violations, the first: {first}", sample.violations));
        }
        let missing = sample.owed.saturating_sub(sample.deliveries);
        if missing > 0 {
            sample.notes.push(format!("{missing} of {} deliveries did not come", sample.owed));
        }
    }

    /// Hands one update over, to leave with the next flush.
    fn queue(&mut self, symbol: usize) -> anyhow::Result<()> {
        let number = self.next[symbol];
        self.next[symbol] += 1;
        let text = payload::quote(symbol, number);
        if !matches!(self.server.feed, super::feed::Feed::Venue(_)) {
            self.crowd.judge().sent(symbol, number, text.as_bytes());
        }
        self.owed += self.holders[symbol];
        self.server.feed.queue(symbol, number, &text)
    }

    /// What is owed and has neither come nor been named as lost.
    fn behind(&self) -> u64 {
        self.owed.saturating_sub(self.crowd.totals.delivered + self.crowd.totals.lost)
    }

    /// Waits until all clients have everything; `false` where the server brings nothing any more.
    fn settle(&mut self) -> anyhow::Result<bool> {
        let begun = clock::instant();
        let mut progress = (self.behind(), begun);
        let mut sent = self.server.feed.flush()?;
        while self.behind() > 0 {
            if !sent {
                sent = self.server.feed.flush()?;
            }
            self.crowd.turn(Some(Duration::from_millis(1)))?;
            let now = clock::instant();
            if self.behind() < progress.0 {
                progress = (self.behind(), now);
            }
            if now - progress.1 > STALL_MAX || now - begun > TAIL_MAX {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// So many updates at once, the next when all have them.
    fn closed(&mut self, at_once: usize, seconds: f64) -> anyhow::Result<Sample> {
        let warm = clock::instant() + Duration::from_secs_f64(seconds * WARMUP);
        while clock::instant() < warm && self.round(at_once)? {}
        let window = Window::open(self)?;
        let end = window.begun + Duration::from_secs_f64(seconds);
        let mut whole = true;
        while whole && clock::instant() < end {
            whole = self.round(at_once)?;
        }
        window.close(self, whole)
    }

    fn round(&mut self, at_once: usize) -> anyhow::Result<bool> {
        for _ in 0..at_once {
            self.queue(0)?;
        }
        self.settle()
    }

    /// Updates at planned times, so many a second, of symbols in random order.
    fn open(&mut self, rate: f64, seconds: f64) -> anyhow::Result<Sample> {
        let warm = self.paced(rate, (seconds * WARMUP).max(1.0 / rate), None)? && self.settle()?;
        let timing = Timing::new(self.next.clone())?;
        let window = Window::open(self)?;
        self.crowd.timing = Some(timing);
        let mut late = Histogram::new_with_bounds(1, 600_000_000_000, 3)?;
        let offered = warm && self.paced(rate, seconds, Some(&mut late))?;
        let whole = self.settle()? && offered;
        let mut sample = window.close(self, whole)?;
        if let Some(timing) = self.crowd.timing.take() {
            let ms = |ns: u64| ns as f64 / 1e6;
            let at = |share| ms(timing.latency.value_at_quantile(share));
            sample.latency = Some(Latency {
                p50_ms: at(0.5),
                p99_ms: at(0.99),
                p999_ms: at(0.999),
                max_ms: ms(timing.latency.max()),
                generator_p99_ms: ms(late.value_at_quantile(0.99)),
            });
        }
        if !offered {
            sample.notes.push(format!("called off: the server was behind by more than {BEHIND_MAX} deliveries"));
        }
        Ok(sample)
    }

    /// Sends at planned times and reads in between. `false` where the server fell behind too far.
    fn paced(&mut self, rate: f64, seconds: f64, mut late: Option<&mut Histogram<u64>>) -> anyhow::Result<bool> {
        let pace = Pace::new(clock::instant(), Duration::from_secs_f64(1.0 / rate));
        let events = (rate * seconds).ceil() as u64;
        let mut sent = 0;
        let mut all = true;
        while sent < events {
            let now = clock::instant();
            let due = pace.due(now).min(events);
            while sent < due {
                let symbol = self.random.below(self.holders.len() as u64) as usize;
                if let (Some(late), Some(timing)) = (&mut late, &mut self.crowd.timing) {
                    timing.planned[symbol].push(pace.planned(sent));
                    late.saturating_record(pace.lateness(sent, now).as_nanos() as u64);
                }
                self.queue(symbol)?;
                sent += 1;
                all = false;
            }
            if !all {
                all = self.server.feed.flush()?;
            }
            let wait = pace.planned(sent).saturating_duration_since(now).min(Duration::from_millis(1));
            self.crowd.turn(Some(wait))?;
            if self.behind() > BEHIND_MAX.max(4 * self.crowd_size()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn crowd_size(&self) -> u64 {
        self.holders.iter().copied().max().unwrap_or(0)
    }
}

/// What is measured from one moment to another.
struct Window {
    begun: Instant,
    cpu: u64,
    delivered: u64,
    owed: u64,
    lost: u64,
    sent: u64,
    violations: u64,
}

impl Window {
    fn open(side: &mut Side) -> anyhow::Result<Self> {
        let begun = clock::instant();
        side.crowd.busy = Duration::ZERO;
        let cpu = side.account.ns()?;
        let totals = &side.crowd.totals;
        let (delivered, lost, violations) = (totals.delivered, totals.lost, totals.violations);
        Ok(Self { begun, cpu, delivered, owed: side.owed, lost, sent: sent(side), violations })
    }

    fn close(self, side: &mut Side, whole: bool) -> anyhow::Result<Sample> {
        let cpu = (side.account.ns()? - self.cpu) as f64;
        let seconds = (clock::instant() - self.begun).as_secs_f64();
        let totals = &side.crowd.totals;
        let deliveries = totals.delivered - self.delivered;
        let each = |ns: f64| if deliveries == 0 { 0.0 } else { ns / deliveries as f64 };
        let busy = side.crowd.busy.as_secs_f64();
        let complete = totals.lost == self.lost && deliveries == side.owed - self.owed;
        Ok(Sample {
            figure: None,
            events: sent(side) - self.sent,
            owed: side.owed - self.owed,
            deliveries,
            whole: whole && complete,
            seconds,
            server_ns: each(cpu),
            server_busy: cpu / 1e9 / seconds,
            client_ns: each(busy * 1e9),
            client_busy: busy / seconds,
            latency: None,
            violations: totals.violations - self.violations,
            notes: Vec::new(),
        })
    }
}

fn sent(side: &Side) -> u64 {
    side.next.iter().map(|next| u64::from(*next)).sum()
}
