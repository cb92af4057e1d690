//! `loadtest`: see the library for what it does.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use loadtest::{
    diff::Diff,
    html,
    options::{Access, Cli, Command},
    report::Report,
    run,
    scenario::{Scenario, Source},
    source::{self, Stage},
};

/// The load was not what was asked for.
const EXIT_INVALID: u8 = 3;

fn main() -> ExitCode {
    match try_main(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            // Whoever closed standard error sees the exit code.
            let _ = writeln!(io::stderr(), "loadtest: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn try_main(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        None => run_scenario(cli.options.scenario()?, cli.options.access),
        Some(Command::Run(options)) => {
            let scenario = options.scenario()?;
            if options.check {
                say(&format!("{}: nothing is wrong with it\n", scenario.name))?;
                return Ok(ExitCode::SUCCESS);
            }
            run_scenario(scenario, options.access)
        }
        Some(Command::Diff(options)) => {
            let diff = Diff::new(&read(&options.before)?, &read(&options.after)?);
            write(options.html.as_deref(), || html::diff_page(&diff))?;
            say(&diff.text())?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Compare(options)) => Ok(if options.run()? { ExitCode::SUCCESS } else { ExitCode::from(1) }),
        Some(Command::Peer { peer }) => peer.serve().map(|()| ExitCode::SUCCESS),
        Some(Command::Show(options)) => {
            let report = read(&options.result)?;
            write(options.html.as_deref(), || html::report_page(&report))?;
            say(&report.text())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run_scenario(scenario: Scenario, mut access: Access) -> anyhow::Result<ExitCode> {
    let (json, html) = (access.json.clone(), access.html.clone());
    let stage = match &scenario.source {
        Source::Hub => None,
        Source::Venue(source) => {
            let stage = Stage::start(access.hub.clone(), source, &source::kinds(&scenario))?;
            stage.direct(&mut access);
            Some(stage)
        }
    };
    let plan = access.plan(scenario)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(run::run(plan, stage.as_ref().map(Stage::venue)))?;
    if let Some(path) = json {
        let text = serde_json::to_vec_pretty(&report)?;
        std::fs::write(&path, text).with_context(|| format!("the result file {}", path.display()))?;
    }
    write(html.as_deref(), || html::report_page(&report))?;
    say(&report.text())?;
    Ok(match report.outcome.as_str() {
        "ok" => ExitCode::SUCCESS,
        "invalid" => ExitCode::from(EXIT_INVALID),
        _ => ExitCode::from(1),
    })
}

fn read(path: &Path) -> anyhow::Result<Report> {
    let text = std::fs::read(path).with_context(|| format!("the result {}", path.display()))?;
    Report::from_json(&text).with_context(|| format!("the result {}", path.display()))
}

fn write(path: Option<&Path>, page: impl FnOnce() -> String) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, page()).with_context(|| format!("the page {}", path.display()))
}

fn say(text: &str) -> io::Result<()> {
    io::stdout().write_all(text.as_bytes())
}
