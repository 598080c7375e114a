// SPDX-License-Identifier: Apache-2.0
//! Trust domains and SPIFFE IDs (SPIFFE-ID.md, section "2. SPIFFE Identity").

use std::{fmt, str::FromStr};

/// Longest SPIFFE ID in bytes (SPIFFE-ID.md, section "2.3. Maximum SPIFFE ID Length").
const MAX_ID: usize = 2048;

/// Longest trust domain name in bytes (same section).
const MAX_TRUST_DOMAIN: usize = 255;

const SCHEME: &str = "spiffe://";

/// Why a text is no trust domain or SPIFFE ID. The texts are go-spiffe's where it has the same rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeIdError {
    /// No text.
    #[error("cannot be empty")]
    Empty,
    /// Not `spiffe://`.
    #[error("scheme is missing or invalid")]
    Scheme,
    /// Nothing between the scheme and the path.
    #[error("trust domain is missing")]
    NoTrustDomain,
    /// Illegal character in the trust domain.
    #[error("trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores")]
    TrustDomainCharacter,
    /// Illegal character in the path.
    #[error("path segment characters are limited to letters, numbers, dots, dashes, and underscores")]
    PathCharacter,
    /// Two slashes in a row.
    #[error("path cannot contain empty segments")]
    EmptySegment,
    /// A segment `.` or `..`.
    #[error("path cannot contain dot segments")]
    DotSegment,
    /// A slash at the end.
    #[error("path cannot have a trailing slash")]
    TrailingSlash,
    /// More than 255 bytes of trust domain or 2048 bytes in all.
    #[error("is too long: 255 bytes of trust domain and {MAX_ID} bytes in all are allowed")]
    TooLong,
}

/// Name of a trust domain, for example `example.org`: 1 to 255 lower-case letters, digits, dots, dashes and
/// underscores.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// The name without scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let legal = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if name.is_empty() {
            Err(SpiffeIdError::NoTrustDomain)
        } else if !name.bytes().all(legal) {
            Err(SpiffeIdError::TrustDomainCharacter)
        } else if name.len() > MAX_TRUST_DOMAIN {
            Err(SpiffeIdError::TooLong)
        } else {
            Ok(Self(name.to_owned()))
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SPIFFE ID, `spiffe://<trust domain>[/<segment>...]`, at most 2048 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    path: String,
}

impl SpiffeId {
    /// The ID of the member of `trust_domain` with the given path segments.
    ///
    /// A segment is one or more letters, digits, dots, dashes and underscores, other than `.` and `..`.
    pub fn from_segments(trust_domain: &TrustDomain, segments: &[&str]) -> Result<Self, SpiffeIdError> {
        let mut path = String::new();
        for segment in segments {
            check_segment(segment)?;
            path.push('/');
            path.push_str(segment);
        }
        Self::new(trust_domain.clone(), path)
    }

    fn new(trust_domain: TrustDomain, path: String) -> Result<Self, SpiffeIdError> {
        if SCHEME.len() + trust_domain.0.len() + path.len() > MAX_ID {
            return Err(SpiffeIdError::TooLong);
        }
        Ok(Self { trust_domain, path })
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path: empty, or segments with a slash before each.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        if id.is_empty() {
            return Err(SpiffeIdError::Empty);
        }
        let rest = id.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (name, segments) = match rest.split_once('/') {
            Some((name, path)) => (name, Some(path)),
            None => (rest, None),
        };
        let trust_domain = name.parse()?;
        let Some(segments) = segments else {
            return Self::new(trust_domain, String::new());
        };
        let mut rest = segments.split('/').peekable();
        while let Some(segment) = rest.next() {
            if segment.is_empty() && rest.peek().is_none() {
                return Err(SpiffeIdError::TrailingSlash);
            }
            check_segment(segment)?;
        }
        Self::new(trust_domain, format!("/{segments}"))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.trust_domain, self.path)
    }
}

fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    match segment {
        "" => Err(SpiffeIdError::EmptySegment),
        "." | ".." => Err(SpiffeIdError::DotSegment),
        _ if !segment.bytes().all(legal) => Err(SpiffeIdError::PathCharacter),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_parsed_and_printed() {
        for (text, domain, path) in [
            ("spiffe://example.org", "example.org", ""),
            ("spiffe://example.org/foo", "example.org", "/foo"),
            ("spiffe://a-b_c.1/spire/agent/keylime/D432FBB3-d2f1", "a-b_c.1", "/spire/agent/keylime/D432FBB3-d2f1"),
            ("spiffe://td/.../..a", "td", "/.../..a"),
        ] {
            let id: SpiffeId = text.parse().unwrap();
            assert_eq!((id.trust_domain().as_str(), id.path(), id.to_string()), (domain, path, text.to_owned()));
        }
    }

    #[test]
    fn each_rule_has_its_error() {
        for (text, error) in [
            ("", "cannot be empty"),
            ("example.org/foo", "scheme is missing or invalid"),
            ("SPIFFE://td/foo", "scheme is missing or invalid"),
            ("spiffe://", "trust domain is missing"),
            ("spiffe:///foo", "trust domain is missing"),
            (
                "spiffe://Td/foo",
                "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores",
            ),
            (
                "spiffe://td:80/foo",
                "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores",
            ),
            (
                "spiffe://td/a:b",
                "path segment characters are limited to letters, numbers, dots, dashes, and underscores",
            ),
            ("spiffe://td//foo", "path cannot contain empty segments"),
            ("spiffe://td/./foo", "path cannot contain dot segments"),
            ("spiffe://td/foo/..", "path cannot contain dot segments"),
            ("spiffe://td/foo/", "path cannot have a trailing slash"),
            ("spiffe://td/", "path cannot have a trailing slash"),
            (
                &format!("spiffe://{}/foo", "t".repeat(256)),
                "is too long: 255 bytes of trust domain and 2048 bytes in all are allowed",
            ),
            (
                &format!("spiffe://td/{}", "f".repeat(2048)),
                "is too long: 255 bytes of trust domain and 2048 bytes in all are allowed",
            ),
        ] {
            assert_eq!(text.parse::<SpiffeId>().unwrap_err().to_string(), error, "{text}");
        }
    }

    #[test]
    fn segments_are_joined_and_checked() {
        let td: TrustDomain = "example.org".parse().unwrap();
        let id = SpiffeId::from_segments(&td, &["spire", "agent", "keylime", "D432"]).unwrap();
        assert_eq!(id.to_string(), "spiffe://example.org/spire/agent/keylime/D432");
        assert_eq!(SpiffeId::from_segments(&td, &["a", ""]), Err(SpiffeIdError::EmptySegment));
        assert_eq!(SpiffeId::from_segments(&td, &[".."]), Err(SpiffeIdError::DotSegment));
        assert_eq!(SpiffeId::from_segments(&td, &["a/b"]), Err(SpiffeIdError::PathCharacter));
    }
}
