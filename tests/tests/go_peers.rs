// SPDX-License-Identifier: Apache-2.0
//! Our plugins beside the Go ones, in either direction: hosts are moved one by one.
//!
//! The upstream Go agent plugin speaks plain HTTP to the Keylime agent, so mTLS is off there and at the verifier.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use e2e::{Host, LIMIT, keylime_options, our_agent};
use test_support::{
    KeylimeAgentOptions, KeylimeOptions, KeylimeServers, PluginSpec, SpireAgent, SpireAgentOptions, SpireServer,
    SpireServerOptions, Swtpm, SwtpmOptions, bin, require,
};

#[test]
fn either_side_may_be_the_go_plugin() {
    let (Some(()), Some(_), Some(_)) = (require::swtpm(), require::keylime(), require::spire()) else { return };
    let (Some(go), Some(())) = (require::go_peers(), require::root()) else { return };
    let tpm = Swtpm::start(SwtpmOptions::default()).unwrap();
    let servers = KeylimeServers::start(&KeylimeOptions { agent_mtls: false, ..keylime_options(&tpm) }).unwrap();
    let options = KeylimeAgentOptions { mtls: false, ..our_agent(&tpm).unwrap() };
    let host = Host::with(tpm, servers, options).unwrap();
    host.enrol().unwrap();
    let plain = format!("keylime_agent_port = \"{}\"", host.agent.port);
    // The Go server plugin ignores options that it does not know.
    let server_data = host.server_data();

    for (server_plugin, agent_plugin) in [
        (bin::built("keylime-attestor-server").unwrap(), go.agent_plugin.clone()),
        (go.server_plugin.clone(), bin::built("keylime-attestor-agent").unwrap()),
    ] {
        let plugin = PluginSpec::keylime(&server_plugin, server_data.clone());
        let server = SpireServer::start(&SpireServerOptions::new(plugin)).unwrap();
        let plugin = PluginSpec::keylime(&agent_plugin, plain.clone());
        let mut agent = SpireAgent::start(&server, &SpireAgentOptions::new(plugin)).unwrap();
        agent.attested(LIMIT).unwrap_or_else(|error| panic!("{agent_plugin:?} with {server_plugin:?}: {error:#}"));
        assert!(server.agent_show(&server.agent_id(&host.id)).is_ok());
    }
}
