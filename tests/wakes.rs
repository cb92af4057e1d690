//! When a feed thread wakes its workers: before it sleeps, and before it only lets others run.

#[path = "../benches/support/mod.rs"]
mod support;

use support::{RECEIVED, crowd, hub, quote};
use tickhub::wire::command::Mode;

#[tokio::test]
async fn a_provider_that_never_sleeps_wakes_its_workers_when_it_yields() {
    let mut hub = hub(1);
    let _worker = crowd(&hub.store, 0, 1, Mode::Every);
    hub.wakes[0].prepare_sleep();
    hub.instrument.quote(RECEIVED, &quote());
    assert_eq!(hub.wakes[0].wakes(), 0, "there may be more");
    hub.feed.yield_now().await;
    assert_eq!(hub.wakes[0].wakes(), 1);
}
