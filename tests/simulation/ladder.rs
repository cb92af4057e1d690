//! What a slow session must and must not expect: backlogs, policies, stalls, and the one budget.

use tickhub::fanout::{OutboxLimits, SessionId};
use tickhub::time::duration_ns;
use tickhub::wire::CloseCode;

use crate::action::Subscribe;
use crate::client::{Client, STATUS};
use crate::grants::{Allowed, GRANTS};
use crate::stream::{Check, Options, ensure};
use crate::world::World;

/// Longer than any event of these markets.
const EVENT_BYTES_MAX: usize = 2 * 1024;

/// What the model knows of the rungs that one session stands on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rungs {
    /// The hub's own bounds.
    pub(crate) hub: OutboxLimits,
    pub(crate) budget: bool,
    /// The least that a backlog was bounded to in its time: events, bytes.
    least: (usize, usize),
    /// The most that waited at the end of a turn.
    peak: (usize, usize),
    /// It asked for `disconnect`, or had a role that makes that of it.
    disconnects: bool,
    /// When its socket last took something.
    pub(crate) took_at: u64,
}

impl Rungs {
    pub(crate) fn new(hub: OutboxLimits, budget: bool, now: u64) -> Self {
        let least = (hub.events_max, hub.bytes_max);
        Self { hub, budget, least, peak: (0, 0), disconnects: false, took_at: now }
    }

    /// A grant is given to the session, or it sends a subscription.
    pub(crate) fn granted(&mut self, allowed: &Allowed) {
        let (events, bytes) = self.bounds(allowed);
        self.least = (self.least.0.min(events), self.least.1.min(bytes));
        self.disconnects |= allowed.overflow[0] == "disconnect";
    }

    pub(crate) fn asked(&mut self, command: &Subscribe) {
        self.least.0 = command.backlog.map_or(self.least.0, |backlog| self.least.0.min(backlog as usize));
        self.disconnects |= command.overflow == Some("disconnect");
    }

    pub(crate) fn waited(&mut self, (events, bytes): (usize, usize)) {
        self.peak = (self.peak.0.max(events), self.peak.1.max(bytes));
    }

    /// Events and bytes that may wait under a grant.
    pub(crate) fn bounds(&self, allowed: &Allowed) -> (usize, usize) {
        let events = allowed.backlog_events.unwrap_or(usize::MAX).min(self.hub.events_max);
        (events, allowed.backlog_bytes.unwrap_or(usize::MAX).min(self.hub.bytes_max))
    }

    /// A gap of a session's own making needs a backlog that was full.
    pub(crate) fn check_gap(&self) -> Check {
        let full = self.peak.0 >= self.least.0 || self.peak.1 >= self.least.1;
        ensure!(full, "slow_consumer, and at most {:?} of {:?} ever waited", self.peak, self.least);
        Ok(())
    }

    pub(crate) fn check_close(&self, code: u16, reason: &str) -> Check {
        match (code, reason) {
            (4001, "outbox full") => ensure!(self.disconnects, "nobody asked for a disconnect"),
            (4001, "nothing was read in time") => {}
            (4005, _) => ensure!(self.budget, "overloaded, and there is no budget"),
            _ => return Err(format!("closed with {code} {reason:?}")),
        }
        Ok(())
    }
}

/// The policy and backlog in effect, as they are echoed.
pub(crate) fn clamp_ladder(options: Options, channel: usize, allowed: &Allowed, hub: &OutboxLimits) -> Options {
    if !options.every || channel == STATUS {
        return options;
    }
    let asked = options.overflow;
    let policy = asked.filter(|policy| allowed.overflow.contains(policy)).unwrap_or(allowed.overflow[0]);
    let most = allowed.backlog_events.unwrap_or(usize::MAX).min(hub.events_max);
    let backlog = options.backlog.map(|backlog| backlog.min(most as u32));
    Options { overflow: Some(policy).filter(|policy| asked.is_some() || *policy != "gap"), backlog, ..options }
}

/// A session with a full socket, before a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) client: usize,
    session: SessionId,
    events: usize,
    bytes: usize,
}

impl World {
    /// The clients of a worker whose sockets are full, and what waits for them.
    pub(crate) fn waiting(&self, worker: usize) -> Vec<Waiting> {
        let fanout = &self.hub.workers[worker].fanout;
        let of = |(client, slot): (usize, &Option<crate::world::Slot>)| {
            let slot = slot.as_ref().filter(|slot| slot.client.worker == worker)?;
            let session = slot.session.id();
            let (events, bytes) = (fanout.backlog(session).0, fanout.backlog_event_bytes(session));
            (fanout.is_blocked(session) && !fanout.is_closing(session)).then_some(Waiting {
                client,
                session,
                events,
                bytes,
            })
        };
        self.slots.iter().enumerate().filter_map(of).collect()
    }

    /// Behind a turn: nobody whose socket was full has more waiting than it may.
    pub(crate) fn check_backlogs(&mut self, worker: usize, before: &[Waiting]) -> Check {
        for was in before {
            let Some(slot) = self.slots[was.client].as_mut() else { continue };
            let fanout = &self.hub.workers[worker].fanout;
            if fanout.is_closing(was.session) {
                continue;
            }
            let (events, bytes) = (fanout.backlog(was.session).0, fanout.backlog_event_bytes(was.session));
            let (asked, asked_bytes) = fanout.backlog_asked(was.session);
            let Some(principal) = slot.session.principal() else { continue };
            let grant: usize = principal.role.parse().map_err(|_| "a role of the model's")?;
            let allowed = &GRANTS[grant];
            let (mut events_max, bytes_max) = slot.client.rungs.bounds(allowed);
            if slot.client.sent.is_empty() {
                // Nothing is on its way: the client's entries are the hub's.
                events_max = slot.client.backlog_max(events_max);
            }
            // What was asked for counts where there is no grace.
            let (asked, asked_bytes) = if allowed.catch_up_ms == Some(0) { (0, 0) } else { (asked, asked_bytes) };
            self.tally.graces += u64::from(asked > 0 && events > was.events && events > events_max);
            let most = was.events.max(events_max + asked);
            ensure!(events <= most, "client {}: {} events waited, now {events} of {most}", was.client, was.events);
            let most = was.bytes.max(bytes_max + asked_bytes + EVENT_BYTES_MAX);
            ensure!(bytes <= most, "client {}: {} bytes waited, now {bytes} of {most}", was.client, was.bytes);
            slot.client.rungs.waited((events, bytes));
        }
        Ok(())
    }

    /// Behind a turn: the budget holds, and those who were ended for it held the most.
    pub(crate) fn check_budget(&mut self, worker: usize) -> Check {
        let shed = self.hub.workers[worker].fanout.take_shed();
        self.tally.shed += shed.len() as u64;
        let fanout = &self.hub.workers[worker].fanout;
        let worst = self.waiting(worker).iter().map(|w| fanout.held_by(w.session)).max().unwrap_or(0);
        if let Some(least) = shed.iter().map(|shed| shed.bytes).min() {
            ensure!(least >= worst, "a session with {least} bytes was ended, one with {worst} goes on");
        }
        if let Some(budget) = &self.hub.budget {
            let (bytes, most) = (budget.bytes(), budget.bytes_max() + budget.bytes_max() / 8);
            ensure!(bytes <= most || worst == 0, "{bytes} bytes are held, the budget is {}", budget.bytes_max());
        }
        Ok(())
    }

    /// What is counted is what is there.
    pub(crate) fn check_held(&self) -> Check {
        for (index, worker) in self.hub.workers.iter().enumerate() {
            let stuck: usize = self.waiting(index).iter().map(|w| worker.fanout.held_by(w.session)).sum();
            let sessions = self.slots.iter().flatten().filter(|slot| slot.client.worker == index);
            let all: usize = sessions.map(|slot| worker.fanout.held_by(slot.session.id())).sum();
            let held = worker.fanout.held_bytes();
            ensure!(stuck <= held && held <= all, "worker {index} counts {held}, there are {stuck} to {all}");
        }
        Ok(())
    }

    /// A full socket that took nothing for as long as its role lets it has ended its session.
    pub(crate) fn check_stall(&self, client: usize) -> Check {
        let Some(slot) = &self.slots[client] else { return Ok(()) };
        let fanout = &self.hub.workers[slot.client.worker].fanout;
        let Some(principal) = slot.session.principal() else { return Ok(()) };
        let stall = principal.grant.patience().write_stall.min(self.hub.config.write_stall_timeout);
        let since = fanout.blocked_since(slot.session.id());
        let stalled = since.is_some_and(|since| self.hub.now - since >= duration_ns(stall));
        let closed = slot.session.closed();
        ensure!(!stalled || closed.is_some(), "client {client} stalled for {stall:?} and goes on");
        if closed == Some(CloseCode::SlowConsumer) && slot.stalled {
            let idle = self.hub.now - slot.client.rungs.took_at;
            ensure!(idle >= duration_ns(stall), "client {client} was ended after {idle} ns of {stall:?}");
        }
        Ok(())
    }
}

impl Client {
    /// The most events that any of its subscriptions may have waiting; none takes more.
    fn backlog_max(&self, events_max: usize) -> usize {
        let every = self.entries.iter().filter(|entry| entry.channel != STATUS);
        let options = every.filter_map(|entry| entry.options.as_ref()).filter(|options| options.every);
        let of = |options: &Options| options.backlog.map_or(events_max, |backlog| events_max.min(backlog as usize));
        options.map(of).max().unwrap_or(0)
    }
}
