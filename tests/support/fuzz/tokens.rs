//! What clients show to be let in.

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tickhub::auth::{Algorithm, ApiKeyConfig, ApiKeyHash, AuthConfig, AuthError, Authenticator, KeyConfig, Principal};
use tickhub::auth::{SUBJECT_BYTES_MAX, TOKEN_BYTES_MAX};
use tickhub::model::{InstrumentId, UnixNanos};

const SECRET: &str = "a-secret-of-more-than-thirty-two-bytes-for-tests";
const NOW: UnixNanos = UnixNanos(1_700_000_000_000_000_000);
/// In the form of one; of no key that anyone knows.
const HASH: &str = "hmac-sha256$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

static JUDGE: LazyLock<Authenticator> = LazyLock::new(|| {
    let key = |kid: &str, secret: &str| KeyConfig {
        kid: kid.into(),
        alg: Algorithm::HS256,
        secret: Some(secret.into()),
        secret_file: None,
    };
    let desk = ApiKeyConfig {
        id: "desk".into(),
        hash: HASH.into(),
        owner: "desk".into(),
        role: "viewer".into(),
        expires: None,
        disabled: false,
    };
    let keys = vec![key("one", SECRET), key("two", &SECRET.to_uppercase())];
    let config = AuthConfig { keys, api_keys: vec![desk], ..AuthConfig::default() };
    Authenticator::new(&config, None).expect("a configuration without faults")
});

/// As it is: a token, an API key, the hash of one. And in its two first lines the header and the
/// claims of a token that is truly signed, for otherwise nothing gets behind the signature.
pub(super) fn tokens(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(principal) = judged(JUDGE.token(&text, NOW)) {
        assert!(text.len() <= TOKEN_BYTES_MAX);
        narrower(&principal);
    }
    assert!(judged(JUDGE.api_key(&text, NOW)).is_err(), "nobody knows the key of this hash");
    if let Ok(hash) = ApiKeyHash::parse(&text) {
        assert!(!format!("{hash:?}").contains(&*text), "a hash shows");
    }
    let (header, claims) = text.split_once('\n').unwrap_or((&text, ""));
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
    if let Ok(principal) = judged(JUDGE.token(&format!("{signed}.{signature}"), NOW)) {
        assert!(header.contains("HS256") && header.contains("one"), "another key's or algorithm's: {header}");
        narrower(&principal);
    }
}

/// What is said of a refused credential is short and printable.
fn judged(outcome: Result<Principal, AuthError>) -> Result<Principal, AuthError> {
    outcome.inspect_err(|error| {
        let said = error.to_string();
        assert!(said.len() <= 120 && !said.chars().any(char::is_control), "{said:?}");
    })
}

/// A token can narrow its role and never widen it.
fn narrower(principal: &Principal) {
    let subject = &principal.subject;
    assert!((1..=SUBJECT_BYTES_MAX).contains(&subject.len()) && !subject.chars().any(char::is_control));
    assert!(principal.expires.is_none_or(|at| at > NOW), "has ended");
    let (_, role) = JUDGE.roles().find(|(name, _)| *name == &*principal.role).expect("a role that there is");
    let grant = &principal.grant;
    assert!(grant.channels().iter().all(|channel| role.allows_channel(channel)));
    assert!(grant.depth() <= role.depth());
    assert!(grant.connections() <= role.connections() && grant.subscriptions() <= role.subscriptions());
    assert!(grant.commands_per_second() <= role.commands_per_second());
    assert!(role.max_rate().is_none_or(|most| grant.max_rate().is_some_and(|rate| rate <= most)));
    for id in ["SIM:A", "BINANCE:BTC-USDT", "X:Y"] {
        let id = InstrumentId::parse(id).expect("valid");
        assert!(role.allows(&id) || !grant.allows(&id));
    }
}
