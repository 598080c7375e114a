// SPDX-License-Identifier: Apache-2.0
//! The crypto-agile form of the log.

use tpm_wire::hash::HashAlgorithm;

use crate::error::BootLogError;
use crate::fields::{At, Fields, sized};
use crate::secure_boot;

/// Longest log in bytes, which is what the plugins' messages carry. Real ones have 20 to 80 KiB, most
/// of it the secure boot databases.
pub use tpm_wire::payload::MAX_BOOT_LOG_LEN;

/// Most events in a log, the Spec ID event included. Real logs have 100 to 200.
pub const MAX_EVENTS: usize = 4096;

/// Most digest algorithms in a log: as many as a TPML_PCR_SELECTION has banks.
pub const MAX_ALGORITHMS: usize = 16;

/// Digests longer than these have no place in a TPMU_HA.
const MAX_UNKNOWN_DIGEST_LEN: u16 = 64;

/// TPM_PCRINDEX: the PCRs of a PC Client platform end here.
const LAST_PCR: u32 = 23;

/// TCG_EVENTTYPE: tells something, is never extended.
pub(crate) const EV_NO_ACTION: u32 = 0x0000_0003;

/// TCG_EVENTTYPE: a variable that configures the platform.
pub(crate) const EV_EFI_VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;

/// TCG_EfiSpecIDEvent.signature of the crypto-agile form.
const SPEC_ID_03: &[u8; 16] = b"Spec ID Event03\0";

/// TCG_EfiStartupLocalityEvent.Signature.
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// A parsed boot log. By itself it is only what the host says: see [`BootLog::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootLog {
    /// The known algorithms of which the log has digests.
    pub(crate) banks: Vec<HashAlgorithm>,
    /// The locality of TPM2_Startup, 0 if the log does not tell: the last byte of PCR 0's first value.
    pub(crate) startup_locality: u8,
    /// The events that were extended, in the order of the log.
    pub(crate) events: Vec<Event>,
}

/// Digests of known algorithms, one of each at most.
type Digests = Vec<(HashAlgorithm, Box<[u8]>)>;

/// An event that was extended into a PCR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its place in the log; the Spec ID event is 0.
    pub(crate) number: usize,
    /// 0 to 23.
    pub(crate) pcr: u8,
    /// The digests that its PCR was extended with.
    digests: Digests,
    /// The event data, where the event claims to measure `SecureBoot` into PCR 7. Data of other events
    /// are not kept: no PCR vouches for them and nothing here uses them.
    pub(crate) secure_boot: Option<Box<[u8]>>,
}

impl Event {
    /// The digest of a bank.
    pub(crate) fn digest(&self, bank: HashAlgorithm) -> Option<&[u8]> {
        self.digests.iter().find(|(algorithm, _)| *algorithm == bank).map(|(_, digest)| &**digest)
    }
}

impl BootLog {
    /// Parses a log as Linux shows it in `binary_bios_measurements`.
    ///
    /// Events must follow one another up to the last byte: Linux leaves out the padding of the
    /// firmware's buffer. Digests of algorithms not known here are skipped.
    ///
    /// # Errors
    /// Every [`BootLogError`] up to [`BootLogError::StartupLocalityRepeated`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BootLogError> {
        if bytes.is_empty() {
            return Err(BootLogError::Empty);
        }
        if bytes.len() > MAX_BOOT_LOG_LEN {
            return Err(BootLogError::TooLong { len: bytes.len() });
        }
        let mut reader = Fields::at(At(0), bytes);
        let algorithms = spec_id_event(&mut reader)?;
        let mut events = Vec::new();
        let mut startup_locality = None;
        while reader.left() > 0 {
            reader.place.0 += 1;
            let number = reader.place.0;
            if number >= MAX_EVENTS {
                return Err(BootLogError::TooManyEvents);
            }
            let pcr = reader.u32("pcrIndex")?;
            let event_type = reader.u32("eventType")?;
            let digests = digests(&mut reader, &algorithms)?;
            let data = sized(&mut reader, "eventSize", "event")?;
            if event_type == EV_NO_ACTION {
                if pcr == 0 && data.starts_with(STARTUP_LOCALITY) {
                    if startup_locality.is_some() {
                        return Err(BootLogError::StartupLocalityRepeated { event: number });
                    }
                    if events.iter().any(|event: &Event| event.pcr == 0) {
                        return Err(BootLogError::StartupLocalityLate { event: number });
                    }
                    startup_locality = Some(locality(data).ok_or(BootLogError::StartupLocality { event: number })?);
                }
                continue;
            }
            let secure_boot = pcr == u32::from(secure_boot::PCR)
                && event_type == EV_EFI_VARIABLE_DRIVER_CONFIG
                && secure_boot::is_named_in(data);
            let pcr = u8::try_from(pcr)
                .ok()
                .filter(|pcr| u32::from(*pcr) <= LAST_PCR)
                .ok_or(BootLogError::NoSuchPcr { event: number, pcr })?;
            events.push(Event { number, pcr, digests, secure_boot: secure_boot.then(|| data.into()) });
        }
        Ok(Self {
            banks: algorithms.iter().filter_map(|algorithm| algorithm.known).collect(),
            startup_locality: startup_locality.unwrap_or_default(),
            events,
        })
    }
}

/// TCG_EfiSpecIdEventAlgorithmSize.
struct Algorithm {
    id: u16,
    size: u16,
    known: Option<HashAlgorithm>,
}

/// The first event, a TCG_PCClientPCREvent around a TCG_EfiSpecIDEvent: the algorithms it announces.
fn spec_id_event(log: &mut Fields<'_>) -> Result<Vec<Algorithm>, BootLogError> {
    let pcr = log.u32("pcrIndex")?;
    let event_type = log.u32("eventType")?;
    log.bytes("digest", HashAlgorithm::Sha1.digest_len())?;
    if pcr != 0 || event_type != EV_NO_ACTION {
        return Err(BootLogError::NotCryptoAgile);
    }
    let mut event = Fields::at(At(0), sized(log, "eventDataSize", "event")?);
    if event.bytes("signature", SPEC_ID_03.len())? != SPEC_ID_03 {
        return Err(BootLogError::NotCryptoAgile);
    }
    event.u32("platformClass")?;
    event.bytes("specVersion", 3)?;
    event.u8("uintnSize")?;
    let count = event.u32("numberOfAlgorithms")?;
    if !(1..=MAX_ALGORITHMS).contains(&usize::try_from(count).unwrap_or(usize::MAX)) {
        return Err(BootLogError::AlgorithmCount { count });
    }
    let mut algorithms: Vec<Algorithm> = Vec::new();
    for _ in 0..count {
        let id = event.u16("algorithmId")?;
        let size = event.u16("digestSize")?;
        let known = HashAlgorithm::from_tpm_id(id);
        if algorithms.iter().any(|other| other.id == id) {
            return Err(BootLogError::AlgorithmRepeated { id });
        }
        match known {
            Some(algorithm) if usize::from(size) != algorithm.digest_len() => {
                return Err(BootLogError::DigestSize { algorithm, size });
            }
            None if !(1..=MAX_UNKNOWN_DIGEST_LEN).contains(&size) => {
                return Err(BootLogError::UnknownDigestSize { id, size });
            }
            _ => algorithms.push(Algorithm { id, size, known }),
        }
    }
    let vendor_info_size = event.u8("vendorInfoSize")?;
    event.bytes("vendorInfo", vendor_info_size.into())?;
    match event.left() {
        0 => Ok(algorithms),
        extra => Err(BootLogError::SpecIdSurplus { extra }),
    }
}

/// A TPML_DIGEST_VALUES: the digests of known algorithms.
fn digests(reader: &mut Fields<'_>, algorithms: &[Algorithm]) -> Result<Digests, BootLogError> {
    let event = reader.place.0;
    let count = reader.u32("digests.count")?;
    let limit = algorithms.len();
    if !(1..=limit).contains(&usize::try_from(count).unwrap_or(usize::MAX)) {
        return Err(BootLogError::DigestCount { event, count, limit });
    }
    let mut seen: Vec<u16> = Vec::with_capacity(limit);
    let mut known = Vec::with_capacity(limit);
    for _ in 0..count {
        let id = reader.u16("hashAlg")?;
        let algorithm =
            algorithms.iter().find(|known| known.id == id).ok_or(BootLogError::DigestAlgorithm { event, id })?;
        if seen.contains(&id) {
            return Err(BootLogError::DigestRepeated { event, id });
        }
        seen.push(id);
        let digest = reader.bytes("digest", algorithm.size.into())?;
        if let Some(algorithm) = algorithm.known {
            known.push((algorithm, digest.into()));
        }
    }
    Ok(known)
}

/// The locality in a TCG_EfiStartupLocalityEvent: 0, 3, or 4 where an H-CRTM ran before TPM2_Startup.
fn locality(data: &[u8]) -> Option<u8> {
    match data.strip_prefix(STARTUP_LOCALITY)? {
        [locality @ (0 | 3 | 4)] => Some(*locality),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
