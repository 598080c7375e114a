// SPDX-License-Identifier: Apache-2.0
//! HCL 1's tokens.

use super::{
    HclError, Position,
    cursor::Cursor,
    quoted::{self, Dialect},
};

/// One token.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// An identifier other than `true` and `false`.
    Word(String),
    /// A quoted string, escapes resolved.
    Text(String),
    Heredoc(String),
    /// A number as written.
    Number(String),
    Bool(bool),
    Assign,
    Comma,
    OpenBrace,
    CloseBrace,
    OpenBracket,
    CloseBracket,
    End,
}

impl Token {
    /// What the token is, for an error. Its content stays out: it may be a secret.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Word(_) => "a word without quotes",
            Self::Text(_) => "a string",
            Self::Heredoc(_) => "a heredoc",
            Self::Number(_) => "a number",
            Self::Bool(true) => "`true`",
            Self::Bool(false) => "`false`",
            Self::Assign => "`=`",
            Self::Comma => "`,`",
            Self::OpenBrace => "`{`",
            Self::CloseBrace => "`}`",
            Self::OpenBracket => "`[`",
            Self::CloseBracket => "`]`",
            Self::End => "the end of the text",
        }
    }
}

/// Reads the next token and where it starts.
pub(super) fn token(cursor: &mut Cursor<'_>) -> Result<(Position, Token), HclError> {
    blanks(cursor)?;
    let at = cursor.at();
    let Some(c) = cursor.peek() else {
        return Ok((at, Token::End));
    };
    let token = match c {
        '"' => {
            cursor.next();
            Token::Text(quoted::string(cursor, at, Dialect::Hcl)?)
        }
        '<' => Token::Heredoc(quoted::heredoc(cursor, at)?),
        '-' | '.' | '0'..='9' => Token::Number(number(cursor)?),
        '_' => word(cursor),
        c if c.is_alphabetic() => word(cursor),
        _ => {
            cursor.next();
            match c {
                '=' => Token::Assign,
                ',' => Token::Comma,
                '{' => Token::OpenBrace,
                '}' => Token::CloseBrace,
                '[' => Token::OpenBracket,
                ']' => Token::CloseBracket,
                found => return Err(HclError::Character { at, found }),
            }
        }
    };
    Ok((at, token))
}

/// Skips white space and comments.
fn blanks(cursor: &mut Cursor<'_>) -> Result<(), HclError> {
    loop {
        cursor.take_while(|c| matches!(c, ' ' | '\t' | '\r' | '\n'));
        let at = cursor.at();
        if cursor.sees("#") || cursor.sees("//") {
            cursor.line();
        } else if cursor.eat("/*") {
            while !cursor.eat("*/") {
                cursor.next().ok_or(HclError::OpenComment { at })?;
            }
        } else {
            return Ok(());
        }
    }
}

fn word(cursor: &mut Cursor<'_>) -> Token {
    match cursor.take_while(|c| matches!(c, '_' | '-' | '.') || c.is_alphanumeric()) {
        "true" => Token::Bool(true),
        "false" => Token::Bool(false),
        word => Token::Word(word.to_owned()),
    }
}

/// Reads a number: optional minus; `0x` and hexadecimal digits, `0` and octal digits, or decimal digits with
/// optional fraction and exponent.
pub(super) fn number(cursor: &mut Cursor<'_>) -> Result<String, HclError> {
    let at = cursor.at();
    let mut exponent = false;
    let mut hex = false;
    let mut length = 0;
    let number = cursor.take_while(|c| {
        let sign = matches!(c, '-' | '+') && (length == 0 || exponent);
        hex |= length <= 2 && matches!(c, 'x' | 'X');
        exponent = !hex && matches!(c, 'e' | 'E');
        length += 1;
        sign || matches!(c, '_' | '.') || c.is_alphanumeric()
    });
    if is_number(number) { Ok(number.to_owned()) } else { Err(HclError::Number { at }) }
}

fn is_number(text: &str) -> bool {
    let decimal = |digits: &str| digits.chars().all(|c| c.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return !hex.is_empty() && hex.chars().all(|c| c.is_ascii_hexdigit());
    }
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    if let Some(exponent) = exponent {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        if digits.is_empty() || !decimal(digits) {
            return false;
        }
    }
    match mantissa.split_once('.') {
        Some((whole, fraction)) => decimal(whole) && decimal(fraction) && (whole.len() + fraction.len()) > 0,
        None if mantissa.is_empty() || !decimal(mantissa) => false,
        None => exponent.is_some() || !mantissa.starts_with('0') || !mantissa.contains(['8', '9']),
    }
}
