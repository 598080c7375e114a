// SPDX-License-Identifier: Apache-2.0
//! The messages of both versions: what is written, what is taken, what is refused

use super::*;

fn payload() -> Payload {
    Payload { agent_id: "d432fbb3-d2f1-4a97-9ef7-75bd81c00000".into(), hash_alg: "sha256".into(), agent_nonce: None }
}

#[test]
fn messages_are_what_go_writes() {
    let json = br#"{"AgentID":"ZDQzMmZiYjMtZDJmMS00YTk3LTllZjctNzViZDgxYzAwMDAw","HashAlg":"c2hhMjU2"}"#;
    assert_eq!(payload().to_json(), json);
    let challenge = Challenge { nonce: "ABC".into(), wanted: None };
    assert_eq!(challenge.to_json(), br#"{"Nonce":"QUJD"}"#);
    let response = ChallengeResponse { quote: "rAA==:AA==:AA==".into(), node_key: None, boot_log: None };
    assert_eq!(response.to_json(), br#"{"TPMQuote":"ckFBPT06QUE9PTpBQT09"}"#);
}

#[test]
fn messages_survive_the_round_trip() {
    for text in ["x", "ab", "\"\\\u{0}<&>", "straße"] {
        let message = Payload { agent_id: text.into(), hash_alg: text.into(), agent_nonce: None };
        assert_eq!(Payload::from_json(&message.to_json()).unwrap(), message);
        let message = Challenge { nonce: text.into(), wanted: None };
        assert_eq!(Challenge::from_json(&message.to_json()).unwrap(), message);
        let message = ChallengeResponse { quote: text.into(), node_key: None, boot_log: None };
        assert_eq!(ChallengeResponse::from_json(&message.to_json(), false).unwrap(), message);
    }
}

#[test]
fn a_challenge_response_carries_the_longest_quote_string() {
    let quote = "r".repeat(crate::quote::MAX_QUOTE_STRING_LEN);
    let message = ChallengeResponse { quote, node_key: None, boot_log: None };
    assert_eq!(ChallengeResponse::from_json(&message.to_json(), false).unwrap(), message);
}

#[test]
fn what_go_takes_is_taken() {
    for json in [
        r#"{"agentid":"eA==","HASHALG":"eQ=="}"#,
        r#" { "HashAlg" : "eQ==" , "AgentID" : "eA==" } "#,
        "\n{\"AgentID\":\"eA==\",\"HashAlg\":\"eQ==\"}\n",
        r#"{"Later":2,"AgentNonce":"%","Extra":{"AgentID":"bm8="},"AgentID":"eA==","L":[null,"AgentID"],"HashAlg":"eQ=="}"#,
        r#"{"\u0041gentID":"eA\u003d=","HashAlg":"eQ=="}"#,
    ] {
        let message = Payload::from_json(json.as_bytes()).unwrap();
        assert_eq!(message, Payload { agent_id: "x".into(), hash_alg: "y".into(), agent_nonce: None }, "{json}");
    }
}

#[test]
fn each_fault_has_its_error() {
    let no_agent_id = "the attestation payload lacks member AgentID";
    let not_text = "it is not an object, or a member is not text or given twice";
    let rows: [(&[u8], &str); 19] = [
        (b"", "the attestation payload is malformed in line 1, column 0: it ends early"),
        (b"[]", not_text),
        (b"\"x\"", not_text),
        (b"null", not_text),
        (b"{}", no_agent_id),
        (br#"{"AgentID":null,"HashAlg":"eQ=="}"#, no_agent_id),
        (br#"{"AgentID":"","HashAlg":"eQ=="}"#, no_agent_id),
        (br#"{"Agent":"eA==","HashAlg":"eQ=="}"#, no_agent_id),
        (br#"{"AgentID":"eA=="}"#, "the attestation payload lacks member HashAlg"),
        (br#"{"AgentID":5,"HashAlg":"eQ=="}"#, not_text),
        (br#"{"AgentID":"eA==","agentid":"eQ==","HashAlg":"eQ=="}"#, not_text),
        (br#"{"AgentID":null,"AgentID":"eQ==","HashAlg":"eQ=="}"#, not_text),
        (br#"{"AgentID":"eA==","HashAlg":"eQ=="}{}"#, "column 36: it is not JSON"),
        (br#"{"AgentID":"eA==","HashAlg":"eQ==""#, "it ends early"),
        (br#"{"AgentID":"eA=","HashAlg":"eQ=="}"#, "member AgentID of the attestation payload is not base64"),
        (br#"{"AgentID":"eA==","HashAlg":"e_=="}"#, "member HashAlg of the attestation payload is not base64"),
        (br#"{"AgentID":"eB==","HashAlg":"eQ=="}"#, "member AgentID of the attestation payload is not base64"),
        (br#"{"AgentID":"/w==","HashAlg":"eQ=="}"#, "member AgentID of the attestation payload is not UTF-8 text"),
        (&[b' '; 4097], "the attestation payload has 4097 bytes, at most 4096 are accepted"),
    ];
    for (json, expected) in rows {
        let error = Payload::from_json(json).unwrap_err().to_string();
        assert!(error.ends_with(expected), "{error}");
    }
    let error = Challenge::from_json(b"{}").unwrap_err().to_string();
    assert_eq!(error, "the challenge lacks member Nonce");
    let error = Challenge::from_json(&[b' '; 4097]).unwrap_err().to_string();
    assert_eq!(error, "the challenge has 4097 bytes, at most 4096 are accepted");
    let error = ChallengeResponse::from_json(b"{}", false).unwrap_err().to_string();
    assert_eq!(error, "the challenge response lacks member TPMQuote");
    let error = ChallengeResponse::from_json(&[b' '; 65537], false).unwrap_err().to_string();
    assert_eq!(error, "the challenge response has 65537 bytes, at most 65536 are accepted");
}

#[test]
fn no_prefix_is_a_message() {
    let json = payload().to_json();
    for len in 0..json.len() {
        Payload::from_json(&json[..len]).unwrap_err();
    }
}

#[test]
fn deep_nesting_is_refused_without_a_panic() {
    let json = format!("{{\"X\":{}", "[".repeat(4000));
    Payload::from_json(json.as_bytes()).unwrap_err();
}

#[test]
fn debug_hides_nonces_and_quotes() {
    let challenge = Challenge { nonce: "secret".into(), wanted: None };
    assert_eq!(format!("{challenge:?}"), "Challenge { nonce: 6 characters, wanted: None }");
    let response = ChallengeResponse { quote: "secret".into(), node_key: None, boot_log: Some(b"secret".to_vec()) };
    assert_eq!(
        format!("{response:?}"),
        "ChallengeResponse { quote: 6 characters, node_key: None, boot_log: Some(\"6 bytes\") }"
    );
    let shown = format!("{:?}", payload_2());
    assert!(shown.ends_with("agent_nonce: Some(Nonce(32 characters)) }"), "{shown}");
}

fn payload_2() -> Payload {
    Payload { agent_nonce: Some("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".parse().unwrap()), ..payload() }
}

fn challenge_2(pcrs: u32, boot_log: bool) -> Challenge {
    let wanted = Wanted { pcrs: PcrMask::from_bits(pcrs).unwrap(), boot_log };
    Challenge { nonce: "ABC".into(), wanted: Some(wanted) }
}

#[test]
fn version_2_adds_members() {
    let rows = [
        (
            payload_2().to_json(),
            r#"{"AgentID":"ZDQzMmZiYjMtZDJmMS00YTk3LTllZjctNzViZDgxYzAwMDAw","HashAlg":"c2hhMjU2","Version":"Mg==","AgentNonce":"QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoyMzQ1Njc="}"#,
        ),
        (challenge_2(0, false).to_json(), r#"{"Nonce":"QUJD","Version":"Mg=="}"#),
        // 0x000081, 1
        (
            challenge_2(0x81, true).to_json(),
            r#"{"Nonce":"QUJD","Version":"Mg==","PCRMask":"MHgwMDAwODE=","BootLog":"MQ=="}"#,
        ),
        (
            ChallengeResponse { quote: "r".into(), node_key: Some("PEM".into()), boot_log: Some(vec![0xff, 0]) }
                .to_json(),
            r#"{"TPMQuote":"cg==","Version":"Mg==","PubKey":"UEVN","BootLog":"/wA="}"#,
        ),
    ];
    for (json, expected) in rows {
        assert_eq!(String::from_utf8(json).unwrap(), expected);
    }
}

#[test]
fn version_2_survives_the_round_trip() {
    assert_eq!(Payload::from_json(&payload_2().to_json()).unwrap(), payload_2());
    for (pcrs, boot_log) in [(0, false), (0, true), (0x81, false), (0xff_ffff, true)] {
        let message = challenge_2(pcrs, boot_log);
        assert_eq!(Challenge::from_json(&message.to_json()).unwrap(), message);
    }
    for (node_key, boot_log) in
        [(None, None), (Some("PEM"), None), (None, Some(vec![0xff])), (Some("x"), Some(vec![7]))]
    {
        let message = ChallengeResponse { quote: "r".into(), node_key: node_key.map(str::to_owned), boot_log };
        assert_eq!(ChallengeResponse::from_json(&message.to_json(), true).unwrap(), message);
    }
    // The longest of everything.
    let message = ChallengeResponse {
        quote: "r".repeat(crate::quote::MAX_QUOTE_STRING_LEN),
        node_key: Some("k".repeat(MAX_NODE_KEY_LEN)),
        boot_log: Some(vec![0xa5; MAX_BOOT_LOG_LEN]),
    };
    assert_eq!(ChallengeResponse::from_json(&message.to_json(), true).unwrap(), message);
    let without_log = ChallengeResponse { boot_log: None, ..message };
    assert_eq!(ChallengeResponse::from_json(&without_log.to_json(), false).unwrap(), without_log);
}

#[test]
fn a_boot_log_that_nobody_wanted_is_left_out() {
    let message = ChallengeResponse { quote: "r".into(), node_key: None, boot_log: Some(vec![7; 100]) };
    assert_eq!(ChallengeResponse::from_json(&message.to_json(), false).unwrap().boot_log, None);
    let message = ChallengeResponse { boot_log: Some(vec![7; 60_000]), ..message };
    let error = ChallengeResponse::from_json(&message.to_json(), false).unwrap_err().to_string();
    assert_eq!(error, "the challenge response has 80049 bytes, at most 65536 are accepted");
}

#[test]
fn versions_are_told_apart() {
    let payload = |version: &str| {
        let version = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, version);
        let json = format!(r#"{{"AgentID":"eA==","HashAlg":"eQ==","AgentNonce":"QQ==","Version":"{version}"}}"#);
        Payload::from_json(json.as_bytes()).map(|payload| payload.agent_nonce.is_some())
    };
    for (version, is_2) in [("", false), ("2", true), ("02", true), ("3", true), ("99999999999999999999999", true)] {
        assert_eq!(payload(version).unwrap(), is_2, "{version}");
    }
    for version in ["0", "1", "-2", "+2", "2.0", " 2", "two", "0x2", "٢"] {
        let error = payload(version).unwrap_err().to_string();
        assert_eq!(
            error, "member Version of the attestation payload is not a decimal number of 2 or more",
            "{version}"
        );
    }
    let bare = |version: &str| format!(r#"{{"AgentID":"eA==","HashAlg":"eQ==",{version}"AgentNonce":"QQ=="}}"#);
    assert_eq!(Payload::from_json(bare("").as_bytes()).unwrap().agent_nonce, None);
    assert_eq!(Payload::from_json(bare(r#""Version":null,"#).as_bytes()).unwrap().agent_nonce, None);
    Payload::from_json(bare(r#""Version":2,"#).as_bytes()).unwrap_err();
}

#[test]
fn each_fault_of_version_2_has_its_error() {
    let payload = |json: &str| Payload::from_json(json.as_bytes()).map(drop);
    let challenge = |json: &str| Challenge::from_json(json.as_bytes()).map(drop);
    let response = |json: &str| ChallengeResponse::from_json(json.as_bytes(), true).map(drop);
    type Decode<'a> = &'a dyn Fn(&str) -> Result<(), PayloadError>;
    let key = ChallengeResponse { quote: "r".into(), node_key: Some("k".repeat(4097)), boot_log: None };
    let key = String::from_utf8(key.to_json()).unwrap();
    let log = ChallengeResponse { quote: "r".into(), node_key: None, boot_log: Some(vec![0; (256 << 10) + 1]) };
    let log = String::from_utf8(log.to_json()).unwrap();
    let long = " ".repeat((512 << 10) + 1);
    let rows: [(Decode<'_>, &str, &str); 17] = [
        (
            &payload,
            r#"{"AgentID":"eA==","HashAlg":"eQ==","Version":"Mg=="}"#,
            "the attestation payload lacks member AgentNonce",
        ),
        (
            &payload,
            r#"{"AgentID":"eA==","HashAlg":"eQ==","Version":"Mg==","AgentNonce":"YS1i"}"#,
            "member AgentNonce of the attestation payload is unusable: the nonce has characters other than ASCII letters \
             and digits",
        ),
        (
            &payload,
            r#"{"AgentID":"eA==","HashAlg":"eQ==","Version":"Mg==","AgentNonce":"*"}"#,
            "member AgentNonce of the attestation payload is not base64",
        ),
        (
            &payload,
            r#"{"AgentID":"eA==","HashAlg":"eQ==","Version":"*"}"#,
            "member Version of the attestation payload is not base64",
        ),
        (
            &payload,
            r#"{"AgentID":"eA==","HashAlg":"eQ==","Version":"/w=="}"#,
            "member Version of the attestation payload is not UTF-8 text",
        ),
        (&challenge, r#"{"Version":"Mg=="}"#, "the challenge lacks member Nonce"),
        (
            &challenge,
            r#"{"Nonce":"QQ==","Version":"MQ=="}"#,
            "member Version of the challenge is not a decimal number of 2 or more",
        ),
        (
            &challenge,
            r#"{"Nonce":"QQ==","Version":"Mg==","PCRMask":"eHg="}"#,
            "member PCRMask of the challenge is unusable: a PCR mask is 1 to 8 hexadecimal digits with an optional 0x",
        ),
        (
            // 0x1000000
            &challenge,
            r#"{"Nonce":"QQ==","Version":"Mg==","PCRMask":"MHgxMDAwMDAw"}"#,
            "member PCRMask of the challenge is unusable: PCR mask 0x1000000 names PCRs above 23",
        ),
        (
            &challenge,
            r#"{"Nonce":"QQ==","Version":"Mg==","BootLog":"MA=="}"#,
            "member BootLog of the challenge is not 1",
        ),
        (
            &challenge,
            r#"{"Nonce":"QQ==","Version":"Mg==","BootLog":true}"#,
            "the challenge is malformed in line 1, column 47: it is not an object, or a member is not text or given \
             twice",
        ),
        (&response, r#"{"Version":"Mg=="}"#, "the challenge response lacks member TPMQuote"),
        (
            &response,
            r#"{"TPMQuote":"cg==","Version":"Mg==","PubKey":"/w=="}"#,
            "member PubKey of the challenge response is not UTF-8 text",
        ),
        (
            &response,
            r#"{"TPMQuote":"cg==","Version":"Mg==","BootLog":"*"}"#,
            "member BootLog of the challenge response is not base64",
        ),
        (&response, &key, "member PubKey of the challenge response has 4097 bytes, at most 4096 are accepted"),
        (&response, &log, "member BootLog of the challenge response has 262145 bytes, at most 262144 are accepted"),
        (&response, &long, "the challenge response has 524289 bytes, at most 524288 are accepted"),
    ];
    for (decode, json, expected) in rows {
        assert_eq!(decode(json).unwrap_err().to_string(), expected);
    }
}

#[test]
fn no_prefix_of_version_2_is_a_message() {
    for json in [payload_2().to_json(), challenge_2(0x81, true).to_json()] {
        for len in 0..json.len() {
            Payload::from_json(&json[..len]).unwrap_err();
            Challenge::from_json(&json[..len]).unwrap_err();
            ChallengeResponse::from_json(&json[..len], true).unwrap_err();
        }
    }
}
