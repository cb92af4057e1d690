//! Who is here: what a list of sessions is asked for, its rows, and pages of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::auth::{CredentialKind, Principal};
use crate::model::UnixNanos;
use crate::wire::Format;

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// It has shown no credential yet.
    Waiting,
    /// It is served.
    Live,
    /// It is served, and its socket is full.
    Slow,
    /// It is being closed.
    Closing,
}

impl ConnectionState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Waiting, Self::Live, Self::Slow, Self::Closing];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Live => "live",
            Self::Slow => "slow",
            Self::Closing => "closing",
        }
    }
}

/// One session.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its name.
    pub session: Box<str>,
    /// Who it belongs to; `None` = it has shown no credential.
    pub principal: Option<Arc<Principal>>,
    /// Where it is in its life.
    pub state: ConnectionState,
    /// What it came by.
    pub transport: &'static str,
    /// What its events come in.
    pub format: Format,
    /// Who is at the other end, as far as it is known.
    pub remote: Option<SocketAddr>,
    /// When it was opened.
    pub since: UnixNanos,
    /// Subscription entries that it holds.
    pub subscriptions: usize,
    /// Events that wait for its socket.
    pub events: usize,
    /// Bytes that wait for it, answers and states included.
    pub bytes: usize,
    /// Streams of which it is owed the state or the newest value.
    pub streams_owed: usize,
    /// The memory of what it is owed, as the hub's budget counts it: its lag.
    pub lag_bytes: usize,
    /// For how long its full socket has taken nothing, in ns.
    pub blocked_ns: Option<u64>,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectionsOrder {
    /// Who is furthest behind comes first; equal ones by name.
    #[default]
    Lag,
    /// By name: pages are then complete for whoever stays.
    Session,
}

/// A place in the order of a list: what sorts first, then the name.
pub type ConnectionPlace = (u64, Box<str>);

/// What a list is asked for.
#[derive(Clone, Debug)]
pub struct ConnectionsQuery {
    /// Those of this subject only.
    pub subject: Option<String>,
    /// Those of this role only.
    pub role: Option<String>,
    /// Those in this state only.
    pub state: Option<ConnectionState>,
    /// Their order.
    pub order: ConnectionsOrder,
    /// Those behind this place only.
    pub after: Option<ConnectionPlace>,
    /// At most so many.
    pub limit: usize,
}

impl ConnectionsQuery {
    /// Whether a session is asked for.
    pub(super) fn asks_for(&self, principal: Option<&Principal>, state: ConnectionState) -> bool {
        self.state.is_none_or(|asked| asked == state)
            && self.subject.as_ref().is_none_or(|asked| principal.is_some_and(|held| *held.subject == **asked))
            && self.role.as_ref().is_none_or(|asked| principal.is_some_and(|held| *held.role == **asked))
    }

    /// What sorts first in its order.
    pub(super) const fn rank(&self, lag_bytes: usize) -> u64 {
        match self.order {
            ConnectionsOrder::Lag => u64::MAX - lag_bytes as u64,
            ConnectionsOrder::Session => 0,
        }
    }
}

/// What one worker found: the first of its rows, one more than asked for, and how many there are.
#[derive(Debug, Default)]
pub(super) struct Found {
    rows: BTreeMap<ConnectionPlace, Connection>,
    matched: usize,
}

impl Found {
    /// Takes one that is asked for, if it is among the first behind the query's place. A row is
    /// made only then.
    pub(super) fn take(&mut self, query: &ConnectionsQuery, rank: u64, name: &str, row: impl FnOnce() -> Connection) {
        self.matched += 1;
        let before = |place: &ConnectionPlace| (rank, name) <= (place.0, &*place.1);
        if query.after.as_ref().is_some_and(before) {
            return;
        }
        if self.rows.len() > query.limit {
            if !self.rows.last_key_value().is_some_and(|(place, _)| before(place)) {
                return;
            }
            self.rows.pop_last();
        }
        self.rows.insert((rank, name.into()), row());
    }
}

/// Who is here: one page.
#[derive(Debug)]
pub struct Connections {
    /// The rows, in the order that was asked for.
    pub rows: Vec<Connection>,
    /// The place of the last one, where there are more behind it.
    pub next: Option<ConnectionPlace>,
    /// All that were asked for, on this page or not.
    pub matched: usize,
    /// Workers that did not answer in time: theirs are missing.
    pub silent: usize,
}

impl Connections {
    pub(super) fn gather(found: Vec<Found>, limit: usize, silent: usize) -> Self {
        let matched = found.iter().map(|found| found.matched).sum();
        let mut rows: BTreeMap<_, _> = found.into_iter().flat_map(|found| found.rows).collect();
        let more = rows.len() > limit;
        while rows.len() > limit {
            rows.pop_last();
        }
        let next = rows.last_key_value().filter(|_| more).map(|(place, _)| place.clone());
        Self { rows: rows.into_values().collect(), next, matched, silent }
    }
}

impl Connection {
    /// What kind of credential it came with.
    #[must_use]
    pub fn credential(&self) -> Option<CredentialKind> {
        self.principal.as_ref().map(|held| held.credential)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, lag_bytes: usize) -> Connection {
        Connection {
            session: name.into(),
            principal: None,
            state: ConnectionState::Live,
            transport: "websocket",
            format: Format::Json,
            remote: None,
            since: UnixNanos(0),
            subscriptions: 0,
            events: 0,
            bytes: 0,
            streams_owed: 0,
            lag_bytes,
            blocked_ns: None,
        }
    }

    /// Two workers' sessions, page by page.
    fn pages(order: ConnectionsOrder, limit: usize) -> Vec<Vec<String>> {
        let workers = [[("e", 5), ("a", 0), ("c", 7)], [("d", 5), ("b", 0), ("f", 900)]];
        let mut query = ConnectionsQuery { subject: None, role: None, state: None, order, after: None, limit };
        let mut pages = Vec::new();
        loop {
            let found = workers.iter().map(|sessions| {
                let mut found = Found::default();
                for (name, lag) in sessions {
                    found.take(&query, query.rank(*lag), name, || row(name, *lag));
                }
                assert!(found.rows.len() <= limit + 1, "an answer is bounded by the page");
                found
            });
            let page = Connections::gather(found.collect(), limit, 0);
            assert_eq!(page.matched, 6, "all are counted on every page");
            pages.push(page.rows.iter().map(|row| row.session.to_string()).collect());
            match page.next {
                Some(place) => query.after = Some(place),
                None => return pages,
            }
        }
    }

    #[test]
    fn pages_have_everyone_once_and_the_furthest_behind_first() {
        assert_eq!(pages(ConnectionsOrder::Lag, 100).concat(), ["f", "c", "d", "e", "a", "b"]);
        assert_eq!(pages(ConnectionsOrder::Session, 100).concat(), ["a", "b", "c", "d", "e", "f"]);
        for limit in 1..7 {
            assert_eq!(pages(ConnectionsOrder::Lag, limit).concat(), ["f", "c", "d", "e", "a", "b"], "by {limit}");
            let by_name = pages(ConnectionsOrder::Session, limit);
            assert_eq!(by_name.concat(), ["a", "b", "c", "d", "e", "f"], "by {limit}");
            assert_eq!(by_name.len(), 6_usize.div_ceil(limit), "no page is empty");
        }
    }
}
