// SPDX-License-Identifier: Apache-2.0
//! The real SPIRE server and agent.

mod agent;
mod binaries;
mod config;
mod log;
mod program;
mod prometheus;
mod server;

pub use agent::{SpireAgent, SpireAgentOptions, Svid};
pub use binaries::{SpireBinaries, VERSIONS};
pub use config::PluginSpec;
pub use log::LogLine;
pub use program::SpireProgram;
pub use prometheus::Prometheus;
pub use server::{SpireServer, SpireServerOptions};
