// SPDX-License-Identifier: Apache-2.0
//! The checksum by which a host pins a plugin's executable.

use std::{
    fmt,
    io::{self, Read},
    str::FromStr,
};

use ring::digest::{Context, SHA256};

/// A SHA-256 digest; written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256(pub [u8; 32]);

/// The text is no SHA-256 digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChecksumFormatError {
    /// Not 64 characters.
    #[error("expected checksum of length 64; got {length}")]
    Length {
        /// Characters of the text, in bytes.
        length: usize,
    },
    /// Something else than hexadecimal digits.
    #[error("checksum is not a valid hex string")]
    NotHex,
}

impl FromStr for Sha256 {
    type Err = ChecksumFormatError;

    fn from_str(text: &str) -> Result<Self, ChecksumFormatError> {
        if text.len() != 64 {
            return Err(ChecksumFormatError::Length { length: text.len() });
        }
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).map_err(|_| ChecksumFormatError::NotHex)?;
        Ok(Self(digest))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

impl Sha256 {
    /// Digest of all that `source` yields.
    pub(crate) fn of(mut source: impl Read) -> io::Result<Self> {
        let mut context = Context::new(&SHA256);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => context.update(buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Ok(Self(digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digests_are_64_hexadecimal_digits() {
        let parsed: Sha256 = EMPTY.parse().unwrap();
        assert_eq!(parsed, EMPTY.to_uppercase().parse().unwrap());
        assert_eq!(parsed, Sha256::of(io::empty()).unwrap());
        assert_eq!(parsed.to_string(), EMPTY);
        assert_eq!(format!("{parsed:?}"), format!("Sha256({EMPTY})"));
    }

    #[test]
    fn other_texts_are_refused() {
        for (text, message) in [
            ("", "expected checksum of length 64; got 0"),
            (&EMPTY[..40], "expected checksum of length 64; got 40"),
            (&"g".repeat(64), "checksum is not a valid hex string"),
        ] {
            let error = text.parse::<Sha256>().unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }
}
