// SPDX-License-Identifier: Apache-2.0
//! `kill -9` at random moments: 20 times in every test run, 200 times in `./scripts/soak`.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use test_support::{KeylimeAgent, KeylimeOptions};

use crate::honest::HonestVerifier;
use crate::proxy::{Mode, Proxy, Then};
use crate::support::{LIMIT, Lab, options};

/// A start takes about half of this.
const LONGEST: u64 = 800;

fn rounds() -> u64 {
    if std::env::var_os("SOAK_FACTOR").is_some() { 200 } else { 20 }
}

/// What a killed process leaves in a TPM without resource manager is for the operator to clear, apart from the AK, which
/// the agent clears itself.
fn clear(lab: &Lab) {
    if lab.tpm.transient_handles().unwrap().len() > 1 || !lab.tpm.session_handles().unwrap().is_empty() {
        lab.tpm.flush_all().unwrap();
    }
}

fn registered_ak(lab: &Lab, id: &str) -> Value {
    lab.servers.registrar_agent(id).unwrap().unwrap()["aik_tpm"].clone()
}

#[test]
fn killed_at_any_moment_it_comes_back_as_itself() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let mut agent = lab.agent(&options());
    let id = agent.id().unwrap();
    let mut ak = registered_ak(&lab, &id);
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
        if is_first {
            agent.part().kill();
            lab.servers.registrar_delete(&id).unwrap();
            for entry in std::fs::read_dir(&agent.folder).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_file() {
                    std::fs::remove_file(entry.path()).unwrap();
                }
            }
        }
        agent.part().kill();
        clear(&lab);
        let moment = Duration::from_millis(random % LONGEST);
        agent.start_and_kill_after(moment).unwrap();
        // What was registered by then stays what it is.
        if is_first {
            ak = lab.servers.registrar_agent(&id).unwrap().map_or(Value::Null, |record| record["aik_tpm"].clone());
        }
        clear(&lab);
        agent.restart().unwrap();
        assert_eq!(agent.id().unwrap(), id, "round {round}, {moment:?}");
        let now = registered_ak(&lab, &id);
        assert!(now == ak || (is_first && ak.is_null()), "round {round}, {moment:?}");
        ak = now;
        let quote = agent.get("/v2.5/quotes/identity?nonce=AFTERTHEKILL").unwrap();
        assert_eq!(quote.status, 200, "round {round}, {moment:?}");
    }
    let verifier = HonestVerifier::of(&agent, 0);
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
