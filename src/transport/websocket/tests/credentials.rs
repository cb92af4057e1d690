//! Where a client may say who it is, and what its URL may subscribe to.

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::super::{Credential, HeaderKind, QUERY_BYTES_MAX, Refusal, URL_CHANNELS_MAX, UrlSubscription};
use super::upgrade::{assert_bad, judge_with};

const PROTOCOL: &str = "sec-websocket-protocol";

/// A credential as text, to compare it.
fn shown(credential: &Credential) -> String {
    match credential {
        Credential::Header(HeaderKind::Bearer, token) => format!("bearer {}", token.expose_secret()),
        Credential::Header(HeaderKind::ApiKey, key) => format!("key {}", key.expose_secret()),
        Credential::Subprotocol(token) => format!("subprotocol {}", token.expose_secret()),
        Credential::Query(token) => format!("query {}", token.expose_secret()),
        Credential::None => "none".to_owned(),
    }
}

#[track_caller]
fn assert_credential(uri: &str, more: &[(&str, &str)], expected: &str) {
    let offer = judge_with(uri, more).unwrap_or_else(|refusal| panic!("{uri} {more:?}: {refusal}"));
    assert_eq!(shown(&offer.credential), expected, "{uri} {more:?}");
}

#[test]
fn the_first_place_that_is_used_counts() {
    let places = [
        ("authorization", "Bearer a.b.c", "bearer a.b.c"),
        ("x-api-key", "id.secret", "key id.secret"),
        (PROTOCOL, "tickhub.v1.json, bearer.d.e.f", "subprotocol d.e.f"),
    ];
    for first in 0..places.len() {
        let more: Vec<_> = places[first..].iter().map(|(name, value, _)| (*name, *value)).collect();
        assert_credential("/?token=g.h.i", &more, places[first].2);
        assert_credential("/", &more[..1], places[first].2);
    }
    assert_credential("/?token=g.h.i", &[], "query g.h.i");
    assert_credential("/", &[], "none");
}

#[test]
fn authorization_counts_with_its_bearer_scheme_only() {
    for value in ["Bearer a.b", "bearer a.b", "BEARER   a.b", "Bearer \t a.b  "] {
        assert_credential("/?token=other", &[("authorization", value)], "bearer a.b");
    }
    for value in ["", "Basic dXNlcjpwYXNz", "Bearertoken", "Digest Bearer a.b", "a.b"] {
        assert_credential("/", &[("authorization", value)], "none");
        assert_credential("/", &[("authorization", value), ("x-api-key", "k")], "key k");
        assert_credential("/?token=t", &[("authorization", value)], "query t");
    }
}

#[test]
fn a_place_that_is_used_without_sense_is_a_bad_credential_and_not_none() {
    assert_credential("/?token=good", &[("authorization", "Bearer")], "bearer ");
    assert_credential("/?token=good", &[("authorization", "Bearer a b")], "bearer a b");
    assert_credential("/?token=good", &[("authorization", "Bearer \u{e9}")], "bearer é");
    assert_credential("/?token=good", &[("x-api-key", "")], "key ");
    assert_credential("/?token=good", &[(PROTOCOL, "bearer., tickhub.v1.json")], "subprotocol ");
    assert_credential("/?token=", &[], "query ");
    assert_credential("/?token", &[], "query ");
}

#[test]
fn a_browser_offers_its_token_beside_a_subprotocol() {
    assert_credential("/", &[(PROTOCOL, "bearer.a.b.c,tickhub.v1.json")], "subprotocol a.b.c");
    assert_credential("/", &[(PROTOCOL, "tickhub.v1.json"), (PROTOCOL, "bearer.a.b.c")], "subprotocol a.b.c");
    assert_bad(judge_with("/", &[(PROTOCOL, "bearer.a.b.c")]), "tickhub.v1.json");
    assert_bad(judge_with("/", &[(PROTOCOL, "bearer.a, bearer.a, tickhub.v1.json")]), "bearer");
    let beside_a_good_one = [("authorization", "Bearer a"), (PROTOCOL, "bearer.a.b.c")];
    assert_bad(judge_with("/", &beside_a_good_one), "tickhub.v1.json");
}

#[test]
fn a_header_that_is_repeated_is_refused() {
    assert_bad(judge_with("/", &[("authorization", "Bearer a"), ("authorization", "Bearer a")]), "Authorization");
    assert_bad(judge_with("/", &[("authorization", "Basic a"), ("authorization", "Bearer a")]), "Authorization");
    assert_bad(judge_with("/", &[("x-api-key", "a"), ("x-api-key", "b")]), "X-API-Key");
    let ignored = [("authorization", "Bearer a"), ("x-api-key", "a"), ("x-api-key", "b")];
    assert_credential("/", &ignored, "bearer a");
}

#[test]
fn no_debug_output_shows_a_credential() {
    let places =
        [("authorization", "Bearer SECRET"), ("x-api-key", "SECRET"), (PROTOCOL, "tickhub.v1.json,bearer.SECRET")];
    for place in places {
        let offer = judge_with("/", &[place]).expect("an offer");
        assert!(!format!("{offer:?}").contains("SECRET"), "{offer:?}");
    }
    let offer = judge_with("/?token=SECRET", &[]).expect("an offer");
    assert!(!format!("{offer:?}").contains("SECRET"), "{offer:?}");
}

fn subscription(query: &str) -> Option<UrlSubscription> {
    let offer = judge_with(&format!("/api/v1/ws/prices?{query}"), &[]);
    offer.unwrap_or_else(|refusal| panic!("{query}: {refusal}")).subscription
}

#[track_caller]
fn assert_subscribes(query: &str, symbols: &[&str], channels: &[&str]) {
    let expected = UrlSubscription {
        symbols: symbols.iter().map(|symbol| (*symbol).to_owned()).collect(),
        channels: channels.iter().map(|channel| (*channel).to_owned()).collect(),
    };
    assert_eq!(subscription(query), Some(expected), "{query}");
}

#[test]
fn a_url_subscribes() {
    assert_subscribes("symbols=A:B", &["A:B"], &["ticker"]);
    assert_subscribes("symbols=SIM:AAA-USD,SIM:*&channels=quote,trade", &["SIM:AAA-USD", "SIM:*"], &["quote", "trade"]);
    assert_subscribes("channels=quote,quote,trade,quote&symbols=*&token=x", &["*"], &["quote", "trade"]);
    assert_subscribes("&symbols=A:B&&", &["A:B"], &["ticker"]);
    // What is no id and no channel is judged as in a command.
    assert_subscribes("symbols=nonsense&channels=nope", &["nonsense"], &["nope"]);
    for none in ["", "&", "token=x"] {
        assert_eq!(subscription(none), None, "{none}");
    }
}

#[test]
fn ids_are_percent_decoded_and_a_plus_is_a_plus() {
    assert_subscribes("symbols=X:BRK%2FB,X:A%2BB", &["X:BRK/B", "X:A+B"], &["ticker"]);
    assert_subscribes("symbols=X:BRK/B,X:A+B", &["X:BRK/B", "X:A+B"], &["ticker"]);
    assert_subscribes("symbols=SIM%3AA%2cSIM%3a%2A", &["SIM:A", "SIM:*"], &["ticker"]);
    assert_subscribes("%73ymbols=X:%C3%A9=%3D%25", &["X:é==%"], &["ticker"]);
    assert_credential("/?token=a%2Eb", &[], "query a.b");
}

#[test]
fn queries_that_mean_nothing_are_refused_by_name() {
    let cases = [
        ("symbol=A:B", "symbol"),
        ("symbols=A:B&depth=10", "depth"),
        ("Symbols=A:B", "Symbols"),
        ("=A:B", "unknown"),
        ("symbols=A:B&symbols=A:C", "symbols"),
        ("symbols=A:B&channels=quote&channels=trade", "channels"),
        ("token=a&token=a", "token"),
        ("token=a&%74oken=b", "token"),
        ("channels=quote", "no symbols"),
        ("symbols=", "symbols"),
        ("symbols", "symbols"),
        ("symbols=A:B,,A:C", "symbols"),
        ("symbols=A:B,", "symbols"),
        ("symbols=A:B&channels=", "channels"),
        ("symbols=A:B&channels=quote,", "channels"),
        ("symbols=A%", "symbols"),
        ("symbols=A%2", "symbols"),
        ("symbols=A%2G", "symbols"),
        ("symbols=A%+1", "symbols"),
        ("symbols=A%FF", "symbols"),
        ("symbols=A%C3", "symbols"),
        ("token=%zz", "token"),
        ("%zz=1", "name"),
    ];
    for (query, names) in cases {
        assert_bad(judge_with(&format!("/?{query}"), &[]), names);
    }
}

#[test]
fn what_an_error_repeats_is_short_and_printable() {
    let hostile = format!("%0d%0aX%22%5c%1b[31m{}=SECRET", "x".repeat(1000));
    let refusal = judge_with(&format!("/?{hostile}"), &[]).expect_err("unknown");
    assert_eq!(refusal, Refusal::BadRequest("the query has an unknown parameter: ??X???[31mxxxxxx...".into()));
    let refusal = judge_with("/?symbols=SECRET%zz", &[]).expect_err("malformed");
    assert!(!refusal.to_string().contains("SECRET"), "{refusal}");
}

#[test]
fn queries_are_bounded() {
    let longest = format!("symbols={}", "A".repeat(QUERY_BYTES_MAX - 8));
    assert!(judge_with(&format!("/?{longest}"), &[]).is_ok());
    assert_bad(judge_with(&format!("/?{longest}A"), &[]), "too long");

    let channels: Vec<_> = (0..URL_CHANNELS_MAX).map(|number| format!("bar.{number}m")).collect();
    assert!(judge_with(&format!("/?symbols=*&channels={}", channels.join(",")), &[]).is_ok());
    assert_bad(judge_with(&format!("/?symbols=*&channels={},quote", channels.join(",")), &[]), "too many");
}

fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

proptest! {
    #[test]
    fn whatever_is_encoded_comes_back(symbols in prop::collection::vec("[^,]{1,10}", 1..5)) {
        let query = format!("symbols={}", percent_encoded(&symbols.join(",")));
        let found = subscription(&query).expect("symbols");
        prop_assert_eq!(found.symbols, symbols);
    }

    #[test]
    fn no_request_breaks_the_judge(query in "[ -~]{0,60}", name in "(authorization|x-api-key|sec-websocket-protocol|upgrade|host)", value in "[ -~é]{0,40}") {
        let uri = format!("/?{}", query.replace(|c: char| " \"#<>\\^`{|}".contains(c), "%2"));
        if let Err(refusal) = judge_with(&uri, &[(&name, &value)]) {
            prop_assert!(refusal.to_string().len() < 200);
            prop_assert!(refusal.to_string().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
    }
}
