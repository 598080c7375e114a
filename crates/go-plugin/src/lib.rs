// SPDX-License-Identifier: Apache-2.0
//! hashicorp's [go-plugin](https://github.com/hashicorp/go-plugin) protocol over gRPC, for plugins and for hosts
//! written in Rust.
//!
//! A *host* starts a *plugin* as a child process. The plugin prints one handshake line that says where it listens,
//! and from then on it is the gRPC server of the host. Either side may be written in Go or in Rust.
//!
//! | Side | Start at | What it takes care of |
//! |---|---|---|
//! | plugin | [`plugin::run`] | cookie, handshake line, Unix socket, health, controller, broker, stdio, logs, panics, signals, end of the host |
//! | host | [`host::Launch`] | checksum, launch, handshake checks, connection, services for the plugin, its logs, its end |
//! | both | [`Broker`] | services that one side offers to the other by number |
//!
//! # Plugin
//! ```no_run
//! use go_plugin::{Handshake, plugin::{self, About}};
//!
//! fn main() -> std::process::ExitCode {
//!     plugin::run(
//!         Handshake::new("KV_PLUGIN", "d1f2", 1),
//!         About {
//!             name: "kv-plugin",
//!             version: env!("CARGO_PKG_VERSION"),
//!             summary: "A key-value store for kv-host.",
//!             usage: "Give its path to kv-host as the first argument.",
//!         },
//!         |_broker| tonic::service::Routes::default(), // add the plugin's own services here
//!     )
//! }
//! ```
//!
//! # Host
//! ```no_run
//! use go_plugin::{Handshake, host::Launch};
//!
//! # async fn example() -> Result<(), go_plugin::host::LaunchError> {
//! let plugin = Launch::new("/usr/libexec/kv-plugin")
//!     .handshake(Handshake::new("KV_PLUGIN", "d1f2", 1))
//!     .start()
//!     .await?;
//! let channel = plugin.channel(); // for any tonic client
//! # drop(channel);
//! println!("{}", plugin.shutdown().await);
//! # Ok(())
//! # }
//! ```
//!
//! # Limits
//! Linux only. Of the protocol's variants, `net/rpc`, AutoMTLS and multiplexed broker connections are left out: a
//! plugin refuses to start for a host that wants AutoMTLS, and tells a host that wants multiplexing that it is not
//! supported, upon which such a host refuses it.

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod broker;
mod handshake;
mod hclog;
pub mod host;
mod incoming;
mod isolate;
pub mod plugin;
mod socket;

pub use broker::{Broker, BrokerError};
pub use handshake::Handshake;
pub use socket::SocketError;

/// Generated from `proto/plugin.proto`.
#[allow(unreachable_pub, missing_docs)]
mod proto {
    include!("generated/plugin.rs");
}
