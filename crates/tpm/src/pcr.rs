// SPDX-License-Identifier: Apache-2.0
//! Reading, resetting and extending PCRs, and the values known from earlier reads.

use crate::codec::Writer;
use crate::command::{Authorization, Command, PCR_EXTEND, PCR_READ, PCR_RESET};
use crate::connection::Connection;
use crate::error::TpmError;
use std::collections::BTreeMap;
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::pcr::{PcrMask, PcrValues};

/// A TPML_PCR_SELECTION of one bank: u32 count, then u16 hash, u8 3, three bytes with PCR 0 in bit 0 of the first.
pub(crate) fn write_selection(out: &mut Writer, bank: HashAlgorithm, mask: PcrMask) {
    let [low, middle, high, _] = mask.bits().to_le_bytes();
    out.u32(1).u16(bank.tpm_id()).u8(3).u8(low).u8(middle).u8(high);
}

/// TPM2_PCR_Read, repeated until all PCRs of the mask have been read: the TPM gives at most eight at a time.
pub(crate) fn read(
    connection: &Connection,
    bank: HashAlgorithm,
    mask: PcrMask,
) -> Result<BTreeMap<u8, Vec<u8>>, TpmError> {
    let mut values = BTreeMap::new();
    loop {
        let missing = mask.iter().filter(|pcr| !values.contains_key(pcr));
        let missing = missing.fold(PcrMask::EMPTY, |mask, pcr| mask.with(pcr));
        let Some(first) = missing.iter().next() else { return Ok(values) };
        let before = values.len();
        for (pcr, value) in read_some(connection, bank, missing)? {
            if missing.contains(pcr) {
                values.insert(pcr, value);
            }
        }
        if values.len() == before {
            return Err(TpmError::NoSuchPcr(first));
        }
    }
}

/// One TPM2_PCR_Read: the PCRs the TPM chose to answer.
fn read_some(connection: &Connection, bank: HashAlgorithm, mask: PcrMask) -> Result<Vec<(u8, Vec<u8>)>, TpmError> {
    let mut command = Command::new(PCR_READ);
    write_selection(&mut command.parameters, bank, mask);
    let response = command.send(connection)?;
    let (selected, digests) = response.parameters(|reader| {
        let _update_counter = reader.u32()?;
        let mut selected = Vec::new();
        for _ in 0..reader.u32()? {
            let hash = reader.u16()?;
            let size = reader.u8()?;
            let bits = reader.bytes(usize::from(size))?;
            if hash == bank.tpm_id() {
                // Three or four bytes; PCRs above 23 are not asked for.
                selected.extend(
                    (0..24_u8)
                        .filter(|pcr| bits.get(usize::from(pcr / 8)).is_some_and(|byte| byte >> (pcr % 8) & 1 == 1)),
                );
            }
        }
        let count = reader.u32()?;
        let digests = (0..count).map(|_| reader.sized().map(<[u8]>::to_vec)).collect::<Result<Vec<_>, _>>()?;
        Ok((selected, digests))
    })?;
    let right_length = |digest: &Vec<u8>| digest.len() == bank.digest_len();
    if selected.len() != digests.len() || !digests.iter().all(right_length) {
        return Err(response.malformed("the PCR values"));
    }
    Ok(selected.into_iter().zip(digests).collect())
}

/// TPM2_PCR_Reset, then TPM2_PCR_Extend in one bank. Only resettable PCRs (16, 23) take it from user space.
pub(crate) fn reset_and_extend(
    connection: &Connection,
    pcr: u8,
    bank: HashAlgorithm,
    digest: &[u8],
) -> Result<(), TpmError> {
    let empty = Authorization::Password(&[]);
    Command::new(PCR_RESET).authorized(u32::from(pcr), empty).send(connection)?;
    let mut command = Command::new(PCR_EXTEND).authorized(u32::from(pcr), empty);
    command.parameters.u32(1).u16(bank.tpm_id()).bytes(digest);
    command.send(connection).map(drop)
}

/// PCR values of one bank as last read. They may be out of date: only a quote's digest proves them.
#[derive(Default)]
pub(crate) struct KnownPcrs(BTreeMap<u8, Vec<u8>>);

impl KnownPcrs {
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }

    pub(crate) fn learn(&mut self, values: BTreeMap<u8, Vec<u8>>) {
        self.0.extend(values);
    }

    pub(crate) fn set(&mut self, pcr: u8, value: Vec<u8>) {
        self.0.insert(pcr, value);
    }

    pub(crate) fn is(&self, pcr: u8, value: &[u8]) -> bool {
        self.0.get(&pcr).is_some_and(|known| known == value)
    }

    /// The values of these PCRs, if all are known.
    pub(crate) fn select(&self, bank: HashAlgorithm, mask: PcrMask) -> Option<PcrValues> {
        let known = self.0.iter().filter(|(pcr, _)| mask.contains(**pcr));
        let values: BTreeMap<_, _> = known.map(|(pcr, value)| (*pcr, value.clone())).collect();
        if values.len() != mask.len() {
            return None;
        }
        // The lengths were checked when the values were read.
        PcrValues::new(bank, values).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_has_pcr_0_in_the_lowest_bit_of_the_first_byte() {
        let mut out = Writer::default();
        let mask = PcrMask::EMPTY.with(0).with(10).with(16).with(23);
        write_selection(&mut out, HashAlgorithm::Sha256, mask);
        assert_eq!(out.as_slice(), [0, 0, 0, 1, 0, 0x0B, 3, 0x01, 0x04, 0x81]);
    }

    #[test]
    fn only_completely_known_selections_are_given() {
        let mut known = KnownPcrs::default();
        known.set(0, vec![7; 32]);
        known.set(16, vec![9; 32]);
        let bank = HashAlgorithm::Sha256;
        let mask = PcrMask::EMPTY.with(16);
        assert_eq!(known.select(bank, mask).map(|values| values.mask()), Some(mask));
        assert_eq!(known.select(bank, mask.with(1)), None);
        assert!(known.is(16, &[9; 32]) && !known.is(16, &[8; 32]) && !known.is(1, &[]));
        known.forget();
        assert_eq!(known.select(bank, mask), None);
    }
}
