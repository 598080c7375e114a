// SPDX-License-Identifier: Apache-2.0
//! Loads node attestor plugins as SPIRE does and relays an attestation between them.

mod attributes;
mod call;
mod relay;

use std::fmt;

use tonic::{Code, Status};

pub use attributes::AgentAttributes;

/// Whose plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// SPIRE agent's plugin.
    Agent,
    /// SPIRE server's plugin, or SPIRE server's own checks of what it says.
    Server,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "agent plugin",
            Self::Server => "server plugin",
        })
    }
}

/// Why a node was not attested.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{side}: {code:?}: {text}")]
#[non_exhaustive]
pub struct AttestError {
    /// Who refused or failed.
    pub side: Side,
    /// gRPC code, as SPIRE passes it on. `PermissionDenied` ends a starting SPIRE agent at once.
    pub code: Code,
    /// Text, as SPIRE passes it on.
    pub text: String,
}

impl AttestError {
    fn new(side: Side, status: &Status) -> Self {
        Self { side, code: status.code(), text: status.message().to_owned() }
    }
}

/// A plugin's error text as SPIRE passes it on: with the plugin's type and name before it, once.
fn prefixed(name: &str, text: &str) -> String {
    let prefix = format!("nodeattestor({name}): ");
    if text.starts_with(&prefix) {
        return text.to_owned();
    }
    let text = text.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(text);
    format!("{prefix}{text}")
}

#[cfg(test)]
mod tests;
