// SPDX-License-Identifier: Apache-2.0
//! Writing one hclog line: JSON with flat values, of bounded length, with no key that the host would misread.

use std::{
    borrow::Cow,
    error::Error,
    fmt::{self, Write},
    time::SystemTime,
};

use tracing::field::{Field, Visit};
use tracing::{Level, Metadata};

use super::time::Timestamp;

/// Longest line that a host reads as one, in bytes with the line feed. Longer ones lose their meaning.
pub(crate) const MAX_LINE: usize = 64 * 1024;
/// Longest message, encoded.
const MAX_MESSAGE: usize = 32 * 1024;
/// Longest value of one field, encoded.
const MAX_VALUE: usize = 16 * 1024;
/// Closes a line that had no room for all its fields.
const CUT: &str = ",\"log_truncated\":true}\n";
/// Closes a line.
const END: &str = "}\n";

/// Fields by which hosts say where a line comes from, or that their log formats use themselves.
const RESERVED: [&str; 8] =
    ["plugin_name", "plugin_type", "external", "subsystem_name", "timestamp", "msg", "level", "time"];

/// From here on a number is sent as text: Go hosts decode numbers as floating point and print 1234567 as 1.234567e+06.
const LARGE: u64 = 1_000_000;

/// The name under which a field is sent: reserved names, and those that look like hclog's own, get a prefix.
pub(crate) fn field_name(name: &'static str) -> Cow<'static, str> {
    match name.strip_prefix('@') {
        Some(rest) => format!("field_{rest}").into(),
        None if RESERVED.contains(&name) => format!("field_{name}").into(),
        None => name.into(),
    }
}

/// A field with its value as JSON.
#[derive(Debug)]
pub(crate) struct Value {
    pub(crate) name: Cow<'static, str>,
    pub(crate) json: String,
}

/// The fields of one event or span.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    /// The event's text as JSON, if it has one.
    pub(crate) message: Option<String>,
    pub(crate) values: Vec<Value>,
}

impl Fields {
    /// Takes over the values of `newer`, replacing those of the same name.
    pub(crate) fn merge(&mut self, newer: Fields) {
        for value in newer.values {
            match self.values.iter_mut().find(|old| old.name == value.name) {
                Some(old) => *old = value,
                None => self.values.push(value),
            }
        }
    }

    fn push(&mut self, field: &Field, json: String) {
        if field.name() == "message" {
            self.message = Some(json);
        } else {
            self.values.push(Value { name: field_name(field.name()), json });
        }
    }

    fn text(&mut self, field: &Field, text: fmt::Arguments<'_>) {
        let limit = if field.name() == "message" { MAX_MESSAGE } else { MAX_VALUE };
        self.push(field, string(text, limit));
    }

    fn integer(&mut self, field: &Field, size: Option<u64>, number: impl fmt::Display) {
        if field.name() != "message" && size.is_some_and(|size| size < LARGE) {
            self.push(field, number.to_string());
        } else {
            self.text(field, format_args!("{number}"));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "message" {
            self.text(field, format_args!("{value}"));
        } else {
            self.push(field, value.to_string());
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.integer(field, Some(value.unsigned_abs()), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.integer(field, Some(value), value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.integer(field, value.unsigned_abs().try_into().ok(), value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.integer(field, value.try_into().ok(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinity. Rust prints no exponent, so a huge number would be a long one.
        if field.name() != "message" && value.abs() < 1e6 {
            self.push(field, value.to_string());
        } else {
            self.text(field, format_args!("{value:e}"));
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.text(field, format_args!("{}", Chain(value)));
    }
}

/// An error with its sources, separated by colons.
struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

/// The whole line. `scopes` are the spans around the event, innermost first; a name counts once, where it is
/// innermost.
pub(crate) fn render<'a>(
    metadata: &Metadata<'_>,
    now: SystemTime,
    event: &'a Fields,
    scopes: impl IntoIterator<Item = &'a Fields>,
) -> String {
    let mut line = String::with_capacity(256);
    let level = match *metadata.level() {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    };
    line.push_str("{\"@level\":\"");
    line.push_str(level);
    line.push_str("\",\"@timestamp\":\"");
    // Writing to a String cannot fail.
    let _ = write!(line, "{}", Timestamp(now));
    line.push_str("\",\"@module\":");
    line.push_str(&string(format_args!("{}", metadata.target()), MAX_VALUE));
    line.push_str(",\"@message\":");
    match &event.message {
        Some(message) => line.push_str(message),
        None => line.push_str("\"\""),
    }

    let mut seen: Vec<&str> = Vec::new();
    let mut cut = false;
    for value in std::iter::once(event).chain(scopes).flat_map(|fields| &fields.values) {
        if seen.contains(&value.name.as_ref()) {
            continue;
        }
        seen.push(&value.name);
        let name = string(format_args!("{}", value.name), MAX_VALUE);
        if line.len() + name.len() + value.json.len() + 2 + CUT.len() > MAX_LINE {
            cut = true;
            continue;
        }
        line.push(',');
        line.push_str(&name);
        line.push(':');
        line.push_str(&value.json);
    }
    line.push_str(if cut { CUT } else { END });
    line
}

/// `text` as a JSON string of at most `limit` bytes; what does not fit is replaced by an ellipsis.
pub(crate) fn string(text: fmt::Arguments<'_>, limit: usize) -> String {
    let mut encoder = Encoder { out: String::from("\""), limit: limit - "…\"".len() };
    // Fails at the limit, or if an application's own formatting fails; either way the text is cut short here.
    if encoder.write_fmt(text).is_err() {
        encoder.out.push('…');
    }
    encoder.out.push('"');
    encoder.out
}

/// Encodes as it is written to, so that an endless `Debug` stops at the limit.
struct Encoder {
    out: String,
    limit: usize,
}

impl Write for Encoder {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            let before = self.out.len();
            match char {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                control if control < ' ' => write!(self.out, "\\u{:04x}", u32::from(control))?,
                other => self.out.push(other),
            }
            if self.out.len() > self.limit {
                self.out.truncate(before);
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_and_bounded() {
        assert_eq!(string(format_args!("a\"b\\c\n\r\t\u{1}é"), 100), r#""a\"b\\c\n\r\t\u0001é""#);
        for length in 0..40 {
            let text = "\u{1}é\"x".repeat(length);
            for limit in 8..60 {
                let json = string(format_args!("{text}"), limit);
                assert!(json.len() <= limit, "{limit} {json}");
                let back: String = serde_json::from_str(&json).unwrap();
                assert!(back == text || text.starts_with(back.strip_suffix('…').unwrap()), "{limit} {json}");
            }
        }
    }

    #[test]
    fn a_failing_or_endless_debug_is_cut_short() {
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("again ")?;
                }
            }
        }
        assert_eq!(string(format_args!("{Endless}"), 16), "\"again again…\"");
    }

    #[test]
    fn names_that_hosts_use_themselves_are_changed() {
        for name in RESERVED {
            assert_eq!(field_name(name), format!("field_{name}"));
        }
        assert_eq!(field_name("@level"), "field_level");
        assert_eq!(field_name("error"), "error");
    }
}
