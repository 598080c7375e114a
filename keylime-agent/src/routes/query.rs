// SPDX-License-Identifier: Apache-2.0
//! Parameters of a request.

use std::borrow::Cow;

use super::answer::Refusal;

/// The value of parameter `name`, if it is there.
pub(super) fn optional<'a>(query: &'a str, name: &str) -> Result<Option<Cow<'a, str>>, Refusal> {
    let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name).map(|(_, value)| value);
    let value = values.next();
    if values.next().is_some() {
        // Which of them another reader of the query takes cannot be known.
        return Err(refused(format!("duplicate field `{name}`")));
    }
    Ok(value)
}

/// The value of parameter `name`, which must be there.
pub(super) fn required<'a>(query: &'a str, name: &str) -> Result<Cow<'a, str>, Refusal> {
    optional(query, name)?.ok_or_else(|| refused(format!("missing field `{name}`")))
}

/// Whether a value has nothing but ASCII letters and digits.
pub(super) fn is_alphanumeric(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn refused(text: String) -> Refusal {
    tracing::warn!("GET returning 400 response. Query deserialize error: {text}");
    Refusal::bad_request(format!("Query deserialize error: {text}"))
}
