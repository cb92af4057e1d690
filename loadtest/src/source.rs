//! The harness as the venue: it starts a hub that takes its data from here, and sends events at planned times. The
//! planned time stands in each event's value, so that a subscriber's latency begins there and not where a late
//! generator or a late hub would have it begin.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail, ensure};
use hdrhistogram::Histogram;
use tempfile::TempDir;

use crate::{
    clock,
    measure::{self, Shared, Step},
    options::Access,
    scenario::{Phase, Scenario, VenueSource},
    venue::{Event, Kind, Venue, instrument, number_in},
};

/// How long the hub may take to be ready, and then to ask for all streams.
const START_MAX: Duration = Duration::from_secs(30);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What is unsent when the hub's socket is full is tried again after this.
const RETRY_AFTER: Duration = Duration::from_millis(1);
/// At most so long the generator sleeps, to see what step the run is in.
const NAP: Duration = Duration::from_millis(2);
/// How long the hub may take to read what is left at the end.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// A hub that was started for a run, and the venue that it takes its data from.
#[derive(Debug)]
pub struct Stage {
    child: Child,
    venue: Arc<Venue>,
    folder: TempDir,
}

impl Drop for Stage {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stage {
    /// Starts the hub at `program` (by default the one beside the harness) with a venue of its own.
    ///
    /// # Errors
    /// It is not there, or does not become ready.
    pub fn start(program: Option<PathBuf>, source: &VenueSource, kinds: &[Kind]) -> anyhow::Result<Self> {
        let program = match program {
            Some(program) => program,
            None => std::env::current_exe()?.with_file_name("tickhub"),
        };
        ensure!(program.is_file(), "there is no hub at {}: build it, or say --hub PATH", program.display());
        let venue = Arc::new(Venue::start(source.instruments)?);
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("tickhub.toml");
        std::fs::write(&config, hub_toml(folder.path(), &venue))?;
        let mut command = Command::new(program);
        command.arg("serve").arg("--config").arg(&config).arg("--ready-file").arg(folder.path().join("ready.json"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut stage = Self { child: command.spawn().context("starting the hub")?, venue, folder };
        let begun = clock::instant();
        while !stage.ready_file().is_file() {
            if let Some(status) = stage.child.try_wait()? {
                bail!("the hub ended at once: {status}");
            }
            ensure!(clock::instant() - begun < START_MAX, "the hub is not ready after {START_MAX:?}");
            thread::sleep(LOOK_EVERY);
        }
        stage.venue.wait_subscribed(START_MAX)?;
        // An instrument exists from its first event on.
        for kind in kinds {
            stage.venue.prime(*kind, 0)?;
        }
        while !stage.venue.flush()? {
            thread::sleep(RETRY_AFTER);
        }
        Ok(stage)
    }

    fn ready_file(&self) -> PathBuf {
        self.folder.path().join("ready.json")
    }

    /// Points the clients to this hub, whose token is its own.
    pub fn direct(&self, access: &mut Access) {
        (access.url, access.token) = (None, None);
        (access.ready_file, access.pid) = (Some(self.ready_file()), Some(self.child.id()));
    }

    /// The venue.
    pub fn venue(&self) -> Arc<Venue> {
        self.venue.clone()
    }
}

fn hub_toml(folder: &Path, venue: &Venue) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nops_listen = \"127.0.0.1:0\"\nstate_dir = \"{}\"\n\
         [limits]\nsessions = 200000\nunauthenticated = 100000\nconnections = 200000\n[log]\nlevel = \"warn\"\n{}",
        folder.join("state").display(),
        venue.provider_toml()
    )
}

/// What a scenario's clients need the venue to send.
pub fn kinds(scenario: &Scenario) -> Vec<Kind> {
    let channels = [("quote", Kind::Quote), ("trade", Kind::Trade)];
    let held = |channel: &str| scenario.subscriptions().any(|subscription| subscription.channel == channel);
    channels.into_iter().filter(|(channel, _)| held(channel)).map(|(_, kind)| kind).collect()
}

/// When the venue's clock began: on this machine's clocks.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    at: Instant,
    wall_ns: u64,
}

impl Origin {
    /// Now.
    pub fn now() -> Self {
        Self { at: clock::instant(), wall_ns: clock::wall_ns() }
    }

    /// The number for an event that is planned for `planned`: microseconds since the origin, from 1.
    fn number(&self, planned: Instant) -> u64 {
        planned.saturating_duration_since(self.at).as_micros() as u64 + 1
    }

    /// The planned time that an event's text carries, in nanoseconds since the Unix epoch; `None` = it carries none.
    #[inline]
    pub fn planned_ns(&self, text: &[u8]) -> Option<u64> {
        let size = ["\"bid_sz\":\"", ",\"sz\":\""].into_iter().find_map(|key| {
            let rest = &text[memchr::memmem::find(text, key.as_bytes())? + key.len()..];
            rest.get(..memchr::memchr(b'"', rest)?)
        })?;
        let whole = memchr::memchr(b'.', size).map_or(size, |dot| &size[..dot]);
        number_in(whole).map(|number| self.wall_ns + number.saturating_sub(1) * 1_000)
    }
}

/// What the generator did.
#[derive(Debug)]
pub struct Sent {
    /// How late it was, by phase.
    pub late: Vec<Histogram<u64>>,
    /// Events sent by kind and symbol, the first ones included.
    pub counts: Vec<(Kind, Vec<u64>)>,
}

impl Sent {
    /// The last number of every stream: channel, instrument, number.
    pub fn last_numbers(&self) -> impl Iterator<Item = (&'static str, String, u64)> {
        self.counts.iter().flat_map(|(kind, counts)| {
            let channel = if *kind == Kind::Quote { "quote" } else { "trade" };
            counts.iter().enumerate().map(move |(symbol, count)| (channel, instrument(symbol), *count))
        })
    }
}

/// The thread that sends.
#[derive(Debug)]
pub struct Generator {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Sent>>,
}

impl Generator {
    /// Sends what the phases of `scenario` plan, as the run gets to them.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(venue: Arc<Venue>, scenario: &Scenario, shared: Arc<Shared>, origin: Origin) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let kinds = kinds(scenario);
        let symbols = match &scenario.source {
            crate::scenario::Source::Venue(source) => source.instruments,
            crate::scenario::Source::Hub => bail!("the hub has a feed of its own"),
        };
        let mut sender = Sender {
            venue,
            origin,
            symbols,
            sent: Sent {
                late: scenario.phases.iter().map(|_| measure::histogram()).collect(),
                counts: kinds.iter().map(|kind| (*kind, vec![1; symbols])).collect(),
            },
            last: kinds.iter().map(|_| vec![0; symbols]).collect(),
            next: 0,
        };
        let (phases, stopped) = (scenario.phases.clone(), stop.clone());
        let thread = thread::Builder::new().name("venue-plan".to_owned()).spawn(move || {
            sender.run(&phases, &shared, &stopped)?;
            Ok(sender.sent)
        })?;
        Ok(Self { stop, thread })
    }

    /// Ends it; what it has sent is with the hub then.
    ///
    /// # Errors
    /// The hub went away, or did not read.
    pub fn finish(self) -> anyhow::Result<Sent> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().map_err(|_| anyhow!("the generator panicked"))?
    }
}

struct Sender {
    venue: Arc<Venue>,
    origin: Origin,
    symbols: usize,
    sent: Sent,
    /// The last number by kind and symbol: numbers of a stream only grow.
    last: Vec<Vec<u64>>,
    /// Events sent so far, of all phases: streams take turns.
    next: u64,
}

impl Sender {
    fn run(&mut self, phases: &[Phase], shared: &Shared, stop: &AtomicBool) -> anyhow::Result<()> {
        let mut under_way: Option<(usize, Instant, u64)> = None;
        while !stop.load(Ordering::Acquire) {
            let now = clock::instant();
            let Step::Run(at) = shared.step() else {
                under_way = None;
                thread::sleep(NAP);
                continue;
            };
            let at = usize::from(at);
            let (begun, mut done) = match under_way {
                Some((phase, begun, done)) if phase == at => (begun, done),
                _ => (now, 0),
            };
            let phase = &phases[at];
            let planned = |number: u64| begun + planned_after(phase, number);
            while phase.rate > 0 && planned(done) <= now && planned_after(phase, done) < phase.duration {
                self.send(planned(done), at)?;
                done += 1;
            }
            under_way = Some((at, begun, done));
            let all = self.venue.flush()?;
            let next = if phase.rate > 0 { planned(done).saturating_duration_since(clock::instant()) } else { NAP };
            thread::sleep(if all { next.min(NAP) } else { RETRY_AFTER });
        }
        let begun = clock::instant();
        while !self.venue.flush()? {
            ensure!(clock::instant() - begun < DRAIN_MAX, "the hub does not read what the venue sends");
            thread::sleep(RETRY_AFTER);
        }
        Ok(())
    }

    fn send(&mut self, planned: Instant, phase: usize) -> anyhow::Result<()> {
        let kinds = self.sent.counts.len() as u64;
        let kind = (self.next % kinds) as usize;
        let symbol = (self.next / kinds % self.symbols as u64) as usize;
        self.next += 1;
        let number = self.origin.number(planned).max(self.last[kind][symbol] + 1);
        self.last[kind][symbol] = number;
        self.sent.counts[kind].1[symbol] += 1;
        self.venue.queue(Event { kind: self.sent.counts[kind].0, symbol, number })?;
        let late = clock::instant().saturating_duration_since(planned).as_nanos() as u64;
        self.sent.late[phase].saturating_record(late);
        Ok(())
    }
}

/// When event `number` of a phase is planned, after the phase's begin: a burst in the middle of the time that it stands
/// for, so that none falls onto the border of two phases.
fn planned_after(phase: &Phase, number: u64) -> Duration {
    let burst = u64::from(phase.burst.max(1));
    let ns = u128::from(number / burst * burst + burst / 2) * 1_000_000_000 / u128::from(phase.rate.max(1));
    Duration::from_nanos(ns.min(u128::from(u64::MAX)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::venue::hidden_size;

    #[test]
    fn bursts_keep_the_rate_and_an_even_plan_is_even() {
        let phase = |rate, burst| Phase { rate, burst, ..Phase::plain("x", Duration::from_secs(1)) };
        let ms = |phase: &Phase, number| planned_after(phase, number).as_millis();
        let even = phase(100, 1);
        assert_eq!((ms(&even, 0), ms(&even, 1), ms(&even, 99)), (0, 10, 990));
        let bursts = phase(100, 25);
        assert_eq!((ms(&bursts, 0), ms(&bursts, 24), ms(&bursts, 25), ms(&bursts, 99)), (120, 120, 370, 870));
    }

    #[test]
    fn an_event_carries_its_planned_time() {
        let origin = Origin::now();
        let number = origin.number(origin.at + Duration::from_micros(77));
        let size = hidden_size(number);
        for text in [
            format!(r#"{{"ch":"quote","rx":"1","bid":"100.00","bid_sz":"{size}","ask":"100.01","ask_sz":"1.00"}}"#),
            format!(r#"{{"ch":"trade","rx":"1","px":"100.00","sz":"{size}","side":"buy"}}"#),
        ] {
            assert_eq!(origin.planned_ns(text.as_bytes()), Some(origin.wall_ns + 77_000), "{text}");
        }
        assert_eq!(origin.planned_ns(br#"{"ch":"trade","sz":"5"}"#), None);
        assert_eq!(origin.planned_ns(br#"{"ch":"trade"}"#), None);
    }
}
