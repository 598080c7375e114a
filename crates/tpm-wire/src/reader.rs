// SPDX-License-Identifier: Apache-2.0
//! A cursor over bytes that a peer wrote, which never reads past their end.

/// Where a [`Reader`] is: what it reads, for its errors, and in which byte order.
pub trait Place {
    /// What is wrong with the bytes.
    type Error;

    /// Numbers have their least significant byte first; a TPM writes them the other way round.
    const LITTLE_ENDIAN: bool;

    /// The bytes end inside `field`.
    fn truncated(&self, field: &'static str) -> Self::Error;
}

/// Reads one field after the other; the names of fields are for errors.
#[derive(Debug)]
pub struct Reader<'a, P> {
    /// What is being read; to be kept in step by the one who reads.
    pub place: P,
    rest: &'a [u8],
}

impl<'a, P: Place> Reader<'a, P> {
    /// Reads `bytes`, whose length is the caller's to bound.
    pub fn at(place: P, bytes: &'a [u8]) -> Self {
        Self { place, rest: bytes }
    }

    /// How many bytes are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`Place::truncated`], as for all that is read.
    pub fn bytes(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], P::Error> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.place.truncated(field))?;
        self.rest = rest;
        Ok(head)
    }

    /// A number of `N` bytes, least significant byte first.
    fn number<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], P::Error> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.place.truncated(field))?;
        self.rest = rest;
        let mut number = *head;
        if !P::LITTLE_ENDIAN {
            number.reverse();
        }
        Ok(number)
    }

    /// A number of 8 bits.
    ///
    /// # Errors
    /// [`Place::truncated`].
    pub fn u8(&mut self, field: &'static str) -> Result<u8, P::Error> {
        self.number(field).map(u8::from_le_bytes)
    }

    /// A number of 16 bits.
    ///
    /// # Errors
    /// [`Place::truncated`].
    pub fn u16(&mut self, field: &'static str) -> Result<u16, P::Error> {
        self.number(field).map(u16::from_le_bytes)
    }

    /// A number of 32 bits.
    ///
    /// # Errors
    /// [`Place::truncated`].
    pub fn u32(&mut self, field: &'static str) -> Result<u32, P::Error> {
        self.number(field).map(u32::from_le_bytes)
    }

    /// A number of 64 bits.
    ///
    /// # Errors
    /// [`Place::truncated`].
    pub fn u64(&mut self, field: &'static str) -> Result<u64, P::Error> {
        self.number(field).map(u64::from_le_bytes)
    }
}
