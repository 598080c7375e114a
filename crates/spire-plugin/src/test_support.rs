// SPDX-License-Identifier: Apache-2.0
//! In-process connections and what is logged, for tests.

use std::{
    fmt::{Debug, Write},
    sync::{Arc, Mutex},
};

use hyper_util::rt::TokioIo;
use tokio_stream::StreamExt;
use tonic::{
    service::Routes,
    transport::{Channel, Endpoint, Server},
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    subscriber::DefaultGuard,
};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// A channel to `routes`, served in this process over real HTTP/2.
pub(crate) fn channel(routes: Routes) -> Channel {
    let (client, server) = tokio::io::duplex(1 << 16);
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(server)).chain(tokio_stream::pending());
    tokio::spawn(Server::builder().add_routes(routes).serve_with_incoming(incoming));
    let mut client = Some(client);
    Endpoint::from_static("http://unused").connect_with_connector_lazy(tower::service_fn(move |_| {
        let client = client.take().ok_or_else(|| std::io::Error::other("connected already"));
        async move { client.map(TokioIo::new) }
    }))
}

impl crate::Metrics {
    /// Metrics that go nowhere.
    pub(crate) fn nowhere() -> Self {
        Self::over(|| Box::pin(std::future::pending()))
    }

    /// Metrics for a host that serves `routes`, dialled once.
    pub(crate) fn to(routes: Routes) -> Self {
        let channel = channel(routes);
        Self::over(move || {
            let channel = channel.clone();
            Box::pin(async move { Ok(channel) })
        })
    }
}

/// This crate's log lines, without those below the level `info`.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    /// Listens on this thread until the guard goes.
    pub(crate) fn listen(&self) -> DefaultGuard {
        tracing::subscriber::set_default(tracing_subscriber::registry().with(self.clone()))
    }

    /// What has been logged since the last call: level, message, fields.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() <= Level::INFO && metadata.target().starts_with("spire_plugin") {
            let mut line = Line(metadata.level().to_string());
            event.record(&mut line);
            self.0.lock().unwrap().push(line.0);
        }
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let written = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        written.unwrap();
    }
}
