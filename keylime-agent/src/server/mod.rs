// SPDX-License-Identifier: Apache-2.0
//! Connections: TCP with mTLS, and a Unix socket for local programs. Both serve the same API.

mod connections;
mod pace;
mod tcp;
mod unix;

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use hyper::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use service::drain::Watch;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use connections::{Busy, Slot};
use pace::Paced;

pub(crate) use tcp::{Bound, TcpError};
pub(crate) use unix::{BoundUnix, UnixError};

/// Longest time for the head of a request to arrive, and for a kept connection to be without one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Age at which a connection is ended after the request in progress.
const MAX_AGE: Duration = Duration::from_secs(600);
/// Time that a request in progress has when its connection is to end.
const LAST_REQUEST: Duration = Duration::from_secs(60);
/// Largest request head. The longest path and query the API knows is below 300 bytes.
const MAX_HEAD: usize = 16 << 10;

/// Who is on the other side of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Peer {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A process of this host.
    Unix {
        /// Its user.
        uid: u32,
        /// Its process, if the kernel tells.
        pid: Option<i32>,
    },
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix { uid, pid: None } => write!(f, "uid {uid}"),
            Self::Unix { uid, pid: Some(pid) } => write!(f, "uid {uid} pid {pid}"),
        }
    }
}

/// The body of an answer; its connection is busy until the body has been handed over or given up.
struct BusyBody {
    body: Body,
    /// When it has to be over.
    deadline: Instant,
    _busy: Busy,
}

impl hyper::body::Body for BusyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // Asked for each time that the other side has taken what there was, or [`Paced`] ends the connection.
        if Instant::now() >= self.deadline {
            return Poll::Ready(Some(Err(axum::Error::new("the other side takes the answer too slowly"))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Serves HTTP/1.1 on an accepted connection until either side ends it.
async fn serve_http<I>(io: I, routes: Router, peer: Peer, slot: &Slot, mut watch: Watch)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(|request: Request<Incoming>| {
        let routes = &routes;
        async move {
            let busy = slot.busy();
            // Without the query: it holds nonces.
            tracing::info!("{} invoked from \"{peer}\" with uri {}", request.method(), request.uri().path());
            let answer = routes.call(request).await?;
            Ok::<_, Infallible>(answer.map(|body| BusyBody { body, deadline: pace::deadline(), _busy: busy }))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_headers(64).max_buf_size(MAX_HEAD);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(Paced::new(io)), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = watch.draining() => None,
        () = tokio::time::sleep(MAX_AGE) => None,
        () = slot.evicted() => return,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(LAST_REQUEST, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        // Time-outs of idle connections and peers that go away are everyday events.
        tracing::debug!("connection of {peer} ended: {error}");
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use service::drain::Drain;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::connections::Connections;
    use super::*;

    /// An agent's connection whose answers are this, and the other end of it. Ends when the result's task does.
    fn serve(
        connections: &Connections,
        answer: impl Fn() -> Body + Clone + Send + Sync + 'static,
    ) -> (tokio::io::DuplexStream, tokio::task::JoinHandle<()>) {
        let routes = Router::new().route("/", axum::routing::get(async move || answer()));
        let slot = connections.admit().unwrap();
        let (caller, io) = tokio::io::duplex(4096);
        let drain = Drain::new();
        let watch = drain.watch();
        let peer = Peer::Unix { uid: 0, pid: None };
        let task = tokio::spawn(async move {
            serve_http(io, routes, peer, &slot, watch).await;
            drop(drain);
        });
        (caller, task)
    }

    /// A list without end.
    fn endless() -> Body {
        Body::from_stream(stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[b'a'; 1024]))))
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn who_takes_nothing_loses_the_connection() {
        let connections = Connections::new(1);
        let (mut caller, task) = serve(&connections, endless);
        caller.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let start = Instant::now();
        task.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 20);
        assert!(connections.admit().is_some());
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn who_takes_little_loses_the_connection_as_well() {
        let connections = Connections::new(1);
        let (mut caller, task) = serve(&connections, endless);
        caller.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let start = Instant::now();
        let mut piece = [0; 100];
        while !task.is_finished() {
            assert_ne!(caller.read(&mut piece).await.unwrap(), 0);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert!((120..140).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        assert!(connections.admit().is_some());
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_head_that_comes_byte_by_byte_has_half_a_minute() {
        let connections = Connections::new(1);
        let (mut caller, task) = serve(&connections, Body::empty);
        let start = Instant::now();
        while caller.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        task.await.unwrap();
        assert!((30..=31).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_connection_is_busy_until_its_answer_has_been_sent() {
        let (more, pieces) = tokio::sync::mpsc::unbounded_channel();
        let pieces = std::sync::Mutex::new(Some(pieces));
        let answer = async move || {
            let pieces = pieces.lock().unwrap().take().unwrap();
            Body::from_stream(stream::unfold(pieces, async |mut pieces| {
                let piece: Bytes = pieces.recv().await?;
                Some((Ok::<_, Infallible>(piece), pieces))
            }))
        };
        let answer = std::sync::Arc::new(answer);
        let routes = Router::new().route("/", axum::routing::get(async move || answer().await));
        let connections = Connections::new(1);
        let slot = connections.admit().unwrap();
        let (mut caller, io) = tokio::io::duplex(4096);
        let drain = Drain::new();
        let watch = drain.watch();
        let peer = Peer::Unix { uid: 0, pid: None };
        tokio::spawn(async move { serve_http(io, routes, peer, &slot, watch).await });
        caller.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        more.send(Bytes::from_static(b"one")).unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"one\r\n") {
            assert_ne!(caller.read_buf(&mut seen).await.unwrap(), 0);
        }
        assert!(connections.admit().is_none(), "the answer is not complete");
        drop(more);
        while !seen.ends_with(b"0\r\n\r\n") {
            assert_ne!(caller.read_buf(&mut seen).await.unwrap(), 0);
        }
        assert!(connections.admit().is_some());
    }
}
