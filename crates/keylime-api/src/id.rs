// SPDX-License-Identifier: Apache-2.0
//! The id a Keylime agent is registered under

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Width of the id column in Keylime's databases.
const MAX_LEN: usize = 80;

/// A Keylime agent id: 1 to 80 of the characters `A-Z a-z 0-9 . _ -`, and not `.` or `..`.
///
/// That is what Keylime accepts (`[\w.-]+`, ASCII here), and safe as one segment of a URL path and
/// of a SPIFFE ID. It is compared as it is: Keylime tells upper case from lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentId(Box<str>);

/// The text cannot be an agent id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAgentId {
    /// Nothing at all.
    #[error("the agent id is empty")]
    Empty,
    /// Longer than Keylime stores.
    #[error("the agent id has {0} characters, at most {MAX_LEN} are allowed")]
    TooLong(usize),
    /// A character outside the allowed ones.
    #[error("the agent id holds {0:?}, only A-Z a-z 0-9 . _ - are allowed")]
    Character(char),
    /// `.` or `..`, which mean something else in a path.
    #[error("the agent id must not be . or ..")]
    Dots,
}

impl AgentId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// 64 hex digits, the form of an EK hash (SHA-256 over the EK's PEM text). Keylime writes the
    /// hash in lower case; an id in upper case has the form and equals no hash.
    pub fn is_ek_hash(&self) -> bool {
        self.0.len() == 64 && self.0.bytes().all(|b| b.is_ascii_hexdigit())
    }
}

impl FromStr for AgentId {
    type Err = InvalidAgentId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if let Some(c) = text.chars().find(|c| !allowed(*c)) {
            return Err(InvalidAgentId::Character(c));
        }
        match text {
            "" => Err(InvalidAgentId::Empty),
            "." | ".." => Err(InvalidAgentId::Dots),
            _ if text.len() > MAX_LEN => Err(InvalidAgentId::TooLong(text.len())),
            _ => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgentId({})", self.0)
    }
}

impl Serialize for AgentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AgentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_keylime_accepts() {
        for text in [
            "d432fbb3-d2f1-4a97-9ef7-75bd81c00000",
            "host.example",
            "a",
            "...",
            "_x-Y.9",
            &"f".repeat(64),
            &"z".repeat(80),
        ] {
            assert_eq!(text.parse::<AgentId>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn refuses_the_rest_with_the_reason() {
        for (text, message) in [
            ("", "the agent id is empty"),
            (".", "the agent id must not be . or .."),
            ("..", "the agent id must not be . or .."),
            ("a/b", "the agent id holds '/', only A-Z a-z 0-9 . _ - are allowed"),
            ("a?b", "the agent id holds '?', only A-Z a-z 0-9 . _ - are allowed"),
            ("a%2fb", "the agent id holds '%', only A-Z a-z 0-9 . _ - are allowed"),
            ("a\n", "the agent id holds '\\n', only A-Z a-z 0-9 . _ - are allowed"),
            ("é", "the agent id holds 'é', only A-Z a-z 0-9 . _ - are allowed"),
            (&"z".repeat(81), "the agent id has 81 characters, at most 80 are allowed"),
        ] {
            assert_eq!(text.parse::<AgentId>().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn knows_the_form_of_an_ek_hash() {
        let id = |text: &str| text.parse::<AgentId>().unwrap();
        assert!(id(&"0f".repeat(32)).is_ek_hash());
        assert!(id(&"0F".repeat(32)).is_ek_hash());
        assert!(id(&"0fA9".repeat(16)).is_ek_hash());
        assert!(!id(&"0g".repeat(32)).is_ek_hash());
        assert!(!id(&"0f".repeat(31)).is_ek_hash());
        assert!(!id("d432fbb3-d2f1-4a97-9ef7-75bd81c00000").is_ek_hash());
    }
}
