// SPDX-License-Identifier: Apache-2.0
//! Log lines on standard error: ` LEVEL target > message field=value`, one line per event, filtered as `RUST_LOG` says.
//!
//! There is no time stamp: the journal adds its own. Control characters in messages are escaped, so that a remote party
//! whose text is logged cannot forge lines or drive a terminal.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;

/// Why there is no logging.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoggingError {
    /// The filter is not a list of `target=level` directives.
    #[error("log filter '{filter}': {source}")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// Something else has installed a global subscriber before.
    #[error("logging is already set up")]
    AlreadySet,
}

/// What is shown.
#[derive(Clone, Copy, Debug)]
pub struct Logging<'a> {
    /// The value of `RUST_LOG`, if it is set: directives `level`, `target` or `target=level`, separated by commas.
    pub filter: Option<&'a str>,
    /// The filter used when there is none.
    pub default: &'a str,
    /// A directive for the first name also holds for the others, unless they have their own. This lets a program keep
    /// the log targets that its users have in their filters while its code lives in other crates.
    pub aliases: &'a [(&'a str, &'a [&'a str])],
}

impl Logging<'_> {
    /// Starts logging for the whole process.
    ///
    /// # Errors
    /// The filter is malformed, or logging was started before.
    pub fn init(&self) -> Result<(), LoggingError> {
        let targets = self.targets()?;
        let lines = tracing_subscriber::fmt::layer().event_format(Line).with_writer(std::io::stderr);
        let subscriber = tracing_subscriber::registry().with(targets).with(lines);
        tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError::AlreadySet)
    }

    fn targets(&self) -> Result<Targets, LoggingError> {
        let filter = self.filter.filter(|filter| !filter.trim().is_empty()).unwrap_or(self.default);
        let mut targets: Targets =
            filter.parse().map_err(|source| LoggingError::Filter { filter: filter.to_owned(), source })?;
        let given: Vec<_> = targets.iter().map(|(target, level)| (target.to_owned(), level)).collect();
        for (target, level) in &given {
            let Some((_, others)) = self.aliases.iter().find(|(name, _)| name == target) else {
                continue;
            };
            for other in *others {
                if !given.iter().any(|(target, _)| target == other) {
                    targets = targets.with_target(*other, *level);
                }
            }
        }
        Ok(targets)
    }
}

/// Lines at level WARN.
static WARNINGS: AtomicUsize = AtomicUsize::new(0);

/// How many warnings this process has logged so far; those that the filter hides are not counted.
#[must_use]
pub fn warnings() -> usize {
    WARNINGS.load(Ordering::Relaxed)
}

struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARN ",
            Level::INFO => "INFO ",
            Level::DEBUG => "DEBUG",
            Level::TRACE => "TRACE",
        };
        if *event.metadata().level() == Level::WARN {
            WARNINGS.fetch_add(1, Ordering::Relaxed);
        }
        write!(writer, " {level} {} > ", event.metadata().target())?;
        writeln!(writer, "{}{}", fields.message, fields.rest)
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        if field.name() == "message" {
            let _ = write!(Escaped(&mut self.message), "{value:?}");
        } else {
            let _ = write!(self.rest, " {}=", field.name());
            let _ = write!(Escaped(&mut self.rest), "{value:?}");
        }
    }
}

struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if c.is_control() {
                self.0.extend(c.escape_default());
            } else {
                self.0.push(c);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_look_as_log_readers_expect() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let layer = tracing_subscriber::fmt::layer().event_format(Line).with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "keylime_agent", "SUCCESS: Agent {} registered", "x");
            tracing::warn!(target: "a::b", pcr = 16, name = "x y", "mismatch");
            tracing::error!(target: "a", "two\nlines \u{1b}[31m");
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text,
            " INFO  keylime_agent > SUCCESS: Agent x registered\n \
             WARN  a::b > mismatch pcr=16 name=x y\n \
             ERROR a > two\\nlines \\u{1b}[31m\n"
        );
    }

    #[test]
    fn filters_and_aliases() {
        let logging = |filter| Logging { filter, default: "info", aliases: &[("keylime", &["tpm", "tls"])] };
        let targets = logging(Some("keylime=debug,tls=error")).targets().unwrap();
        assert!(targets.would_enable("keylime_agent::routes", &Level::DEBUG));
        assert!(targets.would_enable("tpm::owner", &Level::DEBUG));
        assert!(!targets.would_enable("tpm::owner", &Level::TRACE));
        assert!(!targets.would_enable("tls", &Level::WARN));
        assert!(!targets.would_enable("hyper", &Level::ERROR));

        let targets = logging(Some(" ")).targets().unwrap();
        assert!(targets.would_enable("anything", &Level::INFO));
        assert!(!targets.would_enable("anything", &Level::DEBUG));

        let error = logging(Some("a=loud")).targets().unwrap_err();
        assert!(error.to_string().starts_with("log filter 'a=loud': "));
    }
}
