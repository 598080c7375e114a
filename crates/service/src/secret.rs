// SPDX-License-Identifier: Apache-2.0
//! Bytes that must not appear in logs and are wiped when dropped.

use std::fmt;

use zeroize::Zeroizing;

/// A password, authorization value or key of any length.
///
/// The bytes are overwritten on drop; `Debug` shows neither content nor length. There is no `Display` and no `PartialEq`:
/// comparing secrets takes a constant-time comparison, which the caller must choose.
#[derive(Clone, Default)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The secret bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The secret as text, or `None` if it is not UTF-8.
    #[must_use]
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::from(text.into_bytes())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::from(text.as_bytes().to_vec())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::from("hunter2")), "Secret(redacted)");
        assert_eq!(format!("{:?}", Secret::default()), "Secret(redacted)");
    }

    #[test]
    fn exposes_what_was_put_in() {
        assert_eq!(Secret::from("pässword").expose_str(), Some("pässword"));
        assert_eq!(Secret::from(vec![0xff]).expose_str(), None);
        assert_eq!(Secret::from(vec![0xff]).expose(), [0xff]);
    }
}
