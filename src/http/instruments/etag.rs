//! Entity tags (RFC 9110, 8.8.3).

use axum::http::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The tag of a value: its numbering and its number say which one it is.
pub(super) fn of(epoch: &str, seq: u64) -> HeaderValue {
    // Base64 and digits are characters that a tag and a header may have.
    let tag = format!("\"{}.{seq}\"", URL_SAFE_NO_PAD.encode(epoch));
    HeaderValue::try_from(tag).expect("base64 is printable")
}

/// Whether the value of an `If-None-Match` names `tag`: by weak comparison, as that header asks.
/// What cannot be read names nothing, so that the client gets the value.
pub(super) fn lists(list: &[u8], tag: &[u8]) -> bool {
    let mut rest = list.trim_ascii();
    if rest == b"*" {
        return true;
    }
    loop {
        rest = rest.trim_ascii_start();
        if let Some(behind) = rest.strip_prefix(b",") {
            rest = behind;
            continue;
        }
        // A tag may hold commas: it ends at its second quote only.
        let strong = rest.strip_prefix(b"W/").unwrap_or(rest);
        let Some(end) = strong.strip_prefix(b"\"").and_then(|inner| inner.iter().position(|b| *b == b'"')) else {
            return false;
        };
        let (this, behind) = strong.split_at(end + 2);
        if this == tag {
            return true;
        }
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_tag_in_every_form_of_the_list() {
        let tag = of("a\"b, c", 41);
        let tag = tag.as_bytes();
        let text = std::str::from_utf8(tag).expect("ascii");
        for yes in
            ["*", " * ", "{}", "W/{}", "\"x\", {}", "\"x\",W/\"y\",{},\"z\"", ",, {} ,", "\"a,b\", {}", "\"\",{}"]
        {
            assert!(lists(yes.replace("{}", text).as_bytes(), tag), "{yes}");
        }
        for no in ["", ",", "x", "\"x", "\"x\"", "w/{}", "x, {}", "\"x\" y {}", "\"{}\"", "*, x", "W/ {}", "\"*\""] {
            let inside = text.trim_matches('"');
            let no = if no == "\"{}\"" { format!("\"x{inside}\"") } else { no.replace("{}", text) };
            assert!(!lists(no.as_bytes(), tag), "{no}");
        }
        assert_ne!(of("a", 41), of("a", 42));
        assert_ne!(of("a", 41), of("b", 41));
    }
}
