// SPDX-License-Identifier: Apache-2.0
//! Verifier and registrar that are away for an hour, slow, or somebody else. A millisecond stands for a second.

use std::time::Duration;

use test_support::ca::LeafSpec;
use test_support::keylime::Server;
use test_support::process::Program;
use test_support::{KeylimeAgent, KeylimeOptions, TestCa, ports, wait};

use crate::honest::HonestVerifier;
use crate::proxy::{Mode, Proxy, Then};
use crate::support::{LIMIT, Lab, options};

const HOUR: Duration = Duration::from_millis(3600);

/// The waits that the log names so far.
fn waited(log: &str) -> Duration {
    let waits = log.split("> Trying to register again in ").skip(1);
    let seconds = waits.map(|rest| rest.split(' ').next().unwrap().parse::<f64>().unwrap());
    Duration::from_secs_f64(seconds.sum())
}

#[test]
fn a_start_outlasts_every_fault_of_the_registrar() {
    let Some(mut lab) = Lab::start(KeylimeOptions::default()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let real = lab.servers.registrar_tls_port;
    let reserved = ports::reserve().unwrap();
    let port = reserved.number();
    let options = options()
        .env("KEYLIME_AGENT_REGISTRAR_TLS_PORT", port.to_string())
        .env("KEYLIME_AGENT_EXPONENTIAL_BACKOFF_INITIAL_DELAY", "10")
        .env("KEYLIME_AGENT_EXPONENTIAL_BACKOFF_MAX_DELAY", "300");
    let mut agent = KeylimeAgent::launch(&lab.tpm.tcti, &lab.servers, &options).unwrap();
    // Down for an hour: the shown waits are rounded, the real ones go up to 300 ms.
    wait::until("an hour of tries", LIMIT, || Ok((waited(&agent.part().log()) >= HOUR).then_some(()))).unwrap();
    assert!(agent.part().log().contains("> Network error (connection failed): "));
    let mut more = |what: &str, text: &str| {
        let count = |agent: &mut KeylimeAgent| agent.part().log().matches(text).count();
        let before = count(&mut agent);
        wait::until(what, LIMIT, || Ok((count(&mut agent) >= before + 2).then_some(()))).unwrap();
    };
    let proxy = Proxy::start(port, Mode::Close);
    more("tries at one that hangs up", "> Network error");

    // Somebody else at its port, with a certificate of another authority.
    let other = TestCa::root("other").unwrap().issue(&LeafSpec::new("registrar")).unwrap();
    let (cert, key) = other.write(folder.path(), "registrar").unwrap();
    let listening = ports::reserve().unwrap();
    let _impostor = Program::new("openssl")
        .args(["s_server", "-quiet", "-www", "-accept", &format!("127.0.0.1:{}", listening.number())])
        .args(["-cert".as_ref(), cert.as_os_str(), "-key".as_ref(), key.as_os_str()])
        .start("impostor", &folder.path().join("impostor.log"))
        .unwrap();
    proxy.set(Mode::To(listening.number()));
    more("tries at somebody else", "certificate");

    // One that says nothing: each try has its time limit.
    proxy.set(Mode::Hold);
    more("tries at one that says nothing", "> Trying to register again in ");

    // A slow one will do.
    proxy.set(Mode::Late(real, Duration::from_millis(500)));
    agent.wait_listening().unwrap();
    let id = agent.id().unwrap();
    assert_eq!(agent.part().log().matches(&format!("> SUCCESS: Agent {id} activated")).count(), 1);
    // Once it is registered it needs the registrar no more, and does not notice that one has been away.
    let connections = proxy.connections();
    let tries = agent.part().log().matches("> Trying to register again in ").count();
    let verifier = HonestVerifier::of(&lab, &agent, None);
    lab.servers.restart(Server::Registrar).unwrap();
    verifier.was_content();
    assert_eq!(proxy.connections(), connections);
    assert_eq!(agent.part().log().matches("> Trying to register again in ").count(), tries);
    assert!(agent.terminate().unwrap().success());
}

#[test]
fn a_registrar_that_stalls_does_not_hold_up_the_end() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let proxy = Proxy::start(0, Mode::Until(lab.servers.registrar_port, "PUT ", Then::Hold));
    let mut options = options().env("KEYLIME_AGENT_REGISTRAR_PORT", proxy.port.to_string());
    options.registrar_tls = false;
    let mut agent = KeylimeAgent::launch(&lab.tpm.tcti, &lab.servers, &options).unwrap();
    agent.part().wait_log("> Requesting agent activation from ", LIMIT).unwrap();
    assert!(agent.terminate().unwrap().success());
    let log = agent.part().log();
    assert!(log.contains("> registrar and TPM take too long to finish the registration: ending without it"), "{log}");
    assert_eq!(lab.tpm.transient_handles().unwrap(), [0_u32; 0]);
}

#[test]
fn a_verifier_that_comes_back_goes_on() {
    let Some(mut lab) = Lab::start(KeylimeOptions::default()) else { return };
    let agent = lab.agent(&options());
    let id = agent.id().unwrap();
    lab.servers.enrol(&id, agent.port, None).unwrap();
    lab.servers.wait_verified(&id, LIMIT).unwrap();
    // Slow: stopped in the middle of whatever it does, with connections open.
    lab.servers.part(Server::Verifier).unwrap().pause();
    let another = HonestVerifier::of(&lab, &agent, None);
    std::thread::sleep(HOUR);
    lab.servers.part(Server::Verifier).unwrap().resume();
    lab.wait_quotes(&id, 2);
    // Both away.
    lab.servers.stop(Server::Verifier);
    lab.servers.stop(Server::Registrar);
    std::thread::sleep(HOUR);
    lab.servers.restart(Server::Registrar).unwrap();
    lab.servers.restart(Server::Verifier).unwrap();
    lab.wait_quotes(&id, 2);
    another.was_content();
}
