// SPDX-License-Identifier: Apache-2.0
//! The log of plugins as it comes back into `tracing`.

use std::{
    fmt::Write,
    sync::{Arc, Mutex},
};

use go_plugin::host::LOG_TARGET;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// The log events of plugins: level, then the fields except the time.
#[derive(Clone, Default)]
pub struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    /// What has come so far.
    pub fn seen(&self) -> Vec<String> {
        self.0.lock().expect("no test panics while it holds the lock").clone()
    }
}

impl<S: Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == LOG_TARGET {
            let mut text = Text(event.metadata().level().to_string());
            event.record(&mut text);
            self.0.lock().expect("no test panics while it holds the lock").push(text.0);
        }
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() != "at" {
            // Writing to a String cannot fail.
            let _ = write!(self.0, " {}={value:?}", field.name());
        }
    }
}
