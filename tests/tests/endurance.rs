// SPDX-License-Identifier: Apache-2.0
//! The same thing many times over: a few rounds in every test run, many in `./scripts/soak` (which sets `SOAK_FACTOR`).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use e2e::{Host, LIMIT, SoftwareAgent};
use nix::sys::signal::Signal;
use spire_plugin::host::{AgentPlugin, Launch, ServerPlugin, SpireHost};
use test_support::keylime::fake::{FakeAgent, FakeKeylime};
use test_support::{bin, process, require};
use tokio::task::JoinSet;

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
    let (rounds, before, start) = (20 * factor(), memory(), Instant::now());
    for _ in 0..rounds {
        spire.attest(&agent, &server).await.unwrap();
        // Four at once, which is what a fleet's renewals look like to the server's plugin.
        let (a, b, c, d) = tokio::join!(
            spire.attest(&agent, &server),
            spire.attest(&agent, &server),
            spire.attest(&agent, &server),
            spire.attest(&agent, &server),
        );
        for outcome in [a, b, c, d] {
            outcome.unwrap();
        }
    }
    let after = memory();
    println!(
        "{} attestations, {:.0} a second; VmRSS of agent and server plugin {before:?} KiB before, {after:?} KiB after",
        rounds * 5,
        (rounds * 5) as f64 / start.elapsed().as_secs_f64()
    );
    // A leak of one kilobyte an attestation would show; what a first burst touches does not count.
    for (before, after) in before.iter().zip(after) {
        assert!(after < before + 1024 + rounds as u64 * 5, "{before} KiB grew to {after} KiB");
    }
    assert_eq!(agent.unload().await.to_string(), "exit status 0");
    assert_eq!(server.unload().await.to_string(), "exit status 0");
}

/// The server plugin, and two hosts' agent plugins.
struct Fleet {
    spire: SpireHost,
    agents: [AgentPlugin; 2],
    server: ServerPlugin,
}

impl Fleet {
    /// `count` attestations, eight at a time. Each agent plugin would take as many, and needs a moment to see that one
    /// has ended.
    async fn attest(self: &Arc<Self>, count: usize) {
        let mut tasks = JoinSet::new();
        for task in 0..8 {
            let fleet = self.clone();
            tasks.spawn(async move {
                for _ in 0..count / 8 {
                    fleet.spire.attest(&fleet.agents[task % 2], &fleet.server).await.unwrap();
                }
            });
        }
        tasks.join_all().await;
    }
}

/// Both Keylime servers and the TPM are stand-ins that take next to no time, so that it is the plugins that are
/// exercised: 1000 attestations, or 100,000 in `./scripts/soak`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_attestations_leave_nothing_behind() {
    let id = "7f3a2b1c-0000-4000-8000-0123456789ab";
    let keylime = FakeKeylime::start().unwrap();
    let host = SoftwareAgent::start(id).unwrap();
    // Any public key stands in for the EK's.
    keylime.put(id, FakeAgent::verified(host.ak().to_vec(), Some(host.ak().to_vec())));
    let spire = SpireHost::new("tower.example".parse().unwrap(), "keylime");
    let launch = |name| Launch::new(bin::built(name).unwrap());
    let server = spire.load_server(launch("keylime-attestor-server"), &keylime.plugin_data()).await.unwrap();
    let data = host.agent_data();
    let load = || spire.load_agent(launch("keylime-attestor-agent"), &data);
    let agents = [load().await.unwrap(), load().await.unwrap()];
    let pids = [agents[0].pid(), agents[1].pid(), server.pid()];
    let memory = || pids.map(|pid| process::rss_kib(pid).unwrap());
    let cpu = || pids.map(|pid| process::cpu_time(pid).unwrap());
    let fleet = Arc::new(Fleet { spire, agents, server });

    // What is allocated once and kept.
    fleet.attest(400).await;
    let (count, memory_before, cpu_before, start) = (1000 * factor(), memory(), cpu(), Instant::now());
    fleet.attest(count).await;
    let (seconds, memory_after, cpu_after) = (start.elapsed().as_secs_f64(), memory(), cpu());
    println!("{count} attestations, {:.0} a second", count as f64 / seconds);
    for (index, name) in ["an agent plugin", "another", "the server plugin"].iter().enumerate() {
        let share = (cpu_after[index] - cpu_before[index]).as_secs_f64() * 1000.0 / count as f64;
        let (before, after) = (memory_before[index], memory_after[index]);
        println!("{name}: {share:.2} ms of processor time for each; VmRSS {before} KiB before, {after} KiB after");
        assert!(after < before + SETTLING_KIB, "{name}: {before} KiB grew to {after} KiB");
    }
    let Fleet { agents, server, .. } = Arc::into_inner(fleet).unwrap();
    for agent in agents {
        assert_eq!(agent.unload().await.to_string(), "exit status 0");
    }
    assert_eq!(server.unload().await.to_string(), "exit status 0");
}

/// What a plugin may grow by however often it attests: an allocator settles slowly.
const SETTLING_KIB: u64 = 2048;

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
