// SPDX-License-Identifier: Apache-2.0
//! A cursor over bytes of a TPM structure that never reads past their end.

use crate::error::DecodeError;

/// Reads big-endian TPM fields from a bounded input.
pub(crate) struct Reader<'a> {
    structure: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts reading `bytes` as `structure`, which must not be longer than `limit` bytes.
    pub(crate) fn new(structure: &'static str, bytes: &'a [u8], limit: usize) -> Result<Self, DecodeError> {
        if bytes.len() > limit {
            return Err(DecodeError::TooLong { structure, len: bytes.len(), limit });
        }
        Ok(Self { structure, rest: bytes })
    }

    /// The next `len` bytes.
    pub(crate) fn bytes(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) =
            self.rest.split_at_checked(len).ok_or(DecodeError::Truncated { structure: self.structure, field })?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (head, rest) =
            self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated { structure: self.structure, field })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// A TPM2B: a 16-bit size and as many bytes.
    pub(crate) fn sized(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.u16(field)?;
        self.bytes(field, usize::from(len))
    }

    /// Ends the structure: nothing may be left.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing { structure: self.structure, extra }),
        }
    }

    pub(crate) fn unsupported(&self, field: &'static str, value: impl Into<u32>) -> DecodeError {
        DecodeError::Unsupported { structure: self.structure, field, value: value.into() }
    }

    pub(crate) fn size_error(&self, field: &'static str, size: usize, expected: &'static str) -> DecodeError {
        DecodeError::Size { structure: self.structure, field, size, expected }
    }
}
