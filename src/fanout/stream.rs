//! A stream as a worker holds it: how far it is, and its value there.

use smallvec::SmallVec;

use super::cohort::CohortId;
use super::subscriber::SessionId;
use crate::model::{StreamId, UnixNanos, Window};
use crate::wire::{Format, Frame};

/// A book as the worker's subscribers have it.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) window: Window,
    pub(super) ts_event: Option<UnixNanos>,
    pub(super) received: Option<UnixNanos>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    /// What its frames are in. The same stream in another format is another one here: who wants it
    /// later in that format begins with its own number.
    pub(super) format: Format,
    /// The number up to which this worker has processed the stream.
    pub(super) position: u64,
    /// The newest event, encoded.
    pub(super) frame: Option<Frame>,
    /// The state at `position`, encoded as a snapshot; made when first needed.
    pub(super) snapshot: Option<Frame>,
    /// Books only; `None` until the window has come.
    pub(super) replica: Option<Replica>,
    /// Books only: an upstream gap was the last event; a snapshot for everyone comes next.
    pub(super) begins_again: bool,
    /// Books only: a request for the window waits for room in the feed thread's mailbox.
    pub(super) unsent: bool,
    pub(super) cohorts: SmallVec<[CohortId; 2]>,
    /// Sessions whose join could not be served yet.
    pub(super) waiting: Vec<SessionId>,
    /// Events of this turn; more than one are conflated in `latest` mode.
    pub(super) turn_events: u64,
}

impl Stream {
    pub(super) fn new(id: StreamId, format: Format, position: u64, snapshot: Option<Frame>) -> Self {
        Self {
            id,
            format,
            position,
            frame: None,
            snapshot,
            replica: None,
            begins_again: false,
            unsent: false,
            cohorts: SmallVec::new(),
            waiting: Vec::new(),
            turn_events: 0,
        }
    }
}
