//! What one listener bears.

use serde::{Deserialize, Serialize};

use crate::settings::{Fault, Span};

/// Least bytes of a header that can be set: what the HTTP library begins with.
const HEADER_BYTES_MIN: usize = 8 * 1024;
/// Most bytes of a header that can be set: times the connections, it is what strangers can take.
const HEADER_BYTES_MAX: usize = 256 * 1024;
/// Most header lines that can be set.
const HEADERS_MAX: usize = 1000;
/// Most connections that can be set: what one process can have open, with room to spare.
const CONNECTIONS_MAX: u32 = 1_000_000;

/// What one listener bears of connections that are not sessions (yet).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServeLimits {
    /// Open connections; one beyond is answered 503 and closed. A session no longer counts.
    pub connections_max: u32,
    /// From the moment the hub waits for a request to the end of its header. It bounds the pause
    /// between two requests on one connection too.
    pub header_timeout: Span,
    /// Bytes of a request's header, its URL included; more is answered 431. A WebSocket's URL may
    /// carry a token and some hundred symbols.
    pub header_bytes_max: usize,
    /// Lines of a request's header; more is answered 431.
    pub headers_max: usize,
    /// A connection on which no request begins for this long is closed whatever it waits for:
    /// also one whose client does not read the answer.
    pub idle_timeout: Span,
    /// How long answers under way may still take once the hub stops.
    pub grace: Span,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            header_timeout: Span::seconds(10),
            header_bytes_max: 32 * 1024,
            headers_max: 64,
            idle_timeout: Span::seconds(60),
            grace: Span::seconds(5),
        }
    }
}

impl ServeLimits {
    /// What is wrong with the section whose path is `path`.
    #[must_use]
    pub fn faults(&self, path: &str) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut check = |key: &str, value: String, sane: bool, reason: String| {
            if !sane {
                faults.push(Fault { key: format!("{path}.{key}"), value: Some(value), reason });
            }
        };
        let between =
            |least: &dyn std::fmt::Display, most: &dyn std::fmt::Display| format!("must be {least} to {most}");
        let (connections, headers, bytes) = (self.connections_max, self.headers_max, self.header_bytes_max);
        let sane = (1..=CONNECTIONS_MAX).contains(&connections);
        check("connections_max", connections.to_string(), sane, between(&1, &CONNECTIONS_MAX));
        let sane = (HEADER_BYTES_MIN..=HEADER_BYTES_MAX).contains(&bytes);
        check("header_bytes_max", bytes.to_string(), sane, between(&HEADER_BYTES_MIN, &HEADER_BYTES_MAX));
        let sane = (1..=HEADERS_MAX).contains(&headers);
        check("headers_max", headers.to_string(), sane, between(&1, &HEADERS_MAX));
        for (key, span) in [("header_timeout", self.header_timeout), ("idle_timeout", self.idle_timeout)] {
            check(key, span.to_string(), span > Span::default(), "must be longer than nothing".to_owned());
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sane_and_faults_name_their_key() {
        assert_eq!(ServeLimits::default().faults("http"), []);
        let bad = ServeLimits {
            connections_max: 0,
            header_timeout: Span::default(),
            header_bytes_max: 100,
            headers_max: 0,
            idle_timeout: Span::default(),
            grace: Span::default(),
        };
        let keys: Vec<_> = bad.faults("http").into_iter().map(|fault| fault.key).collect();
        let named = ["connections_max", "header_bytes_max", "headers_max", "header_timeout", "idle_timeout"];
        assert_eq!(keys, named.map(|key| format!("http.{key}")));
    }
}
