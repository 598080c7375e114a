// SPDX-License-Identifier: Apache-2.0
//! What can go wrong between a caller and the TPM, grouped by who can do something about it.

use crate::ak::AkRejected;
use crate::device_identity::{DeviceKeyCause, DeviceKeyKind};
use crate::response_code::ResponseCode;
use std::sync::Arc;
use tpm_wire::error::DecodeError;
use tpm_wire::hash::{HashAlgorithm, KeyAlgorithm, SignatureScheme};

/// A failed TPM operation.
///
/// Each text says what to do, since most of them end up in front of a person whose service does not start.
/// No variant carries authorization values, nonces or key material.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    // ---- Passing: the same call can succeed a moment later.
    /// The queue in front of the TPM is full; nothing was sent to the TPM.
    #[error("the TPM is busy: its request queue is full")]
    Busy,
    /// The deadline of the request passed before the TPM had answered.
    #[error("the TPM did not answer before the deadline of the request")]
    Deadline,
    /// The TPM was reset, its keys were flushed by another program or the connection broke. The thread is
    /// reopening the TPM and reloading the keys.
    #[error("the TPM is not available at the moment: it is being reopened and its keys reloaded")]
    Unavailable(#[source] Arc<TpmError>),
    /// PCRs changed during every attempt to quote them.
    #[error("the PCRs changed during each of {attempts} quotes")]
    PcrsUnstable {
        /// How many quotes were made.
        attempts: u32,
    },

    // ---- Configuration or installation: an administrator has to act.
    /// The TPM could not be opened.
    #[error("cannot open the TPM through TCTI `{tcti}`: {cause}; {remedy}")]
    Open {
        /// The libtss2 configuration text that was tried.
        tcti: String,
        /// What failed.
        cause: OpenCause,
        /// What to do about it.
        remedy: &'static str,
    },
    /// There is no EK template for this key type.
    #[error("TPM key type {0} is not supported: use one of rsa2048, rsa3072, rsa4096, ecc256, ecc384, ecc521")]
    KeyAlgorithm(KeyAlgorithm),
    /// The signing scheme belongs to the other key family.
    #[error(
        "signing scheme {scheme} does not fit key type {key}: RSA keys sign with rsassa or rsapss, ECC keys with ecdsa or ecschnorr"
    )]
    SchemeMismatch {
        /// The scheme.
        scheme: SignatureScheme,
        /// The key type.
        key: KeyAlgorithm,
    },
    /// The hash cannot be computed by this program, so quotes over it could not be checked.
    #[error("hash algorithm {0} is not supported here: use sha1, sha256, sha384 or sha512")]
    HashAlgorithm(HashAlgorithm),
    /// The PCR bank is not allocated in this TPM.
    #[error(
        "the TPM has no active {bank} PCR bank (active: {active}): choose one of these, or activate it with `tpm2_pcrallocate {bank}:all` and a reboot"
    )]
    BankInactive {
        /// The bank asked for.
        bank: HashAlgorithm,
        /// Names of the banks the TPM has.
        active: String,
    },
    /// The TPM does not have this type of key.
    #[error("this TPM cannot make an EK of type {key} (Keylime option tpm_encryption_alg): {code}")]
    EkUnsupported {
        /// The key type.
        key: KeyAlgorithm,
        /// The TPM's answer.
        code: ResponseCode,
    },
    /// The TPM does not sign like this.
    #[error(
        "this TPM cannot make an AK of type {key} that signs with {scheme} over {hash} (Keylime options tpm_encryption_alg, tpm_signing_alg and tpm_hash_alg): {code}"
    )]
    AkUnsupported {
        /// The key type.
        key: KeyAlgorithm,
        /// The scheme.
        scheme: SignatureScheme,
        /// The scheme's hash and nameAlg.
        hash: HashAlgorithm,
        /// The TPM's answer.
        code: ResponseCode,
    },
    /// A selected PCR does not exist in the TPM.
    #[error("the TPM has no PCR {0} in this bank")]
    NoSuchPcr(u8),
    /// The authorization value of the endorsement hierarchy is wrong.
    #[error(
        "the TPM refuses the endorsement hierarchy's authorization value (Keylime option tpm_ownerpassword): {code}"
    )]
    EndorsementAuth {
        /// The TPM's answer.
        code: ResponseCode,
    },
    /// An NV index is protected by an authorization value that is not known.
    #[error(
        "the TPM refuses the owner hierarchy's authorization value for NV index {index:#010x} (Keylime option tpm_ownerpassword, or none): {code}"
    )]
    NvAuth {
        /// The index.
        index: u32,
        /// The TPM's answer.
        code: ResponseCode,
    },
    /// There is no usable EK at the configured persistent handle.
    #[error("no usable EK at persistent handle {handle:#010x}: {cause}")]
    EkHandle {
        /// The configured handle.
        handle: u32,
        /// Why it cannot be used.
        cause: EkHandleCause,
    },
    /// There is no template for such an IDevID and IAK.
    #[error(
        "there is no template for IDevID and IAK of type {key} with nameAlg {name_alg} here: use rsa2048, rsa3072, rsa4096, ecc256, ecc384 or ecc521 with sha256, sha384 or sha512"
    )]
    DeviceKeyTemplate {
        /// The key type.
        key: KeyAlgorithm,
        /// The nameAlg.
        name_alg: HashAlgorithm,
    },
    /// The TPM does not have this type of key.
    #[error(
        "this TPM cannot make an {kind} of type {key} with nameAlg {name_alg} (Keylime option iak_idevid_template): {code}"
    )]
    DeviceKeyUnsupported {
        /// Which key.
        kind: DeviceKeyKind,
        /// The key type.
        key: KeyAlgorithm,
        /// The nameAlg.
        name_alg: HashAlgorithm,
        /// The TPM's answer.
        code: ResponseCode,
    },
    /// There is no usable IDevID or IAK at the configured persistent handle.
    #[error("no usable {kind} at persistent handle {handle:#010x} (Keylime option {option}_handle): {cause}")]
    DeviceKeyHandle {
        /// Which key.
        kind: DeviceKeyKind,
        /// What its options begin with.
        option: &'static str,
        /// The configured handle.
        handle: u32,
        /// Why it cannot be used.
        cause: DeviceKeyCause,
    },
    /// The authorization value of the IAK is wrong.
    #[error(
        "the TPM refuses the IAK's authorization value (Keylime option iak_password): {code}; each start with a wrong one counts towards the TPM's lockout: stop the service before you correct it"
    )]
    IakAuth {
        /// The TPM's answer.
        code: ResponseCode,
    },
    /// All slots for loaded objects or sessions are taken.
    #[error(
        "the TPM has no room for another loaded object or session ({command}: {code}): free what other programs, or one of ours that was killed, left there with `tpm2_flushcontext -t` (keys) and `tpm2_flushcontext -l` (sessions), or use the resource manager /dev/tpmrm0"
    )]
    NoRoom {
        /// The command that did not fit.
        command: &'static str,
        /// The TPM's answer.
        code: ResponseCode,
    },

    // ---- The TPM said no.
    /// The TPM answered a command with an error.
    #[error("{command} failed: {code}")]
    Command {
        /// TPM 2.0 Library Part 3 name of the command.
        command: &'static str,
        /// The TPM's answer.
        code: ResponseCode,
    },
    /// The transport to the TPM failed; `code` is a TSS2 TCTI response code.
    #[error("{command} was not carried to the TPM and back: {code}")]
    Transport {
        /// TPM 2.0 Library Part 3 name of the command.
        command: &'static str,
        /// The code of libtss2.
        code: ResponseCode,
    },
    /// The bytes in the TPM's answer make no sense.
    #[error("the TPM's answer to {command} is malformed: {what}")]
    Malformed {
        /// TPM 2.0 Library Part 3 name of the command.
        command: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A structure in the TPM's answer does not decode.
    #[error("the TPM's answer to {command} does not decode")]
    Decode {
        /// TPM 2.0 Library Part 3 name of the command.
        command: &'static str,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// The registrar's credential was made for another EK or another AK.
    #[error("the credential was not made for this TPM's EK and AK: {code}")]
    Credential {
        /// The TPM's answer.
        code: ResponseCode,
    },
    /// The saved AK is of no use.
    #[error("the saved AK cannot be used: {0}")]
    AkRejected(#[source] AkRejected),
    /// The AK that was in use can not be loaded any more.
    #[error(
        "the AK in use cannot be loaded again: {0}; if the TPM was cleared, its keys are gone: remove the saved AK, delete the host's registration and start again"
    )]
    AkLost(AkRejected),
    /// The NV index may be read with the platform's authorization or a policy only.
    #[error("NV index {0:#010x} cannot be read by its owner")]
    NvProtected(u32),
    /// The TPM signed a quote with another key than our AK: the handle now belongs to another program's key.
    #[error("the quote was signed by another key than the AK: another program took its place in the TPM")]
    ForeignKey,
    /// A field of the quote is not what was asked for.
    #[error("the quote does not hold the {0} that was asked for")]
    WrongQuote(&'static str),

    // ---- The caller broke the order of calls.
    /// A quote or an activation was asked for before an AK was loaded.
    #[error("no AK has been loaded yet")]
    NoAk,
    /// A value given by the caller does not fit the TPM's structure.
    #[error("{what} is too long for the TPM: {length} bytes, at most {limit}")]
    TooLong {
        /// Which value.
        what: &'static str,
        /// Its length.
        length: usize,
        /// The limit of the structure.
        limit: usize,
    },
    /// The PCR extension value has not the length of the bank's digests.
    #[error("the node key digest has {length} bytes, {expected} are needed in this PCR bank")]
    DigestLength {
        /// Its length.
        length: usize,
        /// The bank's digest length.
        expected: usize,
    },
    /// The thread has ended, by `shutdown` or with the process.
    #[error("the TPM has been closed")]
    Closed,
    /// The operating system refused to start the thread.
    #[error("cannot start the TPM thread")]
    Thread(#[source] std::io::Error),
}

/// Why a TPM could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenCause {
    /// The device file cannot be opened.
    #[error("{0}")]
    Device(#[source] std::io::Error),
    /// The TCTI text holds a NUL byte.
    #[error("the text holds a NUL byte")]
    NulByte,
    /// libtss2 refused, with its response code.
    #[error("{0}")]
    Library(ResponseCode),
    /// The connection works, but the TPM does not answer sensibly.
    #[error("{0}")]
    Tpm(#[source] Box<TpmError>),
}

/// Why the key at a persistent handle cannot serve as EK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EkHandleCause {
    /// Nothing is stored there.
    #[error("the handle is empty; set `ek_handle` to `generate` or store the EK there")]
    Missing,
    /// The key is not a restricted decryption key.
    #[error("the key there is not a restricted decryption key")]
    NotStorageKey,
    /// The authorization policy is none of the TCG EK credential profile.
    #[error("its authorization policy is not one of the TCG EK credential profile")]
    UnknownPolicy,
}

impl TpmError {
    /// Whether the same call can succeed a moment later without anybody's help. An AK that is lost stays lost.
    pub fn is_retryable(&self) -> bool {
        match self {
            TpmError::Unavailable(reason) => !matches!(**reason, TpmError::AkLost(_)),
            TpmError::Busy | TpmError::Deadline | TpmError::PcrsUnstable { .. } => true,
            _ => false,
        }
    }

    /// Whether the thread must reopen the TPM or reload its keys before it can go on.
    pub(crate) fn loses_tpm(&self) -> bool {
        match self {
            TpmError::Transport { .. } | TpmError::Malformed { .. } | TpmError::ForeignKey => true,
            TpmError::Command { code, .. } => code.is_reset() || code.is_missing_object(),
            _ => false,
        }
    }
}
