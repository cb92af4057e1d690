//! Steers a run through its phases: starts the threads, looks at the hub between the phases, and gathers what comes
//! out.

use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use hdrhistogram::Histogram;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time,
};

use crate::{
    clock, connect, discover,
    hub_process::Sample,
    measure::{self, Count, Outcome, Phase, Shared, Totals},
    options::Plan,
    progress::Progress,
    report::{Facts, HubFacts, Report, Second, count},
    worker::{LiveFigures, Worker},
};

/// How often this thread looks at what the others publish.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Live figures of one interval from every thread fit four times over; what is not fetched in time is dropped.
const LIVE_FIGURES_PER_THREAD: usize = 4;

/// A thread answers within a turn, which is never longer than this unless it is saturated.
const LIVE_FIGURES_WAIT: Duration = Duration::from_millis(30);

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Done,
    Interrupted,
}

struct Run {
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    live: Receiver<LiveFigures>,
    progress: Progress,
    /// Held for the whole run, so that no Ctrl-C falls between two waits.
    interrupt: Signal,
    seconds: Vec<Second>,
    facts: Facts,
}

/// Runs the plan from the first connection to the report.
///
/// # Errors
/// It cannot begin, or a thread of this process fails.
pub async fn run(plan: Plan) -> anyhow::Result<Report> {
    let plan = Arc::new(plan);
    let options = &plan.options;
    connect::raise_descriptor_limit(options.clients)?;
    let instruments = discover::instruments(&plan).await?;
    let before = options.pid.map(Sample::take).transpose()?;
    let interrupt = signal(SignalKind::interrupt())?;
    let shared = Arc::new(Shared::new(options.threads));
    let (sender, live) = sync_channel(options.threads * LIVE_FIGURES_PER_THREAD);
    let mut threads = Vec::new();
    for number in 0..options.threads {
        let worker = Worker::new(plan.clone(), shared.clone(), &instruments, number, sender.clone())?;
        let thread = thread::Builder::new().name(format!("clients-{number}"));
        threads.push(thread.spawn(move || worker.run())?);
    }
    let facts = Facts { instruments: instruments.len(), ..Facts::default() };
    let progress = Progress::new();
    let mut run =
        Run { plan: plan.clone(), shared: shared.clone(), live, progress, interrupt, seconds: Vec::new(), facts };
    // The threads have to be sent home whatever happens in between.
    let steered = run.steer(before).await;
    shared.enter(Phase::Close);
    run.progress.begin("closing", 1);
    let mut outcome = Outcome::default();
    for thread in threads {
        let mine = thread.join().map_err(|_| anyhow!("a thread of the harness panicked"))?;
        outcome.merge(mine.context("epoll")?);
    }
    run.progress.finish();
    run.facts.interrupted = steered? == Step::Interrupted;
    run.facts.totals = shared.totals();
    Ok(Report::new(&plan, run.facts, outcome, run.seconds))
}

impl Run {
    async fn steer(&mut self, before: Option<Sample>) -> anyhow::Result<Step> {
        if self.connect().await == Step::Interrupted {
            return Ok(Step::Interrupted);
        }
        let ready = self.shared.totals()[Count::Ready];
        if ready == 0 {
            return Ok(Step::Done);
        }
        self.shared.enter(Phase::Settle);
        self.progress.begin("settling", 1);
        if self.rest(self.plan.options.settle).await == Step::Interrupted {
            return Ok(Step::Interrupted);
        }
        let idle = self.plan.options.pid.map(Sample::take).transpose()?;
        self.shared.enter(Phase::Warmup);
        self.progress.begin("warming up", 1);
        if self.rest(self.plan.options.warmup).await == Step::Interrupted {
            return Ok(Step::Interrupted);
        }
        let step = self.measure(before, idle).await?;
        self.shared.enter(Phase::Frontier);
        self.wait_for_threads(Duration::from_secs(10)).await;
        self.shared.enter(Phase::Tail);
        self.progress.begin("catching up", 1);
        self.wait_for_threads(self.plan.options.tail).await;
        Ok(step)
    }

    async fn connect(&mut self) -> Step {
        let clients = self.plan.options.clients as u64;
        let begun = clock::instant();
        self.progress.begin("connecting", clients);
        loop {
            let totals = self.shared.totals();
            let (ready, failed) = (totals[Count::Ready], totals[Count::Failed]);
            let took = (clock::instant() - begun).as_secs_f64();
            let rate = count(ready as f64 / took.max(1e-3));
            let figures = format!("{ready} of {clients} subscribed, {failed} failed, {rate}/s");
            self.progress.update(ready + failed, &figures);
            (self.facts.ready, self.facts.failed, self.facts.connect_s) = (ready, failed, took);
            if ready + failed >= clients {
                break Step::Done;
            }
            if self.rest(LOOK_EVERY).await == Step::Interrupted {
                break Step::Interrupted;
            }
        }
    }

    async fn measure(&mut self, before: Option<Sample>, idle: Option<Sample>) -> anyhow::Result<Step> {
        let length = self.plan.options.duration;
        let sessions = self.facts.ready - self.shared.totals()[Count::Closed].min(self.facts.ready);
        // What was timed before does not belong to the first second.
        let _ = self.fetch_live().await;
        self.shared.enter(Phase::Measure);
        self.progress.begin("measuring", length.as_millis() as u64);
        let own_cpu = clock::process_cpu();
        let hub = self.plan.options.pid.map(Sample::take).transpose()?;
        let (begun, at_begin) = (clock::instant(), self.shared.totals());
        let step = self.watch_window(begun, at_begin, length).await;
        let at_end = self.shared.totals();
        self.facts.window_s = (clock::instant() - begun).as_secs_f64();
        self.facts.window = at_end - at_begin;
        self.facts.own_cpu_s = clock::process_cpu().saturating_sub(own_cpu).as_secs_f64();
        if let (Some(pid), Some(before), Some(idle), Some(hub)) = (self.plan.options.pid, before, idle, hub) {
            // A hub that died is what the run has to report, not a reason to report nothing.
            match Sample::take(pid) {
                Ok(after) => {
                    self.facts.hub = Some(HubFacts { used: after.used_since(&hub), before, idle, after, sessions })
                }
                Err(error) => self.facts.notes.push(format!("the hub's process could not be read again: {error:#}")),
            }
        }
        Ok(step)
    }

    /// Live figures once a second until the window ends.
    async fn watch_window(&mut self, begun: Instant, at_begin: Totals, length: Duration) -> Step {
        let mut last = (begun, at_begin);
        let mut figures = String::new();
        loop {
            let now = clock::instant();
            let passed = now - begun;
            if now - last.0 >= Duration::from_secs(1) {
                let (totals, latency) = (self.shared.totals(), self.fetch_live().await);
                let second = Second::new(passed.as_secs_f64(), (now - last.0).as_secs_f64(), totals - last.1, &latency);
                figures = second.line(totals);
                self.seconds.push(second);
                last = (now, totals);
            }
            self.progress.update(passed.as_millis() as u64, &figures);
            if passed >= length {
                return Step::Done;
            }
            if self.rest(LOOK_EVERY.min(length - passed)).await == Step::Interrupted {
                return Step::Interrupted;
            }
        }
    }

    /// Sleeps, unless the user has had enough.
    async fn rest(&mut self, length: Duration) -> Step {
        tokio::select! {
            () = time::sleep(length) => Step::Done,
            _ = self.interrupt.recv() => Step::Interrupted,
        }
    }

    /// Latencies since this was asked last, of all threads.
    async fn fetch_live(&self) -> Histogram<u32> {
        self.shared.tick.fetch_add(1, Ordering::Relaxed);
        time::sleep(LIVE_FIGURES_WAIT).await;
        let mut sum = measure::coarse_histogram();
        while let Ok((_, figures)) = self.live.try_recv() {
            sum.add(figures).expect("all histograms have the same bounds");
        }
        sum
    }

    async fn wait_for_threads(&mut self, longest: Duration) {
        let begun = clock::instant();
        while self.shared.done.load(Ordering::Acquire) < self.plan.options.threads && clock::instant() - begun < longest
        {
            if self.rest(LOOK_EVERY).await == Step::Interrupted {
                return;
            }
        }
    }
}
