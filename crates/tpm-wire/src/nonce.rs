// SPDX-License-Identifier: Apache-2.0
//! The nonce of a quote: Keylime's `nonce` parameter and TPM2_Quote's qualifying data.

use std::fmt;
use std::str::FromStr;

/// 1 to 64 ASCII letters and digits, the only nonces a Keylime agent accepts.
///
/// The bytes of the text are the quote's qualifying data. `Debug` hides the value: whoever reads a
/// nonce in a log before it is used could have a quote made over it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Nonce(String);

/// Why a text is not a nonce. The text is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NonceError {
    /// The text is empty.
    #[error("the nonce is empty")]
    Empty,
    /// The text is longer than [`Nonce::MAX_LEN`].
    #[error("the nonce has {len} bytes, at most 64 are allowed")]
    TooLong {
        /// Length of the text in bytes.
        len: usize,
    },
    /// A character other than an ASCII letter or digit.
    #[error("the nonce has characters other than ASCII letters and digits")]
    NotAlphanumeric,
}

impl Nonce {
    /// The largest length in bytes.
    pub const MAX_LEN: usize = 64;

    /// The nonce that stands for 160 random bits: 32 characters of base32 (`A`-`Z`, `2`-`7`), the
    /// form the Go plugins use. The caller supplies the randomness.
    pub fn from_random(random: &[u8; 20]) -> Self {
        let mut text = String::with_capacity(32);
        for group in random.as_chunks::<5>().0 {
            // Five bytes are 40 bits, eight characters of five bits each.
            let bits = group.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
            for shift in (0..8).rev() {
                let value = (bits >> (5 * shift) & 0x1f) as u8;
                text.push(char::from(if value < 26 { b'A' + value } else { b'2' + value - 26 }));
            }
        }
        Self(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The qualifying data of the quote.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl FromStr for Nonce {
    type Err = NonceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            Err(NonceError::Empty)
        } else if text.len() > Self::MAX_LEN {
            Err(NonceError::TooLong { len: text.len() })
        } else if !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            Err(NonceError::NotAlphanumeric)
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({} characters)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_of_every_length_are_taken() {
        for len in 1..=Nonce::MAX_LEN {
            let text = "z".repeat(len);
            let nonce: Nonce = text.parse().unwrap();
            assert_eq!(nonce.as_str(), text);
            assert_eq!(nonce.as_bytes(), text.as_bytes());
        }
    }

    #[test]
    fn each_fault_has_its_error() {
        let long = "a".repeat(65);
        let rows = [
            ("", "the nonce is empty"),
            (long.as_str(), "the nonce has 65 bytes, at most 64 are allowed"),
            ("abc-def", "the nonce has characters other than ASCII letters and digits"),
            ("abc def", "the nonce has characters other than ASCII letters and digits"),
            ("abc\n", "the nonce has characters other than ASCII letters and digits"),
            ("straße", "the nonce has characters other than ASCII letters and digits"),
            ("٣", "the nonce has characters other than ASCII letters and digits"),
        ];
        for (text, expected) in rows {
            assert_eq!(text.parse::<Nonce>().unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn random_bytes_become_base32() {
        // RFC 4648 "Test Vectors": five bytes of the alphabet's example, four times.
        let random: [u8; 20] = b"fooba".repeat(4).try_into().unwrap();
        assert_eq!(Nonce::from_random(&random).as_str(), "MZXW6YTB".repeat(4));
        assert_eq!(Nonce::from_random(&[0; 20]).as_str(), "A".repeat(32));
        assert_eq!(Nonce::from_random(&[0xff; 20]).as_str(), "7".repeat(32));
        let nonce = Nonce::from_random(&random);
        assert_eq!(nonce.as_str().parse(), Ok(nonce));
    }

    #[test]
    fn debug_hides_the_value() {
        let nonce: Nonce = "secret".parse().unwrap();
        assert_eq!(format!("{nonce:?}"), "Nonce(6 characters)");
    }
}
