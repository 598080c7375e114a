// SPDX-License-Identifier: Apache-2.0
//! A verifier that does as Keylime's: an integrity quote at each interval, on a new connection, with the IMA lines that it
//! has not seen yet. Its interval is a tenth of the real one, its patience that of the real one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use test_support::KeylimeAgent;

/// From one question to the next.
const INTERVAL: Duration = Duration::from_millis(200);

/// A verifier that asks until it is told to stop.
pub(crate) struct HonestVerifier {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Round>>,
}

struct Round {
    answer: Result<(), String>,
    took: Duration,
}

impl HonestVerifier {
    /// Begins to ask, for IMA lines from `entry` on.
    pub(crate) fn of(agent: &KeylimeAgent, entry: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, caller) = (Arc::clone(&stop), agent.caller());
        let thread = std::thread::spawn(move || {
            let path = format!("/v2.5/quotes/integrity?nonce=abc&mask=0x401&partial=1&ima_ml_entry={entry}");
            let mut rounds = Vec::new();
            while !asked.load(Ordering::Relaxed) {
                let start = Instant::now();
                let answer = caller.get(&path).map_err(|error| format!("{error:#}")).and_then(|answer| {
                    let is_good = answer.status == 200 && answer.results()["quote"].is_string();
                    let entry_is = answer.results().get("ima_measurement_list_entry").is_none_or(|is| *is == entry);
                    if is_good && entry_is { Ok(()) } else { Err(format!("{} {}", answer.status, answer.body)) }
                });
                let took = start.elapsed();
                rounds.push(Round { answer, took });
                std::thread::sleep(INTERVAL.saturating_sub(took));
            }
            rounds
        });
        Self { stop, thread }
    }

    /// Stops asking. Every question must have been answered by a quote.
    pub(crate) fn was_content(self) {
        self.stop.store(true, Ordering::Relaxed);
        let rounds = self.thread.join().unwrap();
        let longest = rounds.iter().map(|round| round.took).max().unwrap();
        println!("{} quotes for the verifier, the slowest in {longest:?}", rounds.len());
        for (number, Round { answer, .. }) in rounds.iter().enumerate() {
            assert_eq!(*answer, Ok(()), "quote {number}");
        }
    }
}
