//! `tickhub normalize`: recorded rows in, the protocol's JSON events out, one a line.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::fanout::Event;
use crate::ingest::{Reject, Standalone, standalone};
use crate::model::{Channel, Depth, InstrumentKey, Received, StreamId, StreamKind, UnixNanos};
use crate::provider::recording::{Line, Recording, Row, RowKind, unpacked};
use crate::provider::{Decoder, Options, VenueKind, venue_kind};
use crate::wire::{Format, Head, Payload, Scratch};

/// Largest file of definitions, in bytes and unpacked: ten times the largest known.
const INSTRUMENTS_BYTES_MAX: u64 = 256 << 20;

/// Output is written in pieces of this size.
const WRITE_BYTES: usize = 256 << 10;

/// Turn recorded upstream rows into the hub's JSON events.
///
/// Events go to standard output in the order of their rows, one a line, as subscribers of every
/// stream would get them. What could not be used is counted by reason on standard error.
#[derive(Args, Clone, Debug)]
pub struct NormalizeArgs {
    /// Whose rows these are: the name of the venue's kind, such as binance_spot.
    #[arg(long, value_name = "NAME", value_parser = venue_kind)]
    pub venue: &'static VenueKind,

    /// End with one whole book for each instrument.
    #[arg(long)]
    pub books: bool,

    /// Where base and quote of symbols stand: an exchangeInfo body, or rows that hold one; plain
    /// or gzip. Takes precedence over what the rows themselves say.
    #[arg(long, value_name = "F")]
    pub instruments: Option<PathBuf>,

    /// Which channels to print: any of trade, quote, book, ticker.
    #[arg(long, value_delimiter = ',', value_parser = channel, default_value = "trade,quote,book")]
    pub channels: Vec<Channel>,

    /// The rows, plain or gzip; `-` or nothing for standard input.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

fn channel(name: &str) -> Result<Channel, String> {
    match Channel::parse(name) {
        Some(channel) if channel != Channel::Status => Ok(channel),
        _ => Err("expected trade, quote, book or ticker".to_owned()),
    }
}

/// Runs the command; the exit code. It is 0 whatever the rows hold, 1 where a file cannot be read
/// or the output cannot be written. A reader that closes the output early is no fault.
pub fn run(args: &NormalizeArgs, output: &mut dyn Write, report: &mut dyn Write) -> u8 {
    let mut output = BufWriter::with_capacity(WRITE_BYTES, output);
    match normalize(args, &mut output, report).and_then(|()| Ok(output.flush()?)) {
        Ok(()) => 0,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(failure) => {
            // If not even this can be written, the exit code says it.
            let _ = writeln!(report, "tickhub: {failure}");
            1
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot read {path}: {error}")]
    Input { path: String, error: io::Error },
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

fn unreadable(path: Option<&Path>) -> impl Fn(io::Error) -> Failure {
    let path = path.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
    move |error| Failure::Input { path: path.clone(), error }
}

fn normalize(args: &NormalizeArgs, output: &mut dyn Write, report: &mut dyn Write) -> Result<(), Failure> {
    let mut decoder = (args.venue.decoder)(Options::recorded());
    if let Some(path) = &args.instruments
        && define(&mut *decoder, path).map_err(unreadable(Some(path)))? == 0
    {
        say(report, format_args!("{} defines no instrument", path.display()));
    }
    let path = args.file.as_deref().filter(|path| *path != Path::new("-"));
    let unreadable = unreadable(path);
    let rows = match path {
        Some(path) => Recording::open(path),
        None => Recording::new(io::stdin()),
    };
    let mut rows = rows.map_err(&unreadable)?;
    let mut printer = Printer::new(args);
    loop {
        match rows.next_line().map_err(&unreadable)? {
            Line::End => break,
            Line::Text(line) => printer.row(&mut *decoder, line),
            Line::TooLong => printer.standalone.feed.reject(Reject::TooLong, b""),
            Line::Cut => say(report, format_args!("the compressed input is cut or damaged, and was read up to there")),
        }
        printer.drain(output)?;
    }
    if args.books {
        printer.books(&*decoder, output)?;
    }
    printer.report(&*decoder, report);
    Ok(())
}

/// Reads definitions from a file; how many symbols it defines.
fn define(decoder: &mut dyn Decoder, path: &Path) -> io::Result<usize> {
    let mut body = Vec::new();
    unpacked(File::open(path)?)?.take(INSTRUMENTS_BYTES_MAX).read_to_end(&mut body)?;
    let defined = decoder.on_instruments(&body);
    if defined > 0 {
        return Ok(defined);
    }
    let rows = body.split(|byte| *byte == b'\n').filter_map(|line| Row::parse(line).ok());
    Ok(rows.map(|row| decoder.on_instruments(&row.data)).sum())
}

/// A diagnostic line. That standard error is closed is no reason to stop.
fn say(report: &mut dyn Write, text: std::fmt::Arguments<'_>) {
    let _ = writeln!(report, "tickhub: {text}");
}

/// Takes events from the feed's lane and prints those of the channels asked for.
struct Printer {
    standalone: Standalone,
    channels: Vec<Channel>,
    /// The venue's and our time of each book's last change.
    book_times: HashMap<InstrumentKey, (Option<UnixNanos>, Option<UnixNanos>)>,
}

impl Printer {
    fn new(args: &NormalizeArgs) -> Self {
        let mut kinds: Vec<StreamKind> = Vec::new();
        for channel in &args.channels {
            match channel {
                Channel::Ticker => kinds.push(StreamKind::Ticker),
                Channel::Quote => kinds.push(StreamKind::Quote),
                Channel::Trade => kinds.push(StreamKind::Trade),
                Channel::Book | Channel::Status => {}
            }
        }
        // Without the stream the books at the end would have no numbers.
        if args.books || args.channels.contains(&Channel::Book) {
            kinds.push(StreamKind::Book(Depth::All));
        }
        let standalone = standalone(args.venue.venue, &kinds);
        Self { standalone, channels: args.channels.clone(), book_times: HashMap::new() }
    }

    fn row(&mut self, decoder: &mut dyn Decoder, line: &[u8]) {
        let feed = &self.standalone.feed;
        let Ok(row) = Row::parse(line) else { return feed.reject(Reject::Row, line) };
        // Latencies mean nothing here, and a clock would only slow it down.
        let received = Received { wall: row.received, mono: 0 };
        match row.kind {
            RowKind::Frame => decoder.on_frame(feed, received, &row.data),
            RowKind::Rest => decoder.on_rest(feed, received, row.url.as_deref(), &row.data),
            RowKind::Other => return,
        };
    }

    /// Prints what the last row led to, before the lane can fill up.
    fn drain(&mut self, output: &mut dyn Write) -> io::Result<()> {
        while let Some(event) = self.standalone.pop() {
            let (stream, frame) = match event {
                Event::Update(update) => {
                    if let Some(book) = &update.book {
                        self.book_times.insert(update.stream.key, (book.ts_event, book.received));
                    }
                    (update.stream, update.frame)
                }
                Event::Gap { stream, frame, .. } => (stream, frame),
                Event::Instrument(_) | Event::Feed { .. } => continue,
            };
            if self.channels.contains(&stream.kind.channel()) {
                output.write_all(frame.payload())?;
                output.write_all(b"\n")?;
            }
        }
        Ok(())
    }

    fn books(&self, decoder: &dyn Decoder, output: &mut dyn Write) -> io::Result<()> {
        let mut scratch = Scratch::new();
        for book in decoder.books() {
            let Some((bids, asks)) = book.instrument.book_levels() else { continue };
            let key = book.instrument.key();
            let (ts, rx) = self.book_times.get(&key).copied().unwrap_or_default();
            let seq = self.standalone.store.sequence(StreamId { key, kind: StreamKind::Book(Depth::All) });
            let head = Head { id: &book.instrument.id(), key, seq, ts, rx, snapshot: true };
            let payload = Payload::Book { depth: Depth::All, bids: &bids, asks: &asks };
            output.write_all(Format::Json.encode(&mut scratch, &head, &payload).payload())?;
            output.write_all(b"\n")?;
        }
        Ok(())
    }

    fn report(&self, decoder: &dyn Decoder, report: &mut dyn Write) {
        for book in decoder.books() {
            if let Some(cause) = book.broken {
                say(report, format_args!("no book of {}: {cause}", book.instrument.id()));
            }
        }
        for (symbol, cause) in decoder.left_out() {
            say(report, format_args!("left out {}: {cause}", symbol.escape_debug()));
        }
        for (reason, count) in self.standalone.feed.rejects() {
            say(report, format_args!("rejected {count} {}", reason.as_str()));
        }
    }
}
