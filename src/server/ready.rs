//! The ready file: where the hub listens, for whoever started it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

/// What the file says.
#[derive(Clone, Serialize)]
pub struct Ready {
    /// Base of the HTTP interface.
    pub http: String,
    /// The WebSocket endpoint.
    pub ws: String,
    /// Base of the operations listener.
    pub ops: String,
    /// A token that may have everything.
    pub token: String,
}

/// Writes the file whole or not at all: 0600, under another name first, then renamed.
///
/// # Errors
/// Where the file cannot be written.
pub(super) fn write(path: &Path, ready: &Ready) -> anyhow::Result<()> {
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    // A draft of an earlier process of the same number may have been left behind.
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .with_context(|| format!("making the ready file beside {}", path.display()))?;
    serde_json::to_writer(&mut file, ready)?;
    writeln!(file)?;
    file.sync_all()?;
    fs::rename(&draft, path).with_context(|| format!("renaming the ready file to {}", path.display()))
}
