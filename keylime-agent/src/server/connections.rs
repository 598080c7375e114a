// SPDX-License-Identifier: Apache-2.0
//! A bounded table of connections, in which nobody can lock out the verifier: neither by opening connections and saying
//! nothing, nor by asking on more of them than can be answered at a time.
//!
//! A connection is *new* until its first request has come, and then *served*. There are places for so many of each. A new
//! connection takes the place of the one that has been new the longest, of the source that has most of them; a first request
//! takes the place of the served connection that has been without a request the longest. Where all of those have one, it
//! waits for its turn: the next connection that has been answered makes room for the source that has the fewest requests in
//! progress, and of one source for who came first. No source has all the places.
//!
//! While many wait, no more are accepted if all requests come from one source: the kernel keeps them in their order. If there
//! are others, they must not stand behind that crowd, so what comes of it is accepted and closed.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::turns::Source;

/// How long a source counts as one of several after its last request. The verifier asks every other second.
const SEEN: Duration = Duration::from_secs(60);

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No request has come yet; perhaps not even a TLS handshake.
    New,
    /// Its first request waits for its turn.
    Waiting,
    /// A request is being worked on.
    Busy,
    /// Waiting for the next request.
    Idle,
}

/// All connections of one listener.
#[derive(Clone)]
pub(super) struct Connections(Arc<Shared>);

struct Shared {
    table: Mutex<Table>,
    /// Told when fewer wait.
    fewer: Notify,
}

struct Table {
    entries: BTreeMap<u64, Entry>,
    /// Counts events; gives ids, and an order to states.
    clock: u64,
    limits: Limits,
    /// Who has asked, and when last.
    seen: HashMap<Source, Instant>,
}

/// How many connections may be in which states.
struct Limits {
    new: usize,
    /// While there are so many, no more are accepted.
    waiting: usize,
    /// Busy or idle.
    served: usize,
    /// Busy or idle, of one source.
    each: usize,
}

struct Entry {
    source: Source,
    state: State,
    /// When the state began.
    since: u64,
    signals: Arc<Signals>,
}

#[derive(Default)]
struct Signals {
    /// The connection has to make room.
    evict: Notify,
    /// It has its turn.
    turn: Notify,
    /// It has had a turn.
    served: AtomicBool,
}

/// The place of one connection, freed when dropped.
pub(super) struct Slot {
    connections: Connections,
    id: u64,
    signals: Arc<Signals>,
}

/// A request in progress.
pub(super) struct Busy {
    connections: Connections,
    id: u64,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.connections.change(|table| {
            // One that is waited for goes at once.
            if table.set(self.id, State::Idle) {
                table.give_turns();
            }
        });
    }
}

impl Connections {
    /// A table for at most `limit` connections, half of them new ones.
    pub(super) fn new(limit: usize) -> Self {
        let (new, waiting) = (limit.div_ceil(2), limit.div_ceil(8));
        let served = limit.saturating_sub(new + waiting).max(1);
        Self::with(Limits { new, waiting, served, each: (served.div_ceil(4) * 3).min(served) })
    }

    /// A table for connections that are not served.
    pub(super) fn never_served(limit: usize) -> Self {
        Self::with(Limits { new: limit, waiting: 1, served: 1, each: 1 })
    }

    fn with(limits: Limits) -> Self {
        let table = Mutex::new(Table { entries: BTreeMap::new(), clock: 0, limits, seen: HashMap::new() });
        Self(Arc::new(Shared { table, fewer: Notify::new() }))
    }

    /// Completes when another connection may be accepted. Cancel safe; for one caller at a time.
    pub(super) async fn room(&self) {
        loop {
            let fewer = self.0.fewer.notified();
            {
                let table = self.table();
                if table.count(|entry| entry.state == State::Waiting) < table.limits.waiting || table.sources() > 1 {
                    return;
                }
            }
            fewer.await;
        }
    }

    /// A place for a new connection, unless it is of a crowd that others must not stand behind.
    pub(super) fn admit(&self, source: Source) -> Option<Slot> {
        let mut table = self.table();
        let its_waiting = |entry: &Entry| entry.state == State::Waiting && entry.source == source;
        if table.count(its_waiting) >= table.limits.waiting && table.sources() > 1 {
            return None;
        }
        if table.count(|entry| entry.state == State::New) >= table.limits.new {
            table.evict_new();
        }
        let id = table.tick();
        let signals = Arc::<Signals>::default();
        table.entries.insert(id, Entry { source, state: State::New, since: id, signals: Arc::clone(&signals) });
        drop(table);
        Some(Slot { connections: self.clone(), id, signals })
    }

    /// Changes the table, and tells who accepts connections.
    fn change(&self, change: impl FnOnce(&mut Table)) {
        change(&mut self.table());
        self.0.fewer.notify_one();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.table().entries.is_empty()
    }
}

impl Table {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn count(&self, is: impl Fn(&Entry) -> bool) -> usize {
        self.entries.values().filter(|entry| is(entry)).count()
    }

    /// How many connections of each source are in a state.
    fn by_source(&self, state: State) -> HashMap<Source, usize> {
        let mut counts = HashMap::new();
        for entry in self.entries.values().filter(|entry| entry.state == state) {
            *counts.entry(entry.source).or_default() += 1;
        }
        counts
    }

    /// How many sources have asked in the last minute.
    fn sources(&self) -> usize {
        self.seen.values().filter(|last| last.elapsed() < SEEN).count()
    }

    /// Of the connections in a state, and such as are asked for, the one that has been in it the longest.
    fn longest(&self, state: State, is: impl Fn(&Entry) -> bool) -> Option<u64> {
        let those = self.entries.iter().filter(|(_, entry)| entry.state == state && is(entry));
        those.min_by_key(|(_, entry)| entry.since).map(|(id, _)| *id)
    }

    /// Notes what a connection does now; whether it still has its place.
    fn set(&mut self, id: u64, state: State) -> bool {
        let since = self.tick();
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        entry.state = state;
        entry.since = since;
        true
    }

    /// Takes the place of a connection. Its task ends as soon as it is run; the place is free at once.
    fn evict(&mut self, id: u64) {
        if let Some(entry) = self.entries.remove(&id) {
            entry.signals.evict.notify_one();
        }
    }

    fn evict_new(&mut self) {
        let counts = self.by_source(State::New);
        let crowded = counts.values().max().copied();
        if let Some(id) = self.longest(State::New, |entry| counts.get(&entry.source).copied() == crowded) {
            self.evict(id);
        }
    }

    /// Lets those who wait have their turn, as far as there are places.
    fn give_turns(&mut self) {
        while let Some((next, silent)) = self.next_turn() {
            if let Some(silent) = silent {
                self.evict(silent);
            }
            self.set(next, State::Busy);
            if let Some(entry) = self.entries.get(&next) {
                entry.signals.turn.notify_one();
            }
        }
    }

    /// The connection whose turn it is, and the one that has to make room for it.
    fn next_turn(&self) -> Option<(u64, Option<u64>)> {
        let mut waiting: Vec<_> = self.entries.iter().filter(|(_, entry)| entry.state == State::Waiting).collect();
        if waiting.is_empty() {
            return None;
        }
        let (busy, idle) = (self.by_source(State::Busy), self.by_source(State::Idle));
        let of =
            |counts: &HashMap<Source, usize>, entry: &Entry| counts.get(&entry.source).copied().unwrap_or_default();
        waiting.sort_by_key(|(_, entry)| (of(&busy, entry), entry.since));
        let is_full = busy.values().chain(idle.values()).sum::<usize>() >= self.limits.served;
        waiting.into_iter().find_map(|(id, entry)| {
            let has_its_share = of(&busy, entry) + of(&idle, entry) >= self.limits.each;
            if !is_full && !has_its_share {
                return Some((*id, None));
            }
            let silent = self.longest(State::Idle, |other| !has_its_share || other.source == entry.source)?;
            Some((*id, Some(silent)))
        })
    }

    /// Notes that the source of a connection has asked.
    fn note(&mut self, id: u64) {
        let Some(source) = self.entries.get(&id).map(|entry| entry.source) else { return };
        if self.seen.insert(source, Instant::now()).is_none() {
            self.seen.retain(|_, last| last.elapsed() < SEEN);
        }
    }
}

impl Slot {
    /// A request has begun, and may be worked on when this completes; it is answered when the result is dropped. Cancel safe
    /// in so far as the connection ends with it.
    pub(super) async fn busy(&self) -> Busy {
        let is_first = !self.signals.served.load(Ordering::Relaxed);
        {
            let mut table = self.connections.table();
            table.note(self.id);
            table.set(self.id, if is_first { State::Waiting } else { State::Busy });
            table.give_turns();
        }
        if is_first {
            // It never comes if the place has been taken, and the connection ends.
            self.signals.turn.notified().await;
            self.signals.served.store(true, Ordering::Relaxed);
        }
        Busy { connections: self.connections.clone(), id: self.id }
    }

    /// Completes when the connection has to make room for another one; whether it has had a request. Cancel safe.
    pub(super) async fn evicted(&self) -> bool {
        self.signals.evict.notified().await;
        self.signals.served.load(Ordering::Relaxed)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.change(|table| {
            table.entries.remove(&self.id);
            table.give_turns();
        });
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Places for four new connections, one that waits, and three that are served.
    fn table() -> Connections {
        Connections::new(8)
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn admit(connections: &Connections) -> Slot {
        connections.admit(Source::User(1)).unwrap()
    }

    fn is_evicted(slot: &Slot) -> bool {
        let ready = poll(pin!(slot.evicted())).is_ready();
        if ready {
            // The permit is used up by looking at it.
            slot.signals.evict.notify_one();
        }
        ready
    }

    /// A request that has its turn at once.
    fn busy(slot: &Slot) -> Busy {
        match poll(pin!(slot.busy())) {
            Poll::Ready(busy) => busy,
            Poll::Pending => panic!("it has to wait"),
        }
    }

    #[test]
    fn of_those_that_say_nothing_the_oldest_goes_first() {
        let connections = table();
        let served = admit(&connections);
        drop(busy(&served));
        let mut silent: Vec<_> = (0..4).map(|_| admit(&connections)).collect();
        for gone in 0..6 {
            assert_eq!(silent.iter().position(|slot| !is_evicted(slot)), Some(gone));
            silent.push(admit(&connections));
        }
        // One that comes to ask takes no place of theirs any more.
        let asking = silent.pop().unwrap();
        drop(busy(&asking));
        silent.push(admit(&connections));
        assert_eq!(silent.iter().position(|slot| !is_evicted(slot)), Some(6));
        assert!(!is_evicted(&served));
        // One that has lost its place has no turn.
        assert!(poll(pin!(silent[0].busy())).is_pending());
    }

    #[test]
    fn a_request_takes_the_place_of_the_longest_silent_one_that_has_had_its_answer() {
        let connections = table();
        let slots: Vec<_> = (0..4).map(|_| admit(&connections)).collect();
        let first = busy(&slots[0]);
        drop(busy(&slots[1]));
        drop(busy(&slots[2]));
        // The next one is newer as idle ones go, since it has had a second request.
        drop(busy(&slots[1]));
        let fourth = busy(&slots[3]);
        assert_eq!(slots.iter().map(is_evicted).collect::<Vec<_>>(), [false, false, true, false]);
        drop((first, fourth, slots));
        assert!(connections.is_empty());
    }

    #[test]
    fn where_all_are_busy_the_next_answer_makes_room() {
        let connections = table();
        let slots: Vec<_> = (0..4).map(|_| admit(&connections)).collect();
        let mut requests: Vec<_> = slots[..3].iter().map(busy).collect();
        let later = admit(&connections);
        assert!(poll(pin!(connections.room())).is_ready());
        let mut waiting = pin!(slots[3].busy());
        assert!(poll(waiting.as_mut()).is_pending());
        // None is accepted while one waits, and one that has been may wait as well.
        let mut room = pin!(connections.room());
        assert!(poll(room.as_mut()).is_pending());
        let mut last = pin!(later.busy());
        assert!(poll(last.as_mut()).is_pending());

        drop(requests.remove(1));
        assert!(is_evicted(&slots[1]) && poll(last.as_mut()).is_pending());
        let Poll::Ready(turn) = poll(waiting.as_mut()) else { panic!("its turn has come") };
        assert!(poll(room.as_mut()).is_pending());
        drop(turn);
        assert!(is_evicted(&slots[3]) && poll(last.as_mut()).is_ready());
        assert!(poll(room.as_mut()).is_ready());
        // An answered connection that nobody waits for stays; its next request is worked on at once.
        drop(requests.remove(0));
        assert!(!is_evicted(&slots[0]));
        let _again = busy(&slots[0]);
    }

    #[test]
    fn who_goes_away_while_waiting_is_not_waited_for() {
        let connections = Connections::new(1);
        let first = admit(&connections);
        let request = busy(&first);
        let second = admit(&connections);
        assert!(poll(pin!(second.busy())).is_pending());
        drop(second);
        drop(request);
        assert!(!is_evicted(&first));
        drop(first);
        assert!(connections.is_empty());
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_crowd_does_not_stand_before_the_others() {
        let (crowd, other) = (Source::User(1), Source::User(2));
        // Places for 16 new ones, 4 that wait, and 12 that are served, 9 of them of one source.
        let connections = Connections::new(32);
        let slots: Vec<_> = (0..13).map(|_| admit(&connections)).collect();
        let requests: Vec<_> = slots[..9].iter().map(busy).collect();
        let mut waiting: Vec<_> = slots[9..].iter().map(|slot| Box::pin(slot.busy())).collect();
        assert!(waiting.iter_mut().all(|request| poll(request.as_mut()).is_pending()));
        // As long as there is nobody else the kernel keeps the rest of it.
        assert!(poll(pin!(connections.room())).is_pending());
        assert!(connections.admit(crowd).is_some());
        let first = connections.admit(other).unwrap();
        let request = busy(&first);
        assert!(poll(pin!(connections.room())).is_ready());
        assert!(connections.admit(crowd).is_none());
        // The places of all others are taken as well: the fewest requests count, and not who came first.
        let more: Vec<_> = (0..2).map(|_| connections.admit(other).unwrap()).collect();
        let more: Vec<_> = more.iter().map(busy).collect();
        let third = Source::User(3);
        let last = connections.admit(third).unwrap();
        let mut last = pin!(last.busy());
        assert!(poll(last.as_mut()).is_pending());
        drop(requests);
        assert!(poll(last.as_mut()).is_ready() && poll(waiting[0].as_mut()).is_ready());
        drop((request, more));
        // A minute later there is nobody else any more.
        let slots: Vec<_> = (0..9).map(|_| admit(&connections)).collect();
        let _requests: Vec<_> = slots.iter().map(|slot| poll(pin!(slot.busy()))).collect();
        tokio::time::advance(SEEN).await;
        assert_eq!(connections.table().sources(), 0);
    }

    #[test]
    fn who_asks_again_at_once_keeps_nobody_of_its_own_address_waiting() {
        // 9 of the 12 places that are served may be of one source.
        let connections = Connections::new(32);
        let slots: Vec<_> = (0..10).map(|_| admit(&connections)).collect();
        let mut requests: Vec<_> = slots[..9].iter().map(|slot| Some(busy(slot))).collect();
        let mut waiting = pin!(slots[9].busy());
        assert!(poll(waiting.as_mut()).is_pending());
        requests[0] = None;
        assert!(is_evicted(&slots[0]));
        assert!(poll(waiting.as_mut()).is_ready());
    }

    #[test]
    fn silent_connections_of_a_crowd_take_no_place_of_others() {
        let connections = table();
        let other = connections.admit(Source::User(2)).unwrap();
        let crowd: Vec<_> = (0..10).map(|_| admit(&connections)).collect();
        assert!(!is_evicted(&other));
        assert_eq!(crowd.iter().filter(|slot| !is_evicted(slot)).count(), 3);
    }
}
