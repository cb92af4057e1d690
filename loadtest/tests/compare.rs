//! `loadtest compare` as its users run it, with the servers that are part of the harness: a server beside itself must
//! come out as no better and no worse.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

use serde_json::Value;

/// Runs it where no other server is installed.
fn compare(arguments: &[&str]) -> (Output, Value) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["compare", "--subject", "floor", "--pairs", "2", "--seconds", "0.3", "--json", "result.json"])
        .args(arguments)
        .current_dir(folder.path())
        .output()
        .unwrap();
    let result = std::fs::read(folder.path().join("result.json"));
    (output, result.map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap()))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_floor_beside_itself_has_a_ratio_for_every_profile() {
    let profiles = ["single", "backlog", "p99", "mixed", "idle_bytes"];
    let (output, result) =
        compare(&["--clients", "200,400", "--peers", "floor,bun", "--profiles", &profiles.join(",")]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    for profile in profiles {
        for clients in ["200", "400"] {
            let ratio = result["ratios"][profile][clients]["floor/floor"].as_f64().unwrap();
            let spread = &result["spread"][profile][clients]["floor/floor"];
            // How far from one is for idle machines to say, not for a test.
            assert!(ratio >= 0.0 && ratio.is_finite(), "{profile} {clients}: {ratio}");
            assert_eq!(spread["pairs"].as_array().unwrap().len(), 2);
            // For so few clients the memory of one side may not grow by a page: then the pair has no ratio.
            let without = spread["pairs"].as_array().unwrap().iter().filter(|pair| pair[1] == 0.0).count();
            assert!(without == 0 || profile == "idle_bytes", "{profile} {clients}: {spread}");
            assert_eq!(spread["ratio"]["count"], 2 - without);
            assert!(
                spread["ratio"]["min"].as_f64().unwrap() <= ratio && ratio <= spread["ratio"]["max"].as_f64().unwrap()
            );
            let samples = result["servers"][profile][clients]["floor"]["samples"].as_array().unwrap();
            assert_eq!(samples.len(), 4, "two pairs of two");
            for sample in samples {
                assert_eq!((&sample["whole"], &sample["violations"]), (&true.into(), &0.into()));
                let (owed, deliveries) = (sample["owed"].as_u64().unwrap(), sample["deliveries"].as_u64().unwrap());
                assert_eq!(owed, deliveries);
                assert!(profile == "idle_bytes" || (deliveries > 0 && sample["server_ns"].as_f64().unwrap() > 50.0));
                assert_eq!(sample["latency"].is_object(), profile == "p99" || profile == "mixed");
            }
        }
    }
    let single = &result["servers"]["single"]["400"]["floor"]["samples"][0];
    assert_eq!(single["events"].as_u64().unwrap() * 400, single["deliveries"].as_u64().unwrap());
    let notes = result["facts"]["notes"].to_string();
    assert!(notes.contains("bun is left out: bun is not installed"), "{notes}");
    assert!(said(&output).contains("floor/peer") && said(&output).contains("bun is left out"));
}

#[test]
fn a_server_of_tokios_parts_stands_beside_the_floor() {
    let (output, result) = compare(&["--clients", "50", "--peers", "broadcast", "--profiles", "single"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(result["ratios"]["single"]["50"]["floor/broadcast"].as_f64().unwrap() > 0.0, "{result}");
}

#[test]
fn a_comparison_without_a_hub_does_not_begin() {
    let (output, _) = compare(&["--subject", "hub", "--hub", "nowhere/tickhub", "--peers", "floor"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("there is no hub at nowhere/tickhub"), "{}", said(&output));
}
