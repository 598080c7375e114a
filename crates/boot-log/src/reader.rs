// SPDX-License-Identifier: Apache-2.0
//! A cursor over a boot log that never reads past the end.

use crate::error::BootLogError;

/// Reads little-endian fields of one event after the other.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    event: usize,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, which begin with the given event.
    pub(crate) fn new(bytes: &'a [u8], event: usize) -> Self {
        Self { rest: bytes, event }
    }

    /// The event that is read.
    pub(crate) fn event(&self) -> usize {
        self.event
    }

    /// Goes on to the next event; `false` at the end of the bytes.
    pub(crate) fn next_event(&mut self) -> bool {
        self.event += 1;
        !self.rest.is_empty()
    }

    /// How many bytes are left.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes.
    pub(crate) fn bytes(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], BootLogError> {
        let (head, rest) =
            self.rest.split_at_checked(len).ok_or(BootLogError::Truncated { event: self.event, field })?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], BootLogError> {
        let (head, rest) =
            self.rest.split_first_chunk::<N>().ok_or(BootLogError::Truncated { event: self.event, field })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, BootLogError> {
        self.array::<1>(field).map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, BootLogError> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, BootLogError> {
        self.array(field).map(u32::from_le_bytes)
    }

    /// Bytes with their length in 32 bits before them.
    pub(crate) fn sized(&mut self, size_field: &'static str, field: &'static str) -> Result<&'a [u8], BootLogError> {
        let len = self.u32(size_field)?;
        // A length that does not fit is beyond the end too.
        self.bytes(field, usize::try_from(len).unwrap_or(usize::MAX))
    }
}
