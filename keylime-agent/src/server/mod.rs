// SPDX-License-Identifier: Apache-2.0
//! Connections: TCP with mTLS, and a Unix socket for local programs. Both serve the same API.

mod connections;
mod tcp;
mod unix;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use service::drain::Watch;
use tokio::io::{AsyncRead, AsyncWrite};

use connections::Slot;

pub(crate) use tcp::{Bound, TcpError};
pub(crate) use unix::{BoundUnix, UnixError};

/// Longest time for the head of a request to arrive, and for a kept connection to be without one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Age at which a connection is ended after the request in progress. A client that stops reading cannot hold it longer.
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

/// Serves HTTP/1.1 on an accepted connection until either side ends it.
async fn serve_http<I>(io: I, routes: Router, peer: Peer, slot: &Slot, mut watch: Watch)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(|request: Request<Incoming>| {
        let routes = &routes;
        async move {
            slot.set_busy();
            // Without the query: it holds nonces.
            tracing::info!("{} invoked from \"{peer}\" with uri {}", request.method(), request.uri().path());
            let answer = routes.call(request).await;
            slot.set_idle();
            answer
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_headers(64).max_buf_size(MAX_HEAD);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
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
