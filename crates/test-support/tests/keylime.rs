// SPDX-License-Identifier: Apache-2.0
//! The lab's Keylime: stopping and starting its parts, with the stock agent over mTLS.

use std::time::Duration;

use serde_json::json;
use test_support::keylime::Server;
use test_support::{
    KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, KeylimeServers, Swtpm, SwtpmOptions, process, require,
};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn servers_keep_their_data_over_a_restart() {
    let (Some(()), Some(_)) = (require::swtpm(), require::keylime()) else { return };
    let (Some(stock), Some(())) = (require::stock_agent(), require::root()) else { return };
    let tpm = Swtpm::start(SwtpmOptions::default()).unwrap();
    let options = KeylimeOptions { ek_ca_certs: tpm.ca_certs.clone(), quote_interval: 0.5, ..Default::default() };
    let mut servers = KeylimeServers::start(&options).unwrap();
    let mut agent = KeylimeAgent::start(&tpm.tcti, &servers, &KeylimeAgentOptions::new(&stock)).unwrap();
    let id = agent.id().unwrap();
    servers.enrol(&id, agent.port, None).unwrap();
    let record = servers.wait_verified(&id, LIMIT).unwrap();
    assert_eq!(record["hash_alg"], "sha256");
    assert_eq!(servers.verifier_agent("unknown").unwrap(), None);
    // Without a client certificate the agent does not answer; with it, it does.
    assert_eq!(agent.get("/v2.2/agent/info").unwrap().results()["agent_uuid"], id.as_str());

    servers.stop(Server::Verifier);
    assert!(servers.verifier_agent(&id).is_err());
    assert!(servers.registrar_agent(&id).unwrap().is_some());
    servers.restart(Server::Verifier).unwrap();
    let before = servers.verifier_agent(&id).unwrap().unwrap()["attestation_count"].as_u64().unwrap();
    servers
        .wait_agent(&id, "another quote", LIMIT, |record| record["attestation_count"].as_u64() > Some(before))
        .unwrap();
    servers.restart(Server::Registrar).unwrap();
    assert!(servers.registrar_agent(&id).unwrap().is_some());

    // Another agent takes over the folder, at another port.
    assert!(agent.terminate().unwrap().success());
    let options = KeylimeAgentOptions { folder: Some(agent.folder.clone()), ..KeylimeAgentOptions::new(&stock) };
    tpm.flush_transient().unwrap();
    let second = KeylimeAgent::start(&tpm.tcti, &servers, &options).unwrap();
    assert_eq!(second.id().unwrap(), id);
    let known = servers.registrar_agent(&id).unwrap().unwrap();
    assert_eq!(known["port"], json!(second.port));

    servers.registrar_delete(&id).unwrap();
    assert_eq!(servers.registrar_agent(&id).unwrap(), None);
}

#[test]
fn an_option_can_be_overridden_and_a_failed_tenant_shows_why() {
    let Some(_) = require::keylime() else { return };
    let overrides = vec![("verifier".to_owned(), "quote_interval".to_owned(), "7".to_owned())];
    let servers = KeylimeServers::start(&KeylimeOptions { overrides, ..Default::default() }).unwrap();
    let config = std::fs::read_to_string(servers.folder().join("verifier.conf")).unwrap();
    assert_eq!(
        config.lines().filter(|line| line.starts_with("quote_interval")).collect::<Vec<_>>(),
        ["quote_interval = 7"]
    );
    let error = servers.enrol("d432fbb3-d2f1-4a97-9ef7-75bd81c00001", 1, None).unwrap_err().to_string();
    assert!(error.starts_with("keylime_tenant -c add: exit status: 1\n"), "{error}");
    let output = servers.tenant(&["-c", "reglist"]).unwrap();
    assert!(process::success("keylime_tenant -c reglist", output).is_ok());
}
