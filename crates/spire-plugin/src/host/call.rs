// SPDX-License-Identifier: Apache-2.0
//! A bidirectional call that ends as SPIRE's do: by cancelling.
//!
//! Dropping tonic's request stream half-closes the call, and a plugin would see an orderly end where SPIRE gives it
//! `Cancelled`. So the request body fails with HTTP/2's CANCEL when the call is dropped, which resets the stream.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll},
};

use http_body::Frame;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status, Streaming,
    body::Body,
    codegen::{Bytes, Service, http},
    transport::Channel,
};

/// A running call. Dropping it cancels it.
pub(super) struct Call<Req, Resp> {
    // First, so that the request body learns of the cancellation before it sees the requests end.
    _cancel: oneshot::Sender<()>,
    requests: mpsc::Sender<Req>,
    responses: Streaming<Resp>,
}

/// Makes the channel and the request of one call.
pub(super) struct Opening<Req> {
    cancel: oneshot::Sender<()>,
    requests: mpsc::Sender<Req>,
}

impl<Req> Opening<Req> {
    /// The channel and the request to start the call with, `first` being the first message if there is one.
    pub(super) fn new(channel: Channel, first: Option<Req>) -> (Self, Cancellable, Request<ReceiverStream<Req>>)
    where
        Req: Send + 'static,
    {
        let (requests, receiver) = mpsc::channel(1);
        if let Some(first) = first {
            // The queue is empty and its receiver is at hand, so there is room.
            let _ = requests.try_send(first);
        }
        let (cancel, cancelled) = oneshot::channel();
        let channel = Cancellable { channel, cancelled: Some(cancelled) };
        (Self { cancel, requests }, channel, Request::new(ReceiverStream::new(receiver)))
    }

    /// The call, once the plugin has sent its response headers.
    pub(super) fn opened<Resp>(self, responses: Streaming<Resp>) -> Call<Req, Resp> {
        Call { _cancel: self.cancel, requests: self.requests, responses }
    }
}

impl<Req, Resp> Call<Req, Resp> {
    /// Sends a message. A plugin that has ended the call does not get it; [`receive`](Self::receive) tells.
    pub(super) async fn send(&self, message: Req) -> Result<(), Status> {
        let _ = self.requests.send(message).await;
        Ok(())
    }

    /// The plugin's next message, or `None` if it has ended the call with OK.
    pub(super) async fn receive(&mut self) -> Result<Option<Resp>, Status> {
        self.responses.message().await
    }
}

/// A channel whose one call can be cancelled from outside.
pub(super) struct Cancellable {
    channel: Channel,
    cancelled: Option<oneshot::Receiver<()>>,
}

impl Service<http::Request<Body>> for Cancellable {
    type Response = <Channel as Service<http::Request<Body>>>::Response;
    type Error = <Channel as Service<http::Request<Body>>>::Error;
    type Future = <Channel as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let cancelled = self.cancelled.take();
        self.channel.call(request.map(|body| match cancelled {
            Some(cancelled) => Body::new(CancelBody { body, cancelled }),
            None => body,
        }))
    }
}

struct CancelBody {
    body: Body,
    cancelled: oneshot::Receiver<()>,
}

impl http_body::Body for CancelBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if pin!(&mut self.cancelled).poll(cx).is_ready() {
            // hyper resets the stream with the reason it finds among the error's sources.
            let cancel = h2::Error::from(h2::Reason::CANCEL);
            let mut status = Status::new(Code::Cancelled, "the host has ended the call");
            status.set_source(std::sync::Arc::new(cancel));
            return Poll::Ready(Some(Err(status)));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use spire_proto::agent_nodeattestor::{
        Challenge, PayloadOrChallengeResponse, node_attestor_client::NodeAttestorClient,
    };
    use tonic::transport::Endpoint;

    use super::*;

    /// Serves one call over bare HTTP/2 and returns why its request stream was reset.
    async fn serve(io: tokio::io::DuplexStream) -> Option<h2::Reason> {
        let mut connection = h2::server::handshake(io).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        let response = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let _answers = respond.send_response(response, false).unwrap();
        let mut body = request.into_body();
        while let Some(data) = body.data().await {
            match data {
                Ok(data) => body.flow_control().release_capacity(data.len()).unwrap(),
                Err(error) => return error.reason(),
            }
        }
        None
    }

    fn connect() -> (Channel, tokio::io::DuplexStream) {
        let (client, server) = tokio::io::duplex(1 << 16);
        let mut client = Some(TokioIo::new(client));
        let connector = tower::service_fn(move |_| std::future::ready(client.take().ok_or(std::fmt::Error)));
        (Endpoint::from_static("http://unused").connect_with_connector_lazy(connector), server)
    }

    #[tokio::test]
    async fn dropping_a_call_resets_its_stream_with_cancel() {
        let (channel, server) = connect();
        let server = tokio::spawn(serve(server));
        let (opening, channel, request) = Opening::new(channel, Some(Challenge { challenge: b"C".to_vec() }));
        let responses = NodeAttestorClient::new(channel).aid_attestation(request).await.unwrap().into_inner();
        let call: Call<Challenge, PayloadOrChallengeResponse> = opening.opened(responses);
        call.send(Challenge { challenge: b"D".to_vec() }).await.unwrap();
        drop(call);
        assert_eq!(server.await.unwrap(), Some(h2::Reason::CANCEL));
    }

    #[tokio::test]
    async fn giving_up_on_a_silent_plugin_resets_its_stream_with_cancel() {
        let (channel, server) = connect();
        let (opening, channel, request) = Opening::<Challenge>::new(channel, None);
        let mut client = NodeAttestorClient::new(channel);
        let call = tokio::spawn(async move {
            let _opening = opening;
            client.aid_attestation(request).await.map(drop)
        });
        let (io, started) = (server, tokio::sync::oneshot::channel());
        let server = tokio::spawn(async move {
            let mut connection = h2::server::handshake(io).await.unwrap();
            let (request, _respond) = connection.accept().await.unwrap().unwrap();
            started.0.send(()).unwrap();
            tokio::spawn(async move { while connection.accept().await.is_some() {} });
            request.into_body().data().await.unwrap().unwrap_err().reason()
        });
        started.1.await.unwrap();
        call.abort();
        assert_eq!(server.await.unwrap(), Some(h2::Reason::CANCEL));
    }

    #[tokio::test]
    async fn a_stream_that_the_plugin_resets_keeps_its_code() {
        for (reason, expected) in [
            (h2::Reason::ENHANCE_YOUR_CALM, Code::ResourceExhausted),
            (h2::Reason::CANCEL, Code::Cancelled),
            (h2::Reason::REFUSED_STREAM, Code::Unavailable),
        ] {
            let (channel, server) = connect();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(server).await.unwrap();
                let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
                respond.send_reset(reason);
                while connection.accept().await.is_some() {}
            });
            let (_opening, channel, request) = Opening::<Challenge>::new(channel, None);
            let status = NodeAttestorClient::new(channel).aid_attestation(request).await.unwrap_err();
            assert_eq!(crate::host::code(&status), expected);
        }
    }
}
