//! What the tests of a whole hub share.
#![allow(dead_code, unreachable_pub)] // Each test uses a part of it.

pub mod client;
pub mod pki;
pub mod secrets;

use tickhub::config::{Config, ConfigError};
use tickhub::server::{Hub, Reloaded};

/// A hub with a small simulated market on free ports, changed by lines of configuration.
pub struct TestHub {
    pub hub: Option<Hub>,
    pub http: String,
    pub token: String,
    state: tempfile::TempDir,
}

/// The configuration of a test's hub.
fn config(state: &tempfile::TempDir, text: &str) -> Config {
    let head = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nops_listen = \"127.0.0.1:0\"\nstate_dir = {:?}\nworker_threads = 2\n",
        state.path().join("state")
    );
    let text = format!("{head}\n{text}");
    Config::read(Some(("test.toml", &text)), std::iter::empty()).expect("a sane configuration")
}

/// Starts a hub; `text` is added to the configuration.
pub async fn hub(text: &str) -> TestHub {
    let state = tempfile::tempdir().expect("a directory");
    let config = config(&state, text);
    let hub = tokio::task::spawn_blocking(move || Hub::start(&config)).await.expect("no panic").expect("a hub");
    let ready = hub.ready().clone();
    let http = ready.http.trim_start_matches("http://").trim_start_matches("https://").to_owned();
    TestHub { hub: Some(hub), http, token: ready.token, state }
}

impl TestHub {
    /// Drains it as SIGTERM does.
    pub async fn drain(&mut self) {
        let hub = self.hub.take().expect("not drained yet");
        tokio::task::spawn_blocking(move || hub.drain()).await.expect("no panic");
    }

    /// Has it take over another configuration, as SIGHUP does.
    pub async fn reload(&mut self, text: &str) -> Result<Reloaded, ConfigError> {
        let config = config(&self.state, text);
        self.hub.as_mut().expect("running").reload(&config).await
    }

    /// Its metrics.
    pub fn metrics(&self) -> String {
        self.hub.as_ref().expect("running").registry().render()
    }
}
