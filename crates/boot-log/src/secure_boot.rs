// SPDX-License-Identifier: Apache-2.0
//! Whether UEFI secure boot was on: TCG PC Client Platform Firmware Profile Specification, "PCR\[7\] -
//! Secure Boot Policy Measurements".
//!
//! Firmware measures the variable `SecureBoot` into PCR 7 as a UEFI_VARIABLE_DATA, then the policy
//! variables, then a separator. Only what lies before the separator is the firmware's word: later
//! any program that reaches the TPM can extend PCR 7. The log's types and data are not covered by any
//! PCR, so an attacker could label the separator otherwise and put an event that he extended himself
//! before a separator of his own. Hence events are recognized by their digests: those of the few values that
//! `SecureBoot` can have, and those of the separators.

use tpm_wire::hash::{HashAlgorithm, UnsupportedHash};

use crate::error::BootLogError;
use crate::parse::{BootLog, Event};

/// The PCR of the secure boot policy.
pub(crate) const PCR: u8 = 7;

/// EFI_GLOBAL_VARIABLE, 8be4df61-93ca-11d2-aa0d-00e098032b8c, as an EFI_GUID lies in memory.
const EFI_GLOBAL_VARIABLE: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];

/// The variable.
const NAME: &str = "SecureBoot";

/// Data of the EV_SEPARATOR event after a boot without errors, up to the boot loader.
const SEPARATOR: [u8; 4] = [0; 4];

/// Data of other EV_SEPARATOR events: the older form, and the one after an error.
const OTHER_SEPARATORS: [[u8; 4]; 2] = [[0xff; 4], [1, 0, 0, 0]];

/// What a verified boot log shows of UEFI secure boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecureBoot {
    /// Firmware measured that it was on.
    On,
    /// Firmware measured that it was off, or that the platform has no such variable.
    Off,
    /// The log does not show it: nothing was measured before the separator of PCR 7, or another
    /// value than 0, 1 and none, or more than once, or there is no separator or one of an error.
    NotShown,
}

/// Length of GUID, length of the name and length of the value.
const HEADER_LEN: usize = 16 + 8 + 8;

/// UEFI_VARIABLE_DATA of `SecureBoot` with this value: GUID, length of the name in UTF-16 units and of
/// the value in bytes, both in 64 bits, then the name without a final zero and the value.
pub(crate) fn variable_data(value: &[u8]) -> Vec<u8> {
    let mut data = EFI_GLOBAL_VARIABLE.to_vec();
    data.extend_from_slice(&(NAME.len() as u64).to_le_bytes());
    data.extend_from_slice(&(value.len() as u64).to_le_bytes());
    data.extend(NAME.encode_utf16().flat_map(u16::to_le_bytes));
    data.extend_from_slice(value);
    data
}

/// Whether event data are a UEFI_VARIABLE_DATA of `SecureBoot`, of whatever value.
pub(crate) fn is_named_in(data: &[u8]) -> bool {
    let ours = variable_data(&[]);
    // All but the length of the value.
    [0..HEADER_LEN - 8, HEADER_LEN..ours.len()]
        .into_iter()
        .all(|part| data.get(part.clone()).is_some_and(|found| Some(found) == ours.get(part)))
}

/// The digests by which events of PCR 7 are recognized, in one bank.
#[derive(Clone, Debug)]
pub(crate) struct KnownDigests {
    bank: HashAlgorithm,
    on: Vec<u8>,
    off: [Vec<u8>; 2],
    separator: Vec<u8>,
    other_separators: [Vec<u8>; 2],
}

impl KnownDigests {
    /// The digests in a bank.
    pub(crate) fn of(bank: HashAlgorithm) -> Result<Self, UnsupportedHash> {
        let [older, error] = OTHER_SEPARATORS;
        Ok(Self {
            bank,
            on: bank.digest(&variable_data(&[1]))?,
            off: [bank.digest(&variable_data(&[0]))?, bank.digest(&variable_data(&[]))?],
            separator: bank.digest(&SEPARATOR)?,
            other_separators: [bank.digest(&older)?, bank.digest(&error)?],
        })
    }

    fn is_separator(&self, digest: &[u8]) -> bool {
        self.separator == digest || self.other_separators.iter().any(|other| other == digest)
    }
}

impl BootLog {
    /// Events of PCR 7 with their digests, from the start of the log.
    fn policy_events(&self, bank: HashAlgorithm) -> impl Iterator<Item = (&Event, &[u8])> {
        self.events.iter().filter(|event| event.pcr == PCR).filter_map(move |event| Some((event, event.digest(bank)?)))
    }

    /// What the digests before the separator show.
    pub(crate) fn secure_boot(&self, known: &KnownDigests) -> SecureBoot {
        let mut shown = None;
        for (_, digest) in self.policy_events(known.bank) {
            if known.separator == digest {
                return shown.unwrap_or(SecureBoot::NotShown);
            }
            if known.is_separator(digest) {
                return SecureBoot::NotShown;
            }
            let value = if known.on == digest {
                SecureBoot::On
            } else if known.off.iter().any(|off| off == digest) {
                SecureBoot::Off
            } else {
                continue;
            };
            // A second measurement leaves open which one holds.
            shown = Some(if shown.is_none() { value } else { SecureBoot::NotShown });
        }
        SecureBoot::NotShown
    }

    /// Refuses event data before the separator that claim another value of `SecureBoot` than was
    /// measured. They would not change [`Self::secure_boot`], but such a log was tampered with.
    pub(crate) fn check_secure_boot_data(&self, known: &KnownDigests) -> Result<(), BootLogError> {
        for (event, digest) in self.policy_events(known.bank).take_while(|(_, digest)| !known.is_separator(digest)) {
            if let Some(data) = &event.secure_boot
                && known.bank.digest(data)? != digest
            {
                return Err(BootLogError::SecureBootDigest { event: event.number });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
