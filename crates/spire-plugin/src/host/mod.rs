// SPDX-License-Identifier: Apache-2.0
//! Loads node attestor plugins as SPIRE does and relays an attestation between them.
//!
//! One [`SpireHost`] stands for a SPIRE server, a SPIRE agent and the connection between them, as far as plugins can
//! see them. What it leaves out: host services (it announces them, and serves none), signing, and the records of
//! agents, so that none is banned. What it adds: time limits, where SPIRE has none.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use spire_plugin::host::{Launch, SpireHost};
//!
//! let host = SpireHost::new("example.org".parse()?, "keylime");
//! let server = host.load_server(Launch::new("/opt/spire/plugins/attestor-server"), "port = 8881").await?;
//! let agent = host.load_agent(Launch::new("/opt/spire/plugins/attestor-agent"), "").await?;
//! match host.attest(&agent, &server).await {
//!     Ok(attributes) => println!("{}", attributes.spiffe_id),
//!     Err(error) => println!("refused: {error}"),
//! }
//! agent.unload().await;
//! server.unload().await;
//! # Ok(())
//! # }
//! ```

mod attributes;
mod call;
mod load;
mod relay;

use std::{error::Error, fmt, time::Duration};

use tonic::{Code, Status};

pub use attributes::AgentAttributes;
pub use go_plugin::host::{ExitReport, Launch, LaunchError, Sha256};
pub use load::{LoadError, LoadedPlugin};

use crate::{TrustDomain, service};

/// Longest time for one attestation unless set otherwise.
const ATTESTATION: Duration = Duration::from_secs(60);

/// SPIRE server and SPIRE agent in one, as far as their node attestor plugins can see them.
#[derive(Debug, Clone)]
pub struct SpireHost {
    trust_domain: TrustDomain,
    name: String,
    limit: Duration,
}

impl SpireHost {
    /// Both are of `trust_domain`, and their plugins are configured as `NodeAttestor "<name>"`.
    pub fn new(trust_domain: TrustDomain, name: impl Into<String>) -> Self {
        Self { trust_domain, name: name.into(), limit: ATTESTATION }
    }

    /// Sets the longest time for one attestation, 60 s by default.
    #[must_use]
    pub fn attestation_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Loads SPIRE agent's plugin and configures it with `data`, the text of its `plugin_data`.
    ///
    /// The handshake of `launch` is set here.
    ///
    /// # Errors
    /// See [`LoadError`]. The process is killed.
    pub async fn load_agent(&self, launch: Launch, data: &str) -> Result<AgentPlugin, LoadError> {
        self.load(launch, data).await
    }

    /// Loads SPIRE server's plugin and configures it with `data`, the text of its `plugin_data`.
    ///
    /// The handshake of `launch` is set here.
    ///
    /// # Errors
    /// See [`LoadError`]. The process is killed.
    pub async fn load_server(&self, launch: Launch, data: &str) -> Result<ServerPlugin, LoadError> {
        self.load(launch, data).await
    }

    /// Has SPIRE agent's plugin check `data`, and returns what is wrong with it. See [`validate_server`].
    ///
    /// # Errors
    /// See [`LoadError`].
    ///
    /// [`validate_server`]: Self::validate_server
    pub async fn validate_agent(&self, launch: Launch, data: &str) -> Result<Vec<String>, LoadError> {
        self.validate::<AgentSide>(launch, data).await
    }

    /// Has SPIRE server's plugin check `data` as `spire-server validate` does, and returns what is wrong with it.
    ///
    /// The plugin is not configured. Other than SPIRE, which kills it, this unloads it.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn validate_server(&self, launch: Launch, data: &str) -> Result<Vec<String>, LoadError> {
        self.validate::<ServerSide>(launch, data).await
    }

    /// Attests a node with the two plugins: what SPIRE agent, SPIRE server and their plugins do between the agent's
    /// start and its first SVID.
    ///
    /// Attestations may run at the same time. Both calls to the plugins are cancelled at the end, also if the future
    /// is dropped.
    ///
    /// # Errors
    /// The refusal as SPIRE passes it on.
    pub async fn attest(&self, agent: &AgentPlugin, server: &ServerPlugin) -> Result<AgentAttributes, AttestError> {
        let relay = relay::Relay { name: &self.name, trust_domain: &self.trust_domain, limit: self.limit };
        let attributes = relay.attest(agent.channel(), server.channel()).await?;
        for warning in &attributes.warnings {
            tracing::warn!("{warning}");
        }
        Ok(attributes)
    }

    async fn start<S: NodeAttestorSide>(&self, launch: Launch) -> Result<LoadedPlugin<S>, LoadError> {
        LoadedPlugin::start(self.name.clone(), self.trust_domain.to_string(), launch).await
    }

    async fn load<S: NodeAttestorSide>(&self, launch: Launch, data: &str) -> Result<LoadedPlugin<S>, LoadError> {
        let plugin = self.start(launch).await?;
        plugin.configure(data).await?;
        Ok(plugin)
    }

    async fn validate<S: NodeAttestorSide>(&self, launch: Launch, data: &str) -> Result<Vec<String>, LoadError> {
        let plugin = self.start::<S>(launch).await?;
        let notes = plugin.validate(data).await?;
        plugin.unload().await;
        Ok(notes)
    }
}

/// A loaded plugin of SPIRE agent.
pub type AgentPlugin = LoadedPlugin<AgentSide>;

/// A loaded plugin of SPIRE server.
pub type ServerPlugin = LoadedPlugin<ServerSide>;

/// SPIRE agent, as the side of a [`LoadedPlugin`].
#[derive(Debug, Clone, Copy)]
pub enum AgentSide {}

/// SPIRE server, as the side of a [`LoadedPlugin`].
#[derive(Debug, Clone, Copy)]
pub enum ServerSide {}

/// One of [`AgentSide`] and [`ServerSide`].
pub trait NodeAttestorSide: sealed::Sealed {
    /// gRPC name of the node attestor service of this side.
    const SERVICE: &'static str;
}

impl NodeAttestorSide for AgentSide {
    const SERVICE: &'static str = service::AGENT_NODE_ATTESTOR;
}

impl NodeAttestorSide for ServerSide {
    const SERVICE: &'static str = service::SERVER_NODE_ATTESTOR;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::AgentSide {}
    impl Sealed for super::ServerSide {}
}

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

/// The code of a failed call as gRPC in Go has it: `Unavailable` whenever the connection was lost, however far the
/// call had come. tonic has `Unknown` or `Cancelled` for some of those moments.
fn code(status: &Status) -> Code {
    // What the plugin itself has sent carries no source, apart from a stream it has reset.
    let mut source = status.source();
    if source.is_none() {
        return status.code();
    }
    while let Some(error) = source {
        if error.downcast_ref::<h2::Error>().is_some_and(h2::Error::is_reset) {
            return status.code();
        }
        source = error.source();
    }
    Code::Unavailable
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

/// Names as Go prints a list of strings with `%q`.
fn quoted(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
    format!("[{}]", names.join(" "))
}

#[cfg(test)]
mod tests;
