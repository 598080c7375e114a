// SPDX-License-Identifier: Apache-2.0
//! The name of one attestation, in the plugin's log and in what the node is told.

use std::fmt;

use crate::random;

/// Names one attestation: eight hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptId(u32);

impl AttemptId {
    /// Wraps a number.
    #[must_use]
    pub fn new(number: u32) -> Self {
        Self(number)
    }

    /// A random one. Without random numbers it is zero: the attestation itself then fails where it needs its nonce.
    #[must_use]
    pub fn random() -> Self {
        Self(random::bytes().map_or(0, u32::from_be_bytes))
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_eight_digits_and_another_value_each_time() {
        assert_eq!(AttemptId::new(0xab).to_string(), "000000ab");
        let random: Vec<_> = (0..4).map(|_| AttemptId::random()).collect();
        assert!(random.iter().any(|id| Some(id) != random.first()));
    }
}
