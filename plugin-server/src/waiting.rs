// SPDX-License-Identifier: Apache-2.0
//! The pause between two questions to the verifier about a host that is not verified yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Between two questions about one host, when it is the only one. Verifiers quote every 2 s.
const PAUSE: Duration = Duration::from_millis(500);

/// What each waiting host adds to everybody's pause, so that a fleet that boots at once asks no more than a
/// hundred times a second.
const EACH: Duration = Duration::from_millis(10);

/// Hosts waited for at once: half of the attestations that may be under way, so that a verifier that stalls does not
/// keep the hosts of others out.
const PLACES: u32 = 256;

/// The hosts that are waited for; clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Arc<AtomicU32>);

/// One host that is waited for.
#[derive(Debug)]
pub struct Place(Waiting);

impl Waiting {
    /// Counts one host more, until the place is dropped; none beyond 256.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        let more = |count: u32| (count < PLACES).then_some(count + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Place(self.clone()))
    }

    /// How long to wait before the next question.
    #[must_use]
    pub fn pause(&self) -> Duration {
        PAUSE + EACH * self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_the_number_that_waits() {
        let waiting = Waiting::default();
        assert_eq!(waiting.pause(), Duration::from_millis(500));
        let places: Vec<_> = (0..PLACES).map(|_| waiting.place().unwrap()).collect();
        assert_eq!(waiting.pause(), Duration::from_millis(3060));
        assert!(waiting.place().is_none());
        drop(places);
        assert_eq!(waiting.pause(), Duration::from_millis(500));
    }
}
