//! The document says what is served.

use std::collections::BTreeSet;

use super::*;
use crate::http::openapi::DOCUMENT;
use crate::model::Ticker;
use crate::store::Stamp;

pub(super) fn document() -> Value {
    serde_json::from_str(DOCUMENT).expect("JSON")
}

#[test]
fn it_has_the_paths_that_are_served_and_no_other() {
    let document = document();
    let described: BTreeSet<_> = document["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
    let served = [
        PATH_HEALTH,
        PATH_INSTRUMENTS,
        PATH_INSTRUMENT,
        PATH_TICKER,
        PATH_CONNECTIONS,
        PATH_CONNECTION,
        PATH_OPENAPI,
        PATH_WEBSOCKET,
    ];
    let tokens = [PATH_AUTH_TOKEN, PATH_AUTH_REFRESH, PATH_AUTH_REVOKE];
    assert_eq!(described, served.into_iter().chain(tokens).collect());
}

#[test]
fn its_references_lead_somewhere() {
    let document = document();
    for reference in DOCUMENT.split("\"$ref\": \"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
}

/// Checks types, members and enumerations, as deep as the schema goes.
pub(super) fn assert_fits(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        return assert_fits(document, document.pointer(&reference[1..]).expect("leads somewhere"), value, at);
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => panic!("{at} has no type"),
    };
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    assert!(types.contains(&is), "{at} is {value}");
    if let Some(of) = schema["enum"].as_array() {
        assert!(of.contains(value), "{at} is {value}");
    }
    for item in value.as_array().into_iter().flatten() {
        assert_fits(document, &schema["items"], item, &format!("{at}[]"));
    }
    let Some(properties) = schema["properties"].as_object() else { return };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        assert!(value.get(name).is_some(), "{at} lacks {name}: {value}");
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        let schema = properties.get(name).unwrap_or_else(|| panic!("{at}.{name} is not described"));
        assert_fits(document, schema, value, &format!("{at}.{name}"));
    }
}

#[tokio::test]
async fn answers_are_as_it_describes_them() {
    let hub = Hub::start().await;
    let mut writers = hub.add("SIM", &["A-USD", "BARE"], FeedState::Live);
    writers[0].ticker(Stamp { seq: 1, received: Some(UnixNanos(1)) }, &Ticker::default());
    assert_eq!(hub.ask(PATH_OPENAPI, &[]).await.text(), DOCUMENT);
    let (one, value) = (format!("{PATH_INSTRUMENTS}/SIM:A-USD"), format!("{PATH_INSTRUMENTS}/SIM:A-USD/ticker"));
    let (absent, empty) = (format!("{PATH_INSTRUMENTS}/SIM:NONE"), format!("{PATH_INSTRUMENTS}/SIM:BARE/ticker"));
    let short = format!("{PATH_INSTRUMENTS}?limit=1");
    let wrong = format!("{PATH_INSTRUMENTS}?limit=x");
    let wrong_state = format!("{PATH_CONNECTIONS}?state=x");
    let document = document();
    for (path, target, status) in [
        (PATH_HEALTH, PATH_HEALTH, 200),
        (PATH_INSTRUMENTS, PATH_INSTRUMENTS, 200),
        (PATH_INSTRUMENTS, &short, 200),
        (PATH_INSTRUMENTS, &wrong, 400),
        (PATH_INSTRUMENT, &one, 200),
        (PATH_INSTRUMENT, &absent, 404),
        (PATH_TICKER, &value, 200),
        (PATH_TICKER, &empty, 404),
        (PATH_CONNECTIONS, PATH_CONNECTIONS, 200),
        (PATH_CONNECTIONS, &wrong_state, 400),
    ] {
        let answer = hub.get(target).await;
        assert_eq!(answer.status, status, "{target}");
        let described = &document["paths"][path]["get"]["responses"][status.to_string()];
        let schema = &described["content"]["application/json"]["schema"];
        assert_fits(&document, schema, &answer.json(), target);
    }
    hub.api.readiness.advance(ReadinessState::Draining);
    let down = hub.get(PATH_HEALTH).await.error(503, "down");
    assert_fits(&document, &document["components"]["schemas"]["Health"], &down["details"], PATH_HEALTH);
}
