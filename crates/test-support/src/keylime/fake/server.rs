// SPDX-License-Identifier: Apache-2.0
//! One server: its thread, its port, and how it is told what to do.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, mpsc as std_mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::ca::Issued;
use crate::http::{self, Reply, Request};
use crate::ports::{self, Port};
use crate::wait;

/// Limit for having a port again.
const LIMIT: Duration = Duration::from_secs(20);

/// How connections are secured.
#[derive(Clone)]
pub struct Security(Option<Arc<ServerConfig>>);

impl Security {
    /// TLS with this certificate chain, for clients with a certificate of this CA.
    ///
    /// # Errors
    /// When one of the two cannot be used.
    pub fn tls(identity: &Issued, client_ca_pem: &str) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(client_ca_pem.as_bytes())?)?;
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider)).build()?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(identity.chain_pem.as_bytes()).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)?;
        Ok(Self(Some(Arc::new(config))))
    }

    /// None: plain HTTP.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Security(TLS)" } else { "Security(none)" })
    }
}

type Answer = dyn Fn(&Request) -> Reply + Send + Sync;
type Conduct = dyn Fn(&Request) -> Option<Reply> + Send + Sync;

/// A server on loopback; it ends when dropped.
pub struct FakeServer {
    port: Port,
    shared: Arc<Shared>,
    security: Security,
    as_started: AtomicBool,
    commands: Option<mpsc::UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    good: Box<Answer>,
    conduct: RwLock<Option<Arc<Conduct>>>,
    requests: AtomicU64,
    connections: AtomicU64,
}

impl Shared {
    fn answer(&self, request: &Request) -> Reply {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let conduct = self.conduct.read().unwrap_or_else(PoisonError::into_inner).clone();
        conduct.and_then(|conduct| conduct(request)).unwrap_or_else(|| (self.good)(request))
    }
}

/// What the thread is told; it says so when it is done.
enum Command {
    Stop(std_mpsc::Sender<()>),
    Start(StdListener, Security, std_mpsc::Sender<()>),
}

impl FakeServer {
    /// Starts a server that answers with `good` unless told otherwise.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn start(security: Security, good: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Result<Self> {
        let port = ports::reserve()?;
        let shared = Arc::new(Shared {
            good: Box::new(good),
            conduct: RwLock::new(None),
            requests: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        });
        let (commands, receiver) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("fake-keylime".into()).spawn(move || {
            runtime.block_on(run(receiver, theirs));
            runtime.shutdown_background();
        })?;
        let as_started = AtomicBool::new(true);
        let (commands, thread) = (Some(commands), Some(thread));
        let server = Self { port, shared, security, as_started, commands, thread };
        server.launch(server.security.clone())?;
        Ok(server)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Requests so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Connections so far, of which TLS may have failed.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// From now on `conduct` answers; where it answers `None`, the good answer is given.
    pub fn conduct(&self, conduct: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) {
        *self.shared.conduct.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(conduct));
    }

    /// Only good answers from now on. Requests that are being answered otherwise stay so.
    pub fn behave(&self) {
        *self.shared.conduct.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Ends all connections, and refuses new ones.
    ///
    /// # Errors
    /// When the server's thread has ended.
    pub fn stop(&self) -> Result<()> {
        self.as_started.store(false, Ordering::Relaxed);
        self.tell(Command::Stop)
    }

    /// Ends all connections, and starts anew with other TLS settings, or with those of the beginning.
    ///
    /// # Errors
    /// When the port cannot be had again, or the server's thread has ended.
    pub fn restart(&self, security: Option<Security>) -> Result<()> {
        self.stop()?;
        let as_started = security.is_none();
        self.launch(security.unwrap_or_else(|| self.security.clone()))?;
        self.as_started.store(as_started, Ordering::Relaxed);
        Ok(())
    }

    /// Whether it runs with the TLS settings of the beginning.
    #[must_use]
    pub fn is_as_started(&self) -> bool {
        self.as_started.load(Ordering::Relaxed)
    }

    fn launch(&self, security: Security) -> Result<()> {
        // A program that another thread is starting just now has the listener of before until it is itself.
        let listener =
            wait::until("the port of before", LIMIT, || match StdListener::bind((Ipv4Addr::LOCALHOST, self.port())) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
                bound => Ok(Some(bound?)),
            })
            .with_context(|| format!("cannot listen on port {}", self.port()))?;
        listener.set_nonblocking(true)?;
        self.tell(|done| Command::Start(listener, security, done))
    }

    fn tell(&self, command: impl FnOnce(std_mpsc::Sender<()>) -> Command) -> Result<()> {
        let gone = || anyhow!("the fake server's thread has ended");
        let (done, is_done) = std_mpsc::channel();
        self.commands.as_ref().ok_or_else(gone)?.send(command(done)).map_err(|_| gone())?;
        is_done.recv().map_err(|_| gone())
    }
}

impl fmt::Debug for FakeServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeServer").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        // The thread ends with the last sender.
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            // It prints its own panic.
            let _ = thread.join();
        }
    }
}

async fn run(mut commands: mpsc::UnboundedReceiver<Command>, shared: Arc<Shared>) {
    let mut listening: Option<(TcpListener, Security)> = None;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                None => return,
                Some(Command::Stop(done)) => {
                    listening = None;
                    connections.shutdown().await;
                    let _ = done.send(());
                }
                Some(Command::Start(listener, security, done)) => {
                    let listener = TcpListener::from_std(listener).expect("it was made non-blocking");
                    listening = Some((listener, security));
                    let _ = done.send(());
                }
            },
            Some((stream, security)) = accept(listening.as_ref()) => {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve(stream, security, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The next connection; waits for ever where nobody listens.
async fn accept(listening: Option<&(TcpListener, Security)>) -> Option<(TcpStream, Security)> {
    let Some((listener, security)) = listening else { return std::future::pending().await };
    let (stream, _) = listener.accept().await.ok()?;
    stream.set_nodelay(true).ok()?;
    Some((stream, security.clone()))
}

async fn serve(stream: TcpStream, security: Security, shared: Arc<Shared>) {
    let shared = &shared;
    let answer = |request: Request| async move { shared.answer(&request).opened().await };
    http::serve_tcp(stream, security.0.map(TlsAcceptor::from), answer).await;
}
