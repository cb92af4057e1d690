//! From the lanes to the subscribers' outboxes.
//!
//! A [`Fanout`] is what one worker owns: it takes [`Event`]s, knows who wants them, and writes to
//! a [`Sink`] what each session is owed. It is pure: no socket, no clock, no task.

mod bounds;
mod budget;
mod cohort;
mod deliver;
mod entries;
mod feeds;
mod lane;
mod look;
mod outbox;
mod regrant;
mod requests;
mod scope;
mod stream;
mod subscribe;
mod subscriber;
mod transition;
mod turn;
mod worker;

pub use bounds::Bounds;
pub use budget::{Budget, Shed};
pub use lane::{BookUpdate, Event, LaneReader, LaneWaker, LaneWriter, Standing, Update, Wake, lane};
pub use look::Look;
pub use outbox::Sink;
pub use requests::{BookRequest, Requests};
pub use subscribe::{AlreadyReached, Match, Outcome, SymbolFault};
pub use subscriber::{Options, SessionId};
const _: () = assert!(crate::wire::Format::COUNT <= crate::limits::FORMATS_MAX);

pub use worker::{Counts, Fanout, Holdings, Latencies, OutboxLimits};
