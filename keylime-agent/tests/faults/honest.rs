// SPDX-License-Identifier: Apache-2.0
//! A verifier that does as Keylime's: an integrity quote of a new nonce at each interval, on a new connection, with the IMA
//! lines that it has not seen yet; and it verifies what it gets. Its interval is a tenth of the real one, its patience that
//! of the real one.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use test_support::KeylimeAgent;
use test_support::keylime::{AgentCaller, HttpAnswer};
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::public::AkPublic;
use tpm_wire::quote::QuoteString;
use tpm_wire::verify::{node_key_matches, verify_quote};

use crate::support::Lab;

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
    /// Begins to ask: for the IMA lines from an entry on, of which there are none, or for no IMA list.
    pub(crate) fn of(lab: &Lab, agent: &KeylimeAgent, entry: Option<usize>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let pubkey = agent.get("/v2.5/keys/pubkey").unwrap().results()["pubkey"].as_str().unwrap().to_owned();
        let host = Host { caller: agent.caller(), ak: lab.registered_ak(&agent.id().unwrap()), pubkey, entry };
        let thread = std::thread::spawn(move || {
            let mut rounds = Vec::new();
            while !asked.load(Ordering::Relaxed) {
                let start = Instant::now();
                let answer = host.attest();
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

/// What a verifier knows of a host.
struct Host {
    caller: AgentCaller,
    ak: AkPublic,
    pubkey: String,
    entry: Option<usize>,
}

impl Host {
    /// Asks for a quote, which must be a good one.
    fn attest(&self) -> Result<(), String> {
        let nonce = format!("{:016x}", RandomState::new().hash_one(()));
        // Without PCR 10 there is no list, whatever the agent has.
        let (mask, entry) = self.entry.map_or((0x8001, 0), |entry| (0x8401, entry));
        let path = format!("/v2.5/quotes/integrity?nonce={nonce}&mask={mask:#x}&partial=1&ima_ml_entry={entry}");
        let answer = self.caller.get(&path).map_err(|error| format!("{error:#}"))?;
        self.judge(&answer, &nonce, mask).map_err(|why| format!("{why}: {} {}", answer.status, answer.body))
    }

    fn judge(&self, answer: &HttpAnswer, nonce: &str, mask: u32) -> Result<(), String> {
        let results = answer.results();
        let quote = results["quote"].as_str().filter(|_| answer.status == 200).ok_or("no quote")?;
        let quote: QuoteString = quote.parse().map_err(|error| format!("{error}"))?;
        let verified = verify_quote(&quote, &self.ak, nonce.as_bytes(), HashAlgorithm::Sha256);
        let pcrs = verified.map_err(|error| error.to_string())?.pcrs;
        if pcrs.mask().bits() != mask | 1 << 16 {
            return Err(format!("PCRs {}", pcrs.mask()));
        }
        if node_key_matches(&pcrs, &self.pubkey) != Some(true) {
            return Err("another payload key".to_owned());
        }
        let list = [results.get("ima_measurement_list_entry"), results.get("ima_measurement_list")];
        let as_asked = match self.entry {
            None => list == [None, None],
            Some(entry) => list == [Some(&entry.into()), Some(&"".into())],
        };
        if as_asked { Ok(()) } else { Err("another list".to_owned()) }
    }
}
