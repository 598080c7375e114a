// SPDX-License-Identifier: Apache-2.0
//! Our plugins and our Keylime agent under the real SPIRE, Keylime and software TPM: the way to an identity, and the
//! loss of it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod slow_way;

use std::time::Duration;

use e2e::{Host, LIMIT, WATCHED_PCR, logged_reason};
use serde_json::json;
use slow_way::SlowWay;
use test_support::spire::{Prometheus, VERSIONS};
use test_support::{PluginSpec, SpireAgent, SpireAgentOptions, SpireServer, SpireServerOptions, bin, require, wait};

const WORKLOAD: &str = "spiffe://tower.example/workload";

#[test]
fn a_host_attests_reattests_and_is_refused_after_a_pcr_change() {
    to_an_identity_and_back(VERSIONS[0]);
}

#[test]
fn so_it_is_with_the_next_version_of_spire() {
    to_an_identity_and_back(VERSIONS[1]);
}

fn to_an_identity_and_back(version: &str) {
    let (Some(()), Some(_), Some(spire)) = (require::swtpm(), require::keylime(), require::spire_version(version))
    else {
        return;
    };
    let Some(()) = require::root() else { return };
    let host = Host::start().unwrap();
    host.enrol().unwrap();

    let options = SpireServerOptions::new(host.server_plugin().unwrap()).with(&spire);
    let validated = SpireServer::validate(&options).unwrap();
    let said = String::from_utf8_lossy(&validated.stdout);
    assert!(validated.status.success(), "{said}{}", String::from_utf8_lossy(&validated.stderr));
    let server = SpireServer::start(&options).unwrap();
    let agent_id = server.agent_id(&host.id);
    let uid = format!("unix:uid:{}", nix::unistd::geteuid());
    server.entry_create(&agent_id, WORKLOAD, &[&uid]).unwrap();

    let mut agent = SpireAgent::start(&server, &SpireAgentOptions::new(host.agent_plugin().unwrap())).unwrap();
    agent.attested(LIMIT).unwrap();
    let svids = agent.fetch_x509(LIMIT).unwrap();
    assert_eq!(svids.iter().map(|svid| svid.spiffe_id.as_str()).collect::<Vec<_>>(), [WORKLOAD]);
    let record = server.agent_show(&agent_id).unwrap();
    assert_eq!(record["can_reattest"], true, "{record}");
    // SPIRE warns about ids outside of the attestor's name.
    assert!(server.log().iter().all(|line| !line.message.contains("invalid agent ID")));
    // The plugin's own lines came through SPIRE with their fields.
    let attested = wait::until("the plugin's line", LIMIT, || {
        Ok(server.log().into_iter().find(|line| line.message == "Node attested"))
    })
    .unwrap();
    assert_eq!(attested.fields["agent"], host.id.as_str(), "{:?}", attested.fields);
    assert_eq!(attested.fields["attempt"].as_str().unwrap().len(), 8);

    // Restarted, then with its data folder wiped: the same identity, by a new quote each time.
    agent.restart().unwrap();
    agent.attested(LIMIT).unwrap();
    agent.wipe_and_restart().unwrap();
    agent.attested(LIMIT).unwrap();
    assert_eq!(server.agent_list().unwrap().len(), 1);

    // Evicted, a good host comes back by itself.
    server.agent_evict(&agent_id).unwrap();
    agent.part().wait_log("Agent needs to re-attest", LIMIT).unwrap();
    agent.part().wait_log("Successfully reattested node", LIMIT).unwrap();

    host.tpm.pcr_extend(WATCHED_PCR).unwrap();
    host.servers.wait_state(&host.id, 9, LIMIT).unwrap();
    agent.wipe_and_restart().unwrap();
    let reason = agent.refused(LIMIT).unwrap();
    assert!(
        reason.contains(
            "code = PermissionDenied desc = nodeattestor(keylime): the host failed its verification by Keylime (attempt "
        ),
        "{reason}"
    );
    // PermissionDenied ends a starting SPIRE agent at once.
    assert!(!agent.part().wait_end(Duration::from_secs(10)).unwrap().success());
    assert_eq!(
        logged_reason(&server, &reason).unwrap(),
        "the verifier does not vouch for this host: the verifier has the host in state 9 (Invalid Quote), \
         last failure pcr_validation.invalid_pcr_23"
    );
}

#[test]
fn a_workload_is_bound_to_the_value_of_a_pcr() {
    let (Some(()), Some(_), Some(())) = (require::swtpm(), require::keylime(), require::root()) else { return };
    for version in VERSIONS {
        let Some(spire) = require::spire_version(version) else { continue };
        let host = Host::start().unwrap();
        host.enrol().unwrap();
        let mut plugin = host.server_plugin().unwrap();
        plugin.data.push_str(&format!("\nselectors = [\"pcr\"]\nselector_pcrs = [{WATCHED_PCR}]"));
        let server = SpireServer::start(&SpireServerOptions::new(plugin).with(&spire)).unwrap();

        // Whatever host has this value, and on it whatever runs as this user.
        let good = format!("keylime:pcr:sha256:{WATCHED_PCR}:{}", "0".repeat(64));
        let measured = "spiffe://tower.example/measured";
        server.entry_create("spiffe://tower.example/spire/server", measured, &[&good]).unwrap();
        let uid = format!("unix:uid:{}", nix::unistd::geteuid());
        server.entry_create(measured, WORKLOAD, &[&uid]).unwrap();
        let mut agent = SpireAgent::start(&server, &SpireAgentOptions::new(host.agent_plugin().unwrap())).unwrap();
        agent.attested(LIMIT).unwrap();
        let svids = agent.fetch_x509(LIMIT).unwrap();
        assert_eq!(svids.iter().map(|svid| svid.spiffe_id.as_str()).collect::<Vec<_>>(), [WORKLOAD]);

        // Keylime comes to hold the host to the new value: the host is good, and yet another one to SPIRE.
        host.tpm.pcr_extend(WATCHED_PCR).unwrap();
        host.expect_what_is().unwrap();
        let agent_id = server.agent_id(&host.id);
        server.agent_evict(&agent_id).unwrap();
        agent.part().wait_log("Successfully reattested node", LIMIT).unwrap();
        wait::until("end of the workload's identity", LIMIT, || Ok(agent.fetch_x509_now().err())).unwrap();
        let value = host.tpm.pcr_read("sha256", WATCHED_PCR).unwrap();
        let selectors = &server.agent_show(&agent_id).unwrap()["selectors"];
        assert_eq!(*selectors, json!([{"type": "keylime", "value": format!("pcr:sha256:{WATCHED_PCR}:{value}")}]));
    }
}

#[test]
fn a_host_gets_its_identity_at_its_first_verification() {
    let (Some(()), Some(_), Some(_)) = (require::swtpm(), require::keylime(), require::spire()) else { return };
    let Some(()) = require::root() else { return };
    let host = Host::start().unwrap();
    let mut plugin = host.server_plugin().unwrap();
    plugin.data.push_str("\nwait_for_verification = \"1m\"");
    let prometheus = Prometheus::new().unwrap();
    let options = SpireServerOptions { blocks: prometheus.block(), ..SpireServerOptions::new(plugin) };
    let server = SpireServer::start(&options).unwrap();

    // Enrolled, and the verifier asks for the first quote, but the way to the host is slow.
    let way = SlowWay::to(host.agent.port).unwrap();
    host.enrol_at(way.port()).unwrap();
    let mut agent = SpireAgent::start(&server, &SpireAgentOptions::new(host.agent_plugin().unwrap())).unwrap();
    let questions = ["spire_server_keylime_attestor_latency_count{", "hop=\"verifier\""];
    prometheus.wait(&questions, LIMIT, |asked| asked >= 3.0).unwrap();
    way.open();
    agent.attested(LIMIT).unwrap();
    assert!(agent.log().iter().all(|line| line.message != "Failed to retrieve attestation result"));
}

#[test]
fn the_unix_socket_serves_the_agent_plugin() {
    let (Some(()), Some(_), Some(_)) = (require::swtpm(), require::keylime(), require::spire()) else { return };
    let Some(()) = require::root() else { return };
    let host = Host::start().unwrap();
    host.enrol().unwrap();
    let server = SpireServer::start(&SpireServerOptions::new(host.server_plugin().unwrap())).unwrap();
    let mut plugin = host.agent_plugin().unwrap();
    plugin.data = host.agent_socket_data();
    let mut agent = SpireAgent::start(&server, &SpireAgentOptions::new(plugin)).unwrap();
    agent.attested(LIMIT).unwrap();
    assert!(server.agent_show(&server.agent_id(&host.id)).is_ok());
}

#[test]
fn validate_tells_every_problem_at_once() {
    let command = bin::built("keylime-attestor-server").unwrap();
    let data = "keylime_verifier_prot = \"8881\"\nkeylime_registrar_port = \"0\"\n\
                keylime_tls_ca_cert_file = \"/nonexistent/ca.crt\"\nquote_verification = \"none\"\n\
                maximum_attestation_interval = \"10\"\nselectors = [\"pcrs\"]\nselector_pcrs = [7, 16]";
    for version in VERSIONS {
        let Some(spire) = require::spire_version(version) else { continue };
        let options = SpireServerOptions::new(PluginSpec::keylime(&command, data)).with(&spire);
        let output = SpireServer::validate(&options).unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for expected in [
            "`keylime_verifier_prot`: unknown option, did you mean `keylime_verifier_port`?",
            "`keylime_registrar_port`: found `0`, allowed is a port from 1 to 65535",
            "/nonexistent/ca.crt",
            "`quote_verification`: found `none`, allowed is `both` or `local`",
            "`maximum_attestation_interval`: found `10`, allowed is a time from `1s` to `24h`",
            "`selectors`, element 1: found `pcrs`, allowed is `agent_id`, `ek_hash`, `tpm`, `pcr`,",
            "`selector_pcrs`: PCR 16 cannot be a selector: each quote sets it",
        ] {
            assert!(said.contains(expected), "{expected} is not in:\n{said}");
        }
    }
}
