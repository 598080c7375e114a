// SPDX-License-Identifier: Apache-2.0
//! A Keylime agent that is away, slow or wrong: code and text of each, and that the next attestation works.

use std::sync::atomic::Ordering;

use keylime_api::HttpSettings;
use test_support::http::{Reply, Server, nobody, ok};
use test_support::scratch::Scratch;

use crate::harness::{PATIENT, SHORT, attest, code_and_text, config, good, ill_at, is_well, plain, version_1};

const INFO: (&str, &str) = ("/agent/info", "this host has no Keylime identity to present: ");
const QUOTE: (&str, &str) = ("/quotes/identity", "the Keylime agent gave no TPM quote: ");

/// A Keylime agent that is ill at one call, then well. In `expected`, CALL is the call's path.
async fn fails(
    (call, begin): (&'static str, &str),
    reply: impl Fn() -> Reply + Send + Sync + 'static,
    limits: HttpSettings,
    expected: (&str, &str),
) {
    let (server, ill) = ill_at(call, reply).await;
    let config = config(&plain(&server), limits);
    let failed = attest(&config, &version_1()).await.unwrap_err();
    let (code, text) = expected;
    let text = text.replace("CALL", call);
    assert_eq!(code_and_text(&failed.status(), &server), format!("{code}: {begin}{text}"));
    ill.store(false, Ordering::Relaxed);
    is_well(&config).await;
}

#[tokio::test]
async fn wrong_answers_are_told_apart() {
    let peer = "the Keylime agent at http://HOST";
    let rows: [(fn() -> Reply, String); 13] = [
        (
            || Reply::error(500, "Unable to retrieve quote"),
            format!("{peer} answered GET /v2.5CALL with 500: Unable to retrieve quote"),
        ),
        (|| Reply::error(503, "busy"), format!("{peer} answered GET /v2.5CALL with 503: busy")),
        (|| Reply::error(400, "no"), format!("{peer} answered GET /v2.5CALL with 400: no")),
        (|| Reply::error(404, "no"), format!("{peer} does not know what GET /v2.5CALL asks for: no")),
        (|| Reply::error(403, "no"), format!("{peer} forbids GET /v2.5CALL: no")),
        (
            || Reply::answer(200, "Content-Type: text/html\r\n", "<html>busy</html>"),
            format!("{peer} answered GET CALL with an unusable body: it is not JSON (content type text/html)"),
        ),
        (
            || Reply::answer(502, "Content-Type: text/html\r\n", "<html>busy</html>"),
            format!("{peer} answered GET /v2.5CALL with 502: Bad Gateway"),
        ),
        (
            || Reply::answer(302, "Location: http://127.0.0.1:1/\r\n", ""),
            format!("{peer} answered GET /v2.5CALL with a redirect (302), which is not followed: check host and port"),
        ),
        (|| Reply::Flood(10_000_000), format!("{peer} answered GET /v2.5CALL with more than 262144 bytes")),
        (|| ok("[]"), format!("{peer} answered GET CALL with an unusable body: it has no object \"results\"")),
        (
            || Reply::Reset,
            format!("the connection to {peer} broke during GET /v2.5CALL: Connection reset by peer (os error 104)"),
        ),
        (
            || Reply::Close,
            format!("the connection to {peer} broke during GET /v2.5CALL: connection closed before message completed"),
        ),
        (
            || Reply::Raw(b"SSH-2.0\r\n\r\n".to_vec()),
            format!(
                "the connection to {peer} broke during GET /v2.5CALL: invalid HTTP version parsed: does that port speak TLS?"
            ),
        ),
    ];
    for (reply, text) in rows {
        for call in [INFO, QUOTE] {
            fails(call, reply, PATIENT, ("Unavailable", &text)).await;
        }
    }
}

#[tokio::test]
async fn answers_that_say_nothing_of_use_are_refused() {
    let body = "the Keylime agent at http://HOST answered GET CALL with an unusable body: ";
    type Row<'a> = ((&'static str, &'static str), fn() -> Reply, &'a str);
    let rows: [Row<'_>; 6] = [
        (INFO, || ok("{}"), "it has no \"agent_uuid\""),
        (
            INFO,
            || ok(r#"{"agent_uuid": "../x", "tpm_hash_alg": "sha256"}"#),
            "its \"agent_uuid\" is unusable: the agent id holds '/', only A-Z a-z 0-9 . _ - are allowed",
        ),
        (
            INFO,
            || ok(r#"{"agent_uuid": "x", "tpm_hash_alg": "md5"}"#),
            "its \"tpm_hash_alg\" is unusable: unknown hash algorithm \"md5\", expected one of sha1, sha256, sha384, \
             sha512, sm3_256",
        ),
        (QUOTE, || ok("{}"), "it has no \"quote\""),
        (QUOTE, || ok(r#"{"quote": 7}"#), "its \"quote\" is another number, not text"),
        (QUOTE, || ok(r#"{"quote": "r", "pubkey": {}}"#), "its \"pubkey\" is an object, not text"),
    ];
    for (call, reply, text) in rows {
        fails(call, reply, PATIENT, ("Unavailable", &format!("{body}{text}"))).await;
    }
}

#[tokio::test]
async fn an_agent_that_hangs_ends_at_the_limit() {
    let text = "the Keylime agent at http://HOST did not answer GET CALL within 2 s";
    for call in [INFO, QUOTE] {
        fails(call, || Reply::Hang, SHORT, ("DeadlineExceeded", text)).await;
    }
}

#[tokio::test]
async fn an_agent_that_drips_ends_at_the_limit() {
    let text = "the Keylime agent at http://HOST did not answer GET CALL within 2 s";
    for call in [INFO, QUOTE] {
        fails(call, || Reply::Drip, SHORT, ("DeadlineExceeded", text)).await;
    }
}

#[tokio::test]
async fn an_agent_without_a_version_in_common_is_named() {
    fails(
        ("GET /version", INFO.1),
        || ok(r#"{"supported_version": "2.1"}"#),
        PATIENT,
        (
            "Unavailable",
            "no API version in common with the Keylime agent at http://HOST: it speaks 2.1, this side 2.2, 2.3, 2.4, \
             2.5, 2.6",
        ),
    )
    .await;
}

#[tokio::test]
async fn an_agent_that_is_down_is_waited_for_by_nobody() {
    let at = nobody().await;
    let port = at.to_string().rsplit_once(':').unwrap().1.to_owned();
    let failed = attest(&config(&format!("keylime_agent_port = \"{port}\""), PATIENT), &version_1()).await.unwrap_err();
    assert_eq!(
        failed.to_string().replace(&at.to_string(), "HOST"),
        "this host has no Keylime identity to present: cannot connect to the Keylime agent at http://HOST: Connection \
         refused (os error 111)"
    );
    assert_eq!(failed.code(), tonic::Code::Unavailable);

    let scratch = Scratch::new("node").unwrap();
    let socket = scratch.join("agent.sock");
    let config = config(&format!("keylime_agent_unix_socket = \"{}\"", socket.display()), PATIENT);
    let failed = attest(&config, &version_1()).await.unwrap_err();
    assert_eq!(
        failed.to_string().replace(socket.to_str().unwrap(), "SOCKET"),
        "this host has no Keylime identity to present: cannot connect to the Keylime agent at the Unix socket SOCKET: \
         No such file or directory (os error 2)"
    );
    // It starts, and the same configuration works.
    Server::on_unix_socket(&socket, good);
    is_well(&config).await;
}
