//! What is seen while it runs: a bar on a terminal, plain lines elsewhere. All of it on standard error, so that the
//! report on standard output can be piped.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::clock;

/// The first line with figures of a part comes after this.
const LINES_AFTER: Duration = Duration::from_millis(1_200);
/// Plain lines come at most this often.
const LINES_EVERY: Duration = Duration::from_secs(5);

/// Shows where the run is.
pub struct Progress {
    bar: Option<ProgressBar>,
    phase: String,
    line_at: Option<Instant>,
}

impl Progress {
    /// On the terminal if there is one.
    pub fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            let style = ProgressStyle::with_template("{prefix:>11} [{bar:30.cyan/blue}] {msg}");
            bar.set_style(style.expect("the template is a constant that parses").progress_chars("=> "));
            bar
        });
        Self { bar, phase: String::new(), line_at: None }
    }

    /// A part of the run begins; `length` is what there is to do in it.
    pub fn begin(&mut self, phase: &str, length: u64) {
        self.phase = phase.to_owned();
        self.line_at = None;
        if let Some(bar) = &self.bar {
            bar.set_length(length.max(1));
            bar.set_prefix(phase.to_owned());
        }
        if self.bar.is_some() {
            self.update(0, "");
        } else {
            self.line("");
            self.line_at = Some(clock::instant() + LINES_AFTER);
        }
    }

    fn line(&self, figures: &str) {
        // Whoever closed standard error does not want to see it.
        let _ = writeln!(io::stderr(), "{:>11}  {figures}", self.phase);
    }

    /// So much of it is done.
    pub fn update(&mut self, position: u64, figures: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(position);
                bar.set_message(figures.to_owned());
            }
            None => {
                let now = clock::instant();
                if self.line_at.is_none_or(|at| now >= at) {
                    self.line_at = Some(now + LINES_EVERY);
                    self.line(figures);
                }
            }
        }
    }

    /// The bar makes room for the report.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}
