// SPDX-License-Identifier: Apache-2.0
//! The messages between the agent and the server plugin, as the Go Keylime plugins write them.
//!
//! Each is a JSON object whose members are base64 (standard alphabet, padded) of UTF-8 text. Like
//! Go's `encoding/json` the decoders match member names without regard to ASCII case and skip unknown
//! members, so that later messages may carry more. Unlike it they refuse a member that is missing,
//! null, empty or given twice: Go would take nothing, or the last.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserializer;
use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;
use std::fmt;

/// The largest accepted [`Payload`] in JSON, in bytes.
pub const MAX_PAYLOAD_LEN: usize = 4 * 1024;
/// The largest accepted [`Challenge`] in JSON, in bytes.
pub const MAX_CHALLENGE_LEN: usize = 4 * 1024;
/// The largest accepted [`ChallengeResponse`] in JSON, in bytes. The longest quote string takes about
/// 26 KiB in base64.
pub const MAX_CHALLENGE_RESPONSE_LEN: usize = 64 * 1024;

/// The attestation payload: who the node says it is. Nothing in it is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Keylime agent id, member `AgentID`. Not validated here.
    pub agent_id: String,
    /// Name of the agent's hash algorithm, member `HashAlg`. Not validated here.
    pub hash_alg: String,
}

/// The challenge: the nonce to quote over.
#[derive(Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The nonce, member `Nonce`. Not validated here.
    pub nonce: String,
}

/// The answer to the challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChallengeResponse {
    /// The Keylime quote string, member `TPMQuote`. Not validated here.
    pub quote: String,
}

/// Why bytes are not one of the messages.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The message is longer than its bound.
    #[error("the {message} has {len} bytes, at most {limit} are accepted")]
    TooLong {
        /// Which message.
        message: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The largest accepted length in bytes.
        limit: usize,
    },
    /// The message is not a JSON object, or a member that is read is not a string or given twice.
    ///
    /// What the JSON decoder says is left out: it repeats what the peer sent.
    #[error("the {message} is malformed in line {line}, column {column}: {what}")]
    Json {
        /// Which message.
        message: &'static str,
        /// What is wrong there.
        what: &'static str,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// A member is missing, null or empty.
    #[error("the {message} lacks member {member}")]
    Missing {
        /// Which message.
        message: &'static str,
        /// The member's name.
        member: &'static str,
    },
    /// A member is not standard base64 with padding.
    #[error("member {member} of the {message} is not base64")]
    Base64 {
        /// Which message.
        message: &'static str,
        /// The member's name.
        member: &'static str,
    },
    /// A member is not base64 of UTF-8 text.
    #[error("member {member} of the {message} is not UTF-8 text")]
    Utf8 {
        /// Which message.
        message: &'static str,
        /// The member's name.
        member: &'static str,
    },
}

const PAYLOAD: &str = "attestation payload";
const CHALLENGE: &str = "challenge";
const RESPONSE: &str = "challenge response";

impl Payload {
    /// The message in JSON.
    pub fn to_json(&self) -> Vec<u8> {
        encode(&[("AgentID", &self.agent_id), ("HashAlg", &self.hash_alg)])
    }

    /// Decodes the message.
    ///
    /// # Errors
    /// [`PayloadError`] if it is longer than [`MAX_PAYLOAD_LEN`] or malformed, or a member is missing.
    pub fn from_json(json: &[u8]) -> Result<Self, PayloadError> {
        let [agent_id, hash_alg] = decode(PAYLOAD, MAX_PAYLOAD_LEN, ["AgentID", "HashAlg"], json)?;
        Ok(Self { agent_id, hash_alg })
    }
}

impl Challenge {
    /// The message in JSON.
    pub fn to_json(&self) -> Vec<u8> {
        encode(&[("Nonce", &self.nonce)])
    }

    /// Decodes the message.
    ///
    /// # Errors
    /// [`PayloadError`] if it is longer than [`MAX_CHALLENGE_LEN`] or malformed, or the nonce is missing.
    pub fn from_json(json: &[u8]) -> Result<Self, PayloadError> {
        let [nonce] = decode(CHALLENGE, MAX_CHALLENGE_LEN, ["Nonce"], json)?;
        Ok(Self { nonce })
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nonces do not belong in logs.
        write!(f, "Challenge {{ nonce: {} characters }}", self.nonce.len())
    }
}

impl ChallengeResponse {
    /// The message in JSON.
    pub fn to_json(&self) -> Vec<u8> {
        encode(&[("TPMQuote", &self.quote)])
    }

    /// Decodes the message.
    ///
    /// # Errors
    /// [`PayloadError`] if it is longer than [`MAX_CHALLENGE_RESPONSE_LEN`] or malformed, or the quote is
    /// missing.
    pub fn from_json(json: &[u8]) -> Result<Self, PayloadError> {
        let [quote] = decode(RESPONSE, MAX_CHALLENGE_RESPONSE_LEN, ["TPMQuote"], json)?;
        Ok(Self { quote })
    }
}

/// A JSON object of base64 strings. Neither the names nor base64 need escaping.
fn encode(members: &[(&str, &str)]) -> Vec<u8> {
    let members: Vec<_> =
        members.iter().map(|(name, text)| format!("\"{name}\":\"{}\"", STANDARD.encode(text))).collect();
    format!("{{{}}}", members.join(",")).into_bytes()
}

fn decode<const N: usize>(
    message: &'static str,
    limit: usize,
    names: [&'static str; N],
    json: &[u8],
) -> Result<[String; N], PayloadError> {
    if json.len() > limit {
        return Err(PayloadError::TooLong { message, len: json.len(), limit });
    }
    let mut decoder = serde_json::Deserializer::from_slice(json);
    let members = decoder.deserialize_map(Members(names)).and_then(|members| decoder.end().map(|()| members)).map_err(
        |error| PayloadError::Json {
            message,
            what: match error.classify() {
                Category::Eof => "it ends early",
                Category::Syntax | Category::Io => "it is not JSON",
                Category::Data => "it is not an object, or a member is not text or given twice",
            },
            line: error.line(),
            column: error.column(),
        },
    )?;

    let mut texts = [const { String::new() }; N];
    for ((text, member), name) in texts.iter_mut().zip(members).zip(names) {
        let encoded =
            member.filter(|encoded| !encoded.is_empty()).ok_or(PayloadError::Missing { message, member: name })?;
        let bytes = STANDARD.decode(encoded).map_err(|_| PayloadError::Base64 { message, member: name })?;
        *text = String::from_utf8(bytes).map_err(|_| PayloadError::Utf8 { message, member: name })?;
    }
    Ok(texts)
}

/// Picks the named members out of an object.
struct Members<const N: usize>([&'static str; N]);

impl<'de, const N: usize> Visitor<'de> for Members<N> {
    type Value = [Option<String>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = [const { None }; N];
        let mut seen = [false; N];
        while let Some(key) = map.next_key::<String>()? {
            let slots = values.iter_mut().zip(&mut seen).zip(self.0);
            match slots.into_iter().find(|(_, name)| name.eq_ignore_ascii_case(&key)) {
                Some(((value, seen), name)) => {
                    if std::mem::replace(seen, true) {
                        return Err(de::Error::custom(format_args!("member {name} is given twice")));
                    }
                    *value = map.next_value::<Option<String>>()?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> Payload {
        Payload { agent_id: "d432fbb3-d2f1-4a97-9ef7-75bd81c00000".into(), hash_alg: "sha256".into() }
    }

    #[test]
    fn messages_are_what_go_writes() {
        let json = br#"{"AgentID":"ZDQzMmZiYjMtZDJmMS00YTk3LTllZjctNzViZDgxYzAwMDAw","HashAlg":"c2hhMjU2"}"#;
        assert_eq!(payload().to_json(), json);
        let challenge = Challenge { nonce: "ABC".into() };
        assert_eq!(challenge.to_json(), br#"{"Nonce":"QUJD"}"#);
        let response = ChallengeResponse { quote: "rAA==:AA==:AA==".into() };
        assert_eq!(response.to_json(), br#"{"TPMQuote":"ckFBPT06QUE9PTpBQT09"}"#);
    }

    #[test]
    fn messages_survive_the_round_trip() {
        for text in ["x", "ab", "\"\\\u{0}<&>", "straße"] {
            let message = Payload { agent_id: text.into(), hash_alg: text.into() };
            assert_eq!(Payload::from_json(&message.to_json()).unwrap(), message);
            let message = Challenge { nonce: text.into() };
            assert_eq!(Challenge::from_json(&message.to_json()).unwrap(), message);
            let message = ChallengeResponse { quote: text.into() };
            assert_eq!(ChallengeResponse::from_json(&message.to_json()).unwrap(), message);
        }
    }

    #[test]
    fn a_challenge_response_carries_the_longest_quote_string() {
        let quote = "r".repeat(crate::quote::MAX_QUOTE_STRING_LEN);
        let message = ChallengeResponse { quote };
        assert_eq!(ChallengeResponse::from_json(&message.to_json()).unwrap(), message);
    }

    #[test]
    fn what_go_takes_is_taken() {
        for json in [
            r#"{"agentid":"eA==","HASHALG":"eQ=="}"#,
            r#" { "HashAlg" : "eQ==" , "AgentID" : "eA==" } "#,
            "\n{\"AgentID\":\"eA==\",\"HashAlg\":\"eQ==\"}\n",
            r#"{"Version":2,"Extra":{"AgentID":"bm8="},"AgentID":"eA==","L":[null,"AgentID"],"HashAlg":"eQ=="}"#,
            r#"{"\u0041gentID":"eA\u003d=","HashAlg":"eQ=="}"#,
        ] {
            let message = Payload::from_json(json.as_bytes()).unwrap();
            assert_eq!(message, Payload { agent_id: "x".into(), hash_alg: "y".into() }, "{json}");
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
        let error = ChallengeResponse::from_json(b"{}").unwrap_err().to_string();
        assert_eq!(error, "the challenge response lacks member TPMQuote");
        let error = ChallengeResponse::from_json(&[b' '; 65537]).unwrap_err().to_string();
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
    fn debug_hides_the_nonce() {
        let challenge = Challenge { nonce: "secret".into() };
        assert_eq!(format!("{challenge:?}"), "Challenge { nonce: 6 characters }");
    }
}
