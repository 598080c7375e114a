// SPDX-License-Identifier: Apache-2.0
//! What an administrator does with the tenant, with the real one: each command, and each API version.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use support::watch::watched;
use support::{LIMIT, Lab, options};
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeOptions};

/// What the verifier's record of the agent must come to say after a command.
enum Then {
    /// It attests: a quote has been accepted.
    Attested,
    /// It has this operational state and last event.
    Failed(u64, &'static str),
    /// There is none.
    NotEnrolled,
    /// What it said before.
    AsBefore,
}

/// Gives an agent up soon, and asks soon whether something is done.
fn impatient() -> KeylimeOptions {
    KeylimeOptions {
        max_retries: 1,
        retry_interval: 0.2,
        exponential_backoff: false,
        overrides: vec![("tenant".into(), "retry_interval".into(), "0.2".into())],
        ..KeylimeOptions::default()
    }
}

/// The agent with its folder and port, started again by the same binary with further variables.
fn again(lab: &Lab, agent: &mut KeylimeAgent, variables: &[(&str, &str)]) -> KeylimeAgent {
    assert!(agent.terminate().unwrap().success());
    let port = agent.port.to_string();
    let mut options = KeylimeAgentOptions { folder: Some(agent.folder.clone()), ..options() }
        .env("KEYLIME_AGENT_PORT", &port)
        .env("KEYLIME_AGENT_CONTACT_PORT", &port);
    for (name, value) in variables {
        options = options.env(name, *value);
    }
    let mut next = KeylimeAgent::launch(&lab.tpm.tcti, &lab.servers, &options).unwrap();
    next.part().wait_log("> Listening on", LIMIT).unwrap();
    next.port = agent.port;
    next
}

#[test]
fn every_command_of_the_tenant() {
    let Some(lab) = Lab::start(impatient()) else { return };
    let mut agent = lab.agent(&options());
    let id = agent.id().unwrap();
    lab.tpm.pcr_extend(23).unwrap();
    let pcr = lab.tpm.pcr_read("sha256", 23).unwrap();
    let good = format!("{{\"23\": [\"{pcr}\"]}}");
    let bad = format!("{{\"23\": [\"{}\"]}}", "0".repeat(64));
    let quoted = format!("\"{id}\"");
    let negotiated = format!("Negotiated API version 2.6 with agent {id}");
    for (command, arguments, printed, then) in [
        ("reglist", &[] as &[&str], quoted.as_str(), Then::NotEnrolled),
        ("regstatus", &[], "exists on registrar", Then::NotEnrolled),
        ("add", &["--tpm_policy", &good], &negotiated, Then::Attested),
        ("cvlist", &[], &quoted, Then::AsBefore),
        ("cvstatus", &[], "\"operational_state\": \"Get Quote\"", Then::AsBefore),
        ("status", &[], "\"attestation_status\": \"PASS\"", Then::AsBefore),
        ("bulkinfo", &[], "\"operational_state\": \"Get Quote\"", Then::Attested),
        ("update", &["--tpm_policy", &bad], "deleted from the CV", Then::Failed(9, "pcr_validation.invalid_pcr_23")),
        ("cvstatus", &[], "\"operational_state\": \"Invalid Quote\"", Then::AsBefore),
        // The policy is still the same.
        ("reactivate", &[], "re-activated", Then::Failed(9, "pcr_validation.invalid_pcr_23")),
        ("update", &["--tpm_policy", &good], "added to Verifier", Then::Attested),
        ("delete", &[], "deleted from the CV", Then::NotEnrolled),
        ("add", &[], &negotiated, Then::Attested),
    ] {
        let text = lab.tenant(&agent, command, arguments);
        assert!(text.contains(printed), "{command}: {text}");
        match then {
            Then::Attested => drop(lab.servers.wait_verified(&id, LIMIT).unwrap()),
            Then::Failed(state, event) => {
                let record = lab.servers.wait_state(&id, state, LIMIT).unwrap();
                assert_eq!(record["last_event_id"], event, "{command}");
            }
            Then::NotEnrolled => assert_eq!(lab.servers.verifier_agent(&id).unwrap(), None, "{command}"),
            Then::AsBefore => {}
        }
    }

    // A host that was away is given up, and asked again once it is reactivated.
    agent.part().kill();
    lab.tpm.flush_all().unwrap();
    let record = lab.servers.wait_state(&id, 7, LIMIT).unwrap();
    assert_eq!(record["last_event_id"], "internal.verifier.not_reachable");
    agent.restart().unwrap();
    lab.tenant(&agent, "reactivate", &[]);
    lab.servers.wait_state(&id, 3, LIMIT).unwrap();
    assert_eq!(lab.wait_quotes(&id, 2)["operational_state"], 3);

    // Without its record at the registrar it cannot be added, until it has registered anew.
    lab.tenant(&agent, "delete", &[]);
    lab.tenant(&agent, "regdelete", &[]);
    assert_eq!(lab.servers.registrar_agent(&id).unwrap(), None);
    let refused = lab.servers.tenant_for("add", &id, agent.port, &[]).unwrap();
    assert!(!refused.status.success());
    assert!(agent.terminate().unwrap().success());
    agent.restart().unwrap();
    assert_eq!(lab.servers.registrar_agent(&id).unwrap().unwrap()["regcount"], 1);
    lab.tenant(&agent, "add", &[]);
    lab.servers.wait_verified(&id, LIMIT).unwrap();
}

#[test]
fn every_api_version() {
    let Some(lab) = Lab::start(impatient()) else { return };
    let mut agent = lab.agent(&options());
    let id = agent.id().unwrap();
    let payload = lab.tpm.scratch().write("payload", "for each version").unwrap();
    let payload = ["-f", payload.to_str().unwrap(), "--verify", "--agent-api-version"];
    for (number, version) in ["2.1", "2.2", "2.3", "2.4", "2.5", "2.6"].into_iter().enumerate() {
        let command = if number == 0 { "add" } else { "update" };
        let text = lab.tenant(&agent, command, &[payload.as_slice(), &[version]].concat());
        assert!(text.contains(&format!("Using API version {version} for agent communication")), "{text}");
        let record = lab.servers.wait_verified(&id, LIMIT).unwrap();
        assert_eq!(record["enc_alg"], if number < 4 { "rsa" } else { "rsa2048" }, "{version}");
        let log = agent.part().log();
        for uri in ["quotes/identity", "keys/ukey", "quotes/integrity", "keys/vkey", "keys/verify"] {
            assert!(log.contains(&format!("with uri /v{version}/{uri}\n")), "{version} {uri}: {log}");
        }
    }
}

#[test]
fn the_verifier_goes_along_to_newer_versions() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let mut agent = lab.agent(&options().env("KEYLIME_AGENT_API_VERSIONS", "2.1"));
    let id = agent.id().unwrap();
    let text = lab.tenant(&agent, "add", &[]);
    assert!(text.contains("Negotiated API version 2.1 "), "{text}");
    lab.servers.wait_verified(&id, LIMIT).unwrap();
    // A version that the agent does not have is refused in the way that has the verifier negotiate again.
    let mut before = "2.1";
    // The first one has the folder.
    let mut earlier = Vec::new();
    watched(&lab.servers, &id, || {
        for version in ["2.2", "2.3", "2.4", "2.5", "2.6"] {
            let next = again(&lab, &mut agent, &[("KEYLIME_AGENT_API_VERSIONS", version)]);
            earlier.push(std::mem::replace(&mut agent, next));
            lab.wait_quotes(&id, 2);
            let log = agent.part().log();
            assert!(log.contains(&format!("API version not supported: v{before}\n")), "{log}");
            assert!(log.contains(&format!("with uri /v{version}/quotes/integrity\n")), "{log}");
            before = version;
        }
    });
    // That an agent comes back with older ones only is no passing fault to it, until the tenant adds the host anew.
    let older = again(&lab, &mut agent, &[("KEYLIME_AGENT_API_VERSIONS", "2.4, 2.5")]);
    let record = lab.servers.wait_state(&id, 7, LIMIT).unwrap();
    assert_eq!(record["last_event_id"], "internal.verifier.version_not_supported");
    let text = lab.tenant(&older, "update", &[]);
    assert!(text.contains("Negotiated API version 2.5 "), "{text}");
    lab.servers.wait_verified(&id, LIMIT).unwrap();
}
