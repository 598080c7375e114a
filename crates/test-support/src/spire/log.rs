// SPDX-License-Identifier: Apache-2.0
//! SPIRE's log in its JSON format.

use serde_json::Value;

/// One line of the log.
#[derive(Debug, Clone)]
pub struct LogLine {
    /// `debug`, `info`, `warning`, `error`.
    pub level: String,
    /// The message.
    pub message: String,
    /// The member `error`, empty when there is none.
    pub error: String,
    /// All members.
    pub fields: Value,
}

/// The lines of a log that are JSON objects.
pub(super) fn parse(log: &str) -> Vec<LogLine> {
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|fields| {
            let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            LogLine { level: text("level"), message: text("msg"), error: text("error"), fields }
        })
        .collect()
}
