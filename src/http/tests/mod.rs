//! The HTTP interface as its clients meet it: over sockets.

mod bounds;
mod document;
mod errors;
mod rest;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::auth::{
    Algorithm, ApiKeyConfig, AuthConfig, Authenticator, KeyConfig, Narrowing, TokenRequest, new_api_key,
};
use crate::model::{FeedState, InstrumentDefinition, InstrumentId, Pattern, UnixNanos};
use crate::settings::Span;
use crate::shutdown::{Stopper, stop_signal};
use crate::store::Writer;
use crate::time::wall;
use crate::transport::Gate;

/// Far beyond what any step takes, so that a test that would hang fails instead.
const PATIENCE: Duration = Duration::from_secs(20);

/// A hub's HTTP side on a port of its own.
struct Hub {
    api: Arc<Api>,
    address: String,
    key: String,
    stopper: Option<Stopper>,
    serving: JoinHandle<()>,
}

fn instrument(id: &str) -> InstrumentDefinition {
    let id = InstrumentId::parse(id).expect(id);
    let (base, quote) = id.symbol().split_once('-').unzip();
    let (base, quote) = (base.map(str::to_owned), quote.map(str::to_owned));
    InstrumentDefinition { raw_symbol: id.symbol().to_ascii_lowercase(), base, quote, id }
}

/// An interface to an empty store, and an API key of role `viewer`.
fn api() -> (Api, String) {
    let new = new_api_key("ann").expect("random bytes");
    let config = AuthConfig {
        keys: vec![KeyConfig {
            kid: "one".into(),
            alg: Algorithm::HS256,
            secret: Some("a-secret-of-more-than-thirty-two-bytes-for-tests".into()),
            secret_file: None,
        }],
        api_keys: vec![ApiKeyConfig {
            id: "ann".into(),
            hash: new.hash.to_string().into(),
            owner: "ann".into(),
            role: "admin".into(),
            expires: None,
            disabled: false,
        }],
        ..AuthConfig::default()
    };
    let authenticator = Authenticator::new(&config, None).expect("a config without faults");
    let authenticator = Arc::new(Authority::new(authenticator));
    let registry = Registry::new();
    let (orders, _) = Orders::new(0, &registry);
    let api = Api::new(Store::new(0), authenticator, registry, Arc::new(Readiness::default()), orders);
    (api, new.key.expose_secret().to_owned())
}

/// Routes beside the interface's own: one that panics, one that fails without saying why.
fn extra() -> Router {
    let failed = async || (StatusCode::BAD_GATEWAY, "text of its own");
    let busy = async || Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "too many").retry_after(7);
    let panics = async || -> &'static str { panic!("a test panics on purpose") };
    Router::new().route("/panics", get(panics)).route("/fails", get(failed)).route("/busy", get(busy))
}

impl Hub {
    async fn start() -> Self {
        Self::start_with(ServeLimits::default()).await
    }

    async fn start_with(limits: ServeLimits) -> Self {
        let (api, key) = api();
        let api = Arc::new(api.with_left_out(|venue| LeftOut { count: 101, symbols: vec![venue.into(); 101] }));
        api.readiness.advance(ReadinessState::Ready);
        Self::serving(Arc::clone(&api), key, public_router(api, extra()), limits).await
    }

    async fn start_ops() -> Self {
        let (api, key) = api();
        let api = Arc::new(api);
        Self::serving(Arc::clone(&api), key, ops_router(api), ServeLimits::default()).await
    }

    async fn serving(api: Arc<Api>, key: String, router: Router, limits: ServeLimits) -> Self {
        let gate = Gate::open(&api.registry);
        Self::behind(gate, api, key, router, limits).await
    }

    async fn behind(gate: Arc<Gate>, api: Arc<Api>, key: String, router: Router, limits: ServeLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (stopper, stop) = stop_signal();
        let serving = tokio::spawn(serve(listener, router, limits, gate, "public", Arc::clone(&api.registry), stop));
        Self { api, address, key, stopper: Some(stopper), serving }
    }

    /// Adds instruments of a venue whose feed is in `state`.
    fn add(&self, venue: &str, symbols: &[&str], state: FeedState) -> Vec<Writer> {
        let store = &self.api.worlds[0].store;
        let feed = store.feed_of(venue, "e1", UnixNanos(0)).expect("room");
        let status = crate::store::FeedStatus { state, cause: "a test".into(), since: UnixNanos(0), changes: 0 };
        store.feed(feed).expect("registered").set_status(status);
        let claim = |symbol: &&str| store.claim(instrument(&format!("{venue}:{symbol}")), feed).expect("free").0;
        symbols.iter().map(claim).collect()
    }

    fn token(&self, narrowing: Narrowing) -> String {
        let ttl = Duration::from_secs(60);
        let request = TokenRequest { subject: "bob".into(), role: "admin".into(), ttl, narrowing };
        self.api.authenticator.sign(&request, wall()).expect("a key")
    }

    fn token_for(&self, symbols: &[&str]) -> String {
        let symbols = symbols.iter().map(|text| Pattern::parse(text).expect("valid")).collect();
        self.token(Narrowing { symbols: Some(symbols), ..Narrowing::default() })
    }

    async fn connect(&self) -> Client {
        Client(TcpStream::connect(&self.address).await.expect("listening"))
    }

    /// One request on a connection of its own, with these header lines.
    async fn ask(&self, target: &str, headers: &[&str]) -> Answer {
        let mut client = self.connect().await;
        client.send(target, headers).await;
        client.answer().await.expect("an answer")
    }

    /// The same as one who may have everything.
    async fn get(&self, target: &str) -> Answer {
        self.ask(target, &[&format!("X-API-Key: {}", self.key)]).await
    }

    async fn get_as(&self, token: &str, target: &str) -> Answer {
        self.ask(target, &[&format!("Authorization: Bearer {token}")]).await
    }

    fn metric(&self, line: &str) -> bool {
        self.api.registry.render().lines().any(|rendered| rendered == line)
    }
}

struct Client(TcpStream);

impl Client {
    async fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("connected");
    }

    /// A GET, or what method stands before the target.
    async fn send(&mut self, target: &str, headers: &[&str]) {
        let line = if target.starts_with('/') { format!("GET {target}") } else { target.to_owned() };
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        self.write(&format!("{line} HTTP/1.1\r\nHost: hub\r\n{headers}\r\n")).await;
    }

    /// The next answer; `None` where the connection ends before one begins.
    async fn answer(&mut self) -> Option<Answer> {
        tokio::time::timeout(PATIENCE, self.read_answer()).await.expect("in time")
    }

    async fn read_answer(&mut self) -> Option<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match self.0.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) if head.is_empty() => return None,
                Err(error) => panic!("{error} within {:?}", String::from_utf8_lossy(&head)),
            }
        }
        let head = String::from_utf8(head).expect("ASCII");
        let mut answer = Answer { status: head[9..12].parse().expect("a status"), head, body: Vec::new() };
        let bytes = answer.header("content-length").map_or(0, |bytes| bytes.parse().expect("a number"));
        answer.body.resize(if answer.status == 304 { 0 } else { bytes }, 0);
        self.0.read_exact(&mut answer.body).await.expect("the whole body");
        Some(answer)
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let of = |line: &'_ str| line.split_once(": ").filter(|(this, _)| this.eq_ignore_ascii_case(name)).is_some();
        self.head.lines().find(|line| of(line)).and_then(|line| line.split_once(": ")).map(|(_, value)| value)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// Checks that it is an error with its whole envelope, and gives that.
    #[track_caller]
    fn error(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        let envelope = self.json();
        assert_eq!(envelope["error_code"], code, "{envelope}");
        let members: Vec<_> = envelope.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(members, ["details", "error_code", "message", "request_id", "timestamp"]);
        assert!(
            envelope["message"].as_str().is_some_and(|message| !message.is_empty()) && envelope["details"].is_object()
        );
        assert_eq!(self.header("x-request-id"), envelope["request_id"].as_str());
        let year = crate::time::rfc3339(wall());
        assert_eq!(envelope["timestamp"].as_str().map(|time| &time[..5]), Some(&year[..5]));
        envelope
    }
}
