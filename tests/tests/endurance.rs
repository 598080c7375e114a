// SPDX-License-Identifier: Apache-2.0
//! The same thing many times over: a few rounds in every test run, many in `./scripts/soak` (which sets `SOAK_FACTOR`).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::{Duration, Instant};

use e2e::{Host, LIMIT};
use nix::sys::signal::Signal;
use spire_plugin::host::{Launch, SpireHost};
use test_support::{process, require};

/// How many times more often than in a usual test run.
fn factor() -> usize {
    std::env::var("SOAK_FACTOR").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

#[tokio::test]
async fn attestations_in_turn_and_at_once_leave_the_plugins_as_they_were() {
    let (Some(()), Some(_), Some(())) = (require::swtpm(), require::keylime(), require::root()) else { return };
    let host = Host::start().unwrap();
    host.enrol().unwrap();
    let spire = SpireHost::new("tower.example".parse().unwrap(), "keylime");
    let (server, agent) = (host.server_plugin().unwrap(), host.agent_plugin().unwrap());
    let server = spire.load_server(Launch::new(server.command), &server.data).await.unwrap();
    let agent = spire.load_agent(Launch::new(agent.command), &agent.data).await.unwrap();
    let memory = || [agent.pid(), server.pid()].map(|pid| process::rss_kib(pid).unwrap());

    for _ in 0..20 {
        spire.attest(&agent, &server).await.unwrap();
    }
    let (rounds, before, start) = (10 * factor(), memory(), Instant::now());
    for _ in 0..rounds {
        spire.attest(&agent, &server).await.unwrap();
        // Eight at once on the same streams of SPIRE, which is what a fleet's renewals look like.
        let (a, b, c, d, e, f, g, h) = tokio::join!(
            spire.attest(&agent, &server),
            spire.attest(&agent, &server),
            spire.attest(&agent, &server),
            spire.attest(&agent, &server),
            spire.attest(&agent, &server),
            spire.attest(&agent, &server),
            spire.attest(&agent, &server),
            spire.attest(&agent, &server),
        );
        for outcome in [a, b, c, d, e, f, g, h] {
            outcome.unwrap();
        }
    }
    let after = memory();
    println!(
        "{} attestations, {:.0} a second; VmRSS of agent and server plugin {before:?} KiB before, {after:?} KiB after",
        rounds * 9,
        (rounds * 9) as f64 / start.elapsed().as_secs_f64()
    );
    // A leak of one kilobyte an attestation would show; what a first burst touches does not count.
    for (before, after) in before.iter().zip(after) {
        assert!(after < before + 1024 + rounds as u64 * 9, "{before} KiB grew to {after} KiB");
    }
    assert_eq!(agent.unload().await.to_string(), "exit status 0");
    assert_eq!(server.unload().await.to_string(), "exit status 0");
}

#[test]
fn a_killed_keylime_agent_comes_back_as_itself() {
    let (Some(()), Some(_), Some(())) = (require::swtpm(), require::keylime(), require::root()) else { return };
    let mut host = Host::start().unwrap();
    host.enrol().unwrap();
    let ak = host.servers.registrar_agent(&host.id).unwrap().unwrap().get("aik_tpm").cloned();
    for round in 0..4 * factor() {
        host.agent.part().signal(Signal::SIGKILL);
        // Started and killed again on its way up, each time a little later.
        let moment = Duration::from_millis((round as u64 * 37) % 400);
        host.agent.start_and_kill_after(moment).unwrap();
        // What a killed process leaves in a TPM without resource manager is for the operator to clear, apart from the
        // AK, which the agent clears itself.
        if host.tpm.transient_handles().unwrap().len() > 1 || !host.tpm.session_handles().unwrap().is_empty() {
            host.tpm.flush_all().unwrap();
        }
        host.agent.restart().unwrap();
        assert_eq!(host.agent.id().unwrap(), host.id, "round {round}");
        let known = host.servers.registrar_agent(&host.id).unwrap().unwrap();
        assert_eq!(known.get("aik_tpm").cloned(), ak, "round {round}");
        assert_eq!(host.agent.get("/v2.5/quotes/identity?nonce=AFTERTHEKILL").unwrap().status, 200, "round {round}");
    }
    // The verifier has gone on all the while, or goes on now.
    let count = |record: &serde_json::Value| record.get("attestation_count").and_then(serde_json::Value::as_u64);
    let before = count(&host.servers.verifier_agent(&host.id).unwrap().unwrap());
    host.servers.wait_agent(&host.id, "another accepted quote", LIMIT, |record| count(record) > before).unwrap();
}
