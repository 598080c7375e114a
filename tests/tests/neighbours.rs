// SPDX-License-Identifier: Apache-2.0
//! What our server plugin makes of neighbours that are away or slow, through the built-in host: the real verifier,
//! registrar and software TPM, stopped and started.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use e2e::{Host, keylime_options, our_agent, tpm_policy};
use spire_plugin::host::{AgentPlugin, Launch, ServerPlugin, SpireHost};
use test_support::ca::LeafSpec;
use test_support::keylime::Server;
use test_support::keylime::fake::{FakeAgent, FakeKeylime, Security};
use test_support::{KeylimeOptions, KeylimeServers, Swtpm, SwtpmOptions, require};

struct Pair {
    spire: SpireHost,
    agent: AgentPlugin,
    server: ServerPlugin,
}

impl Pair {
    async fn load(host: &Host, more: &str) -> Self {
        Self::load_with(host, &format!("{}\n{more}", host.server_data())).await
    }

    async fn load_with(host: &Host, server_data: &str) -> Self {
        let spire = SpireHost::new("tower.example".parse().unwrap(), "keylime");
        let (server, agent) = (host.server_plugin().unwrap(), host.agent_plugin().unwrap());
        let server = spire.load_server(Launch::new(server.command), server_data).await.unwrap();
        let agent = spire.load_agent(Launch::new(agent.command), &agent.data).await.unwrap();
        Self { spire, agent, server }
    }

    /// The refusal without its attempt id, or `let in`.
    async fn attest(&self) -> String {
        match self.spire.attest(&self.agent, &self.server).await {
            Ok(_) => "let in".to_owned(),
            Err(refusal) => {
                let text = refusal.to_string();
                text.split(" (attempt ").next().unwrap_or_default().to_owned()
            }
        }
    }
}

#[tokio::test]
async fn a_neighbour_that_is_away_is_no_reason_to_let_a_host_in() {
    let (Some(()), Some(_), Some(())) = (require::swtpm(), require::keylime(), require::root()) else { return };
    let mut host = Host::start().unwrap();
    host.enrol().unwrap();
    let pair = Pair::load(&host, "").await;
    assert_eq!(pair.attest().await, "let in");

    host.servers.stop(Server::Registrar);
    assert_eq!(
        pair.attest().await,
        "server plugin: Unavailable: nodeattestor(keylime): the Keylime registrar is not available"
    );
    host.servers.restart(Server::Registrar).unwrap();
    assert_eq!(pair.attest().await, "let in");

    host.servers.stop(Server::Verifier);
    assert_eq!(
        pair.attest().await,
        "server plugin: Unavailable: nodeattestor(keylime): the Keylime verifier is not available"
    );
    host.servers.restart(Server::Verifier).unwrap();
    let again = || async { (pair.attest().await == "let in").then_some(()) };
    let mut tries = 0;
    while again().await.is_none() {
        tries += 1;
        assert!(tries < 100, "the verifier came back and the host is still refused: {}", pair.attest().await);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    // The registrar forgets the host: nothing is left to check its quotes against.
    host.servers.registrar_delete(&host.id).unwrap();
    assert_eq!(
        pair.attest().await,
        "server plugin: Unavailable: nodeattestor(keylime): the host is not known to the Keylime registrar"
    );

    host.agent.terminate().unwrap();
    let gone = pair.attest().await;
    assert!(
        gone.starts_with(
            "agent plugin: Unavailable: nodeattestor(keylime): this host has no Keylime identity to present: \
             cannot connect to the Keylime agent at https://127.0.0.1:"
        ),
        "{gone}"
    );
}

#[tokio::test]
async fn a_success_of_long_ago_is_too_old() {
    let (Some(()), Some(_), Some(())) = (require::swtpm(), require::keylime(), require::root()) else { return };
    let tpm = Swtpm::start(SwtpmOptions::default()).unwrap();
    // The verifier asks once in half a minute.
    let options = KeylimeOptions { quote_interval: 30.0, ..keylime_options(&tpm) };
    let servers = KeylimeServers::start(&options).unwrap();
    let agent = our_agent(&tpm).unwrap();
    let host = Host::with(tpm, servers, agent).unwrap();
    host.servers.enrol(&host.id, host.agent.port, Some(&tpm_policy())).unwrap();
    let record = host
        .servers
        .wait_agent(&host.id, "a first accepted quote", e2e::LIMIT, |record| {
            record.get("attestation_count").and_then(serde_json::Value::as_u64).is_some_and(|count| count > 0)
        })
        .unwrap();
    let strict = Pair::load(&host, "maximum_attestation_interval = \"2s\"").await;
    // By the verifier's own clock, which is this machine's.
    let success = record.get("last_successful_attestation").and_then(serde_json::Value::as_u64).unwrap();
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    while now() <= success + 4 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(
        strict.attest().await,
        "server plugin: FailedPrecondition: nodeattestor(keylime): the host was last verified by Keylime too long ago"
    );
    // What the verifier itself says for this host is five of its intervals.
    let lenient = Pair::load(&host, "").await;
    assert_eq!(lenient.attest().await, "let in");
}

#[tokio::test]
async fn of_several_verifiers_one_may_be_away_and_any_may_tell_a_failure() {
    let (Some(()), Some(_), Some(())) = (require::swtpm(), require::keylime(), require::root()) else { return };
    let host = Host::start().unwrap();
    host.enrol().unwrap();
    // The second verifier is a stand-in that trusts the same clients, and whose certificate is from a CA of its own.
    let second = FakeKeylime::start().unwrap();
    let first_ca = fs::read_to_string(host.servers.ca_cert()).unwrap();
    let identity = second.ca.issue(&LeafSpec::new("second").server_only()).unwrap();
    second.verifier.restart(Some(Security::tls(&identity, &first_ca).unwrap())).unwrap();
    let authorities = second.scratch().write("both.crt", first_ca + second.ca.pem()).unwrap();
    let nobody = test_support::ports::reserve().unwrap();
    let data = |verifiers: [u16; 2]| {
        let list = |ports: [u16; 2]| ports.map(|port| format!("\"127.0.0.1:{port}\"")).join(", ");
        format!(
            "keylime_verifiers = [{}]\nkeylime_registrars = [{}]\nkeylime_tls_ca_cert_file = {authorities:?}\n\
             keylime_tls_cert_file = {:?}\nkeylime_tls_key_file = {:?}",
            list(verifiers),
            list([nobody.number(), host.servers.registrar_tls_port]),
            host.servers.client_cert(),
            host.servers.client_key()
        )
    };

    let first_is_away = Pair::load_with(&host, &data([nobody.number(), host.servers.verifier_port])).await;
    assert_eq!(first_is_away.attest().await, "let in");
    assert_eq!(first_is_away.attest().await, "let in");

    let both = Pair::load_with(&host, &data([host.servers.verifier_port, second.verifier.port()])).await;
    assert_eq!(both.attest().await, "let in", "the second does not know the host");
    assert!(second.verifier.requests() > 0);
    let known = host.servers.registrar_agent(&host.id).unwrap().unwrap();
    let key = |name: &str| STANDARD.decode(known.get(name).and_then(|key| key.as_str()).unwrap()).unwrap();
    let failed = FakeAgent { state: Some(9), ..FakeAgent::verified(key("aik_tpm"), Some(key("ek_tpm"))) };
    second.put(&host.id, failed);
    assert_eq!(
        both.attest().await,
        "server plugin: PermissionDenied: nodeattestor(keylime): the host failed its verification by Keylime"
    );
    // The order does not matter.
    let other_way_round = Pair::load_with(&host, &data([second.verifier.port(), host.servers.verifier_port])).await;
    assert!(other_way_round.attest().await.starts_with("server plugin: PermissionDenied: "));
    second.change(&host.id, |agent| agent.state = Some(3)).unwrap();
    assert_eq!(other_way_round.attest().await, "let in");
}
