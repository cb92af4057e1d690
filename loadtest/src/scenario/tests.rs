use super::*;

const STORM: &str = r#"
name = "storm"
clients = 200

[[subscribe]]
channel = "trade"
symbols = ["SIM:*"]
symbols_per_client = 5

[[phase]]
name = "before"
duration = "5s"

[[phase]]
name = "storm"
duration = "10s"
reconnect = "50%"
reconnect_rate = 2000
"#;

fn read(text: &str, overrides: &[&str]) -> Result<Scenario, String> {
    let overrides: Vec<String> = overrides.iter().map(|change| (*change).to_owned()).collect();
    from_toml(text, &overrides).map_err(|error| format!("{error:#}"))
}

#[test]
fn a_file_says_what_is_run_and_the_rest_has_defaults() {
    let scenario = read(STORM, &[]).unwrap();
    assert_eq!((scenario.name.as_str(), scenario.clients, scenario.threads), ("storm", 200, 1));
    let held = &scenario.groups[0].subscriptions[0];
    assert_eq!((held.channel.as_str(), held.mode, held.per_client), ("trade", Mode::Every, PerClient::Count(5)));
    let storm = &scenario.phases[1];
    assert_eq!(storm.reconnect, Some(Reconnect { share: 0.5, rate: 2_000 }));
    assert_eq!((scenario.length(), scenario.source.clone()), (Duration::from_secs(15), Source::Hub));
    assert_eq!(scenario.lateness_p99_max, LATENESS_P99_MAX);
}

#[test]
fn overrides_count_above_the_file_and_name_phases_by_name_place_or_all() {
    let changes =
        ["clients=7", "phase.storm.duration=2s", "phase.0.measure=false", "subscribe.0.symbols=[\"SIM:AAA-USD\"]"];
    let scenario = read(STORM, &changes).unwrap();
    assert_eq!((scenario.clients, scenario.phases[1].duration), (7, Duration::from_secs(2)));
    assert_eq!((scenario.phases[0].measure, scenario.phases[1].measure), (false, true));
    assert_eq!(scenario.groups[0].subscriptions[0].symbols, ["SIM:AAA-USD"]);
    assert_eq!(read(STORM, &["phase.*.duration=1s"]).unwrap().length(), Duration::from_secs(2));
    assert_eq!(read(STORM, &["source.kind=hub"]).unwrap().source, Source::Hub);
    assert!(read(STORM, &["phase.strom.duration=1s"]).unwrap_err().contains("no phase.strom"));
    assert!(read(STORM, &["clients"]).unwrap_err().contains("key=value"));
}

#[test]
fn what_is_wrong_is_told_with_key_value_reason_and_fix() {
    for (change, parts) in [
        ("client=5", ["client = 5", "no such key", "did you mean `clients`?"]),
        ("clients=0", ["clients = 0", "not between 1 and 1000000", "write a whole number"]),
        ("phase.storm.duration=10", ["phase.storm.duration = 10", "a duration is a text", "\"30s\""]),
        ("phase.storm.duration=10x", ["phase.storm.duration = \"10x\"", "no unit of time", "\"30s\""]),
        ("phase.storm.duration=0s", ["phase.storm.duration = 0s", "takes time", "give it some"]),
        ("phase.storm.reconnect=150%", ["phase.storm.reconnect = \"150%\"", "between 0 and 100 %", "write it as"]),
        ("phase.storm.rate=100", ["phase.storm.rate = 100", "cannot be steered", "source.kind = \"venue\""]),
        ("phase.storm.burst=10", ["phase.storm.burst = 10", "needs a rate", "set `rate`"]),
        ("phase.*.measure=false", ["phase = 2", "no phase is measured", "leave `measure` out"]),
        ("phase.*.name=x", ["phase.name = x", "two phases", "name each differently"]),
        ("subscribe.0.mode=latest", ["subscribe.trade.mode = latest", "no `latest` mode", "use `every`"]),
        ("subscribe.0.mode=newest", ["subscribe.trade.mode = \"newest\"", "none of what it can be", "every, latest"]),
        ("subscribe.0.channel=qoute", ["subscribe.qoute.channel = qoute", "unknown", "use ticker"]),
        ("subscribe.0.symbols=[]", ["subscribe.trade.symbols", "must be ids or patterns", "VENUE:HEAD*"]),
        ("subscribe.0.symbols_per_client=some", ["symbols_per_client = \"some\"", "neither", "write a number"]),
        ("subscribe.0.depth=10", ["subscribe.trade.depth = 10", "belongs to `book`", "leave it out"]),
        ("source.kind=venue", ["phase.before.rate = 0", "nothing would be delivered", "events a second"]),
        ("source.kind=other", ["source.kind = \"other\"", "none of what it can be", "hub, venue"]),
        ("threads=\"two\"", ["threads = \"two\"", "no whole number", "from 1 to 256"]),
    ] {
        let error = read(STORM, &[change]).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{change}: {part:?} is not in {error}");
        }
    }
    let two = read(STORM, &["client=5", "thread=2"]).unwrap_err();
    assert_eq!(two.lines().count(), 2, "all faults at once: {two}");
    assert!(read("clients = ", &[]).unwrap_err().contains("line 1"), "the place of what is no TOML is told");
    assert!(read("", &[]).unwrap_err().contains("[[subscribe]]"));
    let patterns =
        ["subscribe.0.symbols=[\"A:*\",\"B:*\"]", "subscribe.0.symbols_per_client=all", "phase.0.churn_rate=5"];
    assert!(read(STORM, &patterns).unwrap_err().contains("several patterns"));
}

#[test]
fn groups_get_their_shares_at_every_number_of_clients() {
    let groups = r#"
        clients = 100
        [[group]]
        name = "screens"
        share = "70%"
        [[group.subscribe]]
        channel = "quote"
        mode = "latest"
        symbols_per_client = "all"
        [[group]]
        name = "algos"
        share = "30%"
        [[group.subscribe]]
        channel = "trade"
        [[group.subscribe]]
        channel = "book"
        depth = 1
        [[phase]]
        duration = "1s"
    "#;
    let scenario = read(groups, &[]).unwrap();
    let of = scenario.group_of_clients();
    assert_eq!(of.iter().filter(|group| **group == 0).count(), 70);
    let ten = of[..10].iter().filter(|group| **group == 1).count();
    assert_eq!(ten, 3, "they are mixed, not one after the other");
    let kinds: Vec<(String, Option<u32>)> =
        scenario.kinds().into_iter().map(|kind| (kind.channel, kind.depth)).collect();
    assert_eq!(kinds, [("quote".into(), None), ("trade".into(), None), ("book".into(), Some(1))]);
    let twice = groups.replace("channel = \"book\"\n        depth = 1", "channel = \"trade\"");
    assert!(read(&twice, &[]).unwrap_err().contains("each channel once"));
}

#[test]
fn every_scenario_that_is_shipped_can_be_run() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let scenario = read(&std::fs::read_to_string(&path).unwrap(), &[]);
        let scenario = scenario.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(
            path.file_stem().unwrap().to_str(),
            Some(scenario.name.as_str()),
            "a file is called as its scenario"
        );
        assert!(!scenario.about.is_empty());
        names.push(scenario.name);
    }
    names.sort();
    for wanted in ["burst", "churn", "mixed", "reconnect-storm", "short", "slow-share", "steady", "wildcard"] {
        assert!(names.iter().any(|name| name == wanted), "{wanted} is missing from {names:?}");
    }
}

#[test]
fn every_thread_has_its_part_of_a_share() {
    for (clients, threads, share) in [(1_000, 2, 0.5), (1_000, 4, 0.01), (999, 1, 0.1)] {
        let threads_given = format!("threads={threads}");
        let scenario = read(STORM, &[&format!("clients={clients}"), &threads_given]).unwrap();
        let chosen: Vec<usize> = (0..clients).filter(|client| is_in_share(scenario.spread(*client), share)).collect();
        assert_eq!(chosen.len(), (clients as f64 * share) as usize, "{clients} {share}");
        for thread in 0..threads {
            let mine = chosen.iter().filter(|client| *client % threads == thread).count();
            assert!(mine.abs_diff(chosen.len() / threads) <= 1, "{threads} threads, {share}: {mine}");
        }
    }
}

#[test]
fn durations_and_shares_are_read_as_people_write_them() {
    assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
    assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
    assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
    assert!(duration("5x").is_err() && duration("").is_err() && duration("-1s").is_err());
    assert_eq!((share("1%"), share("0.25")), (Ok(0.01), Ok(0.25)));
    assert!(share("101%").is_err() && share("x").is_err() && share("nan").is_err());
}

#[test]
fn patterns_match_as_the_protocol_says() {
    for pattern in ["*", "*:*", "SIM:*", "SIM:AA*", "SIM:AAA-USD", "*:AAA-USD"] {
        assert!(matches(pattern, "SIM:AAA-USD"), "{pattern}");
    }
    for pattern in ["SIM:AAA", "BINANCE:*", "SIM:B*", "SIM"] {
        assert!(!matches(pattern, "SIM:AAA-USD"), "{pattern}");
    }
}
