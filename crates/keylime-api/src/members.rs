// SPDX-License-Identifier: Apache-2.0
//! Taking an answer apart, member by member

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// What is wrong with the body of an answer. No text repeats the body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// Not JSON at all.
    #[error("it is not JSON (content type {content_type})")]
    NotJson {
        /// Content type as sent.
        content_type: String,
    },
    /// JSON, but without an object `results`.
    #[error("it has no object \"results\"")]
    NoResults,
    /// A member that must be there is not.
    #[error("it has no {member:?}")]
    Missing {
        /// Name of the member.
        member: &'static str,
    },
    /// A member has another JSON type.
    #[error("its {member:?} is {found}, not {expected}")]
    Type {
        /// Name of the member.
        member: &'static str,
        /// JSON type wanted.
        expected: &'static str,
        /// JSON type found.
        found: &'static str,
    },
    /// A member has the right type and a value that cannot be.
    #[error("its {member:?} is unusable: {reason}")]
    Value {
        /// Name of the member.
        member: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The record of another agent than the one asked for. Keylime on a database that compares texts
    /// without case (MySQL, MariaDB) gives the record of `host-a` to who asks for `HOST-A`.
    #[error("it is the record of another agent: its \"agent_id\" is not exactly the id asked for")]
    OtherAgent,
    /// The record is of a kind that another service keeps.
    #[error("it is a record as a Keylime {service} keeps it: is that the {service}'s port?")]
    OtherService {
        /// That service.
        service: &'static str,
    },
}

/// The members of `results`.
pub(crate) struct Members(Map<String, Value>);

impl Members {
    /// Opens the envelope. `code` and `status` are not looked at: the HTTP status decides.
    pub(crate) fn from_body(body: &[u8], content_type: &str) -> Result<Self, BodyError> {
        let value: Value =
            serde_json::from_slice(body).map_err(|_| BodyError::NotJson { content_type: content_type.to_owned() })?;
        match value {
            Value::Object(mut envelope) => match envelope.remove("results") {
                Some(Value::Object(members)) => Ok(Self(members)),
                _ => Err(BodyError::NoResults),
            },
            _ => Err(BodyError::NoResults),
        }
    }

    /// The member is there.
    pub(crate) fn has(&self, member: &str) -> bool {
        self.0.contains_key(member)
    }

    /// The member is there and says null.
    pub(crate) fn is_null(&self, member: &str) -> bool {
        self.0.get(member).is_some_and(Value::is_null)
    }

    fn get(&self, member: &str) -> Option<&Value> {
        self.0.get(member).filter(|v| !v.is_null())
    }

    /// Text; none if absent or null.
    pub(crate) fn text(&self, member: &'static str) -> Result<Option<&str>, BodyError> {
        self.get(member).map(|v| v.as_str().ok_or_else(|| wrong_type(member, "text", v))).transpose()
    }

    /// Text of a member that decides nothing; none if it is anything else.
    pub(crate) fn any_text(&self, member: &str) -> Option<&str> {
        self.0.get(member)?.as_str()
    }

    /// Text that must be there.
    pub(crate) fn required_text(&self, member: &'static str) -> Result<&str, BodyError> {
        self.text(member)?.ok_or(BodyError::Missing { member })
    }

    /// Text parsed to a type; none if absent, null or empty.
    pub(crate) fn parsed<T>(&self, member: &'static str) -> Result<Option<T>, BodyError>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        self.text(member)?
            .filter(|text| !text.is_empty())
            .map(|text| text.parse().map_err(|e| unusable(member, e)))
            .transpose()
    }

    /// Text parsed to a type, which must be there.
    pub(crate) fn required<T>(&self, member: &'static str) -> Result<T, BodyError>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        self.parsed(member)?.ok_or(BodyError::Missing { member })
    }

    /// Whether a member that decides nothing is true, which Keylime writes as 1.
    pub(crate) fn flag(&self, member: &str) -> bool {
        self.0.get(member).is_some_and(|value| *value == 1 || *value == true)
    }

    /// Whole number; none if absent or null.
    pub(crate) fn integer(&self, member: &'static str) -> Result<Option<i64>, BodyError> {
        self.get(member).map(|v| v.as_i64().ok_or_else(|| wrong_type(member, "a whole number", v))).transpose()
    }

    /// Whole number from 0; none if absent or null.
    pub(crate) fn unsigned(&self, member: &'static str) -> Result<Option<u64>, BodyError> {
        self.get(member).map(|v| v.as_u64().ok_or_else(|| wrong_type(member, "a whole number from 0", v))).transpose()
    }

    /// Bytes in base64; none if absent, null or empty.
    pub(crate) fn bytes(&self, member: &'static str) -> Result<Option<Vec<u8>>, BodyError> {
        self.text(member)?
            .filter(|text| !text.is_empty())
            .map(|text| STANDARD.decode(text).map_err(|_| unusable(member, "it is not base64")))
            .transpose()
    }

    /// List of texts; none if absent or null.
    pub(crate) fn texts(&self, member: &'static str) -> Result<Option<Vec<&str>>, BodyError> {
        let Some(value) = self.get(member) else { return Ok(None) };
        let wrong = |v| wrong_type(member, "a list of texts", v);
        let list = value.as_array().ok_or_else(|| wrong(value))?;
        list.iter().map(|v| v.as_str().ok_or_else(|| wrong(v))).collect::<Result<_, _>>().map(Some)
    }
}

fn wrong_type(member: &'static str, expected: &'static str, value: &Value) -> BodyError {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "another number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    BodyError::Type { member, expected, found }
}

pub(crate) fn unusable(member: &'static str, reason: impl std::fmt::Display) -> BodyError {
    BodyError::Value { member, reason: clean(&reason.to_string(), 200) }
}

/// Text of a peer made fit for a log line: no control characters, bounded.
pub(crate) fn clean(text: &str, limit: usize) -> String {
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(limit).collect();
    if text.chars().filter(|c| !c.is_control()).nth(limit).is_some() {
        shown.push('…');
    }
    shown
}

/// The text with `…` for each run of 20 or more characters that a nonce or quote consists of, be it
/// percent-encoded or not. Shorter ones are no use to anybody.
pub(crate) fn without_long_words(text: &str) -> String {
    let secret = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '%' | ':');
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let (word, after) = rest.split_at(rest.find(|c| !secret(c)).unwrap_or(rest.len()));
        let (between, next) = after.split_at(after.find(secret).unwrap_or(after.len()));
        shown.push_str(if word.len() < 20 { word } else { "…" });
        shown.push_str(between);
        rest = next;
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(body: &str) -> Result<Members, String> {
        Members::from_body(body.as_bytes(), "text/plain").map_err(|e| e.to_string())
    }

    #[test]
    fn refuses_what_is_no_envelope() {
        for (body, message) in [
            ("", "it is not JSON (content type text/plain)"),
            ("<html>", "it is not JSON (content type text/plain)"),
            ("{\"results\": {}", "it is not JSON (content type text/plain)"),
            ("[]", "it has no object \"results\""),
            ("3", "it has no object \"results\""),
            ("{}", "it has no object \"results\""),
            ("{\"results\": null}", "it has no object \"results\""),
            ("{\"results\": [3]}", "it has no object \"results\""),
        ] {
            assert_eq!(open(body).err().unwrap(), message);
        }
    }

    #[test]
    fn names_the_member_that_is_wrong() {
        let m = open(
            r#"{"results": {"n": "3", "neg": -1, "big": 1e30, "t": 3, "b": "*",
                "l": ["a", 1], "v": "2.x", "nul": null}}"#,
        )
        .unwrap();
        let text = |e: BodyError| e.to_string();
        assert_eq!(text(m.integer("n").unwrap_err()), "its \"n\" is text, not a whole number");
        assert_eq!(text(m.unsigned("neg").unwrap_err()), "its \"neg\" is another number, not a whole number from 0");
        assert_eq!(text(m.integer("big").unwrap_err()), "its \"big\" is another number, not a whole number");
        assert_eq!(text(m.text("t").unwrap_err()), "its \"t\" is another number, not text");
        assert_eq!(text(m.bytes("b").unwrap_err()), "its \"b\" is unusable: it is not base64");
        assert_eq!(text(m.texts("l").unwrap_err()), "its \"l\" is another number, not a list of texts");
        assert_eq!(
            text(m.required::<crate::version::ApiVersion>("v").unwrap_err()),
            "its \"v\" is unusable: \"2.x\" is not an API version such as 2.5"
        );
        assert_eq!(text(m.required_text("nul").unwrap_err()), "it has no \"nul\"");
        assert_eq!(m.text("absent"), Ok(None));
        assert!(m.is_null("nul"));
        assert!(!m.is_null("absent"));
    }

    #[test]
    fn nonces_and_quotes_are_taken_out_of_texts() {
        for (text, shown) in [
            ("", ""),
            ("Unable to retrieve quote", "Unable to retrieve quote"),
            ("nonce too long: ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "nonce too long: …"),
            ("ABCDEFGHIJKLMNOPQRST is a nonce", "… is a nonce"),
            ("quote r/1RDR4AYA+A=:FAAL:AQAA%2F is bad", "quote … is bad"),
            ("id d432fbb3-d2f1-4a97-9ef7-75bd81c00000", "id d432fbb3-d2f1-4a97-9ef7-75bd81c00000"),
            ("…ABCDEFGHIJKLMNOPQRSTß…", "……ß…"),
        ] {
            assert_eq!(without_long_words(text), shown);
        }
    }

    #[test]
    fn peers_text_is_cleaned() {
        assert_eq!(clean("a\x1b[31m\nb", 100), "a[31mb");
        assert_eq!(clean("abcd", 3), "abc…");
        assert_eq!(clean("abc", 3), "abc");
    }
}
