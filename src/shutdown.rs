//! One stop signal for the whole process, and who still has to finish.

use std::time::Duration;

use tokio::sync::watch;

/// Tells everyone to stop. Dropping it stops them too.
#[derive(Debug)]
pub struct Stopper {
    sender: watch::Sender<bool>,
}

/// Waits for the stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop {
    receiver: watch::Receiver<bool>,
}

/// A stop signal and the first of its listeners.
#[must_use]
pub fn stop_signal() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper { sender }, Stop { receiver })
}

impl Stopper {
    /// Tells everyone, once; later calls change nothing.
    pub fn stop(&self) {
        self.sender.send_replace(true);
    }
}

impl Stop {
    /// Whether the stop has been called for.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        *self.receiver.borrow() || self.receiver.has_changed().is_err()
    }

    /// Returns once the stop has been called for. Cancel-safe.
    pub async fn stopped(&mut self) {
        // An error means that the stopper is gone, which is a stop as well.
        let _ = self.receiver.wait_for(|stopped| *stopped).await;
    }

    /// Sleeps for `duration`, or less if the stop comes first; says whether it came.
    pub async fn sleep(&mut self, duration: Duration) -> bool {
        tokio::select! {
            () = self.stopped() => true,
            () = tokio::time::sleep(duration) => self.is_stopped(),
        }
    }
}
