//! `loadtest compare`: the hub beside what its users would use instead, in one run, on this machine.
//!
//! Every server gets the same updates and the same clients. It has a core for itself; client and generator share
//! another. Measurements of the hub and of a peer alternate, and what is reported is the median of the ratios within
//! such pairs, with its spread: the machine's own moods fall out.

pub mod broadcast;
pub mod cpu;
pub mod crowd;
pub mod feed;
pub mod floor;
mod nats;
pub mod payload;
pub mod plan;
pub mod profile;
mod report;
pub mod server;
pub mod spread;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};

use crate::{clock, connect, hub_process};
use plan::Slot;
use profile::{MIXED_SYMBOLS, Profile, Sample, Side};
use report::{Facts, Report};
use server::{Cores, Found, Peer};

/// Clients of the overload, where so many are asked for.
const OVERLOAD_CLIENTS: usize = 10_000;
/// Descriptors of a server that are not clients: the limit is inherited.
const DESCRIPTORS_SPARE: usize = 256;
/// Between the last handshake and the first look at memory.
const SETTLE: Duration = Duration::from_millis(300);
/// Connections a second that an estimate reckons with.
const CONNECTS_PER_S: f64 = 4_000.0;

/// Measures the hub beside peers: same load, same client, alternating, on this machine.
///
/// The exit code is 0 if every measurement came about and every delivery was right, 1 if not, 2 if it could not begin.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub struct CompareOptions {
    /// Numbers of clients
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,18000")]
    pub clients: Vec<usize>,
    /// Loads
    #[arg(long, value_enum, value_delimiter = ',', default_value = "idle_bytes,single,backlog,p99,mixed,overload")]
    pub profiles: Vec<Profile>,
    /// Servers to compare with
    #[arg(long, value_enum, value_delimiter = ',', default_value = "floor,bun,ws,nats,broadcast")]
    pub peers: Vec<Peer>,
    /// What is compared with them; a server with itself shows what the method makes of no difference
    #[arg(long, value_enum, default_value = "hub")]
    pub subject: Peer,
    /// Pairs of measurements
    #[arg(long, default_value_t = 5)]
    pub pairs: usize,
    /// How long a closed loop is measured; open loops take twice as long
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Program of the hub (default: `tickhub` beside the harness)
    #[arg(long, value_name = "PATH")]
    pub hub: Option<PathBuf>,
    /// Program of another hub, the peer `other`: two builds beside each other
    #[arg(long, value_name = "PATH")]
    pub other_hub: Option<PathBuf>,
    /// Write the result as one JSON object
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// A server of the harness itself, started by `compare`.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum PeerCommand {
    /// The bare `send()` loop
    Floor,
    /// tokio-tungstenite and a tokio broadcast channel
    Broadcast,
}

impl PeerCommand {
    /// Serves until its feed ends.
    ///
    /// # Errors
    /// As the system says.
    pub fn serve(self) -> anyhow::Result<()> {
        match self {
            Self::Floor => floor::serve().context("floor"),
            Self::Broadcast => broadcast::serve().context("broadcast"),
        }
    }
}

/// What is measured with one set of connections.
struct Sitting {
    clients: usize,
    symbols: usize,
    profiles: Vec<Profile>,
}

impl CompareOptions {
    /// Runs the comparison to its report; whether all of it came about.
    ///
    /// # Errors
    /// It cannot begin, or its result cannot be written.
    pub fn run(self) -> anyhow::Result<bool> {
        ensure!(self.pairs > 0 && self.clients.iter().all(|clients| *clients > 0), "--pairs and --clients begin at 1");
        ensure!(self.seconds >= 0.05, "--seconds must be at least 0.05");
        let most = self.clients.iter().copied().max().unwrap_or(0);
        connect::raise_descriptor_limit(most + DESCRIPTORS_SPARE)?;
        let found = Found::new(self.hub.clone(), self.other_hub.clone())?;
        let cores = Cores::choose()?;
        let mut facts = Facts::new(&self, cores);
        facts.versions.insert(self.subject.name(), found.version(self.subject)?);
        let mut peers = Vec::new();
        let other = self.other_hub.is_some() && !self.peers.contains(&Peer::Other);
        for peer in self.peers.iter().chain(other.then_some(&Peer::Other)) {
            match found.version(*peer) {
                Ok(version) => {
                    facts.versions.insert(peer.name(), version);
                    peers.push(*peer);
                }
                Err(reason) => facts.notes.push(format!("{} is left out: {reason}", peer.name())),
            }
        }
        let sittings = self.sittings();
        cores.pin_client()?;
        say(&format!("{}\n{}", facts.head(), self.estimate(&sittings, &peers)))?;
        let mut report = Report::new(self.subject, facts);
        for sitting in &sittings {
            self.sit(sitting, &peers, (&found, cores), &mut report)?;
        }
        if let Some(path) = &self.json {
            let text = serde_json::to_vec_pretty(&report.json())?;
            std::fs::write(path, text).with_context(|| format!("the result file {}", path.display()))?;
        }
        io::stdout().write_all(report.text().as_bytes())?;
        Ok(report.is_sound())
    }

    /// One symbol for all profiles that allow it, then many.
    fn sittings(&self) -> Vec<Sitting> {
        let overload = match self.clients.contains(&OVERLOAD_CLIENTS) {
            true => Some(OVERLOAD_CLIENTS),
            false => self.clients.iter().copied().max(),
        };
        let mut sittings = Vec::new();
        for &clients in &self.clients {
            let mut profiles: Vec<Profile> =
                self.profiles.iter().copied().filter(|profile| *profile != Profile::Mixed).collect();
            profiles.sort_unstable();
            profiles.dedup();
            profiles.retain(|profile| *profile != Profile::Overload || overload == Some(clients));
            if let Some(at) = profiles.iter().position(|profile| *profile == Profile::Overload) {
                profiles.insert(at, Profile::Overload1m);
            }
            if !profiles.is_empty() {
                sittings.push(Sitting { clients, symbols: 1, profiles });
            }
            if self.profiles.contains(&Profile::Mixed) {
                sittings.push(Sitting { clients, symbols: MIXED_SYMBOLS, profiles: vec![Profile::Mixed] });
            }
        }
        sittings
    }

    fn estimate(&self, sittings: &[Sitting], peers: &[Peer]) -> String {
        let runs: usize = plan::round(peers, 0).iter().map(Vec::len).sum();
        let sitting = |sitting: &Sitting| {
            let profiles = sitting.profiles.iter().map(|profile| profile.seconds(self.seconds) * 1.3).sum::<f64>();
            0.5 + SETTLE.as_secs_f64() + sitting.clients as f64 / CONNECTS_PER_S + profiles
        };
        let total = sittings.iter().map(sitting).sum::<f64>() * (runs * self.pairs) as f64;
        format!("{} pairs, about {:.0} min", self.pairs, (total / 60.0).max(1.0))
    }

    /// All pairs of one sitting.
    fn sit(
        &self,
        sitting: &Sitting,
        peers: &[Peer],
        (found, cores): (&Found, Cores),
        report: &mut Report,
    ) -> anyhow::Result<()> {
        for number in 0..self.pairs {
            for group in plan::round(peers, number) {
                let mut measured = Vec::new();
                for slot in group {
                    let peer = match slot {
                        Slot::Subject => self.subject,
                        Slot::Against(peer) => peer,
                    };
                    let samples = self.measure(sitting, peer, found, cores);
                    say(&report::progress(sitting.clients, number, peer, &samples))?;
                    measured.push((slot, samples));
                }
                report.add(sitting.clients, measured);
            }
        }
        Ok(())
    }

    /// Starts one server, connects all clients, and runs the profiles; what goes wrong is part of the result.
    fn measure(&self, sitting: &Sitting, peer: Peer, found: &Found, cores: Cores) -> BTreeMap<Profile, Sample> {
        let mut samples = BTreeMap::new();
        if let Err(error) = self.try_measure(sitting, peer, (found, cores), &mut samples) {
            let note = format!("{error:#}");
            for profile in &sitting.profiles {
                samples.entry(*profile).or_insert_with(|| Sample { notes: vec![note.clone()], ..Sample::default() });
            }
        }
        samples
    }

    fn try_measure(
        &self,
        sitting: &Sitting,
        peer: Peer,
        (found, cores): (&Found, Cores),
        samples: &mut BTreeMap<Profile, Sample>,
    ) -> anyhow::Result<()> {
        let server = found.start(peer, sitting.symbols, cores)?;
        let memory = |pid| Ok::<_, anyhow::Error>(hub_process::Sample::take(pid)?.rss as f64);
        let before = memory(server.pid())?;
        let begun = clock::instant();
        let mut side = Side::connect(server, sitting.clients, sitting.symbols, cores.server.is_some())?;
        let seconds = (clock::instant() - begun).as_secs_f64();
        std::thread::sleep(SETTLE);
        for profile in &sitting.profiles {
            let sample = match profile {
                Profile::IdleBytes => {
                    let grown = memory(side.server().pid())? - before;
                    let figure = Some(grown / sitting.clients as f64);
                    Sample { figure, whole: true, seconds, ..Sample::default() }
                }
                _ => side.run(*profile, profile.seconds(self.seconds))?,
            };
            samples.insert(*profile, sample);
        }
        Ok(())
    }
}

fn say(text: &str) -> io::Result<()> {
    writeln!(io::stderr(), "{text}")
}
