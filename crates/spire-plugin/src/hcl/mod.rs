// SPDX-License-Identifier: Apache-2.0
//! HCL 1 and JSON as SPIRE passes them to a plugin.
//!
//! SPIRE prints the `plugin_data` of its configuration file back as HCL text, or passes the text of
//! `plugin_data_file` unchanged, so a plugin meets HCL 1 written by hand, HCL 1 printed from JSON (quoted keys, a
//! null that is `key = ` with nothing behind it) and JSON itself. [`parse`] reads all three into one [`Body`].
//!
//! What is accepted beyond hashicorp/hcl 1.0.1: the null above, a heredoc whose last line has no newline, the
//! escape `\/` and surrogate pairs of `\u` (both reach HCL text from JSON), and an object given several times with
//! `=` (an array of objects, printed).
//! What is refused beyond it: text of more than [`MAX_TEXT`] bytes and nesting of more than [`MAX_DEPTH`] levels.

mod cursor;
mod error;
mod json;
mod lexer;
mod parser;
mod quoted;

use std::fmt;

pub use error::HclError;

/// Longest text that [`parse`] accepts, in bytes.
pub const MAX_TEXT: usize = 1 << 20;

/// Deepest nesting of objects and lists that [`parse`] accepts.
pub const MAX_DEPTH: usize = 32;

/// Place in the text: line and column, both counted from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1. A tab is one character.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// The items of the whole text or of one object, in the order of the text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Body {
    /// Items in the order of the text.
    pub items: Vec<Item>,
}

/// `key = value`, `key { ... }` or `key "label" { ... }`.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The key, as written.
    pub key: String,
    /// Labels between the key and the block, empty for anything but a labelled block.
    pub labels: Vec<String>,
    /// The value; a block's is an object.
    pub value: Value,
    /// Where the key starts.
    pub at: Position,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Quoted string or heredoc, escapes resolved. Text inside `${` and `}` is kept as written.
    Text(String),
    /// A number as written, for example `0x1F`, `-1.50` or an integer of twenty digits.
    Number(String),
    /// `true` or `false`.
    Bool(bool),
    /// JSON's null, or nothing behind `=`.
    Null,
    /// List of values.
    List(Vec<Value>),
    /// Object or block.
    Object(Body),
}

/// Reads HCL 1, or JSON if the first character other than white space is an opening brace.
///
/// Text of nothing but white space and comments is an empty body.
pub fn parse(text: &str) -> Result<Body, HclError> {
    if text.len() > MAX_TEXT {
        return Err(HclError::TooLong { size: text.len() });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('{') { json::parse(text) } else { parser::parse(text) }
}

#[cfg(test)]
mod tests;
