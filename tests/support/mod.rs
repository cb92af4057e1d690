//! What the tests of a whole hub share.
#![allow(dead_code, unreachable_pub)] // Each test uses a part of it.

pub mod client;
pub mod pki;
pub mod secrets;

use tickhub::config::Config;
use tickhub::server::Hub;

/// A hub with a small simulated market on free ports, changed by lines of configuration.
pub struct TestHub {
    pub hub: Option<Hub>,
    pub http: String,
    pub token: String,
    _state: tempfile::TempDir,
}

/// Starts a hub; `text` is added to the configuration.
pub async fn hub(text: &str) -> TestHub {
    let state = tempfile::tempdir().expect("a directory");
    let head = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nops_listen = \"127.0.0.1:0\"\nstate_dir = {:?}\nworker_threads = 2\n",
        state.path().join("state")
    );
    let text = format!("{head}\n{text}");
    let config = Config::read(Some(("test.toml", &text)), std::iter::empty()).expect("a sane configuration");
    let hub = tokio::task::spawn_blocking(move || Hub::start(&config)).await.expect("no panic").expect("a hub");
    let ready = hub.ready().clone();
    let http = ready.http.trim_start_matches("http://").trim_start_matches("https://").to_owned();
    TestHub { hub: Some(hub), http, token: ready.token, _state: state }
}

impl TestHub {
    /// Drains it as SIGTERM does.
    pub async fn drain(&mut self) {
        let hub = self.hub.take().expect("not drained yet");
        tokio::task::spawn_blocking(move || hub.drain()).await.expect("no panic");
    }

    /// Its metrics.
    pub fn metrics(&self) -> String {
        self.hub.as_ref().expect("running").registry().render()
    }
}
