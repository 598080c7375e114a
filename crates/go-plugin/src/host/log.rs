// SPDX-License-Identifier: Apache-2.0
//! The plugin's standard error as `tracing` events: hclog lines with their level, everything else at debug.

use std::{fmt::Write, io};

use serde_json::{Map, Value};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver};
use tracing::Level;

use crate::hclog::{MAX_LINE, is_timestamp};

/// Target of the events that a plugin's log lines become.
///
/// Fields: `plugin` (the log name), `module` (the plugin's `@module`), `fields` (the line's other fields as
/// `name=value`, by name), `at` (the plugin's time); the message is the plugin's.
pub const LOG_TARGET: &str = "go_plugin::plugin_log";

/// Reads `stderr` to its end.
pub(crate) async fn forward(mut stderr: Receiver, name: String) {
    let mut lines = Lines::default();
    let mut reader = Reader::default();
    let mut buffer = vec![0; 8 * 1024];
    loop {
        match stderr.read(&mut buffer).await {
            Ok(0) => break,
            Ok(length) => {
                lines.push(buffer.get(..length).unwrap_or_default(), |line| {
                    reader.read(line).emit(&name);
                });
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::warn!(plugin = name, %error, "cannot read the plugin's log any more");
                break;
            }
        }
    }
    lines.finish(|line| reader.read(line).emit(&name));
}

/// A whole line without its line feed, or a piece of one that is too long.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Whole(&'a [u8]),
    Piece(&'a [u8]),
}

/// Cuts a stream of bytes into lines of at most [`MAX_LINE`] bytes with the line feed.
#[derive(Debug, Default)]
struct Lines {
    pending: Vec<u8>,
    /// `pending` continues a line of which pieces were given out.
    continued: bool,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], mut take: impl FnMut(Line<'_>)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.pending.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.pending.pop();
                // A long line may come with its end in one go.
                self.give(MAX_LINE - 1, &mut take);
                self.finish(&mut take);
            } else {
                self.give(MAX_LINE, &mut take);
            }
        }
    }

    /// Gives out pieces while more than `limit` bytes are pending.
    fn give(&mut self, limit: usize, take: &mut impl FnMut(Line<'_>)) {
        while self.pending.len() > limit {
            let rest = self.pending.split_off(limit);
            take(Line::Piece(&self.pending));
            self.pending = rest;
            self.continued = true;
        }
    }

    /// The line is over.
    fn finish(&mut self, mut take: impl FnMut(Line<'_>)) {
        if self.continued {
            take(Line::Piece(&self.pending));
        } else if !self.pending.is_empty() {
            take(Line::Whole(&self.pending));
        }
        self.pending.clear();
        self.continued = false;
    }
}

/// One event to emit.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    level: Level,
    message: String,
    module: Option<String>,
    at: Option<String>,
    fields: Option<String>,
}

impl Entry {
    fn raw(level: Level, text: &str) -> Self {
        Self { level, message: text.to_owned(), module: None, at: None, fields: None }
    }

    fn emit(&self, plugin: &str) {
        let Self { message, module, at, fields, .. } = self;
        let (module, at, fields) = (module.as_deref(), at.as_deref(), fields.as_deref());
        macro_rules! emit {
            ($level:expr) => {
                tracing::event!(target: LOG_TARGET, $level, plugin, module, fields, at, "{message}")
            };
        }
        match self.level {
            Level::ERROR => emit!(Level::ERROR),
            Level::WARN => emit!(Level::WARN),
            Level::INFO => emit!(Level::INFO),
            Level::DEBUG => emit!(Level::DEBUG),
            Level::TRACE => emit!(Level::TRACE),
        }
    }
}

/// Tells hclog lines from others, as go-plugin does.
#[derive(Debug, Default)]
struct Reader {
    /// A Go panic has begun; the rest of its trace is foreign text at error.
    panicked: bool,
}

impl Reader {
    fn read(&mut self, line: Line<'_>) -> Entry {
        match line {
            Line::Piece(bytes) => Entry::raw(Level::DEBUG, &String::from_utf8_lossy(bytes)),
            Line::Whole(bytes) => match serde_json::from_slice(bytes).ok().and_then(hclog) {
                Some(entry) => entry,
                None => self.foreign(&String::from_utf8_lossy(bytes)),
            },
        }
    }

    fn foreign(&mut self, text: &str) -> Entry {
        const PREFIXES: [(&str, Level); 5] = [
            ("[TRACE]", Level::TRACE),
            ("[DEBUG]", Level::DEBUG),
            ("[INFO]", Level::INFO),
            ("[WARN]", Level::WARN),
            ("[ERROR]", Level::ERROR),
        ];
        let level = match PREFIXES.iter().find(|(prefix, _)| text.starts_with(prefix)) {
            Some((_, level)) => *level,
            None => {
                self.panicked |= text.starts_with("panic: ") || text.starts_with("fatal error: ");
                if self.panicked { Level::ERROR } else { Level::DEBUG }
            }
        };
        Entry::raw(level, text)
    }
}

/// Reads an hclog line; `None` if it is other JSON, or a key that hclog defines has not its form.
fn hclog(mut object: Map<String, Value>) -> Option<Entry> {
    let mut text = |key| match object.remove(key) {
        Some(Value::String(text)) => Some(Some(text)),
        Some(_) => None,
        None => Some(None),
    };
    let level = text("@level")??;
    let message = text("@message")?.unwrap_or_default();
    let module = text("@module")?;
    let at = text("@timestamp")?;
    if at.as_deref().is_some_and(|at| !is_timestamp(at)) {
        return None;
    }
    let level = match level.trim().to_ascii_lowercase().as_str() {
        "trace" => Level::TRACE,
        "debug" => Level::DEBUG,
        "info" => Level::INFO,
        "warn" => Level::WARN,
        "error" => Level::ERROR,
        _ => return None,
    };
    Some(Entry { level, message, module, at, fields: flatten(&object) })
}

/// `name=value` for each field, separated by blanks; text that has blanks or quotes of its own is quoted.
fn flatten(object: &Map<String, Value>) -> Option<String> {
    let mut flat = String::new();
    for (name, value) in object {
        if !flat.is_empty() {
            flat.push(' ');
        }
        // Writing to a String cannot fail.
        let _ = match value {
            Value::String(text)
                if !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"') =>
            {
                write!(flat, "{name}={text}")
            }
            other => write!(flat, "{name}={other}"),
        };
    }
    (!flat.is_empty()).then_some(flat)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Entry {
        Reader::default().read(Line::Whole(text.as_bytes()))
    }

    #[test]
    fn hclog_lines_keep_their_level_and_fields() {
        let entry = read(
            r#"{"@level":" Warn ","@message":"hello","@module":"kv","@timestamp":"2026-01-02T03:04:05.123456Z","n":1,"text":"a b","word":"x","yes":true}"#,
        );
        assert_eq!(
            entry,
            Entry {
                level: Level::WARN,
                message: "hello".into(),
                module: Some("kv".into()),
                at: Some("2026-01-02T03:04:05.123456Z".into()),
                fields: Some(r#"n=1 text="a b" word=x yes=true"#.into()),
            }
        );
    }

    #[test]
    fn anything_else_is_raw() {
        for text in [
            "hello",
            "[1]",
            r#"{"msg":"no level"}"#,
            r#"{"@level":"all","@message":"x"}"#,
            r#"{"@level":"info","@message":5}"#,
            r#"{"@level":7,"@message":"x"}"#,
            r#"{"@level":"info","@message":"x","@timestamp":"2026-01-02T03:04:05.123456789Z"}"#,
            "thread 'main' panicked at src/main.rs:1:1:",
        ] {
            assert_eq!(read(text), Entry::raw(Level::DEBUG, text));
        }
        assert_eq!(read("[WARN] x"), Entry::raw(Level::WARN, "[WARN] x"));
        let invalid = Reader::default().read(Line::Whole(b"a\xffb"));
        assert_eq!(invalid, Entry::raw(Level::DEBUG, "a\u{fffd}b"));
    }

    #[test]
    fn a_go_panic_is_an_error_to_its_end() {
        let mut reader = Reader::default();
        let mut level = |text: &str| reader.read(Line::Whole(text.as_bytes())).level;
        assert_eq!(level("before"), Level::DEBUG);
        assert_eq!(level("panic: oops"), Level::ERROR);
        assert_eq!(level("goroutine 1 [running]:"), Level::ERROR);
        assert_eq!(level(r#"{"@level":"info","@message":"x"}"#), Level::INFO);
    }

    #[test]
    fn lines_come_whole_however_they_were_sent() {
        let text = b"one\ntwo\n\nthree";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            let mut take = |line: Line<'_>| match line {
                Line::Whole(line) => seen.push(String::from_utf8(line.to_vec()).unwrap()),
                Line::Piece(_) => panic!("no line is long"),
            };
            for chunk in text.chunks(size) {
                lines.push(chunk, &mut take);
            }
            lines.finish(&mut take);
            assert_eq!(seen, ["one", "two", "three"]);
        }
    }

    #[test]
    fn long_lines_come_in_pieces() {
        for (length, long) in [(MAX_LINE - 1, false), (MAX_LINE, true), (3 * MAX_LINE, true)] {
            let mut text = vec![b'x'; length];
            text.extend_from_slice(b"\nnext\n");
            for size in [1000, MAX_LINE, text.len()] {
                let mut lines = Lines::default();
                let (mut whole, mut cut) = (Vec::new(), 0);
                for chunk in text.chunks(size) {
                    lines.push(chunk, |line| match line {
                        Line::Whole(line) => whole.push(line.len()),
                        Line::Piece(piece) => {
                            assert!(piece.len() <= MAX_LINE);
                            cut += piece.len();
                        }
                    });
                }
                assert_eq!(cut, if long { length } else { 0 }, "{length} {size}");
                assert_eq!(whole.last(), Some(&4));
                assert_eq!(whole.len(), if long { 1 } else { 2 });
            }
        }
    }
}
