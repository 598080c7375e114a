// SPDX-License-Identifier: Apache-2.0
//! Small boot logs, and the PCR values that they stand for.

use anyhow::Result;
use ring::digest::{SHA256, digest};

use crate::swtpm::Swtpm;

/// EV_NO_ACTION (TCG PC Client Platform Firmware Profile, "Event Types").
const EV_NO_ACTION: u32 = 3;
/// EV_SEPARATOR.
const EV_SEPARATOR: u32 = 4;
/// EV_EFI_VARIABLE_DRIVER_CONFIG.
const EV_EFI_VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
/// TPM_ALG_SHA256.
const ALG_SHA256: u16 = 0x0b;

/// A binary boot log for the SHA-256 bank, in the crypto agile format.
#[derive(Debug, Clone)]
pub struct BootLog {
    bytes: Vec<u8>,
    /// PCR and digest in hex of each event.
    extended: Vec<(u8, String)>,
}

impl BootLog {
    /// A log of the firmware measuring secure boot into PCR 7, and ending its part with the separators of PCRs 7 and 0.
    #[must_use]
    pub fn with_secure_boot(on: bool) -> Self {
        let mut log = Self::empty();
        // UEFI_VARIABLE_DATA of SecureBoot in the EFI global variable GUID.
        let name: Vec<u8> = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let guid = [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
        let variable = [&guid, &10_u64.to_le_bytes()[..], &1_u64.to_le_bytes(), &name, &[u8::from(on)]].concat();
        log.event(7, EV_EFI_VARIABLE_DRIVER_CONFIG, &variable);
        log.event(7, EV_SEPARATOR, &[0; 4]);
        log.event(0, EV_SEPARATOR, &[0; 4]);
        log
    }

    /// The header alone: TCG_PCClientPCREvent with a TCG_EfiSpecIDEvent for bank SHA-256.
    fn empty() -> Self {
        let spec_id =
            [b"Spec ID Event03\0".as_slice(), &[0; 4], &[0, 2, 0, 2], &1_u32.to_le_bytes(), &[0x0b, 0, 32, 0, 0]];
        let spec_id = spec_id.concat();
        let mut bytes = [0, EV_NO_ACTION].map(u32::to_le_bytes).concat();
        bytes.extend([0; 20]);
        bytes.extend(length(&spec_id));
        bytes.extend(spec_id);
        Self { bytes, extended: Vec::new() }
    }

    /// Appends a TCG_PCR_EVENT2 whose digest is that of its data.
    pub fn event(&mut self, pcr: u8, kind: u32, data: &[u8]) {
        let hash = digest(&SHA256, data);
        self.bytes.extend([u32::from(pcr), kind, 1].map(u32::to_le_bytes).concat());
        self.bytes.extend(ALG_SHA256.to_le_bytes());
        self.bytes.extend(hash.as_ref());
        self.bytes.extend(length(data));
        self.bytes.extend(data);
        self.extended.push((pcr, hex::encode(hash)));
    }

    /// The log, as the kernel shows it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Extends the TPM's PCRs as the log tells.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn extend(&self, tpm: &Swtpm) -> Result<()> {
        let arguments: Vec<_> = self.extended.iter().map(|(pcr, hash)| format!("{pcr}:sha256={hash}")).collect();
        tpm.tool("tpm2_pcrextend", &arguments.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
    }
}

fn length(data: &[u8]) -> [u8; 4] {
    u32::try_from(data.len()).unwrap_or(u32::MAX).to_le_bytes()
}
