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
    #[error("the {message} is malformed: {source}")]
    Json {
        /// Which message.
        message: &'static str,
        /// What the JSON decoder says.
        source: serde_json::Error,
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
    let members: Vec<_> = members
        .iter()
        .map(|(name, text)| format!("\"{name}\":\"{}\"", STANDARD.encode(text)))
        .collect();
    format!("{{{}}}", members.join(",")).into_bytes()
}

fn decode<const N: usize>(
    message: &'static str,
    limit: usize,
    names: [&'static str; N],
    json: &[u8],
) -> Result<[String; N], PayloadError> {
    if json.len() > limit {
        return Err(PayloadError::TooLong {
            message,
            len: json.len(),
            limit,
        });
    }
    let mut decoder = serde_json::Deserializer::from_slice(json);
    let members = decoder
        .deserialize_map(Members(names))
        .and_then(|members| decoder.end().map(|()| members))
        .map_err(|source| PayloadError::Json { message, source })?;

    let mut texts = [const { String::new() }; N];
    for ((text, member), name) in texts.iter_mut().zip(members).zip(names) {
        let encoded =
            member
                .filter(|encoded| !encoded.is_empty())
                .ok_or(PayloadError::Missing {
                    message,
                    member: name,
                })?;
        let bytes = STANDARD.decode(encoded).map_err(|_| PayloadError::Base64 {
            message,
            member: name,
        })?;
        *text = String::from_utf8(bytes).map_err(|_| PayloadError::Utf8 {
            message,
            member: name,
        })?;
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
            match slots
                .into_iter()
                .find(|(_, name)| name.eq_ignore_ascii_case(&key))
            {
                Some(((value, seen), name)) => {
                    if std::mem::replace(seen, true) {
                        return Err(de::Error::custom(format_args!(
                            "member {name} is given twice"
                        )));
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
