// SPDX-License-Identifier: Apache-2.0
//! The agent's answers over its three transports

use test_support::scratch::Scratch;

use super::*;
use crate::testing::{ABOUT_ONE_LIMIT, PATIENT, Reply, SHORT_CALL, Server, Site, at, ok};

fn nonce() -> Nonce {
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".parse().unwrap()
}

/// An agent as the stock one answers.
fn agent(request: &str) -> Reply {
    match request {
        "GET /version" => ok(r#"{"supported_version": "2.5", "supported_versions": ["2.1", "2.2", "2.5"]}"#),
        "GET /v2.5/agent/info" => ok(r#"{"agent_uuid": "d432fbb3-d2f1-4a97-9ef7-75bd81c00000",
            "tpm_hash_alg": "sha256", "tpm_enc_alg": "rsa2048", "tpm_sign_alg": "rsassa", "ak_handle": 4194304}"#),
        "GET /v2.5/quotes/identity?nonce=ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" => ok(r#"{"quote": "rAA==:AA==:AA==",
            "hash_alg": "sha256", "enc_alg": "rsa2048", "sign_alg": "rsassa", "pubkey": "PEM"}"#),
        "GET /v2.5/quotes/integrity?nonce=ABCDEFGHIJKLMNOPQRSTUVWXYZ234567&mask=0x81&partial=0" => {
            ok(r#"{"quote": "rBB==:AA==:AA==", "hash_alg": "sha256", "enc_alg": "rsa2048", "sign_alg": "rsassa",
            "pubkey": "PEM", "mb_measurement_list": "/wAB", "ima_measurement_list": "10 x\n",
            "ima_measurement_list_entry": 0}"#)
        }
        other => Reply::error(400, other),
    }
}

async fn ask_both(transport: Transport) {
    let client = AgentClient::new(&transport, PATIENT).unwrap();
    assert_eq!(client.version().await.unwrap(), ApiVersion::new(2, 5));
    let info = client.info().await.unwrap();
    assert_eq!(info.agent_uuid.as_str(), "d432fbb3-d2f1-4a97-9ef7-75bd81c00000");
    assert_eq!(info.tpm_hash_alg, HashAlgorithm::Sha256);
    let quote = client.identity_quote(&nonce()).await.unwrap();
    assert_eq!(quote.quote, "rAA==:AA==:AA==");
    assert_eq!(quote.pubkey.as_deref(), Some("PEM"));
    let mask = PcrMask::EMPTY.with(0).with(7);
    let quote = client.integrity_quote(&nonce(), mask).await.unwrap();
    assert_eq!(quote.quote, "rBB==:AA==:AA==");
    assert_eq!(quote.pubkey.as_deref(), Some("PEM"));
    assert_eq!(quote.boot_log, Some(vec![0xff, 0, 1]));
}

#[tokio::test]
async fn answers_over_mtls() {
    let site = Site::new();
    let server = Server::start(Some(site.server()), agent).await;
    ask_both(Transport::Tls(at(&server), site.client())).await;
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn answers_over_plain_http() {
    let server = Server::start(None, agent).await;
    ask_both(Transport::PlainHttp(at(&server))).await;
}

#[tokio::test]
async fn answers_over_a_unix_socket() {
    let scratch = Scratch::new("agent").unwrap();
    let path = scratch.join("agent.sock");
    Server::on_unix_socket(&path, agent);
    ask_both(Transport::UnixSocket(path)).await;
}

#[tokio::test]
async fn an_agent_without_agent_info_is_too_old() {
    let server = Server::start(None, |_| ok(r#"{"supported_version": "2.1", "supported_versions": ["2.1"]}"#)).await;
    let client = AgentClient::new(&Transport::PlainHttp(at(&server)), PATIENT).unwrap();
    let says = client.info().await.unwrap_err().to_string().replace(&server.at.to_string(), "HOST");
    assert_eq!(
        says,
        "no API version in common with the Keylime agent at http://HOST: it speaks 2.1, this side 2.2, 2.3, 2.4, 2.5, \
         2.6"
    );
}

#[tokio::test]
async fn unusable_answers_are_named_without_the_nonce() {
    for (results, info, quote) in [
        ("{}", "it has no \"agent_uuid\"", "it has no \"quote\""),
        (
            r#"{"agent_uuid": "../x", "quote": null}"#,
            "its \"agent_uuid\" is unusable: the agent id holds '/', only A-Z a-z 0-9 . _ - are allowed",
            "it has no \"quote\"",
        ),
        (
            r#"{"agent_uuid": "x", "tpm_hash_alg": 4, "quote": 4}"#,
            "its \"tpm_hash_alg\" is another number, not text",
            "its \"quote\" is another number, not text",
        ),
    ] {
        let server = Server::start(None, move |request| match request {
            "GET /version" => ok(r#"{"supported_version": "2.2"}"#),
            _ => ok(results),
        })
        .await;
        let client = AgentClient::new(&Transport::PlainHttp(at(&server)), PATIENT).unwrap();
        let begin =
            |call: &str| format!("the Keylime agent at http://{} answered {call} with an unusable body: ", server.at);
        assert_eq!(client.info().await.unwrap_err().to_string(), begin("GET /agent/info") + info);
        let error = client.identity_quote(&nonce()).await.unwrap_err();
        assert_eq!(error.to_string(), begin("GET /quotes/identity") + quote);
    }
}

#[tokio::test]
async fn a_tpm_failure_is_transient_and_keeps_the_nonce_out() {
    let server = Server::start(None, |request| match request {
        "GET /version" => ok(r#"{"supported_version": "2.2"}"#),
        _ => Reply::error(500, "Unable to retrieve quote"),
    })
    .await;
    let client = AgentClient::new(&Transport::PlainHttp(at(&server)), PATIENT).unwrap();
    let error = client.identity_quote(&nonce()).await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(
        error.to_string(),
        format!(
            "the Keylime agent at http://{} answered GET /v2.2/quotes/identity with 500: Unable to retrieve quote",
            server.at
        )
    );
    assert!(!format!("{error:?}").contains("ABCDEFG"));
}

/// Runs this many calls at once; all must end with a time-out, within about one limit.
async fn all_time_out(server: &Server, count: usize) {
    let transport = Transport::PlainHttp(at(server));
    let client = Arc::new(AgentClient::new(&transport, SHORT_CALL).unwrap());
    let begin = std::time::Instant::now();
    let calls: Vec<_> = (0..count)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.info().await })
        })
        .collect();
    let mut turns = 0;
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert!(error.is_timeout());
        let text = error.to_string().replace(&server.at.to_string(), "HOST");
        if text == "the Keylime agent at http://HOST did not answer GET /agent/info within 1 s" {
            turns += 1;
        } else {
            assert_eq!(text, "GET /agent/info did not get its turn at the Keylime agent at http://HOST within 1 s");
        }
    }
    assert_eq!(turns, count.min(32));
    assert!(begin.elapsed() < ABOUT_ONE_LIMIT, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn calls_to_a_peer_that_hangs_all_end_at_the_limit() {
    for calls in [1, 3, 50] {
        all_time_out(&Server::start(None, |_| Reply::Hang).await, calls).await;
    }
}

#[tokio::test]
async fn calls_to_a_peer_that_loses_the_version_and_hangs_all_end_at_the_limit() {
    for calls in [1, 3, 50] {
        let asked = std::sync::atomic::AtomicBool::new(false);
        let server = Server::start(None, move |request| match request {
            "GET /version" if asked.swap(true, std::sync::atomic::Ordering::Relaxed) => Reply::Hang,
            "GET /version" => ok(r#"{"supported_version": "2.5"}"#),
            _ => Reply::error(400, "API version not supported: v2.5"),
        })
        .await;
        all_time_out(&server, calls).await;
    }
}

#[tokio::test]
async fn members_without_use_may_be_anything() {
    let server = Server::start(None, |request| match request {
        "GET /version" => ok(r#"{"supported_version": "2.5"}"#),
        _ => ok(r#"{"agent_uuid": "x", "tpm_hash_alg": "sha256", "tpm_enc_alg": 1, "tpm_sign_alg": {}, "quote": "r",
            "hash_alg": 4, "enc_alg": [], "sign_alg": true, "mb_measurement_list": null,
            "ima_measurement_list": {"a": [1]}}"#),
    })
    .await;
    let client = AgentClient::new(&Transport::PlainHttp(at(&server)), PATIENT).unwrap();
    assert_eq!(client.info().await.unwrap().agent_uuid.as_str(), "x");
    let quote = client.identity_quote(&nonce()).await.unwrap();
    assert_eq!((quote.quote.as_str(), quote.pubkey), ("r", None));
    let quote = client.integrity_quote(&nonce(), PcrMask::EMPTY).await.unwrap();
    assert_eq!((quote.quote.as_str(), quote.pubkey, quote.boot_log), ("r", None, None));
}

#[tokio::test]
async fn an_integrity_quote_may_be_longer_than_other_answers() {
    let server = Server::start(None, |request| {
        let log = "A".repeat(700_000);
        match request {
            "GET /version" => ok(r#"{"supported_version": "2.5"}"#),
            request if request.contains("mask=0x1&") => {
                ok(&format!(r#"{{"quote": "r", "mb_measurement_list": "{log}"}}"#))
            }
            request if request.contains("mask=0x400&") => {
                ok(&format!(r#"{{"quote": "r", "ima_measurement_list": "{log}{log}"}}"#))
            }
            _ => ok(&format!(r#"{{"quote": "r", "pubkey": "{log}"}}"#)),
        }
    })
    .await;
    let client = AgentClient::new(&Transport::PlainHttp(at(&server)), PATIENT).unwrap();
    let quote = client.integrity_quote(&nonce(), PcrMask::EMPTY.with(0)).await.unwrap();
    assert_eq!(quote.boot_log.map(|log| log.len()), Some(525_000));
    let too_long = client.integrity_quote(&nonce(), PcrMask::EMPTY.with(10)).await.unwrap_err();
    assert!(
        too_long.to_string().ends_with("answered GET /v2.5/quotes/integrity with more than 1048576 bytes"),
        "{too_long}"
    );
    let too_long = client.identity_quote(&nonce()).await.unwrap_err();
    assert!(
        too_long.to_string().ends_with("answered GET /v2.5/quotes/identity with more than 100000 bytes"),
        "{too_long}"
    );
}

#[tokio::test]
async fn a_refusal_that_repeats_the_nonce_keeps_it_out() {
    let server = Server::start(None, |request| match request {
        "GET /version" => ok(r#"{"supported_version": "2.5"}"#),
        _ => Reply::error(400, "Nonce is too long (max size 64): ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"),
    })
    .await;
    let client = AgentClient::new(&Transport::PlainHttp(at(&server)), PATIENT).unwrap();
    let identity = client.identity_quote(&nonce()).await.unwrap_err();
    let integrity = client.integrity_quote(&nonce(), PcrMask::EMPTY.with(7)).await.unwrap_err();
    for error in [identity, integrity] {
        assert!(error.to_string().ends_with("with 400: Nonce is too long (max size 64): …"), "{error}");
        assert!(!format!("{error:?}").contains("ABCDEFG"));
    }
}

#[test]
fn debug_hides_quotes() {
    let identity = IdentityQuote { quote: "secret".into(), pubkey: None };
    assert_eq!(format!("{identity:?}"), "IdentityQuote { quote: 6 characters, pubkey: None }");
    let integrity = IntegrityQuote { quote: "secret".into(), pubkey: None, boot_log: Some(vec![0; 3]) };
    assert_eq!(
        format!("{integrity:?}"),
        "IntegrityQuote { quote: 6 characters, pubkey: None, boot_log: Some(\"3 bytes\") }"
    );
}
