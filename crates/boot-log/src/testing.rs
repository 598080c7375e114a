// SPDX-License-Identifier: Apache-2.0
//! Builds boot logs for the tests.

mod seeds;

use tpm_wire::hash::HashAlgorithm;
use tpm_wire::pcr::PcrValues;

use crate::parse::BootLog;
pub(crate) use crate::parse::{EV_EFI_VARIABLE_DRIVER_CONFIG, EV_NO_ACTION};
use crate::secure_boot::variable_data;

pub(crate) const EV_SEPARATOR: u32 = 4;
pub(crate) const EV_S_CRTM_VERSION: u32 = 8;
pub(crate) const EV_IPL: u32 = 0xd;
pub(crate) const EV_EFI_VARIABLE_BOOT: u32 = 0x8000_0002;
pub(crate) const EV_EFI_BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
pub(crate) const EV_EFI_ACTION: u32 = 0x8000_0007;
pub(crate) const EV_EFI_VARIABLE_AUTHORITY: u32 = 0x8000_00e0;

/// TPM_ALG_SHA3_256, which is not known here.
pub(crate) const SHA3_256: u16 = 0x27;

/// An algorithm of the Spec ID event with its digest size.
pub(crate) type Announced = (u16, u16);

/// A log under construction.
#[derive(Clone)]
pub(crate) struct Builder {
    announced: Vec<Announced>,
    bytes: Vec<u8>,
}

impl Builder {
    /// A log with digests of these algorithms: its Spec ID event.
    pub(crate) fn new(banks: &[HashAlgorithm]) -> Self {
        Self::announcing(banks.iter().map(|bank| (bank.tpm_id(), bank.digest_len() as u16)).collect())
    }

    /// A log whose Spec ID event has any table.
    pub(crate) fn announcing(announced: Vec<Announced>) -> Self {
        let bytes = spec_id(&announced, b"vendor");
        Self { announced, bytes }
    }

    /// An event whose digests are those of its data.
    pub(crate) fn event(self, pcr: u32, event_type: u32, data: &[u8]) -> Self {
        self.measured(pcr, event_type, data, data)
    }

    /// An event whose digests are those of something else than its data, such as a program.
    pub(crate) fn measured(self, pcr: u32, event_type: u32, measured: &[u8], data: &[u8]) -> Self {
        let digest = |&(id, size): &Announced| {
            let digest = match HashAlgorithm::from_tpm_id(id).map(|algorithm| algorithm.digest(measured)) {
                Some(Ok(digest)) => digest,
                _ => vec![0x77; size.into()],
            };
            (id, digest)
        };
        let digests: Vec<_> = self.announced.iter().map(digest).collect();
        self.raw(pcr, event_type, &digests, data)
    }

    /// An event with zero digests, as firmware writes it for what is not extended.
    pub(crate) fn not_extended(self, data: &[u8]) -> Self {
        let digests: Vec<_> = self.announced.iter().map(|(id, size)| (*id, vec![0; (*size).into()])).collect();
        self.raw(0, EV_NO_ACTION, &digests, data)
    }

    /// An event with any digests.
    pub(crate) fn raw(mut self, pcr: u32, event_type: u32, digests: &[(u16, Vec<u8>)], data: &[u8]) -> Self {
        self.bytes.extend_from_slice(&pcr.to_le_bytes());
        self.bytes.extend_from_slice(&event_type.to_le_bytes());
        self.bytes.extend_from_slice(&(digests.len() as u32).to_le_bytes());
        for (id, digest) in digests {
            self.bytes.extend_from_slice(&id.to_le_bytes());
            self.bytes.extend_from_slice(digest);
        }
        self.bytes.extend_from_slice(&(data.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(data);
        self
    }

    /// The variable `SecureBoot`, as firmware measures it.
    pub(crate) fn secure_boot(self, value: &[u8]) -> Self {
        self.event(7, EV_EFI_VARIABLE_DRIVER_CONFIG, &variable_data(value))
    }

    /// The separator of a PCR.
    pub(crate) fn separator(self, pcr: u32) -> Self {
        self.event(pcr, EV_SEPARATOR, &[0; 4])
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn parse(self) -> BootLog {
        BootLog::parse(&self.bytes).unwrap()
    }
}

/// A Spec ID event, with its TCG_PCClientPCREvent.
pub(crate) fn spec_id(announced: &[Announced], vendor_info: &[u8]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0".to_vec();
    data.extend_from_slice(&0u32.to_le_bytes());
    data.extend_from_slice(&[0, 2, 0, 2]);
    data.extend_from_slice(&(announced.len() as u32).to_le_bytes());
    for (id, size) in announced {
        data.extend_from_slice(&id.to_le_bytes());
        data.extend_from_slice(&size.to_le_bytes());
    }
    data.push(vendor_info.len() as u8);
    data.extend_from_slice(vendor_info);
    sha1_event(0, EV_NO_ACTION, &data)
}

/// A TCG_PCClientPCREvent.
pub(crate) fn sha1_event(pcr: u32, event_type: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = pcr.to_le_bytes().to_vec();
    bytes.extend_from_slice(&event_type.to_le_bytes());
    bytes.extend_from_slice(&[0; 20]);
    bytes.extend_from_slice(&(data.len() as u32).to_le_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// UEFI_VARIABLE_DATA of any variable.
pub(crate) fn variable(guid: u8, name: &str, value: &[u8]) -> Vec<u8> {
    let mut data = vec![guid; 16];
    data.extend_from_slice(&(name.len() as u64).to_le_bytes());
    data.extend_from_slice(&(value.len() as u64).to_le_bytes());
    data.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
    data.extend_from_slice(value);
    data
}

/// An EFI_SIGNATURE_LIST with one SHA-256 digest.
fn signature_list() -> Vec<u8> {
    let mut list = vec![0x26; 16];
    for size in [76u32, 0, 48] {
        list.extend_from_slice(&size.to_le_bytes());
    }
    list.resize(76, 0x5a);
    list
}

/// A UEFI_IMAGE_LOAD_EVENT without a device path.
fn image_load() -> Vec<u8> {
    [0x7e00_0000, 0x0010_0000, 0, 0u64].map(u64::to_le_bytes).concat()
}

/// A log with the events that a PC with a boot loader has, short.
pub(crate) fn ordinary(banks: &[HashAlgorithm], startup_locality: Option<u8>, secure_boot: &[u8]) -> Builder {
    let mut log = Builder::new(banks);
    if let Some(locality) = startup_locality {
        log = log.not_extended(&[b"StartupLocality\0".as_slice(), &[locality]].concat());
    }
    log = log
        .event(0, EV_S_CRTM_VERSION, b"1\0.\x000\0\0\0")
        .secure_boot(secure_boot)
        .event(7, EV_EFI_VARIABLE_DRIVER_CONFIG, &variable(0x0a, "PK", &signature_list()))
        .event(7, EV_EFI_VARIABLE_DRIVER_CONFIG, &variable(0x0b, "dbx", &signature_list()))
        .separator(7)
        .event(1, EV_EFI_VARIABLE_BOOT, &variable(0x0a, "BootOrder", &[1, 0, 2, 0]))
        .event(4, EV_EFI_ACTION, b"Calling EFI Application from Boot Option");
    for pcr in 0..7 {
        log = log.separator(pcr);
    }
    log.event(7, EV_EFI_VARIABLE_AUTHORITY, &variable(0x0b, "db", &[0x11; 48]))
        .measured(4, EV_EFI_BOOT_SERVICES_APPLICATION, b"the boot loader", &image_load())
        .measured(8, EV_IPL, b"linux /vmlinuz", b"kernel_cmdline: linux /vmlinuz\0")
        .event(5, EV_EFI_ACTION, b"Exit Boot Services Invocation")
}

/// The quoted values of PCRs 0 to 7 after a boot with this log.
pub(crate) fn quoted(log: &BootLog, bank: HashAlgorithm) -> PcrValues {
    let values = log.replay(bank).unwrap();
    let mut quoted: std::collections::BTreeMap<u8, Vec<u8>> =
        (0..8).map(|pcr| (pcr, vec![0; bank.digest_len()])).collect();
    quoted.extend(values.iter().filter(|(pcr, _)| *pcr < 8).map(|(pcr, value)| (pcr, value.to_vec())));
    PcrValues::new(bank, quoted).unwrap()
}
