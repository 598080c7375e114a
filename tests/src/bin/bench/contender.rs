// SPDX-License-Identifier: Apache-2.0
//! The pairs of plugins that are measured beside each other, each with what it needs for an attestation.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};
use e2e::{Host, keylime_options};
use spire_plugin::host::{AgentPlugin, Launch, ServerPlugin, SpireHost};
use test_support::{KeylimeAgentOptions, KeylimeOptions, KeylimeServers, Swtpm, SwtpmOptions};

/// A pair of plugins, and where it finds its host.
#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    agent: (PathBuf, String),
    server: (PathBuf, String),
}

/// A pair that runs and is configured; for a fleet the agent plugin runs several times.
#[derive(Debug)]
pub(crate) struct Loaded {
    spire: SpireHost,
    pub(crate) agents: Vec<AgentPlugin>,
    pub(crate) server: ServerPlugin,
}

impl Contender {
    /// Ours, over mTLS, in the default mode.
    pub(crate) fn ours(host: &Host) -> Result<Self> {
        let (agent, server) = (host.agent_plugin()?, host.server_plugin()?);
        Ok(Self { name: "ours", agent: (agent.command, agent.data), server: (server.command, server.data) })
    }

    /// Ours, without the verifier's own look at the quote.
    pub(crate) fn ours_local(host: &Host) -> Result<Self> {
        let mut ours = Self::ours(host)?;
        ours.name = "ours, local";
        ours.server.1.push_str("\nquote_verification = \"local\"");
        Ok(ours)
    }

    /// The Go pair, which speaks plain HTTP only, on a host with the stock agent.
    pub(crate) fn go(host: &Host, agent: PathBuf, server: PathBuf) -> Self {
        let agent_data = format!("keylime_agent_port = \"{}\"", host.agent.port);
        Self { name: "Go pair, stock agent", agent: (agent, agent_data), server: (server, host.server_data()) }
    }

    /// Loads the server plugin and so many agent plugins.
    pub(crate) async fn load(&self, agents: usize) -> Result<Loaded> {
        let spire = SpireHost::new("tower.example".parse()?, "keylime");
        let server = spire.load_server(Launch::new(&self.server.0), &self.server.1).await?;
        let mut loaded = Loaded { spire, agents: Vec::new(), server };
        for _ in 0..agents {
            loaded.agents.push(loaded.spire.load_agent(Launch::new(&self.agent.0), &self.agent.1).await?);
        }
        Ok(loaded)
    }
}

impl Loaded {
    /// Attests through one of the agent plugins.
    pub(crate) async fn attest(&self, agent: usize) -> Result<()> {
        let agent = self.agents.get(agent % self.agents.len().max(1)).context("no agent plugin")?;
        self.spire.attest(agent, &self.server).await?;
        Ok(())
    }

    pub(crate) async fn unload(self) {
        for agent in self.agents {
            agent.unload().await;
        }
        self.server.unload().await;
    }
}

/// The hosts, and the pairs that attest on them.
#[derive(Debug)]
pub(crate) struct Contenders {
    pub(crate) ours: Contender,
    pub(crate) local: Contender,
    pub(crate) go: Option<Contender>,
    _hosts: Vec<Host>,
}

impl Contenders {
    pub(crate) fn start() -> Result<Self> {
        let host = Host::start()?;
        host.enrol()?;
        let (ours, local) = (Contender::ours(&host)?, Contender::ours_local(&host)?);
        let mut hosts = vec![host];
        let peers = ["PEER_KEYLIME_AGENT", "PEER_GO_AGENT_PLUGIN", "PEER_GO_SERVER_PLUGIN"].map(env::var_os);
        let go = match peers {
            [Some(stock), Some(agent), Some(server)] => {
                let host = stock_host(KeylimeAgentOptions::new(stock)).context("the stock agent's host")?;
                let go = Contender::go(&host, agent.into(), server.into());
                hosts.push(host);
                Some(go)
            }
            _ => None,
        };
        Ok(Self { ours, local, go, _hosts: hosts })
    }

    /// All that there are, ours first.
    pub(crate) fn all(&self) -> Vec<&Contender> {
        [&self.ours, &self.local].into_iter().chain(&self.go).collect()
    }
}

fn stock_host(options: KeylimeAgentOptions) -> Result<Host> {
    let tpm = Swtpm::start(SwtpmOptions::default())?;
    let servers = KeylimeServers::start(&KeylimeOptions { agent_mtls: false, ..keylime_options(&tpm) })?;
    let host = Host::with(tpm, servers, KeylimeAgentOptions { mtls: false, ..options })?;
    host.enrol()?;
    Ok(host)
}
