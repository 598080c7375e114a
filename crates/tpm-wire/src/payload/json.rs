// SPDX-License-Identifier: Apache-2.0
//! JSON objects of base64 members

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserializer;
use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;
use std::fmt;

use super::PayloadError;

/// A JSON object of base64 strings. Neither the names nor base64 need escaping.
pub(super) fn encode(members: &[(&str, &[u8])]) -> Vec<u8> {
    let length: usize = members.iter().map(|(name, value)| name.len() + value.len() / 3 * 4 + 10).sum();
    let mut json = String::with_capacity(length + 2);
    json.push('{');
    for (n, (name, value)) in members.iter().enumerate() {
        if n > 0 {
            json.push(',');
        }
        json.push('"');
        json.push_str(name);
        json.push_str("\":\"");
        STANDARD.encode_string(value, &mut json);
        json.push('"');
    }
    json.push('}');
    json.into_bytes()
}

/// The named members of an object, still in base64; none where one is missing or null.
pub(super) fn decode<const N: usize>(
    message: &'static str,
    limit: usize,
    names: [&'static str; N],
    json: &[u8],
) -> Result<[Option<String>; N], PayloadError> {
    if json.len() > limit {
        return Err(PayloadError::TooLong { message, len: json.len(), limit });
    }
    let mut decoder = serde_json::Deserializer::from_slice(json);
    decoder.deserialize_map(Members(names)).and_then(|members| decoder.end().map(|()| members)).map_err(|error| {
        PayloadError::Json {
            message,
            what: match error.classify() {
                Category::Eof => "it ends early",
                Category::Syntax | Category::Io => "it is not JSON",
                Category::Data => "it is not an object, or a member is not text or given twice",
            },
            line: error.line(),
            column: error.column(),
        }
    })
}

/// The bytes of a member; none where it is missing, null or empty.
pub(super) fn bytes(
    message: &'static str,
    member: &'static str,
    encoded: Option<String>,
) -> Result<Option<Vec<u8>>, PayloadError> {
    encoded
        .filter(|encoded| !encoded.is_empty())
        .map(|encoded| STANDARD.decode(encoded).map_err(|_| PayloadError::Base64 { message, member }))
        .transpose()
}

/// The text of a member; none where it is missing, null or empty.
pub(super) fn text(
    message: &'static str,
    member: &'static str,
    encoded: Option<String>,
) -> Result<Option<String>, PayloadError> {
    bytes(message, member, encoded)?
        .map(|bytes| String::from_utf8(bytes).map_err(|_| PayloadError::Utf8 { message, member }))
        .transpose()
}

/// The text of a member that must be there.
pub(super) fn required_text(
    message: &'static str,
    member: &'static str,
    encoded: Option<String>,
) -> Result<String, PayloadError> {
    text(message, member, encoded)?.ok_or(PayloadError::Missing { message, member })
}

/// Picks the named members out of an object.
struct Members<const N: usize>([&'static str; N]);

impl<'de, const N: usize> Visitor<'de> for Members<N> {
    type Value = [Option<String>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = [const { None }; N];
        let mut seen = [false; N];
        while let Some(key) = map.next_key::<String>()? {
            let slots = values.iter_mut().zip(&mut seen).zip(self.0);
            match slots.into_iter().find(|(_, name)| name.eq_ignore_ascii_case(&key)) {
                Some(((value, seen), name)) => {
                    if std::mem::replace(seen, true) {
                        return Err(de::Error::custom(format_args!("member {name} is given twice")));
                    }
                    *value = map.next_value::<Option<String>>()?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(values)
    }
}
