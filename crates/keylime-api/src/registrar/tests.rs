// SPDX-License-Identifier: Apache-2.0
//! The registrar's answers to an administrator

use super::*;
use crate::testing::{PATIENT, Reply, Server, Site, at, ok, versions};

async fn ask(reply: impl Fn() -> Reply + Send + Sync + 'static) -> Result<RegistrarAgent, String> {
    let site = Site::new();
    let server = Server::start(Some(site.server()), move |request| match request {
        "GET /version" => versions(&["2.6"]),
        "GET /v2.6/agents/host" => reply(),
        other => panic!("{other}"),
    })
    .await;
    let client = RegistrarClient::new(at(&server), site.client(), PATIENT).unwrap();
    client.warm_up().await.unwrap();
    let id = "host".parse().unwrap();
    client.agent(&id).await.map_err(|e| e.to_string().replace(&server.at.to_string(), "HOST"))
}

#[tokio::test]
async fn a_record_is_read_whatever_the_members_without_use_are() {
    for results in [
        r#"{"aik_tpm": "ARg=", "ek_tpm": "AToA", "ekcert": "", "mtls_cert": "disabled", "ip": "127.0.0.1",
            "port": 9002, "regcount": 2}"#,
        r#"{"aik_tpm": "ARg=", "ek_tpm": "AToA"}"#,
        r#"{"aik_tpm": "ARg=", "ek_tpm": "AToA", "ekcert": "emulator", "mtls_cert": 1, "ip": {}, "port": 65536,
            "regcount": -1}"#,
    ] {
        let agent = ask(move || ok(results)).await.unwrap();
        let expected = RegistrarAgent { aik_tpm: vec![1, 24], ek_tpm: Some(vec![1, 58, 0]), ek_certificate: None };
        assert_eq!(agent, expected);
    }
    let least = ask(|| ok(r#"{"aik_tpm": "ARg=", "ek_tpm": null}"#)).await.unwrap();
    assert_eq!(least, RegistrarAgent { aik_tpm: vec![1, 24], ek_tpm: None, ek_certificate: None });
    let with_id = ask(|| ok(r#"{"agent_id": "host", "aik_tpm": "ARg="}"#)).await.unwrap();
    assert_eq!(with_id, least);
    let full = ask(|| ok(r#"{"aik_tpm": "ARg=", "ekcert": "MII="}"#)).await.unwrap();
    assert_eq!(full.ek_certificate, Some(vec![0x30, 0x82]));
}

#[tokio::test]
async fn failures_are_named() {
    let peer = "the Keylime registrar at https://HOST";
    let body = format!("{peer} answered GET /agents/host with an unusable body: ");
    for (reply, text) in [
        ((|| ok("{}")) as fn() -> Reply, format!("{body}it has no \"aik_tpm\"")),
        (
            || ok(r#"{"agent_id": "HOST", "aik_tpm": "ARg="}"#),
            format!("{body}it is the record of another agent: its \"agent_id\" is not exactly the id asked for"),
        ),
        (
            || ok(r#"{"agent_id": "", "aik_tpm": "ARg="}"#),
            format!("{body}it is the record of another agent: its \"agent_id\" is not exactly the id asked for"),
        ),
        (|| ok(r#"{"agent_id": 7, "aik_tpm": "ARg="}"#), format!("{body}its \"agent_id\" is another number, not text")),
        (
            || ok(r#"{"operational_state": null, "ip": "127.0.0.1"}"#),
            format!("{body}it is a record as a Keylime verifier keeps it: is that the verifier's port?"),
        ),
        (|| ok(r#"{"aik_tpm": ""}"#), format!("{body}it has no \"aik_tpm\"")),
        (
            || ok(r#"{"aik_tpm": "ARg=", "ekcert": "-----BEGIN"}"#),
            format!("{body}its \"ekcert\" is unusable: it is not base64"),
        ),
        (|| ok(r#"{"aik_tpm": "ARg=", "ekcert": 5}"#), format!("{body}its \"ekcert\" is another number, not text")),
        (|| ok(r#"{"aik_tpm": "%"}"#), format!("{body}its \"aik_tpm\" is unusable: it is not base64")),
        (
            || Reply::error(404, "Agent with ID 'host' has not been activated"),
            format!(
                "{peer} does not know what GET /v2.6/agents/host asks for: Agent with ID 'host' has not been activated"
            ),
        ),
        (
            || Reply::answer(404, "", "404 page not found"),
            format!("{peer} answered GET /v2.6/agents/host with 404: Not Found"),
        ),
        (|| Reply::error(403, "Forbidden"), format!("{peer} forbids GET /v2.6/agents/host: Forbidden")),
    ] {
        assert_eq!(ask(reply).await.unwrap_err(), text);
    }
}
