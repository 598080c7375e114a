// SPDX-License-Identifier: Apache-2.0
//! The SPIRE server and what is asked of it.

use std::net::{Ipv4Addr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result};
use serde_json::Value;

use super::binaries::SpireBinaries;
use super::config::{PluginSpec, ServerFile};
use super::program::{self, LIMIT, SpireProgram};
use crate::ports::{self, Port};
use crate::scratch::Scratch;

/// How a server is started.
#[derive(Debug, Clone)]
pub struct SpireServerOptions {
    /// The trust domain's name.
    pub trust_domain: String,
    /// The node attestors.
    pub plugins: Vec<PluginSpec>,
    /// Further lines of the block `server`, such as `agent_ttl = "2m"`.
    pub extra: String,
    /// Further blocks beside it, such as `health_checks { … }`.
    pub blocks: String,
    /// The version to run, of which the server's agents are too; [`SpireBinaries::find`] chooses when there is none.
    pub binaries: Option<SpireBinaries>,
}

impl SpireServerOptions {
    /// One node attestor in the trust domain `tower.example`.
    #[must_use]
    pub fn new(plugin: PluginSpec) -> Self {
        Self {
            trust_domain: "tower.example".to_owned(),
            plugins: vec![plugin],
            extra: String::new(),
            blocks: String::new(),
            binaries: None,
        }
    }

    /// Runs this version.
    #[must_use]
    pub fn with(mut self, binaries: &SpireBinaries) -> Self {
        self.binaries = Some(binaries.clone());
        self
    }

    fn binaries(&self) -> Result<SpireBinaries> {
        self.binaries.clone().map_or_else(SpireBinaries::find, Ok)
    }
}

/// A running SPIRE server.
#[derive(Debug)]
pub struct SpireServer {
    /// Port of the API for agents.
    pub port: u16,
    /// The trust domain's name.
    pub trust_domain: String,
    program: SpireProgram,
    binaries: SpireBinaries,
    _port: Port,
}

impl Deref for SpireServer {
    type Target = SpireProgram;

    fn deref(&self) -> &SpireProgram {
        &self.program
    }
}

impl DerefMut for SpireServer {
    fn deref_mut(&mut self) -> &mut SpireProgram {
        &mut self.program
    }
}

impl SpireServer {
    /// Starts a server, with its plugins loaded, and waits until it answers.
    ///
    /// # Errors
    /// When SPIRE is not there or the server does not come up; with the end of its log.
    pub fn start(options: &SpireServerOptions) -> Result<Self> {
        let binaries = options.binaries()?;
        ports::retry(|| {
            let scratch = Scratch::new("spires")?;
            let port_guard = ports::reserve()?;
            let port = port_guard.number();
            let socket = scratch.join("api.sock");
            let config = write_config(&scratch, port, &socket, options)?;
            let program = SpireProgram::start(&binaries.server, config, socket, scratch)?;
            let (trust_domain, binaries) = (options.trust_domain.clone(), binaries.clone());
            let mut server = Self { port, trust_domain, program, binaries, _port: port_guard };
            server.wait_up()?;
            Ok(server)
        })
    }

    fn wait_up(&mut self) -> Result<()> {
        let (socket, port) = (self.socket.clone(), self.port);
        self.part().ready("answering", LIMIT, |_| {
            Ok(UnixStream::connect(&socket).ok().and_then(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()))
        })?;
        Ok(())
    }

    /// Runs `spire-server validate` on the configuration that these options make, without starting anything.
    ///
    /// # Errors
    /// When SPIRE is not there or hangs.
    pub fn validate(options: &SpireServerOptions) -> Result<Output> {
        let binaries = options.binaries()?;
        let scratch = Scratch::new("spirev")?;
        let port = ports::reserve()?;
        let config = write_config(&scratch, port.number(), &scratch.join("api.sock"), options)?;
        program::validate(&binaries.server, &config)
    }

    /// The trust bundle in PEM.
    ///
    /// # Errors
    /// When the command fails.
    pub fn bundle_show(&self) -> Result<String> {
        self.cli(&["bundle", "show"])
    }

    /// Makes an entry: the workloads with all `selectors` below `parent` get the id `spiffe_id`.
    ///
    /// # Errors
    /// When the command fails.
    pub fn entry_create(&self, parent: &str, spiffe_id: &str, selectors: &[&str]) -> Result<Value> {
        let mut args = vec!["entry", "create", "-output", "json", "-parentID", parent, "-spiffeID", spiffe_id];
        for selector in selectors {
            args.extend(["-selector", selector]);
        }
        parse(&self.cli(&args)?)
    }

    /// The agents that the server knows, as SPIRE prints them in JSON (list member `agents`).
    ///
    /// # Errors
    /// When the command fails.
    pub fn agent_list(&self) -> Result<Vec<Value>> {
        let mut list = parse(&self.cli(&["agent", "list", "-output", "json"])?)?;
        Ok(list.get_mut("agents").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default())
    }

    /// The record of one agent.
    ///
    /// # Errors
    /// When the command fails.
    pub fn agent_show(&self, spiffe_id: &str) -> Result<Value> {
        parse(&self.cli(&["agent", "show", "-output", "json", "-spiffeID", spiffe_id])?)
    }

    /// Evicts an agent.
    ///
    /// # Errors
    /// When the command fails.
    pub fn agent_evict(&self, spiffe_id: &str) -> Result<()> {
        self.cli(&["agent", "evict", "-spiffeID", spiffe_id]).map(drop)
    }

    /// The id of the agent with Keylime id `id`, under the attestor name `keylime`.
    #[must_use]
    pub fn agent_id(&self, id: &str) -> String {
        format!("spiffe://{}/spire/agent/keylime/{id}", self.trust_domain)
    }

    /// The version it runs.
    #[must_use]
    pub fn binaries(&self) -> &SpireBinaries {
        &self.binaries
    }

    /// Starts it again with the same configuration; kills it first if it runs. Its CA key was in memory, so the
    /// bundle gets another member.
    ///
    /// # Errors
    /// As [`SpireServer::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.start_again()?;
        self.wait_up()
    }
}

fn write_config(scratch: &Scratch, port: u16, socket: &Path, options: &SpireServerOptions) -> Result<PathBuf> {
    let data = scratch.folder("data")?;
    let file = ServerFile {
        port,
        trust_domain: &options.trust_domain,
        socket,
        data: &data,
        extra: &options.extra,
        blocks: &options.blocks,
        plugins: &options.plugins,
    };
    scratch.write("server.conf", file.text()?)
}

fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("not JSON: {text}"))
}
