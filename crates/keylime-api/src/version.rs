// SPDX-License-Identifier: Apache-2.0
//! API versions and their negotiation

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A Keylime API version such as 2.5; in paths `/v2.5/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApiVersion {
    /// Incompatible changes.
    pub major: u8,
    /// Additions.
    pub minor: u8,
}

/// The versions this crate speaks, ascending: 2.1 to 2.6.
pub const SUPPORTED: [ApiVersion; 6] = [
    ApiVersion::new(2, 1),
    ApiVersion::new(2, 2),
    ApiVersion::new(2, 3),
    ApiVersion::new(2, 4),
    ApiVersion::new(2, 5),
    ApiVersion::new(2, 6),
];

/// The text is no API version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an API version such as 2.5")]
pub struct InvalidApiVersion(String);

impl ApiVersion {
    /// A version from its two numbers.
    pub const fn new(major: u8, minor: u8) -> Self {
        Self { major, minor }
    }

    /// True from 2.5 on: key algorithms are named with their length (`rsa2048`, not `rsa`).
    pub fn names_key_lengths(self) -> bool {
        self >= Self::new(2, 5)
    }
}

impl FromStr for ApiVersion {
    type Err = InvalidApiVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |part: &str| {
            // u8's parser takes a plus sign.
            part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten()
        };
        text.split_once('.')
            .and_then(|(major, minor)| Some(Self::new(number(major)?, number(minor)?)))
            .ok_or_else(|| InvalidApiVersion(text.chars().take(20).collect()))
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Serialize for ApiVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ApiVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The highest version that both sides speak.
pub fn negotiate(ours: &[ApiVersion], theirs: &[ApiVersion]) -> Option<ApiVersion> {
    ours.iter().filter(|v| theirs.contains(v)).max().copied()
}

/// Versions as one text, `2.1, 2.2`.
pub(crate) fn list(versions: &[ApiVersion]) -> String {
    if versions.is_empty() {
        return "none".to_owned();
    }
    versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_orders() {
        assert_eq!("2.10".parse(), Ok(ApiVersion::new(2, 10)));
        assert!(ApiVersion::new(2, 10) > ApiVersion::new(2, 9));
        assert!(SUPPORTED.is_sorted());
        for text in ["", "2", "2.", ".2", "2.5.1", "v2.5", "2.-1", "+2.1", "2.256", "2. 1"] {
            assert_eq!(
                text.parse::<ApiVersion>().unwrap_err().to_string(),
                format!("{text:?} is not an API version such as 2.5")
            );
        }
    }

    #[test]
    fn takes_the_highest_common_version() {
        let v = ApiVersion::new;
        let offer = [v(1, 0), v(2, 0), v(2, 4), v(2, 5), v(3, 0)];
        assert_eq!(negotiate(&SUPPORTED, &offer), Some(v(2, 5)));
        assert_eq!(negotiate(&SUPPORTED, &[v(3, 0)]), None);
        assert_eq!(negotiate(&SUPPORTED, &[]), None);
        assert_eq!(list(&offer), "1.0, 2.0, 2.4, 2.5, 3.0");
    }
}
