// SPDX-License-Identifier: Apache-2.0
//! Revocation messages over ZeroMQ, for verifiers that publish them there
//! (`enabled_revocation_notifications = ['zeromq']`): the same messages as over the REST API, and treated alike.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep, timeout};

use super::Inbox;
use super::zmtp::{Subscription, ZmtpError};
use crate::config::{Host, Retry};
use crate::registration::Backoff;
use crate::routes::MAX_BODY;

/// Longest look-up of the publisher's name, and longest connection to one of its addresses.
const LOOKUP: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);
/// Short, for what is published meanwhile is missed.
const RETRY: Retry =
    Retry { initial_delay: Duration::from_millis(500), max_delay: Duration::from_secs(10), max_retries: None };
/// After so long a subscription its end is none of a row of failures.
const STABLE: Duration = Duration::from_secs(60);
/// Seconds of silence before the kernel asks whether the other side is there, and between its three questions.
const KEEPALIVE: (u32, u32, u32) = (60, 10, 3);

/// Why there are no messages.
#[derive(Debug, thiserror::Error)]
enum SubscriberError {
    #[error("cannot look up {host}: {source}")]
    Lookup { host: String, source: io::Error },
    #[error("cannot connect to {address}: {source}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Zmtp(#[from] ZmtpError),
}

/// What gets messages from a publisher.
pub(crate) struct Subscriber {
    publisher: Option<(Host, u16)>,
    inbox: Inbox,
}

impl Subscriber {
    /// Without a publisher there is nothing to do.
    pub(crate) fn new(publisher: Option<(Host, u16)>, inbox: Inbox) -> Self {
        Self { publisher, inbox }
    }

    /// Connects, again and again, and hands over what comes, without end.
    pub(crate) async fn run(self) {
        let Some((host, port)) = &self.publisher else { return std::future::pending().await };
        let endpoint = format!("tcp://{}", host.with_port(*port));
        tracing::info!("Connecting to revocation notification endpoint at {endpoint}...");
        let mut backoff = Backoff::new(&RETRY);
        // Each state is logged when it begins, and not at each try.
        let mut logged = String::new();
        loop {
            let error = match connect(host, *port).await {
                Ok(mut subscription) => {
                    tracing::info!("Waiting for revocation messages on 0mq {endpoint}");
                    logged.clear();
                    let since = Instant::now();
                    let error = self.hand_over(&mut subscription).await;
                    if since.elapsed() >= STABLE {
                        backoff = Backoff::new(&RETRY);
                    }
                    error.into()
                }
                Err(error) => error,
            };
            let text = error.to_string();
            if logged == text {
                tracing::debug!("Still no revocation messages from {endpoint}: {text}");
            } else {
                tracing::warn!("No revocation messages from {endpoint}, trying again: {text}");
                logged = text;
            }
            sleep(backoff.next(None).unwrap_or(RETRY.max_delay)).await;
        }
    }

    /// Hands messages over until the connection ends.
    async fn hand_over(&self, subscription: &mut Subscription<TcpStream>) -> ZmtpError {
        loop {
            let message = match subscription.message().await {
                Ok(message) => message,
                Err(error) => return error,
            };
            match serde_json::from_slice(&message) {
                Ok(envelope) => {
                    // To wait would keep the publisher's questions from being answered.
                    if let Err(error) = self.inbox.put(envelope, None).await {
                        tracing::warn!("Revocation message dropped: {error}");
                    }
                }
                Err(_) => tracing::warn!("JSON decode error on 0mq message"),
            }
        }
    }
}

/// A subscription at the first of the publisher's addresses that can be connected to.
async fn connect(host: &Host, port: u16) -> Result<Subscription<TcpStream>, SubscriberError> {
    let failed = |source| SubscriberError::Lookup { host: host.to_string(), source };
    let addresses = match host {
        Host::Address(address) => vec![SocketAddr::new(*address, port)],
        Host::Name(name) => {
            let found = timeout(LOOKUP, lookup_host((name.as_str(), port))).await;
            found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?.collect()
        }
    };
    let mut last = failed(io::ErrorKind::NotFound.into());
    for address in addresses {
        let connected = timeout(CONNECT, TcpStream::connect(address)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).and_then(keep_alive) {
            Ok(stream) => return Ok(Subscription::open(stream, MAX_BODY as u64).await?),
            Err(source) => last = SubscriberError::Connect { address, source },
        }
    }
    Err(last)
}

/// A publisher says nothing for months, so that a host that has gone would not be missed.
fn keep_alive(stream: TcpStream) -> io::Result<TcpStream> {
    let (idle, interval, count) = KEEPALIVE;
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpKeepIdle, &idle)?;
    setsockopt(&stream, sockopt::TcpKeepInterval, &interval)?;
    setsockopt(&stream, sockopt::TcpKeepCount, &count)?;
    Ok(stream)
}
