// SPDX-License-Identifier: Apache-2.0
//! The stock agent's data file (`agent_data.json`): the AK, so that it stays the same over restarts. The registrar
//! refuses a host that comes with another AK, so a file that cannot be read stops the start instead of being replaced,
//! and before an AK of other settings takes its place the file is kept under another name.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tpm::SavedAk;
use tpm_wire::hash::{HashAlgorithm, KeyAlgorithm, SignatureScheme};
use tpm_wire::public::Public;

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
    ak: SavedAk,
    ek_hash: Vec<u8>,
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
    #[error("cannot keep the AK so far in {}: {source}", path.display())]
    Keep { path: PathBuf, source: io::Error },
    #[error("cannot store the AK in {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Stored {
    /// The stored AK.
    pub(crate) fn ak(&self) -> SavedAk {
        self.ak.clone()
    }

    /// Whether the AK was made in this TPM and under these settings. The file's own words for them repeat what the public
    /// key says; the stock agent, which goes by them, does not notice another `tpm_encryption_alg`.
    pub(crate) fn fits(&self, fit: &Fit<'_>) -> bool {
        self.ek_hash == fit.ek_hash.as_bytes() && self.ak.fits(fit.hash, fit.key, fit.signing)
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
    Public::decode_tpmt(&record.ak_public)
        .map_err(|error| damaged(path, format_args!("its public key is malformed ({error})")))?;
    let ak = SavedAk { public: record.ak_public, private: record.ak_private };
    Ok(Some(Stored { ak, ek_hash: record.ek_hash }))
}

/// Copies the file to where a new AK does not overwrite it, and returns that path:
/// `agent_data.json.backup-YYYYMMDD-HHMMSS`, in UTC.
pub(crate) fn keep(path: &Path) -> Result<PathBuf, AgentDataError> {
    let mut at = SystemTime::now();
    let backup = loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".backup-{}", timestamp(at)));
        let name = PathBuf::from(name);
        // A copy that is there is the only one of another AK.
        match name.try_exists() {
            Ok(true) => at += Duration::from_secs(1),
            _ => break name,
        }
    };
    std::fs::read(path)
        .and_then(|content| files::replace(&backup, &content, 0o600))
        .map_err(|source| AgentDataError::Keep { path: backup.clone(), source })?;
    Ok(backup)
}

/// `YYYYMMDD-HHMMSS` in UTC.
fn timestamp(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Counted from 1 March of the year 0, so that a leap day is the last day of its year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next;
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", time / 3600, time / 60 % 60, time % 60)
}

/// Writes the file, readable by its owner only. One that holds this already is left alone: a full disk is no reason
/// not to start.
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
        .and_then(|text| match std::fs::read(path) {
            Ok(stored) if stored == text => Ok(()),
            _ => files::replace(path, &text, 0o600),
        })
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
    fn a_file_that_holds_the_same_is_not_written() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent_data.json");
        let inode = || std::fs::metadata(&path).unwrap().ino();
        store(&path, &ak(), &fit()).unwrap();
        let first = inode();
        store(&path, &ak(), &fit()).unwrap();
        assert_eq!(inode(), first);
        store(&path, &SavedAk { private: vec![9], ..ak() }, &fit()).unwrap();
        assert_ne!(inode(), first);
    }

    #[test]
    fn an_old_file_is_kept_under_the_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent_data.json");
        store(&path, &ak(), &fit()).unwrap();
        let content = std::fs::read(&path).unwrap();
        // Two within one second, too.
        let backups = [keep(&path).unwrap(), keep(&path).unwrap()];
        assert_ne!(backups[0], backups[1]);
        for backup in backups {
            assert_eq!(std::fs::read(&backup).unwrap(), content);
            let name = backup.file_name().unwrap().to_str().unwrap();
            let time = name.strip_prefix("agent_data.json.backup-").unwrap();
            assert_eq!((time.len(), time.find('-')), (15, Some(8)), "{name}");
        }
        let missing = dir.path().join("missing");
        let error = keep(&missing).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot keep the AK so far in {}.backup-", missing.display())), "{error}");
    }

    #[test]
    fn times_are_calendar_dates() {
        for (seconds, text) in [
            (0, "19700101-000000"),
            (951_782_399, "20000228-235959"),
            (951_782_400, "20000229-000000"),
            (951_868_800, "20000301-000000"),
            (1_735_689_599, "20241231-235959"),
            (1_753_600_245, "20250727-071045"),
            (4_107_542_400, "21000301-000000"),
        ] {
            assert_eq!(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
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
