//! What waits for a session's socket.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use crate::wire::Frame;

/// Slices in one write: beyond this, gathering costs more than a second call.
const SLICES_MAX: usize = 64;

/// Where frames go. The implementation owns the sockets.
pub trait Sink {
    /// Writes as much as the socket takes now. `WouldBlock` where it takes nothing; any other
    /// error ends the session. What was not taken is offered again, from its first byte on and
    /// before everything else, if a part of its frame was; else it may never be.
    ///
    /// # Errors
    /// As the socket says.
    fn write(&mut self, session: super::SessionId, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Bytes that it holds for a full socket beside those that it has not taken.
    fn held(&self, _session: super::SessionId) -> usize {
        0
    }
}

/// A frame that waits.
#[derive(Debug)]
struct Item {
    frame: Frame,
    /// Whether it is an event, as opposed to an answer, a status or a control frame.
    event: bool,
    /// Whether it is part of a snapshot or resume that the session asked for.
    asked: bool,
}

/// A first-in-first-out queue of frames, of which the first may be written in part.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Item>,
    /// Bytes of the first frame that are written.
    written: usize,
    /// Bytes of events that wait.
    pub(super) event_bytes: usize,
    /// Events that wait.
    pub(super) events: usize,
    /// Of these, events that the session asked for, and their bytes.
    asked: (usize, usize),
    /// Bytes of everything else that waits.
    pub(super) control_bytes: usize,
    /// Bytes that the sink holds for the socket.
    pub(super) in_sink: usize,
    /// The socket takes nothing now.
    pub(super) blocked: bool,
    /// When the socket last took something, while blocked; monotonic ns.
    pub(super) since: u64,
    /// The socket failed.
    pub(super) failed: bool,
}

/// What draining came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Drained {
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) writes: u64,
    pub(super) blocked: bool,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn push(&mut self, frame: Frame, event: bool) {
        self.count(&frame, event);
        self.queue.push_back(Item { frame, event, asked: false });
    }

    /// Behind the frame that is written in part, before everything else.
    pub(super) fn push_front(&mut self, frame: Frame) {
        self.count(&frame, false);
        let at = usize::from(self.written > 0).min(self.queue.len());
        self.queue.insert(at, Item { frame, event: false, asked: false });
    }

    /// The rest of a frame of which `written` bytes are written: it must be finished first.
    pub(super) fn push_partial(&mut self, frame: Frame, written: usize) {
        debug_assert!(self.queue.is_empty());
        self.written = written;
        self.push(frame, true);
    }

    fn count(&mut self, frame: &Frame, event: bool) {
        if event {
            self.events += 1;
            self.event_bytes += frame.len();
        } else {
            self.control_bytes += frame.len();
        }
    }

    /// Frames that wait.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Events that wait and were asked for, and their bytes.
    pub(super) const fn asked(&self) -> (usize, usize) {
        self.asked
    }

    /// Notes that the events from this place on were asked for; whether there are any.
    pub(super) fn mark_asked(&mut self, from: usize) -> bool {
        let mut any = false;
        for item in self.queue.range_mut(from.min(self.queue.len())..) {
            if item.event && !item.asked {
                item.asked = true;
                self.asked.0 += 1;
                self.asked.1 += item.frame.len();
                any = true;
            }
        }
        any
    }

    /// The memory of what waits, shared frames counted as if they were its own.
    pub(super) fn held(&self) -> usize {
        self.event_bytes + self.control_bytes + self.in_sink + self.queue.len() * size_of::<Item>()
    }

    /// Forgets everything but a frame that is written in part, and gives its memory back.
    pub(super) fn clear(&mut self) {
        self.queue.truncate(usize::from(self.written > 0));
        self.queue.shrink_to(4);
        (self.events, self.event_bytes, self.control_bytes, self.asked) = (0, 0, 0, (0, 0));
        if let Some(item) = self.queue.front() {
            if item.event {
                (self.events, self.event_bytes) = (1, item.frame.len());
                self.asked = if item.asked { (1, item.frame.len()) } else { (0, 0) };
            } else {
                self.control_bytes = item.frame.len();
            }
        }
    }

    /// Writes until it is empty or the socket is full.
    pub(super) fn drain(&mut self, session: super::SessionId, sink: &mut impl Sink, now: u64) -> Drained {
        let mut drained = Drained::default();
        while !self.queue.is_empty() && !self.failed {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut filled = 0;
            for (item, slice) in self.queue.iter().zip(&mut slices) {
                let skip = if filled == 0 { self.written } else { 0 };
                *slice = IoSlice::new(&item.frame.bytes()[skip..]);
                filled += 1;
            }
            let offered: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
            drained.writes += 1;
            match sink.write(session, &slices[..filled]) {
                Ok(taken) => {
                    drained.bytes += taken as u64;
                    drained.events += self.advance(taken);
                    self.blocked = false;
                    if taken < offered {
                        self.block(now);
                        drained.blocked = true;
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.blocked {
                        self.block(now);
                    }
                    drained.blocked = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.failed = true,
            }
        }
        if self.queue.is_empty() {
            self.blocked = false;
        }
        self.in_sink = sink.held(session);
        drained
    }

    /// The socket is full, and took something up to now.
    pub(super) fn block(&mut self, now: u64) {
        self.blocked = true;
        self.since = now;
    }

    fn advance(&mut self, mut taken: usize) -> u64 {
        let mut events = 0;
        while let Some(item) = self.queue.front() {
            let left = item.frame.len() - self.written;
            if taken < left {
                self.written += taken;
                break;
            }
            taken -= left;
            self.written = 0;
            if item.event {
                events += 1;
                self.events -= 1;
                self.event_bytes -= item.frame.len();
                if item.asked {
                    self.asked.0 -= 1;
                    self.asked.1 -= item.frame.len();
                }
            } else {
                self.control_bytes -= item.frame.len();
            }
            self.queue.pop_front();
            if self.queue.is_empty() {
                // An idle session keeps no memory for its last backlog.
                self.queue = VecDeque::new();
            }
        }
        events
    }
}
