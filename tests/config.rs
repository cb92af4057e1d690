//! The example names every key with its default, and every fault of a configuration is told with
//! its key, its place, and what to do.

use std::collections::BTreeSet;
use std::ffi::OsString;

use proptest::prelude::*;
use serde_json::Value;
use tickhub::auth::RoleConfig;
use tickhub::config::{Config, ConfigError};
use tickhub::settings::Span;

const EXAMPLE: &str = include_str!("../config/tickhub.example.toml");

/// Keys that the example shows a use of where their default is nothing.
const SAMPLES: [&str; 1] = ["faults"];

/// The example with its defaults uncommented, and its examples too if `samples`.
fn uncommented(samples: bool) -> String {
    let line = |line: &str| {
        let sample = line.strip_prefix("#e.g. ").filter(|_| samples);
        let default =
            line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()));
        let default = default.filter(|rest| !rest.starts_with("e.g. "));
        sample.or(default).unwrap_or("").to_owned() + "\n"
    };
    EXAMPLE.lines().map(line).collect()
}

fn read(text: &str) -> Result<Config, Vec<String>> {
    read_with(text, &[])
}

fn read_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::read(Some(("hub.toml", text)), variables).map_err(|error| match error {
        ConfigError::Faulty(faults) => faults.iter().map(ToString::to_string).collect(),
        other => panic!("{other}"),
    })
}

fn json(config: &Config) -> Value {
    serde_json::to_value(config).expect("serializes")
}

/// The path of every key; elements of lists count as one.
fn keys(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                found.insert(format!("{prefix}{name}"));
                keys(value, &format!("{prefix}{name}."), found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, prefix, found)),
        _ => {}
    }
}

#[test]
fn all_outboxes_together_are_no_smaller_than_one() {
    let text = "[limits]\noutbox_bytes = 8388608\noutboxes_bytes = 4194304\n";
    let said = read(text).unwrap_err().join("; ");
    assert!(said.contains("limits.outboxes_bytes") && said.contains("must be from 8388608"), "{said}");
}

#[test]
fn the_example_as_it_is_changes_nothing() {
    assert_eq!(json(&read(EXAMPLE).expect("no faults")), json(&Config::default()));
}

#[test]
fn the_example_shows_every_default_as_it_is_in_the_code() {
    assert_eq!(json(&read(&uncommented(false)).expect("no faults")), json(&Config::default()));
    let roles = toml::from_str::<Config>(&uncommented(true)).expect("has the form").auth.roles;
    let built_in = RoleConfig::built_in("viewer").expect("built in");
    let with_samples = RoleConfig {
        max_rate: Some(20),
        connections: Some(100),
        commands_per_second: Some(20),
        backlog_events: Some(500),
        backlog_bytes: Some(262_144),
        write_stall: Some(Span::seconds(10)),
        catch_up: Some(Span::seconds(10)),
        delay: Some(Span::seconds(900)),
        ..built_in
    };
    assert_eq!(roles["viewer"], with_samples);
}

#[test]
fn the_example_names_every_key_and_no_other() {
    let text = uncommented(true);
    let config: Config = toml::from_str(&text).expect("has the form");
    let table: Value = toml::from_str(&text).expect("is TOML");
    let (mut shown, mut known) = (BTreeSet::new(), BTreeSet::new());
    keys(&table, "", &mut shown);
    keys(&json(&config), "", &mut known);
    // Secrets are never written out.
    known.extend(["auth.keys.secret".to_owned(), "auth.api_keys.hash".to_owned()]);
    assert_eq!(shown, known);
}

#[test]
fn the_example_shows_every_kind_of_provider_with_its_defaults() {
    let kinds = read("[[provider]]\nkind = \"?\"").expect_err("no such kind").remove(0);
    let kinds: BTreeSet<_> = kinds.split("must be one of ").nth(1).expect("lists them").split(", ").collect();
    let config: Value = toml::from_str(&uncommented(true)).expect("is TOML");
    let shown = config["provider"].as_array().expect("a list");
    assert_eq!(shown.iter().map(|provider| provider["kind"].as_str().expect("a text")).collect::<BTreeSet<_>>(), kinds);
    for provider in shown {
        let kind = format!("[[provider]]\nkind = {}", provider["kind"]);
        let defaults = &json(&read(&kind).expect("needs no other key"))["provider"][0];
        for (name, value) in provider.as_object().expect("a table") {
            assert!(SAMPLES.contains(&name.as_str()) || *value == defaults[name], "{name} = {value}");
        }
        // Also keys with a default of nothing must be there.
        assert_eq!(provider.as_object().map(|all| all.len()), defaults.as_object().map(|all| all.len()));
    }
}

#[test]
fn who_is_believed_and_whose_pages_are_let_in_is_checked() {
    for (text, said) in [
        ("server.proxy_protocol = \"v1\"", "server.proxy_protocol = \"v1\": is believed from trusted proxies only"),
        ("server.proxy_protocol = \"v3\"", "must be one of off, v1, v2, any"),
        ("server.trusted_proxies = [\"10.0.0.1/8\"]", "write 10.0.0.0/8"),
        ("server.trusted_proxies = [\"proxy\"]", "is no network"),
        ("server.forwarded_header = \"x-real-ip\"", "must be one of off, x-forwarded-for, forwarded"),
        ("server.allowed_origins = [\"app.example.com\"]", "is no origin"),
        ("limits.per_address.ipv6_prefix = 129", "limits.per_address.ipv6_prefix = 129: must be from 16 to 128"),
        ("limits.per_address.bytes_per_second = 1", "must be from 65536"),
        ("limits.per_principal.commands_per_second = 0", "limits.per_principal.commands_per_second = 0"),
    ] {
        let faults = read(text).expect_err(text);
        assert!(faults.len() == 1 && faults[0].contains(said), "{text}: {faults:?}");
    }
    let variables =
        [("TICKHUB__SERVER__TRUSTED_PROXIES", "10.0.0.0/8, ::1"), ("TICKHUB__SERVER__PROXY_PROTOCOL", "any")];
    let proxies = read_with("", &variables).expect("no faults").server.proxies();
    assert_eq!(proxies.trusted.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "::1"]);
}

#[test]
fn a_session_gets_what_is_configured() {
    let text = "timeouts.idle = \"46s\"\nlimits.answer_bytes = 99999";
    let session = read(text).expect("no faults").session();
    assert_eq!((session.idle_timeout.as_secs(), session.answer_bytes_max), (46, 99_999));
    assert_eq!(session.authentication_timeout.as_secs(), 5);
}

#[test]
fn the_environment_counts_above_the_file() {
    let text = "[server]\nlisten = \"127.0.0.1:1\"\nworker_threads = 3\n[auth.roles.viewer]\nmax_rate = 4\n";
    let variables = [
        ("TICKHUB__SERVER__LISTEN", "[::1]:2"),
        ("TICKHUB__TIMEOUTS__IDLE", "1m"),
        ("TICKHUB__AUTH__ISSUER", "12345"),
        ("TICKHUB__AUTH__ROLES__VIEWER__SYMBOLS", "SIM:*, BINANCE:BTC-*"),
        ("TICKHUB__AUTH__ROLES__ANALYST__CHANNELS", "[\"quote\"]"),
        ("TICKHUB__AUTH__KEYS", "[{ kid = \"k\", secret = \"abcdefghijklmnopqrstuvwxyz012345\" }]"),
        ("TICKHUB__LIMITS__SESSIONS", "7"),
        ("TICKHUB__LOG__FORMAT", "json"),
        ("TICKHUB__LOG__LEVEL", ""),
        // What others set is not ours.
        ("TICKHUB_PORT", "tcp://10.0.0.1:80"),
        ("TICKHUB_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
    ];
    let config = read_with(text, &variables).expect("no faults");
    assert_eq!((config.server.listen.to_string().as_str(), config.server.worker_threads), ("[::1]:2", 3));
    assert_eq!(config.timeouts.idle.to_string(), "1m");
    assert_eq!(config.auth.issuer, "12345");
    let viewer = &config.auth.roles["viewer"];
    assert_eq!(viewer.symbols.as_deref(), Some(&["SIM:*".to_owned(), "BINANCE:BTC-*".to_owned()][..]));
    assert_eq!(viewer.max_rate, Some(4), "keys beside it stay");
    assert_eq!(config.auth.roles["analyst"].channels.as_deref(), Some(&["quote".to_owned()][..]));
    assert_eq!((config.auth.keys.len(), config.limits.sessions), (1, 7));
    assert_eq!(config.log.level, "info");
}

/// Each text with what must be said of it, whole.
#[test]
fn every_fault_names_key_value_reason_and_what_to_do() {
    let cases = [
        ("[server]\nlisen = 1", "hub.toml:2: server.lisen: is not a key here; did you mean \"listen\"?"),
        ("[sevrer]\nlisten = 1", "hub.toml:2: sevrer.listen: is not a key here; did you mean \"server\"?"),
        ("[sevrer]", "hub.toml:1: sevrer: is not a key here; did you mean \"server\"?"),
        ("[log]\nx = true", "hub.toml:2: log.x: is not a key here; known are level, format"),
        (
            "\n[server]\n\nlisten = \"localhost:8080\"",
            "hub.toml:4: server.listen = \"localhost:8080\": is not an address; write IP:PORT such as \
             \"127.0.0.1:8080\" or \"[::1]:8080\", port 0 for any free one",
        ),
        ("[server]\nlisten = 8080", "hub.toml:2: server.listen = 8080: must be a text in quotes"),
        (
            "[server]\nworker_threads = -1",
            "hub.toml:2: server.worker_threads = -1: must be a whole number from 0 to 9223372036854775807",
        ),
        ("[server]\nworker_threads = 65", "hub.toml:2: server.worker_threads = 65: must be from 0 to 64"),
        (
            "[limits]\nsubscriptions = \"many\"",
            "hub.toml:2: limits.subscriptions = \"many\": must be a whole number from 0 to 4294967295",
        ),
        (
            "[timeouts]\nidle = \"45\"",
            "hub.toml:2: timeouts.idle = \"45\": is not a span of time; write a whole number and ms, s, m, h or d, \
             such as \"5s\"",
        ),
        (
            "timeouts.ping = \"1m\"",
            "hub.toml:1: timeouts.idle = \"45s\": must be longer than timeouts.ping, 1m: a healthy client answers that",
        ),
        (
            "[log]\nformat = \"jason\"",
            "hub.toml:2: log.format = \"jason\": must be one of text, json; did you mean \"json\"?",
        ),
        (
            "[log]\nlevel = \"loud=very\"",
            "hub.toml:2: log.level = \"loud=very\": is not a level; write error, warn, info, debug, trace or off, also by \
             module: \"info,tickhub::provider=debug\"",
        ),
        (
            "[server]\nlisten = \"127.0.0.1:9090\"",
            "hub.toml:1: server.ops_listen = \"127.0.0.1:9090\": is the address of server.listen too; give it another port",
        ),
        (
            "[provider]\nkind = \"sim\"",
            "hub.toml:2: provider.kind: stands in a table where a list of tables is due; write [[provider]]",
        ),
        (
            "[[provider]]\nkind = \"sym\"",
            "hub.toml:2: provider[0].kind = \"sym\": must be one of sim, binance, replay; did you mean \"sim\"?",
        ),
        ("[[provider]]\nseed = 1", "hub.toml:1: provider[0]: lacks the key \"kind\""),
        (
            "[[provider]]\nkind = \"sim\"\ninstruments = \"ten\"",
            "hub.toml:3: provider[0].instruments = \"ten\": must be a whole number from 0 to 4294967295",
        ),
        (
            "[[provider]]\nkind = \"sim\"\ninstruments = 0",
            "hub.toml:3: provider[0].instruments: must be 1 to 100000, is 0",
        ),
        (
            "[[provider]]\nkind = \"sim\"\n[[provider]]\nkind = \"sim\"\nseed = 2",
            "hub.toml:3: provider[1].venue = \"SIM\": is another provider's venue too; an instrument has one source",
        ),
        (
            "[[auth.keys]]\nkid = \"k\"\nsecert = \"0123456789\"",
            "hub.toml:3: auth.keys[0].secert: is not a key here; did you mean \"secret\"?",
        ),
        ("[[auth.keys]]\nkid = \"k\"\nsecret = 123456789", "hub.toml:3: auth.keys[0].secret: must be a text in quotes"),
        (
            "[[auth.keys]]\nkid = \"k\"\nalg = \"RS256\"\nsecret = \"abcdefghijklmnopqrstuvwxyz012345\"",
            "hub.toml:3: auth.keys[0].alg = \"RS256\": must be HS256, as the key is a secret; keys that others publish \
             stand in [[auth.issuers]]",
        ),
        (
            "[[auth.keys]]\nkid = \"k\"\nsecret = \"short-one\"",
            "hub.toml:3: auth.keys[0].secret: has 9 bytes, HS256 needs at least 32 random ones; make one with \
             `openssl rand -base64 48`",
        ),
        (
            "[auth.roles.viewer]\nsymbols = [\"SIM:*\", \"btc\"]",
            "hub.toml:2: auth.roles.viewer.symbols[1] = \"btc\": is not a pattern: expected VENUE:SYMBOL; write \
             VENUE:SYMBOL, VENUE:HEAD*, VENUE:* or *",
        ),
        ("[server\nlisten = 1", "hub.toml:1: TOML: unclosed table, expected `]`"),
        ("[server]\nlisten = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"", "hub.toml:3: TOML: duplicate key"),
    ];
    for (text, said) in cases {
        assert_eq!(read(text).expect_err(text), [said], "{text}");
    }
}

#[test]
fn a_variable_that_is_wrong_is_named() {
    let cases = [
        (
            ("TICKHUB__SERVER__LISEN", "1"),
            "TICKHUB__SERVER__LISEN: server.lisen: is not a key here; did you mean \"listen\"?",
        ),
        (("TICKHUB__SERVER__", "1"), "TICKHUB__SERVER__: environment: names no key; write TICKHUB__SECTION__KEY"),
        (
            ("TICKHUB__LIMITS__SESSIONS", "many"),
            "TICKHUB__LIMITS__SESSIONS: limits.sessions = \"many\": must be a whole number from 0 to 9223372036854775807",
        ),
        (
            ("TICKHUB__LIMITS__SESSIONS", "0"),
            "TICKHUB__LIMITS__SESSIONS: limits.sessions = 0: must be from 1 to 10000000",
        ),
        (
            ("TICKHUB__AUTH__KEYS__0__SECRET", "hunter2hunter2"),
            "TICKHUB__AUTH__KEYS__0__SECRET: auth.keys.0.secret: is inside a list: give the whole list as TOML, \
             TICKHUB__AUTH__KEYS='[{ … }]'",
        ),
        (
            ("TICKHUB__AUTH__KEYS", "[{ kid = \"k\", secret = hunter2hunter2 }]"),
            "TICKHUB__AUTH__KEYS: auth.keys: must be a list of tables, TICKHUB__AUTH__KEYS='[{ … }]'; this is no TOML: \
             string values must be quoted, expected literal string",
        ),
        (
            ("TICKHUB__AUTH__KEYS", "hunter2hunter2"),
            "TICKHUB__AUTH__KEYS: auth.keys: must be a list of tables, TICKHUB__AUTH__KEYS='[{ … }]'",
        ),
        (
            ("TICKHUB__AUTH__KEYS", "{ kid = \"k\" }"),
            "TICKHUB__AUTH__KEYS: auth.keys: must be a list of tables, TICKHUB__AUTH__KEYS='[{ … }]'",
        ),
        (
            ("TICKHUB__AUTH__KEYS", "[{ kid = 1, secret = \"abcdefghijklmnopqrstuvwxyz012345\" }]"),
            "TICKHUB__AUTH__KEYS: auth.keys[0].kid = 1: must be a text in quotes",
        ),
        (
            ("TICKHUB__AUTH__KEYS", "[{ kid = \"k\", secret = \"hunter2\" }]"),
            "TICKHUB__AUTH__KEYS: auth.keys[0].secret: has 7 bytes, HS256 needs at least 32 random ones; make one with \
             `openssl rand -base64 48`",
        ),
        (
            ("TICKHUB__PROVIDER", "sim"),
            "TICKHUB__PROVIDER: provider: must be a list of tables, TICKHUB__PROVIDER='[{ … }]'",
        ),
    ];
    for ((name, value), said) in cases {
        let found = read_with("", &[(name, value)]).expect_err(name);
        assert_eq!(found, [said]);
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let text = "
        [server]
        listen = 1
        state = \"x\"
        worker_threads = 1000
        [timeouts]
        idle = 5
        [[auth.keys]]
        kid = 7
        secret = 8
        sekret = 9
        [[provider]]
        kind = \"sim\"
        seed = \"one\"
        instruments = \"ten\"
    ";
    let found = read_with(text, &[("TICKHUB__LOG__FORMAT", "xml")]).expect_err("faulty");
    let named: BTreeSet<_> = found.iter().map(|fault| fault.split(": ").nth(1).expect("has a key")).collect();
    let expected = [
        "server.listen = 1",
        "server.state",
        "server.worker_threads = 1000",
        "timeouts.idle = 5",
        "auth.keys[0].kid = 7",
        "auth.keys[0].secret",
        "auth.keys[0].sekret",
        "provider[0].seed = \"one\"",
        "provider[0].instruments = \"ten\"",
        "log.format = \"xml\"",
    ];
    assert_eq!(named, BTreeSet::from(expected), "{found:#?}");
    assert_eq!(found.len(), expected.len());
}

#[test]
fn a_fault_in_one_table_of_a_list_hides_none_of_the_others() {
    let text = "
        [[provider]]
        kind = \"sim\"
        seed = \"one\"
        [[provider]]
        kind = \"sim\"
        venue = \"A\"
        instruments = 0
        [[provider]]
        kind = \"sym\"
        [[provider]]
        kind = \"sim\"
        venue = \"A\"
        [[auth.keys]]
        kid = 7
        secret = \"abcdefghijklmnopqrstuvwxyz012345\"
        [[auth.keys]]
        kid = \"k\"
        secret = \"short\"
    ";
    let found = read(text).expect_err("faulty");
    for said in [
        "hub.toml:4: provider[0].seed = \"one\": must be",
        "hub.toml:8: provider[1].instruments: must be 1 to",
        "hub.toml:10: provider[2].kind = \"sym\": must be",
        "hub.toml:13: provider[3].venue = \"A\": is another",
        "hub.toml:15: auth.keys[0].kid = 7: must be",
        "hub.toml:19: auth.keys[1].secret: has 5 bytes",
    ] {
        assert!(found.iter().any(|fault| fault.starts_with(said)), "{said}: {found:#?}");
    }
    assert_eq!(found.len(), 6, "{found:#?}");
}

/// The file's table of that number stands elsewhere and is another one.
#[test]
fn a_list_in_the_environment_has_its_own_places() {
    let file = "[[provider]]\nkind = \"sim\"\n[[provider]]\nkind = \"sim\"\nvenue = \"B\"\n";
    let list = "[{ kind = \"sim\" }, { kind = \"sim\", venue = \"B\", seed = -1 }]";
    let found = read_with(file, &[("TICKHUB__PROVIDER", list)]).expect_err("faulty");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("TICKHUB__PROVIDER: provider[1].seed = -1: must be"), "{found:?}");
}

#[test]
fn without_keys_an_open_address_is_refused_with_what_to_do() {
    let text = "[server]\nlisten = \"0.0.0.0:8080\"";
    let found = read(text).expect_err("open").remove(0);
    assert!(
        found.starts_with("hub.toml:2: server.listen = \"0.0.0.0:8080\": ") && found.contains("[[auth.keys]]"),
        "{found}"
    );
    let key = "[[auth.keys]]\nkid = \"k\"\nsecret = \"abcdefghijklmnopqrstuvwxyz012345\"";
    assert!(read(&format!("{text}\n{key}")).is_ok());
    let both = read(&format!("{text}\nworker_threads = 99")).expect_err("two faults");
    assert_eq!(both.len(), 2, "{both:?}");
    let faulty = read(&format!("{text}\n{}", key.replace("kid", "kit"))).expect_err("faulty key");
    assert!(faulty.iter().all(|fault| !fault.contains("server.listen")), "a faulty key is still a key: {faulty:?}");
}

#[test]
fn no_secret_is_ever_said() {
    let secret = "abcdefghijklmnopqrstuvwxyz012345";
    let good = read(&format!("[[auth.keys]]\nkid = \"k\"\nsecret = \"{secret}\"")).expect("no faults");
    assert!(!format!("{good:?}").contains(secret) && !json(&good).to_string().contains(secret));
    for text in [
        format!("[[auth.keys]]\nkid = \"k\"\nsecret = [\"{secret}\"]"),
        format!("[[auth.keys]]\nkid = \"k\"\nsecrets = \"{secret}\""),
        format!("[[auth.keys]]\nsecret = \"{secret}\""),
        format!("[[auth.keys]]\nkid = \"k\"\nsecret = \"{secret}\nx"),
        format!("[auth.keys]\nkid = \"k\"\nsecret = \"{secret}\""),
        format!("[auth]\nkeys = \"{secret}\""),
        format!("[auth]\nkeys = [\"{secret}\"]"),
        format!("[[auth.api_keys]]\nid = \"a\"\nhash = \"{secret}\"\nowner = \"o\"\nrole = \"viewer\""),
        format!("[[auth.keys]]\nkid = \"k\"\nsecret = \"{secret}\"\nsecret_file = \"x\""),
    ] {
        let said = read(&text).expect_err(&text).join("\n");
        assert!(!said.contains("abcdefgh"), "{said}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("absent.toml");
    // As the command line says it: with every cause behind it, each once.
    let said = || format!("{:#}", anyhow::Error::from(Config::load(Some(&path)).expect_err("unreadable")));
    assert!(said().ends_with("absent.toml: cannot be read: No such file or directory (os error 2)"), "{}", said());
    assert_eq!(said().matches("No such file").count(), 1, "{}", said());
    std::fs::write(&path, [0xff, 0xfe]).expect("writes");
    assert_eq!(said().matches("UTF-8").count(), 1, "{}", said());
}

proptest! {
    #[test]
    fn whatever_the_text_each_fault_has_a_key_and_nothing_panics(
        cuts in proptest::collection::vec((0usize..8000, 0usize..40, "[a-z0-9=\"\\[\\]{}.\\n -]{0,6}"), 1..6),
        value in "\\PC{0,40}",
    ) {
        let mut text: Vec<char> = uncommented(true).chars().collect();
        for (at, length, put) in cuts {
            let at = at % text.len();
            text.splice(at..(at + length).min(text.len()), put.chars());
        }
        let text: String = text.into_iter().collect();
        for name in ["TICKHUB__AUTH__KEYS", "TICKHUB__SERVER__LISTEN", "TICKHUB__PROVIDER", "TICKHUB__X__", "TICKHUB__LIMITS"] {
            if let Err(faults) = read_with(&text, &[(name, &value)]) {
                prop_assert!(faults.iter().all(|fault| fault.contains(": ")), "{faults:?}");
            }
        }
    }
}

#[test]
fn a_number_beyond_any_type_is_a_fault_and_hides_nothing() {
    let text = "[server]\nlisten = \"127.0.0.1:7777\"\n[limits]\nsessions = 18446744073709551615\n";
    let error = Config::read(Some(("hub.toml", text)), std::iter::empty()).expect_err("the file cannot be read");
    assert!(error.to_string().contains("hub.toml:4"), "{error}");
}

#[test]
fn a_word_that_is_no_level_is_a_fault() {
    let text = "[log]\nlevel = \"loud\"\n";
    let error = Config::read(Some(("hub.toml", text)), std::iter::empty()).expect_err("no such level");
    assert!(error.to_string().contains("log.level"), "{error}");
}
