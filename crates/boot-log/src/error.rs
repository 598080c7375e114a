// SPDX-License-Identifier: Apache-2.0
//! Why a boot log is refused.

use tpm_wire::hash::{HashAlgorithm, UnsupportedHash};
use tpm_wire::pcr::PcrMask;

use crate::parse::{MAX_ALGORITHMS, MAX_BOOT_LOG_LEN, MAX_EVENTS};

/// Why a boot log is refused. Events are counted from 0, which is the Spec ID event.
///
/// Up to [`Self::StartupLocalityRepeated`] the bytes are no boot log of the supported form: the host
/// sent something else, or its firmware wrote it. From [`Self::NoPcr7`] to [`Self::UnsupportedBank`]
/// the quote and the log do not go together by kind, which is for the one who chose bank and PCRs to
/// mend. The rest is a log that does not tell what was measured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootLogError {
    /// There are no bytes: the platform did not measure, or its log was lost.
    #[error("the boot log is empty")]
    Empty,
    /// The log is longer than [`MAX_BOOT_LOG_LEN`].
    #[error("the boot log has {len} bytes, at most {MAX_BOOT_LOG_LEN} are accepted")]
    TooLong {
        /// Length of the log in bytes.
        len: usize,
    },
    /// The log ends inside an event, or the Spec ID event inside its own fields.
    #[error("the boot log ends inside {field} of event {event}")]
    Truncated {
        /// The event.
        event: usize,
        /// The field's name in the specification.
        field: &'static str,
    },
    /// The first event is not the Spec ID event of the crypto-agile form.
    #[error(
        "the boot log does not begin with a Spec ID Event03: either it is no boot log, or one of SHA-1 digests alone, \
         which vouch for no other bank"
    )]
    NotCryptoAgile,
    /// Bytes follow the fields of the Spec ID event.
    #[error("the Spec ID event of the boot log has {extra} surplus bytes")]
    SpecIdSurplus {
        /// How many bytes are left over.
        extra: usize,
    },
    /// The Spec ID event names no algorithm or too many.
    #[error("the boot log announces {count} digest algorithms, expected 1 to {MAX_ALGORITHMS}")]
    AlgorithmCount {
        /// The count found.
        count: u32,
    },
    /// The Spec ID event names an algorithm twice.
    #[error("the boot log announces digest algorithm {id:#06x} twice")]
    AlgorithmRepeated {
        /// The TPM_ALG_ID.
        id: u16,
    },
    /// The Spec ID event gives an algorithm a digest size that it does not have.
    #[error("the boot log announces digests of {size} bytes for {algorithm}, which has {}", algorithm.digest_len())]
    DigestSize {
        /// The algorithm.
        algorithm: HashAlgorithm,
        /// The size announced, in bytes.
        size: u16,
    },
    /// The Spec ID event gives an algorithm not known here a digest size that no algorithm has.
    #[error("the boot log announces digests of {size} bytes for algorithm {id:#06x}, expected 1 to 64")]
    UnknownDigestSize {
        /// The TPM_ALG_ID.
        id: u16,
        /// The size announced, in bytes.
        size: u16,
    },
    /// There are more events than in any real log.
    #[error("the boot log has more than {MAX_EVENTS} events")]
    TooManyEvents,
    /// An event has no digest, or more digests than algorithms were announced.
    #[error("event {event} of the boot log has {count} digests, expected 1 to {limit}")]
    DigestCount {
        /// The event.
        event: usize,
        /// The count found.
        count: u32,
        /// How many algorithms the Spec ID event announces.
        limit: usize,
    },
    /// A digest is of an algorithm that was not announced.
    #[error("event {event} of the boot log has a digest of algorithm {id:#06x}, which was not announced")]
    DigestAlgorithm {
        /// The event.
        event: usize,
        /// The TPM_ALG_ID.
        id: u16,
    },
    /// An event has two digests of one algorithm.
    #[error("event {event} of the boot log has two digests of algorithm {id:#06x}")]
    DigestRepeated {
        /// The event.
        event: usize,
        /// The TPM_ALG_ID.
        id: u16,
    },
    /// An event that is extended names a PCR above 23.
    #[error("event {event} of the boot log is for PCR {pcr}, which does not exist")]
    NoSuchPcr {
        /// The event.
        event: usize,
        /// The PCR number found.
        pcr: u32,
    },
    /// A StartupLocality event is not one byte long, or of a locality that starts no TPM.
    #[error("event {event} of the boot log is a StartupLocality event of none of the localities 0, 3 and 4")]
    StartupLocality {
        /// The event.
        event: usize,
    },
    /// A StartupLocality event follows events of PCR 0, whose first value it would have to tell.
    #[error("event {event} of the boot log is a StartupLocality event after PCR 0 was extended")]
    StartupLocalityLate {
        /// The event.
        event: usize,
    },
    /// There is a second StartupLocality event.
    #[error("event {event} of the boot log is a second StartupLocality event")]
    StartupLocalityRepeated {
        /// The event.
        event: usize,
    },
    /// The quote does not cover PCR 7, without which nothing can be said.
    #[error("a boot log is verified against a quote of PCR 7 at least")]
    NoPcr7,
    /// The quote is of a bank whose digests can be forged.
    #[error("a boot log is not verified in bank {bank}, whose digests can be forged")]
    WeakBank {
        /// The bank.
        bank: HashAlgorithm,
    },
    /// The log has no digests of the bank.
    #[error("the boot log has no digests of bank {bank}")]
    NoBank {
        /// The bank.
        bank: HashAlgorithm,
    },
    /// The digests of the bank cannot be computed here.
    #[error("the boot log cannot be replayed: {0}")]
    UnsupportedBank(#[from] UnsupportedHash),
    /// An event that is extended has no digest of the bank.
    #[error("event {event} of the boot log has no digest of bank {bank}")]
    NoDigest {
        /// The event.
        event: usize,
        /// The bank.
        bank: HashAlgorithm,
    },
    /// The log does not lead to the quoted values of these PCRs.
    #[error("the boot log does not lead to the quoted value of PCR {} in bank {bank}", List(*pcrs))]
    PcrMismatch {
        /// The PCRs that come out otherwise, at least one of 0 to 7.
        pcrs: PcrMask,
        /// The bank.
        bank: HashAlgorithm,
    },
    /// An event before the separator of PCR 7 claims to measure `SecureBoot`, but its data are not
    /// what was measured.
    #[error("the data of event {event} of the boot log, SecureBoot, are not what PCR 7 was extended with")]
    SecureBootDigest {
        /// The event.
        event: usize,
    },
}

/// PCR numbers with commas between them.
struct List(PcrMask);

impl std::fmt::Display for List {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (position, pcr) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { ", " };
            write!(f, "{comma}{pcr}")?;
        }
        Ok(())
    }
}
