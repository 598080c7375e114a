// SPDX-License-Identifier: Apache-2.0
//! The messages between the agent and the server plugin, in two versions.
//!
//! Each is a JSON object whose members are base64 (standard alphabet, padded) of UTF-8 text; only
//! `BootLog` of the response is base64 of bytes. Like Go's `encoding/json` the decoders match member
//! names without regard to ASCII case and skip unknown members, so that later messages may carry
//! more. Unlike it they refuse a required member that is missing, null or empty, and any member that
//! is given twice: Go would take nothing, or the last.
//!
//! Version 1 is what the Go Keylime plugins write. Version 2 adds members that they skip:
//!
//! | Message | Version 1 | Version 2 adds |
//! |---|---|---|
//! | [`Payload`] | `AgentID`, `HashAlg` | `Version`, `AgentNonce` |
//! | [`Challenge`] | `Nonce` | `Version`, `PCRMask` if not empty, `BootLog` if wanted |
//! | [`ChallengeResponse`] | `TPMQuote` | `Version`, `PubKey`, `BootLog`, the latter two where the node has them |
//!
//! A message without `Version` is of version 1 and the other new members in it are not looked at. A
//! version above 2 is read as 2: later versions keep the meaning of these members. A challenge of
//! version 2 answers only a payload of version 2, and its response is quoted over
//! [`crate::nonce::bound`].

mod json;

use std::fmt;

use crate::nonce::{Nonce, NonceError};
use crate::pcr::{PcrMask, PcrMaskError};
use json::{bytes, decode, encode, required_text, text};

/// The largest accepted [`Payload`] in JSON, in bytes.
pub const MAX_PAYLOAD_LEN: usize = 4 * 1024;
/// The largest accepted [`Challenge`] in JSON, in bytes.
pub const MAX_CHALLENGE_LEN: usize = 4 * 1024;
/// The largest accepted [`ChallengeResponse`] in JSON where no boot log was wanted, in bytes. The
/// longest quote string takes about 26 KiB in base64, the longest node key about 6 KiB.
pub const MAX_CHALLENGE_RESPONSE_LEN: usize = 64 * 1024;
/// The largest accepted [`ChallengeResponse`] in JSON where a boot log was wanted, in bytes. The
/// longest boot log takes about 342 KiB in base64.
pub const MAX_CHALLENGE_RESPONSE_WITH_BOOT_LOG_LEN: usize = 512 * 1024;
/// The longest node key in PEM, in bytes. RSA-4096 takes about 800.
pub const MAX_NODE_KEY_LEN: usize = 4 * 1024;
/// The longest boot log, in bytes. Logs of PCs have 20 to 100 KiB.
pub const MAX_BOOT_LOG_LEN: usize = 256 * 1024;

/// The attestation payload: who the node says it is. Nothing in it is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Keylime agent id, member `AgentID`. Not validated here.
    pub agent_id: String,
    /// Name of the agent's hash algorithm, member `HashAlg`. Not validated here.
    pub hash_alg: String,
    /// The agent plugin's share of the nonce, member `AgentNonce`: there in version 2, and only then.
    pub agent_nonce: Option<Nonce>,
}

/// The challenge: the nonce to quote over, and what else is wanted.
#[derive(Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The server plugin's nonce, member `Nonce`. Not validated here.
    pub nonce: String,
    /// What version 2 asks for: there in version 2, and only then.
    pub wanted: Option<Wanted>,
}

/// What a challenge of version 2 asks for besides a quote of PCR 16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// PCRs that the quote should cover besides 16, member `PCRMask` (`0x` and six hexadecimal
    /// digits); absent if there is none.
    pub pcrs: PcrMask,
    /// The boot log is wanted, member `BootLog` (`1`); absent if not.
    pub boot_log: bool,
}

/// The answer to the challenge.
#[derive(Clone, PartialEq, Eq)]
pub struct ChallengeResponse {
    /// The Keylime quote string, member `TPMQuote`. Not validated here.
    pub quote: String,
    /// The node key in PEM as the Keylime agent sent it, member `PubKey` of version 2: at most
    /// [`MAX_NODE_KEY_LEN`] bytes. Not validated here.
    pub node_key: Option<String>,
    /// The binary boot log, member `BootLog` of version 2: at most [`MAX_BOOT_LOG_LEN`] bytes. Not
    /// validated here.
    pub boot_log: Option<Vec<u8>>,
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
    /// A member is longer than its bound.
    #[error("member {member} of the {message} has {len} bytes, at most {limit} are accepted")]
    MemberTooLong {
        /// Which message.
        message: &'static str,
        /// The member's name.
        member: &'static str,
        /// Its length in bytes, decoded.
        len: usize,
        /// The largest accepted length in bytes.
        limit: usize,
    },
    /// The version is not a decimal number, or below 2. (Version 1 is told by the member's absence.)
    #[error("member Version of the {message} is not a decimal number of 2 or more")]
    Version {
        /// Which message.
        message: &'static str,
    },
    /// The agent plugin's nonce is not one.
    #[error("member AgentNonce of the attestation payload is unusable: {0}")]
    AgentNonce(#[source] NonceError),
    /// The PCR mask is not one.
    #[error("member PCRMask of the challenge is unusable: {0}")]
    PcrMask(#[source] PcrMaskError),
    /// The wish for the boot log has another value than `1`.
    #[error("member BootLog of the challenge is not 1")]
    BootLogWish,
}

const PAYLOAD: &str = "attestation payload";
const CHALLENGE: &str = "challenge";
const RESPONSE: &str = "challenge response";

/// The version that has all members known here.
const VERSION_2: &str = "2";

impl Payload {
    /// The message in JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let mut members = vec![("AgentID", self.agent_id.as_bytes()), ("HashAlg", self.hash_alg.as_bytes())];
        if let Some(nonce) = &self.agent_nonce {
            members.extend([("Version", VERSION_2.as_bytes()), ("AgentNonce", nonce.as_bytes())]);
        }
        encode(&members)
    }

    /// Decodes the message.
    ///
    /// # Errors
    /// [`PayloadError`] if it is longer than [`MAX_PAYLOAD_LEN`] or malformed, or a member is missing.
    pub fn from_json(json: &[u8]) -> Result<Self, PayloadError> {
        let names = ["AgentID", "HashAlg", "Version", "AgentNonce"];
        let [agent_id, hash_alg, version, agent_nonce] = decode(PAYLOAD, MAX_PAYLOAD_LEN, names, json)?;
        Ok(Self {
            agent_id: required_text(PAYLOAD, "AgentID", agent_id)?,
            hash_alg: required_text(PAYLOAD, "HashAlg", hash_alg)?,
            agent_nonce: if is_version_2(PAYLOAD, version)? {
                let nonce = required_text(PAYLOAD, "AgentNonce", agent_nonce)?;
                Some(nonce.parse().map_err(PayloadError::AgentNonce)?)
            } else {
                None
            },
        })
    }
}

impl Challenge {
    /// The message in JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let mut members = vec![("Nonce", self.nonce.as_bytes())];
        let mask = self.wanted.map(|wanted| format!("{:#08x}", wanted.pcrs.bits()));
        if let (Some(wanted), Some(mask)) = (self.wanted, &mask) {
            members.push(("Version", VERSION_2.as_bytes()));
            if !wanted.pcrs.is_empty() {
                members.push(("PCRMask", mask.as_bytes()));
            }
            if wanted.boot_log {
                members.push(("BootLog", b"1"));
            }
        }
        encode(&members)
    }

    /// Decodes the message.
    ///
    /// # Errors
    /// [`PayloadError`] if it is longer than [`MAX_CHALLENGE_LEN`] or malformed, or the nonce is missing.
    pub fn from_json(json: &[u8]) -> Result<Self, PayloadError> {
        let names = ["Nonce", "Version", "PCRMask", "BootLog"];
        let [nonce, version, mask, boot_log] = decode(CHALLENGE, MAX_CHALLENGE_LEN, names, json)?;
        let nonce = required_text(CHALLENGE, "Nonce", nonce)?;
        if !is_version_2(CHALLENGE, version)? {
            return Ok(Self { nonce, wanted: None });
        }
        let pcrs = match text(CHALLENGE, "PCRMask", mask)? {
            Some(mask) => mask.parse().map_err(PayloadError::PcrMask)?,
            None => PcrMask::EMPTY,
        };
        let boot_log = match text(CHALLENGE, "BootLog", boot_log)?.as_deref() {
            None => false,
            Some("1") => true,
            Some(_) => return Err(PayloadError::BootLogWish),
        };
        Ok(Self { nonce, wanted: Some(Wanted { pcrs, boot_log }) })
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nonces do not belong in logs.
        write!(f, "Challenge {{ nonce: {} characters, wanted: {:?} }}", self.nonce.len(), self.wanted)
    }
}

impl ChallengeResponse {
    /// The message in JSON. It is of version 2 if it has a member of version 2.
    pub fn to_json(&self) -> Vec<u8> {
        let mut members = vec![("TPMQuote", self.quote.as_bytes())];
        if self.node_key.is_some() || self.boot_log.is_some() {
            members.push(("Version", VERSION_2.as_bytes()));
        }
        members.extend(self.node_key.as_deref().map(|key| ("PubKey", key.as_bytes())));
        members.extend(self.boot_log.as_deref().map(|log| ("BootLog", log)));
        encode(&members)
    }

    /// Decodes the message. A boot log that was not wanted is not looked at, and makes the message too
    /// long where it is one.
    ///
    /// # Errors
    /// [`PayloadError`] if it is longer than [`MAX_CHALLENGE_RESPONSE_LEN`] (with a boot log wanted
    /// [`MAX_CHALLENGE_RESPONSE_WITH_BOOT_LOG_LEN`]) or malformed, the quote is missing, or a member is
    /// longer than its bound.
    pub fn from_json(json: &[u8], boot_log_wanted: bool) -> Result<Self, PayloadError> {
        let limit = if boot_log_wanted { MAX_CHALLENGE_RESPONSE_WITH_BOOT_LOG_LEN } else { MAX_CHALLENGE_RESPONSE_LEN };
        let names = ["TPMQuote", "Version", "PubKey", "BootLog"];
        let [quote, version, node_key, boot_log] = decode(RESPONSE, limit, names, json)?;
        let quote = required_text(RESPONSE, "TPMQuote", quote)?;
        if !is_version_2(RESPONSE, version)? {
            return Ok(Self { quote, node_key: None, boot_log: None });
        }
        let node_key = text(RESPONSE, "PubKey", node_key)?;
        let boot_log = boot_log.filter(|_| boot_log_wanted);
        let boot_log = bytes(RESPONSE, "BootLog", boot_log)?;
        bounded("PubKey", node_key.as_deref().map(str::as_bytes), MAX_NODE_KEY_LEN)?;
        bounded("BootLog", boot_log.as_deref(), MAX_BOOT_LOG_LEN)?;
        Ok(Self { quote, node_key, boot_log })
    }
}

impl fmt::Debug for ChallengeResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither do quotes.
        f.debug_struct("ChallengeResponse")
            .field("quote", &format_args!("{} characters", self.quote.len()))
            .field("node_key", &self.node_key.as_ref().map(|key| format!("{} characters", key.len())))
            .field("boot_log", &self.boot_log.as_ref().map(|log| format!("{} bytes", log.len())))
            .finish()
    }
}

/// Whether the message has a version, which is at least 2.
fn is_version_2(message: &'static str, member: Option<String>) -> Result<bool, PayloadError> {
    let Some(version) = text(message, "Version", member)? else { return Ok(false) };
    if !version.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(PayloadError::Version { message });
    }
    // Digits only: what does not parse is a very large number.
    match version.parse::<u64>().unwrap_or(u64::MAX) {
        0 | 1 => Err(PayloadError::Version { message }),
        _ => Ok(true),
    }
}

/// A member of the response is within its bound.
fn bounded(member: &'static str, bytes: Option<&[u8]>, limit: usize) -> Result<(), PayloadError> {
    match bytes.map(<[u8]>::len) {
        Some(len) if len > limit => Err(PayloadError::MemberTooLong { message: RESPONSE, member, len, limit }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
