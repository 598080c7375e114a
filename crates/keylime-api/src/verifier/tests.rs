// SPDX-License-Identifier: Apache-2.0
//! The verifier's answers: good ones, odd ones, and those of other deployments

use super::*;
use crate::testing::{PATIENT, Reply, Server, Site, at, ok, versions};
use crate::verdict::Verdict;

/// 2027-01-15T08:00:00Z, the date of every answer.
const NOW: u64 = 1_800_000_000;

/// A record as Keylime 7.14.3 gives it.
const RECORD: &str = r#"{"operational_state": 3, "v": null, "ip": "127.0.0.1", "port": 9002,
    "tpm_policy": "{\"mask\": \"0x0\"}", "meta_data": "{}", "has_mb_refstate": 0, "has_runtime_policy": 0,
    "accept_tpm_hash_algs": ["sha512", "sha384", "sha256"], "accept_tpm_encryption_algs": ["ecc", "rsa"],
    "accept_tpm_signing_algs": ["ecschnorr", "rsassa"], "hash_alg": "sha256", "enc_alg": "rsa", "sign_alg": "rsassa",
    "verifier_id": "default", "verifier_ip": "127.0.0.1", "verifier_port": 8881, "severity_level": null,
    "last_event_id": null, "attestation_count": 27, "last_received_quote": 1799999998,
    "last_successful_attestation": 1799999998, "attestation_period": "2s", "maximum_attestation_interval": "10s",
    "attestation_status": "PASS"}"#;

fn id() -> AgentId {
    "d432fbb3-d2f1-4a97-9ef7-75bd81c00000".parse().unwrap()
}

async fn ask(reply: impl Fn() -> Reply + Send + Sync + 'static) -> (Server, Result<VerifierAgent, ClientError>) {
    let site = Site::new();
    let server = Server::start(Some(site.server()), move |request| match request {
        "GET /version" => versions(&["2.4", "2.5", "2.6"]),
        _ => reply(),
    })
    .await;
    let client = VerifierClient::new(at(&server), site.client(), PATIENT).unwrap();
    let result = client.agent(&id()).await;
    (server, result)
}

/// The text of a failure, without the address.
async fn failure(reply: impl Fn() -> Reply + Send + Sync + 'static) -> String {
    let (server, result) = ask(reply).await;
    result.unwrap_err().to_string().replace(&server.at.to_string(), "HOST")
}

/// The record, with one member changed or, for `None`, taken out.
fn changed(member: &str, to: Option<&str>) -> String {
    let mut record: serde_json::Map<_, _> = serde_json::from_str(RECORD).unwrap();
    match to {
        Some(text) => record.insert(member.to_owned(), serde_json::from_str(text).unwrap()),
        None => record.remove(member),
    };
    serde_json::to_string(&record).unwrap()
}

#[tokio::test]
async fn a_record_is_read_and_judged() {
    let (server, agent) = ask(|| ok(RECORD)).await;
    let agent = agent.unwrap();
    assert_eq!(server.seen(), ["GET /version", "GET /v2.6/agents/d432fbb3-d2f1-4a97-9ef7-75bd81c00000"]);
    assert_eq!(agent.verdict(None), Verdict::Verified);
    assert_eq!(
        agent,
        VerifierAgent {
            state: AgentState::Pull(OperationalState::GetQuote),
            attestation_count: 27,
            last_successful_attestation: NOW - 2,
            maximum_attestation_interval: Some(Duration::from_secs(10)),
            hash_alg: Some(HashAlgorithm::Sha256),
            last_event_id: None,
            has_runtime_policy: false,
            has_measured_boot_policy: false,
            expected_pcrs: PcrMask::EMPTY,
            answer_date: SystemTime::UNIX_EPOCH + Duration::from_secs(NOW),
        }
    );
}

#[tokio::test]
async fn warming_up_leaves_one_request_for_the_call() {
    let site = Site::new();
    let server = Server::start(Some(site.server()), |request| match request {
        "GET /version" => versions(&["2.5"]),
        _ => ok(RECORD),
    })
    .await;
    let client = VerifierClient::new(at(&server), site.client(), PATIENT).unwrap();
    assert_eq!(client.warm_up().await.unwrap(), ApiVersion::new(2, 5));
    client.agent(&id()).await.unwrap();
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn odd_records_admit_nobody() {
    for (member, to, verdict) in [
        ("attestation_count", Some("0"), "not verified yet: no successful attestation so far"),
        ("attestation_count", Some("null"), "not verified yet: no successful attestation so far"),
        ("attestation_count", None, "not verified yet: no successful attestation so far"),
        ("last_successful_attestation", Some("null"), "not verified yet: no successful attestation so far"),
        ("last_successful_attestation", None, "not verified yet: no successful attestation so far"),
        (
            "last_successful_attestation",
            Some("1799999989"),
            "the last successful attestation is 11 s old, the limit is 10 s",
        ),
        ("operational_state", Some("null"), "not verified yet: the agent is in Keylime's push model"),
        ("operational_state", Some("1"), "not verified yet: the verifier has the host in state 1 (Start)"),
        ("operational_state", Some("9"), "the verifier has the host in state 9 (Invalid Quote)"),
        ("operational_state", Some("-3"), "not verified yet: the verifier has the host in state -3 (unknown)"),
    ] {
        let record = changed(member, to);
        let (_, agent) = ask(move || ok(&record)).await;
        assert_eq!(agent.unwrap().verdict(None).to_string(), verdict, "{member}");
    }
}

#[tokio::test]
async fn a_push_agent_has_neither_address_nor_port() {
    let record = changed("ip", Some("null")).replace("\"port\":9002", "\"port\":null");
    let (_, agent) = ask(move || ok(&record)).await;
    assert_eq!(agent.unwrap().state, AgentState::Push);
}

#[tokio::test]
async fn members_that_decide_nothing_may_be_missing() {
    for member in [
        "attestation_status",
        "last_received_quote",
        "maximum_attestation_interval",
        "hash_alg",
        "ip",
        "port",
        "last_event_id",
    ] {
        for record in [changed(member, None), changed(member, Some("null"))] {
            let (_, agent) = ask(move || ok(&record)).await;
            assert_eq!(agent.unwrap().verdict(None), Verdict::Verified, "{member}");
        }
    }
}

#[tokio::test]
async fn an_interval_of_another_type_falls_back_to_the_strict_default() {
    for text in ["10", "null", "{}", "\"10\""] {
        let record = changed("maximum_attestation_interval", Some(text));
        let (_, agent) = ask(move || ok(&record)).await;
        assert_eq!(agent.unwrap().maximum_attestation_interval, None);
    }
}

#[test]
fn intervals_are_plain_positive_seconds_of_at_most_a_day() {
    for (text, milliseconds) in [
        ("10s", 10_000),
        ("2.5s", 2500),
        ("0.1s", 100),
        ("86400s", 86_400_000),
        ("86401s", 86_400_000),
        ("99999999999999999999s", 86_400_000),
        (&format!("{}s", "9".repeat(400)), 86_400_000),
    ] {
        assert_eq!(interval(text), Some(Duration::from_millis(milliseconds)), "{text}");
    }
    for text in [
        "",
        "s",
        ".s",
        "10",
        "1m",
        "-5s",
        "+5s",
        " 5s",
        "1.2.3s",
        "1e3s",
        "infs",
        "NaNs",
        "0s",
        "0.0s",
        "0.0000000001s",
    ] {
        assert_eq!(interval(text), None, "{text}");
    }
}

#[tokio::test]
async fn members_that_decide_nothing_may_be_anything() {
    for (member, to) in [
        ("attestation_status", "3"),
        ("last_received_quote", "\"never\""),
        ("ip", "7"),
        ("port", "99999"),
        ("port", "\"9002\""),
        ("last_event_id", "{}"),
        ("verifier_port", "[]"),
    ] {
        let record = changed(member, Some(to));
        let (_, agent) = ask(move || ok(&record)).await;
        assert_eq!(agent.unwrap().verdict(None), Verdict::Verified, "{member}");
    }
}

#[tokio::test]
async fn an_answer_of_a_cache_cannot_be_judged() {
    let body = format!(r#"{{"code": 200, "status": "Success", "results": {RECORD}}}"#);
    for headers in ["Date: Fri, 15 Jan 2027 08:00:00 GMT\r\nAge: 0\r\n", "age: 3600\r\n"] {
        let body = body.clone();
        assert_eq!(
            failure(move || Reply::answer(200, headers, body.clone())).await,
            "the Keylime verifier at https://HOST answered GET /agents/d432fbb3-d2f1-4a97-9ef7-75bd81c00000 from a \
             cache (Age header), so the age of its record cannot be told"
        );
    }
}

#[tokio::test]
async fn wrong_types_are_named() {
    let begin = "the Keylime verifier at https://HOST answered GET /agents/d432fbb3-d2f1-4a97-9ef7-75bd81c00000 with \
                 an unusable body: ";
    for (member, to, text) in [
        ("operational_state", None, "it has no \"operational_state\""),
        ("operational_state", Some("\"3\""), "its \"operational_state\" is text, not a whole number"),
        ("operational_state", Some("3.5"), "its \"operational_state\" is another number, not a whole number"),
        ("attestation_count", Some("-1"), "its \"attestation_count\" is another number, not a whole number from 0"),
        ("attestation_count", Some("[1]"), "its \"attestation_count\" is a list, not a whole number from 0"),
        (
            "last_successful_attestation",
            Some("\"now\""),
            "its \"last_successful_attestation\" is text, not a whole number from 0",
        ),
        ("hash_alg", Some("{}"), "its \"hash_alg\" is an object, not text"),
    ] {
        let record = changed(member, to);
        assert_eq!(failure(move || ok(&record)).await, format!("{begin}{text}"));
    }
}

#[tokio::test]
async fn an_answer_without_a_date_cannot_be_judged() {
    let body = format!(r#"{{"code": 200, "status": "Success", "results": {RECORD}}}"#);
    for headers in ["", "Date: yesterday\r\n"] {
        let body = body.clone();
        assert_eq!(
            failure(move || Reply::answer(200, headers, body.clone())).await,
            "the Keylime verifier at https://HOST answered GET /agents/d432fbb3-d2f1-4a97-9ef7-75bd81c00000 without a \
             usable Date header, so the age of its record cannot be told"
        );
    }
}

#[tokio::test]
async fn a_registrar_in_the_verifiers_place_is_named() {
    let says = failure(|| ok(r#"{"aik_tpm": "ARg=", "ek_tpm": "AToA", "ip": null, "port": null}"#)).await;
    assert_eq!(
        says,
        "the Keylime verifier at https://HOST answered GET /agents/d432fbb3-d2f1-4a97-9ef7-75bd81c00000 with an unusable \
         body: it is a record as a Keylime registrar keeps it: is that the registrar's port?"
    );
}

#[tokio::test]
async fn an_unknown_agent_is_told_apart() {
    let (server, result) = ask(|| Reply::error(404, "agent id not found")).await;
    let error = result.unwrap_err();
    assert!(error.is_not_found() && !error.is_transient());
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_404_of_anything_else_does_not_make_an_agent_unknown() {
    let says = failure(|| Reply::answer(404, "", "<html>no such page</html>")).await;
    assert_eq!(
        says,
        "the Keylime verifier at https://HOST answered GET /v2.6/agents/d432fbb3-d2f1-4a97-9ef7-75bd81c00000 with 404: \
         Not Found"
    );
}

#[tokio::test]
async fn policies_are_told() {
    let policy = |text: &str| serde_json::to_string(text).unwrap();
    let long = format!("{{\"7\": [\"{}\"]}}", "00".repeat(40_000));
    for (member, to, expected) in [
        ("has_runtime_policy", "1".to_owned(), (true, false, 0)),
        ("has_runtime_policy", "true".to_owned(), (true, false, 0)),
        ("has_runtime_policy", "\"1\"".to_owned(), (false, false, 0)),
        ("has_mb_refstate", "1".to_owned(), (false, true, 0)),
        (
            "tpm_policy",
            policy(r#"{"0": ["00"], "7": ["00", "11"], "10": ["00"], "16": ["00"], "22": [], "mask": "0x410481"}"#),
            (false, false, 0x81),
        ),
        (
            "tpm_policy",
            policy(r#"{"24": ["00"], "-1": ["00"], "x": ["00"], "15": "00", "1": null}"#),
            (false, false, 0),
        ),
        ("tpm_policy", policy("{"), (false, false, 0)),
        ("tpm_policy", policy("[]"), (false, false, 0)),
        ("tpm_policy", policy(&long), (false, false, 0)),
        ("tpm_policy", "{}".to_owned(), (false, false, 0)),
        ("tpm_policy", "null".to_owned(), (false, false, 0)),
    ] {
        let record = changed(member, Some(&to));
        let (_, agent) = ask(move || ok(&record)).await;
        let agent = agent.unwrap();
        let found = (agent.has_runtime_policy, agent.has_measured_boot_policy, agent.expected_pcrs.bits());
        assert_eq!(found, expected, "{member} {to:.100}");
    }
}

const CHECK: &str = "GET /v2.2/verify/identity?agent_uuid=d432fbb3-d2f1-4a97-9ef7-75bd81c00000&hash_alg=sha256&\
                     nonce=ABCDEFGHIJKLMNOPQRSTUVWXYZ234567&quote=r%2B%2F%2F%2Fu7u7u7u7u7u7u7u7u7u7uw%3D%3D%3AAA%3D%3D%3A";

/// Asks for the check of a quote that has each character with a meaning of its own in a query.
async fn check(
    offered: &'static [&str],
    reply: impl Fn() -> Reply + Send + Sync + 'static,
) -> Result<IdentityCheck, String> {
    let site = Site::new();
    let server = Server::start(Some(site.server()), move |request| match request {
        "GET /version" => versions(offered),
        request if request.starts_with(CHECK) => reply(),
        other => panic!("{other}"),
    })
    .await;
    let client = VerifierClient::new(at(&server), site.client(), PATIENT).unwrap();
    let pcrs = tpm_wire::pcr::PcrValues::new(HashAlgorithm::Sha256, [(16, vec![0xa5; 32])].into()).unwrap();
    let attest = [vec![0xfb, 0xff, 0xff], vec![0xbb; 16]].concat();
    let quote = QuoteString::new(attest, vec![0], &pcrs).unwrap();
    let nonce = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".parse().unwrap();
    let result = client.verify_identity(&id(), HashAlgorithm::Sha256, &nonce, &quote).await;
    let shown = format!("{result:?}");
    assert!(!shown.contains("ABCDEFGHIJKLMN") && !shown.contains("u7u7u7u7"), "{shown}");
    result.map_err(|error| error.to_string().replace(&server.at.to_string(), "HOST"))
}

#[tokio::test]
async fn a_quote_is_checked_by_the_verifier() {
    let invalid = |reason: &str| IdentityCheck::Invalid { reason: reason.to_owned() };
    for (results, expected) in [
        (r#"{"valid": 1}"#, IdentityCheck::Valid),
        (r#"{"valid": 0, "reason": "nonce\u0007 mismatch"}"#, invalid("nonce mismatch")),
        (r#"{"valid": 0, "reason": "got ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"}"#, invalid("got …")),
        (r#"{"valid": 0, "reason": "r+///u7u7u7u7u7u7u7u7u7u7uw==:AA==:x"}"#, invalid("…")),
        (r#"{"valid": 0}"#, invalid("")),
        (r#"{"valid": 0, "reason": 7}"#, invalid("")),
    ] {
        assert_eq!(check(&["2.1", "2.2"], move || ok(results)).await.unwrap(), expected, "{results}");
    }
    let IdentityCheck::Invalid { reason } =
        check(&["2.2"], || ok(&format!(r#"{{"valid": 0, "reason": "{}"}}"#, "no ".repeat(10_000)))).await.unwrap()
    else {
        panic!("valid");
    };
    assert_eq!(reason.chars().count(), 201);
}

#[tokio::test]
async fn failures_of_a_check_keep_nonce_and_quote_out() {
    let peer = "the Keylime verifier at https://HOST";
    let body = format!("{peer} answered GET /verify/identity with an unusable body: ");
    for (reply, text) in [
        ((|| ok("{}")) as fn() -> Reply, format!("{body}it has no \"valid\"")),
        (|| ok(r#"{"valid": null}"#), format!("{body}it has no \"valid\"")),
        (|| ok(r#"{"valid": 2}"#), format!("{body}its \"valid\" is unusable: it is 2, not 0 or 1")),
        (|| ok(r#"{"valid": true}"#), format!("{body}its \"valid\" is true or false, not a whole number")),
        (|| ok(r#"{"valid": "1"}"#), format!("{body}its \"valid\" is text, not a whole number")),
        (
            || Reply::error(404, "agent id not found"),
            format!("{peer} does not know what GET /v2.2/verify/identity asks for: agent id not found"),
        ),
        (
            || Reply::error(400, "bad nonce ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"),
            format!("{peer} answered GET /v2.2/verify/identity with 400: bad nonce …"),
        ),
        (
            || Reply::error(500, "quote=r%2B%2F%2F%2Fu7u7u7u7u7u7u7u7u7u7uw%3D%3D%3AAA"),
            format!("{peer} answered GET /v2.2/verify/identity with 500: …"),
        ),
        (
            || Reply::answer(302, "Location: /\r\n", ""),
            format!(
                "{peer} answered GET /v2.2/verify/identity with a redirect (302), which is not followed: check host and \
                 port"
            ),
        ),
        (|| Reply::Flood(10_000_000), format!("{peer} answered GET /v2.2/verify/identity with more than 100000 bytes")),
    ] {
        assert_eq!(check(&["2.2"], reply).await.unwrap_err(), text);
    }
    assert_eq!(
        check(&["2.1"], || panic!("asked")).await.unwrap_err(),
        format!("no API version in common with {peer}: it speaks 2.1, this side 2.2, 2.3, 2.4, 2.5, 2.6")
    );
}
