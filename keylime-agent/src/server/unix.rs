// SPDX-License-Identifier: Apache-2.0
//! The Unix socket for programs of this host, such as the SPIRE agent's plugin. The kernel tells who connects, and only
//! the users that are allowed to are answered.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::Uid;
use service::drain::Drain;
use tokio::net::{UnixListener, UnixSocket, UnixStream};

use super::connections::{Connections, Slot};
use super::pace::Paced;
use super::{Peer, serve_http};
use crate::lock::{Lock, LockError};
use crate::routes::Refusal;
use crate::turns::Source;

/// Connections at a time.
const CONNECTIONS: usize = 64;
/// Connections of users that are not allowed to, until they have read so.
const REFUSED: usize = 32;
/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 64;
/// Longest time until such a caller has asked for something.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failure to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no Unix socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnixError {
    #[error("cannot make the Unix socket {} (option 'unix_socket_path'): {source}", path.display())]
    Bind { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(
        "cannot make the Unix socket {}: there is another kind of file (option 'unix_socket_path')",
        path.display()
    )]
    NotASocket { path: PathBuf },
    #[error(
        "cannot make the Unix socket {}: another process listens on it (option 'unix_socket_path')",
        path.display()
    )]
    InUse { path: PathBuf },
}

/// A Unix socket at its path that refuses connections until [`BoundUnix::listen`], so that no caller waits for an agent
/// that is not registered yet.
pub(crate) struct BoundUnix {
    socket: UnixSocket,
    allowed: Vec<Uid>,
    file: SocketFile,
}

/// A listening Unix socket.
pub(crate) struct ListeningUnix {
    listener: UnixListener,
    allowed: Vec<Uid>,
    _file: SocketFile,
}

/// The file of a socket. It is removed when this is dropped, if it is still the same.
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    /// Until it listens, the socket cannot be told from a dead one.
    _lock: Option<Lock>,
}

impl BoundUnix {
    /// Makes the socket. It is made under another name and moved to its place with its final mode, so there is no moment
    /// without a socket or with a wrong mode; what an earlier run has left is replaced, a living socket is not.
    pub(crate) async fn new(path: &Path, mode: u32, allowed: Vec<Uid>) -> Result<Self, UnixError> {
        let error = |source| UnixError::Bind { path: path.to_owned(), source };
        let what = format!("the Unix socket {}", path.display());
        let lock = Lock::take(&with_suffix(path, ".lock"), &what, "unix_socket_path")?;
        match std::fs::symlink_metadata(path) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(error(source)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(UnixError::NotASocket { path: path.to_owned() });
            }
            // Does not wait: an owner that accepts nothing any more is "would block".
            Ok(_) => match UnixStream::connect(path).await {
                Err(dead) if dead.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
                Err(stuck) if stuck.kind() == io::ErrorKind::WouldBlock => {
                    return Err(UnixError::InUse { path: path.to_owned() });
                }
                Err(source) => return Err(error(source)),
                Ok(_) => return Err(UnixError::InUse { path: path.to_owned() }),
            },
        }
        let temporary = with_suffix(path, &format!(".{}", std::process::id()));
        let _ = std::fs::remove_file(&temporary);
        let make = || {
            let socket = UnixSocket::new_stream()?;
            socket.bind(&temporary)?;
            std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(mode))?;
            let metadata = std::fs::symlink_metadata(&temporary)?;
            std::fs::rename(&temporary, path)?;
            Ok((socket, (metadata.dev(), metadata.ino())))
        };
        let (socket, identity) = make().map_err(|source| {
            let _ = std::fs::remove_file(&temporary);
            error(source)
        })?;
        Ok(Self { socket, allowed, file: SocketFile { path: path.to_owned(), identity, _lock: lock } })
    }

    /// Begins to accept connections into the kernel's queue.
    pub(crate) fn listen(self) -> Result<ListeningUnix, UnixError> {
        let Self { socket, allowed, file } = self;
        if !file.is_there() {
            // Another process took this socket for a dead one, as it did not listen.
            return Err(UnixError::InUse { path: file.path.clone() });
        }
        let listener = socket.listen(BACKLOG).map_err(|source| UnixError::Bind { path: file.path.clone(), source })?;
        Ok(ListeningUnix { listener, allowed, _file: file })
    }
}

impl ListeningUnix {
    /// Serves connections for ever.
    pub(crate) async fn serve(&self, routes: &Router, drain: &Drain) {
        let connections = Connections::new(CONNECTIONS);
        // Apart, so that those who are refused take no place of the others.
        let refused = Connections::never_served(REFUSED);
        loop {
            connections.room().await;
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("cannot accept a connection on the Unix socket: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(peer) = self.check(&stream) else {
                if let Some(slot) = refused.admit(Source::User(0)) {
                    tokio::spawn(refuse(stream, slot));
                }
                continue;
            };
            let Some(slot) = peer.place_in(&connections) else { continue };
            let (routes, watch) = (routes.clone(), drain.watch());
            let (stream, deadline) = Paced::new(stream);
            tokio::spawn(async move { serve_http(stream, deadline, routes, peer, &slot, watch).await });
        }
    }

    /// Who is calling, if it is allowed to.
    fn check(&self, stream: &UnixStream) -> Option<Peer> {
        let credentials = match stream.peer_cred() {
            Ok(credentials) => credentials,
            Err(error) => {
                tracing::warn!("Unix socket: the caller is unknown: {error}");
                return None;
            }
        };
        let peer = Peer::Unix { uid: credentials.uid(), pid: credentials.pid() };
        if self.allowed.contains(&Uid::from_raw(credentials.uid())) {
            return Some(peer);
        }
        tracing::warn!("Unix socket: {peer} refused, the user is not in option 'unix_socket_allowed_users'");
        None
    }
}

/// Tells the caller why, whatever it asks for.
async fn refuse(stream: UnixStream, slot: Slot) {
    let service = service_fn(|_| async {
        let text = "This user is not in option unix_socket_allowed_users";
        Ok::<_, Infallible>(Refusal::new(403, text).into_response())
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(REFUSAL_TIMEOUT).keep_alive(false);
    tokio::select! {
        // How it ends does not matter.
        _ = builder.serve_connection(TokioIo::new(stream), service) => {}
        _ = slot.evicted() => {}
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl SocketFile {
    fn is_there(&self) -> bool {
        let found = std::fs::symlink_metadata(&self.path);
        found.is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn bind(path: &Path) -> Result<BoundUnix, UnixError> {
        BoundUnix::new(path, 0o640, vec![Uid::from_raw(0)]).await
    }

    fn connect(path: &Path) -> io::Result<std::os::unix::net::UnixStream> {
        std::os::unix::net::UnixStream::connect(path)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_file_has_its_mode_and_goes_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let bound = bind(&path).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        // Nobody is kept waiting before there is somebody to serve.
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let listening = bound.listen().unwrap();
        connect(&path).unwrap();
        drop(listening);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _listening = bind(&path).await.unwrap().listen().unwrap();
        connect(&path).unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_not_a_dead_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let shown = path.display().to_string();
        let bound = bind(&path).await.unwrap();
        let error = bind(&path).await.err().unwrap().to_string();
        let pid = std::process::id();
        assert!(
            error.starts_with(&format!("another keylime_agent (process {pid}) works with the Unix socket {shown}: "))
        );
        drop(bound);
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(
            bind(&path).await.err().unwrap().to_string(),
            format!("cannot make the Unix socket {shown}: another process listens on it (option 'unix_socket_path')")
        );
        drop(other);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(
            bind(&path).await.err().unwrap().to_string(),
            format!("cannot make the Unix socket {shown}: there is another kind of file (option 'unix_socket_path')")
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let nowhere = dir.path().join("no/folder");
        assert_eq!(
            bind(&nowhere).await.err().unwrap().to_string(),
            format!("cannot open the lock file {}.lock: No such file or directory (os error 2)", nowhere.display())
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_successors_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let bound = bind(&path).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let shown = path.display();
        assert_eq!(
            bound.listen().err().unwrap().to_string(),
            format!("cannot make the Unix socket {shown}: another process listens on it (option 'unix_socket_path')")
        );
        assert!(path.exists());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_stuck_owner_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let owner = UnixSocket::new_stream().unwrap();
        owner.bind(&path).unwrap();
        let _owner = owner.listen(0).unwrap();
        // Its queue is full.
        let _waiting = connect(&path).unwrap();
        let error = bind(&path).await.err().unwrap();
        assert!(matches!(error, UnixError::InUse { .. }), "{error}");
    }
}
