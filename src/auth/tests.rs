//! Credentials that must be refused, and what the others are given.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::*;
use crate::model::{Channel, Depth, InstrumentId, Pattern, UnixNanos};
use crate::settings::Span;

const SECRET: &str = "a-secret-of-more-than-thirty-two-bytes-for-tests";
const SECOND: &str = "another-secret-of-more-than-thirty-two-bytes!";
const NOW: UnixNanos = seconds(1_700_000_000);

const fn seconds(seconds: i64) -> UnixNanos {
    UnixNanos(seconds * 1_000_000_000)
}

fn key(kid: &str, secret: &str) -> KeyConfig {
    KeyConfig { kid: kid.into(), alg: Algorithm::HS256, secret: Some(secret.into()), secret_file: None }
}

fn config() -> AuthConfig {
    AuthConfig { keys: vec![key("one", SECRET)], ..AuthConfig::default() }
}

fn authenticator(config: &AuthConfig) -> Authenticator {
    Authenticator::new(config, None).expect("a config without faults")
}

/// Claims of a token that is good at [`NOW`], with `changes`; a null takes a claim away.
fn claims(changes: &Value) -> Value {
    let mut claims = json!({
        "sub": "ann", "iss": "tickhub", "aud": "tickhub", "role": "analyst", "iat": 1_699_999_990, "exp": 1_700_000_060,
    });
    for (name, value) in changes.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    claims
}

fn sign_text(header: &str, claims: &str, secret: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
    let signature = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn signed(claims: &Value) -> String {
    sign_text(r#"{"alg":"HS256","kid":"one"}"#, &claims.to_string(), SECRET)
}

/// What becomes of a good token with `changes` to its claims.
fn judge(changes: &Value) -> Result<Principal, AuthError> {
    authenticator(&config()).token(&signed(&claims(changes)), NOW)
}

fn id(text: &str) -> InstrumentId {
    InstrumentId::parse(text).expect("valid")
}

#[test]
fn a_good_token_gives_its_subject_the_roles_grant() {
    let principal = judge(&json!({"jti": "t-1", "unknown": {"is": "ignored"}})).expect("good");
    assert_eq!((&*principal.subject, &*principal.role), ("ann", "analyst"));
    assert_eq!(principal.token_id.as_deref(), Some("t-1"));
    assert_eq!((principal.issued, principal.expires), (Some(seconds(1_699_999_990)), Some(seconds(1_700_000_060))));
    assert_eq!(principal.credential, CredentialKind::Jwt);
    assert_eq!(principal.grant.depth(), Depth::All);
    assert!(!principal.is_admin() && principal.grant.allows(&id("SIM:A")));
    assert!(judge(&json!({"role": "admin"})).expect("good").is_admin());
}

#[test]
fn claims_narrow_the_role() {
    let narrowed = json!({
        "role": "viewer", "symbols": ["SIM:A*", "SIM:AB"], "channels": ["quote", "bar.1m"], "max_rate": 5, "depth": 0,
        "connections": 2, "subscriptions": 100_000,
    });
    let grant = judge(&narrowed).expect("good").grant;
    assert_eq!(grant.symbols(), [Pattern::parse("SIM:A*").expect("valid")]);
    assert!(grant.allows(&id("SIM:AAA")) && !grant.allows(&id("SIM:B")));
    assert_eq!(grant.channels(), [Channel::Quote].into_iter().collect());
    assert_eq!(grant.max_rate(), Some(5));
    assert_eq!(grant.depth(), Depth::Ten, "0 is the deepest: it cannot deepen a viewer");
    assert_eq!((grant.connections(), grant.subscriptions()), (2, 1_000));
}

#[test]
fn a_claim_lengthens_a_delay_to_one_that_there_is() {
    let role = |symbols: &str, delay| RoleConfig {
        symbols: Some(vec![symbols.into()]),
        delay: Some(Span::seconds(delay)),
        ..RoleConfig::default()
    };
    let roles = [("short", 60), ("long", 900), ("none", 0)].map(|(name, delay)| (name.to_owned(), role("*", delay)));
    let config = AuthConfig { roles: roles.into_iter().collect(), ..config() };
    assert_eq!(config.delays(), [60, 900].map(Duration::from_secs));
    let hub = authenticator(&config);
    let delay = |role: &str, claim: Value| {
        let token = signed(&claims(&json!({"role": role, "delay": claim})));
        hub.token(&token, NOW).map(|principal| principal.grant.delay().as_secs()).map_err(AuthError::as_str)
    };
    for (role, claim, seconds) in [
        ("short", json!(0), 60),
        ("short", json!(61), 900),
        ("short", json!("1m"), 60),
        ("long", json!("15m"), 900),
        ("long", json!(1), 900),
        ("none", json!(0), 0),
        ("none", json!("1ms"), 60),
        ("admin", json!(900), 900),
    ] {
        assert_eq!(delay(role, claim.clone()), Ok(seconds), "{role} {claim}");
    }
    assert_eq!(delay("none", json!(901)), Err("bad_claim"), "there is no world of so much delay");
    assert_eq!(delay("long", json!(u64::MAX)), Err("bad_claim"));
    let roles = (0..6).map(|delay| (format!("r{delay}"), role("*", delay))).collect();
    let said = faults(&AuthConfig { roles, ..config.clone() }).join("; ");
    assert!(said.contains("5 different delays (1s, 2s, 3s, 4s, 5s), and at most 4"), "{said}");
    let roles = [("old".to_owned(), role("*", 86_401))].into();
    assert!(faults(&AuthConfig { roles, ..config }).join("; ").contains("auth.roles.old.delay"));
}

#[test]
fn a_depth_between_two_is_the_smaller_one() {
    for (claim, depth) in [(1, Depth::One), (9, Depth::One), (10, Depth::Ten), (49, Depth::Ten), (50, Depth::Fifty)] {
        assert_eq!(judge(&json!({"depth": claim})).expect("good").grant.depth(), depth, "{claim}");
    }
    assert_eq!(judge(&json!({"depth": 4_000_000_000u32})).expect("good").grant.depth(), Depth::Fifty);
}

#[test]
fn claims_that_narrow_to_nothing_are_good_and_grant_nothing() {
    for nothing in [json!({"symbols": []}), json!({"channels": []}), json!({"connections": 0, "subscriptions": 0})] {
        let grant = judge(&nothing).expect("good").grant;
        let all = Channel::ALL.into_iter().all(|channel| grant.allows_channel(channel));
        assert!(!grant.allows(&id("SIM:A")) || !all || grant.connections() == 0, "{nothing}");
    }
    let elsewhere = AuthConfig {
        roles: [("viewer".into(), RoleConfig { symbols: Some(vec!["SIM:*".into()]), ..RoleConfig::default() })].into(),
        ..config()
    };
    let token = signed(&claims(&json!({"role": "viewer", "symbols": ["BINANCE:*"]})));
    let grant = authenticator(&elsewhere).token(&token, NOW).expect("good").grant;
    assert_eq!(grant.symbols(), []);
}

#[test]
fn a_narrowing_claim_that_cannot_be_read_is_refused_and_never_ignored() {
    let bad = json!({
        "symbols": ["SIM:*", ["SIM:*"], "*", {"a": 1}, 7, true],
        "channels": ["quote", "", 1, {}],
        "max_rate": [0, -1, 1.5, "10", true, [], 4_294_967_296u64],
        "depth": [-1, 10.5, "all", [10]],
        "connections": [-1, 1e3, "2"],
        "subscriptions": [-1, 0.1, {}],
        "delay": [-1, 0.5, 1e3, "15", "15 m", "", true, [900]],
        "nbf": ["1700000000", true, []],
        "jti": [7, "", "a\nb"],
        "role": [7, ["viewer"]],
    });
    for (name, values) in bad.as_object().expect("an object") {
        for value in values.as_array().expect("a list") {
            let good = name == "symbols" && value.is_array();
            let outcome = judge(&json!({ name: value }));
            match outcome {
                Ok(_) => assert!(good, "{name} {value}"),
                Err(error) => assert_eq!(error.as_str(), "bad_claim", "{name} {value}"),
            }
        }
        // An explicit null, which `claims` would have taken away.
        let text =
            claims(&json!({ name: 0 })).to_string().replace(&format!("\"{name}\":0"), &format!("\"{name}\":null"));
        let token = sign_text(r#"{"alg":"HS256","kid":"one"}"#, &text, SECRET);
        let refused = authenticator(&config()).token(&token, NOW).expect_err("null");
        assert_eq!(refused.as_str(), "bad_claim", "{name}");
    }
}

#[test]
fn patterns_that_try_to_reach_past_a_grant_are_refused() {
    for bad in ["sim:*", "SIM:..*X", "SIM:\u{0410}*", "SIM:A\0", "**", "*SIM:A", "S*:A", "SIM", ""] {
        assert_eq!(judge(&json!({"symbols": [bad]})), Err(AuthError::BadClaim("symbols")), "{bad}");
    }
    assert_eq!(judge(&json!({"channels": ["orders"]})), Err(AuthError::BadClaim("channels")));
    assert_eq!(judge(&json!({"channels": ["bar."]})), Err(AuthError::BadClaim("channels")));
}

#[test]
fn forged_and_unsigned_tokens_are_refused() {
    let hub = authenticator(&config());
    let good = signed(&claims(&json!({})));
    let (head, signature) = good.rsplit_once('.').expect("three parts");
    let forged = sign_text(r#"{"alg":"HS256","kid":"one"}"#, &claims(&json!({})).to_string(), SECOND);
    assert_eq!(hub.token(&forged, NOW), Err(AuthError::BadSignature));
    assert_eq!(hub.token(&format!("{head}."), NOW), Err(AuthError::BadSignature));
    assert_eq!(hub.token(head, NOW), Err(AuthError::Malformed));
    assert_eq!(hub.token(&format!("{head}.{}", &signature[..42]), NOW), Err(AuthError::BadSignature));
    assert_eq!(hub.token(&format!("{head}.{signature}="), NOW), Err(AuthError::BadSignature));
    // Other claims under the good token's signature.
    let header = head.split_once('.').expect("two parts").0;
    let other = URL_SAFE_NO_PAD.encode(claims(&json!({"role": "admin"})).to_string());
    assert_eq!(hub.token(&format!("{header}.{other}.{signature}"), NOW), Err(AuthError::BadSignature));
}

#[test]
fn the_algorithm_is_the_keys_whatever_the_header_says() {
    let hub = authenticator(&config());
    let text = claims(&json!({})).to_string();
    for algorithm in ["none", "None", "RS256", "ES256", "EdDSA", "HS512", "hs256", ""] {
        let header = json!({"alg": algorithm, "kid": "one"}).to_string();
        assert_eq!(hub.token(&sign_text(&header, &text, SECRET), NOW), Err(AuthError::WrongAlgorithm), "{algorithm}");
    }
    let unsigned = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode(text));
    assert_eq!(hub.token(&unsigned, NOW), Err(AuthError::WrongAlgorithm));
}

#[test]
fn headers_that_ask_for_more_are_refused() {
    let hub = authenticator(&config());
    let text = claims(&json!({})).to_string();
    let judge = |header: &str| hub.token(&sign_text(header, &text, SECRET), NOW).map(|_| ());
    assert_eq!(judge(r#"{"alg":"HS256"}"#), Ok(()), "no kid, one key");
    assert_eq!(judge(r#"{"alg":"HS256","kid":"one","typ":"JWT","x5u":"https://nobody.invalid/"}"#), Ok(()));
    assert_eq!(judge(r#"{"alg":"HS256","kid":"two"}"#), Err(AuthError::UnknownKey));
    assert_eq!(judge(r#"{"alg":"HS256","kid":"one","crit":["b64"],"b64":false}"#), Err(AuthError::UnsupportedHeader));
    assert_eq!(judge(r#"{"alg":"HS256","kid":"one","cty":"JWT"}"#), Err(AuthError::UnsupportedHeader));
    for bad in [
        "",
        "[]",
        "{}",
        r#"{"alg":1}"#,
        r#"{"alg":"HS256","kid":7}"#,
        r#"{"alg":"HS256","kid":null}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256"}{}"#,
    ] {
        assert_eq!(judge(bad), Err(AuthError::Malformed), "{bad}");
    }
}

#[test]
fn with_two_keys_a_token_must_name_its_own() {
    let hub = authenticator(&AuthConfig { keys: vec![key("one", SECRET), key("two", SECOND)], ..config() });
    let text = claims(&json!({})).to_string();
    let judge = |header: &str, secret| hub.token(&sign_text(header, &text, secret), NOW).map(|_| ());
    assert_eq!(judge(r#"{"alg":"HS256","kid":"two"}"#, SECOND), Ok(()));
    assert_eq!(judge(r#"{"alg":"HS256","kid":"one"}"#, SECOND), Err(AuthError::BadSignature));
    assert_eq!(judge(r#"{"alg":"HS256"}"#, SECRET), Err(AuthError::MissingKeyId));
}

#[test]
fn a_member_that_stands_twice_is_refused() {
    let hub = authenticator(&config());
    let text = claims(&json!({})).to_string();
    for twice in [r#""role":"viewer","#, r#""sub":"eve","#, r#""exp":1,"#, r#""x":1,"x":2,"#, r#""r\u006fle":"admin","#]
    {
        let token = sign_text(r#"{"alg":"HS256"}"#, &text.replacen('{', &format!("{{{twice}"), 1), SECRET);
        assert_eq!(hub.token(&token, NOW), Err(AuthError::Malformed), "{twice}");
    }
}

#[test]
fn required_claims_must_be_there_and_readable() {
    for name in ["sub", "iss", "aud", "exp", "iat", "role"] {
        assert_eq!(judge(&json!({ name: null })), Err(AuthError::MissingClaim(name)));
        assert_eq!(judge(&json!({ name: {} })), Err(AuthError::BadClaim(name)));
    }
    for (name, bad) in [("sub", json!("")), ("sub", json!("a\u{1b}[2J")), ("sub", json!("s".repeat(257)))] {
        assert_eq!(judge(&json!({ name: bad })), Err(AuthError::BadClaim("sub")));
    }
    assert_eq!(judge(&json!({"role": "root"})), Err(AuthError::UnknownRole));
}

#[test]
fn the_config_may_supply_the_role() {
    let config = AuthConfig { default_role: Some("viewer".into()), ..config() };
    let hub = authenticator(&config);
    let role = |changes| hub.token(&signed(&claims(&changes)), NOW).map(|principal| principal.role.to_string());
    assert_eq!(role(json!({"role": null})), Ok("viewer".into()));
    assert_eq!(role(json!({"role": "admin"})), Ok("admin".into()));
    assert_eq!(role(json!({"role": "root"})), Err(AuthError::UnknownRole), "a wrong role is not an absent one");
}

#[test]
fn issuer_and_audience_must_be_ours() {
    assert_eq!(judge(&json!({"iss": "tickhub.example"})), Err(AuthError::WrongIssuer));
    assert_eq!(judge(&json!({"iss": ["tickhub"]})), Err(AuthError::BadClaim("iss")));
    assert_eq!(judge(&json!({"aud": "other"})), Err(AuthError::WrongAudience));
    assert_eq!(judge(&json!({"aud": []})), Err(AuthError::WrongAudience));
    assert!(judge(&json!({"aud": ["other", "tickhub"]})).is_ok());
    assert_eq!(judge(&json!({"aud": ["tickhub", 7]})), Err(AuthError::BadClaim("aud")));
}

#[test]
fn times_are_judged_with_the_leeway() {
    let hub = authenticator(&config());
    let token = signed(&claims(&json!({"nbf": 1_700_000_000, "iat": 1_700_000_000, "exp": 1_700_000_060})));
    let at = |second| hub.token(&token, seconds(second)).map(|principal| principal.expires);
    assert_eq!(at(1_699_999_994), Err(AuthError::NotYetValid));
    assert_eq!(at(1_699_999_995), Ok(Some(seconds(1_700_000_060))));
    assert_eq!(at(1_700_000_059), Ok(Some(seconds(1_700_000_060))));
    assert_eq!(at(1_700_000_060), Ok(Some(seconds(1_700_000_065))), "only within the leeway: until its end");
    assert_eq!(at(1_700_000_064), Ok(Some(seconds(1_700_000_065))));
    assert_eq!(at(1_700_000_065), Err(AuthError::Expired));
    assert_eq!(judge(&json!({"iat": 1_700_000_006})), Err(AuthError::NotYetValid));
    assert_eq!(judge(&json!({"nbf": 1_700_000_006})), Err(AuthError::NotYetValid));

    let strict = authenticator(&AuthConfig { leeway: Span::seconds(0), ..config() });
    assert_eq!(strict.token(&token, seconds(1_700_000_060)), Err(AuthError::Expired));
}

#[test]
fn times_of_any_size_and_form_are_judged_not_wrapped() {
    let end = |exp: Value| judge(&json!({"exp": exp})).map(|principal| principal.expires);
    assert_eq!(end(json!(1_700_000_060.5)), Ok(Some(UnixNanos(1_700_000_060_500_000_000))));
    for far in [json!(i64::MAX), json!(u64::MAX), json!(1e300), json!(9_300_000_000i64)] {
        assert_eq!(end(far.clone()), Ok(Some(UnixNanos(i64::MAX))), "{far}");
    }
    for past in [json!(-1), json!(i64::MIN), json!(-1e300), json!(0), json!(1.5)] {
        assert_eq!(end(past.clone()), Err(AuthError::Expired), "{past}");
    }
    for bad in [json!("1700000060"), json!(true), json!([1_700_000_060])] {
        assert_eq!(end(bad.clone()), Err(AuthError::BadClaim("exp")), "{bad}");
    }
    let beyond = claims(&json!({"exp": 0})).to_string().replace("\"exp\":0", "\"exp\":1e999");
    let token = sign_text(r#"{"alg":"HS256"}"#, &beyond, SECRET);
    assert_eq!(authenticator(&config()).token(&token, NOW), Err(AuthError::Malformed));
}

#[test]
fn oversized_and_nested_tokens_are_refused() {
    let hub = authenticator(&config());
    let many: Vec<_> = (0..2000).map(|n| format!("SIM:S{n}")).collect();
    assert_eq!(hub.token(&signed(&claims(&json!({"symbols": many}))), NOW), Err(AuthError::TooLong));
    assert_eq!(hub.api_key(&"k".repeat(10_000), NOW), Err(AuthError::TooLong));
    let inner = signed(&claims(&json!({})));
    let outer = sign_text(r#"{"alg":"HS256"}"#, &inner, SECRET);
    assert_eq!(hub.token(&outer, NOW), Err(AuthError::Malformed));
    let deep = format!("{{\"sub\":{}{}}}", "[".repeat(2500), "]".repeat(2500));
    assert_eq!(hub.token(&sign_text(r#"{"alg":"HS256"}"#, &deep, SECRET), NOW), Err(AuthError::Malformed));
}

#[test]
fn a_token_that_the_hub_signs_is_a_token_that_it_takes() {
    let hub = authenticator(&config());
    let narrowing = Narrowing {
        symbols: Some(vec![Pattern::parse("SIM:*").expect("valid")]),
        channels: Some([Channel::Quote, Channel::Book].into_iter().collect()),
        max_rate: std::num::NonZeroU32::new(3),
        depth: Some(Depth::One),
        connections: Some(4),
        subscriptions: Some(5),
        delay: None,
    };
    let ttl = Duration::from_secs(60);
    let request = TokenRequest { subject: "bob".into(), role: "viewer".into(), ttl, narrowing: narrowing.clone() };
    let principal = hub.token(&hub.sign(&request, NOW).expect("signs"), NOW).expect("takes");
    assert_eq!((&*principal.subject, principal.expires), ("bob", Some(seconds(1_700_000_060))));
    let viewer = hub.roles().find(|(name, _)| *name == "viewer").expect("built in").1;
    assert_eq!(*principal.grant, viewer.narrow(&narrowing).expect("few"));
    assert_ne!(hub.sign(&request, NOW), hub.sign(&request, NOW), "each has its own id");

    let refused = |request: TokenRequest| hub.sign(&request, NOW).expect_err("refused").to_string();
    assert!(refused(TokenRequest { role: "root".into(), ..request.clone() }).contains("admin, analyst, viewer"));
    assert!(refused(TokenRequest { subject: String::new(), ..request.clone() }).contains("subject"));
    assert!(refused(TokenRequest { ttl: Duration::from_millis(999), ..request.clone() }).contains("one second"));
    let many = (0..1000).map(|n| Pattern::parse(&format!("SIM:S{n}")).expect("valid")).collect();
    let many = Narrowing { symbols: Some(many), ..Narrowing::default() };
    assert_eq!(hub.sign(&TokenRequest { narrowing: many, ..request.clone() }, NOW), Err(SignError::TooLong));
    let forever = hub.sign(&TokenRequest { ttl: Duration::MAX, ..request.clone() }, NOW).expect("signs");
    assert_eq!(hub.token(&forever, NOW).expect("takes").expires, Some(UnixNanos(i64::MAX)));
    let keyless = authenticator(&AuthConfig::default());
    assert_eq!(keyless.sign(&request, NOW), Err(SignError::NoKey));
}

#[test]
fn an_api_key_gives_its_owner_its_role() {
    let made = new_api_key("desk-1").expect("valid id");
    let entry = ApiKeyConfig {
        id: "desk-1".into(),
        hash: made.hash.to_string().into(),
        owner: "Trading desk".into(),
        role: "viewer".into(),
        expires: Some("2023-11-14T22:13:21Z".into()),
        disabled: false,
    };
    let hub = |entry: ApiKeyConfig| authenticator(&AuthConfig { api_keys: vec![entry], ..AuthConfig::default() });
    let key = made.key.expose_secret();
    let principal = hub(entry.clone()).api_key(key, NOW).expect("good");
    assert_eq!((&*principal.subject, &*principal.role), ("Trading desk", "viewer"));
    assert_eq!(principal.expires, Some(seconds(1_700_000_001)));
    assert_eq!(principal.token_id.as_deref(), Some("desk-1"));
    assert_eq!(hub(entry.clone()).api_key(key, seconds(1_700_000_001)), Err(AuthError::Expired));
    let disabled = hub(ApiKeyConfig { disabled: true, ..entry.clone() });
    assert_eq!(disabled.api_key(key, NOW), Err(AuthError::DisabledKey));
    let wrong = format!("desk-1.{}", URL_SAFE_NO_PAD.encode([7; 32]));
    assert_eq!(disabled.api_key(&wrong, NOW), Err(AuthError::BadApiKey), "a guess learns nothing of the key");
    assert_eq!(disabled.api_key(&wrong.replace("desk-1", "desk-2"), NOW), Err(AuthError::BadApiKey));
    assert_eq!(hub(ApiKeyConfig { expires: None, ..entry }).api_key(key, NOW).expect("good").expires, None);
}

#[test]
fn no_secret_shows_in_debug_or_display() {
    let made = new_api_key("desk-1").expect("valid id");
    let hash = made.hash.to_string();
    let entry = ApiKeyConfig {
        id: "desk-1".into(),
        hash: hash.clone().into(),
        owner: "desk".into(),
        role: "viewer".into(),
        expires: None,
        disabled: false,
    };
    let config = AuthConfig { api_keys: vec![entry], ..config() };
    let hub = authenticator(&config);
    let token = signed(&claims(&json!({})));
    let shown = [
        format!("{config:?}"),
        format!("{hub:?} {made:?}"),
        format!("{:?}", hub.token(&token, NOW)),
        format!("{:?}", hub.api_key(made.key.expose_secret(), NOW)),
        serde_json::to_string(&config).expect("serializes"),
    ];
    let secrets = [SECRET, &hash, &token, made.key.expose_secret()];
    for text in shown {
        for secret in secrets {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

fn faults(config: &AuthConfig) -> Vec<String> {
    Authenticator::new(config, None).expect_err("faulty").iter().map(ToString::to_string).collect()
}

#[test]
fn every_fault_of_the_section_is_named() {
    let weak = key("one", "hunter2hunter2");
    let none = KeyConfig { secret: None, ..key("one", "") };
    let role = RoleConfig {
        symbols: Some(vec!["SIM:*".into(), "btc".into()]),
        channels: Some(vec!["quotes".into()]),
        depth: Some(20),
        max_rate: Some(0),
        backlog_bytes: Some(0),
        overflow: Some(vec!["gap".into(), "drop".into()]),
        write_stall: Some(Span::millis(0)),
        ..RoleConfig::default()
    };
    let mute = RoleConfig { symbols: Some(Vec::new()), overflow: Some(Vec::new()), ..RoleConfig::default() };
    let api_key = ApiKeyConfig {
        id: "a b".into(),
        hash: "password".into(),
        owner: String::new(),
        role: "trader".into(),
        expires: Some("tomorrow".into()),
        disabled: false,
    };
    let config = AuthConfig {
        issuer: String::new(),
        leeway: Span::seconds(3600),
        default_role: Some("guest".into()),
        keys: vec![weak, none],
        roles: [("desk".into(), role), ("empty".into(), RoleConfig::default()), ("mute".into(), mute)].into(),
        api_keys: vec![api_key],
        ..AuthConfig::default()
    };
    let found = faults(&config);
    for expected in [
        "auth.issuer = \"\": must be",
        "auth.leeway = \"1h\": must be at most 5m",
        "auth.default_role = \"guest\": is not a role; known are admin, analyst",
        "auth.keys[0].secret: has 14 bytes, HS256 needs at least 32",
        "auth.keys[1].kid = \"one\": is another key's too",
        "auth.keys[1]: needs a secret or a secret_file",
        "auth.roles.desk.symbols[1] = \"btc\": is not a pattern: expected VENUE:SYMBOL",
        "auth.roles.desk.channels[0] = \"quotes\": is not a channel; known are ticker, quote",
        "auth.roles.desk.depth = 20: must be 1, 10, 50, or 0",
        "auth.roles.desk.max_rate = 0: must be at least 1",
        "auth.roles.desk.backlog_bytes = 0: must be at least 1",
        "auth.roles.desk.overflow[1] = \"drop\": is not an overflow policy; known are gap, disconnect",
        "auth.roles.desk.write_stall = \"0s\": must be at least 1ms",
        "auth.roles.mute.overflow: is empty",
        "auth.roles.empty.symbols: is missing",
        "auth.api_keys[0].id = \"a b\": must be",
        "auth.api_keys[0].owner = \"\": must be",
        "auth.api_keys[0].role = \"trader\": is not a role",
        "auth.api_keys[0].expires = \"tomorrow\": is not a time",
        "auth.api_keys[0].hash: is not a hash",
    ] {
        assert!(found.iter().any(|fault| fault.starts_with(expected)), "{expected}\n{found:#?}");
    }
    assert!(!found.iter().any(|fault| fault.contains("hunter2") || fault.contains("password")), "{found:#?}");
    assert_eq!(faults(&AuthConfig { keys: vec![key("k", &"a".repeat(40))], ..AuthConfig::default() }).len(), 1);
}

#[test]
fn a_configured_role_changes_the_built_in_one_member_by_member() {
    let role = RoleConfig { max_rate: Some(20), ..RoleConfig::default() };
    let hub = authenticator(&AuthConfig { roles: [("viewer".into(), role)].into(), ..config() });
    let (_, viewer) = hub.roles().find(|(name, _)| *name == "viewer").expect("built in");
    assert_eq!((viewer.max_rate(), viewer.depth()), (Some(20), Depth::Ten));
    let plain = authenticator(&config());
    let (_, viewer) = plain.roles().find(|(name, _)| *name == "viewer").expect("built in");
    assert!(Channel::ALL.into_iter().all(|channel| viewer.allows_every(channel)), "`every` is for every role");
}

#[test]
fn a_secret_file_is_read_without_its_newline() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("secret");
    std::fs::write(&path, format!("{SECRET}\n")).expect("writes");
    let from_file = |path| KeyConfig { secret: None, secret_file: Some(path), ..key("one", "") };
    let mut config = AuthConfig { keys: vec![from_file(path)], ..AuthConfig::default() };
    let mut faults = Vec::new();
    config.read_secret_files(&mut faults);
    assert_eq!(faults, []);
    assert!(authenticator(&config).token(&signed(&claims(&json!({}))), NOW).is_ok());

    let big = dir.path().join("big");
    std::fs::write(&big, vec![b'a'; 70_000]).expect("writes");
    let keys = vec![from_file(dir.path().join("absent")), from_file(big), from_file(dir.path().into())];
    AuthConfig { keys, ..AuthConfig::default() }.read_secret_files(&mut faults);
    let found: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("auth.keys[0].secret_file = ") && found[0].contains("No such file"), "{found:?}");
    assert!(found[1].contains("more than 65536 bytes"), "{found:?}");
}

proptest! {
    #[test]
    fn no_text_is_taken_for_a_credential(text in "\\PC{0,80}|[A-Za-z0-9_.=-]{0,200}|([A-Za-z0-9_-]{0,40}\\.){2}[A-Za-z0-9_-]{43}") {
        let hub = authenticator(&config());
        prop_assert!(hub.token(&text, NOW).is_err());
        prop_assert!(hub.api_key(&text, NOW).is_err());
    }

    #[test]
    fn one_changed_byte_makes_a_token_worthless(at in 0usize..1000, byte in "[A-Za-z0-9_.-]") {
        let good = signed(&claims(&json!({})));
        let at = at % good.len();
        let mut bad = good.clone();
        bad.replace_range(at..=at, &byte);
        prop_assert_eq!(authenticator(&config()).token(&bad, NOW).is_ok(), bad == good);
    }
}
