//! A worker's side of the orders: carries them out between its turns, a few sessions at a time, and
//! remembers those that say who may not stay for sessions that were judged before them.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::connections::{Connection, ConnectionState, ConnectionsQuery, Found};
use super::orders::{End, Holder, Order, Selector, Succeeded};
use super::worker::{Live, State, now};
use crate::auth::{Principal, Standing, Succession};
use crate::fanout::SessionId;
use crate::session::{Now, Outcome};
use crate::time;
use crate::wire::CloseCode;

/// Work between two turns, in sessions that are looked at: some 20 µs, a tenth of what a busy
/// turn takes.
const WORK_MAX: usize = 256;
/// What a row of a list costs in that measure.
const ROW_WORK: usize = 2;
/// What ending a session costs: a close frame is made and written.
const END_WORK: usize = 32;

/// What another grant costs: as much as a renewal, by what the session holds.
const REGRANT_WORK: usize = 128;

/// Orders that are remembered, and for how long: whoever was judged before the oldest of them was
/// forgotten is told to come back, to be judged anew. A handshake is over long before.
const REMEMBERED_MAX: usize = 1024;
const REMEMBERED_NS: u64 = 120_000_000_000;

/// What such a session is told.
const FORGOTTEN: &str = "judged too long ago; come back";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Desk {
    walk: Option<Walk>,
    past: Past,
}

/// An order that is being carried out.
#[derive(Debug)]
struct Walk {
    /// Whom to look at next.
    next: usize,
    errand: Errand,
}

#[derive(Debug)]
enum Errand {
    List { query: Arc<ConnectionsQuery>, found: Found, answer: oneshot::Sender<Found> },
    End { number: u64, end: Arc<End>, ended: usize, answer: oneshot::Sender<usize> },
    Concerned { number: u64, succession: Arc<Succession>, found: Vec<Holder>, answer: oneshot::Sender<Vec<Holder>> },
    Regrant { verdicts: Vec<(Holder, Standing)>, done: Succeeded, answer: oneshot::Sender<Succeeded> },
}

impl Errand {
    /// An answer that nobody waits for any more is no fault.
    fn answer(self) {
        match self {
            Self::List { found, answer, .. } => drop(answer.send(found)),
            Self::End { ended, answer, .. } => drop(answer.send(ended)),
            Self::Concerned { found, answer, .. } => drop(answer.send(found)),
            Self::Regrant { done, answer, .. } => drop(answer.send(done)),
        }
    }
}

/// Orders that sessions judged before them have to obey.
#[derive(Debug, Default)]
struct Past {
    orders: VecDeque<Passed>,
    /// The highest number that was forgotten.
    forgotten: u64,
}

#[derive(Debug)]
struct Passed {
    number: u64,
    at: u64,
    law: Law,
}

#[derive(Clone, Debug)]
enum Law {
    End(Arc<End>),
    Succession(Arc<Succession>),
}

impl Past {
    fn remember(&mut self, number: u64, law: Law) {
        let passed = Passed { number, at: time::mono(), law };
        let stale = |oldest: &Passed| passed.at.saturating_sub(oldest.at) > REMEMBERED_NS;
        while self.orders.len() >= REMEMBERED_MAX || self.orders.front().is_some_and(stale) {
            let Some(oldest) = self.orders.pop_front() else { break };
            self.forgotten = self.forgotten.max(oldest.number);
        }
        self.orders.push_back(passed);
    }
}

impl Desk {
    /// Whether there is no order that is not carried out yet.
    pub(super) const fn is_free(&self) -> bool {
        self.walk.is_none()
    }
}

impl State {
    /// Begins an order. To be called when the one before is carried out.
    pub(super) fn begin(&mut self, order: Order) {
        let errand = match order {
            Order::List { query, answer } => Errand::List { query, found: Found::default(), answer },
            Order::End { number, end, answer } => {
                self.desk.past.remember(number, Law::End(Arc::clone(&end)));
                Errand::End { number, end, ended: 0, answer }
            }
            Order::Concerned { number, succession, answer } => {
                self.desk.past.remember(number, Law::Succession(Arc::clone(&succession)));
                Errand::Concerned { number, succession, found: Vec::new(), answer }
            }
            Order::Regrant { verdicts, answer } => Errand::Regrant { verdicts, done: Succeeded::default(), answer },
        };
        self.desk.walk = Some(Walk { next: 0, errand });
    }

    /// Goes on with the order that was begun, as far as it may between two turns.
    pub(super) fn work(&mut self) {
        let Some(mut walk) = self.desk.walk.take() else { return };
        let now = now();
        let mut left = WORK_MAX;
        while left > 0 {
            let Some(cost) = self.step(&mut walk, now) else { return walk.errand.answer() };
            left = left.saturating_sub(cost);
        }
        self.desk.walk = Some(walk);
    }

    /// Looks at one session; what that cost, or none where there is none left.
    fn step(&mut self, walk: &mut Walk, now: Now) -> Option<usize> {
        if let Errand::Regrant { verdicts, done, .. } = &mut walk.errand {
            let ((id, held), standing) = verdicts.pop()?;
            return Some(self.succeed(id, &held, standing, done, now));
        }
        let live = self.sockets.live.get(walk.next)?;
        let id = walk.next as SessionId;
        walk.next += 1;
        let Some(live) = live else { return Some(1) };
        match &mut walk.errand {
            Errand::List { query, found, .. } => {
                self.list(id, live, query, found, now);
                Some(ROW_WORK)
            }
            Errand::End { number, end, ended, .. } => {
                if !self.is_meant(live, *number, end) || !self.cut(id, end.code, &end.reason, now) {
                    return Some(1);
                }
                *ended += 1;
                Some(END_WORK)
            }
            Errand::Concerned { number, succession, found, .. } => {
                let held = live.session.principal().filter(|held| live.judged < *number && succession.affects(held));
                found.extend(held.map(|held| (id, Arc::clone(held))));
                Some(1)
            }
            Errand::Regrant { .. } => None,
        }
    }

    /// Gives a session what a new authenticator leaves it; what that cost. One that has been renewed
    /// since it was asked has another principal, judged by the new one or looked at on arrival.
    fn succeed(
        &mut self,
        id: SessionId,
        held: &Arc<Principal>,
        standing: Standing,
        done: &mut Succeeded,
        now: Now,
    ) -> usize {
        let Some(Some(live)) = self.sockets.live.get_mut(id as usize) else { return 1 };
        let same = live.session.principal().is_some_and(|holds| Arc::ptr_eq(holds, held));
        if !same || live.session.closed().is_some() || self.fanout.is_closing(id) {
            return 1;
        }
        match standing {
            Standing::Same => 1,
            Standing::Changed(next) => {
                let withdrawn = live.session.regrant(&mut self.fanout, next, now);
                if let Some(trace) = &mut live.trace {
                    trace.judged(&live.session, Outcome::Renewed { withdrawn });
                }
                self.write(id, now.mono);
                done.changed += 1;
                REGRANT_WORK
            }
            Standing::Ended(reason) => {
                done.ended += usize::from(self.cut(id, CloseCode::Revoked, reason, now));
                END_WORK
            }
        }
    }

    /// Whether an order means a session: one that was judged after it is another's, save where the
    /// order names the session itself.
    fn is_meant(&self, live: &Live, number: u64, end: &End) -> bool {
        let earlier = live.judged < number || matches!(end.selector, Selector::Session(_));
        earlier && end.selector.selects(live.session.name(), live.session.principal().map(AsRef::as_ref))
    }

    fn list(&self, id: SessionId, live: &Live, query: &ConnectionsQuery, found: &mut Found, now: Now) {
        let Some(look) = self.fanout.look(id) else { return };
        let principal = live.session.principal();
        let state = if live.session.closed().is_some() || self.fanout.is_closing(id) {
            ConnectionState::Closing
        } else if principal.is_none() {
            ConnectionState::Waiting
        } else if look.blocked_since.is_some() {
            ConnectionState::Slow
        } else {
            ConnectionState::Live
        };
        if !query.asks_for(principal.map(AsRef::as_ref), state) {
            return;
        }
        let name = live.session.name();
        found.take(query, query.rank(look.held), name, || Connection {
            session: name.into(),
            principal: principal.cloned(),
            state,
            transport: "websocket",
            format: look.format,
            remote: Some(live.remote.client()),
            since: live.since,
            subscriptions: look.entries,
            events: look.events,
            bytes: look.bytes,
            streams_owed: look.streams_owed,
            lag_bytes: look.held,
            blocked_ns: look.blocked_since.map(|since| now.mono.saturating_sub(since)),
        });
    }

    /// Ends a session at once: what waits for it is dropped. `false` where it is ending already.
    fn cut(&mut self, id: SessionId, code: CloseCode, reason: &str, now: Now) -> bool {
        let Some(Some(live)) = self.sockets.live.get_mut(id as usize) else { return false };
        if live.session.closed().is_some() || self.fanout.is_closing(id) {
            return false;
        }
        live.session.end(&mut self.fanout, code, reason, now);
        self.sockets.nudge(id);
        self.write(id, now.mono);
        true
    }

    /// A credential that was judged good when `judged` was the last order's number has arrived at
    /// its session: the orders that passed on the way apply to it.
    pub(super) fn arrived(&mut self, id: SessionId, judged: u64, now: Now) {
        let Some(Some(live)) = self.sockets.live.get_mut(id as usize) else { return };
        live.judged = judged;
        if judged < self.desk.past.forgotten {
            self.cut(id, CloseCode::InternalError, FORGOTTEN, now);
        }
        let missed = self.desk.past.orders.iter().filter(|passed| passed.number > judged);
        let missed: Vec<_> = missed.map(|passed| (passed.number, passed.law.clone())).collect();
        for (number, law) in missed {
            let Some(Some(live)) = self.sockets.live.get(id as usize) else { return };
            match law {
                Law::End(end) => {
                    if self.is_meant(live, number, &end) {
                        self.cut(id, end.code, &end.reason, now);
                    }
                }
                Law::Succession(succession) => {
                    let Some(held) = live.session.principal().cloned() else { return };
                    let standing = succession.standing(&held);
                    self.succeed(id, &held, standing, &mut Succeeded::default(), now);
                }
            }
        }
    }
}
