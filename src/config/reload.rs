//! What of a changed configuration a running hub takes over, and what waits for a restart.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use toml::Value as Toml;

use super::layers::Layers;
use super::{Config, read_file};

/// Files beside the configuration's own that are watched, at most: a bound for a wrong file.
const FILES_MAX: usize = 256;

/// Files that a hub which serves is told of beside its configuration's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServeFiles {
    /// Where the configuration stands, to be read again.
    pub config: Option<PathBuf>,
    /// What shall say when the hub is ready and where.
    pub ready: Option<PathBuf>,
}

macro_rules! reloaded {
    ($($section:ident . $key:ident),* $(,)?) => {
        /// The keys that a running hub takes over, and all below them; every other one waits for
        /// a restart.
        pub const RELOADED: &[&str] = &["auth", $(concat!(stringify!($section), ".", stringify!($key))),*];

        fn take_over(running: &mut Config, next: &Config) {
            running.auth.clone_from(&next.auth);
            $(running.$section.$key.clone_from(&next.$section.$key);)*
        }
    };
}

reloaded! {
    limits.sessions,
    limits.connections,
    limits.message_bytes,
    limits.commands_per_second,
    limits.subscriptions,
    limits.outbox_events,
    limits.outbox_bytes,
    timeouts.authentication,
    timeouts.ping,
    timeouts.idle,
    timeouts.write_stall,
    timeouts.catch_up,
    timeouts.close,
    log.level,
}

impl Config {
    /// What a hub that runs with this configuration runs with once `next` is read, and the keys of
    /// `next` that wait for a restart.
    #[must_use]
    pub fn reloaded(&self, next: &Self) -> (Self, Vec<String>) {
        let mut running = self.clone();
        take_over(&mut running, next);
        // The token paths were built with it.
        running.auth.tokens = self.auth.tokens;
        let waiting = running.differing(next);
        (running, waiting)
    }

    /// The keys in which two configurations differ; secrets are not compared.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        // Neither can fail: a configuration is what was read from a file.
        if let (Ok(this), Ok(other)) = (serde_json::to_value(self), serde_json::to_value(other)) {
            differences("", &this, &other, &mut found);
        }
        found
    }

    /// The files that a configuration names in keys that end with `_file`, so that a change of them
    /// can be seen; also of one that has faults. `None` where it cannot be read at all.
    #[must_use]
    pub fn files(file: Option<&Path>) -> Option<BTreeSet<PathBuf>> {
        let mut layers = Layers::default();
        if let Some(path) = file {
            layers.file("", &read_file(path).ok()?);
        }
        layers.environment(std::env::vars_os());
        let mut files = BTreeSet::new();
        collect(&Toml::Table(layers.merged), &mut files);
        Some(files)
    }
}

/// The paths of all leaves in which two configurations differ.
fn differences(path: &str, running: &Value, next: &Value, found: &mut Vec<String>) {
    match (running, next) {
        (Value::Object(a), Value::Object(b)) => {
            let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for name in names {
                let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let of = |object: &serde_json::Map<_, _>| object.get(name).cloned().unwrap_or_default();
                differences(&key, &of(a), &of(b), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{index}]"), a, b, found);
            }
        }
        _ if running != next => found.push(path.to_owned()),
        _ => {}
    }
}

fn collect(value: &Toml, files: &mut BTreeSet<PathBuf>) {
    match value {
        Toml::Table(table) => {
            for (name, value) in table {
                match value {
                    Toml::String(path) if name.ends_with("_file") && files.len() < FILES_MAX => {
                        files.insert(PathBuf::from(path));
                    }
                    value => collect(value, files),
                }
            }
        }
        Toml::Array(values) => values.iter().for_each(|value| collect(value, files)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Span;

    fn config(text: &str) -> Config {
        Config::read(Some(("test.toml", text)), std::iter::empty()).expect("no faults")
    }

    #[test]
    fn what_can_be_taken_over_is_and_the_rest_is_named() {
        let running = Config::default();
        let next = config(
            "[server]\nlisten = \"127.0.0.1:1\"\n[limits]\nsessions = 7\nresume_bytes = 0\n[log]\nlevel = \"warn\"\n\
             [timeouts]\nidle = \"1m\"\ndrain = \"1s\"\n[auth]\nissuer = \"other\"\n\
             [[provider]]\nkind = \"sim\"\ninstruments = 3\n",
        );
        let (now, waiting) = running.reloaded(&next);
        assert_eq!(waiting, ["limits.resume_bytes", "provider[0].instruments", "server.listen", "timeouts.drain"]);
        assert_eq!((now.limits.sessions, now.limits.resume_bytes), (7, running.limits.resume_bytes));
        assert_eq!((now.timeouts.idle, now.timeouts.drain), (Span::seconds(60), running.timeouts.drain));
        assert_eq!((now.log.level.as_str(), now.auth.issuer.as_str()), ("warn", "other"));
        assert_eq!(now.server, running.server);
        let (_, waiting) = now.reloaded(&now);
        assert_eq!(waiting, [""; 0]);
        let (_, waiting) =
            running.reloaded(&config("[[provider]]\nkind = \"sim\"\n[[provider]]\nkind = \"sim\"\nvenue = \"B\"\n"));
        assert_eq!(waiting, ["provider"], "one more has no counterpart to differ from");
    }

    #[test]
    fn every_key_that_is_taken_over_stands_in_the_configuration_and_on_the_page() {
        let whole = serde_json::to_value(Config::default()).expect("serializes");
        let page = include_str!("../../docs/operations.md");
        for key in RELOADED {
            assert!(whole.pointer(&format!("/{}", key.replace('.', "/"))).is_some(), "there is no {key}");
            assert!(page.contains(&format!("`{key}`")), "docs/operations.md does not name {key}");
        }
    }

    #[test]
    fn files_are_found_whatever_else_is_wrong() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("hub.toml");
        std::fs::write(&path, "[limits]\nsessions = -1\n[[auth.keys]]\nkid = \"a\"\nsecret_file = \"/absent\"\n")
            .expect("writes");
        assert!(Config::load(Some(&path)).is_err());
        assert_eq!(Config::files(Some(&path)), Some([PathBuf::from("/absent")].into()));
        std::fs::write(&path, "[limits").expect("writes");
        assert_eq!(Config::files(Some(&path)), Some(BTreeSet::new()));
        assert_eq!(Config::files(Some(&folder.path().join("none"))), None);
    }
}
