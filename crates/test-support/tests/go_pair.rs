// SPDX-License-Identifier: Apache-2.0
//! The whole chain of other people's programs: SPIRE with the Go plugins, the stock Keylime agent, Keylime, swtpm.
//! What fails here is not ours.

use std::time::{Duration, Instant};

use test_support::{
    KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, KeylimeServers, PluginSpec, SpireAgent, SpireAgentOptions,
    SpireServer, SpireServerOptions, Swtpm, SwtpmOptions, require,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Prints how long a step took; shown with `--nocapture`.
fn timed<T>(what: &str, step: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let value = step();
    println!("{:6.0} ms  {what}", start.elapsed().as_secs_f64() * 1000.0);
    value
}

#[test]
fn the_go_plugins_attest_a_stock_agent() {
    let (Some(()), Some(_), Some(_)) = (require::swtpm(), require::keylime(), require::spire()) else { return };
    let (Some(go), Some(stock)) = (require::go_peers(), require::stock_agent()) else { return };
    let Some(()) = require::root() else { return };

    let tpm = timed("swtpm", || Swtpm::start(SwtpmOptions::default())).unwrap();
    // The Go agent plugin knows plain HTTP only.
    let options = KeylimeOptions { agent_mtls: false, ek_ca_certs: tpm.ca_certs.clone(), ..Default::default() };
    let servers = timed("verifier and registrar", || KeylimeServers::start(&options)).unwrap();
    let agent_options = KeylimeAgentOptions { mtls: false, ..KeylimeAgentOptions::new(stock) };
    let agent = timed("Keylime agent", || KeylimeAgent::start(&tpm.tcti, &servers, &agent_options)).unwrap();
    let id = agent.id().unwrap();
    assert_eq!(id.len(), 64, "{id}");
    timed("tenant", || servers.enrol(&id, agent.port, Some(&format!("{{\"23\": [\"{}\"]}}", "0".repeat(64))))).unwrap();
    timed("verified", || servers.wait_verified(&id, LIMIT)).unwrap();
    assert_eq!(agent.get("/v2.2/agent/info").unwrap().results()["agent_uuid"], id.as_str());
    assert!(servers.registrar_agent(&id).unwrap().is_some());
    assert_eq!(servers.registrar_agent("unknown").unwrap(), None);

    let tls = servers.cv_ca.display();
    let data = format!(
        "keylime_verifier_port = \"{}\"\nkeylime_tls_ca_cert_file = \"{tls}/cacert.crt\"\n\
         keylime_tls_cert_file = \"{tls}/server-cert.crt\"\nkeylime_tls_key_file = \"{tls}/server-private.pem\"",
        servers.verifier_port
    );
    let server_options = SpireServerOptions::new(PluginSpec::keylime(go.server_plugin, data));
    let spire = timed("SPIRE server", || SpireServer::start(&server_options)).unwrap();
    let agent_id = spire.agent_id(&id);
    let uid = format!("unix:uid:{}", nix::unistd::geteuid());
    spire.entry_create(&agent_id, "spiffe://tower.example/workload", &[&uid]).unwrap();

    let plugin = PluginSpec::keylime(go.agent_plugin, format!("keylime_agent_port = \"{}\"", agent.port));
    let mut spire_agent = timed("SPIRE agent", || SpireAgent::start(&spire, &SpireAgentOptions::new(plugin))).unwrap();
    let took = spire_agent.attested(LIMIT).unwrap();
    println!("{:6.0} ms  from its start to its attestation", took.as_secs_f64() * 1000.0);
    let svids = timed("X.509-SVID", || spire_agent.fetch_x509(LIMIT)).unwrap();
    assert_eq!(
        svids.iter().map(|svid| svid.spiffe_id.as_str()).collect::<Vec<_>>(),
        ["spiffe://tower.example/workload"]
    );
    assert_eq!(spire.agent_list().unwrap().len(), 1);

    tpm.pcr_extend(23).unwrap();
    let record = timed("invalid quote after a PCR change", || servers.wait_state(&id, 9, LIMIT)).unwrap();
    assert_eq!(record["last_event_id"], "pcr_validation.invalid_pcr_23");
    spire_agent.wipe_and_restart().unwrap();
    let reason = timed("refusal", || spire_agent.refused(LIMIT)).unwrap();
    assert!(reason.ends_with("Keylime agent is not in a verified state. Current state: 9"), "{reason}");
}
