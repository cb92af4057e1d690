//! What workers ask of a feed thread, through one bounded mailbox.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use tokio::sync::Notify;

use crate::model::StreamId;
use crate::wire::Format;

/// A worker has begun to want a book stream and asks for its current window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BookRequest {
    /// The book stream.
    pub stream: StreamId,
    /// The worker that asks.
    pub worker: usize,
    /// The format that it wants it in.
    pub format: Format,
}

/// The mailbox of one feed thread. Cheap to clone; many workers send, one thread takes.
#[derive(Clone, Debug)]
pub struct Requests {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: ArrayQueue<BookRequest>,
    notify: Notify,
}

impl Requests {
    /// A mailbox for `requests_max` requests.
    #[must_use]
    pub fn new(requests_max: usize) -> Self {
        Self { inner: Arc::new(Inner { queue: ArrayQueue::new(requests_max), notify: Notify::new() }) }
    }

    /// Sends a request; `false` where the mailbox is full, to be tried again later.
    #[must_use]
    pub fn send(&self, request: BookRequest) -> bool {
        let sent = self.inner.queue.push(request).is_ok();
        self.inner.notify.notify_one();
        sent
    }

    /// The next request, if there is one.
    #[must_use]
    pub fn take(&self) -> Option<BookRequest> {
        self.inner.queue.pop()
    }

    /// Returns when something may have been sent. Cancel-safe.
    pub async fn sent(&self) {
        self.inner.notify.notified().await;
    }
}
