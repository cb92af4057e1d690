//! What a stranger asks of the HTTP listener.

use hyper::Request;
use secrecy::ExposeSecret as _;
use tickhub::transport::websocket::{
    Credential, QUERY_BYTES_MAX, SUBPROTOCOLS, URL_CHANNELS_MAX, excerpt, judge_handshake, read_query,
};

/// Longest reason of a refusal: it names what is wrong and repeats little of it.
const REASON_BYTES_MAX: usize = 200;

/// The first line is the target of the request, each other line a header.
pub(super) fn handshake(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let target = lines.next().unwrap_or_default();
    query(&String::from_utf8_lossy(target));
    let mut request = Request::builder().method("GET").uri(target);
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        request = request.header(&line[..at], line.get(at + 1..).unwrap_or_default().trim_ascii());
    }
    // What is no HTTP never gets as far as our judge.
    let Ok(request) = request.body(()) else { return };
    match judge_handshake(&request) {
        Ok(offer) => {
            assert_eq!(offer.accept_key().len(), 28, "20 bytes in base64");
            assert!(offer.subprotocol.is_none_or(|name| SUBPROTOCOLS.contains(&name)));
            if let Some(subscription) = &offer.subscription {
                let (symbols, channels) = (&subscription.symbols, &subscription.channels);
                assert!(!symbols.is_empty() && !channels.is_empty() && channels.len() <= URL_CHANNELS_MAX);
                assert!(symbols.iter().chain(channels).all(|entry| !entry.is_empty()));
            }
            let token = match &offer.credential {
                Credential::Header(_, token) | Credential::Subprotocol(token) | Credential::Query(token) => token,
                Credential::None => return,
            };
            let token = token.expose_secret();
            assert!(token.len() < 8 || !format!("{offer:?}").contains(token), "a token shows");
        }
        Err(refusal) => said(&refusal.to_string()),
    }
}

fn query(text: &str) {
    let names = ["symbols", "channels", "token"];
    match read_query(text, names) {
        Ok(values) => {
            assert!(text.len() <= QUERY_BYTES_MAX);
            let decoded: usize = values.iter().flatten().map(String::len).sum();
            assert!(decoded <= text.len(), "decoding makes nothing longer");
        }
        Err(refusal) => said(&refusal.to_string()),
    }
    let excerpt = excerpt(text);
    assert!(excerpt.is_ascii() && excerpt.len() <= 20, "{excerpt:?}");
}

fn said(reason: &str) {
    assert!(reason.len() <= REASON_BYTES_MAX && !reason.chars().any(char::is_control), "{reason:?}");
}
