//! A randomized simulation of the hub's inner loop against a plain model.
// The model says each rule as the protocol page does, which is not always the shortest way.
#![allow(clippy::needless_range_loop, clippy::nonminimal_bool, clippy::type_complexity)]

mod action;
mod client;
mod generate;
mod grants;
mod hub;
mod message;
mod random;
mod shrink;
mod stream;
mod truth;
mod world;

use std::fmt::Write as _;

use generate::Shape;
use random::{Random, fresh_seed};

/// Actions of one run.
const RUN_STEPS: usize = 1_500;

/// Actions of each shape, unless `TICKHUB_SIMULATION_STEPS` says otherwise.
const SHAPE_STEPS: usize = 1_000_000;

/// Seeds that are always run; as many fresh ones follow as there are steps left.
const FIXED_SEEDS: u64 = 20;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One run; `Err` is the story of its failure.
fn run_seed(shape: Shape, seed: u64, steps: usize) -> Result<u64, String> {
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
    let mut messages = 0;
    for run in 0..steps.div_ceil(RUN_STEPS) as u64 {
        let seed = if run < FIXED_SEEDS { run } else { fresh_seed() };
        messages += run_seed(shape, seed, RUN_STEPS).unwrap_or_else(|story| panic!("{story}"));
    }
    assert!(messages > steps as u64 / 10, "{messages} messages are too few to mean anything");
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
