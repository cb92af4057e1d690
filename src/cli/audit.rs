//! `tickhub audit`: judges an audit trail, and shows parts of it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use secrecy::ExposeSecret as _;

use crate::audit::{Hash, Place, Report, Seal, VerifyError, lines, read_key, verify};

const EXAMPLES: &str = "\
Examples:
  tickhub audit verify /var/lib/tickhub/audit
  tickhub audit verify /var/lib/tickhub/audit --holds 1204:9f86d081…   the record of an earlier run
  tickhub audit show /var/lib/tickhub/audit --event refused --since 2026-11-21
  tickhub audit show /var/lib/tickhub/audit --subject ann";

/// Verify and read audit trails.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum AuditCommand {
    Verify(VerifyArgs),
    Show(ShowArgs),
}

/// Say whether every record is there, in its place, and as it was written.
///
/// Exit code 0 where the trail is whole, 1 where not: then the file and line of the first record that
/// is missing, changed or out of place. The hub may be running.
#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    /// The folder of the trail.
    #[arg(value_name = "FOLDER")]
    dir: PathBuf,
    /// The file with the key that the trail is chained with, as audit.key_file names it.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// A record that must be in it, as an earlier run named its last: what was written behind that
    /// run could otherwise be taken off by whoever can write the folder.
    #[arg(long, value_name = "NUMBER:HASH", value_parser = place)]
    holds: Option<Place>,
}

/// Print records, one JSON object a line. Filters must all fit.
#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    /// The folder of the trail.
    #[arg(value_name = "FOLDER")]
    dir: PathBuf,
    /// Only of this event.
    #[arg(long)]
    event: Option<String>,
    /// Only of this subject.
    #[arg(long)]
    subject: Option<String>,
    /// Only of this session.
    #[arg(long)]
    session: Option<String>,
    /// Only from addresses that begin like this.
    #[arg(long)]
    remote: Option<String>,
    /// Only from this time on, in UTC: 2026-11-21, 2026-11-21T12:00 or the like.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

fn place(text: &str) -> Result<Place, &'static str> {
    let read = || {
        let (seq, hash) = text.split_once(':')?;
        Some(Place { seq: seq.parse().ok()?, hash: Hash::parse(hash.as_bytes())? })
    };
    read().ok_or("must be a record's number, a colon, and its hash of 64 hexadecimal digits")
}

pub(super) fn run(command: &AuditCommand, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    match command {
        AuditCommand::Verify(args) => judge(args, out),
        AuditCommand::Show(args) => show(args, out),
    }
}

fn judge(args: &VerifyArgs, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let seal = match &args.key_file {
        None => Seal::new(None),
        Some(path) => {
            let key = read_key(path).map_err(|reason| anyhow::anyhow!("{}: {reason}", path.display()))?;
            Seal::new(Some(key.expose_secret()))
        }
    };
    match verify(&args.dir, &seal, args.holds) {
        Ok(report) => {
            tell(&args.dir, &report, out)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(VerifyError::Broken(broken)) => {
            writeln!(out, "{}: broken\n  {broken}", args.dir.display())?;
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error.into()),
    }
}

fn tell(dir: &Path, report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let Report { files, first, last, deleted_before, lost, recovered, unfinished } = report;
    writeln!(out, "{}: ok", dir.display())?;
    writeln!(out, "  files    {files}")?;
    writeln!(out, "  records  {}, {} to {}", last.0.seq + 1 - first.0.seq, first.0.seq, last.0.seq)?;
    writeln!(out, "  from     {}", first.1)?;
    writeln!(out, "  to       {}", last.1)?;
    writeln!(out, "  last     {}:{}", last.0.seq, last.0.hash)?;
    if let Some(file) = deleted_before {
        writeln!(out, "  begins behind {file}, which the hub deleted when its time had passed")?;
    }
    if *lost > 0 {
        writeln!(out, "  {lost} records were lost while the queue was full; the trail says where (event lost)")?;
    }
    if *recovered > 0 {
        writeln!(out, "  {recovered} times its end was not as it was left; the trail says how (event recovered)")?;
    }
    if *unfinished > 0 {
        writeln!(out, "  behind it {unfinished} bytes of a line that is being written, or that a crash left")?;
    }
    Ok(())
}

fn show(args: &ShowArgs, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let mut written = Ok(());
    lines(&args.dir, |line| {
        if args.wants(line) {
            written = writeln!(out, "{line}");
        }
        written.is_ok()
    })?;
    written.context("writing")?;
    Ok(ExitCode::SUCCESS)
}

impl ShowArgs {
    fn wants(&self, line: &str) -> bool {
        let Ok(record) = serde_json::from_str::<serde_json::Value>(line) else { return false };
        let member = |name: &str| record[name].as_str().unwrap_or_default();
        let is = |wanted: &Option<String>, name| wanted.as_ref().is_none_or(|wanted| wanted == member(name));
        // Times are written so that they sort as texts.
        let at = member("at");
        is(&self.event, "event")
            && is(&self.subject, "subject")
            && is(&self.session, "session")
            && self.remote.as_ref().is_none_or(|head| member("remote").starts_with(head.as_str()))
            && self.since.as_ref().is_none_or(|since| at >= since.as_str())
            && self.until.as_ref().is_none_or(|until| at < until.as_str())
    }
}
