// SPDX-License-Identifier: Apache-2.0
//! TPMS_ATTEST, the structure a quote's signature covers.

use crate::error::DecodeError;
use crate::hash::HashAlgorithm;
use crate::pcr::PcrMask;
use crate::structure::Fields;

/// The largest accepted TPMS_ATTEST in bytes. Names, qualifying data and digests are at most 68
/// bytes and selections at most 16 by 7, so no real quote is half as long.
pub const MAX_ATTEST_LEN: usize = 1024;

/// TPM_GENERATED_VALUE, which a restricted key signs only in structures the TPM itself made.
const TPM_GENERATED_VALUE: u32 = 0xff54_4347;
/// TPM_ST_ATTEST_QUOTE.
const TPM_ST_ATTEST_QUOTE: u16 = 0x8018;
/// The largest TPM2B_NAME and TPM2B_DATA: an algorithm identifier and a 64-byte digest.
const MAX_NAME_LEN: usize = 66;
/// TPM2_NUM_PCR_BANKS of the TSS: more selections than a TPM can have banks.
const MAX_SELECTIONS: u32 = 16;

/// A TPMS_ATTEST of a quote, decoded.
///
/// Layout, big endian: u32 magic, u16 type, TPM2B qualifiedSigner, TPM2B extraData, TPMS_CLOCK_INFO
/// (17 bytes), u64 firmwareVersion, TPMS_QUOTE_INFO. Source: TCG TPM 2.0 Library, Part 2
/// "Structures", revision 1.59, "TPMS_ATTEST".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attest {
    /// Qualified name of the signing key, 0 to 66 bytes.
    pub qualified_signer: Vec<u8>,
    /// The qualifying data of the quote command: the nonce, 0 to 66 bytes.
    pub extra_data: Vec<u8>,
    /// The TPM's clock. In quotes by keys outside the endorsement and platform hierarchies the TPM
    /// obfuscates the counters.
    pub clock_info: ClockInfo,
    /// Vendor-specific firmware version, obfuscated like the counters.
    pub firmware_version: u64,
    /// What was quoted.
    pub attested: Quote,
}

/// TPMS_CLOCK_INFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockInfo {
    /// Milliseconds for which the TPM has been powered since its last clear.
    pub clock: u64,
    /// TPM resets since the last clear.
    pub reset_count: u32,
    /// Restarts or resumes since the last reset.
    pub restart_count: u32,
    /// Whether the clock is certain not to have been reported with this or a higher value before.
    pub safe: bool,
}

/// TPMS_QUOTE_INFO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The quoted PCRs, one item per bank, 0 to 16.
    pub selections: Vec<PcrSelection>,
    /// Digest of the concatenated PCR values with the hash of the signature scheme, 0 to 64 bytes.
    pub pcr_digest: Vec<u8>,
}

/// TPMS_PCR_SELECTION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcrSelection {
    /// TPM_ALG_ID of the bank; [`HashAlgorithm::from_tpm_id`] names the known ones.
    pub bank: u16,
    /// The PCRs.
    pub mask: PcrMask,
}

impl PcrSelection {
    /// Whether this selection is in the bank of `algorithm`.
    pub fn is_bank(&self, algorithm: HashAlgorithm) -> bool {
        self.bank == algorithm.tpm_id()
    }
}

impl Attest {
    /// Decodes a TPMS_ATTEST of a quote.
    ///
    /// # Errors
    /// [`DecodeError::Magic`] and [`DecodeError::AttestType`] before anything else is read;
    /// otherwise the structure is longer than [`MAX_ATTEST_LEN`], truncated, followed by more bytes,
    /// or has a field beyond its bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Fields::new("TPMS_ATTEST", bytes, MAX_ATTEST_LEN)?;
        match reader.u32("magic")? {
            TPM_GENERATED_VALUE => (),
            found => return Err(DecodeError::Magic { found }),
        }
        match reader.u16("type")? {
            TPM_ST_ATTEST_QUOTE => (),
            found => return Err(DecodeError::AttestType { found }),
        }
        let qualified_signer = short(&mut reader, "qualifiedSigner")?;
        let extra_data = short(&mut reader, "extraData")?;
        let clock_info = ClockInfo {
            clock: reader.u64("clock")?,
            reset_count: reader.u32("resetCount")?,
            restart_count: reader.u32("restartCount")?,
            safe: match reader.u8("safe")? {
                0 => false,
                1 => true,
                other => return Err(reader.unsupported("safe", other)),
            },
        };
        let firmware_version = reader.u64("firmwareVersion")?;
        let count = reader.u32("pcrSelect")?;
        if count > MAX_SELECTIONS {
            return Err(reader.size_error("pcrSelect", count as usize, "at most 16"));
        }
        let selections = (0..count).map(|_| selection(&mut reader)).collect::<Result<_, _>>()?;
        let digest = reader.sized("pcrDigest")?;
        if digest.len() > 64 {
            return Err(reader.size_error("pcrDigest", digest.len(), "at most 64"));
        }
        let attested = Quote { selections, pcr_digest: digest.to_vec() };
        reader.finish()?;
        Ok(Self { qualified_signer, extra_data, clock_info, firmware_version, attested })
    }
}

/// A TPM2B_NAME or TPM2B_DATA.
fn short(reader: &mut Fields<'_>, field: &'static str) -> Result<Vec<u8>, DecodeError> {
    let bytes = reader.sized(field)?;
    if bytes.len() > MAX_NAME_LEN {
        return Err(reader.size_error(field, bytes.len(), "at most 66"));
    }
    Ok(bytes.to_vec())
}

/// A TPMS_PCR_SELECTION: u16 hash, u8 sizeofSelect (3 or 4), bit map with PCR 0 in bit 0 of byte 0.
fn selection(reader: &mut Fields<'_>) -> Result<PcrSelection, DecodeError> {
    let bank = reader.u16("hash")?;
    let size = reader.u8("sizeofSelect")?;
    if !(3..=4).contains(&size) {
        return Err(reader.size_error("sizeofSelect", usize::from(size), "3 or 4"));
    }
    let bits = reader
        .bytes("pcrSelect", usize::from(size))?
        .iter()
        .rev()
        .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
    let mask = PcrMask::from_bits(bits).map_err(|_| reader.unsupported("pcrSelect", bits))?;
    Ok(PcrSelection { bank, mask })
}
