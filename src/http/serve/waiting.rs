//! Connections that have not asked for anything yet, in the order of their arrival. Where all places
//! are taken, the one that has waited longest gives way to the newcomer: strangers who hold sockets
//! open, from however many addresses, are the oldest, and a client that means it asks at once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, OwnedSemaphorePermit};

/// How long a connection is safe, whoever comes: a request on a slow line arrives within it.
const SAFE_NS: u64 = 1_000_000_000;

/// One connection's place, and whether it has asked.
pub(super) struct Waiting {
    since: u64,
    place: Mutex<Option<OwnedSemaphorePermit>>,
    asked: AtomicBool,
    displaced: Notify,
}

impl Waiting {
    /// A request has come. Whether it is the first.
    pub(super) fn ask(&self) -> bool {
        !self.asked.swap(true, Ordering::Relaxed)
    }

    /// Returns once another connection has its place.
    pub(super) async fn displaced(&self) {
        self.displaced.notified().await;
    }
}

/// The connections of one listener that may be waiting. Those that are gone or have asked are taken
/// out when they come to the front, which every connection does within the header timeout.
#[derive(Default)]
pub(super) struct Queue(Mutex<VecDeque<Weak<Waiting>>>);

impl Queue {
    /// A newcomer, behind all others.
    pub(super) fn join(&self, place: OwnedSemaphorePermit, now: u64) -> Arc<Waiting> {
        let place = Mutex::new(Some(place));
        let waiting = Arc::new(Waiting { since: now, place, asked: AtomicBool::new(false), displaced: Notify::new() });
        let mut queue = lock(&self.0);
        drop(first(&mut queue));
        queue.push_back(Arc::downgrade(&waiting));
        waiting
    }

    /// The place of the one that has waited longest, if that was long enough.
    pub(super) fn displace(&self, now: u64) -> Option<OwnedSemaphorePermit> {
        let mut queue = lock(&self.0);
        let oldest = first(&mut queue).filter(|oldest| now.saturating_sub(oldest.since) >= SAFE_NS)?;
        queue.pop_front();
        oldest.displaced.notify_one();
        lock(&oldest.place).take()
    }
}

/// The first that still waits; those before it are forgotten.
fn first(queue: &mut VecDeque<Weak<Waiting>>) -> Option<Arc<Waiting>> {
    loop {
        match queue.front()?.upgrade() {
            Some(waiting) if !waiting.asked.load(Ordering::Relaxed) => return Some(waiting),
            _ => drop(queue.pop_front()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn the_one_that_waits_longest_gives_way_and_nobody_else() {
        let (queue, places) = (Queue::default(), Arc::new(Semaphore::new(3)));
        let take = || Arc::clone(&places).try_acquire_owned();
        let asked = queue.join(take().expect("room"), 0);
        let oldest = queue.join(take().expect("room"), 1);
        let younger = queue.join(take().expect("room"), 2);
        assert!(asked.ask() && !asked.ask());
        assert!(take().is_err() && queue.displace(SAFE_NS).is_none(), "everyone is safe for a while");
        let place = queue.displace(SAFE_NS + 1).expect("the oldest is no longer safe");
        oldest.displaced().await;
        assert!(queue.displace(SAFE_NS + 1).is_none(), "the next one is");
        let newcomer = queue.join(place, SAFE_NS + 1);
        drop((asked, oldest, younger));
        assert_eq!(places.available_permits(), 2, "a place is given on, not made");
        drop(newcomer);
        assert_eq!(places.available_permits(), 3);
    }

    #[test]
    fn who_is_gone_is_not_remembered() {
        let (queue, places) = (Queue::default(), Arc::new(Semaphore::new(1)));
        for now in 0..10_000 {
            drop(queue.join(Arc::clone(&places).try_acquire_owned().expect("free again"), now));
        }
        assert!(lock(&queue.0).len() <= 2);
    }
}
