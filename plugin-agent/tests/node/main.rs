// SPDX-License-Identifier: Apache-2.0
//! The node's side against Keylime agents and SPIRE servers that behave badly, and the built plugin as SPIRE runs it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows them in test functions, and the helpers here are test code too"
)]

mod challenges;
mod harness;
mod keylime_agent;
mod plugin;
mod tls_faults;
mod version_2;
