// SPDX-License-Identifier: Apache-2.0
//! The nonce of a quote: Keylime's `nonce` parameter and TPM2_Quote's qualifying data.

use std::fmt;
use std::str::FromStr;

use ring::digest::{Context, SHA256};

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
        Self(base32(random))
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

/// The nonce that the TPM quotes in version 2 of the plugins' messages: 52 characters of base32 without
/// padding (RFC 4648 "Base 32 Encoding") of SHA-256 over `spire-keylime quote v2`, a zero byte, and
/// then trust domain, Keylime agent id, server nonce and agent nonce, each as its length in bytes
/// (u16, big endian) and its bytes.
///
/// The trust domain is the bare name (`example.org`), the id the Keylime agent's as the payload has it.
/// Neither side chooses the result, so a server that means ill gets no signature over anything that
/// somebody else has asked for, be it Keylime's verifier or the server of another trust domain.
pub fn bound(trust_domain: &str, agent_id: &str, server: &Nonce, agent: &Nonce) -> Nonce {
    let mut hasher = Context::new(&SHA256);
    hasher.update(b"spire-keylime quote v2\0");
    for part in [trust_domain, agent_id, server.as_str(), agent.as_str()] {
        // Nothing that is a trust domain, an id or a nonce comes near the limit.
        let len = u16::try_from(part.len()).unwrap_or(u16::MAX);
        hasher.update(&len.to_be_bytes());
        hasher.update(part.as_bytes());
    }
    Nonce(base32(hasher.finish().as_ref()))
}

/// RFC 4648 "Base 32 Encoding", upper case, without padding.
fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    for group in bytes.chunks(5) {
        // Five bytes are 40 bits, eight characters of five bits each; a shorter group ends with zero bits.
        let bits = group.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte)) << (8 * (5 - group.len()));
        for position in 0..(group.len() * 8).div_ceil(5) {
            let value = (bits >> (35 - 5 * position) & 0x1f) as u8;
            text.push(char::from(if value < 26 { b'A' + value } else { b'2' + value - 26 }));
        }
    }
    text
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
    fn base32_is_rfc_4648s() {
        // "Test Vectors" there, without the padding.
        for (bytes, text) in [
            ("", ""),
            ("f", "MY"),
            ("fo", "MZXQ"),
            ("foo", "MZXW6"),
            ("foob", "MZXW6YQ"),
            ("fooba", "MZXW6YTB"),
            ("foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(base32(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn the_bound_nonce_depends_on_each_part_and_its_place() {
        let nonce = |text: &str| text.parse::<Nonce>().unwrap();
        let id = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000";
        let one = bound("example.org", id, &nonce("ABC"), &nonce("xyz"));
        // Worked out with Python's hashlib and base64.
        assert_eq!(one.as_str(), "WRC2HG744JWM6LFQ2NK5A45DDLQQ3DIDXDTAE5PY3O7YBTPP7FAQ");
        assert_eq!(one.as_str().parse(), Ok(one.clone()));
        for other in [
            bound("example.com", id, &nonce("ABC"), &nonce("xyz")),
            bound("example.org", "d432fbb3-d2f1-4a97-9ef7-75bd81c00001", &nonce("ABC"), &nonce("xyz")),
            bound("example.org", id, &nonce("ABD"), &nonce("xyz")),
            bound("example.org", id, &nonce("ABC"), &nonce("xyy")),
            bound("example.org", id, &nonce("xyz"), &nonce("ABC")),
            bound("example.org", id, &nonce("ABCx"), &nonce("yz")),
            bound("example.orgd", &id[1..], &nonce("ABC"), &nonce("xyz")),
        ] {
            assert_ne!(other, one);
        }
    }

    #[test]
    fn debug_hides_the_value() {
        let nonce: Nonce = "secret".parse().unwrap();
        assert_eq!(format!("{nonce:?}"), "Nonce(6 characters)");
    }
}
