// SPDX-License-Identifier: Apache-2.0
//! Messages of a node that are none, too long, out of turn, or of a version that is none.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use spire_proto::server_nodeattestor::attest_request::Request as Said;
use test_support::keylime::fake::FakeAgent;
use tonic::Code;
use tpm_wire::nonce::{Nonce, bound};

use crate::bench::{
    Bench, ID, LOCAL, Outcome, TRUST_DOMAIN, member, message, no_message, no_proof, payload, refused, response,
    spiffe_id,
};
use crate::soft_tpm::{Attest, pcr16, pcrs};

const AGENT_NONCE: &str = "abcdefghijklmnopqrstuvwxyz012345";

fn out_of_turn() -> Outcome {
    refused(Code::InvalidArgument, "attestation message out of turn")
}

/// Bytes that are no message, for what they are or for what this member is; the `others` are as they should be.
fn no_messages(name: &str, others: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    let with = |value: Value| {
        let mut json: Value = serde_json::from_slice(&message(&[])).unwrap();
        others.iter().for_each(|(name, value)| json[name] = json!(STANDARD.encode(value)));
        json[name] = value;
        json.to_string().into_bytes()
    };
    let twice = String::from_utf8(with(json!("QUFB"))).unwrap().replace('}', &format!(", \"{name}\": \"QUFB\"}}"));
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("NULs", vec![0; 64]),
        ("no text", vec![0xff; 64]),
        ("no JSON", format!("{name}=7").into_bytes()),
        ("null", b"null".to_vec()),
        ("a list", b"[]".to_vec()),
        ("a text", b"\"x\"".to_vec()),
        ("half of it", format!("{{\"{name}\": ").into_bytes()),
        ("two of it", [with(json!("QUFB")), with(json!("QUFB"))].concat()),
        ("deep", b"[".repeat(3_000)),
        ("no member", message(&others.iter().map(|(name, value)| (*name, value.as_bytes())).collect::<Vec<_>>())),
        ("null member", with(Value::Null)),
        ("empty member", with(json!(""))),
        ("number", with(json!(7))),
        ("list", with(json!(["QUFB"]))),
        ("object", with(json!({"QUFB": 1}))),
        ("deep member", with(serde_json::from_str(&format!("{}{}", "[".repeat(100), "]".repeat(100))).unwrap())),
        ("no base64", with(json!("%%%%"))),
        ("base64 without padding", with(json!("QQ"))),
        ("base64 of the URL kind", with(json!("_-8="))),
        ("base64 of what is no text", with(json!("/////w=="))),
        ("twice", twice.into_bytes()),
        ("10 MB", with(json!("A".repeat(10_000_000)))),
        ("10 MB of space", vec![b' '; 10_000_000]),
    ];
    rows.into_iter().map(|(what, bytes)| (format!("{name}: {what}"), bytes)).collect()
}

#[tokio::test]
async fn what_is_no_message() {
    let bench = Bench::start(LOCAL).await;
    let id = no_messages("AgentID", &[("HashAlg", "sha256")]);
    let hash = no_messages("HashAlg", &[("AgentID", ID)]);
    for (what, bytes) in id.into_iter().chain(hash) {
        assert_eq!(bench.attest(bytes, async |_| panic!("a challenge")).await, no_message(), "{what}");
        bench.still_works(&what).await;
    }
    for (what, bytes) in no_messages("TPMQuote", &[]) {
        assert_eq!(bench.attest(payload(ID, "sha256"), async |_| bytes).await, no_message(), "{what}");
        bench.still_works(&what).await;
    }
}

#[tokio::test]
async fn ids_and_hashes_that_are_none() {
    let bench = Bench::start(LOCAL).await;
    let no_id = || refused(Code::InvalidArgument, "the Keylime agent id is not valid");
    let no_hash = || refused(Code::InvalidArgument, "the hash algorithm is not allowed for this host");
    let long = "a".repeat(300);
    for (id, hash, expected) in [
        (".", "sha256", no_id()),
        ("..", "sha256", no_id()),
        ("../", "sha256", no_id()),
        ("../agents", "sha256", no_id()),
        ("%2e%2e%2f", "sha256", no_id()),
        ("a/b", "sha256", no_id()),
        ("a\\b", "sha256", no_id()),
        ("?", "sha256", no_id()),
        ("a?verifier=x", "sha256", no_id()),
        ("a#b", "sha256", no_id()),
        ("a b", "sha256", no_id()),
        (" ", "sha256", no_id()),
        ("\0", "sha256", no_id()),
        ("a\0b", "sha256", no_id()),
        ("a\r\nHost: x", "sha256", no_id()),
        ("a:b", "sha256", no_id()),
        ("ä", "sha256", no_id()),
        ("\u{202e}a", "sha256", no_id()),
        ("{{.}}", "sha256", no_id()),
        (&long, "sha256", no_id()),
        (ID, "sha1", no_hash()),
        (ID, "sm3_256", no_hash()),
        (ID, "md5", no_hash()),
        (ID, "SHA256", no_hash()),
        (ID, "sha256 ", no_hash()),
        (ID, "sha256\0", no_hash()),
        (ID, &long, no_hash()),
    ] {
        let outcome = bench.attest(payload(id, hash), async |_| panic!("a challenge")).await;
        assert_eq!(outcome, expected, "{id:?} {hash:?}");
    }
    bench.still_works("all of them").await;
    // Allowed ones that are not the host's.
    for hash in ["sha384", "sha512"] {
        let outcome = bench.attest(payload(ID, hash), async |nonce| response(&bench.tpm.quote(&nonce).text())).await;
        assert_eq!(outcome, no_proof(), "{hash}");
    }
    // The longest id there is.
    let longest = "a".repeat(80);
    bench.keylime.put(&longest, FakeAgent::verified(bench.tpm.ak(), Some(bench.tpm.ek())));
    let outcome =
        bench.attest(payload(&longest, "sha256"), async |nonce| response(&bench.tpm.quote(&nonce).text())).await;
    assert_eq!(outcome, Ok(spiffe_id(&longest)));
}

#[tokio::test]
async fn messages_out_of_turn() {
    let bench = Bench::start(LOCAL).await;
    let mut call = bench.open().await;
    assert_eq!(call.outcome(response("r")).await, out_of_turn());
    let mut call = bench.open().await;
    call.challenge(payload(ID, "sha256")).await.unwrap();
    call.say(Some(Said::Payload(payload(ID, "sha256")))).await;
    assert_eq!(call.ends().await, out_of_turn());
    // What SPIRE never does: neither of the two, and an end.
    let ended = || refused(Code::Cancelled, "SPIRE ended the attestation");
    let mut call = bench.open().await;
    call.say(None).await;
    assert_eq!(call.ends().await, ended());
    let mut call = bench.open().await;
    call.hush();
    assert_eq!(call.ends().await, ended());
    let mut call = bench.open().await;
    call.challenge(payload(ID, "sha256")).await.unwrap();
    call.hush();
    assert_eq!(call.ends().await, ended());
    bench.still_works("all of them").await;
}

/// A payload with these members besides id and hash.
fn payload_with(members: &[(&str, &[u8])]) -> Vec<u8> {
    message(&[&[("AgentID", ID.as_bytes()), ("HashAlg", b"sha256".as_slice())], members].concat())
}

fn version_2() -> Vec<u8> {
    payload_with(&[("Version", b"2"), ("AgentNonce", AGENT_NONCE.as_bytes())])
}

#[tokio::test]
async fn payloads_of_a_version_that_is_none() {
    let bench = Bench::start(LOCAL).await;
    let nonce = AGENT_NONCE.as_bytes();
    let long = "a".repeat(65);
    for (what, members) in [
        ("version 0", vec![("Version", b"0".as_slice()), ("AgentNonce", nonce)]),
        ("version 1", vec![("Version", b"1"), ("AgentNonce", nonce)]),
        ("a negative version", vec![("Version", b"-2"), ("AgentNonce", nonce)]),
        ("a version with a sign", vec![("Version", b"+2"), ("AgentNonce", nonce)]),
        ("half a version", vec![("Version", b"2.5"), ("AgentNonce", nonce)]),
        ("a version in words", vec![("Version", b"two"), ("AgentNonce", nonce)]),
        ("a version that is no text", vec![("Version", b"\xff"), ("AgentNonce", nonce)]),
        ("no nonce", vec![("Version", b"2")]),
        ("an empty nonce", vec![("Version", b"2"), ("AgentNonce", b"")]),
        ("a nonce with other characters", vec![("Version", b"2"), ("AgentNonce", b"a&b=c")]),
        ("a nonce with NUL", vec![("Version", b"2"), ("AgentNonce", b"a\0b")]),
        ("a long nonce", vec![("Version", b"2"), ("AgentNonce", long.as_bytes())]),
        ("a version twice", vec![("Version", b"2"), ("version", b"2"), ("AgentNonce", nonce)]),
    ] {
        let outcome = bench.attest(payload_with(&members), async |_| panic!("a challenge")).await;
        assert_eq!(outcome, no_message(), "{what}");
    }
    bench.still_works("all of them").await;
}

/// The nonce that the TPM quotes in version 2.
fn bound_nonce(server: &str) -> String {
    bound(TRUST_DOMAIN, ID, &server.parse().unwrap(), &AGENT_NONCE.parse().unwrap()).as_str().to_owned()
}

#[tokio::test]
async fn quotes_of_version_2_are_over_both_nonces() {
    let bench = Bench::start(LOCAL).await;
    let agent: Nonce = AGENT_NONCE.parse().unwrap();
    let nonce = |domain: &str, id: &str, server: &str, agent: &Nonce| {
        bound(domain, id, &server.parse().unwrap(), agent).as_str().to_owned()
    };
    let other: Nonce = "ANOTHER".parse().unwrap();
    let fine = || Ok(spiffe_id(ID));
    type Quoted<'a> = Box<dyn Fn(&str) -> String + 'a>;
    let rows: Vec<(&str, Quoted<'_>, Outcome)> = vec![
        ("both", Box::new(|server| nonce(TRUST_DOMAIN, ID, server, &agent)), fine()),
        ("the server's alone", Box::new(str::to_owned), no_proof()),
        ("the node's alone", Box::new(|_| AGENT_NONCE.to_owned()), no_proof()),
        ("another of the node", Box::new(|server| nonce(TRUST_DOMAIN, ID, server, &other)), no_proof()),
        ("another of the server", Box::new(|_| nonce(TRUST_DOMAIN, ID, "ANOTHER", &agent)), no_proof()),
        ("of another trust domain", Box::new(|server| nonce("example.org", ID, server, &agent)), no_proof()),
        ("of another host", Box::new(|server| nonce(TRUST_DOMAIN, "host", server, &agent)), no_proof()),
    ];
    for (what, quoted, expected) in rows {
        let outcome =
            bench.attest(version_2(), async |server| response(&bench.tpm.quote(&quoted(&server)).text())).await;
        assert_eq!(outcome, expected, "{what}");
    }
    // A version to come is read as this one.
    for version in [b"3".as_slice(), b"18446744073709551616"] {
        let payload = payload_with(&[("Version", version), ("AgentNonce", AGENT_NONCE.as_bytes())]);
        let mut call = bench.open().await;
        let challenge = call.challenge_json(payload).await.unwrap();
        assert_eq!(member(&challenge, "Version").as_deref(), Some("2"));
        let quote = bench.tpm.quote(&bound_nonce(&member(&challenge, "Nonce").unwrap())).text();
        assert_eq!(call.outcome(response(&quote)).await, fine());
    }
}

#[tokio::test]
async fn responses_of_version_2() {
    let options = "selectors = [\"agent_id\", \"ek_hash\", \"pcr\", \"secure_boot\"]\nselector_pcrs = [0, 7]\n";
    let bench = Bench::start(&format!("{LOCAL}{options}")).await;
    let mut call = bench.open().await;
    let challenge = call.challenge_json(version_2()).await.unwrap();
    let asked = ["Version", "PCRMask", "BootLog"].map(|name| member(&challenge, name).unwrap());
    assert_eq!(asked, ["2", "0x000081", "1"]);

    let fine = || Ok(spiffe_id(ID));
    let long_key = "k".repeat(5_000);
    let long_log = vec![7; 300_000];
    let all = [0, 7, 16].as_slice();
    // The PCRs quoted, the members besides the quote, the outcome, and the selectors that remain of what was asked for.
    type Row<'a> = (&'a str, &'a [u8], Vec<(&'a str, &'a [u8])>, Outcome, &'a [&'a str]);
    let rows: Vec<Row<'_>> = vec![
        ("of version 1", &[16], vec![], fine(), &[]),
        ("no more PCRs than a node of version 1 has", &[16], vec![("Version", b"2")], fine(), &[]),
        ("all PCRs and no log", all, vec![("Version", b"2")], fine(), &["pcr:sha256:0:", "pcr:sha256:7:"]),
        (
            "a log that is none",
            all,
            vec![("Version", b"2"), ("BootLog", b"\0\xff\0")],
            fine(),
            &["pcr:sha256:0:", "pcr:sha256:7:"],
        ),
        (
            "a log of zeros",
            all,
            vec![("Version", b"2"), ("BootLog", &[0; 100_000])],
            fine(),
            &["pcr:sha256:0:", "pcr:sha256:7:"],
        ),
        ("a log that is too long", all, vec![("Version", b"2"), ("BootLog", &long_log)], no_message(), &[]),
        ("one PCR of two", &[0, 16], vec![("Version", b"2")], fine(), &["pcr:sha256:0:"]),
        ("a node key of another quote", all, vec![("Version", b"2"), ("PubKey", b"-----BEGIN")], no_proof(), &[]),
        ("a node key without its PCR", &[0, 7], vec![("Version", b"2"), ("PubKey", b"-----BEGIN")], no_proof(), &[]),
        (
            "a node key that is too long",
            all,
            vec![("Version", b"2"), ("PubKey", long_key.as_bytes())],
            no_message(),
            &[],
        ),
        ("a node key that is no text", all, vec![("Version", b"2"), ("PubKey", b"\xff")], no_message(), &[]),
        ("version 1", all, vec![("Version", b"1")], no_message(), &[]),
        ("a version in words", all, vec![("Version", b"two")], no_message(), &[]),
        ("a log twice", all, vec![("Version", b"2"), ("BootLog", b"a"), ("bootlog", b"a")], no_message(), &[]),
    ];
    for (what, quoted, members, expected, selectors) in rows {
        let mut call = bench.open().await;
        let nonce = bound_nonce(&call.challenge(version_2()).await.unwrap());
        let values = if quoted == [16] { pcr16() } else { pcrs(quoted) };
        let quote = Attest::of(&values, &nonce).signed_by(&bench.tpm, &values).text();
        let response = message(&[&[("TPMQuote", quote.as_bytes())], members.as_slice()].concat());
        call.say(Some(Said::ChallengeResponse(response))).await;
        let attributes = call.attributes().await;
        let outcome = attributes.as_ref().map(|told| told.spiffe_id.clone()).map_err(Clone::clone);
        assert_eq!(outcome, expected, "{what}");
        let values = attributes.map(|told| told.selector_values).unwrap_or_default();
        let told: Vec<_> =
            values.iter().filter(|value| !value.starts_with("agent_id:") && !value.starts_with("ek_hash:")).collect();
        assert_eq!(told.len(), selectors.len(), "{what}: {values:?}");
        assert!(told.iter().zip(selectors).all(|(told, start)| told.starts_with(start)), "{what}: {values:?}");
    }
    bench.still_works("all of them").await;
}
