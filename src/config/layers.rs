//! The layers of the configuration: a file, and the environment above it. Every leaf is tried on
//! its own, so that all faults are found at once, each with its key and its place.

use std::collections::BTreeMap;
use std::ffi::OsString;

use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::explain::{explain, missing_field, unknown_field};
use super::{Config, PlacedFault, TOML};
use crate::settings::Fault;

/// What environment variables begin with. A single underscore is not enough: orchestrators set
/// variables such as `TICKHUB_PORT` for every service.
const ENV_PREFIX: &str = "TICKHUB__";

/// Both layers, as far as they have the form of a configuration.
#[derive(Default)]
pub(super) struct Layers {
    pub(super) merged: Table,
    /// Where each key stands, by its path: `file:line`, or the variable's name.
    places: BTreeMap<String, String>,
    /// For each list of tables the numbers of those that have the form; the others are left out.
    numbers: BTreeMap<String, Vec<usize>>,
    pub(super) faults: Vec<PlacedFault>,
}

/// One value and the keys that lead to it.
struct Leaf {
    path: Vec<String>,
    /// Its index, where it is a table in a list of them.
    index: Option<usize>,
    value: Value,
}

impl Leaf {
    fn key(&self) -> String {
        let path = self.path.join(".");
        self.index.map_or_else(|| path.clone(), |index| format!("{path}[{index}]"))
    }

    /// A whole configuration that says nothing but `value` in this place.
    fn alone(&self, value: Value) -> Value {
        let innermost = if self.index.is_some() { Value::Array(vec![value]) } else { value };
        self.path.iter().rev().fold(innermost, |inner, name| Value::Table(Table::from_iter([(name.clone(), inner)])))
    }

    /// What serde says of `value` in this place.
    fn trial(&self, value: Value) -> Result<(), String> {
        let said = |error: toml::de::Error| error.message().to_owned();
        Config::deserialize(self.alone(value).into_deserializer()).map(|_| ()).map_err(said)
    }

    /// Whether a list of tables is due in this place.
    fn takes_tables(&self) -> bool {
        let first = Self { path: self.path.clone(), index: Some(0), value: Value::Table(Table::new()) };
        let table = first.trial(first.value.clone());
        let fits = table.err().is_none_or(|said| !said.starts_with("invalid type: map"));
        fits && self.trial(Value::Array(Vec::new())).is_ok()
    }
}

impl Layers {
    /// Adds a file's text; `name` is how messages call it.
    pub(super) fn file(&mut self, name: &str, text: &str) {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            self.faults.push(PlacedFault {
                place: Some(format!("{name}:{line}")),
                fault: Fault::hidden(TOML, error.message()),
            });
        }
        // A half-read file would only make faults that are none.
        let values = match text.parse::<Table>() {
            Ok(values) => values,
            Err(error) => {
                // What the first reading let pass, such as a whole number beyond 64 bits.
                if errors.is_empty() {
                    let line = error.span().map_or(1, |span| line_of(text, span.start));
                    let place = Some(format!("{name}:{line}"));
                    self.faults.push(PlacedFault { place, fault: Fault::hidden(TOML, error.message()) });
                }
                return;
            }
        };
        mark_table(name, text, table.get_ref(), "", &mut self.places);
        let mut leaves = Vec::new();
        flatten(values, &mut Vec::new(), &mut leaves);
        let mut lists: BTreeMap<Vec<String>, Vec<Value>> = BTreeMap::new();
        for leaf in leaves {
            if leaf.index.is_some() {
                lists.entry(leaf.path).or_default().push(leaf.value);
            } else if self.single(&leaf) {
                insert(&mut self.merged, &leaf.path, leaf.value);
            }
        }
        for (path, tables) in lists {
            self.list(&path, tables);
        }
    }

    /// A list of tables: the faults of each; those without one are kept, so that what else is wrong
    /// with them is told as well.
    fn list(&mut self, path: &[String], tables: Vec<Value>) {
        let (mut kept, mut numbers) = (Vec::new(), Vec::new());
        for (index, value) in tables.into_iter().enumerate() {
            let leaf = Leaf { path: path.to_vec(), index: Some(index), value };
            if self.element(&leaf) {
                kept.push(leaf.value);
                numbers.push(index);
            }
        }
        insert(&mut self.merged, path, Value::Array(kept));
        self.numbers.insert(path.join("."), numbers);
    }

    /// A key of the merged configuration in the numbers that were written.
    pub(super) fn as_written(&self, key: &str) -> Option<String> {
        let (list, rest) = key.split_once('[')?;
        let (number, rest) = rest.split_once(']')?;
        let number = self.numbers.get(list)?.get(number.parse::<usize>().ok()?)?;
        Some(format!("{list}[{number}]{rest}"))
    }

    /// Adds the variables of the environment that begin with the prefix. An empty one counts as
    /// not set.
    pub(super) fn environment(&mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) {
        let named = |(name, value): (OsString, OsString)| {
            let name = name.into_string().ok().filter(|name| name.starts_with(ENV_PREFIX))?;
            (!value.is_empty()).then_some((name, value))
        };
        // Sorted: which of two variables comes first must not depend on the shell.
        let variables: BTreeMap<_, _> = variables.into_iter().filter_map(named).collect();
        for (name, value) in variables {
            let path: Vec<_> = name[ENV_PREFIX.len()..].split("__").map(str::to_ascii_lowercase).collect();
            let leaf = Leaf { path, index: None, value: Value::Boolean(false) };
            self.places.insert(leaf.key(), name.clone());
            if leaf.path.iter().any(String::is_empty) {
                self.fault(&leaf.key(), Fault::hidden("environment", "names no key; write TICKHUB__SECTION__KEY"));
                continue;
            }
            let Ok(text) = value.into_string() else {
                self.fault(&leaf.key(), Fault::hidden(leaf.key(), "is not UTF-8"));
                continue;
            };
            if leaf.takes_tables() {
                self.variable_of_tables(&name, &leaf, &text);
                continue;
            }
            match variable(&leaf, &text) {
                Ok(value) => insert(&mut self.merged, &leaf.path, value),
                Err(message) => {
                    // A list in braces may hold secrets.
                    let value = (!text.contains(['{', '['])).then_some(Value::String(text));
                    let mut fault = fault_of(&leaf.key(), &leaf.path, value.as_ref(), &message);
                    if let Some(list) = list_around(&leaf.path) {
                        fault.reason = format!(
                            "is inside a list: give the whole list as TOML, {ENV_PREFIX}{}='[{{ … }}]'",
                            list.join("__").to_ascii_uppercase()
                        );
                    }
                    self.fault(&leaf.key(), fault);
                }
            }
        }
    }

    /// A variable that gives a whole list of tables, in place of the file's.
    fn variable_of_tables(&mut self, name: &str, leaf: &Leaf, text: &str) {
        let key = leaf.key();
        self.places.retain(|place, _| !place.strip_prefix(&key).is_some_and(|rest| rest.starts_with('[')));
        let why = match literal(text) {
            Ok(Value::Array(tables)) if tables.iter().all(Value::is_table) => {
                return self.list(&leaf.path, tables);
            }
            Ok(_) => String::new(),
            // Where it was meant as one, what is wrong with its TOML.
            Err(message) if text.trim_start().starts_with(['[', '{']) => format!("; this is no TOML: {message}"),
            Err(_) => String::new(),
        };
        self.fault(&key, Fault::hidden(&key, format!("must be a list of tables, {name}='[{{ … }}]'{why}")));
    }

    /// The configuration of what has its form; the rest is as if it were not there.
    pub(super) fn config(&mut self) -> Config {
        Config::deserialize(Value::Table(self.merged.clone()).into_deserializer()).unwrap_or_else(|error| {
            let fault = Fault::hidden("configuration", explain(error.message(), true));
            self.faults.push(PlacedFault { place: None, fault });
            Config::default()
        })
    }

    /// Where a key stands, or else the nearest table around it that stands somewhere.
    pub(super) fn place(&self, key: &str) -> Option<String> {
        let mut key = key;
        loop {
            if let Some(place) = self.places.get(key) {
                return Some(place.clone());
            }
            key = &key[..key.rfind(['.', '['])?];
        }
    }

    fn fault(&mut self, key: &str, fault: Fault) {
        self.faults.push(PlacedFault { place: self.place(key), fault });
    }

    fn single(&mut self, leaf: &Leaf) -> bool {
        let Err(message) = leaf.trial(leaf.value.clone()) else { return true };
        let fault = fault_of(&leaf.key(), &leaf.path, Some(&leaf.value), &message);
        self.fault(&leaf.key(), fault);
        false
    }

    /// Every fault of a table in a list: it has members that must be there, so they cannot be
    /// tried one by one. Instead the one at fault is taken away, until nothing is said any more.
    fn element(&mut self, leaf: &Leaf) -> bool {
        let Value::Table(mut members) = leaf.value.clone() else { return self.single(leaf) };
        let mut told: Vec<String> = Vec::new();
        while let Err(message) = leaf.trial(Value::Table(members.clone())) {
            if missing_field(&message).is_some_and(|name| told.iter().any(|told| told == name)) {
                break;
            }
            let Some(name) = culprit(leaf, &members, &message) else {
                self.fault(&leaf.key(), Fault::hidden(leaf.key(), explain(&message, true)));
                return false;
            };
            let key = format!("{}.{name}", leaf.key());
            let fault = fault_of(&key, std::slice::from_ref(&name), members.remove(&name).as_ref(), &message);
            self.fault(&key, fault);
            told.push(name);
        }
        told.is_empty()
    }
}

/// The member that `message` is about: without it the table is well, or something else is said.
fn culprit(leaf: &Leaf, members: &Table, message: &str) -> Option<String> {
    if let Some(name) = unknown_field(message).filter(|name| members.contains_key(*name)) {
        return Some(name.to_owned());
    }
    if missing_field(message).is_some() {
        return None;
    }
    let without = |name: &String| {
        let mut fewer = members.clone();
        fewer.remove(name);
        // The smaller, the surer: one that must be there is missed by its name whatever its fault.
        match leaf.trial(Value::Table(fewer)) {
            Ok(()) => Some(0),
            Err(other) if missing_field(&other).is_none() && other != message => Some(1),
            Err(other) if missing_field(&other) == Some(name) => Some(2),
            Err(_) => None,
        }
    };
    members.keys().filter_map(|name| Some((without(name)?, name))).min().map(|(_, name)| name.clone())
}

fn fault_of(key: &str, path: &[String], value: Option<&Value>, message: &str) -> Fault {
    if message.starts_with("invalid type: map, expected a sequence") {
        let list = key.rsplit_once('.').map_or(key, |(list, _)| list);
        return Fault::hidden(key, format!("stands in a table where a list of tables is due; write [[{list}]]"));
    }
    let secret = is_secret(path);
    let reason = explain(message, secret);
    let value = value.filter(|_| !secret && unknown_field(message).is_none());
    match value {
        Some(Value::String(text)) => Fault::new(key, text, reason),
        Some(Value::Integer(number)) => Fault::new(key, number, reason),
        Some(Value::Float(number)) => Fault::new(key, number, reason),
        Some(Value::Boolean(truth)) => Fault::new(key, truth, reason),
        _ => Fault::hidden(key, reason),
    }
}

/// Whether the value of a key must not be shown, judged by its name.
fn is_secret(path: &[String]) -> bool {
    let secrets = ["secret", "password", "passphrase", "token", "hash", "key", "private"];
    path.last().is_some_and(|name| !name.ends_with("_file") && secrets.iter().any(|secret| name.contains(secret)))
}

/// A variable's value in the type that its key has: its text, else the TOML that it is, else a
/// list of what stands between its commas.
fn variable(leaf: &Leaf, text: &str) -> Result<Value, String> {
    let list = text.split(',').map(|part| Value::String(part.trim().to_owned())).collect();
    let mut said = leaf.trial(Value::String(text.to_owned())).err();
    if said.is_none() {
        return Ok(Value::String(text.to_owned()));
    }
    for value in literal(text).into_iter().chain([Value::Array(list)]) {
        match leaf.trial(value.clone()) {
            Ok(()) => return Ok(value),
            Err(message) if !value.is_array() => said = Some(message),
            Err(_) => {}
        }
    }
    Err(said.unwrap_or_default())
}

/// The value that `text` is in TOML, or what is wrong with it, without any part of it.
fn literal(text: &str) -> Result<Value, String> {
    let table = format!("value = {text}").parse::<Table>();
    let mut table = table.map_err(|error| error.message().to_owned())?;
    // A line break in it would begin another key.
    let value = table.remove("value").filter(|_| table.is_empty());
    value.ok_or_else(|| "more than one value".to_owned())
}

/// The keys before the first that is a number, as in `AUTH__KEYS__0__SECRET`.
fn list_around(path: &[String]) -> Option<&[String]> {
    let number = path.iter().position(|name| name.bytes().all(|b| b.is_ascii_digit()))?;
    Some(&path[..number])
}

fn flatten(table: Table, path: &mut Vec<String>, leaves: &mut Vec<Leaf>) {
    for (name, value) in table {
        path.push(name);
        match value {
            Value::Table(inner) if !inner.is_empty() => flatten(inner, path, leaves),
            Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_table) => {
                let element = |(index, value)| Leaf { path: path.clone(), index: Some(index), value };
                leaves.extend(list.into_iter().enumerate().map(element));
            }
            value => leaves.push(Leaf { path: path.clone(), index: None, value }),
        }
        path.pop();
    }
}

fn insert(table: &mut Table, path: &[String], value: Value) {
    let Some((name, parents)) = path.split_last() else { return };
    let mut inner = table;
    for parent in parents {
        let slot = inner.entry(parent.clone()).or_insert_with(|| Value::Table(Table::new()));
        // A leaf was tried in this place, so what stands above it is a table.
        let Value::Table(next) = slot else { return };
        inner = next;
    }
    inner.insert(name.clone(), value);
}

fn mark_table(file: &str, text: &str, table: &DeTable<'_>, prefix: &str, places: &mut BTreeMap<String, String>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
        places.insert(key.clone(), format!("{file}:{}", line_of(text, name.span().start)));
        mark_value(file, text, value, &key, places);
    }
}

fn mark_value(file: &str, text: &str, value: &Spanned<DeValue<'_>>, key: &str, places: &mut BTreeMap<String, String>) {
    match value.get_ref() {
        DeValue::Table(inner) => mark_table(file, text, inner, key, places),
        DeValue::Array(list) => {
            for (index, element) in list.iter().enumerate() {
                let key = format!("{key}[{index}]");
                places.insert(key.clone(), format!("{file}:{}", line_of(text, element.span().start)));
                mark_value(file, text, element, &key, places);
            }
        }
        _ => {}
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}
