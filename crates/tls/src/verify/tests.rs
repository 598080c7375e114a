// SPDX-License-Identifier: Apache-2.0
//! Handshakes between our clients and servers, in memory, with every certificate that can be wrong

use std::path::PathBuf;
use std::sync::Arc;

use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use test_support::ca::{Issued, LeafSpec, TestCa, self_signed};
use x509_cert::der::pem::LineEnding;
use x509_cert::der::{DecodePem, EncodePem};

use crate::testing::{Site, handshake, identity, not_yet_valid, with_broken_signature};
use crate::{ClientTls, ServerTls, TlsError, Trust};

/// Both sides' words about a handshake that must fail.
fn refused(client: &ClientTls, server: &ServerTls, name: &str) -> (Option<String>, Option<String>) {
    handshake(client.build().unwrap(), server.build().unwrap().config, name)
        .map(|_| ())
        .expect_err("the handshake must not succeed")
}

fn accepted(client: &ClientTls, server: &ServerTls, name: &str) {
    handshake(client.build().unwrap(), server.build().unwrap().config, name).expect("the handshake must succeed");
}

/// The client's words when the server shows this certificate.
fn client_says(site: &Site, shown: &(PathBuf, PathBuf), name: &str) -> String {
    let server = ServerTls { identity: identity(shown), ..site.server_tls() };
    refused(&site.client_tls(), &server, name).0.expect("the client refuses")
}

#[test]
fn chain_and_name_are_accepted() {
    let site = Site::new();
    for name in ["localhost", "127.0.0.1"] {
        accepted(&site.client_tls(), &site.server_tls(), name);
    }
}

#[test]
fn tickets_resume_in_tls_1_3() {
    let site = Site::new();
    let (client, server) = (site.client_tls().build().unwrap(), site.server_tls().build().unwrap().config);
    let kind = |c: &Arc<ClientConfig>, s: &Arc<ServerConfig>| {
        handshake(c.clone(), s.clone(), "localhost").unwrap().0.handshake_kind()
    };
    assert_eq!(kind(&client, &server), Some(HandshakeKind::Full));
    assert_eq!(kind(&client, &server), Some(HandshakeKind::Resumed));
    // A server built anew, as after a renewal, takes no older ticket.
    assert_eq!(kind(&client, &site.server_tls().build().unwrap().config), Some(HandshakeKind::Full));
}

#[test]
fn a_wrong_name_is_refused_with_the_names_there_are() {
    let site = Site::new();
    let says = |name: &str| client_says(&site, &site.server, name);
    assert_eq!(
        says("verifier.example"),
        "the peer's certificate is for localhost, 127.0.0.1, not for verifier.example"
    );
    assert_eq!(says("10.0.0.1"), "the peer's certificate is for localhost, 127.0.0.1, not for 10.0.0.1");
    let nameless = site.issue(&site.ca, &LeafSpec::new("localhost").only_dns(&[]), "nameless");
    assert_eq!(
        client_says(&site, &nameless, "localhost"),
        "the peer's certificate is for no name at all, not for localhost"
    );
}

#[test]
fn another_name_can_be_asked_for() {
    let site = Site::new();
    let shown = site.issue(&site.ca, &LeafSpec::new("v").only_dns(&["verifier.example"]), "v");
    let server = ServerTls { identity: identity(&shown), ..site.server_tls() };
    let asking = |name: &str| ClientTls { server_name: Some(name.into()), ..site.client_tls() };
    accepted(&asking("verifier.example"), &server, "127.0.0.1");
    assert_eq!(
        refused(&asking("other.example"), &server, "verifier.example").0.unwrap(),
        "the peer's certificate is for verifier.example, not for other.example"
    );
    let error = asking("not a name").build().unwrap_err().to_string();
    assert_eq!(
        error,
        "\"not a name\" is neither a host name nor an IP address (it goes without https:// and port) that a certificate could be checked against"
    );
}

#[test]
fn dates_are_checked() {
    let site = Site::new();
    let old = site.issue(&site.ca, &LeafSpec::new("old").expired(), "old");
    let says = client_says(&site, &old, "localhost");
    assert!(says.starts_with("the peer's certificate expired on 20"), "{says}");
    assert!(says.ends_with("here: renew it, or correct the clock of this host"), "{says}");
    let new = site.issue(&site.ca, &not_yet_valid("new"), "new");
    let says = client_says(&site, &new, "localhost");
    assert!(says.starts_with("the peer's certificate is valid from 20"), "{says}");
    assert!(says.ends_with("here: correct the clock of one of the two hosts"), "{says}");
}

#[test]
fn an_unknown_authority_is_named() {
    let site = Site::new();
    let shown = site.issue(&TestCa::root("Other Root").unwrap(), &LeafSpec::new("server"), "other");
    assert_eq!(
        client_says(&site, &shown, "localhost"),
        format!(
            "the certificate \"CN=server\" was issued by \"CN=Other Root\", which is not in the CA file {} and was not \
             sent by the peer: add the certificate of that issuer to one of the two",
            site.ca_file.display()
        )
    );
}

#[test]
fn a_missing_intermediate_is_named() {
    let site = Site::new();
    let issuing = site.ca.intermediate("Test Issuing").unwrap();
    let whole = issuing.issue(&LeafSpec::new("server")).unwrap();
    let complete = whole.write(site.scratch.path(), "complete").unwrap();
    accepted(&site.client_tls(), &ServerTls { identity: identity(&complete), ..site.server_tls() }, "localhost");
    let alone = Issued { chain_pem: whole.cert_pem.clone(), ..whole };
    let alone = alone.write(site.scratch.path(), "alone").unwrap();
    let missing = "was issued by \"CN=Test Issuing\", which is not in";
    assert!(client_says(&site, &alone, "localhost").contains(missing));
    // The other way round: the trust file has the intermediate's issuer missing.
    let foreign = TestCa::root("Far Root").unwrap().intermediate("Far Issuing").unwrap();
    let chain = site.issue(&foreign, &LeafSpec::new("server"), "far");
    let says = client_says(&site, &chain, "localhost");
    assert!(says.starts_with("the certificate \"CN=Far Issuing\" was issued by \"CN=Far Root\", which"), "{says}");
}

#[test]
fn an_intermediate_in_the_file_is_enough() {
    let site = Site::new();
    let issuing = site.ca.intermediate("Test Issuing").unwrap();
    let shown = site.issue(&issuing, &LeafSpec::new("server"), "leaf");
    let client = ClientTls {
        ca: Trust::Files(vec![issuing.write(site.scratch.path(), "issuing").unwrap()]),
        ..site.client_tls()
    };
    accepted(&client, &ServerTls { identity: identity(&shown), ..site.server_tls() }, "localhost");
}

#[test]
fn an_authority_made_anew_under_the_same_name_is_recognised() {
    let site = Site::new();
    let shown = site.issue(&TestCa::root("Test Root").unwrap(), &LeafSpec::new("server"), "anew");
    assert_eq!(
        client_says(&site, &shown, "localhost"),
        format!(
            "the certificate \"CN=server\" does not carry the signature of the \"CN=Test Root\" in the CA file {}: that \
             authority was probably made anew under the same name; replace the older certificate",
            site.ca_file.display()
        )
    );
}

/// What a stock Keylime agent makes for itself: no name of the host, and a signature that is wrong.
fn stock_agent_certificate() -> Issued {
    with_broken_signature(&self_signed(&LeafSpec::new("d432fbb3-d2f1-4a97-9ef7-75bd81c00000").only_dns(&[])).unwrap())
}

#[test]
fn a_pinned_certificate_is_accepted_whatever_it_says() {
    let site = Site::new();
    let made = stock_agent_certificate();
    let shown = made.write(site.scratch.path(), "agent").unwrap();
    let server = ServerTls { identity: identity(&shown), ..site.server_tls() };
    // Alone in the file, and beside others.
    for text in [made.cert_pem.clone(), format!("{}{}", site.ca.pem(), made.cert_pem)] {
        let client = ClientTls { ca: Trust::Files(vec![site.file("pin.pem", text)]), ..site.client_tls() };
        accepted(&client, &server, "10.1.2.3");
    }
    assert_eq!(
        client_says(&site, &shown, "localhost"),
        format!(
            "the peer's certificate \"CN=d432fbb3-d2f1-4a97-9ef7-75bd81c00000\" was made by the peer itself and is not \
             in the CA file {}: add exactly that certificate to trust it",
            site.ca_file.display()
        )
    );
}

#[test]
fn a_pinned_certificate_may_call_itself_an_authority() {
    let site = Site::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = named("agent");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let cert = site.file("own.crt", params.self_signed(&key).unwrap().pem());
    let shown = (cert.clone(), site.file("own.pem", key.serialize_pem()));
    let client = ClientTls { ca: Trust::Files(vec![cert]), ..site.client_tls() };
    accepted(&client, &ServerTls { identity: identity(&shown), ..site.server_tls() }, "10.1.2.3");
    assert!(client_says(&site, &shown, "localhost").contains("\"CN=agent\" was made by the peer itself and is not in"));
}

/// A certificate for `localhost` with this subject, and nothing else.
fn named(subject: &str) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, subject);
    params
}

#[test]
fn a_pin_is_for_exactly_that_certificate() {
    let site = Site::new();
    let spec = LeafSpec::new("agent");
    let (first, second) = (self_signed(&spec).unwrap(), self_signed(&spec).unwrap());
    let pin = site.file("pin.pem", &first.cert_pem);
    let client = ClientTls { ca: Trust::Files(vec![pin]), ..site.client_tls() };
    let shown = second.write(site.scratch.path(), "second").unwrap();
    let server = ServerTls { identity: identity(&shown), ..site.server_tls() };
    assert!(refused(&client, &server, "localhost").0.unwrap().contains("was made by the peer itself"));
}

#[test]
fn a_pinned_certificate_vouches_for_no_other() {
    let site = Site::new();
    // The key of a leaf in the trust file signs another certificate.
    let leaf = site.ca.issue(&LeafSpec::new("leaf")).unwrap();
    let issuer = rcgen::Issuer::new(named("leaf"), rcgen::KeyPair::from_pem(&leaf.key_pem).unwrap());
    let key = rcgen::KeyPair::generate().unwrap();
    let below = named("below").signed_by(&key, &issuer).unwrap().pem();
    let shown = (site.file("below.crt", below), site.file("below.pem", key.serialize_pem()));
    let pin = site.file("pin.pem", &leaf.cert_pem);
    let client = ClientTls { ca: Trust::Files(vec![pin]), ..site.client_tls() };
    let server = ServerTls { identity: identity(&shown), ..site.server_tls() };
    let says = refused(&client, &server, "localhost").0.unwrap();
    assert_eq!(says, no_authority("below", "leaf", &site));
}

fn no_authority(subject: &str, issuer: &str, site: &Site) -> String {
    format!(
        "the certificate \"CN={subject}\" was issued by \"CN={issuer}\", whose certificate in the CA file {} is not \
         one of an authority (X.509 version 3 with CA:TRUE): add one that is",
        site.scratch.join("pin.pem").display()
    )
}

/// The certificate as X.509 version 1, which has no extensions. Its signature is wrong, which is
/// looked at neither in an authority nor in a pin.
fn as_version_1(pem: &str) -> String {
    let mut certificate = x509_cert::Certificate::from_pem(pem).unwrap();
    certificate.tbs_certificate.version = x509_cert::Version::V1;
    certificate.tbs_certificate.extensions = None;
    certificate.to_pem(LineEnding::LF).unwrap()
}

#[test]
fn a_version_1_certificate_vouches_for_no_other() {
    let site = Site::new();
    let old = as_version_1(site.ca.pem());
    let pin = site.file("pin.pem", &old);
    let client = ClientTls { ca: Trust::Files(vec![pin.clone()]), ..site.client_tls() };
    assert_eq!(
        refused(&client, &site.server_tls(), "localhost").0.unwrap(),
        no_authority("server", "Test Root", &site)
    );
    let server = ServerTls { client_cas: vec![pin], ..site.server_tls() };
    assert!(matches!(server.build(), Err(TlsError::NoAuthority { .. })));
}

#[test]
fn a_pinned_certificate_still_ends() {
    let site = Site::new();
    let made = self_signed(&LeafSpec::new("agent").expired()).unwrap();
    let shown = made.write(site.scratch.path(), "agent").unwrap();
    let client = ClientTls { ca: Trust::Files(vec![shown.0.clone()]), ..site.client_tls() };
    let server = ServerTls { identity: identity(&shown), ..site.server_tls() };
    let says = refused(&client, &server, "localhost").0.unwrap();
    assert!(says.starts_with("the peer's certificate expired on 20"), "{says}");
}

#[test]
fn a_pin_needs_the_key() {
    let site = Site::new();
    let made = stock_agent_certificate();
    let pin = site.file("pin.pem", &made.cert_pem);
    let client = ClientTls { ca: Trust::Files(vec![pin]), ..site.client_tls() }.build().unwrap();
    // A thief has the certificate, which is public, and a key of its own.
    let chain = vec![made.cert_der.clone().into()];
    let thief = rcgen::KeyPair::generate().unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(thief.serialize_der()).into();
    let signing = crate::provider().key_provider.load_private_key(key).unwrap();
    let certified = rustls::sign::CertifiedKey::new(chain, signing);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let server = ServerConfig::builder_with_provider(crate::provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified.clone())));
        let says = handshake(client.clone(), server.into(), "localhost").map(|_| ()).unwrap_err().0.unwrap();
        assert_eq!(says, "the signature made with the peer's certificate is wrong");
    }
}

#[test]
fn clients_must_show_a_certificate_of_the_authority() {
    let site = Site::new();
    let anonymous = ClientTls { identity: None, ..site.client_tls() };
    let (client, server) = refused(&anonymous, &site.server_tls(), "localhost");
    assert_eq!(server.unwrap(), "the client presented no certificate, and one is required");
    assert_eq!(client.unwrap(), "the peer requires a client certificate, and none is configured here");

    let with = |shown: &(PathBuf, PathBuf)| {
        let client = ClientTls { identity: Some(identity(shown)), ..site.client_tls() };
        let (client, server) = refused(&client, &site.server_tls(), "localhost");
        (client.unwrap(), server.unwrap())
    };
    let (client, server) = with(&site.issue(&TestCa::root("Other").unwrap(), &LeafSpec::new("x"), "x"));
    assert_eq!(client, "the peer refused our certificate (TLS alert CertificateUnknown)");
    assert!(server.starts_with("the certificate \"CN=x\" was issued by \"CN=Other\", which is not in the CA file"));

    let (client, server) = with(&site.issue(&site.ca, &LeafSpec::new("x").expired(), "old"));
    assert_eq!(client, "the peer refused our certificate: it is expired or not valid yet by the peer's clock");
    assert!(server.starts_with("the peer's certificate expired on 20"), "{server}");

    let (client, server) = with(&site.issue(&site.ca, &LeafSpec::new("x").server_only(), "server-only"));
    assert_eq!(client, "the peer refused our certificate (TLS alert UnsupportedCertificate)");
    assert_eq!(server, "the peer's certificate is not made for this use (extended key usage)");
}

#[test]
fn a_server_needs_an_authority_for_its_clients() {
    let site = Site::new();
    let leaf_only = ServerTls { client_cas: vec![site.client.0.clone()], ..site.server_tls() };
    assert_eq!(
        leaf_only.build().unwrap_err().to_string(),
        format!(
            "there is no CA certificate in the CA file {}: expected one or more certificates with CA:TRUE; name the \
             file with the issuer of the clients' certificates",
            site.client.0.display()
        )
    );
    for error in [
        ServerTls { client_cas: Vec::new(), ..site.server_tls() }.build().unwrap_err(),
        ClientTls { ca: Trust::Files(Vec::new()), ..site.client_tls() }.build().unwrap_err(),
    ] {
        assert!(matches!(error, TlsError::NoFiles));
        assert_eq!(
            error.to_string(),
            "no CA file is configured: name the file with the certificates that peers are trusted by"
        );
    }
}

#[test]
fn several_authorities_are_accepted() {
    let site = Site::new();
    let other = TestCa::root("Other").unwrap();
    let client =
        ClientTls { identity: Some(identity(&site.issue(&other, &LeafSpec::new("x"), "x"))), ..site.client_tls() };
    let both = site.file("both.pem", format!("{}{}{}", site.ca.pem(), other.pem(), site.ca.pem()));
    accepted(&client, &ServerTls { client_cas: vec![both], ..site.server_tls() }, "localhost");
    let files = vec![site.ca_file.clone(), other.write(site.scratch.path(), "other").unwrap()];
    accepted(&client, &ServerTls { client_cas: files, ..site.server_tls() }, "localhost");
}

#[test]
fn nobody_is_trusted_for_plain_http() {
    let site = Site::new();
    let says = handshake(crate::trust_nobody(), site.server_tls().build().unwrap().config, "localhost").map(|_| ());
    assert_eq!(says.unwrap_err().0.unwrap(), "the peer's certificate is refused: UnknownIssuer");
}

#[test]
fn passwords_are_not_shown() {
    let mut identity = identity(&Site::new().server);
    identity.password = Some("secret word".to_owned().into());
    assert!(!format!("{identity:?}").contains("secret"));
}

/// The server's words about a client that shows `shown`, where `listed` are the CA files; nothing if it is accepted.
fn server_says(site: &Site, shown: &(PathBuf, PathBuf), listed: Vec<PathBuf>) -> Option<String> {
    let client = ClientTls { identity: Some(identity(shown)), ..site.client_tls() };
    let server = ServerTls { client_cas: listed, ..site.server_tls() };
    handshake(client.build().unwrap(), server.build().unwrap().config, "localhost").err().and_then(|(_, server)| server)
}

#[test]
fn a_self_made_client_is_accepted_if_it_is_listed() {
    let site = Site::new();
    let itself = self_signed(&LeafSpec::new("itself").client_only()).unwrap().write(site.scratch.path(), "i").unwrap();
    assert_eq!(server_says(&site, &itself, vec![itself.0.clone()]), None);
    let says = server_says(&site, &itself, vec![site.ca_file.clone()]).unwrap();
    assert!(
        says.starts_with("the peer's certificate \"CN=itself\" was made by the peer itself and is not in"),
        "{says}"
    );
    // Listed, it still has to be for clients, and valid.
    for (spec, reason) in [
        (
            LeafSpec::new("s").server_only(),
            "the peer's certificate \"CN=s\" is not made for clients: its extended key usage",
        ),
        (LeafSpec::new("s").client_only().expired(), "the peer's certificate expired on "),
    ] {
        let itself = self_signed(&spec).unwrap().write(site.scratch.path(), "other").unwrap();
        let says = server_says(&site, &itself, vec![itself.0.clone()]).unwrap();
        assert!(says.starts_with(reason), "{says}");
    }
    // One that an authority has issued does not stand for itself.
    let error = ServerTls { client_cas: vec![site.client.0.clone()], ..site.server_tls() }.build().unwrap_err();
    assert!(matches!(error, TlsError::NoAuthority { .. }), "{error}");
}

#[test]
fn an_authority_that_has_ended_vouches_for_no_client() {
    let site = Site::new();
    let ended = TestCa::expired_root("Ended").unwrap();
    let shown = site.issue(&ended, &LeafSpec::new("client").client_only(), "late");
    let listed = ended.write(site.scratch.path(), "ended").unwrap();
    let says = server_says(&site, &shown, vec![listed.clone(), site.ca_file.clone()]).unwrap();
    let begin = format!(
        "the certificate \"CN=client\" was issued by \"CN=Ended\", whose certificate in the CA files {}, {} is valid \
         from 20",
        listed.display(),
        site.ca_file.display()
    );
    assert!(says.starts_with(&begin), "{says}");
    assert!(says.ends_with(" only: replace it by its successor, or correct the clock of this host"), "{says}");
    // The others go on.
    assert_eq!(server_says(&site, &site.client, vec![listed, site.ca_file.clone()]), None);
}

#[test]
fn an_authority_that_has_ended_is_named_if_the_client_sends_it() {
    let site = Site::new();
    let now = std::time::SystemTime::now();
    let hour = std::time::Duration::from_secs(3600);
    let hours = |from, to| (now - 48 * hour + from * hour)..(now - 48 * hour + to * hour);
    let ended = site.ca.intermediate_within("Ended Issuing", hours(0, 47)).unwrap();
    let shown = site.issue(&ended, &LeafSpec::new("client").client_only(), "below");
    let says = server_says(&site, &shown, vec![site.ca_file.clone()]).unwrap();
    let begin =
        "the certificate \"CN=Ended Issuing\" of an authority, which the peer sent with its own, is valid from 20";
    assert!(says.starts_with(begin), "{says}");
    // The authority above a valid intermediate.
    let root = TestCa::root_within("Ended Root", hours(0, 47)).unwrap();
    let shown = site.issue(&root.intermediate("Issuing").unwrap(), &LeafSpec::new("client").client_only(), "two");
    let listed = root.write(site.scratch.path(), "root").unwrap();
    let says = server_says(&site, &shown, vec![listed, site.ca_file.clone()]).unwrap();
    let begin = "the certificate \"CN=Issuing\" was issued by \"CN=Ended Root\", whose certificate in the CA files ";
    assert!(says.starts_with(begin), "{says}");
}
