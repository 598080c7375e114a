// SPDX-License-Identifier: Apache-2.0
//! The server loop that both sides share: accepted connections, and calls isolated from each other.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    time::{Sleep, sleep},
};
use tokio_stream::Stream;
use tonic::{service::Routes, transport::Server};

use crate::isolate::Isolate;

/// Pause after a failed `accept`, such as for want of file descriptors, which would otherwise fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `routes` until `stop` resolves, and then until the calls in flight have ended.
pub(crate) async fn serve(
    routes: Routes,
    incoming: Incoming,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    Server::builder()
        // HTTP/2 ends a connection on which many calls were opened and cancelled before they could be looked at, 20 by
        // default. Here that is a busy moment and not an attack: the peer is trusted, and has this one connection for
        // all it ever wants.
        .http2_max_pending_accept_reset_streams(Some(usize::MAX))
        .http2_max_local_error_reset_streams(None)
        .serve_with_incoming_shutdown(Isolate::new(routes.prepare()), incoming, stop)
        .await
}

/// The connections of a listener, as tonic takes them.
#[derive(Debug)]
pub(crate) struct Incoming {
    listener: UnixListener,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    pub(crate) fn new(listener: UnixListener) -> Self {
        Self { listener, pause: None }
    }
}

impl Stream for Incoming {
    type Item = io::Result<UnixStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match std::task::ready!(self.listener.poll_accept(cx)) {
                Ok((stream, _)) => return Poll::Ready(Some(Ok(stream))),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    self.pause = Some(Box::pin(sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}
