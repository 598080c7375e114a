// SPDX-License-Identifier: Apache-2.0
//! A Keylime agent for the pull model: registers the host's TPM and answers the verifier's and tenant's requests for quotes.
//!
//! It takes the place of the stock Rust agent: same configuration file, same key files, same REST API (2.1 to 2.6).
//! [`Config::inspect`] reads the configuration, [`run`] does the rest until a signal ends it.

mod access;
mod agent;
mod agent_data;
mod ak;
mod bootstrap_key;
pub mod cli;
pub mod config;
mod device_identity;
mod ek_certificate;
mod error;
mod files;
mod identity;
mod lock;
mod measurement;
mod payload;
mod payload_key;
mod pem;
mod preflight;
mod prepare;
mod privileges;
mod program;
mod registration;
mod renewal;
mod revocation;
mod routes;
mod server;
mod server_certificate;
mod startup;
mod turns;

pub use config::Config;
pub use error::StartError;
pub use startup::{check, run};
