//! What issuers publish.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tickhub::auth::{AuthConfig, Authenticator, JWKS_KEYS_MAX, KeySet};
use tickhub::model::UnixNanos;

const NOW: UnixNanos = UnixNanos(1_700_000_000_000_000_000);

static JUDGE: LazyLock<Authenticator> = LazyLock::new(|| {
    let issuer = serde_json::json!({
        "name": "id", "issuer": "i", "audience": "hub", "jwks_file": "none", "role": "admin",
    });
    let issuer = serde_json::from_value(issuer).expect("has the form");
    let config = AuthConfig { issuers: vec![issuer], ..AuthConfig::default() };
    Authenticator::new(&config, None).expect("a configuration without faults")
});

/// A set of keys: bounded, and whatever is in it, nothing that was not signed is taken.
pub(super) fn jwks(data: &[u8]) {
    let Ok(set) = KeySet::parse(data) else { return };
    let skipped: u32 = set.skipped().map(|(_, count)| count).sum();
    assert!((1..=JWKS_KEYS_MAX).contains(&set.len()) && set.len() + skipped as usize <= JWKS_KEYS_MAX);
    let ring = JUDGE.rings().next().expect("an issuer");
    ring.replace(set);
    let claims = r#"{"iss":"i","sub":"eve","aud":"hub","iat":1700000000,"exp":1800000000}"#;
    let text = String::from_utf8_lossy(data);
    let kid = text.split("\"kid\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
    for algorithm in ["RS256", "ES256", "EdDSA", "HS256", "none"] {
        let header = serde_json::json!({"alg": algorithm, "kid": kid}).to_string();
        for signature in [&[0; 64][..], &[1; 256], &[]] {
            let parts = [header.as_bytes(), claims.as_bytes(), signature].map(|part| URL_SAFE_NO_PAD.encode(part));
            assert!(JUDGE.token(&parts.join("."), NOW).is_err(), "a token that nobody signed");
        }
    }
}
