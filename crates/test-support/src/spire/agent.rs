// SPDX-License-Identifier: Apache-2.0
//! The SPIRE agent and the Workload API behind it.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::config::{AgentFile, PluginSpec};
use super::program::{self, SpireProgram};
use super::server::SpireServer;
use crate::scratch::Scratch;
use crate::wait;

/// How an agent is started.
#[derive(Debug, Clone)]
pub struct SpireAgentOptions {
    /// The node attestor.
    pub plugin: PluginSpec,
    /// Further lines of the block `agent`.
    pub extra: String,
    /// Further blocks beside it, such as `health_checks { … }`.
    pub blocks: String,
}

impl SpireAgentOptions {
    /// An agent with this node attestor.
    #[must_use]
    pub fn new(plugin: PluginSpec) -> Self {
        Self { plugin, extra: String::new(), blocks: String::new() }
    }
}

/// An X.509-SVID as the Workload API handed it out.
#[derive(Debug, Clone)]
pub struct Svid {
    /// Its SPIFFE ID.
    pub spiffe_id: String,
    /// All that `spire-agent api fetch x509 -output json` prints about it.
    pub fields: Value,
}

/// A running SPIRE agent.
#[derive(Debug)]
pub struct SpireAgent {
    program: SpireProgram,
    started: Instant,
}

impl Deref for SpireAgent {
    type Target = SpireProgram;

    fn deref(&self) -> &SpireProgram {
        &self.program
    }
}

impl DerefMut for SpireAgent {
    fn deref_mut(&mut self) -> &mut SpireProgram {
        &mut self.program
    }
}

impl SpireAgent {
    /// Starts an agent of this server. Whether it attests is asked with [`SpireAgent::attested`] or
    /// [`SpireAgent::refused`].
    ///
    /// # Errors
    /// When the server does not give its bundle or the agent cannot be started.
    pub fn start(server: &SpireServer, options: &SpireAgentOptions) -> Result<Self> {
        let scratch = Scratch::new("spirea")?;
        let bundle = scratch.write("bundle.pem", server.bundle_show()?)?;
        let socket = scratch.join("workload.sock");
        let config = write_config(&scratch, server, &bundle, &socket, options)?;
        let started = Instant::now();
        let program = SpireProgram::start(&server.binaries().agent, config, socket, scratch)?;
        Ok(Self { program, started })
    }

    /// Runs `spire-agent validate` on the configuration that these options make, without starting an agent.
    ///
    /// # Errors
    /// When the server does not give its bundle or the command hangs.
    pub fn validate(server: &SpireServer, options: &SpireAgentOptions) -> Result<Output> {
        let scratch = Scratch::new("spirev")?;
        let bundle = scratch.write("bundle.pem", server.bundle_show()?)?;
        let config = write_config(&scratch, server, &bundle, &scratch.join("workload.sock"), options)?;
        program::validate(&server.binaries().agent, &config)
    }

    /// Waits for the node attestation to succeed; answers the time from the agent's start, at most 20 ms too long.
    ///
    /// # Errors
    /// When the agent ends or `limit` passes; with the end of its log.
    pub fn attested(&mut self, limit: Duration) -> Result<Duration> {
        self.part().wait_log("Node attestation was successful", limit)?;
        Ok(self.started.elapsed())
    }

    /// Waits for a node attestation to be refused; answers SPIRE's text (`error` of the log line).
    ///
    /// # Errors
    /// When none is within `limit`, or the agent attests; with the end of its log.
    pub fn refused(&mut self, limit: Duration) -> Result<String> {
        let what = "refusal of the node attestation";
        let outcome = wait::until(what, limit, || {
            let ended = self.part().exited();
            let lines = self.log();
            anyhow::ensure!(
                lines.iter().all(|line| line.message != "Node attestation was successful"),
                "{what}: it was successful"
            );
            let refused = lines.into_iter().map(|line| line.error).find(|error| error.contains("attest"));
            anyhow::ensure!(refused.is_some() || ended.is_none(), "{what}: the agent ended for another reason");
            Ok(refused)
        });
        outcome.with_context(|| format!("end of its log:\n{}", self.part().log_tail(30)))
    }

    /// Fetches the X.509-SVIDs of the calling process; waits for the first one up to `limit`, since a new entry has
    /// to reach the agent first.
    ///
    /// # Errors
    /// With the last answer when there is none in time.
    pub fn fetch_x509(&self, limit: Duration) -> Result<Vec<Svid>> {
        let mut last = None;
        let found = wait::until("X.509-SVID", limit, || match self.fetch_x509_now() {
            Ok(svids) => Ok(Some(svids)),
            Err(error) => {
                last = Some(error);
                Ok(None)
            }
        });
        found.map_err(|error| match last {
            Some(last) => last.context(error),
            None => error,
        })
    }

    /// As [`SpireAgent::fetch_x509`], asking once.
    ///
    /// # Errors
    /// When the agent refuses or its socket is not there.
    pub fn fetch_x509_now(&self) -> Result<Vec<Svid>> {
        let text = self.cli(&["api", "fetch", "x509", "-output", "json"])?;
        let answer: Value = serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?;
        let svids = answer.get("svids").and_then(Value::as_array).context("no svids in the answer")?;
        let id = |fields: &Value| fields.get("spiffe_id").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(svids.iter().map(|fields| Svid { spiffe_id: id(fields), fields: fields.clone() }).collect())
    }

    /// Starts it again; kills it first if it runs. Its key was in memory, so it attests anew.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        self.started = Instant::now();
        self.start_again()
    }

    /// Kills it, empties its data folder and starts it.
    ///
    /// # Errors
    /// When the folder cannot be emptied or the program not be started.
    pub fn wipe_and_restart(&mut self) -> Result<()> {
        self.part().kill();
        fs::remove_dir_all(self.scratch().join("data"))?;
        self.scratch().folder("data")?;
        self.restart()
    }
}

fn write_config(
    scratch: &Scratch,
    server: &SpireServer,
    bundle: &Path,
    socket: &Path,
    options: &SpireAgentOptions,
) -> Result<PathBuf> {
    let data = scratch.folder("data")?;
    let file = AgentFile {
        server_port: server.port,
        trust_domain: &server.trust_domain,
        socket,
        data: &data,
        bundle,
        extra: &options.extra,
        blocks: &options.blocks,
        plugins: std::slice::from_ref(&options.plugin),
    };
    scratch.write("agent.conf", file.text()?)
}
