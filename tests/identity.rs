//! Keys of issuers as they are fetched, kept and rotated; and whole hubs whose tokens others sign.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/jwks.rs"]
mod endpoint;
#[path = "support/signer.rs"]
mod signer;
mod support;

use std::sync::Arc;
use std::time::Duration;

use endpoint::{Behavior, Endpoint};
use serde_json::{Value, json};
use signer::{Signer, encoded, jwks};
use support::client::{Client, upgrade};
use support::hub;
use tickhub::auth::{AuthError, Authenticator};
use tickhub::config::{Config, ConfigError};
use tickhub::identity::{Freshness, Identity};
use tickhub::metrics::Registry;
use tickhub::model::UnixNanos;
use tickhub::time::{Mono, mono, wall};

const PRICES: &str = "/api/v1/ws/prices";
const ISSUER: &str = "https://id.example";
/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn since(began: Mono) -> Duration {
    Duration::from_nanos(mono() - began)
}

/// The table of an issuer whose keys are at `source`.
fn table(source: &str) -> String {
    format!("[[auth.issuers]]\nname = \"id\"\nissuer = \"{ISSUER}\"\naudience = \"hub\"\n{source}\n")
}

fn at(url: &str, more: &str) -> String {
    table(&format!("jwks_url = \"{url}\"\n{more}"))
}

fn read(text: &str) -> Config {
    Config::read(Some(("test.toml", text)), std::iter::empty()).unwrap()
}

fn faults(error: ConfigError) -> String {
    error.to_string()
}

/// An identity that follows what a configuration's text says.
struct Followed {
    identity: Identity,
    authenticator: Authenticator,
    registry: Arc<Registry>,
}

impl Followed {
    fn start(text: &str) -> Self {
        let authenticator = Authenticator::new(&read(text).auth, None).unwrap();
        let registry = Registry::new();
        let identity = Identity::new(tokio::runtime::Handle::current(), Arc::clone(&registry));
        identity.follow(&authenticator);
        Self { identity, authenticator, registry }
    }

    fn judge(&self, signer: &Signer) -> Result<(), AuthError> {
        self.authenticator.token(&signer.token(&claims("ann")), wall()).map(drop)
    }

    fn freshness(&self) -> Freshness {
        self.identity.status()[0].freshness
    }

    /// Waits, fetch by fetch, until something holds.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let mut fetched = self.identity.fetched();
        let all = fetched.wait_for(|_| holds(self));
        let came = tokio::time::timeout(PATIENCE, all).await.is_ok();
        assert!(came, "{what}: {:?}\n{}", self.identity, self.registry.render());
    }
}

/// Claims that are good for an hour.
fn claims(subject: &str) -> Value {
    let now = wall().0 / 1_000_000_000;
    json!({"iss": ISSUER, "sub": subject, "aud": "hub", "role": "viewer", "iat": now - 1, "exp": now + 3600})
}

/// A token that names a key which nobody has.
fn stray(number: u64) -> String {
    let header = json!({"alg": "ES256", "kid": format!("stray-{number}")}).to_string();
    format!("{}.{}.{}", encoded(header), encoded(claims("eve").to_string()), encoded([7; 64]))
}

#[tokio::test]
async fn keys_are_fetched_at_the_start_and_tokens_of_each_algorithm_are_taken() {
    let signers = Signer::each();
    let endpoint = Endpoint::start(Behavior::Keys(jwks(&signers))).await;
    let followed = Followed::start(&at(&endpoint.url, ""));
    followed.identity.settled(PATIENCE).await;
    for signer in &signers {
        assert_eq!(followed.judge(signer), Ok(()), "{}", signer.alg);
    }
    let status = followed.identity.status().remove(0);
    assert_eq!((status.name.as_str(), status.freshness, status.keys), ("id", Freshness::Current, 3));
    assert!(status.age.is_some() && endpoint.requests() == 1);
    let metrics = followed.registry.render();
    for line in ["tickhub_issuer_keys{issuer=\"id\"} 3", "tickhub_issuer_fetches_total{issuer=\"id\",outcome=\"ok\"} 1"]
    {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn the_last_good_keys_stay_in_use_while_the_source_is_down() {
    let signer = Signer::p256("good");
    let good = Behavior::Keys(jwks([&signer]));
    let elsewhere = Endpoint::start(Behavior::Keys(jwks([&Signer::p256("elsewhere")]))).await;
    let secret = json!({"keys": [{"kty": "oct", "kid": "good", "alg": "HS256", "k": encoded([7; 32])}]});
    let endpoint = Endpoint::start(good.clone()).await;
    let followed = Followed::start(&at(&endpoint.url, "refresh = \"1s\"\ntimeout = \"500ms\""));
    followed.identity.settled(PATIENCE).await;
    for (bad, outcome) in [
        (Behavior::Status(500), "refused"),
        (Behavior::Status(404), "refused"),
        (Behavior::Status(204), "refused"),
        (Behavior::Redirect(elsewhere.url.clone()), "refused"),
        (Behavior::Keys("<html>".to_owned()), "invalid"),
        (Behavior::Keys("{\"keys\":[]}".to_owned()), "invalid"),
        (Behavior::Keys(secret.to_string()), "invalid"),
        (Behavior::Stall, "unreachable"),
        (Behavior::Trickle, "unreachable"),
        (Behavior::Endless, "unreachable"),
        (Behavior::EndlessHead, "unreachable"),
        (Behavior::Cut, "unreachable"),
        (Behavior::Noise, "unreachable"),
    ] {
        followed.until("current", |followed| followed.freshness() == Freshness::Current).await;
        let count = |followed: &Followed| {
            let metrics = followed.registry.render();
            let line = format!("tickhub_issuer_fetches_total{{issuer=\"id\",outcome=\"{outcome}\"}} ");
            let count = metrics.lines().find_map(|found| found.strip_prefix(&line)?.parse::<u64>().ok());
            count.unwrap_or(0)
        };
        let before = count(&followed);
        endpoint.becomes(bad.clone());
        let down = |followed: &Followed| followed.freshness() == Freshness::Stale && count(followed) > before;
        followed.until(&format!("{bad:?}"), down).await;
        assert_eq!(followed.judge(&signer), Ok(()), "{bad:?}");
        endpoint.becomes(good.clone());
    }
    assert_eq!(elsewhere.requests(), 0, "a redirect is not followed");
}

#[tokio::test]
async fn a_storm_of_unknown_keys_costs_one_fetch() {
    let signer = Signer::p256("good");
    let endpoint = Endpoint::start(Behavior::Keys(jwks([&signer]))).await;
    let began = mono();
    let followed = Followed::start(&at(&endpoint.url, "refresh = \"1d\"\nrefresh_pause = \"1s\""));
    followed.identity.settled(PATIENCE).await;
    assert_eq!(endpoint.requests(), 1);
    for number in 0..5000 {
        assert_eq!(followed.authenticator.token(&stray(number), wall()), Err(AuthError::UnpublishedKey));
    }
    followed.until("asked for", |_| endpoint.requests() == 2).await;
    // However long this takes on a slow machine: each further fetch has a pause before it.
    let mut number = 5000;
    while endpoint.requests() < 4 {
        assert!(since(began) < PATIENCE, "no further fetch");
        for _ in 0..100 {
            number += 1;
            let _ = followed.authenticator.token(&stray(number), wall());
        }
        tokio::task::yield_now().await;
    }
    let pauses = since(began).as_secs() as usize;
    assert!(endpoint.requests() - 1 <= pauses, "{} fetches in {pauses} pauses", endpoint.requests());
    let counted = format!("tickhub_issuer_unknown_keys_total{{issuer=\"id\"}} {number}");
    assert!(followed.registry.render().contains(&counted), "{counted}");
    assert_eq!(followed.judge(&signer), Ok(()));
}

#[tokio::test]
async fn without_a_storm_nothing_is_fetched_between_the_refreshes() {
    let signer = Signer::p256("good");
    let endpoint = Endpoint::start(Behavior::Keys(jwks([&signer]))).await;
    let followed = Followed::start(&at(&endpoint.url, "refresh = \"1d\"\nrefresh_pause = \"1s\""));
    followed.identity.settled(PATIENCE).await;
    let forged = Signer::p256("good");
    for _ in 0..100 {
        assert_eq!(followed.judge(&signer), Ok(()));
        assert_eq!(followed.judge(&forged), Err(AuthError::BadSignature));
    }
    let other = at(&endpoint.url, "refresh = \"1s\"").replace("\"id\"", "\"other\"");
    let ticking = Followed::start(&other);
    let three = |_: &Followed| endpoint.requests() >= 4;
    ticking.until("three fetches of the other", three).await;
    let metrics = followed.registry.render();
    assert!(metrics.contains("tickhub_issuer_fetches_total{issuer=\"id\",outcome=\"ok\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_file_is_read_anew_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    let (one, two) = (Signer::ed25519("one"), Signer::ed25519("two"));
    let put = |text: String| {
        let draft = folder.path().join("draft");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, &file).unwrap();
    };
    put(jwks([&one]));
    let followed = Followed::start(&table(&format!("jwks_file = {file:?}")));
    followed.identity.settled(PATIENCE).await;
    assert_eq!((followed.judge(&one), followed.judge(&two)), (Ok(()), Err(AuthError::UnpublishedKey)));
    put(jwks([&two]));
    followed.until("the second key", |followed| followed.judge(&two).is_ok()).await;
    assert_eq!(followed.judge(&one), Err(AuthError::UnpublishedKey));
    put("{".to_owned());
    followed.until("stale", |followed| followed.freshness() == Freshness::Stale).await;
    assert_eq!(followed.judge(&two), Ok(()));
    std::fs::remove_file(&file).unwrap();
    let unreadable = "tickhub_issuer_fetches_total{issuer=\"id\",outcome=\"unreadable\"}";
    followed.until("gone", |followed| followed.registry.render().contains(unreadable)).await;
    assert_eq!(followed.judge(&two), Ok(()));
    put(jwks([&one]));
    followed.until("the first key", |followed| followed.judge(&one).is_ok()).await;
}

#[tokio::test]
async fn keys_over_tls_are_taken_from_whom_the_configuration_trusts_only() {
    let signer = Signer::p256("good");
    let endpoint = Endpoint::start_encrypted(Behavior::Keys(jwks([&signer]))).await;
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls");
    let trusting = |ca: &str| at(&endpoint.url, &format!("ca_file = \"{fixtures}/{ca}\""));
    let good = Followed::start(&trusting("authority.pem"));
    good.identity.settled(PATIENCE).await;
    assert_eq!((good.judge(&signer), good.freshness()), (Ok(()), Freshness::Current));
    let other_name = trusting("authority.pem").replace("//localhost", "//[::ffff:127.0.0.1]");
    for bad in [trusting("stranger.pem"), at(&endpoint.url, ""), trusting("absent.pem"), other_name] {
        let followed = Followed::start(&bad);
        followed.identity.settled(PATIENCE).await;
        assert_eq!((followed.judge(&signer), followed.freshness()), (Err(AuthError::NoKeysYet), Freshness::Missing));
    }
    assert_eq!(endpoint.requests(), 1, "nobody else got as far as asking");
}

#[tokio::test]
async fn a_new_configuration_keeps_what_is_known_and_forgets_who_is_gone() {
    let signer = Signer::p256("good");
    let endpoint = Endpoint::start(Behavior::Keys(jwks([&signer]))).await;
    let text = at(&endpoint.url, "refresh = \"1s\"");
    let followed = Followed::start(&text);
    followed.identity.settled(PATIENCE).await;
    let same = Authenticator::new(&read(&text).auth, None).unwrap().with_keys_of(&followed.authenticator);
    followed.identity.follow(&same);
    assert!(same.token(&signer.token(&claims("ann")), wall()).is_ok());
    let requests = endpoint.requests();
    followed.until("it goes on", |_| endpoint.requests() > requests).await;
    let key = "[[auth.keys]]\nkid = \"k\"\nsecret = \"abcdefghijklmnopqrstuvwxyz012345\"";
    followed.identity.follow(&Authenticator::new(&read(key).auth, None).unwrap());
    assert_eq!(followed.identity.status(), []);
    let metrics = followed.registry.render();
    assert!(metrics.contains("tickhub_issuer_keys{issuer=\"id\"} 0"), "{metrics}");
}

async fn health(hub: &support::TestHub) -> Value {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(&hub.http).await.unwrap();
    let request = format!("GET /api/v1/health HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", hub.http);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let json = &body[body.find('{').unwrap()..=body.rfind('}').unwrap()];
    serde_json::from_str(json).unwrap()
}

/// Asks again and again until something holds: what is waited for has no event of its own.
async fn until_health(hub: &support::TestHub, what: &str, holds: impl Fn(&Value) -> bool) {
    let began = mono();
    loop {
        let health = health(hub).await;
        if holds(&health) {
            return;
        }
        assert!(since(began) < PATIENCE, "{what}: {health}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const OWN_KEY: &str = "[[auth.keys]]\nkid = \"own\"\nsecret = \"abcdefghijklmnopqrstuvwxyz012345\"\n";

#[tokio::test]
async fn an_issuer_that_does_not_answer_stops_nothing() {
    let signer = Signer::p256("good");
    let endpoint = Endpoint::start(Behavior::Stall).await;
    let text = format!("{OWN_KEY}{}", at(&endpoint.url, "timeout = \"500ms\"\nrefresh = \"1s\""));
    let hub = hub(&text).await;
    let _own = Client::welcomed(&hub.http, &hub.token).await;
    until_health(&hub, "degraded", |health| health["status"] == "degraded").await;
    let missing = json!([{"name": "id", "state": "missing", "keys": 0}]);
    assert_eq!(health(&hub).await["issuers"], missing);
    let bearer = format!("Authorization: Bearer {}", signer.token(&claims("ann")));
    let (status, head, ..) = upgrade(&hub.http, PRICES, &[&bearer]).await;
    assert_eq!((status, head.to_ascii_lowercase().contains("retry-after: 1\r\n")), (401, true), "{head}");
    endpoint.becomes(Behavior::Keys(jwks([&signer])));
    let current = |health: &Value| health["issuers"][0]["state"] == "current" && health["status"] == "ok";
    until_health(&hub, "current", current).await;
    let _theirs = Client::welcomed(&hub.http, &signer.token(&claims("ann"))).await;
    endpoint.becomes(Behavior::Status(503));
    until_health(&hub, "stale", |health| health["issuers"][0]["state"] == "stale").await;
    let _still = Client::welcomed(&hub.http, &signer.token(&claims("bob"))).await;
}

#[tokio::test]
async fn a_rotation_drops_no_session() {
    let (old, new) = (Signer::rsa("2026-11"), Signer::p256("2026-12"));
    let endpoint = Endpoint::start(Behavior::Keys(jwks([&old]))).await;
    let hub = hub(&at(&endpoint.url, "refresh = \"1d\"\nrefresh_pause = \"1s\"")).await;
    let mut session = Client::welcomed(&hub.http, &old.token(&claims("ann"))).await;
    session.text(r#"{"op":"subscribe","id":1,"channel":"quote","symbols":["SIM:*"]}"#).await;
    assert_eq!(session.answer(1).await["op"], "subscribed");

    // The issuer changes its key at once, without ever publishing both.
    endpoint.becomes(Behavior::Keys(jwks([&new])));
    // In band the new key is waited for. More than once where the machine is slow: a renewal that
    // is refused costs nothing but itself.
    let renewal = new.token(&claims("ann"));
    let mut id = 2;
    loop {
        session.text(&json!({"op": "auth", "id": id, "token": renewal}).to_string()).await;
        let answer = session.answer(id).await;
        if answer["op"] == "ok" {
            break;
        }
        assert!(answer["code"] == "invalid_token" && id < 60, "{answer}");
        id += 1;
    }
    session.until("ch", "quote").await;

    // Another subject's token renews nothing.
    session.text(&json!({"op": "auth", "id": 100, "token": new.token(&claims("bob"))}).to_string()).await;
    assert_eq!(session.answer(100).await["code"], "invalid_token");

    let _newcomer = Client::welcomed(&hub.http, &new.token(&claims("bob"))).await;
    let bearer = format!("Authorization: Bearer {}", old.token(&claims("eve")));
    assert_eq!(upgrade(&hub.http, PRICES, &[&bearer]).await.0, 401, "what the old key signs is good no more");
    session.text(r#"{"op":"ping","id":101}"#).await;
    assert_eq!(session.answer(101).await["op"], "pong");
}

#[tokio::test]
async fn the_same_subject_of_two_issuers_has_its_own_connections_and_renews_only_its_own() {
    let (one, two) = (Signer::p256("k"), Signer::p256("k"));
    let first = Endpoint::start(Behavior::Keys(jwks([&one]))).await;
    let second = Endpoint::start(Behavior::Keys(jwks([&two]))).await;
    let other = at(&second.url, "").replace(ISSUER, "https://two.example").replace("\"id\"", "\"two\"");
    let hub = hub(&format!("[limits]\nconnections = 1\n{}{other}", at(&first.url, ""))).await;
    let mut of_two = claims("ann");
    of_two["iss"] = json!("https://two.example");
    let mut ann = Client::welcomed(&hub.http, &one.token(&claims("ann"))).await;
    let _other_ann = Client::welcomed(&hub.http, &two.token(&of_two)).await;
    let bearer = format!("Authorization: Bearer {}", one.token(&claims("ann")));
    let mut third = Client::open(&hub.http, PRICES, &[&bearer]).await;
    assert_eq!(third.closed().await.0, 4006);
    ann.text(&json!({"op": "auth", "id": 1, "token": two.token(&of_two)}).to_string()).await;
    assert_eq!(ann.answer(1).await["message"], "the token is another subject's");
}

#[test]
fn faults_of_sources_are_named_with_what_to_do() {
    let wrong = |text: &str| faults(Config::read(Some(("test.toml", text)), std::iter::empty()).unwrap_err());
    for (url, said) in [
        ("http://id.example/keys", "test.toml:5: auth.issuers[0].jwks_url = \"http://id.example/keys\": must be https"),
        ("http://10.0.0.1/keys", "must be https://…; http is taken on a loopback address only"),
        ("ftp://id.example", "must be http://HOST[:PORT] or https://HOST[:PORT]"),
        ("keys", "must be http://HOST[:PORT] or https://HOST[:PORT]"),
    ] {
        let found = wrong(&at(url, ""));
        assert!(found.contains(said), "{said}\n{found}");
    }
    let found = wrong(&at("https://me:hunter2@id.example/keys", ""));
    assert!(found.contains("auth.issuers[0].jwks_url: must be") && !found.contains("hunter2"), "{found}");
    let found = wrong(&at("http://127.0.0.1/keys", "ca_file = \"ca.pem\""));
    assert!(found.contains("auth.issuers[0].ca_file = \"ca.pem\": is for an address of https"), "{found}");
    let found = wrong(&at("https://id.example", "").replace("\"hub\"", "7"));
    assert!(found.contains("auth.issuers[0].audience = 7: must be a text, or a list of them"), "{found}");
    assert!(wrong(&at("https://id.example", "jwks_ulr = 1")).contains("did you mean \"jwks_url\""));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hub.toml");
    let serve = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Config::load_to_serve(Some(&file)).map(drop).map_err(faults)
    };
    let keys = folder.path().join("jwks.json");
    let text = table(&format!("jwks_file = {keys:?}"));
    assert!(serve(&text).unwrap_err().contains("cannot be read: No such file"));
    std::fs::write(&keys, "{}").unwrap();
    assert!(serve(&text).unwrap_err().contains("is not a JSON object with a list \"keys\""));
    std::fs::write(&keys, jwks([&Signer::ed25519("k")])).unwrap();
    assert_eq!(serve(&text), Ok(()));
    let text = at("https://id.example", &format!("ca_file = {keys:?}"));
    assert!(serve(&text).unwrap_err().contains("has no certificate in PEM form"));
}

/// Every block of a kind in the page, with what follows it up to the next.
fn blocks<'a>(page: &'a str, kind: &str) -> Vec<(&'a str, &'a str)> {
    let begin = format!("```{kind}\n");
    page.split(&begin).skip(1).map(|part| part.split_once("\n```").expect("ends")).collect()
}

#[test]
fn the_examples_of_the_page_are_read_as_it_says() {
    let page = include_str!("../docs/identity.md");
    let (tables, tokens) = (blocks(page, "toml"), blocks(page, "json"));
    assert!(tables.len() == tokens.len() && tables.len() >= 4, "each table has a token");
    let all: String = tables.iter().map(|(table, _)| format!("{table}\n")).collect();
    let authenticator = Authenticator::new(&read(&all).auth, None).unwrap();
    let signers = Signer::each();
    for ring in authenticator.rings() {
        ring.replace(tickhub::auth::KeySet::parse(jwks(&signers).as_bytes()).unwrap());
    }
    for ((table, _), (claims, behind)) in tables.iter().zip(&tokens) {
        let signer = if table.contains("EdDSA") { &signers[2] } else { &signers[0] };
        let claims: Value = serde_json::from_str(claims).expect(claims);
        let now = UnixNanos((claims["iat"].as_i64().unwrap() + 10) * 1_000_000_000);
        let principal = authenticator.token(&signer.token(&claims), now).expect(table);
        let said = format!("Read as: subject `{}`, role `{}`.", principal.subject, principal.role);
        assert!(behind.contains(&said), "{said}\n{behind}");
        assert!(table.contains(principal.issuer.as_deref().unwrap()));
    }
}
