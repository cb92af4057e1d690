//! Recorded rows played as if the venue sent them now: through that venue's own decoder, at
//! recorded speed, a multiple of it, or as fast as it can.
//!
//! `ts` is what the venue said then, `rx` is now. The recording is a local file and is read on
//! the feed's thread, a piece at a time.

use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::recording::{Line, Recording, Row, RowKind};
use super::{Decoder, Options, Provider, ProviderError, venue_kind};
use crate::ingest::{Feed, Reject};
use crate::model::{FeedState, UnixNanos, check_venue};
use crate::settings::Fault;
use crate::shutdown::Stop;
use crate::time;

/// Rows between two turns of the thread's other tasks: well below a millisecond of work.
const BATCH: usize = 64;

/// Longest pause between two rows, before the speed divides it. Quiet venues send something more
/// often; a recording that was interrupted, or a damaged time, must not stop the replay for days.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Settings of a replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The recording: NDJSON rows, plain or gzip, as `tickhub normalize` reads them.
    pub path: PathBuf,
    /// Whose rows they are: the name of a venue's kind, such as `binance_spot`.
    pub venue: String,
    /// The venue part of the instrument ids; empty for what that kind publishes as. Needed where
    /// the live venue is connected too.
    pub publish_as: String,
    /// How many times faster than recorded; 0 for as fast as it can. A pause in the recording
    /// counts as one minute at most.
    pub speed: u32,
    /// Whether to start again at the end. Numbering goes on.
    pub repeat: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: PathBuf::from("recording.ndjson.gz"),
            venue: "binance_spot".to_owned(),
            publish_as: String::new(),
            speed: 1,
            repeat: false,
        }
    }
}

impl Config {
    /// The venue that its instruments belong to.
    #[must_use]
    pub fn publishes(&self) -> &str {
        match (&*self.publish_as, venue_kind(&self.venue)) {
            ("", Ok(kind)) => kind.venue,
            (name, _) => name,
        }
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// A sentence that names the key and what it may be.
    pub fn check(&self) -> Result<(), String> {
        venue_kind(&self.venue).map_err(|error| format!("venue: {error}"))?;
        if self.path.as_os_str().is_empty() {
            return Err("path: must name a recording".to_owned());
        }
        check_venue(self.publishes()).map_err(|error| format!("publish_as: {error}"))
    }

    /// Whether the recording can be opened now.
    ///
    /// # Errors
    /// A [`Fault`] of `path`.
    pub fn check_file(&self) -> Result<(), Fault> {
        // An empty path is a fault of its own.
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        let opened = match fs::metadata(&self.path) {
            Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(found) if found.is_file() => fs::File::open(&self.path).map(drop),
            // A pipe would wait for its writer.
            found => found.map(drop),
        };
        opened.map_err(|error| {
            let reason =
                format!("cannot be read ({error}); name a recording, by its whole path or from where the hub starts");
            Fault::new("path", self.path.display().to_string(), reason)
        })
    }
}

/// A recording, played.
pub struct Replay {
    config: Config,
    decoder: Box<dyn Decoder>,
    played: bool,
}

impl Replay {
    /// A replay that has not begun; the file is opened when it runs.
    ///
    /// # Errors
    /// [`ProviderError::Config`] where [`Config::check`] fails.
    pub fn new(config: &Config) -> Result<Self, ProviderError> {
        config.check().map_err(ProviderError::Config)?;
        let kind = venue_kind(&config.venue).map_err(|error| ProviderError::Config(error.to_string()))?;
        let decoder = (kind.decoder)(Options::recorded());
        Ok(Self { config: config.clone(), decoder, played: false })
    }

    async fn play(&mut self, feed: &Feed, mut stop: Stop) -> Result<(), ProviderError> {
        loop {
            if std::mem::replace(&mut self.played, true) {
                self.decoder.on_rewind(feed, time::received());
            }
            let rows = self.play_once(feed, &mut stop).await?;
            if stop.is_stopped() || !self.config.repeat {
                return Ok(());
            }
            if rows == 0 {
                return Err(ProviderError::Config(format!("{} holds no rows", self.config.path.display())));
            }
        }
    }

    /// Plays the recording to its end or the stop; how many rows it had.
    async fn play_once(&mut self, feed: &Feed, stop: &mut Stop) -> Result<u64, ProviderError> {
        let unreadable = |error: io::Error| {
            ProviderError::Config(format!("path: cannot read {}: {error}", self.config.path.display()))
        };
        let mut recording = Recording::open(&self.config.path).map_err(unreadable)?;
        feed.set_state(FeedState::Live, "", time::wall());
        let mut pace = Pace::new(self.config.speed);
        let mut rows = 0;
        let mut turn = 0;
        while !stop.is_stopped() {
            let row = match recording.next_line().map_err(unreadable)? {
                Line::End => break,
                Line::Cut => {
                    feed.reject(Reject::Row, b"the compressed recording is cut or damaged");
                    continue;
                }
                Line::TooLong => {
                    feed.reject(Reject::TooLong, b"");
                    continue;
                }
                Line::Text(line) => match Row::parse(line) {
                    Ok(row) => row,
                    Err(_) => {
                        feed.reject(Reject::Row, line);
                        continue;
                    }
                },
            };
            rows += 1;
            turn += 1;
            match pace.until(row.received) {
                Some(due) => {
                    turn = 0;
                    if stop.sleep(due.saturating_duration_since(Instant::now())).await {
                        break;
                    }
                }
                None if turn >= BATCH => {
                    turn = 0;
                    feed.yield_now().await;
                }
                None => {}
            }
            let received = time::received();
            match row.kind {
                RowKind::Frame => self.decoder.on_frame(feed, received, &row.data),
                RowKind::Rest => self.decoder.on_rest(feed, received, row.url.as_deref(), &row.data),
                RowKind::Other => continue,
            };
        }
        Ok(rows)
    }
}

impl Provider for Replay {
    fn run<'a>(&'a mut self, feed: &'a Feed, stop: Stop) -> LocalBoxFuture<'a, Result<(), ProviderError>> {
        self.play(feed, stop).boxed_local()
    }
}

/// Recorded times against the clock. Pauses are added up, so that lateness does not.
struct Pace {
    speed: u32,
    due: Instant,
    last: Option<UnixNanos>,
}

impl Pace {
    fn new(speed: u32) -> Self {
        Self { speed, due: Instant::now(), last: None }
    }

    /// When a row of that time is due, if that is yet to come. Rows without a time, and those
    /// whose time goes back, are due at once.
    fn until(&mut self, received: Option<UnixNanos>) -> Option<Instant> {
        let received = received.filter(|_| self.speed > 0)?;
        let last = self.last.replace(received).unwrap_or(received);
        let pause = u64::try_from(received.0.saturating_sub(last.0)).unwrap_or(0);
        self.due += Duration::from_nanos(pause).min(PAUSE_MAX) / self.speed;
        (self.due > Instant::now()).then_some(self.due)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tempfile::NamedTempFile;

    use super::*;
    use crate::ingest::{Standalone, standalone};
    use crate::model::StreamKind;
    use crate::provider::testing::{published, states};
    use crate::shutdown::stop_signal;

    const MS: i64 = 1_000_000;

    /// A trade a row, received at the given times.
    fn recording(times_ms: &[i64]) -> NamedTempFile {
        let mut file = NamedTempFile::new().expect("a file");
        for (id, time) in times_ms.iter().enumerate() {
            let raw = format!(
                r#"{{\"e\":\"trade\",\"s\":\"BTCUSDT\",\"t\":{id},\"p\":\"1\",\"q\":\"1\",\"T\":5,\"m\":true}}"#
            );
            writeln!(file, r#"{{"ts_ns":{},"raw":"{raw}"}}"#, time * MS).expect("written");
        }
        file
    }

    fn replay(file: &NamedTempFile, speed: u32, repeat: bool) -> (Replay, Standalone) {
        let venue = "binance_spot".to_owned();
        let config = Config { path: file.path().to_owned(), venue, publish_as: "REPLAY".to_owned(), speed, repeat };
        let hub = standalone(config.publishes(), &[StreamKind::Trade]);
        (Replay::new(&config).expect("valid"), hub)
    }

    #[tokio::test(start_paused = true)]
    async fn plays_at_recorded_speed_or_a_multiple_of_it() {
        let file = recording(&[1_000, 3_000, 2_000, 2_500, 10_000]);
        for (speed, expected_ms) in [(0, 0), (1, 10_000), (4, 2_500)] {
            let (mut replay, hub) = replay(&file, speed, false);
            let (_stopper, stop) = stop_signal();
            let started = Instant::now();
            replay.run(&hub.feed, stop).await.expect("played");
            // Two seconds, then back, half a second, seven and a half.
            assert_eq!(started.elapsed().as_millis(), expected_ms, "speed {speed}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_in_the_recording_is_cut_short() {
        let file = recording(&[0, 86_400_000_000, 1]);
        let (mut replay, hub) = replay(&file, 1, false);
        let (_stopper, stop) = stop_signal();
        let started = Instant::now();
        replay.run(&hub.feed, stop).await.expect("played");
        assert_eq!(started.elapsed(), PAUSE_MAX);
    }

    #[tokio::test]
    async fn the_numbering_goes_on_when_it_runs_again() {
        let file = recording(&[1, 2, 3]);
        let (mut replay, mut hub) = replay(&file, 0, false);
        let (_stopper, stop) = stop_signal();
        for _ in 0..2 {
            replay.run(&hub.feed, stop.clone()).await.expect("played");
        }
        let events = published(&mut hub);
        assert_eq!(states(&events), ["live: "]);
        let trades = events.iter().filter(|event| event["ch"] == "trade");
        let trades: Vec<_> = trades.map(|event| (event["sym"].as_str(), event["seq"].as_u64())).collect();
        let expected: Vec<_> = (1..=6).map(|seq| (Some("REPLAY:BTC-USDT"), Some(seq))).collect();
        assert_eq!(trades, expected, "and the step back is no loss");
        assert_eq!(events.len(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeated_recording_ends_with_the_stop() {
        let file = recording(&[0, 1_000]);
        let (mut replay, mut hub) = replay(&file, 1, true);
        let (stopper, stop) = stop_signal();
        let feed = hub.feed.clone();
        let stopping = async {
            tokio::time::sleep(Duration::from_millis(4_500)).await;
            stopper.stop();
        };
        let (outcome, ()) = tokio::join!(replay.run(&feed, stop), stopping);
        outcome.expect("stopped");
        assert_eq!(published(&mut hub).iter().filter(|event| event["ch"] == "trade").count(), 9);
    }

    #[tokio::test]
    async fn an_empty_or_missing_recording_is_the_operators_matter() {
        let file = NamedTempFile::new().expect("a file");
        let (mut empty, hub) = replay(&file, 0, true);
        let (_stopper, stop) = stop_signal();
        let error = empty.run(&hub.feed, stop.clone()).await.expect_err("nothing to play");
        assert!(error.is_permanent() && error.to_string().contains("holds no rows"), "{error}");
        let (mut missing, hub) = replay(&file, 0, false);
        drop(file);
        let error = missing.run(&hub.feed, stop).await.expect_err("gone");
        assert!(error.is_permanent() && error.to_string().contains("cannot read"), "{error}");
    }

    #[test]
    fn settings_are_checked() {
        let sane = Config { path: "x".into(), venue: "binance_us".to_owned(), ..Config::default() };
        assert_eq!((sane.check(), sane.publishes()), (Ok(()), "BINANCE_US"));
        for (wrong, key) in [
            (Config { venue: "binance".to_owned(), ..sane.clone() }, "venue: "),
            (Config { path: PathBuf::new(), ..sane.clone() }, "path: "),
            (Config { publish_as: "lower".to_owned(), ..sane.clone() }, "publish_as: "),
        ] {
            assert!(wrong.check().expect_err("wrong").starts_with(key));
            assert!(Replay::new(&wrong).is_err());
        }
    }
}
