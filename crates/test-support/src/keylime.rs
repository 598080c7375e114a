// SPDX-License-Identifier: Apache-2.0
//! The real Keylime: verifier, registrar, tenant, and a Keylime agent; and servers that stand in for the first two.

mod agent;
mod config;
pub mod fake;
mod http;
mod servers;
mod venv;

pub use agent::{AgentCaller, KeylimeAgent, KeylimeAgentOptions};
pub use http::{HttpAnswer, curl};
pub use servers::{KeylimeOptions, KeylimeServers, Server};
pub use venv::Venv;
