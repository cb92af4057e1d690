//! `tickhub normalize` on recorded rows, whole and damaged, against an independent reading of
//! them (`tests/oracle/binance_normalize.py`).

#![allow(clippy::print_stdout)] // What is skipped is said.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tempfile::TempDir;
use tickhub::cli::normalize::{NormalizeArgs, run};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: NormalizeArgs,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures/binance_spot").join(name)
}

fn args(venue: &str, more: &[&str], file: &Path) -> NormalizeArgs {
    let mut words = vec!["normalize", "--venue", venue];
    words.extend(more);
    words.push(file.to_str().expect("UTF-8 path"));
    Cli::try_parse_from(words).expect("valid arguments").args
}

/// Exit code, output and report.
fn normalize(venue: &str, more: &[&str], file: &Path) -> (u8, String, String) {
    let (mut output, mut report) = (Vec::new(), Vec::new());
    let code = run(&args(venue, more, file), &mut output, &mut report);
    (code, String::from_utf8(output).expect("UTF-8"), String::from_utf8(report).expect("UTF-8"))
}

/// The same for rows that are written here.
fn normalize_rows(more: &[&str], rows: &[&str]) -> (u8, String, String) {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("rows");
    fs::write(&file, rows.join("\n")).expect("written");
    normalize("binance_spot", more, &file)
}

/// Compares the output for `file` with the oracle's; `None` where there is no Python.
fn check(venue: &str, file: &Path, books: bool) -> Option<String> {
    let folder = TempDir::new().expect("a folder");
    let output = folder.path().join("output");
    let (code, text, _) = normalize(venue, &["--books"], file);
    assert_eq!(code, 0);
    fs::write(&output, text).expect("written");
    let mut python = Command::new("python3");
    python.arg(root().join("tests/oracle/binance_normalize.py")).arg(match venue {
        "binance_us" => "BINANCE_US",
        _ => "BINANCE",
    });
    python.arg(root().join("docs/normalize.md")).arg(file).arg(&output);
    if !books {
        python.arg("--no-books");
    }
    let said = match python.output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("skipped: no python3 here");
            return None;
        }
        said => said.expect("python3 runs"),
    };
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success(), "{}: {}{text}", file.display(), String::from_utf8_lossy(&said.stderr));
    Some(text)
}

/// Larger recordings that are kept beside the repository, where they are.
fn captures(folder: &str) -> Vec<PathBuf> {
    let folder = root().join("../shared/captures").join(folder);
    let Ok(entries) = fs::read_dir(&folder) else {
        println!("skipped: there is no ../shared/captures here");
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.retain(|file| file.to_string_lossy().contains(".ndjson"));
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn the_fixtures_equal_the_oracle() {
    for (name, expected) in [
        ("btcusdt_20240808_excerpt.ndjson", "4 trades, 5 quotes, 80 levels, 0 refused: equal\n"),
        ("multi_2021_excerpt.ndjson", "1 trades, 8 quotes, 40 levels, 0 refused: equal\n"),
    ] {
        let Some(said) = check("binance_spot", &fixture(name), true) else { return };
        assert_eq!(said, expected);
    }
}

#[test]
fn whole_recordings_equal_the_oracle() {
    for venue in ["binance_spot", "binance_us"] {
        for file in captures(venue) {
            let Some(said) = check(venue, &file, true) else { return };
            println!("{}: {said}", file.display());
        }
    }
}

/// A small deterministic generator: which rows suffer must be the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

fn damaged_equal_the_oracle(venue: &str, file: &Path, rounds: u64) {
    let whole = fs::read(file).expect("readable");
    let mut text = String::new();
    match io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&whole[..]), &mut text) {
        Ok(_) => {}
        Err(_) => text = String::from_utf8(whole).expect("UTF-8"),
    }
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("rows");
    for round in 0..rounds {
        let mut dice = Dice(round);
        let mut rows: Vec<&str> = text.lines().collect();
        // Lost and repeated rows and rows cut short: books break, and must be left out.
        for _ in 0..=round {
            if rows.is_empty() {
                break;
            }
            let at = dice.below(rows.len());
            match dice.below(3) {
                0 => drop(rows.remove(at)),
                1 => rows.insert(at, rows[at]),
                _ => rows[at] = &rows[at][..rows[at].len() / 2],
            }
        }
        fs::write(&path, rows.join("\n")).expect("written");
        if check(venue, &path, true).is_none() {
            return;
        }
        // Out of order: what a book then is depends on luck, but trades and quotes do not.
        for at in (1..rows.len()).rev() {
            rows.swap(at, dice.below(at + 1));
        }
        fs::write(&path, rows.join("\n")).expect("written");
        check(venue, &path, false);
    }
}

#[test]
fn damaged_recordings_equal_the_oracle() {
    damaged_equal_the_oracle("binance_spot", &fixture("btcusdt_20240808_excerpt.ndjson"), 8);
    damaged_equal_the_oracle("binance_spot", &fixture("multi_2021_excerpt.ndjson"), 8);
    for venue in ["binance_spot", "binance_us"] {
        for file in captures(venue) {
            damaged_equal_the_oracle(venue, &file, 2);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_makes_it_fail(
        hits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        cut in any::<prop::sample::Index>(),
        packed in any::<bool>(),
    ) {
        let mut rows = fs::read(fixture("btcusdt_20240808_excerpt.ndjson")).expect("readable");
        rows.extend(fs::read(fixture("multi_2021_excerpt.ndjson")).expect("readable"));
        if packed {
            rows = gzip(&rows);
        }
        for (at, byte) in hits {
            let at = at.index(rows.len());
            rows[at] = byte;
        }
        rows.truncate(rows.len() - cut.index(rows.len()) / 4);
        let folder = TempDir::new().expect("a folder");
        let file = folder.path().join("rows");
        fs::write(&file, rows).expect("written");
        let (code, output, _) = normalize("binance_spot", &["--books", "--channels", "trade,quote,book,ticker"], &file);
        prop_assert_eq!(code, 0);
        for line in output.lines() {
            prop_assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{}", line);
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

#[test]
fn compressed_and_cut_files_are_read_as_far_as_they_go() {
    let file = fixture("multi_2021_excerpt.ndjson");
    let (_, plain, _) = normalize("binance_spot", &[], &file);
    let packed = gzip(&fs::read(&file).expect("readable"));
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("rows.gz");
    fs::write(&path, &packed).expect("written");
    assert_eq!(normalize("binance_spot", &[], &path).1, plain);
    fs::write(&path, &packed[..packed.len() - 200]).expect("written");
    let (code, output, report) = normalize("binance_spot", &[], &path);
    assert_eq!(code, 0);
    assert!(plain.starts_with(&output) && output.len() > plain.len() / 3, "{} of {}", output.len(), plain.len());
    assert!(report.contains("cut or damaged"), "{report}");
}

const TRADE: &str =
    r#"{"raw":"{\"e\":\"trade\",\"E\":5,\"s\":\"BTCUSDT\",\"t\":7,\"p\":\"1.50\",\"q\":\"2\",\"T\":4,\"m\":false}"}"#;
const DIFF: &str =
    r#"{"raw":"{\"e\":\"depthUpdate\",\"E\":5,\"s\":\"BTCUSDT\",\"U\":11,\"u\":12,\"b\":[[\"9.0\",\"1\"]],\"a\":[]}"}"#;
const LATER_DIFF: &str =
    r#"{"raw":"{\"e\":\"depthUpdate\",\"E\":6,\"s\":\"BTCUSDT\",\"U\":15,\"u\":15,\"b\":[[\"8.0\",\"1\"]],\"a\":[]}"}"#;
const DEPTH: &str =
    r#"{"kind":"http","ts_ns":3,"raw":"{\"lastUpdateId\":10,\"bids\":[[\"8.5\",\"1\"]],\"asks\":[[\"9.5\",\"1\"]]}"}"#;
const OTHER: &str = r#"{"raw":"{\"u\":1,\"s\":\"ETHBTC\",\"b\":\"1\",\"B\":\"1\",\"a\":\"2\",\"A\":\"1\"}"}"#;

#[test]
fn an_event_has_no_rx_where_its_row_has_no_time() {
    let (code, output, report) = normalize_rows(&[], &[TRADE]);
    let expected =
        r#"{"ch":"trade","sym":"BINANCE:BTC-USDT","seq":1,"ts":"4000000","px":"1.50","sz":"2","side":"buy","tid":"7"}"#;
    assert_eq!((code, output.as_str(), report.as_str()), (0, format!("{expected}\n").as_str(), ""));
}

#[test]
fn a_snapshot_without_a_symbol_belongs_to_the_only_one_seen() {
    let snapshot = r#""depth":0,"seq":1,"ts":null,"rx":"3","bids":[["8.5","1"]],"asks":[["9.5","1"]],"snap":true}"#;
    let (_, output, _) = normalize_rows(&[], &[DIFF, DEPTH]);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 2, "{output}");
    assert!(lines[0].ends_with(snapshot), "{output}");
    assert!(lines[1].ends_with(r#""seq":2,"ts":"5000000","bids":[["9.0","1"]],"asks":[]}"#), "{output}");

    let (_, output, report) = normalize_rows(&["--books"], &[DIFF, OTHER, DEPTH]);
    assert_eq!((output.matches("\"book\"").count(), report.lines().count()), (0, 2), "{output}{report}");
    assert!(report.contains("no book of BINANCE:BTC-USDT: no snapshot yet"), "{report}");
    assert!(report.contains("rejected 1 unknown_symbol"), "{report}");

    let (_, output, _) = normalize_rows(&[], &[DEPTH]);
    assert_eq!(output, "", "there is none yet");
}

#[test]
fn a_broken_book_is_left_out_and_named() {
    let (code, output, report) = normalize_rows(
        &["--books"],
        &[DEPTH.replace("\"kind\"", "\"symbol\":\"BTCUSDT\",\"kind\"").as_str(), DIFF, LATER_DIFF],
    );
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!((code, lines.len()), (0, 3), "{output}");
    assert_eq!(
        lines[2],
        r#"{"op":"gap","ch":"book","sym":"BINANCE:BTC-USDT","depth":0,"from":3,"to":3,"cause":"upstream","lost":2}"#
    );
    assert_eq!(report, "tickhub: no book of BINANCE:BTC-USDT: gap in the update ids\n");
}

#[test]
fn books_at_the_end_are_whole_and_best_first() {
    let (_, output, _) = normalize_rows(&["--books", "--channels", "trade"], &[DIFF, DEPTH]);
    let expected = r#"{"ch":"book","sym":"BINANCE:BTC-USDT","depth":0,"seq":2,"ts":"5000000","bids":[["9.0","1"],["8.5","1"]],"asks":[["9.5","1"]],"snap":true}"#;
    assert_eq!(output, format!("{expected}\n"));
}

#[test]
fn rows_that_are_none_are_counted() {
    let rows = ["garbage", TRADE, r#"{"raw":"{"}"#, r#"{"raw":"{\"e\":\"new\"}"}"#, r#"{"dir":"out","raw":"{"}"#];
    let (code, output, report) = normalize_rows(&[], &rows);
    assert_eq!((code, output.lines().count()), (0, 1));
    assert_eq!(report, "tickhub: rejected 1 malformed\ntickhub: rejected 1 unknown_message\ntickhub: rejected 1 row\n");
}

#[test]
fn names_come_from_the_file_then_from_the_rows_then_from_the_suffix() {
    let info = |base: &str| {
        format!(r#"{{"symbols":[{{"symbol":"BTCUSDT","baseAsset":"{base}","quoteAsset":"USDT","filters":[]}}]}}"#)
    };
    let row = |body: &str| format!(r#"{{"kind":"http","raw":{}}}"#, serde_json::Value::from(body));
    let symbol = |output: &str| output.split('"').nth(7).map(str::to_owned);
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("instruments");
    let more = ["--instruments", file.to_str().expect("UTF-8 path")];
    let seen = row(&info("SEEN"));

    let (_, output, _) = normalize_rows(&[], &[&seen, TRADE]);
    assert_eq!(symbol(&output).as_deref(), Some("BINANCE:SEEN-USDT"));
    let (_, output, _) = normalize_rows(&[], &[TRADE, &seen, TRADE]);
    assert_eq!(output.matches("BINANCE:BTC-USDT").count(), 2, "the first id stays: {output}");
    for body in [info("FILE"), format!("\n{}\n", row(&info("FILE")))] {
        for bytes in [body.as_bytes().to_vec(), gzip(body.as_bytes())] {
            fs::write(&file, bytes).expect("written");
            let (_, output, _) = normalize_rows(&more, &[&seen, TRADE]);
            assert_eq!(symbol(&output).as_deref(), Some("BINANCE:FILE-USDT"));
        }
    }
    fs::write(&file, "{}").expect("written");
    let (code, output, report) = normalize_rows(&more, &[TRADE]);
    assert_eq!((code, symbol(&output).as_deref()), (0, Some("BINANCE:BTC-USDT")));
    assert!(report.contains("defines no instrument"), "{report}");
}

#[test]
fn a_symbol_that_cannot_be_an_id_is_left_out_and_listed() {
    let (code, output, report) =
        normalize_rows(&[], &[&TRADE.replace("BTCUSDT", "币安人生USDT"), &TRADE.replace("BTC", "btc"), TRADE]);
    assert_eq!((code, output.lines().count()), (0, 1));
    assert!(report.contains("left out 币安人生USDT: symbol must be"), "{report}");
    assert!(report.contains("left out BTCUSDT: already claimed"), "{report}");
    assert!(report.contains("rejected 2 symbol"), "{report}");
}

#[test]
fn what_cannot_be_read_is_an_error_and_what_is_misspelt_a_usage_error() {
    let (code, output, report) = normalize("binance_spot", &[], Path::new("/nonexistent/rows"));
    assert_eq!((code, output.as_str()), (1, ""));
    assert!(report.starts_with("tickhub: cannot read /nonexistent/rows: "), "{report}");
    assert_eq!(normalize("binance_spot", &[], root()).0, 1, "a folder");
    let (code, ..) =
        normalize("binance_spot", &["--instruments", "/nonexistent"], &fixture("multi_2021_excerpt.ndjson"));
    assert_eq!(code, 1);
    for (words, expected) in [
        (["normalize", "--venue", "binance"], "known are binance_spot, binance_us"),
        (["normalize", "--venue=binance_spot", "--channels=status"], "expected trade, quote, book or ticker"),
    ] {
        let error = Cli::try_parse_from(words).err().expect("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_reader_that_stops_reading_is_no_error() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut report = Vec::new();
    let args = args("binance_spot", &[], &fixture("btcusdt_20240808_excerpt.ndjson"));
    assert_eq!((run(&args, &mut Closed, &mut report), report.as_slice()), (0, &b""[..]));
}

#[test]
fn the_documented_quote_assets_are_those_of_the_code() {
    let docs = fs::read_to_string(root().join("docs/normalize.md")).expect("readable");
    for (name, suffixes) in
        [("binance_spot", tickhub::provider::SUFFIXES_BINANCE), ("binance_us", tickhub::provider::SUFFIXES_BINANCE_US)]
    {
        let (_, list) = docs.split_once(&format!("`{name}`:\n\n```\n")).expect("listed");
        let (list, _) = list.split_once("```").expect("closed");
        assert_eq!(list.split_whitespace().collect::<Vec<_>>(), suffixes, "{name}");
    }
}

#[test]
fn the_quote_assets_split_every_symbol_that_the_venue_has_listed() {
    for file in captures("binance_spot").iter().filter(|file| file.to_string_lossy().contains("exchangeInfo")) {
        let mut text = String::new();
        let packed = fs::File::open(file).expect("readable");
        io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed), &mut text).expect("gzip");
        let row: serde_json::Value = serde_json::from_str(&text).expect("a row");
        let body: serde_json::Value = serde_json::from_str(row["raw"].as_str().expect("text")).expect("a body");
        let symbology = tickhub::provider::Symbology::new(tickhub::provider::SUFFIXES_BINANCE);
        for entry in body["symbols"].as_array().expect("a list") {
            let member = |name: &str| entry[name].as_str().expect("text").to_owned();
            let definition = symbology.definition("BINANCE", &member("symbol")).expect("an id");
            assert_eq!(definition.base, Some(member("baseAsset")), "{}", member("symbol"));
            assert_eq!(definition.quote, Some(member("quoteAsset")), "{}", member("symbol"));
        }
    }
}
