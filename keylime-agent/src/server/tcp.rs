// SPDX-License-Identifier: Apache-2.0
//! The TCP listener, with mTLS or, if that is switched off, plain HTTP.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use service::drain::{Drain, Watch};
use tls::TlsServer;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio_rustls::TlsAcceptor;

use super::connections::{Connections, Slot};
use super::pace::Paced;
use super::{Peer, serve_http};
use crate::config::Host;

/// Connections at a time.
const CONNECTIONS: usize = 256;
/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 1024;
/// Longest TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failure to accept, such as too many open files, so that it does not repeat thousands of times.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the agent cannot listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TcpError {
    #[error("cannot look up the address to listen on (option 'ip'), {host}: {source}")]
    Lookup { host: String, source: io::Error },
    #[error("cannot listen on {address} (options 'ip' and 'port'): {source}{}", remedy(source, address.port()))]
    Listen { address: SocketAddr, source: io::Error },
}

/// A socket that has its address but refuses connections until [`Bound::listen`]. Taking the address first shows, before
/// the host is registered, that another program listens there; one that has only taken the address as well shows when
/// either listens. Refusing meanwhile keeps callers from waiting.
pub(crate) struct Bound {
    socket: TcpSocket,
    address: SocketAddr,
}

impl Bound {
    /// Takes the address; a host name is looked up.
    pub(crate) async fn new(host: &Host, port: u16) -> Result<Self, TcpError> {
        let address = match host {
            Host::Address(address) => SocketAddr::new(*address, port),
            Host::Name(name) => lookup(name, port).await?,
        };
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        };
        let bind = |socket: TcpSocket| {
            // A restart must not wait for the last connections' TIME_WAIT.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        let socket = socket.and_then(bind).map_err(|source| listen_error(address, source))?;
        Ok(Self { socket, address })
    }

    /// Begins to accept connections into the kernel's queue.
    pub(crate) fn listen(self) -> Result<Listener, TcpError> {
        let listener = self.socket.listen(BACKLOG).map_err(|source| listen_error(self.address, source))?;
        let address = listener.local_addr().unwrap_or(self.address);
        Ok(Listener { listener, address })
    }
}

async fn lookup(name: &str, port: u16) -> Result<SocketAddr, TcpError> {
    let lookup_error = |source| TcpError::Lookup { host: name.to_owned(), source };
    let mut addresses = lookup_host((name, port)).await.map_err(lookup_error)?;
    addresses.next().ok_or_else(|| lookup_error(io::Error::from(io::ErrorKind::NotFound)))
}

fn listen_error(address: SocketAddr, source: io::Error) -> TcpError {
    TcpError::Listen { address, source }
}

fn remedy(source: &io::Error, port: u16) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => format!(": `ss -ltnp 'sport = :{port}'` shows which program listens there"),
        io::ErrorKind::PermissionDenied => {
            ": ports below 1024 take CAP_NET_BIND_SERVICE, which the change to 'run_as' gives up: choose another port"
                .to_owned()
        }
        io::ErrorKind::AddrNotAvailable => ": no network interface of this host has that address".to_owned(),
        _ => String::new(),
    }
}

/// A listening socket.
pub(crate) struct Listener {
    listener: TcpListener,
    /// The address with the real port.
    pub(crate) address: SocketAddr,
}

impl Listener {
    /// Serves connections for ever; with `tls`, after a handshake in which the client has shown a certificate.
    pub(crate) async fn serve(&self, routes: &Router, tls: Option<TlsServer>, drain: &Drain) {
        let connections = Connections::new(CONNECTIONS);
        loop {
            // Those that have come before are further on first, so that in a crowd handshakes are not begun in vain.
            tokio::task::yield_now().await;
            connections.room().await;
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let peer = Peer::Tcp(address);
            let Some(slot) = peer.place_in(&connections) else { continue };
            let (routes, tls, mut watch) = (routes.clone(), tls.clone(), drain.watch());
            tokio::spawn(async move {
                // Answers are small and complete: waiting to fill a packet only costs time.
                let _ = stream.set_nodelay(true);
                let (stream, deadline) = Paced::new(stream);
                match tls {
                    None => serve_http(stream, deadline, routes, peer, &slot, watch).await,
                    Some(tls) => {
                        if let Some(stream) = handshake(&tls, stream, peer, &slot, &mut watch).await {
                            serve_http(stream, deadline, routes, peer, &slot, watch).await;
                        }
                    }
                }
            });
        }
    }
}

/// Why a handshake failed, with what the tenant can do about it.
fn explain(error: &tls::rustls::Error) -> String {
    use tls::rustls::{AlertDescription, Error};
    let text = tls::explain(error);
    match error {
        Error::AlertReceived(AlertDescription::UnknownCA) => format!(
            "{text}. Where the certificate is self-made, the verifier may still have the one before: run `keylime_tenant -c \
             update`"
        ),
        _ => text,
    }
}

async fn handshake(
    tls: &TlsServer,
    stream: Paced<TcpStream>,
    peer: Peer,
    slot: &Slot,
    watch: &mut Watch,
) -> Option<tokio_rustls::server::TlsStream<Paced<TcpStream>>> {
    let acceptor = TlsAcceptor::from(tls.config.clone());
    let result = tokio::select! {
        result = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)) => result,
        _ = slot.evicted() => return None,
        () = watch.draining() => return None,
    };
    match result {
        Ok(Ok(stream)) => match tls.check_resumed(stream.get_ref().1) {
            Ok(()) => Some(stream),
            Err(error) => {
                tracing::warn!("TLS handshake with {peer} failed: {}", tls::explain(&error));
                None
            }
        },
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            // Port probes of monitors connect and go.
            tracing::debug!("{peer} left during the TLS handshake");
            None
        }
        Ok(Err(error)) => {
            let reason =
                error.get_ref().and_then(|inner| inner.downcast_ref()).map_or_else(|| error.to_string(), explain);
            tracing::warn!("TLS handshake with {peer} failed: {reason}");
            None
        }
        Err(_) => {
            tracing::debug!("{peer} did not finish the TLS handshake in time");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use tls::rustls::{AlertDescription, Error};

    use super::*;

    #[test]
    fn refusals_of_our_certificate() {
        for (alert, text) in [
            (
                AlertDescription::UnknownCA,
                "the peer refused our certificate: it does not know the authority that issued it. Where the certificate is \
                 self-made, the verifier may still have the one before: run `keylime_tenant -c update`",
            ),
            (
                AlertDescription::CertificateExpired,
                "the peer refused our certificate: it is expired or not valid yet by the peer's clock",
            ),
        ] {
            assert_eq!(explain(&Error::AlertReceived(alert)), text);
        }
    }
}
