// SPDX-License-Identifier: Apache-2.0
//! Which members of a pool are worth a call: a member that failed rests for a while

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ring::rand::SecureRandom as _;
use tokio::time::Instant;

use crate::client::ClientError;

/// Rest after the first failure; it doubles with each failed trial.
const SHORTEST_REST: Duration = Duration::from_secs(1);

/// Longest rest.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// The state of one member.
#[derive(Debug)]
pub(super) struct Health(Arc<Mutex<State>>);

#[derive(Debug)]
enum State {
    Up,
    Down(Down),
}

#[derive(Debug)]
struct Down {
    /// When the last failure that counted was seen.
    since: Instant,
    /// When the member is to be tried again.
    due: Instant,
    /// Failures that counted, one a rest.
    failures: u32,
    /// Somebody tries it right now.
    trying: bool,
    error: ClientError,
}

/// Whether a member is to be asked.
pub(super) enum Turn {
    Up,
    /// Down for long enough: the caller is the one that tries.
    Due(Trial),
    /// Down, with how it failed.
    Down(ClientError),
}

/// The right to try a member that is down; given back when dropped.
pub(super) struct Trial(Arc<Mutex<State>>);

impl Drop for Trial {
    fn drop(&mut self) {
        if let State::Down(down) = &mut *lock(&self.0) {
            down.trying = false;
        }
    }
}

/// The failure says that the service cannot be reached or does not work, rather than something about
/// what was asked for or about this side. (A status such as 500 or an odd body may be so for one agent only, and
/// must not take the member away from all others: what it says of a failed host has to be heard.)
pub(super) fn is_down(error: &ClientError) -> bool {
    match error {
        ClientError::Connect { .. }
        | ClientError::ConnectTimeout { .. }
        | ClientError::Timeout { .. }
        | ClientError::Tls { .. }
        | ClientError::Interrupted { .. } => true,
        ClientError::Status { code, .. } => *code == 503,
        _ => false,
    }
}

impl Health {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State::Up)))
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(*lock(&self.0), State::Up)
    }

    pub(super) fn turn(&self, now: Instant) -> Turn {
        match &mut *lock(&self.0) {
            State::Up => Turn::Up,
            State::Down(down) if now >= down.due && !down.trying => {
                down.trying = true;
                Turn::Due(Trial(self.0.clone()))
            }
            State::Down(down) => Turn::Down(down.error.clone()),
        }
    }

    /// Takes in how a call ended that began at `begun`.
    pub(super) fn record(&self, peer: &str, begun: Instant, error: Option<&ClientError>) {
        if matches!(error, Some(ClientError::Busy { .. })) {
            return;
        }
        let mut state = lock(&self.0);
        let Some(error) = error.filter(|error| is_down(error)) else {
            if matches!(*state, State::Up) {
                return;
            }
            *state = State::Up;
            drop(state);
            tracing::info!(peer, "a Keylime service answers again");
            return;
        };
        let now = Instant::now();
        let (failures, trying) = match &*state {
            State::Up => (1, false),
            // Many calls can fail on one outage; it counts once a rest.
            State::Down(down) if begun < down.since || now < down.due => return,
            State::Down(down) => (down.failures.saturating_add(1), down.trying),
        };
        let rest = rest(failures, random());
        *state = State::Down(Down { since: now, due: now + rest, failures, trying, error: error.clone() });
        drop(state);
        if failures == 1 {
            tracing::warn!(peer, %error, "a Keylime service is down, others are asked in its place");
        } else {
            tracing::debug!(peer, %error, rest_ms = rest.as_millis(), "a Keylime service is still down");
        }
    }
}

/// Nothing that runs under the lock can panic half-way through a change.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The rest after that many failures; `random`, from 0 to 1, takes up to a quarter off.
fn rest(failures: u32, random: f64) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    SHORTEST_REST.saturating_mul(doubled).min(LONGEST_REST).mul_f64(1.0 - random / 4.0)
}

/// A random number from 0 to 1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness the rest has its full length.
    let _ = ring::rand::SystemRandom::new().fill(&mut bytes);
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeout() -> ClientError {
        let limit = Duration::from_secs(10);
        ClientError::Timeout { peer: "X".to_owned(), call: "GET /".to_owned(), limit }
    }

    fn busy() -> ClientError {
        let limit = Duration::from_secs(10);
        ClientError::Busy { peer: "X".to_owned(), call: "GET /".to_owned(), limit }
    }

    fn due(health: &Health) -> Option<Trial> {
        match health.turn(Instant::now()) {
            Turn::Due(trial) => Some(trial),
            Turn::Up | Turn::Down(_) => None,
        }
    }

    #[test]
    fn rests_double_up_to_half_a_minute_and_are_spread() {
        let full: Vec<_> = [1, 2, 3, 4, 5, 6, 7, u32::MAX].map(|n| rest(n, 0.0).as_secs()).into();
        assert_eq!(full, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(rest(1, 1.0), Duration::from_millis(750));
        assert_eq!(rest(u32::MAX, 1.0), Duration::from_millis(22_500));
        assert!((0..100).map(|_| random()).all(|n| (0.0..=1.0).contains(&n)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_caller_tries_and_gives_the_trial_back() {
        let health = Health::new();
        assert!(health.is_up());
        health.record("X", Instant::now(), Some(&timeout()));
        assert!(due(&health).is_none() && !health.is_up());
        tokio::time::advance(SHORTEST_REST).await;
        let trial = due(&health).expect("it has rested");
        assert!(due(&health).is_none(), "somebody else tries it");
        drop(trial);
        let trial = due(&health).expect("that trial was given up");
        health.record("X", Instant::now(), None);
        drop(trial);
        assert!(health.is_up());
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_counts_once_a_rest() {
        let health = Health::new();
        let before = Instant::now();
        health.record("X", before, Some(&timeout()));
        // Calls that end in the rest, and calls from before that end after it.
        health.record("X", Instant::now(), Some(&timeout()));
        tokio::time::advance(SHORTEST_REST).await;
        health.record("X", before - Duration::from_secs(1), Some(&timeout()));
        let trial = due(&health).expect("the rest was not made longer");
        health.record("X", Instant::now(), Some(&timeout()));
        drop(trial);
        tokio::time::advance(SHORTEST_REST).await;
        assert!(due(&health).is_none(), "the second rest is longer");
        tokio::time::advance(SHORTEST_REST).await;
        assert!(due(&health).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_turn_says_nothing_of_the_service() {
        let health = Health::new();
        health.record("X", Instant::now(), Some(&busy()));
        assert!(health.is_up());
        health.record("X", Instant::now(), Some(&timeout()));
        health.record("X", Instant::now(), Some(&busy()));
        assert!(!health.is_up());
    }

    #[test]
    fn only_failures_of_the_service_itself_take_it_out() {
        let (peer, call, text) = (|| "X".to_owned(), || "GET /".to_owned(), || "no".to_owned());
        let status = |code| ClientError::Status { peer: peer(), call: call(), code, text: text(), retry_after: None };
        for (error, down) in [
            (timeout(), true),
            (ClientError::ConnectTimeout { peer: peer(), limit: Duration::from_secs(3) }, true),
            (busy(), false),
            (status(503), true),
            (status(500), false),
            (status(502), false),
            (status(504), false),
            (status(408), false),
            (status(429), false),
            (status(400), false),
            (status(404), false),
            (ClientError::NotFound { peer: peer(), call: call(), text: text() }, false),
            (ClientError::Forbidden { peer: peer(), call: call(), text: text() }, false),
            (ClientError::TooLarge { peer: peer(), call: call(), limit: 1 }, false),
            (ClientError::NoDate { peer: peer(), call: call() }, false),
            (ClientError::PushModel { peer: peer() }, false),
        ] {
            assert_eq!(is_down(&error), down, "{error}");
        }
    }
}
