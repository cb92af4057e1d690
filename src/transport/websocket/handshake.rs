//! Judging the request that asks for a WebSocket, before anything is spent on it.
//!
//! Pure: a request in, an [`Offer`] or a [`Refusal`] out. Who the credential belongs to, and
//! whether the symbols exist, is for others to judge.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Version};
use secrecy::SecretString;

use crate::auth::ClientCertificate;
use crate::wire::Format;

/// The forms of data on offer, each named by its subprotocol.
pub const SUBPROTOCOLS: [&str; Format::COUNT] = {
    let mut names = [""; Format::COUNT];
    let mut at = 0;
    while at < names.len() {
        names[at] = Format::ALL[at].subprotocol();
        at += 1;
    }
    names
};
/// What a client gets that names none.
pub const SUBPROTOCOL_DEFAULT: &str = SUBPROTOCOLS[0];
/// The longest query: room for a token and some 700 symbols; more are subscribed to by command.
pub const QUERY_BYTES_MAX: usize = 16 * 1024;
/// Channels that a URL may list: well above those that exist, and few enough to compare each with
/// each.
pub const URL_CHANNELS_MAX: usize = 32;

/// The one version of the protocol that there is.
const WEBSOCKET_VERSION: &str = "13";
/// What the accept key is made with (RFC 6455, 1.3).
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// How much of a stranger's text an error message repeats: enough to find a typo, and little of a
/// secret that stands in the wrong place.
const EXCERPT_CHARS_MAX: usize = 16;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const BEARER_ENTRY: &str = "bearer.";

/// Accepts any bits behind the last whole byte: the key is a nonce, and some clients invent its
/// text instead of encoding 16 bytes.
const KEY_BASE64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// A request that may become a WebSocket.
#[derive(Debug)]
pub struct Offer {
    /// Who the client says it is.
    pub credential: Credential,
    /// The subprotocol to echo, one of [`SUBPROTOCOLS`]. `None` where the client offered none: then
    /// nothing is echoed, and [`SUBPROTOCOL_DEFAULT`] is spoken.
    pub subprotocol: Option<&'static str>,
    /// What the URL subscribes to.
    pub subscription: Option<UrlSubscription>,
    /// The client's certificate, from the extensions of the request. It counts where there is no
    /// credential.
    pub certificate: Option<Arc<ClientCertificate>>,
    accept: HeaderValue,
}

/// A credential, and the place it came from, which decides how a bad one is answered. It is here
/// whenever its place is used at all, even with an empty text, which is then a bad one.
#[derive(Clone, Debug)]
pub enum Credential {
    /// In a header; a bad one is answered with HTTP 401.
    Header(HeaderKind, SecretString),
    /// A JWT among the subprotocols; a bad one lets the upgrade succeed and closes with 4501.
    Subprotocol(SecretString),
    /// A JWT in the query; a bad one lets the upgrade succeed and closes with 4501.
    Query(SecretString),
    /// None yet: an `auth` command may follow.
    None,
}

/// Which header brought a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderKind {
    /// `Authorization: Bearer`, a JWT.
    Bearer,
    /// `X-API-Key`, a static key.
    ApiKey,
}

/// `?symbols=…&channels=…`, split and decoded; whether they are ids, patterns and channels is
/// judged as for a `subscribe` command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlSubscription {
    /// At least one, none empty.
    pub symbols: Vec<String>,
    /// At least one, none empty, none twice; `ticker` where the URL names none.
    pub channels: Vec<String>,
}

/// Why a request does not become a WebSocket. Its text is for the client and the log: whatever it
/// repeats of the request is short and printable, and never a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 400: the request contradicts itself or the protocol.
    #[error("{0}")]
    BadRequest(Cow<'static, str>),
    /// 426: a request for something else, or for another version of WebSocket.
    #[error("{0}")]
    UpgradeRequired(&'static str),
}

impl Refusal {
    /// The status of the answer.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::UpgradeRequired(_) => StatusCode::UPGRADE_REQUIRED,
        }
    }

    /// Adds the headers that the answer must have: with 426, what to upgrade to.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        if matches!(self, Self::UpgradeRequired(_)) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(WEBSOCKET_VERSION));
        }
    }
}

impl Offer {
    /// The value of `Sec-WebSocket-Accept`.
    #[must_use]
    pub const fn accept_key(&self) -> &HeaderValue {
        &self.accept
    }

    /// What events are to come in.
    #[must_use]
    pub fn format(&self) -> Format {
        self.subprotocol.and_then(Format::from_subprotocol).unwrap_or(Format::ALL[0])
    }

    /// Adds the headers of the 101 that accepts the offer. No extension is among them, which
    /// declines permessage-deflate.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept.clone());
        if let Some(subprotocol) = self.subprotocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
        }
    }
}

/// Judges a request to the WebSocket endpoint; its path and its body are not looked at.
///
/// The first credential present counts, in the order of [`Credential`]; whatever else is wrong
/// with the request is said first, since no credential would help.
///
/// # Errors
/// [`Refusal`] says what is wrong, the first thing only.
pub fn judge_handshake<B>(request: &Request<B>) -> Result<Offer, Refusal> {
    let headers = request.headers();
    let accept = judge_upgrade(request)?;
    let from_header = header_credential(headers)?;
    let Subprotocols { echo, bearer } = judge_subprotocols(headers)?;
    let Query { token, subscription } = judge_query(request.uri().query().unwrap_or_default())?;
    let credential = from_header
        .map(|(kind, text)| Credential::Header(kind, text))
        .or_else(|| bearer.map(Credential::Subprotocol))
        .or_else(|| token.map(Credential::Query))
        .unwrap_or(Credential::None);
    let certificate = request.extensions().get().cloned();
    Ok(Offer { credential, subprotocol: echo, subscription, certificate, accept })
}

const fn bad(reason: &'static str) -> Refusal {
    Refusal::BadRequest(Cow::Borrowed(reason))
}

/// The part that is RFC 6455, 4.2.1; gives the accept key.
fn judge_upgrade<B>(request: &Request<B>) -> Result<HeaderValue, Refusal> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(bad("a WebSocket is asked for with GET"));
    }
    if request.version() != Version::HTTP_11 {
        return Err(bad("a WebSocket is asked for with HTTP/1.1"));
    }
    if single(headers, &header::HOST, "Host")?.is_none_or(|host| host.is_empty()) {
        return Err(bad("Host is missing"));
    }
    if !lists(headers, &header::UPGRADE, "websocket") {
        return Err(Refusal::UpgradeRequired("this is a WebSocket endpoint"));
    }
    if !lists(headers, &header::CONNECTION, "upgrade") {
        return Err(bad("Connection does not say Upgrade"));
    }
    let version = single(headers, &header::SEC_WEBSOCKET_VERSION, "Sec-WebSocket-Version")?;
    if version.is_none_or(|version| version != WEBSOCKET_VERSION) {
        return Err(Refusal::UpgradeRequired("Sec-WebSocket-Version must be 13"));
    }
    let Some(key) = single(headers, &header::SEC_WEBSOCKET_KEY, "Sec-WebSocket-Key")? else {
        return Err(bad("Sec-WebSocket-Key is missing"));
    };
    if KEY_BASE64.decode(key.as_bytes()).map(|key| key.len()) != Ok(16) {
        return Err(bad("Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    Ok(accept_key(key.as_bytes()))
}

fn accept_key(key: &[u8]) -> HeaderValue {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(ACCEPT_GUID);
    // Base64 has only characters that a header may have.
    HeaderValue::try_from(STANDARD.encode(context.finish())).expect("base64 is printable")
}

/// The credential in the headers: `Authorization: Bearer` before `X-API-Key`; another scheme
/// counts as absent.
///
/// # Errors
/// [`Refusal::BadRequest`] where one of the two stands there more than once.
pub fn header_credential(headers: &HeaderMap) -> Result<Option<(HeaderKind, SecretString)>, Refusal> {
    if let Some(authorization) = single(headers, &header::AUTHORIZATION, "Authorization")? {
        // What is not text is no token either, but must be found bad, not absent.
        let text = String::from_utf8_lossy(authorization.as_bytes());
        let (scheme, token) = text.trim().split_once([' ', '\t']).unwrap_or((&text, ""));
        if scheme.trim().eq_ignore_ascii_case("bearer") {
            return Ok(Some((HeaderKind::Bearer, SecretString::from(token.trim()))));
        }
    }
    let key = single(headers, &API_KEY, "X-API-Key")?;
    Ok(key.map(|key| {
        let key = String::from_utf8_lossy(key.as_bytes());
        (HeaderKind::ApiKey, SecretString::from(key.trim()))
    }))
}

struct Subprotocols {
    echo: Option<&'static str>,
    bearer: Option<SecretString>,
}

/// Reads what the client offers to speak, over all headers and lists; its own first choice wins.
///
/// An offer with nothing of ours in it is refused, with a credential or without: a browser would
/// fail a connection that echoes none of what it offered, and without a reason.
fn judge_subprotocols(headers: &HeaderMap) -> Result<Subprotocols, Refusal> {
    let (mut echo, mut bearer, mut offered) = (None, None, false);
    for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
        let Ok(list) = value.to_str() else { return Err(bad("Sec-WebSocket-Protocol is not a list of tokens")) };
        for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            offered = true;
            if let Some(token) = entry.strip_prefix(BEARER_ENTRY) {
                if bearer.replace(SecretString::from(token)).is_some() {
                    return Err(bad("Sec-WebSocket-Protocol has more than one bearer entry"));
                }
            } else {
                echo = echo.or_else(|| SUBPROTOCOLS.into_iter().find(|ours| *ours == entry));
            }
        }
    }
    if offered && echo.is_none() {
        let mut reason = "Sec-WebSocket-Protocol must offer one of:".to_owned();
        for ours in SUBPROTOCOLS {
            // Writing to a string does not fail.
            let _ = write!(reason, " {ours}");
        }
        return Err(Refusal::BadRequest(reason.into()));
    }
    Ok(Subprotocols { echo, bearer })
}

#[derive(Default)]
struct Query {
    token: Option<SecretString>,
    subscription: Option<UrlSubscription>,
}

/// Reads `symbols`, `channels` and `token`.
fn judge_query(query: &str) -> Result<Query, Refusal> {
    let [symbols, channels, token] = read_query(query, ["symbols", "channels", "token"])?;
    let subscription = match (symbols, channels) {
        (None, None) => None,
        (None, Some(_)) => return Err(bad("the query has channels and no symbols")),
        (Some(symbols), channels) => {
            let symbols = entries(&symbols).ok_or(bad("symbols in the query has an empty entry"))?;
            let channels = judge_channels(channels.as_deref().unwrap_or("ticker"))?;
            Some(UrlSubscription { symbols, channels })
        }
    };
    Ok(Query { token: token.map(SecretString::from), subscription })
}

/// The decoded values of `names` in a query; each at most once, and nothing else, so that a typo
/// never passes silently.
///
/// # Errors
/// [`Refusal::BadRequest`] names the parameter that is unknown, repeated or not percent-encoded
/// UTF-8; or the query is longer than [`QUERY_BYTES_MAX`].
pub fn read_query<const N: usize>(query: &str, names: [&str; N]) -> Result<[Option<String>; N], Refusal> {
    if query.len() > QUERY_BYTES_MAX {
        return Err(bad("the query is too long"));
    }
    let mut values = [const { None }; N];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = percent_decode(key).ok_or(bad("a name in the query is not percent-encoded UTF-8"))?;
        let Some(place) = names.iter().position(|name| *name == key) else {
            return Err(Refusal::BadRequest(format!("the query has an unknown parameter: {}", excerpt(&key)).into()));
        };
        let malformed = || Refusal::BadRequest(format!("{key} in the query is not percent-encoded UTF-8").into());
        if values[place].replace(percent_decode(value).ok_or_else(malformed)?).is_some() {
            return Err(Refusal::BadRequest(format!("the query has {key} more than once").into()));
        }
    }
    Ok(values)
}

/// The entries of a list, split at commas after decoding: many encoders write a comma as `%2C`,
/// and neither ids nor channels have one. `None` where one is empty.
fn entries(list: &str) -> Option<Vec<String>> {
    list.split(',').map(|entry| (!entry.is_empty()).then(|| entry.to_owned())).collect()
}

/// The channels of a list, each once.
fn judge_channels(list: &str) -> Result<Vec<String>, Refusal> {
    let listed = entries(list).ok_or(bad("channels in the query has an empty entry"))?;
    if listed.len() > URL_CHANNELS_MAX {
        return Err(bad("channels in the query has too many entries"));
    }
    let mut channels = Vec::with_capacity(listed.len());
    for channel in listed {
        if !channels.contains(&channel) {
            channels.push(channel);
        }
    }
    Ok(channels)
}

/// Decodes `%XX`. A bare `+` stays a plus: ids have pluses and no spaces, so the reading of HTML
/// forms could only do harm. `None` where a `%` has no two digits or the bytes are not UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte == b'%' {
            let (&[high, low], behind) = rest.split_first_chunk()?;
            bytes.push(hex_digit(high)? << 4 | hex_digit(low)?);
            rest = behind;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// The value of a header that must not be repeated.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName, shown: &str) -> Result<Option<&'a HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Refusal::BadRequest(format!("{shown} stands there more than once").into()));
    }
    Ok(first)
}

/// Whether a header, over all its lines and lists, names `token`, in any case.
fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|list| list.split(',')).any(|entry| entry.trim().eq_ignore_ascii_case(token))
}

/// The beginning of a stranger's text, fit for a log and for JSON.
#[must_use]
pub fn excerpt(text: &str) -> String {
    let sane = |c: char| if c.is_ascii_alphanumeric() || "._:*^=/+-[] ".contains(c) { c } else { '?' };
    let mut excerpt: String = text.chars().take(EXCERPT_CHARS_MAX).map(sane).collect();
    if text.chars().nth(EXCERPT_CHARS_MAX).is_some() {
        excerpt.push_str("...");
    }
    excerpt
}
