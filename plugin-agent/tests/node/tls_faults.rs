// SPDX-License-Identifier: Apache-2.0
//! TLS to the Keylime agent that fails: code and text of each, and that the next attestation works.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use test_support::ca::{LeafSpec, TestCa};
use test_support::http::Server;
use test_support::site::Site;
use tls::Identity;
use tls::rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic::Code;

use crate::harness::{PATIENT, attest, config, good, is_well, version_1};

/// A port behind which servers change.
struct Port {
    at: SocketAddr,
    behind: Arc<Mutex<(SocketAddr, JoinSet<()>)>>,
}

impl Port {
    async fn open() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let behind = Arc::new(Mutex::new((at, JoinSet::new())));
        let port = Self { at, behind: behind.clone() };
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut behind = behind.lock().unwrap();
                let to = behind.0;
                behind.1.spawn(async move {
                    let mut far = TcpStream::connect(to).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        port
    }

    /// Puts another server there. Connections to the one before end.
    async fn serve(&self, tls: Arc<ServerConfig>) {
        let server = Server::start(Some(tls), good).await;
        *self.behind.lock().unwrap() = (server.at.to_string().parse().unwrap(), JoinSet::new());
    }

    /// Puts a server there that takes connections and says nothing.
    async fn fall_silent(&self) -> TcpListener {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        *self.behind.lock().unwrap() = (listener.local_addr().unwrap(), JoinSet::new());
        listener
    }
}

/// The options to reach a Keylime agent at the port, as this client.
fn options(site: &Site, port: &Port, client: Option<&Identity>) -> String {
    let client = client.map(|identity| {
        format!(
            "keylime_agent_client_cert = \"{}\"\nkeylime_agent_client_key = \"{}\"\n",
            identity.cert.display(),
            identity.key.display()
        )
    });
    format!(
        "keylime_agent_use_tls = true\nkeylime_agent_port = {}\nkeylime_agent_ca_cert = \"{}\"\n{}",
        port.at.port(),
        site.ca_file.display(),
        client.unwrap_or_default()
    )
}

#[tokio::test]
async fn certificates_of_the_keylime_agent_are_checked() {
    let site = Site::new();
    let other = TestCa::root("Other Root").unwrap();
    let now = SystemTime::now();
    let early = LeafSpec { not_before: now + Duration::from_secs(3600), ..LeafSpec::new("early") };
    let port = Port::open().await;
    let client = site.issue(&site.ca, &LeafSpec::new("client").client_only());
    let config = config(&options(&site, &port, Some(&client)), PATIENT);
    let rows = [
        (
            site.issue(&other, &LeafSpec::new("stranger")),
            "the certificate \"CN=stranger\" was issued by \"CN=Other Root\", which is not in the CA file FILE and was not \
             sent by the peer: add the certificate of that issuer to one of the two",
        ),
        (site.issue(&site.ca, &LeafSpec::new("old").expired()), "the peer's certificate expired on 20"),
        (site.issue(&site.ca, &early), "the peer's certificate is valid from 20"),
        (
            site.issue(&site.ca, &LeafSpec::new("named").only_dns(&["other.example"])),
            "the peer's certificate is for other.example, not for 127.0.0.1",
        ),
    ];
    for (identity, text) in rows {
        port.serve(site.server_as(identity)).await;
        let failed = attest(&config, &version_1()).await.unwrap_err();
        let says = failed.to_string().replace(site.ca_file.to_str().unwrap(), "FILE");
        let begin = format!(
            "this host has no Keylime identity to present: no TLS connection to the Keylime agent at https://{}: ",
            port.at
        );
        // The rest of two of the texts are times.
        assert!(says.starts_with(&format!("{begin}{text}")), "{says}");
        assert_eq!(failed.code(), Code::Unavailable);
        port.serve(site.server()).await;
        is_well(&config).await;
    }
}

#[tokio::test]
async fn a_client_certificate_that_is_refused_is_named() {
    let site = Site::new();
    let other = TestCa::root("Other Root").unwrap();
    let port = Port::open().await;
    let good = site.issue(&site.ca, &LeafSpec::new("client").client_only());
    let rows = [
        (None, "the peer requires a client certificate, and none is configured here"),
        (
            Some(site.issue(&other, &LeafSpec::new("stranger"))),
            "the peer refused our certificate (TLS alert CertificateUnknown)",
        ),
    ];
    for (identity, text) in rows {
        port.serve(site.server()).await;
        let refused = config(&options(&site, &port, identity.as_ref()), PATIENT);
        let failed = attest(&refused, &version_1()).await.unwrap_err();
        assert_eq!(
            failed.to_string(),
            format!(
                "this host has no Keylime identity to present: no TLS connection to the Keylime agent at https://{}: \
                 {text}",
                port.at
            )
        );
        assert_eq!(failed.code(), Code::Unavailable);
        // What Configure, or a change of the files, brings.
        is_well(&config(&options(&site, &port, Some(&good)), PATIENT)).await;
    }
}

#[tokio::test]
async fn a_port_that_speaks_no_tls_ends_at_the_limit_or_is_named() {
    let site = Site::new();
    let port = Port::open().await;
    let client = site.issue(&site.ca, &LeafSpec::new("client").client_only());
    let options = options(&site, &port, Some(&client));
    let _silent = port.fall_silent().await;
    let short = keylime_api::HttpSettings { connect_timeout: Duration::from_millis(200), ..PATIENT };
    let failed = attest(&config(&options, short), &version_1()).await.unwrap_err();
    assert_eq!(
        failed.to_string(),
        format!(
            "this host has no Keylime identity to present: cannot connect to the Keylime agent at https://{} within 0.2 s, TLS included: does that port speak TLS at all?",
            port.at
        )
    );
    assert_eq!(failed.code(), Code::DeadlineExceeded);
    port.serve(site.server()).await;
    is_well(&config(&options, PATIENT)).await;
}
