// SPDX-License-Identifier: Apache-2.0
//! The PCR blob: the third part of Keylime's quote string.

use super::{PCR_COUNT, PcrMask, PcrValues};
use crate::hash::HashAlgorithm;

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
        if usize::try_from(list_count).ok().and_then(|count| count.checked_mul(LIST_LEN)) != Some(lists.len()) {
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
            return Err(PcrBlobError::DigestCount { digests: digests.len(), selected: mask.len() });
        }
        Ok(Self { bank, values: mask.iter().zip(digests).collect() })
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
fn decode_list(list: &[u8], bank: HashAlgorithm, digests: &mut Vec<Vec<u8>>) -> Result<(), PcrBlobError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn values(bank: HashAlgorithm, pcrs: impl IntoIterator<Item = u8>) -> PcrValues {
        let value = |pcr| (pcr, vec![0x40 + pcr; bank.digest_len()]);
        PcrValues::new(bank, pcrs.into_iter().map(value).collect()).unwrap()
    }

    #[test]
    fn one_pcr_makes_the_documented_blob() {
        let blob = values(HashAlgorithm::Sha256, [16]).encode_blob();
        assert_eq!(blob.len(), 668);
        assert_eq!(blob[..12], [1, 0, 0, 0, 0x0b, 0, 3, 0, 0, 1, 0, 0]);
        assert_eq!(blob[12..132], [0; 120]);
        assert_eq!(blob[132..142], [1, 0, 0, 0, 1, 0, 0, 0, 32, 0]);
        assert_eq!(blob[142..174], [0x50; 32]);
        assert_eq!(blob[174..], [0; 494]);
    }

    #[test]
    fn blobs_survive_the_round_trip() {
        for bank in HashAlgorithm::ALL {
            for count in 0..=24 {
                let values = values(bank, 0..count);
                let blob = values.encode_blob();
                assert_eq!(blob.len(), 136 + 532 * usize::from(count).div_ceil(8));
                assert_eq!(PcrValues::decode_blob(&blob).unwrap(), values);
            }
        }
    }

    #[test]
    fn lists_need_not_be_full() {
        // Three PCRs in three lists of one.
        let expected = values(HashAlgorithm::Sha256, [0, 1, 2]);
        let mut blob = expected.encode_blob()[..136].to_vec();
        blob[132] = 3;
        for pcr in 0..3 {
            let single = values(HashAlgorithm::Sha256, [pcr]).encode_blob();
            blob.extend(&single[136..]);
        }
        assert_eq!(PcrValues::decode_blob(&blob).unwrap(), expected);
    }

    #[test]
    fn each_fault_of_a_blob_has_its_error() {
        let base = values(HashAlgorithm::Sha256, [0, 16]).encode_blob();
        let padding = "unused bytes of the PCR blob are not zero";
        let select = "the selection in the PCR blob is not one of PCRs 0 to 23";
        let set = |bytes: &[(usize, u8)]| {
            let mut blob = base.clone();
            for (offset, value) in bytes {
                blob[*offset] = *value;
            }
            blob
        };
        let rows = [
            (set(&[(0, 0)]), "the PCR blob has 0 PCR selections, exactly one is accepted"),
            (set(&[(0, 2)]), "the PCR blob has 2 PCR selections, exactly one is accepted"),
            (set(&[(3, 1)]), "the PCR blob has 16777217 PCR selections, exactly one is accepted"),
            (set(&[(4, 0x10)]), "the PCR blob is about unknown bank 0x0010"),
            (set(&[(6, 4)]), select),
            (set(&[(6, 0)]), select),
            (set(&[(10, 1)]), select),
            (set(&[(11, 1)]), padding),
            (set(&[(12, 0x0b)]), padding),
            (set(&[(131, 1)]), padding),
            (set(&[(132, 0)]), "the PCR blob has 668 bytes, which its own count of digest lists does not explain"),
            (
                set(&[(132, 0xff), (133, 0xff), (134, 0xff), (135, 0xff)]),
                "the PCR blob has 668 bytes, which its own count of digest lists does not explain",
            ),
            (set(&[(136, 0)]), "a digest list in the PCR blob has 0 digests, expected 1 to 8"),
            (set(&[(136, 9)]), "a digest list in the PCR blob has 9 digests, expected 1 to 8"),
            (set(&[(139, 0xff)]), "a digest list in the PCR blob has 4278190082 digests, expected 1 to 8"),
            (set(&[(140, 31)]), "a digest in the PCR blob has 31 bytes, which is wrong for bank sha256"),
            (set(&[(141, 0xff)]), "a digest in the PCR blob has 65312 bytes, which is wrong for bank sha256"),
            // The buffer behind the digest, and an unused slot's size and buffer.
            (set(&[(140 + 2 + 32, 1)]), padding),
            (set(&[(140 + 2 * 66, 1)]), padding),
            (set(&[(140 + 2 * 66 + 2, 1)]), padding),
            (set(&[(667, 1)]), padding),
            (set(&[(136, 3), (140 + 2 * 66, 32)]), "the PCR blob has 3 digests for 2 selected PCRs"),
            (set(&[(7, 3)]), "the PCR blob has 2 digests for 3 selected PCRs"),
            (
                [base.clone(), vec![0]].concat(),
                "the PCR blob has 669 bytes, which its own count of digest lists does not explain",
            ),
            (
                vec![0; MAX_BLOB_LEN + 1],
                "the PCR blob has 12905 bytes, which its own count of digest lists does not explain",
            ),
        ];
        for (blob, expected) in rows {
            assert_eq!(PcrValues::decode_blob(&blob).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn every_prefix_of_a_blob_has_a_wrong_length() {
        let blob = values(HashAlgorithm::Sha384, 0..24).encode_blob();
        for len in 0..blob.len() {
            let error = PcrValues::decode_blob(&blob[..len]).unwrap_err();
            assert_eq!(error, PcrBlobError::Length { len });
        }
    }

    #[test]
    fn what_decodes_is_what_would_be_encoded() {
        // No flipped bit gives another spelling of the same values.
        let good = values(HashAlgorithm::Sha256, [0, 16]);
        let blob = good.encode_blob();
        for byte in 0..blob.len() {
            for bit in 0..8 {
                let mut changed = blob.clone();
                changed[byte] ^= 1 << bit;
                if let Ok(decoded) = PcrValues::decode_blob(&changed) {
                    assert_ne!(decoded, good);
                    assert_eq!(decoded.encode_blob(), changed);
                }
            }
        }
    }
}
