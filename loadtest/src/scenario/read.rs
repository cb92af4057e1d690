//! Scenario files: TOML, every key known, every fault told with its key, its value, the reason and the way out.

use std::{cell::RefCell, ops::RangeInclusive, time::Duration};

use anyhow::{Context, bail};
use toml::{Table, Value};

use super::{
    CLIENTS_MAX, Group, LATENESS_P99_MAX, Mode, Overflow, PHASES_MAX, PerClient, Phase, RATE_MAX, Reconnect, Scenario,
    Source, Subscription, VenueSource, Wrong, duration, share,
};
use crate::venue::SYMBOLS_MAX;

/// Reads a scenario from the text of a file; `overrides` are `key=value`, and count above the file.
///
/// # Errors
/// All that is wrong with it, a line each.
pub fn from_toml(text: &str, overrides: &[String]) -> anyhow::Result<Scenario> {
    let mut table: Table = text.parse().map_err(|error: toml::de::Error| anyhow::anyhow!("{error}"))?;
    for change in overrides {
        let (key, value) = change.split_once('=').with_context(|| format!("--set {change}: write key=value"))?;
        let path: Vec<&str> = key.trim().split('.').collect();
        set(&mut table, &path, &value_of(value.trim()))
            .map_err(|reason| anyhow::anyhow!("--set {change}: {reason}"))?;
    }
    let wrongs = RefCell::new(Vec::new());
    let scenario = scenario(table, &wrongs);
    let mut wrongs = wrongs.into_inner();
    // What does not fit together is told only where its parts could be read.
    if wrongs.is_empty() {
        wrongs = scenario.wrongs();
    }
    if !wrongs.is_empty() {
        let lines: Vec<String> = wrongs.iter().map(ToString::to_string).collect();
        bail!("{}", lines.join("\n"));
    }
    Ok(scenario)
}

/// A value as TOML writes it; what is none is a text, so that `--set phase.storm.duration=5s` needs no quotes.
fn value_of(text: &str) -> Value {
    let whole = format!("value = {text}").parse::<Table>();
    whole.ok().and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Sets what `path` names. An entry of a list is named by its place, by its `name`, or `*` for all.
fn set(table: &mut Table, path: &[&str], value: &Value) -> Result<(), String> {
    let [key, rest @ ..] = path else { return Ok(()) };
    if rest.is_empty() {
        table.insert((*key).to_owned(), value.clone());
        return Ok(());
    }
    match table.get_mut(*key) {
        Some(Value::Table(inner)) => set(inner, rest, value),
        Some(Value::Array(entries)) => {
            let (which, rest) = (rest[0], &rest[1..]);
            let mut met = false;
            for (at, entry) in entries.iter_mut().enumerate() {
                let Value::Table(entry) = entry else { continue };
                let named = entry.get("name").and_then(Value::as_str) == Some(which);
                if which == "*" || named || which.parse() == Ok(at) {
                    met = true;
                    set(entry, rest, value)?;
                }
            }
            if met && !rest.is_empty() { Ok(()) } else { Err(format!("the scenario has no {key}.{which}")) }
        }
        Some(_) => Err(format!("{key} is no table")),
        None => {
            let inner = table.entry((*key).to_owned()).or_insert_with(|| Value::Table(Table::new()));
            inner.as_table_mut().map_or(Ok(()), |inner| set(inner, rest, value))
        }
    }
}

/// The keys of one table: each is taken out as it is read, and what is left at the end is unknown.
struct Keys<'a> {
    /// Where the table stands, with a dot behind; empty for the whole file.
    place: String,
    table: Table,
    asked: Vec<&'static str>,
    wrongs: &'a RefCell<Vec<Wrong>>,
}

impl<'a> Keys<'a> {
    fn wrong(&self, key: &str, value: &Value, reason: &str, fix: &str) {
        let value = crate::measure::shown(serde_json::to_string(value).unwrap_or_default().as_bytes());
        self.wrongs.borrow_mut().push(Wrong::new(format!("{}{key}", self.place), value, reason, fix));
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.table.remove(key)
    }

    fn read<T>(&mut self, key: &'static str, fix: &str, default: T, parse: impl Fn(&Value) -> Result<T, String>) -> T {
        let Some(value) = self.take(key) else { return default };
        match parse(&value) {
            Ok(read) => read,
            Err(reason) => {
                self.wrong(key, &value, &reason, fix);
                default
            }
        }
    }

    fn text(&mut self, key: &'static str, default: &str) -> String {
        self.read(key, "write it in quotes", default.to_owned(), |value| {
            value.as_str().map(str::to_owned).ok_or_else(|| "a text is needed".to_owned())
        })
    }

    fn integer(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = (*range.start(), *range.end());
        let fix = format!("write a whole number from {low} to {high}");
        self.read(key, &fix, default, |value| {
            let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
            let number = number.ok_or_else(|| "it is no whole number from 0".to_owned())?;
            if range.contains(&number) { Ok(number) } else { Err(format!("it is not between {low} and {high}")) }
        })
    }

    fn optional_integer(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u32> {
        self.table.contains_key(key).then(|| self.integer(key, *range.start(), range) as u32)
    }

    fn duration(&mut self, key: &'static str, default: Duration) -> Duration {
        self.read(key, "write a number and a unit, as in \"30s\"", default, |value| match value {
            Value::String(text) => duration(text),
            _ => Err("a duration is a text".to_owned()),
        })
    }

    fn share(&mut self, key: &'static str, default: f64) -> f64 {
        self.read(key, "write it as \"1%\" or 0.01", default, |value| match value {
            Value::String(text) => share(text),
            Value::Float(number) => share(&number.to_string()),
            Value::Integer(number) => share(&number.to_string()),
            _ => Err("it is no share".to_owned()),
        })
    }

    fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.read(key, "write true or false", default, |value| {
            value.as_bool().ok_or_else(|| "it is neither true nor false".to_owned())
        })
    }

    fn one_of<T: Copy>(&mut self, key: &'static str, default: T, choices: &[(&str, T)]) -> T {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.read(key, &format!("write one of {}", names.join(", ")), default, |value| {
            let chosen = choices.iter().find(|(name, _)| value.as_str() == Some(name));
            chosen.map(|(_, choice)| *choice).ok_or_else(|| "it is none of what it can be".to_owned())
        })
    }

    /// The tables of a list, each placed by its name, or its number where it has none.
    fn tables(&mut self, key: &'static str) -> Vec<Self> {
        let value = self.take(key);
        let entries = match value {
            None => Vec::new(),
            Some(Value::Array(entries)) => entries,
            Some(other) => {
                self.wrong(key, &other, "a list of tables is needed", &format!("write [[{key}]]"));
                Vec::new()
            }
        };
        let table = |(at, entry): (usize, Value)| match entry {
            Value::Table(table) => {
                let named = ["name", "channel"].iter().find_map(|key| table.get(*key).and_then(Value::as_str));
                let name = named.map_or_else(|| at.to_string(), str::to_owned);
                Some(self.inner(format!("{}{key}.{name}.", self.place), table))
            }
            other => {
                self.wrong(key, &other, "a table is needed", &format!("write [[{key}]]"));
                None
            }
        };
        entries.into_iter().enumerate().filter_map(table).collect()
    }

    fn table(&mut self, key: &'static str) -> Self {
        let table = match self.take(key) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                self.wrong(key, &other, "a table is needed", &format!("write [{key}]"));
                Table::new()
            }
        };
        self.inner(format!("{}{key}.", self.place), table)
    }

    fn inner(&self, place: String, table: Table) -> Self {
        Self { place, table, asked: Vec::new(), wrongs: self.wrongs }
    }

    /// Whatever has not been asked for is a key that does not exist.
    fn finish(self) {
        for (key, value) in &self.table {
            let meant = self.asked.iter().min_by_key(|known| distance(known, key));
            let fix = match meant {
                Some(meant) if distance(meant, key) <= 3 => format!("did you mean `{meant}`?"),
                _ => format!("known here are {}", self.asked.join(", ")),
            };
            self.wrong(key, value, "there is no such key", &fix);
        }
    }
}

/// How many letters two words differ by (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn scenario(table: Table, wrongs: &RefCell<Vec<Wrong>>) -> Scenario {
    let mut keys = Keys { place: String::new(), table, asked: Vec::new(), wrongs };
    let rate = 1..=u64::from(RATE_MAX);
    let name = keys.text("name", "unnamed");
    let about = keys.text("about", "");
    let own: Vec<Subscription> = keys.tables("subscribe").into_iter().map(subscription).collect();
    let mut groups: Vec<Group> = keys.tables("group").into_iter().map(group).collect();
    if !own.is_empty() && !groups.is_empty() {
        let reason = "a client is in one group, and these are in none";
        wrongs.borrow_mut().push(Wrong::new("subscribe", own.len(), reason, "write them as [[group.subscribe]]"));
    } else if !own.is_empty() {
        groups = vec![Group { name: "all".to_owned(), share: 1.0, subscriptions: own }];
    } else if groups.is_empty() {
        let fix = "add [[subscribe]] with `channel` and `symbols`";
        wrongs.borrow_mut().push(Wrong::new("subscribe", "absent", "the clients would hold nothing", fix));
    }
    let phases: Vec<Phase> = keys.tables("phase").into_iter().map(phase).collect();
    if phases.is_empty() || phases.len() > PHASES_MAX {
        let reason = format!("a scenario has 1 to {PHASES_MAX} phases");
        wrongs.borrow_mut().push(Wrong::new(
            "phase",
            phases.len(),
            &reason,
            "write [[phase]] with `name` and `duration`",
        ));
    }
    let scenario = Scenario {
        name,
        about,
        clients: keys.integer("clients", 100, 1..=CLIENTS_MAX as u64) as usize,
        threads: keys.integer("threads", 1, 1..=256) as usize,
        seed: keys.integer("seed", 1, 0..=i64::MAX as u64),
        connect_rate: keys.integer("connect_rate", 4_000, rate) as u32,
        connect_timeout: keys.duration("connect_timeout", Duration::from_secs(30)),
        settle: keys.duration("settle", Duration::from_secs(1)),
        tail: keys.duration("tail", Duration::from_secs(10)),
        check_values: keys.integer("check_values", 16, 0..=u64::from(u32::MAX)) as u32,
        lateness_p99_max: keys.duration("lateness_p99_max", LATENESS_P99_MAX),
        source: source(keys.table("source")),
        groups,
        phases,
    };
    keys.finish();
    scenario
}

fn source(mut keys: Keys<'_>) -> Source {
    let venue = keys.one_of("kind", false, &[("hub", false), ("venue", true)]);
    let source = if venue {
        Source::Venue(VenueSource { instruments: keys.integer("instruments", 50, 1..=SYMBOLS_MAX as u64) as usize })
    } else {
        Source::Hub
    };
    keys.finish();
    source
}

fn group(mut keys: Keys<'_>) -> Group {
    let group = Group {
        name: keys.text("name", "unnamed"),
        share: keys.share("share", 1.0),
        subscriptions: keys.tables("subscribe").into_iter().map(subscription).collect(),
    };
    if group.subscriptions.is_empty() {
        keys.wrong("subscribe", &Value::Array(Vec::new()), "its clients would hold nothing", "add [[group.subscribe]]");
    }
    keys.finish();
    group
}

fn subscription(mut keys: Keys<'_>) -> Subscription {
    let channel = keys.text("channel", "quote");
    let read = Subscription {
        mode: keys.one_of("mode", Mode::Every, &[("every", Mode::Every), ("latest", Mode::Latest)]),
        symbols: keys.read("symbols", "write [\"SIM:*\"]", vec!["*".to_owned()], |value| {
            let texts = value.as_array().map(|list| list.iter().map(|one| one.as_str().map(str::to_owned)).collect());
            texts.flatten().ok_or_else(|| "a list of texts is needed".to_owned())
        }),
        per_client: keys.read(
            "symbols_per_client",
            "write a number from 1, or \"all\"",
            PerClient::Count(1),
            |value| match (value.as_str(), value.as_integer()) {
                (Some("all"), _) => Ok(PerClient::All),
                (_, Some(count @ 1..)) => Ok(PerClient::Count(count as usize)),
                _ => Err("it is neither a number from 1 nor \"all\"".to_owned()),
            },
        ),
        max_rate: keys.optional_integer("max_rate", 1..=u64::from(u32::MAX)),
        depth: keys.optional_integer("depth", 0..=1_000),
        overflow: {
            let choices = [("gap", Some(Overflow::Gap)), ("disconnect", Some(Overflow::Disconnect))];
            keys.one_of("overflow", None, &choices)
        },
        channel,
    };
    keys.finish();
    read
}

fn phase(mut keys: Keys<'_>) -> Phase {
    let comes_back = keys.share("reconnect", 0.0);
    let reconnect_rate = keys.integer("reconnect_rate", 1_000, 1..=u64::from(RATE_MAX)) as u32;
    let read = Phase {
        name: keys.text("name", "unnamed"),
        duration: keys.duration("duration", Duration::from_secs(10)),
        measure: keys.flag("measure", true),
        slow: keys.share("slow", 0.0),
        slow_bytes_per_s: keys.integer("slow_bytes_per_s", 0, 0..=u64::from(u32::MAX)),
        reconnect: (comes_back > 0.0).then_some(Reconnect { share: comes_back, rate: reconnect_rate }),
        churn_rate: keys.integer("churn_rate", 0, 0..=u64::from(RATE_MAX)) as u32,
        rate: keys.integer("rate", 0, 0..=u64::from(RATE_MAX)) as u32,
        burst: keys.integer("burst", 1, 1..=u64::from(RATE_MAX)) as u32,
    };
    keys.finish();
    read
}
