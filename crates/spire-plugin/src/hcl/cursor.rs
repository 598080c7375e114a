// SPDX-License-Identifier: Apache-2.0
//! A place in the text that moves forward and knows its line and column.

use std::str::Chars;

use super::Position;

/// The part of the text not read yet.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    rest: Chars<'a>,
    at: Position,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text.chars(), at: Position { line: 1, column: 1 } }
    }

    /// Place of the next character.
    pub(super) fn at(&self) -> Position {
        self.at
    }

    /// The next character, not consumed.
    pub(super) fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    /// Whether `text` comes next.
    pub(super) fn sees(&self, text: &str) -> bool {
        self.rest.as_str().starts_with(text)
    }

    /// Consumes the next character.
    pub(super) fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            self.at.line += 1;
            self.at.column = 1;
        } else {
            self.at.column += 1;
        }
        Some(c)
    }

    /// Consumes `text` if it comes next, and tells whether it did.
    pub(super) fn eat(&mut self, text: &str) -> bool {
        let seen = self.sees(text);
        if seen {
            for _ in text.chars() {
                self.next();
            }
        }
        seen
    }

    /// Consumes characters as long as `accept` wants them.
    pub(super) fn take_while(&mut self, mut accept: impl FnMut(char) -> bool) -> &'a str {
        let from = self.rest.as_str();
        while self.peek().is_some_and(&mut accept) {
            self.next();
        }
        let taken = from.len() - self.rest.as_str().len();
        from.get(..taken).unwrap_or_default()
    }

    /// Consumes a line and its end. The text comes back without `\n` or `\r\n`; the flag tells whether there was a
    /// line end.
    pub(super) fn line(&mut self) -> (&'a str, bool) {
        let line = self.take_while(|c| c != '\n');
        let ended = self.next().is_some();
        (line.strip_suffix('\r').unwrap_or(line), ended)
    }
}
