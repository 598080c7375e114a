// SPDX-License-Identifier: Apache-2.0
//! SPIRE server node attestor backed by a Keylime verifier and registrar.
//!
//! An attestation is four messages: the node's claim of a Keylime agent id, our nonce, the node's
//! TPM quote over that nonce, and the SPIFFE ID with selectors or a refusal. Nothing the node says
//! is believed: the AK comes from Keylime's registrar, the quote is verified here with [`tpm_wire`],
//! and the verifier is asked twice whether it holds the host to be good, the second time after the
//! quote arrived.
//!
//! | file | subject |
//! |---|---|
//! | [`config`] | the HCL options and what is built from them |
//! | [`attestation`] | the protocol as types that consume themselves, apart from gRPC |
//! | [`policy`] | what an answer of the verifier or registrar has to say |
//! | [`selectors`] | what was verified, as SPIRE selectors |
//! | [`waiting`] | the pace of questions about hosts that are not verified yet |
//! | [`error`] | why an attestation is refused, and the gRPC code of each reason |
//! | [`service`] | the `NodeAttestor` gRPC service, and its bounds |
//! | [`sources`] | how many attestations each address has under way |
//! | [`hop`] | the parts of an attestation whose time is measured |

pub mod attestation;
pub mod config;
pub mod error;
pub mod hop;
pub mod policy;
pub mod selectors;
pub mod service;
pub mod sources;
pub mod waiting;

use go_plugin::Broker;
use go_plugin::plugin::About;
use spire_plugin::{ConfigStore, Metrics, service::server_routes};
use tonic::service::Routes;

/// What the binary says of itself when a person starts it.
#[must_use]
pub fn about() -> About {
    About {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        summary: "SPIRE server plugin: attests hosts through Keylime and their TPM.",
        usage: "Name this file as plugin_cmd of NodeAttestor \"keylime\" in the SPIRE server's configuration, and its \
                SHA-256 as plugin_checksum.",
    }
}

/// The services that the plugin offers to SPIRE.
pub fn routes(host: &Broker) -> Routes {
    let config = ConfigStore::new();
    let metrics = Metrics::new(host);
    let attestor = service::ServerAttestor::new(config.clone(), metrics.clone(), service::Limits::default());
    server_routes(config, attestor, &metrics)
}
