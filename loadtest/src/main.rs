//! `loadtest`: see the library for what it does.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use loadtest::{options::Options, report::Report, run};

fn main() -> ExitCode {
    match try_main() {
        Ok(report) if report.is_sound() => ExitCode::SUCCESS,
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
