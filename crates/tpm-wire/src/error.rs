// SPDX-License-Identifier: Apache-2.0
//! The error of the TPM structure decoders.

/// Why bytes are not the TPM structure they should be. The peer that sent them misbehaved, or uses
/// something this crate does not know; retrying with the same bytes cannot help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input is longer than any real structure of this type.
    #[error("{structure} has {len} bytes, at most {limit} are accepted")]
    TooLong {
        /// TPM name of the structure.
        structure: &'static str,
        /// Length of the input in bytes.
        len: usize,
        /// The largest accepted length in bytes.
        limit: usize,
    },
    /// The input ends inside a field.
    #[error("{structure} ends inside {field}")]
    Truncated {
        /// TPM name of the structure.
        structure: &'static str,
        /// TPM name of the field.
        field: &'static str,
    },
    /// Bytes follow the structure.
    #[error("{structure} is followed by {extra} surplus bytes")]
    Trailing {
        /// TPM name of the structure.
        structure: &'static str,
        /// How many bytes are left over.
        extra: usize,
    },
    /// A size or count that the structure cannot have.
    #[error("{structure}: {field} has size {size}, expected {expected}")]
    Size {
        /// TPM name of the structure.
        structure: &'static str,
        /// TPM name of the field.
        field: &'static str,
        /// The size found.
        size: usize,
        /// The sizes that would be right.
        expected: &'static str,
    },
    /// A well-formed value that this crate does not support or the specification does not have.
    #[error("{structure}: {field} {value:#x} is not supported")]
    Unsupported {
        /// TPM name of the structure.
        structure: &'static str,
        /// TPM name of the field.
        field: &'static str,
        /// The value found.
        value: u32,
    },
    /// The magic is not TPM_GENERATED_VALUE: a TPM did not make this structure.
    #[error("TPMS_ATTEST: magic {found:#010x} is not TPM_GENERATED_VALUE (0xff544347)")]
    Magic {
        /// The magic found.
        found: u32,
    },
    /// The attestation is of another kind than a quote.
    #[error("TPMS_ATTEST: type {found:#06x} is not TPM_ST_ATTEST_QUOTE (0x8018)")]
    AttestType {
        /// The structure tag found.
        found: u16,
    },
}
