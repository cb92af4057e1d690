//! Two figures that are asked of the whole, on two cores: `cargo bench --bench limits`.
//!
//! `workers`: what a second worker adds to the first, with writes to a null sink. `ingest`: events
//! a second from the simulated venue to the store and the lane. A name as argument runs one.
#![allow(missing_docs, clippy::print_stdout)]

#[path = "../support/mod.rs"]
mod support;

mod ingest;
mod workers;

use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Keeps the calling thread on the `nth` core that the process may use; `false` where there is
/// none.
fn pin(nth: usize) -> bool {
    let Ok(allowed) = sched_getaffinity(None) else { return false };
    let Some(core) = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).nth(nth) else { return false };
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).is_ok()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("this needs two cores");
        return;
    }
    // Cargo passes flags of its own.
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|arg| arg == name);
    if wanted("workers") {
        workers::print();
    }
    if wanted("ingest") {
        ingest::print();
    }
}
