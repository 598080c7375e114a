// SPDX-License-Identifier: Apache-2.0
//! Connections: TCP with mTLS, and a Unix socket for local programs.

mod connections;
mod pace;
mod tcp;
mod unix;

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
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

use crate::turns::Source;
use connections::{Busy, Connections, Slot};
use pace::Deadline;

pub(crate) use tcp::{Bound, TcpError};
pub(crate) use unix::{BoundUnix, UnixError};

/// Longest time for the head of a request to arrive, and for a kept connection to be without one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Age at which a connection is ended after the request in progress.
const MAX_AGE: Duration = Duration::from_secs(600);
/// Time that a request in progress has when its connection is to end.
const LAST_REQUEST: Duration = Duration::from_secs(60);
/// Time to send the rest of an answer whose connection has to make room for another one.
const LAST_PIECE: Duration = Duration::from_secs(1);
/// Largest piece of an answer that is handed over at once.
const PIECE: usize = 16 << 10;
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

impl Peer {
    fn source(&self) -> Source {
        match self {
            Self::Tcp(address) => address.ip().into(),
            Self::Unix { uid, .. } => Source::User(*uid),
        }
    }

    /// A place for a new connection; that there is none is logged.
    fn place_in(&self, connections: &Connections) -> Option<Slot> {
        let slot = connections.admit(self.source());
        if slot.is_none() {
            tracing::warn!("connection of {self} refused: many of its requests wait already");
        }
        slot
    }
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
    /// What is left of a large piece. It is handed over in small ones, for what has been handed over counts as sent.
    rest: Bytes,
    deadline: Deadline,
    _busy: Busy,
}

impl BusyBody {
    fn new(body: Body, deadline: Deadline, busy: Busy) -> Self {
        deadline.begin();
        Self { body, rest: Bytes::new(), deadline, _busy: busy }
    }
}

impl Drop for BusyBody {
    fn drop(&mut self) {
        self.deadline.end();
    }
}

impl hyper::body::Body for BusyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, hint) = (self.rest.len() as u64, self.body.size_hint());
        let mut all = SizeHint::new();
        all.set_lower(rest + hint.lower());
        if let Some(upper) = hint.upper() {
            all.set_upper(rest + upper);
        }
        all
    }
}

/// Serves HTTP/1.1 on an accepted connection, which is or lies above a [`pace::Paced`] one, until either side ends it.
async fn serve_http<I>(io: I, deadline: Deadline, routes: Router, peer: Peer, slot: &Slot, mut watch: Watch)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(|mut request: Request<Incoming>| {
        let (routes, deadline) = (&routes, &deadline);
        request.extensions_mut().insert(peer.source());
        async move {
            let busy = slot.busy().await;
            // Without the query: it holds nonces.
            tracing::info!("{} invoked from \"{peer}\" with uri {}", request.method(), request.uri().path());
            let answer = routes.call(request).await?;
            Ok::<_, Infallible>(answer.map(|body| BusyBody::new(body, deadline.clone(), busy)))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_headers(64).max_buf_size(MAX_HEAD);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Ok(ended),
        () = watch.draining() => Err(LAST_REQUEST),
        () = tokio::time::sleep(MAX_AGE) => Err(LAST_REQUEST),
        was_served = slot.evicted() => Err(if was_served { LAST_PIECE } else { Duration::ZERO }),
    };
    let ended = match ended {
        Ok(ended) => ended,
        Err(time_left) => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(time_left, connection).await {
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
    use std::sync::Arc;

    use futures_util::stream;
    use service::drain::Drain;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::mpsc::UnboundedReceiver;
    use tokio::time::Instant;

    use super::pace::Paced;
    use super::*;

    /// An agent's connection whose answers are this, and the other end of it. Ends when the result's task does.
    fn serve(
        connections: &Connections,
        answer: impl Fn() -> Body + Send + Sync + 'static,
    ) -> (tokio::io::DuplexStream, tokio::task::JoinHandle<()>) {
        let answer = Arc::new(answer);
        let routes = Router::new().route("/", axum::routing::get(move || std::future::ready(answer())));
        let (caller, io) = tokio::io::duplex(4096);
        let drain = Drain::new();
        let watch = drain.watch();
        let peer = Peer::Unix { uid: 0, pid: None };
        let connections = connections.clone();
        let task = tokio::spawn(async move {
            connections.room().await;
            let slot = connections.admit(peer.source()).unwrap();
            let (io, deadline) = Paced::new(io);
            serve_http(io, deadline, routes, peer, &slot, watch).await;
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
        assert!(connections.is_empty());
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn who_takes_little_loses_the_connection_as_well() {
        let one_piece = || Body::from(vec![b'a'; 1 << 20]);
        for (answer, step) in [(endless as fn() -> Body, 500), (one_piece, 500), (one_piece, 19_000)] {
            let connections = Connections::new(1);
            let (mut caller, task) = serve(&connections, answer);
            caller.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let start = Instant::now();
            let mut piece = [0; 100];
            while !task.is_finished() {
                assert_ne!(caller.read(&mut piece).await.unwrap(), 0);
                tokio::time::sleep(Duration::from_millis(step)).await;
            }
            assert!((120..140).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
            assert!(connections.is_empty());
        }
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

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn an_answer_that_makes_room_is_sent_to_its_end() {
        const LONG: usize = 100_000;
        let connections = Connections::new(1);
        let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        let (mut first, first_task) = serve(&connections, || Body::from(vec![b'a'; LONG]));
        first.write_all(request).await.unwrap();
        let mut seen = vec![first.read_u8().await.unwrap()];
        // The only place is taken until the answer has been handed over.
        let (mut second, _) = serve(&connections, || Body::from("second"));
        second.write_all(request).await.unwrap();
        first.read_to_end(&mut seen).await.unwrap();
        assert!(seen.ends_with(&[b'a'; LONG]));
        first_task.await.unwrap();
        let mut answer = vec![0; 16];
        second.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 200 OK\r");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_connection_is_busy_until_its_answer_has_been_sent() {
        let (more, pieces) = tokio::sync::mpsc::unbounded_channel();
        let pieces = std::sync::Mutex::new(Some(pieces));
        let connections = Connections::new(1);
        let (mut caller, _) = serve(&connections, move || {
            let pieces = pieces.lock().unwrap().take().unwrap();
            Body::from_stream(stream::unfold(pieces, async |mut pieces: UnboundedReceiver<Bytes>| {
                let piece = pieces.recv().await?;
                Some((Ok::<_, Infallible>(piece), pieces))
            }))
        });
        caller.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        more.send(Bytes::from_static(b"one")).unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"one\r\n") {
            assert_ne!(caller.read_buf(&mut seen).await.unwrap(), 0);
        }
        let (mut second, _) = serve(&connections, Body::empty);
        second.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let soon = tokio::time::timeout(Duration::from_millis(10), second.read_u8()).await;
        assert!(soon.is_err(), "the answer is not complete");
        drop(more);
        while !seen.ends_with(b"0\r\n\r\n") {
            assert_ne!(caller.read_buf(&mut seen).await.unwrap(), 0);
        }
        assert_eq!(second.read_u8().await.unwrap(), b'H');
    }
}
