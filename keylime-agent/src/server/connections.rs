// SPDX-License-Identifier: Apache-2.0
//! A bounded table of connections. When it is full, a new connection takes the place of the one that has been silent the
//! longest, so that nobody can lock out the verifier by opening connections and saying nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What a connection is doing, in the order in which they have to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// No request has come yet; perhaps not even a TLS handshake.
    New,
    /// Waiting for the next request.
    Idle,
    /// A request is being worked on. Such connections stay.
    Busy,
}

/// All connections of one listener.
#[derive(Clone)]
pub(super) struct Connections {
    table: Arc<Mutex<Table>>,
    limit: usize,
}

#[derive(Default)]
struct Table {
    entries: BTreeMap<u64, Entry>,
    /// Counts events; gives ids, and an order to states.
    clock: u64,
}

struct Entry {
    state: State,
    /// When the state began.
    since: u64,
    evict: Arc<Notify>,
}

/// The place of one connection, freed when dropped.
pub(super) struct Slot {
    connections: Connections,
    id: u64,
    evict: Arc<Notify>,
}

/// A request in progress.
pub(super) struct Busy {
    connections: Connections,
    id: u64,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.connections.set(self.id, State::Idle);
    }
}

impl Connections {
    /// A table for at most `limit` connections.
    pub(super) fn new(limit: usize) -> Self {
        Self { table: Arc::default(), limit }
    }

    /// A place for a new connection, or `None` if every connection is busy.
    pub(super) fn admit(&self) -> Option<Slot> {
        let mut table = self.table();
        if table.entries.len() >= self.limit {
            let silent = table
                .entries
                .iter()
                .filter(|(_, entry)| entry.state != State::Busy)
                .min_by_key(|(_, entry)| (entry.state, entry.since))
                .map(|(id, _)| *id)?;
            // Its task ends as soon as it is run; the place is free at once.
            if let Some(entry) = table.entries.remove(&silent) {
                entry.evict.notify_one();
            }
        }
        let id = table.tick();
        let evict = Arc::new(Notify::new());
        let entry = Entry { state: State::New, since: id, evict: Arc::clone(&evict) };
        table.entries.insert(id, entry);
        Some(Slot { connections: self.clone(), id, evict })
    }

    /// Notes what a connection does now, if it still has its place.
    fn set(&self, id: u64, state: State) {
        let mut table = self.table();
        let since = table.tick();
        if let Some(entry) = table.entries.get_mut(&id) {
            entry.state = state;
            entry.since = since;
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

impl Slot {
    /// A request has begun; it is answered when the result is dropped.
    pub(super) fn busy(&self) -> Busy {
        self.connections.set(self.id, State::Busy);
        Busy { connections: self.connections.clone(), id: self.id }
    }

    /// Completes when the connection has to make room for another one. Cancel safe.
    pub(super) async fn evicted(&self) {
        self.evict.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.table().entries.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn is_evicted(slot: &Slot) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let ready = pin!(slot.evicted()).poll(&mut context) == Poll::Ready(());
        if ready {
            // The permit is used up by looking at it.
            slot.evict.notify_one();
        }
        ready
    }

    #[test]
    fn the_longest_silent_one_goes_first() {
        let connections = Connections::new(3);
        let answered = connections.admit().unwrap();
        let silent = connections.admit().unwrap();
        let busy = connections.admit().unwrap();
        drop(answered.busy());
        let _request = busy.busy();

        let first = connections.admit().unwrap();
        assert!(is_evicted(&silent) && !is_evicted(&answered) && !is_evicted(&busy));
        // A connection without any request goes before one that had some.
        let second = connections.admit().unwrap();
        assert!(is_evicted(&first) && !is_evicted(&answered));
        let _second_request = second.busy();
        let third = connections.admit().unwrap();
        assert!(is_evicted(&answered));
        let _third_request = third.busy();
        assert!(connections.admit().is_none());
        assert!(!is_evicted(&busy) && !is_evicted(&second) && !is_evicted(&third));

        drop(second);
        let fourth = connections.admit().unwrap();
        assert!(!is_evicted(&busy));
        drop((fourth, third, busy, answered, silent, first));
        assert!(connections.table().entries.is_empty());
    }
}
