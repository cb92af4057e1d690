//! Which requests become a WebSocket, and what is answered.

use hyper::header::HeaderMap;
use hyper::{Method, Request, StatusCode, Version};

use super::super::{Offer, Refusal, SUBPROTOCOL_DEFAULT, judge_handshake};

/// The request of RFC 6455, 1.3, without its `Origin` and subprotocols.
pub(super) const HEADERS: [(&str, &str); 5] = [
    ("host", "server.example.com"),
    ("upgrade", "websocket"),
    ("connection", "Upgrade"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("sec-websocket-version", "13"),
];

pub(super) fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut builder = Request::builder().uri(uri);
    for (name, value) in headers {
        builder = builder.header(*name, value.as_bytes());
    }
    builder.body(()).expect("a request")
}

/// Judges the good request with these headers more.
pub(super) fn judge_with(uri: &str, more: &[(&str, &str)]) -> Result<Offer, Refusal> {
    judge_handshake(&request(uri, &[&HEADERS[..], more].concat()))
}

/// Judges the good request with every line of `name` replaced by these.
fn judge_replacing(name: &str, values: &[&str]) -> Result<Offer, Refusal> {
    let kept = HEADERS.into_iter().filter(|(header, _)| *header != name);
    let headers: Vec<_> = kept.chain(values.iter().map(|value| (name, *value))).collect();
    judge_handshake(&request("/", &headers))
}

#[track_caller]
pub(super) fn assert_bad(judged: Result<Offer, Refusal>, names: &str) {
    let refusal = judged.expect_err(names);
    assert_eq!(refusal.status(), StatusCode::BAD_REQUEST, "{refusal}");
    assert!(refusal.to_string().contains(names), "{refusal:?} should name {names}");
    let mut headers = HeaderMap::new();
    refusal.write_headers(&mut headers);
    assert!(headers.is_empty());
}

#[track_caller]
fn assert_426(judged: Result<Offer, Refusal>) {
    let refusal = judged.expect_err("426");
    assert_eq!(refusal.status(), StatusCode::UPGRADE_REQUIRED, "{refusal}");
    let mut headers = HeaderMap::new();
    refusal.write_headers(&mut headers);
    assert_eq!(headers["sec-websocket-version"], "13");
    assert_eq!(
        (&headers["upgrade"], &headers["connection"]),
        (&"websocket".parse().unwrap(), &"Upgrade".parse().unwrap())
    );
}

#[test]
fn the_example_of_the_rfc_is_accepted() {
    let offer = judge_with("/chat", &[("origin", "http://example.com")]).expect("an offer");
    let mut headers = HeaderMap::new();
    offer.write_headers(&mut headers);
    assert_eq!(headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(offer.accept_key(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(
        (&headers["upgrade"], &headers["connection"]),
        (&"websocket".parse().unwrap(), &"Upgrade".parse().unwrap())
    );
    assert_eq!(headers.len(), 3, "nothing else is agreed: {headers:?}");
    assert!(offer.subscription.is_none());
}

#[test]
fn only_get_over_http_1_1_becomes_one() {
    for method in [Method::POST, Method::HEAD, Method::CONNECT, Method::OPTIONS] {
        let mut request = request("/", &HEADERS);
        *request.method_mut() = method;
        assert_bad(judge_handshake(&request), "GET");
    }
    for version in [Version::HTTP_09, Version::HTTP_10, Version::HTTP_2, Version::HTTP_3] {
        let mut request = request("/", &HEADERS);
        *request.version_mut() = version;
        assert_bad(judge_handshake(&request), "HTTP/1.1");
    }
}

#[test]
fn there_is_one_host() {
    assert_bad(judge_replacing("host", &[]), "Host");
    assert_bad(judge_replacing("host", &[""]), "Host");
    assert_bad(judge_replacing("host", &["a", "b"]), "Host");
}

#[test]
fn the_upgrade_is_found_in_any_list_and_case() {
    for values in [&["WebSocket"][..], &["h2c, websocket"], &["h2c", "WEBSOCKET"], &[" ,, websocket ,"]] {
        assert!(judge_replacing("upgrade", values).is_ok(), "{values:?}");
    }
    for values in [&["upgrade"][..], &["keep-alive, Upgrade"], &["keep-alive", "UPGRADE"], &["Upgrade,keep-alive"]] {
        assert!(judge_replacing("connection", values).is_ok(), "{values:?}");
    }
}

#[test]
fn a_request_for_something_else_is_told_what_this_is() {
    for values in [&[][..], &[""], &["h2c"], &["websockets"], &["web socket"], &["websocket\u{e9}"]] {
        assert_426(judge_replacing("upgrade", values));
    }
    for values in [&[][..], &["keep-alive"], &["no-upgrade"]] {
        assert_bad(judge_replacing("connection", values), "Connection");
    }
}

#[test]
fn other_versions_are_told_which_there_is() {
    for values in [&[][..], &["8"], &["0"], &["14"], &["13, 8"], &["013"], &["\u{e9}"]] {
        assert_426(judge_replacing("sec-websocket-version", values));
    }
    assert_bad(judge_replacing("sec-websocket-version", &["13", "13"]), "Sec-WebSocket-Version");
}

#[test]
fn the_key_is_16_bytes_in_base64() {
    for good in ["AAAAAAAAAAAAAAAAAAAAAA==", "//////////////////////==", "+/+/+/+/+/+/+/+/+/+/+/=="] {
        assert!(judge_replacing("sec-websocket-key", &[good]).is_ok(), "{good}");
    }
    let bad = [
        "",
        "short",
        "AAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAAA=",
        "AAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAA-==",
        "AAAAAAAAAA AAAAAAAAAAA==",
        "\u{e9}AAAAAAAAAAAAAAAAAAAA==",
    ];
    for bad in bad {
        assert_bad(judge_replacing("sec-websocket-key", &[bad]), "Sec-WebSocket-Key");
    }
    assert_bad(judge_replacing("sec-websocket-key", &[]), "missing");
    let key = HEADERS[3].1;
    assert_bad(judge_replacing("sec-websocket-key", &[key, key]), "more than once");
}

#[test]
fn extensions_are_declined_by_silence() {
    let offer = judge_with("/", &[("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")]);
    let mut headers = HeaderMap::new();
    offer.expect("an offer").write_headers(&mut headers);
    assert!(!headers.contains_key("sec-websocket-extensions"));
}

#[test]
fn only_what_the_client_offered_and_the_hub_speaks_is_echoed() {
    let cases: [(&[&str], Option<&str>); 10] = [
        (&[], None),
        (&[""], None),
        (&[" , ,"], None),
        (&["tickhub.v1.json"], Some("tickhub.v1.json")),
        (&["chat,tickhub.v1.json , tickhub.v2.json"], Some("tickhub.v1.json")),
        (&["chat", "tickhub.v1.json"], Some("tickhub.v1.json")),
        (&["tickhub.v1.json, tickhub.v1.json"], Some("tickhub.v1.json")),
        (&["tickhub.v1.bin"], Some("tickhub.v1.bin")),
        (&["tickhub.v2.bin, tickhub.v1.bin, tickhub.v1.json"], Some("tickhub.v1.bin")),
        (&["tickhub.v1.json", "tickhub.v1.bin"], Some("tickhub.v1.json")),
    ];
    for (lists, echoed) in cases {
        let more: Vec<_> = lists.iter().map(|list| ("sec-websocket-protocol", *list)).collect();
        let offer = judge_with("/", &more).unwrap_or_else(|refusal| panic!("{lists:?}: {refusal}"));
        assert_eq!(offer.subprotocol, echoed, "{lists:?}");
        let mut headers = HeaderMap::new();
        offer.write_headers(&mut headers);
        let header = headers.get("sec-websocket-protocol").map(|value| value.to_str().unwrap());
        assert_eq!(header, echoed, "{lists:?}");
        assert_eq!(offer.format().subprotocol(), echoed.unwrap_or(SUBPROTOCOL_DEFAULT), "{lists:?}");
    }
}

#[test]
fn an_offer_with_nothing_of_ours_is_told_what_there_is() {
    for list in
        ["chat", "Tickhub.v1.json", "tickhub.v1.json2", "tickhub.v2.json, chat", "bearer.a.b.c", "chat, bearer.a"]
    {
        for ours in ["tickhub.v1.json", "tickhub.v1.bin"] {
            assert_bad(judge_with("/", &[("sec-websocket-protocol", list)]), ours);
        }
    }
    assert_bad(judge_with("/", &[("sec-websocket-protocol", "tickhub.v1.json,\u{e9}")]), "Sec-WebSocket-Protocol");
}
