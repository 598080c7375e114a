// SPDX-License-Identifier: Apache-2.0
//! Registering with registrars of all ages and moods

use super::*;
use crate::credential::auth_tag;
use crate::testing::{PATIENT, Reply, SHORT_CALL, Server, Site, at, ok, versions};
use crate::version::SUPPORTED;

fn id() -> AgentId {
    "host".parse().unwrap()
}

fn registration() -> Registration {
    Registration {
        aik_tpm: vec![1, 24],
        ek_tpm: vec![1, 58, 0],
        ekcert: Some("PEM".to_owned()),
        ip: "10.0.0.1".to_owned(),
        port: 9002,
        mtls_cert: MtlsCert::Pem("CERT".to_owned()),
        device_identity: None,
    }
}

fn device_identity() -> DeviceIdentity {
    DeviceIdentity {
        iak_tpm: vec![1],
        idevid_tpm: vec![2],
        iak_cert: Some(vec![3]),
        idevid_cert: Some(vec![4]),
        by_id_digest: Certification { attest: vec![5], signature: vec![6] },
        by_id: Some(Certification { attest: vec![7], signature: vec![8] }),
    }
}

/// The blob of the id object 01 and the secret 02.
const BLOB: &str = r#"{"blob": "utzA3gAAAAEAAQEAAQI="}"#;

async fn plain(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> (Server, RegistrationClient) {
    let server = Server::start(None, answer).await;
    let client = RegistrationClient::new(at(&server), None, PATIENT, &SUPPORTED).unwrap();
    (server, client)
}

#[tokio::test]
async fn registers_and_activates() {
    let site = Site::new();
    let server = Server::start(Some(site.server()), |request| match request {
        "GET /version" => versions(&["2.0", "2.1", "2.5"]),
        r if r.starts_with("POST") => ok(BLOB),
        _ => ok("{}"),
    })
    .await;
    let client = RegistrationClient::new(at(&server), Some(site.client()), PATIENT, &SUPPORTED).unwrap();
    let blob = client.register(&id(), &registration()).await.unwrap();
    assert_eq!((blob.id_object, blob.encrypted_secret), (vec![1], vec![2]));
    let tag = auth_tag(b"secret", &id());
    client.activate(&id(), &tag).await.unwrap();
    assert_eq!(
        server.seen(),
        [
            "GET /version".to_owned(),
            r#"POST /v2.5/agents/host {"aik_tpm":"ARg=","ek_tpm":"AToA","ekcert":"PEM","ip":"10.0.0.1","port":9002,"mtls_cert":"CERT"}"#
                .to_owned(),
            format!(r#"PUT /v2.5/agents/host/activate {{"auth_tag":"{tag}"}}"#),
        ]
    );
}

#[test]
fn what_is_not_there_is_left_out_and_off_is_a_word() {
    let bare = Registration { ekcert: None, mtls_cert: MtlsCert::Disabled, ..registration() };
    assert_eq!(
        serde_json::to_string(&bare).unwrap(),
        r#"{"aik_tpm":"ARg=","ek_tpm":"AToA","ip":"10.0.0.1","port":9002,"mtls_cert":"disabled"}"#
    );
}

#[tokio::test]
async fn the_device_identity_is_bound_as_the_version_has_it() {
    let rest = r#""ip":"10.0.0.1","port":9002,"mtls_cert":"CERT","iak_tpm":"AQ==","idevid_tpm":"Ag==""#;
    let certificates = r#""iak_cert":"Aw==","idevid_cert":"BA==""#;
    let (old, new) = (r#""iak_attest":"Bw==","iak_sign":"CA==""#, r#""iak_attest":"BQ==","iak_sign":"Bg==""#);
    let too_long = DeviceIdentity { by_id: None, ..device_identity() };
    let bare = DeviceIdentity { iak_cert: None, idevid_cert: None, ..device_identity() };
    for (version, identity, members) in [
        ("2.6", device_identity(), format!("{rest},{certificates},{new}")),
        ("2.5", device_identity(), format!("{rest},{certificates},{old}")),
        ("2.5", too_long, format!("{rest},{certificates},{new}")),
        ("2.6", bare, format!("{rest},{new}")),
    ] {
        let (server, client) = plain(move |request| match request {
            "GET /version" => versions(&[version]),
            _ => ok(BLOB),
        })
        .await;
        let registration = Registration { ekcert: None, device_identity: Some(identity), ..registration() };
        client.register(&id(), &registration).await.unwrap();
        let body = format!(r#"POST /v{version}/agents/host {{"aik_tpm":"ARg=","ek_tpm":"AToA",{members}}}"#);
        assert_eq!(server.seen(), ["GET /version".to_owned(), body]);
    }
}

#[tokio::test]
async fn only_enabled_versions_are_used() {
    let server = Server::start(None, |_| versions(&["2.5", "2.6"])).await;
    let enabled = [ApiVersion::new(2, 1), ApiVersion::new(2, 5)];
    let client = RegistrationClient::new(at(&server), None, PATIENT, &enabled).unwrap();
    assert_eq!(client.version().await.unwrap(), Some(ApiVersion::new(2, 5)));
    let client = RegistrationClient::new(at(&server), None, PATIENT, &enabled[..1]).unwrap();
    assert!(matches!(client.version().await, Err(ClientError::NoCommonVersion { .. })));
}

#[tokio::test]
async fn asking_anew_finds_a_changed_registrar() {
    let asked = std::sync::atomic::AtomicU8::new(0);
    let (_server, client) = plain(move |_| match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => versions(&["2.5"]),
        1 => versions(&["2.6"]),
        _ => Reply::error(404, "Not Found"),
    })
    .await;
    assert_eq!(client.version().await.unwrap(), Some(ApiVersion::new(2, 5)));
    assert_eq!(client.version().await.unwrap(), Some(ApiVersion::new(2, 5)));
    assert_eq!(client.ask_version().await.unwrap(), Some(ApiVersion::new(2, 6)));
    assert_eq!(client.ask_version().await.unwrap(), None);
}

#[tokio::test]
async fn an_old_registrar_is_tried_from_the_newest_version_down() {
    let (server, client) = plain(|request| match request {
        "GET /version" => Reply::answer(404, "", "404: Not Found"),
        r if r.starts_with("POST /v2.4/") => ok(BLOB),
        r if r.starts_with("PUT /v2.4/") => ok("{}"),
        _ => Reply::error(400, "API Version not supported"),
    })
    .await;
    assert_eq!(client.version().await.unwrap(), None);
    client.register(&id(), &registration()).await.unwrap();
    client.activate(&id(), "00").await.unwrap();
    let calls: Vec<_> = server.seen().iter().map(|r| r.split(" {").next().unwrap().to_owned()).collect();
    assert_eq!(
        calls,
        [
            "GET /version",
            "GET /version",
            "POST /v2.6/agents/host",
            "POST /v2.5/agents/host",
            "POST /v2.4/agents/host",
            "PUT /v2.4/agents/host/activate"
        ]
    );
}

#[tokio::test]
async fn an_old_registrar_that_knows_no_version_is_given_up() {
    let (server, client) = plain(|request| match request {
        "GET /version" => Reply::error(405, "Not Implemented"),
        _ => Reply::error(400, "API Version not supported"),
    })
    .await;
    let says = client.register(&id(), &registration()).await.unwrap_err().to_string();
    assert!(says.ends_with("answered POST /v2.1/agents/host with 400: API Version not supported"), "{says}");
    assert_eq!(server.seen().len(), 7);
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let forbidden = "Agent re-registration with different TPM identity is forbidden for security reasons";
    let invalid = "Could not register agent with invalid data";
    for (code, status, transient, words) in [
        (403, forbidden, false, "forbids POST /v2.6/agents/host"),
        (400, invalid, false, "answered POST /v2.6/agents/host with 400"),
        (500, "Internal Server Error", true, "answered POST /v2.6/agents/host with 500"),
    ] {
        let (server, client) = plain(move |request| match request {
            "GET /version" => versions(&["2.6"]),
            _ => Reply::error(code, status),
        })
        .await;
        let error = client.register(&id(), &registration()).await.unwrap_err();
        assert_eq!(error.is_transient(), transient);
        assert_eq!(matches!(error, ClientError::Forbidden { .. }), code == 403);
        let says = error.to_string().replace(&server.at.to_string(), "HOST");
        assert_eq!(says, format!("the Keylime registrar at http://HOST {words}: {status}"));
        // No other version is tried.
        assert_eq!(server.seen().len(), 2);
    }
}

#[tokio::test]
async fn a_credential_must_be_one() {
    for (results, text) in [
        ("{}", "it has no \"blob\""),
        (r#"{"blob": "AAAA"}"#, "its \"blob\" is unusable: the credential ends within its magic number"),
        (r#"{"blob": 3}"#, "its \"blob\" is another number, not text"),
    ] {
        let (_server, client) = plain(move |request| match request {
            "GET /version" => versions(&["2.6"]),
            _ => ok(results),
        })
        .await;
        let says = client.register(&id(), &registration()).await.unwrap_err().to_string();
        assert!(says.ends_with(&format!("POST /v2.6/agents/host with an unusable body: {text}")), "{says}");
    }
}

#[tokio::test]
async fn any_404_sends_an_activation_back_to_registering() {
    let (_server, client) = plain(|request| match request {
        "GET /version" => versions(&["2.6"]),
        _ => Reply::answer(404, "", "<html>"),
    })
    .await;
    assert!(client.activate(&id(), "00").await.unwrap_err().is_not_found());
    let error = client.register(&id(), &registration()).await.unwrap_err();
    assert!(matches!(error, ClientError::Status { code: 404, .. }), "{error}");
}

#[tokio::test]
async fn registering_and_activating_end_at_the_limit() {
    let server = Server::start(None, |request| match request {
        "GET /version" => Reply::error(404, "Not Found"),
        r if r.starts_with("POST /v2.6/") => Reply::error(400, "API Version not supported"),
        _ => Reply::Hang,
    })
    .await;
    let client = RegistrationClient::new(at(&server), None, SHORT_CALL, &SUPPORTED).unwrap();
    let timeout =
        |call: &str| format!("the Keylime registrar at http://{} did not answer {call} within 1 s", server.at);
    let says = client.register(&id(), &registration()).await.unwrap_err().to_string();
    assert_eq!(says, timeout("POST /agents/host"));
    client.versions.remember(ApiVersion::new(2, 5));
    let says = client.activate(&id(), "00").await.unwrap_err().to_string();
    assert_eq!(says, timeout("PUT /agents/host/activate"));
}

#[tokio::test]
async fn a_refused_proof_and_an_unknown_record_are_told_apart() {
    for (code, not_found) in [(400, false), (404, true)] {
        let (_server, client) = plain(move |request| match request {
            "GET /version" => versions(&["2.6"]),
            _ => Reply::error(code, "no"),
        })
        .await;
        let error = client.activate(&id(), "00").await.unwrap_err();
        assert_eq!(error.is_not_found(), not_found);
        assert!(!error.is_transient());
    }
}
