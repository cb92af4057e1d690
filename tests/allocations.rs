//! What an event costs in allocations: the same however many want it. A counting allocator
//! replaces the default one in this test only.

#[path = "../benches/support/mod.rs"]
mod support;

use allocation_counter::measure;
use support::{BACKLOG, Null, crowd, hub, quote, turn};
use tickhub::wire::command::Mode;

/// Turns until everything that is kept has its size.
const WARM_UP: usize = 8;
const ROUNDS: usize = 16;

/// Allocations of publishing `updates` to `sessions` in each of [`ROUNDS`] turns.
fn allocations(sessions: usize, mode: Mode, updates: usize) -> u64 {
    let mut hub = hub(1);
    let mut fanout = crowd(&hub.store, 0, sessions, mode);
    let (mut sink, mut lane) = (Null::default(), hub.lanes.remove(0));
    let quote = quote();
    let mut rounds = |rounds: usize| {
        for _ in 0..rounds {
            (0..updates).for_each(|_| hub.instrument.quote(support::RECEIVED, &quote));
            assert_eq!(turn(&mut fanout, &mut lane, &mut sink, usize::MAX), updates);
        }
    };
    rounds(WARM_UP);
    let counted = measure(|| rounds(ROUNDS)).count_total;
    assert_eq!(sink.writes, ((WARM_UP + ROUNDS) * sessions) as u64, "each session is written to once a turn");
    let events: u64 = fanout.take_counts().deliveries.iter().sum();
    let each = if mode == Mode::Every { updates } else { 1 };
    assert_eq!(events, ((WARM_UP + ROUNDS) * sessions * each) as u64, "and gets what it asked for");
    counted
}

/// One for the frame, which holds its reference count too, and no more.
fn costs_one_for_each_event(mode: Mode, updates: usize) {
    for sessions in [10, 100, 1_000] {
        let counted = allocations(sessions, mode, updates);
        assert_eq!(counted, (ROUNDS * updates) as u64, "{sessions} sessions, {mode:?}, {updates} in a turn");
    }
}

#[test]
fn an_event_for_every_session_allocates_its_frame_and_nothing_else() {
    costs_one_for_each_event(Mode::Every, 1);
}

#[test]
fn events_that_come_together_allocate_their_frames_and_nothing_else() {
    costs_one_for_each_event(Mode::Every, BACKLOG);
}

#[test]
fn a_latest_value_allocates_its_frame_and_nothing_else() {
    costs_one_for_each_event(Mode::Latest, 1);
}

#[test]
fn values_that_are_conflated_allocate_their_frames_and_nothing_else() {
    costs_one_for_each_event(Mode::Latest, BACKLOG);
}

#[test]
fn an_event_that_nobody_wants_allocates_nothing() {
    let mut hub = hub(1);
    let quote = quote();
    hub.instrument.quote(support::RECEIVED, &quote);
    let counted = measure(|| (0..100).for_each(|_| hub.instrument.quote(support::RECEIVED, &quote)));
    assert_eq!(counted.count_total, 0);
}

#[test]
fn the_allocator_counts() {
    assert_eq!(measure(|| drop(std::hint::black_box(Box::new(1_u64)))).count_total, 1);
}
