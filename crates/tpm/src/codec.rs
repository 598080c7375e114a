// SPDX-License-Identifier: Apache-2.0
//! Big-endian reading and writing of TPM structures (TPM 2.0 Library Part 1, "Command/Response Structure").

use zeroize::Zeroizing;

/// The answer ended before the structure did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short;

/// Reads from the front of a byte slice; nothing here can panic on what the TPM sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8], Short> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(Short)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Short)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Short> {
        self.array::<1>().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_be_bytes)
    }

    /// A TPM2B: 16-bit length, then as many bytes.
    pub(crate) fn sized(&mut self) -> Result<&'a [u8], Short> {
        let length = self.u16()?;
        self.bytes(usize::from(length))
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }
}

/// Builds a structure. The buffer is wiped when dropped, because some commands carry authorization values.
#[derive(Default)]
pub(crate) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Writer(Zeroizing::new(Vec::with_capacity(capacity)))
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A TPM2B. Callers pass values whose length was bounded where it came in; the bound of a whole command
    /// (4,096 bytes) is far below what the length field holds, and `Command::finish` checks it.
    pub(crate) fn sized(&mut self, bytes: &[u8]) -> &mut Self {
        self.u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX)).bytes(bytes)
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Overwrites the 32-bit value at `offset`, which was written before.
    pub(crate) fn set_u32(&mut self, offset: usize, value: u32) {
        if let Some(slot) = self.0.get_mut(offset..offset + 4) {
            slot.copy_from_slice(&value.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_was_written() {
        let mut writer = Writer::default();
        writer.u8(1).u16(0x0203).u32(0x0405_0607).sized(b"abc").bytes(b"z");
        let mut reader = Reader::new(writer.as_slice());
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.u16(), Ok(0x0203));
        assert_eq!(reader.u32(), Ok(0x0405_0607));
        assert_eq!(reader.sized(), Ok(&b"abc"[..]));
        assert_eq!(reader.rest(), b"z");
    }

    #[test]
    fn short_input_is_an_error_at_every_length() {
        let whole = [0, 3, b'a', b'b', b'c'];
        for end in 0..whole.len() {
            assert_eq!(Reader::new(&whole[..end]).sized(), Err(Short), "{end}");
        }
        assert_eq!(Reader::new(&[0, 0, 0]).u32(), Err(Short));
        assert_eq!(Reader::new(&[]).u8(), Err(Short));
    }
}
