// SPDX-License-Identifier: Apache-2.0
//! The two streams that a host keeps open to its plugin for the plugin's whole life: broker and stdio.

use std::path::Path;

use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinHandle},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};

use crate::{
    Broker,
    broker::OUTGOING,
    host::{LOG_TARGET, child::Leavings},
    proto::{grpc_broker_client::GrpcBrokerClient, grpc_stdio_client::GrpcStdioClient, stdio_data::Channel as Stdio},
};

/// The streams; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Streams([AbortHandle; 2]);

impl Streams {
    /// Opens both. Neither is waited for: a plugin in Go answers a stream only once it has something to say.
    pub(crate) fn open(channel: &Channel, broker: &Broker, leavings: Leavings, plugin: &str) -> Self {
        let client = GrpcBrokerClient::new(channel.clone());
        let broker = tokio::spawn(announce(client, broker.clone(), leavings, plugin.to_owned()));
        let stdio = tokio::spawn(listen(GrpcStdioClient::new(channel.clone()), plugin.to_owned()));
        Self([&broker, &stdio].map(JoinHandle::abort_handle))
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

async fn announce(client: GrpcBrokerClient<Channel>, broker: Broker, leavings: Leavings, plugin: String) {
    let (outgoing, announcements) = mpsc::channel(OUTGOING);
    broker.attach(outgoing.clone());
    let exchange = async {
        let mut client = client;
        let mut incoming = client.start_stream(ReceiverStream::new(announcements)).await?.into_inner();
        while let Some(info) = incoming.message().await? {
            // Go removes the socket of a brokered service in a goroutine, which the end of the process may overtake.
            if info.network == "unix" {
                leavings.announced(Path::new(&info.address));
            }
            if let Some(answer) = broker.receive(info)
                && outgoing.send(answer).await.is_err()
            {
                break;
            }
        }
        Ok::<(), Status>(())
    };
    match exchange.await {
        // The plugin's end is reported by its exit.
        Ok(()) => tracing::debug!(plugin, "the plugin ended the broker stream"),
        Err(status) if status.code() == Code::Unimplemented => {
            tracing::warn!(plugin, "the plugin has no broker; host services are out of its reach");
        }
        Err(status) => tracing::debug!(plugin, %status, "the broker stream broke"),
    }
    broker.detach(&outgoing);
}

/// What a plugin in Go prints comes by this stream, in pieces.
async fn listen(mut client: GrpcStdioClient<Channel>, plugin: String) {
    let exchange = async {
        let mut incoming = client.stream_stdio(()).await?.into_inner();
        while let Some(data) = incoming.message().await? {
            let stream = match data.channel() {
                Stdio::Stdout => "stdout",
                Stdio::Stderr => "stderr",
                Stdio::Invalid => continue,
            };
            let text = String::from_utf8_lossy(&data.data);
            tracing::debug!(target: LOG_TARGET, plugin, stream, "{}", text.trim_end());
        }
        Ok::<(), Status>(())
    };
    if let Err(status) = exchange.await {
        tracing::debug!(plugin, %status, "the stdio stream broke");
    }
}
