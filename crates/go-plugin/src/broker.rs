// SPDX-License-Identifier: Apache-2.0
//! The broker: services that one side offers to the other by number, each on a socket of its own.
//!
//! Both sides hold a [`Broker`]. They tell each other over one bidirectional stream where the numbers listen; the
//! plugin side serves that stream (`plugin::services`), the host side opens it (`host::connection`).

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpStream, UnixStream},
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};
use tonic::{
    service::Routes,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::{
    incoming::{Incoming, serve},
    proto::{ConnInfo, conn_info::Knock},
    socket::{SocketError, Sockets},
};

/// How long [`Broker::dial`] waits for the announcement and the connection together, as in Go.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Announcements of the other side that are kept. Hosts use one or a few.
const MAX_ANNOUNCED: usize = 1024;
/// Own announcements that may wait for the stream to take them.
pub(crate) const OUTGOING: usize = 32;

/// The other side's service could not be reached, or an own one not offered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The other side does not offer the service, or not yet.
    #[error("the other side has not announced service {service_id} within {} s", DIAL_TIMEOUT.as_secs())]
    NotAnnounced {
        /// Number of the service.
        service_id: u32,
    },
    /// The other side announced an address this side cannot use.
    #[error("service {service_id} was announced with unknown address type: {network} {address:?}")]
    Network {
        /// Number of the service.
        service_id: u32,
        /// Network as announced.
        network: String,
        /// Address as announced.
        address: String,
    },
    /// The announced address does not answer.
    #[error("cannot connect to service {service_id}")]
    Connect {
        /// Number of the service.
        service_id: u32,
        /// The transport's reason.
        source: tonic::transport::Error,
    },
    /// The announced address does not answer in time.
    #[error("no connection to service {service_id} within {} s", DIAL_TIMEOUT.as_secs())]
    ConnectTimeout {
        /// Number of the service.
        service_id: u32,
    },
    /// The number already has a service of this side.
    #[error("service {service_id} is already offered")]
    Taken {
        /// Number of the service.
        service_id: u32,
    },
    /// The own service got no socket.
    #[error("cannot offer service {service_id}")]
    Socket {
        /// Number of the service.
        service_id: u32,
        /// What failed.
        source: SocketError,
    },
}

/// Services by number, those of the other side to dial and own ones to offer. Clones share everything.
#[derive(Clone, Debug)]
pub struct Broker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// What the other side announced, by number.
    announced: watch::Sender<BTreeMap<u32, ConnInfo>>,
    /// Connections made so far, with the announcement they followed.
    dialled: Mutex<HashMap<u32, (ConnInfo, Channel)>>,
    own: Mutex<Own>,
    next_id: AtomicU32,
    sockets: Arc<Sockets>,
    /// True once the broker is closed; ends the servers of own services.
    closed: watch::Sender<bool>,
}

/// Own announcements, and the stream that takes them while there is one.
#[derive(Debug, Default)]
struct Own {
    services: BTreeMap<u32, ConnInfo>,
    stream: Option<mpsc::Sender<ConnInfo>>,
}

impl Broker {
    pub(crate) fn new(sockets: Arc<Sockets>) -> Self {
        Self {
            inner: Arc::new(Inner {
                announced: watch::Sender::default(),
                dialled: Mutex::default(),
                own: Mutex::default(),
                next_id: AtomicU32::new(0),
                sockets,
                closed: watch::Sender::new(false),
            }),
        }
    }

    /// A connection to the other side's service `service_id`.
    ///
    /// Waits up to 5 s in all for the announcement and the connection. Connections are kept: a second call for the
    /// same number returns at once. The channel reconnects by itself.
    ///
    /// # Errors
    /// See [`BrokerError`]; all variants but `Taken` and `Socket` may occur.
    pub async fn dial(&self, service_id: u32) -> Result<Channel, BrokerError> {
        let deadline = Instant::now() + DIAL_TIMEOUT;
        let mut announced = self.inner.announced.subscribe();
        let waited = timeout_at(deadline, announced.wait_for(|all| all.contains_key(&service_id)));
        let info = match waited.await {
            Ok(Ok(all)) => all.get(&service_id).cloned(),
            _ => None,
        };
        let info = info.ok_or(BrokerError::NotAnnounced { service_id })?;
        if let Some((known, channel)) = lock(&self.inner.dialled).get(&service_id)
            && *known == info
        {
            return Ok(channel.clone());
        }
        let channel = match timeout_at(deadline, connect(&info.network, &info.address)).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(ConnectError::Network)) => {
                return Err(BrokerError::Network { service_id, network: info.network, address: info.address });
            }
            Ok(Err(ConnectError::Transport(source))) => {
                return Err(BrokerError::Connect { service_id, source });
            }
            Err(_) => return Err(BrokerError::ConnectTimeout { service_id }),
        };
        lock(&self.inner.dialled).insert(service_id, (info, channel.clone()));
        Ok(channel)
    }

    /// Offers `routes` to the other side as service `service_id`, until the plugin ends.
    ///
    /// Must be called within the runtime; the service gets a socket and a task of its own.
    ///
    /// # Errors
    /// `Taken` if this side already offers the number, `Socket` if there can be no socket.
    pub fn serve(&self, service_id: u32, routes: Routes) -> Result<(), BrokerError> {
        let mut own = lock(&self.inner.own);
        if own.services.contains_key(&service_id) {
            return Err(BrokerError::Taken { service_id });
        }
        let (listener, path) =
            self.inner.sockets.bind().map_err(|source| BrokerError::Socket { service_id, source })?;
        let info =
            ConnInfo { service_id, network: "unix".into(), address: path.to_string_lossy().into_owned(), knock: None };
        let mut closed = self.inner.closed.subscribe();
        tokio::spawn(async move {
            let stop = async move {
                // An error means that the broker is gone, which ends the service as well.
                let _ = closed.wait_for(|closed| *closed).await;
            };
            if let Err(error) = serve(routes, Incoming::new(listener), stop).await {
                tracing::warn!(service_id, %error, "a brokered service ended");
            }
        });
        own.services.insert(service_id, info.clone());
        own.send(info);
        Ok(())
    }

    /// A number for a further service, counting up from 1. Numbers agreed on beforehand need no call.
    pub fn next_id(&self) -> u32 {
        self.inner.next_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The stream to the other side is there: what this side offers goes out, now and later.
    pub(crate) fn attach(&self, stream: mpsc::Sender<ConnInfo>) {
        let mut own = lock(&self.inner.own);
        own.stream = Some(stream);
        for info in own.services.values().cloned().collect::<Vec<_>>() {
            own.send(info);
        }
    }

    /// The stream `stream` is over; a newer one may have taken its place.
    pub(crate) fn detach(&self, stream: &mpsc::Sender<ConnInfo>) {
        let mut own = lock(&self.inner.own);
        if own.stream.as_ref().is_some_and(|current| current.same_channel(stream)) {
            own.stream = None;
        }
    }

    /// Takes one message of the other side; the answer, if any, goes back over the same stream.
    pub(crate) fn receive(&self, info: ConnInfo) -> Option<ConnInfo> {
        if let Some(knock) = &info.knock {
            // Only a peer that multiplexes knocks, and it was told that this side does not. It must not wait in vain.
            return (knock.knock && !knock.ack).then(|| ConnInfo {
                service_id: info.service_id,
                knock: Some(Knock {
                    knock: true,
                    ack: true,
                    error: "multiplexed connections are not supported".into(),
                }),
                ..ConnInfo::default()
            });
        }
        self.inner.announced.send_if_modified(|all| {
            let room = all.len() < MAX_ANNOUNCED || all.contains_key(&info.service_id);
            if room {
                all.insert(info.service_id, info);
            }
            room
        });
        None
    }

    /// Ends the own services.
    pub(crate) fn close(&self) {
        self.inner.closed.send_replace(true);
    }
}

impl Own {
    /// Without a stream the announcement waits in `services`. A stream so far behind that its queue is full belongs
    /// to a peer that does not read.
    fn send(&mut self, info: ConnInfo) {
        if let Some(stream) = &self.stream
            && stream.try_send(info).is_err()
        {
            self.stream = None;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why [`connect`] failed.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// Neither `unix` nor `tcp`.
    Network,
    /// The address does not answer.
    Transport(tonic::transport::Error),
}

/// A clear-text HTTP/2 connection to an address as go-plugin writes it. The caller sets the time limit.
pub(crate) async fn connect(network: &str, address: &str) -> Result<Channel, ConnectError> {
    // The authority is the same fixed word that Go sends; the connector alone knows the address.
    let endpoint = Endpoint::from_static("http://unused")
        // Each call that is cancelled while its answer is on the way counts as an error; a host that cancels all of its
        // calls, as SPIRE does, would lose the connection after some thousands. The peer is trusted.
        .http2_max_local_error_reset_streams(None);
    let address = address.to_owned();
    let channel = match network {
        "unix" => {
            endpoint
                .connect_with_connector(service_fn(move |_| {
                    let address = address.clone();
                    async move { unix(&address).await.map(TokioIo::new) }
                }))
                .await
        }
        "tcp" => {
            endpoint
                .connect_with_connector(service_fn(move |_| {
                    let address = address.clone();
                    async move {
                        let stream = TcpStream::connect(&address).await?;
                        stream.set_nodelay(true)?;
                        Ok::<_, io::Error>(TokioIo::new(stream))
                    }
                }))
                .await
        }
        _ => return Err(ConnectError::Network),
    };
    channel.map_err(ConnectError::Transport)
}

async fn unix(address: &str) -> io::Result<UnixStream> {
    // Go reads a leading at-sign as the abstract name space; so does tokio with a leading zero byte.
    match address.strip_prefix('@') {
        Some(name) => UnixStream::connect(format!("\0{name}")).await,
        None => UnixStream::connect(Path::new(address)).await,
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

    use super::*;

    fn broker(dir: &Path) -> Broker {
        Broker::new(Arc::new(Sockets::new(Some(dir.into()), None)))
    }

    fn info(service_id: u32, network: &str, address: &str) -> ConnInfo {
        ConnInfo { service_id, network: network.into(), address: address.into(), knock: None }
    }

    /// A call that any server answers, with `Unimplemented`.
    async fn call(channel: Channel) -> Code {
        let request = HealthCheckRequest::default();
        HealthClient::new(channel).check(request).await.unwrap_err().code()
    }

    #[tokio::test]
    async fn what_one_side_offers_the_other_dials() {
        let dir = tempfile::tempdir().unwrap();
        let (here, there) = (broker(dir.path()), broker(dir.path()));
        here.serve(1, Routes::default()).unwrap();
        let (sender, mut stream) = mpsc::channel(OUTGOING);
        here.attach(sender.clone());
        here.serve(2, Routes::default()).unwrap();
        let error = here.serve(2, Routes::default()).unwrap_err();
        assert_eq!(error.to_string(), "service 2 is already offered");

        for id in [1, 2] {
            let info = stream.recv().await.unwrap();
            assert_eq!((info.service_id, info.network.as_str()), (id, "unix"));
            let dial = tokio::spawn({
                let there = there.clone();
                async move { there.dial(id).await }
            });
            // Dialled before or after the announcement.
            tokio::task::yield_now().await;
            assert_eq!(there.receive(info), None);
            let channel = dial.await.unwrap().unwrap();
            assert_eq!(call(channel).await, Code::Unimplemented);
        }

        // A new stream hears of everything again; the end of the old one does not concern it.
        let (newer, mut stream) = mpsc::channel(OUTGOING);
        here.attach(newer);
        here.detach(&sender);
        here.serve(3, Routes::default()).unwrap();
        for id in 1..=3 {
            assert_eq!(stream.recv().await.unwrap().service_id, id);
        }
    }

    #[tokio::test]
    async fn a_service_that_moves_is_dialled_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (broker(dir.path()), broker(dir.path()));
        let there = broker(dir.path());
        for side in [&first, &second] {
            side.serve(1, Routes::default()).unwrap();
            let (sender, mut stream) = mpsc::channel(OUTGOING);
            side.attach(sender);
            there.receive(stream.recv().await.unwrap());
            let channel = there.dial(1).await.unwrap();
            assert_eq!(call(channel).await, Code::Unimplemented);
            side.close();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_nobody_offers_is_waited_for_in_vain() {
        let dir = tempfile::tempdir().unwrap();
        let before = Instant::now();
        let error = broker(dir.path()).dial(9).await.unwrap_err();
        assert_eq!(error.to_string(), "the other side has not announced service 9 within 5 s");
        assert_eq!(before.elapsed().as_secs(), 5);
    }

    #[tokio::test]
    async fn unusable_announcements_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let there = broker(dir.path());
        there.receive(info(1, "pipe", "x"));
        there.receive(info(2, "unix", "/nowhere/at/all"));
        assert_eq!(
            there.dial(1).await.unwrap_err().to_string(),
            "service 1 was announced with unknown address type: pipe \"x\""
        );
        assert_eq!(there.dial(2).await.unwrap_err().to_string(), "cannot connect to service 2");
    }

    #[tokio::test]
    async fn announcements_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let there = broker(dir.path());
        for id in 0..2000 {
            there.receive(info(id, "unix", "/x"));
        }
        assert_eq!(there.inner.announced.borrow().len(), MAX_ANNOUNCED);
    }

    #[tokio::test]
    async fn a_knock_is_answered_with_a_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let knock = |ack| ConnInfo {
            service_id: 4,
            knock: Some(Knock { knock: true, ack, error: String::new() }),
            ..ConnInfo::default()
        };
        let there = broker(dir.path());
        let answer = there.receive(knock(false)).unwrap();
        assert_eq!(answer.service_id, 4);
        assert_eq!(answer.knock.unwrap().error, "multiplexed connections are not supported");
        assert_eq!(there.receive(knock(true)), None);
    }

    #[tokio::test]
    async fn numbers_count_up_from_one() {
        let dir = tempfile::tempdir().unwrap();
        let there = broker(dir.path());
        assert_eq!((there.next_id(), there.clone().next_id()), (1, 2));
    }
}
