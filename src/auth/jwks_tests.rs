//! Sets of keys as issuers publish them, and what their keys verify.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::claims::Parts;
use super::key::VerifyingKey;
use super::signer::{Signer, encoded, jwks};
use super::*;

/// As in RFC 7515 A.2 (RS256) and A.3 (ES256), and RFC 8037 A.4 (EdDSA): the key and what it signed.
const OF_THE_RFCS: [(&str, &str); 3] = [
    (
        r#"{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}"#,
        "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
    ),
    (
        r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#,
        "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    ),
    (
        r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    ),
];

fn set(keys: &[Value]) -> Result<KeySet, JwksError> {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
}

/// Whether the signature of a token is that of a key of the set; nothing else of it is looked at.
fn verifies(set: &KeySet, token: &str) -> bool {
    let signed = |parts: Parts<'_>| {
        let header = parts.header()?;
        Ok::<_, AuthError>(VerifyingKey::named(&set.keys, &header)?.signed(&parts))
    };
    Parts::split(token).and_then(signed).unwrap_or(false)
}

/// Why the one key of a set beside a good one is skipped; `None` where it is not.
fn skipped(key: Value) -> Option<SkipReason> {
    let set = set(&[key, Signer::ed25519("good").jwk()]).expect("a set with a good key");
    assert_eq!(set.len() + set.skipped().map(|(_, count)| count as usize).sum::<usize>(), 2, "counted once");
    set.skipped().find(|(_, count)| *count > 0).map(|(reason, _)| reason)
}

#[test]
fn the_examples_of_the_rfcs_verify_and_with_one_other_byte_do_not() {
    for (key, token) in OF_THE_RFCS {
        let set = KeySet::parse(format!("{{\"keys\":[{key}]}}").as_bytes()).expect("a set");
        assert!(verifies(&set, token), "{token}");
        for at in [0, token.find('.').expect("two dots") + 1, token.rfind('.').expect("two dots") + 3] {
            let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
            let mut changed = token.to_owned();
            changed.replace_range(at..=at, other);
            assert!(!verifies(&set, &changed), "byte {at}: {changed}");
        }
    }
}

/// The public keys of RFC 7517 A.1, as they stand there: one for encryption, one for signatures.
#[test]
fn of_the_set_in_the_rfc_the_key_for_signatures_is_taken() {
    let text = r#"{"keys":[
      {"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"enc","kid":"1"},
      {"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}]}"#;
    let set = KeySet::parse(text.as_bytes()).expect("a set");
    assert_eq!((set.len(), set.keys[0].id.as_deref()), (1, Some("2011-04-29")));
    assert!(set.skipped().any(|skipped| skipped == (SkipReason::OtherUse, 1)));
}

#[test]
fn wycheproofs_signatures_are_judged_as_they_should_be() {
    let text = include_str!("../../tests/fixtures/jose/wycheproof_jws.json");
    let document: Value = serde_json::from_str(text).expect("JSON");
    let (mut good, mut bad) = (0, 0);
    for group in document["groups"].as_array().expect("groups") {
        let of_ours = ["RS256", "ES256"].iter().any(|name| group["jwk"]["alg"] == *name);
        let set = set(std::slice::from_ref(&group["jwk"]));
        assert_eq!(set.is_ok(), of_ours, "{}", group["comment"]);
        for case in group["tests"].as_array().expect("tests") {
            let token = case["jws"].as_str().expect("a text");
            let verified = set.as_ref().is_ok_and(|set| verifies(set, token));
            assert_eq!(verified, of_ours && case["result"] == "valid", "{case}");
            if verified { good += 1 } else { bad += 1 }
        }
    }
    assert!(good >= 9 && bad >= 70, "{good} {bad}");
}

#[test]
fn keys_that_must_not_be_used_are_skipped_and_counted() {
    let rsa = Signer::rsa("rsa");
    let changed = |name: &str, value: Value| {
        let mut key = rsa.jwk();
        key[name] = value;
        key.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
        key
    };
    assert_eq!(skipped(rsa.jwk()), None);
    for fine in [
        changed("alg", Value::Null),
        changed("use", Value::Null),
        changed("kid", Value::Null),
        changed("key_ops", json!(["verify"])),
        changed("x5c", json!(["MII"])),
        changed("x5t", json!("t")),
    ] {
        assert_eq!(skipped(fine.clone()), None, "{fine}");
    }
    let weak = encoded([&[0xc5; 127][..], &[1]].concat());
    let mut half = vec![0xff; 255];
    half[0] = 0x7f;
    for (key, reason) in [
        (json!({"kty": "oct", "k": encoded([7; 64]), "alg": "HS256", "kid": "s"}), SkipReason::Symmetric),
        (json!({"kty": "oct", "kid": "s"}), SkipReason::Symmetric),
        (changed("k", json!(encoded([7; 64]))), SkipReason::Symmetric),
        (changed("d", json!("AQAB")), SkipReason::Private),
        (changed("use", json!("enc")), SkipReason::OtherUse),
        (changed("use", json!("SIG")), SkipReason::OtherUse),
        (changed("key_ops", json!(["sign"])), SkipReason::OtherUse),
        (changed("key_ops", json!([])), SkipReason::OtherUse),
        (changed("alg", json!("HS256")), SkipReason::OtherAlgorithm),
        (changed("alg", json!("none")), SkipReason::OtherAlgorithm),
        (changed("alg", json!("RS512")), SkipReason::OtherAlgorithm),
        (changed("alg", json!("ES256")), SkipReason::OtherAlgorithm),
        (changed("kty", json!("DSA")), SkipReason::Unsupported),
        (json!({"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}), SkipReason::Unsupported),
        (json!({"kty": "OKP", "crv": "X25519", "x": encoded([9; 32])}), SkipReason::Unsupported),
        (changed("n", json!(weak)), SkipReason::Weak),
        (changed("n", json!(encoded(half))), SkipReason::Weak),
        (changed("n", json!(encoded([0; 300]))), SkipReason::Malformed),
        (changed("n", json!(encoded([0xff; 1100]))), SkipReason::Malformed),
        (changed("n", json!("")), SkipReason::Malformed),
        (changed("n", json!("AQAB=")), SkipReason::Malformed),
        (changed("n", json!(7)), SkipReason::Malformed),
        (changed("e", json!("AQ")), SkipReason::Malformed),
        (changed("e", json!("AQAA")), SkipReason::Malformed),
        (changed("e", json!("AQAAAAAB")), SkipReason::Malformed),
        (changed("e", Value::Null), SkipReason::Malformed),
        (changed("kty", Value::Null), SkipReason::Malformed),
        (changed("kid", json!("")), SkipReason::Malformed),
        (changed("kid", json!("a\u{1b}[2J")), SkipReason::Malformed),
        (changed("kid", json!(1)), SkipReason::Malformed),
        (changed("use", json!(1)), SkipReason::Malformed),
        (json!({"kty": "EC", "crv": "P-256", "x": encoded([1; 32]), "y": encoded([1; 32])}), SkipReason::Malformed),
        (json!({"kty": "EC", "crv": "P-256", "x": encoded([1; 31]), "y": encoded([1; 32])}), SkipReason::Malformed),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": encoded([1; 31])}), SkipReason::Malformed),
        (json!([1]), SkipReason::Malformed),
        (json!(null), SkipReason::Malformed),
    ] {
        assert_eq!(skipped(key.clone()), Some(reason), "{key}");
    }
    let twice = r#"{"keys":[{"kty":"RSA","kty":"OKP"}]}"#;
    assert_eq!(KeySet::parse(twice.as_bytes()).err(), Some(JwksError::NoKey), "a member that stands there twice");
}

#[test]
fn a_set_is_bounded_and_without_two_keys_of_one_name() {
    let one = Signer::ed25519("one");
    let named = |name: &str| {
        let mut key = one.jwk();
        key["kid"] = json!(name);
        key
    };
    let many = |count| (0..count).map(|n| named(&n.to_string())).collect::<Vec<_>>();
    assert_eq!(set(&many(JWKS_KEYS_MAX)).map(|set| set.len()), Ok(JWKS_KEYS_MAX));
    assert_eq!(set(&many(JWKS_KEYS_MAX + 1)).err(), Some(JwksError::TooManyKeys));
    let long = format!("{{\"keys\":[{}]}}{}", one.jwk(), " ".repeat(JWKS_BYTES_MAX));
    assert_eq!(KeySet::parse(long.as_bytes()).err(), Some(JwksError::TooLong));
    assert_eq!(set(&[named("a"), named("b"), named("a")]).err(), Some(JwksError::DuplicateKeyId));
    let mut unused = named("a");
    unused["use"] = json!("enc");
    assert!(set(&[named("a"), unused]).is_ok(), "one that is not used stands in nobody's way");
    assert_eq!(set(&[]).err(), Some(JwksError::NoKey));
    for bad in ["", "[]", "{}", "null", "{\"keys\":{}}", "{\"keys\":null}", "{\"keys\":[]", "<html>", "{\"keys\":[]}x"]
    {
        assert_eq!(KeySet::parse(bad.as_bytes()).err(), Some(JwksError::Malformed), "{bad}");
    }
    assert_eq!(KeySet::parse(b"{\"keys\":[],\"keys\":[]}").err(), Some(JwksError::Malformed));
    assert_eq!(KeySet::parse(b"{\"keys\":[],\"\xff\":1}").err(), Some(JwksError::Malformed));
}

#[test]
fn of_a_key_only_its_name_and_algorithm_show() {
    let signers = Signer::each();
    let set = KeySet::parse(jwks(&signers).as_bytes()).expect("a set");
    let shown = format!("{set:?}");
    assert!(shown.contains("p256") && shown.contains("ES256") && shown.len() < 400, "{shown}");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,60}|(\\{|\\}|\\[|\\]|\"keys\"|\"kty\"|\"RSA\"|\"n\"|\"e\"|:|,|\"AQAB\"|1){0,30}") {
        let _ = KeySet::parse(text.as_bytes());
    }
}
