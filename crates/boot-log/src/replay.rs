// SPDX-License-Identifier: Apache-2.0
//! What the PCRs must hold if the log is true.

use std::collections::BTreeMap;

use tpm_wire::hash::HashAlgorithm;
use tpm_wire::pcr::{PcrMask, PcrValues};

use crate::error::BootLogError;
use crate::parse::BootLog;
use crate::secure_boot::{self, KnownDigests, SecureBoot};

/// PCRs up to this one change with the TPM's reset and by being extended only. The ones above can be
/// reset by software or belong to a dynamic launch, so no log tells their values.
const LAST_STATIC_PCR: u8 = 15;

/// PCRs up to this one are the firmware's and the boot loader's, and the log is complete about them.
const LAST_FIRMWARE_PCR: u8 = 7;

impl BootLog {
    /// The values that the events leave in the PCRs 0 to 15 that they extend.
    ///
    /// # Errors
    /// [`BootLogError::NoBank`], [`BootLogError::UnsupportedBank`] or [`BootLogError::NoDigest`].
    pub fn replay(&self, bank: HashAlgorithm) -> Result<PcrValues, BootLogError> {
        if !self.banks.contains(&bank) {
            return Err(BootLogError::NoBank { bank });
        }
        let mut values = BTreeMap::new();
        for event in self.events.iter().filter(|event| event.pcr <= LAST_STATIC_PCR) {
            let digest = event.digest(bank).ok_or(BootLogError::NoDigest { event: event.number, bank })?;
            let value = values.entry(event.pcr).or_insert_with(|| self.first_value(bank, event.pcr));
            value.extend_from_slice(digest);
            *value = bank.digest(value)?;
        }
        Ok(PcrValues::new(bank, values).expect("PCRs up to 15 with digests of the bank"))
    }

    /// What a PCR from 0 to 15 holds before the first event: zeros, and in PCR 0 the locality.
    fn first_value(&self, bank: HashAlgorithm, pcr: u8) -> Vec<u8> {
        let mut value = vec![0; bank.digest_len()];
        if let Some(last) = value.last_mut().filter(|_| pcr == 0) {
            *last = self.startup_locality;
        }
        value
    }

    /// Checks that the log leads to the quoted values of PCRs 0 to 7, as far as they are quoted. PCR 7
    /// must be; a PCR that the log does not extend must hold its first value. Quoted PCRs above 7 are
    /// not looked at.
    ///
    /// The values must come out of a verified quote: see the crate's documentation for what is proved.
    ///
    /// # Errors
    /// [`BootLogError::NoPcr7`] and those that follow it.
    pub fn verify(&self, quoted: &PcrValues) -> Result<VerifiedBootLog<'_>, BootLogError> {
        let bank = quoted.bank();
        if bank == HashAlgorithm::Sha1 {
            return Err(BootLogError::WeakBank { bank });
        }
        if quoted.get(secure_boot::PCR).is_none() {
            return Err(BootLogError::NoPcr7);
        }
        let replayed = self.replay(bank)?;
        let mut wrong = PcrMask::EMPTY;
        for (pcr, value) in quoted.iter().filter(|(pcr, _)| *pcr <= LAST_FIRMWARE_PCR) {
            let equal = match replayed.get(pcr) {
                Some(replayed) => replayed == value,
                None => self.first_value(bank, pcr) == value,
            };
            if !equal {
                wrong = wrong.with(pcr);
            }
        }
        if !wrong.is_empty() {
            return Err(BootLogError::PcrMismatch { pcrs: wrong, bank });
        }
        let known = KnownDigests::of(bank)?;
        self.check_secure_boot_data(&known)?;
        Ok(VerifiedBootLog { log: self, known })
    }
}

/// A boot log that leads to quoted PCR values.
#[derive(Clone, Debug)]
pub struct VerifiedBootLog<'a> {
    log: &'a BootLog,
    known: KnownDigests,
}

impl VerifiedBootLog<'_> {
    /// Whether UEFI secure boot was on when the firmware measured it.
    pub fn secure_boot(&self) -> SecureBoot {
        self.log.secure_boot(&self.known)
    }
}

#[cfg(test)]
mod tests;
