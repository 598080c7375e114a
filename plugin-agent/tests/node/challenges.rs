// SPDX-License-Identifier: Apache-2.0
//! Challenges that no server plugin sends: code and text of each, and that the next attestation works.

use keylime_attestor_agent::attestation::Introduce;
use test_support::http::Server;
use tonic::Code;

use crate::harness::{NONCE, PATIENT, attest, config, good, is_well, plain, version_1};

#[tokio::test]
async fn malformed_challenges_are_told_apart() {
    let server = Server::start(None, good).await;
    let config = config(&plain(&server), PATIENT);
    let long = format!(r#"{{"Nonce":"{}"}}"#, "QUFB".repeat(2000));
    let ends = ": is its node attestor a Keylime attestor?";
    let malformed = "the SPIRE server's challenge is malformed: ";
    let refused = "the SPIRE server's nonce is refused: ";
    let rows = [
        ("", format!("{malformed}the challenge is malformed in line 1, column 0: it ends early{ends}")),
        ("<html>", format!("{malformed}the challenge is malformed in line 1, column 1: it is not JSON{ends}")),
        (
            "[]",
            format!(
                "{malformed}the challenge is malformed in line 1, column 0: it is not an object, or a member is not text \
                 or given twice{ends}"
            ),
        ),
        ("{}", format!("{malformed}the challenge lacks member Nonce{ends}")),
        (r#"{"nonce":null}"#, format!("{malformed}the challenge lacks member Nonce{ends}")),
        (r#"{"Nonce":"%"}"#, format!("{malformed}member Nonce of the challenge is not base64{ends}")),
        (r#"{"Nonce":"/w=="}"#, format!("{malformed}member Nonce of the challenge is not UTF-8 text{ends}")),
        (&long, format!("{malformed}the challenge has 8012 bytes, at most 4096 are accepted{ends}")),
        (
            // a-b
            r#"{"Nonce":"YS1i"}"#,
            format!("{refused}the nonce has characters other than ASCII letters and digits"),
        ),
        (
            // 66 characters
            r#"{"Nonce":"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB"}"#,
            format!("{refused}the nonce has 66 bytes, at most 64 are allowed"),
        ),
        (
            // version 1 by number
            r#"{"Nonce":"QUJD","Version":"MQ=="}"#,
            format!("{malformed}member Version of the challenge is not a decimal number of 2 or more{ends}"),
        ),
        (
            // 0x1000000
            r#"{"Nonce":"QUJD","Version":"Mg==","PCRMask":"MHgxMDAwMDAw"}"#,
            format!(
                "{malformed}member PCRMask of the challenge is unusable: PCR mask 0x1000000 names PCRs above 23{ends}"
            ),
        ),
        (
            r#"{"Nonce":"QUJD","Version":"Mg==","BootLog":"MA=="}"#,
            format!("{malformed}member BootLog of the challenge is not 1{ends}"),
        ),
    ];
    for (challenge, text) in rows {
        let failed = attest(&config, challenge.as_bytes()).await.unwrap_err();
        assert_eq!(
            (failed.code(), failed.status().message()),
            (Code::InvalidArgument, text.as_str()),
            "{challenge:.60}"
        );
        is_well(&config).await;
    }
    // None of them reached the TPM.
    let quotes = server.seen().iter().filter(|call| call.contains("/quotes/")).count();
    assert_eq!(quotes, 13);
}

#[tokio::test]
async fn a_server_gets_four_quotes_and_no_more() {
    let server = Server::start(None, good).await;
    let config = config(&plain(&server), PATIENT);
    let (_, _, mut waiting) = Introduce::new(config.clone()).payload().await.unwrap();
    for _ in 0..4 {
        (_, waiting) = waiting.challenge(&version_1()).unwrap().quote().await.unwrap();
    }
    let failed = waiting.challenge(&version_1()).unwrap_err();
    assert_eq!(failed.code(), Code::InvalidArgument);
    assert_eq!(
        failed.to_string(),
        "the SPIRE server asks for more than 4 TPM quotes in one attestation: is its node attestor a Keylime attestor?"
    );
    is_well(&config).await;
}

#[tokio::test]
async fn a_nonce_of_the_server_alone_may_be_refused() {
    let server = Server::start(None, good).await;
    let config = config(&format!("{}require_agent_nonce = true", plain(&server)), PATIENT);
    let failed = attest(&config, &version_1()).await.unwrap_err();
    assert_eq!(failed.code(), Code::FailedPrecondition);
    assert_eq!(
        failed.to_string(),
        "the SPIRE server's node attestor does not take part in choosing the nonce, and this host has \
         `require_agent_nonce = true`: replace the server's plugin by keylime-attestor-server, or remove \
         `require_agent_nonce`"
    );
    let version_2 = format!(r#"{{"Nonce":"{}","Version":"Mg=="}}"#, "QUJD");
    attest(&config, version_2.as_bytes()).await.unwrap();
    let asked: Vec<_> = server.seen().into_iter().filter(|call| call.contains("/quotes/")).collect();
    assert_eq!(asked.len(), 1);
    assert!(!asked[0].contains(NONCE) && !asked[0].contains("nonce=ABC"));
}
