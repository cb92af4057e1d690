//! The ready file: where the hub listens, for whoever started it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use crate::config::ConfigError;
use crate::settings::Fault;

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

/// The file before it says anything: under another name, so that it is written whole or not at all.
/// Made before the hub starts, for a hub that nobody can find should not run. Dropped, it is gone.
pub(super) struct Draft {
    file: File,
    at: PathBuf,
    path: PathBuf,
}

impl Draft {
    /// Makes it beside `path`, readable by its owner only.
    ///
    /// # Errors
    /// A fault of `--ready-file` where that cannot be made.
    pub(super) fn make(path: &Path) -> Result<Self, ConfigError> {
        let at = path.with_extension(format!("draft-{}", std::process::id()));
        // A draft of an earlier process of the same number may have been left behind.
        let _ = fs::remove_file(&at);
        let file = match path.is_dir() {
            true => Err(io::ErrorKind::IsADirectory.into()),
            false => OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at),
        };
        file.map(|file| Self { file, at, path: path.to_owned() }).map_err(|error| {
            let reason = format!("cannot be made ({error}); name a file in a folder that is there and can be written");
            ConfigError::Faulty(vec![Fault::new("--ready-file", path.display().to_string(), reason).into()])
        })
    }

    /// Writes it and gives it its name.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(super) fn publish(mut self, ready: &Ready) -> anyhow::Result<()> {
        serde_json::to_writer(&mut self.file, ready)?;
        writeln!(self.file)?;
        self.file.sync_all()?;
        fs::rename(&self.at, &self.path).with_context(|| format!("renaming the ready file to {}", self.path.display()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Published, it has another name by now.
        let _ = fs::remove_file(&self.at);
    }
}
