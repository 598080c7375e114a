// SPDX-License-Identifier: Apache-2.0
//! PCR masks, PCR values and the PCR blob of Keylime's quote string.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::hash::{HashAlgorithm, UnsupportedHash};

/// PCRs of a PC Client platform: 0 to 23.
const PCR_COUNT: u8 = 24;

/// The PCR that a Keylime agent extends with the digest of its node key before each quote.
pub const NODE_KEY_PCR: u8 = 16;

/// A set of PCRs 0 to 23; bit n stands for PCR n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PcrMask(u32);

/// Why a text or number is not a PCR mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PcrMaskError {
    /// The text is not 1 to 8 hexadecimal digits with an optional `0x`.
    #[error("a PCR mask is 1 to 8 hexadecimal digits with an optional 0x")]
    NotHex,
    /// The mask names a PCR above 23.
    #[error("PCR mask {bits:#x} names PCRs above 23")]
    NoSuchPcr {
        /// The mask.
        bits: u32,
    },
}

impl PcrMask {
    /// No PCR.
    pub const EMPTY: Self = Self(0);

    /// The mask with these bits.
    ///
    /// # Errors
    /// [`PcrMaskError::NoSuchPcr`] if a bit above 23 is set.
    pub const fn from_bits(bits: u32) -> Result<Self, PcrMaskError> {
        if bits >> PCR_COUNT != 0 {
            return Err(PcrMaskError::NoSuchPcr { bits });
        }
        Ok(Self(bits))
    }

    /// The bits; those above 23 are zero.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// This mask and one PCR more. A number above 23 adds nothing, there is no such PCR.
    #[must_use]
    pub const fn with(self, pcr: u8) -> Self {
        if pcr < PCR_COUNT {
            Self(self.0 | 1 << pcr)
        } else {
            self
        }
    }

    /// Whether the PCR is in the set.
    pub const fn contains(self, pcr: u8) -> bool {
        pcr < PCR_COUNT && self.0 >> pcr & 1 == 1
    }

    /// Whether no PCR is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many PCRs are in the set: 0 to 24.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The PCRs in ascending order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..PCR_COUNT).filter(move |pcr| self.contains(*pcr))
    }
}

impl FromStr for PcrMask {
    type Err = PcrMaskError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text
            .strip_prefix("0x")
            .or_else(|| text.strip_prefix("0X"))
            .unwrap_or(text);
        // from_str_radix would take a sign.
        if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(PcrMaskError::NotHex);
        }
        let bits = u32::from_str_radix(digits, 16).map_err(|_| PcrMaskError::NotHex)?;
        Self::from_bits(bits)
    }
}

impl fmt::Display for PcrMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Values of some PCRs of one bank; each is as long as the bank's digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrValues {
    bank: HashAlgorithm,
    values: BTreeMap<u8, Vec<u8>>,
}

/// Why numbers and values are not PCR values of the bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PcrValuesError {
    /// There is no such PCR.
    #[error("there is no PCR {pcr}")]
    NoSuchPcr {
        /// The PCR number.
        pcr: u8,
    },
    /// A value is not a digest of the bank.
    #[error("PCR {pcr} of bank {bank} has {len} bytes")]
    Length {
        /// The PCR number.
        pcr: u8,
        /// The bank.
        bank: HashAlgorithm,
        /// Length of the value in bytes.
        len: usize,
    },
}

/// Why bytes are not the PCR blob of a quote string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PcrBlobError {
    /// The length is not 136 + 532 m for the m it announces, or m is above 24.
    #[error("the PCR blob has {len} bytes, which its own count of digest lists does not explain")]
    Length {
        /// Length of the blob in bytes.
        len: usize,
    },
    /// The blob holds none or several PCR selections.
    #[error("the PCR blob has {count} PCR selections, exactly one is accepted")]
    Selections {
        /// The count found.
        count: u32,
    },
    /// The selection is in a bank that is not known here.
    #[error("the PCR blob is about unknown bank {id:#06x}")]
    Bank {
        /// The TPM_ALG_ID found.
        id: u16,
    },
    /// The selection is not a bit map of three bytes.
    #[error("the selection in the PCR blob is not one of PCRs 0 to 23")]
    Select,
    /// A list has no digest or more than eight.
    #[error("a digest list in the PCR blob has {count} digests, expected 1 to 8")]
    ListCount {
        /// The count found.
        count: u32,
    },
    /// A digest is not as long as those of the bank.
    #[error("a digest in the PCR blob has {len} bytes, which is wrong for bank {bank}")]
    DigestLength {
        /// The size found.
        len: u16,
        /// The bank of the selection.
        bank: HashAlgorithm,
    },
    /// There are more or fewer digests than selected PCRs.
    #[error("the PCR blob has {digests} digests for {selected} selected PCRs")]
    DigestCount {
        /// Digests in the lists.
        digests: usize,
        /// PCRs in the selection.
        selected: usize,
    },
    /// Bytes that carry nothing are not zero.
    #[error("unused bytes of the PCR blob are not zero")]
    Padding,
}

/// Slots of a TPML_PCR_SELECTION in memory.
const SLOTS: usize = 16;
/// Bytes of a slot: hash, sizeofSelect, pcrSelect\[4\], padding.
const SLOT_LEN: usize = 8;
/// Selection count, slots and digest list count.
const HEADER_LEN: usize = 4 + SLOTS * SLOT_LEN + 4;
/// Digests of a TPML_DIGEST in memory.
const LIST_DIGESTS: usize = 8;
/// Bytes of a digest's buffer in memory.
const BUFFER_LEN: usize = 64;
/// Count and eight sized buffers.
const LIST_LEN: usize = 4 + LIST_DIGESTS * (2 + BUFFER_LEN);

/// The largest accepted PCR blob in bytes: each of the 24 PCRs in a list of its own.
pub const MAX_BLOB_LEN: usize = HEADER_LEN + PCR_COUNT as usize * LIST_LEN;

impl PcrValues {
    /// The values of PCRs of `bank`.
    ///
    /// # Errors
    /// A PCR above 23, or a value that is not as long as the bank's digests.
    pub fn new(bank: HashAlgorithm, values: BTreeMap<u8, Vec<u8>>) -> Result<Self, PcrValuesError> {
        for (&pcr, value) in &values {
            if pcr >= PCR_COUNT {
                return Err(PcrValuesError::NoSuchPcr { pcr });
            }
            if value.len() != bank.digest_len() {
                return Err(PcrValuesError::Length {
                    pcr,
                    bank,
                    len: value.len(),
                });
            }
        }
        Ok(Self { bank, values })
    }

    /// The bank.
    pub fn bank(&self) -> HashAlgorithm {
        self.bank
    }

    /// The value of a PCR, if it is among these.
    pub fn get(&self, pcr: u8) -> Option<&[u8]> {
        self.values.get(&pcr).map(Vec::as_slice)
    }

    /// The PCRs.
    pub fn mask(&self) -> PcrMask {
        self.values
            .keys()
            .fold(PcrMask::EMPTY, |mask, pcr| mask.with(*pcr))
    }

    /// PCRs and values in ascending order of the PCRs.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.values
            .iter()
            .map(|(pcr, value)| (*pcr, value.as_slice()))
    }

    /// The digest of the concatenated values with the hash of the bank: a quote's pcrDigest, where
    /// the signature scheme uses the same hash.
    ///
    /// # Errors
    /// [`UnsupportedHash`] for an SM3 bank.
    pub fn digest(&self) -> Result<Vec<u8>, UnsupportedHash> {
        let mut hasher = self.bank.hasher()?;
        for value in self.values.values() {
            hasher.update(value);
        }
        Ok(hasher.finish().as_ref().to_vec())
    }

    /// The PCR blob of a Keylime quote string: 136 bytes and 532 for each started group of eight PCRs.
    ///
    /// The layout is the memory image of the TSS types on a little-endian machine, as tpm2-tools once
    /// wrote it: u32 count of selections (1); 16 slots of u16 hash, u8 sizeofSelect (3), u8\[4\]
    /// pcrSelect and a padding byte; u32 count of lists; then the lists, each a u32 count (1 to 8)
    /// and eight times u16 size and u8\[64\] digest. What is unused is zero.
    pub fn encode_blob(&self) -> Vec<u8> {
        let lists = self.values.len().div_ceil(LIST_DIGESTS);
        let mut blob = Vec::with_capacity(HEADER_LEN + lists * LIST_LEN);
        blob.extend(1_u32.to_le_bytes());
        blob.extend(self.bank.tpm_id().to_le_bytes());
        blob.push(3);
        blob.extend(self.mask().bits().to_le_bytes());
        blob.resize(HEADER_LEN - 4, 0);
        // At most three lists: there are 24 PCRs.
        blob.extend((lists as u32).to_le_bytes());
        let values: Vec<_> = self.values.values().collect();
        for list in values.chunks(LIST_DIGESTS) {
            let end = blob.len() + LIST_LEN;
            blob.extend((list.len() as u32).to_le_bytes());
            for value in list {
                // At most 64 bytes: the constructors demand digests of the bank.
                blob.extend((value.len() as u16).to_le_bytes());
                blob.extend(*value);
                blob.extend(std::iter::repeat_n(0, BUFFER_LEN - value.len()));
            }
            blob.resize(end, 0);
        }
        blob
    }

    /// Decodes a PCR blob; [`Self::encode_blob`] describes the layout. Lists may be filled with fewer
    /// than eight digests each, as a TPM may return fewer values at a time.
    ///
    /// # Errors
    /// One [`PcrBlobError`] per rule. The blob must be exactly as long as it says and at most
    /// [`MAX_BLOB_LEN`], and unused bytes must be zero: no signature covers them.
    pub fn decode_blob(blob: &[u8]) -> Result<Self, PcrBlobError> {
        let length = PcrBlobError::Length { len: blob.len() };
        if blob.len() > MAX_BLOB_LEN {
            return Err(length);
        }
        let (header, lists) = blob.split_at_checked(HEADER_LEN).ok_or(length)?;
        let mut header = Fields(header);
        let selections = header.u32().ok_or(length)?;
        let first_slot = header.take::<SLOT_LEN>().ok_or(length)?;
        let other_slots = header.take::<{ (SLOTS - 1) * SLOT_LEN }>().ok_or(length)?;
        let list_count = header.u32().ok_or(length)?;
        if usize::try_from(list_count)
            .ok()
            .and_then(|count| count.checked_mul(LIST_LEN))
            != Some(lists.len())
        {
            return Err(length);
        }
        if selections != 1 {
            return Err(PcrBlobError::Selections { count: selections });
        }
        let (bank, mask) = decode_slot(first_slot)?;
        if other_slots.iter().any(|byte| *byte != 0) {
            return Err(PcrBlobError::Padding);
        }

        let mut digests = Vec::with_capacity(mask.len());
        for list in lists.chunks_exact(LIST_LEN) {
            decode_list(list, bank, &mut digests)?;
        }
        if digests.len() != mask.len() {
            return Err(PcrBlobError::DigestCount {
                digests: digests.len(),
                selected: mask.len(),
            });
        }
        Ok(Self {
            bank,
            values: mask.iter().zip(digests).collect(),
        })
    }
}

/// The bank and PCRs of the one selection.
fn decode_slot(slot: &[u8; SLOT_LEN]) -> Result<(HashAlgorithm, PcrMask), PcrBlobError> {
    let [hash_low, hash_high, size, select @ .., padding] = *slot;
    let id = u16::from_le_bytes([hash_low, hash_high]);
    let bank = HashAlgorithm::from_tpm_id(id).ok_or(PcrBlobError::Bank { id })?;
    if size != 3 {
        return Err(PcrBlobError::Select);
    }
    let mask = PcrMask::from_bits(u32::from_le_bytes(select)).map_err(|_| PcrBlobError::Select)?;
    if padding != 0 {
        return Err(PcrBlobError::Padding);
    }
    Ok((bank, mask))
}

/// Appends the digests of one list.
fn decode_list(
    list: &[u8],
    bank: HashAlgorithm,
    digests: &mut Vec<Vec<u8>>,
) -> Result<(), PcrBlobError> {
    // The caller cut the list to its length, so that the fields cannot run out.
    let length = PcrBlobError::Length { len: list.len() };
    let mut list = Fields(list);
    let count = list.u32().ok_or(length)?;
    if count == 0 || count > LIST_DIGESTS as u32 {
        return Err(PcrBlobError::ListCount { count });
    }
    for index in 0..LIST_DIGESTS as u32 {
        let size = list.u16().ok_or(length)?;
        let buffer = list.take::<BUFFER_LEN>().ok_or(length)?;
        let expected = if index < count { bank.digest_len() } else { 0 };
        if usize::from(size) != expected {
            return Err(if index < count {
                PcrBlobError::DigestLength { len: size, bank }
            } else {
                PcrBlobError::Padding
            });
        }
        let (digest, unused) = buffer.split_at_checked(expected).ok_or(length)?;
        if unused.iter().any(|byte| *byte != 0) {
            return Err(PcrBlobError::Padding);
        }
        if index < count {
            digests.push(digest.to_vec());
        }
    }
    Ok(())
}

/// Little-endian fields in order; `None` at the end of the bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().copied().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().copied().map(u32::from_le_bytes)
    }
}
