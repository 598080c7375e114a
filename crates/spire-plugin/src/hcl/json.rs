// SPDX-License-Identifier: Apache-2.0
//! JSON (RFC 8259) into the same body as HCL.

use std::collections::HashMap;

use super::{
    Body, HclError, Item, MAX_DEPTH, Position, Value,
    cursor::Cursor,
    lexer,
    quoted::{self, Dialect},
};

/// Reads one JSON object and nothing behind it.
pub(super) fn parse(text: &str) -> Result<Body, HclError> {
    let mut parser = Parser { cursor: Cursor::new(text), depth: 0 };
    parser.blanks();
    let at = parser.cursor.at();
    if !parser.cursor.eat("{") {
        return Err(parser.unexpected("`{`"));
    }
    let body = parser.deeper(at, Parser::members)?;
    parser.blanks();
    match parser.cursor.peek() {
        None => Ok(body),
        Some(_) => Err(parser.unexpected("the end of the text")),
    }
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    depth: usize,
}

impl Parser<'_> {
    fn blanks(&mut self) {
        self.cursor.take_while(|c| matches!(c, ' ' | '\t' | '\r' | '\n'));
    }

    fn unexpected(&self, expected: &'static str) -> HclError {
        let found = match self.cursor.peek() {
            None => "the end of the text",
            Some('"') => "a string",
            Some('-' | '0'..='9') => "a number",
            Some('{') => "`{`",
            Some('}') => "`}`",
            Some('[') => "`[`",
            Some(']') => "`]`",
            Some(',') => "`,`",
            Some(':') => "`:`",
            Some('=') => "`=`",
            Some(c) if c.is_alphabetic() => "a word without quotes",
            Some(found) => {
                return HclError::Character { at: self.cursor.at(), found };
            }
        };
        HclError::Unexpected { at: self.cursor.at(), expected, found }
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

    /// Reads the members of an object up to and including its closing brace.
    fn members(&mut self) -> Result<Body, HclError> {
        let mut body = Body::default();
        let mut seen = HashMap::new();
        self.blanks();
        if self.cursor.eat("}") {
            return Ok(body);
        }
        loop {
            self.blanks();
            let at = self.cursor.at();
            if !self.cursor.eat("\"") {
                return Err(self.unexpected("a quoted key"));
            }
            let key = quoted::string(&mut self.cursor, at, Dialect::Json)?;
            if let Some(first) = seen.insert(key.clone(), at) {
                return Err(HclError::Duplicate { at, first, key });
            }
            self.blanks();
            if !self.cursor.eat(":") {
                return Err(self.unexpected("`:` after the key"));
            }
            let value = self.value()?;
            body.items.push(Item { key, labels: Vec::new(), value, at });
            self.blanks();
            if self.cursor.eat("}") {
                return Ok(body);
            }
            if !self.cursor.eat(",") {
                return Err(self.unexpected("`,` or `}`"));
            }
        }
    }

    /// Reads the values of an array up to and including its closing bracket.
    fn values(&mut self) -> Result<Vec<Value>, HclError> {
        let mut values = Vec::new();
        self.blanks();
        if self.cursor.eat("]") {
            return Ok(values);
        }
        loop {
            values.push(self.value()?);
            self.blanks();
            if self.cursor.eat("]") {
                return Ok(values);
            }
            if !self.cursor.eat(",") {
                return Err(self.unexpected("`,` or `]`"));
            }
        }
    }

    fn value(&mut self) -> Result<Value, HclError> {
        self.blanks();
        let at = self.cursor.at();
        match self.cursor.peek() {
            Some('"') => {
                self.cursor.next();
                Ok(Value::Text(quoted::string(&mut self.cursor, at, Dialect::Json)?))
            }
            Some('{') => {
                self.cursor.next();
                Ok(Value::Object(self.deeper(at, Self::members)?))
            }
            Some('[') => {
                self.cursor.next();
                Ok(Value::List(self.deeper(at, Self::values)?))
            }
            Some('-' | '0'..='9') => Ok(Value::Number(lexer::number(&mut self.cursor)?)),
            Some(c) if c.is_ascii_alphabetic() => {
                let mut ahead = self.cursor.clone();
                let value = match ahead.take_while(|c| c.is_alphanumeric() || c == '_') {
                    "true" => Value::Bool(true),
                    "false" => Value::Bool(false),
                    "null" => Value::Null,
                    _ => return Err(self.unexpected("a value")),
                };
                self.cursor = ahead;
                Ok(value)
            }
            _ => Err(self.unexpected("a value")),
        }
    }
}
