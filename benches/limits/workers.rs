//! Two workers over one: the same events to the sessions of one worker on one core, and of two
//! workers on two. The feed thread fills the lanes before each round and then rests, so that what
//! is measured is the workers alone.

use std::hint::black_box;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;

use tickhub::fanout::{Fanout, LaneReader};
use tickhub::time;
use tickhub::wire::command::Mode;

use crate::support::{BACKLOG, Hub, LANE_EVENTS_MAX, Null, RECEIVED, crowd, hub, quote, turn};
use crate::{median, pin};

/// Pairs of one and two workers, one after the other, so that what else the machine does meets
/// both alike.
const PAIRS: usize = 15;
/// Deliveries of one round and worker, about: a few tens of milliseconds.
const DELIVERIES: usize = 2_000_000;

/// Whether the workers have their frames from one feed thread, as in the hub, and so count
/// references to the same frames.
#[derive(Clone, Copy, PartialEq)]
enum Frames {
    Shared,
    Apart,
}

/// Workers that wait for their rounds.
struct Crew {
    hubs: Vec<Hub>,
    start: Arc<Barrier>,
    done: mpsc::Receiver<u64>,
    workers: usize,
    events: usize,
}

impl Crew {
    fn new(workers: usize, sessions: usize, events_in_turn: usize, frames: Frames) -> Self {
        let mut hubs = match frames {
            Frames::Shared => vec![hub(workers)],
            Frames::Apart => (0..workers).map(|_| hub(1)).collect(),
        };
        let lanes: Vec<(usize, usize)> =
            (0..workers).map(|at| if frames == Frames::Shared { (0, at) } else { (at, 0) }).collect();
        let fanouts: Vec<Fanout> =
            lanes.iter().map(|(at, index)| crowd(&hubs[*at].store, *index, sessions, Mode::Every)).collect();
        let readers: Vec<LaneReader> = hubs.iter_mut().flat_map(|hub| hub.lanes.drain(..)).collect();
        let (start, (tell, done)) = (Arc::new(Barrier::new(workers + 1)), mpsc::channel());
        let events = (DELIVERIES / sessions).clamp(BACKLOG, LANE_EVENTS_MAX / 2);
        for (core, (fanout, lane)) in fanouts.into_iter().zip(readers).enumerate() {
            let (start, tell) = (Arc::clone(&start), tell.clone());
            thread::spawn(move || {
                pin(core);
                serve(fanout, lane, (events, events_in_turn), &start, &tell);
            });
        }
        Self { hubs, start, done, workers, events }
    }

    /// Deliveries a second of all workers together, counted until the last of them is done.
    fn round(&mut self, sessions: usize) -> f64 {
        let quote = quote();
        for hub in &mut self.hubs {
            (0..self.events).for_each(|_| hub.instrument.quote(RECEIVED, &quote));
        }
        self.start.wait();
        let longest = (0..self.workers).map(|_| self.done.recv().expect("a worker")).max().expect("a worker");
        (self.workers * self.events * sessions) as f64 * 1e9 / longest as f64
    }
}

/// Takes `events` in each round, until nobody waits for it any more.
fn serve(
    mut fanout: Fanout,
    mut lane: LaneReader,
    (events, events_in_turn): (usize, usize),
    start: &Barrier,
    tell: &mpsc::Sender<u64>,
) {
    let mut sink = Null::default();
    loop {
        start.wait();
        let began = time::mono();
        let mut taken = 0;
        while taken < events {
            taken += turn(&mut fanout, &mut lane, &mut sink, events_in_turn);
        }
        if tell.send(time::mono() - began).is_err() {
            return;
        }
    }
}

/// Rates of one worker and of two, by pair.
fn pairs(sessions: usize, events_in_turn: usize, frames: Frames) -> Vec<(f64, f64)> {
    let mut one = Crew::new(1, sessions, events_in_turn, frames);
    let mut two = Crew::new(2, sessions, events_in_turn, frames);
    // Until everything that is kept has its size.
    one.round(sessions);
    two.round(sessions);
    (0..PAIRS).map(|_| (one.round(sessions), two.round(sessions))).collect()
}

/// What two threads that share nothing reach over one: the machine's own bound.
fn machine() -> f64 {
    let spin = || {
        let began = time::mono();
        let mut x = 1_u64;
        for i in 0..30_000_000_u64 {
            x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i));
        }
        1e9 / (time::mono() - began) as f64
    };
    let run = |threads: usize| {
        thread::scope(|scope| {
            let spinning: Vec<_> = (0..threads)
                .map(|core| {
                    scope.spawn(move || {
                        pin(core);
                        spin()
                    })
                })
                .collect();
            let slowest = spinning.into_iter().map(|one| one.join().expect("it spins")).fold(f64::MAX, f64::min);
            slowest * threads as f64
        })
    };
    median(
        (0..PAIRS)
            .map(|_| {
                let one = run(1);
                run(2) / one
            })
            .collect(),
    )
}

pub(crate) fn print() {
    println!("two workers over one, deliveries to a null sink; must 1.80, aim 1.95");
    println!("  two threads that share nothing: {:.2}", machine());
    println!(
        "  {:>8} {:>7} {:>8}  {:>14} {:>14} {:>8} {:>8}",
        "sessions", "at once", "frames", "one, M/s", "two, M/s", "median", "best"
    );
    for (sessions, events_in_turn) in
        [(1, BACKLOG), (10, BACKLOG), (100, BACKLOG), (1_000, 1), (1_000, BACKLOG), (10_000, 1), (10_000, BACKLOG)]
    {
        for (frames, name) in [(Frames::Shared, "shared"), (Frames::Apart, "apart")] {
            let pairs = pairs(sessions, events_in_turn, frames);
            let best = |rates: &mut dyn Iterator<Item = f64>| rates.fold(0.0, f64::max);
            let one = best(&mut pairs.iter().map(|pair| pair.0));
            let two = best(&mut pairs.iter().map(|pair| pair.1));
            let ratio = median(pairs.iter().map(|(one, two)| two / one).collect());
            println!(
                "  {sessions:>8} {events_in_turn:>7} {name:>8}  {:>14.1} {:>14.1} {ratio:>8.2} {:>8.2}",
                one / 1e6,
                two / 1e6,
                two / one
            );
        }
    }
}
