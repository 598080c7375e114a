// SPDX-License-Identifier: Apache-2.0
//! The real Keylime: verifier, registrar, tenant, and a Keylime agent.

mod agent;
mod config;
mod http;
mod servers;
mod venv;

pub use agent::{AgentCaller, KeylimeAgent, KeylimeAgentOptions};
pub use http::HttpAnswer;
pub use servers::{KeylimeOptions, KeylimeServers, Server};
pub use venv::Venv;
