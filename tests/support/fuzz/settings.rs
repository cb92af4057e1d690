//! What an operator writes: no peer, but a fault must be told and never a panic.

use std::ffi::OsString;

use tickhub::config::{Config, ConfigError};

/// Lines that begin with `TICKHUB__` are variables of the environment, the others the file.
pub(super) fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // It would be read, and it may name a device that never ends.
    if text.to_ascii_lowercase().contains("_file") {
        return;
    }
    let (mut file, mut variables) = (String::new(), Vec::new());
    for line in text.lines() {
        match line.split_once('=').filter(|(name, _)| name.starts_with("TICKHUB__") && !name.contains('\0')) {
            Some((name, value)) => variables.push((OsString::from(name), OsString::from(value))),
            None => {
                file.push_str(line);
                file.push('\n');
            }
        }
    }
    match Config::read(Some(("fuzz.toml", &file)), variables) {
        Ok(config) => assert!(!config.provider.iter().any(|provider| provider.venue().is_empty())),
        Err(ConfigError::Faulty(faults)) => {
            assert!(!faults.is_empty());
            assert!(faults.iter().all(|fault| !fault.fault.key.is_empty() && !fault.fault.reason.is_empty()));
        }
        Err(other) => panic!("{other}"),
    }
}
