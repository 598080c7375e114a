// SPDX-License-Identifier: Apache-2.0
//! Reading a TPM structure, and the errors of that.

use crate::error::DecodeError;
use crate::reader::{Place, Reader};

/// The TPM structure that is read, by name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Structure(&'static str);

/// Reads the fields of a TPM structure.
pub(crate) type Fields<'a> = Reader<'a, Structure>;

impl Place for Structure {
    type Error = DecodeError;

    const LITTLE_ENDIAN: bool = false;

    fn truncated(&self, field: &'static str) -> DecodeError {
        DecodeError::Truncated { structure: self.0, field }
    }
}

impl<'a> Fields<'a> {
    /// Starts reading `bytes` as `structure`, which must not be longer than `limit` bytes.
    pub(crate) fn new(structure: &'static str, bytes: &'a [u8], limit: usize) -> Result<Self, DecodeError> {
        if bytes.len() > limit {
            return Err(DecodeError::TooLong { structure, len: bytes.len(), limit });
        }
        Ok(Self::at(Structure(structure), bytes))
    }

    /// A TPM2B: a 16-bit size and as many bytes.
    pub(crate) fn sized(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.u16(field)?;
        self.bytes(field, usize::from(len))
    }

    /// Ends the structure: nothing may be left.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        match self.left() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing { structure: self.place.0, extra }),
        }
    }

    pub(crate) fn unsupported(&self, field: &'static str, value: impl Into<u32>) -> DecodeError {
        DecodeError::Unsupported { structure: self.place.0, field, value: value.into() }
    }

    pub(crate) fn size_error(&self, field: &'static str, size: usize, expected: &'static str) -> DecodeError {
        DecodeError::Size { structure: self.place.0, field, size, expected }
    }
}
