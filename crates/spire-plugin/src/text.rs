// SPDX-License-Identifier: Apache-2.0
//! Foreign text in our own messages.

/// Longest piece that is quoted, in characters.
const MAX: usize = 64;

/// The start of `text`, fit for one line of a log: what does not print is escaped.
pub(crate) fn shorten(text: &str) -> String {
    let mut short = String::new();
    for c in text.chars().take(MAX) {
        match c {
            '"' | '\'' | '\\' => short.push(c),
            c => short.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(MAX).is_some() {
        short.push_str("...");
    }
    short
}
