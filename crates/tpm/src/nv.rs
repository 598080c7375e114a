// SPDX-License-Identifier: Apache-2.0
//! EK certificates in the TPM's NV memory.
//!
//! Whether an index exists is asked with TPM2_GetCapability first, so that a TPM without certificates, which is
//! nothing unusual, causes no error anywhere.

use crate::capability::{self, TPM_PT_NV_BUFFER_MAX};
use crate::command::{Authorization, Command, NV_READ, NV_READ_PUBLIC};
use crate::connection::Connection;
use crate::error::TpmError;

const TPM_RH_OWNER: u32 = 0x4000_0001;
const TPMA_NV_OWNERREAD: u32 = 1 << 17;
const TPMA_NV_AUTHREAD: u32 = 1 << 18;
const TPMA_NV_WRITTEN: u32 = 1 << 29;

const CHAIN_FIRST: u32 = 0x01C0_0100;
const CHAIN_LAST: u32 = 0x01C0_01FF;
/// Bound for all certificates of a chain together; real ones have 2 to 4 kB.
const MAX_CHAIN: usize = 64 * 1024;
/// What every TPM takes in one TPM2_NV_Read, should it not tell its limit.
const SMALLEST_BUFFER: u16 = 512;
/// Keeps the response within one message.
const LARGEST_BUFFER: u16 = 2048;

/// What stands in a certificate index.
pub(crate) struct StoredCertificate {
    /// The DER certificate without padding, or everything if it is not DER.
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_der: bool,
}

/// Reads the certificate at `index`; `None` if the index does not exist or has not been written. The password is for an
/// owner hierarchy that has one.
pub(crate) fn certificate(
    connection: &Connection,
    index: u32,
    password: &[u8],
) -> Result<Option<StoredCertificate>, TpmError> {
    if !exists(connection, index)? {
        return Ok(None);
    }
    let buffer = buffer_size(connection)?;
    Ok(read_index(connection, index, buffer, password)?.map(|bytes| match der_length(&bytes) {
        Some(length) => {
            let bytes = bytes.get(..length).unwrap_or(&bytes).to_vec();
            StoredCertificate { bytes, is_der: true }
        }
        None => StoredCertificate { bytes, is_der: false },
    }))
}

/// Whether the index is defined.
pub(crate) fn exists(connection: &Connection, index: u32) -> Result<bool, TpmError> {
    Ok(!capability::handles(connection, index, index)?.is_empty())
}

/// Reads all certificates of the chain indexes, in the order in which they are stored.
pub(crate) fn certificate_chain(connection: &Connection, password: &[u8]) -> Result<Vec<Vec<u8>>, TpmError> {
    let indexes = capability::handles(connection, CHAIN_FIRST, CHAIN_LAST)?;
    if indexes.is_empty() {
        return Ok(Vec::new());
    }
    let buffer = buffer_size(connection)?;
    let mut all = Vec::new();
    for index in indexes {
        // A certificate may span two indexes, hence one text; padding at the end of an index does not matter then.
        all.extend(read_index(connection, index, buffer, password)?.unwrap_or_default());
        if all.len() > MAX_CHAIN {
            return Err(TpmError::TooLong { what: "the EK certificate chain", length: all.len(), limit: MAX_CHAIN });
        }
    }
    Ok(split_chain(&all))
}

/// Splits concatenated certificates, skipping padding between and after them.
fn split_chain(mut rest: &[u8]) -> Vec<Vec<u8>> {
    let mut certificates = Vec::new();
    loop {
        while let Some((0x00 | 0xFF, tail)) = rest.split_first() {
            rest = tail;
        }
        let Some((certificate, tail)) = der_length(rest).and_then(|length| rest.split_at_checked(length)) else {
            return certificates;
        };
        certificates.push(certificate.to_vec());
        rest = tail;
    }
}

/// Length of the DER SEQUENCE at the front, header included, if it is one and is complete.
fn der_length(bytes: &[u8]) -> Option<usize> {
    let (header, content) = match *bytes {
        [0x30, length @ 0..=0x7F, ..] => (2, usize::from(length)),
        [0x30, 0x81, length @ 0x80..=0xFF, ..] => (3, usize::from(length)),
        [0x30, 0x82, high @ 1..=0xFF, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
        _ => return None,
    };
    let length = header + content;
    (content > 0 && length <= bytes.len()).then_some(length)
}

/// How many bytes the TPM gives in one TPM2_NV_Read.
fn buffer_size(connection: &Connection) -> Result<u16, TpmError> {
    let properties = capability::tpm_properties(connection, TPM_PT_NV_BUFFER_MAX, 1)?;
    let limit = properties.iter().find(|(tag, _)| *tag == TPM_PT_NV_BUFFER_MAX).map(|(_, value)| *value);
    Ok(limit
        .and_then(|value| u16::try_from(value).ok())
        .filter(|value| *value > 0)
        .unwrap_or(SMALLEST_BUFFER)
        .min(LARGEST_BUFFER))
}

/// Reads a whole NV index with the authorization value of the index, which is taken to be empty, or of the owner, as its
/// attributes allow.
fn read_index(connection: &Connection, index: u32, buffer: u16, password: &[u8]) -> Result<Option<Vec<u8>>, TpmError> {
    let (attributes, size) = Command::new(NV_READ_PUBLIC).handle(index).send(connection)?.parameters(|reader| {
        let mut public = crate::codec::Reader::new(reader.sized()?);
        let _index = public.u32()?;
        let _name_alg = public.u16()?;
        let attributes = public.u32()?;
        let _policy = public.sized()?;
        Ok((attributes, public.u16()?))
    })?;
    if attributes & TPMA_NV_WRITTEN == 0 {
        return Ok(None);
    }
    // Wrong values for a hierarchy do not count towards a lockout, and those for an index with a value of its own are not
    // known to anybody here.
    let ways: [(bool, u32, &[u8]); 3] = [
        (attributes & TPMA_NV_AUTHREAD != 0, index, &[]),
        (attributes & TPMA_NV_OWNERREAD != 0, TPM_RH_OWNER, &[]),
        (attributes & TPMA_NV_OWNERREAD != 0 && !password.is_empty(), TPM_RH_OWNER, password),
    ];
    let mut refused = None;
    for (_, authorizer, value) in ways.into_iter().filter(|(allowed, _, _)| *allowed) {
        match read_parts(connection, index, size, buffer, authorizer, value) {
            Err(TpmError::Command { code, .. }) if code.is_bad_auth() => refused = Some(code),
            Err(TpmError::Command { code, .. }) if code.is_nv_unwritten() => return Ok(None),
            other => return other.map(Some),
        }
    }
    Err(match refused {
        Some(code) => TpmError::NvAuth { index, code },
        None => TpmError::NvProtected(index),
    })
}

fn read_parts(
    connection: &Connection,
    index: u32,
    size: u16,
    buffer: u16,
    authorizer: u32,
    value: &[u8],
) -> Result<Vec<u8>, TpmError> {
    let mut data = Vec::with_capacity(usize::from(size));
    let mut offset = 0;
    while offset < size {
        let length = buffer.min(size - offset);
        let mut command = Command::new(NV_READ).authorized(authorizer, Authorization::Password(value)).handle(index);
        command.parameters.u16(length).u16(offset);
        let response = command.send(connection)?;
        let part = response.parameters(|reader| reader.sized().map(<[u8]>::to_vec))?;
        if part.len() != usize::from(length) {
            return Err(response.malformed("the length of the data"));
        }
        data.extend(part);
        offset += length;
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SEQUENCE with this much content.
    fn der(content: usize) -> Vec<u8> {
        let mut out = match content {
            0..=0x7F => vec![0x30, content as u8],
            0x80..=0xFF => vec![0x30, 0x81, content as u8],
            _ => [&[0x30, 0x82][..], &(content as u16).to_be_bytes()].concat(),
        };
        out.resize(out.len() + content, 0xA5);
        out
    }

    #[test]
    fn der_length_in_all_forms() {
        for content in [1, 0x7F, 0x80, 0xFF, 0x100, 1200] {
            let whole = der(content);
            assert_eq!(der_length(&whole), Some(whole.len()));
            for padding in [0x00, 0xFF] {
                let mut padded = whole.clone();
                padded.resize(1600, padding);
                assert_eq!(der_length(&padded), Some(whole.len()));
            }
            for end in 0..whole.len() {
                assert_eq!(der_length(&whole[..end]), None, "{content}: {end}");
            }
        }
    }

    #[test]
    fn what_is_not_der() {
        // Not a SEQUENCE, empty, indefinite length, lengths not in the shortest form, too long.
        let rows: [&[u8]; 8] = [
            &[],
            &[0xFF; 8],
            &[0x31, 1, 0],
            &[0x30, 0],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x81, 0x10, 0],
            &[0x30, 0x82, 0, 1, 0],
            &[0x30, 0x83, 0, 0, 1, 0],
        ];
        for bytes in rows {
            assert_eq!(der_length(bytes), None, "{bytes:02x?}");
        }
    }

    #[test]
    fn chains_split_into_certificates_whatever_lies_between() {
        let (one, two) = (der(300), der(5));
        let rows: [(Vec<u8>, usize); 5] = [
            ([&one[..], &two].concat(), 2),
            ([&one[..], &[0; 9], &two, &[0xFF; 70]].concat(), 2),
            ([&one[..], b"junk", &two].concat(), 1),
            (vec![0xFF; 100], 0),
            (one[..200].to_vec(), 0),
        ];
        for (bytes, count) in rows {
            let parts = split_chain(&bytes);
            assert_eq!(parts.len(), count);
            assert!(parts.first().is_none_or(|first| *first == one));
        }
    }
}
