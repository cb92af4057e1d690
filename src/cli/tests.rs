//! What each command prints where, and what it refuses.

use std::path::Path;

use clap::CommandFactory as _;
use tempfile::TempDir;

use super::*;
use crate::auth::{AuthError, Principal};
use crate::model::{Channel, Depth, InstrumentId};
use crate::time;

const SECRET: &str = "a-secret-of-more-than-thirty-two-bytes-for-tests";

/// A serve that only says what it was given.
fn serve(config: Config, files: ServeFiles) -> anyhow::Result<ExitCode> {
    anyhow::bail!("serving on {} {:?}", config.server.listen, files.ready)
}

struct Said {
    out: String,
    err: String,
}

fn tickhub(arguments: &[&str]) -> anyhow::Result<Said> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let arguments = ["tickhub"].iter().chain(arguments).map(OsString::from);
    let code = run(arguments, serve, &mut out, &mut err)?;
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
    let text = |bytes| String::from_utf8(bytes).expect("a text");
    Ok(Said { out: text(out), err: text(err) })
}

fn refused(arguments: &[&str]) -> String {
    format!("{:#}", tickhub(arguments).err().expect("refused"))
}

/// A configuration file in a directory of its own, with a state directory beside it.
fn configured(text: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("hub.toml");
    let state = dir.path().join("state");
    std::fs::write(&path, format!("server.state_dir = {state:?}\n{text}")).expect("writes");
    (dir, path.to_str().expect("a text").to_owned())
}

fn judge(token: &str, config: &str) -> Result<Principal, AuthError> {
    let config = Config::load(Some(Path::new(config))).expect("no faults");
    authenticator(&config).expect("has keys").token(token.trim_end(), time::wall())
}

#[test]
fn the_command_line_holds_together() {
    CommandLine::command().debug_assert();
}

#[test]
fn without_a_command_it_serves() {
    let (_dir, config) = configured("server.listen = \"127.0.0.1:7\"");
    assert_eq!(refused(&[]), "serving on 127.0.0.1:8080 None");
    assert_eq!(refused(&["--config", &config, "--ready-file", "r"]), "serving on 127.0.0.1:7 Some(\"r\")");
    assert_eq!(refused(&["serve", "-c", &config]), "serving on 127.0.0.1:7 None");
}

#[test]
fn a_token_is_signed_with_the_configured_key() {
    let key = format!("[[auth.keys]]\nkid = \"k\"\nsecret = \"{SECRET}\"");
    let (_dir, config) = configured(&key);
    let narrow = ["--symbols", "SIM:A*,SIM:B", "--channels", "quote", "--depth", "1", "--max-rate", "9"];
    let asked = ["token", "--subject", "ann", "--role", "analyst", "--ttl", "90s", "--config", &config];
    let said = tickhub(&[&asked[..], &narrow].concat()).expect("signs");
    assert_eq!((said.out.lines().count(), said.err.as_str()), (1, ""), "only the token");
    let principal = judge(&said.out, &config).expect("good");
    assert_eq!((&*principal.subject, &*principal.role), ("ann", "analyst"));
    let lasts = principal.expires.expect("ends").0 - principal.issued.expect("began").0;
    assert_eq!(lasts, 90_000_000_000);
    let grant = principal.grant;
    assert!(grant.allows(&InstrumentId::parse("SIM:AX").expect("valid")));
    assert!(!grant.allows(&InstrumentId::parse("SIM:BX").expect("valid")));
    assert_eq!((grant.depth(), grant.max_rate()), (Depth::One, Some(9)));
    assert_eq!(grant.channels(), [Channel::Quote].into_iter().collect());
    // Another hub's key is another key.
    let (_other, other) = configured(&key.replace("a-secret", "no-secret"));
    assert_eq!(judge(&said.out, &other), Err(AuthError::BadSignature));
}

#[test]
fn without_keys_a_token_is_signed_with_the_development_key() {
    let (dir, config) = configured("");
    let token = tickhub(&["token", "--config", &config]).expect("signs").out;
    let principal = judge(&token, &config).expect("good");
    assert_eq!((&*principal.role, principal.grant.depth()), ("viewer", Depth::Ten));
    assert_eq!(judge(&token, &configured("").1), Err(AuthError::BadSignature), "each hub has its own");
    std::fs::remove_dir_all(dir.path().join("state")).expect("removes");
    assert_eq!(judge(&token, &config), Err(AuthError::BadSignature), "a new key ends the old tokens");
}

#[test]
fn a_token_that_allows_nothing_is_warned_of() {
    let (_dir, config) = configured("[auth.roles.desk]\nsymbols = [\"SIM:*\"]");
    let said = tickhub(&["token", "--role", "desk", "--symbols", "BINANCE:*", "--config", &config]).expect("signs");
    assert!(said.err.starts_with("warning: ") && judge(&said.out, &config).is_ok());
}

#[test]
fn arguments_that_are_wrong_are_named_with_what_is_right() {
    let cases: [(&[&str], &str); 10] = [
        (&["token", "--ttl", "366d"], "is more than 365d; for what must last, make an API key"),
        (&["token", "--ttl", "1 hour"], "write a whole number and ms, s, m, h or d"),
        (&["token", "--symbols", "SIM:A,btc"], "write VENUE:SYMBOL, VENUE:HEAD*, VENUE:* or *"),
        (&["token", "--channels", "quotes"], "known are ticker, quote, trade, book, status"),
        (&["token", "--depth", "20"], "must be 1, 10, 50, or 0"),
        (&["token", "--max-rate", "0"], "'--max-rate <RATE>'"),
        (&["tokens"], "similar subcommand exists: 'token'"),
        (&["check-config"], "<FILE>"),
        (&["api-key", "new", "--id", "a b", "--owner", "o"], "letters, digits, _ and -"),
        (&["api-key", "new", "--id", "a", "--owner", "o", "--expires", "soon"], "2030-12-31"),
    ];
    for (arguments, hint) in cases {
        let arguments = ["tickhub"].iter().chain(arguments);
        let said = CommandLine::try_parse_from(arguments).expect_err(hint).to_string();
        assert!(said.contains(hint), "{said}");
    }
    let (_dir, config) = configured("");
    let unknown = refused(&["token", "--role", "root", "--config", &config]);
    assert_eq!(unknown, "the role \"root\" is not known; known are admin, analyst, viewer");
    assert!(refused(&["token", "--ttl", "0s", "--config", &config]).contains("at least one second"));
}

#[test]
fn check_config_says_what_a_hub_would_do() {
    let (_dir, config) = configured("");
    let said = tickhub(&["check-config", &config]).expect("ok").out;
    assert!(said.contains("hub.toml: ok") && said.contains("ws://127.0.0.1:8080/api/v1/ws/prices"), "{said}");
    assert!(said.contains("development mode") && said.contains("SIM"), "{said}");
    let (_dir, config) = configured(&format!("[[auth.keys]]\nkid = \"k7\"\nsecret = \"{SECRET}\""));
    let said = tickhub(&["check-config", &config]).expect("ok").out;
    assert!(said.contains("keys k7") && !said.contains(SECRET), "{said}");
}

#[test]
fn a_recording_that_is_not_there_is_a_fault_for_whoever_would_play_it() {
    let (dir, config) =
        configured("[[provider]]\nkind = \"sim\"\n[[provider]]\nkind = \"replay\"\npath = \"gone.gz\"\n");
    for command in [&["check-config"][..], &["serve", "--config"]] {
        let error = tickhub(&[command, &[&config]].concat()).err().expect("faulty");
        let expected = "hub.toml:6: provider[1].path = \"gone.gz\": cannot be read (No such file or directory (os error 2)); \
                        name a recording";
        assert!(error.is::<ConfigError>() && error.to_string().contains(expected), "{error}");
    }
    assert!(tickhub(&["token", "--config", &config]).is_ok(), "a token needs no recording");
    for (path, fault) in [(dir.path().to_owned(), Some("is a directory")), (dir.path().join("hub.toml"), None)] {
        let (_dir, config) = configured(&format!("[[provider]]\nkind = \"replay\"\npath = {path:?}\n"));
        let outcome = tickhub(&["check-config", &config]).map_err(|error| error.to_string());
        assert_eq!(outcome.as_ref().err().map(|said| said.contains(fault.unwrap_or("?"))), fault.map(|_| true));
    }
}

/// What the system says stands there once, though it is both in the message and its cause.
#[test]
fn what_the_system_says_is_said_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("file");
    std::fs::write(&state, "").expect("writes");
    let config = dir.path().join("hub.toml");
    std::fs::write(&config, format!("server.state_dir = {:?}", state.join("state"))).expect("writes");
    for said in [
        refused(&["token", "--config", config.to_str().expect("a text")]),
        refused(&["token", "--config", "/nonexistent/hub.toml"]),
    ] {
        assert_eq!(said.matches("(os error").count(), 1, "{said}");
    }
}

#[test]
fn every_command_refuses_a_faulty_configuration_as_such() {
    let (_dir, config) = configured("server.lisen = 1\n[timeouts]\nidle = 1");
    for command in [&["serve", "--config"][..], &["token", "--config"], &["check-config"]] {
        let error = tickhub(&[command, &[&config]].concat()).err().expect("faulty");
        assert!(error.is::<ConfigError>(), "{command:?}");
        assert!(error.to_string().contains("server.lisen") && error.to_string().contains("timeouts.idle"), "{error}");
    }
    assert!(tickhub(&["check-config", "/nonexistent/hub.toml"]).err().expect("absent").is::<ConfigError>());
}

#[test]
fn an_api_key_is_good_once_its_block_is_in_the_configuration() {
    let (_dir, config) = configured("");
    let asked =
        ["api-key", "new", "--id", "desk-1", "--owner", "A \"desk\"", "--role", "analyst", "--expires", "2999-12-31"];
    let said = tickhub(&[&asked[..8], &["--config", &config]].concat()).expect("makes");
    let key = said.out.trim_end();
    assert!(!said.err.contains(key), "shown once");
    let block = said.err.split_once("\n\n").and_then(|(_, rest)| rest.split_once("\n\n")).expect("a block").0;
    let (_dir, with_key) = configured(block);
    let read = Config::load(Some(Path::new(&with_key))).expect("no faults");
    let principal = authenticator(&read).expect("has keys").api_key(key, time::wall()).expect("good");
    assert_eq!((&*principal.subject, &*principal.role), ("A \"desk\"", "analyst"));
    let again = [&asked[..8], &["--config", &with_key]].concat();
    assert_eq!(refused(&again), "there is an API key \"desk-1\" already");
    // Beyond the year 2262 no time can be held.
    assert!(CommandLine::try_parse_from(["tickhub"].iter().chain(&asked)).is_err());
    let root = ["api-key", "new", "--id", "a", "--owner", "o", "--role", "root", "--config", &config];
    assert!(refused(&root).contains("auth.api_keys[0].role = \"root\": is not a role"));
}
