// SPDX-License-Identifier: Apache-2.0
//! What a SPIRE plugin needs beside its own subject, and what a host needs to load one.
//!
//! - [`hcl`] reads the plugin's configuration text, [`options`] reads options out of it and collects every problem;
//!   [`TlsOptions`] builds TLS from those that name its files.
//! - [`config`] holds the configuration as a snapshot, [`service`] serves SPIRE's `Init` and `Config` services over it
//!   and rebuilds it when its files change; [`expiry`] tells when a certificate is about to end.
//! - [`metrics`] adds to SPIRE's metrics, [`random`] has the system's random numbers.
//! - [`exchange`] runs one attestation call as a task of its own, [`attempt`] names it in logs and metrics, [`source`]
//!   tells where it comes from.
//! - [`spiffe`] has trust domains and SPIFFE IDs.
//! - [`host`] loads a plugin as SPIRE does and relays an attestation between an agent's and a server's plugin.
//!
//! A plugin implements [`PluginConfig`] for its configuration and one of the node attestor services of `spire-proto`,
//! and serves [`service::agent_routes`] or [`service::server_routes`].

pub mod attempt;
pub mod config;
pub mod exchange;
pub mod expiry;
pub mod hcl;
pub mod host;
pub mod metrics;
pub mod options;
pub mod random;
mod reload;
pub mod service;
pub mod source;
pub mod spiffe;
#[cfg(test)]
mod test_support;
mod text;
mod tls_files;

pub use attempt::AttemptId;
pub use config::{ConfigStore, CoreConfig, PluginConfig};
pub use expiry::LoadedCertificate;
pub use metrics::Metrics;
pub use options::{Options, Problems};
pub use spiffe::{SpiffeId, TrustDomain};
pub use tls_files::{TlsFiles, TlsOptions};

/// What SPIRE and its node attestor plugins agree on beforehand. Agent and server plugins share it.
#[must_use]
pub fn handshake() -> go_plugin::Handshake {
    go_plugin::Handshake::new("NodeAttestor", "NodeAttestor", 1)
}
