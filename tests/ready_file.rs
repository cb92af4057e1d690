//! The ready file of the program itself: there when the hub is, and no hub without it.

use std::path::Path;
use std::process::{Command, Output};

/// Runs the program to its end with a state directory in `folder`.
fn serve(folder: &Path, ready_file: &Path) -> Output {
    let config = folder.join("hub.toml");
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nops_listen = \"127.0.0.1:0\"\nstate_dir = {:?}\n",
        folder.join("state")
    );
    std::fs::write(&config, text).expect("writes");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tickhub"));
    command.arg("serve").arg("--config").arg(config).arg("--ready-file").arg(ready_file);
    command.output().expect("runs")
}

#[test]
fn a_ready_file_that_cannot_be_made_stops_the_hub_before_anything_starts() {
    let folder = tempfile::tempdir().expect("a directory");
    for (path, cause) in [
        (folder.path().join("absent/ready.json"), "No such file or directory"),
        (folder.path().to_owned(), "is a directory"),
    ] {
        let output = serve(folder.path(), &path);
        let said = String::from_utf8(output.stderr).expect("a text");
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains(&format!("--ready-file = {:?}: cannot be made ({cause}", path.to_string_lossy())),
            "{said}"
        );
        assert!(said.contains("name a file in a folder that is there"), "{said}");
        assert_eq!(output.stdout, b"", "no token: there was no hub");
        assert!(!folder.path().join("state").exists(), "nothing was begun");
    }
}
