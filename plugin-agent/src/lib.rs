// SPDX-License-Identifier: Apache-2.0
//! SPIRE agent node attestor backed by the Keylime agent of the same host.
//!
//! It carries the Keylime agent's id to the SPIRE server, and a TPM quote over a nonce that both have chosen.
//! It holds no key and decides nothing: what it says is believed by nobody until the server plugin
//! has checked it.
//!
//! | file | subject |
//! |---|---|
//! | [`config`] | the HCL options and the client built from them |
//! | [`attestation`] | the protocol as types that consume themselves, apart from gRPC |
//! | [`hop`] | the parts of an attestation whose time is measured |
//! | [`error`] | what can go wrong, and the gRPC code of each |
//! | [`service`] | the `NodeAttestor` gRPC service |

pub mod attestation;
pub mod config;
pub mod error;
pub mod hop;
pub mod service;

use go_plugin::Broker;
use go_plugin::plugin::About;
use spire_plugin::{ConfigStore, Metrics, service::agent_routes};
use tonic::service::Routes;

/// What the binary says of itself when a person starts it.
#[must_use]
pub fn about() -> About {
    About {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        summary: "SPIRE agent plugin: attests this host through its Keylime agent and TPM.",
        usage: "Name this file as plugin_cmd of NodeAttestor \"keylime\" in the SPIRE agent's configuration, and its \
                SHA-256 as plugin_checksum.",
    }
}

/// The services that the plugin offers to SPIRE.
pub fn routes(host: &Broker) -> Routes {
    let config = ConfigStore::new();
    let metrics = Metrics::new(host);
    agent_routes(config.clone(), service::AgentAttestor::new(config, metrics.clone()), &metrics)
}
