// SPDX-License-Identifier: Apache-2.0
//! Why a text is not HCL 1 or JSON.

use super::{MAX_DEPTH, MAX_TEXT, Position};
use crate::text::shorten;

/// Why a text is not HCL 1 or JSON.
///
/// The text of an error names the place, what was expected there and what kind of thing was found. It never holds a
/// value of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HclError {
    /// The text is longer than [`MAX_TEXT`].
    #[error("the text has {size} bytes, at most {MAX_TEXT} are accepted")]
    TooLong {
        /// Length of the text in bytes.
        size: usize,
    },
    /// Objects and lists are nested more than [`MAX_DEPTH`] levels deep.
    #[error("{at}: nested more than {MAX_DEPTH} levels deep")]
    TooDeep {
        /// Where the level too many starts.
        at: Position,
    },
    /// Something else belongs here.
    #[error("{at}: expected {expected}, found {found}")]
    Unexpected {
        /// Where the unexpected thing starts.
        at: Position,
        /// What belongs here.
        expected: &'static str,
        /// The kind of thing that is here.
        found: &'static str,
    },
    /// A character that starts nothing.
    #[error("{at}: illegal character `{}`", shorten(found.encode_utf8(&mut [0; 4])))]
    Character {
        /// Where it is.
        at: Position,
        /// The character.
        found: char,
    },
    /// A key is set twice in one body.
    #[error("{at}: `{}` was already set at {first}", shorten(key))]
    Duplicate {
        /// Where the second one starts.
        at: Position,
        /// Where the first one starts.
        first: Position,
        /// The key.
        key: String,
    },
    /// A string without closing quote.
    #[error("{at}: expected a closing `\"` on the same line as the string that starts here")]
    OpenString {
        /// Where the string starts.
        at: Position,
    },
    /// A heredoc without its closing line.
    #[error("{at}: expected a line with only `{}` to close the heredoc that starts here", shorten(tag))]
    OpenHeredoc {
        /// Where the heredoc starts.
        at: Position,
        /// The tag that would close it.
        tag: String,
    },
    /// `<<` without a tag and the end of the line behind it.
    #[error("{at}: expected a heredoc to start with `<<` or `<<-`, a tag of letters and digits, and the line's end")]
    HeredocStart {
        /// Where the heredoc starts.
        at: Position,
    },
    /// A comment without end.
    #[error("{at}: expected `*/` to close the comment that starts here")]
    OpenComment {
        /// Where the comment starts.
        at: Position,
    },
    /// A backslash that starts no known escape.
    #[error("{at}: unknown escape in a string, write `\\\\` for a backslash")]
    Escape {
        /// Where the backslash is.
        at: Position,
    },
    /// A numeric escape with too few digits or a value that is no character.
    #[error("{at}: the escape does not name a character")]
    EscapeValue {
        /// Where the backslash is.
        at: Position,
    },
    /// The `\x` and octal escapes of a string do not make UTF-8.
    #[error("{at}: the escapes of the string that starts here do not make UTF-8")]
    NotUtf8 {
        /// Where the string starts.
        at: Position,
    },
    /// Starts like a number and is none.
    #[error("{at}: malformed number, text needs double quotes")]
    Number {
        /// Where it starts.
        at: Position,
    },
}
