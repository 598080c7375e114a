// SPDX-License-Identifier: Apache-2.0
//! From `tracing` to hclog lines: each event becomes one line, with the fields of the spans around it.

use std::time::SystemTime;

use tracing::{
    Event, Metadata, Subscriber,
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};
use tracing_subscriber::{
    layer::{Context, Layer},
    registry::LookupSpan,
};

use super::{
    filter::Filter,
    line::{Fields, render},
    sink::Sink,
};

/// Writes events as hclog lines.
#[derive(Debug)]
pub(crate) struct HclogLayer {
    filter: Filter,
    sink: Sink,
}

impl HclogLayer {
    pub(crate) fn new(filter: Filter, sink: Sink) -> Self {
        Self { filter, sink }
    }
}

impl<S> Layer<S> for HclogLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.filter.allows(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.filter.allows(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.filter.max())
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        // The values' own formatting runs before the span is locked, since it may log.
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let mut newer = Fields::default();
        values.record(&mut newer);
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            fields.merge(newer);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let spans: Vec<_> = context.event_scope(event).map(Iterator::collect).unwrap_or_default();
        let extensions: Vec<_> = spans.iter().map(|span| span.extensions()).collect();
        let line = render(
            event.metadata(),
            SystemTime::now(),
            &fields,
            extensions.iter().filter_map(|all| all.get::<Fields>()),
        );
        drop(extensions);
        self.sink.write(&line);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{BufRead, BufReader},
    };

    use serde_json::{Value, json};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::hclog::{line::MAX_LINE, time::is_timestamp};

    /// What `log` writes, parsed, with the length of each line.
    fn lines(filter: &str, log: impl FnOnce() + Send) -> Vec<(Value, usize)> {
        let (read, write) = nix::unistd::pipe().unwrap();
        let reader = std::thread::spawn(move || {
            BufReader::new(File::from(read))
                .lines()
                .map(|line| line.unwrap())
                .map(|line| (serde_json::from_str(&line).unwrap(), line.len() + 1))
                .collect()
        });
        let layer = HclogLayer::new(Filter::parse(filter).0, Sink::new(write));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        reader.join().unwrap()
    }

    /// The only line of `log`, its time checked and taken out.
    fn line(log: impl FnOnce() + Send) -> Value {
        let mut all = lines("", log);
        assert_eq!(all.len(), 1);
        let (mut line, _) = all.remove(0);
        let time = line.as_object_mut().unwrap().remove("@timestamp").unwrap();
        assert!(is_timestamp(time.as_str().unwrap()), "{time}");
        line
    }

    #[test]
    fn fields_are_flat_scalars() {
        let error = std::io::Error::other(crate::BrokerError::NotAnnounced { service_id: 1 });
        let line = line(|| {
            tracing::info!(
                target: "here",
                text = "a \"b\"",
                yes = true,
                small = -5,
                exact = 1_234_567_u64,
                ratio = 0.5,
                not_a_number = f64::NAN,
                list = ?[1, 2],
                error = &error as &dyn std::error::Error,
                "hello {}", "world"
            );
        });
        assert_eq!(
            line,
            json!({
                "@level": "info", "@module": "here", "@message": "hello world",
                "text": "a \"b\"", "yes": true, "small": -5, "exact": "1234567", "ratio": 0.5,
                "not_a_number": "NaN", "list": "[1, 2]",
                "error": "the other side has not announced service 1 within 5 s",
            })
        );
    }

    #[test]
    fn hclogs_own_keys_are_text_whatever_the_event_says() {
        let line = line(|| {
            tracing::warn!(target: "here", message = 5, level = 1, time = 2, plugin_name = "x");
        });
        assert_eq!(
            line,
            json!({
                "@level": "warn", "@module": "here", "@message": "5",
                "field_level": 1, "field_time": 2, "field_plugin_name": "x",
            })
        );
    }

    #[test]
    fn spans_lend_their_fields_and_the_innermost_counts() {
        let line = line(|| {
            let outer = tracing::info_span!("outer", attempt = "a1", who = "outer", late = tracing::field::Empty);
            outer.record("late", "now");
            let _outer = outer.entered();
            let _inner = tracing::info_span!("inner", who = "inner", depth = 2).entered();
            tracing::debug!(target: "here", depth = 3, "x");
        });
        assert_eq!(
            line,
            json!({
                "@level": "debug", "@module": "here", "@message": "x",
                "attempt": "a1", "who": "inner", "late": "now", "depth": 3,
            })
        );
    }

    #[test]
    fn the_level_decides() {
        let log = || {
            tracing::trace!(target: "here", "t");
            tracing::debug!(target: "here", "d");
            tracing::error!(target: "here", "e");
        };
        let messages = |filter: &str| -> String {
            lines(filter, log).iter().map(|(line, _)| line["@message"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(messages(""), "de");
        assert_eq!(messages("trace"), "tde");
        assert_eq!(messages("error,here=debug"), "de");
        assert_eq!(messages("off"), "");
    }

    #[test]
    fn a_line_never_exceeds_64_kib() {
        let long = "\u{1}".repeat(100_000);
        let all = lines("", || {
            tracing::error!(a = long, b = long, c = long, d = long, e = long, f = 7, "{long}");
            tracing::error!(f = 7, "{long}");
        });
        for (line, length) in &all {
            assert!(*length <= MAX_LINE, "{length}");
            assert!(line["@message"].as_str().unwrap().ends_with('…'));
            assert_eq!(line["f"], 7, "a field that fits is kept");
        }
        assert_eq!(all[0].0["log_truncated"], true);
        assert_eq!(all[1].0.get("log_truncated"), None);
        assert_eq!(all.len(), 2);
    }
}
