//! Style as a test: who may import whom, sizes, calls that stand in one place only, and pages that
//! say what the code says. Where a rule is wrong for a new case, change it here, with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each module of the crate may import of the others. A row stands above those that it may
/// import: read from below it is the order of the layers in ARCHITECTURE.md.
const LAYERS: &[(&str, &[&str])] = &[
    ("main", &["cli", "server"]),
    (
        "server",
        &[
            "http",
            "config",
            "identity",
            "provider",
            "transport",
            "state",
            "ingest",
            "session",
            "fanout",
            "auth",
            "store",
            "wire",
            "model",
        ],
    ),
    ("cli", &["config", "provider", "state", "ingest", "fanout", "auth", "store", "wire", "model"]),
    ("config", &["http", "identity", "provider", "transport", "session", "auth", "model"]),
    ("http", &["transport", "state", "auth", "store", "wire", "model"]),
    ("identity", &["dial", "auth", "model"]),
    ("provider", &["dial", "ingest", "model"]),
    ("transport", &["session", "fanout", "auth", "wire", "model"]),
    ("state", &["auth", "model"]),
    ("session", &["fanout", "auth", "wire", "model"]),
    ("ingest", &["fanout", "store", "wire", "model"]),
    ("fanout", &["store", "wire", "model"]),
    ("dial", &[]),
    ("auth", &["model"]),
    ("store", &["model"]),
    ("wire", &["model"]),
    ("model", &[]),
];

/// Small things that everyone may import; they import `model` and each other only. `wire` and
/// `model` do without them.
const FLOOR: &[&str] = &["time", "sync", "limits", "rate", "metrics", "shutdown", "settings", "audit"];

/// Modules that take bytes and `now` as arguments: no clock, no runtime, no socket.
const PURE: &[&str] = &["model", "wire", "store", "auth", "fanout", "session", "rate"];

const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 100;

/// Files and functions that are longer, with the reason. None is best.
const LONGER: &[(&str, &str)] = &[];

/// Texts that stand in some places only: where, and why. Tests are free of these.
const CONFINED: &[(&str, &[&str], &str)] = &[
    ("SystemTime", &["src/time.rs"], "the clock is read in one place, so that all else can be tried with another"),
    ("std::time::Instant", &["src/time.rs"], "the clock is read in one place"),
    ("Instant::now(", &["src/time.rs", "src/provider/"], "providers wait on tokio's clock, which tests can stop"),
    (
        "std::sync::atomic",
        &["src/sync.rs", "src/metrics/", "src/audit/", "src/transport/", "src/http/"],
        "what loom must see goes through sync.rs; elsewhere atomics only count, or say one thing once",
    ),
    ("task::yield_now", &["src/ingest/", "src/transport/"], "a provider yields by its feed, which wakes the workers"),
    ("unsafe {", &["src/transport/table.rs"], "measured, argued and tested there; see ARCHITECTURE.md"),
    ("thread::sleep", &[], "nothing waits blindly"),
    ("anyhow", &["src/server/", "src/cli/"], "elsewhere an error says who must act"),
    ("std::env::var", &["src/config/", "src/cli/"], "settings come in by one way"),
    ("std::process::exit", &[], "the process ends by returning from main, so that everything is dropped"),
    ("unbounded", &[], "every queue has a bound"),
    ("fn get_", &[], "a getter has the name of what it gives"),
    ("Manager", &[], "a name says what the thing does"),
    ("mod utils", &[], "a name says what is inside"),
];

/// Texts that stand nowhere, tests included.
const BANNED: &[(&str, &str)] = &[
    ("todo!(", "what is not there yet is not there at all"),
    ("unimplemented!(", "what is not there yet is not there at all"),
    ("#[ignore", "a test that does not run shows nothing"),
    ("dbg!(", "left behind"),
    ("FIXME", "left behind"),
    ("XXX", "left behind"),
];

/// A source file of ours.
struct Source {
    /// From the root, with slashes.
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, extension: &str) -> Vec<Source> {
    fn walk(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for path in entries.map(|entry| entry.expect("readable").path()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && name != "target" && name != "node_modules" && !name.starts_with('.') {
                walk(&path, extension, found);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), extension, &mut found);
    found.sort();
    let source = |path: PathBuf| Source {
        text: fs::read_to_string(&path).expect("UTF-8"),
        path: path.strip_prefix(root()).expect("below the root").to_string_lossy().replace('\\', "/"),
    };
    found.into_iter().map(source).collect()
}

fn rust_files() -> Vec<Source> {
    ["src", "tests", "loadtest"].into_iter().flat_map(|folder| files(folder, "rs")).collect()
}

impl Source {
    /// The top-level module of the crate that it belongs to.
    fn module(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src/")?;
        Some(below.split_once('/').map_or_else(|| below.trim_end_matches(".rs"), |(module, _)| module))
    }

    fn is_test(&self) -> bool {
        !self.path.contains("src/")
            || self.path.split('/').any(|part| part == "tests")
            || ["tests.rs", "testing.rs", "throughput_probe.rs"].iter().any(|end| self.path.ends_with(end))
    }

    /// Its lines with their numbers, without comments and without what only tests compile.
    fn code(&self) -> Vec<(usize, &str)> {
        let mut code = Vec::new();
        let mut lines = self.text.lines().enumerate();
        while let Some((at, line)) = lines.next() {
            let trimmed = line.trim_start();
            if trimmed.starts_with("#[cfg(test)]") || trimmed.starts_with("#[cfg(all(test") {
                let Some((_, item)) = lines.find(|(_, line)| !line.trim_start().starts_with("#[")) else { break };
                if item.ends_with('{') {
                    let indent = item.len() - item.trim_start().len();
                    lines.by_ref().find(|(_, line)| line.trim() == "}" && line.len() == indent + 1);
                }
            } else if !trimmed.starts_with("//") {
                code.push((at + 1, line));
            }
        }
        code
    }
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// The names that stand behind `crate::` in a line.
fn imports(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("crate::").filter_map(|(at, found)| {
        let whole = line[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_');
        let rest = &line[at + found.len()..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        (whole && end > 0).then(|| &rest[..end])
    })
}

#[test]
fn modules_import_downward_only() {
    let allowed: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
    let mut faults = Vec::new();
    for (index, (module, below)) in LAYERS.iter().enumerate() {
        for one in *below {
            let under = LAYERS.iter().position(|(name, _)| name == one);
            assert!(under.is_some_and(|under| under > index), "{module} may not import {one}, which is not below it");
        }
    }
    for source in files("src", "rs").iter().filter(|source| !source.is_test()) {
        let Some(module) = source.module().filter(|module| *module != "lib") else { continue };
        let floor = FLOOR.contains(&module);
        if !floor && !allowed.contains_key(module) {
            faults.push(format!("{}: {module} has no place in the layers", source.path));
            continue;
        }
        let below = allowed.get(module).copied().unwrap_or(&["model"]);
        let on_floor = !["model", "wire"].contains(&module);
        for (line, text) in source.code() {
            let may =
                |import: &str| import == module || below.contains(&import) || (on_floor && FLOOR.contains(&import));
            for import in imports(text) {
                if !may(import) {
                    faults.push(format!("{}:{line}: {module} must not import {import}", source.path));
                }
            }
        }
    }
    report(&faults);
}

#[test]
fn venues_and_transports_do_not_know_each_other() {
    let mut faults = Vec::new();
    for (parent, shared) in [("provider", &["supervisor"][..]), ("transport", &["tls"])] {
        let folders: Vec<String> = fs::read_dir(root().join("src").join(parent))
            .expect("exists")
            .map(|entry| entry.expect("readable"))
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| !shared.contains(&name.as_str()))
            .collect();
        for source in files(&format!("src/{parent}"), "rs") {
            let own = folders.iter().find(|name| source.path.starts_with(&format!("src/{parent}/{name}/")));
            let Some(own) = own else { continue };
            for other in folders.iter().filter(|other| *other != own) {
                let names = [format!("{parent}::{other}::"), format!("super::{other}::")];
                for (line, text) in source.code() {
                    if names.iter().any(|name| text.contains(name)) {
                        faults.push(format!("{}:{line}: {own} must not know {other}", source.path));
                    }
                }
            }
        }
    }
    report(&faults);
}

#[test]
fn the_middle_is_pure() {
    let mut faults = Vec::new();
    // A lane wakes its worker, which is a task of tokio's; nothing else in there knows of it.
    let wakes = ["src/fanout/lane.rs", "src/fanout/requests.rs"];
    for source in files("src", "rs").iter().filter(|source| !source.is_test()) {
        if !source.module().is_some_and(|module| PURE.contains(&module)) {
            continue;
        }
        for (line, text) in source.code() {
            let runtime = text.contains("tokio::") && !wakes.contains(&source.path.as_str());
            let clock = ["time::mono(", "time::wall(", "time::received("].iter().any(|clock| text.contains(clock));
            if runtime || clock || text.contains("TcpStream") || text.contains("tracing::") {
                faults.push(format!(
                    "{}:{line}: no clock, runtime, socket or log in here: {}",
                    source.path,
                    text.trim()
                ));
            }
        }
    }
    report(&faults);
}

/// So that no event can be held up by it, nor cost it anything.
#[test]
fn the_way_of_an_event_does_not_know_the_audit_trail() {
    let mut faults = Vec::new();
    let way = ["model", "wire", "store", "provider", "ingest", "fanout", "session"];
    for source in files("src", "rs").iter().filter(|source| source.module().is_some_and(|module| way.contains(&module)))
    {
        let lines = source.code().into_iter().filter(|(_, text)| text.contains("audit"));
        faults.extend(lines.map(|(line, text)| format!("{}:{line}: {}", source.path, text.trim())));
    }
    report(&faults);
}

#[test]
fn no_float_comes_near_a_price() {
    let mut faults = Vec::new();
    for source in files("src", "rs").iter().filter(|source| !source.is_test()) {
        let near = ["model", "wire", "store", "ingest", "fanout", "session", "provider"];
        if !source.module().is_some_and(|module| near.contains(&module)) {
            continue;
        }
        for (line, text) in source.code() {
            // A gauge is a float; `visit_f64` is where the decoder says that it takes none.
            let fine = text.contains(".set(") || text.contains("fn visit_f64");
            if (text.contains("f64") || text.contains("f32")) && !fine {
                faults.push(format!("{}:{line}: {}", source.path, text.trim()));
            }
        }
    }
    report(&faults);
}

#[test]
fn what_is_confined_or_banned_stands_nowhere_else() {
    let mut faults = Vec::new();
    for source in rust_files().iter().filter(|source| source.path != "tests/tidy.rs") {
        for (banned, reason) in BANNED {
            for (line, _) in source.text.lines().enumerate().filter(|(_, text)| text.contains(banned)) {
                faults.push(format!("{}:{}: {banned} ({reason})", source.path, line + 1));
            }
        }
        if source.is_test() || !source.path.starts_with("src/") {
            continue;
        }
        for (line, text) in source.code() {
            for (confined, places, reason) in CONFINED {
                if text.contains(confined) && !places.iter().any(|place| source.path.starts_with(place)) {
                    faults.push(format!("{}:{line}: {confined} ({reason})", source.path));
                }
            }
        }
    }
    report(&faults);
}

/// Every function of a file that rustfmt has formatted: its name, first line and length.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let head = line.trim_start();
        let Some(start) = head.find("fn ").filter(|_| !head.starts_with("//")) else { continue };
        let before = head[..start].split_whitespace();
        if !before.clone().all(|word| ["const", "async", "unsafe"].contains(&word) || word.starts_with("pub")) {
            continue;
        }
        let name: String = head[start + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let end = lines[at..].iter().position(|line| {
            let own = line.len() - line.trim_start().len() == indent;
            own && (line.trim_start().starts_with('}') || line.ends_with([';', '}']))
        });
        if let Some(length) = end {
            found.push((name, at + 1, length + 1));
        }
    }
    found
}

#[test]
fn files_and_functions_fit_into_a_head() {
    let mut faults = Vec::new();
    let mut used = BTreeSet::new();
    for source in rust_files() {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX && !used_exception(&source.path, &mut used) {
            faults.push(format!("{}: {lines} lines, {FILE_LINES_MAX} are the most", source.path));
        }
        for (name, line, length) in functions(&source.text) {
            if length > FUNCTION_LINES_MAX && !used_exception(&format!("{}: {name}", source.path), &mut used) {
                let path = &source.path;
                faults.push(format!("{path}:{line}: {name} has {length} lines, {FUNCTION_LINES_MAX} are the most"));
            }
        }
    }
    for (what, _) in LONGER.iter().filter(|(what, _)| !used.contains(what)) {
        faults.push(format!("{what}: no longer an exception, take it off the list"));
    }
    report(&faults);
}

fn used_exception(what: &str, used: &mut BTreeSet<&'static str>) -> bool {
    LONGER.iter().find(|(longer, _)| *longer == what).is_some_and(|(longer, _)| used.insert(longer))
}

#[test]
fn the_metrics_page_names_every_metric_and_no_other() {
    let page = fs::read_to_string(root().join("docs/metrics.md")).expect("exists");
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows = page.lines().filter(|line| line.starts_with("| `tickhub_")).map(cells);
    let shown: Vec<(String, String)> = rows.map(|row| (row[1].trim_matches('`').to_owned(), row[2].clone())).collect();
    let known = tickhub::metrics::ALL.iter();
    let known: BTreeSet<_> =
        known.map(|(name, kind, _)| ((*name).to_owned(), format!("{kind:?}").to_lowercase())).collect();
    assert_eq!(shown.len(), known.len(), "a metric stands there twice, or not at all");
    assert_eq!(shown.into_iter().collect::<BTreeSet<_>>(), known);
    let mut faults = Vec::new();
    for page in files("", "md") {
        for name in words(&page.text).filter(|word| word.starts_with("tickhub_") && !word.ends_with('_')) {
            if !tickhub::metrics::ALL.iter().any(|(known, ..)| *known == name) {
                faults.push(format!("{}: there is no metric {name}", page.path));
            }
        }
    }
    report(&faults);
}

#[test]
fn every_metric_is_counted_somewhere() {
    let registry = fs::read_to_string(root().join("src/metrics/mod.rs")).expect("exists");
    let sources: Vec<Source> =
        files("src", "rs").into_iter().filter(|source| source.path != "src/metrics/mod.rs").collect();
    let constant = |line: &str| {
        let (name, rest) = line.trim_start().split_once(" = ")?;
        rest.starts_with("\"tickhub_").then(|| name.to_owned())
    };
    let names: Vec<String> = registry.lines().filter_map(constant).collect();
    assert_eq!(names.len(), tickhub::metrics::ALL.len());
    let used = |name: &str| sources.iter().any(|source| words(&source.text).any(|word| word == name));
    let unused: Vec<String> = names.into_iter().filter(|name| name != "BUILD_INFO" && !used(name)).collect();
    report(&unused);
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

#[test]
fn the_protocol_page_names_every_code_and_channel() {
    let page = fs::read_to_string(root().join("docs/protocol.md")).expect("exists");
    let errors = tickhub::wire::ErrorCode::ALL.iter().map(|code| code.as_str().to_owned());
    let closes = tickhub::wire::CloseCode::ALL.iter().map(|code| code.number().to_string());
    let channels = tickhub::model::Channel::ALL.iter().map(|channel| channel.as_str().to_owned());
    let named: BTreeSet<&str> = words(&page).collect();
    let missing: Vec<String> =
        errors.chain(closes).chain(channels).filter(|name| !named.contains(name.as_str())).collect();
    report(&missing);
}

/// What `[text](target)` points to, outside of code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        let prose: String = line.split('`').step_by(2).collect();
        if !fenced {
            let targets = prose.match_indices("](").filter_map(|(at, _)| prose[at + 2..].split(')').next());
            found.extend(targets.map(str::to_owned));
        }
    }
    found
}

/// The anchors of a page's headings, as they are made from them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let keep = |c: char| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    };
    headings.map(|heading| heading.to_lowercase().chars().filter_map(keep).collect()).collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut faults = Vec::new();
    for page in files("", "md") {
        for link in links(&page.text).iter().filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = root().join(&page.path).parent().expect("a file has a folder").to_owned();
            let target = if path.is_empty() { root().join(&page.path) } else { folder.join(path) };
            if !target.exists() {
                faults.push(format!("{}: {link} is not there", page.path));
            } else if !anchor.is_empty() {
                let text = fs::read_to_string(&target).expect("a page with an anchor");
                if !anchors(&text).contains(anchor) {
                    faults.push(format!("{}: {link} has no such heading", page.path));
                }
            }
        }
    }
    report(&faults);
}

/// `section.key` of each key that the example shows.
fn example_keys() -> BTreeSet<String> {
    let example = fs::read_to_string(root().join("config/tickhub.example.toml")).expect("exists");
    let mut keys = BTreeSet::new();
    let mut section = String::new();
    for line in example.lines() {
        let line = line.trim_start_matches("#e.g. ").trim_start_matches('#');
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        } else if let Some((key, _)) =
            line.split_once(" = ").filter(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        {
            keys.insert(format!("{section}.{key}"));
        }
    }
    keys
}

#[test]
fn pages_name_only_keys_that_there_are() {
    let keys = example_keys();
    assert!(keys.contains("limits.outbox_bytes") && keys.contains("auth.keys.kid"), "the example is read: {keys:?}");
    let mut faults = Vec::new();
    for page in files("", "md") {
        for code in page.text.split('`').skip(1).step_by(2) {
            let section = code.split('.').next().unwrap_or_default();
            let is_key = ["server", "timeouts", "limits", "audit", "log", "supervisor"].contains(&section)
                && code.contains('.')
                && !code.ends_with(".rs")
                && code.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.');
            let is_section = keys.iter().any(|key| key.strip_prefix(code).is_some_and(|rest| rest.starts_with('.')));
            if is_key && !keys.contains(code) && !is_section {
                faults.push(format!("{}: there is no key {code}", page.path));
            }
        }
    }
    report(&faults);
}

#[test]
fn the_architecture_page_is_true() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("exists");
    let mut faults = Vec::new();
    for (module, _) in LAYERS.iter().filter(|(module, _)| *module != "main") {
        if !page.contains(&format!("`{module}/`")) {
            faults.push(format!("the code map has no {module}/"));
        }
    }
    faults.extend(what_shows_nothing(&page, "Invariants"));
    report(&faults);
}

#[test]
fn each_threat_has_its_test() {
    let page = fs::read_to_string(root().join("docs/security.md")).expect("exists");
    report(&what_shows_nothing(&page, "Threats"));
}

/// What is wrong with the table of a section, whose last column names the tests of each row.
fn what_shows_nothing(page: &str, section: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let code: Vec<Source> = rust_files();
    let table = page.split("\n## ").find(|part| part.starts_with(section)).expect("a section of them");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    assert!(rows.len() >= 8, "{section} is a table");
    for row in rows {
        let shown = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        let names: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            faults.push(format!("nothing shows this: {row}"));
        }
        for name in names {
            let is_file = name.contains('/') && root().join(name).exists();
            if !is_file && !code.iter().any(|source| source.text.contains(&format!("fn {name}("))) {
                faults.push(format!("there is no test {name}"));
            }
        }
    }
    faults
}

/// The rules above find what they are for.
#[test]
fn the_rules_have_teeth() {
    assert_eq!(
        imports("use crate::store::Store; mycrate::x(); crate::wire::y()").collect::<Vec<_>>(),
        ["store", "wire"]
    );
    let text = "fn a() {\n    1\n}\nimpl B {\n    pub(crate) const fn b(\n        x: u8,\n    ) -> u8 {\n        x\n    }\n}\n// fn c() {\n";
    assert_eq!(functions(text), [("a".to_owned(), 1, 3), ("b".to_owned(), 5, 5)]);
    let source = Source {
        path: "src/store/mod.rs".to_owned(),
        text: "a\n// no\n#[cfg(test)]\nmod tests {\n    no {\n    }\n}\nb\n#[cfg(all(test, x))]\nmod no;\nc\n"
            .to_owned(),
    };
    assert_eq!(source.code(), [(1, "a"), (8, "b"), (11, "c")]);
    assert_eq!(source.module(), Some("store"));
    assert_eq!(links("[a](b.md) `[c](d)` [e](#f)\n```\n[g](h)\n```\n"), ["b.md", "#f"]);
    assert!(anchors("# A b: c\n").contains("a-b-c"));
}
