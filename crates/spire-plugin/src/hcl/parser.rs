// SPDX-License-Identifier: Apache-2.0
//! HCL 1's grammar.

use std::collections::HashMap;

use super::{
    Body, HclError, Item, MAX_DEPTH, Position, Value,
    cursor::Cursor,
    lexer::{self, Token},
};

/// Reads HCL 1.
pub(super) fn parse(text: &str) -> Result<Body, HclError> {
    Parser { cursor: Cursor::new(text), depth: 0 }.items(&Token::End)
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    depth: usize,
}

impl Parser<'_> {
    fn next(&mut self) -> Result<(Position, Token), HclError> {
        lexer::token(&mut self.cursor)
    }

    /// Consumes the next token if it is `wanted`, and tells whether it was.
    fn eat(&mut self, wanted: &Token) -> Result<bool, HclError> {
        let mut ahead = self.cursor.clone();
        let seen = lexer::token(&mut ahead)?.1 == *wanted;
        if seen {
            self.cursor = ahead;
        }
        Ok(seen)
    }

    /// Runs `inner` one level deeper; the level started at `at`.
    fn deeper<T>(&mut self, at: Position, inner: impl FnOnce(&mut Self) -> Result<T, HclError>) -> Result<T, HclError> {
        if self.depth == MAX_DEPTH {
            return Err(HclError::TooDeep { at });
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// Reads items up to and including `end`.
    fn items(&mut self, end: &Token) -> Result<Body, HclError> {
        let expected = if *end == Token::End { "a key" } else { "a key or `}`" };
        let mut body = Body::default();
        let mut assigned = HashMap::new();
        loop {
            let (at, token) = self.next()?;
            let key = match token {
                token if token == *end => return Ok(body),
                Token::Word(key) | Token::Text(key) => key,
                token => {
                    return Err(HclError::Unexpected { at, expected, found: token.kind() });
                }
            };
            let (item, assigns) = self.item(at, key)?;
            if assigns {
                let object = matches!(item.value, Value::Object(_));
                // Several objects under one key are what an array of objects in JSON looks like once printed.
                if let Some((first, was_object)) = assigned.insert(item.key.clone(), (at, object))
                    && !(object && was_object)
                {
                    return Err(HclError::Duplicate { at, first, key: item.key });
                }
            }
            body.items.push(item);
            self.eat(&Token::Comma)?;
        }
    }

    /// Reads the rest of an item behind its key. The flag tells whether it has a `=`.
    fn item(&mut self, at: Position, key: String) -> Result<(Item, bool), HclError> {
        let mut labels = Vec::new();
        loop {
            let (here, token) = self.next()?;
            match token {
                Token::Word(label) | Token::Text(label) => labels.push(label),
                Token::Assign if labels.is_empty() => {
                    let value = self.assigned(here)?;
                    return Ok((Item { key, labels, value, at }, true));
                }
                Token::OpenBrace => {
                    let value = self.deeper(here, |inner| inner.items(&Token::CloseBrace))?;
                    return Ok((Item { key, labels, value: Value::Object(value), at }, false));
                }
                token => {
                    let expected = if labels.is_empty() { "`=` or `{` after the key" } else { "`{` after the labels" };
                    return Err(HclError::Unexpected { at: here, expected, found: token.kind() });
                }
            }
        }
    }

    /// Reads the value behind a `=` that is at `assign`; nothing there is null.
    fn assigned(&mut self, assign: Position) -> Result<Value, HclError> {
        let mut ahead = self.cursor.clone();
        let (at, token) = lexer::token(&mut ahead)?;
        let next_line = at.line > assign.line;
        let null = match token {
            Token::End | Token::CloseBrace => true,
            Token::Word(_) => next_line,
            // A value may start on the next line, and so may the next item, with a quoted key.
            Token::Text(_) => next_line && matches!(lexer::token(&mut ahead)?.1, Token::Assign | Token::OpenBrace),
            _ => false,
        };
        if null {
            return Ok(Value::Null);
        }
        let (at, token) = self.next()?;
        self.value(at, token, "a value (text needs double quotes)")
    }

    /// Makes a value of `token`, which has been consumed.
    fn value(&mut self, at: Position, token: Token, expected: &'static str) -> Result<Value, HclError> {
        match token {
            Token::Text(text) | Token::Heredoc(text) => Ok(Value::Text(text)),
            Token::Number(number) => Ok(Value::Number(number)),
            Token::Bool(flag) => Ok(Value::Bool(flag)),
            Token::OpenBrace => Ok(Value::Object(self.deeper(at, |inner| inner.items(&Token::CloseBrace))?)),
            Token::OpenBracket => Ok(Value::List(self.deeper(at, Self::list)?)),
            token => Err(HclError::Unexpected { at, expected, found: token.kind() }),
        }
    }

    /// Reads a list up to and including its closing bracket.
    fn list(&mut self) -> Result<Vec<Value>, HclError> {
        let mut values = Vec::new();
        loop {
            let (at, token) = self.next()?;
            if token == Token::CloseBracket {
                return Ok(values);
            }
            values.push(self.value(at, token, "a value or `]` (text needs double quotes)")?);
            let (at, token) = self.next()?;
            match token {
                Token::Comma => {}
                Token::CloseBracket => return Ok(values),
                token => {
                    return Err(HclError::Unexpected { at, expected: "`,` or `]`", found: token.kind() });
                }
            }
        }
    }
}
