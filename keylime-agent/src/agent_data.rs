// SPDX-License-Identifier: Apache-2.0
//! The stock agent's data file (`agent_data.json`): the AK, so that it stays the same over restarts. The registrar
//! refuses a host that comes with another AK, so a file that cannot be read stops the start instead of being replaced.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tpm::SavedAk;
use tpm_wire::hash::{HashAlgorithm, KeyAlgorithm, SignatureScheme};
use tpm_wire::public::{Curve, Public, PublicKey};

use crate::files;

/// The file as it is stored: pretty-printed JSON, byte strings as arrays of numbers.
#[derive(Serialize, Deserialize)]
struct Record {
    ak_hash_alg: String,
    ak_sign_alg: String,
    /// TPMT_PUBLIC, without a size in front.
    ak_public: Vec<u8>,
    /// The buffer of TPM2B_PRIVATE, without its size. Only the TPM that made it can use it.
    ak_private: Vec<u8>,
    /// The 64 ASCII digits of the EK's hash.
    ek_hash: Vec<u8>,
}

/// What a stored AK must fit to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fit<'a> {
    pub(crate) hash: HashAlgorithm,
    pub(crate) key: KeyAlgorithm,
    pub(crate) signing: SignatureScheme,
    /// SHA-256 over the EK's PEM text, 64 lower-case hexadecimal digits.
    pub(crate) ek_hash: &'a str,
}

/// A file that could be read.
pub(crate) struct Stored {
    record: Record,
    key: Option<KeyAlgorithm>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentDataError {
    #[error("cannot read the AK from {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "the AK in {} cannot be used: {reason}. A new AK would be a new identity, which the registrar refuses for this \
         agent id, so none is made. Restore the file from a backup; or move it away and have the registration deleted \
         with: keylime_tenant -c regdelete",
        path.display()
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("cannot store the AK in {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Stored {
    /// The stored AK.
    pub(crate) fn ak(&self) -> SavedAk {
        SavedAk { public: self.record.ak_public.clone(), private: self.record.ak_private.clone() }
    }

    /// Whether the AK was made in this TPM and under these settings.
    pub(crate) fn fits(&self, fit: &Fit<'_>) -> bool {
        self.record.ak_hash_alg == hash_word(fit.hash)
            && self.record.ak_sign_alg == scheme_word(fit.signing)
            && self.record.ek_hash == fit.ek_hash.as_bytes()
            && self.key == Some(fit.key)
    }
}

/// The error that names the file and what to do.
pub(crate) fn damaged(path: &Path, reason: impl fmt::Display) -> AgentDataError {
    AgentDataError::Damaged { path: path.to_owned(), reason: reason.to_string() }
}

/// Reads the file, if there is one.
pub(crate) fn load(path: &Path) -> Result<Option<Stored>, AgentDataError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(AgentDataError::Read { path: path.to_owned(), source });
        }
    };
    let record: Record = serde_json::from_slice(&text)
        .map_err(|error| damaged(path, format_args!("it is not an agent data file ({error})")))?;
    let public = Public::decode_tpmt(&record.ak_public)
        .map_err(|error| damaged(path, format_args!("its public key is malformed ({error})")))?;
    Ok(Some(Stored { key: key_algorithm(&public), record }))
}

/// Writes the file, readable by its owner only, as it is written at each start.
pub(crate) fn store(path: &Path, ak: &SavedAk, fit: &Fit<'_>) -> Result<(), AgentDataError> {
    let record = Record {
        ak_hash_alg: hash_word(fit.hash).to_owned(),
        ak_sign_alg: scheme_word(fit.signing).to_owned(),
        ak_public: ak.public.clone(),
        ak_private: ak.private.clone(),
        ek_hash: fit.ek_hash.as_bytes().to_vec(),
    };
    serde_json::to_vec_pretty(&record)
        .map_err(io::Error::from)
        .and_then(|text| files::replace(path, &text, 0o600))
        .map_err(|source| AgentDataError::Write { path: path.to_owned(), source })
}

/// The file's own words for the algorithms.
fn hash_word(hash: HashAlgorithm) -> &'static str {
    match hash {
        HashAlgorithm::Sha1 => "Sha1",
        HashAlgorithm::Sha256 => "Sha256",
        HashAlgorithm::Sha384 => "Sha384",
        HashAlgorithm::Sha512 => "Sha512",
        HashAlgorithm::Sm3_256 => "Sm3_256",
    }
}

fn scheme_word(scheme: SignatureScheme) -> &'static str {
    match scheme {
        SignatureScheme::RsaSsa => "RsaSsa",
        SignatureScheme::RsaPss => "RsaPss",
        SignatureScheme::EcDsa => "EcDsa",
        SignatureScheme::EcSchnorr => "EcSchnorr",
    }
}

/// Type and size of a key, which the stock agent does not compare: with it, a changed `tpm_encryption_alg` has no effect
/// on the AK until the file is deleted.
fn key_algorithm(public: &Public) -> Option<KeyAlgorithm> {
    match &public.key {
        PublicKey::Rsa { modulus, .. } => match modulus.len() {
            128 => Some(KeyAlgorithm::Rsa1024),
            256 => Some(KeyAlgorithm::Rsa2048),
            384 => Some(KeyAlgorithm::Rsa3072),
            512 => Some(KeyAlgorithm::Rsa4096),
            _ => None,
        },
        PublicKey::Ecc { curve, .. } => Some(match curve {
            Curve::NistP192 => KeyAlgorithm::Ecc192,
            Curve::NistP224 => KeyAlgorithm::Ecc224,
            Curve::NistP256 => KeyAlgorithm::Ecc256,
            Curve::NistP384 => KeyAlgorithm::Ecc384,
            Curve::NistP521 => KeyAlgorithm::Ecc521,
            Curve::Sm2P256 => KeyAlgorithm::EccSm2,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TPMT_PUBLIC of an AK: RSA-2048, RSASSA, SHA-256.
    fn rsa_ak() -> Vec<u8> {
        let mut public = hex::decode("0001000b00050072000000100014000b0800000000000100").unwrap();
        public.extend([0xc5; 256]);
        public
    }

    const EK_HASH: &str = "d1d7a9b3ce1e2f6d4a0f6f1bb3ad1b6c6aa3a0a6d3e4ee21b1d5a2d0f4a7c9e8";

    fn fit() -> Fit<'static> {
        Fit {
            hash: HashAlgorithm::Sha256,
            key: KeyAlgorithm::Rsa2048,
            signing: SignatureScheme::RsaSsa,
            ek_hash: EK_HASH,
        }
    }

    fn ak() -> SavedAk {
        SavedAk { public: rsa_ak(), private: vec![1, 2, 255] }
    }

    #[test]
    fn the_file_is_the_stock_agents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent_data.json");
        assert!(load(&path).unwrap().is_none());
        store(&path, &ak(), &fit()).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(json["ak_hash_alg"], "Sha256");
        assert_eq!(json["ak_sign_alg"], "RsaSsa");
        assert_eq!(json["ak_public"][3], 11);
        assert_eq!(json["ak_private"], serde_json::json!([1, 2, 255]));
        assert_eq!(json["ek_hash"][0], b'd');
        assert_eq!(json.as_object().unwrap().len(), 5);
        let stored = load(&path).unwrap().unwrap();
        assert_eq!(stored.ak(), ak());
        assert!(stored.fits(&fit()));
    }

    #[test]
    fn each_difference_makes_it_unfit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent_data.json");
        store(&path, &ak(), &fit()).unwrap();
        let stored = load(&path).unwrap().unwrap();
        let hash = HashAlgorithm::Sha384;
        let key = KeyAlgorithm::Rsa3072;
        let signing = SignatureScheme::RsaPss;
        let ek_hash = "0";
        for other in [Fit { hash, ..fit() }, Fit { key, ..fit() }, Fit { signing, ..fit() }, Fit { ek_hash, ..fit() }] {
            assert!(!stored.fits(&other), "{other:?}");
        }
    }

    #[test]
    fn a_damaged_file_is_kept_and_explained() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent_data.json");
        let advice = ". A new AK would be a new identity, which the registrar refuses for this agent id, so none is \
                      made. Restore the file from a backup; or move it away and have the registration deleted with: \
                      keylime_tenant -c regdelete";
        let shown = path.display();
        store(&path, &ak(), &fit()).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        for (text, reason) in [
            (String::new(), "it is not an agent data file (EOF while parsing a value at line 1 column 0)"),
            (good[..good.len() - 9].to_owned(), "it is not an agent data file (EOF"),
            (good.replace("255", "256"), "it is not an agent data file (invalid value"),
            (good.replacen("0,", "9,", 1), "its public key is malformed ("),
        ] {
            std::fs::write(&path, &text).unwrap();
            let error = load(&path).err().unwrap().to_string();
            assert!(error.starts_with(&format!("the AK in {shown} cannot be used: {reason}")), "{error}");
            assert!(error.ends_with(advice), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
