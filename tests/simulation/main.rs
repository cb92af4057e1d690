//! A randomized simulation of the hub's inner loop against a plain model: the seven guarantees of
//! the protocol page, the rules of entries and grants, the values, and the bounds of what waits.
//!
//! The real store, ingest, lanes, fan-out workers and sessions run on one thread with a virtual
//! clock; sockets take what they like; clients judge every byte by the protocol page alone, against
//! a model of what the venues published; every other one of them speaks the binary form. A run is a list of [`action::Action`]s made from a seed.
//! One that breaks a rule is shrunk, and printed with its seed.
//!
//! `TICKHUB_SIMULATION_SEED` runs that seed in each shape, `TICKHUB_SIMULATION_STEPS` sets the
//! actions of each shape; with `TICKHUB_SIMULATION_HUNT=1` every seed is a fresh one, to look for what the
//! seeds that are always run do not find.
//!
//! Where the page leaves room, clients hold the hub to this:
//! - A book's gap may be followed by another that begins where it ends; the snapshot's number is
//!   then the `to` of the last one.
//! - A snapshot asked for in the middle of a stream in mode `every` stands behind every event up to
//!   its number. While a book's window is still on its way, a gap of cause `hub` may stand for them.
//! - Where an `unsubscribe` or a renewal changes mode or depth, a snapshot always follows.
//! - Without a snapshot, the first event of mode `latest` may carry the number of the answer.
//! - Behind the `ok` of a renewal, gaps may come until what it takes away is told.
//! - A pattern of a channel or mode that a renewal refuses stays held, and counts as a subscription.
//! - What a resume does not list of a book's state, a client does not have: after a gap it resumes
//!   from the number of its last whole state.
//!
//! Mutations of the hub that were tried by hand, each with 300,000 actions a shape. Caught by every
//! shape, unless another number is given: a gap one number short; a full outbox's gap from one
//! number too late; `served` never noted; no check of the position in `on_numbered`; `leave()`
//! without its gap, or without taking back the dirty mark; `carry_over()` left out; an answer that
//! overtakes the turn; pauses ended before the turn's values are given out; live events before a
//! pending snapshot; each overlapping entry delivering; the shortest pattern winning; a partial
//! frame begun again; a resync without streams (5), without feeds (5); a scope without its grant; an
//! exact id outside the grant; exact entries that survive a renewal; a renewal that looks at the old
//! instruments only; a drain that releases nothing; no pause, one a tenth too short, one twice too
//! long; a book resumed over what is not held (5), over a gap (1: books); an upstream gap missing
//! from the ring (5), or from the slot's number; replicas that miss changes; a window that `latest`
//! is not told of; states to everyone, or from the store; a resume of another epoch, or above the
//! hub's number; an outbox without a bound; waiting sessions not looked at again; requests forgotten
//! where the mailbox is full; a lost book that goes on as it was; a re-claimed book with a new
//! number; a ticker for every quote; a later instrument not announced; an asked-for snapshot
//! dropped; a turn that ends at the first full socket (it panics); a closed session that leaves entries; a depth
//! that is not lowered.
//! Not caught, for it changes nothing that can be seen: a book's ring that is not cleared after a
//! pause (its first number is missing there anyway).

// The model says each rule as the protocol page does, which is not always the shortest way.
#![allow(clippy::needless_range_loop, clippy::nonminimal_bool, clippy::type_complexity)]

mod action;
mod answers;
mod binary;
mod client;
mod client_side;
mod feed_side;
mod generate;
mod grants;
mod hub;
mod ladder;
mod message;
mod random;
mod regressions;
mod shrink;
mod states;
mod stream;
mod truth;
mod world;

use std::fmt::Write as _;

use generate::Shape;
use random::{Random, fresh_seed};
use world::Tally;

/// Actions of one run.
const RUN_STEPS: usize = 1_500;

/// Actions of each shape, unless `TICKHUB_SIMULATION_STEPS` says otherwise.
const SHAPE_STEPS: usize = 500_000;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One run; `Err` is the story of its failure.
fn run_seed(shape: Shape, seed: u64, steps: usize) -> Result<Tally, String> {
    let mut random = Random::new(seed);
    let sizes = shape.sizes(&mut random);
    let actions = shape.actions(&mut random, &sizes, steps);
    shrink::run(sizes, &actions).map_err(|failure| {
        let (shortest, broken) = shrink::shrink(sizes, &actions);
        let mut story = format!("shape {shape:?}, seed {seed}: {}\n\n{sizes:?}\nshrunk to:\n", failure.broken);
        for action in &shortest {
            let _ = writeln!(story, "  {action:?}");
        }
        let _ = write!(story, "which breaks: {broken}\n\nrun again with TICKHUB_SIMULATION_SEED={seed}");
        story
    })
}

fn simulate(shape: Shape) {
    let steps = setting("TICKHUB_SIMULATION_STEPS").map_or(SHAPE_STEPS, |steps| steps as usize);
    if let Some(seed) = setting("TICKHUB_SIMULATION_SEED") {
        return run_seed(shape, seed, RUN_STEPS).map(drop).unwrap_or_else(|story| panic!("{story}"));
    }
    let mut all = Tally::default();
    for run in 0..steps.div_ceil(RUN_STEPS) as u64 {
        // The same runs each time, so that a red run is this change's doing; fresh ones to hunt.
        let seed = if setting("TICKHUB_SIMULATION_HUNT").is_some() { fresh_seed() } else { run };
        all.add(&run_seed(shape, seed, RUN_STEPS).unwrap_or_else(|story| panic!("{story}")));
    }
    let steps = steps as u64;
    assert!(all.messages > steps / 10, "{} messages are too few to mean anything", all.messages);
    if matches!(shape, Shape::Slow | Shape::Budgets) {
        // Each rung was stood on.
        let rungs = [all.gaps, all.disconnects, all.stalls, all.graces * 10];
        assert!(rungs.iter().all(|count| *count > steps / 5_000), "{all:?}");
        assert!(shape == Shape::Slow || all.shed > steps / 2_000, "{all:?}");
    }
}

#[test]
fn roomy() {
    simulate(Shape::Roomy);
}

#[test]
fn tiny_lanes() {
    simulate(Shape::TinyLanes);
}

#[test]
fn tiny_outboxes() {
    simulate(Shape::TinyOutboxes);
}

#[test]
fn wildcards() {
    simulate(Shape::Wildcards);
}

#[test]
fn books() {
    simulate(Shape::Books);
}

#[test]
fn resumes() {
    simulate(Shape::Resumes);
}

#[test]
fn slow() {
    simulate(Shape::Slow);
}

#[test]
fn budgets() {
    simulate(Shape::Budgets);
}
