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
#[path = "../../../crates/keylime-api/src/testing.rs"]
#[allow(dead_code, reason = "that crate's tests use the rest")]
mod testing;
mod tls_faults;
mod version_2;

// For `testing`.
use keylime_api::{HostPort, HttpSettings};
