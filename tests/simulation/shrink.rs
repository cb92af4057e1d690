//! Runs a list of actions, and finds a short one that still fails.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::action::Action;
use crate::hub::Sizes;
use crate::world::{Tally, World};

/// A broken rule, and how many actions it took.
pub(crate) struct Failure {
    pub(crate) broken: String,
    pub(crate) actions: usize,
}

/// Runs the actions; what was broken, if anything was. A panic of the hub is a broken rule too.
pub(crate) fn run(sizes: Sizes, actions: &[Action]) -> Result<Tally, Failure> {
    let mut done = 0;
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(sizes);
        for action in actions {
            done += 1;
            world.step(action)?;
        }
        world.finish()?;
        Ok(world.tally)
    }));
    let broken = match result {
        Ok(Ok(tally)) => return Ok(tally),
        Ok(Err(broken)) => broken,
        Err(panic) => {
            let text =
                panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            format!("panicked: {}", text.unwrap_or("without a word"))
        }
    };
    Err(Failure { broken, actions: done })
}

/// The broken rule without its numbers and names, so that a shorter run breaks the same one.
fn same_rule(broken: &str) -> String {
    let line = broken.lines().next().unwrap_or_default();
    line.split(' ').filter(|word| word.bytes().all(|b| b.is_ascii_lowercase())).take(6).collect()
}

/// Leaves out what is not needed for some failure: halves, then smaller and smaller parts (delta
/// debugging; Zeller, Hildebrandt 2002).
pub(crate) fn shrink(sizes: Sizes, actions: &[Action]) -> (Vec<Action>, String) {
    let mut actions = actions.to_vec();
    let mut broken = String::new();
    if let Err(failure) = run(sizes, &actions) {
        actions.truncate(failure.actions);
        broken = failure.broken;
    }
    let same = same_rule(&broken);
    let mut part = actions.len().div_ceil(2);
    while part > 0 {
        let mut from = 0;
        let mut smaller = false;
        while from < actions.len() {
            let mut without = actions.clone();
            without.drain(from..(from + part).min(actions.len()));
            match run(sizes, &without) {
                Err(failure) if same_rule(&failure.broken) == same => {
                    without.truncate(failure.actions);
                    (actions, broken, smaller) = (without, failure.broken, true);
                }
                _ => from += part,
            }
        }
        if part == 1 && !smaller {
            break;
        }
        part = if part == 1 { 1 } else { part / 2 };
    }
    (actions, broken)
}
