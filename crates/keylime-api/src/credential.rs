// SPDX-License-Identifier: Apache-2.0
//! The credential a registrar makes for an EK, and the proof that it was activated

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use crate::id::AgentId;

const MAGIC: u32 = 0xBADC_C0DE;
const VERSION: u32 = 1;

/// Largest part accepted, in bytes. A secret encrypted for RSA-4096 has 512.
const MAX_PART: usize = 1024;

/// The answer to a registration: what TPM2_MakeCredential gave, in the frame of tpm2-tools.
///
/// Layout, big endian: u32 magic 0xBADCC0DE, u32 version 1, TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET
/// (TPM 2.0 Library Part 2, "TPM2B_ID_OBJECT" and "TPM2B_ENCRYPTED_SECRET"), nothing behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialBlob {
    /// Content of TPM2B_ID_OBJECT, without its size: 1 to 1024 bytes.
    pub id_object: Vec<u8>,
    /// Content of TPM2B_ENCRYPTED_SECRET, without its size: 1 to 1024 bytes.
    pub encrypted_secret: Vec<u8>,
}

/// The bytes are no credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCredential {
    /// Ends too early.
    #[error("the credential ends within its {0}")]
    Short(&'static str),
    /// Another magic number.
    #[error("the credential begins with 0x{0:08x}, not with 0xbadcc0de")]
    Magic(u32),
    /// Another version.
    #[error("the credential has version {0}, not 1")]
    Version(u32),
    /// A part of size 0, or larger than any real one.
    #[error("the credential's {part} has {size} bytes, 1 to {MAX_PART} are allowed")]
    Size {
        /// Which part.
        part: &'static str,
        /// Its size.
        size: usize,
    },
    /// Bytes behind the end.
    #[error("the credential has {0} bytes too many")]
    Trailing(usize),
}

impl CredentialBlob {
    /// Decodes the bytes (already out of base64).
    ///
    /// # Errors
    /// The bytes do not have exactly the layout above.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidCredential> {
        let (magic, rest) = number(bytes, "magic number")?;
        if magic != MAGIC {
            return Err(InvalidCredential::Magic(magic));
        }
        let (version, rest) = number(rest, "version")?;
        if version != VERSION {
            return Err(InvalidCredential::Version(version));
        }
        let (id_object, rest) = sized(rest, "ID object")?;
        let (encrypted_secret, rest) = sized(rest, "encrypted secret")?;
        if !rest.is_empty() {
            return Err(InvalidCredential::Trailing(rest.len()));
        }
        Ok(Self { id_object, encrypted_secret })
    }
}

fn number<'a>(bytes: &'a [u8], part: &'static str) -> Result<(u32, &'a [u8]), InvalidCredential> {
    let (head, rest) = bytes.split_first_chunk().ok_or(InvalidCredential::Short(part))?;
    Ok((u32::from_be_bytes(*head), rest))
}

fn sized<'a>(bytes: &'a [u8], part: &'static str) -> Result<(Vec<u8>, &'a [u8]), InvalidCredential> {
    let (head, rest) = bytes.split_first_chunk().ok_or(InvalidCredential::Short(part))?;
    let size = usize::from(u16::from_be_bytes(*head));
    if size == 0 || size > MAX_PART {
        return Err(InvalidCredential::Size { part, size });
    }
    let (content, rest) = rest.split_at_checked(size).ok_or(InvalidCredential::Short(part))?;
    Ok((content.to_vec(), rest))
}

/// The proof of activation: 96 lower-case hex digits, HMAC-SHA384 over the agent id, keyed with the
/// base64 text of the secret that TPM2_ActivateCredential gave (the text, not the bytes).
pub fn auth_tag(secret: &[u8], id: &AgentId) -> String {
    let text = STANDARD.encode(secret);
    let key = hmac::Key::new(hmac::HMAC_SHA384, text.as_bytes());
    hex::encode(hmac::sign(&key, id.as_str().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Vec<u8> {
        let mut bytes = vec![0xBA, 0xDC, 0xC0, 0xDE, 0, 0, 0, 1];
        bytes.extend([0, 3, 1, 2, 3]);
        bytes.extend([0, 2, 4, 5]);
        bytes
    }

    #[test]
    fn decodes() {
        let blob = CredentialBlob::decode(&good()).unwrap();
        assert_eq!(blob.id_object, [1, 2, 3]);
        assert_eq!(blob.encrypted_secret, [4, 5]);
    }

    #[test]
    fn refuses_every_prefix_and_more() {
        for n in 0..good().len() {
            assert!(matches!(CredentialBlob::decode(&good()[..n]), Err(InvalidCredential::Short(_))));
        }
        let changed = |at: usize, to: u8| {
            let mut bytes = good();
            bytes[at] = to;
            CredentialBlob::decode(&bytes).unwrap_err().to_string()
        };
        assert_eq!(changed(0, 0), "the credential begins with 0x00dcc0de, not with 0xbadcc0de");
        assert_eq!(changed(7, 2), "the credential has version 2, not 1");
        assert_eq!(changed(9, 0), "the credential's ID object has 0 bytes, 1 to 1024 are allowed");
        assert_eq!(changed(8, 255), "the credential's ID object has 65283 bytes, 1 to 1024 are allowed");
        assert_eq!(changed(9, 200), "the credential ends within its ID object");
        let mut bytes = good();
        bytes.push(0);
        assert_eq!(CredentialBlob::decode(&bytes).unwrap_err().to_string(), "the credential has 1 bytes too many");
    }

    /// From Python: `hmac.new(base64.b64encode(secret), id, "sha384")`.
    #[test]
    fn proof_is_keyed_with_the_text() {
        let id = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000".parse().unwrap();
        assert_eq!(auth_tag(b"0123456789abcdefghijklmnopqrstuv", &id), AUTH_TAG);
    }

    const AUTH_TAG: &str =
        "1cce04c1d1b163efa7a371a59cc8b1690e90c71f299d577892bbfc1055e9b20a3eb55391487e06f25d09bd0f1505a1db";
}
