// SPDX-License-Identifier: Apache-2.0
//! For this crate's tests: limits, addresses, and what Keylime's servers say

use std::net::SocketAddr;
use std::time::Duration;

pub(crate) use test_support::http::{Gate, Reply, Server, ok};
pub(crate) use test_support::site::Site;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

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

/// `GET /version` of a server that has these versions.
pub(crate) fn versions(list: &[&str]) -> Reply {
    ok(&format!(r#"{{"current_version": "2.6", "supported_versions": {list:?}}}"#))
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
    host_port(test_support::http::nobody().await)
}

/// A server that waits for the first bytes of any protocol and answers with `text`.
pub(crate) async fn greet_with(text: &'static str) -> HostPort {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
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

/// Where a server listens.
pub(crate) fn at(server: &Server) -> HostPort {
    host_port(server.at)
}

pub(crate) fn host_port(address: SocketAddr) -> HostPort {
    address.to_string().parse().unwrap()
}
