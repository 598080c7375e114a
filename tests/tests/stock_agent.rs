// SPDX-License-Identifier: Apache-2.0
//! Our plugins with the stock Keylime agent over mTLS, whose self-made certificate only a byte-equal pin accepts.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use e2e::{Host, LIMIT, keylime_options};
use test_support::{
    KeylimeAgentOptions, KeylimeServers, SpireAgent, SpireAgentOptions, SpireServer, SpireServerOptions, Swtpm,
    SwtpmOptions, require,
};

#[test]
fn a_stock_agent_with_its_self_made_certificate_attests() {
    let (Some(()), Some(_), Some(_)) = (require::swtpm(), require::keylime(), require::spire()) else { return };
    let (Some(stock), Some(())) = (require::stock_agent(), require::root()) else { return };
    let tpm = Swtpm::start(SwtpmOptions::default()).unwrap();
    let servers = KeylimeServers::start(&keylime_options(&tpm)).unwrap();
    let host = Host::with(tpm, servers, KeylimeAgentOptions::new(stock)).unwrap();
    host.enrol().unwrap();
    let server = SpireServer::start(&SpireServerOptions::new(host.server_plugin().unwrap())).unwrap();
    let mut agent = SpireAgent::start(&server, &SpireAgentOptions::new(host.agent_plugin().unwrap())).unwrap();
    let took = agent.attested(LIMIT).unwrap();
    println!("attested {} ms after the start of the SPIRE agent", took.as_millis());
    assert!(server.agent_show(&server.agent_id(&host.id)).is_ok());
}
