// SPDX-License-Identifier: Apache-2.0
//! The stock agent's data file (`agent_data.json`): the AK, so that it stays the same over restarts. The registrar
//! refuses a host that comes with another AK, so a file that cannot be read stops the start instead of being replaced;
//! a copy of it is kept for whoever mends it in haste. Before an AK of other settings takes its place the file is kept
//! under another name, too.

mod copies;

use std::fmt;
use std::fs::{OpenOptions, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use tpm::SavedAk;
use tpm_wire::hash::{HashAlgorithm, KeyAlgorithm, SignatureScheme};
use tpm_wire::public::Public;

use crate::files;

/// More bytes than the file has with the largest keys that TPMs have.
const LIMIT: usize = 1 << 20;

/// The file as it is stored: pretty-printed JSON, byte strings as arrays of numbers.
#[derive(PartialEq, Serialize, Deserialize)]
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
    /// 64 lower-case hexadecimal digits.
    ek_hash: String,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentDataError {
    #[error(
        "cannot read the AK from {}: {source}. A new AK would be a new identity, so none is made: let the user that the \
         agent runs as read the file, or restore it from a backup",
        path.display()
    )]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "the AK in {} cannot be used: {reason}. A new AK would be a new identity, which the registrar refuses for this \
         agent id, so none is made. Restore the file from a backup; or move it away and have the registration deleted \
         with: keylime_tenant -c regdelete -u AGENT_ID (then `-c delete` and `-c add`, if the verifier has the host){}",
        path.display(),
        shown(copy.as_ref())
    )]
    Damaged { path: PathBuf, reason: String, copy: Option<io::Result<PathBuf>> },
    #[error("cannot make a copy of the AK so far in {}: {source}", path.display())]
    Keep { path: PathBuf, source: io::Error },
    #[error("cannot store the AK in {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Stored {
    /// The stored AK.
    pub(crate) fn ak(&self) -> SavedAk {
        self.ak.clone()
    }

    /// The EK that the AK was made for (its hash), if it is another one.
    pub(crate) fn other_ek(&self, ek_hash: &str) -> Option<&str> {
        (self.ek_hash != ek_hash).then_some(&self.ek_hash)
    }

    /// The AK, if nothing but the EK that the file names speaks against its use.
    pub(crate) fn of_another_ek(&self, fit: &Fit<'_>) -> Option<SavedAk> {
        (self.ek_hash != fit.ek_hash && self.ak.fits(fit.hash, fit.key, fit.signing)).then(|| self.ak())
    }

    /// Whether the AK was made in this TPM and under these settings. The file's own words for them repeat what the public
    /// key says; the stock agent, which goes by them, does not notice another `tpm_encryption_alg`.
    pub(crate) fn fits(&self, fit: &Fit<'_>) -> bool {
        self.ek_hash == fit.ek_hash && self.ak.fits(fit.hash, fit.key, fit.signing)
    }
}

impl AgentDataError {
    /// Has a copy made of a damaged file, unless there is one already, and says so in the message. Whether that succeeds
    /// changes nothing else.
    pub(crate) fn with_copy(mut self) -> Self {
        if let Self::Damaged { path, copy, .. } = &mut self {
            *copy = read_bounded(path).ok().flatten().map(|content| copies::set_aside(path, copies::DAMAGED, &content));
        }
        self
    }
}

fn shown(copy: Option<&io::Result<PathBuf>>) -> String {
    match copy {
        None => String::new(),
        Some(Ok(path)) => format!(". What it holds now is kept as {}", path.display()),
        Some(Err(error)) => format!(". No copy of what it holds now could be made: {error}"),
    }
}

/// The error that names the file and what to do.
pub(crate) fn damaged(path: &Path, reason: impl fmt::Display) -> AgentDataError {
    AgentDataError::Damaged { path: path.to_owned(), reason: reason.to_string(), copy: None }
}

/// Reads the file, if there is one.
pub(crate) fn load(path: &Path) -> Result<Option<Stored>, AgentDataError> {
    let Some(text) = read_bounded(path)? else { return Ok(None) };
    let record: Record = serde_json::from_slice(&text)
        .map_err(|error| damaged(path, format_args!("it is not an agent data file ({error})")))?;
    Public::decode_tpmt(&record.ak_public)
        .map_err(|error| damaged(path, format_args!("its public key is malformed ({error})")))?;
    let ak = SavedAk { public: record.ak_public, private: record.ak_private };
    let ek_hash = String::from_utf8(record.ek_hash).ok().filter(|hash| is_ek_hash(hash));
    let ek_hash = ek_hash.ok_or_else(|| damaged(path, "its ek_hash is not 64 lower-case hexadecimal digits"))?;
    Ok(Some(Stored { ak, ek_hash }))
}

fn is_ek_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, AgentDataError> {
    let failed = |source| AgentDataError::Read { path: path.to_owned(), source };
    // Without waiting for somebody to write into a pipe.
    let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return files::exists(path).map(|_| None).map_err(failed);
        }
        Err(source) => return Err(failed(source)),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(damaged(path, "it is not an ordinary file"));
    }
    let mut content = Vec::new();
    file.take(LIMIT as u64 + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() > LIMIT {
        return Err(damaged(path, format_args!("it has more than {LIMIT} bytes, which no AK has")));
    }
    Ok(Some(content))
}

/// Copies the file to where another AK does not overwrite it, and returns that path:
/// `agent_data.json.backup-YYYYMMDD-HHMMSS`, in UTC. There is one copy of each content.
pub(crate) fn keep(path: &Path) -> Result<PathBuf, AgentDataError> {
    std::fs::read(path)
        .and_then(|content| copies::set_aside(path, copies::BACKUP, &content))
        .map_err(|source| AgentDataError::Keep { path: path.to_owned(), source })
}

/// The copies that [`keep`] has made, the newest first.
pub(crate) fn backups(path: &Path) -> Vec<PathBuf> {
    copies::list(path, copies::BACKUP).unwrap_or_default()
}

/// Writes the file, readable by its owner only. One that holds this already, in whatever layout, keeps its content: a full
/// disk is no reason not to start.
pub(crate) fn store(path: &Path, ak: &SavedAk, fit: &Fit<'_>) -> Result<(), AgentDataError> {
    let record = Record {
        ak_hash_alg: hash_word(fit.hash).to_owned(),
        ak_sign_alg: scheme_word(fit.signing).to_owned(),
        ak_public: ak.public.clone(),
        ak_private: ak.private.clone(),
        ek_hash: fit.ek_hash.as_bytes().to_vec(),
    };
    let is_stored = |text: Vec<u8>| serde_json::from_slice::<Record>(&text).is_ok_and(|stored| stored == record);
    if read_bounded(path).ok().flatten().is_some_and(is_stored) {
        close_to_others(path);
        return Ok(());
    }
    serde_json::to_vec_pretty(&record)
        .map_err(io::Error::from)
        .and_then(|text| files::replace(path, &text, 0o600))
        .map_err(|source| AgentDataError::Write { path: path.to_owned(), source })
}

/// The stock agent leaves its file open to readers.
fn close_to_others(path: &Path) {
    let Ok(metadata) = std::fs::metadata(path) else { return };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0
        && let Err(error) = std::fs::set_permissions(path, Permissions::from_mode(mode & 0o700))
    {
        tracing::debug!("{} stays open to other users: {error}", path.display());
    }
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
        assert_eq!((stored.other_ek(EK_HASH), stored.other_ek("0")), (None, Some(EK_HASH)));
        // Only for another EK the TPM is asked.
        for (other, is_asked) in [
            (fit(), false),
            (Fit { ek_hash, ..fit() }, true),
            (Fit { hash, ek_hash, ..fit() }, false),
            (Fit { hash, ..fit() }, false),
        ] {
            assert_eq!(stored.of_another_ek(&other), is_asked.then(ak), "{other:?}");
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
        // Written by somebody else.
        let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        std::fs::write(&path, value.to_string()).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        store(&path, &ak(), &fit()).unwrap();
        assert_eq!(inode(), first);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        store(&path, &SavedAk { private: vec![9], ..ak() }, &fit()).unwrap();
        assert_ne!(inode(), first);
    }

    #[test]
    fn a_damaged_file_stays_and_is_explained() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent_data.json");
        let shown = path.display();
        let advice = ". A new AK would be a new identity, which the registrar refuses for this agent id, so none is \
                      made. Restore the file from a backup; or move it away and have the registration deleted with: \
                      keylime_tenant -c regdelete -u AGENT_ID (then `-c delete` and `-c add`, if the verifier has the host)";
        store(&path, &ak(), &fit()).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        let no_file = "it is not an agent data file";
        let bad_ek = "its ek_hash is not 64 lower-case hexadecimal digits".to_owned();
        let with_ek_hash = |ek_hash: &[u8]| {
            let mut record: serde_json::Value = serde_json::from_str(&good).unwrap();
            record["ek_hash"] = ek_hash.into();
            record.to_string()
        };
        for (text, reason) in [
            (String::new(), format!("{no_file} (EOF while parsing a value at line 1 column 0)")),
            (good[..good.len() - 9].to_owned(), format!("{no_file} (EOF")),
            ("\0".repeat(2000), format!("{no_file} (expected value at line 1 column 1)")),
            (good.replace("255", "256"), format!("{no_file} (invalid value: integer `256`, expected u8")),
            (good.replace("\"Sha256\"", "7"), format!("{no_file} (invalid type: integer `7`, expected a string")),
            (good.replace("ak_private", "ak"), format!("{no_file} (missing field `ak_private`")),
            (good.replacen("0,", "9,", 1), "its public key is malformed (".to_owned()),
            (with_ek_hash(b""), bad_ek.clone()),
            (with_ek_hash(&EK_HASH.as_bytes()[..63]), bad_ek.clone()),
            (with_ek_hash(format!("{EK_HASH}0").as_bytes()), bad_ek.clone()),
            (with_ek_hash(EK_HASH.to_uppercase().as_bytes()), bad_ek.clone()),
            (with_ek_hash(EK_HASH.replace('d', "g").as_bytes()), bad_ek.clone()),
            (with_ek_hash(&[0xff; 64]), bad_ek),
            (" ".repeat(LIMIT + 1), "it has more than 1048576 bytes, which no AK has".to_owned()),
        ] {
            std::fs::write(&path, &text).unwrap();
            let error = load(&path).err().unwrap();
            let message = error.to_string();
            assert!(message.starts_with(&format!("the AK in {shown} cannot be used: {reason}")), "{message}");
            assert!(message.ends_with(advice), "{message}");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        std::fs::write(&path, "x").unwrap();
        let message = load(&path).err().unwrap().with_copy().to_string();
        let (before, copy) = message.split_once(". What it holds now is kept as ").unwrap();
        assert!(before.ends_with(advice), "{message}");
        assert_eq!(std::fs::read(copy).unwrap(), b"x");
        std::fs::remove_file(copy).unwrap();
        // A link that leads nowhere stands for a file that is somewhere.
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/nonexistent/x", &path).unwrap();
        let message = load(&path).err().unwrap().to_string();
        let begin = format!("cannot read the AK from {shown}: it is a link to /nonexistent/x, and nothing is there: ");
        assert!(message.starts_with(&begin), "{message}");
        // Neither is there anything to copy of these, nor do they keep the agent waiting.
        std::fs::remove_file(&path).unwrap();
        let make_folder = || std::fs::create_dir(&path).unwrap();
        let make_pipe = || nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for make in [&make_folder as &dyn Fn(), &make_pipe] {
            make();
            let message = load(&path).err().unwrap().with_copy().to_string();
            assert_eq!(message, format!("the AK in {shown} cannot be used: it is not an ordinary file{advice}"));
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
            let _ = std::fs::remove_dir(&path);
        }
    }
}
