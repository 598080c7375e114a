// SPDX-License-Identifier: Apache-2.0
//! A server in the runtime of the test that starts it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use super::{Reply, Request, serve, serve_tcp};

/// A server on a free port of 127.0.0.1; it ends with the runtime.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub at: SocketAddr,
    load: Arc<Load>,
}

/// What a server has seen, and how busy it is.
#[derive(Debug, Default)]
struct Load {
    seen: Mutex<Vec<String>>,
    accepted: AtomicUsize,
    open: AtomicUsize,
    busy: AtomicUsize,
    most_busy: AtomicUsize,
}

impl Load {
    /// Answers one request, once the gates of the answer are open.
    async fn answer(&self, request: &Request, answer: &(impl Fn(&str) -> Reply + ?Sized)) -> Reply {
        let line = request.to_string();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
        let busy = self.busy.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_busy.fetch_max(busy, Ordering::Relaxed);
        let reply = answer(&line).opened().await;
        self.busy.fetch_sub(1, Ordering::Relaxed);
        reply
    }
}

impl Server {
    /// Starts a server, with TLS if `tls` says so. `answer` gets each request as [`Request`] is displayed.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(tls: Option<Arc<ServerConfig>>, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a free port");
        let at = listener.local_addr().expect("a listener has an address");
        let (answer, load) = (Arc::new(answer), Arc::<Load>::default());
        let server = Self { at, load: Arc::clone(&load) };
        let tls = tls.map(TlsAcceptor::from);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (answer, tls, load) = (Arc::clone(&answer), tls.clone(), Arc::clone(&load));
                tokio::spawn(async move {
                    load.accepted.fetch_add(1, Ordering::Relaxed);
                    load.open.fetch_add(1, Ordering::Relaxed);
                    let (shared, answer) = (&load, &*answer);
                    let answer = |request: Request| async move { shared.answer(&request, answer).await };
                    serve_tcp(tcp, tls, answer).await;
                    load.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        server
    }

    /// Starts a server on a Unix socket, for one connection at a time.
    ///
    /// # Panics
    /// When the socket cannot be made.
    pub fn on_unix_socket(path: &Path, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) {
        let listener = UnixListener::bind(path).expect("the socket can be made");
        tokio::spawn(async move {
            let load = Load::default();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (load, answer) = (&load, &answer);
                let answer = |request: Request| async move { load.answer(&request, answer).await };
                serve(&mut stream, answer).await;
            }
        });
    }

    /// The requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<String> {
        self.load.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Open connections now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.load.open.load(Ordering::Relaxed)
    }

    /// Connections so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.load.accepted.load(Ordering::Relaxed)
    }

    /// The most requests that were being answered at once.
    #[must_use]
    pub fn most_busy(&self) -> usize {
        self.load.most_busy.load(Ordering::Relaxed)
    }
}

/// A port of 127.0.0.1 on which nobody listens.
///
/// # Panics
/// When there is none.
pub async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a free port");
    listener.local_addr().expect("a listener has an address")
}

/// 200 with these results, which are JSON, in Keylime's envelope, and a date of the past.
#[must_use]
pub fn ok(results: &str) -> Reply {
    let body = format!(r#"{{"code": 200, "status": "Success", "results": {results}}}"#);
    Reply::answer(200, "Date: Fri, 15 Jan 2027 08:00:00 GMT\r\n", body)
}
