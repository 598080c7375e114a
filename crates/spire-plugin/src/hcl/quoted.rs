// SPDX-License-Identifier: Apache-2.0
//! Quoted strings and heredocs.

use super::{HclError, Position, cursor::Cursor};

/// Whose rules a string follows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Hcl,
    Json,
}

/// Reads a string whose opening quote, at `start`, has been consumed.
pub(super) fn string(cursor: &mut Cursor<'_>, start: Position, dialect: Dialect) -> Result<String, HclError> {
    // Bytes, since `\xC3\xA9` is two escapes and one character.
    let mut bytes = Vec::new();
    loop {
        let at = cursor.at();
        if dialect == Dialect::Hcl && cursor.eat("${") {
            bytes.extend_from_slice(b"${");
            interpolation(cursor, start, &mut bytes)?;
            continue;
        }
        match cursor.next() {
            None | Some('\n') => return Err(HclError::OpenString { at: start }),
            Some('"') => break,
            Some('\\') => escape(cursor, at, dialect, &mut bytes)?,
            Some(found) if found == '\0' || (dialect == Dialect::Json && found < ' ') => {
                return Err(HclError::Character { at, found });
            }
            Some(c) => push(&mut bytes, c),
        }
    }
    String::from_utf8(bytes).map_err(|_| HclError::NotUtf8 { at: start })
}

/// Copies the text of `${ ... }` as it is, up to its closing brace. Quotes and line ends are plain text in it.
fn interpolation(cursor: &mut Cursor<'_>, start: Position, bytes: &mut Vec<u8>) -> Result<(), HclError> {
    let mut open = 1_usize;
    while open > 0 {
        let at = cursor.at();
        let c = cursor.next().ok_or(HclError::OpenString { at: start })?;
        match c {
            '{' => open += 1,
            '}' => open -= 1,
            '\0' => return Err(HclError::Character { at, found: c }),
            '\r' if cursor.sees("\n") => continue,
            _ => {}
        }
        push(bytes, c);
    }
    Ok(())
}

/// Reads an escape whose backslash, at `at`, has been consumed.
fn escape(cursor: &mut Cursor<'_>, at: Position, dialect: Dialect, bytes: &mut Vec<u8>) -> Result<(), HclError> {
    let hcl = dialect == Dialect::Hcl;
    let c = cursor.next().ok_or(HclError::Escape { at })?;
    match c {
        '"' | '\\' | '/' => push(bytes, c),
        'b' => bytes.push(0x08),
        'f' => bytes.push(0x0c),
        'n' => bytes.push(b'\n'),
        'r' => bytes.push(b'\r'),
        't' => bytes.push(b'\t'),
        'u' => push(bytes, unit(cursor, at)?),
        'a' if hcl => bytes.push(0x07),
        'v' if hcl => bytes.push(0x0b),
        'x' if hcl => bytes.push(byte(digits(cursor, 16, 2, 0), at)?),
        'U' if hcl => {
            push(bytes, digits(cursor, 16, 8, 0).and_then(char::from_u32).ok_or(HclError::EscapeValue { at })?)
        }
        '0'..='7' if hcl => bytes.push(byte(digits(cursor, 8, 2, c.to_digit(8).unwrap_or_default()), at)?),
        _ => return Err(HclError::Escape { at }),
    }
    Ok(())
}

/// Reads the digits behind `\u`, and a second `\u` if the first one is half of a surrogate pair.
fn unit(cursor: &mut Cursor<'_>, at: Position) -> Result<char, HclError> {
    let error = HclError::EscapeValue { at };
    let high = digits(cursor, 16, 4, 0).ok_or_else(|| error.clone())?;
    if let Some(c) = char::from_u32(high) {
        return Ok(c);
    }
    if !cursor.eat("\\u") {
        return Err(error);
    }
    let low = digits(cursor, 16, 4, 0).ok_or_else(|| error.clone())?;
    let pair = [high, low].map(|unit| u16::try_from(unit).unwrap_or_default());
    match char::decode_utf16(pair).next() {
        Some(Ok(c)) => Ok(c),
        _ => Err(error),
    }
}

/// Reads exactly `count` digits behind the digits whose value is `value`.
fn digits(cursor: &mut Cursor<'_>, radix: u32, count: usize, mut value: u32) -> Option<u32> {
    for _ in 0..count {
        let digit = cursor.peek()?.to_digit(radix)?;
        cursor.next();
        value = value.checked_mul(radix)?.checked_add(digit)?;
    }
    Some(value)
}

fn byte(value: Option<u32>, at: Position) -> Result<u8, HclError> {
    value.and_then(|value| u8::try_from(value).ok()).ok_or(HclError::EscapeValue { at })
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Reads a heredoc whose first `<`, at `start`, has not been consumed.
///
/// The last line of the text may close it without a line end: SPIRE prints a heredoc that is the last item so.
pub(super) fn heredoc(cursor: &mut Cursor<'_>, start: Position) -> Result<String, HclError> {
    if !cursor.eat("<<") {
        return Err(HclError::HeredocStart { at: start });
    }
    let indented = cursor.eat("-");
    let (tag, ended) = cursor.line();
    if tag.is_empty() || !tag.chars().all(|c| c == '_' || c.is_alphanumeric()) {
        return Err(HclError::HeredocStart { at: start });
    }
    let open = || HclError::OpenHeredoc { at: start, tag: tag.to_owned() };
    if !ended {
        return Err(open());
    }

    let mut lines = Vec::new();
    let indent = loop {
        let at = cursor.at();
        let (line, ended) = cursor.line();
        if let Some(column) = line.chars().position(|c| c == '\0') {
            let column = at.column + u32::try_from(column).unwrap_or(u32::MAX);
            return Err(HclError::Character { at: Position { column, ..at }, found: '\0' });
        }
        if let Some(indent) = line.strip_suffix(tag)
            && indent.chars().all(|c| c.is_ascii_whitespace() || c == '\u{b}')
        {
            break indent;
        }
        if !ended {
            return Err(open());
        }
        lines.push(line);
    };

    // As hashicorp/hcl has it: the indent of the closing line goes away only if every line has it, and without `-`
    // it is part of the text.
    let strip = indented && lines.iter().all(|line| line.starts_with(indent));
    let mut text = String::new();
    for line in lines {
        text.push_str(if strip { line.strip_prefix(indent).unwrap_or(line) } else { line });
        text.push('\n');
    }
    if !indented {
        text.push_str(indent);
    }
    Ok(text)
}
