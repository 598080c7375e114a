// SPDX-License-Identifier: Apache-2.0
//! PCR masks, PCR values and the PCR blob of Keylime's quote string.

mod blob;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::hash::{HashAlgorithm, UnsupportedHash};

pub use blob::{MAX_BLOB_LEN, PcrBlobError};

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
        if pcr < PCR_COUNT { Self(self.0 | 1 << pcr) } else { self }
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
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
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
                return Err(PcrValuesError::Length { pcr, bank, len: value.len() });
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
        self.values.keys().fold(PcrMask::EMPTY, |mask, pcr| mask.with(*pcr))
    }

    /// PCRs and values in ascending order of the PCRs.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.values.iter().map(|(pcr, value)| (*pcr, value.as_slice()))
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(bank: HashAlgorithm, pcrs: impl IntoIterator<Item = u8>) -> PcrValues {
        let value = |pcr| (pcr, vec![0x40 + pcr; bank.digest_len()]);
        PcrValues::new(bank, pcrs.into_iter().map(value).collect()).unwrap()
    }

    #[test]
    fn masks_are_parsed() {
        for (text, bits) in [
            ("0", 0),
            ("0x0", 0),
            ("10000", 0x1_0000),
            ("0x10000", 0x1_0000),
            ("0X00ffFFff", 0xff_ffff),
            ("400", 0x400),
        ] {
            assert_eq!(text.parse::<PcrMask>().unwrap().bits(), bits);
        }
        let not_hex = "a PCR mask is 1 to 8 hexadecimal digits with an optional 0x";
        for (text, expected) in [
            ("", not_hex),
            ("0x", not_hex),
            ("+1", not_hex),
            ("-1", not_hex),
            ("0x0x1", not_hex),
            ("1 ", not_hex),
            ("g", not_hex),
            ("000000001", not_hex),
            ("1000000", "PCR mask 0x1000000 names PCRs above 23"),
            ("ffffffff", "PCR mask 0xffffffff names PCRs above 23"),
        ] {
            assert_eq!(text.parse::<PcrMask>().unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn masks_are_sets() {
        let mask = PcrMask::EMPTY.with(16).with(0).with(23).with(16);
        assert_eq!(mask.iter().collect::<Vec<_>>(), [0, 16, 23]);
        assert_eq!(mask.len(), 3);
        assert!(mask.contains(16) && !mask.contains(1));
        assert_eq!(mask.to_string(), "0x810001");
        assert_eq!(mask.to_string().parse(), Ok(mask));
        assert!(PcrMask::EMPTY.is_empty() && !mask.is_empty());
        // There is no such PCR, and no shift overflows.
        for pcr in [24, 31, 32, 63, 64, 255] {
            assert_eq!(mask.with(pcr), mask);
            assert!(!mask.contains(pcr));
        }
    }

    #[test]
    fn values_are_digests_of_the_bank() {
        let one = |pcr, len| {
            let values = [(pcr, vec![0; len])].into();
            PcrValues::new(HashAlgorithm::Sha256, values).unwrap_err().to_string()
        };
        assert_eq!(one(24, 32), "there is no PCR 24");
        assert_eq!(one(255, 32), "there is no PCR 255");
        assert_eq!(one(16, 31), "PCR 16 of bank sha256 has 31 bytes");
        assert_eq!(one(0, 48), "PCR 0 of bank sha256 has 48 bytes");
    }

    #[test]
    fn the_digest_is_over_the_values_in_order_of_the_pcrs() {
        let values = values(HashAlgorithm::Sha256, [16, 0]);
        let expected = HashAlgorithm::Sha256.digest(&[[0x40; 32], [0x50; 32]].concat()).unwrap();
        assert_eq!(values.digest().unwrap(), expected);
        assert_eq!(values.get(16), Some([0x50; 32].as_slice()));
        assert_eq!(values.iter().map(|(pcr, _)| pcr).collect::<Vec<_>>(), [0, 16]);
    }
}
