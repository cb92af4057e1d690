//! `loadtest`: see the library for what it does.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use loadtest::{
    compare::{CompareOptions, PeerCommand},
    options::Options,
    report::Report,
    run,
};

/// What goes beyond a run of subscribers.
#[derive(Debug, Parser)]
struct Command {
    #[command(subcommand)]
    command: More,
}

#[derive(Debug, Subcommand)]
enum More {
    Compare(CompareOptions),
    /// A server of the harness itself
    #[command(hide = true)]
    Peer {
        #[command(subcommand)]
        peer: PeerCommand,
    },
}

fn main() -> ExitCode {
    if let Some("compare" | "peer") = std::env::args().nth(1).as_deref() {
        let done = match Command::parse().command {
            More::Compare(options) => options.run(),
            More::Peer { peer } => peer.serve().map(|()| true),
        };
        return exit_code(done);
    }
    exit_code(try_main().map(|report| report.is_sound()))
}

fn exit_code(done: anyhow::Result<bool>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            // Whoever closed standard error sees the exit code.
            let _ = writeln!(io::stderr(), "loadtest: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn try_main() -> anyhow::Result<Report> {
    let options = Options::parse();
    let json = options.json.clone();
    let plan = options.plan()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(run::run(plan))?;
    if let Some(path) = json {
        let text = serde_json::to_vec_pretty(&report)?;
        std::fs::write(&path, text).with_context(|| format!("the result file {}", path.display()))?;
    }
    io::stdout().write_all(report.text().as_bytes())?;
    Ok(report)
}
