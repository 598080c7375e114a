// SPDX-License-Identifier: Apache-2.0
//! TPMT_SIGNATURE.

use crate::error::DecodeError;
use crate::hash::{HashAlgorithm, SignatureScheme};
use crate::structure::Fields;

/// The largest accepted TPMT_SIGNATURE in bytes: RSA-4096 takes 518.
pub const MAX_SIGNATURE_LEN: usize = 1024;

const MAX_RSA_BYTES: usize = 512;
const MAX_ECC_BYTES: usize = 66;

/// A signature of an RSA or ECC key, decoded.
///
/// Layout, big endian: u16 sigAlg, u16 hash, then for RSA one TPM2B with the signature, for ECC two
/// TPM2B with r and s. Source: TCG TPM 2.0 Library, Part 2 "Structures", revision 1.59,
/// "TPMT_SIGNATURE".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The signature scheme.
    pub scheme: SignatureScheme,
    /// The hash the scheme uses.
    pub hash: HashAlgorithm,
    /// The signature proper; its kind follows the scheme.
    pub value: SignatureValue,
}

/// The scheme-dependent part of a [`Signature`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignatureValue {
    /// RSASSA or RSAPSS: 1 to 512 bytes, big endian.
    Rsa(Vec<u8>),
    /// ECDSA or ECSCHNORR.
    Ecc {
        /// r, 1 to 66 bytes, big endian, possibly without leading zeros.
        r: Vec<u8>,
        /// s, likewise.
        s: Vec<u8>,
    },
}

impl Signature {
    /// Decodes a TPMT_SIGNATURE.
    ///
    /// # Errors
    /// The scheme or hash is not known here, a buffer is empty or too long for any key, or the
    /// structure is longer than [`MAX_SIGNATURE_LEN`], truncated or followed by more bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Fields::new("TPMT_SIGNATURE", bytes, MAX_SIGNATURE_LEN)?;
        let id = reader.u16("sigAlg")?;
        let scheme = SignatureScheme::from_tpm_id(id).ok_or_else(|| reader.unsupported("sigAlg", id))?;
        let id = reader.u16("hash")?;
        let hash = HashAlgorithm::from_tpm_id(id).ok_or_else(|| reader.unsupported("hash", id))?;
        let value = if scheme.is_rsa() {
            SignatureValue::Rsa(part(&mut reader, "sig", MAX_RSA_BYTES, "1 to 512")?)
        } else {
            SignatureValue::Ecc {
                r: part(&mut reader, "signatureR", MAX_ECC_BYTES, "1 to 66")?,
                s: part(&mut reader, "signatureS", MAX_ECC_BYTES, "1 to 66")?,
            }
        };
        reader.finish()?;
        Ok(Self { scheme, hash, value })
    }
}

fn part(
    reader: &mut Fields<'_>,
    field: &'static str,
    max: usize,
    expected: &'static str,
) -> Result<Vec<u8>, DecodeError> {
    let bytes = reader.sized(field)?;
    if bytes.is_empty() || bytes.len() > max {
        return Err(reader.size_error(field, bytes.len(), expected));
    }
    Ok(bytes.to_vec())
}
