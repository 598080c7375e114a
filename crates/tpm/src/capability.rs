// SPDX-License-Identifier: Apache-2.0
//! TPM2_GetCapability: properties, handles and PCR banks (TPM 2.0 Library Part 3, "TPM2_GetCapability").

use crate::command::{Command, GET_CAPABILITY, Response};
use crate::connection::Connection;
use crate::error::TpmError;
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::pcr::NODE_KEY_PCR;

const TPM_CAP_HANDLES: u32 = 1;
const TPM_CAP_PCRS: u32 = 5;
const TPM_CAP_TPM_PROPERTIES: u32 = 6;

/// First of the four 4-byte pieces of the vendor string.
const TPM_PT_VENDOR_STRING_1: u32 = 0x106;
const TPM_PT_VENDOR_STRING_4: u32 = 0x109;
pub(crate) const TPM_PT_NV_BUFFER_MAX: u32 = 0x12C;

/// First handle of the range of transient objects.
pub(crate) const TRANSIENT_FIRST: u32 = 0x8000_0000;
/// More handles than any TPM has slots or indexes for; ends a listing by a TPM that repeats itself.
const MAX_HANDLES: usize = 1024;

fn query(connection: &Connection, capability: u32, property: u32, count: u32) -> Result<Response, TpmError> {
    let mut command = Command::new(GET_CAPABILITY);
    command.parameters.u32(capability).u32(property).u32(count);
    command.send(connection)
}

/// Reads `count` properties from `first` on, as (tag, value).
pub(crate) fn tpm_properties(connection: &Connection, first: u32, count: u32) -> Result<Vec<(u32, u32)>, TpmError> {
    query(connection, TPM_CAP_TPM_PROPERTIES, first, count)?.parameters(|reader| {
        let _more = reader.u8()?;
        let _capability = reader.u32()?;
        let count = reader.u32()?;
        (0..count).map(|_| Ok((reader.u32()?, reader.u32()?))).collect()
    })
}

/// Whether this is a software TPM, which gives no hardware root of trust: its vendor string contains `SW`.
pub(crate) fn is_software(connection: &Connection) -> Result<bool, TpmError> {
    let count = TPM_PT_VENDOR_STRING_4 - TPM_PT_VENDOR_STRING_1 + 1;
    let values = tpm_properties(connection, TPM_PT_VENDOR_STRING_1, count)?;
    Ok(vendor(&values).contains("SW"))
}

/// The vendor string, up to 16 characters, e.g. `SLB9670` or `SW   TPM`.
fn vendor(values: &[(u32, u32)]) -> String {
    values
        .iter()
        .filter(|(tag, _)| (TPM_PT_VENDOR_STRING_1..=TPM_PT_VENDOR_STRING_4).contains(tag))
        .flat_map(|(_, value)| value.to_be_bytes())
        .filter(|byte| *byte == b' ' || byte.is_ascii_graphic())
        .map(char::from)
        .collect()
}

/// All existing handles from `first` to `last`, ascending.
pub(crate) fn handles(connection: &Connection, first: u32, last: u32) -> Result<Vec<u32>, TpmError> {
    let mut found = Vec::new();
    let mut next = first;
    loop {
        let wanted = last.saturating_sub(next).saturating_add(1).min(256);
        let response = query(connection, TPM_CAP_HANDLES, next, wanted)?;
        let (more, list) = response.parameters(|reader| {
            let more = reader.u8()? != 0;
            let _capability = reader.u32()?;
            let count = reader.u32()?;
            Ok((more, (0..count).map(|_| reader.u32()).collect::<Result<Vec<u32>, _>>()?))
        })?;
        let in_range = |handle: &u32| (next..=last).contains(handle);
        found.extend(list.iter().copied().filter(in_range));
        match list.last().and_then(|highest| highest.checked_add(1)) {
            Some(following) if more && following > next && following <= last && found.len() < MAX_HANDLES => {
                next = following;
            }
            _ => return Ok(found),
        }
    }
}

/// Checks that the bank exists and has the PCR that holds the node key's digest.
pub(crate) fn require_bank(connection: &Connection, bank: HashAlgorithm) -> Result<(), TpmError> {
    let banks = query(connection, TPM_CAP_PCRS, 0, 1)?.parameters(|reader| {
        let _more = reader.u8()?;
        let _capability = reader.u32()?;
        let count = reader.u32()?;
        (0..count)
            .map(|_| {
                let hash = reader.u16()?;
                let size = reader.u8()?;
                let select = reader.bytes(usize::from(size))?;
                let byte = select.get(usize::from(NODE_KEY_PCR / 8)).copied().unwrap_or(0);
                Ok((hash, byte & 1 << (NODE_KEY_PCR % 8) != 0))
            })
            .collect::<Result<Vec<(u16, bool)>, _>>()
    })?;
    if banks.contains(&(bank.tpm_id(), true)) {
        return Ok(());
    }
    let names: Vec<&str> = banks
        .iter()
        .filter(|(_, usable)| *usable)
        .filter_map(|(id, _)| HashAlgorithm::from_tpm_id(*id))
        .map(HashAlgorithm::name)
        .collect();
    Err(TpmError::BankInactive { bank, active: names.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendor_string_is_put_together() {
        let rows = [
            ([0x5357_2020, 0x2054_504D, 0, 0], "SW   TPM"),
            ([0x534C_4239, 0x3637_3000, 0, 0], "SLB9670"),
            ([0, 0, 0, 0], ""),
        ];
        for (pieces, text) in rows {
            let mut values = vec![(TPM_PT_VENDOR_STRING_1 - 1, 0x4946_5800), (TPM_PT_VENDOR_STRING_4 + 1, 0x5357_0000)];
            values.extend((TPM_PT_VENDOR_STRING_1..).zip(pieces));
            assert_eq!(vendor(&values), text);
        }
    }
}
