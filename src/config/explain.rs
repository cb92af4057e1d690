//! What serde says about a value, said so that a person can act on it.

/// What a message says when a name is not among those that are expected.
const UNKNOWN: [&str; 2] = ["unknown field `", "unknown variant `"];

/// The name that a message calls unknown, where it does.
pub(super) fn unknown_field(message: &str) -> Option<&str> {
    message.strip_prefix(UNKNOWN[0])?.split_once('`').map(|(name, _)| name)
}

/// The field that a message misses, where it does.
pub(super) fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.split_once('`').map(|(name, _)| name)
}

/// The message in words of the configuration. For a `secret`, without any part of the value.
pub(super) fn explain(message: &str, secret: bool) -> String {
    if let Some(name) = unknown_field(message) {
        let known = expected_names(message);
        return match nearest(name, &known) {
            Some(near) => format!("is not a key here; did you mean \"{near}\"?"),
            None if known.is_empty() => "is not a key here; remove it".to_owned(),
            None => format!("is not a key here; known are {}", known.join(", ")),
        };
    }
    if let Some(name) = missing_field(message) {
        return format!("lacks the key \"{name}\"");
    }
    if let Some(rest) = message.strip_prefix(UNKNOWN[1]) {
        let (name, known) = (rest.split('`').next().unwrap_or_default(), expected_names(message));
        let hint = nearest(name, &known).map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
        return format!("must be one of {}{hint}", known.join(", "));
    }
    match message.split_once(", expected ") {
        Some((_, expected)) => format!("must be {}", kind(expected)),
        None if secret => "cannot be read".to_owned(),
        None => message.to_owned(),
    }
}

/// A type's name as people know it.
fn kind(expected: &str) -> String {
    let most = match expected {
        "u8" => u64::from(u8::MAX),
        "u16" => u64::from(u16::MAX),
        "u32" => u64::from(u32::MAX),
        // TOML's own integers end there.
        "u64" | "usize" => i64::MAX as u64,
        "a boolean" => return "true or false".to_owned(),
        "a string" => return "a text in quotes".to_owned(),
        "a sequence" => return "a list such as [\"a\", \"b\"]".to_owned(),
        "a map" => return "a table".to_owned(),
        other if other.starts_with("struct ") => return "a table".to_owned(),
        other => return other.to_owned(),
    };
    format!("a whole number from 0 to {most}")
}

/// The names in backticks behind "expected".
fn expected_names(message: &str) -> Vec<&str> {
    let Some((_, expected)) = message.split_once("expected ") else { return Vec::new() };
    expected.split('`').skip(1).step_by(2).collect()
}

/// The name that was probably meant: at most a third of its letters are other ones.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distances = known.iter().map(|known| (distance(name, known), *known));
    distances.min().filter(|(distance, known)| distance * 3 <= known.len().max(3)).map(|(_, known)| known)
}

/// Letters to insert, remove or replace to make `b` of `a` (Levenshtein), a row at a time.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(!letter.eq_ignore_ascii_case(&other));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted_in_letters() {
        for (a, b, expected) in [("", "", 0), ("abc", "", 3), ("listen", "lisen", 1), ("kitten", "sitting", 3)] {
            assert_eq!((distance(a, b), distance(b, a)), (expected, expected), "{a} {b}");
        }
        assert_eq!(nearest("lisen", &["listen", "ops_listen"]), Some("listen"));
        assert_eq!(nearest("port", &["listen", "ops_listen"]), None);
    }

    #[test]
    fn messages_are_said_in_words_of_the_configuration() {
        let unknown = "unknown field `lisen`, expected one of `listen`, `ops_listen`";
        assert_eq!(explain(unknown, false), "is not a key here; did you mean \"listen\"?");
        let number = "invalid type: string \"many\", expected u32";
        assert_eq!(explain(number, false), "must be a whole number from 0 to 4294967295");
        assert_eq!(explain("invalid type: integer `12345`, expected a string", true), "must be a text in quotes");
        assert_eq!(explain("12345 is odd", true), "cannot be read");
        assert_eq!(explain("missing field `kid`", false), "lacks the key \"kid\"");
        let variant = "unknown variant `jason`, expected `text` or `json`";
        assert_eq!(explain(variant, false), "must be one of text, json; did you mean \"json\"?");
    }
}
