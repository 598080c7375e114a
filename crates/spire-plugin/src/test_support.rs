// SPDX-License-Identifier: Apache-2.0
//! In-process connections for tests.

use hyper_util::rt::TokioIo;
use tokio_stream::StreamExt;
use tonic::{
    service::Routes,
    transport::{Channel, Endpoint, Server},
};

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
