// SPDX-License-Identifier: Apache-2.0
//! Trouble that passes, at the real verifier's own pace of retries: restarts, and a TPM that stalls or is reset.
//! The verifier asks again after 500 and after connections that break; anything else would fail the host for good.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use test_support::swtpm::{PCR_READ, QUOTE};
use test_support::{KeylimeAgent, KeylimeOptions, wait};

use crate::proxy::{Mode, Proxy, Then};
use crate::support::watch::watched;
use crate::support::{LIMIT, Lab, options, wait_quotes};

/// An enrolled agent, and its id.
fn enrolled(lab: &Lab) -> (KeylimeAgent, String) {
    let agent = lab.agent(&options());
    let id = agent.id().unwrap();
    lab.servers.enrol(&id, agent.port, None).unwrap();
    lab.servers.wait_verified(&id, LIMIT).unwrap();
    (agent, id)
}

/// What the agent has refused since its start, without its time and target.
fn refusals(agent: &mut KeylimeAgent) -> Vec<String> {
    let log = agent.part().log();
    log.lines().filter(|line| line.contains(" returning 4") || line.contains("Unable to ")).map(str::to_owned).collect()
}

/// Waits until the agent works on an integrity quote that begins after this.
fn wait_for_a_quote(agent: &mut KeylimeAgent) {
    let asked = "/quotes/integrity\n";
    let before = agent.part().log().matches(asked).count();
    let begun = |agent: &mut KeylimeAgent| agent.part().log().matches(asked).count() > before;
    wait::until("a question for a quote", LIMIT, || Ok(begun(agent).then_some(()))).unwrap();
}

#[test]
fn a_restart_in_the_middle_of_a_quote_is_not_noticed() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let (mut agent, id) = enrolled(&lab);
    let tpm = lab.tpm.part().unwrap();
    watched(&lab.servers, &id, || {
        // How long the TPM goes on to stall: the requests in progress have three seconds.
        for stall in [Duration::from_secs(1), Duration::from_secs(5)] {
            tpm.pause();
            wait_for_a_quote(&mut agent);
            agent.part().signal(Signal::SIGTERM);
            thread::sleep(stall);
            tpm.resume();
            assert!(agent.part().wait_end(LIMIT).unwrap().success());
            let log = agent.part().log();
            assert_eq!(refusals(&mut agent), Vec::<String>::new(), "{stall:?}");
            let is_late = log.contains("> ending with requests in progress\n");
            assert_eq!(is_late, stall > Duration::from_secs(3), "{stall:?}: {log}");
            agent.restart().unwrap();
            lab.wait_quotes(&id, 2);
        }
        // Without a warning; what is left in the TPM is cleared away by the next one itself.
        for _ in 0..3 {
            tpm.pause();
            wait_for_a_quote(&mut agent);
            agent.part().kill();
            tpm.resume();
            agent.restart().unwrap();
            lab.wait_quotes(&id, 2);
        }
    });
    assert!(agent.terminate().unwrap().success());
    assert_eq!(lab.tpm.transient_handles().unwrap(), Vec::<u32>::new());
}

#[test]
fn a_tpm_that_stalls_or_is_reset_is_a_passing_fault() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let (mut agent, id) = enrolled(&lab);
    let Lab { mut tpm, servers } = lab;
    let busy = "WARN  keylime_agent::routes::quotes > Unable to retrieve quote: ";
    let late = "the TPM did not answer before the deadline of the request";
    let gone = "the TPM is not available at the moment: it is being reopened and its keys reloaded";
    watched(&servers, &id, || {
        // Shorter and longer than a quote may take (20 s).
        for (stall, refused) in [(15, vec![]), (25, vec![format!(" {busy}{late}")])] {
            tpm.part().unwrap().pause();
            wait_for_a_quote(&mut agent);
            thread::sleep(Duration::from_secs(stall));
            tpm.part().unwrap().resume();
            wait_quotes(&servers, &id, 2);
            assert_eq!(refusals(&mut agent), refused, "{stall} s");
        }
        for reset in 1..=2 {
            // As an operating system does it. Without its word the TPM does not vouch for its clock afterwards, and then
            // Keylime fails the host.
            agent.part().pause();
            tpm.tool("tpm2_shutdown", &["--clear"]).unwrap();
            tpm.restart().unwrap();
            agent.part().resume();
            wait_quotes(&servers, &id, 2);
            let refused = refusals(&mut agent);
            assert!(refused.len() > reset, "{refused:?}");
            assert!(refused[1..].iter().all(|line| line.starts_with(&format!(" {busy}{gone}: "))), "{refused:?}");
            assert!(agent.part().log().contains("> the TPM is available again "));
        }
    });
    assert!(agent.terminate().unwrap().success());
    assert_eq!(tpm.transient_handles().unwrap(), Vec::<u32>::new());
}

#[test]
fn pcrs_that_change_all_the_time_are_a_passing_fault() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let rival = lab.tpm.rival(10).unwrap();
    let agent = KeylimeAgent::start(&rival.tcti, &lab.servers, &options()).unwrap();
    let id = agent.id().unwrap();
    lab.servers.enrol(&id, agent.port, None).unwrap();
    lab.servers.wait_verified(&id, LIMIT).unwrap();
    let ask = || {
        let answer = agent.get("/v2.6/quotes/integrity?nonce=abc&mask=0x400&partial=1").unwrap();
        (answer.status, answer.body["status"].as_str().map(str::to_owned))
    };
    let good = (200, Some("Success".to_owned()));
    let refused = (500, Some("Unable to retrieve quote".to_owned()));
    watched(&lab.servers, &id, || {
        assert_eq!(ask(), good);
        rival.extend_before(&[QUOTE, PCR_READ]);
        for _ in 0..5 {
            assert_eq!(ask(), refused);
        }
        // The verifier asks for PCR 16 alone.
        lab.wait_quotes(&id, 2);
        assert_eq!(ask(), refused);
        rival.extend_before(&[QUOTE]);
        assert_eq!(ask(), good);
    });
}

#[test]
fn the_verifiers_half_of_the_key_finds_the_agent_again() {
    let servers = KeylimeOptions { agent_mtls: false, ..KeylimeOptions::default() };
    let Some(lab) = Lab::start(servers) else { return };
    let payload = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(payload.path(), "payload").unwrap();
    let file = payload.path().to_str().unwrap();
    let proxy = Proxy::start(0, Mode::Hold);
    let mut options = options()
        .env("KEYLIME_AGENT_CONTACT_PORT", proxy.port.to_string())
        .env("KEYLIME_AGENT_ENABLE_INSECURE_PAYLOAD", "1");
    options.mtls = false;
    let mut agent = lab.agent(&options);
    let id = agent.id().unwrap();
    for (command, signal) in [("add", Signal::SIGKILL), ("update", Signal::SIGTERM)] {
        let pid = i32::try_from(agent.part().pid()).unwrap();
        proxy.set(Mode::Until(agent.port, "POST /v2.6/keys/vkey ", Then::Signal(pid, signal)));
        let output = lab.servers.tenant_for(command, &id, proxy.port, &["-f", file]).unwrap();
        assert!(output.status.success(), "{output:?}");
        agent.part().wait_end(LIMIT).unwrap();
        let log = agent.part().log();
        assert!(log.contains("/v2.6/keys/ukey\n") && !log.contains("> Successfully derived"), "{log}");
        agent.restart().unwrap();
        proxy.set(Mode::To(agent.port));
        // The tenant's half went with the agent, and with it the payload; the verifier goes on.
        watched(&lab.servers, &id, || lab.servers.wait_verified(&id, LIMIT).unwrap());
        let log = agent.part().log();
        assert!(log.contains("/v2.6/keys/vkey\n") && !log.contains("> Successfully derived"), "{log}");
        assert_eq!(refusals(&mut agent), Vec::<String>::new());
    }
    let output = lab.servers.tenant_for("update", &id, proxy.port, &["-f", file]).unwrap();
    assert!(output.status.success(), "{output:?}");
    agent.part().wait_log("> Successfully decrypted payload", LIMIT).unwrap();
}
