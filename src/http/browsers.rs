//! What browsers are told, and whose pages may ask: a browser says in `Origin` which page sends a
//! request, and lets that page read the answer only where the hub names it. Other programs send no
//! `Origin` and can send any; for them there are credentials.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, CONTENT_SECURITY_POLICY,
    HOST, ORIGIN, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, UPGRADE, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest `Origin` that is looked at: a scheme, the longest name of a host, and a port.
const ORIGIN_BYTES_MAX: usize = 300;

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Pages that may use the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// `*`: pages of every site.
    Any,
    /// `self`: pages that come from the hub's own host and port, as the browser sees them.
    SameHost,
    /// `localhost`: pages on the machine's own addresses, for browsers on the hub's machine.
    Localhost,
    /// One site: `https://app.example.com`, with a port where it is not the scheme's.
    Site(Box<str>),
}

/// A text names no such pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no origin; write \"self\", \"localhost\", \"*\" or a site such as \"https://app.example.com\", without a path"
)]
pub struct OriginError;

impl FromStr for AllowedOrigin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        match text {
            "*" => Ok(Self::Any),
            "self" => Ok(Self::SameHost),
            "localhost" => Ok(Self::Localhost),
            site => Origin::read(site).map(|origin| Self::Site(origin.to_string().into())).ok_or(OriginError),
        }
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "*",
            Self::SameHost => "self",
            Self::Localhost => "localhost",
            Self::Site(site) => site,
        })
    }
}

impl Serialize for AllowedOrigin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AllowedOrigin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A site as RFC 6454 serializes it, in lower case and without its scheme's own port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    /// `None` for what is none, `null` among it.
    fn read(text: &str) -> Option<Self> {
        if text.len() > ORIGIN_BYTES_MAX {
            return None;
        }
        let text = text.to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://")?;
        let sane = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
        if scheme.is_empty() || !scheme.bytes().all(sane) {
            return None;
        }
        let (host, port) = host_and_port(authority)?;
        Some(Self { port: port.filter(|port| Some(*port) != own_port(scheme)), host, scheme: scheme.to_owned() })
    }

    /// Whether a request that names `authority` as its host went to the same host and port.
    fn is_at(&self, authority: &str) -> bool {
        let Some((host, port)) = host_and_port(&authority.to_ascii_lowercase()) else { return false };
        host == self.host && port.filter(|port| Some(*port) != own_port(&self.scheme)) == self.port
    }

    fn is_local(&self) -> bool {
        let ip = self.host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        self.host == "localhost" || self.host.ends_with(".localhost") || ip.is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn own_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

/// A name, an IPv4 address or an IPv6 address in brackets, and a port where there is one.
fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let after_host = authority.find(']').map_or(0, |end| end + 1);
    let (host, port) = match authority[after_host..].find(':') {
        Some(at) => (&authority[..after_host + at], Some(&authority[after_host + at + 1..])),
        None => (authority, None),
    };
    let is_name = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_ip = inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    if !is_name && !is_ip {
        return None;
    }
    match port {
        None => Some((host.to_owned(), None)),
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0') => {
            Some((host.to_owned(), Some(port.parse().ok()?)))
        }
        Some(_) => None,
    }
}

/// What is known of the page behind a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// There is none: no browser, or a page of the same origin that only reads.
    None,
    /// It may use the hub; its origin as it was sent.
    Allowed(HeaderValue),
    /// It may not.
    Foreign,
}

/// Which pages may use the hub, and whether they reach it by TLS alone.
#[derive(Clone, Debug)]
pub struct Browsers {
    allowed: Vec<AllowedOrigin>,
    hsts: bool,
}

impl Default for Browsers {
    fn default() -> Self {
        Self::new(vec![AllowedOrigin::SameHost, AllowedOrigin::Localhost], false)
    }
}

impl Browsers {
    /// `hsts`: the listener speaks TLS, and browsers are to come by TLS only.
    #[must_use]
    pub const fn new(allowed: Vec<AllowedOrigin>, hsts: bool) -> Self {
        Self { allowed, hsts }
    }

    pub(super) const fn hsts(&self) -> bool {
        self.hsts
    }

    /// Judges the page that sends a request, for a client at `client`.
    pub(super) fn page(&self, headers: &HeaderMap, client: Option<IpAddr>) -> Page {
        let mut origins = headers.get_all(ORIGIN).iter();
        let (Some(value), None) = (origins.next(), origins.next()) else {
            return if headers.contains_key(ORIGIN) { Page::Foreign } else { Page::None };
        };
        let origin = value.to_str().ok().and_then(Origin::read);
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let may = |allowed: &AllowedOrigin| match (allowed, &origin) {
            (AllowedOrigin::Any, _) => true,
            (_, None) => false,
            (AllowedOrigin::SameHost, Some(origin)) => host.is_some_and(|host| origin.is_at(host)),
            (AllowedOrigin::Localhost, Some(origin)) => client.is_some_and(|ip| ip.is_loopback()) && origin.is_local(),
            (AllowedOrigin::Site(site), Some(origin)) => origin.to_string() == **site,
        };
        if self.allowed.iter().any(may) { Page::Allowed(value.clone()) } else { Page::Foreign }
    }
}

/// Whether a foreign page's request is refused outright: what it reads, its browser keeps from it,
/// but a WebSocket, and what changes something, would have happened.
pub(super) fn must_not_happen(method: &Method, headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE) || !method.is_safe() || is_preflight(method, headers)
}

/// Whether a browser only asks what a page may do (<https://fetch.spec.whatwg.org/#cors-preflight-request>).
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS && headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Adds to an answer that `page` may read it. Never for cookies and the like: there are none, so that
/// a browser adds nothing of its own to what a page sends.
pub(super) fn cors_headers(headers: &mut HeaderMap, page: &Page, preflight: bool) {
    headers.append(VARY, HeaderValue::from_static("origin"));
    let Page::Allowed(origin) = page else { return };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if preflight {
        let list = HeaderValue::from_static;
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, list("GET, HEAD, POST, DELETE"));
        let names = "authorization, x-api-key, content-type, if-none-match, x-request-id";
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, list(names));
        headers.insert(ACCESS_CONTROL_MAX_AGE, list("600"));
    } else {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("etag, retry-after, x-request-id"));
    }
}

/// Adds what every answer says to browsers. None of them is a page: nothing may run, be framed, or be
/// taken for something else. A handler that serves one sets a policy of its own.
pub(super) fn security_headers(headers: &mut HeaderMap, hsts: bool) {
    let text = HeaderValue::from_static;
    headers.insert(X_CONTENT_TYPE_OPTIONS, text("nosniff"));
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(text("default-src 'none'; frame-ancestors 'none'"));
    headers.insert(X_FRAME_OPTIONS, text("DENY"));
    headers.insert(REFERRER_POLICY, text("no-referrer"));
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, text("same-origin"));
    if hsts {
        headers.insert(STRICT_TRANSPORT_SECURITY, text("max-age=31536000"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn judged(allowed: &[&str], client: &str, host: &str, origin: &str) -> bool {
        let allowed = allowed.iter().map(|text| text.parse().expect(text)).collect();
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().expect(host));
        headers.insert(ORIGIN, HeaderValue::from_bytes(origin.as_bytes()).expect(origin));
        let client = client.parse().expect(client);
        match Browsers::new(allowed, false).page(&headers, Some(client)) {
            Page::Allowed(value) => {
                assert_eq!(value.as_bytes(), origin.as_bytes(), "it is echoed as it came");
                true
            }
            Page::Foreign => false,
            Page::None => panic!("there is an origin"),
        }
    }

    #[test]
    fn a_page_of_the_same_host_is_at_home() {
        let own = |host, origin| judged(&["self"], "203.0.113.7", host, origin);
        assert!(own("hub.example.com", "https://hub.example.com"));
        assert!(own("hub.example.com:443", "https://hub.example.com"));
        assert!(own("Hub.Example.com", "http://hub.example.com"));
        assert!(own("10.0.0.1:8080", "http://10.0.0.1:8080"));
        assert!(own("[fd00::1]:8080", "http://[fd00::1]:8080"));
        for foreign in [
            "https://hub.example.com.evil.com",
            "https://evil.com",
            "https://hub.example.com:444",
            "https://hub.example.comx",
            "https://xhub.example.com",
            "null",
            "",
            "https://",
            "hub.example.com",
            "https://hub.example.com/",
            "https://user@hub.example.com",
            "https://hub.example.com#",
            "https://evil.com https://hub.example.com",
        ] {
            assert!(!own("hub.example.com", foreign), "{foreign}");
        }
    }

    #[test]
    fn a_developers_page_is_let_in_on_the_developers_machine_only() {
        let default = |client, origin| judged(&["self", "localhost"], client, "127.0.0.1:8080", origin);
        for origin in [
            "http://localhost:5173",
            "https://localhost",
            "http://127.0.0.1:3000",
            "http://[::1]:3000",
            "http://a.localhost:1",
        ] {
            assert!(default("127.0.0.1", origin) && default("::1", origin), "{origin}");
            assert!(!default("203.0.113.7", origin), "{origin}");
        }
        for foreign in ["http://localhost.evil.com", "http://evil.com", "http://128.0.0.1", "null", "file://"] {
            assert!(!default("127.0.0.1", foreign), "{foreign}");
        }
    }

    #[test]
    fn a_site_that_is_listed_is_that_site_and_no_other() {
        let listed = |origin| judged(&["https://App.example.com:443"], "203.0.113.7", "hub.example.com", origin);
        assert!(listed("https://app.example.com") && listed("https://app.example.com:443"));
        for other in [
            "http://app.example.com",
            "https://example.com",
            "https://b.app.example.com",
            "https://app.example.com:8443",
        ] {
            assert!(!listed(other), "{other}");
        }
        assert!(judged(&["*"], "203.0.113.7", "hub", "null"));
        assert!(!judged(&[], "127.0.0.1", "hub", "http://hub"));
    }

    #[test]
    fn what_a_setting_may_say() {
        for text in ["*", "self", "localhost", "https://app.example.com", "http://10.0.0.1:3000", "app://one"] {
            assert_eq!(text.parse::<AllowedOrigin>().expect(text).to_string(), text);
        }
        for bad in [
            "",
            "app.example.com",
            "https://a/",
            "https://a/b",
            "https://*.a.com",
            "null",
            "https://a b",
            "https://a:x",
        ] {
            assert!(bad.parse::<AllowedOrigin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn two_origins_are_nobody() {
        let mut headers = HeaderMap::new();
        headers.append(ORIGIN, HeaderValue::from_static("http://localhost"));
        headers.append(ORIGIN, HeaderValue::from_static("http://localhost"));
        let local = "127.0.0.1".parse().ok();
        assert_eq!(Browsers::default().page(&headers, local), Page::Foreign);
        headers.clear();
        assert_eq!(Browsers::default().page(&headers, local), Page::None);
    }

    proptest! {
        /// Nothing but the hub's own name is taken for it, whatever stands around it.
        #[test]
        fn no_other_host_is_taken_for_the_own(before in "[ -~]{0,8}", after in "[ -~]{0,8}") {
            let origin = format!("https://{before}hub.example.com{after}");
            let same = before.is_empty() && (after.is_empty() || after == ":443");
            if !same {
                prop_assert!(!judged(&["self"], "127.0.0.1", "hub.example.com", &origin), "{origin}");
            }
        }
    }
}
