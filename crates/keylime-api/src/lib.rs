// SPDX-License-Identifier: Apache-2.0
//! Keylime's REST API: types, versions, operational states and clients.
//!
//! Written against Keylime 7.14 (API 2.1 to 2.6, pull model). The clients share their conduct: a
//! small pool of connections, a bound on the requests in flight, a time-out for connecting and one
//! for the whole call with all that it waits for, no redirects, no proxies, bounded bodies read
//! piece by piece, and answers taken apart member by member so that a message can name what was
//! wrong. The API version is negotiated once per client and kept; a first call costs two requests,
//! every later one costs one.

pub mod agent;
pub mod client;
pub mod credential;
mod host_port;
mod http;
mod id;
mod members;
mod negotiator;
pub mod pool;
pub mod registrar;
pub mod registration;
pub mod state;
#[cfg(test)]
mod testing;
pub mod verdict;
pub mod verifier;
pub mod version;

pub use client::{ClientError, HttpSettings};
pub use host_port::{HostPort, InvalidHostPort};
pub use id::{AgentId, InvalidAgentId};
pub use members::BodyError;
