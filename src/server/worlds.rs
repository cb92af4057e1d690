//! The live world and the delayed ones: for each delay of a role a store, lines into it, and
//! threads.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use super::threads::{Common, Joints, Shared, start_feeds, start_workers};
use crate::config::Config;
use crate::fanout::{Budget, LaneWaker, LaneWriter};
use crate::ingest::{Delayed, LineReader, LineWriter, delay_line};
use crate::session::Meters;
use crate::settings::Span;
use crate::shutdown::Stop;
use crate::store::Store;
use crate::transport::{Orders, SharedTerms, Verifier, Worlds};

/// Parts of the machine's memory of which one is left to all else.
const MEMORY_PARTS: u64 = 4;

/// The threads that data goes through, and how the control side reaches it.
pub(super) struct Data {
    pub(super) workers: Vec<JoinHandle<()>>,
    pub(super) feeds: Vec<JoinHandle<()>>,
    pub(super) worlds: Worlds,
    /// The stores of the delayed worlds.
    pub(super) delayed: Vec<(Duration, Arc<Store>)>,
    /// How workers of all worlds are told whom to end.
    pub(super) orders: Orders,
}

/// One delayed world before its threads are started.
struct World {
    delay: Duration,
    common: Common,
    joints: Joints,
    /// By feed thread.
    lines: Vec<LineReader>,
}

/// Starts workers, delay threads and feed threads of all worlds.
pub(super) fn start_data(
    config: &Config,
    common: &Common,
    verifier: Arc<dyn Verifier>,
    meters: &Arc<Meters>,
    terms: &SharedTerms,
    [drain, worker_stop, feed_stop]: [&Stop; 3],
) -> anyhow::Result<Data> {
    let count = match config.server.worker_threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from).min(crate::limits::WORKERS_MAX),
        threads => threads,
    };
    let mut joints = Joints::new(Duration::ZERO, config.server.feed_threads, (0, count), &common.registry);
    let (mut delayed, lines) = make_worlds(config, common, count)?;
    let doors = delayed.iter().map(|world| (world.delay, world.joints.doors.clone()));
    let worlds = Worlds::new([(Duration::ZERO, joints.doors.clone())].into_iter().chain(doors));
    let count_of_all = count + delayed.len() * config.delay.worker_threads;
    let budget = Budget::new(config.limits.outboxes_bytes, count_of_all);
    let (orders, mut books) = Orders::new(count_of_all, &common.registry);
    for joints in std::iter::once(&mut joints).chain(delayed.iter_mut().map(|world| &mut world.joints)) {
        joints.books = books.drain(..joints.doors.len()).collect();
    }
    let shared =
        Shared { verifier, terms: Arc::clone(terms), meters: Arc::clone(meters), budget, worlds: worlds.clone() };
    let stops = (drain, worker_stop);
    let mut workers = start_workers(config, &mut joints, common, &shared, stops)?;
    let mut feeds = Vec::new();
    for world in &mut delayed {
        workers.extend(start_workers(config, &mut world.joints, &world.common, &shared, stops)?);
        feeds.extend(start_delays(world, common, feed_stop)?);
    }
    feeds.extend(start_feeds(config, &mut joints, common, lines, feed_stop)?);
    let delayed = delayed.into_iter().map(|world| (world.delay, world.common.store)).collect();
    Ok(Data { workers, feeds, worlds, delayed, orders })
}

/// The delayed worlds of a configuration, and for each feed thread its lines into them. `workers`
/// is how many the live world has.
///
/// # Errors
/// Where the machine has not the memory for them.
fn make_worlds(config: &Config, common: &Common, workers: usize) -> anyhow::Result<(Vec<World>, Vec<Vec<LineWriter>>)> {
    let (delays, threads) = (config.auth.delays(), config.server.feed_threads);
    if !delays.is_empty() {
        check_memory(config.delay.bytes as u64, memory_bytes())?;
    }
    let mut writers: Vec<Vec<LineWriter>> = (0..threads).map(|_| Vec::new()).collect();
    let mut worlds = Vec::new();
    for (index, delay) in delays.iter().enumerate() {
        let first = workers + index * config.delay.worker_threads;
        let bytes = config.delay.line_bytes(*delay, &delays, threads);
        let mut lines = Vec::new();
        for (thread, row) in writers.iter_mut().enumerate() {
            let (writer, reader) = delay_line(bytes, *delay, thread, &common.registry);
            row.push(writer);
            lines.push(reader);
        }
        worlds.push(World {
            delay: *delay,
            common: Common { store: common.store.beside(), ..common.clone() },
            joints: Joints::new(*delay, threads, (first, config.delay.worker_threads), &common.registry),
            lines,
        });
        tracing::info!(delay = %Span(*delay), line_bytes = bytes, "a delayed world");
    }
    Ok((worlds, writers))
}

/// Starts the threads that bring `world` what its lines hold. `live` is what it is a replica of.
fn start_delays(world: &mut World, live: &Common, stop: &Stop) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let mut handles = Vec::new();
    let lanes = world.joints.take_writers();
    for ((thread, line), lanes) in world.lines.drain(..).enumerate().zip(lanes) {
        let (live, store) = (Arc::clone(&live.store), Arc::clone(&world.common.store));
        let (mailbox, stop) = (world.joints.mailboxes[thread].clone(), stop.clone());
        let wakers: Vec<LaneWaker> = lanes.iter().map(LaneWriter::waker).collect();
        let runtime = Builder::new_current_thread()
            .enable_all()
            .on_thread_park(move || wakers.iter().for_each(LaneWaker::flush))
            .build()
            .context("starting a delay thread")?;
        let name = format!("delay-{}-{thread}", Span(world.delay));
        let handle = std::thread::Builder::new().name(name).spawn(move || {
            let delayed = Delayed::new(live, store, thread, lanes, mailbox, line);
            LocalSet::new().block_on(&runtime, delayed.serve(stop));
        })?;
        handles.push(handle);
    }
    Ok(handles)
}

fn check_memory(bytes: u64, memory: Option<u64>) -> anyhow::Result<()> {
    if let Some(memory) = memory
        && bytes > memory - memory / MEMORY_PARTS
    {
        let most = memory - memory / MEMORY_PARTS;
        bail!(
            "delay.bytes = {bytes}: this machine has {memory} bytes of memory, of which three quarters may wait out a \
             delay; set it to {most} or less, with shorter delays or a lower delay.events_per_second"
        );
    }
    Ok(())
}

/// The memory that the process may have: the machine's, or less where its control group says so.
/// `None` where the system does not tell.
fn memory_bytes() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of(&text));
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    machine.into_iter().chain(group).min()
}

fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_cannot_hold_is_refused_at_the_start() {
        assert_eq!(total_of("MemTotal:       16303396 kB\nMemFree: 1 kB\n"), Some(16_303_396 * 1024));
        assert_eq!((total_of(""), total_of("MemTotal: x kB")), (None, None));
        assert!(check_memory(u64::MAX, None).is_ok(), "a system that does not tell is believed");
        assert!(check_memory(750, Some(1000)).is_ok());
        let said = check_memory(751, Some(1000)).expect_err("too much").to_string();
        assert!(said.contains("delay.bytes = 751") && said.contains("750 or less"), "{said}");
    }
}
