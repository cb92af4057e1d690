//! Tokens of other issuers: those that must be refused, and what the others are given.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::signer::{Signer, encoded, jwks};
use super::*;
use crate::model::{Depth, InstrumentId, UnixNanos};
use crate::settings::Span;

const NOW: UnixNanos = seconds(1_700_000_000);
const ISSUER: &str = "https://id.example/realm";

const fn seconds(seconds: i64) -> UnixNanos {
    UnixNanos(seconds * 1_000_000_000)
}

/// An issuer as the configuration's text says it, with `more` of its keys.
fn issuer(more: &str) -> IssuerConfig {
    let text = format!(
        "name = \"one\"\nissuer = \"{ISSUER}\"\naudience = [\"hub\", \"hub-test\"]\njwks_file = \"unused\"\n{more}"
    );
    toml::from_str(&text).expect("has the form")
}

fn config(issuers: Vec<IssuerConfig>) -> AuthConfig {
    AuthConfig { issuers, ..AuthConfig::default() }
}

/// What judges the tokens of one issuer that publishes the keys of `signers`.
fn hub<'a>(issuer: IssuerConfig, signers: impl IntoIterator<Item = &'a Signer>) -> Authenticator {
    let hub = Authenticator::new(&config(vec![issuer]), None).expect("no faults");
    publish(&hub, 0, signers);
    hub
}

fn publish<'a>(hub: &Authenticator, issuer: usize, signers: impl IntoIterator<Item = &'a Signer>) {
    let ring = hub.rings().nth(issuer).expect("an issuer");
    ring.replace(KeySet::parse(jwks(signers).as_bytes()).expect("a set"));
}

/// Claims that are good at [`NOW`], with `changes`; a null takes one away.
fn claims(changes: &Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "sub": "ann", "aud": "hub", "role": "viewer", "iat": 1_699_999_990, "exp": 1_700_000_060,
    });
    for (name, value) in changes.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    claims
}

fn hs256(header: &str, claims: &Value, secret: &[u8]) -> String {
    let signed = format!("{}.{}", encoded(header), encoded(claims.to_string()));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    format!("{signed}.{}", encoded(aws_lc_rs::hmac::sign(&key, signed.as_bytes())))
}

#[test]
fn a_token_of_each_algorithm_gives_its_subject_its_role() {
    let signers = Signer::each();
    let hub = hub(issuer(""), &signers);
    for signer in &signers {
        let principal = hub.token(&signer.token(&claims(&json!({"jti": "t"}))), NOW).expect(signer.alg);
        assert_eq!((&*principal.subject, &*principal.role), ("ann", "viewer"));
        assert_eq!(principal.issuer.as_deref(), Some(ISSUER));
        assert_eq!((principal.expires, principal.token_id.as_deref()), (Some(seconds(1_700_000_060)), Some("t")));
    }
    let named_anew = json!({"alg": "Ed25519", "typ": "at+jwt", "kid": "ed25519"}).to_string();
    assert!(hub.token(&signers[2].token_of(&named_anew, &claims(&json!({})).to_string()), NOW).is_ok(), "RFC 9864");
}

#[test]
fn forged_expired_early_and_misdirected_tokens_are_refused_whatever_the_algorithm() {
    let signers = Signer::each();
    let strangers = Signer::each();
    let hub = hub(issuer("leeway = \"5s\""), &signers);
    for (signer, stranger) in signers.iter().zip(&strangers) {
        let judge = |changes: Value| hub.token(&signer.token(&claims(&changes)), NOW).map(drop);
        let good = signer.token(&claims(&json!({})));
        assert_eq!(hub.token(&stranger.token(&claims(&json!({}))), NOW), Err(AuthError::BadSignature), "forged");
        let (head, signature) = good.rsplit_once('.').expect("two dots");
        assert_eq!(hub.token(&format!("{head}."), NOW), Err(AuthError::BadSignature), "unsigned");
        let other = stranger.token(&claims(&json!({"sub": "eve"})));
        let claims_of_other = other.split('.').nth(1).expect("two dots");
        let header = head.split('.').next().expect("two dots");
        let moved = format!("{header}.{claims_of_other}.{signature}");
        assert_eq!(hub.token(&moved, NOW), Err(AuthError::BadSignature), "another's signature");
        assert_eq!(judge(json!({"exp": 1_699_999_995})), Err(AuthError::Expired));
        assert_eq!(judge(json!({"exp": 1_699_999_996})), Ok(()), "within the leeway");
        assert_eq!(judge(json!({"nbf": 1_700_000_006})), Err(AuthError::NotYetValid));
        assert_eq!(judge(json!({"iat": 1_700_000_006})), Err(AuthError::NotYetValid));
        assert_eq!(judge(json!({"aud": "other"})), Err(AuthError::WrongAudience));
        assert_eq!(judge(json!({"aud": ["other", "hub-test"]})), Ok(()));
        assert_eq!(judge(json!({"aud": []})), Err(AuthError::WrongAudience));
        assert_eq!(judge(json!({"iss": "https://id.example/realm/"})), Err(AuthError::WrongIssuer));
        assert_eq!(judge(json!({"iss": "HTTPS://id.example/realm"})), Err(AuthError::WrongIssuer));
        assert_eq!(judge(json!({"iss": "tickhub"})), Err(AuthError::UnknownKey), "the hub's own has no such key");
        for name in ["iss", "sub", "aud", "exp", "iat", "role"] {
            assert_eq!(judge(json!({ name: null })), Err(AuthError::MissingClaim(name)));
        }
        let big: Vec<_> = (0..2000).map(|n| format!("SIM:S{n}")).collect();
        assert_eq!(judge(json!({ "symbols": big })), Err(AuthError::TooLong));
        let header = json!({"alg": signer.alg, "kid": signer.kid}).to_string();
        assert_eq!(hub.token(&signer.token_of(&header, &good), NOW), Err(AuthError::Malformed), "nested");
        let nested = json!({"alg": signer.alg, "kid": signer.kid, "cty": "JWT"}).to_string();
        assert_eq!(hub.token(&signer.token_of(&nested, &good), NOW).map(drop), Err(AuthError::UnsupportedHeader));
        let text = claims(&json!({})).to_string();
        let twice = text.replacen('{', "{\"sub\":\"eve\",", 1);
        assert_eq!(hub.token(&signer.token_of(&header, &twice), NOW), Err(AuthError::Malformed), "a claim twice");
        let inner = text.replacen('{', "{\"realm\":{\"roles\":[],\"roles\":[\"admin\"]},", 1);
        assert_eq!(hub.token(&signer.token_of(&header, &inner), NOW), Err(AuthError::Malformed), "twice, deeper");
    }
}

#[test]
fn a_public_key_is_no_secret_for_hmac() {
    let signers = Signer::each();
    let hub = hub(issuer(""), &signers);
    for signer in &signers {
        let good = claims(&json!({}));
        let (bytes, jwk) = (signer.public_bytes(), signer.jwk().to_string());
        for secret in [&bytes[..], jwk.as_bytes(), b""] {
            for alg in ["HS256", signer.alg] {
                let header = json!({"alg": alg, "kid": signer.kid}).to_string();
                let refused = hub.token(&hs256(&header, &good, secret), NOW).expect_err("confused");
                assert!([AuthError::WrongAlgorithm, AuthError::BadSignature].contains(&refused), "{refused}");
            }
        }
        for alg in ["none", "None", "HS256", "RS256", "ES256", "EdDSA", "RS512", "PS256", "", "rs256"] {
            let header = json!({"alg": alg, "kid": signer.kid}).to_string();
            let expected = if alg == signer.alg { Ok(()) } else { Err(AuthError::WrongAlgorithm) };
            assert_eq!(hub.token(&signer.token_of(&header, &good.to_string()), NOW).map(drop), expected, "{alg}");
        }
        let embedded = json!({"alg": "EdDSA", "kid": "mine", "jwk": signer.jwk(), "jku": "https://evil.example"});
        let token = signer.token_of(&embedded.to_string(), &good.to_string());
        assert_eq!(hub.token(&token, NOW), Err(AuthError::UnpublishedKey), "a key that a token brings is nobody's");
    }
    let unsigned = format!("{}.{}.", encoded(r#"{"alg":"none"}"#), encoded(claims(&json!({})).to_string()));
    assert_eq!(hub.token(&unsigned, NOW), Err(AuthError::MissingKeyId));
}

#[test]
fn only_the_algorithms_of_the_configuration_are_taken() {
    let signers = Signer::each();
    let hub = hub(issuer("algorithms = [\"ES256\"]"), &signers);
    let judge = |signer: &Signer| hub.token(&signer.token(&claims(&json!({}))), NOW).map(drop);
    assert_eq!(signers.each_ref().map(judge), [Err(AuthError::WrongAlgorithm), Ok(()), Err(AuthError::WrongAlgorithm)]);
}

#[test]
fn what_an_issuer_signs_for_other_ends_is_refused() {
    let signer = Signer::p256("k");
    let hub = hub(issuer(""), [&signer]);
    for (kind, good) in [
        (json!(null), true),
        (json!("JWT"), true),
        (json!("jwt"), true),
        (json!("at+JWT"), true),
        (json!("application/at+jwt"), true),
        (json!("logout+jwt"), false),
        (json!("dpop+jwt"), false),
        (json!("secevent+jwt"), false),
        (json!(""), false),
        (json!(7), false),
    ] {
        let mut header = json!({"alg": "ES256", "kid": "k", "typ": kind});
        header.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
        let judged = hub.token(&signer.token_of(&header.to_string(), &claims(&json!({})).to_string()), NOW);
        assert_eq!(judged.is_ok(), good, "{kind}");
    }
}

#[test]
fn a_key_is_found_by_its_name_or_by_being_the_only_one() {
    let (one, other) = (Signer::p256("one"), Signer::p256("other"));
    let hub = hub(issuer(""), [&one]);
    let nameless = |signer: &Signer| signer.token_of(r#"{"alg":"ES256"}"#, &claims(&json!({})).to_string());
    let ring = hub.rings().next().expect("an issuer");
    assert!(hub.token(&nameless(&one), NOW).is_ok());
    assert_eq!(hub.token(&nameless(&other), NOW), Err(AuthError::BadSignature));
    assert_eq!(ring.unknown(), 0);
    assert_eq!(hub.token(&other.token(&claims(&json!({}))), NOW), Err(AuthError::UnpublishedKey));
    assert_eq!(ring.unknown(), 1, "it is asked for");
    publish(&hub, 0, [&one, &other]);
    assert!(hub.token(&other.token(&claims(&json!({}))), NOW).is_ok(), "once it is published it is good");
    assert_eq!(hub.token(&nameless(&one), NOW), Err(AuthError::MissingKeyId));
    publish(&hub, 0, [&other]);
    assert_eq!(hub.token(&one.token(&claims(&json!({}))), NOW), Err(AuthError::UnpublishedKey), "taken away");
}

#[test]
fn without_any_keys_yet_its_tokens_are_refused_and_may_be_tried_again() {
    let hub = Authenticator::new(&config(vec![issuer("")]), None).expect("no faults");
    let refused = hub.token(&Signer::p256("k").token(&claims(&json!({}))), NOW).expect_err("no keys");
    assert_eq!(refused, AuthError::NoKeysYet);
    assert!(refused.may_pass() && AuthError::UnpublishedKey.may_pass() && !AuthError::BadSignature.may_pass());
}

/// Two issuers, and the hub itself.
fn two() -> (Authenticator, Signer, Signer) {
    let mut other = issuer("");
    (other.name, other.issuer) = ("two".into(), "https://two.example".into());
    let own = KeyConfig {
        kid: "own".into(),
        alg: Algorithm::HS256,
        secret: Some("a-secret-of-more-than-thirty-two-bytes-for-tests".into()),
        secret_file: None,
    };
    let config = AuthConfig { keys: vec![own], ..config(vec![issuer(""), other]) };
    let hub = Authenticator::new(&config, None).expect("no faults");
    let (one, two) = (Signer::p256("same"), Signer::p256("same"));
    publish(&hub, 0, [&one]);
    publish(&hub, 1, [&two]);
    (hub, one, two)
}

#[test]
fn a_key_of_one_issuer_signs_for_no_other() {
    let (hub, one, two) = two();
    let of = |iss: &str| claims(&json!({ "iss": iss }));
    assert!(hub.token(&one.token(&of(ISSUER)), NOW).is_ok());
    assert!(hub.token(&two.token(&of("https://two.example")), NOW).is_ok());
    assert_eq!(hub.token(&two.token(&of(ISSUER)), NOW), Err(AuthError::BadSignature));
    assert_eq!(hub.token(&one.token(&of("https://two.example")), NOW), Err(AuthError::BadSignature));
    assert_eq!(hub.token(&one.token(&of("tickhub")), NOW).map(drop), Err(AuthError::UnknownKey), "nor for the hub");
    let secret = b"a-secret-of-more-than-thirty-two-bytes-for-tests";
    let own = hs256(r#"{"alg":"HS256","kid":"own"}"#, &claims(&json!({"iss": "tickhub", "aud": "tickhub"})), secret);
    assert!(hub.token(&own, NOW).is_ok());
    let own_for_other = hs256(r#"{"alg":"HS256","kid":"own"}"#, &of(ISSUER), secret);
    assert_eq!(hub.token(&own_for_other, NOW), Err(AuthError::UnpublishedKey), "nor the hub's secret for others");
    let same_name = hs256(r#"{"alg":"HS256","kid":"same"}"#, &of(ISSUER), secret);
    assert_eq!(hub.token(&same_name, NOW), Err(AuthError::WrongAlgorithm));
}

#[test]
fn the_same_subject_of_two_issuers_is_two() {
    let (hub, one, two) = two();
    let first = hub.token(&one.token(&claims(&json!({}))), NOW).expect("good");
    let second = hub.token(&two.token(&claims(&json!({"iss": "https://two.example"}))), NOW).expect("good");
    let own = TokenRequest {
        subject: "ann".into(),
        role: "viewer".into(),
        ttl: std::time::Duration::from_secs(60),
        narrowing: Narrowing::default(),
    };
    let own = hub.token(&hub.sign(&own, NOW).expect("signs"), NOW).expect("good");
    assert_eq!((&first.subject, &second.subject), (&own.subject, &own.subject));
    assert_ne!(first.account(), second.account());
    assert_ne!(first.account(), own.account());
    assert_eq!(own.issuer, None);
    let again = hub.token(&one.token(&claims(&json!({"jti": "another"}))), NOW).expect("good");
    assert_eq!(again.account(), first.account());
}

#[test]
fn claims_are_read_where_the_configuration_says() {
    let signer = Signer::ed25519("k");
    let mapped = "
        subject_prefix = \"one:\"
        [claims]
        subject = \"oid\"
        role = \"realm.roles\"
        symbols = \"/https:~1~1hub.example~1symbols\"
        channels = \"hub.channels\"
        max_rate = \"hub.rate\"
        depth = \"hub.depth\"
        connections = \"hub.connections\"
        subscriptions = \"hub.subscriptions\"
    ";
    let hub = hub(issuer(mapped), [&signer]);
    let judge = |changes: Value| hub.token(&signer.token(&claims(&changes)), NOW);
    let full = json!({
        "oid": "77", "role": "admin", "symbols": ["X:*"], "realm": {"roles": ["offline", "analyst"]},
        "https://hub.example/symbols": ["SIM:A*"],
        "hub": {"channels": ["quote"], "rate": 7, "depth": 10, "connections": 3, "subscriptions": 4},
    });
    let principal = judge(full.clone()).expect("good");
    assert_eq!((&*principal.subject, &*principal.role), ("one:77", "analyst"), "the hub's own names mean nothing here");
    let grant = &principal.grant;
    let allows = |id: &str| grant.allows(&InstrumentId::parse(id).expect("valid"));
    assert_eq!((allows("SIM:AB"), allows("SIM:B"), allows("X:A")), (true, false, false));
    assert_eq!((grant.max_rate(), grant.depth()), (Some(7), Depth::Ten));
    assert_eq!((grant.connections(), grant.subscriptions()), (3, 4));
    let with = |name: &str, value: Value| {
        let mut changed = full.clone();
        changed[name] = value;
        judge(changed).map(|principal| principal.role.to_string())
    };
    assert_eq!(with("hub", json!("none")), Err(AuthError::BadClaim("channels")), "no object: not absent");
    assert_eq!(with("hub", json!({"rate": "7"})), Err(AuthError::BadClaim("max_rate")));
    assert_eq!(with("https://hub.example/symbols", json!("SIM:A*")), Err(AuthError::BadClaim("symbols")));
    assert_eq!(with("oid", json!("")), Err(AuthError::BadClaim("sub")), "the prefix alone is nobody");
    assert_eq!(with("oid", json!("x".repeat(253))), Err(AuthError::BadClaim("sub")));
    assert_eq!(with("oid", json!(null)), Err(AuthError::MissingClaim("sub")));
    assert_eq!(with("realm", json!({"roles": "analyst"})), Ok("analyst".into()));
    assert_eq!(with("realm", json!({"roles": ["analyst", 7]})), Err(AuthError::BadClaim("role")));
}

#[test]
fn groups_become_roles_in_the_order_of_the_configuration() {
    let signer = Signer::ed25519("k");
    let role = |more: &str, groups: Value| {
        let hub = hub(issuer(more), [&signer]);
        hub.token(&signer.token(&claims(&json!({"groups": groups, "role": null}))), NOW).map(|p| p.role.to_string())
    };
    let roles = "
        claims = { role = \"groups\" }
        roles = [{ value = \"/hub/admins\", role = \"admin\" }, { value = \"desk\", role = \"analyst\" }]
    ";
    assert_eq!(role(roles, json!(["desk", "/hub/admins", "x"])), Ok("admin".into()));
    assert_eq!(role(roles, json!(["x", "desk"])), Ok("analyst".into()));
    assert_eq!(role(roles, json!("desk")), Ok("analyst".into()));
    assert_eq!(role(roles, json!(["admin", "analyst"])), Err(AuthError::UnknownRole), "a role's name is no value");
    assert_eq!(role(roles, json!(["Desk", "desk ", "/hub/admins/x"])), Err(AuthError::UnknownRole));
    assert_eq!(role(roles, json!([])), Err(AuthError::UnknownRole));
    assert_eq!(role(roles, json!(null)), Err(AuthError::MissingClaim("role")));
    let or_viewer = format!("default_role = \"viewer\"\n{roles}");
    assert_eq!(role(&or_viewer, json!(["x"])), Ok("viewer".into()));
    assert_eq!(role(&or_viewer, json!(null)), Ok("viewer".into()));
    assert_eq!(role(&or_viewer, json!({"a": 1})), Err(AuthError::BadClaim("role")), "not absent");
    let named = "claims = { role = \"groups\" }";
    assert_eq!(role(named, json!(["offline_access", "analyst"])), Ok("analyst".into()));
    assert_eq!(role(named, json!(["analyst", "analyst"])), Ok("analyst".into()));
    assert_eq!(role(named, json!(["viewer", "admin"])), Err(AuthError::BadClaim("role")), "nobody said which");
    assert_eq!(role(named, json!(["x"])), Err(AuthError::UnknownRole));
    let named_or = format!("default_role = \"viewer\"\n{named}");
    assert_eq!(role(&named_or, json!(["x"])), Ok("viewer".into()));
    assert_eq!(role(&named_or, json!("root")), Err(AuthError::UnknownRole), "a wrong name is not an absent one");
    assert_eq!(role("role = \"viewer\"", json!(["admin"])), Ok("viewer".into()));
}

#[test]
fn a_new_configuration_goes_on_with_the_keys_that_are_known() {
    let signer = Signer::p256("k");
    let before = hub(issuer(""), [&signer]);
    let judge = |hub: &Authenticator| hub.token(&signer.token(&claims(&json!({}))), NOW).map(drop);
    let anew = |issuer| Authenticator::new(&config(vec![issuer]), None).expect("no faults").with_keys_of(&before);
    assert_eq!(judge(&anew(issuer("leeway = \"1s\"\nalgorithms = [\"ES256\"]"))), Ok(()));
    assert_eq!(judge(&anew(issuer("algorithms = [\"RS256\"]"))), Err(AuthError::WrongAlgorithm), "its rules are new");
    let elsewhere = IssuerConfig { jwks_file: Some("another".into()), ..issuer("") };
    assert_eq!(judge(&anew(elsewhere)), Err(AuthError::NoKeysYet), "what another place published counts no more");
}

#[test]
fn every_fault_of_an_issuer_is_named() {
    let bad: IssuerConfig = toml::from_str(
        "
        name = \"Key Cloak\"
        issuer = \"\"
        audience = []
        ca_file = \"ca.pem\"
        algorithms = [\"RS256\", \"HS256\"]
        leeway = \"10m\"
        refresh = \"0s\"
        refresh_pause = \"2h\"
        timeout = \"1ms\"
        role = \"root\"
        default_role = \"guest\"
        subject_prefix = \"\"
        claims = { role = \"a..b\", symbols = \"/a~2\" }
        roles = [{ value = \"g\", role = \"trader\" }, { value = \"g\", role = \"viewer\" }, { value = \"\", role = \"admin\" }]
        ",
    )
    .expect("has the form");
    let both = IssuerConfig { jwks_url: Some("https://id.example".into()), ..issuer("") };
    let own = IssuerConfig { name: "own".into(), issuer: "tickhub".into(), ..issuer("") };
    let found = config(vec![issuer(""), bad, both, own]).faults();
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    for expected in [
        "auth.issuers[1].name = \"Key Cloak\": must be 1 to 32",
        "auth.issuers[1].issuer = \"\": must be",
        "auth.issuers[1].audience = []: must be one or more",
        "auth.issuers[1]: needs a jwks_url or a jwks_file",
        "auth.issuers[1].ca_file = \"ca.pem\": is for a jwks_url",
        "auth.issuers[1].algorithms = [RS256, HS256]: must be one or more of RS256, ES256, EdDSA",
        "auth.issuers[1].leeway = \"10m\": must be at most 5m",
        "auth.issuers[1].refresh = \"0s\": must be from 1s to 1d",
        "auth.issuers[1].refresh_pause = \"2h\": must be from 1s to 1h",
        "auth.issuers[1].timeout = \"1ms\": must be from 100ms to 1m",
        "auth.issuers[1].role = \"root\": is not a role; known are admin",
        "auth.issuers[1].default_role = \"guest\": is not a role",
        "auth.issuers[1].role = \"root\": is for every token",
        "auth.issuers[1].subject_prefix = \"\": must be 1 to 64",
        "auth.issuers[1].claims.role = \"a..b\": is not a path",
        "auth.issuers[1].claims.symbols = \"/a~2\": is not a path",
        "auth.issuers[1].roles[0].role = \"trader\": is not a role",
        "auth.issuers[1].roles[1].value = \"g\": stands there twice",
        "auth.issuers[1].roles[2].value = \"\": must be",
        "auth.issuers[2].name = \"one\": is another issuer's too",
        "auth.issuers[2].issuer = \"https://id.example/realm\": is another's too",
        "auth.issuers[2].jwks_file = \"unused\": stands beside a jwks_url",
        "auth.issuers[3].issuer = \"tickhub\": is auth.issuer, the hub's own",
    ] {
        assert!(found.iter().any(|fault| fault.starts_with(expected)), "{expected}\n{found:#?}");
    }
    assert_eq!(found.len(), 23, "{found:#?}");
    let many = (0..17).map(|n| IssuerConfig { name: n.to_string(), issuer: n.to_string(), ..issuer("") });
    assert_eq!(config(many.collect()).faults().len(), 1, "at most 16");
    let secret = Some("a-secret-of-more-than-thirty-two-bytes-for-tests".into());
    let key = KeyConfig { kid: "k".into(), alg: Algorithm::RS256, secret, secret_file: None };
    let found = AuthConfig { keys: vec![key], ..AuthConfig::default() }.faults();
    assert!(found[0].to_string().starts_with("auth.keys[0].alg = \"RS256\": must be HS256"), "{found:?}");
    assert!(!config(vec![issuer("")]).is_development(), "with an issuer nobody needs a key of development mode");
    assert_eq!(issuer("").refresh, Span::seconds(600));
}

#[test]
fn a_token_is_bounded_before_anything_is_read() {
    let hub = hub(issuer(""), [&Signer::p256("k")]);
    let deep = format!("{{\"iss\":{}{}}}", "[".repeat(2000), "]".repeat(2000));
    let token = |header: &str, claims: &str| {
        format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims), encoded([0; 64]))
    };
    assert_eq!(hub.token(&token("{\"alg\":\"ES256\"}", &deep), NOW), Err(AuthError::Malformed));
    assert_eq!(hub.token(&token(&deep, "{}"), NOW), Err(AuthError::Malformed));
    assert_eq!(hub.token(&"e".repeat(TOKEN_BYTES_MAX + 1), NOW), Err(AuthError::TooLong));
}
