//! Events a second from the simulated venue to the store and the lane, on one core; what is
//! encoded is taken by a worker on the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tickhub::fanout::{Fanout, LaneReader, OutboxLimits, Requests, Wake, lane};
use tickhub::ingest::Ingest;
use tickhub::limits::{FEED_REQUESTS_MAX, LANE_EVENTS_MAX};
use tickhub::metrics::{self, Registry};
use tickhub::model::{Channel, Pattern, UnixNanos};
use tickhub::provider::Provider;
use tickhub::provider::sim::{Config, Rate, Sim};
use tickhub::shutdown::stop_signal;
use tickhub::store::Store;
use tickhub::time;
use tickhub::wire::command::Mode;

use crate::support::{Null, options};
use crate::{median, pin};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(500);
/// Events of one turn, as in the hub.
const TURN_EVENTS_MAX: usize = 4096;

/// Who wants what the venue says.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    Nothing,
    /// Quotes, trades and books, by one session on the worker of the other core.
    Everything,
}

#[derive(Default)]
struct Figures {
    events: f64,
    encoded: f64,
    dropped: u64,
    wakes: u64,
}

fn sim(quotes_only: bool) -> Sim {
    let mut config = Config { events_per_second: Rate::Max, ..Config::default() };
    if quotes_only {
        (config.quote_share, config.trade_share, config.book_share) = (1, 0, 0);
    }
    Sim::new(&config)
}

/// The sum of a metric over its labels.
fn sum(rendered: &str, name: &str) -> u64 {
    let of = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    rendered.lines().filter(|line| of(line)).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// A worker as the hub runs it, without sockets: turns while there is something, asleep otherwise.
fn work(mut fanout: Fanout, mut lane: LaneReader, wake: &Wake, over: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut sink = Null::default();
    runtime.block_on(async {
        while !over.load(Ordering::Relaxed) {
            let events = crate::support::turn(&mut fanout, &mut lane, &mut sink, TURN_EVENTS_MAX);
            if lane.take_overflow() {
                fanout.resync();
            }
            if events > 0 {
                continue;
            }
            wake.prepare_sleep();
            if lane.is_empty() {
                let _ = tokio::time::timeout(Duration::from_millis(50), wake.woken()).await;
            }
            wake.awake();
        }
    });
}

fn round(wanted: Wanted, quotes_only: bool) -> Figures {
    let (store, registry, wake) = (Store::new(256 << 20), Registry::new(), Arc::new(Wake::default()));
    let dropped = registry.counter(metrics::LANE_DROPPED, &[]);
    let (writer, reader) = lane(LANE_EVENTS_MAX, Arc::clone(&wake), dropped);
    let requests = Requests::new(FEED_REQUESTS_MAX);
    let waker = writer.waker();
    let ingest = Ingest::new(Arc::clone(&store), Arc::clone(&registry), 0, vec![writer], requests.clone());
    let feed = ingest.feed("SIM", "bench", UnixNanos(0)).expect("room for a feed");
    let bounds = OutboxLimits { events_max: 4096, bytes_max: 1 << 20, control_bytes_max: 1 << 18 };
    let mut fanout = Fanout::new(0, store, bounds, vec![requests], None);
    if wanted == Wanted::Everything {
        let session = fanout.open(Arc::from([Pattern::all()]), tickhub::wire::Format::Json);
        for channel in [Channel::Quote, Channel::Trade, Channel::Book] {
            let options = options(Mode::Every);
            fanout.subscribe(session, channel, (options, options), &["SIM:*".to_owned()], &[], 10).expect("a pattern");
        }
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            work(fanout, reader, &wake, &over);
        });
        pin(0);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().on_thread_park(move || waker.flush()).build().expect("a runtime");
        let (_stopper, stop) = stop_signal();
        let mut sim = sim(quotes_only);
        // Its instruments and books are there, and everyone has been told, before the count begins.
        let play = async |length: Duration, sim: &mut Sim| {
            tokio::select! {
                _ = sim.run(&feed, stop.clone()) => {}
                () = ingest.serve(stop.clone()) => {}
                () = tokio::time::sleep(length) => {}
            }
        };
        let figures = runtime.block_on(async {
            play(ROUND / 5, &mut sim).await;
            let (before, wakes) = (registry.render(), wake.wakes());
            let began = time::mono();
            play(ROUND, &mut sim).await;
            let took = Duration::from_nanos(time::mono() - began).as_secs_f64();
            let after = registry.render();
            let more = |name| sum(&after, name) - sum(&before, name);
            Figures {
                events: more(metrics::EVENTS) as f64 / took,
                encoded: more(metrics::ENCODED) as f64 / took,
                dropped: more(metrics::LANE_DROPPED),
                wakes: wake.wakes() - wakes,
            }
        });
        over.store(true, Ordering::Relaxed);
        figures
    })
}

pub(crate) fn print() {
    println!("ingest of simulated data on one core, events/s; must 2.0 M unwanted and 1.0 M encoded, aim twice that");
    for (quotes_only, mix) in [(true, "quotes"), (false, "quotes, trades and books")] {
        for (wanted, name) in [(Wanted::Nothing, "unwanted"), (Wanted::Everything, "encoded for a worker")] {
            let rounds: Vec<Figures> = (0..ROUNDS).map(|_| round(wanted, quotes_only)).collect();
            let of = |figure: fn(&Figures) -> f64| rounds.iter().map(figure).collect::<Vec<f64>>();
            println!(
                "  {mix}, {name}: median {:.2} M, best {:.2} M; {:.2} M encoded/s; {} dropped, {} wakes in all",
                median(of(|f| f.events)) / 1e6,
                of(|f| f.events).into_iter().fold(0.0, f64::max) / 1e6,
                median(of(|f| f.encoded)) / 1e6,
                rounds.iter().map(|f| f.dropped).sum::<u64>(),
                rounds.iter().map(|f| f.wakes).sum::<u64>(),
            );
        }
    }
}
