// SPDX-License-Identifier: Apache-2.0
//! For this crate's tests: servers that answer as told, well or badly

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use test_support::ca::{LeafSpec, TestCa};
use test_support::scratch::Scratch;
use tls::rustls::{ClientConfig, ServerConfig};
use tls::{ClientTls, Identity, ServerTls, Trust};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::{HostPort, HttpSettings};

/// Limits wide enough for a busy machine.
pub(crate) const PATIENT: HttpSettings = HttpSettings {
    connect_timeout: Duration::from_secs(20),
    total_timeout: Duration::from_secs(20),
    max_body: 100_000,
};

/// For tests that wait until connecting has taken too long.
pub(crate) const SHORT_CONNECT: HttpSettings = HttpSettings { connect_timeout: Duration::from_millis(200), ..PATIENT };

/// For tests that wait until a whole call has taken too long.
pub(crate) const SHORT_CALL: HttpSettings = HttpSettings { total_timeout: Duration::from_secs(1), ..PATIENT };

/// The limit of a call of [`SHORT_CALL`] that the next call in line must not add its own to.
pub(crate) const ABOUT_ONE_LIMIT: Duration = Duration::from_millis(1900);

/// What the server does with a request.
pub(crate) enum Reply {
    /// Status, further header lines, body.
    Answer(u16, &'static str, String),
    /// These bytes, then the end of the connection.
    Raw(String),
    /// The end of the connection at once.
    Close,
    /// A reset at once, where the transport can.
    Reset,
    /// Nothing, for ever.
    Hang,
    /// The other reply, once the gate is closed, which lets all through.
    Gated(Arc<Semaphore>, Box<Reply>),
    /// 200 and a body of 10 MB that is not announced.
    Flood,
    /// 200 and a body that never ends, a byte at a time.
    Drip,
}

/// 200 with these results, and a date.
pub(crate) fn ok(results: &str) -> Reply {
    let body = format!(r#"{{"code": 200, "status": "Success", "results": {results}}}"#);
    Reply::Answer(200, "Date: Fri, 15 Jan 2027 08:00:00 GMT\r\n", body)
}

/// An error in Keylime's envelope.
pub(crate) fn error(code: u16, status: &str) -> Reply {
    Reply::Answer(code, "", format!(r#"{{"code": {code}, "status": "{status}", "results": {{}}}}"#))
}

/// `GET /version` of a server that has these versions.
pub(crate) fn versions(list: &[&str]) -> Reply {
    ok(&format!(r#"{{"current_version": "2.6", "supported_versions": {list:?}}}"#))
}

/// A server of one test; it ends with the test's runtime.
pub(crate) struct Server {
    pub(crate) at: HostPort,
    seen: Arc<Mutex<Vec<String>>>,
    load: Arc<Load>,
}

/// How busy a server is.
#[derive(Debug, Default)]
struct Load {
    accepted: AtomicUsize,
    open: AtomicUsize,
    busy: AtomicUsize,
    most_busy: AtomicUsize,
}

impl Server {
    /// Starts a server on a free port. `answer` gets the request line, a space and the body.
    pub(crate) async fn start(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = host_port(listener.local_addr().unwrap());
        let (seen, answer) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(answer));
        let load = Arc::<Load>::default();
        let server = Self { at, seen: seen.clone(), load: load.clone() };
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (seen, answer, tls, load) = (seen.clone(), answer.clone(), tls.clone(), load.clone());
                tokio::spawn(async move {
                    load.accepted.fetch_add(1, Ordering::Relaxed);
                    load.open.fetch_add(1, Ordering::Relaxed);
                    match tls {
                        None => {
                            let mut tcp = tcp;
                            if serve(&mut tcp, &seen, &load, &*answer).await {
                                tcp.set_zero_linger().unwrap();
                            }
                        }
                        Some(config) => {
                            let accepted = tokio_rustls::TlsAcceptor::from(config).accept(tcp).await;
                            if let Ok(mut stream) = accepted {
                                serve(&mut stream, &seen, &load, &*answer).await;
                            }
                        }
                    }
                    load.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        server
    }

    /// The same on a Unix socket.
    pub(crate) fn on_unix_socket(path: &Path, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) {
        let listener = UnixListener::bind(path).unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                serve(&mut stream, &Mutex::default(), &Load::default(), &answer).await;
            }
        });
    }

    /// The request lines so far, each with its body.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// Open connections now.
    pub(crate) fn open(&self) -> usize {
        self.load.open.load(Ordering::Relaxed)
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.load.accepted.load(Ordering::Relaxed)
    }

    /// The most requests that were being answered at once.
    pub(crate) fn most_busy(&self) -> usize {
        self.load.most_busy.load(Ordering::Relaxed)
    }
}

/// Waits until it is so; the test fails if that takes too long.
pub(crate) async fn until(so: impl Fn() -> bool) {
    let poll = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENT.total_timeout, poll).await.expect("it never became so");
}

/// Moves the clock on without waiting.
pub(crate) async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// A port on which nobody listens.
pub(crate) async fn nobody() -> HostPort {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    host_port(listener.local_addr().unwrap())
}

/// A server that waits for the first bytes of any protocol and answers with `text`.
pub(crate) async fn greet_with(text: &'static str) -> HostPort {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = host_port(listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let _ = tcp.read(&mut [0; 1024]).await;
            let _ = tcp.write_all(text.as_bytes()).await;
        }
    });
    at
}

pub(crate) fn host_port(address: SocketAddr) -> HostPort {
    address.to_string().parse().unwrap()
}

/// Serves one connection; true if it should end with a reset.
async fn serve(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    seen: &Mutex<Vec<String>>,
    load: &Load,
    answer: &(impl Fn(&str) -> Reply + ?Sized),
) -> bool {
    while let Some(request) = request(stream).await {
        seen.lock().unwrap().push(request.clone());
        let busy = load.busy.fetch_add(1, Ordering::Relaxed) + 1;
        load.most_busy.fetch_max(busy, Ordering::Relaxed);
        let reply = match answer(&request) {
            Reply::Gated(gate, reply) => {
                let _ = gate.acquire().await;
                *reply
            }
            reply => reply,
        };
        load.busy.fetch_sub(1, Ordering::Relaxed);
        let bytes = match reply {
            Reply::Gated(..) => panic!("one gate is enough"),
            Reply::Answer(code, headers, body) => {
                format!("HTTP/1.1 {code} X\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
            }
            Reply::Raw(bytes) => {
                let _ = stream.write_all(bytes.as_bytes()).await;
                return false;
            }
            Reply::Close => return false,
            Reply::Reset => return true,
            Reply::Hang => std::future::pending().await,
            Reply::Flood => {
                format!("HTTP/1.1 200 X\r\nConnection: close\r\n\r\n{}", "x".repeat(10_000_000))
            }
            Reply::Drip => {
                let _ = stream.write_all(b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n").await;
                while stream.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                return false;
            }
        };
        if stream.write_all(bytes.as_bytes()).await.is_err() {
            return false;
        }
    }
    false
}

/// Request line without the protocol, a space, and the body; none at the end of the connection.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(|n| n.parse().unwrap()));
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    let line = head.lines().next().unwrap().strip_suffix(" HTTP/1.1").unwrap();
    Some(format!("{line} {}", String::from_utf8(body).unwrap()).trim_end().to_owned())
}

/// A CA, with certificates for a server and a client of it, and settings that use them.
pub(crate) struct Site {
    pub(crate) scratch: Scratch,
    pub(crate) ca: TestCa,
    pub(crate) ca_file: PathBuf,
}

impl Site {
    pub(crate) fn new() -> Self {
        let scratch = Scratch::new("api").unwrap();
        let ca = TestCa::root("Test Root").unwrap();
        let ca_file = ca.write(scratch.path(), "ca").unwrap();
        Self { scratch, ca, ca_file }
    }

    pub(crate) fn issue(&self, ca: &TestCa, spec: &LeafSpec) -> Identity {
        let (cert, key) = ca.issue(spec).unwrap().write(self.scratch.path(), &spec.name).unwrap();
        Identity { cert, key, password: None }
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.client_as(Some(self.issue(&self.ca, &LeafSpec::new("client").client_only())))
    }

    pub(crate) fn client_as(&self, identity: Option<Identity>) -> Arc<ClientConfig> {
        let ca = Trust::Files(vec![self.ca_file.clone()]);
        ClientTls { ca, identity, server_name: None }.build().unwrap()
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.server_as(self.issue(&self.ca, &LeafSpec::new("server").server_only()))
    }

    pub(crate) fn server_as(&self, identity: Identity) -> Arc<ServerConfig> {
        ServerTls { identity, client_cas: vec![self.ca_file.clone()] }.build().unwrap()
    }
}
