// SPDX-License-Identifier: Apache-2.0
//! Errors as text for people.

use std::error::Error;
use std::fmt;

/// An error and the errors behind it, in one line: `opening failed: no such file`. A source that the text before it
/// repeats already is not said twice.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut source = self.0.source();
        while let Some(error) = source {
            let reason = error.to_string();
            if !text.contains(&reason) {
                text.push_str(": ");
                text.push_str(&reason);
            }
            source = error.source();
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Example {
        #[error("silent")]
        Silent(#[source] Box<Example>),
        #[error("repeats: {0}")]
        Repeats(#[source] Box<Example>),
        #[error("the end")]
        End,
    }

    #[test]
    fn every_reason_is_said_once() {
        let (silent, repeats) = (|e| Example::Silent(Box::new(e)), |e| Example::Repeats(Box::new(e)));
        for (error, text) in [
            (Example::End, "the end"),
            (silent(Example::End), "silent: the end"),
            (repeats(Example::End), "repeats: the end"),
            (silent(repeats(Example::End)), "silent: repeats: the end"),
            (repeats(silent(Example::End)), "repeats: silent: the end"),
        ] {
            assert_eq!(Report(&error).to_string(), text);
        }
    }
}
