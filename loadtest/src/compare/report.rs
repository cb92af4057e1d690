//! What a comparison says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    CompareOptions,
    plan::Slot,
    profile::{Profile, Sample},
    server::{Cores, Peer},
    spread::{Spread, ratios},
};

/// Tasks that run besides this one, in the mean of the last minute; more would share the cores of the comparison.
const LOAD_MAX: f64 = 0.5;

/// What the result has to be read with.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Facts {
    tool: String,
    /// Of each server.
    pub(super) versions: BTreeMap<&'static str, String>,
    machine: Machine,
    options: Value,
    /// What is missing, and why.
    pub(super) notes: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
struct Machine {
    processor: String,
    kernel: String,
    cores: Cores,
}

impl Facts {
    pub(super) fn new(options: &CompareOptions, cores: Cores) -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let model = text("/proc/cpuinfo");
        let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let machine = Machine {
            processor: model.map_or("unknown", |(_, name)| name).trim().to_owned(),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            cores,
        };
        let mut notes = Vec::new();
        let load = text("/proc/loadavg").split(' ').next().and_then(|load| load.parse::<f64>().ok()).unwrap_or(0.0);
        if load > LOAD_MAX {
            notes.push(format!("the machine was busy before this began (load {load}): do not rely on the figures"));
        }
        if cores.server.is_none() {
            notes.push("there is one core: server and client share it, so no figure means much".to_owned());
        }
        Self {
            tool: format!("loadtest {}", env!("CARGO_PKG_VERSION")),
            versions: BTreeMap::new(),
            machine,
            options: json!({
                "clients": options.clients, "pairs": options.pairs, "seconds": options.seconds,
                "profiles": options.profiles, "subject": options.subject, "peers": options.peers,
            }),
            notes,
        }
    }

    pub(super) fn head(&self) -> String {
        let Machine { processor, kernel, cores } = &self.machine;
        let server = cores.server.map_or_else(|| "the same".to_owned(), |core| format!("core {core}"));
        let mut out = format!("{processor}, Linux {kernel}; client on core {}, server on {server}", cores.client);
        for (name, version) in &self.versions {
            let _ = write!(out, "\n  {name}: {version}");
        }
        for note in &self.notes {
            let _ = write!(out, "\n  {note}");
        }
        out
    }
}

/// What one group of adjacent measurements brought, in their order.
type Measured = Vec<(Slot, BTreeMap<Profile, Sample>)>;

/// Everything measured, and what follows from it.
pub(super) struct Report {
    subject: Peer,
    facts: Facts,
    samples: BTreeMap<(Profile, usize), BTreeMap<Peer, Vec<Sample>>>,
    /// Figures of the subject and the peer, pair by pair.
    pairs: BTreeMap<(Profile, usize, Peer), Vec<(f64, f64)>>,
}

impl Report {
    pub(super) fn new(subject: Peer, facts: Facts) -> Self {
        Self { subject, facts, samples: BTreeMap::new(), pairs: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, clients: usize, measured: Measured) {
        let subject = measured.iter().find(|(slot, _)| *slot == Slot::Subject).map(|(_, samples)| samples.clone());
        for (slot, samples) in measured {
            for (profile, sample) in samples {
                let over = subject.as_ref().and_then(|subject| subject.get(&profile)?.figure);
                let peer = match slot {
                    Slot::Subject => self.subject,
                    Slot::Against(peer) => {
                        if let (Some(over), Some(under)) = (over, sample.figure) {
                            self.pairs.entry((profile, clients, peer)).or_default().push((over, under));
                        }
                        peer
                    }
                };
                self.samples.entry((profile, clients)).or_default().entry(peer).or_default().push(sample);
            }
        }
    }

    /// Whether everything was right with what is compared, and with the floor: what other servers lose is theirs to
    /// answer for, and stands in the notes.
    pub(super) fn is_sound(&self) -> bool {
        self.samples.values().flatten().all(|(peer, samples)| {
            let own = *peer == self.subject || *peer == Peer::Floor;
            !own || samples.iter().all(|sample| sample.violations == 0 && sample.figure.is_some())
        })
    }

    pub(super) fn json(&self) -> Value {
        let mut medians: BTreeMap<&str, BTreeMap<String, Map<String, Value>>> = BTreeMap::new();
        let mut spreads = medians.clone();
        for ((profile, clients, peer), pairs) in &self.pairs {
            if let Some(spread) = ratios(pairs) {
                let name = format!("{}/{}", self.subject.name(), peer.name());
                let place = |map: &mut BTreeMap<&str, BTreeMap<String, Map<String, Value>>>, value: Value| {
                    map.entry(profile.name())
                        .or_default()
                        .entry(clients.to_string())
                        .or_default()
                        .insert(name.clone(), value);
                };
                place(&mut medians, json!(spread.median));
                place(&mut spreads, json!({"ratio": spread, "pairs": pairs}));
            }
        }
        let mut samples: BTreeMap<&str, BTreeMap<String, Map<String, Value>>> = BTreeMap::new();
        for ((profile, clients), by_peer) in &self.samples {
            let place = samples.entry(profile.name()).or_default().entry(clients.to_string()).or_default();
            for (peer, samples) in by_peer {
                let figure = Spread::of(samples.iter().filter_map(|sample| sample.figure));
                let value = json!({"figure": profile.figure(), "spread": figure, "samples": samples});
                place.insert(peer.name().to_owned(), value);
            }
        }
        json!({"format": 1, "ratios": medians, "spread": spreads, "servers": samples, "facts": self.facts})
    }

    pub(super) fn text(&self) -> String {
        let mut out = format!("{}\n", self.facts.head());
        let mut notes = BTreeSet::new();
        for ((profile, clients), by_peer) in &self.samples {
            let _ = writeln!(out, "\n{} · {clients} clients · {}", profile.name(), profile.figure());
            let _ = writeln!(
                out,
                "  {:<10}{:>11}{:>11}{:>11}   {:<26}{:>9}{:>9}",
                "",
                "median",
                "min",
                "max",
                format!("{}/peer (quartiles)", self.subject.name()),
                "server",
                "client"
            );
            for (peer, samples) in by_peer {
                let figure = Spread::of(samples.iter().filter_map(|sample| sample.figure));
                let ratio = self.pairs.get(&(*profile, *clients, *peer)).and_then(|pairs| ratios(pairs));
                let _ = writeln!(out, "  {:<10}{}", peer.name(), row(samples, figure, ratio));
                for note in samples.iter().flat_map(|sample| &sample.notes) {
                    notes.insert(format!("{} {clients} {}: {note}", profile.name(), peer.name()));
                }
            }
        }
        if !notes.is_empty() {
            out += "\nNotes\n";
        }
        for note in notes {
            let _ = writeln!(out, "  {note}");
        }
        out
    }
}

fn row(samples: &[Sample], figure: Option<Spread>, ratio: Option<Spread>) -> String {
    let share = |of: fn(&Sample) -> f64| Spread::of(samples.iter().map(of)).map_or(0.0, |spread| spread.median);
    let figures = match figure {
        None => format!("{:>11}{:>11}{:>11}", "-", "-", "-"),
        Some(Spread { min, median, max, .. }) => format!("{:>11}{:>11}{:>11}", shown(median), shown(min), shown(max)),
    };
    let ratio =
        ratio.map_or_else(String::new, |Spread { median, q1, q3, .. }| format!("{median:.3} ({q1:.3}-{q3:.3})"));
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let (server, client) = (percent(share(|sample| sample.server_busy)), percent(share(|sample| sample.client_busy)));
    format!("{figures}   {ratio:<26}{server:>9}{client:>9}")
}

/// Three digits and more.
fn shown(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// One line while it runs.
pub(super) fn progress(clients: usize, pair: usize, peer: Peer, samples: &BTreeMap<Profile, Sample>) -> String {
    let one = |(profile, sample): (&Profile, &Sample)| match sample.figure {
        Some(figure) => format!("{} {}", profile.name(), shown(figure)),
        None => format!("{} - ({})", profile.name(), sample.notes.join("; ")),
    };
    let all: Vec<String> = samples.iter().map(one).collect();
    format!("{clients:>6} clients, pair {}: {:<10}{}", pair + 1, peer.name(), all.join(", "))
}
