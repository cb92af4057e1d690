//! What subscribers of the delayed world are told.

use std::io::{self, IoSlice};

use serde_json::Value;

use super::*;
use crate::fanout::{Fanout, Options, OutboxLimits, SessionId, Sink};
use crate::model::{Channel, Pattern};
use crate::wire::command::{Mode, ResumeEntry};

/// A socket that takes everything.
#[derive(Default)]
struct Socket(Vec<u8>);

impl Sink for Socket {
    fn write(&mut self, _: SessionId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        slices.iter().for_each(|slice| self.0.extend_from_slice(slice));
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }
}

/// A worker of the delayed world, and one session of it.
struct Worker {
    fanout: Fanout,
    session: SessionId,
    socket: Socket,
}

const EVERY: Options = Options {
    mode: Mode::Every,
    max_rate: None,
    depth: Depth::Ten,
    snapshot: Some(false),
    overflow: None,
    backlog: None,
};

impl Worker {
    fn of(side: &Side) -> Self {
        let limits = OutboxLimits { events_max: 10_000, bytes_max: 1 << 24, control_bytes_max: 1 << 20 };
        let mut fanout = Fanout::new(0, Arc::clone(&side.store), limits, vec![side.requests.clone()], None);
        let session = fanout.open(Arc::from([Pattern::all()]), Format::Json);
        Self { fanout, session, socket: Socket::default() }
    }

    fn subscribe(&mut self, channel: Channel, resume: &[ResumeEntry]) {
        self.subscribe_to("SIM:I0", channel, resume);
    }

    fn subscribe_to(&mut self, symbol: &str, channel: Channel, resume: &[ResumeEntry]) {
        let symbols = [symbol.to_owned()];
        self.fanout.subscribe(self.session, channel, (EVERY, EVERY), &symbols, resume, 9).expect("free");
        self.fanout.write(self.session, now(), &mut self.socket);
    }

    fn turn(&mut self, twin: &mut Twin) {
        for _ in 0..3 {
            while let Some(event) = twin.late.lane.pop() {
                self.fanout.on_event(event);
            }
            if twin.late.lane.take_overflow() {
                self.fanout.resync();
            }
            self.fanout.end_turn(now(), &mut self.socket);
            self.fanout.close_turn(now());
            twin.delayed.serve_requests();
        }
    }

    /// What was written since: channel, gap or not, first and last number, whether a snapshot.
    fn told(&mut self) -> Vec<(String, bool, u64, u64, bool)> {
        let messages = self.messages();
        let told = messages.iter().map(|message| {
            let number = |name: &str| message[name].as_u64().or_else(|| message["seq"].as_u64()).expect("a number");
            let gap = message["op"] == "gap";
            assert!(!gap || message["cause"] == "hub", "{message}");
            let channel = message["ch"].as_str().expect("of a channel").to_owned();
            (channel, gap, number("from"), number("to"), message["snap"] == true)
        });
        told.collect()
    }

    fn messages(&mut self) -> Vec<Value> {
        let bytes = std::mem::take(&mut self.socket.0);
        let mut bytes = &bytes[..];
        let mut messages = Vec::new();
        while let [_, len, rest @ ..] = bytes {
            let (len, rest) = match len {
                126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
                len => (usize::from(*len), rest),
            };
            messages.push(serde_json::from_slice(&rest[..len]).expect("JSON"));
            bytes = &rest[len..];
        }
        messages
    }
}

impl Twin {
    /// Like [`Self::pass`], with the delayed world's lane left to a worker.
    fn pass_with(&mut self, ms: u64, worker: &mut Worker) {
        for _ in 0..ms {
            NOW.with(|now| now.set(now.get() + MS));
            self.ingest.heal();
            self.delayed.tell_due(now(), usize::MAX);
            worker.turn(self);
        }
    }
}

#[test]
fn a_subscriber_is_told_of_an_overflow_by_a_gap_that_names_what_is_missing() {
    // Room for some 40 trades and changes of a book.
    let mut twin = begun(6_000, false);
    twin.step(&Step::Trade(0, 1));
    let mut worker = Worker::of(&twin.late);
    twin.pass_with(DELAY_MS, &mut worker);
    for channel in [Channel::Trade, Channel::Book] {
        worker.subscribe(channel, &[]);
    }
    worker.turn(&mut twin);
    worker.told();
    for size in 2..102 {
        twin.step(&Step::Trade(0, 1));
        twin.step(&Step::Book(0, false, vec![(true, 5, size)]));
    }
    assert!(twin.metric("tickhub_delay_dropped_total") > 50);
    twin.pass_with(2 * DELAY_MS + 1, &mut worker);
    twin.step(&Step::Trade(0, 1));
    twin.step(&Step::Book(0, false, vec![(true, 5, 1_000)]));
    twin.pass_with(DELAY_MS, &mut worker);
    assert_eq!(twin.metric("tickhub_delay_resyncs_total"), 1, "of one instrument something was dropped");
    let told = worker.told();
    for channel in ["trade", "book"] {
        let of: Vec<_> = told.iter().filter(|message| message.0 == channel).collect();
        let gaps: Vec<_> = of.iter().filter(|message| message.1).collect();
        assert_eq!(gaps.len(), 1, "{of:?}");
        let (from, to) = (gaps[0].2, gaps[0].3);
        let live: Vec<u64> = of.iter().filter(|message| !message.1 && !message.4).map(|message| message.2).collect();
        // Number 1 was before; each of the others came, or the gap names it.
        assert_eq!(live, (2..from).chain(to + 1..=102).collect::<Vec<_>>(), "{from} to {to}");
        assert_eq!(to, 101, "up to the last before there was room again");
        let snapshots: Vec<_> = of.iter().filter(|message| message.4).map(|message| message.2).collect();
        assert_eq!(snapshots, if channel == "book" { vec![101] } else { vec![] }, "a book begins anew");
    }
}

proptest! {
    /// The contract's second guarantee, for who is delayed, whatever did not fit.
    #[test]
    fn each_number_comes_once_or_a_gap_names_it(steps in steps(), words in 250..900_usize) {
        let mut twin = begun(words * 8, false);
        let mut worker = Worker::of(&twin.late);
        for channel in [Channel::Ticker, Channel::Quote, Channel::Trade, Channel::Book] {
            worker.subscribe_to("*", channel, &[]);
        }
        for step in &steps {
            match step {
                Step::Pass(ms) => twin.pass_with(*ms, &mut worker),
                step => twin.step(step),
            }
        }
        twin.pass_with(20 * DELAY_MS, &mut worker);
        let mut next: BTreeMap<(String, String), u64> = BTreeMap::new();
        for message in worker.messages() {
            let text = |name: &str| message[name].as_str().map(ToOwned::to_owned);
            let Some(channel) = text("ch").filter(|channel| channel != "status") else { continue };
            let next = next.entry((channel, text("sym").expect("of an instrument"))).or_default();
            let number = |name: &str| message[name].as_u64();
            let (from, to) = (number("from").or_else(|| number("seq")), number("to").or_else(|| number("seq")));
            let (from, to) = (from.expect("a number"), to.expect("a number"));
            // A book behind its gap comes under the gap's number; a stream begins where it is.
            let again = message["snap"] == true && from + 1 == *next;
            prop_assert!(*next == 0 || from == *next || again, "{message} in place of {next}");
            *next = to + 1;
        }
        for ((channel, symbol), next) in next {
            let key = twin.late.store.key(&InstrumentId::parse(&symbol).expect("valid")).expect("known");
            let kind = StreamKind::ALL.into_iter().find(|kind| match kind {
                StreamKind::Book(depth) => channel == "book" && *depth == Depth::Ten,
                kind => kind.channel().as_str() == channel,
            });
            let last = twin.live.store.sequence(StreamId { key, kind: kind.expect("a stream") });
            // The gap of a book comes with the book's next state, and where that is not known, not yet.
            let of = |(index, _): &(&usize, &Instrument)| id(**index).as_str() == symbol;
            let has_book = twin.claimed.iter().find(of).is_some_and(|(_, instrument)| instrument.book_is_live());
            let owed = channel == "book" && !has_book;
            prop_assert!(next == last + 1 || (owed && next <= last), "{channel} {symbol}: {next} behind {last}");
        }
    }
}

#[test]
fn a_resume_goes_on_in_the_delayed_world_with_what_it_holds() {
    let mut twin = begun(6_000, false);
    (0..10).for_each(|_| twin.step(&Step::Trade(0, 1)));
    twin.pass(DELAY_MS);
    (0..5).for_each(|_| twin.step(&Step::Trade(0, 1)));
    let resume = |seq| [ResumeEntry { symbol: "SIM:I0".into(), epoch: "e1".into(), seq }];
    let mut worker = Worker::of(&twin.late);
    worker.subscribe(Channel::Trade, &resume(7));
    worker.turn(&mut twin);
    let numbers =
        |told: Vec<(String, bool, u64, u64, bool)>| told.into_iter().map(|m| (m.1, m.2, m.3)).collect::<Vec<_>>();
    assert_eq!(numbers(worker.told()), [(false, 8, 8), (false, 9, 9), (false, 10, 10)], "11 to 15 are not yet");
    // Behind an overflow nothing before it is held.
    (0..150).for_each(|_| twin.step(&Step::Trade(0, 1)));
    twin.pass(2 * DELAY_MS + 1);
    twin.step(&Step::Trade(0, 1));
    twin.pass(DELAY_MS);
    let mut worker = Worker::of(&twin.late);
    worker.subscribe(Channel::Trade, &resume(12));
    worker.turn(&mut twin);
    assert_eq!(numbers(worker.told()), [(true, 13, 165), (false, 166, 166)]);
}
