// SPDX-License-Identifier: Apache-2.0
//! The clients against the real Keylime and the stock Keylime agent
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keylime_api::agent::{AgentClient, Transport};
use keylime_api::registrar::RegistrarClient;
use keylime_api::registration::{MtlsCert, Registration, RegistrationClient};
use keylime_api::state::AgentState;
use keylime_api::verdict::{NotYetReason, Verdict};
use keylime_api::verifier::VerifierClient;
use keylime_api::version::{ApiVersion, SUPPORTED};
use keylime_api::{AgentId, ClientError, HostPort, HttpSettings};
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, KeylimeServers, Swtpm, SwtpmOptions, require};
use tls::rustls::ClientConfig;
use tls::{ClientTls, Identity, ServerTls, Trust};

const SETTINGS: HttpSettings = HttpSettings {
    connect_timeout: Duration::from_secs(20),
    total_timeout: Duration::from_secs(20),
    max_body: 1 << 20,
};

fn loopback(port: u16) -> HostPort {
    HostPort::new("127.0.0.1", port).unwrap()
}

fn client_tls(ca: &Path, identity: Option<(PathBuf, PathBuf)>) -> Arc<ClientConfig> {
    let identity = identity.map(|(cert, key)| Identity { cert, key, password: None });
    ClientTls { ca: Trust::Files(vec![ca.to_owned()]), identity, server_name: None }.build().unwrap()
}

fn reach_port(port: u16, tls: Arc<ClientConfig>) -> AgentClient {
    AgentClient::new(&Transport::Tls(loopback(port), tls), SETTINGS).unwrap()
}

#[tokio::test]
async fn verifier_registrar_and_stock_agent_are_understood() {
    let (Some(()), Some(_), Some(stock), Some(())) =
        (require::swtpm(), require::keylime(), require::stock_agent(), require::root())
    else {
        return;
    };
    let tpm = Swtpm::start(SwtpmOptions::default()).unwrap();
    let options = KeylimeOptions { ek_ca_certs: tpm.ca_certs.to_vec(), ..KeylimeOptions::default() };
    let servers = KeylimeServers::start(&options).unwrap();
    let agent = KeylimeAgent::start(&tpm.tcti, &servers, &KeylimeAgentOptions::new(stock)).unwrap();
    let id: AgentId = agent.id().unwrap().parse().unwrap();
    let nobody: AgentId = "nobody".parse().unwrap();
    assert!(id.is_ek_hash());

    // Keylime's own client certificate, and its server certificate, which the Go plugins use by default.
    let file = |name: &str| servers.cv_ca.join(name);
    let admin = client_tls(&servers.ca_cert(), Some((servers.client_cert(), servers.client_key())));
    let as_server = client_tls(&servers.ca_cert(), Some((file("server-cert.crt"), file("server-private.pem"))));
    let anonymous = client_tls(&servers.ca_cert(), None);

    let verifier =
        |tls: &Arc<ClientConfig>| VerifierClient::new(loopback(servers.verifier_port), tls.clone(), SETTINGS).unwrap();
    let registrar = |tls: &Arc<ClientConfig>| {
        RegistrarClient::new(loopback(servers.registrar_tls_port), tls.clone(), SETTINGS).unwrap()
    };
    let v26 = ApiVersion::new(2, 6);
    assert_eq!(verifier(&admin).warm_up().await.unwrap(), v26);
    assert_eq!(registrar(&admin).warm_up().await.unwrap(), v26);
    for identity in [&admin, &as_server] {
        assert!(verifier(identity).agent(&id).await.unwrap_err().is_not_found());
        let record = registrar(identity).agent(&id).await.unwrap();
        assert!(record.aik_tpm.starts_with(&[0x01, 0x18, 0x00, 0x01, 0x00, 0x0b]));
        assert!(record.ek_tpm.is_some());
        assert!(registrar(identity).agent(&nobody).await.unwrap_err().is_not_found());
    }
    for error in
        [verifier(&anonymous).agent(&id).await.unwrap_err(), registrar(&anonymous).agent(&id).await.unwrap_err()]
    {
        assert!(matches!(error, ClientError::Forbidden { .. }), "{error}");
    }

    // The agent's certificate is its own, and its signature is wrong: only the pin lets it in.
    let identity = Some((servers.client_cert(), servers.client_key()));
    let pinned = client_tls(&agent.folder.join("server-cert.crt"), identity);
    let reach = |tls| reach_port(agent.port, tls);
    let client = reach(pinned);
    // Builds of the stock agent's 0.2.9 differ.
    assert!(client.version().await.unwrap() >= ApiVersion::new(2, 5));
    assert_eq!(client.info().await.unwrap().agent_uuid, id);
    let nonce = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".parse().unwrap();
    let quote = client.identity_quote(&nonce).await.unwrap();
    assert!(quote.quote.starts_with('r'));
    let refused = reach(admin.clone()).info().await.unwrap_err().to_string();
    assert!(refused.contains("was made by the peer itself and is not in the CA file"), "{refused}");

    // A server of ours lets in both certificates that Keylime's programs show.
    let cert = Identity { cert: file("server-cert.crt"), key: file("server-private.pem"), password: None };
    let ours = ServerTls { identity: cert, client_cas: vec![servers.ca_cert()] }.build().unwrap().config;
    for identity in [&admin, &as_server] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = reach_port(listener.local_addr().unwrap().port(), identity.clone());
        let ours = tokio_rustls::TlsAcceptor::from(ours.clone());
        // Only the handshake matters: connection and listener end without an answer.
        let accept = async move {
            let (tcp, _) = listener.accept().await.unwrap();
            ours.accept(tcp).await.map(drop)
        };
        let (accepted, unanswered) = tokio::join!(accept, client.version());
        accepted.unwrap();
        unanswered.unwrap_err();
    }

    for (port, tls) in [(servers.registrar_port, None), (servers.registrar_tls_port, Some(anonymous.clone()))] {
        let client = RegistrationClient::new(loopback(port), tls, SETTINGS, &SUPPORTED).unwrap();
        assert_eq!(client.version().await.unwrap(), Some(v26));
        let registration = Registration {
            aik_tpm: vec![0, 1, 2],
            ek_tpm: vec![0, 1, 2],
            ekcert: None,
            ip: "127.0.0.1".to_owned(),
            port: 1,
            mtls_cert: MtlsCert::Disabled,
            device_identity: None,
        };
        let error = client.register(&nobody, &registration).await.unwrap_err();
        assert!(matches!(error, ClientError::Status { .. }), "{error}");
        let error = client.activate(&nobody, &"0".repeat(96)).await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
    }

    servers.enrol(id.as_str(), agent.port, None).unwrap();
    let verifier = verifier(&admin);
    let first = verifier.agent(&id).await.unwrap().verdict(None);
    assert!(matches!(first, Verdict::Verified | Verdict::NotYet { .. }), "{first}");
    servers.wait_verified(id.as_str(), Duration::from_secs(60)).unwrap();
    let record = verifier.agent(&id).await.unwrap();
    assert_eq!(record.verdict(None), Verdict::Verified);
    assert_eq!(record.maximum_attestation_interval, Some(Duration::from_secs(10)));
    assert!(matches!(record.state, AgentState::Pull(_)));
    let swapped = VerifierClient::new(loopback(servers.registrar_tls_port), admin.clone(), SETTINGS).unwrap();
    let error = swapped.agent(&id).await.unwrap_err().to_string();
    assert!(
        error.ends_with("it is a record as a Keylime registrar keeps it: is that the registrar's port?"),
        "{error}"
    );
    let swapped = RegistrarClient::new(loopback(servers.verifier_port), admin.clone(), SETTINGS).unwrap();
    let error = swapped.agent(&id).await.unwrap_err().to_string();
    assert!(error.ends_with("it is a record as a Keylime verifier keeps it: is that the verifier's port?"), "{error}");
    assert_ne!(first, Verdict::NotYet { reason: NotYetReason::PushModel });
}
