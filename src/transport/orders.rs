//! Orders from the control side to the workers: say who is here, end those whom a selector names,
//! give others what a new configuration leaves them.
//!
//! A worker's sessions are its own, so they are not looked up anywhere: each worker is asked, and
//! walks its sessions between its turns, a few at a time.
//!
//! No session slips through between being judged and being opened. Every order that says who may
//! not stay has a number, given once what it goes by (a revocation, a changed role) is in force;
//! a credential is stamped with the last number before it is judged. So a worker that opens a
//! session, or takes a renewal, applies to it the orders with higher numbers that it has had, and
//! those that it has not had yet will find the session there.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::connections::{Connections, ConnectionsQuery, Found};
use crate::auth::{CredentialKind, Principal, Standing, Succession};
use crate::fanout::SessionId;
use crate::metrics::{self, Counter, Registry};
use crate::model::UnixNanos;
use crate::wire::CloseCode;

/// Orders that may wait for one worker: far more than people and their tools give in the time that
/// a walk takes. Whoever finds it full waits, and gives up with the answer's patience.
const ORDERS_MAX: usize = 256;

/// How long an order waits for the answer of a worker. A walk of 100,000 sessions takes a fraction
/// of it; one that takes longer has a worker that is stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which sessions an order means.
#[derive(Clone)]
#[non_exhaustive]
pub enum Selector {
    /// The one of this name.
    Session(Box<str>),
    /// Those of a subject: all of them, or those whose tokens were issued up to that time.
    Subject {
        /// The `sub`, or an API key's owner.
        subject: Box<str>,
        /// Until when the tokens were issued; `None` = whatever they came with.
        issued_until: Option<UnixNanos>,
    },
    /// Those that came with the token of this `jti`.
    TokenId(Box<str>),
    /// Those that came with the API key of this id.
    ApiKey(Box<str>),
    /// Those whose tokens are of a refresh family: their `jti` is its id, a hyphen and more.
    Family(Box<str>),
    /// Those of a role.
    Role(Box<str>),
    /// Those of whom this says so. Workers ask it for each session, so it must be quick.
    Who(Arc<dyn Fn(&Principal) -> bool + Send + Sync>),
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(name) => f.debug_tuple("Session").field(name).finish(),
            Self::Subject { subject, issued_until } => {
                f.debug_struct("Subject").field("subject", subject).field("issued_until", issued_until).finish()
            }
            Self::TokenId(id) => f.debug_tuple("TokenId").field(id).finish(),
            Self::ApiKey(id) => f.debug_tuple("ApiKey").field(id).finish(),
            Self::Family(id) => f.debug_tuple("Family").field(id).finish(),
            Self::Role(role) => f.debug_tuple("Role").field(role).finish(),
            Self::Who(_) => f.write_str("Who"),
        }
    }
}

impl Selector {
    /// Whether it means a session of this name and principal; `None` = it has shown no credential.
    #[must_use]
    pub fn selects(&self, name: &str, principal: Option<&Principal>) -> bool {
        if let Self::Session(session) = self {
            return **session == *name;
        }
        let Some(held) = principal else { return false };
        match self {
            Self::Session(_) => false,
            Self::Subject { subject, issued_until } => {
                let issued = |until: &UnixNanos| held.issued.is_some_and(|at| at <= *until);
                *held.subject == **subject && issued_until.as_ref().is_none_or(issued)
            }
            Self::TokenId(id) => held.credential == CredentialKind::Jwt && held.token_id.as_deref() == Some(id),
            Self::ApiKey(id) => held.credential == CredentialKind::ApiKey && held.token_id.as_deref() == Some(id),
            Self::Family(family) => {
                let of = |id: &str| id.strip_prefix(&**family).is_some_and(|rest| rest.starts_with('-'));
                held.credential == CredentialKind::Jwt && held.token_id.as_deref().is_some_and(of)
            }
            Self::Role(role) => *held.role == **role,
            Self::Who(of) => of(held),
        }
    }
}

/// The number of the last order. Shared by all who judge credentials and all who open sessions.
#[derive(Clone, Debug, Default)]
pub struct OrderNumber(Arc<AtomicU64>);

impl OrderNumber {
    /// The last number given. To be read before a credential is judged.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// The next number. To be taken once what the order goes by is in force.
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// An order on its way to one worker.
#[derive(Debug)]
pub(super) enum Order {
    /// Say who is here.
    List { query: Arc<ConnectionsQuery>, answer: oneshot::Sender<Found> },
    /// End those that a selector means; how many they were.
    End { number: u64, end: Arc<End>, answer: oneshot::Sender<usize> },
    /// Say whom a new authenticator concerns.
    Concerned { number: u64, succession: Arc<Succession>, answer: oneshot::Sender<Vec<Holder>> },
    /// Give those what it leaves them.
    Regrant { verdicts: Vec<(Holder, Standing)>, answer: oneshot::Sender<Succeeded> },
}

/// A session, and what it held when it was looked at.
pub(super) type Holder = (SessionId, Arc<Principal>);

/// Who is to be ended, and how.
#[derive(Debug)]
pub(super) struct End {
    pub(super) selector: Selector,
    pub(super) code: CloseCode,
    pub(super) reason: Box<str>,
}

/// What became of an order to end sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Sessions that were ended.
    pub sessions: usize,
    /// Workers that did not answer in time: theirs may be there still.
    pub silent: usize,
}

/// What became of the sessions that a new authenticator concerns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Succeeded {
    /// Sessions whose grant is another now.
    pub changed: usize,
    /// Sessions that were ended.
    pub ended: usize,
    /// Workers that did not answer in time: theirs may have what they had.
    pub silent: usize,
}

/// Where one worker gets its orders.
#[derive(Debug)]
pub struct OrderBook {
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) number: OrderNumber,
}

/// How the control side gives orders to all workers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Orders {
    workers: Arc<[mpsc::Sender<Order>]>,
    number: OrderNumber,
    meters: Arc<Meters>,
}

#[derive(Debug)]
struct Meters {
    /// By kind: list, end, regrant.
    answered: [Counter; 3],
    silent: [Counter; 3],
}

/// What an order is, for its metric.
#[derive(Clone, Copy)]
enum Kind {
    List,
    End,
    Regrant,
}

impl Meters {
    fn new(registry: &Registry) -> Self {
        let by = |outcome| {
            let counter = |kind| registry.counter(metrics::ORDERS, &[("kind", kind), ("outcome", outcome)]);
            ["list", "end", "regrant"].map(counter)
        };
        Self { answered: by("answered"), silent: by("silent") }
    }
}

impl Orders {
    /// The way to that many workers, and each one's end of it.
    #[must_use]
    pub fn new(workers: usize, registry: &Registry) -> (Self, Vec<OrderBook>) {
        let number = OrderNumber::default();
        let (senders, books) = (0..workers)
            .map(|_| {
                let (sender, orders) = mpsc::channel(ORDERS_MAX);
                (sender, OrderBook { orders, number: number.clone() })
            })
            .unzip::<_, _, Vec<_>, Vec<_>>();
        (Self { workers: senders.into(), number, meters: Arc::new(Meters::new(registry)) }, books)
    }

    /// The number of the last order, for those who judge credentials.
    #[must_use]
    pub const fn number(&self) -> &OrderNumber {
        &self.number
    }

    /// Who is here, of those that `query` asks for.
    pub async fn list(&self, query: ConnectionsQuery) -> Connections {
        let query = Arc::new(query);
        let make = |answer| Order::List { query: Arc::clone(&query), answer };
        let (found, silent) = self.ask(Kind::List, make).await;
        Connections::gather(found, query.limit, silent)
    }

    /// Ends the sessions that `selector` means, with `code` and `reason`; what waits for them is
    /// dropped. Whatever they go by must be in force before: a credential that is judged good after
    /// this was called is let in. The order is carried out even if nobody waits for the answer.
    pub async fn end(&self, selector: Selector, code: CloseCode, reason: &str) -> Ended {
        let end = Arc::new(End { selector, code, reason: reason.into() });
        let number = self.number.next();
        let orders = self.clone();
        // A task of its own: whoever asked may be gone before every worker has its order.
        let ended = tokio::spawn(async move {
            let make = |answer| Order::End { number, end: Arc::clone(&end), answer };
            let (ended, silent) = orders.ask(Kind::End, make).await;
            Ended { sessions: ended.into_iter().sum(), silent }
        });
        ended.await.unwrap_or(Ended { sessions: 0, silent: self.workers.len() })
    }

    /// Gives the sessions that `succession` concerns what it leaves them, and ends those that may not
    /// stay with 4504. The new authenticator must be the one that judges by now.
    pub async fn succeed(&self, succession: Arc<Succession>) -> Succeeded {
        let number = self.number.next();
        let workers = self.workers.iter().map(|worker| self.succeed_at(worker, number, &succession));
        let mut all = Succeeded::default();
        for one in join_all(workers).await {
            match one {
                Some(one) => {
                    all.changed += one.changed;
                    all.ended += one.ended;
                }
                None => all.silent += 1,
            }
        }
        self.count(Kind::Regrant, self.workers.len() - all.silent, all.silent);
        all
    }

    /// The same at one worker. What is left to each is worked out here, on the control side: a
    /// grant of hundreds of patterns takes longer than a worker's sessions should wait.
    async fn succeed_at(
        &self,
        worker: &mpsc::Sender<Order>,
        number: u64,
        succession: &Arc<Succession>,
    ) -> Option<Succeeded> {
        let ask = |answer| Order::Concerned { number, succession: Arc::clone(succession), answer };
        let holders = ask_one(worker, ask).await?;
        let mut verdicts = Vec::with_capacity(holders.len());
        for holder in holders {
            let standing = succession.standing(&holder.1);
            if standing != Standing::Same {
                verdicts.push((holder, standing));
            }
            tokio::task::yield_now().await;
        }
        if verdicts.is_empty() {
            return Some(Succeeded::default());
        }
        ask_one(worker, |answer| Order::Regrant { verdicts, answer }).await
    }

    /// Gives every worker its order, all at once; their answers, and how many gave none in time.
    async fn ask<T>(&self, kind: Kind, make: impl Fn(oneshot::Sender<T>) -> Order) -> (Vec<T>, usize) {
        let asked = self.workers.iter().map(|worker| ask_one(worker, &make));
        let answers: Vec<T> = join_all(asked).await.into_iter().flatten().collect();
        let silent = self.workers.len() - answers.len();
        self.count(kind, answers.len(), silent);
        (answers, silent)
    }

    fn count(&self, kind: Kind, answered: usize, silent: usize) {
        self.meters.answered[kind as usize].increment(answered as u64);
        if silent > 0 {
            self.meters.silent[kind as usize].increment(silent as u64);
            tracing::error!(silent, workers = self.workers.len(), "workers did not answer an order in time");
        }
    }
}

async fn ask_one<T>(worker: &mpsc::Sender<Order>, make: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    let order = make(answer);
    let asked = async {
        worker.send(order).await.ok()?;
        answered.await.ok()
    };
    tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
}
