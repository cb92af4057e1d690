//! What tests of providers share.

use serde_json::Value;

use crate::fanout::Event;
use crate::ingest::Standalone;

/// Everything that was published since the last call, as subscribers would see it.
pub(crate) fn published(hub: &mut Standalone) -> Vec<Value> {
    let mut events = Vec::new();
    while let Some(event) = hub.pop() {
        let frame = match event {
            Event::Update(update) => update.frame,
            Event::Gap { frame, .. } | Event::Feed { frame, .. } => frame,
            Event::Instrument(_) => continue,
        };
        events.push(serde_json::from_slice(frame.payload()).expect("frames are JSON"));
    }
    events
}

/// The changes of the feed's state among `events`, as `state: cause`.
pub(crate) fn states(events: &[Value]) -> Vec<String> {
    let text = |event: &Value, member: &str| event[member].as_str().unwrap_or_default().to_owned();
    let states = events.iter().filter(|event| event["ch"] == "status");
    states.map(|event| format!("{}: {}", text(event, "state"), text(event, "cause"))).collect()
}
