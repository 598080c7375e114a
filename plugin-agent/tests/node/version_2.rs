// SPDX-License-Identifier: Apache-2.0
//! What goes back to a server plugin that speaks version 2, and what stays away with which line in the log.

use std::collections::HashSet;

use test_support::http::{Reply, Server, ok};
use tonic::Code;
use tpm_wire::nonce::bound;
use tpm_wire::payload::{Challenge, Wanted};
use tpm_wire::pcr::PcrMask;

use crate::harness::{
    ID, Log, NONCE, PATIENT, SHORT, attest, attest_with_nonce, code_and_text, config, good, ill_at, plain, version_1,
};

fn challenge(pcrs: u32, boot_log: bool) -> Vec<u8> {
    let wanted = Wanted { pcrs: PcrMask::from_bits(pcrs).unwrap(), boot_log };
    Challenge { nonce: NONCE.to_owned(), wanted: Some(wanted) }.to_json()
}

#[tokio::test]
async fn the_tpm_quotes_a_nonce_that_both_sides_have_chosen() {
    let server = Server::start(None, good).await;
    let config = config(&plain(&server), PATIENT);
    let mut nonces = HashSet::new();
    for (wanted, call) in [
        (challenge(0, false), "identity nonce=N"),
        (challenge(0x81, false), "integrity nonce=N&mask=0x81&partial=0"),
        (challenge(0x80, true), "integrity nonce=N&mask=0x81&partial=0"),
        (challenge(0, true), "integrity nonce=N&mask=0x1&partial=0"),
        (challenge(0xff_ffff, false), "integrity nonce=N&mask=0xffffff&partial=0"),
    ] {
        let (agent, response) = attest_with_nonce(&config, &wanted).await.unwrap();
        let expected = bound("tower.example", ID, &NONCE.parse().unwrap(), &agent);
        assert_eq!(response.quote.replace(expected.as_str(), "N"), call);
        assert_eq!(response.node_key.as_deref(), Some("PEM\n"));
        assert_eq!(agent.as_str().len(), 32);
        assert!(nonces.insert(agent), "the same nonce twice");
    }
}

#[tokio::test]
async fn a_server_of_version_1_gets_what_it_knows() {
    let server = Server::start(None, good).await;
    let config = config(&plain(&server), PATIENT);
    let response = attest(&config, &version_1()).await.unwrap();
    assert_eq!(response.quote, format!("identity nonce={NONCE}"));
    assert_eq!((response.node_key, response.boot_log), (None, None));
}

#[tokio::test]
async fn the_boot_log_goes_along_if_it_is_wanted() {
    let server = Server::start(None, good).await;
    let config = config(&plain(&server), PATIENT);
    let log = Log::default();
    let _guard = log.collect();
    assert_eq!(attest(&config, &challenge(0x80, true)).await.unwrap().boot_log, Some(vec![0xff, 0, 1]));
    // PCR 0 makes the Keylime agent send it anyhow.
    assert_eq!(attest(&config, &challenge(0x81, false)).await.unwrap().boot_log, None);
    assert_eq!(log.warnings(), [""; 0]);
    assert!(!log.text().contains(NONCE) && !log.text().contains("nonce="), "{}", log.text());
}

#[tokio::test]
async fn what_cannot_be_had_is_left_out_with_one_line() {
    const LINE: &str = "WARN keylime_attestor_agent::attestation: Less goes to the SPIRE server than it asked for ";
    let peer = "the Keylime agent at http://HOST";
    let rows: [(fn() -> Reply, String); 8] = [
        (
            || Reply::error(500, "Unable to retrieve quote"),
            format!("{peer} answered GET /v2.5/quotes/integrity with 500: Unable to retrieve quote"),
        ),
        (|| Reply::error(404, "no"), format!("{peer} does not know what GET /v2.5/quotes/integrity asks for: no")),
        (|| Reply::error(403, "no"), format!("{peer} forbids GET /v2.5/quotes/integrity: no")),
        (
            || Reply::answer(200, "", "<html>"),
            format!("{peer} answered GET /quotes/integrity with an unusable body: it is not JSON (content type none)"),
        ),
        (
            || ok(r#"{"quote": "r", "mb_measurement_list": "%"}"#),
            format!(
                "{peer} answered GET /quotes/integrity with an unusable body: its \"mb_measurement_list\" is unusable: it \
                 is not base64"
            ),
        ),
        (
            || Reply::answer(302, "Location: /\r\n", ""),
            format!(
                "{peer} answered GET /v2.5/quotes/integrity with a redirect (302), which is not followed: check host and \
                 port"
            ),
        ),
        (
            || Reply::Flood(10_000_000),
            format!("{peer} answered GET /v2.5/quotes/integrity with more than 1048576 bytes"),
        ),
        (
            || Reply::Reset,
            format!(
                "the connection to {peer} broke during GET /v2.5/quotes/integrity: Connection reset by peer (os error \
                 104)"
            ),
        ),
    ];
    for (reply, reason) in rows {
        let (server, _) = ill_at("/quotes/integrity", reply).await;
        let config = config(&plain(&server), PATIENT);
        let log = Log::default();
        let _guard = log.collect();
        let (agent, response) = attest_with_nonce(&config, &challenge(0x80, true)).await.unwrap();
        let expected = bound("tower.example", ID, &NONCE.parse().unwrap(), &agent);
        assert_eq!(response.quote, format!("identity nonce={}", expected.as_str()));
        assert_eq!((response.node_key.as_deref(), response.boot_log), (Some("PEM\n"), None));
        let lines: Vec<_> =
            log.warnings().iter().map(|line| line.replace(&server.at.to_string(), "HOST").replace('\\', "")).collect();
        assert_eq!(lines, [format!("{LINE}left_out=\"PCRs 0, 7 and the boot log\" reason=\"{reason}\"")]);
        assert!(!log.text().contains(expected.as_str()));
    }

    // The quote is good, and something beside it is missing or too long.
    let log_of = |len: usize| format!(r#"{{"quote": "r", "mb_measurement_list": "{}"}}"#, "A".repeat(len));
    for (answer, left_out, reason) in [
        (
            r#"{"quote": "r"}"#.to_owned(),
            "the boot log",
            "the Keylime agent did not send it: it has none or cannot read it".to_owned(),
        ),
        (log_of(349_528), "the boot log", "it has 262146 bytes, at most 262144 are sent".to_owned()),
        (
            format!(r#"{{"quote": "r", "mb_measurement_list": "/wAB", "pubkey": "{}"}}"#, "k".repeat(4097)),
            "the node key",
            "it has 4097 bytes, at most 4096 are sent".to_owned(),
        ),
    ] {
        let (server, _) = ill_at("/quotes/integrity", move || ok(&answer)).await;
        let config = config(&plain(&server), PATIENT);
        let log = Log::default();
        let _guard = log.collect();
        let response = attest(&config, &challenge(0x80, true)).await.unwrap();
        assert_eq!((response.quote.as_str(), response.node_key), ("r", None));
        assert_eq!(response.boot_log.is_some(), left_out == "the node key");
        assert_eq!(log.warnings(), [format!("{LINE}left_out=\"{left_out}\" reason=\"{reason}\"")]);
    }

    // The longest boot log that goes along.
    let (server, _) = ill_at("/quotes/integrity", move || ok(&log_of(349_524))).await;
    let response = attest(&config(&plain(&server), PATIENT), &challenge(0, true)).await.unwrap();
    assert_eq!(response.boot_log.map(|log| log.len()), Some(262_143));
}

#[tokio::test]
async fn a_tpm_that_is_gone_ends_the_attestation() {
    let server = Server::start(None, |request| {
        if request.contains("/quotes/") { Reply::error(500, "Unable to retrieve quote") } else { good(request) }
    })
    .await;
    let failed = attest(&config(&plain(&server), PATIENT), &challenge(0x80, true)).await.unwrap_err();
    assert_eq!(
        code_and_text(&failed.status(), &server),
        "Unavailable: the Keylime agent gave no TPM quote: the Keylime agent at http://HOST answered GET \
         /v2.5/quotes/identity with 500: Unable to retrieve quote"
    );
}

#[tokio::test]
async fn a_slow_integrity_quote_is_not_tried_in_another_way() {
    let (server, _) = ill_at("/quotes/integrity", || Reply::Hang).await;
    let failed = attest(&config(&plain(&server), SHORT), &challenge(0x80, true)).await.unwrap_err();
    assert_eq!(failed.code(), Code::DeadlineExceeded);
    assert_eq!(
        code_and_text(&failed.status(), &server),
        "DeadlineExceeded: the Keylime agent gave no TPM quote: the Keylime agent at http://HOST did not answer GET \
         /quotes/integrity within 2 s"
    );
    assert!(!server.seen().iter().any(|call| call.contains("/quotes/identity")));
}
