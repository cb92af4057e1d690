//! Writing a record's members: JSON of printable ASCII only, whatever a peer called itself.

use std::fmt::Write as _;

/// Longest text in a record, in bytes; what is longer is cut and ends with `…`. As long as a
/// subject and a token's id may be.
pub(super) const TEXT_BYTES_MAX: usize = 256;

/// A line that is being written: an object that is not closed yet.
pub(super) struct Line<'a>(&'a mut String);

impl<'a> Line<'a> {
    /// Begins one at the end of `text`, with its first member.
    pub(super) fn begin(text: &'a mut String, seq: u64) -> Self {
        let _ = write!(text, "{{\"seq\":{seq}");
        Self(text)
    }

    fn name(&mut self, name: &str) {
        let _ = write!(self.0, ",\"{name}\":");
    }

    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        let _ = write!(self.0, "{value}");
    }

    pub(super) fn optional_number(&mut self, name: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.number(name, value);
        }
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        quote(self.0, value);
    }

    pub(super) fn optional_text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    pub(super) fn texts<'t>(&mut self, name: &str, values: impl IntoIterator<Item = &'t str>) {
        self.name(name);
        self.0.push('[');
        for (index, value) in values.into_iter().enumerate() {
            if index > 0 {
                self.0.push(',');
            }
            quote(self.0, value);
        }
        self.0.push(']');
    }
}

/// Appends `value` as a JSON text. All that is not printable ASCII is escaped, so that a line shows
/// in a terminal as what it is.
fn quote(text: &mut String, value: &str) {
    let end = value.floor_char_boundary(TEXT_BYTES_MAX);
    text.push('"');
    for c in value[..end].chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            ' '..='~' => text.push(c),
            _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                let _ = write!(text, "\\u{unit:04x}");
            }),
        }
    }
    if end < value.len() {
        text.push_str("\\u2026");
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_text_is_ascii_on_one_line_and_reads_back(value in "\\PC{0,60}|[\\x00-\\x{ff}\u{2028}\u{202e}😀\"\\\\]{0,60}") {
            let mut text = String::new();
            Line::begin(&mut text, 7).text("t", &value);
            text.push('}');
            prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{}", text);
            let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            prop_assert_eq!(&read["seq"], 7);
            prop_assert_eq!(read["t"].as_str(), Some(value.as_str()));
        }
    }

    #[test]
    fn a_text_without_end_is_cut_between_two_characters() {
        let mut text = String::new();
        Line::begin(&mut text, 1).texts("t", ["é".repeat(1000).as_str(), "b"]);
        text.push('}');
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read["t"][0].as_str(), Some(format!("{}…", "é".repeat(128)).as_str()));
        assert_eq!(read["t"][1], "b");
    }
}
