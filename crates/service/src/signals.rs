// SPDX-License-Identifier: Apache-2.0
//! SIGTERM and SIGINT as something to wait for.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Says whether the process was asked to end. Clones share the answer, and a signal is never missed: it stays set.
#[derive(Clone, Debug)]
pub struct Shutdown {
    asked: watch::Receiver<bool>,
}

/// Takes over SIGTERM and SIGINT. From here on they no longer end the process by themselves.
///
/// # Errors
/// The operating system refused the signal handlers.
///
/// # Panics
/// Outside a tokio runtime with I/O enabled.
pub fn shutdown() -> io::Result<Shutdown> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, asked) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sender.send_replace(true);
        // Keep the sender, so that a later wait finds the value and not a closed channel.
        sender.closed().await;
    });
    Ok(Shutdown { asked })
}

impl Shutdown {
    /// Completes once SIGTERM or SIGINT has arrived, at once if that was before the call. Cancel safe.
    pub async fn wait(&self) {
        // The channel closes only when the runtime ends, which is a shutdown too.
        let _ = self.asked.clone().wait_for(|asked| *asked).await;
    }

    /// Whether a signal has arrived.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.asked.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_reaches_every_clone_and_stays() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let shutdown = shutdown().unwrap();
            let clone = shutdown.clone();
            assert!(!shutdown.is_requested());
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
            shutdown.wait().await;
            clone.wait().await;
            assert!(clone.is_requested());
        });
    }
}
