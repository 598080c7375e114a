// SPDX-License-Identifier: Apache-2.0
//! Letting work in progress finish, for a limited time, before the process ends.

use std::time::Duration;

use tokio::sync::watch;

/// Held by whoever decides that it is time to stop.
#[derive(Debug)]
pub struct Drain {
    stop: watch::Sender<bool>,
}

/// Held by each piece of work (a connection, a call) for as long as it runs; dropping it says that the work is over.
#[derive(Clone, Debug)]
pub struct Watch {
    stop: watch::Receiver<bool>,
}

impl Drain {
    /// A drain that watches nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { stop: watch::channel(false).0 }
    }

    /// Registers one more piece of work.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch { stop: self.stop.subscribe() }
    }

    /// Tells all work to come to an end and waits until each [`Watch`] is dropped, at most for `grace`.
    ///
    /// Returns whether everything ended in time.
    pub async fn drain(self, grace: Duration) -> bool {
        self.stop.send_replace(true);
        tokio::time::timeout(grace, self.stop.closed()).await.is_ok()
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Watch {
    /// Completes when the drain has begun, also if its owner is gone. Cancel safe.
    pub async fn draining(&mut self) {
        // An error means that the owner was dropped, which ends the work just as well.
        let _ = self.stop.wait_for(|stop| *stop).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(future)
    }

    #[test]
    fn waits_for_work_that_stops() {
        block_on(async {
            let drain = Drain::new();
            let mut watch = drain.watch();
            let work = tokio::spawn(async move {
                watch.draining().await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            });
            assert!(drain.drain(Duration::from_secs(5)).await);
            assert!(work.is_finished());
        });
    }

    #[test]
    fn gives_up_on_work_that_does_not() {
        block_on(async {
            let drain = Drain::new();
            let _watch = drain.watch();
            assert!(!drain.drain(Duration::from_secs(5)).await);
        });
    }

    #[test]
    fn a_dropped_drain_ends_the_work() {
        block_on(async {
            let drain = Drain::new();
            let mut watch = drain.watch();
            drop(drain);
            watch.draining().await;
        });
    }
}
