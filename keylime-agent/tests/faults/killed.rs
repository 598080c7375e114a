// SPDX-License-Identifier: Apache-2.0
//! `kill -9` at random moments: 20 times in every test run, 200 times in `./scripts/soak` and in proportion if it has
//! another factor.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use test_support::{KeylimeAgent, KeylimeOptions};

use crate::honest::HonestVerifier;
use crate::proxy::{Mode, Proxy, Then};
use crate::support::{LIMIT, Lab, options};

fn rounds() -> u64 {
    let factor = std::env::var("SOAK_FACTOR").ok().and_then(|factor| factor.parse::<u64>().ok());
    factor.map_or(20, |factor| (2 * factor).max(20))
}

/// Makes a stopped agent one that nobody knows.
fn forget(lab: &Lab, agent: &KeylimeAgent, id: &str) {
    lab.servers.registrar_delete(id).unwrap();
    for entry in std::fs::read_dir(&agent.folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

/// How long a killed agent takes to start.
fn start(lab: &Lab, agent: &mut KeylimeAgent) -> Duration {
    clear(lab);
    let begin = Instant::now();
    agent.restart().unwrap();
    begin.elapsed()
}

/// What a killed process leaves in a TPM without resource manager is for the operator to clear, apart from the AK, which
/// the agent clears itself.
fn clear(lab: &Lab) {
    if lab.tpm.transient_handles().unwrap().len() > 1 || !lab.tpm.session_handles().unwrap().is_empty() {
        lab.tpm.flush_all().unwrap();
    }
}

#[test]
fn killed_at_any_moment_it_comes_back_as_itself() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let mut agent = lab.agent(&options());
    let id = agent.id().unwrap();
    let ak_of = || lab.servers.registrar_agent(&id).unwrap().map(|record| record["aik_tpm"].clone());
    // A first start makes keys.
    agent.part().kill();
    let usual = start(&lab, &mut agent);
    agent.part().kill();
    forget(&lab, &agent, &id);
    let first = start(&lab, &mut agent);
    println!("a first start takes {first:?}, another one {usual:?}");
    let mut ak = ak_of();
    let (mut before, mut after) = (0, 0);
    // For whoever wants to see a failure again.
    let seed = RandomState::new().hash_one(());
    println!("seed {seed:#x}");
    let mut random = seed | 1;
    for round in 0..rounds() {
        // xorshift64 (Marsaglia, "Xorshift RNGs").
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Now and then it is the first start of a host that nobody knows.
        let is_first = round % 4 == 3;
        agent.part().kill();
        if is_first {
            forget(&lab, &agent, &id);
        }
        clear(&lab);
        // Up to twice the time of a start; a first one takes as long as it takes to find primes.
        let longest = 2 * if is_first { first.min(5 * usual) } else { usual };
        let moment = Duration::from_nanos(random % u64::try_from(longest.as_nanos()).unwrap());
        agent.start_and_kill_after(moment).unwrap();
        let was_registered = agent.part().log().contains(" registered\n");
        *if was_registered { &mut after } else { &mut before } += 1;
        // What was registered by then stays what it is.
        if is_first {
            ak = ak_of();
        }
        start(&lab, &mut agent);
        assert_eq!(agent.id().unwrap(), id, "round {round}, {moment:?}");
        let now = ak_of();
        assert!(now.is_some() && (now == ak || (is_first && ak.is_none())), "round {round}, {moment:?}");
        ak = now;
        let quote = agent.get("/v2.5/quotes/identity?nonce=AFTERTHEKILL").unwrap();
        assert_eq!(quote.status, 200, "round {round}, {moment:?}");
    }
    println!("killed {before} times before it had registered, {after} times after that");
    assert!(before > 0 && after > 0);
    let verifier = HonestVerifier::of(&lab, &agent, None);
    std::thread::sleep(Duration::from_secs(1));
    verifier.was_content();
}

#[test]
fn killed_between_registration_and_activation_it_registers_again() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let proxy = Proxy::start(0, Mode::Hold);
    let mut options = options().env("KEYLIME_AGENT_REGISTRAR_PORT", proxy.port.to_string());
    options.registrar_tls = false;
    let mut agent = KeylimeAgent::launch(&lab.tpm.tcti, &lab.servers, &options).unwrap();
    // The first connection is held, so that the process can be named before it asks again.
    agent.part().wait_log("> Requesting registrar API version", LIMIT).unwrap();
    agent.part().kill();
    clear(&lab);
    let options = test_support::KeylimeAgentOptions { folder: Some(agent.folder.clone()), ..options };
    let launch = || KeylimeAgent::launch(&lab.tpm.tcti, &lab.servers, &options).unwrap();
    let mut ak = None;
    for round in 0..3 {
        proxy.set(Mode::Hold);
        let mut victim = launch();
        let pid = i32::try_from(victim.part().pid()).unwrap();
        proxy.set(Mode::Until(lab.servers.registrar_port, "PUT ", Then::Signal(pid, Signal::SIGKILL)));
        victim.part().wait_end(LIMIT).unwrap();
        let log = victim.part().log();
        assert!(log.contains("> Requesting agent activation from ") && !log.contains(" activated\n"), "{log}");
        // The registrar has this AK by now, and shows it to nobody before it is activated.
        assert!(log.contains(" registered\n"), "{log}");
        assert_eq!(lab.servers.registrar_agent(&victim.id().unwrap()).unwrap(), None);
        let stored = std::fs::read(victim.folder.join("agent_data.json")).unwrap();
        assert!(*ak.get_or_insert_with(|| stored.clone()) == stored, "round {round}");
        clear(&lab);
    }
    proxy.set(Mode::To(lab.servers.registrar_port));
    let mut agent = launch();
    agent.wait_listening().unwrap();
    let id = agent.id().unwrap();
    assert!(std::fs::read(agent.folder.join("agent_data.json")).ok() == ak);
    // Active, so that it can be enrolled.
    lab.servers.enrol(&id, agent.port, None).unwrap();
    lab.servers.wait_verified(&id, LIMIT).unwrap();
}
