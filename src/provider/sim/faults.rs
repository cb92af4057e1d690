//! Misbehaviour, on schedule and on demand.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;

use super::config::{Config, Fault};

/// Demands that may wait: they are served at the next event or at once.
const DEMANDS_MAX: usize = 16;

/// Makes a running [`Sim`](super::Sim) misbehave, from any thread.
#[derive(Clone, Debug)]
pub struct SimControl {
    demands: mpsc::Sender<Fault>,
}

impl SimControl {
    /// Demands a fault now; when it is to happen is ignored. `false` where too many wait already
    /// or the simulation is gone.
    pub fn demand(&self, fault: Fault) -> bool {
        self.demands.try_send(fault).is_ok()
    }
}

/// What a fault asks of the runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happening {
    /// Nothing more.
    Nothing,
    /// To be silent for so long.
    Silence(Duration),
}

#[derive(Debug)]
pub(super) struct Faults {
    scheduled: VecDeque<(u64, Fault)>,
    /// Taken from the channel while waiting, and not yet done.
    demanded: Option<Fault>,
    sender: mpsc::Sender<Fault>,
    receiver: mpsc::Receiver<Fault>,
    dropping: u32,
}

impl Faults {
    pub(super) fn new(config: &Config) -> Self {
        let (sender, receiver) = mpsc::channel(DEMANDS_MAX);
        Self { scheduled: config.schedule().into(), demanded: None, sender, receiver, dropping: 0 }
    }

    pub(super) fn control(&self) -> SimControl {
        SimControl { demands: self.sender.clone() }
    }

    /// The next fault to happen before `event`, each once.
    pub(super) fn due(&mut self, event: u64) -> Option<Fault> {
        if let Some(fault) = self.demanded.take().or_else(|| self.receiver.try_recv().ok()) {
            return Some(fault);
        }
        let due = self.scheduled.front().is_some_and(|(at, _)| *at <= event);
        if due { self.scheduled.pop_front().map(|(_, fault)| fault) } else { None }
    }

    /// How many events come before the next scheduled fault.
    pub(super) fn events_until(&self, event: u64) -> u64 {
        self.scheduled.front().map_or(u64::MAX, |(at, _)| at.saturating_sub(event))
    }

    /// Returns once a fault is demanded. Cancel-safe.
    pub(super) async fn demanded(&mut self) {
        // The sender is kept here, so the channel never closes.
        self.demanded = self.receiver.recv().await;
    }

    pub(super) const fn drop_next(&mut self, events: u32) {
        self.dropping += events;
    }

    /// Whether the event at hand is to be lost.
    #[inline]
    pub(super) const fn drops_one(&mut self) -> bool {
        let drops = self.dropping > 0;
        self.dropping -= drops as u32;
        drops
    }

    pub(super) const fn is_dropping(&self) -> bool {
        self.dropping > 0
    }
}
