//! Runs that once broke a rule, as short as they became. Each also settles at its end.

use tickhub::fanout::OutboxLimits;

use crate::action::{Action, Subscribe, Take};
use crate::hub::Sizes;
use crate::shrink::run;

const ROOMY: Sizes = Sizes {
    lane_events: 4096,
    requests: 1024,
    outbox: OutboxLimits { events_max: 1_000, bytes_max: 200_000, control_bytes_max: 64 * 1024 },
    ring_bytes: 64 * 1024 * 1024,
    threads: 1,
    late_feed: false,
    clients: 5,
    budget: None,
};

const PLAIN: Subscribe = Subscribe {
    channel: "trade",
    symbols: Vec::new(),
    mode: None,
    max_rate: None,
    depth: None,
    snapshot: None,
    overflow: None,
    backlog: None,
    resume: None,
};

fn check(sizes: Sizes, actions: &[Action]) {
    if let Err(failure) = run(sizes, actions) {
        panic!("action {}: {}", failure.actions, failure.broken);
    }
}

fn claim(instrument: usize) -> Action {
    Action::Claim { instrument }
}

/// Client 0 on worker 0, which then knows all that was claimed.
fn connect(grant: usize) -> [Action; 2] {
    [Action::Connect { client: 0, worker: 0, grant }, turn()]
}

fn turn() -> Action {
    Action::Turn { worker: 0, events: usize::MAX }
}

fn trade(instrument: usize) -> Action {
    Action::Trade { instrument, at: (10_000, 100), side: 0, id: 0 }
}

fn quote(instrument: usize, bid: i64) -> Action {
    Action::Quote { instrument, bid: Some((bid, 100)), ask: None, ts: true }
}

fn book(instrument: usize, bid: i64) -> Action {
    Action::BookSnapshot { instrument, bids: vec![(bid, 100)], asks: vec![(9_200, 100)] }
}

fn change(instrument: usize, bid: i64) -> Action {
    Action::BookDelta { instrument, bids: vec![(bid, 100)], asks: Vec::new() }
}

fn lost(instrument: usize) -> Action {
    Action::BookLost { instrument, lost: Some(3) }
}

fn subscribe(channel: &'static str, symbols: &[&'static str], more: Subscribe) -> Action {
    Action::Subscribe { client: 0, command: Subscribe { channel, symbols: symbols.to_vec(), ..more } }
}

fn socket(take: Take) -> Action {
    Action::Socket { client: 0, take }
}

const fn serve() -> Action {
    Action::ServeRequests { thread: 0 }
}

fn all(parts: &[&[Action]]) -> Vec<Action> {
    parts.concat()
}

#[test]
fn a_state_that_is_still_in_the_lane_is_told_once() {
    let stale = Action::FeedState { feed: 0, state: 1 };
    check(ROOMY, &all(&[&[claim(0)], &connect(0), &[stale, subscribe("trade", &["SIM:*"], PLAIN)]]));
}

#[test]
fn a_snapshot_asked_for_behind_a_full_socket_loses_no_event() {
    let again = Subscribe { snapshot: Some(true), ..PLAIN };
    let story = [subscribe("trade", &["SIM:*"], PLAIN), socket(Take::Stall), trade(0), turn()];
    let story = all(&[&[claim(0), trade(0)], &connect(0), &story, &[subscribe("trade", &["SIM:*"], again)]]);
    check(ROOMY, &all(&[&story, &[trade(0), turn(), trade(0), turn()]]));
}

#[test]
fn an_announcement_in_the_middle_of_a_turn_keeps_the_order() {
    let story = [subscribe("trade", &["SIM:*"], PLAIN), trade(0), claim(1), trade(0), trade(1)];
    check(ROOMY, &all(&[&[claim(0)], &connect(0), &story]));
    // Nor does it make a session slow.
    let outbox = OutboxLimits { events_max: 1, ..ROOMY.outbox };
    let many = all(&[&story, &[trade(0), trade(0), trade(0), trade(0), trade(0), trade(0)]]);
    check(Sizes { outbox, ..ROOMY }, &all(&[&[claim(0)], &connect(0), &many]));
}

#[test]
fn a_value_that_comes_as_its_pause_ends_is_sent_once() {
    let limited = Subscribe { max_rate: Some(50), ..PLAIN };
    let story = [subscribe("quote", &["SIM:*"], limited), quote(0, 1_001), turn(), quote(0, 1_002), turn()];
    let end = [quote(0, 1_003), Action::Advance { micros: 20_000 }, turn(), Action::Advance { micros: 20_000 }, turn()];
    check(ROOMY, &all(&[&[claim(0)], &connect(0), &story, &end]));
}

#[test]
fn a_pause_goes_over_to_another_grant() {
    let limited = Subscribe { max_rate: Some(3), ..PLAIN };
    let story = [subscribe("quote", &["SIM:*"], limited), quote(0, 1_001), turn(), quote(0, 1_002), turn()];
    let story = all(&[&[claim(0)], &connect(1), &story, &[quote(0, 1_003), Action::Renew { client: 0, grant: 0 }]]);
    check(ROOMY, &all(&[&story, &[turn(), quote(0, 1_004), turn()]]));
}

#[test]
fn a_larger_grant_begins_what_it_adds_and_wakes_what_was_held() {
    let renew = |grant| Action::Renew { client: 0, grant };
    let story = [subscribe("trade", &["*"], PLAIN), renew(8), trade(0), trade(3), turn(), renew(0), trade(0), trade(3)];
    check(ROOMY, &all(&[&[claim(0), claim(3), trade(3)], &connect(1), &story]));
}

#[test]
fn a_late_feed_concerns_those_who_wait_for_it() {
    let story = [subscribe("trade", &["*"], PLAIN), Action::LateFeed, claim(3), trade(3), turn()];
    check(Sizes { late_feed: true, ..ROOMY }, &all(&[&connect(0), &story]));
}

#[test]
fn a_gap_that_waits_for_the_socket_is_named_once_and_its_book_follows() {
    let outbox = OutboxLimits { events_max: 1, ..ROOMY.outbox };
    let story = [subscribe("book", &["SIM:*"], PLAIN), serve(), turn(), socket(Take::Stall)];
    let story = all(&[&[claim(0), book(0, 9_001)], &connect(0), &story]);
    let end = [lost(0), turn(), change(0, 9_002), book(0, 9_003), turn(), change(0, 9_004), turn()];
    check(Sizes { outbox, ..ROOMY }, &all(&[&story, &end]));
}

#[test]
fn a_book_that_is_claimed_again_begins_under_its_gap() {
    let story = [subscribe("book", &["SIM:*"], PLAIN), serve(), turn(), Action::Release { instrument: 0 }];
    let story = all(&[&[claim(0), book(0, 9_001)], &connect(0), &story]);
    check(ROOMY, &all(&[&story, &[claim(0), book(0, 9_002), turn(), change(0, 9_003), turn()]]));
}

#[test]
fn a_lost_books_snapshot_that_the_lane_drops_is_asked_for_again() {
    let story = [subscribe("book", &["SIM:*"], PLAIN), serve(), turn(), trade(0), lost(0), quote(0, 1), quote(0, 2)];
    let story = all(&[&[claim(0), book(0, 9_001)], &connect(0), &[subscribe("quote", &["SIM:*"], PLAIN)], &story]);
    let sizes = Sizes { lane_events: 4, ..ROOMY };
    let end = [quote(0, 3), book(0, 9_002), Action::Turn { worker: 0, events: 4 }, change(0, 9_003), turn()];
    check(sizes, &all(&[&story, &end]));
}

#[test]
fn the_symbols_of_one_command_take_effect_at_once() {
    let (exact, every) = (Subscribe { mode: Some("latest"), ..PLAIN }, Subscribe { mode: Some("every"), ..PLAIN });
    let held = [subscribe("quote", &["SIM:AA-USD"], exact), subscribe("quote", &["SIM:*"], every)];
    let symbols = vec!["SIM:AA-USD", "SIM:*"];
    let end = [Action::Unsubscribe { client: 0, channel: "quote", symbols }, quote(0, 1_002), turn()];
    check(ROOMY, &all(&[&[claim(0), quote(0, 1_001)], &connect(0), &held, &end]));
    let twice = Subscribe { snapshot: Some(true), ..PLAIN };
    let story = [socket(Take::Stall), subscribe("trade", &["SIM:AA-USD", "SIM:*"], twice), trade(0), turn()];
    check(ROOMY, &all(&[&[claim(0)], &connect(0), &story]));
}

#[test]
fn an_upstream_gap_before_the_first_value_is_told_to_a_full_socket() {
    let gap = Action::Lost { instrument: 0, kind: 2, lost: Some(4) };
    let story = [socket(Take::Stall), subscribe("trade", &["SIM:*"], PLAIN), turn(), gap, turn()];
    check(ROOMY, &all(&[&[claim(0)], &connect(0), &story]));
}

#[test]
fn the_value_that_a_lane_dropped_before_a_gap_reaches_latest() {
    let gap = Action::Lost { instrument: 0, kind: 1, lost: None };
    let story =
        [subscribe("quote", &["SIM:*"], PLAIN), quote(0, 1), quote(0, 2), quote(0, 3), quote(0, 4), quote(0, 5)];
    let story = all(&[&[claim(0)], &connect(0), &story, &[Action::Turn { worker: 0, events: 1 }, gap, turn()]]);
    check(Sizes { lane_events: 4, ..ROOMY }, &story);
}

#[test]
fn a_snapshot_that_waits_for_its_book_repeats_nothing() {
    let other = |command| Action::Subscribe { client: 1, command };
    let book_of = |snapshot| Subscribe { channel: "book", symbols: vec!["SIM:*"], snapshot, ..PLAIN };
    let begin = [Action::Connect { client: 1, worker: 1, grant: 0 }, Action::Turn { worker: 1, events: 9 }];
    let begin = all(&[&[claim(0), book(0, 9_001)], &begin, &[other(book_of(None)), serve()], &connect(0)]);
    let mine = |snapshot| Action::Subscribe { client: 0, command: book_of(Some(snapshot)) };
    let story = [mine(false), mine(true), change(0, 9_002), turn(), change(0, 9_003), turn()];
    check(ROOMY, &all(&[&begin, &story]));
}
