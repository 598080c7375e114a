// SPDX-License-Identifier: Apache-2.0
//! SPIRE's plugin wire contracts: messages, clients and servers of the gRPC services between SPIRE and a plugin.
//!
//! The contracts are the `.proto` files in `proto/spire`; the Rust code is generated from them and committed, so a
//! build needs no generator. After a change to a `.proto` file run
//! `UPDATE_GENERATED=1 cargo test -p spire-proto --test generated`.

/// SPIRE agent's node attestor plugin, `spire.plugin.agent.nodeattestor.v1`.
pub mod agent_nodeattestor {
    include!("generated/spire.plugin.agent.nodeattestor.v1.rs");
}

/// SPIRE server's node attestor plugin, `spire.plugin.server.nodeattestor.v1`.
pub mod server_nodeattestor {
    include!("generated/spire.plugin.server.nodeattestor.v1.rs");
}

/// Configuration of a plugin, `spire.service.common.config.v1`.
pub mod config {
    include!("generated/spire.service.common.config.v1.rs");
}

/// First and last call to a plugin, `spire.service.private.init.v1`.
pub mod init {
    include!("generated/spire.service.private.init.v1.rs");
}

/// SPIRE's metrics, which it serves to a plugin, `spire.hostservice.common.metrics.v1`.
pub mod metrics {
    include!("generated/spire.hostservice.common.metrics.v1.rs");
}
