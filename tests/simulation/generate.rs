//! Random actions, and the shapes of runs that provoke different faults.

use tickhub::fanout::OutboxLimits;

use crate::action::{Action, INSTRUMENTS, Level, ResumeFrom, Subscribe, Take};
use crate::grants::{GRANTS, SLOW_GRANTS};
use crate::hub::Sizes;
use crate::random::Random;

/// What a shape has more of than others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Nothing overflows but outboxes: what is exact then must be exact.
    Roomy,
    /// Lanes that overflow all the time.
    TinyLanes,
    /// Outboxes that overflow all the time.
    TinyOutboxes,
    /// Overlapping patterns, and instruments that appear late.
    Wildcards,
    /// Books at all depths, lost and found again.
    Books,
    /// Clients that come back.
    Resumes,
    /// Sockets that are full most of the time, under roles of all kinds.
    Slow,
    /// The same under a memory budget that is never enough.
    Budgets,
}

const SYMBOLS: [&str; 17] = [
    "*",
    "SIM:*",
    "SIM:A*",
    "ALT:*",
    "*:AA-USD",
    "*:A*",
    "SIM:AA-USD",
    "SIM:AB-USD",
    "SIM:B-USD",
    "ALT:AA-USD",
    "SIM:C-USD",
    "ALT:C-USD",
    "SIM:A-EUR",
    "*:*",
    "SIM:NONE",
    "lower:case",
    "SIM:A*B",
];

/// A kind of action, to be filled in.
#[derive(Clone, Copy)]
enum Kind {
    Claim,
    Release,
    Quote,
    Trade,
    Stats,
    Lost,
    BookSnapshot,
    BookDelta,
    BookLost,
    FeedState,
    LateFeed,
    ServeRequests,
    Turn,
    Advance,
    Connect,
    Disconnect,
    Renew,
    BadRenew,
    Subscribe,
    Unsubscribe,
    Ping,
    Nonsense,
    Socket,
    Settle,
    Drain,
}

impl Shape {
    pub(crate) fn sizes(self, random: &mut Random) -> Sizes {
        let tiny_lanes = self == Self::TinyLanes || (self != Self::Roomy && random.percent(20));
        let tiny_outboxes = self == Self::TinyOutboxes || random.percent(40);
        Sizes {
            lane_events: if tiny_lanes { random.pick(&[4, 8, 16, 64]) } else { 4096 },
            requests: if tiny_lanes { random.pick(&[1, 2, 4]) } else { random.pick(&[1, 4, 1024]) },
            outbox: if tiny_outboxes {
                let (events_max, bytes_max) = (random.pick(&[1, 2, 4, 16]), random.pick(&[200, 1_000, 10_000]));
                OutboxLimits { events_max, bytes_max, control_bytes_max: 4_096 }
            } else {
                OutboxLimits { events_max: 1_000, bytes_max: 200_000, control_bytes_max: 64 * 1024 }
            },
            ring_bytes: random.pick(&[0, 4 * 1024, 40 * 1024, 40 * 1024, 64 * 1024 * 1024]),
            threads: 1 + usize::from(random.percent(50)),
            late_feed: random.percent(30),
            clients: if self == Self::Budgets { 8 } else { 5 },
            budget: if self == Self::Budgets {
                Some(random.pick(&[1_000, 8_000, 40_000]))
            } else {
                Some(random.pick(&[20_000, 200_000])).filter(|_| random.percent(20))
            },
        }
    }

    fn weights(self) -> Vec<(u64, Kind)> {
        let ladder = matches!(self, Self::Slow | Self::Budgets);
        let slow = matches!(self, Self::TinyOutboxes | Self::Slow | Self::Budgets);
        let (books, resumes, wild) = (self == Self::Books, self == Self::Resumes, self == Self::Wildcards);
        let more = |yes: bool, usual: u64, then: u64| if yes { then } else { usual };
        vec![
            (more(wild, 4, 8), Kind::Claim),
            (2, Kind::Release),
            (more(books, 100, 20), Kind::Quote),
            (more(ladder, 60, 150), Kind::Trade),
            (10, Kind::Stats),
            (8, Kind::Lost),
            (more(books, 8, 25), Kind::BookSnapshot),
            (more(books, 60, 200), Kind::BookDelta),
            (more(books, 3, 15), Kind::BookLost),
            (12, Kind::FeedState),
            (2, Kind::LateFeed),
            (more(self == Self::TinyLanes, 30, 60), Kind::ServeRequests),
            (if ladder { 200 } else { more(self == Self::TinyLanes, 120, 70) }, Kind::Turn),
            (30, Kind::Advance),
            (more(resumes || ladder, 12, 40), Kind::Connect),
            (more(resumes, 3, 15), Kind::Disconnect),
            (more(wild || self == Self::Slow, 5, 12), Kind::Renew),
            (1, Kind::BadRenew),
            (more(resumes || wild, 35, 60), Kind::Subscribe),
            (more(wild, 12, 30), Kind::Unsubscribe),
            (3, Kind::Ping),
            (1, Kind::Nonsense),
            (more(slow, 30, 80), Kind::Socket),
            (2, Kind::Settle),
            (1, Kind::Drain),
        ]
    }

    /// The actions of one run.
    pub(crate) fn actions(self, random: &mut Random, sizes: &Sizes, count: usize) -> Vec<Action> {
        let weights = self.weights();
        let late = if self == Self::Wildcards { 2 } else { 5 };
        let mut actions: Vec<Action> = (0..late).map(|instrument| Action::Claim { instrument }).collect();
        actions.extend((0..2).map(|feed| Action::FeedState { feed, state: 0 }));
        let maker = Maker { shape: self, clients: sizes.clients };
        actions.extend((0..2).map(|client| Action::Connect { client, worker: client % 2, grant: 0 }));
        actions.extend((0..count).map(|_| maker.make(random, &weights)));
        actions
    }
}

struct Maker {
    shape: Shape,
    clients: usize,
}

fn levels(random: &mut Random, base: i64, count: u64, zeros: bool) -> Vec<Level> {
    let size = |random: &mut Random| if zeros && random.percent(35) { 0 } else { 1 + random.below(500) as i64 };
    (0..random.below(count + 1)).map(|_| (base + 1 + random.below(14) as i64, size(random))).collect()
}

impl Maker {
    fn make(&self, random: &mut Random, weights: &[(u64, Kind)]) -> Action {
        // A few instruments are much busier than others.
        let all = INSTRUMENTS.len();
        let instrument = if random.percent(60) { random.index(3) } else { random.index(all) };
        let client = random.index(self.clients);
        let price = |random: &mut Random| Some((10_000 + random.below(40) as i64, 1 + random.below(900) as i64));
        match random.weighted(weights) {
            Kind::Claim => Action::Claim { instrument: random.index(all) },
            Kind::Release => Action::Release { instrument },
            Kind::Quote => {
                let bid = price(random).filter(|_| !random.percent(5));
                let ask = price(random).filter(|_| !random.percent(5));
                Action::Quote { instrument, bid, ask, ts: !random.percent(20) }
            }
            Kind::Trade => {
                let at = price(random).unwrap_or((1, 1));
                Action::Trade { instrument, at, side: random.index(3), id: random.below(4) * random.below(1_000_000) }
            }
            Kind::Stats => {
                let value = |random: &mut Random| Some(random.below(5) as i64 * 100).filter(|_| random.percent(80));
                Action::Stats { instrument, values: std::array::from_fn(|_| value(random)) }
            }
            Kind::Lost => {
                let lost = Some(random.below(9)).filter(|_| random.percent(60));
                Action::Lost { instrument, kind: random.index(3), lost }
            }
            Kind::BookSnapshot => {
                // Repeated prices of one snapshot or change count with their last size.
                let count = random.pick(&[1, 4, 25]);
                let (bids, asks) = (levels(random, 9_000, count, false), levels(random, 9_100, count, false));
                Action::BookSnapshot { instrument, bids, asks }
            }
            Kind::BookDelta => {
                let (mut bids, asks) = (levels(random, 9_000, 3, true), levels(random, 9_100, 3, true));
                if random.percent(2) {
                    bids.push((9_108, 77));
                }
                Action::BookDelta { instrument, bids, asks }
            }
            Kind::BookLost => Action::BookLost { instrument, lost: Some(3).filter(|_| random.percent(50)) },
            Kind::FeedState => Action::FeedState { feed: random.index(2), state: random.pick(&[0, 0, 1, 2, 3]) },
            Kind::LateFeed => Action::LateFeed,
            Kind::ServeRequests => Action::ServeRequests { thread: random.index(2) },
            Kind::Turn => {
                let events = random.pick(&[1, 2, 5, 20, 4096, 4096, 4096]);
                Action::Turn { worker: random.index(2), events }
            }
            Kind::Advance => {
                Action::Advance { micros: random.pick(&[100, 1_000, 20_000, 50_000, 300_000, 1_500_000, 12_000_000]) }
            }
            _ => self.of_a_client(random, weights, client),
        }
    }

    fn of_a_client(&self, random: &mut Random, weights: &[(u64, Kind)], client: usize) -> Action {
        // Again, until it is one of these: the weights among them stay as they are.
        match random.weighted(weights) {
            Kind::Connect => Action::Connect { client, worker: random.index(2), grant: self.grant(random, 50) },
            Kind::Disconnect => Action::Disconnect { client },
            Kind::Renew => Action::Renew { client, grant: self.grant(random, 40) },
            Kind::BadRenew => Action::BadRenew { client, other_subject: random.percent(50) },
            Kind::Subscribe => Action::Subscribe { client, command: self.subscribe(random) },
            Kind::Unsubscribe => {
                let channel = random.pick(&["ticker", "quote", "trade", "book", "status"]);
                Action::Unsubscribe { client, channel, symbols: symbols(random, 3) }
            }
            Kind::Ping => Action::Ping { client },
            Kind::Nonsense => {
                let texts = ["{", "[]", "{\"op\":\"subscribe\"}", "{\"op\":\"ping\",\"x\":1}"];
                Action::Nonsense { client, text: random.pick(&texts) }
            }
            Kind::Socket => {
                let most = random.pick(&[30, 300, 3_000]);
                let bytes = Take::Bytes(1 + random.index(most));
                let ladder = matches!(self.shape, Shape::Slow | Shape::Budgets);
                let open = if ladder { 8 } else { 3 };
                Action::Socket { client, take: random.weighted(&[(2, Take::Stall), (5, bytes), (open, Take::Open)]) }
            }
            Kind::Settle => Action::Settle,
            Kind::Drain => Action::Drain { worker: random.index(2) },
            _ => self.of_a_client(random, weights, client),
        }
    }

    fn grant(&self, random: &mut Random, everything: u64) -> usize {
        if matches!(self.shape, Shape::Slow | Shape::Budgets) && random.percent(60) {
            return SLOW_GRANTS + random.index(GRANTS.len() - SLOW_GRANTS);
        }
        if random.percent(everything) { 0 } else { random.index(GRANTS.len()) }
    }

    fn subscribe(&self, random: &mut Random) -> Subscribe {
        let channel = if self.shape == Shape::Books && random.percent(60) {
            "book"
        } else {
            random.weighted(&[(4, "quote"), (3, "ticker"), (4, "trade"), (4, "book"), (1, "status"), (1, "trade")])
        };
        let resumes = match self.shape {
            Shape::Resumes => 60,
            Shape::Slow | Shape::Budgets => 40,
            _ => 12,
        };
        let mode = match channel {
            "status" | "trade" => Some("every").filter(|_| random.percent(20)),
            _ => random.weighted(&[(2, None), (3, Some("every")), (3, Some("latest"))]),
        };
        let every = mode.map_or(!matches!(channel, "quote" | "ticker"), |mode| mode == "every");
        let mut command = Subscribe {
            channel,
            symbols: if matches!(self.shape, Shape::Slow | Shape::Budgets) {
                wide_symbols(random)
            } else {
                symbols(random, 2)
            },
            mode,
            max_rate: (!every && random.percent(50)).then(|| random.pick(&[1, 3, 10, 50])),
            depth: (channel == "book" && random.percent(70)).then(|| random.pick(&[1, 10, 10, 50, 0])),
            snapshot: None,
            overflow: None,
            backlog: None,
            resume: None,
        };
        if channel != "status" {
            command.snapshot = random.weighted(&[(5, None), (2, Some(true)), (2, Some(false))]);
            if every {
                command.overflow = random.weighted(&[(6, None), (2, Some("gap")), (2, Some("disconnect"))]);
                command.backlog =
                    random.weighted(&[(6, None), (1, Some(1)), (2, Some(4)), (2, Some(50)), (1, Some(90_000))]);
                if random.percent(resumes) {
                    command.resume = Some(resume(random));
                }
            }
        }
        if random.percent(3) {
            // Often what belongs to another channel or mode.
            command.max_rate = Some(5);
        }
        if random.percent(2) {
            command.backlog = Some(5);
        }
        command
    }
}

fn resume(random: &mut Random) -> ResumeFrom {
    match random.below(10) {
        0..6 => ResumeFrom::Have,
        6..9 => {
            let instrument = random.index(4);
            ResumeFrom::Behind { instrument, by: random.pick(&[-2, 0, 1, 3, 12, 60, 100_000]) }
        }
        _ => ResumeFrom::OtherEpoch,
    }
}

/// Mostly many at once.
fn wide_symbols(random: &mut Random) -> Vec<&'static str> {
    if random.percent(60) { vec![random.pick(&["*", "SIM:*", "SIM:A*"])] } else { symbols(random, 2) }
}

fn symbols(random: &mut Random, most: u64) -> Vec<&'static str> {
    let count = 1 + random.below(most);
    (0..count)
        .map(|_| if random.percent(95) { random.index(14) } else { random.index(SYMBOLS.len()) })
        .map(|index| SYMBOLS[index])
        .collect()
}
