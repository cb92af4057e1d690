//! The `tickhub` program: see `tickhub --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tickhub::cli::main(tickhub::server::serve)
}
