// SPDX-License-Identifier: Apache-2.0
//! Why a plugin did not start.

use std::{io, path::PathBuf, time::Duration};

use super::{ExitReport, Sha256};
use crate::BrokerError;

/// A plugin did not start. Whatever had been started is killed by then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    // The host's own call.
    /// [`Launch::handshake`](super::Launch::handshake) was not called.
    #[error("no handshake was set for {}", program.display())]
    NoHandshake {
        /// The plugin's executable.
        program: PathBuf,
    },
    /// The file cannot be read to take its checksum.
    #[error("error verifying checksum: cannot read {}", program.display())]
    Unreadable {
        /// The plugin's executable.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not the expected one; nothing was executed.
    #[error("checksums did not match: {} has {actual}, expected {expected}", program.display())]
    Checksum {
        /// The plugin's executable.
        program: PathBuf,
        /// What the host pinned.
        expected: Sha256,
        /// What the file has.
        actual: Sha256,
    },
    /// The system cannot execute the file.
    #[error("cannot execute {}", program.display())]
    Execute {
        /// The plugin's executable.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A service of the host could not be offered.
    #[error("cannot offer a host service")]
    HostService(#[source] BrokerError),

    // The process.
    /// No handshake line, or no connection, in time.
    #[error("timeout while waiting for plugin to start ({} ms)", after.as_millis())]
    Timeout {
        /// The time-out that was set.
        after: Duration,
    },
    /// The process ended before its handshake line.
    #[error("plugin exited before we could connect: {report}")]
    Exited {
        /// How it ended.
        report: ExitReport,
    },
    /// The pipe of the plugin's standard output cannot be read.
    #[error("cannot read the plugin's standard output")]
    Stdout(#[source] io::Error),

    // What the plugin says in its handshake line.
    /// The first line has fewer than four fields: this is no plugin, or it prints something else first.
    #[error("unrecognized remote plugin message: {line:?}")]
    Unrecognized {
        /// The line, shortened.
        line: String,
    },
    /// Another version of go-plugin's own protocol.
    #[error("incompatible core API version with plugin. Plugin version: {plugin}, Core version: 1")]
    CoreVersion {
        /// What the plugin said.
        plugin: String,
    },
    /// Another version of the application's protocol.
    #[error("incompatible API version with plugin. Plugin version: {plugin}, Client versions: [{offered}]")]
    AppVersion {
        /// What the plugin said.
        plugin: String,
        /// What the host offered.
        offered: u32,
    },
    /// Neither a Unix socket nor TCP.
    #[error("unknown address type: {network} {address:?}")]
    Network {
        /// What the plugin said.
        network: String,
        /// What the plugin said.
        address: String,
    },
    /// Not gRPC.
    #[error("unsupported plugin protocol {plugin:?}. Supported: [grpc]")]
    Protocol {
        /// What the plugin said, `netrpc` if it said nothing.
        plugin: String,
    },
    /// The plugin expects TLS, which this host did not ask for.
    #[error("the plugin sent a server certificate, but AutoMTLS is not in use")]
    Certificate,
    /// The plugin does not answer at the address it gave.
    #[error("cannot connect to the plugin at {address:?}")]
    Connect {
        /// Address of the handshake line.
        address: String,
        /// The transport's reason.
        source: tonic::transport::Error,
    },
}
