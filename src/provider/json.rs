//! One way into JSON for all venues: which parser reads a message is decided here, by its size.

use serde::de::DeserializeSeed;

/// From this size on the two-stage SIMD parser is used. Below it the plain one is as fast or
/// faster and needs no copy of the message.
pub(crate) const LARGE_BYTES: usize = 1_024;

/// Deepest nesting that is read, in both parsers: what deserializes recursively must not be
/// driven off the stack by a peer.
const DEPTH_MAX: usize = 128;

/// Room that is kept for the next large message; one that needed more gives the rest back.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// The text is not JSON, or not of the shape that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Reused room of the SIMD parser, which works in place and destroys what it reads.
pub(crate) struct JsonRoom {
    copy: Vec<u8>,
    buffers: simd_json::Buffers,
}

impl Default for JsonRoom {
    fn default() -> Self {
        Self { copy: Vec::new(), buffers: simd_json::Buffers::with_max_depth(LARGE_BYTES, DEPTH_MAX) }
    }
}

/// Reads one JSON text with `seed`. Strings are borrowed where they have no escapes.
///
/// # Errors
/// [`Malformed`] for anything that is not exactly one JSON text of the seed's shape.
pub(crate) fn read<'a, S: DeserializeSeed<'a>>(
    text: &'a [u8],
    room: &'a mut JsonRoom,
    seed: S,
) -> Result<S::Value, Malformed> {
    if text.len() < LARGE_BYTES {
        let mut plain = serde_json::Deserializer::from_slice(text);
        let value = seed.deserialize(&mut plain).map_err(|_| Malformed)?;
        plain.end().map_err(|_| Malformed)?;
        return Ok(value);
    }
    if room.copy.capacity() > KEPT_BYTES_MAX && text.len() <= KEPT_BYTES_MAX {
        *room = JsonRoom::default();
    }
    room.copy.clear();
    room.copy.extend_from_slice(text);
    let simd = simd_json::Deserializer::from_slice_with_buffers(&mut room.copy, &mut room.buffers);
    let mut simd = simd.map_err(|_| Malformed)?;
    seed.deserialize(&mut simd).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::marker::PhantomData;

    fn reads(text: &str) -> Option<Value> {
        read(text.as_bytes(), &mut JsonRoom::default(), PhantomData::<Value>).ok()
    }

    #[test]
    fn both_parsers_agree() {
        let long = " ".repeat(LARGE_BYTES);
        for text in [
            r#"{"a":"1.10","b":[1,2,{"c":null}],"a2":true,"s":"\u0041\n"}"#,
            r#"{"a":1}"#,
            r#"{"a":1"#,
            r#"{"a":1}{"#,
            r#"{"a":1} x"#,
            r#"{"a":}"#,
            "",
            "[",
            "\u{0}",
            r#"{"a":"\ud800"}"#,
        ] {
            assert_eq!(reads(text), reads(&format!("{text}{long}")), "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded_in_both() {
        for depth in [200, 5_000, 1_000_000] {
            let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            assert_eq!(reads(&text), None, "{depth}");
        }
    }
}
