//! Steers a run through its phases: starts the threads, looks at the hub between the phases, and gathers what comes
//! out.

use std::{
    sync::{
        Arc, PoisonError,
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
    measure::{self, Count, Outcome, Reached, Shared, Step, Totals},
    options::Plan,
    progress::Progress,
    report::{Facts, HubFacts, PhaseFacts, Report, Second, count},
    source::{Generator, Sent},
    venue::Venue,
    worker::{LiveFigures, Worker},
};

/// How often this thread looks at what the others publish.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Live figures of one interval from every thread fit four times over; what is not fetched in time is dropped.
const LIVE_FIGURES_PER_THREAD: usize = 4;
/// A thread answers within a turn, which is never longer than this unless it is saturated.
const LIVE_FIGURES_WAIT: Duration = Duration::from_millis(30);
/// What is left of a phase is shown as a second if it was at least so long.
const SECOND_MIN: Duration = Duration::from_millis(500);
/// How long threads may take to say how far their clients have come.
const FRONTIER_WAIT: Duration = Duration::from_secs(10);

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Go {
    On,
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
    generator: Option<Generator>,
    sent: Option<Sent>,
}

/// Runs the plan from the first connection to the report; `venue` is the one that this process plays.
///
/// # Errors
/// It cannot begin, or a thread of this process fails.
pub async fn run(plan: Plan, venue: Option<Arc<Venue>>) -> anyhow::Result<Report> {
    let plan = Arc::new(plan);
    let scenario = &plan.scenario;
    connect::raise_descriptor_limit(scenario.clients)?;
    let (instruments, candidates) = discover::instruments(&plan).await?;
    let before = plan.pid.map(Sample::take).transpose()?;
    let interrupt = signal(SignalKind::interrupt())?;
    let shared = Arc::new(Shared::new(scenario.threads));
    let (sender, live) = sync_channel(scenario.threads * LIVE_FIGURES_PER_THREAD);
    let mut threads = Vec::new();
    for number in 0..scenario.threads {
        let (plan, shared, sender) = (plan.clone(), shared.clone(), sender.clone());
        let worker = Worker::new(plan, shared, &instruments, candidates.clone(), number, sender)?;
        let thread = thread::Builder::new().name(format!("clients-{number}"));
        threads.push(thread.spawn(move || worker.run())?);
    }
    let generator = match (venue, plan.origin) {
        (Some(venue), Some(origin)) => Some(Generator::start(venue, scenario, shared.clone(), origin)?),
        _ => None,
    };
    let facts = Facts { instruments: instruments.len(), ..Facts::default() };
    let progress = Progress::new();
    let mut run = Run {
        plan: plan.clone(),
        shared: shared.clone(),
        live,
        progress,
        interrupt,
        seconds: Vec::new(),
        facts,
        generator,
        sent: None,
    };
    // The threads have to be sent home whatever happens in between.
    let steered = run.steer(before).await;
    shared.enter(Step::Close);
    run.progress.begin("closing", 1);
    let mut outcome = Outcome::new(scenario.phases.len());
    for thread in threads {
        let mine = thread.join().map_err(|_| anyhow!("a thread of the harness panicked"))?;
        outcome.merge(mine.context("epoll")?);
    }
    run.progress.finish();
    if let Some(sent) = &run.sent {
        for (phase, late) in outcome.phases.iter_mut().zip(&sent.late) {
            phase.late.add(late).expect("all histograms have the same bounds");
        }
    }
    run.facts.interrupted = steered? == Go::Interrupted;
    run.facts.totals = shared.totals();
    Ok(Report::new(&plan, run.facts, outcome, run.seconds))
}

impl Run {
    async fn steer(&mut self, before: Option<Sample>) -> anyhow::Result<Go> {
        if self.connect().await == Go::Interrupted {
            return Ok(Go::Interrupted);
        }
        let ready = self.shared.totals()[Count::Ready];
        if ready == 0 {
            return Ok(Go::On);
        }
        self.shared.enter(Step::Settle);
        self.progress.begin("settling", 1);
        if self.rest(self.plan.scenario.settle).await == Go::Interrupted {
            return Ok(Go::Interrupted);
        }
        let idle = self.plan.pid.map(Sample::take).transpose()?;
        let sessions = self.facts.ready - self.shared.totals()[Count::Closed].min(self.facts.ready);
        if let (Some(before), Some(idle)) = (before, idle) {
            self.facts.hub = Some(HubFacts { after: idle.clone(), before, idle, sessions });
        }
        let mut go = Go::On;
        for at in 0..self.plan.scenario.phases.len() {
            go = self.phase(at).await;
            if go == Go::Interrupted {
                break;
            }
        }
        if let (Some(pid), Some(hub)) = (self.plan.pid, &mut self.facts.hub) {
            match Sample::take(pid) {
                Ok(after) => hub.after = after,
                Err(error) => self.facts.notes.push(format!("the hub's process could not be read again: {error:#}")),
            }
        }
        self.wait_for_return().await;
        self.finish_generator()?;
        self.shared.enter(Step::Frontier);
        self.wait_for_threads(FRONTIER_WAIT).await;
        self.shared.enter(Step::Tail);
        self.progress.begin("catching up", 1);
        self.wait_for_threads(self.plan.scenario.tail).await;
        Ok(go)
    }

    async fn connect(&mut self) -> Go {
        let clients = self.plan.scenario.clients as u64;
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
                break Go::On;
            }
            if self.rest(LOOK_EVERY).await == Go::Interrupted {
                break Go::Interrupted;
            }
        }
    }

    async fn phase(&mut self, at: usize) -> Go {
        let plan = self.plan.clone();
        let (phase, phases) = (&plan.scenario.phases[at], plan.scenario.phases.len());
        let title = if phases > 1 { format!("{} ({}/{phases})", phase.name, at + 1) } else { phase.name.clone() };
        // What was timed before does not belong to the first second.
        let _ = self.fetch_live().await;
        self.shared.enter(Step::Run(at as u8));
        // A thread that is busy with a long turn would take a short phase for over before it has seen it.
        let asked = clock::instant();
        while self.shared.entered.load(Ordering::Acquire) < plan.scenario.threads
            && clock::instant() - asked < FRONTIER_WAIT
        {
            time::sleep(Duration::from_millis(1)).await;
        }
        self.progress.begin(&title, phase.duration.as_millis() as u64);
        let own_cpu = clock::process_cpu();
        let hub = plan.pid.and_then(|pid| Sample::light(pid).ok());
        let (begun, at_begin) = (clock::instant(), self.shared.totals());
        let go = self.watch_phase(at, begun, at_begin, hub.clone(), phase.duration).await;
        let hub_after = plan.pid.and_then(|pid| Sample::light(pid).ok());
        self.facts.phases.push(PhaseFacts {
            seconds: (clock::instant() - begun).as_secs_f64(),
            counted: self.shared.totals() - at_begin,
            own_cpu_s: clock::process_cpu().saturating_sub(own_cpu).as_secs_f64(),
            hub: hub.zip(hub_after).map(|(before, after)| (after.used_since(&before), after.rss)),
        });
        go
    }

    /// Live figures once a second until the phase ends.
    async fn watch_phase(
        &mut self,
        phase: usize,
        begun: Instant,
        at_begin: Totals,
        hub: Option<Sample>,
        length: Duration,
    ) -> Go {
        let before: f64 = self.facts.phases.iter().map(|phase| phase.seconds).sum();
        let mut last = (begun, at_begin, hub);
        let mut figures = String::new();
        loop {
            let now = clock::instant();
            let passed = now - begun;
            let left = length.saturating_sub(passed);
            let last_one = left.is_zero() && now - last.0 >= SECOND_MIN;
            if now - last.0 >= Duration::from_secs(1) || last_one {
                let (totals, latency) = (self.shared.totals(), self.fetch_live().await);
                let hub = self.plan.pid.and_then(|pid| Sample::light(pid).ok());
                let used = last.2.as_ref().zip(hub.as_ref()).map(|(before, now)| (now.used_since(before).ns, now.rss));
                let (at, interval) = (before + passed.as_secs_f64(), (now - last.0).as_secs_f64());
                let second = Second::new(phase, at, interval, totals - last.1, &latency, used);
                figures = second.line(totals);
                self.seconds.push(second);
                last = (now, totals, hub);
                if last_one {
                    return Go::On;
                }
            }
            self.progress.update(passed.as_millis() as u64, &format!("{:.0} s left  {figures}", left.as_secs_f64()));
            if left.is_zero() {
                return Go::On;
            }
            if self.rest(LOOK_EVERY.min(left)).await == Go::Interrupted {
                return Go::Interrupted;
            }
        }
    }

    /// Clients that were cut off and are still on their way back get the time that every client has.
    async fn wait_for_return(&mut self) {
        self.shared.enter(Step::Return);
        let begun = clock::instant();
        loop {
            let totals = self.shared.totals();
            let (cut, here) = (totals[Count::Cut], totals[Count::Back] + totals[Count::NotBack]);
            let waited = clock::instant() - begun;
            if here >= cut || waited > self.plan.scenario.connect_timeout {
                return;
            }
            self.progress.begin("coming back", cut);
            self.progress.update(here, &format!("{here} of {cut}"));
            if self.rest(LOOK_EVERY).await == Go::Interrupted {
                return;
            }
        }
    }

    /// What the venue sent is what every client has to come to, whether any of them got it or not.
    fn finish_generator(&mut self) -> anyhow::Result<()> {
        let Some(generator) = self.generator.take() else { return Ok(()) };
        let sent = generator.finish()?;
        let kinds = self.plan.scenario.kinds();
        let mut frontier = self.shared.frontier.lock().unwrap_or_else(PoisonError::into_inner);
        for (channel, instrument, last) in sent.last_numbers() {
            if let Some(kind) = kinds.iter().position(|kind| kind.channel == channel) {
                let reached = Reached { any: last, event: last };
                frontier.entry((kind as u8, instrument.into())).or_default().add(reached);
            }
        }
        drop(frontier);
        self.sent = Some(sent);
        Ok(())
    }

    /// Sleeps, unless the user has had enough.
    async fn rest(&mut self, length: Duration) -> Go {
        tokio::select! {
            () = time::sleep(length) => Go::On,
            _ = self.interrupt.recv() => Go::Interrupted,
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
        let threads = self.plan.scenario.threads;
        while self.shared.done.load(Ordering::Acquire) < threads && clock::instant() - begun < longest {
            if self.rest(LOOK_EVERY).await == Go::Interrupted {
                return;
            }
        }
    }
}
