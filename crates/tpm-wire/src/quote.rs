// SPDX-License-Identifier: Apache-2.0
//! Keylime's quote string: `r<attest>:<signature>:<pcrs>`, each part in base64.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::attest::MAX_ATTEST_LEN;
use crate::pcr::{MAX_BLOB_LEN, PcrValues};
use crate::signature::MAX_SIGNATURE_LEN;

/// The longest accepted quote string in bytes.
pub const MAX_QUOTE_STRING_LEN: usize =
    1 + encoded_len(MAX_ATTEST_LEN) + 1 + encoded_len(MAX_SIGNATURE_LEN) + 1 + encoded_len(MAX_BLOB_LEN);

/// Length of `len` bytes in padded base64.
const fn encoded_len(len: usize) -> usize {
    len.div_ceil(3) * 4
}

/// A quote as Keylime agents send it: three byte strings, bounded but not looked into.
///
/// The text is the letter `r`, then TPMS_ATTEST, TPMT_SIGNATURE and the PCR blob, each in standard
/// base64 with padding and without line breaks, divided by colons. [`crate::verify::verify_quote`]
/// decodes and checks the contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuoteString {
    attest: Vec<u8>,
    signature: Vec<u8>,
    pcrs: Vec<u8>,
}

/// A part of a quote string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotePart {
    /// TPMS_ATTEST.
    Attest,
    /// TPMT_SIGNATURE.
    Signature,
    /// The PCR blob.
    Pcrs,
}

impl fmt::Display for QuotePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attest => "TPMS_ATTEST",
            Self::Signature => "TPMT_SIGNATURE",
            Self::Pcrs => "PCR blob",
        })
    }
}

/// Why a text is not a quote string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuoteStringError {
    /// The text is longer than [`MAX_QUOTE_STRING_LEN`].
    #[error("the quote string has {len} bytes, at most {MAX_QUOTE_STRING_LEN} are accepted")]
    TooLong {
        /// Length of the text in bytes.
        len: usize,
    },
    /// The text does not start with `r`.
    #[error("the quote string does not start with r")]
    Prefix,
    /// The text does not have three parts.
    #[error("the quote string does not have three parts divided by colons")]
    Parts,
    /// A part is empty.
    #[error("the {part} of the quote string is empty")]
    EmptyPart {
        /// Which part.
        part: QuotePart,
    },
    /// A part is not standard base64 with padding.
    #[error("the {part} of the quote string is not base64")]
    Base64 {
        /// Which part.
        part: QuotePart,
    },
    /// A part is longer than any real one.
    #[error("the {part} of the quote string has {len} bytes, at most {limit} are accepted")]
    PartTooLong {
        /// Which part.
        part: QuotePart,
        /// Its length in bytes.
        len: usize,
        /// The largest accepted length in bytes.
        limit: usize,
    },
}

impl QuotePart {
    /// The largest accepted length in bytes.
    const fn limit(self) -> usize {
        match self {
            Self::Attest => MAX_ATTEST_LEN,
            Self::Signature => MAX_SIGNATURE_LEN,
            Self::Pcrs => MAX_BLOB_LEN,
        }
    }

    fn check(self, bytes: &[u8]) -> Result<(), QuoteStringError> {
        let (len, limit) = (bytes.len(), self.limit());
        if len == 0 {
            return Err(QuoteStringError::EmptyPart { part: self });
        }
        if len > limit {
            return Err(QuoteStringError::PartTooLong { part: self, len, limit });
        }
        Ok(())
    }

    fn decode(self, text: &str) -> Result<Vec<u8>, QuoteStringError> {
        let bytes = STANDARD.decode(text).map_err(|_| QuoteStringError::Base64 { part: self })?;
        self.check(&bytes)?;
        Ok(bytes)
    }
}

impl QuoteString {
    /// The quote string of what TPM2_Quote returned, marshalled, and the PCR values behind it.
    ///
    /// # Errors
    /// The attest structure or the signature is empty or longer than a quote string may carry.
    pub fn new(attest: Vec<u8>, signature: Vec<u8>, pcrs: &PcrValues) -> Result<Self, QuoteStringError> {
        QuotePart::Attest.check(&attest)?;
        QuotePart::Signature.check(&signature)?;
        Ok(Self { attest, signature, pcrs: pcrs.encode_blob() })
    }

    /// The TPMS_ATTEST bytes, which the signature covers.
    pub fn attest(&self) -> &[u8] {
        &self.attest
    }

    /// The TPMT_SIGNATURE bytes.
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// The PCR blob.
    pub fn pcrs(&self) -> &[u8] {
        &self.pcrs
    }
}

impl fmt::Display for QuoteString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |bytes| base64::display::Base64Display::new(bytes, &STANDARD);
        write!(f, "r{}:{}:{}", part(&self.attest), part(&self.signature), part(&self.pcrs))
    }
}

impl FromStr for QuoteString {
    type Err = QuoteStringError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_QUOTE_STRING_LEN {
            return Err(QuoteStringError::TooLong { len: text.len() });
        }
        let text = text.strip_prefix('r').ok_or(QuoteStringError::Prefix)?;
        let mut parts = text.split(':');
        let (Some(attest), Some(signature), Some(pcrs), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(QuoteStringError::Parts);
        };
        Ok(Self {
            attest: QuotePart::Attest.decode(attest)?,
            signature: QuotePart::Signature.decode(signature)?,
            pcrs: QuotePart::Pcrs.decode(pcrs)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::HashAlgorithm;

    fn pcrs(pcrs: impl IntoIterator<Item = u8>) -> PcrValues {
        let values = pcrs.into_iter().map(|pcr| (pcr, vec![pcr; 64])).collect();
        PcrValues::new(HashAlgorithm::Sha512, values).unwrap()
    }

    #[test]
    fn quote_strings_survive_the_round_trip() {
        // Every length of base64 padding, and the longest parts.
        for (attest, signature) in [(1, 1), (2, 3), (145, 262), (1024, 1024)] {
            let quote = QuoteString::new(vec![0xa5; attest], vec![0x5a; signature], &pcrs(0..24));
            let quote = quote.unwrap();
            let text = quote.to_string();
            assert!(text.starts_with('r'));
            assert!(text.len() <= MAX_QUOTE_STRING_LEN);
            assert_eq!(text.parse(), Ok(quote));
        }
    }

    #[test]
    fn the_longest_quote_string_is_taken() {
        let part = |len| STANDARD.encode(vec![0; len]);
        let text = format!("r{}:{}:{}", part(MAX_ATTEST_LEN), part(MAX_SIGNATURE_LEN), part(MAX_BLOB_LEN));
        assert_eq!(text.len(), MAX_QUOTE_STRING_LEN);
        let quote: QuoteString = text.parse().unwrap();
        assert_eq!(quote.attest().len(), 1024);
        assert_eq!(quote.signature().len(), 1024);
        assert_eq!(quote.pcrs().len(), 12904);
    }

    #[test]
    fn each_fault_has_its_error() {
        let part = |len| STANDARD.encode(vec![0; len]);
        let long = format!("r{}", "A".repeat(MAX_QUOTE_STRING_LEN));
        let long_attest = format!("r{}:AAAA:AAAA", part(1025));
        let long_signature = format!("rAAAA:{}:AAAA", part(1025));
        let long_pcrs = format!("rAAAA:AAAA:{}", part(12905));
        let three = "the quote string does not have three parts divided by colons";
        let rows = [
            ("", "the quote string does not start with r"),
            ("AAAA:AAAA:AAAA", "the quote string does not start with r"),
            (" rAAAA:AAAA:AAAA", "the quote string does not start with r"),
            ("dAAAA:AAAA:AAAA", "the quote string does not start with r"),
            ("RAAAA:AAAA:AAAA", "the quote string does not start with r"),
            ("r", three),
            ("rAAAA:AAAA", three),
            ("rAAAA:AAAA:AAAA:AAAA", three),
            ("rAAAA:AAAA:AAAA:", three),
            ("r::", "the TPMS_ATTEST of the quote string is empty"),
            ("rAAAA::AAAA", "the TPMT_SIGNATURE of the quote string is empty"),
            ("rAAAA:AAAA:", "the PCR blob of the quote string is empty"),
            ("rAAA:AAAA:AAAA", "the TPMS_ATTEST of the quote string is not base64"),
            ("rAAAA:AA-_:AAAA", "the TPMT_SIGNATURE of the quote string is not base64"),
            ("rAAAA:AAAA:AAAA\n", "the PCR blob of the quote string is not base64"),
            ("rAAAA:AAAA:AA\nAA", "the PCR blob of the quote string is not base64"),
            // Bits that the padding leaves unused are set.
            ("rAAAA:AAAA:AAB=", "the PCR blob of the quote string is not base64"),
            ("rAAAA:AAAA:ÄÄ", "the PCR blob of the quote string is not base64"),
            (&long, "the quote string has 19948 bytes, at most 19947 are accepted"),
            (&long_attest, "the TPMS_ATTEST of the quote string has 1025 bytes, at most 1024 are accepted"),
            (&long_signature, "the TPMT_SIGNATURE of the quote string has 1025 bytes, at most 1024 are accepted"),
            (&long_pcrs, "the PCR blob of the quote string has 12905 bytes, at most 12904 are accepted"),
        ];
        for (text, expected) in rows {
            assert_eq!(text.parse::<QuoteString>().unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn what_no_peer_would_take_is_not_made() {
        let make = |attest: usize, signature: usize| {
            QuoteString::new(vec![0; attest], vec![0; signature], &pcrs([16])).unwrap_err().to_string()
        };
        assert_eq!(make(0, 1), "the TPMS_ATTEST of the quote string is empty");
        assert_eq!(make(1, 0), "the TPMT_SIGNATURE of the quote string is empty");
        assert_eq!(make(1025, 1), "the TPMS_ATTEST of the quote string has 1025 bytes, at most 1024 are accepted");
    }
}
